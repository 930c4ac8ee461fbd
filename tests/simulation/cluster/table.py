"""A model of the tables of a store: each method is one statement, carried out as a whole or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from arcp_io.cluster.decisions import Claim, Forget, Heal
from arcp_io.cluster.rows import NodeRow, Reading, ShardRow

from ..broken import ensure

KEPT_STATES: Final = 40
"""The most statements by which a standby may be behind."""


class Entry(NamedTuple):
    """One record of a shard, with the epoch and the node that have written it."""

    number: int
    epoch: int
    node: str
    data: bytes


class Fence(NamedTuple):
    """The conditions of an append; a planted bug leaves out some of them."""

    epoch: bool = True
    node: bool = True
    next: bool = True


class Appended(NamedTuple):
    """The outcome of an append: whether it was carried out, and the row of its shard afterwards."""

    done: bool
    row: ShardRow


class State(NamedTuple):
    """All tables after one statement."""

    nodes: dict[str, NodeRow]
    shards: dict[int, ShardRow]
    records: dict[int, tuple[list[Entry], int]]
    """The records of each shard, a list that only grows until it is replaced, and their number at that
    time."""


class Table:
    """The rows of nodes and shards, and the records of each shard."""

    def __init__(self, shards: int) -> None:
        self.nodes: dict[str, NodeRow] = {}
        self.shards = {shard: ShardRow(shard, 0, None, 0, 0, 0, 0) for shard in range(shards)}
        self.records: dict[int, list[Entry]] = {shard: [] for shard in range(shards)}
        self.fence = Fence()
        self.went_back: set[int] = set()
        """Shards that have lost records in a failover, and are not healed."""
        self._states: deque[State] = deque(maxlen=KEPT_STATES)

    def remember(self) -> None:
        """Keep the state of the tables, at which a standby may still be."""
        records = {shard: (entries, len(entries)) for shard, entries in self.records.items()}
        self._states.append(State(dict(self.nodes), dict(self.shards), records))

    def commits_without_claims(self) -> int:
        """Return the statements that a standby may lack, at most, and have all nodes and owners of shards."""
        owners = {shard: (row.epoch, row.node) for shard, row in self.shards.items()}
        for behind, state in enumerate(reversed(self._states)):
            of_state = {shard: (row.epoch, row.node) for shard, row in state.shards.items()}
            if of_state != owners or state.nodes.keys() != self.nodes.keys():
                return behind
        return len(self._states)

    def fail_over(self, behind: int) -> bool:
        """Go on with a standby that lacks a number of statements; return whether it was behind."""
        if not self._states or not behind:
            return False
        state = self._states[max(0, len(self._states) - behind)]
        for shard, (entries, count) in state.records.items():
            if count < len(self.records[shard]):
                self.went_back.add(shard)
            self.records[shard] = entries[:count]
        self.nodes, self.shards = dict(state.nodes), dict(state.shards)
        self._states.clear()
        return True

    # Nodes.

    def enter(self, row: NodeRow) -> None:
        """Make the row of a node that starts."""
        self.nodes.setdefault(row.node, row)

    def beat(self, node: str, draining: bool) -> Reading:
        """Count a beat of a node that has a row, and return all rows."""
        row = self.nodes.get(node)
        if row is not None:
            self.nodes[node] = row._replace(beat=row.beat + 1, draining=draining)
        return Reading(tuple(self.nodes.values()), tuple(self.shards.values()))

    def forget(self, order: Forget) -> None:
        """Delete the row of a node that owns no shard, if it has not beaten since the row was read."""
        row = self.nodes.get(order.node)
        owns = any(shard.node == order.node for shard in self.shards.values())
        if row is not None and row.beat == order.beat and not owns:
            del self.nodes[order.node]

    # Owners.

    def claim(self, me: str, order: Claim, record_version: int) -> ShardRow | None:
        """Give a shard to a node if its epoch is as the node has read it; None if it may not be."""
        row = self.shards[order.shard]
        if row.epoch != order.epoch or row.node == me or not self._may_claim(me, order.owner, order.beat):
            return None
        if (row.node or "") != order.named:
            return None
        ensure(
            row.record_version <= record_version,
            "C3",
            f"{me} claims a shard whose records it cannot read: {row}",
        )
        row = row._replace(epoch=row.epoch + 1, node=me, record_version=record_version)
        self.shards[order.shard] = row
        return row

    def release(self, me: str, shard: int, epoch: int) -> None:
        """Take a shard from a node that owns it, as the node asks."""
        row = self.shards[shard]
        if (row.epoch, row.node) == (epoch, me):
            self.shards[shard] = row._replace(node=None)

    def heal(
        self, me: str, order: Heal, above: int, entries: Sequence[Entry], record_version: int
    ) -> ShardRow | None:
        """Replace the records of a shard by those of an owner, under a new epoch; None if it may not."""
        row = self.shards[order.shard]
        if row.epoch != order.epoch or row.epoch > above or not self._may_claim(me, order.owner, order.beat):
            return None
        if row.node not in (None, me, order.owner) and row.node in self.nodes and order.owner is not None:
            return None
        row = row._replace(epoch=above + 1, node=me, next=len(entries), record_version=record_version)
        self.shards[order.shard] = row
        self.records[order.shard] = list(entries)
        self.went_back.discard(order.shard)
        return row

    def _may_claim(self, me: str, owner: str | None, beat: int) -> bool:
        """Return whether a node has a row of its own, and the owner before has not beaten since."""
        return me in self.nodes and self._stands_still(owner, beat)

    def _stands_still(self, owner: str | None, beat: int) -> bool:
        if owner is None:
            return True
        row = self.nodes.get(owner)
        return row is None or row.beat == beat

    def check(self) -> None:
        """Check that the owner of each shard has a row, by which other nodes can watch it (C5)."""
        for row in self.shards.values():
            ensure(
                row.node is None or row.node in self.nodes, "C5", f"the owner of a shard has no row: {row}"
            )

    # Records.

    def append(self, me: str, shard: int, epoch: int, first: int, datas: Sequence[bytes]) -> Appended:
        """Append records if this node still owns the shard under this epoch (C1, C2, C3)."""
        row, fence, entries = self.shards[shard], self.fence, self.records[shard]
        if (
            (fence.epoch and row.epoch != epoch)
            or (fence.node and row.node != me)
            or (fence.next and row.next != first)
        ):
            return Appended(False, row)
        said = f"records {first} to {first + len(datas)} of shard {shard} under epoch {epoch} of {me}"
        ensure((row.epoch, row.node) == (epoch, me), "C1", f"{said} are appended, but the row is {row}")
        ensure(len(entries) == first, "C2", f"{said} are appended behind record {len(entries)}")
        last = entries[-1].epoch if entries else 0
        ensure(last <= epoch, "C2", f"{said} are appended behind epoch {last}")
        entries += (Entry(first + place, epoch, me, data) for place, data in enumerate(datas))
        self.shards[shard] = row = row._replace(next=first + len(datas))
        return Appended(True, row)

    def read(self, shard: int) -> tuple[ShardRow, tuple[Entry, ...]]:
        """Return all records of a shard, as its new owner reads them."""
        row, entries = self.shards[shard], self.records[shard]
        ensure(row.next == len(entries), "C2", f"{len(entries)} records are stored for {row}")
        return row, tuple(entries)
