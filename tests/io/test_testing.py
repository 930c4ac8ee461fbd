"""`arcp_io.testing`: a runtime in memory, its clock, its connections, and its checks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

import anyio
import pytest

from arcp_io import App, BlockingJobContext, JobContext, Session, SqliteJournal, connect
from arcp_io.client.job import Event
from arcp_io.errors import ConnectionLost
from arcp_io.testing import (
    ManualClock,
    MemoryRuntime,
    check_positions,
    open_blocking_runtime,
    open_runtime,
)
from arcp_io.testing.ending import Ending
from arcp_io.testing.runtime import MemoryRuntime as Defined
from arcp_proto import JobEvent
from tests.io.apps import TOKEN, Counters, make_app

START = datetime(2026, 1, 1, tzinfo=UTC)


def app_of_purchases() -> App:
    """Return an App whose agents spend, and run in a thread."""
    app = App(name="tests", version="1", anonymous=True)

    @app.agent("buy")
    async def buy(job: JobContext, amounts: list[str]) -> None:
        for amount in amounts:
            async with job.reserve("USD", amount) as hold:
                hold.settle(amount, "cost.buy")

    @app.agent("thread")
    def thread(job: BlockingJobContext, input: Any) -> bool:
        job.log("info", "in a thread")
        return get_ident() != input

    return app


async def last_of(events: Any) -> list[Event]:
    """Return all events of an iteration."""
    return [event async for event in events]


@pytest.mark.anyio
async def test_a_job_runs_while_time_stands_still() -> None:
    async with open_runtime(make_app()) as runtime, runtime.connect(TOKEN) as session:
        assert runtime.clock.now() == runtime.clock.now()
        job = await session.submit("flood", {"events": 30})
        events = await last_of(job)
        check_positions(events)
        assert len(events) == 30
        assert [event.job_seq for event in await runtime.events(job)] == [event.job_seq for event in events]
        assert await runtime.ending(job) == Ending("success", None, None, {})


@pytest.mark.anyio
async def test_a_limit_of_time_is_kept_to_the_millisecond() -> None:
    async with open_runtime(make_app()) as runtime, runtime.connect(TOKEN) as session:
        job = await session.submit("sleep", max_runtime=3600)
        await runtime.wait_for(job, "status")
        await runtime.advance(3599.999)
        assert not job.over
        await runtime.advance(timedelta(milliseconds=1))
        assert (await runtime.ending(job)).code == "TIMEOUT"
        assert session.state == "attached"


@pytest.mark.anyio
async def test_a_lease_expires_by_the_clock() -> None:
    async with open_runtime(make_app()) as runtime, runtime.connect(TOKEN) as session:
        await runtime.advance(7200)  # The client counts from the time of the clock too.
        job = await session.submit("sleep", expires_at=timedelta(seconds=60))
        await runtime.wait_for(job, "status")
        await runtime.advance(60)
        assert not job.over  # An idle job is stopped a second later.
        await runtime.advance(1)
        assert (await runtime.ending(job)).code == "LEASE_EXPIRED"


@pytest.mark.anyio
async def test_the_wall_clock_begins_where_a_test_says() -> None:
    clock = ManualClock(START)
    async with open_runtime(make_app(), clock=clock) as runtime, runtime.connect(TOKEN) as session:
        await runtime.advance(90)
        job = await session.submit("echo", 1)
        assert job.accepted_at is not None
        assert job.accepted_at.startswith("2026-01-01T00:01:30")


@pytest.mark.anyio
async def test_a_silent_connection_is_noticed_by_heartbeats() -> None:
    app = make_app()
    async with open_runtime(app) as runtime, runtime.connect(TOKEN) as session:
        await runtime.advance(3600)
        assert (session.state, runtime.server.counts().connections) == ("attached", 1)
        runtime.latency = 100_000.0
        await runtime.advance(120)
        assert session.state == "detached"


@pytest.mark.anyio
async def test_a_cut_connection_is_resumed_without_a_gap() -> None:
    async with open_runtime(make_app()) as runtime, runtime.connect(TOKEN) as session:
        before = session.id
        job = await session.submit("flood", {"events": 200})
        events: list[Event] = []
        async for event in job:
            events.append(event)
            if len(events) % 50 == 0:
                assert runtime.cut() == 1
                await runtime.advance(60)  # A client that is cut off again and again waits in between.
        check_positions(events)
        assert (len(events), session.id) == (200, before)


@pytest.mark.anyio
async def test_a_job_runs_while_its_client_is_away() -> None:
    async with open_runtime(make_app()) as runtime, runtime.connect(TOKEN) as session:
        job = await session.submit("sleep")
        await runtime.wait_for(job, "status")
        with runtime.unreachable():
            await runtime.advance(30)
            assert session.state == "detached"
            assert runtime.server.cancel(job.id)
            assert (await runtime.ending(job)).status == "cancelled"
            assert not job.over
            with pytest.raises(ConnectionRefusedError):
                async with connect(runtime, TOKEN):
                    raise AssertionError("the runtime is unreachable")
        await runtime.advance(60)
        assert session.state == "attached"
        check_positions(await last_of(job))


@pytest.mark.anyio
async def test_a_session_is_lost_beyond_its_window() -> None:
    app = make_app()
    async with open_runtime(app) as runtime, runtime.connect(TOKEN, give_up=50) as session:
        job = await session.submit("sleep")
        with runtime.unreachable():
            await runtime.advance(49)
            assert session.state == "detached"
            await runtime.advance(2)
        assert session.state == "lost"
        with pytest.raises(ConnectionLost):
            await job.result()


@pytest.mark.anyio
async def test_messages_take_their_time_and_keep_their_order() -> None:
    async with open_runtime(make_app()) as runtime, runtime.connect(TOKEN) as session:
        job = await session.submit("sleep")
        runtime.latency = 5.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.cancel)
            await runtime.advance(0)
            runtime.latency = 0.0
            tasks.start_soon(partial(session.submit, "echo", 1))
            await runtime.advance(4.9)
            assert [one.agent for one in runtime.server.jobs(finished=True)] == ["sleep"]
            await runtime.advance(0.1)
            assert {one.agent for one in runtime.server.jobs(finished=True)} == {"sleep", "echo"}
        assert job.final_status == "cancelled"
        with pytest.raises(ValueError, match="0 seconds or more"):
            runtime.latency = -1


@pytest.mark.anyio
async def test_large_results_arrive_over_a_slow_line() -> None:
    results: list[int] = []

    async def run(session: Session) -> None:
        results.append(len(await (await session.submit("large", 3_000_000)).result()))

    async with (
        open_runtime(make_app(), capacity=1024) as runtime,
        runtime.connect(TOKEN) as session,
        anyio.create_task_group() as tasks,
    ):
        runtime.latency = 0.5
        tasks.start_soon(run, session)
        await runtime.advance(25)
    assert results == [3_000_000]


@pytest.mark.anyio
async def test_a_budget_is_counted() -> None:
    async with open_runtime(app_of_purchases()) as runtime, runtime.connect() as session:
        job = await session.submit("buy", ["0.30", "0.45"], budget="USD:1.00")
        assert await runtime.ending(job) == Ending("success", None, None, {"USD": Decimal("0.75")})
        job = await session.submit("buy", ["0.30", "0.80"], budget="USD:1.00")
        ending = await runtime.ending(job)
        assert (ending.status, ending.code) == ("error", "BUDGET_EXHAUSTED")
        assert ending.spent == {"USD": Decimal("0.30")}


@pytest.mark.anyio
async def test_waiting_for_an_event_says_why_it_does_not_come() -> None:
    async with open_runtime(make_app()) as runtime, runtime.connect(TOKEN) as session:
        job = await session.submit("flood", {"events": 3})
        third = await runtime.wait_for(job, "log", lambda event: event.body["message"].startswith("2"))
        assert third.job_seq == 3
        assert (await runtime.wait_for(job, "log", after=1)).job_seq == 2
        with pytest.raises(AssertionError, match="has ended as success; its events: log, log, log"):
            await runtime.wait_for(job, "progress")
        job = await session.submit("sleep")
        with pytest.raises(AssertionError, match="has not published it in 0 s; its events: "):
            await runtime.wait_for(job, "progress", timeout=0)
        with pytest.raises(AssertionError, match="has not ended in 0 s"):
            await runtime.ending(job, timeout=0)


@pytest.mark.anyio
async def test_a_second_runtime_goes_on_with_clock_and_journal(tmp_path: Path) -> None:
    clock, path = ManualClock(START), tmp_path / "journal"
    async with (
        open_runtime(make_app(), clock=clock, journal=SqliteJournal(path)) as runtime,
        runtime.connect(TOKEN) as session,
    ):
        job = await session.submit("echo", 1)
        assert await job.result() == 1
        await runtime.advance(100)
    with pytest.raises(RuntimeError, match="its runtime has ended"):
        await clock.advance(1)
    async with open_runtime(make_app(), clock=clock, journal=SqliteJournal(path)) as runtime:
        assert clock.unix() >= (START.timestamp() + 100) * 1e9
        assert [one.job_id for one in runtime.server.jobs(finished=True)] == [job.id]


@pytest.mark.anyio
async def test_a_clock_goes_forward_only() -> None:
    async with open_runtime(make_app()) as runtime:
        with pytest.raises(ValueError, match="0 seconds or more"):
            await runtime.advance(-1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runtime.advance, 1)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            with pytest.raises(RuntimeError, match="advanced already"):
                await runtime.advance(1)
    with pytest.raises(ValueError, match="aware datetime"):
        ManualClock(datetime(2026, 1, 1))


@pytest.mark.anyio
async def test_a_block_with_a_running_job_ends_by_itself() -> None:
    counts = Counters()
    async with open_runtime(make_app(counters=counts)) as runtime, runtime.connect(TOKEN) as session:
        runtime.latency = 3.0
        job = None

        async def submit() -> None:
            nonlocal job
            job = await session.submit("sleep")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            await runtime.advance(10)
        assert job is not None
        await runtime.wait_for(job, "status")
    assert counts.cancelled == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_without_await(backend: str) -> None:
    with open_blocking_runtime(app_of_purchases(), backend=backend) as runtime:
        with runtime.connect() as session:
            job = session.submit("thread", get_ident())
            assert runtime.wait_for(job, "log").body["message"] == "in a thread"
            check_positions(job)
            assert job.result(timeout=60) is True
            assert runtime.cut() == 1
            with runtime.unreachable():
                runtime.advance(1)
                assert session.state == "detached"
            runtime.advance(60)
            assert session.state == "attached"
            runtime.latency = 0.0
            job = session.submit("buy", ["0.30"], budget="USD:1.00")
            assert runtime.ending(job).spent == {"USD": Decimal("0.30")}
            assert [event.kind for event in runtime.events(job)][:1] == ["metric"]
            assert runtime.latency == 0.0
        with pytest.raises(ConnectionLost):
            session.submit("thread")


def events_at(*positions: int | None) -> list[Event]:
    """Return events with these positions."""
    return [JobEvent("j", 0, "log", "", {}, job_seq=one) for one in positions]


@pytest.mark.parametrize(
    ("positions", "first", "problem"),
    [
        ((1, 2, 4, 6), 1, "missing: 3, 5"),
        ((1, 2, 2, 3), 1, "repeated: 2"),
        ((2, 3), 1, "missing: 1"),
        ((2, 3), 3, "before 3: 2"),
        ((1, 3, 2), 1, "not in order: 1, 3, 2"),
        ((1, None), 1, "have no position"),
    ],
)
def test_positions_that_are_wrong_are_named(
    positions: tuple[int | None, ...], first: int, problem: str
) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_positions(events_at(*positions), first)


def test_positions_that_are_right_pass() -> None:
    check_positions(events_at(1, 2, 3))
    check_positions(events_at(4, 5), 4)
    check_positions([])


def test_the_names_are_those_of_their_modules() -> None:
    assert MemoryRuntime is Defined
