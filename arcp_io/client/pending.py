"""Requests of a session: the answers that callers wait for, and the errors that they may get."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import anyio
import anyio.lowlevel

from arcp_io.errors import (
    ArcpError,
    ConnectionLost,
    HeartbeatLost,
    JobLost,
    LocalProtocolError,
    SessionLost,
    error_for,
)
from arcp_proto import NOT_NEGOTIATED, ConnectionEnded, ErrorCode, RequestId, RequestRefused
from arcp_proto import JobLost as JobLostEvent
from arcp_proto import SessionLost as SessionLostEvent

__all__ = ["Answer", "Answers", "again", "job_loss_of", "loss_of", "refusal_of", "session_loss_of"]

ENDED_BY: Final = {
    "local": "given up",
    "peer": "ended by the runtime",
    "transport": "cut",
}
"""The side that ended a connection -> the word for it in messages."""


Failure: TypeAlias = ArcpError | LocalProtocolError
"""An error that the caller of a request may get."""


class Answer:
    """A value or an error, which arrives once."""

    def __init__(self) -> None:
        self._came = False
        self._arrival: anyio.Event | None = None
        """Set on arrival; None while no task waits."""
        self.value: Any = None
        """The value; None before it arrives."""
        self._error: Failure | None = None

    def give(self, value: Any) -> None:
        """Set the value."""
        if not self._came:
            self.value = value
            self._arrive()

    def refuse(self, error: Failure) -> None:
        """Set an error in place of a value."""
        if not self._came:
            self._error = error
            self._arrive()

    async def wait(self) -> Any:
        """Wait for the value, or raise the error."""
        if self._came:
            await anyio.lowlevel.checkpoint()
        else:
            if self._arrival is None:
                self._arrival = anyio.Event()
            await self._arrival.wait()
        if isinstance(self._error, LocalProtocolError):
            raise LocalProtocolError(*self._error.args)
        if self._error is not None:
            raise again(self._error)
        return self.value

    def _arrive(self) -> None:
        self._came = True
        if self._arrival is not None:
            self._arrival.set()


class Answers:
    """The awaited answers, by their requests."""

    def __init__(self) -> None:
        self._waiting: dict[RequestId, Answer] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._waiting

    def expect(self, request_id: RequestId) -> Answer:
        """Return a new Answer for a request, until `forget`."""
        answer = self._waiting[request_id] = Answer()
        return answer

    def forget(self, request_id: RequestId) -> Any:
        """Forget a request, and return the value that has arrived, or None."""
        answer = self._waiting.pop(request_id, None)
        return None if answer is None else answer.value

    def give(self, request_id: RequestId | None, value: Any) -> None:
        """Give the answer to a request; unknown requests are ignored."""
        if request_id is not None and (answer := self._waiting.get(request_id)) is not None:
            answer.give(value)

    def refuse(self, request_id: RequestId, error: Failure) -> None:
        """Refuse a request; unknown requests are ignored."""
        if (answer := self._waiting.get(request_id)) is not None:
            answer.refuse(error)

    def refuse_all(self, error: ArcpError) -> None:
        """Refuse all requests, because no answers will come."""
        for answer in self._waiting.values():
            answer.refuse(error)


def again(error: ArcpError) -> ArcpError:
    """Return a copy of an error, since raising one object twice joins two tracebacks."""
    copy = type(error)(
        error.message,
        code=error.code,
        retryable=error.retryable,
        details=error.details,
        job_id=error.job_id,
    )
    copy.__cause__ = error.__cause__
    return copy


def refusal_of(event: RequestRefused) -> Failure:
    """Return the error for the caller of a refused request (§12): LocalProtocolError if it could not be
    sent.
    """
    if event.code == NOT_NEGOTIATED:
        return LocalProtocolError(event.message)
    return error_for(
        event.code, event.message, retryable=event.retryable, details=event.details, job_id=event.job_id
    )


def loss_of(event: ConnectionEnded) -> ConnectionLost:
    """Return the error for all callers when a connection has ended, and the session with it."""
    kind = HeartbeatLost if event.code == ErrorCode.HEARTBEAT_LOST else ConnectionLost
    what = f"the connection was {ENDED_BY.get(event.who, 'ended')}"
    reason = event.reason or event.code
    return kind(f"{what}: {reason}" if reason else what)


def session_loss_of(event: SessionLostEvent) -> SessionLost:
    """Return the error for all callers when the session is lost, and no other one takes its place."""
    return SessionLost(f"the session is lost: {event.reason or event.code}", details={"code": event.code})


def job_loss_of(event: JobLostEvent) -> JobLost:
    """Return the error for all callers of a job that cannot be followed further."""
    if event.code in (ErrorCode.JOB_NOT_FOUND, ErrorCode.PERMISSION_DENIED):
        reason = (
            "the runtime no longer shows it to this session: it has forgotten the job, or the right to"
            f" observe it was withdrawn ({event.code}: {event.message})"
        )
    else:
        reason = event.message or event.code
    return JobLost(
        f"job {event.job_id} cannot be followed any further: {reason}",
        details={"code": event.code},
        job_id=event.job_id,
    )
