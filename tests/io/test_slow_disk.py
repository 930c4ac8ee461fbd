"""A slow journal: it makes agents of each kind wait, and costs a client that reads not a single event."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.client.connect import connect
from arcp_io.journal import MemoryJournal
from arcp_io.journal.protocol import Durable, Failed
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.limits import KIB, Limits
from arcp_proto.server.sessions.event_log import Log

pytestmark = pytest.mark.anyio

TOKEN = "t0ken"
EVENTS = 1_500
LIMITS = Limits(max_session_events=400, max_session_bytes=800 * KIB)
QUARTER = 100
ONE_BATCH = 64
"""Events that agents publish before the pump takes what follows from them."""


class LateJournal(MemoryJournal):
    """A journal whose disk answers when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Event()
        self._stored = 0
        self._report: Durable

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        self._report = on_durable
        super().open(record_version, self._on_stored, on_failed)

    def release(self) -> None:
        """Report all stored records, and the later ones at once."""
        self.held.clear()
        self._report(self._stored)

    def _on_stored(self, count: int) -> None:
        self._stored = count
        if not self.held.is_set():
            self._report(count)


class Start:
    """Lets agents begin, in tasks, in threads and in processes, which look for a file."""

    def __init__(self, path: Path) -> None:
        self.task, self.thread, self.path = anyio.Event(), threading.Event(), path

    def set(self) -> None:
        self.task.set()
        self.thread.set()
        self.path.touch()


def make_app(start: Start) -> App:
    """Return an App whose agents publish without a pause, once they may begin."""
    app = App("slow disk", "1", tokens={TOKEN: "alice"}, limits=LIMITS)

    @app.agent("task")
    async def task(job: JobContext, input: Any) -> None:
        await start.task.wait()
        for number in range(EVENTS):
            await job.log("info", f"{number}")

    @app.agent("thread")
    def thread(job: BlockingJobContext, input: Any) -> None:
        start.thread.wait()
        for number in range(EVENTS):
            job.log("info", f"{number}")

    app.agent("process", isolation="process")(publish)

    @app.agent("large.events")
    async def large_events(job: JobContext, input: Any) -> None:
        await start.task.wait()
        for number in range(60):
            await job.log("info", f"{number} " + "x" * 50_000)

    @app.agent("stream")
    async def stream(job: JobContext, input: Any) -> None:
        await start.task.wait()
        async with job.stream_result() as result:
            for _ in range(60):
                await result.write("x" * 50_000)

    @app.agent("large.result")
    async def large_result(job: JobContext, input: Any) -> str:
        await start.task.wait()
        return "x" * 500_000

    return app


async def publish(job: JobContext, input: Any) -> None:
    """Publish without pause, in a process of its own, once the file exists that the input names."""
    while not await anyio.Path(input).exists():
        await anyio.sleep(0.01)
    for number in range(EVENTS):
        await job.log("info", f"{number}")


async def until(done: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not done():
            await anyio.sleep(0.001)


def log_of(server: Server) -> Log:
    [session] = state_of(server.runtime).sessions.values()
    return session.log


async def comes_to_rest(server: Server) -> None:
    """Wait until the journal makes the agents wait, and no more events are published.

    A full transport makes them wait as well, so that a paused job alone tells nothing about the journal.
    """
    [session] = state_of(server.runtime).sessions.values()
    await until(lambda: session.awaits_journal)
    last = -1
    while last != log_of(server).last:
        last = log_of(server).last
        for _ in range(20):
            await anyio.sleep(0.001)


@pytest.mark.parametrize("agent", ["task", "thread", "process"])
async def test_an_agent_waits_in_its_next_call_for_a_journal_that_is_held(agent: str, tmp_path: Path) -> None:
    journal, start = LateJournal(), Start(tmp_path / "start")
    async with (
        serve(make_app(start), port=0, journal=journal) as server,
        connect(server.url, token=TOKEN) as session,
    ):
        job = await session.submit(agent, str(start.path))
        journal.held.set()
        start.set()
        await comes_to_rest(server)
        waiting, _ = log_of(server).unsaved
        assert QUARTER <= waiting < QUARTER + ONE_BATCH
        journal.release()
        texts = [event.body["message"] async for event in job if event.kind == "log"]
        assert texts == [f"{number}" for number in range(EVENTS)]
        assert session.lost is None


@pytest.mark.parametrize(
    ("agent", "most"),
    [
        pytest.param("large.events", 200 * KIB + 2 * 64 * KIB, id="large events"),
        pytest.param("stream", 200 * KIB + 2 * 64 * KIB, id="a streamed result"),
        pytest.param("large.result", 600 * KIB, id="large results"),
    ],
)
async def test_much_at_once_waits_as_well(agent: str, most: int, tmp_path: Path) -> None:
    """Two of them: together they are too much for a log, if the second one does not wait for the first."""
    journal, start = LateJournal(), Start(tmp_path / "start")
    async with (
        serve(make_app(start), port=0, journal=journal) as server,
        connect(server.url, token=TOKEN) as session,
    ):
        jobs = [await session.submit(agent) for _ in range(2)]
        journal.held.set()
        start.set()
        await comes_to_rest(server)
        assert log_of(server).unsaved[1] <= most
        journal.release()
        sizes = []
        async with anyio.create_task_group() as tasks:

            async def follow(job: Any) -> None:
                sizes.append(len([event async for event in job if event.kind == "log"]))
                assert await job.result() in (None, "x" * 500_000, "x" * 3_000_000)

            for job in jobs:
                tasks.start_soon(follow, job)
        assert sizes == ([60, 60] if agent == "large.events" else [0, 0])
        assert session.lost is None
