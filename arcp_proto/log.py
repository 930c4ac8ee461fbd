"""A session's numbered events: the outbox and the replay log are one thing (§6.3, §8.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from . import wire
from .ages import Ages
from .errors import ensure
from .ids import SessionId, Time

if TYPE_CHECKING:
    from .credentials import Rotated


class Entry(msgspec.Struct, gc=False, frozen=True):
    """One event as every log holds it: the template of its head, and its payload without the last brace.

    `source` is its home number in the log of an observer, and 0 at home (§7.6). `rotated` is what the payload
    leaves out: the new value of a credential, as long as it is valid (§9.8.2). `tail` is what follows the
    payload.
    """

    head: bytes
    payload: bytes
    source: int = 0
    rotated: Rotated | None = None
    tail: bytes = wire.AT_HOME

    @classmethod
    def of(cls, head: bytes, payload: bytes, source: int, rotated: Rotated | None = None) -> Entry:
        """With the tail that belongs to its home number."""
        return cls(head, payload, source, rotated, wire.event_tail(source))


class Run(msgspec.Struct, gc=False):
    """Events that one `take` handed out: the last number, and how many records came before."""

    last: int
    records: int


class Mark(msgspec.Struct, gc=False):
    """Everything up to the number `last`, with `size` bytes in all, is durable once `records` are."""

    last: int
    size: int
    records: int


class Log:
    """Entries by number, from `first` to `last`, without a gap.

    Entries leave at the front only: released by an ack, or evicted by a limit. What `allow` says lets the
    next ones in without a look at limits and ages.
    """

    __slots__ = (
        "_ages",
        "_allowed_size",
        "_allowed_until",
        "_allowed_upto",
        "_durable",
        "_entries",
        "_marks",
        "_released",
        "_runs",
        "_saved",
        "_saved_size",
        "first",
        "last",
        "session_id",
        "size",
    )

    def __init__(self, session_id: SessionId) -> None:
        self.session_id = session_id
        self._ages = Ages()
        self._entries: list[Entry] = []
        self._runs: list[Run] = []
        self._durable = 0
        self._marks: list[Mark] = []
        self._saved = 0
        self._released = self._saved_size = 0
        """Bytes of the payloads that are gone, and of all that are known to be durable."""
        self.size = 0
        """Bytes of all payloads."""
        self.first = 1
        self.last = 0
        """The last number given out; 0 for none."""
        self.look_again()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def events(self) -> int:
        """How many there are."""
        return len(self._entries)

    @property
    def oldest_at(self) -> Time | None:
        """When the first entry was numbered."""
        return self._ages.oldest

    @property
    def newest_at(self) -> Time:
        """When the last event came, to a second; 0 before the first, also once all are released."""
        return self._ages.newest

    def append(self, entry: Entry, size: int, at: Time) -> bool:
        """Give the next number to an entry with so many bytes of payload.

        True when it goes beyond what is allowed: then limits are to be looked at.
        """
        self._entries.append(entry)
        self.last = last = self.last + 1
        self.size = held = self.size + size
        if last <= self._allowed_upto and held <= self._allowed_size and at < self._allowed_until:
            return False
        self._ages.note(last, at)
        return True

    def lets_in(self, count: int, size: int, at: Time) -> bool:
        """Whether so many more, with so many bytes, come to no limit."""
        return (
            self.last + count <= self._allowed_upto
            and self.size + size <= self._allowed_size
            and at < self._allowed_until
        )

    def add(self, entries: Sequence[Entry], size: int) -> None:
        """Give the next numbers to entries that are let in."""
        self._entries += entries
        self.last += len(entries)
        self.size += size

    def extend(self, entries: Sequence[Entry], at: Time) -> int:
        """Give the next numbers to entries that come at once; returns the bytes of their payloads.

        Limits are to be looked at afterwards.
        """
        size = sum(len(entry.payload) for entry in entries)
        if entries:
            self._ages.note(self.last + 1, at)
            self._entries += entries
            self.last += len(entries)
            self.size += size
            self.look_again()
        return size

    def due(self, at: Time) -> bool:
        """Whether limits are to be looked at."""
        return self.last > self._allowed_upto or self.size > self._allowed_size or at >= self._allowed_until

    def allow(self, upto: int, size: int, until: Time | None) -> None:
        """Limits were looked at: that is not needed again up to this number, bytes in all, and time."""
        next_mark = self._ages.next_mark
        self._allowed_upto, self._allowed_size = upto, size
        self._allowed_until = next_mark if until is None or next_mark < until else until

    def look_again(self) -> None:
        """Limits are to be looked at with the next entry."""
        self._allowed_upto = -1
        self._allowed_size = 0
        self._allowed_until = Time(0)

    def between(self, after: int, upto: int) -> list[Entry]:
        """The entries numbered above `after`, up to and with `upto`."""
        return self._entries[after + 1 - self.first : upto + 1 - self.first]

    def release(self, seq: int) -> tuple[int, int]:
        """Drop every entry numbered up to and with `seq`; returns how many those were, and their bytes."""
        count = min(seq, self.last) - self.first + 1
        if count <= 0:
            return 0, 0
        size = sum(len(entry.payload) for entry in self._entries[:count])
        self.size -= size
        self._released += size
        del self._entries[:count]
        self.first += count
        self._ages.drop(self.first)
        if not self._entries:
            self._ages.clear()
        self.look_again()
        return count, size

    def excess(self, events: int, size: int) -> int:
        """The number up to which the oldest entries go, with some to spare; 0 when within both limits."""
        if len(self._entries) <= events and self.size <= size:
            return 0
        keep_events, keep_size = events - events // 16, size - size // 16
        count, left, remaining = 0, self.size, len(self._entries)
        while remaining - count > keep_events or left > keep_size:
            left -= len(self._entries[count].payload)
            count += 1
        return self.first + count - 1

    def oldest(self, events: int, size: int) -> int:
        """The number up to which entries are as old as the first, but at most so many; at least the first."""
        end = min(self._ages.end_of_oldest(self.last), self.first + events - 1)
        upto, left = self.first, size
        while upto < end and (left := left - len(self._entries[upto - self.first].payload)) > 0:
            upto += 1
        return upto

    def older_than(self, at: Time) -> int:
        """The number up to which all was numbered before; 0 for none."""
        return self._ages.last_before(at, self.last)

    # Durability: what was numbered before its records are durable may not be sent.

    def mark_run(self, records: int) -> None:
        """Note that everything up to `last` waits for `records` to be durable."""
        if not self._runs or self._runs[-1].last < self.last:
            self._runs.append(Run(self.last, records))

    def settle(self) -> None:
        """All that is there is durable."""
        self._runs.clear()
        self._durable = self.last
        self.save(0, 0)

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

    # Back-pressure: how much of what was numbered is not durable, whenever the driver takes.

    @property
    def unsaved(self) -> tuple[int, int]:
        """Return how many entries are not known to be durable, and the bytes of their payloads."""
        size = self._released + self.size - max(self._saved_size, self._released)
        return self.last - max(self._saved, self.first - 1), size

    def mark(self, records: int) -> None:
        """Note that everything up to `last` is durable once so many records are."""
        if not self._marks or self._marks[-1].last < self.last:
            self._marks.append(Mark(self.last, self._released + self.size, records))

    def save(self, persisted: int, records: int) -> bool:
        """Note that `persisted` of `records` are durable; return whether no mark waits for the others."""
        if persisted >= records:
            self._marks.clear()
            self._saved, self._saved_size = self.last, self._released + self.size
            return True
        done = 0
        for mark in self._marks:
            if mark.records > persisted:
                break
            self._saved, self._saved_size = mark.last, mark.size
            done += 1
        del self._marks[:done]
        return not self._marks

    # Snapshots.

    def entries(self) -> list[tuple[bytes, bytes, int]]:
        """Head, payload and source of every entry."""
        return [(entry.head, entry.payload, entry.source) for entry in self._entries]

    def load(self, first: int, entries: Iterable[tuple[bytes, bytes, int]], at: Time) -> None:
        """Fill an empty log from a snapshot."""
        ensure(not self._entries, "a log is loaded once")
        self.first, self.last = first, first - 1
        for head, payload, source in entries:
            self.append(Entry.of(head, payload, source), len(payload), at)
