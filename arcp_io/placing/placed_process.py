"""The runtime's side of an agent's process that an engine starts: place it, kill it, learn how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from arcp_io.agents.event_bodies import described
from arcp_io.agents.isolation.channel import Channel
from arcp_io.agents.threads import call_in_thread
from arcp_io.drivers.stdio import ending
from arcp_io.errors import ConnectionLost, InternalError

if TYPE_CHECKING:
    from arcp_io.agents.running_job import RunningJob
    from arcp_io.drivers.loop import Loop

    from .link import Link
    from .link_listener import Awaited, LinkListener
    from .placement import Invitation, PlacedTask, Placement

logger = logging.getLogger("arcp_io")

LOOK_SEC: Final = 0.5
"""Seconds between two questions to an engine about a task that has not dialed in."""
END_SEC: Final = 10.0
"""Seconds that an engine has to end a task."""
KILL_SEC: Final = 5.0
"""Seconds that a worker has to kill a process, and to report it."""

T = TypeVar("T")


class PlacedProcess:
    """The process of one agent on a worker of an engine, at the other end of a link."""

    def __init__(self, running: RunningJob, placement: Placement, listener: LinkListener) -> None:
        self._running = running
        self._placement = placement
        self._listener = listener
        self._awaited: Awaited | None = None
        self._task: PlacedTask | None = None
        self._over = False
        """Whether the job does not wait for the engine any longer."""
        self._killed = False
        self._starting: anyio.CancelScope | None = None

    async def open(self, order: bytes, loop: Loop, limit: int) -> Channel:
        """Have the engine start a worker, wait until it dials in, and give it an order.

        Raises InternalError when that fails, and ConnectionLost when the process was killed meanwhile.
        """
        try:
            self._awaited, invitation = await self._listener.invite(limit)
        except (OSError, ValueError) as error:
            raise self._failed("the runtime cannot listen for the agent's worker", str(error)) from None
        link = await self._dialed_in(self._awaited, invitation)
        channel = Channel(link, limit)
        link.attach(channel)
        link.order(order)
        return channel

    def kill(self) -> None:
        """Have every process of the agent killed; a worker that has not dialed in is turned away."""
        self._killed = True
        if self._starting is not None:
            self._starting.cancel()
        if (link := self._link) is not None:
            link.kill()

    async def end(self, patience: float) -> bool:
        """Wait `patience` seconds for the agent's process to end by itself, and then have it killed.

        Returns whether nothing of it is left, as far as the worker can know.
        """
        self._over = True
        if self._awaited is not None:
            self._listener.forget(self._awaited)
        link = self._link
        if link is None:
            await self._end_task()
            return True
        if patience:
            with anyio.move_on_after(patience):
                await link.over.wait()
        if link.report is None and not link.gone:
            self._killed = True
            link.kill()
            with anyio.move_on_after(KILL_SEC):
                await link.over.wait()
        if link.report is None:
            link.cut("the worker does not answer")
            await self._end_task()
            return False
        link.cut("the job is over")
        return link.report.whole

    @property
    def ended_by_itself(self) -> str | None:
        """How the process has ended, as in "exited with code 7"; None if it was killed here or never ran."""
        link = self._link
        if link is None or self._killed:
            return None
        if link.report is not None:
            code = link.report.code
            return "was lost: it was killed at its worker" if code is None else ending(code)
        return f"was lost: {link.gone}"

    @property
    def _link(self) -> Link | None:
        return None if self._awaited is None else self._awaited.link

    async def _dialed_in(self, awaited: Awaited, invitation: Invitation) -> Link:
        engine, timeout = self._placement.engine, self._placement.start_timeout
        with anyio.move_on_after(timeout) as self._starting:
            if self._killed:
                self._starting.cancel()
            await self._start(invitation)
            while not awaited.dialed.is_set():
                with anyio.move_on_after(LOOK_SEC):
                    await awaited.dialed.wait()
                if not awaited.dialed.is_set():
                    await self._look(awaited)
        self._starting = None
        if self._killed:
            raise ConnectionLost("the job was stopped before its worker began")
        if awaited.link is None:
            raise self._failed(
                f"no worker of {engine} has begun the agent within {timeout:g} s",
                f"{self._placement!r} may find no free resources: add workers, ask for less, or give a longer"
                " start_timeout",
            )
        return awaited.link

    async def _start(self, invitation: Invitation) -> None:
        """Give the task to the engine; one that is given too late is ended at once."""

        def start() -> None:
            start = self._running.start
            task = self._placement.start(invitation, f"arcp-io {start.job_id} attempt {start.attempt}")
            self._task = task
            if self._over:
                task.end()

        try:
            await self._asked(start)
        except Exception as error:  # Engines raise errors of any kind.
            engine = self._placement.engine
            raise self._failed(f"{engine} has not taken the agent's task", described(error)) from None

    async def _look(self, awaited: Awaited) -> None:
        """Raise InternalError if the task has ended without dialing in."""
        if self._task is None:
            return
        try:
            how = await self._asked(self._task.ended)
        except Exception as error:  # Engines raise errors of any kind.
            how = described(error)
        if how is not None and not awaited.dialed.is_set():
            engine = self._placement.engine
            raise self._failed(f"the agent's task at {engine} has ended before it dialed in", how)

    async def _end_task(self) -> None:
        task = self._task
        if task is None:
            return
        with anyio.CancelScope(shield=True), anyio.move_on_after(END_SEC):
            try:
                await self._asked(task.end)
            except Exception as error:  # Engines raise errors of any kind.
                logger.warning(
                    "%s: %s cannot end its task: %s", self._running, self._placement.engine, described(error)
                )

    async def _asked(self, function: Callable[[], T]) -> T:
        return await call_in_thread(function, name=f"arcp-io {self._placement.engine}")

    def _failed(self, message: str, detail: str) -> InternalError:
        """Return the error for a client; only the log has its details, outside debug mode."""
        logger.error("%s: %s: %s", self._running, message, detail)
        return InternalError(f"{message}: {detail}"[:1000] if self._running.debug else message)
