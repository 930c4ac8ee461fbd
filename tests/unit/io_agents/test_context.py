"""The job object of an agent, over a runtime that notes the calls that it receives."""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio.from_thread import BlockingPortal

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.agents.running_job import RunningJob
from arcp_io.agents.threads import call_in_thread
from arcp_io.app import Agent
from arcp_io.errors import AgentStopped, ArcpError, Denied, JobOver, LocalProtocolError
from arcp_proto.engine.output import StartJob
from arcp_proto.errors import ErrorCode, InvariantViolated
from arcp_proto.ids import JobId, Principal
from arcp_proto.limits import Limits
from arcp_proto.wire.event_bodies import BODIES, Body, encode_body
from arcp_proto.wire.inputs import Input

JOB = JobId("job_1")
MILLISECOND = 1_000_000


class Notes:
    """A runtime, a pump and a loop, as far as a job needs them; `said` has the bodies as JSON values."""

    def __init__(self) -> None:
        self.limits = Limits(max_chunk_bytes=4)
        self.unfinished = {JOB: None}
        self.said: list[tuple[str, Any]] = []
        self.sizes: list[int] = []
        self.runs = self.turns = 0
        self.crashed: list[BaseException] = []
        self.time = 0
        self.tick = 0
        self.fault: BaseException | None = None

    def emit(self, job_id: JobId, kind: str, body: Body | dict[str, Any], *, now: int) -> int:
        self._check(job_id)
        if isinstance(body, msgspec.Struct):
            assert type(body) is BODIES[kind]
        self.said.append((kind, msgspec.json.decode(encode_body(kind, body))))
        return 0

    def write_result(self, job_id: JobId, data: str | bytes, *, now: int) -> None:
        self._check(job_id)
        self.said.append(("result", data))

    def is_over(self, job_id: JobId) -> bool:
        return job_id not in self.unfinished

    def _check(self, job_id: JobId) -> None:
        if job_id not in self.unfinished:
            raise LocalProtocolError(f"{job_id} is not an unfinished job")
        if self.fault is not None:
            raise self.fault

    def now(self) -> int:
        self.time += self.tick
        return self.time

    def look_at_wall(self) -> None:
        """Do nothing: this wall clock is never set."""

    def soon(self, size: int = 0, *, urgent: bool = False) -> None:
        self.sizes.append(size)

    def run(self) -> None:
        self.runs += 1

    def crash(self, error: BaseException) -> None:
        self.crashed.append(error)

    async def checkpoint(self) -> None:
        self.turns += 1
        await anyio.lowlevel.checkpoint()


def begin(notes: Any) -> RunningJob:
    headers = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    lease = {"fs.read": ["/data/**"]}
    start = StartJob(JOB, "echo", "1.0.0", Input.of(b'{"x":1}'), Principal("alice"), lease, "1" * 32, headers)
    return RunningJob(start, Agent("echo", "1.0.0", lambda job, input: None), notes, notes, notes)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def running(notes: Notes) -> RunningJob:
    return begin(notes)


def run(
    function: Callable[[JobContext], Awaitable[Any]], running: RunningJob, backend: str = "asyncio"
) -> Any:
    return anyio.run(partial(function, JobContext(running)), backend=backend)


# The facts and the events of a job.


def test_a_job_context_knows_its_job(running: RunningJob) -> None:
    job = JobContext(running)

    assert (job.id, job.principal, job.agent, job.trace_id) == (JOB, "alice", "echo@1.0.0", "1" * 32)
    assert job.lease == {"fs.read": ["/data/**"]}
    assert job.cancelled is False
    headers = job.trace_headers()
    assert headers == {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    headers.clear()
    assert job.trace_headers() != {}


SAID: list[tuple[Callable[[Any], Any], str, dict[str, Any]]] = [
    (lambda job: job.log("INFO", "hello"), "log", {"level": "info", "message": "hello"}),
    (lambda job: job.thought("hm"), "thought", {"text": "hm"}),
    (lambda job: job.status("reading"), "status", {"phase": "reading"}),
    (lambda job: job.status("reading", "a"), "status", {"phase": "reading", "message": "a"}),
    (lambda job: job.metric("m", 1.5), "metric", {"name": "m", "value": 1.5}),
    (
        lambda job: job.metric("m", 1, "USD", {"model": "a"}),
        "metric",
        {"name": "m", "value": 1, "unit": "USD", "dimensions": {"model": "a"}},
    ),
    (lambda job: job.progress(1), "progress", {"current": 1}),
    (
        lambda job: job.progress(1, total=2, units="files", message="on"),
        "progress",
        {"current": 1, "total": 2, "units": "files", "message": "on"},
    ),
    (
        lambda job: job.artifact("file:///a", "text/plain"),
        "artifact_ref",
        {"uri": "file:///a", "content_type": "text/plain"},
    ),
    (
        lambda job: job.artifact("file:///a", "text/plain", 3, "00"),
        "artifact_ref",
        {"uri": "file:///a", "content_type": "text/plain", "byte_size": 3, "sha256": "00"},
    ),
    (
        lambda job: job.tool_call("grep", {"x": 1}),
        "tool_call",
        {"tool": "grep", "args": {"x": 1}, "call_id": "call_1"},
    ),
    (lambda job: job.tool_call("grep"), "tool_call", {"tool": "grep", "args": {}, "call_id": "call_1"}),
    (lambda job: job.tool_result("c", result=None), "tool_result", {"call_id": "c", "result": None}),
    (lambda job: job.tool_result("c", result=[1]), "tool_result", {"call_id": "c", "result": [1]}),
    (
        lambda job: job.tool_result("c", error={"code": "X", "message": "no"}),
        "tool_result",
        {"call_id": "c", "error": {"code": "X", "message": "no", "retryable": False}},
    ),
    (
        lambda job: job.tool_result("c", error=ArcpError("no", code="TIMEOUT")),
        "tool_result",
        {"call_id": "c", "error": {"code": "TIMEOUT", "message": "no", "retryable": True}},
    ),
    (
        lambda job: job.tool_result("c", error=KeyError("/etc/shadow")),
        "tool_result",
        {
            "call_id": "c",
            "error": {"code": "INTERNAL_ERROR", "message": "the tool failed", "retryable": True},
        },
    ),
    (lambda job: job.emit("x-vendor.a.b", {"y": [1]}), "x-vendor.a.b", {"y": [1]}),
    (
        lambda job: job.emit("log", {"level": "warning", "message": "a"}),
        "log",
        {"level": "warn", "message": "a"},
    ),
]


@pytest.mark.parametrize(("say", "kind", "body"), SAID)
def test_a_job_context_publishes_every_kind(
    notes: Notes, running: RunningJob, say: Callable[[Any], Any], kind: str, body: dict[str, Any]
) -> None:
    run(say, running)
    assert notes.said == [(kind, body)]


@pytest.mark.parametrize(("say", "kind", "body"), SAID)
def test_a_blocking_context_publishes_every_kind(
    notes: Notes, running: RunningJob, say: Callable[[Any], Any], kind: str, body: dict[str, Any]
) -> None:
    run_plain(say, running)
    assert notes.said == [(kind, body)]


@pytest.mark.parametrize(
    "say",
    [
        lambda job: job.log(1, "a"),
        lambda job: job.log("info", None),
        lambda job: job.thought(b"a"),
        lambda job: job.status("a", 1),
        lambda job: job.metric("m", "1"),
        lambda job: job.metric("m", True),
        lambda job: job.metric(None, 1),
        lambda job: job.progress(None),
        lambda job: job.progress(1, "2"),
        lambda job: job.artifact("file:///a", None),
        lambda job: job.artifact("file:///a", "text/plain", True),
        lambda job: job.artifact("file:///a", "text/plain", "3"),
        lambda job: job.tool_call(7),
        lambda job: job.tool_result(7, result=1),
        lambda job: job.tool_result("c", error={"code": "X"}),
        lambda job: job.tool_result("c", result=1, error={"code": "X", "message": "no"}),
    ],
)
def test_an_argument_of_a_wrong_type_raises_and_publishes_nothing(
    notes: Notes, running: RunningJob, say: Callable[[Any], Any]
) -> None:
    with pytest.raises(TypeError):
        run(say, running)
    assert notes.said == []


@pytest.mark.parametrize(
    "say",
    [
        lambda job: job.log("loud", "a"),
        lambda job: job.log("info", "\ud800"),
        lambda job: job.metric("m", math.inf),
        lambda job: job.progress(-1),
        lambda job: job.tool_call("grep", {None: 2}),
        lambda job: job.tool_call("grep", {"x": object()}),
        lambda job: job.tool_result("c"),
        lambda job: job.emit("mine", {}),
        lambda job: job.emit("log", {"level": "info"}),
    ],
)
def test_a_value_that_cannot_be_sent_raises_and_publishes_nothing(
    notes: Notes, running: RunningJob, say: Callable[[Any], Any]
) -> None:
    with pytest.raises(LocalProtocolError):
        run(say, running)
    assert notes.said == []


def test_tool_calls_are_counted(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        assert [await job.tool_call("a"), await job.tool_call("b")] == ["call_1", "call_2"]
        async with job.tool("c") as call:
            assert call.call_id == "call_3"

    run(agent, running)


# Tools.


def test_a_tool_block_publishes_call_and_result(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        async with job.tool("grep", {"x": 1}) as call:
            call.result = ["line"]
        async with job.tool("nothing"):
            pass

    run(agent, running)

    assert notes.said == [
        ("tool_call", {"tool": "grep", "args": {"x": 1}, "call_id": "call_1"}),
        ("tool_result", {"call_id": "call_1", "result": ["line"]}),
        ("tool_call", {"tool": "nothing", "args": {}, "call_id": "call_2"}),
        ("tool_result", {"call_id": "call_2", "result": None}),
    ]


FAILURES = [
    (ValueError("/etc/shadow"), ("INTERNAL_ERROR", "grep failed", True)),
    (SystemExit(3), ("INTERNAL_ERROR", "grep failed", True)),
    (ArcpError("slow down", code="RATE_LIMITED", retryable=True), ("RATE_LIMITED", "slow down", True)),
    (Denied(ErrorCode.PERMISSION_DENIED, "not that"), ("PERMISSION_DENIED", "not that", False)),
]


@pytest.mark.parametrize(("error", "told"), FAILURES)
def test_a_failing_tool_block_publishes_its_error(
    notes: Notes, running: RunningJob, error: BaseException, told: tuple[str, str, bool]
) -> None:
    async def agent(job: JobContext) -> None:
        async with job.tool("grep"):
            raise error

    with pytest.raises(type(error)) as caught:
        run(agent, running)
    assert caught.value is error
    assert notes.said[1:] == [
        (
            "tool_result",
            {"call_id": "call_1", "error": dict(zip(("code", "message", "retryable"), told, strict=True))},
        )
    ]


@pytest.mark.parametrize(("error", "told"), FAILURES)
def test_a_failing_tool_block_in_a_thread_publishes_its_error(
    notes: Notes, running: RunningJob, error: BaseException, told: tuple[str, str, bool]
) -> None:
    def agent(job: BlockingJobContext) -> None:
        with job.tool("grep"):
            raise error

    with pytest.raises(type(error)) as caught:
        run_plain(agent, running)
    assert caught.value is error
    assert notes.said[1][1]["error"] == dict(zip(("code", "message", "retryable"), told, strict=True))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_tool_block_publishes_cancelled(notes: Notes, running: RunningJob, backend: str) -> None:
    async def agent(job: JobContext) -> None:
        with anyio.CancelScope() as scope:
            async with job.tool("grep"):
                scope.cancel()
                await anyio.sleep_forever()

    run(agent, running, backend)

    error = {"code": "CANCELLED", "message": "grep was cancelled", "retryable": False}
    assert notes.said[1:] == [("tool_result", {"call_id": "call_1", "error": error})]


def test_a_tool_that_fails_after_the_end_of_its_job_raises_its_own_error(
    notes: Notes, running: RunningJob
) -> None:
    async def agent(job: JobContext) -> None:
        async with job.tool("grep"):
            notes.unfinished.clear()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(agent, running)


# Results.


def test_a_streamed_result_is_cut(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        async with job.stream_result() as out:
            await out.write("abcdefghi")
            await out.write("")
            await out.write("é")

    run(agent, running)
    assert notes.said == [("result", piece) for piece in ("", "abcd", "efgh", "i", "é")]
    assert notes.sizes == [0, 4, 4, 1, 1]


def test_a_binary_result_is_streamed(notes: Notes, running: RunningJob) -> None:
    def agent(job: BlockingJobContext) -> None:
        with job.stream_result(encoding="base64") as out:
            out.write(b"abcdef")

    run_plain(agent, running)
    assert notes.said == [("result", piece) for piece in (b"", b"abcd", b"ef")]


@pytest.mark.parametrize(
    ("encoding", "data"), [("utf8", b"a"), ("base64", "a"), ("utf8", None), ("base64", [1])]
)
def test_a_piece_of_the_wrong_type_raises(
    notes: Notes, running: RunningJob, encoding: Any, data: Any
) -> None:
    async def agent(job: JobContext) -> None:
        async with job.stream_result(encoding=encoding) as out:
            await out.write(data)

    with pytest.raises(TypeError, match="this result is a stream of"):
        run(agent, running)
    assert len(notes.said) == 1


def test_an_unknown_encoding_of_a_result_raises(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        encoding: Any = "latin1"
        async with job.stream_result(encoding=encoding):
            pass

    with pytest.raises(ValueError, match="utf8 or base64"):
        run(agent, running)
    assert notes.said == []


def test_a_closed_stream_takes_nothing(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        async with job.stream_result() as out:
            pass
        await out.write("late")

    with pytest.raises(ValueError, match="whose block has ended"):
        run(agent, running)
    assert notes.said == [("result", "")]


def test_a_result_beyond_its_limit_is_told_to_the_pump(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        async with job.stream_result() as out:
            notes.fault = Denied(ErrorCode.INTERNAL_ERROR, "too large")
            await out.write("abc")

    with pytest.raises(Denied):
        run(agent, running)
    assert notes.runs == 1


# Yielding to the loop, waiting, and calls that do not wait.


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_emit_yields_after_64_events(notes: Notes, running: RunningJob, backend: str) -> None:
    async def agent(job: JobContext) -> None:
        for count in range(1, 641):
            await job.thought("hm")
            assert notes.turns == count // 64

    run(agent, running, backend)
    assert notes.turns == 10


def test_emit_yields_after_a_millisecond(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        await job.thought("hm")
        assert notes.turns == 0
        notes.time += MILLISECOND
        await job.thought("hm")
        assert notes.turns == 1
        notes.time += MILLISECOND - 1
        await job.thought("hm")
        assert notes.turns == 1

    run(agent, running)


def test_a_result_yields_after_64_kib(notes: Notes, running: RunningJob) -> None:
    notes.limits = Limits(max_chunk_bytes=32 * 1024)

    async def agent(job: JobContext) -> None:
        async with job.stream_result() as out:
            await out.write("x" * 512 * 1024)

    run(agent, running)
    assert notes.turns == 8


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_emit_of_a_paused_job_waits(notes: Notes, running: RunningJob, backend: str) -> None:
    async def agent(job: JobContext) -> None:
        running.pause()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.log, "info", "first")
            tasks.start_soon(job.log, "info", "second")
            await anyio.wait_all_tasks_blocked()
            assert notes.said == []
            running.resume()
            running.pause()
            await anyio.wait_all_tasks_blocked()
            assert notes.said == []
            running.resume()
        assert len(notes.said) == 2

    run(agent, running, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_result_of_a_paused_job_waits(notes: Notes, running: RunningJob, backend: str) -> None:
    async def agent(job: JobContext) -> None:
        async with job.stream_result() as out, anyio.create_task_group() as tasks:
            running.pause()
            tasks.start_soon(out.write, "abcdefgh")
            await anyio.wait_all_tasks_blocked()
            assert len(notes.said) == 1
            running.resume()
        assert len(notes.said) == 3

    run(agent, running, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stopping_job_neither_waits_nor_is_cancelled(
    notes: Notes, running: RunningJob, backend: str
) -> None:
    async def agent(job: JobContext) -> None:
        running.pause()
        with anyio.CancelScope() as scope:
            try:
                scope.cancel()
                running.stop("cancelled by the client", 0)
                await anyio.sleep_forever()
            finally:
                for _ in range(200):
                    await job.log("info", "cleaning up")
                try:
                    raise KeyError
                except KeyError:
                    await job.log("info", "even here")
                async with job.tool("rm") as call:
                    call.result = "done"
                async with job.stream_result() as out:
                    await out.write("rest")
        assert scope.cancelled_caught
        assert job.cancelled

    run(agent, running, backend)
    assert len(notes.said) == 205
    assert notes.turns == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("paused", [True, False])
def test_an_agent_that_only_emits_is_cancelled(
    notes: Notes, running: RunningJob, backend: str, paused: bool
) -> None:
    async def agent(job: JobContext) -> None:
        async def speak() -> None:
            while True:
                await job.thought("hm")

        running.paused = paused
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(speak)
            await anyio.lowlevel.checkpoint()
            running.stop("cancelled by the client", 0)
            tasks.cancel_scope.cancel()

    run(agent, running, backend)
    assert len(notes.said) <= 64


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_agent_that_unwinds_for_ever_starves_no_other_task(
    notes: Notes, running: RunningJob, backend: str
) -> None:
    async def agent(job: JobContext) -> None:
        async def end() -> None:
            await anyio.lowlevel.checkpoint()
            notes.unfinished.clear()

        async with anyio.create_task_group() as tasks:
            running.stop("cancelled by the client", 0)
            tasks.start_soon(end)
            with anyio.CancelScope() as scope:
                scope.cancel()
                try:
                    await anyio.sleep_forever()
                finally:
                    while True:
                        await job.thought("hm")

    with pytest.raises(BaseExceptionGroup) as caught:
        run(agent, running, backend)
    assert caught.group_contains(JobOver)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_tool_block_that_ends_during_a_cancel_publishes_its_end(
    notes: Notes, running: RunningJob, backend: str
) -> None:
    async def agent(job: JobContext) -> None:
        with anyio.CancelScope() as scope:
            async with job.tool("grep"):
                running.stop("cancelled by the client", 0)
                scope.cancel()

    run(agent, running, backend)
    assert notes.said[1][1]["error"]["code"] == "CANCELLED"


def test_a_tool_result_that_cannot_be_sent_raises(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        async with job.tool("grep") as call:
            call.result = object()

    def plain(job: BlockingJobContext) -> None:
        with job.tool("grep") as call:
            call.result = object()

    for function in (partial(run, agent), partial(run_plain, plain)):
        notes.said.clear()
        with pytest.raises(LocalProtocolError):
            function(running)
        assert [kind for kind, _ in notes.said] == ["tool_call", "tool_result"]
        assert notes.said[1][1]["error"]["message"] == "grep failed"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stop_releases_a_paused_emit(notes: Notes, running: RunningJob, backend: str) -> None:
    async def agent(job: JobContext) -> None:
        running.pause()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.log, "info", "last words")
            await anyio.wait_all_tasks_blocked()
            running.stop("cancelled by the client", 0)

    run(agent, running, backend)
    assert len(notes.said) == 1


@pytest.mark.parametrize("say", [entry[0] for entry in SAID])
def test_after_the_end_every_call_raises(
    notes: Notes, running: RunningJob, say: Callable[[Any], Any]
) -> None:
    notes.unfinished.clear()
    with pytest.raises(JobOver, match="job_1 is over"):
        run(say, running)


def test_after_the_end_a_result_raises_too(notes: Notes, running: RunningJob) -> None:
    async def agent(job: JobContext) -> None:
        async with job.stream_result() as out:
            notes.unfinished.clear()
            await out.write("late")

    with pytest.raises(JobOver):
        run(agent, running)
    with pytest.raises(JobOver):
        run(agent, running)


@pytest.mark.parametrize(
    "say", [lambda job: job.log("info", "a"), lambda job: job.stream_result().__aenter__()]
)
def test_a_bug_of_the_core_stops_the_pump(
    notes: Notes, running: RunningJob, say: Callable[[Any], Any]
) -> None:
    notes.fault = InvariantViolated("a bug")
    with pytest.raises(InvariantViolated):
        run(say, running)
    assert notes.crashed == [notes.fault]


def test_a_stop_is_remembered_by_its_first_reason(notes: Notes, running: RunningJob) -> None:
    notes.time = MILLISECOND
    running.stop("first", 501 * MILLISECOND)
    running.stop("second", 0)

    assert (running.stop_reason, running.grace_left) == ("first", 0.5)
    notes.time = 2 * running.kill_at
    assert running.grace_left == 0


# In a thread.


def run_plain(
    function: Callable[[BlockingJobContext], Any], running: RunningJob, backend: str = "asyncio"
) -> Any:
    async def main() -> Any:
        async with BlockingPortal() as portal:
            job = BlockingJobContext(running, portal)
            result = await outcome(call_in_thread(partial(function, job), name="agent"))
        if isinstance(result, BaseException):
            raise result
        return result

    async def outcome(call: Awaitable[Any]) -> Any:
        try:
            return await call
        except BaseException as error:
            return error

    return anyio.run(main, backend=backend)


def test_the_blocking_context_has_the_same_names(running: RunningJob) -> None:
    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(BlockingJobContext) == names(JobContext)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_blocking_context_publishes_from_its_thread(
    notes: Notes, running: RunningJob, backend: str
) -> None:
    def agent(job: BlockingJobContext) -> str:
        assert threading.current_thread() is not threading.main_thread()
        assert (job.id, job.principal, job.agent, job.trace_id) == (JOB, "alice", "echo@1.0.0", "1" * 32)
        assert job.trace_headers() == running.start.trace_headers
        assert job.lease == {"fs.read": ["/data/**"]}
        with job.tool("grep") as call:
            call.result = 1
        return "done"

    assert run_plain(agent, running, backend) == "done"
    assert [kind for kind, _ in notes.said] == ["tool_call", "tool_result"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stop_is_raised_once_and_is_not_an_exception(
    notes: Notes, running: RunningJob, backend: str
) -> None:
    def agent(job: BlockingJobContext) -> None:
        job.log("info", "before")
        running.stop("cancelled by the client", 0)
        assert job.cancelled
        try:
            try:
                job.log("info", "never said")
            except Exception:
                job.log("error", "swallowed")
        finally:
            job.log("info", "cleaning up")

    with pytest.raises(AgentStopped, match="cancelled by the client"):
        run_plain(agent, running, backend)
    assert [body["message"] for _, body in notes.said] == ["before", "cleaning up"]


def test_the_blocking_context_raises_after_the_end(notes: Notes, running: RunningJob) -> None:
    def agent(job: BlockingJobContext) -> None:
        notes.unfinished.clear()
        job.log("info", "late")

    with pytest.raises(JobOver, match="no further call is possible"):
        run_plain(agent, running)


def test_the_blocking_context_of_a_stopped_host_raises(running: RunningJob) -> None:
    async def main() -> BlockingJobContext:
        async with BlockingPortal() as portal:
            return BlockingJobContext(running, portal)

    job = anyio.run(main)
    with pytest.raises(JobOver, match="its host is gone"):
        job.log("info", "late")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_blocking_context_of_a_paused_job_waits(notes: Notes, running: RunningJob, backend: str) -> None:
    async def main() -> None:
        running.pause()
        async with BlockingPortal() as portal, anyio.create_task_group() as tasks:
            job = BlockingJobContext(running, portal)
            call = partial(call_in_thread, partial(job.log, "info", "a"), name="agent")
            tasks.start_soon(call)
            await anyio.sleep(0.02)
            assert notes.said == []
            running.resume()

    anyio.run(main, backend=backend)
    assert len(notes.said) == 1
