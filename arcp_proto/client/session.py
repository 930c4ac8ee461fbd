"""The session of a client: negotiated features, requests, numbers, and followed jobs (§6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from arcp_proto.features import Feature
from arcp_proto.ids import JobId, Monotonic, SessionId
from arcp_proto.limits import Limits
from arcp_proto.secret import Secret
from arcp_proto.wire.codec import Envelope
from arcp_proto.wire.framing import Framing
from arcp_proto.wire.messages import AgentEntry

from .acks import Acks
from .followed_job import FollowedJob
from .kept_ends import KeptEnds
from .pending import Requests
from .resubscribe import Recovery
from .result_assembler import Assembly
from .sequencer import Early, Numbering
from .stored_session import RESUME_WINDOW_SEC, ResumedJob, Resumption

IN_SESSION: Final = 2**63 - 1
"""In place of the number of an end, when a history that was asked for may come behind it."""


class Failure(NamedTuple):
    """An error that answers no request, and when it came."""

    code: str
    message: str
    retryable: bool
    at: Monotonic


class ClientSession:
    """A session over all its connections, and the one that takes its place if it is lost.

    `features` is the effective set of §6.2; `jobs` are followed and have not ended.
    """

    __slots__ = (
        "_ended_limit",
        "_ending",
        "_limits",
        "acking",
        "acks",
        "agents",
        "assembly",
        "attached",
        "children",
        "closing",
        "early",
        "ended",
        "ends",
        "features",
        "framing",
        "heartbeat_sec",
        "id",
        "jobs",
        "large_at",
        "lost",
        "names",
        "numbers",
        "recovery",
        "requests",
        "restored",
        "resume_window_sec",
        "skipped",
        "stopped",
        "stuck",
        "token",
        "unwanted",
    )

    def __init__(self, session_id: SessionId, limits: Limits, now: Monotonic) -> None:
        self.id = session_id
        self.token: Secret | None = None
        """The token that resumes the session; some runtimes give none."""
        self.attached = False
        """Whether its connection is open."""
        self.resume_window_sec = RESUME_WINDOW_SEC
        """Seconds for which the runtime keeps a detached session, by the last welcome (§6.3)."""
        self.lost = False
        """Whether the next hello opens a session in its place."""
        self.names = False
        """Whether the runtime names the request that it refuses; other INTERNAL_ERRORs answer none then."""
        self.closing = False
        """Whether `session.close` was sent."""
        self.features: frozenset[str] | None = None
        """The negotiated features; None until the first welcome."""
        self.acking = False
        """Whether acks were negotiated."""
        self.agents: list[AgentEntry] = []
        self.heartbeat_sec: int | None = None
        self.framing = Framing.MESSAGES
        """The framing of the last connection."""
        self.numbers = Numbering(limits.max_gap_events)
        self.skipped = 0
        """The number behind which a resume has found nothing."""
        self.large_at: int | None = None
        """The number behind which a message was larger than the limit."""
        self.stuck = False
        """Whether that message came again, so that nothing behind it can come."""
        self.restored = False
        """Whether another process began it, in which unknown jobs may have been accepted."""
        self.acks = Acks(now)
        self.stopped: dict[JobId, int] = {}
        """Receipts of the last events of iterations that have ended, until these count as processed."""
        self.requests = Requests(limits.max_pending_requests)
        self.assembly = Assembly(limits.max_result_bytes, limits.max_joined_results_bytes)
        self.recovery = Recovery()
        self.jobs: dict[JobId, FollowedJob] = {}
        self.ended: dict[JobId, None] = {}
        """The last jobs that have ended, oldest first, of which no more events are handed out."""
        self.children: dict[JobId, int] = {}
        """The last jobs that were announced as children of a job, whose events come by themselves.

        While a child is not followed, its events up to the position here are copies.
        """
        self.unwanted: dict[JobId, int | None] = {}
        """Jobs that are observed no longer -> the count of requests then; None: the runtime was told."""
        self.early = Early(limits.max_history_events, limits.max_gap_bytes)
        self.ends = KeptEnds(limits.max_history_events, limits.max_gap_bytes)
        """Ends of awaited jobs, for the case that no subscription brings them."""
        self._ending: deque[tuple[FollowedJob, int]] = deque()
        """Jobs that have ended, each with the number of its end, until the cursor has passed that."""
        self._ended_limit = limits.max_total_running_jobs
        self._limits = limits

    @classmethod
    def of_resumption(cls, resumption: Resumption, limits: Limits, now: Monotonic) -> ClientSession:
        """Return the session that another process has left."""
        session = cls(resumption.session_id, limits, now)
        session.token, session.restored = resumption.token, True
        session.resume_window_sec = resumption.resume_window_sec
        session.numbers = Numbering(limits.max_gap_events, resumption.cursor)
        for kept in resumption.jobs:
            job = FollowedJob(kept.job_id, observed=kept.observed, cursor=kept.cursor, home=kept.seen)
            session.jobs[job.id], job.keyed = job, kept.keyed
            job.awaited = job.stale = kept.behind
            job.own, job.restored = kept.own, True
            job.heard = not kept.keyed or kept.cursor > 0 or kept.seen > 0
        for job_id, seq in resumption.ended:
            session.ended[job_id] = None
            session._ending.append((FollowedJob(job_id, observed=False), seq))
        session.acks.unfollowed = {job_id: (seq, position) for job_id, seq, position in resumption.unfollowed}
        session.unwanted.update(dict.fromkeys(resumption.left, 0))  # The runtime may not know it.
        return session

    @property
    def cursor(self) -> int:
        """The highest number up to which all events are processed."""
        return self.acks.cursor(self.numbers.last)

    def resumption(self) -> Resumption | None:
        """Return the data for another process to go on; None for a session without a token."""
        if self.token is None:
            return None
        self._forget_processed()
        ending = [job for job, _ in self._ending if self.acks.holds(job.id) and job.id not in self.unwanted]
        jobs = {job.id: self._resumed(job) for job in (*ending, *self.jobs.values())}
        over = {job.id: seq for job, seq in self._ending if job.id not in jobs}
        unfollowed = []
        for job_id, (seq, position) in self.acks.unfollowed.items():
            if job_id in self.ended and not self.acks.holds(job_id):
                over.setdefault(job_id, seq)
            elif job_id not in jobs:
                unfollowed.append((job_id, seq, position))
        return Resumption(
            self.id,
            self.token,
            self.cursor,
            tuple(jobs.values()),
            self.resume_window_sec,
            tuple(over.items()),
            tuple(self.unwanted),
            tuple(unfollowed),
        )

    def follow(self, job_id: JobId, *, observed: bool, cursor: int = 0) -> FollowedJob:
        """Return a job whose events are to come, above a position; one that has ended may come again."""
        job = self.jobs.get(job_id)
        if job is None:
            held = self.acks.holds(job_id)
            # Without positions nothing says what of it is processed anew, and all of it may come again.
            job = self._take_ending(job_id) if held and self.is_placed else None
            if job is None:
                job = FollowedJob(job_id, observed=observed, cursor=cursor)
            else:
                job.follow_again(observed=observed)
                self.go_back(job, cursor)
            if held or job_id in self.ended or job_id in self.unwanted:
                job.risen_from = self.numbers.last  # A resume brings what came when it was followed before.
            self.jobs[job_id] = job
        self.ended.pop(job_id, None)
        self.unwanted.pop(job_id, None)
        return job

    def position_before(self, job_id: JobId, position: int | None) -> int:
        """Return from where to take the events of a job of an earlier process, of which this one has come.

        That is the position up to which an earlier process has processed them, if it is told, and else the
        one before.
        """
        processed = self.acks.unfollowed.get(job_id)
        return max((position or 0) - 1, 0) if processed is None else processed[1]

    def go_back(self, job: FollowedJob, position: int) -> None:
        """Take again what is above a position: the user has asked for that, and the answer has come."""
        if position <= job.cursor:
            job.awaited = False
            self.drop_end(job.id)
        if position < job.cursor:
            job.cursor, job.risen_from = position, self.numbers.last
            self.acks.set_back(job, position)

    def end_job(self, job_id: JobId, seq: int) -> None:
        """Note that the end of a job was handed out, which has this number, or 0."""
        self.assembly.drop(job_id)
        self.drop_end(job_id)
        job = self.jobs.pop(job_id, None)
        if job is not None:
            asked = self.requests.wants_history(job_id)
            restored = self.restored and (job.keyed or job_id in self.children)
            # This process, an earlier one, or its submit that was sent again may have asked for its history.
            if asked or restored or job.resent:
                seq = IN_SESSION
            self._ending.append((job, seq))
            if len(self._ending) > self._ended_limit:  # As many as what the user holds are bounded by that.
                self._ending = deque(ended for ended in self._ending if self.acks.holds(ended[0].id))
        self.ended[job_id] = None
        if len(self.ended) > self._ended_limit:
            del self.ended[next(iter(self.ended))]
        self._bound_unfollowed()

    def knows(self, job_id: JobId | None) -> bool:
        """Return whether the client knows a job: its own, one that it observes or observed, or a child."""
        return (
            job_id in self.jobs or job_id in self.ended or job_id in self.children or job_id in self.unwanted
        )

    def announced(self, job_id: JobId | None, seq: int = 0) -> None:
        """Note a child that a `job.accepted`, or a `delegate` event of a job of this session, names (§10).

        The event has this number. Until it is processed, the next process is told that the child is known,
        because the event may come again when the user has left the job that delegated.
        """
        if job_id is not None:
            self.children.setdefault(job_id, 0)
            if seq:
                self.acks.unfollowed.setdefault(job_id, (seq, 0))
                self._bound_unfollowed()
            if job_id in self.jobs:
                self.jobs[job_id].keyed = False
        if len(self.children) > self._ended_limit:
            del self.children[next(iter(self.children))]

    def pass_over(self, job_id: JobId, position: int) -> None:
        """Take no event of a child up to a position: the user has those, or has left their history."""
        if job_id in self.children:
            self.children[job_id] = max(self.children[job_id], position)

    def leave(self, job_id: JobId, asked: int | None) -> None:
        """Take nothing more of a job; `asked` as in `unwanted`."""
        self.forget_job(job_id)
        self._ending = deque(ending for ending in self._ending if ending[0].id != job_id)
        self.unwanted[job_id] = asked
        if len(self.unwanted) > self._limits.max_session_subscriptions:
            del self.unwanted[next(iter(self.unwanted))]

    def leave_child(self, job_id: JobId, child: JobId | None) -> None:
        """Take nothing of an unknown child of a job, if the user has left that job."""
        known = self.knows(child) or child in self.acks.unfollowed
        if child is not None and job_id in self.unwanted and not known:
            self.leave(child, None)

    def lose_job(self, job_id: JobId) -> None:
        """Take nothing more of a job, the end of which will not be seen; a child does not come by itself."""
        self.leave(job_id, None)
        if job_id in self.children:
            self.end_job(job_id, IN_SESSION)
            self._ending.append((FollowedJob(job_id, observed=False), IN_SESSION))

    def forget_job(self, job_id: JobId) -> None:
        """Follow a job no longer."""
        self.assembly.drop(job_id)
        self.drop_end(job_id)
        job = self.jobs.pop(job_id, None)
        if job is not None and job_id in self.children:
            self.children[job_id] = job.cursor  # Its events go on coming by themselves.
        if job is not None and job.mending is not None:
            self.acks.done(job.mending.receipt, job_id)  # The user has not seen it.

    def is_done_with(self, job_id: JobId) -> bool:
        """Return whether a job is over, or observed no longer; the events of a child come by themselves.

        A job that was left is followed again from the answer to a subscribe on. A runtime that tells no
        positions may send what it asks for before that answer.
        """
        if job_id in self.ended:
            return True
        if job_id not in self.unwanted or job_id in self.children:
            return False
        return self.is_placed or not self.requests.observes(job_id)

    @property
    def is_placed(self) -> bool:
        """Whether the runtime tells the positions of events."""
        return self.features is not None and Feature.POSITIONS in self.features

    @property
    def can_subscribe(self) -> bool:
        """Whether the runtime offers to subscribe to jobs."""
        return self.features is not None and Feature.SUBSCRIBE in self.features

    def lose(self) -> None:
        """Note that the session cannot be resumed, so that its jobs are observed in another."""
        self.lost = True
        self.drop_early(list(self.early))
        for job_id, seq in self.ends.leave_session().items():
            self.acks.drop(seq, job_id)
        for job in (*self.jobs.values(), *(job for job, _ in self._ending)):
            job.lose()

    def drop_early(self, job_ids: Iterable[JobId]) -> None:
        """Drop the events that waited for answers about these jobs; they come again, or are not wanted."""
        for job_id in job_ids:
            self.drop(job_id, self.early.take(job_id))

    def drop_end(self, job_id: JobId) -> None:
        """Keep the end of a job no longer: a subscription brings it, or it is not wanted."""
        kept = self.ends.take(job_id)
        if kept is not None:
            self.acks.drop(kept.end.seq, job_id)

    def drop(self, job_id: JobId, envelopes: Iterable[Envelope]) -> None:
        """Drop events of a job."""
        for envelope in envelopes:
            self.acks.drop(envelope.event_seq or 0, job_id)

    def renew(self, session_id: SessionId, now: Monotonic) -> None:
        """Begin another session in its place."""
        self.id, self.lost, self.token, self.skipped = session_id, False, None, 0
        self.large_at, self.stuck, self.restored = None, False, False
        self.acks.begin_session(now)
        self.numbers = Numbering(self._limits.max_gap_events)
        self._ending = deque((job, 0) for job, _ in self._ending if self.acks.holds(job.id))
        self.ended.clear()
        self.unwanted = {
            request.job_id: request.number  # Such a subscribe is sent again, and is taken back behind that.
            for request in self.requests
            if request.dropped and request.job_id in self.unwanted
        }
        self.children.clear()

    def _bound_unfollowed(self) -> None:
        unfollowed = self.acks.unfollowed
        if len(unfollowed) > self._ended_limit:
            self._forget_processed()
            if len(unfollowed) > self._ended_limit:
                del unfollowed[next(iter(unfollowed))]

    def _forget_processed(self) -> None:
        """Forget the jobs of which nothing comes again after a resume."""
        cursor = self.cursor
        self._ending = deque(
            (job, seq) for job, seq in self._ending if seq > cursor or self.acks.holds(job.id)
        )
        unfollowed = self.acks.unfollowed
        for job_id in [job_id for job_id, (seq, _) in unfollowed.items() if seq <= cursor]:
            del unfollowed[job_id]

    def _resumed(self, job: FollowedJob) -> ResumedJob:
        behind = job.awaited or self.acks.holds_of_lost(job.id)
        if self.features is None or self.can_subscribe:  # Else a resume brings all there is.
            behind = behind or job.risen_from > self.cursor
        return ResumedJob(job.id, job.stored, job.stored_home, job.observed, behind, job.keyed, job.own)

    def _take_ending(self, job_id: JobId) -> FollowedJob | None:
        """Return a job that has ended, which is followed again."""
        found = None
        for job, _ in self._ending:
            if job.id == job_id:
                found = job
        self._ending = deque(ending for ending in self._ending if ending[0].id != job_id)
        return found
