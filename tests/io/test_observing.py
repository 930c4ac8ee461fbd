"""Observations and descriptions of jobs, by clients and by the program that serves, with real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from arcp_io import SqliteJournal, sync
from arcp_io.agents.context import JobContext
from arcp_io.client.connect import connect
from arcp_io.client.job import Event
from arcp_io.errors import (
    ConnectionLost,
    HistoryCut,
    JobNotFound,
    LocalProtocolError,
    PermissionDenied,
)
from arcp_io.observation import Observation
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.features import Feature
from tests.io.apps import TOKEN, make_app
from tests.io.proxy import Proxy, proxy

pytestmark = pytest.mark.anyio


class Place(NamedTuple):
    server: Server
    proxy: Proxy
    url: str
    step: anyio.Event


@asynccontextmanager
async def place(journal: Path | None = None, **limits: Any) -> AsyncIterator[Place]:
    """Serve the agent `count`, which publishes the first half of its numbers, and the rest after a step."""
    app, step = make_app(**limits), anyio.Event()

    @app.agent("count")
    async def count(job: JobContext, input: int) -> dict[str, int]:
        for number in range(input):
            if number == input // 2:
                await step.wait()
            if number % 2:
                await job.log("info", str(number))
            else:
                await job.progress(number, input)
        return {"n": input}

    store = None if journal is None else SqliteJournal(journal)
    async with serve(app, port=0, journal=store) as server, proxy(server.url) as between:
        yield Place(server, between, between.url, step)


async def positions(observation: Observation) -> list[int | None]:
    return [event.job_seq async for event in observation]


async def test_observations_are_independent_of_each_other_and_of_the_submitter() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("count", 400)
        found: dict[int, list[int | None]] = {}

        async def observe(number: int) -> None:
            observation = session.observe(job.id, number)
            found[number] = await positions(observation)
            assert observation.end is not None and observation.end.result == {"n": 400}
            assert (observation.position, observation.history_from) == (401, None)

        async with anyio.create_task_group() as tasks:
            for number in (0, 1, 50, 399, 400):
                tasks.start_soon(observe, number)
            await anyio.sleep(0.05)
            there.step.set()
            assert [event.job_seq async for event in job] == list(range(1, 401))
        assert found == {number: list(range(number + 1, 401)) for number in found}
        assert len(found) == 5


async def test_more_observations_than_may_read_at_a_time_all_get_everything() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("count", 20)
        found: list[list[int | None]] = []

        async def observe() -> None:
            found.append(await positions(session.observe(job.id)))

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(observe)
            await anyio.sleep(0.1)
            assert (await session.describe(job.id)).status == "running", "other requests find room"
            there.step.set()
        assert found == [list(range(1, 21))] * 300


async def test_an_observation_goes_on_after_cuts() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("count", 200)
        seen: list[int | None] = []
        async for event in session.observe(job.id):
            seen.append(event.job_seq)
            if len(seen) in (10, 60, 99, 100):
                there.proxy.cut()
            if len(seen) == 100:
                there.step.set()
        assert seen == list(range(1, 201))
        assert await job.result() == {"n": 200}


async def test_a_slow_observer_holds_back_no_other_reader() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        there.step.set()
        job = await session.submit("count", 3_000)
        slow = aiter(session.observe(job.id))
        assert (await anext(slow)).job_seq == 1
        assert await job.result() == {"n": 3_000}
        assert len(await positions(session.observe(job.id))) == 3_000
        assert [event.job_seq async for event in slow] == list(range(2, 3_001))


async def test_an_observation_of_some_kinds_and_one_without_follow() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("count", 20)
        await until_position(session.describe, job.id, 10)
        so_far = session.observe(job.id, follow=False)
        assert await positions(so_far) == list(range(1, 11)) and so_far.end is None
        there.step.set()
        logs = session.observe(job.id, kinds="log")
        assert [(event.kind, event.job_seq) async for event in logs] == [
            ("log", place) for place in range(2, 21, 2)
        ]
        assert logs.end is not None
        assert await positions(session.observe(job.id, kinds=["log", "progress"])) == list(range(1, 21))
        assert await positions(session.observe(job.id, 21)) == []


async def test_a_history_that_was_cut_is_told() -> None:
    async with place(max_history_events=50) as there, connect(there.url, TOKEN) as session:
        there.step.set()
        job = await session.submit("count", 200)
        await job.wait()
        late = session.observe(job.id)
        seen = await positions(late)
        assert late.history_from == seen[0] and seen == list(range(seen[0] or 0, 201))
        assert (await session.describe(job.id)).history_from_job_seq == seen[0]


async def test_events_that_are_cut_off_under_way_are_told() -> None:
    async with (
        place(max_history_events=50, max_page_events=10) as there,
        connect(there.url, TOKEN) as session,
    ):
        job = await session.submit("count", 300)
        await until_position(session.describe, job.id, 150)
        slow = session.observe(job.id, 140)
        seen = [(await anext(slow)).job_seq]
        there.step.set()
        await job.wait()
        seen += [(await anext(slow)).job_seq for _ in range(9)]
        with pytest.raises(HistoryCut) as caught:
            await anext(slow)
        rest = await positions(slow)
        assert seen == list(range(141, 151))
        assert caught.value.details == {"last_seq": 150, "history_from": rest[0]}
        assert rest == list(range(rest[0] or 0, 301)) and slow.end is not None


async def test_a_job_that_may_not_be_seen_is_not_found() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        with pytest.raises(JobNotFound):
            await session.describe("job_unknown")
        with pytest.raises(JobNotFound):
            await positions(session.observe("job_unknown"))
        job = await session.submit("count", 2)
        async with connect(there.url, "other") as other:
            there.server.set_observers({"bob": {"alice": "list"}})
            with pytest.raises(PermissionDenied):
                await other.describe(job.id)
            there.server.set_observers({"bob": {"alice": "observe"}})
            observation = aiter(other.observe(job.id))
            assert (await anext(observation)).job_seq == 1
            there.server.set_observers({})
            with pytest.raises(JobNotFound):
                await anext(observation)


async def test_a_runtime_of_another_make_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with place() as there:
        state = state_of(there.server.runtime)
        monkeypatch.setattr(state, "features", tuple(set(state.features) - {Feature.READING}))
        async with connect(there.url, TOKEN) as session:
            with pytest.raises(LocalProtocolError, match="does not offer"):
                await session.describe("job_1")
            with pytest.raises(LocalProtocolError, match="does not offer"):
                await positions(session.observe("job_1"))


async def test_the_server_observes_and_describes(tmp_path: Path) -> None:
    async with place(tmp_path / "journal") as there, connect(there.url, TOKEN) as session:
        job = await session.submit("count", 100)
        found: list[list[int | None]] = []

        async def observe(after: int) -> None:
            observation = there.server.observe(job.id, after)
            found.append(await positions(observation))
            assert observation.end is not None and observation.end.result == {"n": 100}

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(observe, 0)
            tasks.start_soon(observe, 70)
            await anyio.sleep(0.05)
            there.step.set()
        assert sorted(found) == [list(range(1, 101)), list(range(71, 101))]
        described = there.server.describe(job.id)
        assert described is not None and described.end is not None and described.end.result_size == 9
        assert described == await session.describe(job.id)
        assert there.server.describe("job_unknown") is None
        with pytest.raises(JobNotFound):
            await positions(there.server.observe("job_unknown"))


async def test_observations_end_with_the_server() -> None:
    async with place() as there, connect(there.server.url, TOKEN, reconnect=False) as session:
        job = await session.submit("count", 100)
        inside = aiter(there.server.observe(job.id, 50))

        async def shut_down() -> None:
            await anyio.sleep(0.05)
            await there.server.shut_down(0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shut_down)
            seen = [event async for event in inside]
            assert seen == [], "the job was cancelled, and its end has come"
        with pytest.raises(ConnectionLost, match="the server has ended"):
            await anext(there.server.observe(job.id))


async def until_position(describe: Any, job_id: str, position: int) -> None:
    while (await describe(job_id)).job_seq < position:
        await anyio.sleep(0.01)


async def test_a_blocking_session_observes_and_describes() -> None:
    async with place() as there:
        there.step.set()

        def follow() -> tuple[list[Event], Observation | sync.Observation, str]:
            with sync.connect(there.url, TOKEN) as session:
                job = session.submit("count", 10)
                observation = session.observe(job.id)
                events = list(observation)
                return events, observation, session.describe(job.id).status

        events, observation, status = await anyio.to_thread.run_sync(follow)
        assert [event.job_seq for event in events] == list(range(1, 11))
        assert observation.end is not None and observation.end.final_status == status == "success"
        assert (observation.position, observation.history_from) == (11, None)
