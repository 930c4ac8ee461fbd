"""The same job for plain functions: every call blocks its thread until the loop's thread has done it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from anyio.from_thread import BlockingPortal

from arcp_proto.events import Body, EventKind

from . import bodies
from .context import Encoding, JobContext, ResultStream, ToolCall
from .errors import AgentStopped, JobOver
from .running import RunningJob

P = ParamSpec("P")
T = TypeVar("T")


class BlockingJobContext:
    """The job that a plain function runs, in a worker thread: `JobContext` without `await`.

    When the job is to stop, the next call raises AgentStopped, once; the calls after it go through until the
    end of the job has been sent, and then raise JobOver. A function that makes no calls looks at `cancelled`.
    """

    __slots__ = ("_job", "_portal", "_running", "_told")

    def __init__(self, running: RunningJob, portal: BlockingPortal) -> None:
        self._running = running
        self._job = JobContext(running)
        self._portal = portal
        self._told = False

    def __repr__(self) -> str:
        return f"<BlockingJobContext {self.id} {self.agent}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def principal(self) -> str:
        """Who submitted the job."""
        return self._job.principal

    @property
    def attempt(self) -> int:
        """1, and one more each time that the job was started again after a restart of the runtime."""
        return self._job.attempt

    @property
    def agent(self) -> str:
        """The agent as `name@version`, or its name if it has no version (§7.5)."""
        return self._job.agent

    @property
    def lease(self) -> Mapping[str, Sequence[str]]:
        """What was granted: namespace -> patterns (§9.2). Nothing here enforces it yet."""
        return self._job.lease

    @property
    def trace_id(self) -> str:
        """The trace that the job belongs to, 32 hex digits (§11)."""
        return self._job.trace_id

    @property
    def cancelled(self) -> bool:
        """Whether the job is to stop, for whatever reason."""
        return self._job.cancelled

    def trace_headers(self) -> dict[str, str]:
        """`traceparent` and, if there is one, `tracestate`, for the tools that the agent calls (§11)."""
        return self._job.trace_headers()

    def log(self, level: str, message: str) -> None:
        """A line for people; `level` is debug, info, warn or error."""
        self._call(self._job.log, level, message)

    def thought(self, text: str) -> None:
        """A step of reasoning."""
        self._call(self._job.thought, text)

    def status(self, phase: str, message: str | None = None) -> None:
        """The agent has come to a phase of its work."""
        self._call(self._job.status, phase, message)

    def metric(
        self,
        name: str,
        value: float,
        unit: str | None = None,
        dimensions: Mapping[str, Any] | None = None,
    ) -> None:
        """A measurement; one whose name begins with `cost.` is a cost, and not negative (§9.6)."""
        self._call(self._job.metric, name, value, unit, dimensions)

    def progress(
        self,
        current: float,
        total: float | None = None,
        units: str | None = None,
        message: str | None = None,
    ) -> None:
        """How far the job is; not negative, and beyond `total` is allowed (§8.2.1)."""
        self._call(self._job.progress, current, total, units, message)

    def artifact(
        self, uri: str, content_type: str, byte_size: int | None = None, sha256: str | None = None
    ) -> None:
        """Where something lies that the job made."""
        self._call(self._job.artifact, uri, content_type, byte_size, sha256)

    def tool_call(self, tool: str, args: Any = None) -> str:
        """A tool is about to be called; returns the call's id, for `tool_result`."""
        return self._call(self._job.tool_call, tool, args)

    def tool_result(
        self, call_id: str, *, result: Any = bodies.UNSET, error: Mapping[str, Any] | Exception | None = None
    ) -> None:
        """How a tool call ended: a `result`, or an `error`: `{code, message, retryable}` or an exception."""
        self._call(self._job.tool_result, call_id, result=result, error=error)

    @contextmanager
    def tool(self, tool: str, args: Any = None) -> Iterator[ToolCall]:
        """A tool call around a block; set `call.result` in it. An exception is its error, and goes on."""
        call = ToolCall(self.tool_call(tool, args))
        try:
            yield call
            self.tool_result(call.call_id, result=call.result)
        except BaseException as error:
            failure = bodies.tool_failure(call.call_id, error, tool=tool)
            with suppress(JobOver):
                self._hop(self._job.emit, EventKind.TOOL_RESULT, failure)
            raise

    def emit(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """An event of any kind but `result_chunk`; ours are `x-vendor.<vendor>.<name>` (§8.2)."""
        self._call(self._job.emit, kind, body)

    @contextmanager
    def stream_result(self, *, encoding: Encoding = "utf8") -> Iterator[BlockingResultStream]:
        """Stream the result in place of returning it (§8.4): text, or bytes for `base64`.

        The stream ends when the agent returns None.
        """
        stream = self._call(self._open_stream, encoding)
        try:
            yield BlockingResultStream(self, stream)
        finally:
            stream.close()

    async def _open_stream(self, encoding: Encoding) -> ResultStream:
        return ResultStream(self._running, encoding)

    def _call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Hop to the loop's thread, unless the agent has to be told first that it is to stop."""
        if self._running.stopping and not self._told:
            self._told = True
            raise AgentStopped(self._running.stop_reason)
        return self._hop(function, *args, **kwargs)

    def _hop(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        async def call() -> T:
            return await function(*args, **kwargs)

        try:
            return self._portal.call(call)
        except (CancelledError, RuntimeError) as error:
            if isinstance(error, JobOver):
                raise
            raise JobOver(f"job {self.id} is over: its host is gone") from error


class BlockingResultStream:
    """A result that is being streamed; everything that is written goes out as it comes."""

    __slots__ = ("_job", "_stream")

    def __init__(self, job: BlockingJobContext, stream: ResultStream) -> None:
        self._job = job
        self._stream = stream

    def write(self, data: str | bytes) -> None:
        """Send a piece: str for utf8, bytes for base64. Raises Denied beyond the limit of a result (§14)."""
        self._job._call(self._stream.write, data)
