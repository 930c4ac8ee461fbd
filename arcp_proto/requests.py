"""What the client has asked and was not answered yet, and which of it an answer is for (§12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from .errors import ErrorCode
from .ids import JobId, RequestId
from .messages import Submit, Subscribe


class RequestKind(StrEnum):
    """The requests that are answered, by their message type."""

    SUBMIT = "job.submit"
    CANCEL = "job.cancel"
    SUBSCRIBE = "job.subscribe"
    LIST = "session.list_jobs"


class Outstanding(msgspec.Struct):
    """One request without an answer; `job_id` is what it is about, None for a submit or a list.

    `message`, with `trace_id` and `extensions`, is kept to send it again; None when it is not. `ours` says
    that the client asked by itself, and tells nobody of the answer.
    """

    id: RequestId
    kind: RequestKind
    job_id: JobId | None = None
    message: msgspec.Struct | None = None
    trace_id: str | None = None
    extensions: bytes | None = None
    size: int = 0
    """Bytes of its envelope."""
    sent: bool = True
    """Whether it was sent before, on a connection that may have carried it or not."""
    ours: bool = False
    dropped: bool = False
    """A subscribe that was taken back before its answer."""
    history: bool = False
    """A subscribe that asks for history."""
    resent: bool = False
    """Whether it was sent on an earlier connection, too."""
    unsure: bool = False
    """A submit that was sent again, and may have been carried out and answered before."""
    number: int = 0
    """Its place among all that were asked, from 1."""

    @property
    def repeatable(self) -> bool:
        """Whether it does the same once or twice, whoever receives it: a submit only with a key (§7.2)."""
        if not isinstance(self.message, Submit):
            return self.kind is not RequestKind.SUBMIT
        return self.message.idempotency_key is not None


ONLY_ANSWERS: Final[Mapping[str, tuple[RequestKind, ...]]] = {
    ErrorCode.AGENT_NOT_AVAILABLE: (RequestKind.SUBMIT,),
    ErrorCode.AGENT_VERSION_NOT_AVAILABLE: (RequestKind.SUBMIT,),
    ErrorCode.DUPLICATE_KEY: (RequestKind.SUBMIT,),
    ErrorCode.JOB_NOT_FOUND: (RequestKind.CANCEL, RequestKind.SUBSCRIBE),
}
"""Codes that can answer these kinds of request only."""

ABOUT_A_JOB: Final = (ErrorCode.JOB_NOT_FOUND, ErrorCode.INVALID_REQUEST, ErrorCode.PERMISSION_DENIED)
"""Codes by which peers refuse, in the name of an accepted job, a request about it."""

OF_A_JOB: Final = (RequestKind.CANCEL, RequestKind.SUBSCRIBE)
"""Requests that are about a job."""


class Requests:
    """Outstanding requests, oldest first. Every `take` removes what it returns; None if nothing fits.

    Answers without a request's id are known again by their envelope, the last `window` of them.
    """

    __slots__ = ("_answers", "_histories", "_open", "_window", "asked", "kept", "unsure")

    def __init__(self, window: int = 500) -> None:
        self.asked = 0
        """How many there were."""
        self.kept = 0
        """Bytes of the messages that are kept to be sent again."""
        self.unsure = 0
        """Submits that may have been carried out and answered before."""
        self._open: dict[RequestId, Outstanding] = {}
        self._histories: dict[JobId, int] = {}
        self._answers: dict[tuple[str, str | None], None] = {}
        self._window = window

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Outstanding]:
        """A copy, so that they can be taken meanwhile."""
        return iter(list(self._open.values()))

    def add(self, request: Outstanding) -> None:
        """A request was sent, or is to be."""
        self.asked += 1
        request.number = self.asked
        self._open[request.id] = request
        request.history = isinstance(request.message, Subscribe) and request.message.history
        if request.message is not None:
            self.kept += request.size
        if request.history and request.job_id is not None:
            self._histories[request.job_id] = self._histories.get(request.job_id, 0) + 1

    def wants_history(self, job_id: JobId) -> bool:
        """Whether a subscribe that asks for the history of a job is not answered."""
        return job_id in self._histories

    def asked_again(self, job_id: JobId, source_seq: int) -> bool:
        """Whether a subscribe that was sent again, and is not answered, asks for this event of a history."""
        return self.wants_history(job_id) and any(
            request.job_id == job_id and (request.message.from_event_seq or 0) < source_seq
            for request in self._open.values()
            if request.resent and isinstance(request.message, Subscribe) and request.message.history
        )

    def doubt(self, request: Outstanding) -> None:
        """It is sent again: its answer may have come and gone."""
        request.resent = True
        if request.kind is RequestKind.SUBMIT and not request.unsure:
            request.unsure = True
            self.unsure += 1

    def take(self, request_id: str, kind: RequestKind | None = None) -> Outstanding | None:
        """The request that an answer names, if it is of the kind that such an answer is for."""
        request = self._open.get(RequestId(request_id))
        if request is None or kind not in (None, request.kind):
            return None
        return self._remove(request)

    def repeated(self, envelope_id: str, job_id: str | None) -> bool:
        """Whether an answer that names no request has come before, as one that is replayed does."""
        if not envelope_id:
            return False
        key = (envelope_id, job_id)
        if key in self._answers:
            return True
        self._answers[key] = None
        if len(self._answers) > self._window:
            del self._answers[next(iter(self._answers))]
        return False

    def take_submit(self) -> Outstanding | None:
        """The oldest submit."""
        return self._take_oldest((RequestKind.SUBMIT,))

    def take_list(self) -> Outstanding | None:
        """The oldest list."""
        return self._take_oldest((RequestKind.LIST,))

    def take_cancel(self, job_id: JobId) -> Outstanding | None:
        """The oldest cancel of a job."""
        return self._take_oldest((RequestKind.CANCEL,), job_id)

    def take_subscribe(self, job_id: JobId) -> Outstanding | None:
        """The oldest subscribe of a job."""
        return self._take_oldest((RequestKind.SUBSCRIBE,), job_id)

    def take_refused(self, code: str, job_id: JobId | None) -> Outstanding | None:
        """The oldest request that an error without a request's id can answer.

        An error that names a job is for a request about that job; if there is none, the name is one that
        the peer made up for a refused submit. One that names nothing is for a submit before any other: peers
        refuse a cancel by its job or its code, and some answer none before its job has stopped.
        """
        kinds = ONLY_ANSWERS.get(code)
        if job_id is None:
            submit = self.take_submit() if kinds is None else None
            return self._take_oldest(kinds) if submit is None else submit
        named = None
        if kinds is None or RequestKind.SUBMIT not in kinds:
            named = self._take_oldest(OF_A_JOB, job_id)
        if named is not None or (kinds is not None and RequestKind.SUBMIT not in kinds):
            return named
        return self.take_submit()

    def take_about(self, code: str, job_id: JobId) -> Outstanding | None:
        """The request that a `job.error` of a running job answers; None when it is the job's own end."""
        if code == ErrorCode.DUPLICATE_KEY:
            return self.take_submit()
        return self._take_oldest(OF_A_JOB, job_id) if code in ABOUT_A_JOB else None

    def _take_oldest(
        self, kinds: tuple[RequestKind, ...] | None, job_id: JobId | None = None
    ) -> Outstanding | None:
        for request in self._open.values():
            if (kinds is None or request.kind in kinds) and job_id in (None, request.job_id):
                return self._remove(request)
        return None

    def _remove(self, request: Outstanding) -> Outstanding:
        del self._open[request.id]
        if request.message is not None:
            self.kept -= request.size
        self.unsure -= request.unsure
        if request.history and request.job_id is not None:
            count = self._histories.pop(request.job_id) - 1
            if count:
                self._histories[request.job_id] = count
        return request
