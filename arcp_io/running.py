"""A job whose agent runs, as its host sees it: the state that the agent's object and the host share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel

from arcp_proto.errors import Denied, InvariantViolated, LocalProtocolError
from arcp_proto.events import Body

from .errors import JobOver

if TYPE_CHECKING:
    from arcp_proto.limits import Limits
    from arcp_proto.output import StartJob
    from arcp_proto.runtime import Runtime

    from .app import Agent
    from .loop import Loop
    from .pump import Pump

EVENTS_BETWEEN_TURNS: Final = 64
NANOSECONDS_BETWEEN_TURNS: Final = 1_000_000
EVENT_SIZE: Final = 1024
"""Bytes that count as one event."""


class RunningJob:
    """One job from its start until its agent has ended. Everything here runs on the loop's thread."""

    __slots__ = (
        "_load",
        "_loop",
        "_pump",
        "_resumed",
        "_runtime",
        "_stop_requested",
        "_turned_at",
        "agent",
        "attempt",
        "calls",
        "cancellable",
        "held",
        "id",
        "kill_at",
        "paused",
        "start",
        "started",
        "stop_reason",
        "stopping",
    )

    def __init__(self, start: StartJob, agent: Agent, runtime: Runtime, pump: Pump, loop: Loop) -> None:
        self.start = start
        self.id: str = start.job_id
        """As the agent is told; in a child it is the parent's."""
        self.attempt = start.attempt
        """Likewise."""
        self.agent = agent
        self.started = False
        """Its task has begun to run."""
        self.cancellable = True
        """Its task may be cancelled; otherwise the agent learns from `stopping` that it is to end."""
        self.calls = 0
        """Tool calls so far."""
        self.held = False
        """It waits, as all do, until the journal has caught up."""
        self.paused = False
        """It waits until the transport of the submitting session has caught up."""
        self.stopping = False
        """The job is to end: from now on nothing here waits, and what unwinds is not cancelled again."""
        self.stop_reason = ""
        self.kill_at = 0
        """When the end of a job that is stopping is sent in any case."""
        self._runtime = runtime
        self._pump = pump
        self._loop = loop
        self._load = 0
        self._turned_at = 0
        self._resumed: anyio.Event | None = None
        self._stop_requested: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<RunningJob {self.start.job_id} {self.agent.qualified_name}>"

    # What the agent says.

    def say(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish one event; raises LocalProtocolError for one that cannot be, JobOver after the end."""
        try:
            self._runtime.emit(self.start.job_id, kind, body, now=self._pump.now())
        except LocalProtocolError:
            self._check_over()
            raise
        except InvariantViolated as bug:
            self._pump.crash(bug)
            raise
        self._load += 1
        self._pump.soon()

    def write(self, data: str | bytes) -> None:
        """Stream a piece of the result; raises as `say`, and Denied beyond the limit of a result."""
        try:
            self._runtime.write_result(self.start.job_id, data, now=self._pump.now())
        except LocalProtocolError:
            self._check_over()
            raise
        except Denied:
            self._pump.run()
            raise
        except InvariantViolated as bug:
            self._pump.crash(bug)
            raise
        self._load += 1 + len(data) // EVENT_SIZE
        self._pump.soon(len(data))

    def pieces(self, data: str | bytes) -> Iterator[str | bytes]:
        """A large piece of a result in parts of about one frame, so that others run in between."""
        size = self._runtime.limits.chunk
        for start in range(0, len(data), size):
            yield data[start : start + size]

    async def ready(self) -> None:
        """Wait while the transport of the submitting session, or the journal, is full.

        A job that is to stop does not wait.

        Trio cancels only where a task waits, so that an agent which does nothing but speak is cancelled here.
        """
        while (self.paused or self.held) and not self.stopping:
            if self._resumed is None:
                self._resumed = anyio.Event()
            await self._resumed.wait()
        if self.stopping and not self._unwinding():
            await self._loop.checkpoint()

    async def give_way(self) -> None:
        """Let others run, when enough was said since the last time."""
        now = self._pump.now()
        if self._load >= EVENTS_BETWEEN_TURNS or now - self._turned_at >= NANOSECONDS_BETWEEN_TURNS:
            if self.stopping:
                await anyio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._loop.checkpoint()
            self._load = 0
            self._turned_at = self._pump.now()

    # What the host is told.

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._let_go()

    def hold(self, held: bool) -> None:
        """Wait for the journal, or no longer."""
        self.held = held
        if not held:
            self._let_go()

    def stop(self, reason: str, kill_at: int) -> None:
        """The job is to end by `kill_at`; again is harmless."""
        if not self.stopping:
            self.stopping = True
            self.stop_reason = reason
            self.kill_at = kill_at
            self._let_go()
            if self._stop_requested is not None:
                self._stop_requested.set()

    async def stop_requested(self) -> None:
        """Until the job is to stop. For one caller."""
        if not self.stopping:
            self._stop_requested = anyio.Event()
            await self._stop_requested.wait()

    @property
    def limits(self) -> Limits:
        """The runtime's."""
        return self._runtime.limits

    @property
    def grace_left(self) -> float:
        """Seconds until the end of a stopping job is sent in any case."""
        return max(0, self.kill_at - self._pump.now()) / 1_000_000_000

    @property
    def over(self) -> bool:
        """Whether the end of the job has been sent."""
        return self.start.job_id not in self._runtime.unfinished

    def _unwinding(self) -> bool:
        """Whether our caller is handling its cancellation, as in `finally: await job.log(...)`."""
        cancelled = anyio.get_cancelled_exc_class()
        handled = sys.exc_info()[1]
        while handled is not None:
            if isinstance(handled, cancelled):
                return True
            handled = handled.__context__
        return False

    def _let_go(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def _check_over(self) -> None:
        if self.over:
            raise JobOver(f"job {self.start.job_id} is over: nothing can be said any more") from None
