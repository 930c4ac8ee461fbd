"""The ends of jobs that came before the answer to a subscribe, in case that brings nothing (§7.6)."""

from __future__ import annotations

from typing import NamedTuple

from arcp_proto.engine.output import JobEnded
from arcp_proto.errors import RETRYABLE
from arcp_proto.ids import JobId
from arcp_proto.job_statuses import FAILURES, JobStatus
from arcp_proto.wire.messages import Result


class KeptEnd(NamedTuple):
    """The end of an awaited job; `result` is its message, the value of which is not read yet."""

    end: JobEnded
    result: Result | None
    size: int
    """Bytes of its payload."""


class KeptEnds:
    """At most one end a job, `limit` of them and `size` bytes of payload."""

    __slots__ = ("_held", "_limit", "_size", "_size_limit")

    def __init__(self, limit: int, size: int) -> None:
        self._held: dict[JobId, KeptEnd] = {}
        self._size = 0
        self._limit = limit
        self._size_limit = size

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._held

    def keep(self, kept: KeptEnd) -> bool:
        """Keep the first end of a job; return False if there is no room, or one already."""
        job_id, size = kept.end.job_id, self._size + kept.size
        if job_id in self._held or len(self._held) >= self._limit or size > self._size_limit:
            return False
        self._held[job_id], self._size = kept, size
        return True

    def take(self, job_id: JobId) -> KeptEnd | None:
        """Return the end of a job, and keep it no longer; None for none."""
        kept = self._held.pop(job_id, None)
        if kept is not None:
            self._size -= kept.size
        return kept

    def leave_session(self) -> dict[JobId, int]:
        """Take their numbers from all ends, since their session is lost; return the numbers."""
        numbers = {job_id: kept.end.seq for job_id, kept in self._held.items()}
        for kept in self._held.values():
            kept.end.seq = 0
        return numbers


def set_fault(end: JobEnded, final_status: str, message: str | None) -> None:
    """Give the end of a job the error that its final status stands for."""
    code, meaning = FAILURES.get(final_status, FAILURES[JobStatus.ERROR])
    end.final_status = final_status if final_status in FAILURES else JobStatus.ERROR
    end.code, end.message, end.retryable = code.value, message or meaning, RETRYABLE[code]
