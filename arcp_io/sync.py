"""The client without `await`, for scripts and notebooks: the event loop runs in a thread of its own.

with arcp_io.sync.connect("ws://127.0.0.1:7777/arcp", token="s3cret") as session:
    job = session.submit("echo", {"x": 1})
    for event in job:
        print(event.kind, event.body)
    print(job.result(timeout=60))

Every public name of `arcp_io.Session` and `arcp_io.Job` exists here with the same parameters. Calls that wait
for the end of a job also take a `timeout` in seconds and raise TimeoutError. A call after the `with` block
raises ConnectionLost.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from anyio.from_thread import start_blocking_portal

from arcp_io.client.dial import Target
from arcp_io.client.job import Event, FinalStatus
from arcp_io.client.redial import Token
from arcp_io.client.result_reader import ResultReader
from arcp_io.client.store import SessionStore
from arcp_io.client.watch import Change, State
from arcp_io.drivers.hop import Hop
from arcp_proto import AgentEntry, Credential, JobDescription, JobEnded, JobEntry, Limits, Peer

from . import observation
from .client import connect as client
from .client import job as client_job
from .client import session as client_session
from .errors import ConnectionLost, HistoryCut
from .version import VERSION

if TYPE_CHECKING:
    from arcp_io.client.job import T
    from arcp_io.otel import Tracing
else:
    T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def connect(
    target: str | Target,
    token: Token = None,
    *,
    store: SessionStore | None = None,
    reconnect: bool = True,
    wait: bool = False,
    give_up: int = client.GIVE_UP,
    name: str = client.NAME,
    version: str = VERSION,
    ssl_context: ssl.SSLContext | None = None,
    allow_plain: bool = False,
    cancel_on_exit: bool = False,
    buffer_size: int = client_session.BUFFER_SIZE,
    limits: Limits | None = None,
    tracing: Tracing | None = None,
) -> Iterator[Session]:
    """Open a session with a runtime: `with connect(url, token=…) as session`.

    The parameters and the errors are those of `arcp_io.connect`.
    """
    opening = client.connect(
        target,
        token,
        store=store,
        reconnect=reconnect,
        wait=wait,
        give_up=give_up,
        name=name,
        version=version,
        ssl_context=ssl_context,
        allow_plain=allow_plain,
        cancel_on_exit=cancel_on_exit,
        buffer_size=buffer_size,
        limits=limits,
        tracing=tracing,
    )
    with _opened(opening) as session:
        yield session


@contextmanager
def connect_stdio(
    argv: Sequence[str],
    token: Token = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    name: str = client.NAME,
    version: str = VERSION,
    cancel_on_exit: bool = False,
    buffer_size: int = client_session.BUFFER_SIZE,
    limits: Limits | None = None,
    tracing: Tracing | None = None,
) -> Iterator[Session]:
    """Open a session with a runtime that is started for it as a child process.

    The parameters and the errors are those of `arcp_io.connect_stdio`.
    """
    opening = client.connect_stdio(
        argv,
        token,
        env=env,
        cwd=cwd,
        name=name,
        version=version,
        cancel_on_exit=cancel_on_exit,
        buffer_size=buffer_size,
        limits=limits,
        tracing=tracing,
    )
    with _opened(opening) as session:
        yield session


@contextmanager
def _opened(opening: AbstractAsyncContextManager[client_session.Session]) -> Iterator[Session]:
    with start_blocking_portal() as portal:
        hop = Hop(portal)
        try:
            with portal.wrap_async_context_manager(opening) as session:
                yield Session(hop, session)
        finally:
            hop.over = True


class Session:
    """`arcp_io.Session`, blocking. It may be used from any thread."""

    def __init__(self, hop: Hop, session: client_session.Session) -> None:
        self._hop = hop
        self._session = session

    def __repr__(self) -> str:
        return repr(self._session)

    @property
    def id(self) -> str:
        """The session's id."""
        return self._session.id

    @property
    def runtime(self) -> Peer:
        """The runtime's `name` and `version`."""
        return self._session.runtime

    @property
    def features(self) -> frozenset[str]:
        """The features that both sides support (§6.2)."""
        return self._session.features

    @property
    def agents(self) -> Sequence[AgentEntry]:
        """The runtime's agents: `name`, `versions`, `default` (§7.5)."""
        return self._session.agents

    @property
    def resume_window_sec(self) -> int:
        """Seconds for which the runtime keeps the session after its connection was lost (§6.3)."""
        return self._session.resume_window_sec

    @property
    def state(self) -> State:
        """The state: attached; detached (being resumed); lost (beyond its window); closed (over)."""
        return self._session.state

    @property
    def lost(self) -> ConnectionLost | None:
        """Why the session is over; None while it is not."""
        return self._session.lost

    @property
    def cursor(self) -> int:
        """The number up to which all events have been processed, as in acks and the store.

        It is 0 before the first.
        """

        async def cursor() -> int:
            return self._session.cursor

        try:
            return self._hop.call(cursor)
        except (RuntimeError, ConnectionLost):
            return self._session.cursor  # This is the loop's thread, or the loop has ended.

    @property
    def stored_jobs(self) -> Sequence[str]:
        """The ids of the stored session's jobs whose events wait for `attach`."""
        return self._session.stored_jobs

    @overload
    def submit(
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
    def submit(
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

    def submit(
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
        """Submit a job (§7.1), and return it once it was accepted; see `arcp_io.Session.submit`."""

        async def submit() -> client_job.Job[Any]:
            return await self._session.submit(
                agent,
                input,
                lease=lease,
                budget=budget,
                expires_at=expires_at,
                max_runtime=max_runtime,
                idempotency_key=idempotency_key,
                traceparent=traceparent,
                tracestate=tracestate,
                result_type=result_type,
            )

        return self._job_of(submit)

    def attach(self, job_id: str, from_seq: int | None = None) -> Job:
        """Follow a job that was submitted before; see `arcp_io.Session.attach`."""
        return self._job_of(partial(self._session.attach, job_id, from_seq))

    def subscribe(self, job_id: str, from_seq: int | None = None, *, history: bool = False) -> Job:
        """Observe a job of any principal (§7.6), see `arcp_io.Session.subscribe`."""

        async def subscribe() -> client_job.Job:
            return await self._session.subscribe(job_id, from_seq, history=history)

        return self._job_of(subscribe)

    def describe(self, job_id: str, *, input: bool = False) -> JobDescription:
        """Return one look at a job that is visible; see `arcp_io.Session.describe`."""
        return self._hop.call(partial(self._session.describe, job_id, input=input))

    def observe(
        self,
        job_id: str,
        from_position: int = 0,
        *,
        kinds: str | Sequence[str] | None = None,
        follow: bool = True,
    ) -> Observation:
        """Iterate over the events of a visible job above a position; see `arcp_io.Session.observe`."""
        observation = self._session.observe(job_id, from_position, kinds=kinds, follow=follow)
        return Observation(self._hop, observation)

    def unsubscribe(self, job: Job) -> None:
        """Stop observing a job: its iteration ends. The job itself continues."""
        self._hop.call(partial(self._session.unsubscribe, job._job))

    def list_jobs(
        self,
        *,
        status: str | Sequence[str] | None = None,
        agent: str | None = None,
        created_after: str | datetime | timedelta | None = None,
        created_before: str | datetime | timedelta | None = None,
        page_size: int | None = None,
    ) -> Iterator[JobEntry]:
        """Iterate over the visible jobs (§6.6); see `arcp_io.Session.list_jobs`."""
        return self._hop.iterate(
            self._session.list_jobs(
                status=status,
                agent=agent,
                created_after=created_after,
                created_before=created_before,
                page_size=page_size,
            )
        )

    def watch(self) -> Iterator[Change]:
        """Iterate over the changes of the session; see `arcp_io.Session.watch`. Use a separate thread."""
        return self._hop.iterate(self._hop.call(self._session.watch))

    def cancel_all(self) -> None:
        """Cancel every unfinished job and wait for the ends; refusals and a lost connection are ignored.

        A job whose agent has not stopped is logged as a warning.
        """
        self._hop.call(self._session.cancel_all)

    def close(self, reason: str = "") -> None:
        """Say goodbye (§6.7) and wait for the end of the connection, at most a second. Jobs continue."""
        self._hop.call(partial(self._session.close, reason))

    def _job_of(self, ask: Callable[[], Coroutine[Any, Any, client_job.Job]]) -> Job:
        async def asked() -> client_job.Job:
            job = await ask()
            job._taken_by_a_thread()
            return job

        return Job(self._hop, self._hop.call(asked))


class Observation:
    """`arcp_io.observation.Observation`, blocking: iterate over it for the events of a job."""

    def __init__(self, hop: Hop, observation: observation.Observation) -> None:
        self._observation = observation
        self._events = hop.iterate(observation)

    def __iter__(self) -> Iterator[Event]:
        return self._events

    @property
    def job_id(self) -> str:
        """The id of the job."""
        return self._observation.job_id

    @property
    def position(self) -> int:
        """The position of the last event that was returned."""
        return self._observation.position

    @property
    def history_from(self) -> int | None:
        """The position of the first event that was left, if the beginning of the history was cut off."""
        return self._observation.history_from

    @property
    def end(self) -> JobEnded | None:
        """The end of the job, once the iteration has reached it."""
        return self._observation.end


class Job(Generic[T]):
    """`arcp_io.Job`, blocking: iterate over it for its events, call `result()` for its result."""

    def __init__(self, hop: Hop, job: client_job.Job[T]) -> None:
        self._hop = hop
        self._job = job
        self._events: list[AsyncIterator[Event]] = []
        """The iterator, if there is one."""
        self._iterating_thread = 0

    def __repr__(self) -> str:
        return repr(self._job)

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def result_type(self) -> type[T] | None:
        """The type that `result` returns; None means JSON values."""
        return self._job.result_type

    @property
    def agent(self) -> str:
        """`name@version`, or the name of an agent without versions."""
        return self._job.agent

    @property
    def lease(self) -> Mapping[str, Sequence[str]]:
        """The granted lease: namespace -> patterns (§9.2)."""
        return self._job.lease

    @property
    def expires_at(self) -> str | None:
        """When the lease ends, in UTC (§9.5); None: never."""
        return self._job.expires_at

    @property
    def budget(self) -> Mapping[str, Any]:
        """Currency -> amount, as the runtime wrote it (§9.6)."""
        return self._job.budget

    @property
    def accepted_at(self) -> str | None:
        """When the job was accepted; None for an observed job."""
        return self._job.accepted_at

    @property
    def credentials(self) -> Sequence[Credential]:
        """The valid credentials that the runtime has issued for the job (§9.8); empty after its end."""
        return self._job.credentials

    @property
    def trace_id(self) -> str | None:
        """The trace that the job belongs to, 32 hex digits (§11)."""
        return self._job.trace_id

    @property
    def parent_job_id(self) -> str | None:
        """The job that delegated this one, for an observed job (§10)."""
        return self._job.parent_job_id

    @property
    def history_from(self) -> int | None:
        """The position of the first event that is left of the history, when a limit has shortened it
        (§7.6).
        """
        return self._job.history_from

    @property
    def current_status(self) -> str | None:
        """The status in the answer to the last subscribe (§7.6); None for a job that was only submitted."""
        return self._job.current_status

    @property
    def subscribed_from(self) -> int | None:
        """The position of the last event before that subscribe, 0 for none (§7.6).

        It is None without a subscribe.
        """
        return self._job.subscribed_from

    @property
    def replayed(self) -> bool:
        """Whether that subscribe replays earlier events."""
        return self._job.replayed

    @property
    def final_status(self) -> FinalStatus | None:
        """The final status: success, error, cancelled or timed_out; None before the end."""
        return self._job.final_status

    @property
    def stopped(self) -> bool | None:
        """Whether the agent had stopped when the job ended; see `arcp_io.Job.stopped`."""
        return self._job.stopped

    @property
    def over(self) -> bool:
        """Whether the job has ended or is lost."""
        return self._job.over

    @property
    def summary(self) -> str | None:
        """The runtime's one-line summary of the result, or None."""
        return self._job.summary

    @property
    def events_received(self) -> int:
        """Numbered frames of this job, including the terminal and answers to `cancel`."""
        return self._job.events_received

    @property
    def events_dropped(self) -> int:
        """Events that were dropped because they were not iterated over."""
        return self._job.events_dropped

    @property
    def last_seq(self) -> int:
        """The position of the last event received, from which to observe the job; its number in the
        session if the runtime sends no positions.
        """
        return self._job.last_seq

    def __iter__(self) -> Iterator[Event]:
        """Iterate over the events until the end of the job, or until ConnectionLost is raised."""
        self._hop.call(self._begin)
        self._iterating_thread = threading.get_ident()
        try:
            while (event := self._hop.call(self._next)) is not None:
                yield event
        finally:
            self._events.clear()  # Not on the loop: the garbage collector may run in its thread.

    def result(self, *, timeout: float | None = None) -> T:
        """Wait for the end and return the result: a value, text or bytes.

        The value is converted to `result_type`, if any. Raises the ArcpError of the job's error code (§12),
        and TimeoutError when the end has not come after `timeout` seconds: the job continues, and `result`
        may be called again. Called inside the job's own loop, it ends that loop.
        """
        if self._iterating_thread == threading.get_ident():
            self._events.clear()
        return self._hop.call_within(timeout, self._job.result)

    def result_stream(self, *, on_event: Callable[[Event], object] | None = None) -> ResultPieces:
        """Return an iterator over the pieces of the result; see `arcp_io.Job.result_stream`.

        `on_event` is called on the thread that iterates.
        """
        return ResultPieces(self._hop, self._hop.call(self._reader), on_event)

    def wait(self, *, timeout: float | None = None) -> None:
        """Wait until the job has ended or is lost; raises TimeoutError after `timeout` seconds."""
        self._hop.call_within(timeout, self._job.wait)

    def cancel(self, reason: str = "", *, timeout: float | None = None) -> bool | None:
        """Cancel the job and wait for its end; do nothing if it is over. Return `stopped`.

        Raises TimeoutError after `timeout` seconds; the cancel has been sent even then.
        """
        return self._hop.call_within(timeout, partial(self._job.cancel, reason))

    async def _reader(self) -> ResultReader:
        return self._job.result_stream()

    async def _begin(self) -> None:
        self._events.append(aiter(self._job))

    async def _next(self) -> Event | None:
        return await anext(self._events[0], None) if self._events else None


class ResultPieces:
    """`arcp_io.client.result_reader.ResultReader`, blocking: iterates over the pieces of a job's result."""

    def __init__(self, hop: Hop, reader: ResultReader, on_event: Callable[[Event], object] | None) -> None:
        self._hop = hop
        self._reader = reader
        self._on_event = on_event

    @property
    def content_type(self) -> str | None:
        """`application/json` when the pieces are the JSON text of a returned value, None for a stream."""
        return self._reader.content_type

    @property
    def size(self) -> int:
        """Bytes of the result received so far; of text in UTF-8."""
        return self._reader.size

    @property
    def history_cut(self) -> HistoryCut | None:
        """Set when events of the job are lost.

        None of them was a chunk as long as the iteration continues.
        """
        return self._reader.history_cut

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str | bytes:
        """Return the next piece; raises the errors of `arcp_io.Job.result_stream`."""
        while not isinstance(item := self._hop.call(self._reader.next_item), str | bytes):
            if item is None:
                raise StopIteration
            if self._on_event is not None:
                self._on_event(item)
        return item
