"""The server side of ARCP, without I/O: every connection, session and job of one process.

Methods come in four kinds. What the event loop reports (`connect`, `authenticated`, `job_stopped`,
`handle_timer`, and `receive` or `lost` of a `Connection`) never raises for a peer's fault. What agents call
(`emit`, `write_result`, `finish`, `fail`) raises `LocalProtocolError` before anything has changed. `take`
hands out what to do. The rest are queries and change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Self

import msgspec

from . import outcome, refusals, results, retention, runtime_handlers, shutdown, wire
from .connection import Connection, Framing, Phase
from .entropy import Entropy
from .errors import Denied, ErrorCode, InvariantViolated, LocalProtocolError, Refusal
from .events import Body, encode_body
from .ids import SECOND, JobId, Principal, SessionId, Time, ulid
from .inventory import AgentInfo, Inventory
from .job import Job
from .limits import KIB, MAX_NAME_LENGTH, MAX_REASON_LENGTH, MAX_RUNTIME_SEC, Limits
from .machine import CLOSE_OUR_FAULT, CLOSE_REFUSED, CLOSE_RESTART, Machine, cut
from .output import Output, PauseJob, ResumeJob
from .records import (
    APPLY,
    Published,
    Record,
    SessionEnded,
    number,
    snapshot_of_job,
    snapshot_of_session,
    takers_of,
)
from .session import Session
from .timers import TimerKey, TimerKind

SUPPORTED_FEATURES = ("heartbeat", "ack", "progress", "result_chunk", "agent_versions")
"""The features of §6.2 that this runtime offers."""

LEAST_FRAME = 32 * KIB
"""An answer with the largest lease, and every error, fit it."""

WELCOME_BYTES = 1024
"""More than what stands in a welcome beside names and inventory."""

EVENT_BYTES = 256
"""More than what stands around a body in its payload: the longest kind, the time, a source_seq."""


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a host decides. Times in seconds.

    `resume_window_sec` is how long a session outlives its connection; a `heartbeat_interval_sec` of 0
    offers no heartbeats; `quirks` answers peers that deviate in the form that they read. `journal` says
    that the host persists records and reports `persisted`; without it no records are made.
    """

    name: str
    version: str
    agents: tuple[AgentInfo, ...] = ()
    anonymous: bool = False
    heartbeat_interval_sec: int = 30
    resume_window_sec: int = 0
    quirks: bool = True
    journal: bool = False
    limits: Limits = Limits()


class Runtime(Machine):
    """The runtime's state machine."""

    def __init__(self, config: RuntimeConfig, *, seed: bytes, now: int, unix: int) -> None:
        """`seed` is 32 random bytes, `now` monotonic and `unix` wall-clock nanoseconds.

        Raises LocalProtocolError for a wrong seed or inventory, also for one that fits no frame.
        """
        super().__init__(config.limits, Entropy(seed), now=now, unix=unix, journal=config.journal)
        self.config = config
        self.inventory = Inventory(config.agents)
        self.sessions: dict[SessionId, Session] = {}
        self.jobs: dict[JobId, Job] = {}
        self.running: dict[JobId, Job] = {}
        """Jobs whose agent has not stopped."""
        self.unfinished: dict[JobId, Job] = {}
        """Jobs whose terminal is not out."""
        self.features = tuple(
            name for name in SUPPORTED_FEATURES if name != "heartbeat" or config.heartbeat_interval_sec > 0
        )
        self.draining = False
        self.hellos: dict[int, runtime_handlers.PendingHello] = {}
        """What waits for the host's verifier, by the number of its connection."""
        self.retired: deque[tuple[Time, JobId]] = deque()
        """Jobs that have ended, and when to forget them."""
        self.anonymous_principals: dict[Principal, int] = {}
        """How many sessions and unfinished jobs each has."""
        self._unnumbered: dict[SessionId, Session] = {}
        self._waiting: dict[Connection, None] = {}
        self.ended = False
        """Whether `RuntimeEnded` has been told."""
        _check_config(config, self.inventory)

    @classmethod
    def restore(
        cls, config: RuntimeConfig, records: Iterable[Record], *, seed: bytes, now: int, unix: int
    ) -> Self:
        """The runtime as its records left it; `seed` is a new one.

        Sessions wait to be resumed, and jobs whose agents died with the process end with INTERNAL_ERROR:
        the first `take` holds what recovery itself decided.
        """
        runtime = cls(config, seed=seed, now=now, unix=unix)
        runtime.used = True
        for record in records:
            APPLY[type(record)](runtime, record)
        for session in list(runtime.sessions.values()):
            retention.evict(runtime, session)
            runtime.await_resume(session)
        for job in list(runtime.jobs.values()):
            if job.ended:
                retention.retire(runtime, job)
            else:
                runtime.unfinished[job.id] = job
                lost = outcome.outcome_of(ErrorCode.INTERNAL_ERROR, "the runtime was restarted")
                outcome.end_with_error(runtime, job, job.outcome or lost)
        return runtime

    def snapshot(self) -> list[Record]:
        """The live state as records: restoring them is restoring every record so far."""
        sessions = [snapshot_of_session(session) for session in self.sessions.values()]
        return [*sessions, *(snapshot_of_job(job) for job in self.jobs.values())]

    # What the event loop reports.

    def connect(
        self, framing: Framing = Framing.MESSAGES, *, secure: bool = False, peer: str = "", now: int
    ) -> Connection:
        """A client has opened a transport; `peer` labels it. Take afterwards."""
        self.enter(now, "connect", framing.value, secure, peer)
        connection = self.add_connection(framing, secure=secure, peer=peer, phase=Phase.AWAITING_HELLO)
        self.timers.arm(TimerKind.HELLO, connection.number, Time(self.now + self.limits.hello * SECOND))
        self.done()
        return connection

    def authenticated(self, request: int, principal: str | None, failed: bool = False, *, now: int) -> Output:
        """The answer to `Authenticate`: who it is, None for nobody, `failed` when it cannot be told."""
        self.enter(now, "authenticated", request, principal, failed)
        hello = self.hellos.pop(request, None)
        if hello is not None and hello.connection.phase is Phase.AUTHENTICATING:
            verified = None if principal is None else Principal(principal)
            runtime_handlers.finish_hello(self, hello, verified, failed=failed)
        return self.leave()

    def job_stopped(self, job_id: JobId, *, now: int) -> Output:
        """The answer to `StopJob`, or news that an agent is gone without a word."""
        self.enter(now, "job_stopped", job_id)
        job = self.running.get(job_id)
        if job is not None:
            outcome.agent_ended(self, job, outcome.outcome_of(ErrorCode.INTERNAL_ERROR, "agent stopped"))
        return self.leave()

    def persisted(self, count: int, *, now: int) -> None:
        """The first `count` records are durable. Take afterwards."""
        if not self.persisted_count <= count <= self.record_count:
            raise LocalProtocolError(
                f"{count} records are not between {self.persisted_count} and {self.record_count}"
            )
        self.enter(now, "persisted", count)
        self.persisted_count = count
        for connection in self._waiting:
            self.mark_writable(connection)
        if count == self.record_count:
            self._waiting = {}
        self.done()

    def shut_down(self, drain: float = 30.0, *, now: int) -> None:
        """Take no more sessions and jobs, give running jobs `drain` seconds, cancel the rest, close all.

        A second call shortens the wait. `RuntimeEnded` tells when it is over. Take afterwards.
        Raises LocalProtocolError for a time that is none.
        """
        if not 0 <= drain <= MAX_RUNTIME_SEC:
            raise LocalProtocolError(f"{drain} is not between 0 and {MAX_RUNTIME_SEC} seconds")
        self.enter(now, "shut_down", drain)
        self.draining = True
        shutdown.begin(self, drain)
        self.done()

    # What agents call.

    def emit(self, job_id: JobId, kind: str, body: Body | Mapping[str, Any], *, now: int) -> None:
        """Publish one event of a job; raises LocalProtocolError for a bad body, or once the job has ended."""
        job = self._unended(job_id)
        if kind == "result_chunk":
            raise LocalProtocolError("a result is streamed with write_result")
        encoded = encode_body(kind, body)
        if kind == "metric":
            _check_metric(body)
        if len(encoded) > self.body_limit(job):
            raise LocalProtocolError(
                f"this {kind} is {len(encoded)} bytes, and a frame holds {self.body_limit(job)}:"
                " refer to an artifact, or stream the result"
            )
        self.enter(now, "emit", job_id, kind, body)
        self.publish(job, kind, encoded)
        self.done()

    def write_result(self, job_id: JobId, data: str | bytes, *, now: int) -> None:
        """Stream a piece of the result, cut to frames (§8.4).

        Raises LocalProtocolError for a piece of the other type, Denied beyond the size limit.
        """
        job = self._unended(job_id)
        encoding = results.check_piece(job, data)
        self.enter(now, "write_result", job_id, data)
        try:
            results.write(self, job, data, encoding)
        except Denied:
            self.done()
            raise
        self.done()

    def finish(self, job_id: JobId, result: Any = None, summary: str | None = None, *, now: int) -> None:
        """The agent has returned a JSON value, or None; raises LocalProtocolError for what is none."""
        job = self._running_agent(job_id)
        encoded = None if result is None else wire.encode_value(result)
        wire.encode_value(summary)
        if summary is not None and len(summary) > MAX_REASON_LENGTH:
            raise LocalProtocolError(f"a summary has at most {MAX_REASON_LENGTH} characters")
        self.enter(now, "finish", job_id, result, summary)
        if job.outcome is not None:
            outcome.agent_ended(self, job, job.outcome)
        else:
            results.finish(self, job, encoded, summary)
        self.done()

    def fail(
        self,
        job_id: JobId,
        code: str,
        message: str,
        retryable: bool | None = None,
        details: dict[str, Any] | None = None,
        *,
        now: int,
    ) -> None:
        """The agent has failed; `retryable` by the table of codes unless it is given.

        Raises LocalProtocolError for a code that is empty or longer than a name, and for what is no JSON.
        """
        job = self._running_agent(job_id)
        wire.encode_value([code, message, details])
        if not 0 < len(code) <= MAX_NAME_LENGTH:
            raise LocalProtocolError(f"an error code has 1 to {MAX_NAME_LENGTH} characters")
        self.enter(now, "fail", job_id, code, message, retryable, details)
        failure = outcome.outcome_of(code, cut(message), retryable=retryable, details=details)
        outcome.agent_ended(self, job, failure)
        self.done()

    # For handlers and nouns.

    def commit(self, record: Record) -> None:
        """Change durable state: apply a record, and hand it out when there is a journal."""
        if self._journal:
            self._records.append(record)
            self.record_count += 1
        APPLY[type(record)](self, record)

    def publish(self, job: Job, kind: str, body: bytes) -> None:
        """Number one event in every session that observes the job and takes its kind."""
        takers = takers_of(job, kind)
        if not takers:
            return
        payload = b'{"kind":"%b","ts":"%b","body":%b' % (kind.encode(), self.time_text().encode(), body)
        if self._journal:
            self.commit(Published(job.id, kind, payload))
        else:
            number(job, takers, payload)
        self.sent_to(takers)

    def sent_to(self, observers: Iterable[Session]) -> None:
        """Something was numbered in these sessions: keep their logs within limits, wake their connections."""
        limits = self.limits
        for session in observers:
            log, connection = session.log, session.connection
            if len(log) > limits.session_events or log.size > limits.session_bytes:
                retention.evict(self, session)
            if connection is not None:
                connection.sent_at = self.now
                self.mark_writable(connection)
            if self._journal:
                self._unnumbered[session.id] = session

    def payload_limit(self, job: Job) -> int:
        """Bytes that a payload may have, with the longest head this job can need (§1)."""
        return self.limits.frame - wire.HEAD_BYTES - len(job.extensions or b"")

    def body_limit(self, job: Job) -> int:
        """Bytes that the body of an event may have."""
        return self.payload_limit(job) - EVENT_BYTES

    def scope(self, principal: Principal) -> str:
        """The scope of entropy of a principal."""
        return f"principal {principal}"

    def await_resume(self, session: Session) -> None:
        """A session without a connection ends after its window."""
        if self.config.resume_window_sec > 0:
            at = Time(self.now + self.config.resume_window_sec * SECOND)
            self.timers.arm(TimerKind.RESUME_WINDOW, session.id, at)
        else:
            self.end_session(session.id)

    def end_session(self, session_id: SessionId) -> None:
        """Nobody can resume it any more; its jobs go on."""
        principal = self.sessions[session_id].principal
        self.commit(SessionEnded(session_id))
        retention.let_go(self, principal)

    def anonymous(self, connection: Connection) -> Principal:
        """A principal that is nobody else and never comes again (§6.1)."""
        principal = Principal("anonymous-" + ulid(self.entropy.bits(connection.scope, "anonymous")))
        self.anonymous_principals[principal] = 1
        return principal

    def start(self, job: Job) -> None:
        """An agent is about to run."""
        self.running[job.id] = self.unfinished[job.id] = job
        if job.terms.principal in self.anonymous_principals:
            self.anonymous_principals[job.terms.principal] += 1

    def job_over(self, job: Job) -> None:
        """The terminal of a job is out."""
        self.unfinished.pop(job.id, None)
        job.stream = None
        retention.retire(self, job)
        retention.let_go(self, job.terms.principal)
        shutdown.end_if_over(self)

    # Roles of a machine.

    def _handle(self, connection: Connection, message: bytes) -> None:
        runtime_handlers.handle(self, connection, message)

    def refuse(self, connection: Connection, refusal: Refusal, code: int = CLOSE_REFUSED) -> None:
        if refusal.fatal or connection.phase is not Phase.OPEN:
            if refusal.code is ErrorCode.INTERNAL_ERROR:
                code = CLOSE_RESTART if self.draining else CLOSE_OUR_FAULT
            error = refusal.code.value
            self.close_connection(connection, code, error, error=error, flush=False)
        refusals.answer(self, connection, refusal)

    def _detached(self, connection: Connection) -> None:
        session = connection.session
        if session is not None:
            session.connection = None
            self._set_paused(session, paused=False)
            self.await_resume(session)

    def lose_connection(self, connection: Connection, reason: str) -> None:
        """The transport is gone, and nothing refers to it any more."""
        self.hellos.pop(connection.number, None)
        self._waiting.pop(connection, None)
        super().lose_connection(connection, reason)

    def _gone(self) -> None:
        shutdown.end_if_over(self)

    def _silent(self, connection: Connection) -> None:
        message = "nothing was received for two heartbeat intervals"
        self.refuse(connection, Refusal(ErrorCode.HEARTBEAT_LOST, message, fatal=True))

    def transport_blocked(self, connection: Connection, blocked: bool) -> None:
        """Agents wait for the transport of the session that submitted their job."""
        if connection.session is not None:
            self._set_paused(connection.session, paused=blocked)

    def _on_own_timer(self, key: TimerKey) -> None:
        match key.kind:
            case TimerKind.HELLO:
                late = Refusal(ErrorCode.UNAUTHENTICATED, "no session.hello in time", fatal=True)
                self.refuse(self.connections[int(key.owner)], late)
            case TimerKind.AUTHENTICATION:
                late = Refusal(ErrorCode.INTERNAL_ERROR, "authentication took too long", fatal=True)
                self.refuse(self.connections[int(key.owner)], late)
            case TimerKind.RESUME_WINDOW:
                self.end_session(SessionId(str(key.owner)))
            case TimerKind.MAX_RUNTIME:
                job = self.jobs[JobId(str(key.owner))]
                message = f"the job ran longer than its max_runtime_sec of {job.terms.max_runtime_sec}"
                outcome.fix_outcome(self, job, outcome.outcome_of(ErrorCode.TIMEOUT, message))
            case TimerKind.GRACE:
                outcome.grace_over(self, self.jobs[JobId(str(key.owner))])
            case TimerKind.RETENTION:
                retention.forget(self)
            case TimerKind.DRAIN:
                shutdown.cancel_rest(self)
            case _:
                raise InvariantViolated(f"a runtime has no timer {key.kind}")

    def _close_runs(self) -> None:
        if not self._journal:
            return
        for session in self._unnumbered.values():
            session.log.mark_run(self.record_count, self.now)
        self._unnumbered.clear()
        if self.record_count > self.persisted_count:
            self._waiting.update(self._writable)

    # Below: steps of the above.

    def _unended(self, job_id: JobId) -> Job:
        job = self.unfinished.get(job_id)
        if job is None:
            raise LocalProtocolError(f"{job_id} is no unfinished job")
        return job

    def _running_agent(self, job_id: JobId) -> Job:
        job = self.running.get(job_id)
        if job is None:
            raise LocalProtocolError(f"{job_id} has no running agent")
        return job

    def _set_paused(self, session: Session, *, paused: bool) -> None:
        for job in session.jobs.values():
            if job.terms.session_id == session.id and job.paused is not paused:
                job.paused = paused
                self.request(PauseJob(job.id) if paused else ResumeJob(job.id))


def _check_config(config: RuntimeConfig, inventory: Inventory) -> None:
    """Raise LocalProtocolError for bounds in which not every answer fits a frame."""
    if config.limits.frame < LEAST_FRAME:
        raise LocalProtocolError(f"a frame has at least {LEAST_FRAME} bytes")
    size = len(wire.encode_checked([config.name, config.version, inventory.entries]))
    if size > config.limits.frame - WELCOME_BYTES:
        raise LocalProtocolError(f"the agents' inventory of {size} bytes does not fit a welcome")
    for seconds in (config.heartbeat_interval_sec, config.resume_window_sec):
        if not 0 <= seconds <= MAX_RUNTIME_SEC:
            raise LocalProtocolError(f"{seconds} is not between 0 and {MAX_RUNTIME_SEC} seconds")


def _check_metric(body: Body | Mapping[str, Any]) -> None:
    name = body.get("name") if isinstance(body, Mapping) else getattr(body, "name", None)
    if name == "cost.budget.remaining":
        raise LocalProtocolError("only the runtime emits cost.budget.remaining (§9.6)")
