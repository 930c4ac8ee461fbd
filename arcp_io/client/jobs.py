"""The jobs that a client's session follows: submitted, observed, or taken over from a stored session."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast

from arcp_io.drivers.clock import Clock
from arcp_io.errors import ArcpError, ConnectionLost
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.output import (
    CancelAnswered,
    Detached,
    Event,
    JobAccepted,
    JobEmitted,
    JobEnded,
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
"""Bytes of events of all jobs that wait; half of what the core lets wait before it stops reading."""
_JOB_ID: Final = attrgetter("job_id")


class SessionJobs:
    """Every unfinished job of one session, by its id.

    Those of a stored session are there from the start, and their events wait for `attach`.
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
        """Makes an event of the loop."""
        self.task_id = loop.task_id
        """Returns a number of the task that runs."""
        self.holding = holding
        self._buffer_size = buffer_size
        self._unfinished: dict[str, Job] = {}
        self._stored: dict[str, Job] = {}
        """Jobs that nobody has asked for in this process; some may have ended."""
        self._ended: dict[str, Job] = {}
        """Jobs that have ended, with events that nobody has taken yet."""
        self._mending: dict[str, tuple[Job, JobEnded]] = {}
        """Jobs that have ended with chunks of their result missing, which are asked for once more."""
        self._seen: list[Job] = []
        """Jobs of which a loop has come to the end in this turn."""
        self._telling: dict[Inbox, None] = {}
        """Those with something that the session was not told."""
        self.size = 0
        """Bytes of all events that wait."""
        self.loss = ""
        """Why the last session was lost, for people; empty as long as none was."""
        self._detached_by = ""
        self.room = max(ROOM, buffer_size)
        """Beyond it those that nobody waits for are dropped, the oldest jobs' first."""
        self._restoring = resumption is not None
        for stored in () if resumption is None else resumption.jobs:
            self._restore(stored.job_id)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._unfinished.values()))

    def detached(self, event: Detached) -> None:
        """Note why the connection has ended."""
        self._detached_by = event.reason or event.code

    def session_lost(self, event: SessionLost) -> None:
        """Note why the session was lost: a cut of a history that follows comes of that."""
        self.loss = f"its session was lost: {event.reason or event.code}"
        if self._detached_by:
            self.loss += f"; before that its connection had ended: {self._detached_by}"

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._unfinished or job_id in self._stored or job_id in self._mending

    @property
    def stored(self) -> Sequence[str]:
        """The ids of those that wait for `claim`."""
        return list(self._stored)

    def claim(self, job_id: str) -> Job | None:
        """The job that has this id, for somebody who will take its events; None when there is none."""
        job = self._stored.pop(job_id, None) or self._unfinished.get(job_id)
        if job is not None:
            job._claim()
            self.taken_soon(job)
        return job

    def taken_soon(self, answer: object) -> None:
        """It is in the hands of who has asked for it, and whose turn it is: a job, perhaps."""
        if isinstance(answer, Job):
            self._loop.call_soon(answer._taken)

    def remove(self, job_id: str) -> Job | None:
        """What comes of it from now on is nobody's."""
        self._stored.pop(job_id, None)
        return self._unfinished.pop(job_id, None)

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """While somebody waits for the next event of a job: those that nobody asked for make way."""
        self.holding.awaited += 1
        for job in self._stored.values():
            job._make_way()
        try:
            yield
        finally:
            self.holding.awaited -= 1

    def end_seen(self, job: Job) -> None:
        """A loop has come to the end of a job: that is stored only when whoever looped has noted it."""
        if not self._seen:
            self._loop.call_soon(self.done_with_ends)
        self._seen.append(job)

    def done_with_ends(self) -> None:
        """By now they have, unless they wait for something first."""
        seen, self._seen = self._seen, []
        for job in seen:
            job._done_with_end()

    def told_soon(self, inbox: Inbox) -> None:
        """What is processed of a job is told to the session with all that is by then."""
        if not self._telling:
            self.session._tells_soon()
        self._telling[inbox] = None

    def tell(self) -> None:
        """Tell it now."""
        telling, self._telling = self._telling, {}
        for inbox in telling:
            inbox.tell()

    def beside(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this until the session is over."""
        if self.session.lost is None:
            self._loop.start(run, "arcp job")

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, asked on any thread; nothing happens once it is closed."""
        with suppress(RuntimeError):
            self._loop.call_from_thread(callback)

    def make_room(self) -> None:
        """Drop events that nobody waits for until the rest fits."""
        for job in [*self._ended.values(), *self._unfinished.values()]:
            if self.size <= self.room:
                return
            job._make_room(self.size - self.room)
            if not job._waiting:
                self._ended.pop(job.id, None)

    # What happens to them.

    def accepted(self, event: JobAccepted) -> Job:
        """The answer to a submit; the same job is accepted again by its idempotency key."""
        job = self._stored.pop(event.job_id, None) or self._unfinished.get(event.job_id)
        job = job or self._add(event.job_id)
        job._claim()
        job._accepted(event)
        return job

    def subscribed(self, event: Subscribed) -> Job:
        """The answer to a subscribe."""
        if event.job_id in self._mending:
            return self._mending[event.job_id][0]
        job = self._unfinished.get(event.job_id) or self._add(event.job_id)
        if event.request_id is not None:
            job._claim()
        job._subscribed(event)
        return job

    def take_emitted(self, events: Sequence[Event]) -> Iterator[Event]:
        """Take the events of jobs out of all that has happened; yields everything else, at its place."""
        for kind, group in groupby(events, type):
            if kind is JobEmitted:
                for job_id, emitted in groupby(cast(Iterator[JobEmitted], group), _JOB_ID):
                    self._emitted(job_id, list(emitted))
            else:
                yield from group

    def ended(self, event: JobEnded) -> None:
        """The end of a job; when another process has taken chunks of its result, all are asked for again."""
        if event.job_id in self._mending:
            self._done_with(event)
            self._mended(event.job_id, event)
            return
        job = self._unfinished.pop(event.job_id, None)
        if job is None and self._restoring and event.job_id not in self._stored:
            job = self._restore(event.job_id)
            del self._unfinished[event.job_id]
        if job is None:
            self._done_with(event)
        elif job._stored and event.code and event.result_id is not None and self.session._mend(event.job_id):
            self._mending[event.job_id] = (job, event)
        else:
            self._end(job, event)

    def cancel_answered(self, event: CancelAnswered) -> None:
        """A numbered answer to a cancel."""
        if event.seq and (job := self._unfinished.get(event.job_id)) is not None:
            job._cancel_answered()

    def lose(self, job_id: str, error: ArcpError) -> None:
        """Nothing comes of this one any more."""
        self.not_mended(job_id)
        if (job := self._unfinished.pop(job_id, None)) is not None:
            job._lose(error)

    def not_mended(self, job_id: str) -> None:
        """The chunks of its result that were asked for do not come."""
        self._mended(job_id, None)

    def lose_all(self, lost: ConnectionLost) -> None:
        """Nothing comes of any."""
        for job_id in list(self._mending):
            self.not_mended(job_id)
        for job in self._unfinished.values():
            job._lose(lost)
        self._unfinished.clear()

    def resumed(self, resumed: bool) -> None:
        """A session is open: the stored one, or the same again, or (not `resumed`) another."""
        self._restoring = self._restoring and resumed

    def _emitted(self, job_id: str, events: Sequence[JobEmitted]) -> None:
        """Events of a job, or of one that is not followed."""
        job = self._unfinished.get(job_id)
        if job is None and self._restoring and job_id not in self._mending:
            job = self._restore(job_id)
        if job is not None:
            job._emitted(events)
            return
        for event in events:
            self._done_with(event)

    def _done_with(self, event: JobEmitted | JobEnded) -> None:
        """Note as processed what nobody wants; for a result that is asked for again, behind its job."""
        if event.job_id in self._mending:
            self._mending[event.job_id][0]._done_with(event.receipt)
        else:
            self.session._processed(event.job_id, event.receipt)
            self.session._tells_soon()

    def _mended(self, job_id: str, end: JobEnded | None) -> None:
        if job_id in self._mending:
            job, first_end = self._mending.pop(job_id)
            if end is not None:
                first_end.result, first_end.code, first_end.message = end.result, end.code, end.message
                first_end.final_status, first_end.retryable = end.final_status, end.retryable
            self._end(job, first_end)

    def _end(self, job: Job, end: JobEnded) -> None:
        job._ended(end)
        if job._waiting:
            self._ended[job.id] = job

    def _restore(self, job_id: str) -> Job:
        """A job of the stored session, of which nothing but its id is known."""
        job = self._stored[job_id] = self._add(job_id, claimed=False)
        return job

    def _add(self, job_id: str, *, claimed: bool = True) -> Job:
        job = self._unfinished[job_id] = Job(self, job_id, self._buffer_size, claimed=claimed)
        return job
