"""A runtime in a program that is not its own: started by the lifespan of that program, or when first used.

It runs in a task of its own, which opens and closes everything that belongs to it. So no block of it is open
while a task of the other program runs, whichever task starts it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.drivers.loop import identity, spawn
from arcp_io.journal import JournalInUse

from .server import Server, open_server
from .setting_warnings import warn_of_app
from .shared import NOTHING_SHARED, Shared
from .workers import SoleWorker

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.journal import Journal

    from .metrics import Metrics

logger = logging.getLogger("arcp_io")

ONE_WORKER: Final = "serve this application with one worker (--workers 1)"
SEVERAL: Final = (
    "another worker of this server runs %s already, and a session lives in one process; "
    + ONE_WORKER
    + ", or several nodes over a PostgresStore (arcp-io serve --journal postgresql://...)"
)


RETRY_SEC: Final = 5.0
"""Seconds after a failed start in which the next use fails as well, without a new one."""


class Stage(Enum):
    """The stage of a hosted runtime.

    IDLE ----> STARTING ----> SERVING ----> DRAINING ----> ENDED
      ^            |             |             |
      '-- failed --'             '-------------'------> FAILED

    A new event loop begins at IDLE.
    """

    IDLE = "the runtime is not started"
    """The runtime has not been used, or the last start has failed."""
    STARTING = "the runtime is starting"
    """The journal is being read."""
    SERVING = ""
    """The runtime takes connections."""
    DRAINING = "the runtime is shutting down"
    """Running jobs may still end."""
    ENDED = "the runtime has ended"
    """The lifespan is over."""
    FAILED = "the runtime has failed: see the log"
    """The state of the runtime cannot be trusted, or the journal cannot be written: a new process helps."""


class Hosted:
    """The runtime of an App inside another program; `stage` says what it does."""

    def __init__(
        self, app: App, journal: Journal | None, drain: float, metrics: Metrics | None = None
    ) -> None:
        """Serve an App with a journal; running jobs get `drain` seconds at the end of a lifespan."""
        self.stage = Stage.IDLE
        self._app = app
        self._shared = NOTHING_SHARED if metrics is None else Shared(metrics=metrics)
        self._journal = journal
        self._drain = drain
        self._loop: object = None
        self._task: object = None
        self._server: Server | None = None
        self._error: BaseException | None = None
        """Why the last start has failed, or the runtime since."""
        self._not_before = -math.inf
        """The time of the monotonic clock before which a failed start is not repeated."""
        self._started: anyio.Event
        """Set when the runtime serves, or its start has failed."""
        self._stopped: anyio.Event
        """Set when the runtime has to end."""
        self._over: anyio.Event
        """Set when its task ends."""

    @property
    def server(self) -> Server:
        """The running server; raises RuntimeError before its start and after its end."""
        if self._server is None:
            raise RuntimeError(self.stage.value)
        return self._server

    @property
    def trouble(self) -> str:
        """Why no connections should come; empty if they should."""
        if self.stage is Stage.STARTING and self._journal is not None:
            return "the journal is being read"
        if self.stage is Stage.IDLE and self._error is not None:
            return "the runtime cannot start: see the log"
        return self.stage.value

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Serve during the block, and at its end wait for running jobs.

        Raises what `serve` raises, at either end.
        """
        self._enter_loop()
        if self.stage is Stage.ENDED:
            self.stage = Stage.IDLE
        await self._start(
            f"the runtime of {self._app.name} starts with the lifespan of its application; at the end jobs"
            f" get {self._drain:g} s"
        )
        try:
            yield
        finally:
            await self._stop()

    async def use(self) -> Server:
        """Return the server, which is started if no lifespan has done so.

        Raises what `serve` raises, the same again for some seconds after a failure, and RuntimeError after
        the end.
        """
        if self.stage is not Stage.SERVING or self._loop is not identity():
            await self._start(self._unannounced())
        return self.server

    async def begin(self) -> None:
        """Start the runtime if no lifespan has done so, without waiting for it."""
        self._enter_loop()
        if self._may_start():
            await self._spawn(self._unannounced())

    def _unannounced(self) -> str:
        return (
            f"the runtime of {self._app.name} starts with its first request, as no lifespan has reached it:"
            " at the end jobs get no time; give lifespan= of the outer application the lifespan of this one"
        )

    async def _start(self, line: str) -> None:
        self._enter_loop()
        if self._may_start():
            await self._spawn(line)
        await self._started.wait()
        if self._error is not None:
            raise self._error

    def _may_start(self) -> bool:
        return self.stage is Stage.IDLE and time.monotonic() >= self._not_before

    def _enter_loop(self) -> None:
        """Begin anew in another event loop than the last one, once that has ended."""
        loop = identity()
        if self._loop is not loop:
            if self._server is not None:
                raise RuntimeError("one application serves one event loop: make one more for another loop")
            self._loop, self._error, self.stage, self._not_before = loop, None, Stage.IDLE, -math.inf

    async def _spawn(self, line: str) -> None:
        self.stage, self._error = Stage.STARTING, None
        self._started, self._stopped, self._over = anyio.Event(), anyio.Event(), anyio.Event()
        logger.info("%s", line)
        self._task = spawn(self._run, "arcp-io runtime")

    async def _stop(self) -> None:
        """Wait for running jobs and for the end; raises the error for which the runtime has failed."""
        if self.stage is Stage.SERVING:
            self.stage = Stage.DRAINING
        self._stopped.set()
        await self._over.wait()
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        """Serve until `_stopped` is set."""
        try:
            with SoleWorker(SEVERAL % self._app.name):
                async with open_server(self._app, self._drain, self._journal, shared=self._shared) as server:
                    warn_of_app(self._app)
                    self._server, self.stage = server, Stage.SERVING
                    self._started.set()
                    await self._stopped.wait()
            self.stage = Stage.ENDED
        except BaseException as error:
            if is_cancellation(error, anyio.get_cancelled_exc_class()):
                self.stage = Stage.ENDED
                raise
            self._failed(error)
        finally:
            self._server = None
            self._started.set()
            self._over.set()

    def _failed(self, error: BaseException) -> None:
        if self._server is not None:
            self.stage = Stage.FAILED
            logger.critical("the runtime of %s has failed", self._app.name, exc_info=error)
        else:
            self.stage = Stage.IDLE
            if isinstance(error, JournalInUse) and ONE_WORKER not in str(error):
                error = JournalInUse(f"{error}, or {ONE_WORKER}")
            self._not_before = time.monotonic() + RETRY_SEC
            logger.error("the runtime of %s cannot start: %s", self._app.name, error)
        self._error = error


def is_cancellation(error: BaseException, cancelled: type[BaseException]) -> bool:
    """Return whether an error is a cancellation of this class; trio raises several of them as a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancelled)[1] is None
    return isinstance(error, cancelled)
