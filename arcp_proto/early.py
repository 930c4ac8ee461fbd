"""Events of a job that come before the answer by which the client follows it (§6.3, §7.6)."""

from __future__ import annotations

from collections.abc import Iterator

from .ids import JobId
from .wire import Envelope


class Early:
    """The events that wait, by job.

    Some runtimes replay a history before they answer the subscribe. A session may be resumed without the
    acceptance that was lost with its connection. At most `limit` events of `size` bytes of payload wait.
    """

    __slots__ = ("_held", "_limit", "_size", "_size_limit", "count")

    def __init__(self, limit: int, size: int) -> None:
        self._held: dict[JobId, list[Envelope]] = {}
        self.count = 0
        """How many events wait."""
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
