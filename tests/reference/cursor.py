"""The place of a user in one job: what it was handed last, and how far it is processed (protocol §5)."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from .streams import begins


class Step(NamedTuple):
    """An event that the user was handed, or a place to which its cursor was set; a notice has no position."""

    position: int | None
    what: Any = None
    handed: bool = True


class Cursor:
    """The events of one job that a user was handed, by positions, and those that are not processed."""

    __slots__ = ()

    cursor: int
    """The position of the last event that was handed out, or behind which the user has asked."""
    done: int
    """The cursor of the next process: everything up to it is processed, in the order of handing out."""
    held: deque[Step]
    """Events that are handed out and not processed, and between them places where the cursor was set."""

    def place_of(self, after: int | None, last: int, *, over: bool, followed: bool) -> int | None:
        """Return where the answer to a subscription sets the cursor; None if it changes nothing.

        It asks for what is above a position, or for what comes from now on, of a job with `last` events.
        """
        place = begins(after, last)
        changes = place < self.cursor if followed else place < last or not over
        return place if changes else None

    def hand(self, position: int | None, what: Any = None) -> None:
        """Hand out the next event, or a notice."""
        self.held.append(Step(position, what))

    def go(self, after: int) -> None:
        """Set the cursor: from there the user is told."""
        self.cursor = after
        self.held.append(Step(after, handed=False))
        self._settle()

    def processed(self) -> Any:
        """Return the first thing that is held, which is processed, and so is every set cursor behind it."""
        step = self.held.popleft()
        self.done = self.done if step.position is None else step.position
        self._settle()
        return step.what

    def _settle(self) -> None:
        while self.held and not self.held[0].handed:
            self.done = self.held.popleft().position or 0
