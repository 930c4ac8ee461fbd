"""The event loop that runs: what a pump, its transports and its agents need of it, on asyncio or trio."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal, Protocol

from .transport import ByteStream, StreamTransport

Connected = Callable[[ByteStream], StreamTransport]
"""Told of a fresh stream, makes the transport that it reports to."""
Accepted = Callable[[ByteStream, str], StreamTransport]
"""The same, with the peer's address."""

READ_SIZE: Final = 256 * 1024
"""Bytes of one read."""


class AgentTask(Protocol):
    """A task that a Loop has started."""

    def done(self) -> bool:
        """Whether it has ended."""


class Event(Protocol):
    """Something that happens once."""

    def set(self) -> object:
        """It has happened."""

    def is_set(self) -> bool:
        """Whether it has."""

    async def wait(self) -> object:
        """Until it has."""


class Listening(Protocol):
    """A socket that is being listened on."""

    def close(self) -> None:
        """Accept no more; what was accepted goes on."""


class Loop(Protocol):
    """The running event loop, for one pump and its tasks; see `open_loop`."""

    failure: BaseException | None
    """What `crash` was called with first."""

    @property
    def name(self) -> Literal["asyncio", "trio"]:
        """Which event loop this is."""

    @property
    def cancelled(self) -> type[BaseException]:
        """The class of the exception that cancels a task."""

    # For the pump.

    def arm(self, delay: float | None, callback: Callable[[], None]) -> None:
        """Call back once, `delay` seconds from now, in place of what was armed before; None: disarm."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back at the next turn of the loop."""

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call back soon, asked from any thread; raises RuntimeError once the loop is closed.

        What it raises is nobody's to catch.
        """

    def crash(self, error: BaseException) -> None:
        """Stop everything, loudly: whoever opened the loop gets `error`."""

    # Tasks.

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> AgentTask:
        """Run a task; what it raises, cancellation apart, is a crash."""

    def cancel(self, task: AgentTask) -> None:
        """Cancel by the loop's own means: on asyncio once, on trio at every checkpoint."""

    async def wait(self, task: AgentTask) -> None:
        """Until the task has ended."""

    async def checkpoint(self) -> None:
        """Let others run."""

    def task_id(self) -> int:
        """Return a number of the task that runs, unique while it does; 0 outside a task."""

    def cut_off(self) -> bool:
        """Return whether the running task is cancelled together with all others of this loop."""

    def event(self) -> Event:
        """Return a new event, which may be made and set outside a task; `wait` always lets others run."""

    # Streams.

    async def listen(
        self, listener: socket.socket, context: ssl.SSLContext | None, accepted: Accepted
    ) -> Listening:
        """Accept on a listening socket, which it owns, until it is closed; over TLS if there is a context."""

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, connected: Connected
    ) -> StreamTransport:
        """Connect to a host over TCP, and over TLS if there is a context. Raises OSError."""

    async def open_pipes(self, reading: int, writing: int, connected: Connected) -> StreamTransport:
        """Carry over two file descriptors of pipes, which it owns."""


def current() -> Literal["asyncio", "trio"]:
    """Which event loop runs; raises RuntimeError when none does."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return "trio"
    asyncio.get_running_loop()
    return "asyncio"


def unwinding(cancelled: type[BaseException]) -> bool:
    """Whether the caller is handling its cancellation, as in `finally: await job.log(...)`.

    `cancelled` is the class of the exception that cancels.
    """
    handled = sys.exc_info()[1]
    while handled is not None:
        if isinstance(handled, cancelled):
            return True
        handled = handled.__context__
    return False


@asynccontextmanager
async def open_loop() -> AsyncIterator[Loop]:
    """The running event loop; leaving the block cancels what was started on it, and waits for it.

    A crash cancels the block, and is raised when it is left.
    """
    async with _native() as loop:
        yield loop


def _native() -> AbstractAsyncContextManager[Loop]:
    if current() == "trio":
        from arcp_io.drivers.trio.loop import open_trio_loop

        return open_trio_loop()
    from arcp_io.drivers.asyncio.loop import open_asyncio_loop

    return open_asyncio_loop()
