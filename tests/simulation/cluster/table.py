"""A model of the tables of a store: each method is one statement, carried out as a whole or not at all.

The statements are those of `arcp_io.cluster.statements`, with the same arguments and answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from arcp_io.cluster.outcome import Claimed
from arcp_io.cluster.rows import NodeRow, Reading, ShardRow
from arcp_io.journal.rows import Row, unpack

from ..broken import ensure

KEPT_STATES: Final = 40
"""The most statements by which a standby may be behind."""

Kept = Mapping[tuple[int, int], Row]
"""The rows of the snapshots of a shard, by their generation and their first record."""


class Stored(NamedTuple):
    """One row of records, with the epoch and the node that have written it."""

    row: Row
    epoch: int
    node: str


class Contents(NamedTuple):
    """All that the next owner of a shard reads: its row, its snapshot, and the records behind that."""

    row: ShardRow
    snapshot: tuple[bytes, ...]
    behind: tuple[bytes, ...]

    @property
    def datas(self) -> list[bytes]:
        """The snapshot and the records behind it."""
        return [*self.snapshot, *self.behind]


class Fence(NamedTuple):
    """The conditions of an append; a planted bug leaves out some of them."""

    epoch: bool = True
    node: bool = True
    next: bool = True


class State(NamedTuple):
    """All tables after one statement."""

    nodes: dict[str, NodeRow]
    shards: dict[int, ShardRow]
    records: dict[int, tuple[list[Stored], int]]
    """The rows of records of each shard, a list that only grows until it is replaced, and their number at
    that time."""
    kept: dict[int, Kept]


class Table:
    """The rows of nodes and shards, and the records and snapshots of each shard."""

    def __init__(self, shards: int) -> None:
        self.nodes: dict[str, NodeRow] = {}
        self.shards = {shard: ShardRow(shard, 0, None, 0, 0, 0, 0) for shard in range(shards)}
        self.records: dict[int, list[Stored]] = {shard: [] for shard in range(shards)}
        self.kept: dict[int, Kept] = {shard: {} for shard in range(shards)}
        """Replaced by each change."""
        self.fence = Fence()
        self.went_back: set[int] = set()
        """Shards that have lost records in a failover, and are not healed."""
        self._states: deque[State] = deque(maxlen=KEPT_STATES)

    def remember(self) -> None:
        """Keep the state of the tables, at which a standby may still be."""
        records = {shard: (rows, len(rows)) for shard, rows in self.records.items()}
        self._states.append(State(dict(self.nodes), dict(self.shards), records, dict(self.kept)))

    def commits_without_claims(self) -> int:
        """Return the statements that a standby may lack, at most, and have all nodes and owners of shards."""
        owners = {shard: row.node for shard, row in self.shards.items()}
        for behind, state in enumerate(reversed(self._states)):
            of_state = {shard: row.node for shard, row in state.shards.items()}
            if of_state != owners or state.nodes.keys() != self.nodes.keys():
                return behind
        return len(self._states)

    def fail_over(self, behind: int) -> bool:
        """Go on with a standby that lacks a number of statements; return whether it was behind."""
        if not self._states or not behind:
            return False
        state = self._states[max(0, len(self._states) - behind)]
        for shard, row in state.shards.items():
            if row.next < self.shards[shard].next:
                self.went_back.add(shard)
        self.records = {shard: rows[:count] for shard, (rows, count) in state.records.items()}
        self.nodes, self.shards, self.kept = dict(state.nodes), dict(state.shards), dict(state.kept)
        self._states.clear()
        return True

    # Nodes.

    def beat(self, mine: NodeRow, *, has_row: bool) -> Reading:
        """Count a beat of a node, and return all rows; without a row it makes one if `has_row` is false."""
        row = self.nodes.get(mine.node)
        if row is not None:
            self.nodes[mine.node] = mine._replace(beat=row.beat + 1)
        elif not has_row:
            self.nodes[mine.node] = mine._replace(beat=0)
        return Reading(tuple(self.nodes.values()), tuple(self.shards.values()))

    def forget(self, node: str, beat: int | None) -> bool:
        """Delete the row of a node that owns nothing, if its beat is the one seen; return whether it is
        gone.
        """
        row = self.nodes.get(node)
        owns = any(shard.node == node for shard in self.shards.values())
        if row is None or owns or beat not in (None, row.beat):
            return False
        del self.nodes[node]
        return True

    # Owners.

    def read_shards(self, shards: Collection[int]) -> list[ShardRow]:
        """Return the rows of some shards, by their numbers."""
        return [self.shards[shard] for shard in sorted(shards)]

    def claim(
        self,
        shard: int,
        seen: int,
        node: str,
        record_version: int,
        owner: str | None = None,
        beat: int = 0,
        named: str | None = None,
    ) -> tuple[int, int] | None:
        """Claim a shard whose epoch is still the one seen; return its new epoch and next record, or None."""
        row = self.shards[shard]
        if not self._may_claim(node, owner, beat) or row.epoch != seen or row.record_version > record_version:
            return None
        if named is not None and (row.node or "") != named:
            return None
        row = row._replace(epoch=row.epoch + 1, node=node, record_version=record_version)
        self.shards[shard] = row
        return row.epoch, row.next

    def reclaim(
        self, seen: ShardRow, claimed: Claimed, record_version: int, owner: str | None, beat: int
    ) -> bool:
        """Claim a shard for a heal, under a given epoch, if its row is the one seen."""
        row = self.shards[seen.shard]
        if not self._may_claim(claimed.node, owner, beat):
            return False
        if (row.epoch, row.node, row.next) != (seen.epoch, seen.node, seen.next):
            return False
        self.shards[seen.shard] = row._replace(
            epoch=claimed.epoch, node=claimed.node, record_version=record_version
        )
        return True

    def release(self, shard: int, epoch: int, node: str) -> bool:
        """Take a shard from a node that owns it, as the node asks; return whether it owned it."""
        if not self._is_of(shard, Claimed(node, epoch)):
            return False
        self.shards[shard] = self.shards[shard]._replace(node=None)
        return True

    def confirm(self, shard: int, claimed: Claimed, next_record: int) -> bool:
        """Return whether a shard of a node has exactly the records below a number."""
        return self._is_of(shard, claimed) and self.shards[shard].next == next_record

    def _is_of(self, shard: int, claimed: Claimed) -> bool:
        row = self.shards[shard]
        return (row.epoch, row.node) == (claimed.epoch, claimed.node)

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

    def append(self, node: str, given: Sequence[tuple[Claimed, int, Row]]) -> set[int]:
        """Append a row to each of several shards; return the shards that took theirs (C1, C2, C3)."""
        return {shard for claimed, shard, row in given if self._append(node, claimed, shard, row)}

    def _append(self, node: str, claimed: Claimed, shard: int, given: Row) -> bool:
        row, fence, rows = self.shards[shard], self.fence, self.records[shard]
        if (
            (fence.epoch and row.epoch != claimed.epoch)
            or (fence.node and row.node != node)
            or (fence.next and row.next != given.first)
        ):
            return False
        end = given.first + given.span
        said = f"records {given.first} to {end} of shard {shard} under epoch {claimed.epoch} of {node}"
        ensure(
            (row.epoch, row.node) == (claimed.epoch, node), "C1", f"{said} are appended, but the row is {row}"
        )
        last = rows[-1] if rows else Stored(Row(row.start, 0, 0, b""), 0, "")
        behind = last.row.first + last.row.span
        ensure(behind == given.first, "C2", f"{said} are appended behind record {behind}")
        ensure(last.epoch <= claimed.epoch, "C2", f"{said} are appended behind epoch {last.epoch}")
        rows.append(Stored(given, claimed.epoch, node))
        self.shards[shard] = row._replace(next=end)
        return True

    def read(self, shard: int) -> Contents:
        """Return all records of a shard, as its new owner reads them."""
        row = self.shards[shard]
        behind = [data for stored in self.records[shard] for data in unpack(stored.row)]
        ensure(
            len(behind) == row.next - row.start,
            "C2",
            f"{len(behind)} records are stored for {row}",
        )
        snapshot = self._snapshot(shard, row.generation) if row.generation else ()
        return Contents(row, tuple(snapshot), tuple(behind))

    # Snapshots.

    def add_kept(self, shard: int, claimed: Claimed, generation: int, row: Row) -> bool:
        """Add a row to a generation that is not valid yet; return whether the shard is that of the claim."""
        if not self._is_of(shard, claimed):
            return False
        key = (generation, row.first)
        ensure(key not in self.kept[shard], "C2", f"generation {generation} of {shard} is written twice")
        self.kept[shard] = {**self.kept[shard], key: row}
        return True

    def complete_compaction(
        self, shard: int, claimed: Claimed, generation: int, rows: int, start: int
    ) -> bool:
        """Let a generation of `rows` rows stand for all records below a number, if they are there."""
        row = self.shards[shard]
        if not self._is_of(shard, claimed) or row.next < start or not self._has_rows(shard, generation, rows):
            return False
        self._complete(row._replace(start=start, generation=generation))
        return True

    def complete_heal(self, shard: int, claimed: Claimed, generation: int, rows: int, number: int) -> bool:
        """Let a generation of `rows` rows stand for everything, and continue with a number."""
        if not self._is_of(shard, claimed) or not self._has_rows(shard, generation, rows):
            return False
        self.records[shard] = []
        self.went_back.discard(shard)
        self._complete(self.shards[shard]._replace(next=number, start=number, generation=generation))
        return True

    def _has_rows(self, shard: int, generation: int, rows: int) -> bool:
        return sum(key[0] == generation for key in self.kept[shard]) == rows

    def _complete(self, row: ShardRow) -> None:
        """Write the row of a shard with a new snapshot, and delete what the snapshot replaces."""
        shard = row.shard
        self.shards[shard] = row
        self.records[shard] = [stored for stored in self.records[shard] if stored.row.first >= row.start]
        self.kept[shard] = {key: kept for key, kept in self.kept[shard].items() if key[0] == row.generation}
        self.read(shard)

    def _snapshot(self, shard: int, generation: int) -> list[bytes]:
        """Return the records of a snapshot, which ends with an empty row."""
        datas: list[bytes] = []
        while True:
            row = self.kept[shard].get((generation, len(datas)))
            ensure(
                row is not None, "C2", f"generation {generation} of shard {shard} lacks record {len(datas)}"
            )
            assert row is not None
            if not row.span:
                return datas
            datas += unpack(row)
