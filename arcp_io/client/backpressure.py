"""Back-pressure of a session: whether it reads from its connection, by full buffers and waiting callers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Holding"]


class Holding:
    """The back-pressure of one session; `apply` is called whenever `on` may have changed."""

    def __init__(self, apply: Callable[[], None]) -> None:
        self.awaited = 0
        """Number of tasks that wait for the next event of a job."""
        self._apply = apply
        self._full = 0
        self._overflowing = 0
        self._awaiting_answers = 0

    @property
    def on(self) -> bool:
        """Whether reading stops: while a buffer is full, unless an awaited answer may stand behind its
        events.
        """
        return self._full > 0 and (self._awaiting_answers == 0 or self._overflowing > 0)

    def hold_back(self, full: bool) -> None:
        """Note that a job's buffer is full, or no longer full."""
        self._full += 1 if full else -1
        self._apply()

    def overflow(self, over: bool) -> None:
        """Note that a job's buffer is so full that reading stops even for an awaited answer, or no longer."""
        self._overflowing += 1 if over else -1
        self._apply()

    @contextmanager
    def reading_on(self) -> Iterator[None]:
        """Keep reading during the block, since the awaited answer may stand behind the events of a full
        buffer.
        """
        self._awaiting_answers += 1
        self._apply()
        try:
            yield
        finally:
            self._awaiting_answers -= 1
            self._apply()
