"""The clocks: the one place where arcp_io reads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from arcp_proto import MILLISECOND

_DRIFT: Final = 100 * MILLISECOND


class Clock:
    """The monotonic clock and the wall clock, in nanoseconds, and whether they drift apart."""

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
