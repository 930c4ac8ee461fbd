"""The client's session with a runtime, in which jobs are submitted."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio

from arcp_proto.budget import COST_BUDGET
from arcp_proto.client import Client, ClientConfig
from arcp_proto.connection import Connection
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import SECOND, JobId, RequestId, Time
from arcp_proto.messages import AgentEntry, Peer
from arcp_proto.output import (
    CancelAnswered,
    ConnectionEnded,
    JobAccepted,
    JobEmitted,
    JobEnded,
    RequestRefused,
    SessionFailed,
    Welcomed,
)
from arcp_proto.output import Event as MachineEvent
from arcp_proto.output import Request as MachineRequest
from arcp_proto.secret import Secret
from arcp_proto.times import format_time

from .client_job import Job
from .clock import Clock
from .dialing import Target, dial, framing_of, is_secure, label_of
from .errors import ArcpError, ConnectionLost, HeartbeatLost, error_for
from .pump import Pump

if TYPE_CHECKING:
    from .loop import Loop

Token: TypeAlias = str | Callable[[], str | Awaitable[str]] | None
"""A bearer token, or a plain or async function that is asked for one at each connection; None: anonymous."""

Dial: TypeAlias = Callable[[Target, Pump, Connection], Awaitable[object]]
"""How a connection gets its transport; see `dialing.dial`."""

BUFFER_SIZE: Final = 1024 * 1024
"""Bytes of a job's events that wait for their iterator."""


class Session:
    """A session with a runtime (§6): submit jobs in it.

    When its connection has ended `lost` says why; whatever waits, and every call, raises ConnectionLost.
    """

    def __init__(self, config: ClientConfig, loop: Loop, *, buffer_size: int = BUFFER_SIZE) -> None:
        self._clock = Clock()
        self._client = Client(config, seed=os.urandom(32), now=self._clock.now(), unix=self._clock.unix())
        self._pump = Pump(self._client, self, loop, self._clock)
        self._buffer_size = buffer_size
        self._connection: Connection | None = None
        self._welcome = _Answer()
        self._answers: dict[RequestId, _Answer] = {}
        self._jobs: dict[str, Job] = {}
        self._failure: ArcpError | None = None
        self._over = anyio.Event()
        self._dialing = anyio.CancelScope()
        self._full = 0
        self._asking = 0
        self._overflowing = 0
        self.lost: ConnectionLost | None = None
        self.id = ""
        self.runtime = Peer("", "")
        """The runtime's `name` and `version`."""
        self.features: frozenset[str] = frozenset()
        """What both sides know of §6.2."""
        self.agents: Sequence[AgentEntry] = ()
        """The runtime's agents: `name`, `versions`, `default` (§7.5)."""

    def __repr__(self) -> str:
        return f"<Session {self.id or 'not open'}>"

    async def submit(
        self,
        agent: str,
        input: Any = None,
        *,
        lease: Mapping[str, Sequence[str]] | None = None,
        budget: str | Sequence[str] | None = None,
        expires_at: str | datetime | timedelta | None = None,
        max_runtime: int | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Job:
        """Submit a job (§7.1), and return it once it was accepted.

        `budget` is one amount such as USD:5, or several; `expires_at`, of the lease, is a time in UTC or a
        time from now; `max_runtime` is in seconds. Raises the ArcpError of the refusal's code (§12),
        ConnectionLost, and LocalProtocolError for what cannot be sent.
        """
        lease_request = _with_budget(lease, budget)
        expiry = self._expiry(expires_at)

        def send(now: int) -> RequestId:
            return self._client.submit(
                agent,
                input,
                lease_request,
                expiry,
                idempotency_key,
                max_runtime,
                traceparent,
                tracestate,
                now=now,
            )

        job: Job = await self._ask(send)
        return job

    async def close(self, reason: str = "") -> None:
        """Say goodbye (§6.7) and wait for the end of the connection, at most a second. Jobs go on."""
        if self.lost is None:
            self._client.close(reason, now=self._pump.now())
            self._pump.run()
            await self._over.wait()

    # For its jobs.

    async def cancel(self, job: Job, reason: str) -> None:
        """Cancel a job and wait for its end; raises the error of a refusal (§7.4)."""
        with self.reading_on():
            await self._ask(lambda now: self._client.cancel(JobId(job.id), reason, now=now))
            await job.wait()

    def processed(self, job_id: str, seq: int) -> None:
        """Somebody has done with what had this number; 0 has none."""
        if seq and self.lost is None:
            self._client.processed(JobId(job_id), seq, now=self._pump.now())
            self._pump.soon()

    @contextmanager
    def reading_on(self) -> Iterator[None]:
        """While somebody waits for what may stand behind the events of a full buffer, these are read too."""
        self._asking += 1
        self._hold()
        try:
            yield
        finally:
            self._asking -= 1
            self._hold()

    def overflow(self, over: bool) -> None:
        """A job's buffer is so full that nothing is read even for an answer, or no longer."""
        self._overflowing += 1 if over else -1
        self._hold()

    def hold_back(self, full: bool) -> None:
        """A job's buffer is full, or no longer."""
        self._full += 1 if full else -1
        self._hold()

    # For who opens and leaves it.

    async def open(self, token: Token, target: Target, dial: Dial = dial) -> None:
        """Connect and say hello; returns when the runtime has said welcome.

        Raises OSError when nobody is reached, ConnectionLost when it takes too long, and the ArcpError of a
        refusal (§6.1).
        """
        secret = await _secret(token)
        connection = self._client.connect(
            secret,
            framing_of(target),
            secure=is_secure(target),
            peer=label_of(target),
            now=self._pump.now(),
        )
        self._connection = connection
        self._pump.run()
        with self._dialing:
            await dial(target, self._pump, connection)
        await self._welcome.wait()

    async def cancel_all(self) -> None:
        """Cancel every unfinished job and wait for the ends; refusals and a lost connection are no matter."""
        async with anyio.create_task_group() as tasks:
            for job in list(self._jobs.values()):
                tasks.start_soon(_cancel_quietly, job)

    def leave(self) -> None:
        """Drop the connection: the session is detached, its jobs go on."""
        self._lose(ConnectionLost("the session was left"))
        self._pump.stop()

    # As the host of a pump.

    def request(self, request: MachineRequest) -> None:
        """A client asks nothing of its host."""

    def happened(self, event: MachineEvent) -> None:
        """Something came from the runtime, or happened to the connection."""
        match event:
            case JobEmitted():
                if (job := self._jobs.get(event.job_id)) is not None:
                    job.emitted(event)
                else:
                    self.processed(event.job_id, event.seq)
            case JobEnded():
                if (job := self._jobs.pop(event.job_id, None)) is not None:
                    job.ended(event)
                self.processed(event.job_id, event.seq)
            case JobAccepted():
                self._accepted(event)
            case RequestRefused():
                if (answer := self._answers.get(event.request_id)) is not None:
                    answer.refuse(_refusal(event))
            case CancelAnswered():
                self._cancelled(event)
            case Welcomed():
                self.id, self.runtime = event.session_id, event.runtime
                self.features, self.agents = event.features, event.agents
                self._welcome.give(None)
            case SessionFailed():
                self._failure = error_for(
                    event.code, event.message, retryable=event.retryable, details=event.details
                )
            case ConnectionEnded():
                self._lose(_loss(event))

    # Below: steps of the above.

    def _accepted(self, event: JobAccepted) -> None:
        """The same job is accepted again when it was submitted again by its idempotency key."""
        answer = self._answers.get(event.request_id)
        if answer is None:
            return
        job = self._jobs.get(event.job_id)
        if job is None:
            job = self._jobs[event.job_id] = Job(self, event, self._buffer_size)
        answer.give(job)

    def _cancelled(self, event: CancelAnswered) -> None:
        job = self._jobs.get(event.job_id)
        if job is not None and event.seq:
            job.cancel_answered()
        if event.request_id is not None and (answer := self._answers.get(event.request_id)) is not None:
            answer.give(None)

    def _lose(self, lost: ConnectionLost) -> None:
        """The one place where a session ends: nothing more will come for whatever waits."""
        if self.lost is not None:
            return
        lost.__cause__ = self._failure
        self.lost = lost
        self._welcome.refuse(self._failure or lost)
        for answer in self._answers.values():
            answer.refuse(lost)
        for job in self._jobs.values():
            job.lost(lost)
        self._jobs.clear()
        self._over.set()
        self._dialing.cancel()

    async def _ask(self, send: Callable[[int], RequestId]) -> Any:
        """Send a request, and wait for its answer; reading goes on meanwhile."""
        if self.lost is not None:
            raise again(self.lost)
        request_id = send(self._pump.now())
        answer = self._answers[request_id] = _Answer()
        self._pump.run()
        try:
            with self.reading_on():
                return await answer.wait()
        finally:
            del self._answers[request_id]

    def _hold(self) -> None:
        """Take nothing more from the connection while a buffer is full; but answers stand behind events."""
        if self._connection is not None and self.lost is None:
            full = self._full > 0 and (self._asking == 0 or self._overflowing > 0)
            self._pump.hold(self._connection, full)

    def _expiry(self, expires_at: str | datetime | timedelta | None) -> str | None:
        match expires_at:
            case datetime():
                if expires_at.tzinfo is None:
                    raise ValueError("expires_at has no time zone; datetime.now(timezone.utc) has one")
                text = expires_at.astimezone(UTC).isoformat(timespec="microseconds")
                return text.replace("+00:00", "Z")
            case timedelta():
                return format_time(Time(self._clock.unix() + int(expires_at.total_seconds() * SECOND)))
        return expires_at


class _Answer:
    """What somebody waits for."""

    def __init__(self) -> None:
        self._came = anyio.Event()
        self._value: Any = None
        self._error: ArcpError | None = None

    def give(self, value: Any) -> None:
        self._value = value
        self._came.set()

    def refuse(self, error: ArcpError) -> None:
        if not self._came.is_set():
            self._error = error
            self._came.set()

    async def wait(self) -> Any:
        await self._came.wait()
        if self._error is not None:
            raise again(self._error)
        return self._value


def again(error: ArcpError) -> ArcpError:
    """An error for one more caller to raise: one that is raised twice grows two tracebacks into one."""
    copy = error_for(
        error.code, error.message, retryable=error.retryable, details=error.details, job_id=error.job_id
    )
    copy.__cause__ = error.__cause__
    return copy


async def _secret(token: Token) -> Secret | None:
    if callable(token):
        answer = token()
        token = await answer if inspect.isawaitable(answer) else answer
    return None if token is None else Secret(token)


async def _cancel_quietly(job: Job) -> None:
    with suppress(ArcpError):
        await job.cancel("the session was left")


def _refusal(event: RequestRefused) -> ArcpError:
    return error_for(
        event.code, event.message, retryable=event.retryable, details=event.details, job_id=event.job_id
    )


def _loss(event: ConnectionEnded) -> ConnectionLost:
    kind = HeartbeatLost if event.code == ErrorCode.HEARTBEAT_LOST else ConnectionLost
    return kind(f"the connection was ended by the {event.who}: {event.reason or event.code}")


def _with_budget(
    lease: Mapping[str, Sequence[str]] | None, budget: str | Sequence[str] | None
) -> Mapping[str, Sequence[str]] | None:
    if budget is None:
        return lease
    amounts = [budget] if isinstance(budget, str) else list(budget)
    return {**(lease or {}), COST_BUDGET: [*(lease or {}).get(COST_BUDGET, ()), *amounts]}
