"""What the client knows of its session: what was negotiated, asked for, received (§6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from .acks import Acks
from .assembly import Assembly
from .client_jobs import ALL, FollowedJob, count_of, home_of
from .connection import Framing
from .early import Early
from .ids import JobId, SessionId, Time
from .limits import Limits
from .messages import AgentEntry
from .numbering import Numbering
from .recovery import Recovery
from .requests import Requests
from .resumption import RESUME_WINDOW_SEC, ResumedJob, Resumption
from .secret import Secret
from .wire import Envelope


class Failure(NamedTuple):
    """An error that answers no request, and when it came."""

    code: str
    message: str
    at: Time


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
        "counted",
        "early",
        "ended",
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
        "stuck",
        "token",
        "unwanted",
    )

    def __init__(self, session_id: SessionId, limits: Limits, now: Time) -> None:
        self.id = session_id
        self.token: Secret | None = None
        """What resumes it; some runtimes give none."""
        self.attached = False
        """Whether its connection is open."""
        self.resume_window_sec = RESUME_WINDOW_SEC
        """As the last welcome said (§6.3)."""
        self.lost = False
        """The next hello opens a session in its place."""
        self.names = False
        """The runtime names the request that it refuses: what is internal and names none answers none."""
        self.closing = False
        """`session.close` was sent."""
        self.features: frozenset[str] | None = None
        """None until a welcome has told."""
        self.counted: frozenset[str] | None = None
        """The features with which the events of one home number were counted."""
        self.acking = False
        """Whether acks were negotiated."""
        self.agents: list[AgentEntry] = []
        self.heartbeat_sec: int | None = None
        self.framing = Framing.MESSAGES
        """Of its last connection."""
        self.numbers = Numbering(limits.gap_events)
        self.skipped = 0
        """The number behind which a resume has found nothing."""
        self.large_at: int | None = None
        """The number behind which a message was larger than the limit."""
        self.stuck = False
        """It came again, and nothing else will."""
        self.restored = False
        """Another process began it: jobs may have been accepted there that this one knows nothing of."""
        self.acks = Acks(now)
        self.requests = Requests(limits.requests)
        self.assembly = Assembly(limits.result, limits.results)
        self.recovery = Recovery()
        self.jobs: dict[JobId, FollowedJob] = {}
        self.ended: dict[JobId, None] = {}
        """The last jobs that have ended, oldest first: what still comes of them is not theirs."""
        self.children: dict[JobId, None] = {}
        """The last jobs that were announced as children of a job: what they do comes without an answer."""
        self.unwanted: dict[JobId, int | None] = {}
        """Jobs that are observed no longer: how much had been asked for then; None: the runtime was told."""
        self.early = Early(limits.history_events, limits.gap_bytes)
        self._ending: deque[FollowedJob] = deque()
        self._ended_limit = limits.running_jobs
        self._limits = limits

    @classmethod
    def of_resumption(cls, resumption: Resumption, limits: Limits, now: Time) -> ClientSession:
        """The session that another process has left."""
        session = cls(resumption.session_id, limits, now)
        session.token, session.restored = resumption.token, True
        session.resume_window_sec = resumption.resume_window_sec
        session.numbers = Numbering(limits.gap_events, resumption.cursor)
        for kept in resumption.jobs:
            job = FollowedJob(kept.job_id, observed=kept.observed, seen=kept.seen, count=kept.count or ALL)
            session.jobs[job.id], job.keyed = job, kept.keyed
            if kept.behind:
                job.lose()
            elif kept.observed:
                job.floor = job.seen
            if kept.keyed:
                job.at_home = None
        return session

    @property
    def cursor(self) -> int:
        """The highest number up to which everything is processed."""
        return self.acks.cursor(self.numbers.last)

    def resumption(self) -> Resumption | None:
        """What another process needs to go on; None for a session that nothing resumes."""
        if self.token is None:
            return None
        cursor = self.cursor
        self._forget_processed()
        jobs = tuple(_resumed(job, cursor) for job in (*self.jobs.values(), *self._ending))
        return Resumption(self.id, self.token, cursor, jobs, self.resume_window_sec)

    def follow(self, job_id: JobId, *, observed: bool, seen: int = 0) -> FollowedJob:
        """A submit or a subscribe was answered; a job may come again after its end."""
        job = self.jobs.get(job_id)
        if job is None:
            job = self.jobs[job_id] = FollowedJob(job_id, observed=observed, seen=seen)
        self.ended.pop(job_id, None)
        self.unwanted.pop(job_id, None)
        return job

    def end_job(self, job_id: JobId) -> None:
        """The terminal of a job has come, and was handed out."""
        self.assembly.drop(job_id)
        job = self.jobs.pop(job_id, None)
        if job is not None:
            self._forget_processed()
            self._ending.append(job)
        self.ended[job_id] = None
        if len(self.ended) > self._ended_limit:
            del self.ended[next(iter(self.ended))]

    def knows(self, job_id: JobId | None) -> bool:
        """Whether the client was told of a job: its own, one that it observes or observed, or a child."""
        return (
            job_id in self.jobs or job_id in self.ended or job_id in self.children or job_id in self.unwanted
        )

    def announced(self, job_id: JobId | None) -> None:
        """A `job.accepted`, or a `delegate` event of a job of this session, names a child (§10)."""
        if job_id is not None:
            self.children[job_id] = None
        if len(self.children) > self._ended_limit:
            del self.children[next(iter(self.children))]

    def forget_job(self, job_id: JobId) -> None:
        """Nothing more of a job is waited for."""
        self.assembly.drop(job_id)
        self.jobs.pop(job_id, None)

    def is_unwanted(self, job_id: JobId, source_seq: int | None) -> bool:
        """Whether it comes of a job that is observed no longer; what a child does comes by itself (§10)."""
        return job_id in self.unwanted and (source_seq is not None or job_id not in self.children)

    def lose(self) -> None:
        """It cannot be resumed: its jobs are observed in another."""
        self.lost = True
        self.drop_early(list(self.early))
        for job in (*self.jobs.values(), *self._ending):
            job.lose()

    def drop_early(self, job_ids: Iterable[JobId]) -> None:
        """What waited for an answer of these jobs is of no use: it comes again, or to nobody."""
        for job_id in job_ids:
            self.drop(job_id, self.early.take(job_id))

    def drop(self, job_id: JobId, envelopes: Iterable[Envelope]) -> None:
        """Nobody gets these events of a job."""
        for envelope in envelopes:
            self.acks.done(envelope.event_seq or 0, job_id)

    def renew(self, session_id: SessionId, now: Time) -> None:
        """Another session begins in its place."""
        self.id, self.lost, self.token, self.skipped = session_id, False, None, 0
        self.large_at, self.stuck, self.restored = None, False, False
        self.acks.begin_session(now)
        self.numbers = Numbering(self._limits.gap_events)
        self.ended.clear()
        self.unwanted.clear()
        self.children.clear()

    def _forget_processed(self) -> None:
        """Jobs whose end is processed need not be found again."""
        while self._ending and self._ending[0].stored >= self._ending[0].seen:
            self._ending.popleft()


def _resumed(job: FollowedJob, cursor: int) -> ResumedJob:
    home, count = home_of(job.stored), count_of(job.stored)
    behind = job.behind(cursor)
    return ResumedJob(job.id, home, job.observed, behind, job.keyed, count if count < ALL else 0)
