"""The records of one shard on their way to the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

from arcp_io.journal.protocol import Durable, Failed
from arcp_io.journal.rows import Row, pack

from .outcome import Claimed

MOST_ROW_BYTES: Final = 4 * 1024 * 1024
"""Bytes of records in one row, unless a single append brings more: it is never divided."""


class Batch(NamedTuple):
    """The records of one append, and their size in bytes."""

    records: Sequence[bytes]
    size: int


class Lane:
    """The records of a shard that wait for the store, in order, and where their journal hears of them.

    The lock of the writer protects everything here, except for what its thread alone uses.
    """

    def __init__(self, shard: int, node: str, epoch: int, on_durable: Durable, on_failed: Failed) -> None:
        self.shard = shard
        self.mine = Claimed(node, epoch)
        self.on_durable = on_durable
        self.on_failed = on_failed
        self.next = self.stored = 0
        """The number of the next record, and the number below which records are durable."""
        self.generation = 0
        """The newest generation of a snapshot that was begun."""
        self.record_version = 0
        self.waiting: deque[Batch] = deque()
        self.waiting_bytes = 0
        """Bytes of records that are not durable: those that wait, and those in flight."""
        self.cut = -1
        """The number of the first record behind a snapshot: no row has records on both sides of it."""
        self.failed: Exception | None = None
        self.closing = False
        self.heal_start = -1
        """The number with which the shard goes on after the heal that was begun last."""
        self.healing = False
        """Whether the store went back, so that a snapshot is needed."""
        # For the thread of the writer alone.
        self.flight: Row | None = None
        """The row that is sent: the same bytes again until its outcome is known."""
        self.unsure = False
        """Whether the row may be stored already, since an answer was lost."""
        self.alone = False
        """Whether the store refused the row, which is sent without others until it is taken."""
        self.again_at = 0.0
        """The time of the next try; 0 unless the last one failed."""
        self.pause = 0.0
        self.failing_since = 0.0

    @property
    def has_work(self) -> bool:
        """Whether records of the shard can be sent."""
        return self.failed is None and not self.healing and (self.flight is not None or bool(self.waiting))

    @property
    def idle(self) -> bool:
        """Whether nothing waits, or nothing of it will be stored."""
        return self.failed is not None or self.stored == self.next

    def take(self) -> list[Batch]:
        """Return the batches of the next row: at least one, and no more than one row has room for."""
        taken: list[Batch] = []
        size, number = 0, self.stored
        while self.waiting and (not taken or size + self.waiting[0].size <= MOST_ROW_BYTES):
            if taken and number == self.cut:
                break
            batch = self.waiting.popleft()
            taken.append(batch)
            size += batch.size
            number += len(batch.records)
        return taken

    def fly(self, batches: Sequence[Batch]) -> None:
        """Pack batches into the row that is sent."""
        self.flight = pack(self.stored, list(chain.from_iterable(batch.records for batch in batches)))

    def landed(self) -> None:
        """Count the row that was sent as durable."""
        row, self.flight = self.flight, None
        assert row is not None
        self.stored += row.span
        self.waiting_bytes -= row.size
        self.unsure = self.alone = False
        self.again_at = self.pause = self.failing_since = 0.0

    def healed(self, epoch: int, number: int) -> None:
        """Go on under another epoch: every record below a number is in a snapshot."""
        row, self.flight = self.flight, None
        at = self.stored
        if row is not None:
            at += row.span
            self.waiting_bytes -= row.size
        while self.waiting and at < number:
            batch = self.waiting.popleft()
            at += len(batch.records)
            self.waiting_bytes -= batch.size
        self.stored = number
        self.mine = Claimed(self.mine.node, epoch)
        self.healing = self.unsure = self.alone = False
        self.again_at = self.pause = self.failing_since = 0.0

    def fail(self, error: Exception) -> None:
        """Drop everything that is not stored."""
        self.failed = error
        self.flight = None
        self.waiting.clear()
        self.waiting_bytes = 0
