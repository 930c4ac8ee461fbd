"""Up to which number the user has processed what the session brought (§6.5)."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from .client_jobs import FollowedJob
from .ids import MILLISECOND, JobId, Time

ACK_INTERVAL: Final = 250 * MILLISECOND
"""Between two acks, and from a processed event to its ack; the draft says every few hundred milliseconds."""
ACK_EVENTS: Final = 32
"""Processed events that are worth an ack at once, unless the last was less than an interval ago."""

Key = tuple[int, JobId]


class _HandedOut(msgspec.Struct, frozen=True, gc=False):
    key: Key
    size: int
    job: FollowedJob | None
    home: int
    replays: int


class Acks:
    """What was handed out and is not processed yet: one entry for each event that the user still holds.

    They outlive the session: what a lost one brought is processed before what its job brings in the next.
    """

    __slots__ = ("_open", "_order", "_stale", "processed", "sent_at", "size", "told")

    def __init__(self, now: Time) -> None:
        self.told = 0
        """What the last ack said."""
        self.sent_at = Time(now - ACK_INTERVAL)
        self.processed = 0
        """Events processed since."""
        self.size = 0
        """Bytes of what is not processed."""
        self._open: dict[Key, _HandedOut] = {}
        self._order: deque[_HandedOut] = deque()
        self._stale: dict[Key, deque[_HandedOut]] = {}

    def handed_out(
        self, seq: int, job_id: JobId, size: int = 0, job: FollowedJob | None = None, home: int = 0
    ) -> None:
        """The user has to process this number of a job; every other counts as processed when it comes."""
        entry = _HandedOut((seq, job_id), size, job, home, 0 if job is None else job.replays)
        again = self._open.get(entry.key)
        self.size += size - (0 if again is None else again.size)
        self._open[entry.key] = entry
        self._order.append(entry)

    def done(self, seq: int, job_id: JobId) -> None:
        """The user has; what was not handed out, or twice, is harmless."""
        if self._stale and self._done_stale((seq, job_id)):
            return
        entry = self._open.pop((seq, job_id), None)
        if entry is not None:
            self.size -= entry.size
            self.processed += 1
            if entry.key == self._order[0].key:
                self._advance()

    def cursor(self, last: int) -> int:
        """The number up to which all is processed, when everything up to `last` has come."""
        if not self._order:
            return last
        before = self._order[0].key[0] - 1
        return before if before < last else last

    def tell(self, seq: int, now: Time) -> None:
        """An ack of `seq` is on its way."""
        self.told, self.sent_at, self.processed = seq, now, 0

    def begin_session(self, now: Time) -> None:
        """A new session begins to number from 1."""
        for entry in self._order:
            if self._open.get(entry.key) is entry:
                self._stale.setdefault(entry.key, deque()).append(entry)
        self._open, self._order = {}, deque()
        self.told, self.processed, self.sent_at = 0, 0, Time(now - ACK_INTERVAL)

    def _advance(self) -> None:
        """What is processed at the front need not be kept, and its jobs have come as far."""
        while self._order and self._order[0].key not in self._open:
            entry = self._order.popleft()
            if entry.job is not None:
                entry.job.processed(entry.home, entry.replays)

    def _done_stale(self, key: Key) -> bool:
        """Whether this was of a lost session; within a job everything is processed in its order."""
        entries = self._stale.get(key)
        if entries is None:
            return False
        entry = entries.popleft()
        if not entries:
            del self._stale[key]
        self.size -= entry.size
        if entry.job is not None:
            entry.job.processed(entry.home, entry.replays)
        return True
