"""A runtime in memory whose time and connections are in the hands of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from arcp_io.client.connect import connect
from arcp_io.client.redial import Token
from arcp_io.drivers.loop import Loop
from arcp_io.drivers.memory import MemoryStream
from arcp_io.server.memory import CAPACITY, MemoryServer
from arcp_io.server.server import Server, open_server
from arcp_io.server.shared import Shared

from .clock import ManualClock
from .ending import Ending, ending_of
from .link import Line

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.client.job import Event
    from arcp_io.client.session import Session
    from arcp_io.journal import Journal

TIMEOUT: Final = 10.0
"""Seconds of real time for which a check waits."""


class HasId(Protocol):
    """A job, of any client."""

    @property
    def id(self) -> str:
        """The id of the job."""


class MemoryRuntime(MemoryServer):
    """An App that runs in memory, without sockets; made by `open_runtime`.

        async with runtime.connect("s3cret") as session: ...   a session with it
        await runtime.advance(60)                    advance the time of leases, limits and heartbeats
        runtime.cut()                                cut every connection; the clients resume
        with runtime.unreachable(): ...              cut, and refuse new connections meanwhile
        runtime.latency = 0.2                        delay what is sent from now on, each way
        await runtime.wait_for(job, "progress")      the first event of a kind
        await runtime.events(job)                    all events of a job, to its end
        await runtime.ending(job)                    how the job has ended, and what it has spent

    Its clients, `connect` of `arcp_io` included, share its `clock`. The time of agents themselves, as of
    `anyio.sleep`, is that of the machine.
    """

    lasting = True
    clock: ManualClock

    def __init__(self, server: Server, capacity: int, clock: ManualClock) -> None:
        super().__init__(server, capacity)
        self.clock = clock
        self._line = Line(clock)

    def connect(self, token: Token = None, **options: Any) -> AbstractAsyncContextManager[Session]:
        """Open a session; the options are those of `arcp_io.connect`."""
        return connect(self, token, **options)

    async def advance(self, by: float | timedelta) -> None:
        """Advance the clock by a number of seconds; see `ManualClock.advance`."""
        await self.clock.advance(by)

    def cut(self) -> int:
        """Cut every connection, and return how many there were.

        Bytes on their way are lost. The clients connect again at once, but for those that have got nothing
        since their last attempt: these wait, as `advance` brings them to the next one.
        """
        return self._line.cut()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Cut every connection, and refuse new ones until the block is left.

        After that `advance` brings the clients to their next attempt.
        """
        self._line.up = False
        try:
            self._line.cut()
            yield
        finally:
            self._line.up = True

    @property
    def latency(self) -> float:
        """Seconds of the clock that messages take from now on, each way; 0 at first.

        Messages on their way keep theirs, and come before later ones.
        """
        return self._line.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError("latency is 0 seconds or more")
        self._line.latency = seconds

    async def wait_for(
        self,
        job: HasId,
        kind: str,
        where: Callable[[Event], bool] | None = None,
        *,
        after: int = 0,
        timeout: float = TIMEOUT,
    ) -> Event:
        """Return the first event of a kind above a position, at the runtime; wait for it if need be.

        `where` tells whether an event is meant. The client's own iteration sees the event too. Raises
        AssertionError, with the kinds of the events so far, when the job ends without it, and after `timeout`
        seconds of real time.
        """
        seen: list[str] = []
        observation = self.server.observe(job.id, after)
        with anyio.move_on_after(timeout):
            async for event in observation:
                if event.kind == kind and (where is None or where(event)):
                    return event
                seen.append(event.kind)
        stopped = f"has not published it in {timeout:g} s"
        if observation.end is not None:
            stopped = f"has ended as {observation.end.final_status}"
        raise AssertionError(
            f"no such event of kind {kind!r}: job {job.id} {stopped}; its events: {', '.join(seen) or 'none'}"
        )

    async def events(self, job: HasId, *, timeout: float = TIMEOUT) -> list[Event]:
        """Return all events of a job at the runtime, once it has ended.

        Raises AssertionError after `timeout` seconds of real time.
        """
        events: list[Event] = []
        observation = self.server.observe(job.id)
        with anyio.move_on_after(timeout):
            events += [event async for event in observation]
        if observation.end is None:
            raise AssertionError(f"job {job.id} has not ended in {timeout:g} s")
        return events

    async def ending(self, job: HasId, *, timeout: float = TIMEOUT) -> Ending:
        """Return how a job has ended and what it has spent; wait for its end if need be.

        Raises AssertionError after `timeout` seconds of real time.
        """
        await self.events(job, timeout=timeout)
        described = self.server.describe(job.id)
        if described is None:
            raise AssertionError(f"job {job.id} is forgotten: look at it before its retention is over")
        return ending_of(described)

    def _pair(self, one: Loop, other: Loop, capacity: int) -> tuple[MemoryStream, MemoryStream]:
        return self._line.pair(one, other, capacity)


@asynccontextmanager
async def open_runtime(
    app: App,
    *,
    clock: ManualClock | None = None,
    journal: Journal | None = None,
    drain: float = 0.0,
    capacity: int = CAPACITY,
) -> AsyncIterator[MemoryRuntime]:
    """Run an App in memory until the block is left: `async with open_runtime(app) as runtime`.

    Time stands still but for `advance`. A `clock` lets a second runtime go on at the time of the first. At
    the end of the block time runs freely, and running jobs get `drain` seconds. The other parameters and the
    errors are those of `serve_memory`.
    """
    clock = clock or ManualClock()
    clock.hold()
    async with open_server(app, drain, journal, shared=Shared(clock=clock)) as server:
        try:
            yield MemoryRuntime(server, capacity, clock)
        finally:
            clock.run_freely()
