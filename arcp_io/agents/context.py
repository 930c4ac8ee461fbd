"""The job object for agents: it publishes events, checks authority and delegates."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias

from arcp_io.errors import JobOver
from arcp_io.lease_terms import moment
from arcp_proto import EventKind
from arcp_proto.leases import MODEL_USE, Namespace, canonical
from arcp_proto.wire import Body

from . import event_bodies
from .running_job import GATED, RunningJob

if TYPE_CHECKING:
    import httpx

    from arcp_io.mcp_tools.leased_tools import CostOf, LeasedTools, Targets
    from arcp_io.mcp_tools.server_connection import McpServer
    from arcp_proto import Credential
    from arcp_proto.leases import Cost

    from .delegated_job import ChildJob

LogLevel: TypeAlias = Literal["debug", "info", "warn", "error"]
"""The severity of a log line (§8.2)."""
Encoding: TypeAlias = Literal["utf8", "base64"]
"""The encoding of a streamed result: `utf8` is text, `base64` is bytes."""
LOG: Final = EventKind.LOG.value
THOUGHT: Final = EventKind.THOUGHT.value
STATUS: Final = EventKind.STATUS.value
METRIC: Final = EventKind.METRIC.value
PROGRESS: Final = EventKind.PROGRESS.value
SETTLED: Final = "cost.settled"
"""The default metric for the cost of a reservation."""


class JobContext:
    """The job that an agent runs (§7, §8).

    Its calls publish events; they wait while the submitting session's transport or the journal is full, and
    yield to other tasks now and then. An event that is too large for a frame is shortened, with marks that
    say how many bytes are left out. Calls raise TypeError or LocalProtocolError for values that cannot be
    sent, and JobOver once the end of the job has been sent. While a cancelled job unwinds they neither wait
    nor are cancelled, so that `finally: await job.log(...)` works.

    Operations that need authority check the lease first (§9.3): `authorize`, `tool`, `tool_call`, `open`,
    `fetch_allowed`, `http_client`, `mcp`, `model`, `reserve`, `delegate`. An operation outside the lease
    raises Denied with LEASE_EXPIRED, PERMISSION_DENIED or BUDGET_EXHAUSTED. An agent that does not catch it
    ends its job with that code; one that catches it can still return a result.
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
        """The principal that submitted the job."""
        return self._running.start.principal

    @property
    def session_id(self) -> str:
        """The session that submitted the job.

        For a child, the one that submitted the top job of its tree (§10).
        """
        return self._running.submitted_in()

    @property
    def attempt(self) -> int:
        """The number of starts of the job: 1, and one more for each start after a restart of the runtime."""
        return self._running.attempt

    @property
    def agent(self) -> str:
        """The agent as `name@version`, or its name if it has no version (§7.5)."""
        return self._running.agent.qualified_name

    @property
    def lease(self) -> Mapping[str, Sequence[str]]:
        """The granted lease: namespace -> patterns (§9.2)."""
        return self._running.lease

    @property
    def trace_id(self) -> str:
        """The trace that the job belongs to, 32 hex digits (§11)."""
        return self._running.start.trace_id

    @property
    def cancelled(self) -> bool:
        """Whether the job is to stop, for any reason."""
        return self._running.stopping

    @property
    def summary(self) -> str | None:
        """A line about the result, which the submitter gets with it (§8.4), or None.

        Set it before the agent returns; a job that does not succeed has no summary. Setting it raises
        LocalProtocolError for more than 1,000 characters.
        """
        return self._running.summary

    @summary.setter
    def summary(self, summary: str | None) -> None:
        self._running.summary = None if summary is None else event_bodies.summary(summary)

    def trace_headers(self) -> dict[str, str]:
        """Return `traceparent` and, if there is one, `tracestate`, for the tools that the agent calls
        (§11).
        """
        return dict(self._running.start.trace_headers)

    async def log(self, level: LogLevel, message: str) -> None:
        """Log a line for people; `level` is debug, info, warn or error."""
        if (rest := self._running.speak(LOG, event_bodies.log(level, message))) is not None:
            await rest

    async def thought(self, text: str) -> None:
        """Publish a step of reasoning."""
        if (rest := self._running.speak(THOUGHT, event_bodies.thought(text))) is not None:
            await rest

    async def status(self, phase: str, message: str | None = None) -> None:
        """Publish that the agent has entered a phase of its work."""
        if (rest := self._running.speak(STATUS, event_bodies.status(phase, message))) is not None:
            await rest

    async def metric(
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
        if (
            rest := self._running.speak(METRIC, event_bodies.metric(name, value, unit, dimensions))
        ) is not None:
            await rest

    async def progress(
        self,
        current: float,
        total: float | None = None,
        units: str | None = None,
        message: str | None = None,
    ) -> None:
        """Publish the progress of the job: not negative; it may exceed `total` (§8.2.1)."""
        if (
            rest := self._running.speak(PROGRESS, event_bodies.progress(current, total, units, message))
        ) is not None:
            await rest

    async def artifact(
        self, uri: str, content_type: str, byte_size: int | None = None, sha256: str | None = None
    ) -> None:
        """Publish the location of a file or other object that the job has made."""
        await self.emit(EventKind.ARTIFACT_REF, event_bodies.artifact(uri, content_type, byte_size, sha256))

    async def tool_call(self, tool: str, args: Any = None) -> str:
        """Publish that a tool is about to be called; return the id of the call, for `tool_result`.

        Raises Denied when the lease does not cover it; a tool_result with that error has been published then.
        """
        call_id = self._next_call_id()
        await self.emit(
            EventKind.TOOL_CALL, event_bodies.tool_call(tool, {} if args is None else args, call_id)
        )
        return call_id

    async def tool_result(
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
        if error is None:
            await self.emit(EventKind.TOOL_RESULT, event_bodies.tool_result(call_id, result))
        elif result is event_bodies.UNSET:
            failure = event_bodies.tool_failure(call_id, error, debug=self._running.debug)
            await self.emit(EventKind.TOOL_RESULT, failure)
        else:
            raise TypeError("a tool_result has either a result or an error")

    @asynccontextmanager
    async def tool(self, tool: str, args: Any = None) -> AsyncIterator[ToolCall]:
        """Publish a tool call around a block; set `call.result` in it.

        An exception is published and re-raised. Raises Denied when the lease does not cover the tool; the
        block is not entered then.
        """
        call = ToolCall(await self.tool_call(tool, args))
        try:
            yield call
            await self._running.ready()
            self._running.say(EventKind.TOOL_RESULT, event_bodies.tool_result(call.call_id, call.result))
        except BaseException as error:
            with suppress(JobOver):
                failure = event_bodies.tool_failure(call.call_id, error, tool=tool, debug=self._running.debug)
                self._running.say(EventKind.TOOL_RESULT, failure)
            raise
        await self._running.give_way()

    async def emit(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event of any kind but `result_chunk`.

        Own kinds are `x-vendor.<vendor>.<name>` (§8.2).
        """
        if kind in GATED:
            await self._running.speak_in_turn(kind, body)
        elif (rest := self._running.speak(kind, body)) is not None:
            await rest

    # Authority (§9).

    async def authorize(self, capability: str, target: str, *, audited: bool = False) -> None:
        """Raise Denied unless the lease covers an operation now: its expiry, its patterns, its budget
        (§9.3).

        A capability is a namespace of the lease, such as fs.read or `x-vendor.…`. A refusal is an audit fact;
        with `audited` an allowed operation is one too, with the pattern that covers it.
        """
        await self._running.ready()
        await self._running.give_way()
        asked = event_bodies.text("capability", capability), event_bodies.text("target", target)
        self._running.authorize(*asked, audited=audited)

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
            self._running.authorize,
            buffering=buffering,
            encoding=encoding,
            errors=errors,
            newline=newline,
            hard_links=hard_links,
        )

    async def fetch_allowed(self, url: str) -> str:
        """Return the URL to fetch, in the form in which the lease covers it: `net.fetch` (§9.3).

        Fetch the returned URL, not `url`, which HTTP clients may read in another way; pass it to aiohttp as
        `yarl.URL(..., encoded=True)`. Ask again for every redirect. Raises Denied.
        """
        form = canonical(Namespace.NET_FETCH, event_bodies.text("url", url)) or url
        await self.authorize(Namespace.NET_FETCH, form)
        return form

    def http_client(self, **options: Any) -> httpx.AsyncClient:
        """Return an httpx client that checks each request and each redirect against the lease: `net.fetch`
        (§9.3).

        It sends the URL in the form in which the lease covers it, with its own Host. For other URLs it raises
        Denied, whose message and `details["pattern"]` name the missing pattern. `options` are those of
        `httpx.AsyncClient` without `mounts`; redirects are followed only if they ask for it, and proxies of
        the environment are not used. Close the client before the agent returns: it holds connections. Needs
        the extra `http`.
        """
        from arcp_io.http_client import make_client

        return make_client(self.fetch_allowed, options)

    def mcp(
        self,
        server: McpServer,
        *,
        name: str | None = None,
        targets: Targets | None = None,
        cost: CostOf | None = None,
        timeout: float = 60.0,
    ) -> AbstractAsyncContextManager[LeasedTools]:
        """Connect to an MCP server; in the block, `tools.list()` and `tools.call(...)` offer what the lease
        covers (§9.3).

        `server` is a command as a list of words, a URL, or what the MCP SDK knows: StdioServerParameters, a
        transport, a ClientSession, a Server. A tool needs `tool.call` for its name, after `name` and a dot if
        a `name` is given. `targets` declares the arguments that are paths, URLs or targets of another
        capability: `{"read_file": {"path": "fs.read"}}`. They are checked, and sent in the form that was.
        `cost` returns the cost of a call in each currency, before it and after it. A call, a list, and the
        beginning of the connection take at most `timeout` seconds. Raises errors.ToolUnreachable, TypeError
        and ValueError. Needs the extra `mcp`.
        """
        from arcp_io.mcp_tools.leased_tools import leased_tools

        return leased_tools(self, server, name=name, targets=targets, cost=cost, timeout=timeout)

    async def model(self, name: str) -> None:
        """Raise Denied unless the lease covers the use of a model: `model.use` (§9.7)."""
        await self.authorize(MODEL_USE, name)

    def remaining(self, currency: str) -> Decimal | None:
        """Return the unspent budget in a currency, including reservations.

        Returns None if the currency is not bounded.
        """
        return self._running.remaining(event_bodies.text("currency", currency))

    @asynccontextmanager
    async def reserve(self, currency: str, amount: str | int | Decimal) -> AsyncIterator[Hold]:
        """Reserve a part of the budget around a block, so that nothing else can spend it meanwhile.

        `hold.settle(cost)` in the block spends; otherwise the block ends with nothing spent. Raises Denied
        when the unreserved budget is smaller.
        """
        await self._running.ready()
        await self._running.give_way()
        asked = event_bodies.text("currency", currency), event_bodies.amount(amount)
        hold = Hold(self._running, self._running.reserve(*asked))
        try:
            yield hold
        finally:
            with suppress(JobOver):
                hold.release()

    def upstream_exhausted(self, message: str) -> NoReturn:
        """Raise Denied BUDGET_EXHAUSTED because a vendor has refused further spending (§9.8)."""
        self._running.upstream_exhausted(event_bodies.text("message", message))

    @property
    def credentials(self) -> Sequence[Credential]:
        """The valid credentials that the host's provisioner has issued for this job (§9.8).

        `credential.value.reveal()` returns the value; nothing else shows it.
        """
        return self._running.credentials

    async def rotate_credential(self, credential_id: str) -> None:
        """Issue a new value in place of a credential's, and revoke the old one (§9.8.2).

        The new value is in `credentials` when this returns. Raises an ArcpError if the rotation fails.
        """
        await self._running.ready()
        await self._running.rotate_credential(event_bodies.text("credential_id", credential_id))

    async def delegate(
        self,
        agent: str,
        input: Any = None,
        *,
        lease_request: Mapping[str, Sequence[str]] | None = None,
        lease_constraints: Mapping[str, str] | None = None,
        expires_at: str | datetime | timedelta | None = None,
        max_runtime: int | None = None,
    ) -> ChildJob:
        """Start a job of another agent, with at most the authority of this one (§10).

        Without a `lease_request` the child gets this lease without `agent.delegate`; budget, models and
        expiry that the request does not name still bind it. Its lease ends at `expires_at`, also given in
        `lease_constraints`; it may run for `max_runtime` seconds. Raises Denied, with LEASE_SUBSET_VIOLATION
        for more authority than this job has.
        """
        await self._running.ready()
        await self._running.give_way()
        expiry = moment(expires_at, self._running.unix)
        if lease_constraints is not None:
            expiry = event_bodies.constraint(lease_constraints, expiry)
        name = event_bodies.text("agent", agent)
        return self._running.delegate(name, input, lease_request, expiry, max_runtime)

    @asynccontextmanager
    async def stream_result(self, *, encoding: Encoding = "utf8") -> AsyncIterator[ResultStream]:
        """Stream the result instead of returning it (§8.4): text, or bytes for `base64`.

        The stream ends when the agent returns None.
        """
        stream = ResultStream(self._running, encoding)
        try:
            yield stream
        finally:
            stream._close()

    def _next_call_id(self) -> str:
        self._running.calls += 1
        return f"call_{self._running.calls}"


class ToolCall:
    """A tool call in progress, for `JobContext.tool`."""

    __slots__ = ("call_id", "result")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.result: Any = None
        """The result of the tool, a JSON value; set by the block."""


class Hold:
    """A reserved part of the budget."""

    __slots__ = ("_number", "_running")

    def __init__(self, running: RunningJob, number: int) -> None:
        self._running = running
        self._number: int | None = number

    @property
    def settled(self) -> bool:
        """Whether the reservation is over, with a cost or without."""
        return self._number is None

    def settle(self, actual: Cost, name: str = SETTLED, dimensions: Mapping[str, Any] | None = None) -> None:
        """Publish the cost, more or less than was reserved, as the metric `name`, which spends the budget.

        The name begins with `cost.`. Raises ValueError if the reservation is over.
        """
        if self._number is None:
            raise ValueError("this reservation has been settled or released already")
        fields = None if dimensions is None else dict(dimensions)
        self._running.settle(self._number, event_bodies.cost(actual), event_bodies.text("name", name), fields)
        self._number = None

    def release(self) -> None:
        """Release the reservation with nothing spent; calling it again, or after `settle`, has no effect."""
        number, self._number = self._number, None
        if number is not None:
            self._running.release(number)


class ResultStream:
    """A result that is being streamed; each write is sent at once."""

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
        size = (
            self._running.limits.max_chunk_bytes
        )  # About one frame at a time, so that other tasks run in between.
        for start in range(0, len(data), size):
            await self._running.ready()
            self._running.write(data[start : start + size])
            await self._running.give_way()

    def _close(self) -> None:
        """Refuse further writes."""
        self._closed = True
