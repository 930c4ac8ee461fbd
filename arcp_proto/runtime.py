"""The server side of ARCP, without I/O: every connection, session and job of one process.

Methods come in four kinds. What the event loop reports (`connect`, `authenticated`, `job_stopped`,
`handle_timer`, and `receive` or `lost` of a `Connection`) never raises for a peer's fault. What agents call
(`emit`, `write_result`, `finish`, `fail`) raises `LocalProtocolError` before anything has changed. `take`
hands out what to do. The rest are queries and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from . import (
    delivering,
    handshake,
    observing,
    outcome,
    refusals,
    restoring,
    results,
    retention,
    runtime_handlers,
    shutdown,
    wire,
)
from .applying import APPLY
from .connection import Connection, Framing, Phase
from .entropy import Entropy
from .errors import Denied, ErrorCode, InvariantViolated, LocalProtocolError, Refusal
from .events import Body, check_metric, encode_body
from .holdings import Holdings
from .idempotency import Keys
from .ids import SECOND, JobId, Principal, SessionId, Time
from .inventory import Inventory
from .job import Job, Status
from .limits import MAX_NAME_LENGTH, MAX_REASON_LENGTH, MAX_RUNTIME_SEC
from .listing import Cursors, Listing
from .machine import CLOSE_OUR_FAULT, CLOSE_REFUSED, CLOSE_RESTART, Machine, cut
from .output import Output, PauseJob, ResumeJob
from .records import Record
from .retention import Retired
from .runtime_config import EVENT_BYTES, Observers, RuntimeConfig, check_config, check_observers
from .session import Session
from .snapshots import snapshot_of
from .timers import TimerKey, TimerKind


class Runtime(Machine):
    """The runtime's state machine."""

    def __init__(self, config: RuntimeConfig, *, seed: bytes, now: int, unix: int) -> None:
        """`seed` is 32 random bytes, `now` monotonic and `unix` wall-clock nanoseconds.

        Raises LocalProtocolError for a wrong seed or inventory, also for one that fits no frame.
        """
        super().__init__(config.limits, Entropy(seed), now=now, unix=unix, journal=config.journal)
        self.config = config
        self.inventory = Inventory(config.agents)
        check_config(config, self.inventory)
        self.features = config.features
        self.observers: Observers = config.observers
        self.sessions: dict[SessionId, Session] = {}
        self.tokens: dict[bytes, Session] = {}
        """Sessions by the digests of their resume tokens."""
        self.jobs: dict[JobId, Job] = {}
        self.job_count = 0
        """Jobs accepted so far."""
        self.running: dict[JobId, Job] = {}
        """Jobs whose agent has not stopped."""
        self.unfinished: dict[JobId, Job] = {}
        """Jobs whose terminal is not out."""
        self.leaving: dict[JobId, Job] = {}
        """Unfinished jobs that a shutdown leaves to the next process."""
        self.keys = Keys()
        self.listing = Listing()
        self.cursor_key: bytes | None = None
        """What is behind the cursors of listings, once there was one."""
        self.cursors = Cursors(self.entropy.key("cursors"))
        self.holdings = Holdings(config.limits)
        self.retired = Retired()
        self.draining = False
        self.pending: dict[int, handshake.Pending] = {}
        """What waits for the host's verifier, by the number of its connection."""
        self.anonymous_principals: dict[Principal, int] = {}
        """How many sessions and unfinished jobs each has."""
        self.unsettled: dict[SessionId, Session] = {}
        """Sessions in which something was numbered since the last take."""
        self.unfed: dict[SessionId, Session] = {}
        """Sessions that get the next piece of a history when the journal has caught up."""
        self._waiting: dict[Connection, None] = {}
        self.ended = False
        """Whether `RuntimeEnded` has been told."""

    @classmethod
    def restore(
        cls, config: RuntimeConfig, records: Iterable[Record], *, seed: bytes, now: int, unix: int
    ) -> Self:
        """The runtime as its records left it; `seed` is a new one.

        Sessions wait to be resumed. Jobs whose agents died with the process start again if their agent is
        restartable, else end with INTERNAL_ERROR: the first `take` holds what recovery itself decided.
        """
        runtime = cls(config, seed=seed, now=now, unix=unix)
        restoring.restore(runtime, records)
        return runtime

    def snapshot(self) -> list[Record]:
        """The live state as records: restoring them is restoring every record so far."""
        return snapshot_of(self)

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

    def authenticated(
        self,
        request: int,
        principal: str | None,
        failed: bool = False,
        expires: int | None = None,
        *,
        now: int,
    ) -> Output:
        """The answer to `Authenticate`: who it is, None for nobody, `failed` when it cannot be told.

        At `expires`, Unix time in nanoseconds, the connection is closed, and the session may be resumed with
        a fresh token.
        """
        self.enter(now, "authenticated", request, principal, failed, expires)
        pending = self.pending.pop(request, None)
        if pending is not None and pending.connection.phase is Phase.AUTHENTICATING:
            verified = None if principal is None else Principal(principal)
            until = None if expires is None else Time(expires)
            handshake.finish(self, pending, verified, until, failed=failed)
        return self.leave()

    def observers_set(self, observers: dict[str, dict[str, str]], *, now: int) -> None:
        """Who sees the jobs of others from now on; what is not allowed any more ends. Take afterwards.

        Raises LocalProtocolError for a right that is neither "list" nor "observe".
        """
        check_observers(observers)
        self.enter(now, "observers_set", observers)
        self.observers = observers
        observing.revoke(self)
        self.done()

    def wall_clock_set(self, unix: int, *, now: int) -> None:
        """The wall clock says `unix` now; times on the wire never go back all the same."""
        super().wall_clock_set(unix, now=now)
        for connection in self.connections.values():
            handshake.watch_expiry(self, connection)

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
        unfed, self.unfed = self.unfed, {}
        for session in unfed.values():
            observing.feed_soon(self, session)
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
            check_metric(body)
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

    @property
    def journaling(self) -> bool:
        """Whether records are made."""
        return self._journal

    def commit(self, record: Record) -> None:
        """Change durable state: apply a record, and hand it out when there is a journal."""
        if self._journal:
            self._records.append(record)
            self.record_count += 1
        APPLY[type(record)](self, record)

    def publish(self, job: Job, kind: str, body: bytes) -> None:
        """Number one event in every session that gets the job and takes its kind."""
        delivering.publish(self, job, kind, body)

    def delivered(self, session: Session) -> None:
        """Something was numbered in this session."""
        delivering.sent_to(self, session)
        if self.holdings.over:
            retention.make_room(self)

    def notify(self, session: Session, job_id: JobId, phase: str, message: str) -> None:
        """Number a `status` of a job in one session only."""
        delivering.notify(self, session, job_id, phase, message)

    def keep_job(self, job: Job) -> None:
        """A job is there: find it by id, in listings, and among what its principal holds."""
        self.jobs[job.id] = job
        self.listing.add(job)
        self.holdings.add(job.terms.principal, job.history)

    def drop_job(self, job: Job) -> None:
        """A job is there no longer."""
        del self.jobs[job.id]
        self.listing.remove(job)
        self.holdings.remove(job.terms.principal, job.history)

    def change_status(self, job: Job, status: Status) -> None:
        """A job goes on in its lifecycle."""
        before = job.status
        job.become(status)
        self.listing.changed(job, before)

    def payload_limit(self, job: Job) -> int:
        """Bytes that a payload may have, with the longest head this job can need (§1)."""
        return self.limits.frame - wire.HEAD_BYTES - len(job.extensions or b"")

    def body_limit(self, job: Job) -> int:
        """Bytes that the body of an event may have."""
        return self.payload_limit(job) - EVENT_BYTES

    def scope(self, principal: Principal) -> str:
        """The scope of entropy of a principal."""
        return f"principal {principal}"

    def begin(self, job: Job) -> None:
        """An agent is about to run."""
        self.running[job.id] = self.unfinished[job.id] = job
        if job.terms.principal in self.anonymous_principals:
            self.anonymous_principals[job.terms.principal] += 1

    def job_over(self, job: Job) -> None:
        """The terminal of a job is out."""
        self.unfinished.pop(job.id, None)
        job.stream = None
        retention.retire(self, job, Time(self.now + self.limits.retention * SECOND))
        retention.watch_keys(self)
        retention.let_go(self, job.terms.principal)
        shutdown.end_if_over(self)

    def left(self, job: Job) -> bool:
        """Whether a job whose agent has stopped, or will not, is left to the next process."""
        return shutdown.left(self, job)

    def set_paused(self, session: Session, *, paused: bool) -> None:
        """Agents wait, or go on, whose jobs this session submitted."""
        for job in session.jobs.values():
            if job.paused is not paused:
                job.paused = paused
                self.request(PauseJob(job.id) if paused else ResumeJob(job.id))

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
        if session is not None and session.connection is connection:
            session.connection = None
            self.set_paused(session, paused=False)
            observing.fall_behind(self, session)
            retention.await_resume(self, session)

    def lose_connection(self, connection: Connection, reason: str) -> None:
        """The transport is gone, and nothing refers to it any more."""
        self.pending.pop(connection.number, None)
        self._waiting.pop(connection, None)
        super().lose_connection(connection, reason)

    def _gone(self) -> None:
        shutdown.end_if_over(self)

    def _silent(self, connection: Connection) -> None:
        message = "nothing was received for two heartbeat intervals"
        self.refuse(connection, Refusal(ErrorCode.HEARTBEAT_LOST, message, fatal=True))

    def transport_blocked(self, connection: Connection, blocked: bool) -> None:
        """Agents wait for the transport of the session that submitted their job."""
        session = connection.session
        if session is not None and session.connection is connection:
            self.set_paused(session, paused=blocked)
            if blocked:
                observing.fall_behind(self, session)
            else:
                observing.feed_soon(self, session)

    def _on_own_timer(self, key: TimerKey) -> None:
        match key.kind:
            case TimerKind.HELLO:
                late = Refusal(ErrorCode.UNAUTHENTICATED, "no session.hello in time", fatal=True)
                self.refuse(self.connections[int(key.owner)], late)
            case TimerKind.AUTHENTICATION:
                late = Refusal(ErrorCode.INTERNAL_ERROR, "authentication took too long", fatal=True)
                self.refuse(self.connections[int(key.owner)], late)
            case TimerKind.RESUME_WINDOW:
                retention.end_session(self, SessionId(str(key.owner)))
            case TimerKind.MAX_RUNTIME:
                job = self.jobs[JobId(str(key.owner))]
                message = f"the job ran longer than its max_runtime_sec of {job.terms.max_runtime_sec}"
                outcome.fix_outcome(self, job, outcome.outcome_of(ErrorCode.TIMEOUT, message))
            case TimerKind.GRACE:
                outcome.grace_over(self, self.jobs[JobId(str(key.owner))])
            case TimerKind.RETENTION:
                retention.forget_due(self)
            case TimerKind.KEYS:
                retention.forget_keys(self)
            case TimerKind.BACKLOG:
                observing.feed(self, self.sessions[SessionId(str(key.owner))])
            case TimerKind.EXPIRY:
                handshake.expire(self, self.connections[int(key.owner)])
            case TimerKind.DRAIN:
                shutdown.cancel_rest(self)
            case _:
                raise InvariantViolated(f"a runtime has no timer {key.kind}")

    def _close_runs(self) -> None:
        if not self._journal:
            return
        for session in self.unsettled.values():
            session.log.mark_run(self.record_count)
        self.unsettled.clear()
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
