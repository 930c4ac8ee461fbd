"""A clock that is driven by hand: timers fire when the clock is told to advance, and not before."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Final

import anyio.lowlevel

from arcp_io.drivers.clock import Clock, SetTimer
from arcp_io.drivers.loop import Loop
from arcp_proto import SECOND

QUIET_TURNS: Final = 20
"""Turns of the event loop without a message or a timer, after which the runtime has come to rest."""


class ManualClock(Clock):
    """A clock that stands still until it is advanced.

    The monotonic clock and the wall clock advance together; the wall clock begins at `wall`, an aware
    datetime, by default the present time. The clock belongs to one event loop at a time.
    """

    coalescing = 0

    def __init__(self, wall: datetime | None = None) -> None:
        """Stand still; raises ValueError for a wall clock without a time zone."""
        if wall is not None and wall.tzinfo is None:
            raise ValueError("wall is an aware datetime, such as datetime(2026, 1, 1, tzinfo=UTC)")
        unix = time.time_ns() if wall is None else round(wall.timestamp() * SECOND)
        self._now = time.monotonic_ns()
        self._lead: int | None = None
        """While the clock runs, its lead over that of the machine, in nanoseconds; None: it stands still."""
        self._activity = 0
        self._advancing = False
        self._count = 0
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._timers: dict[Loop, tuple[int, int, Callable[[], None]]] = {}
        """The timer of each pump, by its Loop: when it is due, a number that orders equal times, the call."""
        offset = unix - self._now
        super().__init__(self._read, lambda: self._read() + offset)

    async def advance(self, by: float | timedelta) -> None:
        """Advance by a number of seconds, and call each timer at its time, in order.

        Returns when the runtime has come to rest: messages are delivered, and agents and clients have had
        their turns. Disks, threads and other processes take time of their own, which is not waited for.
        Raises ValueError for a negative time, and RuntimeError for a clock that is advancing or not driven.
        """
        nanoseconds = round((by.total_seconds() if isinstance(by, timedelta) else by) * SECOND)
        if nanoseconds < 0:
            raise ValueError("a clock advances by 0 seconds or more")
        if self._advancing or self._lead is not None:
            raise RuntimeError("the clock is being advanced already, or its runtime has ended")
        self._advancing = True
        try:
            await self._come_to_rest()
            end = self._now + nanoseconds
            while (at := self._next_time()) is not None and at <= end:
                self._now = max(self._now, at)
                self._call_due()
                await self._come_to_rest()
            self._now = end
        finally:
            self._advancing = False

    def hold(self) -> None:
        """Stand still from now on."""
        self._now, self._lead = self._read(), None

    def run_freely(self) -> None:
        """Follow the clock of the machine from now on, so that the end of a runtime needs no advance.

        Messages on their way arrive at once.
        """
        if self._lead is None:
            self._lead = self._now - time.monotonic_ns()
            calls, self._calls = sorted(self._calls), []
            for _, _, call in calls:
                call()
            timers, self._timers = self._timers, {}
            for loop, (at, _, call) in timers.items():
                loop.arm(max(0, at - self._read()) / SECOND, call)

    def stir(self) -> None:
        """Note that the runtime is not at rest."""
        self._activity += 1

    def call_in(self, nanoseconds: int, call: Callable[[], None]) -> None:
        """Call back once the clock has advanced; at once while it runs freely."""
        self.stir()
        if self._lead is None:
            heappush(self._calls, (self._now + nanoseconds, self._next_number(), call))
        else:
            call()

    # As the clock of pumps and clients.

    def timer(self, loop: Loop) -> SetTimer:
        def set_timer(delay: float | None, call: Callable[[], None]) -> None:
            self.stir()
            self._timers.pop(loop, None)
            if self._lead is not None:
                loop.arm(delay, call)
            elif delay is not None:
                self._timers[loop] = (self._now + round(delay * SECOND), self._next_number(), call)

        return set_timer

    async def sleep_until(self, at: int, loop: Loop) -> None:
        if at <= self._read():
            await loop.checkpoint()
            return
        due = loop.event()

        def wake() -> None:
            due.set()

        self.call_in(at - self._read(), wake)
        await due.wait()

    # Helpers of the methods above.

    def _read(self) -> int:
        return self._now if self._lead is None else time.monotonic_ns() + self._lead

    def _next_number(self) -> int:
        self._count += 1
        return self._count

    def _next_time(self) -> int | None:
        times = [at for at, _, _ in self._timers.values()]
        return min(times + [at for at, _, _ in self._calls[:1]], default=None)

    def _call_due(self) -> None:
        """Call everything that is due now, in the order of its times."""
        due = [(at, number, loop, call) for loop, (at, number, call) in self._timers.items()]
        due = [one for one in due if one[0] <= self._now]
        for _, _, loop, _ in due:
            del self._timers[loop]
        calls = [(at, number, call) for at, number, _, call in due]
        while self._calls and self._calls[0][0] <= self._now:
            calls.append(heappop(self._calls))
        for _, _, call in sorted(calls, key=lambda one: one[:2]):
            call()

    async def _come_to_rest(self) -> None:
        quiet = 0
        while quiet < QUIET_TURNS:
            before = self._activity
            await anyio.lowlevel.checkpoint()
            quiet = quiet + 1 if self._activity == before else 0
