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
from arcp_proto.engine.output import JobAccepted, JobEmitted, JobEnded, Subscribed
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import JobId
from arcp_proto.wire.result_chunks import ChunkReader

from .inbox import Inbox
from .job_events import JobEvents
from .pending import again
from .result_reader import ResultReader

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from arcp_proto.wire.credential import Credential

    from .jobs import SessionJobs

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

Event: TypeAlias = JobEmitted
"""One event of a job (§8.1): `kind`, `body`, `ts`, `job_id`, `job_seq` (its position in the job, the same for
everybody; None of a runtime that tells none) and `seq` (its number in the session)."""

FinalStatus: TypeAlias = Literal["success", "error", "cancelled", "timed_out"]
"""How a job has ended (§7.3)."""

TURN_OF_A_THREAD: Final = 1.0
"""Seconds in which a thread that has asked for a job begins its loop."""
GRACE: Final = 5.0
"""Seconds from the end of a loop until the event that it was left with counts as processed, with the session
still open: by then whoever failed with it has left the session too."""
OVERFLOW = 64 * 1024 * 1024
"""Bytes that a full buffer may grow to while somebody waits for what stands behind its events."""
ENDED_AS: Final = {"cancelled": ErrorCode.CANCELLED, "timed_out": ErrorCode.TIMEOUT}
_VALUE: Final = attrgetter("value")


class Job(Generic[T]):
    """A job that was submitted or is observed; `submit`, `attach` and `subscribe` of a Session return it.

        async for event in job: ...    its events: `event.kind`, `event.body`, `event.seq`, `event.ts`
        await job.result()             its result, or the error with which it ended
        async for piece in job.result_stream(): ...    a large result, in constant memory
        await job.cancel()             ends it; `await job.wait()` waits until it is over

    Its attributes: `id`; `agent`; as it was accepted `lease`, `expires_at`, `budget`, `accepted_at`,
    `trace_id`, `parent_job_id`, `credentials` and `result_type`; how it ended `over`, `final_status` and
    `summary`; of the answer to a subscribe `current_status`, `subscribed_from`, `replayed` and
    `history_from`; counted here `events_received`, `events_dropped` and `last_seq`.

    Events wait for their iterator. While somebody iterates, more than the session's `buffer_size` of them
    stops reading from the connection, so that the runtime waits; while nobody does, the oldest are dropped,
    and all of them once somebody waits for the result alone. A connection that is cut and resumed is not
    seen here: see `Session.watch`.
    """

    result_type: type[T] | None = None
    """What `result` returns; None: JSON as it comes."""

    def __init__(self, jobs: SessionJobs, job_id: str, buffer_size: int, *, claimed: bool = True) -> None:
        """Jobs are made by their Session."""
        self.id = job_id
        self.agent = ""
        """`name@version`, or the name of an agent without versions; empty as long as nobody has told."""
        self.lease: Mapping[str, Sequence[str]] = {}
        self.expires_at: str | None = None
        self.budget: Mapping[str, Any] = {}
        """Currency -> amount, as the runtime wrote it."""
        self.accepted_at: str | None = None
        """When it was accepted; None for a job that is observed."""
        self.credentials: Sequence[Credential] = ()
        """What its runtime has issued for it, as it is valid now (§9.8); nothing once it is over.

        `credential.value.reveal()` is the value itself; nothing else shows it.
        """
        self.trace_id: str | None = None
        self.parent_job_id: str | None = None
        """The job that delegated it, of one that is observed (§10)."""
        self.history_from: int | None = None
        """The position of the first event that was left of its history, when a bound had cut it (§7.6)."""
        self.current_status: str | None = None
        """The status in the answer to the last subscribe (§7.6); None for a job that was only submitted."""
        self.subscribed_from: int | None = None
        """The position of the last event before that subscribe, 0 for none (§7.6); None without one."""
        self.replayed = False
        """Whether that subscribe brings earlier events."""
        self.events_received = 0
        """Numbered frames of this job, the terminal and answers to `cancel` included."""
        self.events_dropped = 0
        """Of them, those that were dropped because nobody iterated."""
        self.last_seq = 0
        """The position of the last event received, to observe the job from there; of a runtime that tells no
        positions its number in the session."""
        self._jobs = jobs
        self._holding = jobs.holding
        self._buffer_size = buffer_size
        self._inbox = Inbox(jobs, job_id)
        self._overflowing = False
        self._stored = not claimed
        """Whether another process has followed it before."""
        self._claimed = claimed
        """Somebody has asked for it, in this process. Until then its events wait for somebody who does."""
        self._offered = 0
        """How many have asked for it and had no turn yet, in which a loop could begin: its events wait."""
        self._wanted = True
        self._letting_go = False
        self._iterator: weakref.ref[JobEvents] | None = None
        self._arrived: anyio.Event | None = None
        self._end: JobEnded | None = None
        self._end_receipt = 0
        """Receipt of an end that is not done with; 0: none."""
        self._asking = 0
        """How many wait for `result`."""
        self._left = False
        self._lost: ArcpError | None = None
        self._over = jobs.event()
        self._chunks: ChunkReader | None = None
        """Reads the chunks of its result, once that is read as a stream."""

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.agent} {self.final_status or 'unfinished'}>"

    @property
    def final_status(self) -> FinalStatus | None:
        """success, error, cancelled or timed_out; None while the end has not come."""
        return None if self._end is None else cast(FinalStatus, self._end.final_status)

    @property
    def over(self) -> bool:
        """Whether it has ended or is lost."""
        return self._over.is_set()

    @property
    def summary(self) -> str | None:
        """What the runtime says in a line about a result, if it does."""
        return None if self._end is None else self._end.summary

    def __aiter__(self) -> JobEvents:
        """Its events, until its end, or until JobLost or another ConnectionLost is raised.

        HistoryCut is raised where events are missing; a later loop goes on behind them.
        One iterator at a time, RuntimeError for another; leaving the loop gives it up, and a later loop goes
        on from there. An event is processed when the next one is asked for: that with which the loop was left
        once a later one or `result` goes on, or after five seconds; when the session is left before, it comes
        again in the next process.
        """
        current = None if self._iterator is None else self._iterator()
        if current is not None and not current.cut:
            raise RuntimeError(
                f"job {self.id} is being iterated already, and one loop takes its events: leave that loop,"
                " pass its events on in it, or observe the job in a session of its own"
            )
        events = JobEvents(self)
        self._iterator = weakref.ref(events, self._collected)
        self._look_at_buffer()
        return events

    async def result(self) -> T:
        """Wait for the end: the value, or the text or bytes of a streamed result; as `result_type`, if any.

        Events that wait for no iterator are dropped; asked for inside the job's own loop, it ends that loop.
        Raises the ArcpError of the job's error code (§12), ResultIncomplete when parts of a streamed result
        are gone, ResultMismatch for a value that is not a `result_type`, ConnectionLost when its end will not
        be seen, and RuntimeError once `result_stream` has been called, since nothing keeps the result then.
        """
        if self._chunks is not None and (self._end is None or self._chunks.due):
            raise RuntimeError(
                f"the result of job {self.id} is read by result_stream(), and is not kept for result()"
            )
        self._offered = 0
        events = None if self._iterator is None else self._iterator()
        if events is None or events.task == self._jobs.task_id():
            # Nobody will ask for the next event: there is no iterator, or it waits for us.
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
        """Return an iterator over the pieces of the result (§8.4), in constant memory whatever its size.

        Pieces are `str` of a result that the agent streams as text, and `bytes` of one that it streams as
        bytes. A value that the agent returned comes as its JSON text: `content_type` of the iterator is
        `application/json` then; None that was returned has no piece. The iteration is the loop over the job's
        events: it holds back the connection while it is behind, and acknowledges what was taken; `on_event`
        is called with every event that is not a chunk. Call it right after `submit`: what came before is
        held in memory, and so is the result of a job that another process has followed before.

        The iteration raises the ArcpError of the job's error code (§12), ResultIncomplete when chunks are
        missing or do not match the end of the job, and ConnectionLost when its end will not be seen. Raises
        RuntimeError while another loop iterates over the job.
        """
        return ResultReader(self, on_event)

    async def wait(self) -> None:
        """Wait until the job has ended or is lost."""
        await self._over.wait()

    async def cancel(self, reason: str = "") -> None:
        """Cancel the job, and return when its end has come; a job that is over is left as it is.

        Raises the error of a refusal (§7.4), ConnectionLost when its end will not be seen.
        """
        if self._end is None:
            await self._jobs.session._cancel(self, reason)
        if self._end is None:
            self._raise_lost()

    # For `result_stream`.

    @property
    def _keeps_result(self) -> bool:
        """Whether its result is put together by the client, for somebody else or from an earlier process."""
        whole = self._end is not None and not self._end.code
        return self._chunks is None and (self._stored or not self._wanted or whole)

    @property
    def _failed(self) -> bool:
        """Whether it has ended without a result."""
        return self._end is not None and bool(self._end.code) and self._end.result_id is None

    def _release_result(self) -> tuple[ChunkReader, str | bytes]:
        """Return what reads the chunks of its result from now on, and what came of it before."""
        if self._keeps_result:
            return ChunkReader(), ""
        if self._chunks is not None:
            return self._chunks, ""
        self._chunks, early = self._jobs.session._stream_result(self.id)
        return self._chunks, early

    def _successful_end(self) -> JobEnded:
        """Return how it ended; raises the ArcpError of a failure, or the reason why its end is not seen."""
        end = self._end
        if end is None:
            self._raise_lost()
        if end.code and end.result_id is not None:
            raise ResultIncomplete(end.message, job_id=self.id)
        if end.code:
            raise error_for(
                end.code, end.message, retryable=end.retryable, details=end.details, job_id=self.id
            )
        return end

    # For the session.

    def _accepted(self, accepted: JobAccepted) -> None:
        """The answer to its submit."""
        self.agent, self.lease, self.budget = accepted.agent, accepted.lease, accepted.budget
        self.expires_at, self.accepted_at = accepted.expires_at, accepted.accepted_at
        self.trace_id, self.credentials = accepted.trace_id, accepted.credentials or ()

    def _subscribed(self, subscribed: Subscribed) -> None:
        """The answer to a subscribe."""
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
        """Somebody has asked for it, and gets it at the next turn; `_taken` says when that is over."""
        self._claimed = True
        self._offered += 1
        self._look_at_buffer()

    def _taken(self) -> None:
        """Whoever has asked for it has had that turn."""
        self._offered = max(0, self._offered - 1)
        self._look_at_buffer()
        self._look_at_end()

    def _taken_by_a_thread(self) -> None:
        """Whoever has asked for it gets it in another thread, a little later."""
        self._offered += 1
        self._jobs.beside(self._taken_late)

    async def _taken_late(self) -> None:
        await anyio.sleep(TURN_OF_A_THREAD)
        self._taken()

    def _make_way(self) -> None:
        """Somebody waits for what stands behind it."""
        if self._inbox.full and not self._claimed:
            self._look_at_buffer()

    def _make_room(self, size: int) -> None:
        """Drop the oldest events, up to this many bytes, unless somebody is to have them."""
        floor = self._inbox.size - size
        while self._inbox.waiting and self._inbox.size > floor and not self._kept:
            self._drop_oldest()
        self._look_at_end()

    def _emitted(self, events: Sequence[Event]) -> None:
        """Events have come, one at least."""
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
        """An answer to a cancel has come."""
        self.events_received += 1

    def _ended(self, end: JobEnded) -> None:
        """The end has come."""
        self.events_received += 1
        self.last_seq = end.job_seq or end.seq
        self._end = end
        self.credentials = ()
        self._end_receipt = end.receipt
        self._finish()
        self._look_at_end()

    def _ended_before(self, final_status: str) -> None:
        """It is over already, as the answer to a cancel says, and its end does not come any more."""
        if not self.over:
            code = ENDED_AS.get(final_status, ErrorCode.INTERNAL_ERROR)
            self._end = JobEnded(JobId(self.id), 0, final_status, "")
            if final_status != "success":
                self._end.code, self._end.message = code.value, "the job was over already"
            self._finish()

    def _leave(self) -> None:
        """Nobody observes it any more: its iteration ends."""
        self._left = True
        if not self._iterating:
            self._inbox.done_with_taken()
        self._lose(ConnectionLost("the job is not observed any more", job_id=self.id))

    def _lose(self, error: ArcpError) -> None:
        """Nothing comes any more; `error` says why."""
        self._lost = error
        self._finish()

    @property
    def _waiting(self) -> bool:
        """Whether events of it wait."""
        return bool(self._inbox.waiting)

    def _done_with(self, receipt: int) -> None:
        """Note an event as processed that is not for the user."""
        self._inbox.done_with(receipt)

    def _done_with_end(self) -> None:
        """Whoever was to see the end has."""
        if self._end_receipt:
            self._inbox.done_with(self._end_receipt)
            self._end_receipt = 0

    # For its iterator, and steps of the above.

    async def _wait_for(self, events: JobEvents) -> None:
        """Let others run, and wait for an event; raises StopAsyncIteration when none will come, or why."""
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
        self._iterator = None  # The traceback keeps it, and it is over.
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
        """The iterator is gone; of one in a cycle that is told at any moment, and on any thread."""
        self._jobs.call_from_thread(self._given_up)

    def _given_up(self) -> None:
        """Whoever had the last event may have failed: that is not done with yet."""
        if self._iterating:
            return
        self._iterator = None
        if self._inbox.taken and not self._letting_go:
            self._letting_go = True
            self._jobs.beside(self._let_go)
        self._look_at_buffer()
        self._look_at_end()

    async def _let_go(self) -> None:
        """A loop that was left is over for good when nobody goes on."""
        while self._inbox.taken and not self._iterating:
            left_with = self._inbox.taken
            await anyio.sleep(GRACE)
            if self._inbox.taken == left_with and not self._iterating:
                self._inbox.done_with_taken()
                self._look_at_end()
        self._letting_go = False

    def _look_at_end(self) -> None:
        """The end is done with when all that came before it is, unless somebody is about to see it."""
        awaited = self._iterating or self._asking > 0 or self._offered > 0 or not self._claimed
        if not awaited and not self._inbox.waiting and not self._inbox.taken:
            self._done_with_end()

    def _look_at_buffer(self) -> None:
        """Hold back the connection, or let it go; when nobody is to have the events, make room."""
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
        """Whether its events are kept, however many: somebody iterates, or may be about to."""
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
        told = (
            f"events behind number {self.last_seq} are gone: what is left begins with number {history_from}"
        )
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
