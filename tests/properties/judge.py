"""A judge of a runtime and its clients: the answers that each request may have, and the state behind them.

`Judge` looks at every event log and history as it grows, before a limit can evict an event, and passes it to
the sessions and jobs of `streams`. Its rules come from the protocol, not from the runtime.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from arcp_proto import Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import NOTHING, Authenticate, Output, PauseJob, ResumeJob, StartJob, StopJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ensure
from arcp_proto.features import Feature
from arcp_proto.ids import MILLISECOND, SECOND, JobId, Principal, SessionId, UnixTime
from arcp_proto.limits import Limits
from arcp_proto.recording import record
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.sessions.event_log import MARK
from arcp_proto.server.sessions.session import Session
from arcp_proto.server.state import RuntimeState
from arcp_proto.wire.timestamps import format_time
from tests.reference.streams import Stream
from tests.reference.tokens import is_over, prove, verdict
from tests.reference.visibility import is_asked_for, page_size, right
from tests.unit.world import FEATURES, UNIX, Frame, World

from .model import Attempt, Client
from .streams import Line, Token, Work

GRACE: Final = 5 * SECOND
EXPIRES_AT: Final = UNIX + 80 * SECOND
"""The `expires_at` of the lease that some submits request."""
BUDGETED: Final = "cost.budget"
BUDGET: Final = Decimal("1.50")
"""The budget that some submits request."""
FILTERS: Final = ("status", "agent", "created_after", "created_before")
STATUSES: Final = (
    ["running"],
    ["success", "error", "cancelled", "timed_out"],
    ["zork"],
    ["error", "running"],
)
Check = Callable[[Frame], None] | None
Verdict = str | tuple[Line, Token]
"""The outcome of a resume: an error code, or the session and the presented token."""


class Watched(World):
    """A world whose judge sees every numbered event before the next input."""

    def __init__(self, judge: Judge, runtime: Runtime | None = None) -> None:
        super().__init__(judge.config, tokens=None, runtime=runtime)
        self.judge = judge

    def carry_out(self, output: Output) -> None:
        self.judge.watch()
        self.requests += output.requests  # They precede those that follow the answer of the journal.
        super().carry_out(output._replace(requests=NOTHING))
        for client in self.judge.clients:
            client.vet(self.runtime.persisted_count)


class Judge:
    """The expected state of a runtime and its clients, and the checks that follow from it."""

    def __init__(self, config: RuntimeConfig, *, secrets: bool = True) -> None:
        """Create a judge, whose recording has the `secrets` of the run or stand-ins for them."""
        self.config = config
        self.secrets = secrets
        limits, most = config.limits, Limits()
        self.roomy = (
            all(
                getattr(limits, name) == getattr(most, name)
                for name in (
                    "max_session_events",
                    "max_principal_events",
                    "max_total_events",
                    "max_total_bytes",
                )
            )
            and limits.max_session_bytes == most.max_session_bytes
        )
        """Whether every event log stays below its limits."""
        self.works: dict[JobId, Work] = {}
        self.lines: dict[SessionId, Line] = {}
        self.clients: list[Client] = []
        self.pending: list[Authenticate] = []
        self.keys: dict[tuple[str, str], tuple[dict[str, Any], JobId]] = {}
        self.claims: dict[tuple[str, str, JobId], dict[str, Any]] = {}
        """The payload of each submit under a key, and its job."""
        self.observers = config.observers
        self.started: dict[JobId, None] = {}
        self.paused: dict[JobId, None] = {}
        self.told_to_stop: dict[JobId, None] = {}
        self.old_tokens: list[str] = []
        self.pages: list[tuple[str, str, dict[str, Any], int]] = []
        """Cursors of lists: the text, the principal, the filter, and the number of jobs before the page."""
        self.crowded_until: dict[str, int] = {}
        """The end of the time in which a principal gets a session only if one of its own detaches or ends."""
        self.draining = False
        self.drain_at: int | None = None
        self.doomed: Line | None = None
        """The detached session that a refused resume in progress ends."""
        self.blind = False
        self.count = self.crashes = self.noted = 0
        self.durable: list[tuple[int, int]] = []
        """The number of durable records of this runtime, and the time of each growth."""
        self.restored_at = 0
        """The time of the restore of the runtime: all earlier events are durable from then on."""
        self.restored_upto: dict[SessionId, int] = {}
        """The last number of each session at the restore."""
        self.recording: list[str] | None = []
        self.world: World = Watched(self)
        record(self.world.runtime, self.recording.append, salt=bytes(16), keep_secrets=secrets)

    @property
    def now(self) -> int:
        """The time that the runtime takes for that of the next input."""
        return max(self.world.now, self.world.state.now)

    @property
    def wall(self) -> int:
        """The wall clock of the next input."""
        return self.now + self.world.state._unix_offset

    @property
    def unix(self) -> int:
        """The wall clock of the next input, never going back; to ask the runtime would be an input."""
        return max(self.world.state._unix, self.wall)

    # The state of the runtime.

    def watch(self) -> None:
        """Check the events that were numbered since the last call."""
        runtime = self.world.state
        if not self.durable or runtime.persisted_count > self.durable[-1][0]:
            self.durable.append((runtime.persisted_count, runtime.now))
        for line in self.lines.values():
            if line.session_id not in runtime.sessions and not line.over:
                self._session_over(line)
        for session in runtime.sessions.values():
            self._attached(self._line(session), session)
        for job in runtime.jobs.values():
            self._history(self._work(job), job)
        if self.blind:
            return
        for work in self.works.values():
            if not work.gone and work.job_id not in runtime.jobs:
                work.gone = True
                due = self.world.state.now >= work.ended_at + self.config.limits.retention_sec * SECOND
                early = self._crowded() or self._full()
                ensure(work.ended and (due or early), "a job was forgotten before its retention was over")
        for session in runtime.sessions.values():
            self._left_out(self.lines[session.id])
            self._numbered(self.lines[session.id], session)
            self._overlooked(self.lines[session.id], session)
            self.lines[session.id].look(session.backlogs, _parents_of(session, runtime))

    def _crowded(self) -> bool:
        """Return whether limits of jobs or bytes may evict finished jobs before their time (§14)."""
        limits, most = self.config.limits, Limits()
        finished = [work for work in self.works.values() if work.ended]
        many = len(finished) > min(limits.max_principal_finished_jobs, limits.max_total_finished_jobs)
        return (
            many
            or limits.max_total_bytes < most.max_total_bytes
            or limits.max_principal_bytes < most.max_principal_bytes
        )

    def _full(self) -> bool:
        """Return whether held bytes may be at their limit, which evicts the oldest finished jobs.

        The history of a job holds an event, and so does the event log of each session that got it. The inputs
        of running jobs may use half of all bytes.
        """
        works, limits = self.works.values(), self.config.limits
        held = sum(work.size for work in works) * (1 + len(self.lines))
        unknown = any(None in work.events for work in works)
        return unknown or held >= min(limits.max_principal_bytes, limits.max_total_bytes) // 2

    def _line(self, session: Session) -> Line:
        line = self.lines.get(session.id)
        if line is None:
            features = tuple(
                name for name in (*FEATURES, BUDGETED, Feature.POSITIONS) if name in session.features
            )
            line = Line(session.id, session.principal, features, session.quirk.name)
            line.detached_at = self.world.state.now
            self.lines[session.id] = line
        return line

    def _attached(self, line: Line, session: Session) -> None:
        if session.connection is not None:
            line.attached = session.connection.number
        elif line.attached is not None:
            line.attached, line.detached_at = None, self.world.state.now
            self.crowded_until.pop(line.principal, None)

    def _session_over(self, line: Line) -> None:
        line.over = True
        self.crowded_until.pop(line.principal, None)
        if self.blind:
            return
        if line.attached is not None:
            line.attached, line.detached_at = None, self.world.state.now
        window = self.config.resume_window_sec * SECOND
        late = self.world.state.now >= line.detached_at + window
        ensure(late or line.may_end or line.may_make_room, "a session ended before its resume window")
        for work in self.works.values():
            job = self.world.state.jobs.get(work.job_id)
            if work.home is not line or job is None or job.end is not None:
                continue
            if job.history.end == len(work.events):  # The home changes at once otherwise.
                work.source = job.home_seq
                ensure(work.source >= line.last, "a job continues below the last number of its home session")

    def _work(self, job: Job) -> Work:
        work = self.works.get(job.id)
        if work is None:
            terms, now = job.terms, self.world.state.now
            home = self.lines.get(terms.session_id)
            if home is None:  # The session was opened and ended by one input.
                home = Line(terms.session_id, terms.principal, (), "", over=True)
                self.lines[home.session_id] = home
            work = Work(job.id, home, terms.principal, terms.agent, terms.accepted_at)
            work.submitters.append(home.session_id)
            if terms.max_runtime_sec is not None:
                work.deadline = now + terms.max_runtime_sec * SECOND
            work.expires = EXPIRES_AT if terms.expires_at else None
            work.expire_by(self.wall, now)
            work.money = BUDGET if "cost.budget" in terms.lease else None
            home.streams.submitted(job.id)
            self.works[job.id] = work
        if self.blind:
            work.ended, work.stopped = job.ended, job.id not in self.world.state.running
        return work

    def _history(self, work: Work, job: Job) -> None:
        history = job.history
        if history.first > len(work.events):
            work.events += [None] * (history.first - len(work.events))
        for past in history.between(max(len(work.events), history.first), history.end):
            if self.blind:
                work.events.append(None)
            else:
                work.published(past)
        if job.end is not None and work.end_source is None and not self.blind:
            ensure(work.ended, "a job ended without a reason")
            work.ended_at, work.ended_unix = self.world.state.now, job.end.at
            work.ended_with(job.end.source)

    def _left_out(self, line: Line) -> None:
        """Set the floor of observed streams whose job is forgotten, or whose history was cut.

        Sessions with `subscribe` learn of a cut, and may subscribe again. A submitting session loses nothing.
        """
        for job_id, stream in line.streams.observed.items():
            work, job = self.works[JobId(job_id)], self.world.state.jobs.get(JobId(job_id))
            if job is None and not stream.live:
                stream.floor = len(work.events)
            elif job is not None and not stream.live and "subscribe" not in line.features:
                stream.floor = job.history.first

    def _overlooked(self, line: Line, session: Session) -> None:
        """Take over the observed jobs of a session whose frames were evicted before the judge saw them."""
        if line.blind:
            streams, observed = line.streams, {*session.observed, *session.backlogs}
            for job_id in streams.observed.keys() - observed:
                streams.left(job_id)
            for job_id in sorted(observed - streams.observed.keys()):
                where = streams.replays if line.is_home(job_id) else streams.jobs
                where[job_id] = Stream(0)

    def _numbered(self, line: Line, session: Session) -> None:
        log, before = session.log, line.last
        if log.first > line.last + 1:
            line.lost(log.first)
        lag = self.config.limits.back_pressure_events
        for entry in log.between(line.last, log.last):
            raw = session.envelopes.one(entry, line.last + 1)
            records, now = self.world.runtime.record_count, self.world.state.now
            line.numbered(raw, self.works, entry.position, lag=lag, records=records, now=now)
        if line.last > before and line.acking and session.jobs and line.told is False:
            ensure(line.last - line.acked <= lag, "a job got no notice of back-pressure")
        self._check_kept(line, session, aged=line.last > before)

    def _check_kept(self, line: Line, session: Session, *, aged: bool) -> None:
        """Check that events are kept until an ack, or for the resume window, within the limits."""
        first, now, roomy = session.log.first, self.world.state.now, self.roomy
        since = now - self.config.resume_window_sec * SECOND
        if line.acking:
            taken = first > line.acked + 1 and self._takes(line, session)
            ensure(first == line.acked + 1 or taken, "an event that was not acknowledged is gone")
        elif roomy and first > 1:
            ensure(line.at.get(first - 1, 0) <= since, "an event younger than the resume window is gone")
        if not line.acking and aged and first <= line.last:
            ensure(self._sendable_at(line, first) + 2 * MARK > since, "an event outlives the window")

    def _sendable_at(self, line: Line, number: int) -> int:
        """Return the time from which on an event may be sent, at which its resume window begins (§6.3, §6.5).

        With a journal its records are durable then: docs/explanation/durability.md, "The gate".
        """
        state = self.world.state
        numbered = line.at.get(number, state.now)
        if not state.journaling:
            return numbered
        if number <= self.restored_upto.get(line.session_id, 0):
            return max(numbered, self.restored_at)
        index = bisect_left(self.durable, (line.needs.get(number, 0),))
        durable = self.durable[index][1] if index < len(self.durable) else state.now
        return max(numbered, durable)

    def _takes(self, line: Line, session: Session) -> bool:
        """Return whether limits explain the missing events of an event log: it is almost full then (§6.5).

        The limits of a principal and of the runtime, and a crash, count as an explanation without a check.
        """
        limits, most = self.config.limits, Limits()
        shared = ("max_principal_events", "max_principal_bytes", "max_total_events", "max_total_bytes")
        if self.crashes or any(getattr(limits, name) < getattr(most, name) for name in shared):
            return True
        numbers = range(session.log.first, line.last + 1)
        size = sum(len(line.frames.get(number, b"")) for number in numbers)
        full = len(numbers) >= limits.max_session_events - limits.max_session_events // 16
        return (
            full
            or size + limits.max_envelope_bytes >= limits.max_session_bytes - limits.max_session_bytes // 16
        )

    # The requests of the runtime.

    def note(self) -> None:
        """Record the requests of the runtime to its host since the last call."""
        self.watch()
        for request in self.world.requests[self.noted :]:
            match request:
                case Authenticate():
                    self.pending.append(request)
                case StartJob(job_id=job_id):
                    ensure(job_id not in self.started, "an agent was started twice")
                    self.started[job_id] = None
                case StopJob(job_id=job_id):
                    self.told_to_stop[job_id] = None
                case PauseJob(job_id=job_id):
                    ensure(job_id not in self.paused, "an agent that is paused was paused again")
                    self.paused[job_id] = None
                case ResumeJob(job_id=job_id):
                    ensure(job_id in self.paused, "an agent that is not paused was resumed")
                    del self.paused[job_id]
        self.noted = len(self.world.requests)
        for client in self.clients:
            if client.open and client.peer.connection.overrun:
                client.ever_slow = True
                self.world.carry_out(client.peer.connection.overran(now=self.world.now))
            text = None if client.token is None else client.token.text
            if client.line is not None and text is not None and text not in self.old_tokens:
                self.old_tokens.append(text)
                client.line.known.append(text)

    def client_of(self, number: int | None) -> Client | None:
        """Return the client at the end of a connection, or None."""
        return next((client for client in self.clients if client.number == number), None)

    def fix(self, work: Work, at: int, *codes: str) -> None:
        """Set the possible outcomes of a job, unless they are set, and the end of its grace period."""
        if not work.outcomes:
            work.fix(*codes)
            work.grace_at = at + GRACE
            if work.job_id not in self.started and not work.left:  # Its start waits for the journal.
                work.ended = work.stopped = True

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and carry out the timers that are due."""
        end = self.world.now + int(seconds * SECOND)
        for work in self.works.values():
            if not work.ended:
                self._wait_for(work, end)
        if self.drain_at is not None and self.drain_at <= end:
            self.drain_at = None
        self.world.advance(seconds)
        runtime = self.world.state
        if self.world.now < runtime.now:
            return  # The clock of the runtime has stepped back: no timer was due.
        window = self.config.resume_window_sec * SECOND
        for line in () if self.blind else self.lines.values():
            late = line.attached is None and self.world.now >= line.detached_at + window
            ensure(line.over or not late, "a session outlives its resume window")
        for session in runtime.sessions.values() if seconds else ():
            at = runtime.timers.armed(TimerKind.BACKLOG, session.id) or 0
            soon = at > self.world.now
            fed = not session.backlogs or not session.reading or soon
            ensure(fed, "a history was not numbered in time")
        for client in self.clients:
            late = client.expires is not None and client.expires <= self.wall
            ensure(not (client.open and late), "an expired authentication keeps its connection")

    def _wait_for(self, work: Work, end: int) -> None:
        """Update an unfinished job for the time until `end`."""
        if work.left and not work.outcomes:
            return  # The process that restarts the job decides its end.
        drain_at = self.drain_at
        again = drain_at is not None and drain_at <= end and self.starts_again(work)
        if again and drain_at is not None and (work.due is None or drain_at < work.due):
            self.leave(work, drain_at)
            drain_at = None
        grace_at = work.grace_at if work.leaving and not work.outcomes else None
        stops = [at for at in (work.due, drain_at) if at is not None]
        if grace_at is not None and grace_at <= end and all(grace_at < at for at in stops):
            work.left = True
            return
        due = [(work.deadline, "TIMEOUT"), (work.stop_at, "LEASE_EXPIRED"), (drain_at, "INTERNAL_ERROR")]
        times = [at for at, _ in due if at is not None and at <= end]
        if times:
            first = min(times)
            self.fix(work, first, *[code for at, code in due if at == first])
        if work.grace_at is not None and work.grace_at <= end and work.outcomes:
            work.ended = True

    def starts_again(self, work: Work) -> bool:
        """Return whether a shutdown leaves an unfinished job to the next process (§7.3)."""
        restartable = self.config.journal and work.agent == "again"
        return restartable and not (work.outcomes or work.streamed or work.ended)

    def leave(self, work: Work, at: int) -> None:
        """Leave a job to the next process: its agent stops within the grace period, the job continues."""
        if not work.leaving:
            work.leaving, work.grace_at = True, at + GRACE

    def clock_moves(self) -> None:
        """Expire leases before the wall clock is set: an expired lease stays expired."""
        for work in self.works.values():
            work.expired = work.expired or (work.expires is not None and self.wall >= work.expires)

    def clock_moved(self) -> None:
        """Compute the expiry of leases after the wall clock was set."""
        for work in self.works.values():
            work.expire_by(self.wall, self.now)

    def gate(self, work: Work, allowed: bool) -> str:
        """Return the code that refuses an operation, or ""; from an expiry on all are refused (§9.5)."""
        if work.expired or (work.expires is not None and self.wall >= work.expires):
            work.expired = True
            return "LEASE_EXPIRED"
        if not allowed:
            return "PERMISSION_DENIED"
        free = None if work.money is None else work.money - sum(work.holds.values())
        return "BUDGET_EXHAUSTED" if free is not None and free <= 0 else ""

    # Sessions.

    def answer(
        self,
        asked: Authenticate,
        client: Client | None,
        who: str | None,
        *,
        failed: bool,
        expires: int | None,
    ) -> None:
        """Answer an authentication as the host, and check the connection that results."""
        verifying = asked.connection.phase is Phase.AUTHENTICATING and client is not None and not self.blind
        expected: Verdict | None = None
        if verifying and client is not None and not failed and client.attempt is not None:
            expected = self.judge_resume(client.attempt, who)
        new = verifying and client is not None and client.attempt is None and not (failed or self.draining)
        if new and who is not None and self._too_many(who):
            expected = "INTERNAL_ERROR"
        old = None if expected is None or isinstance(expected, str) else self.client_of(expected[0].attached)
        answer = self.world.runtime.authenticated(asked.request, who, failed, expires, now=self.world.now)
        self.world.carry_out(answer)
        if not verifying or client is None:
            return
        if failed or (expected is None and who is not None and self.draining):
            expected = "INTERNAL_ERROR"
        elif who is None and expected is None:
            expected = "UNAUTHENTICATED"
        if expected is None:
            self.welcomed(client)
        else:
            self.settle(client, expected)
        if new and expected == "INTERNAL_ERROR" and client.peer.frames:
            details = client.peer.frames[-1]["payload"]["details"]
            ensure(details["limit"] == "sessions", "a session was refused for another limit")
        for line in self.lines.values():
            line.may_make_room = False
        if client.attempt is not None and not client.attempt.bearer and client.line is not None:
            expires = min(filter(None, (expires, client.line.expires)), default=None)
        client.expires = expires
        if client.line is not None:
            client.line.expires = expires
        if old is not None:
            closing = old.peer.closing
            told = closing is not None and closing.code == 1008 and closing.reason == "UNAUTHENTICATED"
            ensure(told, "a connection whose session was resumed elsewhere got no refusal")

    def _too_many(self, who: str) -> bool:
        """Return whether a principal is at its limit of sessions, and none makes room for another (§14)."""
        lines = [line for line in self.lines.values() if line.principal == who and not line.over]
        if len(lines) < self.config.limits.max_principal_sessions:
            return False
        sessions = self.world.state.sessions
        ending = [line for line in lines if line.attached is None and not sessions[line.session_id].jobs]
        if self.now < self.crowded_until.get(who, 0):
            return True
        if not ending:
            self.crowded_until[who] = self.now + SECOND
            return True
        longest = min(line.detached_at for line in ending)
        for line in ending:
            line.may_make_room = line.detached_at == longest
        return False

    def welcomed(self, client: Client) -> None:
        """Record the new session of a client, and check its features."""
        session = connection_state(client.peer.connection).session
        ensure(session is not None, "a new session was not opened")
        if session is None or self.blind:
            return
        line = client.line = self._line(session)
        line.over = session.id not in self.world.state.sessions  # A goodbye preceded the welcome.
        offered = [name for name in client.features if name in self.config.features]
        ensure(sorted(line.features) == sorted(offered), "another set of features was negotiated")
        client.token = line.issue(client.number)

    def find(self, attempt: Attempt) -> tuple[Line, Token] | None:
        """Return the session of a valid resume token, and the token."""
        for line in self.lines.values():
            for token in line.tokens:
                if token.text == attempt.token and not line.over:
                    return (line, token) if attempt.session_id in (None, line.session_id) else None
        return None

    def judge_resume(self, attempt: Attempt, who: str | None, *, alone: bool = False) -> Verdict | None:
        """Return the outcome of a resume; None if `alone` is set and the host has to decide."""
        known = self.find(attempt)
        if alone:
            if known is not None and not known[0].principal.startswith("anonymous-"):
                late = is_over(known[0].expires, self.wall, alone=True)
                return "UNAUTHENTICATED" if late else None
        elif attempt.bearer and who is None:
            return "UNAUTHENTICATED"
        if known is None or (not alone and known[0].principal != who):
            return "RESUME_WINDOW_EXPIRED"
        line, token = known
        if is_over(line.expires, self.wall, alone=not attempt.bearer):
            return "UNAUTHENTICATED"
        session = self.world.state.sessions[line.session_id]
        code = verdict(attempt.cursor, first=session.log.first, last=line.last)
        if code == "RESUME_WINDOW_EXPIRED":
            line.may_end = line.attached is None and line.tokens[-1] is token
            self.doomed = line if line.may_end else None
        if code:
            return code
        if session.long_frames and attempt.lines:
            return "PERMISSION_DENIED"
        return known

    def settle(self, client: Client, expected: Verdict) -> None:
        """Check that a resume has ended as expected, and record it."""
        connection = client.peer.connection
        if self.blind:
            return
        closing = client.peer.closing
        refused = None if closing is None or closing.code == 1000 else closing.reason
        if isinstance(expected, str):
            ensure(refused == expected, f"a resume ended with {refused}, not {expected}")
            ensure(self.doomed is None or self.doomed.over, "a session outlives the resume that ends it")
            self.doomed = None
            if expected == "RESUME_WINDOW_EXPIRED" and client.peer.frames:
                details = client.peer.frames[-1]["payload"]["details"]
                ensure(details["final"] is True, "a final refusal of a resume lacks `final`")
            return
        line, token = expected
        session = connection_state(connection).session
        ensure(refused is None, f"a resume was refused: {refused}")
        ensure(session is not None and session.id == line.session_id, "a resume got another session")
        attempt = client.attempt
        if attempt is None:
            return
        prove(line.tokens, token)
        client.token, client.line, client.quirk = line.issue(client.number), line, line.quirk
        client.resumed, client.cursor, client.replies = True, attempt.cursor, attempt.replies
        line.replayed = line.kept(self.config.limits.max_session_replies) if attempt.replies else ()
        line.seen = max(line.seen, attempt.cursor)
        line.lied = line.lied or attempt.cursor > line.received
        client.honest, client.whole = not line.lied, self.config.limits.max_session_replies >= 64
        line.may_end = False
        if line.attached is None:  # A goodbye preceded the welcome.
            line.detached_at = self.world.state.now
        if not attempt.replies:  # Requests without an answer so far stay without one.
            line.skipped = True
            line.outstanding.clear()

    def proved(self, client: Client) -> None:
        """Record that a client has received its welcome."""
        if client.line is not None and client.token is not None and not client.proved:
            client.proved = True
            prove(client.line.tokens, client.token)

    # Jobs.

    def right(self, principal: str, work: Work) -> str | None:
        """Return the right of a principal to a job, or None if the job does not exist for it."""
        if work.job_id not in self.world.state.jobs:
            return None
        return right(self.observers, principal, work.principal) or None

    def judge_submit(self, line: Line, payload: dict[str, Any]) -> tuple[tuple[str, ...], JobId | None]:
        """Return the answers that a submit may have, and the known job of its key."""
        invalid = (("INVALID_REQUEST",), None)
        if payload.get("max_runtime_sec") == 0:
            return invalid
        key = payload.get("idempotency_key")
        claimed = None if key is None else self.keys.get((line.principal, key))
        if claimed is not None:
            if any(claimed[0].get(name) != payload.get(name) for name in ("agent", "input")):
                return ("DUPLICATE_KEY",), None
            work = self.works[claimed[1]]
            if self._is_new(line, work) and self._observes_all(line, work):
                return invalid
            return ("job.accepted",), claimed[1]
        if payload["agent"] == "zork":
            return ("AGENT_NOT_AVAILABLE",), None
        if "zork" in payload.get("lease_request", {}):
            return invalid
        if "lease_constraints" in payload and self.wall >= EXPIRES_AT:
            return invalid
        if self.draining or self.cap_of(line, key is not None):
            return ("INTERNAL_ERROR",), None
        return ("job.accepted",), None

    def cap_of(self, line: Line, keyed: bool) -> str:
        """Return the first limit that one more job of a session would exceed, or ""."""
        limits = self.config.limits
        running = [_group(work.principal) for work in self.works.values() if not work.stopped]
        claims = sum(principal == line.principal for principal, _ in self.keys)
        if len(running) >= limits.max_total_running_jobs:
            return "running_jobs"
        if running.count(_group(line.principal)) >= limits.max_principal_running_jobs:
            return "principal_jobs"
        return "idempotency_keys" if keyed and claims >= limits.max_principal_idempotency_keys else ""

    def join_job(self, line: Line, job_id: JobId, request_id: str, payload: dict[str, Any]) -> None:
        """Accept a submit with a known key as its job, and expect the events that the session has not got."""
        work, job = self.works[job_id], self.world.state.jobs.get(job_id)
        line.answers.append(request_id)
        line.carried[request_id] = (job_id, line.last, payload)
        if job is None:
            line.streams.joined(job_id, gone=True)
            return
        if line.session_id not in work.submitters:
            work.submitters.append(line.session_id)
        if self._is_new(line, work):
            line.streams.joined(job_id, gone=False).at = job.history.first

    def accepted(self, line: Line, job_id: JobId | None) -> Check:
        """Return the check of the answer to a submit, for a new job or for the job of `job_id`."""
        known = job_id is not None and job_id in self.world.state.jobs
        work = self.works.get(job_id) if job_id is not None and known else None
        last = 0 if job_id is None else None if work is None else work.last_position

        def check(frame: Frame) -> None:
            payload = frame["payload"]
            ensure(job_id in (None, payload["job_id"]), "a submit became another job")
            told = payload.get("job_seq")
            ensure(
                (told is not None) == (Feature.POSITIONS in line.features), "a position is missing or extra"
            )
            ensure(None in (told, last) or told == last, "an acceptance has another position")

        return check

    def judge_again(self, line: Line, work: Work, payload: dict[str, Any], request_id: str) -> str:
        """Return the answer to a repeated submit: empty if the resume has sent it, and its job is forgotten.

        With a key the end of its job is sent again, unless its kept answer was replayed before.
        """
        sent = request_id in (*line.kept(self.config.limits.max_session_replies), *line.replayed)
        job = self.world.state.jobs.get(work.job_id)
        if job is None:
            return "" if sent else "JOB_NOT_FOUND"
        if work.ended and "idempotency_key" in payload and not sent and self._is_new(line, work):
            if self._observes_all(line, work):
                return "INVALID_REQUEST"
            line.streams.joined(work.job_id, gone=False).at = job.history.first
        return "job.accepted"

    def _is_new(self, line: Line, work: Work) -> bool:
        """Return whether a repeated submit makes a session an observer of its job."""
        return work.job_id in self.world.state.jobs and line.streams.going(work.job_id) is None

    def _observes_all(self, line: Line, work: Work) -> bool:
        """Return whether a session is at its limit of observed jobs, and this job is not among them."""
        observed = line.observed
        return len(observed) >= self.config.limits.max_session_subscriptions and work.job_id not in observed

    def judge_cancel(self, line: Line, work: Work) -> str | None:
        """Return the code that refuses a cancel, or None if it is carried out."""
        if self.right(line.principal, work) is None:
            return "JOB_NOT_FOUND"
        alive = [session_id for session_id in work.submitters if not self.lines[session_id].over]
        mine = line.session_id in alive or not alive or work.ended
        return None if work.principal == line.principal and mine else "PERMISSION_DENIED"

    def judge_subscribe(self, line: Line, work: Work) -> str | None:
        """Return the code that refuses a subscribe, or None if it is accepted."""
        may = self.right(line.principal, work)
        if "subscribe" not in line.features:
            return "INVALID_REQUEST"
        if may != "observe":
            return "PERMISSION_DENIED" if may else "JOB_NOT_FOUND"
        return "INVALID_REQUEST" if self._observes_all(line, work) else None

    def subscribed(self, line: Line, work: Work, after: int | None, position: int | None = None) -> Check:
        """Carry out a subscribe, and return the check of its answer.

        The subscribe requests the history above the home number `after`, or above `position`.
        """
        history, last = self.world.state.jobs[work.job_id].history, work.last_position
        asked = None if after is None else self._behind(work, history.first, after, position)
        line.streams.subscribed(work.job_id, asked, last, over=work.ended)
        cut = after is not None and (after < history.cut if position is None else position < history.first)
        ended, source = work.ended, max([event.source for event in work.events if event], default=0)
        place = last if Feature.POSITIONS in line.features else None
        left = history.first + 1 if cut and Feature.POSITIONS in line.features else None

        def check(frame: Frame) -> None:
            payload = frame["payload"]
            ensure(payload["job_id"] == work.job_id, "subscribed to another job")
            ensure(payload["replayed"] is (after is not None), "`replayed` is not that of the subscribe")
            ensure(("history_from" in payload) == cut, "`history_from` does not match the cut of the history")
            ensure(payload.get("job_seq") == place, "a subscription has another position, or lacks it")
            ensure(payload.get("history_from_job_seq") == left, "a subscription names another first position")
            told = payload["subscribed_from"]
            ensure(told >= source or (told, source) == (0, 1), "it begins before the last event")
            over = payload["current_status"] not in ("pending", "running")
            ensure(over == ended, "a subscription has another status")

        return check

    @staticmethod
    def _behind(work: Work, first: int, after: int, position: int | None) -> int:
        """Return the position above which a subscribe requests the history, by position or home number.

        `first` is the position above which the history begins after a cut.
        """
        if position is not None or (work.end_source is not None and after >= work.end_source):
            return max(first, work.last_position if position is None else position)
        later = (
            pos for pos, one in enumerate(work.events) if pos >= first and (one is None or one.source > after)
        )
        return next(later, len(work.events))

    def is_silent(self, line: Line, job_id: JobId | None = None) -> bool:
        """Return whether a refusal would end a job of a TypeScript client: `job_id`, or with None any job."""
        jobs = self.world.state.sessions[line.session_id].jobs
        return line.quirk == "typescript" and (bool(jobs) if job_id is None else job_id in jobs)

    def listing(self, line: Line, b: int, c: int) -> tuple[dict[str, Any], tuple[str, ...], Check]:
        """Return a list request, the answers that it may have, and the check of the page."""
        payload: dict[str, Any] = {"limit": (1, 2, 5, 1000, 0)[c % 5]} if c % 7 else {}
        works = list(self.works.values())
        kind = FILTERS[b % 4] if b & 64 else None
        if kind == "status":
            payload["filter"] = {kind: STATUSES[b // 4 % 4]}
        elif kind == "agent":
            payload["filter"] = {kind: ("echo", "echo@1.0.0", "again", "zork")[b // 4 % 4]}
        elif kind is not None and works:
            payload["filter"] = {kind: format_time(UnixTime(works[b % len(works)].created))}
        upto, stale = len(works), False
        known = [page for page in self.pages if page[1] == line.principal] or self.pages
        if b & 128 and known:
            text, principal, asked, upto = known[-1 - c // 8 % len(known)]
            payload["cursor"] = text
            if c % 8:
                payload["filter"] = asked
            same = payload.get("filter", {}) == asked
            stale = not same or principal != line.principal
        if stale:
            return payload, ("INVALID_REQUEST",), None
        if "list_jobs" not in line.features:
            return payload, ("INVALID_REQUEST",), None
        most = self.config.limits.max_page_jobs
        limit = page_size(payload.get("limit"), most)
        expected, rest = self._page(line.principal, payload.get("filter", {}), upto, limit, most)
        told = Feature.POSITIONS in line.features
        last = {job_id: self.works[JobId(job_id)].last_position if told else None for job_id in expected}

        def check(frame: Frame) -> None:
            for entry in frame["payload"]["jobs"]:
                ensure(entry.get("job_seq") == last.get(entry["job_id"]), "a listed job has another position")
            jobs = [entry["job_id"] for entry in frame["payload"]["jobs"]]
            ensure(jobs == expected, f"listed {jobs}, not {expected}")
            cursor = frame["payload"]["next_cursor"]
            ensure((cursor is None) == (rest is None), "`next_cursor` does not match the remaining jobs")
            if rest is not None:
                self.pages.append((cursor, line.principal, payload.get("filter", {}), rest))

        return payload, ("session.jobs",), check

    def _page(
        self, principal: str, asked: dict[str, Any], upto: int, limit: int, scan: int
    ) -> tuple[list[str], int | None]:
        """Return the jobs of a page, newest first, and the number of jobs before the next page or None."""
        found: list[str] = []
        looked, last = 0, upto
        for number in reversed(range(upto)):
            work = list(self.works.values())[number]
            if self.right(principal, work) is None:
                continue
            status = self.world.state.jobs[work.job_id].status
            if "status" in asked and status not in asked["status"]:
                continue
            if len(found) == limit or (looked == scan and asked.keys() - {"status"}):
                return found, last
            looked, last = looked + 1, number
            if self._asked_for(work, asked):
                found.append(work.job_id)
        return found, None

    def _asked_for(self, work: Work, asked: dict[str, Any]) -> bool:
        job = self.world.state.jobs[work.job_id]
        created = format_time(UnixTime(work.created // MILLISECOND * MILLISECOND))
        return (
            is_asked_for(asked, (job.status,), (work.agent, job.agent))
            and ("created_after" not in asked or created > asked["created_after"])
            and ("created_before" not in asked or created < asked["created_before"])
        )

    # Invariants after each input.

    def check_promises(self) -> None:
        """Raise unless clients have their events and answers, and the runtime keeps its promises."""
        runtime = self.world.state
        durable = runtime.persisted_count == runtime.record_count
        for client in self.clients:
            line, peer = client.line, client.peer
            if line is not None:
                ensure(client.open == (line.attached == client.number), "open but detached, or the reverse")
            if client.open and durable and not peer.slow and not peer.connection.overrun:
                ensure(client.lied or not client.asked, f"requests were never answered: {client.asked}")
                last = client.last or client.cursor
                ensure(line is None or client.lied or last == line.last, "an event was not sent")
        for line in self.lines.values():
            if not line.over and not line.blind:
                self._check_line(line, runtime.sessions[line.session_id])
        for work in self.works.values():
            ensure(work.gone or work.ended == (work.end_source is not None), "an end was not published")
            stops = durable and bool(work.outcomes) and not (work.ended or work.stopped)
            asked = not stops or work.job_id not in self.started or work.job_id in self.told_to_stop
            ensure(asked, "its agent was not told to stop")
        for (principal, key), (_, job_id) in list(self.keys.items()):
            if runtime.keys.get(Principal(principal), key) is None:
                due = self.works[job_id].ended_unix + self.config.limits.idempotency_retention_sec * SECOND
                lines = [line for line in self.lines.values() if line.principal == principal]
                gone = _group(principal) != principal and all(line.over for line in lines)
                late = self.unix >= due or gone  # No later session has the principal of one without a name.
                ensure(self.works[job_id].ended and late, "a key is forgotten before its time")
                del self.keys[principal, key]

    def _check_line(self, line: Line, session: Session) -> None:
        ensure(not line.cancels, "a cancel was not answered")
        streams = line.streams
        for job_id, stream in streams.own.items():
            work = self.works[JobId(job_id)]
            due = work.ended or line.misses(work, stream)
            ensure(not (stream.live and due), "an event is not numbered in its home session")
        for job_id, stream in streams.observed.items():
            work = self.works[JobId(job_id)]
            ensure(not stream.alone, f"the end of a forgotten job is missing: {job_id}")
            ensure(self.right(line.principal, work) == "observe" or work.gone, "it may not observe the job")
            if not stream.live:
                continue
            ensure(not line.misses(work, stream), "an observer missed an event")
            if job_id in streams.replays:
                del streams.replays[job_id]
            else:
                ensure(not work.ended, "an observer was not told of the end")
                ensure(job_id in session.observed, "a subscription is lost")


def _parents_of(session: Session, runtime: RuntimeState) -> dict[str, str]:
    """Return the jobs that a session waits for and that are children, each with its parent."""
    waiting = (runtime.jobs[job_id] for job_id in session.backlogs)
    return {job.id: job.terms.parent_job_id for job in waiting if job.terms.parent_job_id is not None}


def _group(principal: str) -> str:
    """Return the group of a principal whose jobs count together: clients without a name are one group."""
    return "anonymous" if principal.startswith("anonymous-") else principal
