"""The child's side of `isolation`: runs one agent, whose job is held by the runtime outside."""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial, reduce
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgspec

from arcp_io.agents import event_bodies
from arcp_io.agents.context import JobContext
from arcp_io.agents.host import AGENT_FAILED, NOT_SENT, told_of
from arcp_io.agents.running_job import RunningJob
from arcp_io.agents.threads import Threads
from arcp_io.app import Agent, AgentFunction
from arcp_io.drivers.clock import Clock
from arcp_io.drivers.loop import open_loop
from arcp_io.drivers.stdio import own_standard_streams
from arcp_io.errors import AgentStopped, InternalError, InvalidRequest, JobOver
from arcp_io.values import converted
from arcp_proto import (
    SECOND,
    CredentialRotated,
    Input,
    JobId,
    Limits,
    LocalProtocolError,
    Principal,
    StartJob,
    wire,
)
from arcp_proto.wire import MAX_REASON_LENGTH, NO_INPUT, details_of

from .outside import Outside
from .protocol import (
    BEGIN,
    ENDED,
    FAILED,
    RETURNED,
    ROTATED,
    STOP,
    STOPPED,
    WAITS,
    Ended,
    event_of,
    failure_of,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from arcp_io.drivers.loop import AgentTask, Loop
    from arcp_io.drivers.pump import Pump
    from arcp_proto import AgentApi

logger = logging.getLogger("arcp_io")


class Order(msgspec.Struct, frozen=True):
    """The parameters of a child; `script` is the path of a file to run where there is no `module`."""

    agent: str
    version: str | None
    module: str
    script: str
    qualname: str
    loop: str
    job_id: str
    session_id: str
    """The session that submitted the job."""
    attempt: int
    principal: str
    lease: dict[str, list[str]]
    """The lease for the agent's information; the runtime outside enforces it."""
    trace_id: str
    trace_headers: dict[str, str]
    debug: bool
    limits: Limits
    body_limit: int
    """The largest body of an event, in bytes."""


def main(text: str) -> None:
    """Carry out an order, given as JSON, over the standard streams."""
    order = msgspec.json.decode(text, type=Order)
    sys.argv[1:] = []
    with own_standard_streams() as (reading, writing):
        child = _Child(order, _load(order), reading, writing)
        anyio.run(child.run, backend=order.loop)
        os.close(reading)
        os.close(writing)


def _load(order: Order) -> AgentFunction:
    if order.script:
        names = runpy.run_path(order.script, run_name="__arcp_child__")
    else:
        names = vars(importlib.import_module(order.module))
    first, *rest = order.qualname.split(".")
    function: AgentFunction = reduce(getattr, rest, names[first])
    return function


class IsolatedJob(RunningJob, eq=False):
    """A job that the runtime outside holds."""

    outside: Outside | None = None

    @property
    def over(self) -> bool:
        """Whether the end of the job has been sent, as far as this process knows."""
        return self.outside is not None and self.outside.over

    def remaining(self, currency: str) -> Decimal | None:
        """Return the unspent budget in a currency."""
        return None if self.outside is None else self.outside.remaining(currency)


class _NoPump:
    """Stands in for a pump, which runs outside: inputs have no consequences here."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.now = self.clock.now

    def look_at_wall(self) -> None:
        """Do nothing: the clock that counts runs outside."""

    def run(self) -> None:
        """Do nothing: no output waits here."""

    def soon(self, size: int = 0, *, urgent: bool = False) -> None:
        """Do nothing: no output waits here."""


class _Child:
    """The agent of one order."""

    def __init__(self, order: Order, function: AgentFunction, reading: int, writing: int) -> None:
        self._order = order
        self._agent = Agent(order.agent, order.version, function)
        self._pipes = (reading, writing)

    async def run(self) -> None:
        """Run the agent until it has ended, and report how."""
        async with open_loop() as loop:
            self._loop: Loop = loop
            limits = self._order.limits
            body_limit = self._order.body_limit
            self._outside = Outside(*self._pipes, limits, body_limit, loop.call_soon, self._on_told)
            self._running = self._job()
            self._task: AgentTask = loop.start(self._carry_out, "arcp-io agent")
            listening = loop.start(self._listen, "arcp-io runtime")
            await loop.wait(self._task)
            await loop.wait(listening)  # Until the runtime has read the end, and closed the pipes.

    def _job(self) -> IsolatedJob:
        order, pump = self._order, _NoPump()
        start = StartJob(
            JobId(order.job_id),
            order.agent,
            order.version,
            NO_INPUT,
            Principal(order.principal),
            order.lease,
            order.trace_id,
            order.trace_headers,
            order.attempt,
        )
        return IsolatedJob(
            start,
            self._agent,
            cast("AgentApi", self._outside),  # Both have what a RunningJob calls.
            cast("Pump", pump),
            self._loop,
            session_id=order.session_id,
            debug=order.debug,
            outside=self._outside,
        )

    async def _listen(self) -> None:
        await self._outside.listen()
        self._stop("the runtime is gone", 0)

    def _on_told(self, told: str, value: msgspec.Raw) -> None:
        running = self._running
        match told:
            case what if what == STOP:
                self._stop(*msgspec.json.decode(value, type=tuple[str, float]))
            case what if what == ENDED:
                running.child_ended(event_of(msgspec.json.decode(value, type=Ended)))
            case what if what == ROTATED:
                running.credential_rotated(msgspec.json.decode(value, type=CredentialRotated))
            case what if what == WAITS and msgspec.json.decode(value, type=bool):
                running.pause()
            case what if what == WAITS:
                running.resume()

    def _stop(self, reason: str, seconds: float) -> None:
        running = self._running
        if not running.stopping:
            running.stop(reason, monotonic_ns() + int(seconds * SECOND))
            if running.started and running.cancellable:
                self._loop.cancel(self._task)

    async def _carry_out(self) -> None:
        """Run the agent from start to end. Raises nothing: a cancellation ends here too, with the task."""
        running = self._running
        try:
            running.start.given = Input(bytes(self._outside.request(BEGIN)), 0)
            running.started = True
            result = None if running.stopping else await self._call()
        except GeneratorExit:
            raise
        except BaseException as error:
            self._end(partial(self._failed, error))
        else:
            self._end(partial(self._returned, result))

    async def _call(self) -> Any:
        running, agent = self._running, self._agent
        if agent.is_async:
            return await agent.function(JobContext(running), agent.input_of(running.start.take_input()))
        return await Threads(1).run(running)

    # Its end.

    def _end(self, tell: Callable[[], None]) -> None:
        with suppress(JobOver):  # The runtime does not wait for the result then.
            tell()

    def _returned(self, result: Any) -> None:
        running = self._running
        if running.stopping:
            self._outside.send(STOPPED)
            return
        try:
            value = _as_json(result)
        except LocalProtocolError as error:
            logger.error("%s: %s: %s", running, NOT_SENT, error)
            self._tell_failure(InvalidRequest(f"{NOT_SENT}: {error}"))
        except Exception as error:  # Reading the returned object may raise anything.
            logger.error("%s: %s: %s", running, NOT_SENT, event_bodies.described(error))
            self._tell_failure(InvalidRequest(self._debugged(NOT_SENT, error)))
        else:
            self._send_value(value)

    def _send_value(self, value: bytes) -> None:
        most = self._order.limits.max_returned_value_bytes
        if len(value) > most:
            message = f"a returned value is at most {most} bytes: stream the result"
            self._tell_failure(InvalidRequest(message, details=details_of("max_returned_value_bytes", most)))
        else:
            self._outside.send(RETURNED, msgspec.Raw(value), self._running.summary)

    def _failed(self, error: BaseException) -> None:
        running, told = self._running, told_of(error)
        if told is None and not (running.stopping and self._is_stop(error)):
            logger.error("%s: the agent failed", running, exc_info=error)
        if running.stopping:
            self._outside.send(STOPPED)
            return
        try:
            self._tell_failure(told or InternalError(self._debugged(AGENT_FAILED, error)))
        except JobOver:
            raise
        except Exception as problem:
            logger.error("%s: the agent's error cannot be sent: %s", running, problem)
            self._tell_failure(InternalError(AGENT_FAILED))

    def _tell_failure(self, error: Any) -> None:
        failure = failure_of(error)
        failure.message = failure.message[: MAX_REASON_LENGTH + 1]  # The runtime shortens it.
        self._outside.send(FAILED, msgspec.Raw(wire.encode_value(msgspec.to_builtins(failure))))

    def _debugged(self, message: str, error: BaseException) -> str:
        return f"{message}: {event_bodies.described(error)}" if self._order.debug else message

    def _is_stop(self, error: BaseException) -> bool:
        stops = (self._loop.cancelled, AgentStopped, JobOver)
        if isinstance(error, BaseExceptionGroup):
            return error.split(stops)[1] is None
        return isinstance(error, stops)


def _as_json(result: Any) -> bytes:
    """Return an agent's result as JSON, converted if needed; raises LocalProtocolError."""
    try:
        return wire.encode_value(result)
    except LocalProtocolError:
        return wire.encode_value(converted("result", result))
