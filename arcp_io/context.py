"""What an agent gets: the job that it runs, as an object to speak through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, TypeAlias

from arcp_proto.events import Body, EventKind

from . import bodies
from .errors import JobOver
from .running import RunningJob

Encoding: TypeAlias = Literal["utf8", "base64"]
"""Of a streamed result: `utf8` is text, `base64` is bytes."""


class JobContext:
    """The job that an agent runs (§7, §8).

    Its calls publish events; they wait while the submitting session's transport or the journal is full, and
    let others run now and then. They raise TypeError or LocalProtocolError for what cannot be sent, and
    JobOver once the end of the job has been sent. While a cancelled job unwinds they neither wait nor are
    cancelled, so that `finally: await job.log(...)` works.
    """

    __slots__ = ("_running",)

    def __init__(self, running: RunningJob) -> None:
        self._running = running

    def __repr__(self) -> str:
        return f"<JobContext {self.id} {self.agent}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._running.id

    @property
    def principal(self) -> str:
        """Who submitted the job."""
        return self._running.start.principal

    @property
    def attempt(self) -> int:
        """1, and one more each time that the job was started again after a restart of the runtime."""
        return self._running.attempt

    @property
    def agent(self) -> str:
        """The agent as `name@version`, or its name if it has no version (§7.5)."""
        return self._running.agent.qualified_name

    @property
    def lease(self) -> Mapping[str, Sequence[str]]:
        """What was granted: namespace -> patterns (§9.2). Nothing here enforces it yet."""
        return self._running.start.lease

    @property
    def trace_id(self) -> str:
        """The trace that the job belongs to, 32 hex digits (§11)."""
        return self._running.start.trace_id

    @property
    def cancelled(self) -> bool:
        """Whether the job is to stop, for whatever reason."""
        return self._running.stopping

    def trace_headers(self) -> dict[str, str]:
        """`traceparent` and, if there is one, `tracestate`, for the tools that the agent calls (§11)."""
        return dict(self._running.start.trace_headers)

    async def log(self, level: str, message: str) -> None:
        """A line for people; `level` is debug, info, warn or error."""
        await self.emit(EventKind.LOG, bodies.log(level, message))

    async def thought(self, text: str) -> None:
        """A step of reasoning."""
        await self.emit(EventKind.THOUGHT, bodies.thought(text))

    async def status(self, phase: str, message: str | None = None) -> None:
        """The agent has come to a phase of its work."""
        await self.emit(EventKind.STATUS, bodies.status(phase, message))

    async def metric(
        self,
        name: str,
        value: float,
        unit: str | None = None,
        dimensions: Mapping[str, Any] | None = None,
    ) -> None:
        """A measurement; one whose name begins with `cost.` is a cost, and not negative (§9.6)."""
        await self.emit(EventKind.METRIC, bodies.metric(name, value, unit, dimensions))

    async def progress(
        self,
        current: float,
        total: float | None = None,
        units: str | None = None,
        message: str | None = None,
    ) -> None:
        """How far the job is; not negative, and beyond `total` is allowed (§8.2.1)."""
        await self.emit(EventKind.PROGRESS, bodies.progress(current, total, units, message))

    async def artifact(
        self, uri: str, content_type: str, byte_size: int | None = None, sha256: str | None = None
    ) -> None:
        """Where something lies that the job made."""
        await self.emit(EventKind.ARTIFACT_REF, bodies.artifact(uri, content_type, byte_size, sha256))

    async def tool_call(self, tool: str, args: Any = None) -> str:
        """A tool is about to be called; returns the call's id, for `tool_result`."""
        call_id = self._next_call_id()
        await self.emit(EventKind.TOOL_CALL, bodies.tool_call(tool, {} if args is None else args, call_id))
        return call_id

    async def tool_result(
        self, call_id: str, *, result: Any = bodies.UNSET, error: Mapping[str, Any] | Exception | None = None
    ) -> None:
        """How a tool call ended: a `result`, or an `error`: `{code, message, retryable}` or an exception."""
        if error is None:
            await self.emit(EventKind.TOOL_RESULT, bodies.tool_result(call_id, result))
        elif result is bodies.UNSET:
            await self.emit(EventKind.TOOL_RESULT, bodies.tool_failure(call_id, error))
        else:
            raise TypeError("a tool_result has either a result or an error")

    @asynccontextmanager
    async def tool(self, tool: str, args: Any = None) -> AsyncIterator[ToolCall]:
        """A tool call around a block; set `call.result` in it. An exception is its error, and goes on."""
        call = ToolCall(await self.tool_call(tool, args))
        try:
            yield call
            await self._running.ready()
            self._running.say(EventKind.TOOL_RESULT, bodies.tool_result(call.call_id, call.result))
        except BaseException as error:
            with suppress(JobOver):
                self._running.say(EventKind.TOOL_RESULT, bodies.tool_failure(call.call_id, error, tool=tool))
            raise
        await self._running.give_way()

    async def emit(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """An event of any kind but `result_chunk`; ours are `x-vendor.<vendor>.<name>` (§8.2)."""
        await self._running.ready()
        self._running.say(kind, body)
        await self._running.give_way()

    @asynccontextmanager
    async def stream_result(self, *, encoding: Encoding = "utf8") -> AsyncIterator[ResultStream]:
        """Stream the result in place of returning it (§8.4): text, or bytes for `base64`.

        The stream ends when the agent returns None.
        """
        stream = ResultStream(self._running, encoding)
        try:
            yield stream
        finally:
            stream.close()

    def _next_call_id(self) -> str:
        self._running.calls += 1
        return f"call_{self._running.calls}"


class ToolCall:
    """A tool call under way."""

    __slots__ = ("call_id", "result")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.result: Any = None
        """What the tool returned, a JSON value."""


class ResultStream:
    """A result that is being streamed; everything that is written goes out as it comes."""

    __slots__ = ("_binary", "_closed", "_running")

    def __init__(self, running: RunningJob, encoding: str) -> None:
        if encoding not in ("utf8", "base64"):
            raise ValueError(f"the encoding of a result is utf8 or base64, not {encoding!r}")
        self._running = running
        self._binary = encoding == "base64"
        self._closed = False
        running.write(b"" if self._binary else "")

    async def write(self, data: str | bytes) -> None:
        """Send a piece: str for utf8, bytes for base64. Raises Denied beyond the limit of a result (§14)."""
        if self._closed:
            raise ValueError("write to a result stream whose block has ended")
        if not isinstance(data, bytes if self._binary else str):
            wanted = "bytes" if self._binary else "str"
            raise TypeError(f"this result is a stream of {wanted}, not of {type(data).__name__}")
        for piece in self._running.pieces(data):
            await self._running.ready()
            self._running.write(piece)
            await self._running.give_way()

    def close(self) -> None:
        """Nothing more is written."""
        self._closed = True
