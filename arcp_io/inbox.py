"""The events of a job on their way to its iterator: those that wait, and which are processed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from arcp_proto.output import JobEmitted

from .errors import HistoryCut

if TYPE_CHECKING:
    from .session_jobs import SessionJobs

__all__ = ["Inbox"]

NOTHING: Final = -2
"""In the place of a number that none follows."""
_SIZE: Final = attrgetter("size")


class Inbox:
    """Holds what waits, and notes what is processed: the session is told soon, of many numbers at once."""

    __slots__ = ("_job_id", "_since", "full", "jobs", "size", "taken", "upto", "waiting")

    def __init__(self, jobs: SessionJobs, job_id: str) -> None:
        self.waiting: deque[JobEmitted | HistoryCut] = deque()
        """Events, oldest first, and where some of them are missing."""
        self.size = 0
        """Bytes of them."""
        self.taken = 0
        """Number of the event that the iterator has and has not done with; 0: none."""
        self.jobs = jobs
        self._job_id = job_id
        self._since = 0
        self.upto = NOTHING
        """The numbers from `_since` to here are processed, and nobody was told."""
        self.full = False
        """More than it is to hold waits."""

    def add(self, events: Sequence[JobEmitted]) -> None:
        """They have come."""
        size = sum(map(_SIZE, events))
        self.waiting += events
        self.size += size
        self.jobs.size += size

    def take(self) -> JobEmitted | HistoryCut:
        """What has waited longest."""
        event = self.waiting.popleft()
        if isinstance(event, JobEmitted):
            self.size -= event.size
            self.jobs.size -= event.size
        return event

    def done_with_taken(self) -> None:
        """Whoever has an event is done with it."""
        taken, self.taken = self.taken, 0
        if taken:
            self.done_with(taken)

    def done_with(self, seq: int) -> None:
        """What had this number is processed; 0 is none."""
        if seq == self.upto + 1:
            self.upto = seq
        elif seq:
            self.tell()
            self._since = self.upto = seq
            self.jobs.told_soon(self)

    def tell(self) -> None:
        """Tell the session now."""
        if self.upto != NOTHING:
            since, upto, self.upto = self._since, self.upto, NOTHING
            self.jobs.session._processed(self._job_id, upto, since)
