"""Results that are read as streams: in constant memory, in order, whole or with an error that says why."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from arcp_io import sync
from arcp_io.agents.context import JobContext
from arcp_io.client.connect import connect
from arcp_io.client.job import Event, Job
from arcp_io.client.result_reader import ResultReader
from arcp_io.client.session import Session
from arcp_io.client.store import MemoryStore
from arcp_io.errors import HistoryCut, InternalError, JobCancelled, ResultIncomplete
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import serve
from arcp_proto.engine.endpoint import state_of
from tests.io.apps import TOKEN, make_app
from tests.io.conftest import on_every_loop
from tests.io.proxy import Proxy, proxy
from tests.io.test_client import until

pytestmark = pytest.mark.anyio

PIECE = "grüße 😀 \n" * 1_000


class Place:
    """A server behind a proxy, and what its agents wait for and count."""

    def __init__(self) -> None:
        self.step = anyio.Event()
        self.written = 0
        self.between: Proxy | None = None
        self.server: Any = None

    @property
    def url(self) -> str:
        assert self.between is not None
        return self.between.url


@asynccontextmanager
async def place(
    *, window: int = 600, cuts: int = 0, span: Any = (1, 60_000), **limits: Any
) -> AsyncIterator[Place]:
    there = Place()
    app = make_app(**limits)
    app.resume_window = window

    @app.agent("text")
    async def text(job: JobContext, input: Any) -> None:
        """Stream the piece `first` times, and `second` times after `step` is set."""
        first, second = input
        async with job.stream_result() as out:
            await job.log("info", "begun")
            for number in range(first + second):
                if number == first:
                    await there.step.wait()
                await out.write(PIECE)
                there.written += 1

    @app.agent("bytes")
    async def binary(job: JobContext, input: Any) -> None:
        async with job.stream_result(encoding="base64") as out:
            for number in range(input):
                await out.write(bytes((number % 256,)) * 50_000)

    @app.agent("fails")
    async def fails(job: JobContext, input: Any) -> None:
        async with job.stream_result() as out:
            await out.write(PIECE)
        raise InternalError("the disk is on fire")

    async with serve(app, port=0) as server, proxy(server.url, cuts=cuts, span=span, seed=0) as between:
        there.between, there.server = between, server
        yield there


async def read(job: Job) -> list[str | bytes]:
    return [piece async for piece in job.result_stream()]


def joined(pieces: list[str | bytes]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def held_by(session: Session) -> int:
    """Return the bytes that the client holds of all results and events."""
    machine = state_of(session._client).session
    assert machine is not None
    return machine.assembly.size + session._jobs.size


def received_by(session: Session) -> int:
    """Return the last event number that the client has received."""
    machine = state_of(session._client).session
    assert machine is not None
    return machine.numbers.last


@on_every_loop
async def test_a_result_larger_than_any_limit_of_the_client_is_read_and_held_nowhere() -> None:
    async with place(max_result_bytes=2**40) as there, connect(there.url, TOKEN) as session:
        job = await session.submit("text", [1_200, 0])
        size, most = 0, 0
        async for piece in (pieces := job.result_stream()):
            assert isinstance(piece, str)
            size += len(piece.encode())
            most = max(most, held_by(session))
        assert size == pieces.size == 1_200 * len(PIECE.encode()) > 15 * 1024 * 1024
        assert most < 4 * 1024 * 1024
        assert pieces.content_type is None
        assert job.final_status == "success"
        with pytest.raises(RuntimeError, match="result_stream"):
            await job.result()


async def test_bytes_come_as_bytes() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        pieces = await read(await session.submit("bytes", 10))
        assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == b"".join(
            bytes((number,)) * 50_000 for number in range(10)
        )


@pytest.mark.parametrize("value", [{"x": [1, 2.5, None]}, "text", 0, False, "y" * 900_000])
async def test_a_returned_value_comes_as_its_json_text(value: Any) -> None:
    async with serve_memory(make_app()) as memory, connect(memory, TOKEN) as session:
        pieces = (await session.submit("echo", value)).result_stream()
        first = await anext(pieces)
        assert isinstance(first, str)
        rest = [first, *[piece async for piece in pieces]]
        assert json.loads(joined(rest)) == value
        assert pieces.content_type == "application/json"


async def test_the_content_type_is_known_from_the_first_piece_on() -> None:
    async with serve_memory(make_app()) as memory, connect(memory, TOKEN) as session:
        pieces = (await session.submit("large", 3_000_000)).result_stream()
        await anext(pieces)
        assert pieces.content_type == "application/json"
        assert pieces.size < 3_000_000


async def test_nothing_that_was_returned_has_no_piece() -> None:
    async with serve_memory(make_app()) as memory, connect(memory, TOKEN) as session:
        job = await session.submit("echo", None)
        assert await read(job) == []
        assert await job.result() is None


async def test_other_events_are_handed_to_a_function() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        others: list[Event] = []
        job = await session.submit("text", [3, 0])
        pieces = [piece async for piece in job.result_stream(on_event=others.append)]
        assert joined(pieces) == 3 * PIECE
        assert [event.kind for event in others] == ["log"]


async def test_a_reader_that_is_behind_holds_back_the_agent() -> None:
    async with (
        place(max_result_bytes=2**40) as there,
        connect(there.server.url, TOKEN, buffer_size=100_000) as session,
    ):
        job = await session.submit("text", [2_000, 0])
        pieces = job.result_stream()
        first = await anext(pieces)
        written = -1
        while written != there.written:
            written = there.written
            await anyio.sleep(0.3)
        assert written < 2_000
        assert session.cursor < 5
        assert joined([first, *[piece async for piece in pieces]]) == 2_000 * PIECE


async def test_a_stream_that_is_begun_late_has_what_came_before() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("text", [10, 10])
        await until(lambda: held_by(session) > 5 * len(PIECE.encode()))
        there.step.set()
        assert joined(await read(job)) == 20 * PIECE


@pytest.mark.parametrize("kind", ["text", "large", "echo"])
async def test_a_stream_that_is_begun_after_the_end_has_all_of_it(kind: str) -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit(kind, {"text": [10, 0], "large": 2_000_000, "echo": [1]}[kind])
        value = await job.result()
        pieces = job.result_stream()
        text = joined([piece async for piece in pieces])
        assert (text if pieces.content_type is None else json.loads(text)) == value


async def test_a_stream_that_was_given_up_goes_on_in_the_next() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("text", [10, 10])
        taken: list[str | bytes] = []
        async for piece in job.result_stream():
            taken.append(piece)
            if len(taken) == 3:
                break
        there.step.set()
        assert joined(taken + await read(job)) == 20 * PIECE


async def test_one_loop_at_a_time() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("text", [1, 1])
        pieces = job.result_stream()
        with pytest.raises(RuntimeError, match="has an iterator"):
            job.result_stream()
        with pytest.raises(RuntimeError, match=r"read by result_stream\(\)"):
            await job.result()
        there.step.set()
        assert joined([piece async for piece in pieces]) == 2 * PIECE


@on_every_loop
async def test_a_connection_that_is_cut_leaves_no_hole_and_no_copy() -> None:
    async with place(cuts=15) as there, connect(there.url, TOKEN, wait=True) as session:
        job = await session.submit("text", [60, 0])
        assert joined(await read(job)) == 60 * PIECE


async def test_a_session_that_is_lost_goes_on_in_another() -> None:
    async with place(window=1) as there, connect(there.url, TOKEN) as session:
        job = await session.submit("text", [10, 10])
        pieces = job.result_stream()
        taken = await take(pieces, 5)
        first_id = session.id
        await lose(there)
        taken += [piece async for piece in pieces]
        assert session.id != first_id
        assert joined(taken) == 20 * PIECE


async def test_chunks_that_are_gone_are_an_error_of_its_own() -> None:
    few = {"max_history_events": 10, "max_session_events": 10}  # The first half, and a notice, are less.
    async with place(window=1, **few) as there, connect(there.url, TOKEN) as session:
        job = await session.submit("text", [4, 30])
        pieces = job.result_stream()
        taken = await take(pieces, 2)
        await until(lambda: received_by(session) == 1 + 4)  # All of the first half, behind a log.
        await lose(there)
        with pytest.raises(ResultIncomplete, match=r"gone: chunk .* came where .* was due") as caught:
            while True:
                taken.append(await anext(pieces))
        assert isinstance(caught.value.__cause__, HistoryCut)
        assert caught.value.job_id == job.id
        assert caught.value.details == {"chunks": 4, "size": 4 * len(PIECE.encode())}
        assert joined(taken) == 4 * PIECE
        assert [piece async for piece in pieces] == []


async def test_a_job_that_fails_raises_its_error_behind_its_pieces() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        pieces = (await session.submit("fails")).result_stream()
        assert await anext(pieces)
        with pytest.raises(InternalError, match="the disk is on fire"):
            await anext(pieces)


async def test_a_stream_that_is_begun_after_a_failure_has_what_came_before_it() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("fails")
        await job.wait()
        pieces = job.result_stream()
        assert await anext(pieces) == PIECE
        with pytest.raises(InternalError, match="the disk is on fire"):
            await anext(pieces)


async def test_a_job_that_is_cancelled_meanwhile() -> None:
    async with place() as there, connect(there.url, TOKEN) as session:
        job = await session.submit("text", [1, 1])
        pieces = job.result_stream()
        assert await anext(pieces)
        await job.cancel()
        with pytest.raises(JobCancelled):
            await _raised([piece async for piece in pieces])


async def test_a_result_that_another_process_has_begun_is_whole() -> None:
    store = MemoryStore()
    async with place() as there:
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.submit("text", [10, 10])
            pieces = job.result_stream()
            await take(pieces, 5)
        there.step.set()
        async with connect(there.url, TOKEN, store=store) as session:
            job = await session.attach(job.id)
            assert joined(await read(job)) == 20 * PIECE


async def test_an_observer_reads_the_whole_result_too() -> None:
    async with place() as there, connect(there.url, TOKEN) as session, connect(there.url, TOKEN) as other:
        job = await session.submit("text", [10, 10])
        observed = await other.subscribe(job.id, history=True)
        there.step.set()
        assert joined(await read(observed)) == joined(await read(job)) == 20 * PIECE
        late = await other.subscribe(job.id, history=True)
        assert joined(await read(late)) == 20 * PIECE


async def test_an_observer_who_comes_late_is_told_what_is_missing() -> None:
    async with place() as there, connect(there.url, TOKEN) as session, connect(there.url, TOKEN) as other:
        job = await session.submit("text", [10, 10])
        await until(lambda: there.written == 10)
        observed = await other.subscribe(job.id)
        there.step.set()
        with pytest.raises(ResultIncomplete, match="chunks 0 to 9 are gone"):
            await read(observed)


async def test_without_await() -> None:
    async with place() as there:
        there.step.set()
        results: list[Any] = []

        def follow() -> None:
            others: list[Event] = []
            threads: list[int] = []

            def other(event: Event) -> None:
                others.append(event)
                threads.append(threading.get_ident())

            with sync.connect(there.url, TOKEN) as session:
                pieces = session.submit("text", [10, 10]).result_stream(on_event=other)
                text = "".join(piece for piece in pieces if isinstance(piece, str))
                results.append((text, pieces.size, pieces.content_type, pieces.history_cut))
                assert threads == [threading.get_ident()]
                assert [event.kind for event in others] == ["log"]
                large = session.submit("large", 2_000_000).result_stream()
                results.append((json.loads("".join(map(str, large))), large.content_type))

        await anyio.to_thread.run_sync(follow)
        assert results[0] == (20 * PIECE, 20 * len(PIECE.encode()), None, None)
        assert results[1] == ("y" * 2_000_000, "application/json")


async def take(pieces: ResultReader, count: int) -> list[str | bytes]:
    """Take what `count` pieces hold, or more: what came before the stream was asked for is one piece."""
    taken: list[str | bytes] = []
    while len(joined(taken)) < count * len(PIECE):
        taken.append(await anext(pieces))
    return taken


async def lose(there: Place) -> None:
    """Cut the connection until the window of the session is over, and let the agent end meanwhile."""
    assert there.between is not None
    there.between.refusing = True
    there.between.cut()
    await until(lambda: not state_of(there.server.runtime).sessions)
    there.step.set()
    await until(lambda: not state_of(there.server.runtime).unfinished)
    there.between.refusing = False


async def _raised(pieces: list[str | bytes]) -> None:
    raise AssertionError(f"{len(pieces)} pieces came, and no error")
