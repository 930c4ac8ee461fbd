"""The jobs of a runtime as its host sees, cancels and reads them, and the counts of all there is (§7).

A host is the program that runs the runtime. It sees and cancels the jobs of every principal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from arcp_proto.engine.machine import cut
from arcp_proto.errors import ErrorCode, LocalProtocolError
from arcp_proto.ids import JobId, Principal, RequestId, SessionId, UnixTime
from arcp_proto.job_statuses import JobStatus
from arcp_proto.server.jobs.job import Job
from arcp_proto.wire import codec
from arcp_proto.wire.messages import Lease
from arcp_proto.wire.reading import JobDescription, read_events

from .audit import note
from .gauges import Gauges, gauges
from .jobs import completion
from .jobs.description import describe, stopped_of
from .jobs.stage import AgentStage
from .sessions import reads, subscriptions

if TYPE_CHECKING:
    from .state import RuntimeState


class JobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its host sees it."""

    job_id: JobId
    principal: Principal
    """The principal that submitted the job, or the job at the top of its tree."""
    agent: str
    """`name@version`, or the name of an agent without versions (§7.5)."""
    status: JobStatus
    """pending, running, success, error, cancelled or timed_out (§7.3)."""
    ends_as: JobStatus | None
    """The final status, once it is decided: the agent of an unfinished job is then being stopped."""
    agent_runs: bool
    """Whether the agent has not stopped; it may outlive its job when it ignores its cancellation."""
    accepted_at: UnixTime
    """Unix time in nanoseconds."""
    session_id: SessionId
    """The session that submitted the job; it may have ended."""
    parent_job_id: JobId | None
    """The job that delegated this one (§10)."""
    trace_id: str
    """32 hex digits (§11)."""
    lease: Lease
    """Namespace -> patterns (§9.2)."""
    expires_at: str | None
    """When the lease ends, in UTC (§9.5)."""
    stopped: bool | None = None
    """Of an ended job: whether its agent is known to have stopped (§7.4); None before the end."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of connections, sessions and jobs of a runtime."""

    connections: int
    """Open transports, also those that have not said hello."""
    sessions: int
    """Sessions that are open or can be resumed (§6.3)."""
    attached_sessions: int
    """Sessions that have a connection."""
    unfinished_jobs: int
    """Jobs whose end has not been sent."""
    finished_jobs: int
    """Jobs that have ended and are still listed (§6.6)."""
    running_agents: int
    """Agents that have not stopped."""


class HostJobs:
    """The jobs of a runtime as its host sees and cancels them, and reads their events."""

    __slots__ = ("_state",)

    def __init__(self, state: RuntimeState) -> None:
        self._state = state

    def infos(self, *, finished: bool = False) -> list[JobInfo]:
        """Return the unfinished jobs, oldest first; with `finished` also those that are still listed.

        Changes nothing. It looks at every job that it returns.
        """
        jobs = self._state.jobs if finished else self._state.unfinished
        return [_info(job) for job in sorted(jobs.values(), key=_number)]

    def gauges(self) -> Gauges:
        """Return the numbers that an operator watches. Changes nothing. It looks at every session and job."""
        return gauges(self._state)

    def describe(self, job_id: JobId) -> JobDescription | None:
        """Return one look at a job of any principal; None for a job that is not kept. Changes nothing."""
        job = self._state.jobs.get(job_id)
        return None if job is None else describe(self._state, job)

    def right_of(self, principal: str, job_id: JobId, *, now: int) -> str | None:
        """Decide what a principal may do with a job, outside of any session: "observe", "list", or None.

        None stands for a job that does not exist as well as for one that is not visible. The rights are those
        of its own jobs and of `RuntimeConfig.observers`, without tenants. The decision is an audit fact, as
        that on a subscription. Take afterwards.
        """
        state = self._state
        state.enter(now, "right_of", principal, job_id)
        right = subscriptions.decide(state, Principal(principal), job_id)
        state.done()
        return None if right is None else right.value

    def cancel(self, job_id: JobId, reason: str = "", *, now: int) -> bool:
        """Cancel a job of any principal, and its children before it. Take afterwards.

        The job ends with CANCELLED like a job that a client cancels (§7.4), with the same grace. Returns
        False and changes nothing when the job has ended or its end is decided: the first outcome counts. A
        cancel by the host is an audit fact. Raises LocalProtocolError for a job that the runtime does not
        have, and for a reason that is not valid Unicode.
        """
        state = self._state
        codec.encode_checked(reason)
        job = self._known(job_id)
        state.enter(now, "cancel_job", job_id, reason)
        cancelled = _cancel(state, job, reason)
        state.done()
        return cancelled

    def read(
        self,
        job_id: JobId,
        after: int = 0,
        most: int | None = None,
        wait_sec: float = 0.0,
        kinds: Sequence[str] | None = None,
        principal: str | None = None,
        *,
        now: int,
    ) -> RequestId:
        """Read the events of a job of any principal above a position; return the id of the read.

        `EventsRead` with that id answers, with at most `most` events of these `kinds` and the terminal, once
        they are durable. If there are none, it comes with the next one, or after `wait_sec` seconds.
        `RequestRefused` answers if the job is forgotten meanwhile, or is read for a `principal` that may not
        observe it, or no longer. Take afterwards. Raises LocalProtocolError for a job that the runtime does
        not have, and for values out of range.
        """
        state, job = self._state, self._known(job_id)
        request = read_events(job_id, after, most, wait_sec, kinds)
        reader = None if principal is None else Principal(principal)
        whose = () if reader is None else (reader,)
        state.enter(now, "read_events", job_id, after, most, wait_sec, request.kinds, *whose)
        request_id = reads.ask(state, job, request, reader)
        state.done()
        return request_id

    def _known(self, job_id: JobId) -> Job:
        job = self._state.jobs.get(job_id)
        if job is None:
            raise LocalProtocolError(f"there is no job {job_id}: it never was, or it is forgotten")
        return job


def counts(state: RuntimeState) -> Counts:
    """Return the counts for `Runtime.counts`."""
    sessions = state.sessions.values()
    return Counts(
        connections=len(state.connections),
        sessions=len(sessions),
        attached_sessions=sum(session.connection is not None for session in sessions),
        unfinished_jobs=len(state.unfinished),
        finished_jobs=len(state.jobs) - len(state.unfinished),
        running_agents=len(state.running),
    )


def _number(job: Job) -> int:
    return job.number


def _cancel(state: RuntimeState, job: Job, reason: str) -> bool:
    message = "cancelled by the host" + (f": {reason}" if reason else "")
    if not completion.fix_outcome(state, job, completion.outcome_of(ErrorCode.CANCELLED, cut(message))):
        return False
    owner = job.terms.principal
    note(state, "job_cancelled", "", job_id=job.id, owner=owner, reason=cut(reason))
    return True


def _info(job: Job) -> JobInfo:
    terms = job.terms
    decided = job.status if job.ended else None if job.outcome is None else job.outcome.status
    return JobInfo(
        job_id=job.id,
        principal=terms.principal,
        agent=job.agent,
        status=job.status,
        ends_as=decided,
        agent_runs=job.agent_stage is not AgentStage.NONE,
        accepted_at=terms.accepted_at,
        session_id=terms.session_id,
        parent_job_id=terms.parent_job_id,
        trace_id=terms.trace.trace_id,
        lease=job.lease,
        expires_at=terms.expires_at,
        stopped=stopped_of(job),
    )
