"""Agents of every kind, as their submitter sees them: over memory, on both loops."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.agents.host import AgentHost
from arcp_io.app import App
from arcp_io.client.connect import Job, Session, connect
from arcp_io.drivers.loop import open_loop
from arcp_io.errors import (
    AgentStopped,
    ArcpError,
    BudgetExhausted,
    ConnectionLost,
    Denied,
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobOver,
    JobTimedOut,
    LocalProtocolError,
    PermissionDenied,
    Unauthenticated,
)
from arcp_io.server.auth import Verifier
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import PauseJob, ResumeJob, StartJob, StopJob
from arcp_proto.errors import ErrorCode, InvariantViolated
from arcp_proto.ids import JobId, Principal
from arcp_proto.limits import Limits
from arcp_proto.server.agent_api import AgentApi
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire.inputs import NO_INPUT

pytestmark = pytest.mark.anyio

SECRET = "/etc/shadow could not be read"


def make_app(function: Any = None, **options: Any) -> App:
    """Return an App whose agent `it` is the function."""
    app = App("tests", "1", tokens={"t0ken": "alice"}, **options)
    if function is not None:
        app.agent("it", version="1.0.0")(function)
    return app


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(app) as server, connect(server, "t0ken") as session:
        yield server, session


async def outcome(function: Any, input: Any = None, **options: Any) -> Any:
    """Return the result of a job of this agent, or raise the error of its end."""
    async with serving(make_app(function, **options)) as (_, session):
        job = await session.submit("it", input)
        return await job.result()


async def until(done: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not done():
            await anyio.lowlevel.checkpoint()


async def events(job: Job) -> list[tuple[str, dict[str, Any]]]:
    return [(event.kind, event.body) async for event in job]


# What an agent is given, and gives.


async def test_an_async_agent() -> None:
    lease = {"fs.read": ["/data/**"], "tool.call": ["grep"]}

    async def agent(job: JobContext, input: Any) -> Any:
        assert (job.principal, job.agent, job.lease) == ("alice", "it@1.0.0", lease)
        assert job.trace_headers()["traceparent"].split("-")[1] == job.trace_id == "a" * 32
        await job.log("info", "hello")
        async with job.tool("grep", {"x": 1}) as call:
            call.result = ["line"]
        return {"input": input, "id": job.id}

    async with serving(make_app(agent)) as (_, session):
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        job = await session.submit("it", {"x": 1}, lease=lease, traceparent=trace)
        assert job.trace_id == "a" * 32
        assert await events(job) == [
            ("log", {"level": "info", "message": "hello"}),
            ("tool_call", {"tool": "grep", "args": {"x": 1}, "call_id": "call_1"}),
            ("tool_result", {"call_id": "call_1", "result": ["line"]}),
        ]
        assert await job.result() == {"input": {"x": 1}, "id": job.id}
        assert (job.final_status, job.events_received) == ("success", 4)


async def test_a_plain_function() -> None:
    def agent(job: BlockingJobContext, input: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        assert threading.current_thread().daemon
        for step in range(3):
            job.progress(step, total=3)
        return {"input": input, "id": job.id}

    async with serving(make_app(agent)) as (_, session):
        job = await session.submit("it", [1])
        assert [body["current"] for _, body in await events(job)] == [0, 1, 2]
        assert await job.result() == {"input": [1], "id": job.id}


async def test_many_jobs_at_a_time() -> None:
    def plain(job: BlockingJobContext, input: Any) -> Any:
        job.log("info", str(input))
        return input

    async def agent(job: JobContext, input: Any) -> Any:
        await job.log("info", str(input))
        return input

    app = make_app(agent, max_threads=3)
    app.agent("plain")(plain)
    results: dict[tuple[str, int], Any] = {}

    async with serving(app) as (_, session):

        async def submit(name: str, number: int) -> None:
            job = await session.submit(name, number)
            assert await events(job) == [("log", {"level": "info", "message": str(number)})]
            results[name, number] = await job.result()

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(submit, "it", number)
                tasks.start_soon(submit, "plain", number)
    assert results == {(name, number): number for name in ("it", "plain") for number in range(20)}


@pytest.mark.parametrize("value", [None, 0, "", [], {"a": [1, None, "ü"]}, "x" * 500_000, ["é" * 1000] * 100])
async def test_any_json_comes_back(value: Any) -> None:
    async def agent(job: JobContext, input: Any) -> Any:
        return value

    def plain(job: BlockingJobContext, input: Any) -> Any:
        return value

    assert await outcome(agent) == value
    assert await outcome(plain) == value


async def test_a_streamed_text() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        async with job.stream_result() as out:
            for _ in range(10):
                await out.write("é" * 10_000)

    assert await outcome(agent) == "é" * 100_000


async def test_streamed_bytes_and_nothing() -> None:
    def plain(job: BlockingJobContext, input: Any) -> None:
        with job.stream_result(encoding="base64") as out:
            out.write(bytes(range(256)) * 1000)

    async def empty(job: JobContext, input: Any) -> None:
        async with job.stream_result():
            pass

    assert await outcome(plain) == bytes(range(256)) * 1000
    assert await outcome(empty) == ""


async def test_a_stream_far_beyond_what_a_session_keeps() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        async with job.stream_result() as out:
            await out.write("x" * 8_000_000)

    assert await outcome(agent, limits=Limits(max_session_bytes=1_000_000)) == "x" * 8_000_000


# Agents that fail.


class Odd:
    pass


class Trap(Mapping[str, int]):
    """Raises when it is read."""

    def __getitem__(self, key: str) -> int:
        raise RuntimeError("caught")

    def __iter__(self) -> Iterator[str]:
        return iter("a")

    def __len__(self) -> int:
        return 1


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [Odd(), {None: 2}, math.nan, "\ud800", circle(), Trap(), iter("a")],
    ids=["object", "none-key", "nan", "surrogate", "circle", "trap", "iterator"],
)
async def test_a_result_that_is_not_json_ends_the_job(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def agent(job: JobContext, input: Any) -> Any:
        return value

    def plain(job: BlockingJobContext, input: Any) -> Any:
        return value

    for function in (agent, plain):
        caplog.clear()
        with pytest.raises(InvalidRequest, match="the agent returned something that cannot be sent"):
            await outcome(function)
        assert "cannot be sent" in caplog.text


@pytest.mark.parametrize(
    "error", [ValueError(SECRET), AssertionError(SECRET), SystemExit(SECRET), KeyboardInterrupt(SECRET)]
)
async def test_an_exception_is_told_to_the_log_alone(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(job: JobContext, input: Any) -> None:
        raise error

    def plain(job: BlockingJobContext, input: Any) -> None:
        raise error

    app = make_app(agent)
    app.agent("plain")(plain)
    async with serving(app) as (_, session):
        for name in ("it", "plain", "it"):
            caplog.clear()
            job = await session.submit(name)
            with pytest.raises(InternalError) as caught:
                await job.result()
            assert (caught.value.message, caught.value.retryable) == ("agent failed", True)
            assert (caught.value.job_id, job.final_status) == (job.id, "error")
            assert SECRET not in repr(vars(caught.value))
            assert SECRET in caplog.text


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (PermissionDenied("not that"), PermissionDenied, "error"),
        (BudgetExhausted("no more", details={"currency": "USD"}), BudgetExhausted, "error"),
        (Denied(ErrorCode.PERMISSION_DENIED, "not that"), PermissionDenied, "error"),
        (JobCancelled("by my own client"), JobCancelled, "cancelled"),
        (JobTimedOut("in my own time"), JobTimedOut, "timed_out"),
        (ArcpError("slow down", code="RATE_LIMITED", retryable=True), ArcpError, "error"),
    ],
)
async def test_an_error_class_of_ours_is_kept(error: Any, kind: type[ArcpError], status: str) -> None:
    async def agent(job: JobContext, input: Any) -> None:
        raise error

    async with serving(make_app(agent)) as (_, session):
        job = await session.submit("it")
        with pytest.raises(kind) as caught:
            await job.result()
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.message) == (error.code, error.message)
    assert caught.value.retryable is error.retryable
    assert caught.value.details == (getattr(error, "details", None) or {})
    assert job.final_status == status


async def test_details_that_cannot_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(job: JobContext, input: Any) -> None:
        raise PermissionDenied("not that", details={"odd": Odd()})

    with pytest.raises(InternalError, match="agent failed"):
        await outcome(agent)
    assert "cannot be sent" in caplog.text


async def test_a_lost_connection_of_the_agents_own_does_not_become_the_code_of_the_job() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        raise ConnectionLost(SECRET)

    with pytest.raises(InternalError, match="agent failed"):
        await outcome(agent)


async def test_an_error_in_a_task_group() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        async def fail(error: Exception) -> None:
            raise error

        async with anyio.create_task_group() as tasks:
            for number in range(input):
                tasks.start_soon(fail, PermissionDenied(f"not {number}"))

    with pytest.raises(PermissionDenied, match="not 0"):
        await outcome(agent, 1)
    with pytest.raises(InternalError, match="agent failed"):
        await outcome(agent, 2)


@pytest.mark.only_on("asyncio")
async def test_an_agent_that_cancels_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(job: JobContext, input: Any) -> None:
        raise asyncio.CancelledError

    async with serving(make_app(agent)) as (_, session):
        for _ in range(2):
            job = await session.submit("it")
            with pytest.raises(InternalError, match="agent failed"):
                await job.result()
    assert "the agent failed" in caplog.text


async def test_an_event_that_cannot_be_sent_raises_in_the_agent_and_harms_nothing() -> None:
    async def agent(job: JobContext, input: Any) -> str:
        for body in ({"message": "x", "level": "loud"}, {"level": "info"}, {"a": Odd()}):
            with pytest.raises(LocalProtocolError):
                await job.emit("log", body)
        return "done"

    assert await outcome(agent) == "done"


async def test_a_value_after_a_stream() -> None:
    async def agent(job: JobContext, input: Any) -> int:
        async with job.stream_result() as out:
            await out.write("a")
        return 1

    with pytest.raises(InvalidRequest, match="mixed"):
        await outcome(agent)


async def test_a_result_beyond_its_limit() -> None:
    raised: list[Denied] = []

    async def agent(job: JobContext, input: Any) -> None:
        async with job.stream_result() as out:
            try:
                while True:
                    await out.write("x" * 1000)
            except Denied as denied:
                raised.append(denied)
                raise

    with pytest.raises(InternalError, match="a streamed result is at most 10000 bytes"):
        await outcome(agent, limits=Limits(max_result_bytes=10_000))
    assert len(raised) == 1


# Agents that are stopped.


async def test_cancel_returns_when_the_agent_has_stopped() -> None:
    steps: list[str] = []

    async def agent(job: JobContext, input: Any) -> None:
        try:
            await job.status("asleep")
            await anyio.sleep_forever()
        finally:
            steps.append("unwinding")
            assert job.cancelled
            async with job.tool("rm") as call:
                call.result = "gone"
            await job.log("info", "cleaned up")
            steps.append("stopped")

    async with serving(make_app(agent)) as (server, session):
        job = await session.submit("it", lease={"tool.call": ["rm"]})
        seen = []
        async for event in job:
            seen.append(event.kind)
            if event.kind == "status":
                await job.cancel("enough")
                assert steps == ["unwinding", "stopped"]
                assert not state_of(server.server.runtime).running
        assert seen == ["status", "tool_call", "tool_result", "log"]
        assert job.final_status == "cancelled"
        with pytest.raises(JobCancelled, match="enough") as caught:
            await job.result()
        assert caught.value.details == {}
        await job.cancel("again")


async def test_the_end_of_a_cancelled_job_does_not_depend_on_its_agent() -> None:
    async def returns(job: JobContext, input: Any) -> str:
        await job.status("asleep")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return "done"

    async def raises(job: JobContext, input: Any) -> None:
        await job.status("asleep")
        try:
            await anyio.sleep_forever()
        finally:
            raise PermissionDenied("mine")

    async def groups(job: JobContext, input: Any) -> None:
        await job.status("asleep")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raises, job, input)
            tasks.start_soon(anyio.sleep_forever)

    app = make_app(returns)
    app.agent("raises")(raises)
    app.agent("groups")(groups)
    async with serving(app) as (server, session):
        for name in ("it", "raises", "groups"):
            job = await session.submit(name)
            async for _ in job:
                await anyio.wait_all_tasks_blocked()
                break
            await job.cancel()
            assert job.final_status == "cancelled"
            assert not state_of(server.server.runtime).running


async def test_a_job_that_takes_too_long() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        await anyio.sleep_forever()

    async with serving(make_app(agent)) as (_, session):
        job = await session.submit("it", max_runtime=1)
        with pytest.raises(JobTimedOut, match="max_runtime_sec") as caught:
            await job.result()
        assert (caught.value.retryable, job.final_status) == (True, "timed_out")


async def test_a_plain_function_is_told_to_stop_by_its_next_call() -> None:
    seen: list[str] = []

    def agent(job: BlockingJobContext, input: Any) -> None:
        try:
            while True:
                job.thought("hm")
        except Exception:
            seen.append("swallowed")
        except AgentStopped as stopped:
            seen.append(str(stopped))
            raise
        finally:
            job.log("info", "cleaned up")

    async with serving(make_app(agent)) as (server, session):
        job = await session.submit("it")
        async for _ in job:
            break
        await job.cancel("enough")
        assert (job.final_status, seen) == ("cancelled", ["cancelled by the client: enough"])
        assert not state_of(server.server.runtime).running
        assert [event.body async for event in job if event.kind == "log"] == [
            {"level": "info", "message": "cleaned up"}
        ]


async def test_a_plain_function_that_looks_for_itself() -> None:
    def agent(job: BlockingJobContext, input: Any) -> str:
        job.status("busy")
        while not job.cancelled:
            threading.Event().wait(0.001)
        return "stopped"

    async with serving(make_app(agent)) as (_, session):
        job = await session.submit("it")
        async for _ in job:
            await job.cancel()
        assert job.final_status == "cancelled"


@pytest.mark.only_on("asyncio")
async def test_an_agent_that_swallows_its_cancellation_and_goes_on() -> None:
    let_go = anyio.Event()
    late: list[BaseException] = []

    async def agent(job: JobContext, input: Any) -> str:
        await job.status("asleep")
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            await job.log("info", "never mind")
        await let_go.wait()
        for say in (job.log("info", "late"), job.tool_call("late"), job.progress(1)):
            try:
                await say
            except JobOver as over:
                late.append(over)
        return "done"

    async with serving(make_app(agent, limits=Limits(stop_grace_sec=0))) as (server, session):
        job = await session.submit("it")
        async for _ in job:
            await job.cancel()
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {"stopped": False}
        assert list(state_of(server.server.runtime).running) == [job.id]
        let_go.set()
        await anyio.wait_all_tasks_blocked()
        assert len(late) == 3
        assert not state_of(server.server.runtime).running


class Stuck:
    """A plain function that does not stop with its job; it notes what calls of the job raise then."""

    def __init__(self) -> None:
        self.let_go, self.ended = threading.Event(), threading.Event()
        self.raised: list[type[BaseException]] = []

    def run(self, job: BlockingJobContext, input: Any) -> str:
        job.status("busy")
        self.let_go.wait()
        for _ in range(2):
            try:
                job.log("info", "late")
            except BaseException as error:
                self.raised.append(type(error))
        self.ended.set()
        return "done"


async def test_a_plain_function_that_never_stops(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    app = make_app(stuck.run, limits=Limits(stop_grace_sec=0), max_threads=1)
    async with serving(app) as (server, session):
        job = await session.submit("it")
        async for _ in job:
            await job.cancel()
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {"stopped": False}
        assert list(state_of(server.server.runtime).running) == [job.id]

        with pytest.raises(InternalError, match="agents that do not stop hold every thread") as refused:
            await (await session.submit("it")).result()
        assert refused.value.details == {"limit": "threads", "max": 1, "retry_after_ms": 1000}
        assert "its thread keeps running" in caplog.text

        stuck.let_go.set()
        await until(lambda: not state_of(server.server.runtime).running)
        assert stuck.raised == [AgentStopped, JobOver]
        again = await session.submit("it")
        assert await again.result() == "done"
    assert stuck.ended.is_set()


async def test_a_plain_function_that_waits_for_a_thread_can_be_cancelled() -> None:
    let_go = threading.Event()

    def agent(job: BlockingJobContext, input: Any) -> None:
        job.status("busy")
        let_go.wait()

    async with serving(make_app(agent, max_threads=1)) as (server, session):
        first = await session.submit("it")
        async for _ in first:
            second = await session.submit("it")
            await second.cancel()
            assert (second.final_status, second.events_received) == ("cancelled", 2)
            assert list(state_of(server.server.runtime).running) == [first.id]
            let_go.set()
        assert await first.result() is None


async def test_the_end_of_a_server_leaves_a_stuck_thread_behind(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    async with serving(make_app(stuck.run, limits=Limits(stop_grace_sec=0))) as (_, session):
        async for _ in await session.submit("it"):
            break
    assert "is left behind" in caplog.text
    stuck.let_go.set()
    assert stuck.ended.wait(10)
    assert stuck.raised == [AgentStopped, JobOver]


async def test_the_end_of_a_server_stops_every_agent() -> None:
    stopped: list[str] = []

    async def agent(job: JobContext, input: Any) -> None:
        try:
            await job.status("asleep")
            await anyio.sleep_forever()
        finally:
            await job.log("info", "cleaned up")
            stopped.append("agent")

    def plain(job: BlockingJobContext, input: Any) -> None:
        try:
            job.status("busy")
            while True:
                job.thought("hm")
        finally:
            stopped.append("plain")

    app = make_app(agent)
    app.agent("plain")(plain)
    async with serve_memory(app) as server, connect(server, "t0ken") as session:
        for name in ("it", "plain"):
            async for _ in await session.submit(name):
                break
        await server.shut_down(0)
        assert sorted(stopped) == ["agent", "plain"]


# Agents that would starve others.


async def test_an_emit_loop_without_another_await_does_not_starve_other_jobs() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        while True:
            await job.thought("hm")

    async def echo(job: JobContext, input: Any) -> Any:
        return input

    app = make_app(agent)
    app.agent("echo")(echo)
    async with serving(app) as (server, session):
        greedy = [await session.submit("it") for _ in range(3)]
        async with connect(server, "t0ken") as other:
            for number in range(20):
                assert await (await other.submit("echo", number)).result() == number
        for job in greedy:
            await job.cancel()
            assert job.final_status == "cancelled"


# Authentication.


@asynccontextmanager
async def verified(auth: Verifier, token: str | None = "t0ken", **options: Any) -> AsyncIterator[Session]:
    async def whoami(job: JobContext, input: Any) -> str:
        return job.principal

    app = App("tests", "1", auth=auth, **options)
    app.agent("whoami")(whoami)
    async with serve_memory(app) as server, connect(server, token) as session:
        yield session


async def test_verifiers() -> None:
    async def later(token: str) -> str | None:
        await anyio.sleep(0.001)
        return {"t0ken": "alice"}.get(token)

    for auth in (later, {"t0ken": "alice"}.get):
        async with verified(auth) as session:
            assert await (await session.submit("whoami")).result() == "alice"
        with pytest.raises(Unauthenticated):
            async with verified(auth, "wrong"):
                pass
        with pytest.raises(Unauthenticated):
            async with verified(auth, None):
                pass


@pytest.mark.parametrize("answer", [LookupError(SECRET), SystemExit(SECRET), 7])
async def test_a_verifier_that_fails(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    def auth(token: str) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with pytest.raises(InternalError, match="the token could not be verified"):
        async with verified(auth):
            pass
    assert "the verifier failed" in caplog.text
    assert "t0ken" not in caplog.text


async def test_each_anonymous_client_has_a_principal_of_its_own() -> None:
    async with verified({}.get, None, anonymous=True) as session:
        principal = await (await session.submit("whoami")).result()
    assert principal.startswith("anonymous-")
    with pytest.raises(Unauthenticated):
        async with verified({}.get, "t0ken", anonymous=True):
            pass


async def test_an_app_that_is_anonymous_alone_takes_no_token() -> None:
    app = App("tests", "1", anonymous=True)
    with pytest.raises(Unauthenticated):
        async with serve_memory(app) as server, connect(server, "t0ken"):
            pass


# Bugs of ours.


@pytest.mark.parametrize("call", ["emit", "write_result", "finish", "fail"])
async def test_a_bug_of_the_core_stops_the_server_loudly(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def agent(job: JobContext, input: Any) -> None:
        if call == "fail":
            raise ValueError
        if call == "write_result":
            async with job.stream_result():
                pass
        if call == "emit":
            await job.log("info", "a")

    def bug(*arguments: Any, **options: Any) -> None:
        raise InvariantViolated("a bug")

    with pytest.raises(InvariantViolated, match="a bug"):
        async with serve_memory(make_app(agent)) as server:
            monkeypatch.setattr(AgentApi if hasattr(AgentApi, call) else Runtime, call, bug)
            async with connect(server, "t0ken") as session:
                with pytest.raises(ConnectionLost):
                    await (await session.submit("it")).result()
            await anyio.sleep_forever()


# The host alone.


class Notes:
    """A runtime and a pump that only take notes."""

    def __init__(self) -> None:
        self.notes: list[tuple[Any, ...]] = []
        self.unfinished: dict[str, None] = {}
        self.agents = self

    def now(self) -> int:
        return 0

    def job_stopped(self, job_id: str, verified: bool, *, now: int) -> str:
        assert verified
        self.notes.append(("job_stopped", job_id))
        return "output"

    def carry_out(self, output: str) -> None:
        self.notes.append(("carry_out", output))


def start(job_id: str) -> StartJob:
    return StartJob(JobId(job_id), "it", "1.0.0", NO_INPUT, Principal("alice"), {}, "a" * 32, {})


async def test_a_job_that_is_stopped_before_its_agent_runs() -> None:
    ran: list[str] = []

    async def agent(job: JobContext, input: Any) -> None:
        ran.append(job.id)

    notes: Any = Notes()
    async with open_loop() as loop:
        host = AgentHost(make_app(agent), notes, notes, loop)
        host.request(start("job_1"))
        host.request(StopJob(JobId("job_1"), "cancelled", 0))
        host.request(StopJob(JobId("job_1"), "cancelled", 0))
        await anyio.wait_all_tasks_blocked()
        assert (ran, notes.notes) == ([], [("job_stopped", "job_1"), ("carry_out", "output")])
        for request in (StopJob(JobId("job_1"), "", 0), PauseJob(JobId("job_1")), ResumeJob(JobId("job_1"))):
            host.request(request)
        await host.aclose()
    assert len(notes.notes) == 2


async def test_closing_stops_and_waits() -> None:
    ended: list[str] = []

    async def agent(job: JobContext, input: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(job.id)

    notes: Any = Notes()
    async with open_loop() as loop:
        host = AgentHost(make_app(agent), notes, notes, loop)
        host.request(start("job_1"))
        host.request(start("job_2"))
        await anyio.wait_all_tasks_blocked()
        await host.aclose()
        assert sorted(ended) == ["job_1", "job_2"]
        await host.aclose()


async def test_the_end_of_a_connection_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "arcp_io")
    async with serve_memory(make_app()) as server, connect(server, "t0ken"):
        pass
    assert "ended by the" in caplog.text
