"""The client's session with a runtime, in which jobs are submitted and observed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import anyio

from arcp_io import errors
from arcp_io.drivers.clock import Clock
from arcp_io.errors import ArcpError, ConnectionLost, LocalProtocolError, error_for
from arcp_io.lease_terms import moment, with_budget
from arcp_io.observation import Observation, Observers, kinds_of
from arcp_io.values import converted
from arcp_proto import (
    AgentEntry,
    CancelAcknowledged,
    Client,
    ClientConfig,
    Connection,
    ConnectionEnded,
    Detached,
    Dial,
    EventsRead,
    JobAccepted,
    JobDescribed,
    JobDescription,
    JobEnded,
    JobId,
    JobLost,
    JobsListed,
    MarkedProcessed,
    Peer,
    RequestId,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    SessionLost,
    Subscribed,
    Welcomed,
)
from arcp_proto import Event as MachineEvent
from arcp_proto import Request as MachineRequest
from arcp_proto.wire import ChunkReader

from .autosave import ClientPump, SessionKeeper
from .backpressure import Holding
from .dial import Target, dial
from .job import Job
from .job_pages import Listing
from .jobs import SessionJobs
from .pending import Answer, Answers, again, job_loss_of, loss_of, refusal_of, session_loss_of
from .redial import Dialer, Dialing, Token
from .store import SessionStore
from .watch import State, Watcher, Watchers

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop

R = TypeVar("R")
logger = logging.getLogger("arcp_io")

BUFFER_SIZE: Final = 1024 * 1024
"""Bytes of a job's events that may wait for their iterator."""


class Session:
    """A session with a runtime (§6): submit and observe jobs in it; `connect` opens it.

        job = await session.submit("agent", input)         a Job
        job = await session.attach(job_id)                 a job that was submitted before
        job = await session.subscribe(job_id)              a job of any principal
        async for entry in session.list_jobs(): ...        the visible jobs
        await session.describe(job_id)                     one look at a job
        async for event in session.observe(job_id): ...    its events, beside any other iterator
        async for change in session.watch(): ...           changes of the connection
        await session.cancel_all()                         cancel all unfinished jobs
        await session.unsubscribe(job)                     stop observing; the job continues
        await session.close()                              end the session; its jobs continue

    Attributes: `id`; `runtime`, `agents`, `features` and `resume_window_sec` from the runtime's welcome;
    `state`, `lost`, `cursor` and `stored_jobs`.

    After a lost connection the session resumes by itself (`watch` reports it), unless `reconnect` is off;
    calls and iterations wait meanwhile. When it is over `lost` is the reason; every waiting and new call
    raises ConnectionLost, or a subclass.
    """

    def __init__(
        self,
        config: ClientConfig,
        loop: Loop,
        *,
        buffer_size: int = BUFFER_SIZE,
        store: SessionStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Create a session; called by `connect` and `connect_stdio`."""
        resumption = None if store is None else store.load()
        self._clock = clock or Clock()
        self._client = Client(
            config,
            seed=os.urandom(32),
            now=self._clock.now(),
            unix=self._clock.unix(),
            resumption=resumption,
        )
        self._keeper = None if store is None else SessionKeeper(self._client, store, loop)
        self._resumes = config.resume
        self._dialer: Dialer | None = None
        self._connection: Connection | None = None
        """The connection that carries the session."""
        self._welcome = Answer()
        self._answers = Answers()
        self._subscribing: list[str] = []
        """The jobs that callers of `subscribe` wait for."""
        self._holding = Holding(self._hold)
        self._jobs = SessionJobs(self, loop, self._clock, resumption, self._holding, buffer_size)
        self._pump = ClientPump(
            self._client, _PumpHost(self), loop, self._clock, self._keeper, self._jobs.tell
        )
        self._watchers = Watchers()
        self._observers = Observers()
        self._failure: ArcpError | None = None
        self._dial: Dial | None = None
        """The client's request for the next attempt to open a first session."""
        self._finished = False
        """Whether it was closed with nothing left to resume."""
        self._over = loop.event()
        self.lost: ConnectionLost | None = None
        self.id = ""
        self.runtime = Peer("", "")
        """The runtime's `name` and `version`."""
        self.features: frozenset[str] = frozenset()
        """The features that both sides support (§6.2)."""
        self.agents: Sequence[AgentEntry] = ()
        """The runtime's agents: `name`, `versions`, `default` (§7.5)."""
        self.resume_window_sec = 0
        """Seconds for which the runtime keeps the session after its connection was lost (§6.3)."""

    def __repr__(self) -> str:
        return f"<Session {self.id or 'not open'} {self.state}>"

    @property
    def state(self) -> State:
        """The state: attached; detached (being resumed); lost (beyond its window); closed (over)."""
        return self._watchers.state

    @property
    def cursor(self) -> int:
        """The number up to which all events have been processed, as in acks and the store.

        It is 0 before the first.
        """
        self._jobs.tell()
        return self._client.cursor

    @property
    def stored_jobs(self) -> Sequence[str]:
        """The ids of the stored session's jobs whose events wait for `attach`."""
        return self._jobs.stored

    def watch(self) -> Watcher:
        """Return an iterator over the changes of the session: `async for change in session.watch()`.

        `Detached`: the connection was lost, and the session is being resumed. `Welcomed`: the session is open
        again. `SessionLost`: it cannot be resumed; its jobs are followed in another session if possible, and
        `JobLost` reports those that cannot be. The iteration ends with the session.
        """
        return self._watchers.watch()

    @overload
    async def submit(
        self,
        agent: str,
        input: Any = None,
        *,
        lease: Mapping[str, Sequence[str]] | None = None,
        budget: str | Sequence[str] | None = None,
        expires_at: str | datetime | timedelta | None = None,
        max_runtime: int | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        result_type: type[R],
    ) -> Job[R]: ...

    @overload
    async def submit(
        self,
        agent: str,
        input: Any = None,
        *,
        lease: Mapping[str, Sequence[str]] | None = None,
        budget: str | Sequence[str] | None = None,
        expires_at: str | datetime | timedelta | None = None,
        max_runtime: int | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        result_type: Any = None,
    ) -> Job[Any]: ...

    async def submit(
        self,
        agent: str,
        input: Any = None,
        *,
        lease: Mapping[str, Sequence[str]] | None = None,
        budget: str | Sequence[str] | None = None,
        expires_at: str | datetime | timedelta | None = None,
        max_runtime: int | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        result_type: Any = None,
    ) -> Job[Any]:
        """Submit a job (§7.1), and return it once it was accepted.

        `input` is JSON, or a value that `arcp_io.values` converts to it: dataclasses, Structs, attrs classes,
        pydantic models, datetimes and the like. `budget` is one amount such as USD:5, or several;
        `expires_at`, of the lease, is a time in UTC or a time from now; `max_runtime` is in seconds. With a
        `result_type`, a type of JSON or of those libraries, `result()` of the job returns such a value.
        Raises the ArcpError of the refusal's code (§12), ConnectionLost, and LocalProtocolError for values
        that cannot be sent: also a budget, an expiry, models or a version of the agent if the runtime did not
        negotiate to enforce them (§6.2).
        """
        lease_request = with_budget(lease, budget)
        expiry = moment(expires_at, self._clock.unix())
        terms = (lease_request, expiry, idempotency_key, max_runtime, traceparent, tracestate)

        def send(*, now: int) -> RequestId:
            try:
                return self._client.submit(agent, input, *terms, now=now)
            except LocalProtocolError:
                return self._client.submit(agent, converted("input", input), *terms, now=now)

        job: Job[Any] = await self._ask(send)
        job.result_type = result_type
        return job

    async def attach(self, job_id: str, from_seq: int | None = None) -> Job:
        """Follow a job that was submitted before: its events continue after the last processed one.

        The stream of a job of the stored session simply continues. Any other job is observed (§7.6) with its
        history, after number `from_seq`, by default from its start; raises the errors of `subscribe`.
        """
        if (job := self._jobs.claim(job_id)) is not None:
            return job
        return await self.subscribe(job_id, from_seq, history=True)

    async def subscribe(self, job_id: str, from_seq: int | None = None, *, history: bool = False) -> Job:
        """Observe a job of any principal (§7.6), from now on, or with the history after `from_seq`.

        A job that this session follows already is returned as it is. Raises JobNotFound, PermissionDenied
        when the job may be listed only, LocalProtocolError when the runtime does not offer subscriptions, and
        ConnectionLost.
        """
        if (known := self._jobs.claim(job_id)) is not None:
            return known
        self._subscribing.append(job_id)
        try:
            job: Job = await self._ask(partial(self._client.subscribe, JobId(job_id), from_seq, history))
        finally:
            self._subscribing.remove(job_id)
        return job

    async def describe(self, job_id: str, *, input: bool = False) -> JobDescription:
        """Return one look at a job that is visible: status, times, attempt, lease, budget, progress, end.

        With `input` also the input of the job, if the runtime has kept it: see `JobDescription.input`.

        It has no effect on what the session follows. Raises JobNotFound, PermissionDenied for a job that may
        be listed only, LocalProtocolError if the runtime does not offer it, and ConnectionLost.
        """
        described: JobDescribed = await self._ask(partial(self._client.describe, JobId(job_id), input))
        return described.job

    def observe(
        self,
        job_id: str,
        from_position: int = 0,
        *,
        kinds: str | Sequence[str] | None = None,
        follow: bool = True,
    ) -> Observation:
        """Iterate over the events of a visible job above a position, by default over all of them.

        Any number of observations of one job may be under way in a session, beside its submitter's iterator:
        each keeps its own position. `kinds` are the kinds of events to return, one or several; the end of the
        job is always noticed. Without `follow` the iteration ends with the last event so far. Unlike those of
        a Job, the chunks of a result are not joined. A slow loop costs nothing but its own delay.
        """
        words = kinds_of(kinds)

        async def read(after: int, wait: float) -> EventsRead:
            ask = partial(self._client.read_events, JobId(job_id), after, None, wait, words)
            page: EventsRead = await self._ask(ask)
            return page

        return Observation(job_id, from_position, read, self._observers, follow=follow)

    async def unsubscribe(self, job: Job) -> None:
        """Stop observing a job: its iteration ends. The job itself continues."""
        if self._jobs.remove(job.id) is not None:
            if self.lost is None:
                self._client.unsubscribe(JobId(job.id), now=self._pump.now())
                self._pump.run()
            job._leave()

    def list_jobs(
        self,
        *,
        status: str | Sequence[str] | None = None,
        agent: str | None = None,
        created_after: str | datetime | timedelta | None = None,
        created_before: str | datetime | timedelta | None = None,
        page_size: int | None = None,
    ) -> Listing:
        """Iterate over the visible jobs (§6.6), fetched page by page, in the order of the runtime.

        A runtime of `serve` lists the newest first. `status` is one status or several; `agent` a name or
        name@version; times are exclusive. Raises LocalProtocolError when the runtime does not offer listing,
        and ConnectionLost.
        """
        statuses = [status] if isinstance(status, str) else None if status is None else list(status)
        after = moment(created_after, self._clock.unix())
        before = moment(created_before, self._clock.unix())
        ask = partial(self._client.list_jobs, statuses, agent, after, before, page_size)

        async def next_page(cursor: str | None) -> JobsListed:
            page: JobsListed = await self._ask(partial(ask, cursor))
            return page

        return Listing(next_page)

    async def cancel_all(self) -> None:
        """Cancel every unfinished job and wait for the ends; refusals and a lost connection are ignored.

        A job whose agent has not stopped is logged as a warning.
        """
        async with anyio.create_task_group() as tasks:
            for job in self._jobs:
                tasks.start_soon(_cancel_quietly, job)

    async def close(self, reason: str = "") -> None:
        """Say goodbye (§6.7) and wait for the end of the connection, at most a second. Jobs continue."""
        if self.lost is None:
            self._jobs.done_with_ends()
            self._jobs.tell()
            self._finished = self._is_finished()
            if self._keeper is not None:
                self._keeper.save()
            self._client.close(reason, now=self._pump.now())
            self._pump.run()
            await self._over.wait()

    # Called by the jobs.

    async def _cancel(self, job: Job, reason: str) -> None:
        """Cancel a job and wait for its end; raises the error of a refusal (§7.4)."""
        with self._holding.reading_on():
            await self._ask(partial(self._client.cancel, JobId(job.id), reason))
            await job.wait()

    def _processed(self, job_id: str, receipt: int) -> None:
        """Note that everything of a job up to a receipt is processed."""
        if self.lost is None:
            self._client.mark_processed(JobId(job_id), receipt, now=self._pump.now())
            if self._keeper is not None:
                self._keeper.changed_before(self._connection)

    def _stopped_iterating(self, job_id: str, receipt: int) -> None:
        """Note that a loop over a job was left with the event of this receipt."""
        if self.lost is None:
            self._client.stopped_iterating(JobId(job_id), receipt, now=self._pump.now())
            self._pump.soon()

    def _stream_result(self, job_id: str) -> tuple[ChunkReader, str | bytes]:
        """Leave the chunks of a job's result to its reader; see `Client.stream_result`."""
        return self._client.stream_result(JobId(job_id), now=self._pump.now())

    def _tells_soon(self) -> None:
        """Have the pump report processed events at its next turn."""
        self._pump.soon()

    # Called by `connect`.

    async def _open(
        self, token: Token, target: Target, dialing: Dialing = dial, *, patient: bool = False
    ) -> None:
        """Connect and say hello; return when the runtime has sent its welcome.

        Raises OSError when the target is not reached, ConnectionLost when it takes too long, and the
        ArcpError of a refusal (§6.1). With `patient` an unreachable target, or one that refuses with a
        retryable error, is tried again, as long as a lost session would be.
        """
        self._dialer = Dialer(self._client, self._pump, target, token, dialing)
        if patient and not self._redials:
            self._client.dial(now=self._pump.now())
            self._pump.run()
        while True:
            request, self._dial = self._dial, None
            try:
                await self._dialer.connect(request)
                await self._welcome.wait()
                return
            except (OSError, ConnectionLost):
                if patient and self._redials:
                    await self._welcome.wait()  # The client resumes the stored session by itself.
                    return
                if self._dial is None:
                    raise
            self._welcome = Answer()

    def _leave(self) -> None:
        """Drop the connection: the session is detached, its jobs continue."""
        self._jobs.done_with_ends()
        self._jobs.tell()
        if self._keeper is not None:
            self._keeper.close(finished=self._finished or self._is_finished())
        self._lose(ConnectionLost("the session was left"))
        try:
            self._client.detach(now=self._pump.now())
        finally:
            self._pump.stop()

    # Called by the pump.

    def _request(self, request: MachineRequest) -> None:
        """Carry out the client's request for a connection."""
        if isinstance(request, Dial) and self._dialer is not None:
            if self._redials:
                self._dialer.again(request)
            else:
                self._dial = request

    def _happened(self, events: Sequence[MachineEvent]) -> None:
        """Handle events of the runtime and of the connection."""
        for event in self._jobs.take_emitted(events):
            self._told(event)

    # Helpers of the methods above.

    @property
    def _redials(self) -> bool:
        """Whether there is a session that connects again by itself; if not, `_open` makes each attempt."""
        return self._resumes and self._client.session_id is not None

    def _told(self, event: MachineEvent) -> None:
        match event:
            case JobEnded():
                self._jobs.ended(event)
            case JobAccepted():
                self._accepted(event)
            case Subscribed():
                self._subscribed(event)
            case RequestRefused():
                self._answers.refuse(event.request_id, refusal_of(event))
            case CancelAcknowledged():
                self._jobs.cancel_answered(event)
                self._answers.give(event.request_id, event.final_status)
            case JobsListed() | JobDescribed() | EventsRead():
                self._answers.give(event.request_id, event)
            case MarkedProcessed():
                self._jobs.marked_processed(event)
            case _:
                self._session_changed(event)

    def _session_changed(self, event: MachineEvent) -> None:
        match event:
            case Welcomed():
                self._welcomed(event)
            case Detached():
                self._jobs.detached(event)
                self._watchers.changed(event)
            case SessionLost():
                self._jobs.session_lost(event)
                self._watchers.changed(event)
                if event.final:
                    self._end_soon(session_loss_of(event))
            case JobLost():
                self._watchers.changed(event)
                self._jobs.lose(event.job_id, job_loss_of(event))
            case SessionFailed():
                self._failure = error_for(
                    event.code, event.message, retryable=event.retryable, details=event.details
                )
            case ConnectionEnded():
                self._connection = None
                if self._client.session_id is None:
                    self._end_soon(loss_of(event))
            case SessionClosed():
                if self._client.session_id is None:
                    self._end_soon(ConnectionLost("the session was closed"))

    def _welcomed(self, event: Welcomed) -> None:
        self._jobs.resumed(event.resumed)
        self._connection = event.connection
        self._failure = None
        self.id, self.runtime = event.session_id, event.runtime
        self.features, self.agents = event.features, event.agents
        self.resume_window_sec = event.resume_window_sec
        self._watchers.changed(event)
        self._welcome.give(None)
        self._hold()

    def _accepted(self, event: JobAccepted) -> None:
        if event.request_id in self._answers:
            self._answers.give(event.request_id, self._jobs.accepted(event))

    def _subscribed(self, event: Subscribed) -> None:
        """Handle the answer to a subscribe.

        Without a request the client itself subscribed to a job it follows.
        """
        if event.request_id is None or event.request_id in self._answers:
            self._answers.give(event.request_id, self._jobs.subscribed(event))
        elif event.job_id not in self._jobs and event.job_id not in self._subscribing:
            self._client.unsubscribe(event.job_id, now=self._pump.now())
            self._pump.soon()

    def _is_finished(self) -> bool:
        """Return whether nothing is left to resume: all requested jobs have ended, and their events were
        taken.
        """
        resumption = self._client.resumption()
        return bool(self.id) and not self._answers and resumption is not None and not resumption.jobs

    def _end_soon(self, loss: ConnectionLost) -> None:
        """End the session after the client's remaining events, for example about its jobs."""
        if self._dial is not None:
            self._welcome.refuse(loss)  # `_open` makes another attempt.
            return
        if self.lost is None or isinstance(loss, errors.SessionLost):
            self.lost = loss
            loss.__cause__ = self._failure
        self._pump.loop.call_soon(partial(self._lose, loss))

    def _lose(self, lost: ConnectionLost) -> None:
        """End the session: the single place where every waiting call is refused."""
        if self._over.is_set():
            return
        self.lost = lost = self.lost or lost
        lost.__cause__ = self._failure
        self._welcome.refuse(self._failure or lost)
        self._answers.refuse_all(lost)
        self._jobs.lose_all(lost)
        self._watchers.end()
        self._over.set()
        if self._dialer is not None:
            self._dialer.stop()

    async def _ask(self, send: Callable[..., RequestId]) -> Any:
        """Send a request, and wait for its answer; reading continues meanwhile."""
        if self.lost is not None:
            raise again(self.lost)
        request_id = send(now=self._pump.now())
        answer = self._answers.expect(request_id)
        self._pump.run()
        try:
            with self._holding.reading_on():
                return await answer.wait()
        finally:
            self._jobs.taken_soon(self._answers.forget(request_id))

    def _hold(self) -> None:
        if self._connection is not None and self.lost is None:
            self._pump.hold(self._connection, self._holding.on)


class _PumpHost:
    """Passes the requests and events of the pump to a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def request(self, request: MachineRequest) -> None:
        self._session._request(request)

    def happened(self, events: Sequence[MachineEvent]) -> None:
        self._session._happened(events)


async def _cancel_quietly(job: Job) -> None:
    with suppress(ArcpError):
        if await job.cancel("the session was left") is False:
            logger.warning("job %s: the cancel was asked, and its agent has not stopped", job.id)
