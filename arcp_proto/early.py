"""Events that came before the answer that says whose they are (§6.3, §7.6)."""

from __future__ import annotations

from collections.abc import Iterator

from .ids import JobId
from .wire import Envelope


class Early:
    """Events that wait: for an acceptance that was lost with a connection, or for `job.subscribed`.

    Some runtimes replay a history before they answer the subscribe. What has a home number waits for an
    acceptance alone: who gives it answers the subscribe first. At most `limit` events of `size` bytes
    wait; what comes then is not kept back.
    """

    __slots__ = ("_held", "_limit", "_size", "_size_limit", "count")

    def __init__(self, limit: int, size: int) -> None:
        self._held: dict[JobId, list[tuple[Envelope, bool]]] = {}
        self.count = 0
        """Events that wait."""
        self._size = 0
        self._limit = limit
        self._size_limit = size

    def __contains__(self, job_id: JobId | None) -> bool:
        return job_id in self._held

    def __iter__(self) -> Iterator[JobId]:
        return iter(self._held)

    def hold(self, job_id: JobId, envelope: Envelope, *, observed: bool = False) -> bool:
        """Keep an event back, if there is room; `observed`: it has a home number."""
        size = len(envelope.payload)
        if self.count >= self._limit or self._size + size > self._size_limit:
            return False
        self._held.setdefault(job_id, []).append((envelope, observed))
        self.count += 1
        self._size += size
        return True

    def take(self, job_id: JobId) -> list[Envelope]:
        """What came of a job, in its order."""
        return self._let_go([envelope for envelope, _ in self._held.pop(job_id, [])])

    def take_observed(self, job_id: JobId) -> list[Envelope]:
        """What of it came to an observer; the rest waits on."""
        held = self._held.pop(job_id, [])
        rest = [entry for entry in held if not entry[1]]
        if rest:
            self._held[job_id] = rest
        return self._let_go([envelope for envelope, observed in held if observed])

    def _let_go(self, held: list[Envelope]) -> list[Envelope]:
        self.count -= len(held)
        self._size -= sum(len(envelope.payload) for envelope in held)
        return held
