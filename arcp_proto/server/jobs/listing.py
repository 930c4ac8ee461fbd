"""The job listing: newest first, page by page (§6.6).

The order is that of acceptance, so that no clock changes it. A page costs what it shows, however many jobs
there are.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple, Self

import msgspec

from arcp_proto.errors import ErrorCode, Refusal, ensure
from arcp_proto.ids import MILLISECOND, JobId, Principal, UnixTime
from arcp_proto.job_statuses import JobStatus
from arcp_proto.limits import MAX_STATUS_WORDS
from arcp_proto.wire import codec
from arcp_proto.wire.messages import JobFilter
from arcp_proto.wire.timestamps import parse_time

from .job import Job

_CHUNK: Final = 512
"""Numbers in a chunk before it is cut in two."""
_STATUSES: Final = frozenset(JobStatus)
_INDEXED: Final = _STATUSES | {None}
_NUMBER_BYTES: Final = 8
_TAG_BYTES: Final = 16


class Filter(msgspec.Struct, frozen=True):
    """The filter of a listing; None asks for all.

    `statuses` are sorted words of the wire, without unknown ones, which match nothing. `agent` is a name or
    `name@version`. Times are Unix times in nanoseconds, both exclusive, and are compared with `created_at` as
    it is written, to the millisecond.
    """

    statuses: tuple[str, ...] | None = None
    agent: str | None = None
    created_after: UnixTime | None = None
    created_before: UnixTime | None = None

    @classmethod
    def of(cls, asked: JobFilter | None) -> Self:
        """Return the filter of a request.

        Raises Refusal INVALID_REQUEST for a wrong time, and for more statuses than MAX_STATUS_WORDS.
        """
        if asked is None:
            return cls()
        if asked.status is not None and len(asked.status) > MAX_STATUS_WORDS:
            message = f"filter.status names more than {MAX_STATUS_WORDS} statuses"
            details = {"limit": "filter_status", "max": MAX_STATUS_WORDS}
            raise Refusal(ErrorCode.INVALID_REQUEST, message, details=details)
        return cls(
            None if asked.status is None else tuple(sorted(_STATUSES.intersection(asked.status))),
            asked.agent,
            _time("created_after", asked.created_after),
            _time("created_before", asked.created_before),
        )

    @property
    def indexed(self) -> bool:
        """Whether the index alone answers it, without a look at jobs."""
        return self.agent is None and self.created_after is None and self.created_before is None

    def matches(self, job: Job) -> bool:
        """Return whether the filter asks for a job."""
        created = job.terms.accepted_at // MILLISECOND * MILLISECOND
        return (
            (self.statuses is None or job.status in self.statuses)
            and (self.agent is None or self.agent in (job.terms.agent, job.agent))
            and (self.created_after is None or created > self.created_after)
            and (self.created_before is None or created < self.created_before)
        )


class Everybody(NamedTuple):
    """All principals of a tenant, as the owners of a listing."""

    tenant: str = ""


class Listing:
    """The jobs by number: for each principal, and in each other way that was asked for.

    An index of a whole tenant or of one status is made when it is first asked for, and kept up to date from
    then on. So jobs that are not listed in this way cost nothing.
    """

    __slots__ = ("_children", "_jobs", "_owned", "asked")

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._children: dict[JobId, dict[JobId, None]] = {}
        """The listed jobs that each job has delegated, oldest first."""
        self._owned: dict[Principal, _Numbers] = {}
        self.asked: dict[Principal | Everybody, dict[str | None, _Numbers]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def job(self, number: int) -> Job:
        """Return the listed job of a number."""
        return self._jobs[number]

    def children_of(self, job_id: JobId) -> list[JobId]:
        """Return the listed jobs that a job has delegated, oldest first (§10)."""
        return list(self._children.get(job_id, ()))

    def add(self, job: Job) -> None:
        """List a new job in its present status."""
        number, principal, parent_id = job.number, job.terms.principal, job.terms.parent_job_id
        ensure(number not in self._jobs, "a job is listed once")
        self._jobs[number] = job
        owned = self._owned.get(principal)
        if owned is None:
            owned = self._owned[principal] = _Numbers()
        owned.add(number)
        if parent_id is not None:
            self._children.setdefault(parent_id, {})[job.id] = None
        if self.asked:
            for index in self._asked_of(job, (None, job.status)):
                index.add(number)

    def changed(self, job: Job, old_status: JobStatus) -> None:
        """Move a listed job from its old status to its present one."""
        ensure(job.number in self._jobs, "a job that is not listed has changed")
        if self.asked:
            for index in self._asked_of(job, (old_status,)):
                index.remove(job.number)
            for index in self._asked_of(job, (job.status,)):
                index.add(job.number)

    def remove(self, job: Job) -> None:
        """Remove a job that is forgotten."""
        number, principal, parent_id = job.number, job.terms.principal, job.terms.parent_job_id
        del self._jobs[number]
        if parent_id is not None:
            del self._children[parent_id][job.id]
            if not self._children[parent_id]:
                del self._children[parent_id]
        owned = self._owned[principal]
        owned.remove(number)
        if self.asked:
            for index in self._asked_of(job, (None, job.status)):
                index.remove(number)
        if not owned.chunks:
            del self._owned[principal]
            self.asked.pop(principal, None)
        if not self._jobs:
            self.asked.clear()

    def below(
        self,
        owners: Sequence[Principal] | Everybody,
        statuses: Sequence[str] | None,
        number: int | None,
    ) -> Iterator[int]:
        """Yield numbers below `number` in descending order, of these owners and statuses; None means all.

        The iterator is lazy: only the numbers taken from it cost time. It is valid until the listing changes.
        """
        rows = [
            self._index(owner, status).below(number)
            for owner in ((owners,) if isinstance(owners, Everybody) else dict.fromkeys(owners))
            for status in (dict.fromkeys(statuses) if statuses is not None else (None,))
            if (self._jobs if isinstance(owner, Everybody) else owner in self._owned) and status in _INDEXED
        ]
        return rows[0] if len(rows) == 1 else merge(*rows, reverse=True)

    def _index(self, owner: Principal | Everybody, status: str | None) -> _Numbers:
        """Return the index of an owner that has jobs, or of a tenant; make it when it does not exist."""
        if not isinstance(owner, Everybody) and status is None:
            return self._owned[owner]
        of_owner = self.asked.setdefault(owner, {})
        index = of_owner.get(status)
        if index is None:
            jobs = self._jobs
            if isinstance(owner, Everybody):
                numbers = sorted(one for one in jobs if jobs[one].terms.tenant == owner.tenant)
            else:
                numbers = [*self._owned[owner].below(None)][::-1]
            index = of_owner[status] = _Numbers()
            for number in numbers:
                if status is None or jobs[number].status == status:
                    index.add(number)
        return index

    def _asked_of(self, job: Job, statuses: Sequence[str | None]) -> Iterator[_Numbers]:
        """Yield the existing indexes of these statuses that hold the jobs of the owner of a job."""
        for owner in (job.terms.principal, Everybody(job.terms.tenant)):
            of_owner = self.asked.get(owner, {})
            for status in statuses:
                if status in of_owner:
                    yield of_owner[status]


def page(
    listing: Listing,
    owners: Sequence[Principal] | Everybody,
    filter: Filter,
    below: int | None,
    limit: int,
    scan: int,
) -> tuple[list[Job], int | None]:
    """Return at most `limit` jobs numbered below `below`, newest first, of these owners.

    A filter that is not `indexed` looks at no more than `scan` jobs, and the page holds what it found. The
    second value is the number below which the next page begins; None when nothing is left to look at.
    """
    ensure(limit > 0 and scan > 0, "a page looks at one job at least")
    numbers = listing.below(owners, filter.statuses, below)
    if filter.indexed:
        shown = list(islice(numbers, limit))
        return [listing.job(number) for number in shown], _next_below(shown, numbers)
    looked: list[int] = []
    found: list[Job] = []
    for number in islice(numbers, scan):
        looked.append(number)
        job = listing.job(number)
        if filter.matches(job):
            found.append(job)
            if len(found) == limit:
                break
    return found, _next_below(looked, numbers)


def _next_below(looked: list[int], rest: Iterator[int]) -> int | None:
    return looked[-1] if looked and next(rest, None) is not None else None


class Cursors:
    """Cursors as authenticated text, each for one place, one principal and one filter.

    A cursor of a guest is for one tenant, too.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        """Take a secret `key` of 16 to 64 bytes."""
        ensure(16 <= len(key) <= 64, "a key of cursors has 16 to 64 bytes")
        self._key = key

    def write(self, principal: Principal, filter: Filter, number: int, visited: str | None = None) -> str:
        """Return the cursor of a page that begins below `number`, of a tenant that a guest has visited."""
        place = (number, principal.encode("utf-8", "surrogatepass"), filter)
        bound = codec.encode_checked(place if visited is None else (*place, visited))
        tag = hashlib.blake2b(bound, key=self._key, digest_size=_TAG_BYTES, person=b"arcp-cursor").digest()
        hidden = self._hidden(number.to_bytes(_NUMBER_BYTES, "big"), tag)
        return base64.urlsafe_b64encode(hidden + tag).decode()

    def read(self, cursor: str, principal: Principal, filter: Filter, visited: str | None = None) -> int:
        """Return the number in a cursor; raises Refusal INVALID_REQUEST if it is of another listing."""
        refusal = Refusal(ErrorCode.INVALID_REQUEST, "the cursor is not one of this listing and filter")
        try:
            data = base64.urlsafe_b64decode(cursor)
            number = int.from_bytes(self._hidden(data[:_NUMBER_BYTES], data[_NUMBER_BYTES:]), "big")
        except ValueError:
            raise refusal from None
        written = self.write(principal, filter, number, visited).encode()
        if not hmac.compare_digest(written, cursor.encode("utf-8", "surrogatepass")):
            raise refusal
        return number

    def _hidden(self, place: bytes, tag: bytes) -> bytes:
        """Encrypt or decrypt a place, because it would tell how many jobs other principals have."""
        tag = tag[:_TAG_BYTES]
        pad = hashlib.blake2b(tag, key=self._key, digest_size=_NUMBER_BYTES, person=b"arcp-place").digest()
        return bytes(a ^ b for a, b in zip(place, pad, strict=False))


class _Numbers:
    """Numbers in ascending order, in chunks; adding or removing one takes logarithmic time and a short move.

    No chunk is empty, so that each step of a walk finds at least one number.
    """

    __slots__ = ("chunks", "firsts")

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self.firsts: list[int] = []

    def add(self, number: int) -> None:
        """Add a number that is not there."""
        last = self.chunks[-1] if self.chunks else None
        if last is None or number > last[-1]:
            if last is not None and len(last) < _CHUNK:
                last.append(number)
            else:
                self.chunks.append([number])
                self.firsts.append(number)
            return
        place = max(bisect_right(self.firsts, number) - 1, 0)
        chunk = self.chunks[place]
        chunk.insert(bisect_left(chunk, number), number)
        if len(chunk) > _CHUNK:
            self.chunks.insert(place + 1, chunk[_CHUNK // 2 :])
            self.firsts.insert(place + 1, chunk[_CHUNK // 2])
            del chunk[_CHUNK // 2 :]
        self.firsts[place] = chunk[0]

    def remove(self, number: int) -> None:
        """Remove a number that is there."""
        place = bisect_right(self.firsts, number) - 1
        ensure(place >= 0, "a number that is not listed was to be removed")
        chunk = self.chunks[place]
        at = bisect_left(chunk, number)
        ensure(at < len(chunk) and chunk[at] == number, "a number that is not listed was to be removed")
        del chunk[at]
        if chunk:
            self.firsts[place] = chunk[0]
        else:
            del self.chunks[place], self.firsts[place]

    def below(self, number: int | None) -> Iterator[int]:
        """Yield the numbers below `number` in descending order; None: all numbers."""
        place = len(self.chunks) if number is None else bisect_left(self.firsts, number)
        if number is not None and place:
            place -= 1
            chunk = self.chunks[place]
            yield from reversed(chunk[: bisect_left(chunk, number)])
        while place:
            place -= 1
            yield from reversed(self.chunks[place])


def _time(name: str, text: str | None) -> UnixTime | None:
    if text is None:
        return None
    unix = parse_time(text)
    if unix is None:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"filter.{name} is not an RFC 3339 time")
    return unix
