"""Spans of OpenTelemetry: one trace over client, runtime, tools and children."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import pytest
from anyio import to_thread
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from arcp_io import (
    App,
    BlockingJobContext,
    JobContext,
    SqliteJournal,
    connect,
    otel,
    serve,
    serve_memory,
    sync,
)
from arcp_io.errors import ArcpError, Denied
from arcp_io.otel import Tracing
from tests.io import isolated
from tests.io.proxy import proxy

pytestmark = pytest.mark.anyio


class Spans:
    """An SDK that keeps its spans in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self, name: str, kind: Any = None, **attributes: Any) -> ReadableSpan:
        """Return the only ended span with a name, of a kind, and with attributes."""
        (found,) = [
            span
            for span in self.ended
            if span.name == name
            and kind in (None, span.kind)
            and attributes.items() <= dict(span.attributes or {}).items()
        ]
        return found


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def number(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}"


def made(spans: Spans, **options: Any) -> App:
    app = App("tests", "1", anonymous=True, tracing=Tracing(spans.provider), **options)
    own = trace.get_tracer("a library", tracer_provider=spans.provider)

    @app.agent("boss", version="2")
    async def boss(job: JobContext, input: Any) -> Any:
        async with job.tool("search", {"q": input}) as call:
            with own.start_as_current_span("HTTP GET"):
                call.result = "found"
        child = await job.delegate("worker", input)
        return [await child.result(), job.trace_headers()]

    @app.agent("worker")
    async def worker(job: JobContext, input: Any) -> Any:
        call = await job.tool_call("calculate", {})
        await job.tool_result(call, error={"code": "INTERNAL_ERROR", "message": "broken", "retryable": False})
        return input

    @app.agent("plain")
    def plain(job: BlockingJobContext, input: Any) -> Any:
        with job.tool("search") as call, own.start_as_current_span("inner"):
            call.result = 1
        return input

    @app.agent("failing")
    async def failing(job: JobContext, input: Any) -> None:
        raise LookupError("a secret")

    @app.agent("denied")
    async def denied(job: JobContext, input: Any) -> str:
        with pytest.raises(Denied):
            await job.tool_call("rm")
        with pytest.raises(Denied):
            await job.delegate("worker")
        return "done"

    @app.agent("wait")
    async def wait(job: JobContext, input: Any) -> None:
        await anyio.sleep_forever()

    return app


LEASE = {"tool.call": ["search", "calculate"], "agent.delegate": ["worker"]}


async def test_one_trace_leads_from_the_client_over_the_runtime_to_tools_and_children() -> None:
    spans = Spans()
    tracing = Tracing(spans.provider)
    tracer = trace.get_tracer("a program", tracer_provider=spans.provider)
    async with serve(made(spans), port=0) as server, connect(server.url, tracing=tracing) as session:
        with tracer.start_as_current_span("request"):
            job = await session.submit("boss@2", 7, lease=LEASE)
        result, headers = await job.result()
        assert result == 7
    top = spans.one("request")
    client = spans.one("invoke_agent boss", SpanKind.CLIENT)
    runtime = spans.one("invoke_agent boss", SpanKind.SERVER)
    tool = spans.one("execute_tool search")
    inner = spans.one("HTTP GET")
    delegation = spans.one("invoke_agent worker", SpanKind.CLIENT)
    child = spans.one("invoke_agent worker", SpanKind.SERVER)
    broken = spans.one("execute_tool calculate")
    assert [parent(span) for span in (client, runtime, tool, inner, delegation, child, broken)] == [
        number(span) for span in (top, client, runtime, tool, runtime, delegation, child)
    ]
    assert len({trace_of(span): None for span in spans.ended}) == 1
    assert trace_of(client) == job.trace_id
    assert headers["traceparent"].startswith(f"00-{job.trace_id}-{number(runtime):016x}-0")
    for span in (client, runtime):
        attributes = dict(span.attributes or {})
        assert attributes["gen_ai.operation.name"] == "invoke_agent"
        assert attributes["gen_ai.agent.name"] == "boss"
        assert attributes["arcp.job.id"] == job.id
        assert attributes["arcp.job.status"] == "success"
    assert dict(runtime.attributes or {})["gen_ai.agent.version"] == "2"
    assert dict(tool.attributes or {})["gen_ai.tool.name"] == "search"
    assert not broken.status.is_ok
    assert dict(broken.attributes or {})["error.type"] == "INTERNAL_ERROR"
    assert len(spans.ended) == 8


async def test_a_plain_function_works_within_its_span() -> None:
    spans = Spans()
    async with serve_memory(made(spans)) as server, connect(server) as session:
        await (await session.submit("plain", 1, lease=LEASE)).result()
    runtime = spans.one("invoke_agent plain")
    assert parent(spans.one("execute_tool search")) == number(runtime)
    assert parent(spans.one("inner")) == number(runtime)


async def test_an_agent_in_a_process_of_its_own_has_its_spans() -> None:
    spans = Spans()
    isolated.app.tracing = Tracing(spans.provider)
    try:
        async with serve_memory(isolated.app) as server, connect(server, "t0ken") as session:
            job = await session.submit("about", lease={"tool.call": ["grep"]})
            await job.result()
    finally:
        isolated.app.tracing = None
    runtime = spans.one("invoke_agent about")
    assert parent(spans.one("execute_tool grep")) == number(runtime)
    assert trace_of(runtime) == job.trace_id


async def test_a_program_without_an_event_loop_has_spans_within_its_own() -> None:
    spans = Spans()
    tracer = trace.get_tracer("a program", tracer_provider=spans.provider)
    async with serve(made(spans), port=0) as server:

        def program() -> None:
            with sync.connect(server.url, tracing=Tracing(spans.provider)) as session:
                with tracer.start_as_current_span("request"):
                    job = session.submit("worker", 1, lease=LEASE)
                assert job.result() == 1

        await to_thread.run_sync(program)
    client = spans.one("invoke_agent worker", SpanKind.CLIENT)
    assert parent(client) == number(spans.one("request"))
    assert parent(spans.one("invoke_agent worker", SpanKind.SERVER)) == number(client)


async def test_a_client_without_tracing_names_the_trace() -> None:
    spans = Spans()
    async with serve_memory(made(spans)) as server, connect(server) as session:
        plain = await session.submit("worker", 1, lease=LEASE)
        await plain.result()
        given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        told = await session.submit("worker", 2, lease=LEASE, traceparent=given, tracestate="a=b")
        await told.result()
    first = spans.one("invoke_agent worker", **{"arcp.job.id": plain.id})
    second = spans.one("invoke_agent worker", **{"arcp.job.id": told.id})
    assert trace_of(first) == plain.trace_id
    assert f"{parent(second):016x}" == "b7ad6b7169203331"
    context = second.get_span_context()
    assert context is not None and context.trace_state.get("a") == "b"


@pytest.mark.parametrize(
    ("agent", "code", "status"), [("failing", "LookupError", "error"), ("wait", "CANCELLED", "cancelled")]
)
async def test_a_job_that_fails_is_an_error_of_its_spans(agent: str, code: str, status: str) -> None:
    spans = Spans()
    tracing = Tracing(spans.provider)
    async with serve_memory(made(spans)) as server, connect(server, tracing=tracing) as session:
        job = await session.submit(agent)
        if agent == "wait":
            await job.cancel()
        with pytest.raises(ArcpError):
            await job.result()
    runtime = spans.one(f"invoke_agent {agent}", SpanKind.SERVER)
    client = spans.one(f"invoke_agent {agent}", SpanKind.CLIENT)
    assert dict(runtime.attributes or {})["error.type"] == code
    assert [dict(span.attributes or {})["arcp.job.status"] for span in (runtime, client)] == [status] * 2
    assert not runtime.status.is_ok and not client.status.is_ok
    assert "secret" not in str(client.attributes) + str(client.events)


async def test_a_denied_tool_and_a_denied_delegation_end_their_spans() -> None:
    spans = Spans()
    async with serve_memory(made(spans)) as server, connect(server) as session:
        await (await session.submit("denied")).result()
    for name in ("execute_tool rm", "invoke_agent worker"):
        assert dict(spans.one(name).attributes or {})["error.type"] == "PERMISSION_DENIED"


async def test_tool_calls_that_are_events_of_the_agent_have_spans_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otel, "MOST_TOOLS", 2)
    spans = Spans()
    app = App("tests", "1", anonymous=True, tracing=Tracing(spans.provider))

    @app.agent("emits")
    async def emits(job: JobContext, input: Any) -> None:
        for number in range(4):
            await job.emit("tool_call", {"tool": "search", "args": {}, "call_id": f"c{number}"})
        assert len(spans.ended) == 2
        await job.emit("tool_result", {"call_id": "c3", "result": 1})
        assert len(spans.ended) == 3

    async with serve_memory(app) as server, connect(server) as session:
        await (await session.submit("emits", lease=LEASE)).result()
    assert len(spans.ended) == 5


async def test_a_refused_submit_ends_its_span() -> None:
    spans = Spans()
    tracing = Tracing(spans.provider)
    async with serve_memory(made(spans)) as server, connect(server, tracing=tracing) as session:
        with pytest.raises(ArcpError):
            await session.submit("missing")
    found = spans.one("invoke_agent missing")
    assert dict(found.attributes or {})["error.type"] == "AGENT_NOT_AVAILABLE"


async def test_a_resume_is_a_span_with_links_to_the_unfinished_jobs() -> None:
    spans = Spans()
    tracing = Tracing(spans.provider)
    async with serve(made(spans), port=0) as server, proxy(server.url) as between:
        connected = connect(between.url, tracing=tracing)
        async with connected as session:
            done = await session.submit("worker", 1, lease=LEASE)
            await done.result()
            job = await session.submit("wait")
            between.cut()
            await (await session.submit("worker", 1, lease=LEASE)).result()
            await job.cancel()
            session_id = session.id
    resume = spans.one("arcp.resume")
    assert dict(resume.attributes or {})["arcp.session.id"] == session_id
    linked = [link.context.span_id for link in resume.links]
    client = spans.one("invoke_agent wait", SpanKind.CLIENT)
    assert number(client) in linked
    assert number(spans.one("invoke_agent worker", SpanKind.CLIENT, **{"arcp.job.id": done.id})) not in linked
    assert resume.start_time is not None and resume.end_time is not None
    assert resume.start_time <= resume.end_time


async def test_beside_a_framework_nothing_is_counted_twice() -> None:
    spans = Spans()
    app = App("tests", "1", anonymous=True, tracing=Tracing(spans.provider, beside_frameworks=True))
    framework = trace.get_tracer("a framework", tracer_provider=spans.provider)

    @app.agent("framed")
    async def framed(job: JobContext, input: Any) -> None:
        outer = framework.start_as_current_span("invoke_agent framed")
        with outer, framework.start_as_current_span("execute_tool search"):
            async with job.tool("search") as call:
                call.result = 1

    async with serve_memory(app) as server, connect(server) as session:
        await (await session.submit("framed", lease=LEASE)).result()
    names = [span.name for span in spans.ended]
    assert sorted(names) == ["execute_tool search", "invoke_agent framed", "job framed"]
    assert parent(spans.one("invoke_agent framed")) == number(spans.one("job framed"))
    assert not [name for name in dict(spans.one("job framed").attributes or {}) if name.startswith("gen_ai")]


async def test_a_tool_within_the_span_of_a_framework_for_it_gets_no_other() -> None:
    spans = Spans()
    app = App("tests", "1", anonymous=True, tracing=Tracing(spans.provider))
    framework = trace.get_tracer("a framework", tracer_provider=spans.provider)

    @app.agent("framed")
    async def framed(job: JobContext, input: Any) -> None:
        named = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
        with framework.start_as_current_span("execute_tool search", attributes=named):
            async with job.tool("search") as call:
                with framework.start_as_current_span("inside"):
                    call.result = 1

    async with serve_memory(app) as server, connect(server) as session:
        await (await session.submit("framed", lease=LEASE)).result()
    assert parent(spans.one("inside")) == number(spans.one("execute_tool search"))


async def test_without_an_sdk_everything_works_and_headers_stay() -> None:
    app = App("tests", "1", anonymous=True, tracing=Tracing())

    @app.agent("echo")
    async def echo(job: JobContext, input: Any) -> Any:
        async with job.tool("search") as call:
            call.result = 1
        return [input, job.trace_headers(), job.trace_id]

    async with serve_memory(app) as server, connect(server, tracing=Tracing()) as session:
        job = await session.submit("echo", 1, lease=LEASE)
        value, headers, trace_id = await job.result()
        assert value == 1 and job.trace_id == trace_id and headers["traceparent"].split("-")[1] == trace_id


async def test_an_agent_that_starts_again_has_a_span_for_each_attempt(tmp_path: Any) -> None:
    spans = Spans()
    path, starts = str(tmp_path / "journal"), []
    for _ in range(2):
        app = App("tests", "1", anonymous=True, tracing=Tracing(spans.provider))

        @app.agent("again", restartable=True)
        async def again(job: JobContext, input: Any) -> int:
            starts.append(job.attempt)
            if job.attempt == 1:
                await anyio.sleep_forever()
            return job.attempt

        async with serve(app, port=0, journal=SqliteJournal(path)) as server:
            if not starts:
                async with connect(server.url, tracing=Tracing(spans.provider)) as session:
                    job = await session.submit("again")
                    while not starts:
                        await anyio.sleep(0.01)
                await server.hand_over(0.0)
            else:
                while len(starts) < 2 or server.counts().running_agents:
                    await anyio.sleep(0.01)
    first = spans.one("invoke_agent again", SpanKind.SERVER, **{"arcp.job.attempt": 1})
    second = spans.one("invoke_agent again", SpanKind.SERVER, **{"arcp.job.attempt": 2})
    client = spans.one("invoke_agent again", SpanKind.CLIENT)
    assert trace_of(first) == trace_of(second) == job.trace_id
    assert parent(first) == parent(second) == number(client)


def test_an_app_without_tracing_imports_nothing_of_it() -> None:
    code = (
        "import sys, asyncio, arcp_io\n"
        "app = arcp_io.App('a', '1', anonymous=True)\n"
        "async def main():\n"
        "    async with arcp_io.serve_memory(app) as server, arcp_io.connect(server): pass\n"
        "asyncio.run(main())\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "Error" in done.stderr) == (0, False)
