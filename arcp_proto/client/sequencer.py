"""The sequencer: hands on the numbered envelopes of one session in order, each once (§8.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from arcp_proto.ids import JobId
from arcp_proto.wire.codec import Envelope

Key = tuple[int, str | None, str]
"""The number, job and envelope id, which two copies of one envelope have in common."""


class Numbering:
    """Hands on the next envelopes, holds back early ones, and drops copies.

    Only the last `window` envelopes are known as copies. A number that was handed on before, under another
    id, is taken as it comes: such a peer numbers each job by itself. After a resume it is a copy all the same
    if its job has come as far before; the last `jobs` jobs are known.
    """

    __slots__ = (
        "_began_at",
        "_followed",
        "_followed_count",
        "_held",
        "_job_limit",
        "_jobs",
        "_order",
        "_resumed_at",
        "_seen",
        "_window",
        "held_bytes",
        "held_count",
        "last",
    )

    def __init__(self, window: int, last: int = 0, jobs: int = 1000) -> None:
        self.last = last
        """The number up to which all envelopes have been handed on, by an earlier process perhaps."""
        self.held_count = 0
        self.held_bytes = 0
        self._window = window
        self._seen: set[Key] = set()
        self._order: deque[Key] = deque()
        self._followed: deque[tuple[int, str, Sequence[str]]] = deque()
        """Runs that `follow` has noted and `offer` has not needed so far: first number, job, envelope ids."""
        self._followed_count = 0
        self._held: dict[int, list[tuple[Envelope, int]]] = {}
        self._jobs: dict[str | None, int] = {}
        self._job_limit = jobs
        self._began_at = last
        self._resumed_at = last

    def offer(self, seq: int, envelope: Envelope, size: int) -> Sequence[Envelope]:
        """Return, in order, the envelopes to handle now that this one of `size` bytes has come."""
        if self._followed:
            self._remember_followed()
        key = (seq, envelope.job_id, envelope.id)
        if key in self._seen:
            return ()
        if 0 < seq <= self._resumed_at and seq <= max(self._began_at, self._jobs.get(envelope.job_id, 0)):
            return ()
        self._remember(key)
        if seq <= self.last:
            self._reached(seq, envelope.job_id)
            return (envelope,)
        if seq > self.last + 1:
            self._held.setdefault(seq, []).append((envelope, size))
            self.held_count += 1
            self.held_bytes += size
            return ()
        self.last = seq
        self._reached(seq, envelope.job_id)
        return (envelope, *self._release()) if self._held else (envelope,)

    def follow(self, job_id: str, ids: Sequence[str]) -> None:
        """Note envelopes of one job with the numbers behind `last`, by their ids, while none are held.

        They are not copies, since no known envelope has a number behind `last`.
        """
        self._followed.append((self.last + 1, job_id, ids))
        self._followed_count += len(ids)
        while self._followed_count - len(self._followed[0][2]) >= self._window:
            self._followed_count -= len(self._followed.popleft()[2])
        self.last += len(ids)
        self._reached(self.last, job_id)

    def resume(self) -> None:
        """Go on behind `last`: envelopes that are held come again, and are not copies then."""
        for seq, found in self._held.items():
            for envelope, _ in found:
                self._seen.discard((seq, envelope.job_id, envelope.id))
        self._order = deque(key for key in self._order if key in self._seen)
        self._held.clear()
        self.held_count = self.held_bytes = 0
        self._resumed_at = self.last

    def skip(self) -> Sequence[Envelope]:
        """Give up the first missing numbers; return the envelopes that waited for them."""
        missing = self.missing()
        if missing is not None:
            self.last = missing[1]
        return self._release()

    def missing(self) -> tuple[int, int] | None:
        """Return the first and the last number that the held envelopes wait for; None when none are held."""
        return (self.last + 1, min(self._held) - 1) if self._held else None

    def _release(self) -> list[Envelope]:
        released = []
        while (found := self._held.pop(self.last + 1, None)) is not None:
            self.last += 1
            self.held_count -= len(found)
            self.held_bytes -= sum(size for _, size in found)
            for envelope, _ in found:
                self._reached(self.last, envelope.job_id)
                released.append(envelope)
        return released

    def _reached(self, seq: int, job_id: str | None) -> None:
        jobs = self._jobs
        jobs[job_id] = max(seq, jobs.get(job_id, 0))
        if len(jobs) > self._job_limit:
            del jobs[next(iter(jobs))]

    def _remember_followed(self) -> None:
        for first, job_id, ids in self._followed:
            for seq, envelope_id in enumerate(ids, first):
                self._remember((seq, job_id, envelope_id))
        self._followed.clear()
        self._followed_count = 0

    def _remember(self, key: Key) -> None:
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > self._window:
            self._seen.discard(self._order.popleft())


class Early:
    """The events that wait for an answer, by job.

    Some runtimes replay a history before they answer the subscribe. A session may be resumed without the
    acceptance that was lost with its connection. At most `limit` events of `size` bytes of payload wait.
    """

    __slots__ = ("_held", "_limit", "_size", "_size_limit", "count")

    def __init__(self, limit: int, size: int) -> None:
        self._held: dict[JobId, list[Envelope]] = {}
        self.count = 0
        """The count of events that wait."""
        self._size = 0
        self._limit = limit
        self._size_limit = size

    def __contains__(self, job_id: JobId | None) -> bool:
        return job_id in self._held

    def __iter__(self) -> Iterator[JobId]:
        return iter(self._held)

    def hold(self, job_id: JobId, envelope: Envelope) -> bool:
        """Keep an event; return False if there is no room."""
        size = len(envelope.payload)
        if self.count >= self._limit or self._size + size > self._size_limit:
            return False
        self._held.setdefault(job_id, []).append(envelope)
        self.count += 1
        self._size += size
        return True

    def take(self, job_id: JobId) -> list[Envelope]:
        """Return the events of a job in their order, and hold them no longer."""
        held = self._held.pop(job_id, [])
        self.count -= len(held)
        self._size -= sum(len(envelope.payload) for envelope in held)
        return held
