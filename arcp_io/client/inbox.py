"""The events of a job on their way to its iterator: waiting events, and processed ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from arcp_io.errors import HistoryCut
from arcp_proto import JobEvent

if TYPE_CHECKING:
    from .jobs import SessionJobs

__all__ = ["Inbox"]

_SIZE: Final = attrgetter("size")


class Inbox:
    """Holds waiting events, and notes processed ones, which are reported to the session soon and together."""

    __slots__ = ("behind", "full", "job_id", "jobs", "size", "taken", "told", "upto", "waiting")

    def __init__(self, jobs: SessionJobs, job_id: str) -> None:
        self.waiting: deque[JobEvent | HistoryCut] = deque()
        """Waiting events, oldest first, with marks where events are missing."""
        self.size = 0
        """Bytes of the waiting events."""
        self.taken = 0
        """Receipt of the event that the iterator has taken and not finished; 0: none."""
        self.jobs = jobs
        self.job_id = job_id
        self.upto = 0
        """The receipt up to which everything is processed."""
        self.told = 0
        """The receipt that was reported to the session last."""
        self.behind = 0
        """Receipt of a processed event that follows events which are taken or wait; 0: none."""
        self.full = False
        """Whether more bytes wait than the buffer size."""

    def add(self, events: Sequence[JobEvent]) -> None:
        """Add new events."""
        size = sum(map(_SIZE, events))
        self.waiting += events
        self.size += size
        self.jobs.size += size

    def take(self) -> JobEvent | HistoryCut:
        """Return the oldest waiting item."""
        event = self.waiting.popleft()
        if isinstance(event, JobEvent):
            self.size -= event.size
            self.jobs.size -= event.size
        return event

    def done_with_taken(self) -> None:
        """Note that the taken event is processed."""
        receipt, self.taken = self.taken, 0
        self.done_with(receipt)

    def done_with(self, receipt: int) -> None:
        """Note that the event with this receipt is processed; 0 means none.

        A receipt covers everything before it as well, so it is held back while earlier events are taken or
        wait.
        """
        first = self.taken or next((one.receipt for one in self.waiting if isinstance(one, JobEvent)), 0)
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
        """Report the processed events to the session now."""
        if self.upto > self.told:
            self.told = self.upto
            self.jobs.session._processed(self.job_id, self.upto)
