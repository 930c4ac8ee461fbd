"""Isolated agents: the parent starts a child for each and carries out its requests (see `protocol`).

The child is a process below this one, with an empty environment (`supervised`), or one that an engine starts
elsewhere (`arcp_io.placing`), and has a process group of its own. It finds the agent by importing its module
again, so an isolated agent is a function at the top level of a module, or of the script that runs.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import anyio
import msgspec

from arcp_io.agents import event_bodies
from arcp_io.agents.context import JobContext
from arcp_io.agents.running_job import RunningJob
from arcp_io.drivers.loop import open_loop
from arcp_io.drivers.pump import BYTES_HELD
from arcp_io.drivers.stdio import EXIT_TIMEOUT
from arcp_io.errors import AgentStopped, ConnectionLost, InternalError
from arcp_proto import ChildEnded, wire
from arcp_proto.wire import NO_INPUT

from .answering import answer
from .channel import Channel
from .child import Order
from .protocol import (
    BEGIN,
    FAILED,
    RETURNED,
    STOPPED,
    WAITS,
    Failure,
    Message,
    Request,
    ended_of,
    error_of,
    framed,
    message_limit,
    request_limit,
)

if TYPE_CHECKING:
    from arcp_io.app import AgentFunction
    from arcp_io.drivers.loop import Loop

logger = logging.getLogger("arcp_io")

STARTED: Final = "x-vendor.arcp-io.start"
"""The capability that is checked when a child does not accept its job."""
MARGIN: Final = 0.5
"""Seconds before the end of the grace at which a child is killed, so that its stop is seen in time."""

_decode_request: Final = msgspec.json.Decoder(Request).decode


class Reference(NamedTuple):
    """The place where a child finds a function: in a module, or in the script at a path."""

    module: str
    script: str
    qualname: str


def reference(function: AgentFunction) -> Reference:
    """Return where a child finds a function; raises ValueError if another process cannot import it."""
    module: str | None = getattr(function, "__module__", None)
    qualname: str | None = getattr(function, "__qualname__", None)
    if module is None or qualname is None or "<" in qualname:
        raise ValueError(
            f'isolation="process" needs a function at the top level of a module, which {function!r} is not'
        )
    if module != "__main__":
        return Reference(module, "", qualname)
    main = sys.modules["__main__"]
    spec, script = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return Reference(spec.name, "", qualname)
    if script is not None and os.path.isfile(script):
        return Reference("", os.path.abspath(script), qualname)
    raise ValueError(f'isolation="process" needs a module to import: move {qualname} into a file')


class AgentProcess(Protocol):
    """The process of one agent, wherever it runs."""

    async def open(self, order: bytes, loop: Loop, limit: int) -> Channel:
        """Start the process with an order, and return the channel to it, for messages of `limit` bytes.

        Raises OSError, ConnectionLost and ArcpError; the process is ended by `end` in each case.
        """

    def kill(self) -> None:
        """Have every running process of the agent killed; calling it again has no effect."""

    async def end(self, patience: float) -> bool:
        """Wait `patience` seconds for the process to end by itself, and then kill everything.

        Returns whether nothing of it is left, as far as that can be known.
        """

    @property
    def ended_by_itself(self) -> str | None:
        """How the process has ended, as in "exited with code 7"; None if it was killed here, or unknown."""


async def run_isolated(running: RunningJob, loop: str, process: AgentProcess) -> Any:
    """Run an agent in a child with an event loop of that name, and return its result.

    Raises the ArcpError that the agent ended with; InternalError, with the exit code or signal, when the
    child has ended without a report; AgentStopped when it was to stop; and RuntimeError when it never ran.
    """
    isolated = Isolated(running, loop, process)
    try:
        return await isolated.run()
    except (ConnectionLost, OSError) as error:
        how = isolated.ended_by_itself
        if how is not None:
            logger.error("%s: its process %s", running, how)
        if running.stopping:
            raise AgentStopped(running.stop_reason) from None
        if how is None:
            raise RuntimeError(f"the process of {running} has ended: {error}") from error
        raise InternalError(f"the agent's process {how}") from None


class Isolated:
    """One isolated agent from start to end; it is stopped by a message, then by SIGKILL."""

    def __init__(self, running: RunningJob, loop: str, process: AgentProcess) -> None:
        running.cancellable = False
        self._running = running
        self._job = JobContext(running)
        self._loop = loop
        self._process = process
        self._began = False
        self._request_limit = request_limit(running.body_limit)

    async def run(self) -> Any:
        """Run the agent and return its result, None if it streamed that.

        Raises the error that it failed with.
        """
        running = self._running
        async with open_loop() as loop:
            loop.start(self._stop_in_time, "arcp-io stop of a child")
            channel: Channel | None = None
            try:
                channel = await self._open(loop)
                running.peer = partial(self._tell, channel)
                return await self._serve(channel)
            finally:
                running.peer = None
                if channel is not None:
                    channel.close()
                await self._end_child()

    @property
    def ended_by_itself(self) -> str | None:
        """How the child has ended, as in "exited with code 7"; None if it was killed here or never ran."""
        return self._process.ended_by_itself

    def _order(self) -> bytes:
        agent, job, running = self._running.agent, self._job, self._running
        order = Order(
            agent.name,
            agent.version,
            *reference(agent.function),
            self._loop,
            job.id,
            job.session_id,
            job.attempt,
            job.principal,
            {name: list(patterns) for name, patterns in job.lease.items()},
            job.trace_id,
            job.trace_headers(),
            running.debug,
            running.limits,
            running.body_limit,
        )
        return msgspec.json.encode(order)

    async def _open(self, loop: Loop) -> Channel:
        limit = message_limit(self._running.limits)
        return await self._process.open(self._order(), loop, limit)

    async def _serve(self, channel: Channel) -> Any:
        """Answer the agent's requests, one by one, until it reports its end."""
        running = self._running
        while True:
            request = _decode_request(await channel.receive())
            match request.what:
                case what if what == BEGIN:
                    await channel.send(framed(await self._begin()))
                case what if what == RETURNED:
                    return await self._returned(request)
                case what if what == FAILED:
                    raise _failure(request, self._request_limit)
                case what if what == STOPPED:
                    raise AgentStopped(running.stop_reason)
                case _:
                    message = await answer(running, request, self._request_limit)
                    if not request.quiet:
                        await channel.send(framed(message))
                    await running.give_way()

    async def _begin(self) -> Message:
        """Return the input for the agent, which is about to be called.

        Raises Denied if its lease has ended.
        """
        start = self._running.start
        if self._began:
            raise ValueError("the agent's process begins twice")
        if self._running.lease_has_ended:
            await self._job.authorize(STARTED, self._running.agent.name)
        self._began = True
        input, start.given = start.given.json, NO_INPUT
        return Message(value=msgspec.Raw(input))

    async def _returned(self, request: Request) -> Any:
        if len(request.arguments) > BYTES_HELD:
            await self._running.ready()  # A job with a large result waits too; here before decoding it.
        value, summary = msgspec.convert(wire.decode_value(bytes(request.arguments)), tuple[Any, str | None])
        self._running.summary = None if summary is None else event_bodies.summary(summary)
        return value

    def _tell(self, channel: Channel, what: str, value: Any) -> None:
        """Forward a report of the host to the agent's process."""
        if isinstance(value, ChildEnded):
            value = ended_of(value)
        data = framed(Message(what, msgspec.Raw(msgspec.json.encode(value))))
        if what == WAITS:
            channel.tell_state(data)
        else:
            channel.tell(data)

    async def _stop_in_time(self) -> None:
        """Kill the child before the grace is over; cancelled when its job is over."""
        await self._running.stop_requested()
        if self._began:
            await anyio.sleep(max(0, self._running.grace_left - MARGIN))
        logger.warning("%s: its process is killed", self._running)
        self._process.kill()

    async def _end_child(self) -> None:
        """End the child and every process that it has started.

        Its pipes are closed, so it can exit by itself. If the end cannot be confirmed, wait for the end of
        the grace before the job counts as stopped.
        """
        with anyio.CancelScope(shield=True):
            if await self._process.end(0 if self._running.stopping else EXIT_TIMEOUT):
                return
            logger.error("%s: processes that its process has started may still run", self._running)
            self._running.stop_verified = False
            if self._running.stopping:
                await anyio.sleep(self._running.grace_left + MARGIN)


def _failure(request: Request, limit: int) -> Exception:
    if len(request.arguments) > limit:
        raise ValueError("the agent's process has sent an error that is too long")
    (failure,) = msgspec.convert(wire.decode_value(bytes(request.arguments)), tuple[Failure])
    return error_of(failure)
