"""A job as its submitter sees it: its events, its result, its end."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeAlias

import anyio
import msgspec

from arcp_proto.output import JobAccepted, JobEmitted, JobEnded

from .errors import ArcpError, error_for

if TYPE_CHECKING:
    from .client_session import Session

Event: TypeAlias = JobEmitted
"""One event of a job (§8.1): `kind`, `body`, `ts`, `seq` (its number in the session), `job_id`."""

EVENT_BYTES: Final = 200
"""What an event takes beside its body."""
OVERFLOW = 64 * 1024 * 1024
"""Bytes that a full buffer may grow to while somebody waits for what stands behind its events."""


class Job:
    """A job that was accepted. Iterate over it for its events, ask `result()` for how it ends.

    Events wait for their iterator. While somebody iterates, more than the session's `buffer_size` of them
    stops reading from the connection, so that the runtime waits; while nobody does, the oldest are dropped,
    and all of them once somebody waits for the result alone.
    """

    def __init__(self, session: Session, accepted: JobAccepted, buffer_size: int) -> None:
        self.id: str = accepted.job_id
        self.agent = accepted.agent
        """`name@version`, or the name of an agent without versions."""
        self.lease: Mapping[str, Sequence[str]] = accepted.lease
        self.expires_at = accepted.expires_at
        self.budget: Mapping[str, Any] = accepted.budget
        """Currency -> amount, as the runtime wrote it."""
        self.accepted_at = accepted.accepted_at
        self.trace_id = accepted.trace_id
        self.events_received = 0
        """Numbered frames of this job, the terminal and answers to `cancel` included."""
        self.events_dropped = 0
        """Of them, those that were dropped because nobody iterated."""
        self._session = session
        self._buffer_size = buffer_size
        self._buffer: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._full = self._overflowing = False
        self._wanted = True
        self._taken = 0
        """Number of the event that the iterator has and has not done with; 0: none."""
        self._iterator: weakref.ref[_Events] | None = None
        self._arrived: anyio.Event | None = None
        self._end: JobEnded | None = None
        self._lost: ArcpError | None = None
        self._over = anyio.Event()

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.agent} {self.final_status or 'unfinished'}>"

    @property
    def final_status(self) -> str | None:
        """success, error, cancelled or timed_out; None while the end has not come."""
        return None if self._end is None else self._end.final_status

    @property
    def summary(self) -> str | None:
        """What the runtime says in a line about a result, if it does."""
        return None if self._end is None else self._end.summary

    def __aiter__(self) -> _Events:
        """Its events, until its end, or until ConnectionLost is raised.

        One iterator at a time, RuntimeError for another; leaving the loop gives it up, and a later loop goes
        on from there.
        """
        if self._iterator is not None and self._iterator() is not None:
            raise RuntimeError(f"job {self.id} is being iterated already")
        events = _Events(self)
        self._iterator = weakref.ref(events, self._given_up)
        self._look_at_buffer()
        return events

    async def result(self) -> Any:
        """Wait for the end: the value, or the text or bytes of a streamed result.

        Events that wait for no iterator are dropped; asked for inside the job's own loop, it ends that loop.
        Raises the ArcpError of the job's error code (§12), ConnectionLost when its end will not be seen.
        """
        events = None if self._iterator is None else self._iterator()
        if events is None or events.task == anyio.get_current_task().id:
            # Nobody will ask for the next event: there is no iterator, or it waits for us.
            self._wanted = False
            while self._buffer:
                self._drop_oldest()
            self._look_at_buffer()
        with self._session.reading_on():
            await self._over.wait()
        if self._end is None:
            self._raise_lost()
        if self._end.code:
            raise error_for(
                self._end.code,
                self._end.message,
                retryable=self._end.retryable,
                details=self._end.details,
                job_id=self.id,
            )
        return self._end.result

    async def cancel(self, reason: str = "") -> None:
        """Cancel the job, and return when its end has come; a job that is over is left as it is.

        Raises the error of a refusal (§7.4), ConnectionLost when its end will not be seen.
        """
        if self._end is None:
            await self._session.cancel(self, reason)
        if self._end is None:
            self._raise_lost()

    # For the session.

    def emitted(self, event: Event) -> None:
        """An event has come."""
        self.events_received += 1
        if not self._wanted:
            self._dropped(event)
            return
        size = len(msgspec.json.encode(event.body)) + EVENT_BYTES
        self._buffer.append((event, size))
        self._size += size
        self._wake()
        if self._size > self._buffer_size:
            self._look_at_buffer()

    def cancel_answered(self) -> None:
        """An answer to a cancel has come."""
        self.events_received += 1

    def ended(self, end: JobEnded) -> None:
        """The end has come."""
        self.events_received += 1
        self._end = end
        self._finish()

    def lost(self, error: ArcpError) -> None:
        """Nothing comes any more; `error` says why."""
        self._lost = error
        self._finish()

    async def wait(self) -> None:
        """Until the job has ended or is lost."""
        await self._over.wait()

    @property
    def over(self) -> bool:
        """Whether it has ended or is lost."""
        return self._over.is_set()

    # For its iterator.

    async def next(self) -> Event:
        """The next event; the one before is done with."""
        if self._taken:
            self._session.processed(self.id, self._taken)
            self._taken = 0
        while not self._buffer:
            if self._end is not None:
                raise StopAsyncIteration
            if self._lost is not None:
                self._raise_lost()
            self._arrived = anyio.Event()
            await self._arrived.wait()
        event, size = self._buffer.popleft()
        self._size -= size
        self._taken = event.seq
        if self._full:
            self._look_at_buffer()
        return event

    # Below: steps of the above.

    def _given_up(self, _: object) -> None:
        """The iterator is gone."""
        self._iterator = None
        if self._taken:
            self._session.processed(self.id, self._taken)
            self._taken = 0
        self._look_at_buffer()

    def _look_at_buffer(self) -> None:
        """Hold back the connection, or let it go; without an iterator make room."""
        if self._iterator is None:
            while self._size > self._buffer_size:
                self._drop_oldest()
        full = self._iterator is not None and self._size > self._buffer_size
        if full is not self._full:
            self._full = full
            self._session.hold_back(full)
        overflowing = full and self._size > OVERFLOW
        if overflowing is not self._overflowing:
            self._overflowing = overflowing
            self._session.overflow(overflowing)

    def _drop_oldest(self) -> None:
        event, size = self._buffer.popleft()
        self._size -= size
        self._dropped(event)

    def _dropped(self, event: Event) -> None:
        self.events_dropped += 1
        self._session.processed(self.id, event.seq)

    def _finish(self) -> None:
        self._over.set()
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    def _raise_lost(self) -> NoReturn:
        if self._lost is None:
            raise RuntimeError(f"job {self.id} is not over")
        raise type(self._lost)(self._lost.message, job_id=self.id) from self._lost.__cause__


class _Events:
    """The iterator over a job; when it is given up, so is the iteration."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.task = anyio.get_current_task().id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self._job.next()
