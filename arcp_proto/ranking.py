"""Who holds most, found without a look at everybody each time (§14)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush
from typing import Final

from .errors import InvariantViolated
from .ids import Principal

_SLACK: Final = 64


class Ranking:
    """Principals by how much they hold, as long as somebody asks who holds most.

    It is made when that is asked first, with a look at all of them. From then on it is `kept`: its owner
    tells whose amount has changed, and the next question looks at those alone. A heap holds what was seen; an
    entry that is not true any more is passed over. When more have changed than there are, it is given
    up until it is asked for again. So a question costs O(log n) for each change before it, and a change costs
    an entry in a dict.
    """

    __slots__ = ("_amount", "_changed", "_heap", "kept")

    def __init__(self, amount: Callable[[Principal], int]) -> None:
        """`amount` says how much a principal holds, 0 for one that is gone."""
        self._amount = amount
        self._heap: list[tuple[int, Principal]] = []
        self.kept = False
        self._changed: dict[Principal, None] = {}

    def first(self, everybody: Collection[Principal]) -> Principal:
        """Return who holds most, the first by name; somebody has to hold something."""
        heap, amount = self._heap, self._amount
        if not self.kept or len(heap) > 2 * len(everybody) + _SLACK:
            heap[:] = [(-held, principal) for principal in everybody if (held := amount(principal))]
            heapify(heap)
            self.kept = True
        else:
            for principal in self._changed:
                if held := amount(principal):
                    heappush(heap, (-held, principal))
        self._changed.clear()
        while heap:
            held, principal = heap[0]
            if amount(principal) == -held:
                return principal
            heappop(heap)
        raise InvariantViolated("nobody holds anything")

    def changed(self, principal: Principal, everybody: Collection[Principal]) -> None:
        """Note that the amount of a principal has changed, while the ranking is kept."""
        self._changed[principal] = None
        if len(self._changed) > 2 * len(everybody) + _SLACK:
            self.give_up()

    def give_up(self) -> None:
        """Forget everything until it is asked for again, as when nobody holds anything any more."""
        self.kept = False
        self._heap.clear()
        self._changed.clear()
