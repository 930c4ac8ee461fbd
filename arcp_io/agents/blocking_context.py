"""The job object for plain functions: each call blocks its thread until the event loop has carried it out."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from arcp_io.errors import AgentStopped, JobOver
from arcp_proto import EventKind
from arcp_proto.wire import Body

from . import event_bodies
from .context import SETTLED, Encoding, Hold, JobContext, LogLevel, ResultStream, ToolCall
from .delegated_job import BlockingChildJob
from .running_job import RunningJob

if TYPE_CHECKING:
    import httpx
    from anyio.from_thread import BlockingPortal

    from arcp_proto import Credential
    from arcp_proto.leases import Cost

P = ParamSpec("P")
T = TypeVar("T")


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
        """The job's id."""
        return self._job.id

    @property
    def principal(self) -> str:
        """The principal that submitted the job."""
        return self._job.principal

    @property
    def session_id(self) -> str:
        """The session that submitted the job.

        For a child, the one that submitted the top job of its tree (§10).
        """
        return self._job.session_id

    @property
    def attempt(self) -> int:
        """The number of starts of the job: 1, and one more for each start after a restart of the runtime."""
        return self._job.attempt

    @property
    def agent(self) -> str:
        """The agent as `name@version`, or its name if it has no version (§7.5)."""
        return self._job.agent

    @property
    def lease(self) -> Mapping[str, Sequence[str]]:
        """The granted lease: namespace -> patterns (§9.2)."""
        return self._job.lease

    @property
    def trace_id(self) -> str:
        """The trace that the job belongs to, 32 hex digits (§11)."""
        return self._job.trace_id

    @property
    def cancelled(self) -> bool:
        """Whether the job is to stop, for any reason."""
        return self._job.cancelled

    @property
    def summary(self) -> str | None:
        """A line about the result, which the submitter gets with it (§8.4), or None.

        Set it before the agent returns; a job that does not succeed has no summary. Setting it raises
        LocalProtocolError for more than 1,000 characters.
        """
        return self._job.summary

    @summary.setter
    def summary(self, summary: str | None) -> None:
        self._job.summary = summary

    def trace_headers(self) -> dict[str, str]:
        """Return `traceparent` and, if there is one, `tracestate`, for the tools that the agent calls
        (§11).
        """
        return self._job.trace_headers()

    def log(self, level: LogLevel, message: str) -> None:
        """Log a line for people; `level` is debug, info, warn or error."""
        self._call(self._job.log, level, message)

    def thought(self, text: str) -> None:
        """Publish a step of reasoning."""
        self._call(self._job.thought, text)

    def status(self, phase: str, message: str | None = None) -> None:
        """Publish that the agent has entered a phase of its work."""
        self._call(self._job.status, phase, message)

    def metric(
        self,
        name: str,
        value: float | Decimal,
        unit: str | None = None,
        dimensions: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish a measurement.

        A name with `cost.` spends the budget, if the unit is one of its currencies (§9.6). A cost is not
        negative. It is exact as a Decimal; of a float the shortest decimal form counts.
        """
        self._call(self._job.metric, name, value, unit, dimensions)

    def progress(
        self,
        current: float,
        total: float | None = None,
        units: str | None = None,
        message: str | None = None,
    ) -> None:
        """Publish the progress of the job: not negative; it may exceed `total` (§8.2.1)."""
        self._call(self._job.progress, current, total, units, message)

    def artifact(
        self, uri: str, content_type: str, byte_size: int | None = None, sha256: str | None = None
    ) -> None:
        """Publish the location of a file or other object that the job has made."""
        self._call(self._job.artifact, uri, content_type, byte_size, sha256)

    def tool_call(self, tool: str, args: Any = None) -> str:
        """Publish that a tool is about to be called; return the id of the call, for `tool_result`.

        Raises Denied when the lease does not cover it; a tool_result with that error has been published then.
        """
        return self._call(self._job.tool_call, tool, args)

    def tool_result(
        self,
        call_id: str,
        *,
        result: Any = event_bodies.UNSET,
        error: Mapping[str, Any] | Exception | None = None,
    ) -> None:
        """Publish the end of a tool call: a `result`, or an `error`: `{code, message, retryable}` or an
        exception.

        `retryable` counts for codes of your own; for the codes of §12 their table decides.
        """
        self._call(self._job.tool_result, call_id, result=result, error=error)

    @contextmanager
    def tool(self, tool: str, args: Any = None) -> Iterator[ToolCall]:
        """Publish a tool call around a block; set `call.result` in it.

        An exception is published and re-raised. Raises Denied when the lease does not cover the tool; the
        block is not entered then.
        """
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
        """Publish an event of any kind but `result_chunk`.

        Own kinds are `x-vendor.<vendor>.<name>` (§8.2).
        """
        self._call(self._job.emit, kind, body)

    # Authority (§9).

    def authorize(self, capability: str, target: str) -> None:
        """Raise Denied unless the lease covers an operation now: its expiry, its patterns, its budget
        (§9.3).

        A capability is a namespace of the lease, such as fs.read or `x-vendor.…`.
        """
        self._call(self._job.authorize, capability, target)

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
        """Open a regular file that the lease covers, as the built-in `open`: fs.read, fs.write, or with
        `+` both.

        Links and `..` are resolved first, and the opened file is the checked one, even if the path changes
        meanwhile. Text is UTF-8 unless `encoding` is given. A file with more than one name is refused unless
        `hard_links`. Raises Denied, and OSError only for covered paths.
        """
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

    def model(self, name: str) -> None:
        """Raise Denied unless the lease covers the use of a model: `model.use` (§9.7)."""
        self._call(self._job.model, name)

    def remaining(self, currency: str) -> Decimal | None:
        """Return the unspent budget in a currency, including reservations.

        Returns None if the currency is not bounded.
        """
        return self._call(_later, self._job.remaining, currency)

    @contextmanager
    def reserve(self, currency: str, amount: str | int | Decimal) -> Iterator[BlockingHold]:
        """Reserve a part of the budget around a block, so that nothing else can spend it meanwhile.

        `hold.settle(cost)` in the block spends; otherwise the block ends with nothing spent. Raises Denied
        when the unreserved budget is smaller.
        """
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
        """Raise Denied BUDGET_EXHAUSTED because a vendor has refused further spending (§9.8)."""
        self._call(_later, self._job.upstream_exhausted, message)
        raise AssertionError("not reached")

    @property
    def credentials(self) -> Sequence[Credential]:
        """The valid credentials that the host's provisioner has issued for this job (§9.8).

        `credential.value.reveal()` returns the value; nothing else shows it.
        """
        return self._hop(_later, getattr, self._job, "credentials")

    def rotate_credential(self, credential_id: str) -> None:
        """Issue a new value in place of a credential's, and revoke the old one (§9.8.2).

        The new value is in `credentials` when this returns. Raises an ArcpError if the rotation fails.
        """
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
        """Start a job of another agent, with at most the authority of this one (§10).

        Without a `lease_request` the child gets this lease without `agent.delegate`; budget, models and
        expiry that the request does not name still bind it. Its lease ends at `expires_at`, also given in
        `lease_constraints`; it may run for `max_runtime` seconds. Raises Denied, with LEASE_SUBSET_VIOLATION
        for more authority than this job has.
        """
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
        """Stream the result instead of returning it (§8.4): text, or bytes for `base64`.

        The stream ends when the agent returns None.
        """
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


class BlockingHold:
    """A reserved part of the budget."""

    __slots__ = ("_hold", "_job")

    def __init__(self, job: BlockingJobContext, hold: Hold) -> None:
        self._job = job
        self._hold = hold

    @property
    def settled(self) -> bool:
        """Whether the reservation is over, with a cost or without."""
        return self._hold.settled

    def settle(self, actual: Cost, name: str = SETTLED, dimensions: Mapping[str, Any] | None = None) -> None:
        """Publish the cost, more or less than was reserved, as the metric `name`, which spends the budget.

        The name begins with `cost.`. Raises ValueError if the reservation is over.
        """
        self._job._hop(_later, self._hold.settle, actual, name, dimensions)

    def release(self) -> None:
        """Release the reservation with nothing spent; calling it again, or after `settle`, has no effect."""
        self._job._hop(_later, self._hold.release)


class BlockingResultStream:
    """A result that is being streamed; each write is sent at once."""

    __slots__ = ("_job", "_stream")

    def __init__(self, job: BlockingJobContext, stream: ResultStream) -> None:
        self._job = job
        self._stream = stream

    def write(self, data: str | bytes) -> None:
        """Send a piece: str for utf8, bytes for base64. Raises Denied beyond the limit of a result (§14)."""
        self._job._call(self._stream.write, data)
