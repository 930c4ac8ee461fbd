"""The state of a runtime between its inputs: every connection, session and job of one process.

A host calls `Runtime`, and agents call `AgentApi`; the handlers of messages, timers and records take this
state.
"""

from __future__ import annotations

from typing import Final

from arcp_proto.close_codes import CloseCode
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.entropy import Entropy
from arcp_proto.engine.machine import Machine
from arcp_proto.engine.output import EventsRead, StartJob
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import TimerKey
from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal
from arcp_proto.ids import SECOND, JobId, Monotonic, Principal, SessionId
from arcp_proto.job_statuses import JobStatus
from arcp_proto.limits import KIB
from arcp_proto.server.credentials.model import Provisions
from arcp_proto.server.jobs.idempotency import Keys
from arcp_proto.server.jobs.inventory import Inventory
from arcp_proto.server.jobs.job import NO_EVENTS, Job
from arcp_proto.server.jobs.listing import Cursors, Listing
from arcp_proto.server.jobs.publish import Openings
from arcp_proto.server.journal.apply import APPLY
from arcp_proto.server.journal.records import Record
from arcp_proto.server.sessions.event_log import History
from arcp_proto.server.sessions.quotas import Holdings
from arcp_proto.server.sessions.reads import Reads
from arcp_proto.server.sessions.retired import Retired
from arcp_proto.server.sessions.session import Session, attached_to
from arcp_proto.wire import codec
from arcp_proto.wire.codec import OpenObject

from . import dispatch, responses, shutdown
from .config import EVENT_BYTES, Guests, Observers, RuntimeConfig, check_config
from .credentials import issuing
from .jobs import back_pressure, gate, submit_queue
from .jobs import publish as publishing
from .sessions import admission_control, handshake, reads, retention, subscriptions

PARTIAL: Final = 64 * KIB
"""Bytes of a partial message that are not counted: about what a driver reads at once."""


class RuntimeState(Machine):
    """The state of a runtime, and the changes that its handlers make."""

    def __init__(self, config: RuntimeConfig, *, seed: bytes, now: int, unix: int) -> None:
        """Take 32 random bytes as `seed`, monotonic nanoseconds as `now` and wall-clock ones as `unix`.

        Raises LocalProtocolError for a wrong seed, and for an inventory that is wrong or does not fit a
        frame.
        """
        super().__init__(config.limits, Entropy(seed), now=now, unix=unix, journal=config.journal)
        self.config = config
        self.inventory = Inventory(config.agents)
        check_config(config, self.inventory)
        self.features = config.features
        self.observers: Observers = config.observers
        self.guests: Guests = config.guests
        self.sessions: dict[SessionId, Session] = {}
        self.tokens: dict[bytes, Session] = {}
        """Sessions by the digests of their resume tokens."""
        self.jobs: dict[JobId, Job] = {}
        self.job_count = 0
        """Jobs accepted so far."""
        self.caps = admission_control.Caps(config.limits)
        self.running = admission_control.RunningJobs()
        """Jobs whose agent has not stopped."""
        self.unfinished: dict[JobId, Job] = {}
        """Jobs whose terminal was not sent."""
        self.keys = Keys()
        self.listing = Listing()
        self.reads = Reads()
        self.cursor_key: bytes | None = None
        """The recorded key of listing cursors, once there is one."""
        self.cursors = Cursors(self.entropy.key("cursors"))
        self.provisions = Provisions()
        self.issuing = issuing.Issuing()
        self.holdings = Holdings(config.limits)
        self.openings = Openings(self)
        self.retired = Retired()
        self.draining = False
        """Whether no more sessions and jobs are taken."""
        self.handing_over = False
        """Whether accepted jobs are kept for the next process."""
        self.ending = False
        """Whether the runtime ends when no job runs: it is draining, or hands over."""
        self.pending: dict[int, handshake.Pending] = {}
        """The handshakes that wait for the host's verifier, by the number of their connection."""
        self.anonymous_principals: dict[Principal, int] = {}
        """How many sessions and unfinished jobs each anonymous principal has."""
        self.unsettled: dict[SessionId, Session] = {}
        """Sessions in which events were numbered since the last take."""
        self.most_unsaved = back_pressure.Most.of(config.limits)
        self.unsaved: dict[SessionId, Session] = {}
        """Sessions with events in their logs that are not known to be durable."""
        self._waiting: dict[ConnectionState, None] = {}
        self.speaker: Job | None = None
        """The job of the last input, if that was an event; its next events are numbered together."""
        self.said: list[OpenObject] = []
        """The payloads of the collected events."""
        self.said_at = 0
        """When the last of them was published."""
        self.hooks = dispatch.HOOKS
        self.ended = False
        """Whether `RuntimeEnded` was handed out."""

    def crowded(self, connection: ConnectionState) -> bool:
        return connection.phase is Phase.OPEN and connection.congested(2)

    # Inputs that change more than one part of the state.

    def wall_clock_set(self, unix: int, *, now: int) -> None:
        """Set the wall clock to `unix`; times on the wire still never go back."""
        self.enter(now, "wall_clock_set", unix)
        gate.wall_clock_moves(self)
        self.set_wall(unix)
        self.openings.forget()
        gate.wall_clock_moved(self)
        for connection in self.connections.values():
            handshake.watch_expiry(self, connection)
        self.done()

    def persisted(self, count: int, *, now: int) -> None:
        """Note that the first `count` records are durable. Take afterwards."""
        if not self.persisted_count <= count <= self.record_count:
            raise LocalProtocolError(
                f"{count} records are not between {self.persisted_count} and {self.record_count}"
            )
        self.enter(now, "persisted", count)
        self.persisted_count = count
        back_pressure.persisted(self)
        for request in self._open_gate():
            if isinstance(request, EventsRead):
                self.happened(request)
                continue
            if not isinstance(request, StartJob):
                self.ask_now(request)
            elif (job := self.running.get(request.job_id)) is not None:  # It may have ended before.
                self.ask_now(request)
                back_pressure.agent_is_asked_for(self, job)
        for connection in self._waiting:
            self.mark_writable(connection)
        if count == self.record_count:
            self._waiting = {}
        self.done()

    # Changes, for handlers.

    def commit(self, record: Record) -> None:
        """Change durable state: apply a record, and hand it out when there is a journal."""
        if self.journaling:
            self._records.append(record)
            self.record_count += 1
        APPLY[type(record)](self, record)

    publish = publishing.publish

    def delivered(self, session: Session) -> None:
        """Keep limits after something was numbered in this session, and wake its connection."""
        publishing.sent(self, session)
        if self.holdings.over:
            retention.make_room(self)

    def hold_back(self, session: Session, after: int) -> None:
        """Count events above `after` as not durable until an envelope in front of them may be sent (§6.3).

        The envelope is queued now, and waits until all records so far are durable.
        """
        if self.persisted_count < self.record_count and session.log.last > after:
            session.log.hold(after, self.record_count)
            back_pressure.look_at_held(self, session)

    def keep_job(self, job: Job) -> None:
        """Add a job: by id, to listings, and its events to the account of its principal."""
        self.jobs[job.id] = job
        if job.kept:
            self.holdings.keep(job.terms.principal, job.kept)
        job.body_limit = self.body_limit(job)
        self.listing.add(job)
        if job.history is not NO_EVENTS:
            self.holdings.add(job.terms.principal, job.history)

    def open_history(self, job: Job) -> History:
        """Return the history of a job at its first event, and add it to the account of its principal."""
        history = job.open_history()
        self.holdings.add(job.terms.principal, history)
        return history

    def drop_job(self, job: Job) -> None:
        """Remove a job."""
        del self.jobs[job.id]
        if job.kept:
            self.holdings.keep(job.terms.principal, -job.kept)
        self.listing.remove(job)
        if job.history is not NO_EVENTS:
            self.holdings.remove(job.terms.principal, job.history)

    def pin(self, principal: Principal, size: int) -> None:
        """Pin `size` more bytes of a principal; its events make room if needed."""
        nameless = principal in self.anonymous_principals
        if self.holdings.pin(principal, size, nameless=nameless):
            retention.make_room(self)

    def unpin(self, principal: Principal, size: int) -> None:
        """Pin `size` bytes less of a principal."""
        self.holdings.pin(principal, -size, nameless=principal in self.anonymous_principals)

    def hold_key(self, principal: Principal, size: int) -> None:
        """Pin `size` bytes more, or less if negative, for the idempotency keys of a principal."""
        self.holdings.pin(principal, size, nameless=principal in self.anonymous_principals)

    def recorded(self, job: Job, record: str, status: JobStatus) -> None:
        """Change the stage and status of a job by a record, and move it in listings by status."""
        before = job.status
        job.recorded(record, status)
        if self.listing.asked and before is not status:
            self.listing.changed(job, before)

    def payload_limit(self, job: Job) -> int:
        """Return the most bytes of a payload, behind the longest head that this job can need (§1)."""
        return self.limits.max_envelope_bytes - codec.HEAD_BYTES - len(job.extensions or b"")

    def result_limit(self, job: Job, session: Session | None) -> int:
        """Return the most bytes of the payload of a `job.result` with its value in a session (§8.4).

        It is at most a quarter of what a log and a history hold, so that it never evicts what was not read.
        """
        limits, most = self.limits, self.limits.max_envelope_bytes
        if session is not None and session.long_frames:
            held = min(limits.max_session_bytes, limits.max_history_bytes, limits.max_principal_bytes) // 4
            most = max(most, min(limits.max_inline_result_bytes, held))
        return self.payload_limit(job) - limits.max_envelope_bytes + most

    def body_limit(self, job: Job) -> int:
        """Return the most bytes of the body of an event."""
        return self.payload_limit(job) - EVENT_BYTES

    def scope(self, principal: Principal) -> str:
        """Return the scope of entropy of a principal."""
        return f"principal {principal}"

    def begin(self, job: Job) -> None:
        """Count a job whose agent is about to run."""
        self.unfinished[job.id] = job
        principal = job.terms.principal
        if principal in self.anonymous_principals:
            self.running.add(job, None)
            self.anonymous_principals[principal] += 1
        else:
            self.running.add(job, principal)

    def job_over(self, job: Job) -> None:
        """Retire a job whose terminal was sent."""
        self.unfinished.pop(job.id, None)
        job.stream = None
        reads.wake_job(self, job)
        retention.retire(self, job, Monotonic(self.now + self.limits.retention_sec * SECOND))
        if job.terms.idempotency_key is not None:
            retention.watch_keys(self)
        if self.anonymous_principals:
            retention.let_go(self, job.terms.principal)
        self.may_be_over = True

    def leave_job(self, job: Job) -> None:
        """Leave a job whose agent has stopped, or has not stopped in time, to the next process."""
        shutdown.leave(self, job)

    # Overridden methods of `Machine`.

    _handle = dispatch.handle

    def refuse(
        self, connection: ConnectionState, refusal: Refusal, code: CloseCode = CloseCode.POLICY_VIOLATION
    ) -> None:
        if submit_queue.keeps_place(self, connection, refusal):
            return
        if refusal.fatal or connection.phase is not Phase.OPEN:
            if refusal.code is ErrorCode.INTERNAL_ERROR and not isinstance(
                refusal, admission_control.Exceeded
            ):
                code = CloseCode.SERVICE_RESTART if self.draining else CloseCode.INTERNAL_ERROR
            error = refusal.code.value
            self.close_connection(connection, code, error, error=error, flush=False)
        if isinstance(refusal, admission_control.Exceeded):
            admission_control.exceeded(self, connection, refusal)
        responses.refuse(self, connection, refusal)

    def count_control_frames(self, connection: ConnectionState, count: int) -> None:
        """Count frames without a message as requests; before the welcome a few are free (§14)."""
        try:
            admission_control.count_control_frames(self, connection, count)
        except Refusal as refusal:
            self.refuse(connection, refusal)

    def hold_partial(self, connection: ConnectionState, size: int) -> None:
        """Count the bytes of a partial message for the principal of its session (§14)."""
        session = attached_to(connection)
        if session is None:
            return
        counted = size if size > PARTIAL else 0
        more, connection.partial = counted - connection.partial, counted
        if more > 0:
            try:
                admission_control.check_bytes(self, session.principal, more)
            except admission_control.Exceeded as refusal:
                connection.partial -= more
                refusal.fatal = True
                self.refuse(connection, refusal)
                return
            self.pin(session.principal, more)
        elif more:
            self.unpin(session.principal, -more)

    def _detached(self, connection: ConnectionState) -> None:
        if connection.partial:
            self.hold_partial(connection, 0)
        reads.leave(self, connection.number)
        session = attached_to(connection)
        if session is not None and session.connection is connection:
            session.connection = None
            self.caps.session_detached(session)
            back_pressure.pause_jobs(self, session)
            subscriptions.fall_behind(self, session)
            retention.await_resume(self, session)

    def lose_connection(self, connection: ConnectionState, reason: str) -> None:
        """Remove a connection whose transport is gone, with everything that refers to it."""
        self.pending.pop(connection.number, None)
        self._waiting.pop(connection, None)
        super().lose_connection(connection, reason)
        self.caps.gone(connection, self.now)

    def _look_for_end(self) -> None:
        super()._look_for_end()
        shutdown.end_if_over(self)

    def _silent(self, connection: ConnectionState) -> None:
        message = "nothing was received for two heartbeat intervals"
        self.refuse(connection, Refusal(ErrorCode.HEARTBEAT_LOST, message, fatal=True))

    def transport_blocked(self, connection: ConnectionState, blocked: bool) -> None:
        """Pause or resume the agents of the jobs that the session of this connection submitted."""
        session = attached_to(connection)
        if session is not None and session.connection is connection:
            back_pressure.pause_jobs(self, session)
            if blocked:
                subscriptions.fall_behind(self, session)
            else:
                subscriptions.feed_soon(self, session)
                reads.wake_reader(self, connection.number)

    def _on_own_timer(self, key: TimerKey) -> None:
        dispatch.carry_out(self, key)

    def _completed(self) -> bool:
        if self.speaker is None:
            return False
        publishing.end(self, self.speaker)
        return True

    def _close_runs(self) -> None:
        self._completed()
        if not self.journaling:
            return
        for session in self.unsettled.values():
            session.log.mark_run(self.record_count)
        self.unsettled.clear()
        if self.record_count > self.persisted_count:
            self._waiting.update(self.ready)
