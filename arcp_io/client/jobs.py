"""The jobs that a client's session follows: submitted, observed, or taken over from a stored session."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast

from arcp_io.drivers.clock import Clock
from arcp_io.errors import ArcpError, ConnectionLost
from arcp_proto import (
    CancelAcknowledged,
    Detached,
    Event,
    JobAccepted,
    JobEnded,
    JobEvent,
    MarkedProcessed,
    Resumption,
    SessionLost,
    Subscribed,
)

from .backpressure import Holding
from .inbox import Inbox
from .job import Job

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop

    from .session import Session

__all__ = ["ROOM", "SessionJobs"]

ROOM: Final = 8 * 1024 * 1024
"""Bytes of waiting events of all jobs; half of what the core holds before it stops reading."""
_JOB_ID: Final = attrgetter("job_id")


class SessionJobs:
    """Every unfinished job of one session, by its id.

    Jobs of a stored session exist from the start, and their events wait for `attach`.
    """

    def __init__(
        self,
        session: Session,
        loop: Loop,
        clock: Clock,
        resumption: Resumption | None,
        holding: Holding,
        buffer_size: int,
    ) -> None:
        self.session = session
        self._loop = loop
        self.now = clock.now
        """The monotonic clock, in nanoseconds."""
        self.event = loop.event
        """Creates an event of the loop."""
        self.task_id = loop.task_id
        """Returns a number for the running task."""
        self.holding = holding
        self._buffer_size = buffer_size
        self._unfinished: dict[str, Job] = {}
        self._stored: dict[str, Job] = {}
        """Jobs of the stored session that were not requested in this process; some may have ended."""
        self._ended: dict[str, Job] = {}
        """Jobs that have ended with events that were not taken yet."""
        self._seen: list[Job] = []
        """Jobs of which a loop has reached the end in this turn."""
        self._left: dict[str, tuple[Job, int]] = {}
        """Jobs whose loop was left with an event that is not processed yet, each with its receipt."""
        self._telling: dict[Inbox, None] = {}
        """Inboxes with processed events that were not reported to the session."""
        self.size = 0
        """Bytes of all waiting events."""
        self.loss = ""
        """Why the last session was lost, for people; empty if none was."""
        self._detached_by = ""
        self.room = max(ROOM, buffer_size)
        """Bytes of waiting events above which those of unclaimed jobs are dropped, oldest jobs first."""
        self._restoring = resumption is not None
        for stored in () if resumption is None else resumption.jobs:
            self._restore(stored.job_id)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._unfinished.values()))

    def detached(self, event: Detached) -> None:
        """Note why the connection has ended."""
        self._detached_by = event.reason or event.code

    def session_lost(self, event: SessionLost) -> None:
        """Note why the session was lost, as the reason of a shortened history that follows."""
        self.loss = f"its session was lost: {event.reason or event.code}"
        if self._detached_by:
            self.loss += f"; before that its connection had ended: {self._detached_by}"

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._unfinished or job_id in self._stored

    @property
    def stored(self) -> Sequence[str]:
        """The ids of the jobs that wait for `claim`."""
        return list(self._stored)

    def claim(self, job_id: str) -> Job | None:
        """Return the job with this id for a caller that will take its events, or None."""
        job = self._stored.pop(job_id, None) or self._unfinished.get(job_id)
        if job is not None:
            job._claim()
            self.taken_soon(job)
        return job

    def taken_soon(self, answer: object) -> None:
        """Note, if the answer is a job, that the caller gets it in this turn."""
        if isinstance(answer, Job):
            self._loop.call_soon(answer._taken)

    def remove(self, job_id: str) -> Job | None:
        """Stop following a job."""
        self._stored.pop(job_id, None)
        return self._unfinished.pop(job_id, None)

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Count a waiting caller during the block: the events of unclaimed jobs make room for it."""
        self.holding.awaited += 1
        for job in self._stored.values():
            job._make_way()
        try:
            yield
        finally:
            self.holding.awaited -= 1

    def end_seen(self, job: Job) -> None:
        """Note that a loop has reached the end of a job; it is stored after the loop has had its turn."""
        if not self._seen:
            self._loop.call_soon(self.done_with_ends)
        self._seen.append(job)

    def done_with_ends(self) -> None:
        """Mark the ends as processed that loops have reached."""
        seen, self._seen = self._seen, []
        for job in seen:
            job._done_with_end()

    def left(self, job: Job, receipt: int) -> None:
        """Note that a loop over a job was left with the event of this receipt."""
        self._left[job.id] = job, receipt
        self.session._stopped_iterating(job.id, receipt)

    def told_soon(self, inbox: Inbox) -> None:
        """Report the processed events of a job to the session soon, together with others."""
        if not self._telling:
            self.session._tells_soon()
        self._telling[inbox] = None

    def tell(self) -> None:
        """Report the processed events now."""
        telling, self._telling = self._telling, {}
        for inbox in telling:
            inbox.tell()
            if self._left and self._left.get(inbox.job_id, (None, inbox.told + 1))[1] <= inbox.told:
                del self._left[inbox.job_id]

    def beside(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function until the session is over."""
        if self.session.lost is None:
            self._loop.start(run, "arcp job")

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, from any thread; does nothing once the loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_from_thread(callback)

    def make_room(self) -> None:
        """Drop events that no caller waits for until the rest fits."""
        for job in [*self._ended.values(), *self._unfinished.values()]:
            if self.size <= self.room:
                return
            job._make_room(self.size - self.room)
            if not job._waiting:
                self._ended.pop(job.id, None)

    # Events of the runtime.

    def accepted(self, event: JobAccepted) -> Job:
        """Apply the answer to a submit; an idempotency key may accept the same job again."""
        job = self._stored.pop(event.job_id, None) or self._unfinished.get(event.job_id)
        job = job or self._add(event.job_id)
        job._claim()
        job._accepted(event)
        return job

    def subscribed(self, event: Subscribed) -> Job:
        """Apply the answer to a subscribe."""
        job = self._unfinished.get(event.job_id) or self._add(event.job_id)
        if event.request_id is not None:
            job._claim()
        job._subscribed(event)
        return job

    def take_emitted(self, events: Sequence[Event]) -> Iterator[Event]:
        """Pass the events of jobs to their jobs; yield everything else, in order."""
        for kind, group in groupby(events, type):
            if kind is JobEvent:
                for job_id, emitted in groupby(cast(Iterator[JobEvent], group), _JOB_ID):
                    self._emitted(job_id, list(emitted))
            else:
                yield from group

    def ended(self, event: JobEnded) -> None:
        """Apply the end of a job."""
        job = self._unfinished.pop(event.job_id, None)
        if job is None and event.receipt and self._restoring and event.job_id not in self._stored:
            job = self._restore(event.job_id)
            del self._unfinished[event.job_id]
        if job is None:
            self._done_with(event)
            return
        job._ended(event)
        if job._waiting:
            self._ended[job.id] = job

    def cancel_answered(self, event: CancelAcknowledged) -> None:
        """Count a numbered answer to a cancel."""
        if event.seq and (job := self._unfinished.get(event.job_id)) is not None:
            job._cancel_answered()

    def marked_processed(self, event: MarkedProcessed) -> None:
        """Note that the event with which a loop was left counts as processed."""
        if (left := self._left.pop(event.job_id, None)) is not None:
            left[0]._marked_processed(event.receipt)

    def lose(self, job_id: str, error: ArcpError) -> None:
        """Note that no further events of a job will come."""
        if (job := self._unfinished.pop(job_id, None)) is not None:
            job._lose(error)

    def lose_all(self, lost: ConnectionLost) -> None:
        """Note that no further events of any job will come."""
        for job in self._unfinished.values():
            job._lose(lost)
        self._unfinished.clear()

    def resumed(self, resumed: bool) -> None:
        """Note that a session is open: the stored one, the same again, or (not `resumed`) another."""
        self._restoring = self._restoring and resumed

    def _emitted(self, job_id: str, events: Sequence[JobEvent]) -> None:
        """Pass events to their job, or acknowledge them if it is not followed."""
        job = self._unfinished.get(job_id)
        if job is None and self._restoring:
            job = self._restore(job_id)
        if job is not None:
            job._emitted(events)
            return
        for event in events:
            self._done_with(event)

    def _done_with(self, event: JobEvent | JobEnded) -> None:
        """Mark an event without a taker as processed."""
        self.session._processed(event.job_id, event.receipt)
        self.session._tells_soon()

    def _restore(self, job_id: str) -> Job:
        """Create a job of the stored session, of which only the id is known."""
        job = self._stored[job_id] = self._add(job_id, claimed=False)
        return job

    def _add(self, job_id: str, *, claimed: bool = True) -> Job:
        job = self._unfinished[job_id] = Job(self, job_id, self._buffer_size, claimed=claimed)
        return job
