"""What an agent gets: the job that it runs, as an object to speak through."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias

from arcp_io.errors import JobOver
from arcp_io.lease_terms import moment
from arcp_proto.leases.canonical import canonical
from arcp_proto.wire.event_bodies import Body, EventKind

from . import event_bodies
from .running_job import GATED, RunningJob

if TYPE_CHECKING:
    import httpx

    from arcp_proto.leases.budget import Cost
    from arcp_proto.wire.credential import Credential

    from .delegated_job import ChildJob

LogLevel: TypeAlias = Literal["debug", "info", "warn", "error"]
"""How important a line of log is (§8.2)."""
Encoding: TypeAlias = Literal["utf8", "base64"]
"""Of a streamed result: `utf8` is text, `base64` is bytes."""
LOG: Final = EventKind.LOG.value
THOUGHT: Final = EventKind.THOUGHT.value
STATUS: Final = EventKind.STATUS.value
METRIC: Final = EventKind.METRIC.value
PROGRESS: Final = EventKind.PROGRESS.value
SETTLED: Final = "cost.settled"
"""The metric of a cost that was reserved for."""


class JobContext:
    """The job that an agent runs (§7, §8).

    Its calls publish events; they wait while the submitting session's transport or the journal is full, and
    let others run now and then. An event that is too large for a frame is cut, and marks in it say how many
    bytes are left out. They raise TypeError or LocalProtocolError for what cannot be sent, and JobOver once
    the end of the job has been sent. While a cancelled job unwinds they neither wait nor are
    cancelled, so that `finally: await job.log(...)` works.

    What needs authority asks the gate first (§9.3): `authorize`, `tool`, `tool_call`, `open`,
    `fetch_allowed`, `http_client`, `model`, `reserve`, `delegate`. What the lease does not cover raises
    Denied with its code: LEASE_EXPIRED, PERMISSION_DENIED or BUDGET_EXHAUSTED. An agent that lets it pass
    ends its job so; one that catches it can still return what it has.
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
    def session_id(self) -> str:
        """The session that submitted the job; of a child that of the job at the top of its tree (§10)."""
        return self._running.submitted_in()

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
        """What was granted: namespace -> patterns (§9.2)."""
        return self._running.lease

    @property
    def trace_id(self) -> str:
        """The trace that the job belongs to, 32 hex digits (§11)."""
        return self._running.start.trace_id

    @property
    def cancelled(self) -> bool:
        """Whether the job is to stop, for whatever reason."""
        return self._running.stopping

    @property
    def summary(self) -> str | None:
        """A line about the result, which its submitter gets with it (§8.4); None for none.

        Set it before the agent returns; a job that does not succeed has none. Setting it raises
        LocalProtocolError for more than 1,000 characters.
        """
        return self._running.summary

    @summary.setter
    def summary(self, summary: str | None) -> None:
        self._running.summary = None if summary is None else event_bodies.summary(summary)

    def trace_headers(self) -> dict[str, str]:
        """`traceparent` and, if there is one, `tracestate`, for the tools that the agent calls (§11)."""
        return dict(self._running.start.trace_headers)

    async def log(self, level: LogLevel, message: str) -> None:
        """A line for people; `level` is debug, info, warn or error."""
        if (rest := self._running.speak(LOG, event_bodies.log(level, message))) is not None:
            await rest

    async def thought(self, text: str) -> None:
        """A step of reasoning."""
        if (rest := self._running.speak(THOUGHT, event_bodies.thought(text))) is not None:
            await rest

    async def status(self, phase: str, message: str | None = None) -> None:
        """The agent has come to a phase of its work."""
        if (rest := self._running.speak(STATUS, event_bodies.status(phase, message))) is not None:
            await rest

    async def metric(
        self,
        name: str,
        value: float | Decimal,
        unit: str | None = None,
        dimensions: Mapping[str, Any] | None = None,
    ) -> None:
        """A measurement; one whose name begins with `cost.` spends the budget, if its unit is in it (§9.6).

        A cost is not negative, and exact as a Decimal; of a float its shortest form counts.
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
        """How far the job is; not negative, and beyond `total` is allowed (§8.2.1)."""
        if (
            rest := self._running.speak(PROGRESS, event_bodies.progress(current, total, units, message))
        ) is not None:
            await rest

    async def artifact(
        self, uri: str, content_type: str, byte_size: int | None = None, sha256: str | None = None
    ) -> None:
        """Where something lies that the job made."""
        await self.emit(EventKind.ARTIFACT_REF, event_bodies.artifact(uri, content_type, byte_size, sha256))

    async def tool_call(self, tool: str, args: Any = None) -> str:
        """A tool is about to be called; returns the call's id, for `tool_result`.

        Raises Denied when the lease does not cover it; the tool_result that says so is published by then.
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
        """How a tool call ended: a `result`, or an `error`: `{code, message, retryable}` or an exception.

        `retryable` counts for codes of your own; for those of §12 it is what their table says.
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
        """A tool call around a block; set `call.result` in it. An exception is its error, and goes on.

        Raises Denied when the lease does not cover the tool; the block is not entered then.
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
        """An event of any kind but `result_chunk`; ours are `x-vendor.<vendor>.<name>` (§8.2)."""
        if kind in GATED:
            await self._running.speak_in_turn(kind, body)
        elif (rest := self._running.speak(kind, body)) is not None:
            await rest

    # Authority (§9).

    async def authorize(self, capability: str, target: str) -> None:
        """Raises Denied unless the lease covers an operation now: its time, its patterns, its budget (§9.3).

        A capability is a namespace of the lease, such as fs.read or `x-vendor.…`.
        """
        await self._running.ready()
        await self._running.give_way()
        self._running.authorize(
            event_bodies.text("capability", capability), event_bodies.text("target", target)
        )

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
        """The built-in `open` for a regular file that the lease covers: fs.read, fs.write, or with `+` both.

        Links and `..` are resolved first, and what is opened is what was checked, whoever changes the path
        meanwhile. Text is UTF-8 unless `encoding` says otherwise. A file with more than one name is refused
        unless `hard_links`. Raises Denied, and OSError, but that only for what is covered.
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

        Fetch what is returned, not `url`, which HTTP clients may read in another way; pass it to aiohttp as
        `yarl.URL(..., encoded=True)`. Ask again for every redirect. Raises Denied.
        """
        form = canonical("net.fetch", event_bodies.text("url", url)) or url
        await self.authorize("net.fetch", form)
        return form

    def http_client(self, **options: Any) -> httpx.AsyncClient:
        """Return an httpx client that asks the gate for each request and each redirect: `net.fetch` (§9.3).

        It sends the URL in the form in which the lease covers it, with its own Host. For other URLs it raises
        Denied, whose message and `details["pattern"]` name the pattern that is missing. `options` are those
        of `httpx.AsyncClient` but `mounts`; redirects are followed if they say so, proxies of the environment
        are not used. Leave its block before the agent returns: it holds connections. Needs the extra `http`.
        """
        from arcp_io.http_client import make_client

        return make_client(self.fetch_allowed, options)

    async def model(self, name: str) -> None:
        """Raises Denied unless the lease covers the use of a model: `model.use` (§9.7)."""
        await self.authorize("model.use", name)

    def remaining(self, currency: str) -> Decimal | None:
        """What is not spent of the budget in a currency, reserved or not; None when nothing bounds it."""
        return self._running.remaining(event_bodies.text("currency", currency))

    @asynccontextmanager
    async def reserve(self, currency: str, amount: str | int | Decimal) -> AsyncIterator[Hold]:
        """Hold back a part of the budget around a block, so that nothing else can spend it meanwhile.

        `hold.settle(cost)` in the block spends; without it the block ends with nothing spent. Raises Denied
        when less is left and not reserved.
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
        """A vendor says that nothing may be spent any more: raises Denied BUDGET_EXHAUSTED (§9.8)."""
        self._running.upstream_exhausted(event_bodies.text("message", message))

    @property
    def credentials(self) -> Sequence[Credential]:
        """What the host's provisioner has issued for this job, as it is valid now (§9.8).

        `credential.value.reveal()` is the value itself; nothing else shows it.
        """
        return self._running.credentials

    async def rotate_credential(self, credential_id: str) -> None:
        """Have a new value issued in place of a credential's, and the old one revoked (§9.8.2).

        It is in `credentials` when this returns. Raises the ArcpError of what went wrong.
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
        """Start a job of another agent, with less authority than this one has (§10).

        Without a `lease_request` it gets this lease but `agent.delegate`; what it does not name of budget,
        models and expiry still binds it. Its lease ends at `expires_at`, also as `lease_constraints`; it may
        run for `max_runtime` seconds. Raises Denied, for more than this job has with LEASE_SUBSET_VIOLATION.
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
        """Stream the result in place of returning it (§8.4): text, or bytes for `base64`.

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
    """A tool call under way."""

    __slots__ = ("call_id", "result")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.result: Any = None
        """What the tool returned, a JSON value."""


class Hold:
    """A part of the budget that is held back."""

    __slots__ = ("_number", "_running")

    def __init__(self, running: RunningJob, number: int) -> None:
        self._running = running
        self._number: int | None = number

    @property
    def settled(self) -> bool:
        """Whether it is over, with a cost or without."""
        return self._number is None

    def settle(self, actual: Cost, name: str = SETTLED, dimensions: Mapping[str, Any] | None = None) -> None:
        """What it has cost, more or less than was held back; published as the metric `name`, which spends.

        The name begins with `cost.`. Raises ValueError for a hold that is over.
        """
        if self._number is None:
            raise ValueError("this part of the budget was settled or released before")
        fields = None if dimensions is None else dict(dimensions)
        self._running.settle(self._number, event_bodies.cost(actual), event_bodies.text("name", name), fields)
        self._number = None

    def release(self) -> None:
        """It has cost nothing; again, or after `settle`, is harmless."""
        number, self._number = self._number, None
        if number is not None:
            self._running.release(number)


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
        size = self._running.limits.chunk  # About one frame at a time, so that others run in between.
        for start in range(0, len(data), size):
            await self._running.ready()
            self._running.write(data[start : start + size])
            await self._running.give_way()

    def _close(self) -> None:
        """Nothing more is written."""
        self._closed = True
