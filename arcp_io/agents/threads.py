"""Plain functions beside the event loop: daemon threads, so that one that never ends holds up no exit."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from arcp_io.errors import InternalError

from .blocking_context import BlockingJobContext
from .running_job import RunningJob

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

logger = logging.getLogger("arcp_io")

T = TypeVar("T")


class Threads:
    """The threads of plain agents: at most `limit` of them, those that outlive their job included."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: anyio.CapacityLimiter | None = None
        self._jobs: list[RunningJob] = []

    @property
    def outlived(self) -> int:
        """Threads whose job has ended without them."""
        return sum(running.over for running in self._jobs)

    async def run(self, running: RunningJob) -> Any:
        """Call a plain agent in a thread, once one is free; returns or raises what the agent does.

        Raises InternalError at once when every thread is held by an agent that did not stop with its job.
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
            worker = Worker(portal, anyio.Event(), call, name=f"arcp-io {running.start.job_id}")
            tasks.start_soon(self._report_late, running)
            try:
                await worker.wait()
            except BaseException:
                logger.warning("%s: its thread is left behind", running)
                raise
            tasks.cancel_scope.cancel()
        return worker

    async def _report_late(self, running: RunningJob) -> None:
        """Cancelled when the thread ends in time."""
        await running.stop_requested()
        await anyio.sleep(running.grace_left)
        logger.warning(
            "%s has not stopped in time: its thread goes on, and takes one of the %d that there may be",
            running,
            self._limit,
        )


class Worker(Generic[T]):
    """One call of a plain function in a thread of its own, with the caller's context variables.

    `portal` is how the thread reaches the loop, and has to be open when the worker is made; `ended` is set
    there when the function has ended.
    """

    def __init__(
        self, portal: BlockingPortal, ended: anyio.Event, function: Callable[[], T], *, name: str
    ) -> None:
        self._portal = portal
        self._future: Future[T] = Future()
        self._ended = ended
        run = partial(contextvars.copy_context().run, self._run, function)
        threading.Thread(target=run, name=name, daemon=True).start()

    async def wait(self) -> None:
        """Until the function has ended; cancelled, it leaves the thread to itself."""
        await self._ended.wait()

    def result(self) -> T:
        """What the ended function returned; raises what it raised."""
        return self._future.result(timeout=0)

    def _run(self, function: Callable[[], T]) -> None:
        try:
            self._future.set_result(function())
        except BaseException as error:
            self._future.set_exception(error)
        with contextlib.suppress(RuntimeError):  # Nobody waits any more: the portal, or its loop, is closed.
            self._portal.start_task_soon(self._ended.set)


async def call_in_thread(function: Callable[[], T], *, name: str) -> T:
    """What a plain function returns, run beside the loop; cancelled, it leaves the thread to itself."""
    from anyio.from_thread import BlockingPortal

    async with BlockingPortal() as portal:
        worker = Worker(portal, anyio.Event(), function, name=name)
        await worker.wait()
    return worker.result()
