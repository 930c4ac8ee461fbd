"""A runtime in memory for tests without `await`: the event loop runs in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from arcp_io.client.redial import Token
from arcp_io.drivers.hop import Hop
from arcp_io.sync import Session

from .clock import ManualClock
from .ending import Ending
from .runtime import TIMEOUT, HasId, MemoryRuntime, open_runtime

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.client.job import Event
    from arcp_io.journal import Journal


class BlockingRuntime:
    """`MemoryRuntime`, blocking; made by `open_blocking_runtime`. It may be used from any thread."""

    def __init__(self, portal: BlockingPortal, runtime: MemoryRuntime) -> None:
        self._portal = portal
        self._runtime = runtime

    @contextmanager
    def connect(self, token: Token = None, **options: Any) -> Iterator[Session]:
        """Open a session of `arcp_io.sync`; the options are those of `arcp_io.connect`."""
        hop = Hop(self._portal)
        opening = self._runtime.connect(token, **options)
        try:
            with self._portal.wrap_async_context_manager(opening) as session:
                yield Session(hop, session)
        finally:
            hop.over = True

    def advance(self, by: float | timedelta) -> None:
        """Advance the clock by a number of seconds; see `ManualClock.advance`."""
        self._portal.call(self._runtime.advance, by)

    def cut(self) -> int:
        """Cut every connection, and return how many there were; see `MemoryRuntime.cut`."""
        return self._portal.call(self._runtime.cut)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Cut every connection, and refuse new ones until the block is left."""
        refusing = self._runtime.unreachable()
        self._portal.call(refusing.__enter__)
        try:
            yield
        finally:
            self._portal.call(refusing.__exit__, None, None, None)

    @property
    def latency(self) -> float:
        """Seconds of the clock that messages take from now on, each way; 0 at first."""
        return self._runtime.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._runtime.latency = seconds

    def wait_for(
        self,
        job: HasId,
        kind: str,
        where: Callable[[Event], bool] | None = None,
        *,
        after: int = 0,
        timeout: float = TIMEOUT,
    ) -> Event:
        """Return the first event of a kind above a position; see `MemoryRuntime.wait_for`."""
        wait = partial(self._runtime.wait_for, job, kind, where, after=after, timeout=timeout)
        return self._portal.call(wait)

    def events(self, job: HasId, *, timeout: float = TIMEOUT) -> list[Event]:
        """Return all events of a job at the runtime, once it has ended."""
        return self._portal.call(partial(self._runtime.events, job, timeout=timeout))

    def ending(self, job: HasId, *, timeout: float = TIMEOUT) -> Ending:
        """Return how a job has ended and what it has spent; wait for its end if need be."""
        return self._portal.call(partial(self._runtime.ending, job, timeout=timeout))


@contextmanager
def open_blocking_runtime(
    app: App,
    *,
    clock: ManualClock | None = None,
    journal: Journal | None = None,
    drain: float = 0.0,
    backend: str = "asyncio",
) -> Iterator[BlockingRuntime]:
    """Run an App in memory until the block is left: `with open_blocking_runtime(app) as runtime`.

    `backend` is the event loop, asyncio or trio; the other parameters are those of `open_runtime`.
    """
    opening = open_runtime(app, clock=clock, journal=journal, drain=drain)
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(opening) as runtime,
    ):
        yield BlockingRuntime(portal, runtime)
