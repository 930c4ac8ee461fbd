"""Tasks, the timer and streams on trio."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import Any, Literal, cast

import trio

from arcp_io.drivers.loop import READ_SIZE, Accepted, AgentTask, Listening, R
from arcp_io.drivers.transport import ByteStream
from arcp_proto import InvariantViolated

from .listener import Listener
from .streams import PipeStream, SocketStream
from .tls import TlsStream, client_side


class TrioTask:
    """A task with a cancel scope of its own."""

    __slots__ = ("_done", "_ended", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._done = False
        self._ended: trio.Event | None = None

    def done(self) -> bool:
        return self._done

    def end(self) -> None:
        """Note that the task has ended."""
        self._done = True
        if self._ended is not None:
            self._ended.set()

    async def wait(self) -> None:
        """Wait until the task has ended."""
        if not self._done:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()


class TrioLoop:
    """A Loop on trio. Its task `keep` implements the timer and `call_soon`."""

    name: Literal["asyncio", "trio"] = "trio"
    cancelled: type[BaseException] = trio.Cancelled

    def __init__(self, nursery: trio.Nursery) -> None:
        self.failure: BaseException | None = None
        self._on_crash: Callable[[], object] = _nothing
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._tasks: dict[AgentTask, TrioTask] = {}
        self._soon: list[Callable[[], None]] = []
        self._started = self._begun = 0
        """Tasks so far; they begin in the order in which they were started, except those of one turn."""
        self._due = math.inf
        self._on_due: Callable[[], None] = _nothing
        self._sleep = trio.CancelScope()
        self._keeper: trio.lowlevel.Task | None = None
        """The task of `keep`, while it sleeps."""

    @cached_property
    def buffer(self) -> memoryview:
        """The buffer for reading from sockets and pipes."""
        return memoryview(bytearray(READ_SIZE))

    # For the pump.

    def arm(self, delay: float | None, callback: Callable[[], None]) -> None:
        self._due = math.inf if delay is None else trio.current_time() + delay
        self._on_due = callback
        self._sleep.deadline = self._due

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)
        if self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            trio.lowlevel.reschedule(keeper)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        self._token.run_sync_soon(callback)

    def crash(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            self._on_crash()

    async def keep(self) -> None:
        """Call the timer's and other scheduled callbacks, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._due) as self._sleep:
                await self._keep_until_due()
            if trio.current_time() >= self._due:
                self._due = math.inf
                self._on_due()

    async def _keep_until_due(self) -> None:
        while True:
            if self._soon:
                await trio.lowlevel.checkpoint()
            else:
                self._keeper = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._forget_sleeping)
            soon, self._soon = self._soon, []
            started = self._started
            while self._begun < started:  # Trio shuffles the tasks of a turn; these may publish events.
                await trio.lowlevel.cancel_shielded_checkpoint()
            for callback in soon:
                callback()

    def _forget_sleeping(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        self._keeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    # Tasks.

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> AgentTask:
        task = TrioTask()
        self._tasks[task] = task
        self._nursery.start_soon(self._run, task, run, name=name)
        self._started += 1
        return task

    def cancel(self, task: AgentTask) -> None:
        if task in self._tasks:
            self._tasks[task].scope.cancel()

    async def wait(self, task: AgentTask) -> None:
        if task in self._tasks:
            await self._tasks[task].wait()

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    def task_id(self) -> int:
        return id(trio.lowlevel.current_task()) if trio.lowlevel.in_trio_task() else 0

    def cut_off(self) -> bool:
        return trio.current_effective_deadline() == -math.inf

    def event(self) -> trio.Event:
        return trio.Event()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Cancel the block on a crash, and raise the crash when it is left."""
        with trio.CancelScope() as crash:
            self._on_crash = crash.cancel
            try:
                yield
            finally:
                if self.failure is not None:
                    raise self.failure

    async def _run(self, task: TrioTask, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._begun += 1
        try:
            with task.scope:
                await run()
        except trio.Cancelled:
            raise
        except BaseException as error:
            self.crash(error)
        finally:
            del self._tasks[task]
            task.end()

    # Streams.

    async def listen(
        self, listener: socket.socket, context: ssl.SSLContext | None, accepted: Accepted
    ) -> Listening:
        return Listener(self, listener, context, accepted)

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, connected: Callable[[ByteStream], R]
    ) -> R:
        stream = await trio.open_tcp_stream(host, port)
        if context is not None:
            return cast(R, TlsStream(self, await client_side(stream, context, host), connected).transport)
        opened = socket.socket(fileno=stream.socket.detach())
        return cast(R, SocketStream(self, opened, connected).transport)

    async def open_pipes(self, reading: int, writing: int, connected: Callable[[ByteStream], R]) -> R:
        return cast(R, PipeStream(self, reading, writing, connected).transport)


@asynccontextmanager
async def open_trio_loop() -> AsyncIterator[TrioLoop]:
    """Yield the Loop, as `arcp_io.drivers.loop.open_loop`."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        loop = TrioLoop(nursery)
        loop.start(loop.keep, "arcp timer")
        try:
            with loop.guard():
                yield loop
        except trio.Cancelled:
            raise
        except BaseException as error:
            failure = _interrupt_behind(error)  # Raised directly, not in the nursery's group.
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def spawn_alone(run: Callable[[], Coroutine[Any, Any, None]], name: str) -> object:
    """Run a task of its own, as `arcp_io.drivers.loop.spawn`."""
    return trio.lowlevel.spawn_system_task(run, name=name)


def identity() -> object:
    """Return an object for the running loop, as `arcp_io.drivers.loop.identity`."""
    return trio.lowlevel.current_trio_token()


def _interrupt_behind(error: BaseException) -> BaseException:
    """Return the KeyboardInterrupt that has stopped a state machine in an input; else the error.

    Trio raises it wherever the program is. Later calls of the state machine fail.
    """
    found: BaseException | None = error if isinstance(error, InvariantViolated) else None
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found or error


def _nothing() -> None:
    """Ignore a crash before the guard is entered, and a timer that is not armed."""
