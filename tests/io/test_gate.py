"""The decisions of the gate as the submitter sees them: over memory, on both loops."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.client.connect import Job, Session, connect
from arcp_io.errors import (
    AgentNotAvailable,
    AgentStopped,
    ArcpError,
    BudgetExhausted,
    Denied,
    InvalidRequest,
    JobCancelled,
    LeaseExpired,
    LeaseSubsetViolation,
    PermissionDenied,
)
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import SECOND

pytestmark = pytest.mark.anyio


def make_app(function: Any, **options: Any) -> App:
    """Return an App whose agent `it` is the function, and whose other agents wait, or return their input."""
    app = App("tests", "1", tokens={"t0ken": "alice"}, **options)
    app.agent("it")(function)

    @app.agent("echo", version="1.0.0")
    async def echo(job: JobContext, input: Any) -> Any:
        return input

    @app.agent("fail")
    async def fail(job: JobContext, input: Any) -> None:
        raise InvalidRequest("not that input", details={"input": input})

    @app.agent("stream")
    def stream(job: BlockingJobContext, input: Any) -> None:
        with job.stream_result() as out:
            out.write("streamed")

    @app.agent("wait")
    async def wait(job: JobContext, input: Any) -> None:
        await job.status("waits")
        await anyio.sleep_forever()

    return app


@asynccontextmanager
async def serving(function: Any, **options: Any) -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(make_app(function, **options)) as server, connect(server, "t0ken") as session:
        yield server, session


async def said(job: Job) -> list[tuple[str, Any]]:
    return [(event.kind, event.body) async for event in job]


# The wall clock.


@pytest.mark.parametrize("how", ["authorize", "tool", "reserve", "delegate", "thread"])
async def test_a_wall_clock_that_is_set_forward_is_noticed_at_the_gate(how: str) -> None:
    """Check a clock that is set forward, as on a machine that slept, before any timer or message."""
    servers: list[MemoryServer] = []
    seen: list[str] = []

    def set_forward() -> None:
        servers[0].server.pump.clock.unix = lambda: time.time_ns() + 2 * 3600 * SECOND

    async def asks(job: JobContext, input: Any) -> None:
        async def ask() -> None:
            match how:
                case "authorize":
                    await job.authorize("fs.read", "/data/x")
                case "tool":
                    await job.tool_call("search")
                case "reserve":
                    async with job.reserve("USD", "0.01"):
                        pass
                case "delegate":
                    await job.delegate("echo", lease_request={})

        await ask()
        seen.append("allowed")
        set_forward()
        await ask()

    def asks_in_a_thread(job: BlockingJobContext, input: Any) -> None:
        job.authorize("fs.read", "/data/x")
        seen.append("allowed")
        set_forward()
        job.authorize("fs.read", "/data/x")

    lease = {"fs.read": ["/data/**"], "tool.call": ["search"], "agent.delegate": ["echo"]}
    async with serving(asks_in_a_thread if how == "thread" else asks) as (server, session):
        servers.append(server)
        job = await session.submit("it", lease=lease, budget="USD:1", expires_at=timedelta(hours=1))
        with pytest.raises(LeaseExpired):
            await job.result()
    assert seen == ["allowed"]


# Refusals that leave the agent.


async def lets_go(job: JobContext, input: Any) -> None:
    await job.authorize(*input)


def lets_go_in_a_thread(job: BlockingJobContext, input: Any) -> None:
    job.authorize(*input)


async def lets_go_in_a_group(job: JobContext, input: Any) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(job.authorize, *input)


@pytest.mark.parametrize("agent", [lets_go, lets_go_in_a_thread, lets_go_in_a_group])
async def test_a_refusal_that_leaves_the_agent_ends_its_job(
    agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(agent) as (_, session):
        job = await session.submit("it", ["fs.read", "/etc/shadow"], lease={"fs.read": ["/data/**"]})
        assert await said(job) == []
        with pytest.raises(PermissionDenied, match=r"fs\.read '/etc/shadow'") as caught:
            await job.result()
        assert (caught.value.retryable, job.final_status) == (False, "error")
        assert caught.value.details == {"capability": "fs.read", "target": "/etc/shadow"}
        with pytest.raises(PermissionDenied):
            await (await session.submit("it", ["fs.read", "/data/a"])).result()
        spent = await session.submit("it", ["fs.read", "/data/a"], lease={"fs.read": ["/**"]}, budget="USD:0")
        with pytest.raises(BudgetExhausted):
            await spent.result()
    assert "agent failed" not in caplog.text


@pytest.mark.parametrize("how", ["async", "plain"])
async def test_a_tool_is_refused_or_fails_inside_by_what_it_may_not(how: str) -> None:
    async def agent(job: JobContext, input: Any) -> str:
        for tool in ("rm", "grep"):
            with pytest.raises(Denied):
                async with job.tool(tool):
                    await job.authorize("fs.read", "/etc")
        return "goes on"

    def plain(job: BlockingJobContext, input: Any) -> str:
        for tool in ("rm", "grep"):
            with pytest.raises(Denied), job.tool(tool):
                job.authorize("fs.read", "/etc")
        return "goes on"

    async with serving(agent if how == "async" else plain) as (_, session):
        job = await session.submit("it", lease={"tool.call": ["grep"]})
        events = await said(job)
        assert await job.result() == "goes on"
    assert [kind for kind, _ in events] == ["tool_call", "tool_result"] * 2
    refused, failed = (body["error"] for kind, body in events if kind == "tool_result")
    assert refused["code"] == failed["code"] == "PERMISSION_DENIED"
    assert "tool.call 'rm'" in refused["message"]
    assert "fs.read '/etc'" in failed["message"]


async def test_endless_refusals_do_not_starve_other_jobs() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        while True:
            try:
                if input == "authorize":
                    await job.authorize("fs.read", "/etc")
                else:
                    await job.tool_call("rm")
            except Denied:
                pass

    async with serving(agent) as (server, session):
        greedy = [await session.submit("it", what) for what in ("authorize", "tool")]
        async with connect(server, "t0ken") as other:
            for number in range(5):
                assert await (await other.submit("echo", number)).result() == number
        for job in greedy:
            await job.cancel()
            assert job.final_status == "cancelled"


async def test_an_expired_lease_ends_the_job_of_an_agent_that_catches_the_refusal() -> None:
    async def agent(job: JobContext, input: Any) -> str:
        with pytest.raises(Denied) as refused:
            while True:
                await job.authorize("fs.read", "/data/a")
                await anyio.sleep(0.01)
        assert refused.value.code == "LEASE_EXPIRED"
        return "a result that comes too late"

    async with serving(agent) as (_, session):
        expires_at = timedelta(seconds=0.3)
        job = await session.submit("it", lease={"fs.read": ["/data/**"]}, expires_at=expires_at)
        with pytest.raises(LeaseExpired, match="expired at"):
            await job.result()


# Files.


@pytest.mark.parametrize("how", ["async", "plain"])
async def test_files(tmp_path: Path, how: str) -> None:
    def plain(job: BlockingJobContext | JobContext, input: Any) -> list[str]:
        with job.open(f"{input}/in/new", "x") as file:
            file.write("hello")
        results = []
        for path, mode in (("in/new", "r"), ("in/new", "a"), ("out/file", "r"), ("in/link", "r")):
            try:
                with job.open(f"{input}/{path}", mode) as file:
                    results.append(file.read() if mode == "r" else "opened")
            except Denied as denied:
                results.append(str(denied))
        return results

    async def agent(job: JobContext, input: Any) -> list[str]:
        return plain(job, input)

    root = await anyio.Path(tmp_path).resolve()
    for name in ("in", "out"):
        await (root / name).mkdir()
    await (root / "out/file").write_text("secret")
    await (root / "in/link").symlink_to("../out/file")
    async with serving(agent if how == "async" else plain) as (_, session):
        lease = {"fs.read": [f"{root}/in/**"], "fs.write": [f"{root}/in/n*"]}
        results = await (await session.submit("it", str(root), lease=lease)).result()
    assert results[:2] == ["hello", "opened"]
    assert [f"fs.read '{root}/out/file' is not covered" in text for text in results[2:]] == [True, True]


# Money.


async def test_reservations_never_overspend() -> None:
    async def agent(job: JobContext, input: Any) -> list[Any]:
        paid: list[int] = []

        async def pay(number: int) -> None:
            try:
                async with job.reserve("USD", "0.4") as hold:
                    await anyio.sleep(0.01)
                    hold.settle(Decimal("0.35"), "cost.test", {"number": number})
            except Denied as denied:
                assert denied.code == "BUDGET_EXHAUSTED"
            else:
                paid.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(pay, number)
        return [len(paid), str(job.remaining("USD")), job.remaining("EUR")]

    async with serving(agent) as (_, session):
        job = await session.submit("it", budget="USD:1")
        events = await said(job)
        assert await job.result() == [2, "0.30", None]
    costs = [body["value"] for _, body in events if body.get("name") == "cost.test"]
    assert costs == [0.35, 0.35]


async def test_a_budget_that_is_exhausted_upstream_ends_the_job() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        job.upstream_exhausted("the key has no credit")

    async with serving(agent) as (_, session):
        with pytest.raises(BudgetExhausted, match="the key has no credit"):
            await (await session.submit("it")).result()


# Children.


CHILDREN = {"agent.delegate": ["*"], "tool.call": ["a"]}


@pytest.mark.parametrize("how", ["async", "plain"])
async def test_children(how: str) -> None:
    def told(error: ArcpError | Denied) -> list[Any]:
        return [type(error).__name__, str(error.code), error.details]

    async def agent(job: JobContext, input: Any) -> list[Any]:
        results: list[Any] = []
        for name in ("echo", "stream", "fail", "absent"):
            try:
                child = await job.delegate(name, [name], lease_request={})
                results.append(await child.result())
            except (ArcpError, Denied) as error:
                results.append(told(error))
        return results

    def plain(job: BlockingJobContext, input: Any) -> list[Any]:
        results: list[Any] = []
        for name in ("echo", "stream", "fail", "absent"):
            try:
                results.append(job.delegate(name, [name], lease_request={}).result())
            except (ArcpError, Denied) as error:
                results.append(told(error))
        return results

    async with serving(agent if how == "async" else plain) as (_, session):
        job = await session.submit("it", lease=CHILDREN)
        events = await said(job)
        results = await job.result()
    assert results[:3] == [["echo"], "streamed", ["InvalidRequest", "INVALID_REQUEST", {"input": ["fail"]}]]
    assert results[3][:2] == ["Denied", "AGENT_NOT_AVAILABLE"]
    assert [(kind, body["agent"]) for kind, body in events] == [
        ("delegate", "echo@1.0.0"),
        ("delegate", "stream"),
        ("delegate", "fail"),
    ]


@pytest.mark.parametrize(
    ("name", "lease", "error"),
    [
        ("absent", None, AgentNotAvailable),
        ("echo", {"tool.call": ["a", "b"]}, LeaseSubsetViolation),
        ("echo", CHILDREN, LeaseSubsetViolation),
    ],
)
async def test_a_delegation_that_is_refused(name: str, lease: Any, error: type[ArcpError]) -> None:
    async def agent(job: JobContext, input: Any) -> None:
        await job.delegate(name, lease_request=lease)

    async with serving(agent) as (_, session):
        job = await session.submit("it", lease=CHILDREN)
        assert await said(job) == []
        with pytest.raises(error):
            await job.result()


@pytest.mark.parametrize("how", ["async", "plain"])
async def test_a_job_that_is_cancelled_ends_with_its_children(how: str) -> None:
    stopped: list[Any] = []

    async def agent(job: JobContext, input: Any) -> None:
        child = await job.delegate("wait")
        try:
            await child.result()
        finally:
            stopped.append(job.cancelled)

    def plain(job: BlockingJobContext, input: Any) -> None:
        try:
            job.delegate("wait").result()
        except AgentStopped:
            stopped.append(job.cancelled)
            raise

    async with serving(agent if how == "async" else plain) as (server, session):
        job = await session.submit("it", lease=CHILDREN)
        async for event in job:
            if event.kind == "delegate":
                await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result()
        assert (stopped, list(state_of(server.server.runtime).unfinished)) == ([True], [])


async def test_children_at_a_time_share_what_is_left() -> None:
    async def agent(job: JobContext, input: Any) -> Any:
        first, second = [await job.delegate("echo", number, lease_request={}) for number in (1, 2)]
        results: list[Any] = []

        async def wait(child: Any) -> None:
            results.append(await child.result())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, first)
            tasks.start_soon(wait, second)
        return sorted(results)

    async with serving(agent) as (_, session):
        assert await (await session.submit("it", lease=CHILDREN)).result() == [1, 2]
