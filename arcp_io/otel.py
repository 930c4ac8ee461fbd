"""Spans of OpenTelemetry for jobs, tool calls and delegations, by its API alone.

Without an SDK the API does nothing. The trace of a job is the one of ARCP (§11): its id stands in every
message, and a client that sends a traceparent is the parent.

    client    invoke_agent NAME            from the submit to the end of the job
    runtime      '- invoke_agent NAME      one for each attempt of the agent
                      |- execute_tool T    one for each tool call
                      '- invoke_agent N    a delegation, from its begin to the end of the child
                           '- ...          the span of the child

A resume of a session is a span of the client, with links to the spans of its unfinished jobs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from arcp_io.version import VERSION

try:
    from opentelemetry import context, trace
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tracing needs opentelemetry-api: pip install 'arcp-io[otel]'", name=error.name
    ) from None

__all__ = ["Tracing"]

OPERATION: Final = "gen_ai.operation.name"
AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_VERSION: Final = "gen_ai.agent.version"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
ERROR_TYPE: Final = "error.type"
INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"
GEN_AI: Final = (OPERATION, AGENT_NAME, AGENT_VERSION, TOOL_NAME, TOOL_CALL_ID)
"""The names of OpenTelemetry's conventions for generative AI that are used here; all others are our own."""
JOB_ID: Final = "arcp.job.id"
JOB_STATUS: Final = "arcp.job.status"
ATTEMPT: Final = "arcp.job.attempt"
SESSION_ID: Final = "arcp.session.id"
JOB: Final = "job"
DELEGATION: Final = "delegate"
RESUME: Final = "arcp.resume"
"""The names of spans that are not of the conventions."""

_TEXT_MAP: Final = TraceContextTextMapPropagator()
MOST_DELEGATIONS: Final = 10_000
"""Delegations whose children have not started, at most; the oldest is forgotten then."""
MOST_TOOLS: Final = 1_000
"""Tool calls of one job that have not ended, at most; the span of the oldest is ended then."""


class Tracing:
    """Makes spans for an App (`App(tracing=...)`) or for a client (`connect(..., tracing=...)`).

    The tracer comes from `tracer_provider`, by default from the global one. With `beside_frameworks` the
    agents run frameworks that make spans for agents and tools by themselves: then there are no spans for
    tool calls, and the spans of jobs and delegations have no attributes of the conventions for generative AI,
    so that nothing is counted twice. A tool call within a span for the same tool never gets another one.
    """

    def __init__(self, tracer_provider: Any = None, *, beside_frameworks: bool = False) -> None:
        self._tracer = trace.get_tracer("arcp_io", VERSION, tracer_provider)
        self._beside = beside_frameworks
        self._delegations: dict[str, Span] = {}
        self._delegating: tuple[str, Span] | None = None
        """The span of the parent job in ARCP, and that of the delegation that is being made."""

    # The runtime.

    def job(
        self,
        job_id: str,
        agent: str,
        version: str | None,
        *,
        attempt: int,
        headers: Mapping[str, str],
        parent_span_id: str | None,
    ) -> JobSpan:
        """Begin the span of an agent; `headers` have its trace, and `parent_span_id` is the span before it.

        Without a parent the span in `headers` takes the place of one, so that the trace keeps its id.
        """
        span = self._tracer.start_span(
            self._named(INVOKE_AGENT, JOB, agent),
            context=self._parent(job_id, headers, parent_span_id),
            kind=SpanKind.SERVER,
            attributes={
                **self._of_agent(agent, version),
                JOB_ID: job_id,
                ATTEMPT: attempt,
            },
        )
        return JobSpan(self, span, headers)

    def tool(self, within: Span, tool: str, call_id: str) -> Span | None:
        """Begin the span of a tool call; None if others make it."""
        current = trace.get_current_span()
        known: Mapping[str, Any] = getattr(current, "attributes", None) or {}
        if self._beside or (known.get(OPERATION) == EXECUTE_TOOL and known.get(TOOL_NAME) == tool):
            return None
        return self._tracer.start_span(
            f"{EXECUTE_TOOL} {tool}",
            context=_inside(within),
            kind=SpanKind.INTERNAL,
            attributes={OPERATION: EXECUTE_TOOL, TOOL_NAME: tool, TOOL_CALL_ID: call_id},
        )

    @contextmanager
    def delegating(self, within: Span, parent: str, agent: str) -> Iterator[Span]:
        """Begin the span of a delegation, and end it at once if the delegation is refused.

        `parent` is the span of the parent job in ARCP. Call `delegated` in the block.
        """
        name = agent.partition("@")[0]
        span = self._tracer.start_span(
            self._named(INVOKE_AGENT, DELEGATION, name),
            context=_inside(within),
            kind=SpanKind.CLIENT,
            attributes=self._of_agent(*_split(agent)),
        )
        self._delegating = parent, span
        try:
            yield span
        except BaseException as error:
            failed(span, error)
            span.end()
            raise
        finally:
            self._delegating = None

    def delegated(self, span: Span, job_id: str) -> None:
        """Note which job a delegation has made."""
        span.set_attribute(JOB_ID, job_id)
        self._delegations[job_id] = span
        if len(self._delegations) > MOST_DELEGATIONS:
            del self._delegations[next(iter(self._delegations))]

    def _parent(self, job_id: str, headers: Mapping[str, str], parent_span_id: str | None) -> context.Context:
        """Return the context of the span before a job."""
        delegation = self._delegations.pop(job_id, None)
        if delegation is None and self._delegating is not None and self._delegating[0] == parent_span_id:
            delegation = self._delegating[1]
        if delegation is not None:
            return trace.set_span_in_context(delegation, context.Context())
        version, trace_id, span_id, flags = headers["traceparent"].split("-")
        carried = {**headers, "traceparent": f"{version}-{trace_id}-{parent_span_id or span_id}-{flags}"}
        return _TEXT_MAP.extract(carried, context.Context())

    # The client.

    def submit(self, agent: str) -> SubmitSpan:
        """Begin the span of a job at its client, within the current span."""
        name, version = _split(agent)
        span = self._tracer.start_span(
            self._named(INVOKE_AGENT, JOB, name),
            kind=SpanKind.CLIENT,
            attributes=self._of_agent(name, version),
        )
        return SubmitSpan(span)

    def resumed(self, session_id: str, since: int, jobs: list[SubmitSpan]) -> None:
        """Make a span of a session that was detached at `since`, in Unix nanoseconds, linked to its jobs."""
        links = [Link(job.context, {JOB_ID: job.job_id}) for job in jobs if job.context.is_valid]
        span = self._tracer.start_span(
            RESUME,
            context=context.Context(),
            kind=SpanKind.CLIENT,
            attributes={SESSION_ID: session_id},
            links=links,
            start_time=since,
        )
        span.end()

    # Names.

    def _named(self, name: str, plain: str, about: str) -> str:
        return f"{plain if self._beside else name} {about}"

    def _of_agent(self, name: str, version: str | None) -> dict[str, Any]:
        if self._beside:
            return {"arcp.agent": name}
        found: dict[str, Any] = {OPERATION: INVOKE_AGENT, AGENT_NAME: name}
        return found if version is None else {**found, AGENT_VERSION: version}


class JobSpan:
    """The span of one agent at work, with those of its tool calls and delegations."""

    def __init__(self, tracing: Tracing, span: Span, headers: Mapping[str, str]) -> None:
        self.span = span
        self._tracing = tracing
        self._arcp = headers["traceparent"].split("-")[2]
        """The span of the job in ARCP."""
        self._tools: dict[str, Span] = {}
        self._children: dict[str, Span] = {}
        self._over = False

    def headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers for tools that the agent calls, which lead to this span if it is recorded."""
        if not self.span.get_span_context().is_valid or not self.span.is_recording():
            return headers
        found: dict[str, str] = {}
        _TEXT_MAP.inject(found, trace.set_span_in_context(self.span, context.Context()))
        return found or headers

    def active(self) -> Any:
        """Return a block in which the span is the current one; the block does not end it."""
        return trace.use_span(self.span, record_exception=False, set_status_on_exception=False)

    def tool_called(self, tool: str, call_id: str) -> None:
        """Begin the span of a tool call, unless it has begun."""
        span = None if call_id in self._tools else self._tracing.tool(self.span, tool, call_id)
        if span is not None:
            self._tools[call_id] = span
            if len(self._tools) > MOST_TOOLS:
                self.tool_ended(next(iter(self._tools)))

    def in_tool(self, call_id: str) -> Any:
        """Return a block in which the span of a tool call is the current one."""
        span = self._tools.get(call_id)
        if span is None:
            return nullcontext()
        return trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def tool_ended(self, call_id: str, code: str = "") -> None:
        """End the span of a tool call, with the code of its error."""
        span = self._tools.pop(call_id, None)
        if span is not None:
            _end(span, code)

    @contextmanager
    def delegating(self, agent: str) -> Iterator[list[str]]:
        """Begin a delegation; put the id of the child into the list in the block."""
        made: list[str] = []
        with self._tracing.delegating(self.span, self._arcp, agent) as span:
            yield made
            for job_id in made:
                self._tracing.delegated(span, job_id)
                self._children[job_id] = span

    def child_ended(self, job_id: str, status: str, code: str) -> None:
        """End the span of a delegation."""
        span = self._children.pop(job_id, None)
        if span is not None:
            span.set_attribute(JOB_STATUS, status)
            _end(span, code)

    def end(self, status: str, code: str = "", error: BaseException | None = None) -> None:
        """End the span with the status of the job, and all that is open within it; once."""
        if self._over:
            return
        self._over = True
        for span in (*self._tools.values(), *self._children.values()):
            span.end()
        self._tools.clear()
        self._children.clear()
        self.span.set_attribute(JOB_STATUS, status)
        if error is not None:
            self.span.record_exception(error)
        _end(self.span, code)


class SubmitSpan:
    """The span of one job at its client."""

    def __init__(self, span: Span) -> None:
        self.job_id = ""
        self._span = span

    @property
    def context(self) -> SpanContext:
        """The context of the span, for links to it."""
        return self._span.get_span_context()

    def headers(self) -> dict[str, str]:
        """Return `traceparent` and `tracestate` for the submit; empty without an SDK."""
        found: dict[str, str] = {}
        if self.context.is_valid:
            _TEXT_MAP.inject(found, trace.set_span_in_context(self._span, context.Context()))
        return found

    def accepted(self, job_id: str) -> None:
        """Note that the job was accepted."""
        self.job_id = job_id
        self._span.set_attribute(JOB_ID, job_id)

    def end(self, status: str = "", code: str = "") -> None:
        """End the span with the status of the job, and the code of its error."""
        if status:
            self._span.set_attribute(JOB_STATUS, status)
        _end(self._span, code)

    def fail(self, error: BaseException) -> None:
        """End the span of a submit that was refused, or whose job was lost."""
        failed(self._span, error)
        self._span.end()


def now() -> int:
    """Return the wall clock in nanoseconds, as spans have it."""
    return time.time_ns()


def failed(span: Span, error: BaseException) -> None:
    """Note an error on a span, by its code or its type, without its text."""
    code = str(getattr(error, "code", "") or type(error).__name__)
    span.set_attribute(ERROR_TYPE, code)
    span.set_status(Status(StatusCode.ERROR, code))


def _end(span: Span, code: str) -> None:
    if code:
        span.set_attribute(ERROR_TYPE, code)
        span.set_status(Status(StatusCode.ERROR, code))
    span.end()


def _inside(span: Span) -> context.Context:
    """Return the current context if its span is of the same trace, else one with `span`."""
    current = trace.get_current_span().get_span_context()
    if current.is_valid and current.trace_id == span.get_span_context().trace_id:
        return context.get_current()
    return trace.set_span_in_context(span, context.Context())


def _split(agent: str) -> tuple[str, str | None]:
    name, at, version = agent.partition("@")
    return name, version if at else None
