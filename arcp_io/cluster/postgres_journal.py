"""The journal of one shard in a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from arcp_io.journal.memory import check_gap
from arcp_io.journal.protocol import (
    Amount,
    Durable,
    Failed,
    Fenced,
    JournalDamaged,
    JournalError,
    JournalInUse,
    grown,
)
from arcp_io.journal.rows import unpack

from .compactor import Compaction
from .lane import Lane
from .rows import ShardRow

if TYPE_CHECKING:
    from .store import PostgresStore


class PostgresJournal:
    """A Journal of one shard, for the node that claimed the shard under an epoch.

    The thread of the store stores the records of all its journals together. A record is durable when the
    transaction that stored it is committed, under the epoch and node of the shard's row. When another node
    claims the shard, `failed` is Fenced.

    If the store goes back to an earlier state (a standby without the last commits takes over), the journal
    asks for a snapshot: `compaction_due` is true, and `on_durable` is called with the number that it was
    told before. The next `compact` then stores everything under a new `epoch`.
    """

    dropped = ""

    def __init__(self, store: PostgresStore, shard: int, epoch: int) -> None:
        """Prepare the journal of a shard that this store has claimed under this epoch."""
        self.shard = shard
        self._store = store
        self._claimed_epoch = epoch
        self._lane: Lane | None = None
        self._row: ShardRow | None = None
        """The row of the shard when the journal was opened; None after the first append."""
        self._failed: Exception | None = None
        self._next = 0
        self._kept = self._since = Amount()
        self._compacting = False

    def __repr__(self) -> str:
        return f"<PostgresJournal of shard {self.shard} of {self._store}>"

    @property
    def epoch(self) -> int:
        """The epoch under which records are stored; a heal raises it."""
        return self._claimed_epoch if self._lane is None else self._lane.mine.epoch

    @property
    def failed(self) -> Exception | None:
        """The error after which the journal stores nothing; None while it works."""
        return self._failed if self._lane is None else self._lane.failed

    @property
    def next(self) -> int:
        """The number of the next record."""
        return self._next if self._lane is None else self._lane.next

    @property
    def stored(self) -> int:
        """The number below which records are durable; 0 while the journal is not open."""
        return 0 if self._lane is None else self._lane.stored

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that were appended and are not durable yet."""
        return 0 if self._lane is None else self._lane.waiting_bytes

    @property
    def compaction_due(self) -> bool:
        """Whether the journal has grown enough to be worth a `compact`, or the store went back."""
        lane = self._lane
        if lane is None or self._compacting or lane.failed is not None:
            return False
        return lane.healing or grown(self._kept, self._since)

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        """Open the journal, as Journal.open.

        Raises Fenced if another node owns the shard, StoreAway if the store cannot be reached, and
        JournalDamaged if rows are missing. `read` checks what the rows hold.
        """
        if self._lane is not None:
            raise JournalInUse(f"{self} is open already")
        if self._store.is_open(self.shard):
            raise JournalInUse(f"{self} is open already, as another object")
        lane = Lane(self.shard, self._store.node, self._claimed_epoch, on_durable, on_failed)
        row = self._store.shard_row(self.shard)
        if row is None or (row.epoch, row.node) != (lane.mine.epoch, lane.mine.node):
            raise Fenced(f"{self} is not under epoch {lane.mine.epoch} of this node: {row and tuple(row)}")
        if row.record_version > record_version:
            raise JournalError(
                f"{self} has records of version {row.record_version}, newer than {record_version}: use a"
                " newer arcp-io"
            )
        if row.record_version < record_version and not self._store.raise_version(lane, record_version):
            raise Fenced(f"{self} is not that of this node any longer")
        self._kept, self._since = self._store.amounts(row)
        if self._since.records != row.next - row.start:
            raise JournalDamaged(
                f"{self} is damaged: it has {self._since.records} of the records from {row.start} to"
                f" {row.next}. Restore the database from a backup"
            )
        lane.next = lane.stored = row.next
        lane.generation, lane.record_version = row.generation, record_version
        self._store.writer.open(lane)
        self._row, self._compacting = row, False
        self._lane = lane

    def read(self) -> Iterator[bytes]:
        """Yield the records, as Journal.read, some megabytes at a time.

        Raises JournalError after the first `append`, and JournalDamaged with the number of the first record
        that cannot be read.
        """
        row = self._row
        if row is None:
            raise JournalError("a journal is read when it is open, before anything is appended")
        yield from stored_records(self._store, row, repr(self))

    def append(self, first: int, records: Sequence[bytes]) -> None:
        """Store records, as Journal.append; an append of any size is stored in one transaction.

        Raises JournalGap, and JournalError when the journal is not open.
        """
        lane = self._lane
        if lane is None:
            raise JournalError(f"{self} is not open")
        size = sum(map(len, records))
        with self._store.writer.condition:
            if lane.failed is not None:
                return
            check_gap(lane.next, first)
            self._row = None
            self._store.writer.append(lane, records, size)
            self._since = Amount(self._since.records + len(records), self._since.bytes + size)

    def compact(self, snapshot: Iterable[bytes]) -> None:
        """Replace the records by a snapshot, which a thread of the store consumes, as Journal.compact.

        Raises JournalError while another compaction is under way.
        """
        lane = self._lane
        if lane is None or self._compacting:
            raise JournalError(f"{self} is not open, or being compacted")
        with self._store.writer.condition:
            if lane.failed is not None:
                return
            self._row = None
            self._compacting = True
            before, self._since = self._since, Amount()
            lane.cut = lane.next
            done = partial(self._compacted, before)
            self._store.compactor.add(Compaction(lane, lane.next, snapshot, done, lane.healing))

    def owns(self, epoch: int) -> bool:
        """Return whether an epoch of this node is that of the journal, or of a heal under way."""
        return epoch == self.epoch or (self._lane is not None and self._lane.mine.heals_under(epoch))

    @property
    def heals(self) -> bool:
        """Whether a heal is due, or under way: the store lacks what was durable."""
        return self._lane is not None and self._lane.healing

    def heal(self) -> None:
        """Ask for the snapshot that heals a store that went back, although nothing is appended.

        Call it when the row of the shard is older than the claim, or lacks records that were durable. With
        records under way it does nothing: their append finds the same.
        """
        lane = self._lane
        if lane is not None and lane.idle and lane.failed is None and not lane.healing:
            self._store.writer.need_heal(lane)

    def settled(self) -> bool:
        """Return whether nothing is left to do before the journal is closed: it has failed, or the store has
        all records, as a statement finds out.

        If the store went back, the next `compact` heals it first. Blocks; raises StoreError.
        """
        lane = self._lane
        if lane is None or lane.failed is not None:
            return True
        if not lane.idle or lane.healing:
            return False
        if self._store.confirm(lane):
            return True
        self.heal()
        return False

    def close(self) -> None:
        """Close the journal, as Journal.close; the shard stays claimed.

        This waits until the store has the waiting records, or the journal fails. It cannot heal a store that
        went back: wait until `settled` returns true before.
        """
        lane = self._lane
        if lane is None:
            return
        self._store.compactor.give_up(lane)
        self._store.writer.release(lane)
        self._claimed_epoch, self._failed, self._next = lane.mine.epoch, lane.failed, lane.next
        self._lane = self._row = None

    def _compacted(self, before: Amount, kept: Amount | None) -> None:
        """Note the sizes after a compaction. After a failure the next one waits for the same growth again."""
        with self._store.writer.condition:
            self._compacting = False
            if kept is not None:
                self._kept = kept
            else:
                since = self._since
                self._since = Amount(before.records + since.records, before.bytes + since.bytes)
                self._kept = self._since


def stored_records(store: PostgresStore, row: ShardRow, name: str) -> Iterator[bytes]:
    """Yield the records of a shard as its row has them, some megabytes at a time.

    Raises JournalDamaged, which calls the journal by its name, for the first record that cannot be read.
    """
    if row.generation:
        yield from _rows(store, row.shard, row.generation, f"{name} is damaged in its snapshot", 0, None)
    yield from _rows(store, row.shard, None, f"{name} is damaged in its records", row.start, row.next)


def _rows(
    store: PostgresStore, shard: int, generation: int | None, damaged: str, first: int, end: int | None
) -> Iterator[bytes]:
    """Yield the records of the rows from a number up to `end`, or up to an empty row."""
    remedy = "Restore the database from a backup"
    while first != end:
        page = store.read_page(shard, generation, first)
        for row in page:
            if row.first != first:
                raise JournalDamaged(f"{damaged}: record {first} is missing. {remedy}")
            try:
                yield from unpack(row)
            except ValueError as error:
                raise JournalDamaged(f"{damaged}: {error}. {remedy}") from None
            first += row.span
            if end is None and not row.span:
                return
        if not page:
            raise JournalDamaged(f"{damaged}: record {first} is missing. {remedy}")
