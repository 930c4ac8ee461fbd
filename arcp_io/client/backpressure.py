"""Whether a session takes more from its connection: full buffers, and those who wait behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Holding"]


class Holding:
    """Counts for one session; `apply` is called whenever `on` may have changed."""

    def __init__(self, apply: Callable[[], None]) -> None:
        self.awaited = 0
        """How many wait for the next event of a job."""
        self._apply = apply
        self._full = 0
        self._overflowing = 0
        self._asking = 0

    @property
    def on(self) -> bool:
        """Nothing more is taken while a buffer is full; but answers stand behind events."""
        return self._full > 0 and (self._asking == 0 or self._overflowing > 0)

    def hold_back(self, full: bool) -> None:
        """A job's buffer is full, or no longer."""
        self._full += 1 if full else -1
        self._apply()

    def overflow(self, over: bool) -> None:
        """A job's buffer is so full that nothing is read even for an answer, or no longer."""
        self._overflowing += 1 if over else -1
        self._apply()

    @contextmanager
    def reading_on(self) -> Iterator[None]:
        """While somebody waits for what may stand behind the events of a full buffer, these are read too."""
        self._asking += 1
        self._apply()
        try:
            yield
        finally:
            self._asking -= 1
            self._apply()
