"""An observation of a job: an iterator of its own over the events, apart from what the session follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self, TypeAlias

import anyio

from arcp_io.errors import ArcpError, HistoryCut
from arcp_proto import EventsRead, JobEnded, JobEvent

__all__ = ["Observation", "ReadPage"]

WAIT: Final = 30.0
"""Seconds for which one read waits for an event."""
WAIT_OF_MANY: Final = 1.0
"""Seconds for which a read waits while many other observations of the session do."""
MOST_WAITING: Final = 64
"""Observations of one session whose reads may wait long; the requests of a client are limited."""
MOST_READS: Final = 128
"""Reads of one session that are open at a time."""
PAUSE: Final = 1.0
"""Seconds before a read that was refused for now is tried again, unless the refusal says how many."""

ReadPage: TypeAlias = Callable[[int, float], Awaitable[EventsRead]]
"""Reads the events above a position, and waits a number of seconds for them."""


class Observers:
    """The observations of one session, which share the requests that it may have open."""

    def __init__(self, most_waiting: float = MOST_WAITING, most_reads: float = MOST_READS) -> None:
        self.count = 0
        self._most_waiting = most_waiting
        self._most_reads = most_reads
        self._reads: anyio.CapacityLimiter | None = None

    async def turn(self) -> anyio.CapacityLimiter:
        """Return the limit of open reads, which a loop makes when it first needs it."""
        if self._reads is None:
            self._reads = anyio.CapacityLimiter(self._most_reads)
        return self._reads

    @property
    def wait(self) -> float:
        """Seconds for which a read may wait."""
        return WAIT if self.count <= self._most_waiting else WAIT_OF_MANY


class Observation:
    """An iterator over the events of a job, from a position on: `async for event in session.observe(job_id)`.

    It keeps its own position, and needs no other iterator of the job. `position` is that of the last event
    that it has returned. When it ends, `end` is the end of the job (`JobEnded`), or None if it was not to
    follow the job so far. `history_from` is the position of the first event that was left of a history whose
    beginning a limit had cut off before the observation began.

    Raises HistoryCut where events are missing that were there when the observation began: the next loop goes
    on behind them. Raises JobNotFound, also when the job is forgotten or may be observed no longer,
    PermissionDenied for a job that may be listed only, LocalProtocolError if the runtime does not offer it,
    and ConnectionLost when the session is over. A lost and resumed connection does not show here.
    """

    def __init__(
        self, job_id: str, position: int, read: ReadPage, observers: Observers, *, follow: bool
    ) -> None:
        self.job_id = job_id
        self.position = position
        self.history_from: int | None = None
        self.end: JobEnded | None = None
        self._read = read
        self._observers = observers
        self._follow = follow
        self._events: deque[JobEvent | JobEnded] = deque()
        self._read_upto = position
        """The position up to which the job was read."""
        self._began = self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            await self._next_page()
        event = self._events.popleft()
        self.position = event.job_seq or self.position
        if isinstance(event, JobEnded):
            self.end = event
            self._over = True
            raise StopAsyncIteration
        return event

    async def _next_page(self) -> None:
        page = await self._page()
        began, self._began = self._began, True
        before, self._read_upto = self._read_upto, page.job_seq
        self._events += page.events
        self._over = (page.ended or not self._follow) and not page.events
        if page.history_from is None:
            return
        if began:
            raise self._cut(before, page.history_from)
        self.history_from = page.history_from

    async def _page(self) -> EventsRead:
        """Read the next events, again if the runtime refuses that for now."""
        while True:
            try:
                return await self._read_in_turn()
            except ArcpError as error:
                pause = error.details.get("retry_after_ms")
                if not isinstance(pause, int | float):
                    raise
                await anyio.sleep(max(pause / 1_000, 0.0) or PAUSE)

    async def _read_in_turn(self) -> EventsRead:
        observers = self._observers
        observers.count += 1
        try:
            async with await observers.turn():
                return await self._read(self._read_upto, observers.wait if self._follow else 0.0)
        finally:
            observers.count -= 1

    def _cut(self, last: int, history_from: int) -> HistoryCut:
        told = f"events after number {last} are lost: the history begins with number {history_from}"
        details = {"last_seq": last, "history_from": history_from}
        return HistoryCut(told, details=details, job_id=self.job_id)


def kinds_of(kinds: str | Sequence[str] | None) -> list[str] | None:
    """Return the kinds of events that were asked for: one or several; None for all."""
    return [kinds] if isinstance(kinds, str) else None if kinds is None else list(kinds)
