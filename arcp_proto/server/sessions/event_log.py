"""The log of a session, which is both its outbox and its replay log, and the history of a job (§6.3).

Theory of operation: numbers, resume and recovery

An event has two counters. Its number (`event_seq`, §8.3) counts the numbered envelopes of one session, from
1 and without a gap. Its position (`job_seq`, a feature of arcp-io) counts the events of one job, its
terminal included, and is the same in every session, over restarts too.

Publishing encodes the body of an event once. The history of the job and the log of each session hold the
same bytes; the head with the id, the session and the number is put in front of them when a connection
pulls.

The log of a session reaches from the oldest envelope that is left to the newest one. A connection is a
cursor into it. A resume names the last number that the client has, and moves the cursor there: what follows
is sent again, the same bytes. A number that the log no longer reaches is RESUME_WINDOW_EXPIRED; a number
that was never given is INVALID_REQUEST. Acks free the log, and so do limits. How far a transport has pulled
decides nothing, because an envelope that was pulled may not have arrived.

Recovery is the way into another session, when the first one is lost. The client subscribes to its jobs from
its position in each of them, and gets the rest from their histories, with numbers of the new session and
the positions of before. One comparison finds copies: an event is new if and only if its position is above
the position of the client in that job. For this to hold, the positions of a job only rise in a session that
is told positions: a history goes first, and events that are published meanwhile wait behind it, in the
session of the submitter too (see `backlogs`).

A history is bounded. When the part above the position is gone, the answer says where the rest begins. When a
job is forgotten before its history was sent, its end comes alone and says so. So a hole is never silent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from arcp_proto.errors import ensure
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId, Monotonic, SessionId
from arcp_proto.wire.codec import OpenObject, closed_head, open_head
from arcp_proto.wire.envelopes import Entry
from arcp_proto.wire.event_bodies import FEATURE_OF_KIND


class Run(msgspec.Struct, gc=False):
    """Events that one `take` handed out: the last number, and how many records were made before."""

    last: int
    records: int


class Mark(msgspec.Struct, gc=False):
    """A bound of durability: numbers up to `last`, of `size` bytes, are durable once `records` are."""

    last: int
    size: int
    records: int


MARK: Final = SECOND
"""Nanoseconds: numbers that are noted within this time have the same age."""


class Ages:
    """An index from age to number, for numbers that grow at the end and leave at the front."""

    __slots__ = ("_marks", "_since")

    def __init__(self) -> None:
        self._marks: list[tuple[int, Monotonic]] = []
        """The first number of each mark, and when it was noted."""
        self._since = Monotonic(0)

    def note(self, number: int, at: Monotonic) -> None:
        """Note when a number was added."""
        if at - self._since >= MARK or not self._marks:
            self._marks.append((number, at))
            self._since = at

    def drop(self, first: int) -> None:
        """Drop the marks of numbers below `first`."""
        gone = 0
        while gone + 1 < len(self._marks) and self._marks[gone + 1][0] <= first:
            gone += 1
        if gone:
            del self._marks[:gone]

    def cut(self, last: int) -> None:
        """Drop the marks that begin above `last`."""
        while self._marks and self._marks[-1][0] > last:
            self._marks.pop()
        self._since = self._marks[-1][1] if self._marks else Monotonic(0)

    def clear(self) -> None:
        """Drop all marks, when no number is left."""
        self._marks.clear()

    @property
    def oldest(self) -> Monotonic | None:
        """When the first number was noted; None for none."""
        return self._marks[0][1] if self._marks else None

    @property
    def newest(self) -> Monotonic:
        """When the last mark was set, even if its numbers are gone; 0 before the first."""
        return self._since

    @property
    def next_mark(self) -> Monotonic:
        """Until when further numbers need no mark of their own; 0 when the next one needs a mark."""
        return Monotonic(self._since + MARK) if self._marks else Monotonic(0)

    def end_of_oldest(self, last: int) -> int:
        """Return the last number that is as old as the first; `last` is the last of all."""
        return self._marks[1][0] - 1 if len(self._marks) > 1 else last

    def last_before(self, at: Monotonic, last: int) -> int:
        """Return the last number of all marks that ended before `at`; 0 for none."""
        found = 0
        for index, (_, noted) in enumerate(self._marks):
            if noted + MARK > at:
                break
            found = self._marks[index + 1][0] - 1 if index + 1 < len(self._marks) else last
        return found


T = TypeVar("T")


class BoundedLog(ABC, Generic[T]):
    """Items that are numbered without a gap from `first` on, and that leave at the front only.

    Within the allowance set by `allow`, items are appended without a look at limits and ages.
    """

    __slots__ = ("_ages", "_allowed_end", "_allowed_size", "_allowed_until", "_items", "first", "size")

    def __init__(self, first: int) -> None:
        self._ages = Ages()
        self._items: list[T] = []
        self.first = first
        self.size = 0
        """Bytes of all payloads that are kept."""
        self.look_again()

    @abstractmethod
    def _sizes(self, low: int, high: int | None) -> Iterable[int]:
        """Return the bytes of the payloads of the items from index `low` on, before `high`."""

    @property
    def events(self) -> int:
        """How many items are kept."""
        return len(self._items)

    @property
    def oldest_at(self) -> Monotonic | None:
        """When the first item was added; None if there is none."""
        return self._ages.oldest

    def lets_in(self, count: int, size: int, at: Monotonic) -> bool:
        """Return whether `count` more items with `size` bytes in total fit into the allowance."""
        return (
            self.first + len(self._items) + count <= self._allowed_end
            and self.size + size <= self._allowed_size
            and at < self._allowed_until
        )

    def due(self, at: Monotonic) -> bool:
        """Return whether the log has passed its allowance, so that its limits are to be checked."""
        end = self.first + len(self._items)
        return end > self._allowed_end or self.size > self._allowed_size or at >= self._allowed_until

    def allow(self, end: int, size: int, until: Monotonic | None = None) -> None:
        """Set the allowance after a check of the limits: before this number, these bytes and this time."""
        next_mark = self._ages.next_mark
        self._allowed_end, self._allowed_size = end, size
        self._allowed_until = next_mark if until is None or next_mark < until else until

    def look_again(self) -> None:
        """Withdraw the allowance, so that the limits are checked at the next item."""
        self._allowed_end = self._allowed_size = 0
        self._allowed_until = Monotonic(0)

    def _drop(self, count: int) -> tuple[int, int]:
        """Drop the oldest items; return how many those were, and their bytes."""
        if count <= 0:
            return 0, 0
        size = sum(self._sizes(0, count))
        self.size -= size
        del self._items[:count]
        self.first += count
        self._ages.drop(self.first)
        if not self._items:
            self._ages.clear()
        self.look_again()
        return count, size

    def _excess(self, events: int, size: int) -> int:
        """Return how many of the oldest items exceed the limits, with some to spare."""
        if len(self._items) <= events and self.size <= size:
            return 0
        keep_events, keep_size = events - events // 16, size - size // 16
        count, left, remaining = 0, self.size, len(self._items)
        for payload in self._sizes(0, None):
            if remaining - count <= keep_events and left <= keep_size:
                break
            left -= payload
            count += 1
        return count


class Log(BoundedLog[Entry]):
    """The numbered events of a session, from `first` to `last`: released by an ack, or evicted by a limit."""

    __slots__ = (
        "_durable",
        "_durable_ages",
        "_held",
        "_marks",
        "_released",
        "_runs",
        "_saved",
        "_saved_size",
        "last",
        "session_id",
    )

    def __init__(self, session_id: SessionId) -> None:
        super().__init__(first=1)
        self.session_id = session_id
        self._runs: list[Run] = []
        self._durable = 0
        self._durable_ages = Ages()
        self._held: Mark | None = None
        """Events above `last` wait for an envelope in front of them, which waits for `records` records."""
        self._marks: list[Mark] = []
        self._saved = 0
        self._released = self._saved_size = 0
        """Bytes of the payloads that have left the log, and of all those known to be durable."""
        self.last = 0
        """The last number assigned; 0 for none."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def newest_at(self) -> Monotonic:
        """When the last event was numbered, to a second, even if it is released; 0 before the first."""
        return self._ages.newest

    def append(self, entry: Entry, size: int, at: Monotonic) -> bool:
        """Assign the next number to an entry with `size` bytes of payload.

        Return True when this passes the allowance: the caller then checks the limits.
        """
        self._items.append(entry)
        self.last = last = self.last + 1
        self.size = held = self.size + size
        if last < self._allowed_end and held <= self._allowed_size and at < self._allowed_until:
            return False
        self._ages.note(last, at)
        return True

    def _sizes(self, low: int, high: int | None) -> Iterable[int]:
        return (len(entry.payload) for entry in self._items[low:high])

    def add(self, entries: Sequence[Entry], size: int) -> None:
        """Assign the next numbers to entries that fit into the allowance."""
        self._items += entries
        self.last += len(entries)
        self.size += size

    def extend(self, entries: Sequence[Entry], at: Monotonic) -> int:
        """Assign the next numbers to entries that come at once; return the bytes of their payloads.

        The caller checks the limits afterwards.
        """
        size = sum(len(entry.payload) for entry in entries)
        if entries:
            self._ages.note(self.last + 1, at)
            self._items += entries
            self.last += len(entries)
            self.size += size
            self.look_again()
        return size

    def between(self, after: int, upto: int) -> list[Entry]:
        """Return the entries numbered above `after`, up to and including `upto`."""
        return self._items[after + 1 - self.first : upto + 1 - self.first]

    def release(self, seq: int) -> tuple[int, int]:
        """Drop every entry numbered up to and with `seq`; return how many those were, and their bytes."""
        count, size = self._drop(min(seq, self.last) - self.first + 1)
        self._released += size
        if count:
            self._durable_ages.drop(self.first)
            if not self._items:
                self._durable_ages.clear()
        return count, size

    def excess(self, events: int, size: int) -> int:
        """Return the number up to which the oldest entries exceed the limits, with some to spare; or 0."""
        count = self._excess(events, size)
        return self.first + count - 1 if count else 0

    def oldest(self, events: int, size: int) -> int:
        """Return the number up to which entries are as old as the first, within `events` and `size`."""
        end = min(self._ages.end_of_oldest(self.last), self.first + events - 1)
        upto, left = self.first, size
        while upto < end and (left := left - len(self._items[upto - self.first].payload)) > 0:
            upto += 1
        return upto

    def older_than(self, at: Monotonic) -> int:
        """Return the number up to which every entry was numbered before `at`; 0 for none."""
        return self._ages.last_before(at, self.last)

    # Durability: events numbered before their records are durable may not be sent.

    def mark_run(self, records: int) -> None:
        """Note that the events up to `last` may be sent once `records` records are durable."""
        if not self._runs or self._runs[-1].last < self.last:
            self._runs.append(Run(self.last, records))

    def settle(self, at: Monotonic) -> None:
        """Note that every entry in the log is durable."""
        self._runs.clear()
        self._durable = self.last
        self.save(0, 0, at)

    def visible(self, persisted: int, records: int) -> int:
        """Return the number up to which entries may be sent, when `persisted` of `records` are durable."""
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

    # Back-pressure: how much of the log is not durable, whether the driver takes or not.

    @property
    def unsaved(self) -> tuple[int, int]:
        """How many entries wait for the journal, and the bytes of their payloads.

        They are not known to be durable, or they wait for an envelope in front of them, which is not.
        """
        saved, saved_size, held = self._saved, self._saved_size, self._held
        if held is not None:
            saved, saved_size = min(saved, held.last), min(saved_size, held.size)
        size = self._released + self.size - max(saved_size, self._released)
        return self.last - max(saved, self.first - 1), size

    def mark(self, records: int) -> None:
        """Note that the log up to `last` is durable once `records` records are."""
        if not self._marks or self._marks[-1].last < self.last:
            self._marks.append(Mark(self.last, self._released + self.size, records))

    def save(self, persisted: int, records: int, at: Monotonic) -> bool:
        """Note that `persisted` of `records` are durable; return whether no mark waits for the others."""
        saved, held = self._saved, self._held
        self._save(persisted, records)
        if held is not None:
            if persisted < held.records and persisted < records:
                return False
            saved, self._held = max(held.last, self.first - 1), None
        if self._saved > saved and self._items:
            self._durable_ages.note(saved + 1, at)
        return not self._marks

    def hold(self, after: int, records: int) -> None:
        """Note that entries above `after` are sent behind an envelope that waits until `records` are durable.

        Their age counts from then on, and until then they count as not durable: they cannot be sent before.
        """
        if self._held is not None and self._held.last <= after:
            self._held.records = records
        else:
            self._held = Mark(after, self._released + self._size_upto(after), records)
        self._durable_ages.cut(self._held.last)

    def _size_upto(self, seq: int) -> int:
        """Return the bytes of the payloads of all entries up to and with a number."""
        count = max(seq - self.first + 1, 0)
        if count <= len(self._items) // 2:
            return sum(self._sizes(0, count))
        return self.size - sum(self._sizes(count, None))

    def durable_before(self, at: Monotonic) -> int:
        """Return the number up to which every entry could be sent before `at`; 0 for none."""
        last = self._saved if self._held is None else min(self._saved, self._held.last)
        return self._durable_ages.last_before(at, last)

    def _save(self, persisted: int, records: int) -> None:
        if persisted >= records:
            self._marks.clear()
            self._saved, self._saved_size = self.last, self._released + self.size
            return
        done = 0
        for mark in self._marks:
            if mark.records > persisted:
                break
            self._saved, self._saved_size = mark.last, mark.size
            done += 1
        del self._marks[:done]

    # Snapshots.

    def entries(self) -> list[tuple[bytes, OpenObject, int]]:
        """Return head, payload and 0 of every entry: the form of versions before positions."""
        heads = dict.fromkeys(entry.head for entry in self._items)
        closed = {head: closed_head(head) for head in heads}
        return [(closed[entry.head], entry.payload, 0) for entry in self._items]

    def positions(self) -> list[int]:
        """Return the position of every entry."""
        return [entry.position for entry in self._items]

    def load(
        self,
        first: int,
        entries: Iterable[tuple[bytes, OpenObject, int]],
        positions: Iterable[int],
        at: Monotonic,
    ) -> None:
        """Fill an empty log from a snapshot, which has no positions for a session without them."""
        ensure(not self._items, "a log is loaded once")
        self.first, self.last = first, first - 1
        for (head, payload, _), position in zip(entries, chain(positions, repeat(0)), strict=False):
            self.append(Entry(open_head(head), payload, position), len(payload), at)


_FEATURES: Final[Sequence[str | None]] = (
    None,
    *dict.fromkeys(FEATURE_OF_KIND.values()),
    Feature.PROVISIONED_CREDENTIALS,
)
_CODES: Final = {feature: code for code, feature in enumerate(_FEATURES)}


class Past(NamedTuple):
    """An event of a history: its payload, home number, and the feature it needs."""

    payload: OpenObject
    source: int
    feature: str | None


class History(BoundedLog[OpenObject]):
    """The events of a job by position, from `first` to before `end`.

    A position counts the events of the job from 0. Home numbers never fall from one event to the next.
    """

    __slots__ = ("_features", "_sources", "cut", "end", "job_id")

    def __init__(self, job_id: JobId) -> None:
        super().__init__(first=0)
        self.job_id = job_id
        self._sources = array("Q")
        self._features = bytearray()
        """The codes of the features that events need, up to the last event that needs one."""
        self.end = 0
        """The position of the next event."""
        self.cut = 0
        """The home number of the last event that was dropped."""

    def append(self, payload: OpenObject, source: int, feature: str | None, size: int, at: Monotonic) -> bool:
        """Append a published event with `size` bytes of payload.

        Return True when this passes the allowance: the caller then checks the limits.
        """
        self._items.append(payload)
        self._sources.append(source)
        if feature is not None:
            self._need(feature)
        position = self.end
        self.end = position + 1
        self.size = held = self.size + size
        if position < self._allowed_end and held <= self._allowed_size and at < self._allowed_until:
            return False
        self._ages.note(position, at)
        return True

    def _sizes(self, low: int, high: int | None) -> Iterable[int]:
        return map(len, self._items[low:high])

    def add(self, payloads: Sequence[OpenObject], source: int, size: int) -> None:
        """Append events that need no feature and fit into the allowance, numbered at home from `source`."""
        self._items += payloads
        self._sources.extend(range(source, source + len(payloads)))
        self.end += len(payloads)
        self.size += size

    def _need(self, feature: str) -> None:
        """Note the feature that the last event needs."""
        self._features.extend(bytes(len(self._items) - 1 - len(self._features)))
        self._features.append(_CODES[feature])

    def _code(self, index: int) -> int:
        return self._features[index] if index < len(self._features) else 0

    def after(self, source: int) -> int:
        """Return the position of the first event whose home number is above `source`."""
        return self.first + bisect_right(self._sources, source)

    def source_at(self, position: int) -> int:
        """Return the home number of the event at a position that is kept."""
        return self._sources[position - self.first]

    def between(self, start: int, end: int) -> Iterable[Past]:
        """Return the events from position `start` on, before `end`."""
        low, high = start - self.first, end - self.first
        features = [_FEATURES[code] for code in self._features[low:high]]
        features += [None] * (high - low - len(features))
        return map(Past, self._items[low:high], self._sources[low:high], features)

    def last_with(self, feature: str) -> OpenObject | None:
        """Return the payload of the last event that is kept and needs a feature; None for none."""
        index = self._features.rfind(_CODES[feature])
        return None if index < 0 else self._items[index]

    def reach(self, start: int, events: int, size: int) -> int:
        """Return the position that `events` events and `size` bytes from `start` reach, at least the next."""
        end, position, left = min(self.end, start + events), start, size
        while position < end and left > 0:
            left -= len(self._items[position - self.first])
            position += 1
        return position

    def release(self, upto: int) -> tuple[int, int]:
        """Drop every event before position `upto`; return how many those were, and their bytes."""
        count = min(upto, self.end) - self.first
        if count > 0:
            self.cut = self._sources[count - 1]
            del self._sources[:count], self._features[:count]
        return self._drop(count)

    def excess(self, events: int, size: int) -> int:
        """Return the position before which the oldest events exceed the limits, with some to spare; or 0."""
        count = self._excess(events, size)
        return self.first + count if count else 0

    def oldest(self, events: int, size: int) -> int:
        """Return the position before which events are as old as the first, within `events` and `size`."""
        end = min(self._ages.end_of_oldest(self.end - 1) + 1, self.first + events)
        return max(self.first + 1, self.reach(self.first, end - self.first, size))

    # Snapshots.

    def entries(self) -> list[tuple[OpenObject, int, int]]:
        """Return payload, home number and feature code of every event."""
        codes = map(self._code, range(len(self._items)))
        return list(zip(self._items, self._sources, codes, strict=True))

    def load(
        self, first: int, cut: int, entries: Sequence[tuple[OpenObject, int, int]], at: Monotonic
    ) -> None:
        """Fill an empty history from a snapshot."""
        self.first, self.end, self.cut = first, first, cut
        for payload, source, code in entries:
            self.append(payload, source, _FEATURES[code], len(payload), at)
