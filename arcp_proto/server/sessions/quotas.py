"""Quotas: what the runtime holds for each principal, and whose events and jobs are freed first (§6.5, §14).

The inputs of running jobs, partial messages, and the idempotency keys of ended jobs are *pinned*: they cannot
be freed. They may take half of `max_principal_bytes` and of `max_total_bytes`; a request for more is refused.
The rest can be freed. A principal above its limits, or the one that holds most when the total is above its
limits, loses the oldest of its events and finished jobs (see `retention.make_room`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from arcp_proto.errors import InvariantViolated, ensure
from arcp_proto.ids import Monotonic, Principal
from arcp_proto.limits import Limits

from .event_log import History, Log

Holder = Log | History
"""A holder of events: the log of a session, or the history of a job."""


PINNED: Final = 2
"""The divisor of the bytes that a principal, or all of them, may hold: one such part can be pinned."""


class Holdings:
    """The accounts of all principals; an account that holds nothing is dropped."""

    __slots__ = (
        "_by_events",
        "_by_size",
        "_crowded",
        "_limits",
        "_most_events",
        "_most_size",
        "_nameless",
        "_principals",
        "_ranked",
        "_total_events",
        "_total_room",
        "events",
        "over",
        "pinned",
        "size",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most_events, self._most_size = limits.max_principal_events, limits.max_principal_bytes
        self._total_events = limits.max_total_events
        self._total_room = limits.max_total_bytes
        """Bytes of the total that are left beside the pinned ones."""
        self._nameless = 0
        """Bytes that are pinned for all anonymous clients together."""
        self._principals: dict[Principal, _Held] = {}
        self._by_events = Ranking()
        self._by_size = Ranking()
        self._ranked = False
        """Whether one of the two rankings is kept."""
        self._crowded: dict[Principal, None] = {}
        """The principals above the limits of a single principal."""
        self.events = 0
        """Events of all principals."""
        self.size = 0
        """Bytes of all principals that can be freed."""
        self.pinned = 0
        """Bytes of all principals that are pinned."""
        self.over = False
        """Whether a principal is above its limits, or the total is above its own."""

    def __len__(self) -> int:
        return len(self._principals)

    def of(self, principal: Principal) -> tuple[int, int]:
        """Return how many events a principal holds, and the bytes of it that can be freed."""
        held = self._principals.get(principal)
        return (0, 0) if held is None else (held.events, held.size)

    def pinned_by(self, principal: Principal) -> int:
        """Return how many bytes of a principal are pinned."""
        held = self._principals.get(principal)
        return 0 if held is None else held.pinned

    def admits(self, principal: Principal, size: int, *, nameless: bool) -> str:
        """Return the name of the limit that `size` more pinned bytes would exceed; "" for none.

        All anonymous clients are counted together.
        """
        limits = self._limits
        pinned = self._nameless if nameless else self.pinned_by(principal)
        if pinned + size > limits.max_principal_bytes // PINNED:
            return "max_principal_bytes"
        return "max_total_bytes" if self.pinned + size > limits.max_total_bytes // PINNED else ""

    def pin(self, principal: Principal, size: int, *, nameless: bool = False) -> bool:
        """Pin `size` more bytes of a principal, or less if it is negative; return `over`."""
        held = self._account(principal)
        if not held.pinned:
            held.nameless = nameless
        held.pinned += size
        held.room = self._most_size - held.pinned
        self.pinned += size
        self._total_room -= size
        if held.nameless:
            self._nameless += size
        over = self.changed(principal, 0, 0)
        self._drop(principal, held)
        return over

    def keep(self, principal: Principal, size: int) -> bool:
        """Count `size` more bytes, or less, that can be freed and are not events; return `over`."""
        held = self._account(principal)
        held.beside += size
        over = self.changed(principal, 0, size)
        self._drop(principal, held)
        return over

    def add(self, principal: Principal, holder: Holder) -> None:
        """Add a holder, with the events that it holds already."""
        held = self._account(principal)
        name = _name(holder)
        ensure(name not in held.holders, "a holder is added once")
        held.holders[name] = holder
        if holder.events:
            held.oldest.clear()
        self.changed(principal, holder.events, holder.size)

    def remove(self, principal: Principal, holder: Holder) -> None:
        """Remove a holder, with the events that it still holds."""
        held = self._principals[principal]
        del held.holders[_name(holder)]
        self.changed(principal, -holder.events, -holder.size)
        self._drop(principal, held)

    def _account(self, principal: Principal) -> _Held:
        held = self._principals.get(principal)
        if held is None:
            held = self._principals[principal] = _Held(self._most_size)
        return held

    def _drop(self, principal: Principal, held: _Held) -> None:
        """Drop the account of a principal that holds nothing."""
        if not held.holders:
            ensure(held.events == 0 and held.size == held.beside, "the sum of what is held was wrong")
            if not (held.pinned or held.beside):
                del self._principals[principal]
                if self._ranked and not self._principals:
                    self._by_events.give_up()
                    self._by_size.give_up()
                    self._ranked = False

    def changed(self, principal: Principal, events: int, size: int) -> bool:
        """Count more events and bytes in the holders of a principal, or less if negative; return `over`."""
        held = self._principals[principal]
        held.events = of_it = held.events + events
        held.size = size_of_it = held.size + size
        self.events = in_all = self.events + events
        self.size = size_in_all = self.size + size
        if self._ranked:
            self._rank(principal)
        if of_it > self._most_events or (size_of_it > held.room and size_of_it > 0):
            self._crowded[principal] = None
        elif self._crowded:
            self._crowded.pop(principal, None)
        elif in_all <= self._total_events and size_in_all <= self._total_room:
            self.over = False
            return False
        self.over = over = (
            bool(self._crowded)
            or in_all > self._total_events
            or (size_in_all > self._total_room and size_in_all > 0)
        )
        return over

    def let_in(self, principal: Principal, events: int, size: int) -> bool:
        """Return whether a principal may hold more events and bytes without exceeding any limit."""
        held = self._principals[principal]
        return (
            not self.over
            and held.events + events <= self._most_events
            and held.size + size <= held.room
            and self.events + events <= self._total_events
            and self.size + size <= self._total_room
        )

    def crowded(self) -> Principal | None:
        """Return the principal whose oldest is to be freed next; None when all limits are kept.

        A principal above its own limits comes first, then the one that holds most.
        """
        if not self.over:
            return None
        return min(self._crowded) if self._crowded else self.largest()

    def largest(self) -> Principal:
        """Return the principal with the largest share of the exceeded total, or of both; first by name."""
        most_events, most_size = self._limits.max_total_events, self._limits.max_total_bytes
        by_events = self.events > most_events or self.size <= self._total_room
        by_size = self.size > self._total_room or self.events <= most_events
        everybody, shares = self._principals, []
        if by_events:
            principal = self._by_events.first(everybody, self._events_of)
            shares.append((-self._events_of(principal) * most_size, principal))
        if by_size:
            principal = self._by_size.first(everybody, self._size_of)
            shares.append((-self._size_of(principal) * most_events, principal))
        self._ranked = True
        return min(shares)[1]

    def _events_of(self, principal: Principal) -> int:
        held = self._principals.get(principal)
        return 0 if held is None else held.events

    def _size_of(self, principal: Principal) -> int:
        held = self._principals.get(principal)
        return 0 if held is None else held.size

    def _rank(self, principal: Principal) -> None:
        """Tell the rankings that are kept that the holdings of a principal have changed."""
        for ranking in (self._by_events, self._by_size):
            if ranking.kept:
                ranking.changed(principal, self._principals)
        self._ranked = self._by_events.kept or self._by_size.kept

    def too_large(self, principal: Principal) -> bool:
        """Return whether bytes of a principal must be freed, not only events."""
        held = self._principals[principal]
        return held.size > held.room or self.size > self._total_room

    def victim(self, principal: Principal) -> Holder:
        """Return the holder of the oldest event of a principal, which holds one.

        The result of a look at all holders is kept, so that many calls share one.
        """
        return self._principals[principal].victim()


class _Held:
    """The account of one principal.

    `oldest` is a heap of holders by the time of their oldest event, then by name: of those whose oldest event
    was not after `upto` when the heap was made. Time never goes back, so a holder outside the heap has
    nothing older than `upto`.
    """

    __slots__ = ("beside", "events", "holders", "nameless", "oldest", "pinned", "room", "size", "upto")

    def __init__(self, room: int) -> None:
        self.events = 0
        self.size = 0
        self.beside = 0
        """Bytes that can be freed and are not events."""
        self.pinned = 0
        self.nameless = False
        """Whether the pinned bytes count with those of all anonymous clients."""
        self.room = room
        """Bytes allowed beside the pinned ones; negative when these alone are too many."""
        self.holders: dict[str, Holder] = {}
        self.oldest: list[tuple[Monotonic, str]] = []
        self.upto = Monotonic(0)

    def victim(self) -> Holder:
        """Return the holder of the oldest event."""
        while self.oldest:
            at, name = self.oldest[0]
            if at >= self.upto:
                break  # Others may hold an event of the same age.
            holder = self.holders.get(name)
            now = None if holder is None else holder.oldest_at
            if holder is not None and now == at:
                return holder
            if now is not None and now < self.upto:
                heapreplace(self.oldest, (now, name))
            else:
                heappop(self.oldest)
        self.oldest = [
            (holder.oldest_at, name) for name, holder in self.holders.items() if holder.oldest_at is not None
        ]
        ensure(self.oldest, "no holder has an event")
        self.upto = max(self.oldest)[0]
        heapify(self.oldest)
        return self.holders[self.oldest[0][1]]


def _name(holder: Holder) -> str:
    return holder.session_id if isinstance(holder, Log) else holder.job_id


_SLACK: Final = 64


class Ranking:
    """Principals by how much they hold, for the question which one holds most.

    The first question looks at all principals. From then on the ranking is `kept`: its owner reports each
    principal whose amount has changed, and the next question looks at those alone. A heap holds the amounts
    seen; stale entries are skipped. When more principals have changed than exist, the ranking is given up
    until the next question. So a question costs O(log n) for each change before it, and a change costs an
    entry in a dict.
    """

    __slots__ = ("_changed", "_heap", "kept")

    def __init__(self) -> None:
        self._heap: list[tuple[int, Principal]] = []
        self.kept = False
        self._changed: dict[Principal, None] = {}

    def first(self, everybody: Collection[Principal], amount: Callable[[Principal], int]) -> Principal:
        """Return the principal that holds most, the first by name; at least one holds something.

        `amount` returns how much a principal holds, 0 for one that is gone: each time by the same rule.
        """
        heap = self._heap
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
        raise InvariantViolated("no principal holds anything")

    def changed(self, principal: Principal, everybody: Collection[Principal]) -> None:
        """Note that the amount of a principal has changed, while the ranking is kept."""
        self._changed[principal] = None
        if len(self._changed) > 2 * len(everybody) + _SLACK:
            self.give_up()

    def give_up(self) -> None:
        """Drop the ranking until the next question, as when no principal holds anything."""
        self.kept = False
        self._heap.clear()
        self._changed.clear()
