"""A job as its submitter or an observer sees it: its events, its result, its end."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NoReturn, TypeAlias, cast

import anyio
import anyio.lowlevel
import msgspec

from arcp_io.errors import ArcpError, ConnectionLost, HistoryCut, ResultIncomplete, ResultMismatch, error_for
from arcp_io.values import read_as
from arcp_proto import JobAccepted, JobEnded, JobEvent, Subscribed
from arcp_proto.wire import ChunkReader

from .inbox import Inbox
from .job_events import JobEvents
from .pending import again
from .result_reader import ResultReader

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from arcp_proto import Credential

    from .jobs import SessionJobs

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

Event: TypeAlias = JobEvent
"""One event of a job (§8.1).

`kind`, `body`, `ts` and `job_id`; `job_seq` is its position in the job, the same in every session, or None if
the runtime sends no positions; `seq` is its number in the session.
"""

FinalStatus: TypeAlias = Literal["success", "error", "cancelled", "timed_out"]
"""How a job has ended (§7.3)."""

TURN_OF_A_THREAD: Final = 1.0
"""Seconds in which a thread that has asked for a job should begin its loop."""
OVERFLOW = 64 * 1024 * 1024
"""Bytes that a full buffer may grow to while a caller waits for an answer behind its events."""
_VALUE: Final = attrgetter("value")


class Job(Generic[T]):
    """A submitted or observed job; `submit`, `attach` and `subscribe` of a Session return it.

        async for event in job: ...    its events: `event.kind`, `event.body`, `event.seq`, `event.ts`
        await job.result()             its result, or the error with which it ended
        async for piece in job.result_stream(): ...    a large result, in constant memory
        await job.cancel()             cancel it; `await job.wait()` waits for its end

    Attributes: `id`; `agent`; from its acceptance `lease`, `expires_at`, `budget`, `accepted_at`,
    `trace_id`, `parent_job_id`, `credentials` and `result_type`; from its end `over`, `final_status`,
    `stopped` and `summary`; from the answer to a subscribe `current_status`, `subscribed_from`, `replayed`
    and `history_from`; counted by the client `events_received`, `events_dropped` and `last_seq`.

    Events wait for their iterator. During an iteration the session stops reading from the connection when
    more than its `buffer_size` of them wait, so that the runtime waits too; without an iteration the oldest
    are dropped, and all of them while `result` is awaited alone. A lost and resumed connection does not
    show here: see `Session.watch`.
    """

    result_type: type[T] | None = None
    """The type that `result` returns; None means JSON values."""

    def __init__(self, jobs: SessionJobs, job_id: str, buffer_size: int, *, claimed: bool = True) -> None:
        """Create a job of a session; called by the Session."""
        self.id = job_id
        self.agent = ""
        """`name@version`, or the name of an agent without versions; empty until the runtime has sent it."""
        self.lease: Mapping[str, Sequence[str]] = {}
        self.expires_at: str | None = None
        self.budget: Mapping[str, Any] = {}
        """Currency -> amount, as the runtime wrote it."""
        self.accepted_at: str | None = None
        """When the job was accepted; None for an observed job."""
        self.credentials: Sequence[Credential] = ()
        """The valid credentials that the runtime has issued for the job (§9.8); empty after its end.

        `credential.value.reveal()` returns the value; nothing else shows it.
        """
        self.trace_id: str | None = None
        self.parent_job_id: str | None = None
        """The job that delegated this one, for an observed job (§10)."""
        self.history_from: int | None = None
        """The position of the first event that is left, when the history was shortened or is gone (§7.6)."""
        self.current_status: str | None = None
        """The status in the answer to the last subscribe (§7.6); None for a job that was only submitted."""
        self.subscribed_from: int | None = None
        """The position of the last event before that subscribe, or 0 (§7.6); None without a subscribe."""
        self.replayed = False
        """Whether that subscribe replays earlier events."""
        self.events_received = 0
        """Numbered frames of this job, including the terminal and answers to `cancel`."""
        self.events_dropped = 0
        """Events that were dropped because they were not iterated over."""
        self.last_seq = 0
        """The position of the last event received, or its number if the runtime sends no positions."""
        self._jobs = jobs
        self._holding = jobs.holding
        self._buffer_size = buffer_size
        self._inbox = Inbox(jobs, job_id)
        self._overflowing = False
        self._stored = not claimed
        """Whether an earlier process has followed the job."""
        self._claimed = claimed
        """Whether this process has asked for the job; until then its events wait."""
        self._offered = 0
        """Number of callers that got the job, but had no turn yet to begin a loop; its events wait."""
        self._wanted = True
        self._iterator: weakref.ref[JobEvents] | None = None
        self._arrived: anyio.Event | None = None
        self._end: JobEnded | None = None
        self._end_receipt = 0
        """Receipt of an end that is not processed yet; 0: none."""
        self._asking = 0
        """Number of tasks that wait for `result`."""
        self._left = False
        self._lost: ArcpError | None = None
        self._over = jobs.event()
        self._chunks: ChunkReader | None = None
        """Reads the chunks of the result, once it is read as a stream."""

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.agent} {self.final_status or 'unfinished'}>"

    @property
    def final_status(self) -> FinalStatus | None:
        """The final status: success, error, cancelled or timed_out; None before the end."""
        return None if self._end is None else cast(FinalStatus, self._end.final_status)

    @property
    def stopped(self) -> bool | None:
        """Whether the agent had stopped when the job ended (§7.4): false if the runtime says that it had not.

        None before the end, and for a job that had ended before it was observed without its history.
        `Session.describe` tells whether it has stopped since.
        """
        end = self._end
        if end is None or (end.code and not end.receipt):
            return None
        return end.details.get("stopped") is not False

    @property
    def over(self) -> bool:
        """Whether the job has ended or is lost."""
        return self._over.is_set()

    @property
    def summary(self) -> str | None:
        """The runtime's one-line summary of the result, or None."""
        return None if self._end is None else self._end.summary

    def __aiter__(self) -> JobEvents:
        """Iterate over the events until the end of the job, or until JobLost or another ConnectionLost is
        raised.

        HistoryCut is raised where events are missing; a later loop continues after them. Only one iterator
        may exist at a time; another raises RuntimeError. Leaving the loop gives the iterator up, and a later
        loop continues from there. An event is processed when the next one is requested; the event with which
        a loop was left is processed once a later loop or `result` continues, or after five seconds. If the
        session is left before, the next process gets that event again.
        """
        current = None if self._iterator is None else self._iterator()
        if current is not None and not current.cut:
            raise RuntimeError(
                f"job {self.id} has an iterator already, which takes its events: leave that loop,"
                " pass its events on in it, or observe the job in another session"
            )
        events = JobEvents(self)
        self._iterator = weakref.ref(events, self._collected)
        self._look_at_buffer()
        return events

    async def result(self) -> T:
        """Wait for the end and return the result: a value, text or bytes.

        The value is converted to `result_type`, if any. Events that no iterator takes are dropped; called
        inside the job's own loop, it ends that loop. Raises the ArcpError of the job's error code (§12),
        ResultIncomplete when parts of a streamed result are missing, or all of it because the job had ended
        before it was observed without its history, ResultMismatch for a value that does not
        fit `result_type`, ConnectionLost when the end cannot be received, and RuntimeError after
        `result_stream` was called, since the result is not stored then.
        """
        if self._chunks is not None and (self._end is None or self._chunks.due):
            raise RuntimeError(
                f"the result of job {self.id} is read by result_stream(), and is not kept for result()"
            )
        self._offered = 0
        events = None if self._iterator is None else self._iterator()
        if events is None or events.task == self._jobs.task_id():
            # The next event will not be requested: there is no iterator, or it waits for this call.
            self._wanted = False
            if events is None:
                self._inbox.done_with_taken()
            while self._inbox.waiting:
                self._drop_oldest()
            self._look_at_buffer()
            self._look_at_end()
        self._asking += 1
        try:
            with self._holding.reading_on(), self._jobs.awaiting():
                await self._over.wait()
        finally:
            self._asking -= 1
        self._look_at_end()
        value: T = self._successful_end().result
        if self.result_type is None:
            return value
        try:
            return read_as("result", value, self.result_type)
        except ValueError as error:
            raise ResultMismatch(str(error), job_id=self.id) from None

    def result_stream(self, *, on_event: Callable[[Event], object] | None = None) -> ResultReader:
        """Return an iterator over the pieces of the result (§8.4), in constant memory for any size.

        Pieces are `str` if the agent streams text, and `bytes` if it streams bytes. A returned value comes as
        its JSON text, and `content_type` of the iterator is `application/json`; a returned None has no piece.
        The iteration is the loop over the job's events: it applies back-pressure, and acknowledges what was
        taken; `on_event` is called with every event that is not a chunk. Call it right after `submit`:
        earlier chunks are held in memory, and so is the result of a job that another process has followed
        before.

        The iteration raises the ArcpError of the job's error code (§12), ResultIncomplete when chunks are
        missing or do not match the end of the job, and ConnectionLost when the end cannot be received. Raises
        RuntimeError while another loop iterates over the job.
        """
        return ResultReader(self, on_event)

    async def wait(self) -> None:
        """Wait until the job has ended or is lost."""
        await self._over.wait()

    async def cancel(self, reason: str = "") -> bool | None:
        """Cancel the job and wait for its end; do nothing if it is over. Return `stopped`.

        True: the job has ended, and its agent has stopped. False: the job has ended, and its agent had not
        stopped when its grace was over, and may go on; a runtime kills agents with `isolation="process"`, and
        no others. None: the job had ended before, and the runtime has not sent how. `final_status` is
        `cancelled`, unless the job had ended otherwise before.

        Raises the error of a refusal (§7.4), and ConnectionLost when the end cannot be received.
        """
        if self._end is None:
            await self._jobs.session._cancel(self, reason)
        if self._end is None:
            self._raise_lost()
        return self.stopped

    # For `result_stream`.

    @property
    def _keeps_result(self) -> bool:
        """Whether the client assembles the result, for another caller or because an earlier process
        followed it.
        """
        whole = self._end is not None and not self._end.code
        return self._chunks is None and (self._stored or not self._wanted or whole)

    @property
    def _failed(self) -> bool:
        """Whether the job has ended without a result."""
        return self._end is not None and bool(self._end.code) and self._end.result_id is None

    def _release_result(self) -> tuple[ChunkReader, str | bytes]:
        """Return the reader for the chunks of the result from now on, and the text or bytes received
        before.
        """
        if self._keeps_result:
            return ChunkReader(), ""
        if self._chunks is not None:
            return self._chunks, ""
        self._chunks, early = self._jobs.session._stream_result(self.id)
        return self._chunks, early

    def _successful_end(self) -> JobEnded:
        """Return the end of the job.

        Raises the ArcpError of a failure, or the reason why the end is missing.
        """
        end = self._end
        if end is None:
            self._raise_lost()
        if not end.code and not end.receipt:
            message = "the job had ended before: attach(job_id) gets its history, and its result"
            raise ResultIncomplete(message, job_id=self.id)
        if end.code and end.result_id is not None:
            raise ResultIncomplete(end.message, job_id=self.id)
        if end.code:
            raise error_for(
                end.code, end.message, retryable=end.retryable, details=end.details, job_id=self.id
            )
        return end

    # For the session.

    def _accepted(self, accepted: JobAccepted) -> None:
        """Apply the answer to the submit."""
        self.agent, self.lease, self.budget = accepted.agent, accepted.lease, accepted.budget
        self.expires_at, self.accepted_at = accepted.expires_at, accepted.accepted_at
        self.trace_id, self.credentials = accepted.trace_id, accepted.credentials or ()

    def _subscribed(self, subscribed: Subscribed) -> None:
        """Apply the answer to a subscribe."""
        self.agent, self.lease, self.budget = subscribed.agent, subscribed.lease, subscribed.budget
        self.expires_at, self.trace_id = subscribed.expires_at, subscribed.trace_id
        if subscribed.credentials is not None:
            self.credentials = subscribed.credentials
        self.parent_job_id = subscribed.parent_job_id
        self.current_status, self.replayed = subscribed.status, subscribed.replayed
        self.subscribed_from = subscribed.subscribed_from
        if subscribed.history_from is not None:
            self.history_from = subscribed.history_from
            if subscribed.request_id is None and self._wanted:
                self._inbox.waiting.append(self._cut(subscribed.history_from))
                self._wake()

    def _claim(self) -> None:
        """Note that a caller has asked for the job.

        The caller gets the job at the next turn, after which `_taken` is called.
        """
        self._claimed = True
        self._offered += 1
        self._look_at_buffer()

    def _taken(self) -> None:
        """Note that a caller of `_claim` has had its turn."""
        self._offered = max(0, self._offered - 1)
        self._look_at_buffer()
        self._look_at_end()

    def _taken_by_a_thread(self) -> None:
        """Note that the caller gets the job in another thread, a little later."""
        self._offered += 1
        self._jobs.beside(self._taken_late)

    async def _taken_late(self) -> None:
        await anyio.sleep(TURN_OF_A_THREAD)
        self._taken()

    def _make_way(self) -> None:
        """Check the buffer of an unclaimed job, since a caller waits for data behind its events."""
        if self._inbox.full and not self._claimed:
            self._look_at_buffer()

    def _make_room(self, size: int) -> None:
        """Drop the oldest events, up to this many bytes, unless they are kept."""
        floor = self._inbox.size - size
        while self._inbox.waiting and self._inbox.size > floor and not self._kept:
            self._drop_oldest()
        self._look_at_end()

    def _emitted(self, events: Sequence[Event]) -> None:
        """Take new events, at least one."""
        last = events[-1]
        self.events_received += len(events)
        self.last_seq = last.job_seq or last.seq
        for event in filter(_VALUE, events):
            self._rotated(event)
        if not self._wanted:
            for event in events:
                self._dropped(event)
            return
        self._inbox.add(events)
        self._wake()
        if self._inbox.size > self._buffer_size:
            self._look_at_buffer()
        if self._jobs.size > self._jobs.room:
            self._jobs.make_room()

    def _cancel_answered(self) -> None:
        """Count an answer to a cancel."""
        self.events_received += 1

    def _ended(self, end: JobEnded) -> None:
        """Take the end of the job."""
        if end.history_from is not None:
            self.history_from = end.history_from
            if self._wanted and not self._joins_late:
                self._inbox.waiting.append(self._cut(end.history_from))
        if end.seq:
            self.events_received += 1
            self.last_seq = end.job_seq or end.seq
        self._end = end
        self.credentials = ()
        self._end_receipt = end.receipt
        self._finish()
        self._look_at_end()

    @property
    def _joins_late(self) -> bool:
        """Whether nothing has come of the job but its end, behind the answer to a repeated key."""
        return not (self._stored or self.events_received) and self.subscribed_from is None

    def _leave(self) -> None:
        """End the iteration, because the job is no longer observed."""
        self._left = True
        if not self._iterating:
            self._inbox.done_with_taken()
        self._lose(ConnectionLost("the job is no longer observed", job_id=self.id))

    def _lose(self, error: ArcpError) -> None:
        """Note that no further events will come; `error` is the reason."""
        self._lost = error
        self._finish()

    @property
    def _waiting(self) -> bool:
        """Whether events wait."""
        return bool(self._inbox.waiting)

    def _done_with_end(self) -> None:
        """Note that the end was seen."""
        if self._end_receipt:
            self._inbox.done_with(self._end_receipt)
            self._end_receipt = 0

    # For the iterator, and helpers of the methods above.

    async def _wait_for(self, events: JobEvents) -> None:
        """Yield to other tasks and wait for an event; raises StopAsyncIteration at the end, or the loss."""
        if self._iterator is not None and self._iterator() is not events:
            raise RuntimeError(f"job {self.id} is being iterated by another loop")
        if self._inbox.waiting:
            await anyio.lowlevel.checkpoint()
        while not self._inbox.waiting:
            if self._end is not None or self._left:
                self._jobs.end_seen(self)
                raise StopAsyncIteration
            if self._lost is not None:
                self._raise_lost()
            self._arrived = anyio.Event()
            with self._jobs.awaiting():
                await self._arrived.wait()

    def _cut_off(self, cut: HistoryCut) -> NoReturn:
        self._iterator = None  # The traceback keeps the iterator alive, but it is over.
        self._given_up()
        raise cut

    def _rotated(self, event: Event) -> None:
        self.credentials = [
            msgspec.structs.replace(one, value=event.value) if one.id == event.body.get("id") else one
            for one in self.credentials
        ]

    @property
    def _iterating(self) -> bool:
        return self._iterator is not None and self._iterator() is not None

    def _collected(self, _: object) -> None:
        """Note that the iterator was collected, possibly at any moment and on any thread."""
        self._jobs.call_from_thread(self._given_up)

    def _given_up(self) -> None:
        """Note that a loop was left: its last event may have failed, so it is not processed yet."""
        if self._iterating:
            return
        self._iterator = None
        if self._inbox.taken:
            self._jobs.left(self, self._inbox.taken)
        self._look_at_buffer()
        self._look_at_end()

    def _marked_processed(self, receipt: int) -> None:
        """Note that the event with which a loop was left counts as processed."""
        if self._inbox.taken == receipt and not self._iterating:
            self._inbox.done_with_taken()
            self._look_at_end()

    def _look_at_end(self) -> None:
        """Mark the end as processed when all earlier events are, unless a caller is about to see it."""
        awaited = self._iterating or self._asking > 0 or self._offered > 0 or not self._claimed
        if not awaited and not self._inbox.waiting and not self._inbox.taken:
            self._done_with_end()

    def _look_at_buffer(self) -> None:
        """Apply or release back-pressure; drop events that are not kept."""
        kept = self._kept
        while self._inbox.size > self._buffer_size and not kept:
            self._drop_oldest()
        full = kept and self._inbox.size > self._buffer_size
        if full is not self._inbox.full:
            self._inbox.full = full
            self._holding.hold_back(full)
        overflowing = full and self._inbox.size > OVERFLOW
        if overflowing is not self._overflowing:
            self._overflowing = overflowing
            self._holding.overflow(overflowing)

    @property
    def _kept(self) -> bool:
        """Whether events are kept without bound: an iterator takes them, or may begin to."""
        waits = not self._claimed and not self._holding.awaited and self._inbox.size <= self._jobs.room
        return self._iterating or self._offered > 0 or waits

    def _drop_oldest(self) -> None:
        event = self._inbox.take()
        if not isinstance(event, HistoryCut):
            self._dropped(event)

    def _dropped(self, event: Event) -> None:
        self.events_dropped += 1
        if not self._iterating:
            self._inbox.done_with_taken()
        self._inbox.done_with(event.receipt)

    def _cut(self, history_from: int) -> HistoryCut:
        told = f"events after number {self.last_seq} are lost: the history begins with number {history_from}"
        details: dict[str, Any] = {"last_seq": self.last_seq, "history_from": history_from}
        if self._jobs.loss:
            told += f" ({self._jobs.loss})"
            details["reason"] = self._jobs.loss
        return HistoryCut(told, details=details, job_id=self.id)

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
        error = again(self._lost)
        error.job_id = self.id
        raise error
