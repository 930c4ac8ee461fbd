"""Up to which number the user has processed what the session brought (§6.5)."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from .client_jobs import FollowedJob, behind
from .ids import MILLISECOND, JobId, Time

ACK_INTERVAL: Final = 250 * MILLISECOND
"""Between two acks, and from a processed event to its ack; the draft says every few hundred milliseconds."""
ACK_EVENTS: Final = 32
"""Processed events that are worth an ack at once, unless the last was less than an interval ago."""

Key = tuple[int, JobId]


class _HandedOut(msgspec.Struct, gc=False):
    key: Key
    size: int
    job: FollowedJob | None
    home: int
    replays: int

    @property
    def first(self) -> int:
        return self.key[0]


class _Run:
    """Events of one job with consecutive numbers and home numbers, handed out together.

    They are processed in their order; once one of them is not, the run is `taken_apart` into what is left.
    """

    __slots__ = ("_began", "_home", "_sizes", "end", "first", "job", "replays", "taken_apart")

    def __init__(self, first: int, sizes: Sequence[int], job: FollowedJob, home: int) -> None:
        self.first = self._began = first
        """The number of the first that is not processed."""
        self.end = first + len(sizes)
        """The number behind the last."""
        self.job = job
        self.replays = job.replays
        self.taken_apart: deque[_HandedOut] | None = None
        self._sizes = sizes
        self._home = home

    def advance(self, count: int) -> int:
        """The first so many of what is left are processed; returns their size."""
        start = self.first - self._began
        self.first += count
        return sum(self._sizes[start : start + count])

    def report(self) -> None:
        """All before what is left of it is processed."""
        if self.first > self._began:
            self.job.processed(behind(self._home, self.first - 1 - self._began), self.replays)

    def entries(self) -> Iterator[_HandedOut]:
        """What is left of it."""
        for place in range(self.first - self._began, len(self._sizes)):
            key, home = (self._began + place, self.job.id), behind(self._home, place)
            yield _HandedOut(key, self._sizes[place], self.job, home, self.replays)


class Acks:
    """What was handed out and is not processed yet: one entry for each event that the user still holds.

    They outlive the session: what a lost one brought is processed before what its job brings in the next.
    """

    __slots__ = ("_open", "_order", "_runs", "_stale", "processed", "sent_at", "size", "told")

    def __init__(self, now: Time) -> None:
        self.told = 0
        """What the last ack said."""
        self.sent_at = Time(now - ACK_INTERVAL)
        self.processed = 0
        """Events processed since."""
        self.size = 0
        """Bytes of what is not processed."""
        self._open: dict[Key, _HandedOut] = {}
        self._runs: dict[JobId, deque[_Run]] = {}
        """For each job those that are not processed or taken apart, by their numbers."""
        self._order: deque[_HandedOut | _Run] = deque()
        self._stale: dict[Key, deque[_HandedOut]] = {}

    def handed_out(
        self, seq: int, job_id: JobId, size: int = 0, job: FollowedJob | None = None, home: int = 0
    ) -> None:
        """The user has to process this number of a job; every other counts as processed when it comes.

        One that has waited for an answer stays where it came, and has its `job` and its place there now.
        """
        self._take_apart(seq, job_id)
        key, replays = (seq, job_id), 0 if job is None else job.replays
        entry = self._open.get(key)
        if entry is not None:
            self.size += size - entry.size
            entry.size, entry.job, entry.home, entry.replays = size, job, home, replays
            return
        entry = self._open[key] = _HandedOut(key, size, job, home, replays)
        self.size += size
        self._order.append(entry)

    def run_handed_out(self, first: int, sizes: Sequence[int], job: FollowedJob, home: int) -> None:
        """The same for consecutive numbers of a job, from `first` on: none of them was handed out before.

        `home` is the place of the first of them.
        """
        run = _Run(first, sizes, job, home)
        self.size += sum(sizes)
        self._runs.setdefault(job.id, deque()).append(run)
        self._order.append(run)

    def done(self, seq: int, job_id: JobId) -> None:
        """The user has; what was not handed out, or twice, is harmless."""
        if self._stale and self._done_stale((seq, job_id)):
            return
        runs = self._runs.get(job_id)
        if runs is not None and runs[0].first == seq:
            self._advance_run(runs, 1)
            return
        self._take_apart(seq, job_id)
        entry = self._open.pop((seq, job_id), None)
        if entry is not None:
            self.size -= entry.size
            self.processed += 1
            if seq == self._order[0].first:
                self._advance()

    def all_done(self, first: int, last: int, job_id: JobId) -> None:
        """The same for every number from `first` to `last`."""
        while first <= last:
            runs = self._runs.get(job_id)
            if runs is not None and runs[0].first == first and not self._stale:
                first += self._advance_run(runs, last + 1 - first)
            else:
                self.done(first, job_id)
                first += 1

    def cursor(self, last: int) -> int:
        """The number up to which all is processed, when everything up to `last` has come."""
        if not self._order:
            return last
        before = self._order[0].first - 1
        return before if before < last else last

    def tell(self, seq: int, now: Time) -> None:
        """An ack of `seq` is on its way."""
        self.told, self.sent_at, self.processed = seq, now, 0

    def begin_session(self, now: Time) -> None:
        """A new session begins to number from 1."""
        for entry in self._entries():
            self._stale.setdefault(entry.key, deque()).append(entry)
        self._open, self._order, self._runs = {}, deque(), {}
        self.told, self.processed, self.sent_at = 0, 0, Time(now - ACK_INTERVAL)

    def _entries(self) -> Iterator[_HandedOut]:
        """Everything that is not processed, in its order."""
        for item in self._order:
            if isinstance(item, _HandedOut):
                yield from (item,) if self._open.get(item.key) is item else ()
            elif item.taken_apart is None:
                yield from item.entries()
            else:
                yield from (one for one in item.taken_apart if self._open.get(one.key) is one)

    def _advance_run(self, runs: deque[_Run], most: int) -> int:
        """The next of a job's first run are processed, so many at most; returns how many."""
        run = runs[0]
        count = min(most, run.end - run.first)
        self.size -= run.advance(count)
        self.processed += count
        if run.first == run.end:
            runs.popleft()
            if not runs:
                del self._runs[run.job.id]
        if self._order[0] is run:
            self._advance()
        return count

    def _take_apart(self, seq: int, job_id: JobId) -> None:
        """What is left of the run that this number is in goes on one by one."""
        runs = self._runs.get(job_id)
        if runs is None or not runs[0].first <= seq < runs[-1].end:
            return
        place = bisect_right(runs, seq, key=lambda run: run.first) - 1
        run = runs[place]
        if seq >= run.end:
            return
        run.taken_apart = deque(run.entries())
        self._open.update((entry.key, entry) for entry in run.taken_apart)
        del runs[place]
        if not runs:
            del self._runs[job_id]

    def _advance(self) -> None:
        """What is processed at the front need not be kept, and its jobs have come as far."""
        while self._order:
            item = self._order[0]
            if isinstance(item, _Run):
                if not self._advance_into(item):
                    return
            elif item.key in self._open:
                return
            elif item.job is not None:
                item.job.processed(item.home, item.replays)
            self._order.popleft()

    def _advance_into(self, run: _Run) -> bool:
        """Whether all of the run at the front is processed."""
        entries = run.taken_apart
        while entries and entries[0].key not in self._open:
            entries.popleft()
            run.first = entries[0].first if entries else run.end
        run.report()
        return run.first == run.end

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
