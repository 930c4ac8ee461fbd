"""The iterator over the events of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from arcp_io.errors import HistoryCut
from arcp_proto import MILLISECOND, JobEvent

if TYPE_CHECKING:
    from .job import Job

__all__ = ["JobEvents"]

LOOK_EVERY: Final = 16
"""Waiting events that are returned between two looks at the clock."""
TURN_EVERY: Final = MILLISECOND
"""Nanoseconds for which waiting events are returned without yielding to other tasks."""


class JobEvents:
    """The iterator over a job; when it is collected, the iteration is given up."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._inbox = job._inbox
        self._ready = LOOK_EVERY
        self._turned_at = 0
        self.cut = False
        """Whether the last wait was cancelled or failed: its loop is probably over, and another one may
        begin.
        """
        self.task = job._inbox.jobs.task_id()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        """Return the next event, and mark the one before as processed."""
        inbox = self._inbox
        if inbox.upto > inbox.told and not inbox.behind:
            inbox.upto = inbox.taken or inbox.upto
        else:
            inbox.done_with_taken()
        self._ready -= 1
        if not self._ready or not inbox.waiting:
            inbox.taken = 0
            await self._pause()
        event = inbox.waiting.popleft()
        if isinstance(event, HistoryCut):
            inbox.taken = 0
            self._job._cut_off(event)
        inbox.taken = event.receipt
        inbox.size -= event.size
        inbox.jobs.size -= event.size
        if inbox.full:
            self._job._look_at_buffer()
        return event

    async def _pause(self) -> None:
        """Wait for an event; if one waits already, yield to other tasks when that is due."""
        self._ready = LOOK_EVERY
        now = self._inbox.jobs.now
        if self._inbox.waiting and not self.cut and now() - self._turned_at < TURN_EVERY:
            return
        try:
            await self._job._wait_for(self)
        except BaseException:
            self.cut, self._ready = True, 1
            raise
        self.cut, self._turned_at = False, now()
