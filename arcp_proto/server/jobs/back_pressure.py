"""Back-pressure: agents wait while a transport or the journal is full (§6.5).

A slow disk costs time, and never an event of a client that reads. What is not durable is counted in steps, by
marks on the log. So an event costs nothing beside the comparison that every append makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from arcp_proto.engine.output import PauseJob, ResumeJob
from arcp_proto.server.sessions import subscriptions

from .stage import AgentStage

if TYPE_CHECKING:
    from arcp_proto.ids import JobId
    from arcp_proto.limits import Limits
    from arcp_proto.server.sessions.session import Session
    from arcp_proto.server.state import RuntimeState

    from .job import Job


def pause_jobs(runtime: RuntimeState, session: Session) -> None:
    """Let the agents of the jobs that a session submitted wait, or go on, as its state says."""
    paused = session.full
    for job in session.jobs.values():
        if job.paused is not paused:
            job.paused = paused
            tell_agent(runtime, job)


def tell_agent(runtime: RuntimeState, job: Job) -> None:
    """Ask the host to let the agent of a job wait, or go on; at once, since that waits for no record.

    An agent that is not asked for yet is told when it is.
    """
    if job.agent_stage is AgentStage.ASKED:
        runtime.ask_now(PauseJob(job.id) if job.paused else ResumeJob(job.id))


def agent_is_asked_for(runtime: RuntimeState, job_id: JobId) -> None:
    """The records before the start of a job are durable: its agent may have to wait at once."""
    job = runtime.running.get(job_id)
    if job is not None:
        job.agent_goes_to(AgentStage.ASKED)
        if job.paused:
            tell_agent(runtime, job)


SHARE: Final = 4
"""One in so many of the events and bytes that a log may hold may wait for the journal."""
STEPS: Final = 16
"""Marks on what waits for the journal in one log."""


class Most(NamedTuple):
    """The events and bytes that wait for the journal in one log when its session awaits the journal."""

    events: int
    size: int

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """Return a share of what one log may hold, its principal and all together included.

        An event at home counts twice for its principal: in the log, and in the history of its job.
        """
        events = min(limits.session_events, limits.principal_events // 2, limits.total_events // 2)
        size = min(limits.session_bytes, limits.principal_bytes // 2, limits.total_bytes // 2)
        return cls(max(events // SHARE, 1), max(size // SHARE, 1))

    def reached(self, events: int, size: int) -> bool:
        """Return whether a session with so many events and bytes that are not durable has to wait."""
        return events >= self.events or size >= self.size

    def passed(self, events: int, size: int) -> bool:
        """Return whether a session that has waited goes on with so many."""
        return events <= self.events // 2 and size <= self.size // 2


def look(runtime: RuntimeState, session: Session) -> tuple[int, int]:
    """Count what is not durable in a log to which something was added; let the session wait for the journal.

    Returns the number and the bytes of the log up to which no other look is needed.
    """
    log, most = session.log, runtime.most_unsaved
    events, size = log.unsaved
    if events:
        log.mark(runtime.record_count)
        runtime.unsaved[session.id] = session
    left_events, left_size = most.events // STEPS, most.size // STEPS
    if not session.awaits_journal:
        if most.reached(events, size):
            session.awaits_journal = True
            pause_jobs(runtime, session)
            subscriptions.fall_behind(runtime, session)
        else:
            left_events, left_size = min(left_events, most.events - events), min(left_size, most.size - size)
    return log.last + max(left_events, 1) - 1, log.size + max(left_size, 1) - 1


def persisted(runtime: RuntimeState) -> None:
    """More records are durable: sessions go on of whose logs enough is."""
    most = runtime.most_unsaved
    for session in list(runtime.unsaved.values()):
        log = session.log
        if log.save(runtime.persisted_count, runtime.record_count):
            del runtime.unsaved[session.id]
        if session.awaits_journal and most.passed(*log.unsaved):
            session.awaits_journal = False
            log.look_again()
            pause_jobs(runtime, session)
            subscriptions.feed_soon(runtime, session)
