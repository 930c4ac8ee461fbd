"""Plain functions beside the event loop, in daemon threads, so that a function that never ends does not
block the exit.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import current_token

from arcp_io.errors import InternalError

from .blocking_context import BlockingJobContext
from .running_job import RunningJob

logger = logging.getLogger("arcp_io")

T = TypeVar("T")


class Threads:
    """The threads of plain agents: at most `limit`, including those that outlive their job."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: anyio.CapacityLimiter | None = None
        self._jobs: list[RunningJob] = []

    @property
    def outlived(self) -> int:
        """Number of threads whose job has ended without them."""
        return sum(running.over for running in self._jobs)

    async def run(self, running: RunningJob) -> Any:
        """Call a plain agent in a thread, once one is free; return its result or raise its exception.

        Raises InternalError at once when agents that do not stop hold every thread with its job.
        """
        if self.outlived >= self._limit:
            details = {"limit": "threads", "max": self._limit, "retry_after_ms": 1000}
            raise InternalError("agents that do not stop hold every thread", details=details)
        if self._free is None:
            self._free = anyio.CapacityLimiter(self._limit)
        async with self._free:
            running.cancellable = False
            self._jobs.append(running)
            try:
                worker = await self._call(running)
            finally:
                self._jobs.remove(running)
        return worker.result()

    async def _call(self, running: RunningJob) -> Worker[Any]:
        from anyio.from_thread import BlockingPortal

        input = running.agent.input_of(running.start.take_input())
        async with anyio.create_task_group() as tasks, BlockingPortal() as portal:
            job = BlockingJobContext(running, portal)
            call = partial(running.agent.function, job, input)
            worker = await _started(call, name=f"arcp-io {running.start.job_id}")
            tasks.start_soon(self._report_late, running)
            try:
                await worker.wait()
            except BaseException:
                logger.warning("%s: its thread is left behind", running)
                raise
            tasks.cancel_scope.cancel()
        return worker

    async def _report_late(self, running: RunningJob) -> None:
        """Log that the agent did not stop in time; cancelled when its thread ends."""
        await running.stop_requested()
        await anyio.sleep(running.grace_left)
        logger.warning(
            "%s has not stopped in time: its thread keeps running, and holds one of at most %d",
            running,
            self._limit,
        )


class Worker(Generic[T]):
    """One call of a plain function in a separate thread, with the caller's context variables.

    The variable that names the caller's event loop is cleared, so that the function may run a loop of its
    own. `ended` is set by `run_in_loop` when the function has ended.
    """

    def __init__(
        self,
        run_in_loop: Callable[[Callable[[], object]], object],
        ended: anyio.Event,
        function: Callable[[], T],
        *,
        name: str,
    ) -> None:
        self._run_in_loop = run_in_loop
        self._future: Future[T] = Future()
        self._ended = ended
        context = contextvars.copy_context()
        if (sniffio := sys.modules.get("sniffio")) is not None:
            context.run(sniffio.current_async_library_cvar.set, None)
        run = partial(context.run, self._run, function)
        threading.Thread(target=run, name=name, daemon=True).start()

    async def wait(self) -> None:
        """Wait until the function has ended; cancelled, leave the thread running."""
        await self._ended.wait()

    def result(self) -> T:
        """Return the result of the ended function, or raise its exception."""
        return self._future.result(timeout=0)

    def _run(self, function: Callable[[], T]) -> None:
        try:
            self._future.set_result(function())
        except BaseException as error:
            self._future.set_exception(error)
        with contextlib.suppress(RuntimeError):  # No task waits: the loop is closed.
            self._run_in_loop(self._ended.set)


async def _started(function: Callable[[], T], *, name: str) -> Worker[T]:
    """Start a thread that calls a plain function.

    A callback sets the event of the end. A loop of asyncio that stops cancels a task before its first step,
    and the coroutine of that task is never awaited.
    """
    from anyio.from_thread import run_sync

    return Worker(partial(run_sync, token=current_token()), anyio.Event(), function, name=name)


async def call_in_thread(function: Callable[[], T], *, name: str) -> T:
    """Run a plain function in a thread and return its result; cancelled, leave the thread running."""
    worker = await _started(function, name=name)
    await worker.wait()
    return worker.result()
