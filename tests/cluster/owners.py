"""The owner of a shard under test: what it appended, what it was told, and the snapshots that it gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from arcp_io.cluster.postgres_journal import PostgresJournal
from arcp_io.cluster.store import PostgresStore

VERSION: Final = 1
LIMIT: Final = 60.0
"""Seconds after which a test gives up waiting."""


def enter(store: PostgresStore) -> None:
    """Let a node without a gateway make its row, as it needs one before it claims a shard."""
    store.describe(f"{store.node[:8]}.example:7800", b"key")
    store.beat()


class Owner:
    """A claimed shard with its journal open, which answers a store that went back as a runtime does."""

    def __init__(self, store: PostgresStore, shard: int) -> None:
        self.store, self.shard = store, shard
        (row,) = [row for row in store.read().shards if row.shard == shard]
        claimed = store.claim(shard, row.epoch, VERSION)
        assert claimed is not None
        self.epoch = claimed[0]
        self.journal = PostgresJournal(store, shard, self.epoch)
        self.told: list[int] = []
        self.failures: list[Exception] = []
        self.heals = True
        """Whether a snapshot is given when one is needed."""
        self._changed = threading.Condition()
        self.journal.open(VERSION, self._on_durable, self._on_failed)
        self.records: list[bytes] = [*self.journal.read()]
        """All records that the shard should hold."""
        assert self.journal.next == len(self.records) == claimed[1]

    def append(self, *records: bytes) -> None:
        with self._changed:  # No snapshot between the two.
            first = self.journal.next
            if self.journal.failed is None:
                self.journal.append(first, records)
                self.records += records

    def add(self, count: int = 1) -> None:
        """Append records that say their numbers and the epoch of their owner."""
        self.append(*(b"%d by %d" % (len(self.records) + one, self.epoch) for one in range(count)))

    def settle(self) -> None:
        """Wait until everything is durable, or the journal has failed."""
        self.wait(lambda: bool(self.failures) or self.told[-1:] == [self.journal.next])

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, which is asked when the journal has told something, and now and then."""
        with self._changed:
            for _ in range(int(LIMIT / 0.05)):
                if condition():
                    return
                self._changed.wait(0.05)
        raise AssertionError("that did not happen")

    def heal(self) -> None:
        """Give a snapshot of everything, if one is needed."""
        with self._changed:
            if self.heals and self.journal.compaction_due:
                self.journal.compact(list(self.records))

    def close(self) -> None:
        self.journal.close()

    def _on_durable(self, count: int) -> None:
        threading.Thread(target=self.heal).start() if self.journal.compaction_due else None
        with self._changed:
            self.told.append(count)
            self._changed.notify_all()

    def _on_failed(self, error: Exception) -> None:
        with self._changed:
            self.failures.append(error)
            self._changed.notify_all()


def held_by(store: PostgresStore, shard: int) -> list[bytes]:
    """Take a shard over, and return its records."""
    owner = Owner(store, shard)
    owner.close()
    return owner.records
