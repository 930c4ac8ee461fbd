"""A session's numbered events: the outbox and the replay log are one thing (§6.3, §8.3)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .errors import ensure
from .ids import Time


class Entry(msgspec.Struct, gc=False, frozen=True):
    """One event as every log holds it: the template of its head, and its payload without the last brace."""

    head: bytes
    payload: bytes


class Run(msgspec.Struct, gc=False):
    """Events that one `take` handed out: the last number, how many records came before, and when."""

    last: int
    records: int
    at: Time


class Log:
    """Entries by number, from `first` to `last`, without a gap.

    Entries leave at the front only: released by an ack, or evicted by a limit.
    """

    __slots__ = ("_durable", "_entries", "_runs", "_size", "first")

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._runs: list[Run] = []
        self._size = 0
        self._durable = 0
        self.first = 1

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last(self) -> int:
        """The last number given out; 0 for none."""
        return self.first + len(self._entries) - 1

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        return self._size

    def append(self, entry: Entry) -> None:
        """Give the next number to an entry."""
        self._entries.append(entry)
        self._size += len(entry.payload)

    def between(self, after: int, upto: int) -> list[Entry]:
        """The entries numbered above `after`, up to and with `upto`."""
        return self._entries[after + 1 - self.first : upto + 1 - self.first]

    def release(self, seq: int) -> None:
        """Drop every entry numbered up to and with `seq`."""
        count = min(seq, self.last) - self.first + 1
        if count > 0:
            self._size -= sum(len(entry.payload) for entry in self._entries[:count])
            del self._entries[:count]
            self.first += count

    def excess(self, events: int, size: int) -> int:
        """The number up to which the oldest entries go, with some to spare; 0 when within both limits."""
        if len(self._entries) <= events and self._size <= size:
            return 0
        keep_events, keep_size = events - events // 16, size - size // 16
        count, left, remaining = 0, self._size, len(self._entries)
        while remaining - count > keep_events or left > keep_size:
            left -= len(self._entries[count].payload)
            count += 1
        return self.first + count - 1

    # Durability: what was numbered before its records are durable may not be sent.

    def mark_run(self, records: int, at: Time) -> None:
        """Note that everything up to `last` waits for `records` to be durable."""
        if not self._runs or self._runs[-1].last < self.last:
            self._runs.append(Run(self.last, records, at))

    def visible(self, persisted: int, records: int) -> int:
        """The number up to which entries may be sent, when `persisted` of `records` are durable."""
        if persisted >= records:
            self._runs.clear()
            self._durable = self.last
            return self._durable
        done = 0
        for run in self._runs:
            if run.records > persisted:
                break
            self._durable = run.last
            done += 1
        del self._runs[:done]
        return self._durable

    # Snapshots.

    def entries(self) -> list[tuple[bytes, bytes]]:
        """Head and payload of every entry."""
        return [(entry.head, entry.payload) for entry in self._entries]

    def load(self, first: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Fill an empty log from a snapshot."""
        ensure(not self._entries, "a log is loaded once")
        self.first = first
        for head, payload in entries:
            self.append(Entry(head, payload))
