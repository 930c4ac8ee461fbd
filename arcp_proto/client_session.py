"""What the client knows of its session: what was negotiated, asked for, received (§6)."""

from __future__ import annotations

from .acks import Acks
from .assembly import Assembly
from .ids import JobId, SessionId, Time
from .limits import Limits
from .messages import AgentEntry
from .numbering import Numbering
from .requests import Requests


class ClientSession:
    """A session from its welcome to the end of its connection.

    `features` is the effective set of §6.2; `jobs` were accepted and have not ended.
    """

    __slots__ = (
        "_ended_limit",
        "acks",
        "agents",
        "assembly",
        "closing",
        "ended",
        "features",
        "id",
        "jobs",
        "numbers",
        "requests",
    )

    def __init__(
        self,
        session_id: SessionId,
        features: frozenset[str],
        agents: list[AgentEntry],
        limits: Limits,
        now: Time,
    ) -> None:
        self.id = session_id
        self.features = features
        self.agents = agents
        self.closing = False
        """`session.close` was sent."""
        self.numbers = Numbering(limits.gap_events)
        self.acks: Acks | None = Acks(now) if "ack" in features else None
        self.requests = Requests()
        self.assembly = Assembly(limits.result, limits.results)
        self.jobs: set[JobId] = set()
        self.ended: dict[JobId, None] = {}
        """The last jobs that have ended, oldest first: what still comes of them is not theirs."""
        self._ended_limit = limits.running_jobs

    def accept_job(self, job_id: JobId) -> None:
        """A submit was accepted; a job may come again, by its idempotency key, after its end."""
        self.jobs.add(job_id)
        self.ended.pop(job_id, None)

    def end_job(self, job_id: JobId) -> None:
        """The terminal of a job has come."""
        self.jobs.discard(job_id)
        self.assembly.drop(job_id)
        self.ended[job_id] = None
        if len(self.ended) > self._ended_limit:
            del self.ended[next(iter(self.ended))]
