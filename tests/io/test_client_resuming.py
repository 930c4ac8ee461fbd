"""Sessions that are cut: resumed without a duplicate or a hole, watched, lost, kept for the next process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute

from arcp_io.agents.context import JobContext
from arcp_io.client.connect import connect
from arcp_io.client.dial import WebSocket
from arcp_io.client.job import Event, Job
from arcp_io.client.session import Session
from arcp_io.client.store import FileStore, MemoryStore
from arcp_io.errors import (
    ConnectionLost,
    HistoryCut,
    JobLost,
    ResultIncomplete,
    SessionLost,
    StoreInUse,
)
from arcp_io.server.server import Server, serve
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Detached, Welcomed
from arcp_proto.engine.output import JobLost as JobLostChange
from arcp_proto.engine.output import SessionLost as SessionLostChange
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import Limits
from tests.io.apps import TOKEN, Counters, make_app
from tests.io.conftest import on_every_loop
from tests.io.proxy import Proxy, proxy
from tests.io.test_client import told_of_back_pressure, until

pytestmark = pytest.mark.anyio


class Place:
    """A server behind a proxy."""

    def __init__(self, server: Server, between: Proxy, counters: Counters, step: anyio.Event) -> None:
        self.server = server
        self.proxy = between
        self.counters = counters
        self.step = step
        self.runtime = server.runtime

    @property
    def url(self) -> str:
        return self.proxy.url


@asynccontextmanager
async def place(
    *, cuts: int = 0, span: tuple[int, int] = (1, 20_000), seed: int = 0, window: int = 600, **limits: Any
) -> AsyncIterator[Place]:
    counters, step = Counters(), anyio.Event()
    app = make_app(counters=counters, **limits)
    app.resume_window = window

    @app.agent("halves")
    async def halves(job: JobContext, input: Any) -> str:
        """Publish the first numbers (half of them, or as many as asked), and the rest after `step` is set."""
        first, total = input if isinstance(input, list) else (input // 2, input)
        for number in range(total):
            if number == first:
                await step.wait()
            await job.status(str(number))
        if first == total:
            await step.wait()
        return "done"

    @app.agent("streams")
    async def streams(job: JobContext, input: Any) -> None:
        """Stream the result: ten pieces, and the others after `step` is set."""
        async with job.stream_result() as out:
            for number in range(input):
                if number == 10:
                    await step.wait()
                await out.write(f"piece {number} ")

    async with (
        serve(app, port=0) as server,
        proxy(server.url, cuts=cuts, span=span, seed=seed) as between,
    ):
        yield Place(server, between, counters, step)


def numbers(events: list[Event]) -> list[int]:
    """Return the numbers in the events of `flood` and `halves`."""
    return [
        int(str(event.body.get("message", event.body.get("phase"))).split()[0])
        for event in events
        if not told_of_back_pressure(event)
    ]


async def follow(job: Job) -> list[Event]:
    return [event async for event in job]


# Cut and resumed.


@on_every_loop
@pytest.mark.parametrize("seed", [0, 1, 3])
async def test_events_come_exactly_once_wherever_the_connection_is_cut(seed: int) -> None:
    async with (
        place(cuts=40, span=(1, 9_000), seed=seed) as there,
        connect(there.url, TOKEN, wait=True) as session,
    ):
        changes = session.watch()
        first, session_id = await session.submit("flood", {"events": 3000}), session.id
        second = await session.submit("flood", {"events": 1000, "size": 300})
        seen: dict[str, list[int]] = {}

        async def count(job: Job) -> None:
            seen[job.id] = numbers(await follow(job))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count, first)
            tasks.start_soon(count, second)
        assert seen == {first.id: list(range(3000)), second.id: list(range(1000))}
        assert [await first.result(), await second.result()] == [None, None]
        assert there.proxy.connections > 40 - there.proxy.cuts_left > 10
        assert (session.id, session.state) == (session_id, "attached")
        assert len(state_of(there.runtime).sessions) == 1
        await session.close()
        kinds = [type(change) async for change in changes]
        assert kinds.count(Detached) == kinds.count(Welcomed) > 5


async def test_streamed_results_are_whole() -> None:
    async with (
        place(cuts=20, span=(1, 60_000)) as there,
        connect(there.url, TOKEN, wait=True) as session,
    ):
        for _ in range(3):
            job = await session.submit("large", 400_000)
            assert await job.result() == "y" * 400_000


async def test_each_request_is_carried_out_once() -> None:
    async with (
        place(cuts=60, span=(1, 2_500)) as there,
        connect(there.url, TOKEN, wait=True) as session,
    ):
        results: list[int] = []

        async def submit(number: int) -> None:
            job = await session.submit("echo", number)
            results.append(await job.result())

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(submit, number)
        assert sorted(results) == list(range(60))
        assert len(state_of(there.runtime).jobs) == 60


async def test_cut_and_resuming_is_neither_finished_nor_lost() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        changes = session.watch()
        job = await session.submit("halves", 10)
        events = aiter(job)
        seen = [await anext(events) for _ in range(5)]
        there.proxy.refusing = True
        there.proxy.cut()
        detached = await anext(changes)
        assert isinstance(detached, Detached)
        assert (detached.session_id, session.state, session.lost) == (session.id, "detached", None)
        there.step.set()
        with anyio.move_on_after(0.3) as waiting:
            await anext(events)
        assert waiting.cancelled_caught
        assert (job.final_status, session.state) == (None, "detached")
        there.proxy.refusing = False
        welcomed = await anext(changes)
        assert isinstance(welcomed, Welcomed)
        assert welcomed.resumed
        seen += [event async for event in events]
        assert numbers(seen) == list(range(10))
        assert await job.result() == "done"


async def test_requests_wait_while_it_is_cut() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        there.proxy.refusing = True
        there.proxy.cut()
        await until(lambda: session.state == "detached")
        results: list[int] = []

        async def submit(number: int) -> None:
            results.append(await (await session.submit("echo", number)).result())

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(submit, number)
            await anyio.wait_all_tasks_blocked()
            there.proxy.refusing = False
        assert sorted(results) == [0, 1, 2]


async def test_a_slow_reader_still_holds_back_after_a_cut() -> None:
    async with place() as there, connect(there.url, TOKEN, buffer_size=100_000) as session:
        job = await session.submit("flood", {"events": 6000, "size": 1000})
        seen: list[Event] = []
        async for event in job:
            if not seen:
                there.proxy.cut()
                await until(lambda: session.state == "attached" and there.proxy.connections == 2)
                received = -1
                while received != job.events_received:
                    received = job.events_received
                    await anyio.sleep(0.2)
                assert 0 < received < 2000
            seen.append(event)
        assert numbers(seen) == list(range(6000))
        assert job.events_dropped == 0


async def test_a_token_is_asked_for_at_every_connection() -> None:
    asked: list[int] = []

    async def token() -> str:
        asked.append(len(asked))
        await anyio.lowlevel.checkpoint()
        if len(asked) in (2, 3):
            raise RuntimeError("the vault is closed")
        return TOKEN

    async with place() as there, connect(there.url, token) as session:
        there.proxy.cut()
        await until(lambda: len(asked) == 4 and session.state == "attached")
        assert await (await session.submit("echo", 1)).result() == 1


async def test_a_dial_without_an_answer_is_given_up() -> None:
    async with place() as there, await anyio.create_tcp_listener(local_host="127.0.0.1") as deaf:
        port = deaf.extra(SocketAttribute.local_port)
        server = there.proxy.server
        async with connect(there.url, TOKEN, limits=Limits(hello_timeout_sec=1)) as session:
            there.proxy.server = ("127.0.0.1", port)
            there.proxy.cut()
            await until(lambda: there.proxy.connections == 2)
            there.proxy.server = server
            await until(lambda: session.state == "attached")
            assert there.proxy.connections > 2


async def test_resuming_can_be_switched_off() -> None:
    async with place() as there, connect(there.url, TOKEN, reconnect=False) as session:
        job = await session.submit("sleep")
        there.proxy.cut()
        with pytest.raises(ConnectionLost) as caught:
            await job.result()
        assert (type(caught.value), caught.value.job_id) == (ConnectionLost, job.id)
        assert (there.proxy.connections, session.state) == (1, "closed")


async def test_closing_while_it_is_cut() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        there.proxy.refusing = True
        there.proxy.cut()
        await until(lambda: session.state == "detached")
        await session.close("enough")
        assert (session.state, type(session.lost)) == ("closed", ConnectionLost)
        with pytest.raises(ConnectionLost):
            await session.submit("echo")


# Lost.


async def test_a_job_is_followed_beyond_the_window() -> None:
    async with place(window=1) as there, connect(there.url, TOKEN) as session:
        changes = session.watch()
        job = await session.submit("halves", 100)
        events = aiter(job)
        seen = [await anext(events) for _ in range(20)]
        first_id = session.id
        there.proxy.refusing = True
        there.proxy.cut()
        await until(lambda: not state_of(there.runtime).sessions)
        there.step.set()
        there.proxy.refusing = False
        told = [await anext(changes) for _ in range(3)]
        assert [type(change) for change in told] == [Detached, SessionLostChange, Welcomed]
        assert session.id != first_id
        seen += [event async for event in events]
        assert numbers(seen) == list(range(100))
        assert await job.result() == "done"
        assert session.lost is None


async def test_events_that_are_gone_are_not_passed_over_in_silence() -> None:
    async with (
        place(max_session_events=100, max_history_events=100) as there,
        connect(there.url, TOKEN) as session,
    ):
        job = await session.submit("halves", [50, 400])
        seen: list[Event] = []
        with pytest.raises(HistoryCut) as caught:
            async for event in job:
                seen.append(event)
                if len(seen) == 50:
                    there.proxy.refusing = True
                    there.proxy.cut()
                    there.step.set()
                    await until(lambda: not state_of(there.runtime).unfinished)
                    there.proxy.refusing = False
        first, rest = numbers(seen), numbers(await follow(job))
        assert first == list(range(50))
        assert rest == list(range(rest[0], 400))
        assert 250 < rest[0] < 350
        assert caught.value.job_id == job.id
        numbers_told = {"last_seq": seen[-1].seq, "history_from": job.history_from}
        assert caught.value.details.items() >= numbers_told.items()
        assert "the session cannot be resumed" in caught.value.details["reason"]
        assert await job.result() == "done"


async def test_a_job_that_cannot_be_followed_is_lost() -> None:
    async with place() as there, place() as other, connect(there.url, TOKEN) as session:
        changes = session.watch()
        job = await session.submit("sleep")
        there.proxy.server = other.proxy.server
        there.proxy.cut()
        told = [await anext(changes) for _ in range(4)]
        assert [type(change) for change in told] == [Detached, SessionLostChange, Welcomed, JobLostChange]
        with pytest.raises(JobLost, match=f"job {job.id} cannot be followed.*: no such job") as caught:
            async for event in job:
                assert event.kind == "status"
        assert (caught.value.job_id, caught.value.retryable) == (job.id, True)
        assert session.lost is None
        assert await (await session.submit("echo", 1)).result() == 1


async def test_a_session_whose_server_is_never_reached_again_is_lost() -> None:
    async with place() as there, connect(there.url, TOKEN, give_up=1) as session:
        changes = session.watch()
        job = await session.submit("sleep")
        there.proxy.refusing = True
        there.proxy.cut()
        await until(lambda: session.state == "detached")
        with pytest.raises(ConnectionLost):
            await session.submit("echo")
        with pytest.raises(JobLost) as caught:
            await follow(job)
        assert caught.value.job_id == job.id
        assert (session.state, type(session.lost)) == ("lost", SessionLost)
        kinds = [type(change) async for change in changes]
        assert kinds == [Detached, SessionLostChange, JobLostChange]
        for call in (session.submit("echo"), session.attach("job_else")):
            with pytest.raises(SessionLost, match="was not reached for 1 s"):
                await call


async def test_after_a_loss_every_call_raises_it() -> None:
    """Whichever of the two that wait for it has its turn first."""
    refused: list[SessionLost] = []

    async def submit(session: Session) -> None:
        with pytest.raises(SessionLost) as caught:
            await session.submit("echo")
        refused.append(caught.value)

    async def watch(session: Session) -> None:
        async for change in session.watch():
            if isinstance(change, SessionLostChange):
                await submit(session)

    async with place() as there, connect(there.url, TOKEN, give_up=1) as session:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, session)
            job = await session.submit("sleep")
            there.proxy.refusing = True
            there.proxy.cut()
            with pytest.raises(JobLost):
                await follow(job)
            await submit(session)
        assert len(refused) == 2


# Kept for the next process.


async def test_the_next_process_goes_on_where_the_last_one_stopped() -> None:
    store = MemoryStore()
    async with place() as there:
        seen: list[Event] = []
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("halves", 1000)
            async for event in job:
                seen.append(event)
                if len(seen) == 300:
                    break
            job_id, session_id = job.id, session.id
        kept = store.load()
        assert kept is not None
        assert (kept.session_id, [one.job_id for one in kept.jobs]) == (session_id, [job_id])
        there.step.set()
        async with connect(there.url, TOKEN, store=store) as session:
            assert (session.id, session.stored_jobs) == (session_id, [job_id])
            await anyio.sleep(0.1)
            job = await session.attach(job_id)
            assert session.stored_jobs == []
            rest = await follow(job)
            assert await job.result() == "done"
        assert rest[0].seq == seen.pop().seq  # The iterator was not asked for the event behind it.
        assert numbers(seen + rest) == list(range(1000))
        assert store.load() is None


@pytest.mark.parametrize("how", ["raise", "break", "cancel"])
async def test_an_event_whose_handling_fails_comes_again(how: str) -> None:
    store = MemoryStore()
    async with place() as there:
        there.step.set()
        seen: list[Event] = []
        with suppress(NameError):
            async with connect(there.url, TOKEN, store=store) as session:
                job_id = await read_up_to_the_fifth(await session.submit("halves", 20), seen, how)
                await anyio.sleep(0.3)
                assert session.cursor == 5
        async with connect(there.url, TOKEN, store=store) as session:
            (job_id,) = session.stored_jobs
            rest = await follow(await session.attach(job_id))
        assert numbers(seen + rest) == list(range(20))
        assert store.load() is None


async def read_up_to_the_fifth(job: Job, seen: list[Event], how: str) -> str:
    """Process five events, and fail at the sixth."""
    with anyio.CancelScope() as scope:
        async for event in job:
            if len(seen) < 5:
                seen.append(event)
            elif how == "raise":
                raise NameError
            elif how == "break":
                break
            else:
                scope.cancel()
                await anyio.sleep_forever()
    return job.id


async def test_a_loop_that_was_left_goes_on_behind_it() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        there.step.set()
        job = await session.submit("halves", 20)
        seen: list[Event] = []
        await read_up_to_the_fifth(job, seen, "break")
        assert numbers(await follow(job)) == list(range(6, 20))
        await until(lambda: session.cursor == 21)
        other = await session.submit("halves", 20)
        await read_up_to_the_fifth(other, [], "break")
        assert session.cursor == 26
        assert await other.result() == "done"
        assert session.cursor == 42


async def test_a_loop_that_was_left_for_good_does_not_hold_back_the_acks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arcp_proto.client.flow.PROCESSED_AFTER", SECOND // 5)
    async with place() as there, connect(there.url, TOKEN) as session:
        there.step.set()
        for _ in range(2):
            await read_up_to_the_fifth(await session.submit("halves", 6), [], "break")
            assert session.cursor % 7 == 5
            await until(lambda: session.cursor % 7 == 0)


async def test_a_wait_for_a_loop_that_was_left_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arcp_proto.client.flow.PROCESSED_AFTER", SECOND // 20)
    async with place() as there, connect(there.url, TOKEN) as session:
        there.step.set()
        job = await session.submit("halves", 6)
        await read_up_to_the_fifth(job, [], "break")
        await until(lambda: job._inbox.taken > 0)
        await until(lambda: job._inbox.taken == 0)


async def test_the_end_of_a_stored_job_waits_for_who_attaches() -> None:
    store, killed = MemoryStore(), MemoryStore()
    async with place() as there:
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("halves", [1, 1])
            with anyio.move_on_after(0.3):
                await follow(job)
            assert session.cursor == 1
        there.step.set()
        async with connect(there.url, TOKEN, store=store) as session:
            await anyio.sleep(0.5)
            kept = store.load()
            assert (session.stored_jobs, session.cursor) == ([job.id], 1)
            assert kept is not None
            killed.save(kept)
            assert await (await session.attach(job.id)).result() == "done"
            assert session.cursor == 2
        assert store.load() is None
        async with connect(there.url, TOKEN, store=killed) as session:
            assert session.stored_jobs == [job.id]
            assert await (await session.attach(job.id)).result() == "done"


async def test_events_that_were_not_processed_come_again_after_a_crash() -> None:
    class Copied(MemoryStore):
        """A store whose content at the time of the crash is kept."""

        copy: Resumption | None = None

    store, crashed = Copied(), MemoryStore()
    async with place() as there:
        seen: list[Event] = []
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("halves", 1000)
            async for event in job:
                seen.append(event)
                if len(seen) == 300:
                    store.copy = store.load()
                    break
        assert store.copy is not None
        crashed.save(store.copy)
        there.step.set()
        async with connect(there.url, TOKEN, store=crashed) as session:
            rest = numbers(await follow(await session.attach(job.id)))
    assert rest == list(range(rest[0], 1000))
    assert rest[0] <= 300


@pytest.mark.parametrize("events", range(29, 34))
async def test_an_end_is_not_stored_before_the_loop_can_note_it(events: int) -> None:
    class Watched(MemoryStore):
        """A store that notes, when the last job leaves it, whether the loop had noted the end of the job."""

        def __init__(self) -> None:
            super().__init__()
            self.submitted = self.noted = False
            self.stored: list[bool] = []

        def save(self, resumption: Resumption) -> None:
            super().save(resumption)
            if self.submitted and not resumption.jobs:
                self.stored.append(self.noted)

    store = Watched()
    async with place() as there:
        there.step.set()
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("halves", events)
            store.submitted = True
            async for _ in job:
                pass
            store.noted = True
            await anyio.sleep(0.5)
    assert store.stored
    assert all(store.stored)


async def test_the_store_is_never_behind_what_the_runtime_may_forget() -> None:
    store = MemoryStore()
    async with place() as there, connect(there.url, TOKEN, store=store) as session:
        log = state_of(there.runtime).sessions[session.id].log
        forgotten = []
        async for event in await session.submit("flood", {"events": 5000}):
            kept = store.load()
            assert kept is not None
            assert log.first - 1 <= kept.cursor <= event.seq
            forgotten.append(log.first)
            if event.seq % 1000 == 0:
                with anyio.fail_after(30):
                    while log.first <= event.seq // 2:  # Until the runtime has had an ack.
                        await anyio.sleep(0.001)
        assert forgotten[-1] > 1000


async def half_read(there: Place, store: MemoryStore) -> Job:
    """Leave a session when it has taken ten of the twenty chunks of a result."""
    async with connect(there.url, TOKEN, store=store) as session:
        job = await session.submit("streams", 20)
        taken = 0
        async for _ in job:
            taken += 1
            if taken == 10:
                break
    return job


async def test_a_result_is_whole_though_its_first_chunks_were_taken_by_another_process() -> None:
    store = MemoryStore()
    async with place() as there:
        job = await half_read(there, store)
        there.step.set()
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.attach(job.id)
            rest = await follow(job)
            assert [event.kind for event in rest] == ["result_chunk"] * len(rest)
            assert 10 <= len(rest) < 20
            assert await job.result() == "".join(f"piece {number} " for number in range(20))
        assert store.load() is None


async def test_a_result_whose_chunks_are_gone_is_told_apart_from_a_failed_job() -> None:
    store = MemoryStore()
    async with place(max_history_events=5) as there:
        job = await half_read(there, store)
        there.step.set()
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.attach(job.id)
            with pytest.raises(ResultIncomplete, match="gone") as caught:
                await job.result()
            assert caught.value.job_id == job.id


async def test_jobs_of_a_store_wait_for_who_attaches() -> None:
    store = MemoryStore()
    async with place() as there:
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("flood", {"events": 5000, "size": 1000})
            async for _ in job:
                break
        async with connect(there.url, TOKEN, store=store, buffer_size=50_000) as session:
            await anyio.sleep(0.2)
            assert await (await session.submit("echo", 1)).result() == 1
            rest = numbers(await follow(await session.attach(job.id)))
            assert rest == list(range(rest[0], 5000))


async def test_a_stored_job_that_is_not_iterated_does_not_stop_others() -> None:
    store = MemoryStore()
    async with place() as there:
        async with connect(there.url, TOKEN, store=store) as session:
            unwanted = await session.submit("flood", {"events": 5000, "size": 1000})
            async for _ in unwanted:
                break
        async with connect(there.url, TOKEN, store=store, buffer_size=50_000) as session:
            await anyio.sleep(0.2)
            job = await session.submit("halves", 100)
            there.step.set()
            assert numbers(await follow(job)) == list(range(100))


async def test_a_store_whose_session_is_gone() -> None:
    store = MemoryStore()
    async with place() as there, place() as other:
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("sleep")
            first_id = session.id
        async with connect(other.url, TOKEN, store=store) as session:
            assert session.id != first_id
            kept = await session.attach(job.id)
            with pytest.raises(JobLost):
                await kept.result()
            assert await (await session.submit("echo", 1)).result() == 1


async def test_a_store_is_for_one_session_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "session"
    async with place() as there:
        async with connect(there.url, TOKEN, store=FileStore(path)) as session:
            await session.submit("sleep")
            with pytest.raises(StoreInUse):
                async with connect(there.url, TOKEN, store=FileStore(path)):
                    pytest.fail("it is in use")
        async with connect(there.url, TOKEN, store=FileStore(path)) as again:
            assert again.id == session.id


async def test_a_store_that_fails_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        def save(self, resumption: Resumption) -> None:
            raise OSError(28, "No space left on device")

    async with place() as there:
        with caplog.at_level(logging.ERROR, "arcp_io"):
            async with connect(there.url, TOKEN, store=Full()) as session:
                assert await (await session.submit("echo", 1)).result() == 1
                await session.submit("sleep")
    assert "cannot be saved" in caplog.text
    assert "rt_" not in caplog.text


async def test_a_refused_connection_keeps_the_stored_session() -> None:
    store = MemoryStore()
    async with place() as there:
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("halves", 10)
            async for _ in job:
                break
        there.proxy.refusing = True
        with pytest.raises((OSError, ConnectionLost)):
            async with connect(there.url, TOKEN, store=store, give_up=1):
                pytest.fail("there is no session")
        there.proxy.refusing = False
        there.step.set()
        async with connect(there.url, TOKEN, store=store) as session:
            assert numbers(await follow(await session.attach(job.id)))[-1] == 9


# Jobs seen from elsewhere.


async def test_a_job_is_observed_from_another_session() -> None:
    async with (
        place(cuts=10, span=(2_000, 9_000)) as there,
        connect(WebSocket(there.server.url), TOKEN) as session,
        connect(there.url, TOKEN, wait=True) as other,
    ):
        job = await session.submit("halves", 400, lease={"fs.read": ["/data/**"]})
        observed = await other.attach(job.id)
        assert (observed.agent, observed.lease) == ("halves", {"fs.read": ["/data/**"]})
        assert observed.trace_id == job.trace_id
        assert await other.attach(job.id) is observed
        there.step.set()
        events = await follow(observed)
        assert numbers(events) == list(range(400))
        assert [event.job_seq for event in events] == [event.job_seq for event in await follow(job)]
        assert await observed.result() == "done"
        rest = await other.subscribe(job.id, events[149].job_seq, history=True)
        assert numbers(await follow(rest)) == list(range(150, 400))


async def test_observing_can_be_ended() -> None:
    async with place() as there, connect(there.url, TOKEN) as session, connect(there.url, TOKEN) as other:
        job = await session.submit("halves", 10)
        observed = await other.attach(job.id)
        seen = []
        async for event in observed:
            seen.append(event)
            if len(seen) == 5:
                await other.unsubscribe(observed)
        there.step.set()
        assert await job.result() == "done"
        assert numbers(seen) == list(range(5))
        with pytest.raises(ConnectionLost, match="no longer observed"):
            await observed.result()


async def test_a_job_that_is_over_cannot_be_cancelled() -> None:
    async with place() as there, connect(there.url, TOKEN) as session, connect(there.url, TOKEN) as other:
        job = await session.submit("echo", 1)
        await job.result()
        live = await session.subscribe(job.id)
        await live.cancel()
        assert live.final_status == "success"
        assert await follow(live) == []
        with pytest.raises(ResultIncomplete, match="had ended before"):
            await live.result()
        assert await ended_in(other, job.id) == 1


async def test_a_job_that_is_over_is_not_a_stored_one() -> None:
    store = MemoryStore()
    async with place() as there:
        async with connect(there.url, TOKEN, store=store) as session:
            over = await session.submit("echo", 1)
            await over.result()
            unfinished = await session.submit("halves", 4)
        async with connect(there.url, TOKEN, store=store) as session:
            assert session.stored_jobs == [unfinished.id]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.subscribe, over.id)
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert (await session.subscribe(over.id)).final_status == "success"
            assert session.stored_jobs == [unfinished.id]


async def ended_in(session: Session, job_id: str) -> Any:
    return await (await session.attach(job_id)).result()


async def test_jobs_are_listed_page_by_page() -> None:
    async with place() as there, AsyncExitStack() as stack:
        session = await stack.enter_async_context(connect(there.url, TOKEN))
        bob = await stack.enter_async_context(connect(there.url, "other"))
        await (await bob.submit("echo", 1)).result()
        jobs = [await session.submit("echo" if n % 3 else "sleep", n) for n in range(10)]
        for job in jobs:
            if job.agent == "echo":
                await job.result()
        newest_first = [job.id for job in reversed(jobs)]
        listed = [entry async for entry in session.list_jobs(page_size=3)]
        assert [entry.job_id for entry in listed] == newest_first
        running = [entry.job_id async for entry in session.list_jobs(status="running")]
        assert running == [job.id for job in reversed(jobs) if job.agent == "sleep"]
        both = session.list_jobs(status=["running", "success"], agent="echo", page_size=2)
        assert len([entry async for entry in both]) == 6
        assert [entry async for entry in session.list_jobs(created_before="2020-01-01T00:00:00Z")] == []


async def test_a_job_that_is_forgotten_while_its_history_is_awaited_ends_behind_a_hole() -> None:
    async with place(max_principal_finished_jobs=1) as there, connect(there.url, TOKEN) as session:
        there.step.set()
        job = await session.submit("halves", [0, 9_000])
        assert await job.result() == "done"
        async with connect(there.url, TOKEN, buffer_size=1_000) as other:
            slow = await other.attach(job.id)
            seen: list[Event] = []
            with pytest.raises(HistoryCut) as caught:
                async for event in slow:
                    seen.append(event)
                    if len(seen) == 1:
                        await (await session.submit("halves", [0, 1])).wait()
                        await until(lambda: JobId(job.id) not in state_of(there.runtime).jobs)
            assert numbers(seen) == list(range(len(seen)))
            assert len(seen) < 9_000
            assert caught.value.details.items() >= {"last_seq": len(seen), "history_from": 9_001}.items()
            assert [event async for event in slow] == []
            assert await slow.result() == "done"


async def test_a_repeated_key_of_a_forgotten_job_brings_its_result_without_an_error() -> None:
    async with place(max_principal_finished_jobs=1) as there, connect(there.url, TOKEN) as session:
        there.step.set()
        job = await session.submit("halves", [0, 10], idempotency_key="once")
        await job.wait()
        await (await session.submit("halves", [0, 1])).wait()
        async with connect(there.url, TOKEN) as other:
            again = await other.submit("halves", [0, 10], idempotency_key="once")
            assert again.id == job.id
            assert [event async for event in again] == []
            assert again.history_from == 11
            assert await again.result() == "done"
