"""The events that the user was handed and has not processed, and the number up to which all are (§6.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from arcp_proto.ids import MILLISECOND, JobId, Monotonic

from .followed_job import FollowedJob

ACK_INTERVAL: Final = 250 * MILLISECOND
"""The time between two acks, and from a processed event to its ack: the draft's few hundred milliseconds."""
ACK_EVENTS: Final = 32
"""Processed events that are acked at once, unless the last ack was sent less than an interval ago."""


class _Batch:
    """Events of one job that are handed out together; their numbers and receipts are consecutive.

    A batch that waits for an answer holds one event, and has no receipt yet.
    """

    __slots__ = ("_sizes", "back_to", "done", "job", "placed", "places", "receipt", "seq")

    def __init__(self, seq: int, sizes: Sequence[int]) -> None:
        self.seq = seq
        """The number of its first event in the session; 0 if it has none."""
        self._sizes = sizes
        self.done = 0
        """How many of its events, from the first on, are processed."""
        self.receipt = 0
        """The receipt of its first event."""
        self.job: FollowedJob | None = None
        self.places: Sequence[int] = ()
        """The position of each event; without positions its number in the submitting session, or 0."""
        self.placed = False
        """Whether its places are positions."""
        self.back_to: int | None = None
        """The position to which its job was set back behind it."""

    @property
    def is_done(self) -> bool:
        return self.done == len(self._sizes)

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(self._sizes)

    def advance(self, receipt: int) -> tuple[int, int]:
        """Mark everything up to a receipt as processed; return how many events those are, and their bytes."""
        start = self.done
        end = min(receipt - self.receipt + 1, len(self._sizes))
        if end <= start:
            return 0, 0
        self.done = end
        if self.job is not None:
            self.job.processed(self.places[end - 1], placed=self.placed)
            if self.back_to is not None and self.is_done:
                self.job.processed(self.back_to, placed=True)
        return end - start, sum(self._sizes[start:end])


class Acks:
    """The events that the user holds, in batches.

    An event that is handed out gets a *receipt*: the count of all events that this client has handed out.
    The user processes the events of a job in their order, so that one receipt says how far a job has come,
    also over a lost session.
    """

    __slots__ = (
        "_by_job",
        "_order",
        "_session",
        "_waiting",
        "processed",
        "receipts",
        "sent_at",
        "size",
        "told",
        "unfollowed",
    )

    def __init__(self, now: Monotonic) -> None:
        self.told = 0
        """The number in the last ack."""
        self.sent_at = Monotonic(now - ACK_INTERVAL)
        self.processed = 0
        """Events processed since."""
        self.size = 0
        """Bytes of what is not processed."""
        self.receipts = 0
        """The last receipt."""
        self._session = 1
        """The first receipt of the session."""
        self._order: deque[_Batch] = deque()
        """Batches with numbers of the session that are not processed, and those that wait for an answer."""
        self._by_job: dict[JobId, deque[_Batch]] = {}
        self._waiting: dict[tuple[int, JobId], _Batch] = {}
        self.unfollowed: dict[JobId, tuple[int, int]] = {}
        """Jobs that are not followed, such as children -> number and position of the last processed event.

        Before there is one, of a child: the number of its announcement, and 0.
        """

    def wait(self, seq: int, job_id: JobId, size: int) -> None:
        """Keep the number of an event that is handed out later, or dropped, from being acked."""
        if (seq, job_id) not in self._waiting:
            batch = self._waiting[seq, job_id] = _Batch(seq, (size,))
            self._order.append(batch)
            self.size += size

    def drop(self, seq: int, job_id: JobId) -> None:
        """Let go of an event that waits, and that the user does not get."""
        batch = self._waiting.pop((seq, job_id), None)
        if batch is not None:
            self.size -= batch.size
            batch.done = 1
            self._advance()

    def handed_out(
        self,
        seq: int,
        job_id: JobId,
        size: int = 0,
        job: FollowedJob | None = None,
        place: int = 0,
        *,
        placed: bool = False,
    ) -> int:
        """Return the receipt of an event that the user gets now; it has a number, or 0.

        `place` is its position if `placed`, else its number in the submitting session, or 0.
        """
        batch = self._waiting.pop((seq, job_id), None) if self._waiting else None
        if batch is None:
            batch = _Batch(seq, (size,))
            self.size += size
            if seq:
                self._order.append(batch)
        return self._hand_out(batch, 1, job_id, job, (place,), placed)

    def all_handed_out(
        self, seq: int, sizes: Sequence[int], job: FollowedJob, places: Sequence[int], *, placed: bool
    ) -> int:
        """Do the same for events of one job with consecutive numbers; return the receipt of the first."""
        batch = _Batch(seq, sizes)
        self.size += batch.size
        self._order.append(batch)
        return self._hand_out(batch, len(sizes), job.id, job, places, placed)

    def set_back(self, job: FollowedJob, position: int) -> None:
        """Let a job go on from an earlier position, once all is processed that was handed out before.

        What was handed out before the job was followed does not count: its user has begun anew since.
        """
        batches = self._by_job.get(job.id)
        if batches and batches[-1].job is job:
            batches[-1].back_to = position
        else:
            job.processed(position, placed=True)

    def done(self, receipt: int, job_id: JobId) -> None:
        """Mark the events of a job as processed that have this receipt or an earlier one."""
        batches = self._by_job.get(job_id)
        while batches and batches[0].receipt <= receipt:
            batch = batches[0]
            count, size = batch.advance(receipt)
            self.size -= size
            self.processed += count
            if not batch.is_done:
                break
            batches.popleft()
            if batch.job is None and batch.placed and batch.receipt >= self._session:
                self.unfollowed[job_id] = (batch.seq, batch.places[0])
        if batches is not None and not batches:
            del self._by_job[job_id]
        self._advance()

    def cursor(self, last: int) -> int:
        """Return the number up to which all is processed, when everything up to `last` has come."""
        if not self._order:
            return last
        first = self._order[0]
        return min(first.seq + first.done - 1, last)

    def tell(self, seq: int, now: Monotonic) -> None:
        """Note that an ack of `seq` is on its way."""
        self.told, self.sent_at, self.processed = seq, now, 0

    def begin_session(self, now: Monotonic) -> None:
        """Begin a session, which numbers from 1. What the user holds of the last one is not acked."""
        for batch in self._waiting.values():
            self.size -= batch.size
        self._waiting, self._order, self._session = {}, deque(), self.receipts + 1
        self.unfollowed.clear()
        self.told, self.processed, self.sent_at = 0, 0, Monotonic(now - ACK_INTERVAL)

    def holds_of_lost(self, job_id: JobId) -> bool:
        """Return whether the user holds events of a job that came in a session that is lost."""
        batches = self._by_job.get(job_id)
        return batches is not None and batches[0].receipt < self._session

    def holds(self, job_id: JobId) -> bool:
        """Return whether the user holds events of a job."""
        return job_id in self._by_job

    def _hand_out(
        self,
        batch: _Batch,
        count: int,
        job_id: JobId,
        job: FollowedJob | None,
        places: Sequence[int],
        placed: bool,
    ) -> int:
        receipt = batch.receipt = self.receipts + 1
        self.receipts += count
        batch.job, batch.places, batch.placed = job, places, placed
        self._by_job.setdefault(job_id, deque()).append(batch)
        return receipt

    def _advance(self) -> None:
        order = self._order
        while order and order[0].is_done:
            order.popleft()
