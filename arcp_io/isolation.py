"""Agents in processes of their own: a runtime in a child, over lines, and our client in front of it.

The child has an empty environment and a process group of its own. It finds the agent by importing its module
again, so an isolated agent is a function at the top level of a module, or of the script that runs.
"""

from __future__ import annotations

import base64
import logging
import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import msgspec

from arcp_proto import wire
from arcp_proto.client import ClientConfig
from arcp_proto.connection import Connection
from arcp_proto.errors import Denied, ErrorCode
from arcp_proto.events import REMAINING, EventKind
from arcp_proto.spending import WARNING

from .answering import Answering
from .between import NOTE, limits_in_front
from .child import RESULT_PART, TOKEN, Order, answers_name
from .client_job import Event, Job
from .client_session import Session
from .context import JobContext, ResultStream
from .dialing import Target
from .errors import AgentStopped, ArcpError, ConnectionLost, InternalError, InvalidRequest
from .loop import open_loop
from .pump import Pump
from .running import RunningJob
from .stdio import EXIT_TIMEOUT, Command, LineCodec
from .stream import ByteStream, StreamTransport
from .supervised import SupervisedProcess

if TYPE_CHECKING:
    from .app import AgentFunction
    from .loop import Loop

logger = logging.getLogger("arcp_io")

STARTED: Final = "x-vendor.arcp-io.start"
"""What the gate is asked for when a child does not take its job."""
MARGIN: Final = 0.5
"""Seconds before the end of the grace at which a child is killed, so that its stop is seen in time."""


class Reference(NamedTuple):
    """Where a child finds a function: in a module, or in the script at a path."""

    module: str
    script: str
    qualname: str


def reference(function: AgentFunction) -> Reference:
    """Raises ValueError for a function that another process cannot import."""
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
    raise ValueError(f'isolation="process" needs a module to import: put {qualname} into a file')


async def run_isolated(running: RunningJob, loop: str) -> Any:
    """Run an agent in a child, on the event loop of that name; returns what it returns.

    Raises the ArcpError that it ended with; InternalError, which names the exit code or the signal, when the
    child has ended without a word; AgentStopped when it was to stop; and RuntimeError when it never ran.
    """
    isolated = Isolated(running, loop)
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
    """One agent in its child, from start to end; it is stopped by cancelling it there, then by SIGKILL."""

    def __init__(self, running: RunningJob, loop: str) -> None:
        running.cancellable = False
        self._running = running
        self._job = JobContext(running)
        self._loop = loop
        self._process = SupervisedProcess()
        self._theirs: Job | None = None
        self._value = bytearray()
        """The JSON of a large value, as far as it has come."""
        self._stream: ResultStream | None = None

    async def run(self) -> Any:
        """Returns what the agent returns, None if it streamed that; raises what it failed with."""
        limits = limits_in_front(self._running.limits)
        async with open_loop() as loop:
            session = Session(ClientConfig(name="arcp-io parent", limits=limits, resume=False), loop)
            loop.start(self._stop_in_time, "arcp-io stop of a child")
            try:
                await session._open(TOKEN, Command([self._running.agent.name]), self._dial)
                return await self._relay(session, Answering(self._running, loop), loop)
            finally:
                session._leave()
                await self._end_child()

    @property
    def ended_by_itself(self) -> str | None:
        """How the child has ended, as in "exited with code 7"; None when it was killed here, or never ran."""
        return self._process.ended_by_itself

    def _order(self) -> bytes:
        agent, job = self._running.agent, self._job
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
            not self._running.any_model,
            self._running.debug,
            self._running.limits,
        )
        return msgspec.json.encode(order)

    async def _dial(self, target: Target, pump: Pump, connection: Connection) -> None:
        """As `dialing.dial` does, but with a child that is ours to kill."""
        reading, writing = await self._process.start(self._order())
        if self._running.stopping:
            self._process.kill()

        def connected(stream: ByteStream) -> StreamTransport:
            return StreamTransport(pump, connection, LineCodec(connection.message_limit), stream)

        await pump.loop.open_pipes(reading, writing, connected)

    async def _relay(self, session: Session, answering: Answering, loop: Loop) -> Any:
        agent, headers = self._running.agent, self._job.trace_headers()
        input = self._running.start.given.json.decode()  # As text it nests no deeper.
        try:
            self._theirs = await session.submit(
                agent.qualified_name,
                [input, msgspec.to_builtins(answering.brought())],
                lease=self._running.lease_without_budget(),
                expires_at=self._running.expires_at,
                traceparent=headers["traceparent"],
                tracestate=headers.get("tracestate"),
            )
        except InvalidRequest:
            await self._check_expiry()
            raise
        loop.start(partial(answering.send, session, answers_name(agent.name)), "arcp-io answers to a child")
        self._theirs._release_result()  # Its chunks go on as they come: nothing joins them here.
        async for event in self._theirs:
            await self._say(event, answering)
        result = self._theirs._successful_end().result
        self._running.summary = self._theirs.summary
        if self._value:
            return wire.decode_value(bytes(self._value))
        return None if self._stream is not None else result

    async def _check_expiry(self) -> None:
        """Raise Denied if the lease has ended while the child was starting."""
        try:
            await self._job.authorize(STARTED, self._running.agent.name)
        except Denied as denied:
            if denied.code is ErrorCode.LEASE_EXPIRED:
                raise

    async def _say(self, event: Event, answering: Answering) -> None:
        match event.kind:
            case EventKind.RESULT_CHUNK:
                await self._write(event.body)
            case kind if kind == RESULT_PART:
                self._keep(event.body["text"])
            case kind if kind == NOTE:
                await answering.noted(event.body)
            case EventKind.METRIC if event.body["name"] == REMAINING:
                pass  # Outside there is a counter of its own.
            case EventKind.METRIC:
                await answering.metric(event.body)
            case EventKind.STATUS if event.body["phase"] == WARNING:
                pass  # Likewise.
            case kind:
                await self._job.emit(kind, event.body)

    def _keep(self, part: str) -> None:
        """Keep more of a large value; raises InvalidRequest beyond what one may return."""
        self._value += part.encode()
        if len(self._value) > (most := self._running.limits.returned):
            raise InvalidRequest(
                f"a returned value is at most {most} bytes: stream the result",
                details={"limit": "returned", "max": most},
            )

    async def _write(self, chunk: dict[str, Any]) -> None:
        encoding, data = chunk["encoding"], chunk["data"]
        if self._stream is None:
            self._stream = ResultStream(self._running, encoding)
        await self._stream.write(base64.b64decode(data) if encoding == "base64" else data)

    async def _stop_in_time(self) -> None:
        """Cancelled when the child's job is over."""
        await self._running.stop_requested()
        if self._theirs is not None:
            with anyio.move_on_after(self._running.grace_left - MARGIN), suppress(ArcpError):
                await self._theirs.cancel(self._running.stop_reason)
                return
        logger.warning("%s: its process is killed", self._running)
        self._process.kill()

    async def _end_child(self) -> None:
        """End the child, and what it has started; its input has ended, so it exits if there is time for that.

        When that cannot be seen, the stop of the job is not told before its grace is over.
        """
        with anyio.CancelScope(shield=True):
            if await self._process.end(0 if self._running.stopping else EXIT_TIMEOUT):
                return
            logger.error("%s: what its process has started may still run", self._running)
            if self._running.stopping:
                await anyio.sleep(self._running.grace_left + MARGIN)
