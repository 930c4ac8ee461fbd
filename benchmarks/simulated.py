"""An asyncio loop and clocks on simulated time: the same program takes the same steps in every run."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from arcp_io.drivers.clock import Clock

T = TypeVar("T")
TICK: Final = 1_000
"""The nanoseconds by which each reading of the clock advances the time."""
UNIX: Final = 1_780_000_000_000_000_000


class Time:
    """A simulated clock, in nanoseconds since its start."""

    def __init__(self) -> None:
        self._now = 0

    def now(self) -> int:
        """Advance the time by one tick, and return it."""
        self._now += TICK
        return self._now

    def unix(self) -> int:
        """Return the time of the wall clock."""
        return UNIX + self._now

    def sleep(self, seconds: float) -> None:
        """Advance the time by some seconds, in which the program is idle."""
        self._now += int(seconds * 1e9) + TICK


class _Selector(selectors.SelectSelector):
    """A selector that does not wait, but advances the simulated time."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout and not ready:
            self._time.sleep(timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, time: Time) -> None:
        self._simulated = time
        super().__init__(_Selector(time))

    def time(self) -> float:
        return self._simulated.now() / 1e9


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a program that communicates only inside this process, on simulated time."""
    time = Time()
    usual = Clock.__init__.__defaults__
    Clock.__init__.__defaults__ = (time.now, time.unix)
    try:
        with asyncio.Runner(loop_factory=lambda: _Loop(time)) as runner:
            return runner.run(main())
    finally:
        Clock.__init__.__defaults__ = usual
