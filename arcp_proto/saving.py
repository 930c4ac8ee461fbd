"""Back-pressure of the journal: a slow disk costs time, and never an event of a client that reads.

An event is numbered when it is published, and is sent once its record is durable. Until then it fills the log
of its session, and a log beyond its limit loses its oldest events. So a session whose log holds too many
events that are not durable *awaits the journal*: the agents of its jobs are paused, and what it observes
waits in the histories of the jobs, as if its transport took nothing. Both go on at half of that. An agent
that is paused may have published more by then: its driver says how much.

What is not durable is counted in steps, by marks on the log. So an event costs nothing beside the comparison
with which a log is kept within its limits, and the result depends on the inputs alone, not on when the driver
takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from . import observing
from .pausing import pause_jobs

if TYPE_CHECKING:
    from .limits import Limits
    from .runtime import Runtime
    from .session import Session

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


def look(runtime: Runtime, session: Session) -> tuple[int, int]:
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
            observing.fall_behind(runtime, session)
        else:
            left_events, left_size = min(left_events, most.events - events), min(left_size, most.size - size)
    return log.last + max(left_events, 1) - 1, log.size + max(left_size, 1) - 1


def persisted(runtime: Runtime) -> None:
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
            observing.feed_soon(runtime, session)
