"""The events of one job, kept for observers: bounded by itself, and not touched by acks (§7.6)."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .ages import Ages
from .credentials import FEATURE
from .events import FEATURE_OF_KIND
from .ids import JobId, Time

_FEATURES: Final[Sequence[str | None]] = (None, *dict.fromkeys(FEATURE_OF_KIND.values()), FEATURE)
_CODES: Final = {feature: code for code, feature in enumerate(_FEATURES)}


class Past(NamedTuple):
    """One event of a history: its payload without the last brace, its home number, the feature it needs."""

    payload: bytes
    source: int
    feature: str | None


class History:
    """Events by position, from `first` to before `end`.

    A position counts the events of the job from 0; the home number of each does not fall. What `allow` says
    lets the next ones in without a look at limits and ages.
    """

    __slots__ = (
        "_ages",
        "_allowed_end",
        "_allowed_size",
        "_allowed_until",
        "_features",
        "_payloads",
        "_sources",
        "cut",
        "end",
        "first",
        "job_id",
        "size",
    )

    def __init__(self, job_id: JobId) -> None:
        self.job_id = job_id
        self._ages = Ages()
        self._payloads: list[bytes] = []
        self._sources = array("Q")
        self._features = bytearray()
        """What they need, up to the last one that needs any."""
        self.first = 0
        self.end = 0
        """The position of the next event."""
        self.cut = 0
        """The home number of the last event that is gone."""
        self.size = 0
        """Bytes of all payloads."""
        self.look_again()

    @property
    def events(self) -> int:
        """How many there are."""
        return len(self._payloads)

    @property
    def oldest_at(self) -> Time | None:
        """When the first of them was published."""
        return self._ages.oldest

    def append(self, payload: bytes, source: int, feature: str | None, size: int, at: Time) -> bool:
        """One event was published, with so many bytes of payload.

        True when it goes beyond what is allowed: then limits are to be looked at.
        """
        self._payloads.append(payload)
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

    def lets_in(self, count: int, size: int, at: Time) -> bool:
        """Whether so many more, with so many bytes, come to no limit."""
        return (
            self.end + count <= self._allowed_end
            and self.size + size <= self._allowed_size
            and at < self._allowed_until
        )

    def add(self, payloads: Sequence[bytes], source: int, size: int) -> None:
        """Events that need no feature and are let in were published, under home numbers from `source` on."""
        self._payloads += payloads
        self._sources.extend(range(source, source + len(payloads)))
        self.end += len(payloads)
        self.size += size

    def _need(self, feature: str) -> None:
        """The last event needs a feature."""
        self._features.extend(bytes(len(self._payloads) - 1 - len(self._features)))
        self._features.append(_CODES[feature])

    def _code(self, index: int) -> int:
        return self._features[index] if index < len(self._features) else 0

    def due(self, at: Time) -> bool:
        """Whether limits are to be looked at."""
        return self.end > self._allowed_end or self.size > self._allowed_size or at >= self._allowed_until

    def allow(self, end: int, size: int) -> None:
        """Limits were looked at: that is not needed again up to this end, bytes in all, and mark of time."""
        self._allowed_end, self._allowed_size, self._allowed_until = end, size, self._ages.next_mark

    def look_again(self) -> None:
        """Limits are to be looked at with the next event."""
        self._allowed_end = self._allowed_size = 0
        self._allowed_until = Time(0)

    def after(self, source: int) -> int:
        """The position of the first event whose home number is above `source`."""
        return self.first + bisect_right(self._sources, source)

    def source_at(self, position: int) -> int:
        """The home number of the event at a position that is kept."""
        return self._sources[position - self.first]

    def between(self, start: int, end: int) -> Iterable[Past]:
        """The events from position `start` on, before `end`."""
        low, high = start - self.first, end - self.first
        features = [_FEATURES[code] for code in self._features[low:high]]
        features += [None] * (high - low - len(features))
        return map(Past, self._payloads[low:high], self._sources[low:high], features)

    def reach(self, start: int, events: int, size: int) -> int:
        """The position to which one goes from `start` with so many events and bytes; at least one event."""
        end, position, left = min(self.end, start + events), start, size
        while position < end and left > 0:
            left -= len(self._payloads[position - self.first])
            position += 1
        return position

    def release(self, upto: int) -> tuple[int, int]:
        """Drop every event before position `upto`; returns how many those were, and their bytes."""
        count = min(upto, self.end) - self.first
        if count <= 0:
            return 0, 0
        size = sum(map(len, self._payloads[:count]))
        self.cut = self._sources[count - 1]
        self.size -= size
        del self._payloads[:count], self._sources[:count], self._features[:count]
        self.first += count
        self._ages.drop(self.first)
        if not self._payloads:
            self._ages.clear()
        self.look_again()
        return count, size

    def excess(self, events: int, size: int) -> int:
        """The position before which the oldest events go, with some to spare; 0 when within both limits."""
        if len(self._payloads) <= events and self.size <= size:
            return 0
        keep_events, keep_size = events - events // 16, size - size // 16
        count, left, remaining = 0, self.size, len(self._payloads)
        while remaining - count > keep_events or left > keep_size:
            left -= len(self._payloads[count])
            count += 1
        return self.first + count

    def oldest(self, events: int, size: int) -> int:
        """The position before which all is as old as the first, but at most so many; past the first."""
        end = min(self._ages.end_of_oldest(self.end - 1) + 1, self.first + events)
        return max(self.first + 1, self.reach(self.first, end - self.first, size))

    # Snapshots.

    def entries(self) -> list[tuple[bytes, int, int]]:
        """Payload, home number and feature's code of every event."""
        codes = map(self._code, range(len(self._payloads)))
        return list(zip(self._payloads, self._sources, codes, strict=True))

    def load(self, first: int, cut: int, entries: Sequence[tuple[bytes, int, int]], at: Time) -> None:
        """Fill an empty history from a snapshot."""
        self.first, self.end, self.cut = first, first, cut
        for payload, source, code in entries:
            self.append(payload, source, _FEATURES[code], len(payload), at)
