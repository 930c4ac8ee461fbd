"""The host of agents for an App with tracing: each agent, tool call and delegation has a span."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto import ChildEnded, Denied, EventKind, InvariantViolated
from arcp_proto.wire import Body

from .context import JobContext, ToolCall
from .delegated_job import ChildJob
from .host import AgentHost
from .running_job import RunningJob

if TYPE_CHECKING:
    from arcp_io.otel import JobSpan


TOOLS: Final = (EventKind.TOOL_CALL.value, EventKind.TOOL_RESULT.value)
"""The kinds of events that begin and end spans."""


class TracedJob(RunningJob, eq=False):
    """A running job with a span; see `RunningJob`."""

    span: JobSpan | None = None

    def speak(self, kind: str, body: Body | Mapping[str, Any]) -> Coroutine[Any, Any, None] | None:
        """Publish an event, and note it if it ends a tool call."""
        if kind in TOOLS:
            self._note(kind, body)
        return super().speak(kind, body)

    def publish(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event, and note it if it begins or ends a tool call."""
        if kind in TOOLS:
            self._note(kind, body)
        try:
            super().publish(kind, body)
        except Denied as denied:
            if kind == EventKind.TOOL_CALL and self.span is not None:
                self.span.tool_ended(str(_field(body, "call_id")), denied.code)
            raise

    def delegate(self, agent: str, *asked: Any) -> ChildJob:
        """Start a child job, within a span."""
        if self.span is None:
            return super().delegate(agent, *asked)
        with self.span.delegating(agent) as made:
            child = super().delegate(agent, *asked)
            made.append(child.id)
        return child

    def child_ended(self, event: ChildEnded) -> None:
        """Note that a delegated job has ended."""
        if self.span is not None:
            self.span.child_ended(event.job_id, event.final_status, event.code or "")
        super().child_ended(event)

    def _note(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        if kind == EventKind.TOOL_CALL and self.span is not None:
            self.span.tool_called(str(_field(body, "tool")), str(_field(body, "call_id")))
        elif kind == EventKind.TOOL_RESULT and self.span is not None:
            self.span.tool_ended(str(_field(body, "call_id")), _code(_field(body, "error")))


class TracedContext(JobContext):
    """The job as a traced async agent sees it: the span of a tool is the current one in its block."""

    @asynccontextmanager
    async def tool(self, tool: str, args: Any = None) -> AsyncIterator[ToolCall]:
        """Publish a tool call around a block; see `JobContext.tool`."""
        async with super().tool(tool, args) as call:
            running = self._running
            if isinstance(running, TracedJob) and running.span is not None:
                with running.span.in_tool(call.call_id):
                    yield call
            else:
                yield call


class TracedAgentHost(AgentHost):
    """An AgentHost that makes spans."""

    running_type = TracedJob
    context_type = TracedContext

    async def _run(self, running: RunningJob) -> None:
        start, spans = running.start, self._app.tracing
        if spans is None:
            raise InvariantViolated("a traced host belongs to an App with tracing")
        span = spans.job(
            start.job_id,
            start.agent,
            start.version,
            attempt=start.attempt,
            headers=start.trace_headers,
            parent_span_id=start.parent_span_id,
        )
        start.trace_headers = span.headers(start.trace_headers)
        if isinstance(running, TracedJob):
            running.span = span
        with span.active():
            await super()._run(running)
        span.end("cancelled" if running.stopping else "", "CANCELLED" if running.stopping else "")

    def _finish(self, running: RunningJob, result: Any) -> None:
        if isinstance(running, TracedJob) and running.span is not None and not running.stopping:
            running.span.end("success")
        super()._finish(running, result)

    def _fail(self, running: RunningJob, error: BaseException) -> None:
        if isinstance(running, TracedJob) and running.span is not None and not running.stopping:
            code = str(getattr(error, "code", "") or type(error).__name__)
            running.span.end("error", code, error)
        super()._fail(running, error)


def _field(body: Body | Mapping[str, Any], name: str) -> Any:
    return body.get(name) if isinstance(body, Mapping) else getattr(body, name, None)


def _code(error: Any) -> str:
    """Return the code of the error of a tool; empty without an error."""
    if error is None or error is msgspec.UNSET:
        return ""
    return str(_field(error, "code") or "error")
