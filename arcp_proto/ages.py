"""When what is kept was noted: coarse marks, so that the oldest can go first (§6.5)."""

from __future__ import annotations

from typing import Final

from .ids import SECOND, Time

MARK: Final = SECOND
"""What was noted within this time has one age."""


class Ages:
    """Marks on a row of numbers that grows at its end and shrinks at its front."""

    __slots__ = ("_marks", "_since")

    def __init__(self) -> None:
        self._marks: list[tuple[int, Time]] = []
        """The first number of each mark, and when it was noted."""
        self._since = Time(0)

    def note(self, number: int, at: Time) -> None:
        """A number was added."""
        if at - self._since >= MARK or not self._marks:
            self._marks.append((number, at))
            self._since = at

    def drop(self, first: int) -> None:
        """Numbers below `first` are gone."""
        gone = 0
        while gone + 1 < len(self._marks) and self._marks[gone + 1][0] <= first:
            gone += 1
        if gone:
            del self._marks[:gone]

    def clear(self) -> None:
        """Nothing is left."""
        self._marks.clear()

    @property
    def oldest(self) -> Time | None:
        """When the first number was noted; None for none."""
        return self._marks[0][1] if self._marks else None

    @property
    def newest(self) -> Time:
        """When a number was noted last, to a second; 0 before the first, also once all are gone."""
        return self._since

    @property
    def next_mark(self) -> Time:
        """Until when another number needs no mark of its own; 0 when the next one does."""
        return Time(self._since + MARK) if self._marks else Time(0)

    def end_of_oldest(self, last: int) -> int:
        """The last number that is as old as the first, when `last` is the last of all."""
        return self._marks[1][0] - 1 if len(self._marks) > 1 else last

    def last_before(self, at: Time, last: int) -> int:
        """The last number of all marks that ended before `at`; 0 for none."""
        found = 0
        for index, (_, noted) in enumerate(self._marks):
            if noted + MARK > at:
                break
            found = self._marks[index + 1][0] - 1 if index + 1 < len(self._marks) else last
        return found
