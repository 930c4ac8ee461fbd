"""The client without `await`, for scripts and notebooks: the event loop runs in a thread of its own.

with arcp_io.sync.connect("ws://127.0.0.1:7777/arcp", token="s3cret") as session:
    job = session.submit("echo", {"x": 1})
    for event in job:
        print(event.kind, event.body)
    print(job.result())
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from arcp_proto.credentials import Credential
from arcp_proto.messages import AgentEntry, JobEntry, Peer

from . import client, client_job, client_session
from .client_job import Event
from .dialing import Target
from .redialing import Token
from .watching import Change, State

T = TypeVar("T")


@contextmanager
def connect(target: str | Target, token: Token = None, **options: Any) -> Iterator[Session]:
    """A session with a runtime; as `arcp_io.connect`, with the same options."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(client.connect(target, token, **options)) as session,
    ):
        yield Session(portal, session)


@contextmanager
def connect_stdio(argv: Sequence[str], token: Token = None, **options: Any) -> Iterator[Session]:
    """The same with a child process; as `arcp_io.connect_stdio`, with the same options."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(client.connect_stdio(argv, token, **options)) as session,
    ):
        yield Session(portal, session)


class Session:
    """`arcp_io.Session`, blocking. Its calls may come from any thread."""

    def __init__(self, portal: BlockingPortal, session: client_session.Session) -> None:
        self._portal = portal
        self._session = session

    def __repr__(self) -> str:
        return repr(self._session)

    @property
    def id(self) -> str:
        return self._session.id

    @property
    def runtime(self) -> Peer:
        """The runtime's `name` and `version`."""
        return self._session.runtime

    @property
    def features(self) -> frozenset[str]:
        """What both sides know of §6.2."""
        return self._session.features

    @property
    def agents(self) -> Sequence[AgentEntry]:
        """The runtime's agents: `name`, `versions`, `default` (§7.5)."""
        return self._session.agents

    @property
    def state(self) -> State:
        """attached; detached: cut, and being resumed; lost: beyond its window; closed: over."""
        return self._session.state

    @property
    def cursor(self) -> int:
        """The number up to which all events have been processed: what acks and the store tell."""

        async def cursor() -> int:
            return self._session.cursor

        try:
            return self._portal.call(cursor)
        except RuntimeError:
            return self._session.cursor  # This is the loop's thread, or there is no loop any more.

    @property
    def stored_jobs(self) -> Sequence[str]:
        """The ids of the stored session's jobs whose events wait for `attach`."""
        return self._session.stored_jobs

    def submit(self, agent: str, input: Any = None, **options: Any) -> Job:
        """Submit a job, and return it once it was accepted; the options are those of `arcp_io.Session`."""

        async def submit() -> client_job.Job:
            return await self._session.submit(agent, input, **options)

        return self._job_of(submit)

    def attach(self, job_id: str, from_seq: int | None = None) -> Job:
        """Follow a job that was submitted before; see `arcp_io.Session.attach`."""
        return self._job_of(partial(self._session.attach, job_id, from_seq))

    def subscribe(self, job_id: str, from_seq: int | None = None, *, history: bool = False) -> Job:
        """Observe a job that may be anybody's (§7.6), from now on, or with the history after `from_seq`."""

        async def subscribe() -> client_job.Job:
            return await self._session.subscribe(job_id, from_seq, history=history)

        return self._job_of(subscribe)

    def unsubscribe(self, job: Job) -> None:
        """Observe a job no longer: its iteration ends. The job itself goes on."""
        self._portal.call(self._session.unsubscribe, job._job)

    def list_jobs(self, **filters: Any) -> Iterator[JobEntry]:
        """The jobs that may be seen (§6.6), newest first; the filters are those of `arcp_io.Session`."""
        return self._iterate(self._session.list_jobs(**filters))

    def watch(self) -> Iterator[Change]:
        """What becomes of the session from now on; see `arcp_io.Session.watch`. For a thread of its own."""
        return self._iterate(self._portal.call(self._session.watch))

    def close(self, reason: str = "") -> None:
        """Say goodbye (§6.7) and wait for the end of the connection, at most a second. Jobs go on."""
        self._portal.call(self._session.close, reason)

    def _job_of(self, ask: Callable[[], Awaitable[client_job.Job]]) -> Job:
        async def asked() -> client_job.Job:
            job = await ask()
            job.taken_by_a_thread()
            return job

        return Job(self._portal, self._portal.call(asked))

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def next_item() -> tuple[T] | None:
            async for item in items:
                return (item,)
            return None

        while (found := self._portal.call(next_item)) is not None:
            yield found[0]


class Job:
    """`arcp_io.Job`, blocking: iterate over it for its events, ask `result()` for how it ends."""

    def __init__(self, portal: BlockingPortal, job: client_job.Job) -> None:
        self._portal = portal
        self._job = job
        self._events: list[AsyncIterator[Event]] = []
        """The iterator, if there is one."""
        self._iterating_thread = 0

    def __repr__(self) -> str:
        return repr(self._job)

    @property
    def id(self) -> str:
        return self._job.id

    @property
    def agent(self) -> str:
        """`name@version`, or the name of an agent without versions."""
        return self._job.agent

    @property
    def lease(self) -> Mapping[str, Sequence[str]]:
        return self._job.lease

    @property
    def credentials(self) -> Sequence[Credential]:
        """What its runtime has issued for it, as it is valid now (§9.8); nothing once it is over."""
        return self._job.credentials

    @property
    def trace_id(self) -> str | None:
        return self._job.trace_id

    @property
    def final_status(self) -> str | None:
        """success, error, cancelled or timed_out; None while the end has not come."""
        return self._job.final_status

    @property
    def summary(self) -> str | None:
        """What the runtime says in a line about a result, if it does."""
        return self._job.summary

    @property
    def events_received(self) -> int:
        """Numbered frames of this job, the terminal and answers to `cancel` included."""
        return self._job.events_received

    def __iter__(self) -> Iterator[Event]:
        """Its events, until its end, or until ConnectionLost is raised."""
        self._portal.call(self._begin)
        self._iterating_thread = threading.get_ident()
        try:
            while (event := self._portal.call(self._next)) is not None:
                yield event
        finally:
            self._events.clear()  # Without the loop: who collects a generator may be its own thread.

    def result(self) -> Any:
        """Wait for the end: the value, or the text or bytes of a streamed result.

        Raises the ArcpError of the job's error code (§12). Inside the job's own loop it ends that loop.
        """
        if self._iterating_thread == threading.get_ident():
            self._events.clear()
        return self._portal.call(self._job.result)

    def cancel(self, reason: str = "") -> None:
        """Cancel the job, and return when its end has come; a job that is over is left as it is."""
        self._portal.call(self._job.cancel, reason)

    async def _begin(self) -> None:
        self._events.append(aiter(self._job))

    async def _next(self) -> Event | None:
        return await anext(self._events[0], None) if self._events else None
