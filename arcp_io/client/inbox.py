"""The events of a job on their way to its iterator: those that wait, and which are processed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from arcp_io.errors import HistoryCut
from arcp_proto.engine.output import JobEmitted

if TYPE_CHECKING:
    from .jobs import SessionJobs

__all__ = ["Inbox"]

_SIZE: Final = attrgetter("size")


class Inbox:
    """Holds what waits, and notes what is processed: the session is told soon, of many events at once."""

    __slots__ = ("_job_id", "behind", "full", "jobs", "size", "taken", "told", "upto", "waiting")

    def __init__(self, jobs: SessionJobs, job_id: str) -> None:
        self.waiting: deque[JobEmitted | HistoryCut] = deque()
        """Events, oldest first, and where some of them are missing."""
        self.size = 0
        """Bytes of them."""
        self.taken = 0
        """Receipt of the event that the iterator has and has not done with; 0: none."""
        self.jobs = jobs
        self._job_id = job_id
        self.upto = 0
        """The receipt up to which everything is processed."""
        self.told = 0
        """The receipt that the session was told."""
        self.behind = 0
        """The receipt of an event that is done with before those that are taken or wait; 0: none."""
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
        """Note that the event that was taken is processed."""
        receipt, self.taken = self.taken, 0
        self.done_with(receipt)

    def done_with(self, receipt: int) -> None:
        """Note that the event with this receipt is processed; 0 is none.

        A receipt stands for everything before it as well, so that it waits for what is taken or waits.
        """
        first = self.taken or next((one.receipt for one in self.waiting if isinstance(one, JobEmitted)), 0)
        if 0 < first < receipt:
            self.behind = max(self.behind, receipt)
            return
        if not first:
            receipt, self.behind = max(self.behind, receipt), 0
        if receipt > self.upto:
            if self.upto == self.told:
                self.jobs.told_soon(self)
            self.upto = receipt

    def tell(self) -> None:
        """Tell the session now."""
        if self.upto > self.told:
            self.told = self.upto
            self.jobs.session._processed(self._job_id, self.upto)
