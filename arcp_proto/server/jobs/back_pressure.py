"""Back-pressure: agents wait while a transport or the journal is full (§6.5).

A slow disk costs time, and never an event of a client that reads. Events that are not durable are counted in
steps, by marks on the log, so that an event costs only the comparison that every append makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from arcp_proto.engine.output import PauseJob, ResumeJob
from arcp_proto.server.sessions import subscriptions

from .stage import AgentStage

if TYPE_CHECKING:
    from arcp_proto.limits import Limits
    from arcp_proto.server.sessions.session import Session
    from arcp_proto.server.state import RuntimeState

    from .job import Job


def pause_jobs(state: RuntimeState, session: Session) -> None:
    """Pause the agents of the jobs that a session submitted while it is full, and resume them after."""
    paused = session.full
    for job in session.jobs.values():
        if job.paused is not paused:
            job.paused = paused
            tell_agent(state, job)


def tell_agent(state: RuntimeState, job: Job) -> None:
    """Ask the host to pause or resume the agent of a job; at once, since this waits for no record.

    An agent that the host was not asked to run yet is told when it is.
    """
    if job.agent_stage is AgentStage.ASKED:
        state.ask_now(PauseJob(job.id) if job.paused else ResumeJob(job.id))


def agent_is_asked_for(state: RuntimeState, job: Job) -> None:
    """Pause the agent of a job if needed, now that the records before its start are durable."""
    job.agent_goes_to(AgentStage.ASKED)
    if job.paused:
        tell_agent(state, job)


SHARE: Final = 4
"""The divisor of the events and bytes that a log may hold: one such part may wait for the journal."""
STEPS: Final = 16
"""How many marks divide what waits for the journal in one log."""


class Most(NamedTuple):
    """The events and bytes of one log that may wait for the journal before its session has to wait."""

    events: int
    size: int

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """Return this share of what a log may hold within all limits, those of its principal included.

        An event at home counts twice for its principal: in the log, and in the history of its job.
        """
        events = min(
            limits.max_session_events, limits.max_principal_events // 2, limits.max_total_events // 2
        )
        size = min(limits.max_session_bytes, limits.max_principal_bytes // 2, limits.max_total_bytes // 2)
        return cls(max(events // SHARE, 1), max(size // SHARE, 1))

    def reached(self, events: int, size: int) -> bool:
        """Return whether a session with this many events and bytes that are not durable has to wait."""
        return events >= self.events or size >= self.size

    def passed(self, events: int, size: int) -> bool:
        """Return whether a session that waits goes on with this many events and bytes not durable."""
        return events <= self.events // 2 and size <= self.size // 2


def look(state: RuntimeState, session: Session) -> tuple[int, int]:
    """Count what is not durable in a log to which events were added; pause the session above its share.

    Return the number and the bytes of the log up to which no other look is needed.
    """
    log, most = session.log, state.most_unsaved
    events, size = log.unsaved
    if events:
        log.mark(state.record_count)
        state.unsaved[session.id] = session
    left_events, left_size = most.events // STEPS, most.size // STEPS
    if not session.awaits_journal:
        if most.reached(events, size):
            _await_journal(state, session)
        else:
            left_events, left_size = min(left_events, most.events - events), min(left_size, most.size - size)
    return log.last + max(left_events, 1) - 1, log.size + max(left_size, 1) - 1


def look_at_held(state: RuntimeState, session: Session) -> None:
    """Pause a session if too many of its events wait for an envelope in front of them that is not durable."""
    state.unsaved[session.id] = session
    if not session.awaits_journal and state.most_unsaved.reached(*session.log.unsaved):
        _await_journal(state, session)
    session.log.look_again()


def _await_journal(state: RuntimeState, session: Session) -> None:
    session.awaits_journal = True
    pause_jobs(state, session)
    subscriptions.fall_behind(state, session)


def persisted(state: RuntimeState) -> None:
    """Resume the sessions of which enough is durable, after the host has reported more records as durable."""
    most = state.most_unsaved
    for session in list(state.unsaved.values()):
        log = session.log
        if log.save(state.persisted_count, state.record_count, state.now):
            del state.unsaved[session.id]
        if session.awaits_journal and most.passed(*log.unsaved):
            session.awaits_journal = False
            log.look_again()
            pause_jobs(state, session)
            subscriptions.feed_soon(state, session)
