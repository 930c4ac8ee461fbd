"""The job object for plain functions: each call blocks its thread until the event loop has carried it out."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from arcp_io.errors import AgentStopped, JobOver, ToolUnreachable
from arcp_proto import EventKind
from arcp_proto.wire import Body

from . import event_bodies
from .context import SETTLED, Encoding, Hold, JobContext, LogLevel, ResultStream, ToolCall
from .delegated_job import BlockingChildJob
from .running_job import RunningJob

if TYPE_CHECKING:
    import httpx
    from anyio.from_thread import BlockingPortal

    from arcp_io.mcp_tools.blocking_tools import BlockingLeasedTools
    from arcp_io.mcp_tools.leased_tools import CostOf, Targets
    from arcp_io.mcp_tools.server_connection import McpServer
    from arcp_proto import Credential
    from arcp_proto.leases import Cost

P = ParamSpec("P")
T = TypeVar("T")
ClassT = TypeVar("ClassT", bound=type)


def _documented_by(twin: type) -> Callable[[ClassT], ClassT]:
    """Return a decorator that gives members of a class without a docstring that of the async twin."""

    def take_over(cls: ClassT) -> ClassT:
        for name, member in vars(cls).items():
            if not name.startswith("_") and member.__doc__ is None:
                member.__doc__ = getattr(twin, name).__doc__
        return cls

    return take_over


@_documented_by(JobContext)
class BlockingJobContext:
    """The job that a plain function runs in a worker thread: `JobContext` without `await`.

    When the job is to stop, the next call raises AgentStopped, once; later calls work until the end of the
    job has been sent, and then raise JobOver. A function that makes no calls checks `cancelled`.
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
        return self._job.id

    @property
    def principal(self) -> str:
        return self._job.principal

    @property
    def session_id(self) -> str:
        return self._job.session_id

    @property
    def attempt(self) -> int:
        return self._job.attempt

    @property
    def agent(self) -> str:
        return self._job.agent

    @property
    def lease(self) -> Mapping[str, Sequence[str]]:
        return self._job.lease

    @property
    def trace_id(self) -> str:
        return self._job.trace_id

    @property
    def cancelled(self) -> bool:
        return self._job.cancelled

    @property
    def summary(self) -> str | None:
        return self._job.summary

    @summary.setter
    def summary(self, summary: str | None) -> None:
        self._job.summary = summary

    def trace_headers(self) -> dict[str, str]:
        return self._job.trace_headers()

    def log(self, level: LogLevel, message: str) -> None:
        self._call(self._job.log, level, message)

    def thought(self, text: str) -> None:
        self._call(self._job.thought, text)

    def status(self, phase: str, message: str | None = None) -> None:
        self._call(self._job.status, phase, message)

    def metric(
        self,
        name: str,
        value: float | Decimal,
        unit: str | None = None,
        dimensions: Mapping[str, Any] | None = None,
    ) -> None:
        self._call(self._job.metric, name, value, unit, dimensions)

    def progress(
        self,
        current: float,
        total: float | None = None,
        units: str | None = None,
        message: str | None = None,
    ) -> None:
        self._call(self._job.progress, current, total, units, message)

    def artifact(
        self, uri: str, content_type: str, byte_size: int | None = None, sha256: str | None = None
    ) -> None:
        self._call(self._job.artifact, uri, content_type, byte_size, sha256)

    def tool_call(self, tool: str, args: Any = None) -> str:
        return self._call(self._job.tool_call, tool, args)

    def tool_result(
        self,
        call_id: str,
        *,
        result: Any = event_bodies.UNSET,
        error: Mapping[str, Any] | Exception | None = None,
    ) -> None:
        self._call(self._job.tool_result, call_id, result=result, error=error)

    @contextmanager
    def tool(self, tool: str, args: Any = None) -> Iterator[ToolCall]:
        call = ToolCall(self.tool_call(tool, args))
        try:
            yield call
            self.tool_result(call.call_id, result=call.result)
        except BaseException as error:
            failure = event_bodies.tool_failure(call.call_id, error, tool=tool, debug=self._running.debug)
            with suppress(JobOver):
                self._hop(self._job.emit, EventKind.TOOL_RESULT, failure)
            raise

    def emit(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        self._call(self._job.emit, kind, body)

    # Authority (§9).

    def authorize(self, capability: str, target: str, *, audited: bool = False) -> None:
        self._call(self._job.authorize, capability, target, audited=audited)

    def open(
        self,
        path: str | os.PathLike[str],
        mode: str = "r",
        *,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        hard_links: bool = False,
    ) -> IO[Any]:
        from .safe_open import open_allowed

        return open_allowed(
            path,
            mode,
            self.authorize,
            buffering=buffering,
            encoding=encoding,
            errors=errors,
            newline=newline,
            hard_links=hard_links,
        )

    def fetch_allowed(self, url: str) -> str:
        """Return the URL to fetch, in the form in which the lease covers it: `net.fetch` (§9.3).

        Fetch the returned URL, not `url`, which HTTP clients may read in another way. Ask again for every
        redirect. Raises Denied.
        """
        return self._call(self._job.fetch_allowed, url)

    def http_client(self, **options: Any) -> httpx.Client:
        """Return an httpx client that checks each request and each redirect against the lease: `net.fetch`
        (§9.3).

        It sends the URL in the form in which the lease covers it, with its own Host. For other URLs it raises
        Denied, whose message and `details["pattern"]` name the missing pattern. When the job is to stop, the
        next request, or the next piece of a body, raises AgentStopped. `options` are those of `httpx.Client`
        without `mounts`; redirects are followed only if they ask for it, and proxies of the environment are
        not used. Close the client before the agent returns: it holds connections. Needs the extra `http`.
        """
        from arcp_io.http_client import make_blocking_client

        return make_blocking_client(self.fetch_allowed, self._tell_stop, options)

    @contextmanager
    def mcp(
        self,
        server: McpServer,
        *,
        name: str | None = None,
        targets: Targets | None = None,
        cost: CostOf | None = None,
        timeout: float = 60.0,
    ) -> Iterator[BlockingLeasedTools]:
        from arcp_io.mcp_tools.blocking_tools import BlockingLeasedTools

        self._tell_stop()
        opened = self._job.mcp(server, name=name, targets=targets, cost=cost, timeout=timeout)
        with ExitStack() as stack:
            try:
                tools = stack.enter_context(self._portal.wrap_async_context_manager(opened))
            except ToolUnreachable:
                self._tell_stop()
                raise
            yield BlockingLeasedTools(self, tools)

    def model(self, name: str) -> None:
        self._call(self._job.model, name)

    def remaining(self, currency: str) -> Decimal | None:
        return self._call(_later, self._job.remaining, currency)

    @contextmanager
    def reserve(self, currency: str, amount: str | int | Decimal) -> Iterator[BlockingHold]:
        hold = self._call(self._reserve, currency, amount)
        try:
            yield BlockingHold(self, hold)
        finally:
            with suppress(JobOver):
                self._hop(_later, hold.release)

    async def _reserve(self, currency: str, amount: str | int | Decimal) -> Hold:
        asked = event_bodies.text("currency", currency), event_bodies.amount(amount)
        return Hold(self._running, self._running.reserve(*asked))

    def upstream_exhausted(self, message: str) -> NoReturn:
        self._call(_later, self._job.upstream_exhausted, message)
        raise AssertionError("not reached")

    @property
    def credentials(self) -> Sequence[Credential]:
        return self._hop(_later, getattr, self._job, "credentials")

    def rotate_credential(self, credential_id: str) -> None:
        self._call(self._job.rotate_credential, credential_id)

    def delegate(
        self,
        agent: str,
        input: Any = None,
        *,
        lease_request: Mapping[str, Sequence[str]] | None = None,
        lease_constraints: Mapping[str, str] | None = None,
        expires_at: str | datetime | timedelta | None = None,
        max_runtime: int | None = None,
    ) -> BlockingChildJob:
        child = self._call(
            self._job.delegate,
            agent,
            input,
            lease_request=lease_request,
            lease_constraints=lease_constraints,
            expires_at=expires_at,
            max_runtime=max_runtime,
        )
        return BlockingChildJob(child, self)

    @contextmanager
    def stream_result(self, *, encoding: Encoding = "utf8") -> Iterator[BlockingResultStream]:
        stream = self._call(self._open_stream, encoding)
        try:
            yield BlockingResultStream(self, stream)
        finally:
            stream._close()

    async def _open_stream(self, encoding: Encoding) -> ResultStream:
        return ResultStream(self._running, encoding)

    def _call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on the loop's thread, or raise AgentStopped first if the agent is to stop."""
        self._tell_stop()
        return self._hop(function, *args, **kwargs)

    def _tell_stop(self) -> None:
        """Raise AgentStopped if the agent is to stop and has not been told yet."""
        if self._running.stopping and not self._told:
            self._told = True
            raise AgentStopped(self._running.stop_reason)

    def _hop(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        async def call() -> T:
            return await function(*args, **kwargs)

        try:
            return self._portal.call(call)
        except (CancelledError, RuntimeError) as error:
            if isinstance(error, JobOver):
                raise
            raise JobOver(f"job {self.id} is over: its host is gone") from error


async def _later(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


@_documented_by(Hold)
class BlockingHold:
    """A reserved part of the budget."""

    __slots__ = ("_hold", "_job")

    def __init__(self, job: BlockingJobContext, hold: Hold) -> None:
        self._job = job
        self._hold = hold

    @property
    def settled(self) -> bool:
        return self._hold.settled

    def settle(self, actual: Cost, name: str = SETTLED, dimensions: Mapping[str, Any] | None = None) -> None:
        self._job._hop(_later, self._hold.settle, actual, name, dimensions)

    def release(self) -> None:
        self._job._hop(_later, self._hold.release)


@_documented_by(ResultStream)
class BlockingResultStream:
    """A result that is being streamed; each write is sent at once."""

    __slots__ = ("_job", "_stream")

    def __init__(self, job: BlockingJobContext, stream: ResultStream) -> None:
        self._job = job
        self._stream = stream

    def write(self, data: str | bytes) -> None:
        self._job._call(self._stream.write, data)
