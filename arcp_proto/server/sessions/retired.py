"""The expiry queue of finished jobs: by principal and in total, the oldest first."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from heapq import heapify, heappop, heappush

from arcp_proto.errors import ensure
from arcp_proto.ids import JobId, Monotonic, Principal

from .quotas import Ranking

_SLACK = 64


class Retired:
    """The finished jobs that are kept: a queue per principal, and a heap of the queues by their first job.

    The times passed to `add` never fall. The heap never holds more than twice the number of principals plus a
    constant. Large jobs, whose bytes count against their principal, are indexed apart, because they may be
    forgotten before older small ones.
    """

    __slots__ = ("_count", "_firsts", "_large", "_queues", "_ranking", "_size")

    def __init__(self) -> None:
        self._queues: dict[Principal, _Queue] = {}
        self._ranking = Ranking()
        self._firsts: list[tuple[Monotonic, int, Principal]] = []
        """Per queue, when its first job is to be forgotten, its place and principal; stale ones are skipped.
        """
        self._large: dict[Principal, OrderedDict[JobId, Monotonic]] = {}
        """Per principal, its large jobs and when each is to be forgotten."""
        self._count = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, job_id: JobId, principal: Principal, at: Monotonic, *, large: bool = False) -> int:
        """Add a job that has ended, to be forgotten at `at`; return how many finished jobs its principal has.

        A job is `large` when its bytes count against its principal.
        """
        self._count += 1
        self._size += 1
        if large:
            self._large.setdefault(principal, OrderedDict())[job_id] = at
        queue = self._queues.get(principal)
        if queue is None:
            queue = self._queues[principal] = _Queue()
            heappush(self._firsts, (at, self._count, principal))
        if self._ranking.kept:
            self._ranking.changed(principal, self._queues)
        return queue.append(job_id, at, self._count)

    def remove(self, principal: Principal, job_id: JobId) -> None:
        """Remove a job that is forgotten: the oldest of its principal, or one behind it."""
        queue = self._queues[principal]
        first = queue.first
        queue.remove(job_id)
        self._size -= 1
        large = self._large.get(principal)
        if large is not None and large.pop(job_id, None) is not None and not large:
            del self._large[principal]
        if self._ranking.kept:
            self._ranking.changed(principal, self._queues)
        if not len(queue):
            del self._queues[principal]
            if not self._queues:
                self._ranking.give_up()
        elif queue.first != first:
            heappush(self._firsts, (*queue.first, principal))
        if len(self._firsts) > 2 * len(self._queues) + _SLACK:
            self._firsts = [(*queue.first, principal) for principal, queue in self._queues.items()]
            heapify(self._firsts)

    @property
    def next_at(self) -> Monotonic | None:
        """When the first job of all is to be forgotten; None when there is none."""
        while self._firsts:
            at, place, principal = self._firsts[0]
            queue = self._queues.get(principal)
            if queue is not None and queue.first[1] == place:
                return at
            heappop(self._firsts)
        return None

    def due(self, now: Monotonic) -> Principal | None:
        """Return the principal of the first job of all, if that is to be forgotten by now; else None."""
        at = self.next_at
        return self._firsts[0][2] if at is not None and at <= now else None

    def count(self, principal: Principal) -> int:
        """Return how many finished jobs a principal has."""
        queue = self._queues.get(principal)
        return 0 if queue is None else len(queue)

    def oldest(self, principal: Principal) -> JobId:
        """Return the oldest finished job of a principal that has one."""
        return self._queues[principal].job_id

    def oldest_large(self, principal: Principal) -> tuple[JobId, Monotonic] | None:
        """Return the oldest large job of a principal and when it is to be forgotten; None for none."""
        large = self._large.get(principal)
        return None if large is None else next(iter(large.items()))

    def largest(self) -> Principal:
        """Return the principal with the most finished jobs."""
        return self._ranking.first(self._queues, self.count)

    def entries(self) -> list[tuple[JobId, Monotonic]]:
        """Return all jobs with their times, in the order in which they were added; for tests."""
        found = sorted(entry for queue in self._queues.values() for entry in queue.entries())
        return [(job_id, at) for _, job_id, at in found]


class _Queue:
    """The finished jobs of one principal, each with its time and its place in the order of all jobs."""

    __slots__ = ("_ats", "_early", "_gone", "_job_ids", "_places")

    def __init__(self) -> None:
        self._job_ids: list[JobId] = []
        self._ats = array("q")
        self._places = array("Q")
        self._gone = 0
        """How many entries at the front are removed."""
        self._early: dict[JobId, None] = {}
        """The removed entries behind the front."""

    def __len__(self) -> int:
        return len(self._job_ids) - self._gone - len(self._early)

    @property
    def first(self) -> tuple[Monotonic, int]:
        """When the first job is to be forgotten, and its place."""
        return Monotonic(self._ats[self._gone]), self._places[self._gone]

    @property
    def job_id(self) -> JobId:
        """The first job."""
        return self._job_ids[self._gone]

    def append(self, job_id: JobId, at: Monotonic, place: int) -> int:
        """Append a job; return how many there are."""
        self._job_ids.append(job_id)
        self._ats.append(at)
        self._places.append(place)
        return len(self._job_ids) - self._gone - len(self._early)

    def remove(self, job_id: JobId) -> None:
        """Remove a job; one that is not the first must be in the queue."""
        ensure(len(self), "nothing is left to forget")
        self._early[job_id] = None
        while self._early and self._job_ids[self._gone] in self._early:
            del self._early[self._job_ids[self._gone]]
            self._gone += 1
            if self._gone == len(self._job_ids):
                break
        if self._gone > _SLACK and 2 * self._gone > len(self._job_ids):
            del self._job_ids[: self._gone], self._ats[: self._gone], self._places[: self._gone]
            self._gone = 0
        if len(self._early) > _SLACK and 2 * len(self._early) > len(self._job_ids) - self._gone:
            self._close_ranks()

    def _close_ranks(self) -> None:
        left = [
            (job_id, at, place)
            for job_id, at, place in zip(
                self._job_ids[self._gone :], self._ats[self._gone :], self._places[self._gone :], strict=True
            )
            if job_id not in self._early
        ]
        self._job_ids = [job_id for job_id, _, _ in left]
        self._ats = array("q", [at for _, at, _ in left])
        self._places = array("Q", [place for _, _, place in left])
        self._early.clear()
        self._gone = 0

    def entries(self) -> list[tuple[int, JobId, Monotonic]]:
        """Return the place, job and time of each entry."""
        rows = zip(self._places, self._job_ids, self._ats, strict=True)
        left = [(place, job_id, Monotonic(at)) for place, job_id, at in rows][self._gone :]
        return [entry for entry in left if entry[1] not in self._early]
