"""How many shards a node should own, and which free ones it claims first.

K shards are shared by n nodes that are alive and not draining: each should own K // n of them, and K mod n
nodes one more. A node is known by its address, so that a node that was started again in place counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class FairShare(NamedTuple):
    """The live nodes as one of them, `own`, counts them."""

    own: str
    addresses: tuple[str, ...]
    """The addresses of live nodes, in their order; `own` is one of them."""
    counts: Mapping[str, int]
    """How many shards each of them owns."""
    able: tuple[str, ...]
    """The nodes that are able to claim what this node may give away, but for itself."""
    shards: int
    """K."""

    @property
    def least(self) -> int:
        """How many shards every node should own at least."""
        return self.shards // len(self.addresses)

    @property
    def most(self) -> int:
        """How many shards a node should own at most."""
        return -(-self.shards // len(self.addresses))

    @property
    def needy(self) -> tuple[str, ...]:
        """The other nodes that own less than the least, and are able to claim."""
        return tuple(address for address in self.able if self.counts[address] < self.least)

    @property
    def missing(self) -> int:
        """How many shards the needy nodes lack."""
        return sum(self.least - self.counts[address] for address in self.needy)

    def place(self, shard: int) -> int:
        """Return how many nodes come before this one in claiming a shard."""
        return (shard + self.addresses.index(self.own)) % len(self.addresses)

    def to_claim(self, free: Iterable[int], mine: int, overdue: Mapping[int, int]) -> list[int]:
        """Return the free shards that this node claims while it owns `mine`, in order.

        `overdue` says for how many leases a shard has been free in vain: one that no other node claims is
        claimed beyond the fair share, so that it is served.
        """
        ordered = sorted(free, key=lambda shard: (self.place(shard), shard))
        count = max(0, self.least - mine)
        spare = len(ordered) - count - self.missing
        count += max(0, min(spare, self.most - max(mine, self.least)))
        return [
            *ordered[:count],
            *(shard for shard in ordered[count:] if overdue[shard] >= min(2, 1 + self.place(shard))),
        ]

    def too_many(self, mine: int, free: int) -> int | None:
        """Return None, or how many nodes come before this one in giving a shard away; 0 for none.

        `free` shards are there for needy nodes to claim.
        """
        if mine > self.most and any(self.counts[address] < self.most for address in self.able):
            return 0
        missing = self.missing - free
        if mine <= self.least or missing <= 0:
            return None
        counts = {**self.counts, self.own: mine}
        rich = [address for address in self.addresses if counts[address] > self.least]
        rich.sort(key=lambda address: (-counts[address], address))
        return max(0, rich.index(self.own) - missing + 1)
