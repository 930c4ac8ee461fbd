"""Which jobs are there: newest first, page by page (§6.6).

Order is that of acceptance, so no clock changes it, and a page costs what it shows, however many jobs
there are.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import merge
from typing import Final, Self

import msgspec

from . import wire
from .errors import ErrorCode, Refusal, ensure
from .ids import MILLISECOND, Principal, Time
from .job import Job, Status
from .messages import JobFilter
from .times import parse_time

_CHUNK: Final = 512
"""Numbers of one chunk, before it is cut in two."""
_NUMBER_BYTES: Final = 8
_TAG_BYTES: Final = 16


class Filter(msgspec.Struct, frozen=True):
    """Which jobs are asked for; None asks for all.

    `statuses` are words of the wire, sorted; an unknown one matches nothing. `agent` is a name or
    `name@version`. Times are Unix times in nanoseconds, both exclusive, and compared with `created_at` as
    it is written, to the millisecond.
    """

    statuses: tuple[str, ...] | None = None
    agent: str | None = None
    created_after: Time | None = None
    created_before: Time | None = None

    @classmethod
    def of(cls, asked: JobFilter | None) -> Self:
        """The filter of a request; raises Refusal INVALID_REQUEST for a time that is none."""
        if asked is None:
            return cls()
        return cls(
            None if asked.status is None else tuple(sorted(dict.fromkeys(asked.status))),
            asked.agent,
            _time("created_after", asked.created_after),
            _time("created_before", asked.created_before),
        )

    @property
    def indexed(self) -> bool:
        """Whether the index alone answers it, and no job has to be looked at."""
        return self.agent is None and self.created_after is None and self.created_before is None

    def matches(self, job: Job) -> bool:
        """Whether a job is asked for."""
        created = job.terms.accepted_at // MILLISECOND * MILLISECOND
        return (
            (self.statuses is None or job.status in self.statuses)
            and (self.agent is None or self.agent in (job.terms.agent, job.agent))
            and (self.created_after is None or created > self.created_after)
            and (self.created_before is None or created < self.created_before)
        )


class Listing:
    """The jobs by number: of each principal and of all, in any status and in each."""

    __slots__ = ("_indexes", "_jobs")

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._indexes: dict[tuple[Principal | None, str | None], _Numbers] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def job(self, number: int) -> Job:
        """The job of a number that is listed."""
        return self._jobs[number]

    def add(self, job: Job) -> None:
        """A job is there from now on, in the status that it has."""
        ensure(job.number not in self._jobs, "a job is listed once")
        self._jobs[job.number] = job
        for owner in (job.terms.principal, None):
            self._put(owner, None, job.number)
            self._put(owner, job.status, job.number)

    def changed(self, job: Job, old_status: Status) -> None:
        """A listed job has another status than before."""
        for owner in (job.terms.principal, None):
            self._take(owner, old_status, job.number)
            self._put(owner, job.status, job.number)

    def remove(self, job: Job) -> None:
        """A job is forgotten."""
        del self._jobs[job.number]
        for owner in (job.terms.principal, None):
            self._take(owner, None, job.number)
            self._take(owner, job.status, job.number)

    def below(
        self, owners: Sequence[Principal] | None, statuses: Sequence[str] | None, number: int | None
    ) -> Iterator[int]:
        """Numbers below `number` in descending order, of these owners and statuses; None means all.

        Lazy: what is not asked for costs nothing. Valid until the listing changes.
        """
        rows = [
            self._indexes[owner, status].below(number)
            for owner in (dict.fromkeys(owners) if owners is not None else (None,))
            for status in (dict.fromkeys(statuses) if statuses is not None else (None,))
            if (owner, status) in self._indexes
        ]
        return rows[0] if len(rows) == 1 else merge(*rows, reverse=True)

    def _put(self, owner: Principal | None, status: str | None, number: int) -> None:
        index = self._indexes.get((owner, status))
        if index is None:
            index = self._indexes[owner, status] = _Numbers()
        index.add(number)

    def _take(self, owner: Principal | None, status: str | None, number: int) -> None:
        index = self._indexes[owner, status]
        index.remove(number)
        if not index.chunks:
            del self._indexes[owner, status]


def page(
    listing: Listing,
    owners: Sequence[Principal] | None,
    filter: Filter,
    below: int | None,
    limit: int,
    scan: int,
) -> tuple[list[Job], int | None]:
    """At most `limit` jobs numbered below `below`, newest first, of these owners; None: of all principals.

    A filter that is not `indexed` looks at no more than `scan` jobs, and the page holds what it found. The
    second value is the number below which the next page begins; None when nothing is left to look at.
    """
    ensure(limit > 0 and scan > 0, "a page looks at one job at least")
    indexed = filter.indexed
    found: list[Job] = []
    last: int | None = None
    for looked, number in enumerate(listing.below(owners, filter.statuses, below)):
        if len(found) == limit or (looked == scan and not indexed):
            return found, last
        last = number
        job = listing.job(number)
        if indexed or filter.matches(job):
            found.append(job)
    return found, None


class Cursors:
    """Where the next page begins, as text that only this key can make, for one principal and one filter."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        """`key` is secret, of 16 to 64 bytes."""
        ensure(16 <= len(key) <= 64, "a key of cursors has 16 to 64 bytes")
        self._key = key

    def write(self, principal: Principal, filter: Filter, number: int) -> str:
        """The cursor of a page that begins below `number`."""
        bound = wire.encode_checked((number, principal.encode("utf-8", "surrogatepass"), filter))
        tag = hashlib.blake2b(bound, key=self._key, digest_size=_TAG_BYTES, person=b"arcp-cursor").digest()
        place = self._hidden(number.to_bytes(_NUMBER_BYTES, "big"), tag)
        return base64.urlsafe_b64encode(place + tag).decode()

    def read(self, cursor: str, principal: Principal, filter: Filter) -> int:
        """The number of a cursor; raises Refusal INVALID_REQUEST unless `write` made it of the same."""
        refusal = Refusal(ErrorCode.INVALID_REQUEST, "the cursor is not one of this listing and filter")
        try:
            data = base64.urlsafe_b64decode(cursor)
            number = int.from_bytes(self._hidden(data[:_NUMBER_BYTES], data[_NUMBER_BYTES:]), "big")
        except ValueError:
            raise refusal from None
        written = self.write(principal, filter, number).encode()
        if not hmac.compare_digest(written, cursor.encode("utf-8", "surrogatepass")):
            raise refusal
        return number

    def _hidden(self, place: bytes, tag: bytes) -> bytes:
        """A place as nobody can read it, or again as it is: it would tell how many jobs others have."""
        tag = tag[:_TAG_BYTES]
        pad = hashlib.blake2b(tag, key=self._key, digest_size=_NUMBER_BYTES, person=b"arcp-place").digest()
        return bytes(a ^ b for a, b in zip(place, pad, strict=False))


class _Numbers:
    """Numbers in ascending order, in chunks: one is put in or taken out in logarithmic time and a short move.

    No chunk is empty, so that whoever walks them finds one number at least in each.
    """

    __slots__ = ("chunks", "firsts")

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self.firsts: list[int] = []

    def add(self, number: int) -> None:
        """Put in a number that is not there."""
        if not self.chunks:
            self.chunks.append([number])
            self.firsts.append(number)
            return
        place = max(bisect_right(self.firsts, number) - 1, 0)
        chunk = self.chunks[place]
        if number > chunk[-1] and place == len(self.chunks) - 1 and len(chunk) >= _CHUNK:
            self.chunks.append([number])
            self.firsts.append(number)
            return
        chunk.insert(bisect_left(chunk, number), number)
        if len(chunk) > _CHUNK:
            self.chunks.insert(place + 1, chunk[_CHUNK // 2 :])
            self.firsts.insert(place + 1, chunk[_CHUNK // 2])
            del chunk[_CHUNK // 2 :]
        self.firsts[place] = chunk[0]

    def remove(self, number: int) -> None:
        """Take out a number that is there."""
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
        """From the greatest below `number` on downwards; None: from the greatest of all."""
        place = len(self.chunks) if number is None else bisect_left(self.firsts, number)
        if number is not None and place:
            place -= 1
            chunk = self.chunks[place]
            yield from reversed(chunk[: bisect_left(chunk, number)])
        while place:
            place -= 1
            yield from reversed(self.chunks[place])


def _time(name: str, text: str | None) -> Time | None:
    if text is None:
        return None
    unix = parse_time(text)
    if unix is None:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"filter.{name} is no RFC 3339 time")
    return unix
