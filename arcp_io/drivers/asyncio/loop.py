"""Tasks, the timer and streams on asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any, Literal, cast

import anyio

from arcp_io.drivers.loop import READ_SIZE, Accepted, AgentTask, Connected, Listening, R
from arcp_io.drivers.transport import ByteStream, Receiver

from .listener import Listener
from .pipes import PipeStream
from .sockets import SHUTDOWN_TIMEOUT, SocketStream


class AsyncioLoop:
    """A Loop on asyncio, or on uvloop."""

    name: Literal["asyncio", "trio"] = "asyncio"
    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._on_crash: Callable[[], object] = _nothing
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[AgentTask, asyncio.Task[None]] = {}
        self._starting = False
        """Whether the loop is creating a task."""
        self._listeners: list[Listener] = []
        self._streams: dict[ByteStream, None] = {}
        self._closed: asyncio.Future[None] | None = None
        """Done when the last stream is closed."""

    @cached_property
    def buffer(self) -> memoryview:
        """The buffer for reading from sockets."""
        return memoryview(bytearray(READ_SIZE))

    # For the pump.

    def arm(self, delay: float | None, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay is None else self._loop.call_later(delay, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def crash(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            self._on_crash()

    def task_id(self) -> int:
        task = asyncio.current_task()
        return 0 if task is None else id(task)

    def cut_off(self) -> bool:
        return False  # asyncio cancels tasks one by one.

    def event(self) -> asyncio.Event:
        return _Event()

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Cancel the block on a crash, and raise the crash when it is left."""
        try:
            async with asyncio.timeout(None) as crash:
                self._on_crash = partial(crash.reschedule, 0)
                try:
                    yield
                finally:
                    self._on_crash = _nothing
        except TimeoutError:
            if self.failure is None:
                raise
        finally:
            if self.failure is not None:
                raise self.failure

    # Tasks.

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> AgentTask:
        self._starting = True
        task = self._loop.create_task(self._run(run), name=name)
        self._starting = False
        self._tasks[task] = task
        return task

    def cancel(self, task: AgentTask) -> None:
        if task in self._tasks:
            self._tasks[task].cancel()
            # A task that has not begun does not reach the end of `_run`.
            self._tasks[task].add_done_callback(self._forget)

    async def wait(self, task: AgentTask) -> None:
        if task in self._tasks:
            await asyncio.wait([self._tasks[task]])

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def _run(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            if self._starting:
                await asyncio.sleep(0)  # An eager task factory begins a task within `start`.
            await run()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            self.crash(error)
        finally:
            self._forget(asyncio.current_task(self._loop))

    def _forget(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self._tasks.pop(task, None)

    # Streams.

    async def listen(
        self, listener: socket.socket, context: ssl.SSLContext | None, accepted: Accepted
    ) -> Listening:
        listening = Listener(self, listener, context, accepted)
        self._listeners.append(listening)
        return listening

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, connected: Callable[[ByteStream], R]
    ) -> R:
        stream = SocketStream(self, connected)
        await self._loop.create_connection(
            lambda: stream,
            host,
            port,
            ssl=context,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT if context else None,
        )
        return cast(R, stream.transport)

    async def open_pipes(self, reading: int, writing: int, connected: Callable[[ByteStream], R]) -> R:
        stream = PipeStream(self, connected)
        await stream.open(reading, writing)
        return cast(R, stream.transport)

    def stream_opened(self, stream: ByteStream, connected: Connected) -> Receiver:
        """Add an open stream, until `stream_closed`; an error here is a bug."""
        self._streams[stream] = None
        try:
            return connected(stream)
        except BaseException as error:
            self.crash(error)
            stream.abort()
            raise

    def stream_closed(self, stream: ByteStream) -> None:
        """Remove a stream whose descriptors are closed."""
        self._streams.pop(stream, None)
        if self._closed is not None and not self._streams and not self._closed.done():
            self._closed.set_result(None)

    async def aclose(self) -> None:
        """Cancel and close everything, and wait for it even when interrupted."""
        self.arm(None, _nothing)
        for listener in self._listeners:
            listener.close()
        for task in list(self._tasks):
            self.cancel(task)
        interrupted: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while self._tasks or self._streams:
                waiting: list[asyncio.Future[None]] = list(self._tasks.values())
                if self._streams:
                    self._closed = self._loop.create_future()
                    waiting.append(self._closed)
                for stream in list(self._streams):
                    stream.abort()
                try:
                    await asyncio.wait(waiting)
                except asyncio.CancelledError as error:
                    interrupted = error
        if interrupted is not None:
            raise interrupted


class _Event(asyncio.Event):
    async def wait(self) -> Literal[True]:
        if self.is_set():
            await asyncio.sleep(0)
            return True
        return await super().wait()


@asynccontextmanager
async def open_asyncio_loop() -> AsyncIterator[AsyncioLoop]:
    """Yield the Loop, as `arcp_io.drivers.loop.open_loop`."""
    loop = AsyncioLoop()
    try:
        async with loop.guard():
            yield loop
    finally:
        await loop.aclose()


def spawn_alone(run: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
    """Run a task of its own, as `arcp_io.drivers.loop.spawn`."""
    return asyncio.get_running_loop().create_task(run(), name=name, context=contextvars.Context())


def _nothing() -> None:
    """Ignore a crash before the guard is entered."""
