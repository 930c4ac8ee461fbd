"""The clocks: the one place where arcp_io reads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from arcp_proto import MILLISECOND, SECOND

if TYPE_CHECKING:
    from .loop import Loop

_DRIFT: Final = 100 * MILLISECOND

SetTimer: TypeAlias = Callable[[float | None, Callable[[], None]], None]
"""Calls back once, after a delay in seconds, in place of an earlier callback; None: not at all."""


class Clock:
    """The monotonic clock and the wall clock, in nanoseconds, and whether they drift apart.

    A clock that is driven by hand (`arcp_io.testing`) replaces all of its methods.
    """

    coalescing = MILLISECOND
    """Nanoseconds after a send during which a pump collects events, to send them together."""

    def __init__(
        self, now: Callable[[], int] = time.monotonic_ns, unix: Callable[[], int] = time.time_ns
    ) -> None:
        self.now = now
        self.unix = unix
        self._offset = unix() - now()

    def drifted_to(self) -> int | None:
        """Return the wall clock if it has moved by more than 100 ms, by a step or a sleep of the machine;
        else None.
        """
        unix = self.unix()
        offset = unix - self.now()
        if abs(offset - self._offset) <= _DRIFT:
            return None
        self._offset = offset
        return unix

    def timer(self, loop: Loop) -> SetTimer:
        """Return the function that sets the timer of a pump, which has one."""
        return loop.arm

    async def sleep_until(self, at: int, loop: Loop) -> None:
        """Wait until a time of the monotonic clock."""
        await anyio.sleep(max(0, at - self.now()) / SECOND)
