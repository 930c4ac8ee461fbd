"""The client: sessions, jobs, their events and their ends; over memory and real sockets, on both loops."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus

from arcp_io.agents.context import JobContext
from arcp_io.client.connect import Event, Job, connect, connect_stdio
from arcp_io.client.dial import Target, WebSocket
from arcp_io.errors import (
    AgentNotAvailable,
    AgentVersionNotAvailable,
    ArcpError,
    ConnectionLost,
    InternalError,
    InvalidRequest,
    JobCancelled,
    LocalProtocolError,
    Unauthenticated,
)
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import Server, serve
from arcp_proto.client.config import CLIENT_FEATURES
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from tests.io.apps import TOKEN, Counters, make_app

pytestmark = pytest.mark.anyio


class Place:
    """A server that runs for a test, over any transport."""

    def __init__(self, target: str | Target, server: Server, counters: Counters) -> None:
        self.target = target
        self.runtime = server.runtime
        self.server = server
        self.counters = counters


@asynccontextmanager
async def place(kind: str = "memory", **limits: Any) -> AsyncIterator[Place]:
    counters = Counters()
    app = make_app(counters=counters, **limits)

    @app.agent("stage", version="1.0.0")
    async def stage(job: JobContext, input: Any) -> Any:
        for number in range(input):
            await job.status(str(number))
        return input

    if kind == "memory":
        async with serve_memory(app) as memory:
            yield Place(memory, memory.server, counters)
    else:
        async with serve(app, port=0) as server:
            yield Place(server.url, server, counters)


@asynccontextmanager
async def doomed_place(kind: str) -> AsyncIterator[tuple[Place, anyio.CancelScope]]:
    """Run a server, and yield the scope whose cancellation ends it without a shutdown."""

    async def run(*, task_status: TaskStatus[tuple[Place, anyio.CancelScope]]) -> None:
        with anyio.CancelScope() as life:
            async with place(kind) as there:
                task_status.started((there, life))
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        yield await tasks.start(run)


@pytest.fixture(params=["memory", "websocket"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def phases(events: list[Event]) -> list[str]:
    return [event.body["phase"] for event in events]


def spend(seconds: float) -> None:
    """Compute for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def told_of_back_pressure(event: Event) -> bool:
    """Return whether the runtime reports that its events are acknowledged too late (§6.5)."""
    return event.body.get("phase") == "back_pressure"


# Sessions.


async def test_a_session(kind: str) -> None:
    async with place(kind) as there, connect(there.target, TOKEN) as session:
        assert session.id in state_of(there.runtime).sessions
        assert (session.runtime.name, session.runtime.version) == ("tests", "1")
        assert session.features == set(CLIENT_FEATURES) - {"provisioned_credentials"}
        assert [(agent.name, agent.default) for agent in session.agents if agent.versions] == [
            ("stage", "1.0.0")
        ]
        assert session.lost is None
        assert TOKEN not in repr(session) + repr(vars(session))


async def test_a_token_may_be_asked_for() -> None:
    async def later() -> str:
        await anyio.lowlevel.checkpoint()
        return TOKEN

    async with place() as there:
        for token in (TOKEN, lambda: TOKEN, later):
            async with connect(there.target, token) as session:
                assert await (await session.submit("echo", 1)).result() == 1


@pytest.mark.parametrize("token", ["wrong", None])
async def test_a_client_with_a_wrong_token_gets_no_session(kind: str, token: str | None) -> None:
    async with place(kind) as there:
        with pytest.raises(Unauthenticated):
            async with connect(there.target, token):
                pytest.fail("there is no session")


async def test_a_refused_connection_raises_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/arcp"
        with pytest.raises(OSError):
            async with connect(url, TOKEN):
                pytest.fail("there is no session")


async def test_the_wrong_path() -> None:
    async with place("websocket") as there:
        with pytest.raises(OSError):
            async with connect(f"{there.target}/else", TOKEN):
                pytest.fail("there is no session")


async def test_a_server_that_sends_no_welcome_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/arcp"
        with pytest.raises(ConnectionLost, match="no welcome in time"):
            async with connect(url, TOKEN, limits=Limits(hello_timeout_sec=1)):
                pytest.fail("there is no session")


@pytest.mark.parametrize("url", ["", "http://127.0.0.1/arcp", "ws://", "127.0.0.1:7777", "ws://127.0.0.1:x/"])
async def test_a_malformed_url_raises_valueerror(url: str) -> None:
    with pytest.raises(ValueError):
        async with connect(url, None):
            pytest.fail("there is no session")


@pytest.mark.parametrize("target", ["ws://agents.example/arcp", WebSocket("ws://192.0.2.1:7777/arcp")])
async def test_a_token_is_not_sent_in_clear_text(target: str | WebSocket) -> None:
    with pytest.raises(ValueError, match=r"in clear text: use wss://, or allow_plain=True"):
        async with connect(target, TOKEN):
            pytest.fail("there is no session")


async def test_unless_it_is_allowed() -> None:
    with pytest.raises(OSError):
        async with connect("ws://host.invalid/arcp", TOKEN, allow_plain=True):
            pytest.fail("there is no session")


async def test_leaving_detaches_and_jobs_go_on(kind: str) -> None:
    async with place(kind) as there:
        async with connect(there.target, TOKEN) as session:
            job = await session.submit("sleep")
            async for _ in job:
                break
        await until(lambda: state_of(there.runtime).sessions[session.id].connection is None)
        assert list(state_of(there.runtime).unfinished) == [job.id]
        assert isinstance(session.lost, ConnectionLost)
        for call in (session.submit("echo"), job.result(), job.cancel()):
            with pytest.raises(ConnectionLost, match="the session was left"):
                await call


async def test_unless_they_are_to_be_cancelled() -> None:
    async with place() as there:
        with pytest.raises(KeyError):
            async with connect(there.target, TOKEN, cancel_on_exit=True) as session:
                jobs = [await session.submit("sleep") for _ in range(3)]
                raise KeyError
        assert [job.final_status for job in jobs] == ["cancelled"] * 3
        assert not state_of(there.runtime).running


async def test_an_error_of_the_block_leaves_it_unchanged(kind: str) -> None:
    error = InternalError("mine")
    async with place(kind) as there:
        with pytest.raises(InternalError) as caught:
            async with connect(there.target, TOKEN):
                raise error
    assert caught.value is error


async def test_a_cancelled_block() -> None:
    async with place() as there:
        with anyio.CancelScope() as scope:
            async with connect(there.target, TOKEN) as session:
                scope.cancel()
                await session.submit("echo")
        assert scope.cancelled_caught


async def test_saying_goodbye(kind: str) -> None:
    async with place(kind) as there, connect(there.target, TOKEN) as session:
        job = await session.submit("sleep")
        await session.close("done")
        await session.close("again")
        assert isinstance(session.lost, ConnectionLost)
        with pytest.raises(ConnectionLost):
            await job.result()
        assert list(state_of(there.runtime).unfinished) == [job.id]


# Submitting.


@pytest.mark.parametrize(
    ("agent", "options", "error"),
    [
        ("none", {}, AgentNotAvailable),
        ("stage@2", {}, AgentVersionNotAvailable),
        ("No Agent", {}, InvalidRequest),
        ("echo", {"lease": {"fs.eat": ["/**"]}}, InvalidRequest),
        ("echo", {"budget": "five dollars"}, InvalidRequest),
        ("echo", {"expires_at": "tomorrow"}, InvalidRequest),
        ("echo", {"expires_at": timedelta(seconds=-1)}, InvalidRequest),
        ("echo", {"max_runtime": 0}, InvalidRequest),
    ],
)
async def test_a_refusal_has_the_class_of_its_code(
    agent: str, options: dict[str, Any], error: type[ArcpError]
) -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        with pytest.raises(error) as caught:
            await session.submit(agent, **options)
        assert type(caught.value) is error
        assert caught.value.message
        assert not state_of(there.runtime).jobs
        assert await (await session.submit("echo", 1)).result() == 1


@pytest.mark.parametrize("input", [object(), {None: 2}, "x" * 2_000_000])
async def test_an_input_that_cannot_be_sent_raises_in_submit(input: Any) -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        with pytest.raises(LocalProtocolError):
            await session.submit("echo", input)
        assert await (await session.submit("echo", 1)).result() == 1


async def test_the_terms_of_a_job() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit(
            "stage",
            1,
            lease={"fs.read": ["/data/**"], "cost.budget": ["EUR:1"]},
            budget=["USD:5.50", "USD:1"],
            expires_at=datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC),
        )
        assert job.agent == "stage@1.0.0"
        assert job.lease == {"fs.read": ["/data/**"], "cost.budget": ["EUR:1", "USD:5.50", "USD:1"]}
        assert job.budget == {"EUR": 1, "USD": 6.5}
        assert job.expires_at == "2100-01-02T03:04:05.000000Z"
        assert len(str(job.trace_id)) == 32


@pytest.mark.parametrize("zone", [UTC, datetime.now().astimezone().tzinfo])
async def test_when_a_lease_expires(zone: Any) -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        at = datetime.now(zone) + timedelta(hours=1)
        job = await session.submit("echo", expires_at=at)
        assert datetime.fromisoformat(str(job.expires_at)) == at
        job = await session.submit("echo", expires_at=timedelta(hours=2))
        assert datetime.fromisoformat(str(job.expires_at)) > at + timedelta(minutes=59)
        with pytest.raises(ValueError, match="no time zone"):
            await session.submit("echo", expires_at=datetime(2100, 1, 1))


async def test_answers_find_their_requests() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        answers: dict[int, Any] = {}

        async def submit(number: int) -> None:
            try:
                job = await session.submit("echo" if number % 2 else "none", number)
                answers[number] = await job.result()
            except AgentNotAvailable as error:
                answers[number] = error.code

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(submit, number)
        assert answers == {n: n if n % 2 else "AGENT_NOT_AVAILABLE" for n in range(50)}


async def test_a_submit_that_was_cancelled_is_carried_out() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await session.submit("flood", {"events": 1000})
        await until(lambda: len(state_of(there.runtime).jobs) == 1 and not state_of(there.runtime).unfinished)
        assert await (await session.submit("echo", 1)).result() == 1


# Events.


async def test_events_come_in_order_and_end(kind: str) -> None:
    async with place(kind) as there, connect(there.target, TOKEN) as session:
        job = await session.submit("stage", 100)
        events = [event async for event in job]
        assert phases(events) == [str(number) for number in range(100)]
        assert [event.seq for event in events] == list(range(1, 101))
        assert {event.job_id for event in events} == {job.id}
        assert (job.events_received, job.events_dropped, job.final_status) == (101, 0, "success")
        assert [event async for event in job] == []
        assert await job.result() == 100


async def test_events_wait_for_their_iterator() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit("stage", 10)
        await until(lambda: job.final_status is not None)
        assert phases([event async for event in job]) == [str(number) for number in range(10)]


async def test_a_loop_that_was_left_goes_on_in_the_next() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit("stage", 10)
        first = []
        async for event in job:
            first.append(event)
            if len(first) == 4:
                break
        rest = [event async for event in job]
        assert phases(first + rest) == [str(number) for number in range(10)]


async def test_events_that_wait_do_not_keep_others_from_running(kind: str) -> None:
    turns: list[int] = []

    async def count() -> None:
        while True:
            turns.append(len(turns))
            await anyio.lowlevel.checkpoint()

    async with place(kind) as there, connect(there.target, TOKEN) as session:
        job = await session.submit("flood", {"events": 320})
        await until(lambda: job.final_status is not None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            await anyio.lowlevel.checkpoint()
            before, seen = len(turns), 0
            async for event in job:
                seen += 1
                spend(0.0002)
                assert session.cursor == event.seq - 1
            assert (seen, len(turns) - before > 5) == (320, True)
            tasks.cancel_scope.cancel()


async def test_a_loop_that_is_cancelled_goes_on_in_the_next(kind: str) -> None:
    async with place(kind) as there, connect(there.target, TOKEN) as session:
        job = await session.submit("flood", {"events": 320})
        await until(lambda: job.final_status is not None)
        seen: list[int] = []
        while len(seen) < 320:
            with anyio.CancelScope() as scope:
                async for event in job:
                    seen.append(event.seq)
                    spend(0.0002)
                    if len(seen) % 10 == 0:
                        scope.cancel()
        assert seen == list(range(1, 321))


async def test_a_loop_that_waits_and_is_cancelled_is_over(kind: str) -> None:
    async with place(kind) as there, connect(there.target, TOKEN) as session:
        job = await session.submit("sleep")
        events = aiter(job)
        assert (await anext(events)).body["phase"] == "asleep"
        for _ in range(2):
            with anyio.move_on_after(0.01) as scope:
                await anext(events)
            assert scope.cancelled_caught
        with anyio.move_on_after(0.01):
            async for _ in job:
                raise AssertionError("it is asleep")
        with pytest.raises(RuntimeError, match="by another loop"):
            await anext(events)


async def test_one_iterator_at_a_time() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit("stage", 3)
        iterator = aiter(job)
        with pytest.raises(RuntimeError, match="observe the job in another session"):
            aiter(job)
        assert (await anext(iterator)).body == {"phase": "0"}
        del iterator
        gc.collect()
        assert phases([event async for event in job]) == ["1", "2"]


async def test_several_jobs_are_iterated_side_by_side(kind: str) -> None:
    async with place(kind) as there, connect(there.target, TOKEN) as session:
        seen: dict[str, list[str]] = {}

        async def follow(job: Job) -> None:
            seen[job.id] = phases([event async for event in job])

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(follow, await session.submit("stage", 50))
        assert list(seen.values()) == [[str(number) for number in range(50)]] * 5


async def test_the_result_alone_drops_the_events() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit("stage", 100)
        assert await job.result() == 100
        assert (job.events_received, job.events_dropped) == (101, 100)
        assert [event async for event in job] == []
        assert await job.result() == 100


async def test_the_result_inside_the_loop_ends_the_loop() -> None:
    async with place() as there, connect(there.target, TOKEN, buffer_size=1000) as session:
        job = await session.submit("stage", 500)
        seen = 0
        async for _ in job:
            seen += 1
            assert await job.result() == 500
        assert seen == 1


async def test_the_result_beside_a_loop_leaves_it_alone() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit("stage", 100)
        results = []

        async def wait() -> None:
            results.append(await job.result())

        async with anyio.create_task_group() as tasks:
            events = aiter(job)
            await anext(events)
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            rest = [event async for event in events]
        assert (len(rest), results) == (99, [100])


async def test_a_job_that_is_not_iterated_keeps_the_newest_events() -> None:
    async with place() as there, connect(there.target, TOKEN, buffer_size=10_000) as session:
        job = await session.submit("flood", {"events": 1000, "size": 100})
        await until(lambda: job.final_status is not None)
        events = [event async for event in job]
        assert 10 < len(events) < 50
        assert job.events_dropped == 1000 - len(events)
        assert [event.seq for event in events] == list(range(1001 - len(events), 1001))


# Slow readers.


async def test_an_iterator_may_be_collected_on_any_thread() -> None:
    """Check that the events that the iterator held back continue, though nothing else wakes the loop."""
    async with place("websocket") as there, connect(there.target, TOKEN, buffer_size=1000) as session:
        job = await session.submit("flood", {"events": 10_000, "size": 1000})
        events = aiter(job)
        await anext(events)
        emitted = -1
        while emitted != there.counters.emitted:
            emitted = there.counters.emitted
            await anyio.sleep(0.1)
        cycle: list[Any] = [events]
        cycle.append(cycle)
        collecting = threading.Timer(0.2, gc.collect)
        gc.disable()
        try:
            del events, cycle
            collecting.start()
            with anyio.fail_after(20):
                await job.wait()
        finally:
            gc.enable()
            collecting.join()
        assert job.final_status == "success"


async def test_a_slow_reader_holds_back_the_agent(kind: str) -> None:
    async with (
        place(kind) as there,
        connect(there.target, TOKEN, buffer_size=400_000) as session,
        connect(there.target, TOKEN) as other,
    ):
        job = await session.submit("flood", {"events": 20_000, "size": 1000})
        count = 0
        async for event in job:
            if count == 0:
                emitted = -1
                while emitted != there.counters.emitted:
                    emitted = there.counters.emitted
                    await anyio.sleep(0.3)
                assert 0 < emitted < 20_000
                assert await (await other.submit("echo", 1)).result() == 1
            count += not told_of_back_pressure(event)
        assert count == there.counters.emitted == 20_000
        assert job.events_dropped == 0


async def test_a_full_buffer_holds_back_no_answer() -> None:
    async with place() as there, connect(there.target, TOKEN, buffer_size=1000) as session:
        job = await session.submit("flood", {"events": 10_000, "size": 1000})
        flood = state_of(there.runtime).jobs[JobId(job.id)]
        async for event in job:
            await until(lambda: flood.paused)  # All that may be on its way is full of events.
            assert await (await session.submit("echo", event.seq)).result() == event.seq
            await job.cancel("enough")
            break
        assert job.final_status == "cancelled"


async def test_a_user_that_waits_for_an_answer_holds_a_bounded_number_of_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arcp_io.client.job.OVERFLOW", 100_000)
    async with place() as there, connect(there.target, TOKEN, buffer_size=1000) as session:
        job = await session.submit("flood", {"events": 10_000, "size": 1000})
        async for _ in job:
            with anyio.move_on_after(0.5):
                await job.cancel()
            assert there.counters.emitted < 5_000
            monkeypatch.undo()
            break
        await job.cancel()
        assert job.final_status == "cancelled"


async def test_a_slow_reader_of_one_job_does_not_stop_another() -> None:
    async with place() as there, connect(there.target, TOKEN, buffer_size=1_000_000) as session:
        slow = await session.submit("flood", {"events": 100, "size": 1000})
        async for _ in slow:
            fast = await session.submit("stage", 100)
            assert len([event async for event in fast if not told_of_back_pressure(event)]) == 100


async def test_processed_events_are_acked() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit("stage", 100)
        kept = state_of(there.runtime).sessions[session.id].log
        async for event in job:
            if event.seq == 50:
                await until(lambda: kept.first == 50)
        await until(lambda: kept.first == 102)
        job = await session.submit("stage", 100)
        await job.result()
        await until(lambda: kept.first == 203)


# Ends.


async def test_cancel_by_a_refusal() -> None:
    async with (
        place() as there,
        connect(there.target, TOKEN) as session,
        connect(there.target, TOKEN) as mine,
        connect(there.target, "other") as of_bob,
    ):
        job = await session.submit("sleep")
        for other, code in ((mine, "PERMISSION_DENIED"), (of_bob, "JOB_NOT_FOUND")):
            with pytest.raises(ArcpError) as caught:
                await other._cancel(job, "not mine")
            assert (caught.value.code, caught.value.job_id) == (code, job.id)
        assert job.final_status is None


async def test_several_cancels_of_one_job() -> None:
    async with place() as there, connect(there.target, TOKEN) as session:
        job = await session.submit("sleep")
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(job.cancel, str(number))
        with pytest.raises(JobCancelled, match=r"cancelled by the client: \d"):
            await job.result()
        assert there.counters.cancelled == 1


async def test_a_connection_that_is_lost(kind: str) -> None:
    async with (
        doomed_place(kind) as (there, life),
        connect(there.target, TOKEN, reconnect=False) as session,
    ):
        job = await session.submit("sleep")
        other = await session.submit("sleep")
        seen = []
        results = []

        async def wait(call: Any) -> None:
            with pytest.raises(ConnectionLost) as caught:
                await call
            results.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, other.result())
            with pytest.raises(ConnectionLost):
                async for event in job:
                    seen.append(event.kind)
                    life.cancel()
                    tasks.start_soon(wait, session.submit("echo"))
                    tasks.start_soon(wait, job.cancel())
        assert seen[0] == "status"
        assert len(results) == 3
        assert len({id(error) for error in results}) == 3
        assert [error.retryable for error in results] == [True] * 3
        for call in (job.result(), job.cancel(), session.submit("echo"), other.result()):
            with pytest.raises(ConnectionLost):
                await call
        assert job.final_status is None
        await session.close()


async def test_a_runtime_that_shuts_down(kind: str) -> None:
    async with place(kind) as there, connect(there.target, TOKEN, reconnect=False) as session:
        job = await session.submit("sleep")
        async for _ in job:
            break
        await there.server.shut_down(0)
        with pytest.raises(InternalError, match="the runtime is shutting down"):
            await job.result()
        await until(lambda: session.lost is not None)
        with pytest.raises(ConnectionLost, match=r"the connection was (ended by the runtime|cut)"):
            await session.submit("echo")


# Child processes.


async def test_a_runtime_in_a_child(runner: str) -> None:
    command = [sys.executable, "-m", "tests.io.apps", runner]
    async with connect_stdio(command, TOKEN) as session:
        job = await session.submit("flood", {"events": 1000})
        assert len([event async for event in job]) == 1000
        assert await (await session.submit("large", 100_000)).result() == "y" * 100_000
        job = await session.submit("sleep")
        async for _ in job:
            await job.cancel()
        assert job.final_status == "cancelled"


async def test_a_child_process_that_is_not_a_runtime_raises() -> None:
    with pytest.raises(ConnectionLost):
        async with connect_stdio([sys.executable, "-c", "print('hello')"], TOKEN):
            pytest.fail("there is no session")
    with pytest.raises(OSError):
        async with connect_stdio(["/nonexistent/command"], TOKEN):
            pytest.fail("there is no session")


async def test_a_subscribe_that_was_given_up_is_taken_back(kind: str) -> None:
    """Check that the answer of a subscribe whose caller was cancelled undoes the subscription."""
    async with (
        place(kind) as there,
        connect(there.target, TOKEN) as owner,
        connect(there.target, TOKEN) as session,
    ):
        job = await owner.submit("sleep")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.subscribe, job.id)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        observers = state_of(there.runtime).jobs[JobId(job.id)].observers
        await until(lambda: observers)
        await until(lambda: not observers)


async def until(done: Any) -> None:
    with anyio.fail_after(10):
        while not done():
            await anyio.lowlevel.checkpoint()
