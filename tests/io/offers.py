"""Everything that `job` offers, one probe a name, for agents of every kind; each child imports this again."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.errors import ArcpError, Denied
from arcp_io.provisioning import StaticProvisioner
from arcp_proto.errors import ErrorCode, LocalProtocolError
from arcp_proto.limits import Limits

values = (f"secret-value-{number}" for number in itertools.count(1))
app = App(
    "offers",
    "1",
    tokens={"t0ken": "alice"},
    limits=Limits(stop_grace_sec=2),
    provisioner=StaticProvisioner(values, "https://models.example/"),
    volatile_credentials=True,
)
Probe = Callable[[Any, Any], Awaitable[Any]]


async def told(work: Awaitable[Any]) -> Any:
    """Return the result of an awaitable, or the class and the fields of its error."""
    try:
        return await work
    except (Denied, ArcpError) as error:
        return [type(error).__name__, str(error.code), error.message, error.retryable, error.details or {}]
    except (LocalProtocolError, TypeError, ValueError) as error:
        return [type(error).__name__, str(error)]


def read(name: str) -> Probe:
    async def probe(job: Any, input: Any) -> Any:
        value = getattr(job, name)
        return value if isinstance(value, str | int | None) else {key: list(value[key]) for key in value}

    return probe


def call(name: str, *arguments: Any, **options: Any) -> Probe:
    async def probe(job: Any, input: Any) -> Any:
        return await getattr(job, name)(*arguments, **options)

    return probe


async def trace_headers(job: Any, input: Any) -> Any:
    return job.trace_headers()


async def summary(job: Any, input: Any) -> Any:
    async def summarized(text: Any) -> Any:
        job.summary = text
        return job.summary

    return [await told(summarized(text)) for text in ("done", 7, "x" * 1001, "\ud800", None)]


async def tool(job: Any, input: Any) -> Any:
    async def use(name: str) -> Any:
        async with job.tool(name, {"x": 1}) as used:
            used.result = [used.call_id]
            if name == "grep":
                raise ValueError("inside")

    return [await told(use(name)) for name in ("ls", "grep", "rm")]


async def tool_result(job: Any, input: Any) -> Any:
    call_id = await job.tool_call("ls")
    await job.tool_result(call_id, result=1)
    return await told(job.tool_result(call_id, result=1, error=ValueError()))


async def metric(job: Any, input: Any) -> Any:
    await job.metric("latency", 0.25, "s", {"x": "y"})
    await job.metric("exact", Decimal("0.12345678901234567890123"))
    await job.metric("cost.one", Decimal("0.0000000000000000000000001"), "USD", {"a": 1})
    await job.metric("cost.two", 0.5, "USD")
    await job.emit("metric", {"name": "cost.three", "value": Decimal("0.5"), "unit": "USD"})
    return [str(job.remaining("USD")), await told(job.metric("cost.x", -1, "USD"))]


async def emit(job: Any, input: Any) -> Any:
    await job.emit("x-vendor.tests.kind", {"y": None})
    await job.emit("delegate", {"child_job_id": "elsewhere", "agent": "echo"})
    foreign = {"child_job_id": "elsewhere", "agent": "forbidden"}
    return [await told(job.emit("delegate", foreign)), await told(job.emit("no kind", {}))]


async def authorize(job: Any, input: Any) -> Any:
    return [await told(job.authorize("fs.read", path)) for path in ("/data/a", "/etc/passwd")]


async def http_client(job: Any, input: Any) -> Any:
    """Return the answers of a client whose transport answers each request with its URL."""
    answer = httpx.MockTransport(lambda request: httpx.Response(200, text=str(request.url)))
    client = job.http_client(transport=answer)

    async def got(url: str) -> Any:
        return (await client.get(url)).text

    return [await told(got(url)) for url in ("https://a.example/x/../y#z", "https://b.example/y", "s3://a/b")]


async def open_(job: Any, input: Any) -> Any:
    async def opened(path: str) -> Any:
        with job.open(path) as file:
            return file.read()

    return [await told(opened(f"{input}/{path}")) for path in ("in", "out")]


async def remaining(job: Any, input: Any) -> Any:
    return [str(job.remaining(currency)) for currency in ("USD", "BIG", "EUR")]


async def reserve(job: Any, input: Any) -> Any:
    """Reserve amounts; a reserved amount is not available to delegated jobs either."""

    async def reserved(amount: Any, *steps: Any) -> Any:
        async with job.reserve("USD", amount) as hold:
            for step in steps:
                await done(step(hold))
            return [hold.settled, str(job.remaining("USD"))]

    def pay(hold: Any) -> Any:
        return hold.settle(Decimal("0.1000000000000000000000001"), "cost.paid", {"n": 1})

    def pay_float(hold: Any) -> Any:
        return hold.settle(0.3)

    async def share(hold: Any) -> Any:
        asked = {"cost.budget": ["USD:2"]}
        raise ValueError(repr(await told(job.delegate("echo", 1, lease_request=asked))))

    return [
        await told(reserved("1", pay)),
        await told(reserved(1)),
        await told(reserved(Decimal("0.2"), pay_float)),
        await told(reserved("1", lambda hold: hold.release(), lambda hold: hold.release())),
        await told(reserved("1", pay, pay)),
        await told(reserved("99")),
        await told(reserved("-1")),
        await told(reserved(0.5)),
        await told(reserved("1.5", share)),
    ]


async def done(value: Any) -> None:
    if isinstance(value, Awaitable):
        await value


async def upstream_exhausted(job: Any, input: Any) -> Any:
    async def exhausted() -> Any:
        job.upstream_exhausted("no credit")

    return await told(exhausted())


async def credentials(job: Any, input: Any) -> Any:
    return [[one.id != "", one.endpoint, one.value.reveal()[:13], repr(one.value)] for one in job.credentials]


async def rotate_credential(job: Any, input: Any) -> Any:
    [before] = job.credentials
    value = before.value.reveal()
    await job.rotate_credential(before.id)
    [after] = job.credentials
    unknown = await told(job.rotate_credential("cred_unknown"))
    return [after.id == before.id, after.value.reveal() != value, unknown[0], "cred_unknown" in unknown[1]]


async def delegate(job: Any, input: Any) -> Any:
    """Children that return, stream, fail, spend; and delegations that are refused."""
    results = []
    for agent, given, options in DELEGATIONS:
        results.append(await told(delegated(job, agent, given, options)))
    results.append(str(job.remaining("USD")))
    return results


async def delegated(job: Any, agent: str, given: Any, options: dict[str, Any]) -> Any:
    child = await job.delegate(agent, given, **options)
    try:
        result = await child.result()
    finally:
        status = child.final_status
    if isinstance(result, str | bytes) and len(result) > 1000:
        result = [type(result).__name__, len(result), str(result[-1])]
    return [status, result, str(job.remaining("USD"))]


SHARE = {"cost.budget": ["USD:1.5"]}
DELEGATIONS: list[tuple[str, Any, dict[str, Any]]] = [
    ("echo", {"x": ["é"]}, {}),
    ("echo", "y" * 300_000, {"lease_request": {}}),
    ("echo", None, {"max_runtime": 60}),
    ("stream", "utf8", {}),
    ("stream", "base64", {}),
    ("fail", 1, {}),
    ("echo@9.9.9", 1, {}),
    ("forbidden", 1, {}),
    ("absent", 1, {}),
    ("echo", 1, {"lease_request": {"fs.read": ["/**"]}}),
    ("echo", 1, {"lease_request": {"cost.budget": ["USD:1000"]}}),
    ("echo", 1, {"lease_request": {"no namespace": ["x"]}}),
    ("echo", 1, {"max_runtime": 0}),
    ("echo", object(), {}),
    ("echo", 1, {"lease_constraints": {"other": "x"}}),
    ("echo", 1, {"expires_at": "2000-01-01T00:00:00Z"}),
    ("spend", "0.25", {"lease_request": SHARE}),
    ("spend", "0.25", {}),
]


async def stream_result(job: Any, input: Any) -> Any:
    async with job.stream_result() as out:
        await out.write("streamed")
        return await told(out.write(b"no"))


OFFERS: dict[str, Probe] = {
    "agent": read("agent"),
    "artifact": call("artifact", "file:///x", "text/plain", 3, "ab"),
    "attempt": read("attempt"),
    "authorize": authorize,
    "cancelled": read("cancelled"),
    "credentials": credentials,
    "delegate": delegate,
    "emit": emit,
    "fetch_allowed": call("fetch_allowed", "https://a.example/x"),
    "http_client": http_client,
    "id": read("id"),
    "lease": read("lease"),
    "log": call("log", "info", "text"),
    "metric": metric,
    "model": call("model", "fast/one"),
    "open": open_,
    "principal": read("principal"),
    "progress": call("progress", 1, total=2, units="steps"),
    "remaining": remaining,
    "reserve": reserve,
    "rotate_credential": rotate_credential,
    "status": call("status", "phase", "message"),
    "thought": call("thought", "text"),
    "tool": tool,
    "tool_call": call("tool_call", "ls", [1]),
    "tool_result": tool_result,
    "trace_headers": trace_headers,
    "summary": summary,
    "session_id": read("session_id"),
    "trace_id": read("trace_id"),
    "upstream_exhausted": upstream_exhausted,
    "stream_result": stream_result,
}
"""The probes, by the name in `job` that each tries, in the order in which they run."""


async def everything(job: Any, input: Any) -> Any:
    """Run every probe, and publish each outcome as an event, because the result is streamed."""
    for name, probe in OFFERS.items():
        came = await told(probe(job, input))
        await job.emit("x-vendor.tests.came", {"name": name, "came": came})


async def of_loop(job: JobContext, input: Any) -> None:
    await everything(job, input)


def of_thread(job: BlockingJobContext, input: Any) -> None:
    finished(everything(Awaited(job), input))


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


class Awaited:
    """A blocking object as its async twin, for a coroutine that never waits."""

    def __init__(self, of: Any) -> None:
        object.__setattr__(self, "_of", of)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._of, name, value)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        if not callable(value) or name in ("open", "remaining", "trace_headers", "upstream_exhausted"):
            return value
        if name in ("tool", "reserve", "stream_result"):
            return self._entered(name)

        if name == "http_client":
            return lambda **options: Awaited(value(**options))

        async def method(*arguments: Any, **options: Any) -> Any:
            made = value(*arguments, **options)
            return Awaited(made) if name == "delegate" else made

        return method

    def _entered(self, name: str) -> Any:
        @asynccontextmanager
        async def entered(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            with getattr(self._of, name)(*arguments, **options) as made:
                yield Awaited(made) if name == "stream_result" else made

        return entered


for kind, function in (("loop", of_loop), ("thread", of_thread)):
    app.agent(f"inside-{kind}")(function)
    app.agent(f"isolated-{kind}", isolation="process")(function)


@app.agent("echo", version="1.0.0")
async def echo(job: JobContext, input: Any) -> Any:
    return input


@app.agent("forbidden")
async def forbidden(job: JobContext, input: Any) -> Any:
    return input


@app.agent("fail")
async def fail(job: JobContext, input: Any) -> None:
    raise Denied(ErrorCode.PERMISSION_DENIED, "not that", {"input": input})


@app.agent("stream")
async def stream(job: JobContext, input: Any) -> None:
    async with job.stream_result(encoding=input) as out:
        await out.write("é" * 50_000 if input == "utf8" else b"x" * 50_000)


@app.agent("spend")
async def spend(job: JobContext, input: Any) -> str:
    await job.metric("cost.child", Decimal(input), "USD")
    return str(job.remaining("USD"))
