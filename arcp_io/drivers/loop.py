"""The interface of an event loop to a pump, its transports and its agents, on asyncio or trio."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal, Protocol, TypeVar

from .transport import ByteStream, Receiver

Connected = Callable[[ByteStream], Receiver]
"""Takes a fresh stream, and returns the receiver that it reports to."""
Accepted = Callable[[ByteStream, str], Receiver]
"""Takes a fresh stream and the peer's address, and returns the receiver that it reports to."""
R = TypeVar("R", bound=Receiver)

READ_SIZE: Final = 256 * 1024
"""Bytes of one read."""


class AgentTask(Protocol):
    """A task that a Loop has started."""

    def done(self) -> bool:
        """Return whether the task has ended."""


class Event(Protocol):
    """An event that happens once."""

    def set(self) -> object:
        """Note that the event has happened."""

    def is_set(self) -> bool:
        """Return whether the event has happened."""

    async def wait(self) -> object:
        """Wait until the event has happened."""


class Listening(Protocol):
    """A socket that accepts connections."""

    def close(self) -> None:
        """Stop accepting; accepted connections continue."""


class Loop(Protocol):
    """The running event loop, for one pump and its tasks; see `open_loop`."""

    failure: BaseException | None
    """The first error that `crash` was called with."""

    @property
    def name(self) -> Literal["asyncio", "trio"]:
        """The name of the event loop."""

    @property
    def cancelled(self) -> type[BaseException]:
        """The class of the exception that cancels a task."""

    # For the pump.

    def arm(self, delay: float | None, callback: Callable[[], None]) -> None:
        """Call back once, `delay` seconds from now, in place of an earlier callback; None: disarm."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back at the next turn of the loop."""

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call back soon, from any thread; raises RuntimeError once the loop is closed.

        Errors of the callback are not caught.
        """

    def crash(self, error: BaseException) -> None:
        """Stop everything, and raise `error` where the loop was opened."""

    # Tasks.

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> AgentTask:
        """Run a task; any error but a cancellation is a crash."""

    def cancel(self, task: AgentTask) -> None:
        """Cancel a task as the loop does: on asyncio once, on trio at every checkpoint."""

    async def wait(self, task: AgentTask) -> None:
        """Wait until the task has ended."""

    async def checkpoint(self) -> None:
        """Yield to other tasks."""

    def task_id(self) -> int:
        """Return a number for the running task, unique while it runs; 0 outside a task."""

    def cut_off(self) -> bool:
        """Return whether the running task is cancelled together with all others of this loop."""

    def event(self) -> Event:
        """Return a new event, which may be made and set outside a task.

        `wait` always yields to other tasks.
        """

    # Streams.

    async def listen(
        self, listener: socket.socket, context: ssl.SSLContext | None, accepted: Accepted
    ) -> Listening:
        """Accept on a listening socket, which it owns, until it is closed; over TLS if there is a context."""

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, connected: Callable[[ByteStream], R]
    ) -> R:
        """Connect to a host over TCP, and over TLS if there is a context. Raises OSError."""

    async def open_pipes(self, reading: int, writing: int, connected: Callable[[ByteStream], R]) -> R:
        """Carry a connection over two file descriptors of pipes, which the stream owns."""


def current() -> Literal["asyncio", "trio"]:
    """Return the name of the running event loop; raises RuntimeError if none runs."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return "trio"
    asyncio.get_running_loop()
    return "asyncio"


def unwinding(cancelled: type[BaseException]) -> bool:
    """Return whether the caller is handling its cancellation, as in `finally: await job.log(...)`.

    `cancelled` is the class of the exception that cancels.
    """
    handled = sys.exc_info()[1]
    while handled is not None:
        if isinstance(handled, cancelled):
            return True
        handled = handled.__context__
    return False


def spawn(run: Callable[[], Coroutine[Any, Any, None]], name: str) -> object:
    """Run a task that belongs to no other one, until the event loop ends; keep the result meanwhile.

    The task sees no context variables of the caller. It may raise nothing but its cancellation.
    """
    if current() == "trio":
        from arcp_io.drivers.trio.loop import spawn_alone as spawn_on_trio

        return spawn_on_trio(run, name)
    from arcp_io.drivers.asyncio.loop import spawn_alone

    return spawn_alone(run, name)


def identity() -> object:
    """Return an object for the running event loop, and another one in each other loop."""
    if current() == "trio":
        from arcp_io.drivers.trio.loop import identity as identity_on_trio

        return identity_on_trio()
    return asyncio.get_running_loop()


@asynccontextmanager
async def open_loop() -> AsyncIterator[Loop]:
    """Yield the running event loop; leaving the block cancels its tasks, and waits for them.

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
