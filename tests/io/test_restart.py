"""A server with a journal that ends, in order or by SIGKILL, and another one that goes on from there."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import anyio
import pytest
from anyio.abc import TaskStatus

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.drivers.journal_writer import AGENTS_WAIT
from arcp_io.journal import JournalError, JournalFailed, JournalInUse, MemoryJournal, SqliteJournal
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from tests.io import isolated
from tests.io.apps import Counters, make_app
from tests.io.conftest import on_every_loop
from tests.io.journaled import filled, query
from tests.io.peers import Message, websocket
from tests.io.processes import Served, arcp_io

pytestmark = pytest.mark.anyio

AGENTS = """
import resource, time
from contextlib import suppress
import anyio
from arcp_io import App

app = App("kept", "1", tokens={"t0ken": "alice"})

@app.agent("count")
async def count(job, input):
    for number in range(input):
        await job.log("info", str(number))
        await anyio.sleep(0.001)

@app.agent("again", restartable=True)
async def again(job, input):
    await job.log("info", f"attempt {job.attempt}")
    if job.attempt == 1:
        await anyio.sleep_forever()
    return [job.id, job.attempt, input]

@app.agent("fill")
async def fill(job, input):
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    while True:
        await job.log("info", "x" * 10_000)

@app.agent("deaf")
async def deaf(job, input):
    await job.log("info", "deaf")
    while True:
        with suppress(BaseException):
            await anyio.sleep(0.01)
        time.sleep(0.01)
"""


def app_of(attempts: list[int]) -> App:
    """Return the agents of these tests; `attempts` lists each start of the restartable agent."""
    app = make_app()

    @app.agent("forever")
    async def forever(job: JobContext, input: Any) -> Any:
        await job.status("waiting")
        await anyio.sleep_forever()

    @app.agent("again", restartable=True)
    async def again(job: JobContext, input: Any) -> Any:
        attempts.append(job.attempt)
        await job.log("info", f"attempt {job.attempt}")
        if job.attempt == 1:
            await anyio.sleep_forever()
        return [job.id, job.attempt, input]

    return app


@asynccontextmanager
async def doomed(app: App, **options: Any) -> AsyncIterator[tuple[Server, anyio.CancelScope]]:
    """Run a server, and yield the scope whose cancellation ends it without a shutdown."""

    async def run(*, task_status: TaskStatus[tuple[Server, anyio.CancelScope]]) -> None:
        with anyio.CancelScope() as life:
            async with serve(app, port=0, **options) as server:
                task_status.started((server, life))
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        yield await tasks.start(run)


@on_every_loop
async def test_the_next_server_goes_on_with_everything(tmp_path: Path) -> None:
    path, attempts = tmp_path / "journal", list[int]()
    first = doomed(app_of(attempts), journal=SqliteJournal(path))
    async with first as (server, life), websocket(server.url) as peer:
        welcome = await peer.hello()
        await peer.run("echo", {"deep": [1, 2.5, "é"]})
        cut = (await peer.submit("forever"))["payload"]["job_id"]
        again = (await peer.submit("again", {"x": 1}))["payload"]["job_id"]
        told = list(await peer.until_event(3))
        life.cancel()
    assert attempts == [1]
    second = serve(app_of(attempts), port=0, journal=SqliteJournal(path))
    async with second as server, websocket(server.url) as peer:
        resumed = await peer.resume(welcome, 0)
        assert resumed["session_id"] == welcome["session_id"]
        events = await peer.until_event(7)
    assert attempts == [1, 2]
    assert events[:3] == told
    assert [event["event_seq"] for event in events] == list(range(1, 8))
    assert [event["payload"] for event in events[3:] if event["job_id"] == cut] == [
        {
            "final_status": "error",
            "code": "INTERNAL_ERROR",
            "message": "the runtime was restarted",
            "retryable": True,
            "completed_at": ANY,
        }
    ]
    started = [event["payload"] for event in events[3:] if event["job_id"] == again]
    assert started[0]["body"]["phase"] == "restarted"
    assert started[1]["body"]["message"] == "attempt 2"
    assert started[2]["result"] == [again, 2, {"x": 1}]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


async def test_an_isolated_agent_knows_its_attempt(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = doomed(isolated.app, journal=SqliteJournal(path))
    async with first as (server, life), websocket(server.url) as peer:
        welcome = await peer.hello()
        job = (await peer.submit("again"))["payload"]["job_id"]
        await peer.until_event(1)
        life.cancel()
    second = serve(isolated.app, port=0, journal=SqliteJournal(path))
    async with second as server, websocket(server.url) as peer:
        await peer.resume(welcome, 1)
        assert (await peer.until("job.result"))[-1]["payload"]["result"] == [job, 2]


@on_every_loop
async def test_agents_wait_for_a_slow_disk_and_nothing_else_does(tmp_path: Path) -> None:
    journal: Any = SqliteJournal(tmp_path / "journal")
    store, disk = journal._store, threading.Event()

    def slowly(row: Any) -> None:
        disk.wait()
        store(row)

    journal._store = slowly
    disk.set()
    counters, opened = Counters(), anyio.Event()
    app = make_app(counters=counters)

    @app.agent("gated")
    async def gated(job: JobContext, input: Any) -> None:
        await opened.wait()
        for _ in range(5_000):
            await job.log("info", "x" * 4_000)
            counters.emitted += 1

    async with (
        serve(app, port=0, journal=journal) as server,
        websocket(server.url) as peer,
        set_at_last(disk),
    ):
        await peer.hello()
        await peer.submit("gated")
        disk.clear()
        opened.set()
        emitted = -1
        while counters.emitted != emitted or journal.waiting_bytes <= AGENTS_WAIT:
            emitted = counters.emitted
            await peer.send("session.ping", {"nonce": "n"})
            await peer.until("session.pong")
            await anyio.sleep(0.05)
        assert 0 < emitted < 5_000
        assert AGENTS_WAIT < journal.waiting_bytes < 2 * AGENTS_WAIT
        late = await peer.send("job.submit", {"agent": "flood", "input": {"events": 1}})
        await peer.send("session.ping", {"nonce": "n"})
        await peer.until("session.pong")
        disk.set()
        ends = []
        while len(ends) < 2:
            message = await peer.receive()
            ends += [message] if message["type"] == "job.result" else []
            late = "" if message["payload"].get("request_id") == late else late
        notices = [event for event in peer.events if "back_pressure" in str(event["payload"].get("body"))]
        assert (late, counters.emitted, len(peer.events)) == ("", 5_001, 5_003 + len(notices))
        assert len(notices) == 1  # The peer negotiated `ack`, and never acknowledges.


@asynccontextmanager
async def set_at_last(event: threading.Event) -> AsyncIterator[None]:
    """So that a thread that waits for it ends in any case."""
    try:
        yield
    finally:
        event.set()


@pytest.mark.parametrize("journal", ["sqlite", "memory"])
async def test_a_submit_with_a_known_key_is_not_carried_out_twice(tmp_path: Path, journal: str) -> None:
    kept = SqliteJournal(tmp_path / "journal") if journal == "sqlite" else MemoryJournal()
    ids = []
    for _ in range(3):
        async with serve(make_app(), port=0, journal=kept) as server, websocket(server.url) as peer:
            await peer.hello()
            accepted = await peer.submit("echo", 1, idempotency_key="once")
            ids.append(accepted["payload"]["job_id"])
            assert (await peer.until("job.result"))[-1]["payload"]["result"] == 1
    assert len(set(ids)) == 1


async def test_an_ordered_end_is_told_and_kept(tmp_path: Path) -> None:
    """Shutting down, jobs are cancelled and told so: durable first, as everything."""
    path = tmp_path / "journal"
    first = serve(make_app(), port=0, journal=SqliteJournal(path))
    async with first as server, websocket(server.url) as peer:
        await peer.hello()
        await peer.submit("sleep")
        await peer.until_event(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.shut_down, 0)
            assert await peer.end() == 1012
        assert [event["type"] for event in peer.events] == ["job.event", "job.event", "job.error"]
    async with serve(make_app(), port=0, journal=SqliteJournal(path)) as server:
        assert [job.status.value for job in state_of(server.runtime).jobs.values()] == ["error"]


async def test_one_server_a_journal(tmp_path: Path) -> None:
    async with serve(make_app(), port=0, journal=SqliteJournal(tmp_path / "journal")):
        with pytest.raises(JournalInUse):
            async with serve(make_app(), port=0, journal=SqliteJournal(tmp_path / "journal")):
                raise AssertionError
    with pytest.raises(JournalError):
        async with serve_memory(make_app(), journal=SqliteJournal(tmp_path / "no" / "journal")):
            raise AssertionError


async def test_when_the_journal_fails_nothing_goes_on(tmp_path: Path) -> None:
    journal: Any = SqliteJournal(tmp_path / "journal")
    app = make_app()
    ended = []

    @app.agent("ending")
    async def ending(job: JobContext, input: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(job.id)

    with pytest.raises(JournalFailed, match="make sure that its disk works and has room"):
        async with serve(app, port=0, journal=journal) as server, websocket(server.url) as peer:
            await peer.hello()
            job = (await peer.submit("ending"))["payload"]["job_id"]
            journal._db.close()
            await peer.send("job.submit", {"agent": "echo", "input": 1})
            with anyio.CancelScope(shield=True):
                assert await peer.end() == 1011
            await anyio.sleep_forever()
    assert ended == [job]


@on_every_loop
async def test_a_long_history_is_compacted_while_it_is_served(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = SqliteJournal(path, sync="normal")
    first = doomed(make_app(), journal=journal)
    async with first as (server, life), websocket(server.url) as peer:
        welcome = await peer.hello()
        acked = 0
        for _ in range(4):
            await peer.run("flood", {"events": 3_000})
            acked = len(peer.events)
            await peer.send("session.ack", {"last_processed_seq": acked})
        while behind_snapshot(journal) > 9_000:
            await peer.run("echo", 1)
        told = list(peer.events)
        life.cancel()
    assert [event["event_seq"] for event in told] == list(range(1, len(told) + 1))
    second = serve(make_app(), port=0, journal=SqliteJournal(path))
    async with second as server, websocket(server.url) as peer:
        await peer.resume(welcome, acked)
        assert await peer.until_event(len(told) - acked) == told[acked:]
        assert len(state_of(server.runtime).jobs) == len(told) - 4 * 3_000


def behind_snapshot(journal: Any) -> int:
    """Return the number of records of a journal behind its snapshot."""
    return int(journal._since.records)


# Processes of their own.


@contextmanager
def served(path: Path, *words: str) -> Iterator[Served]:
    there = Served(path, "--journal", "kept.journal", *words, agents=AGENTS)
    try:
        yield there
    finally:
        there.stop()


@pytest.mark.parametrize("sync", ["full", "normal"])
async def test_sigkill_loses_nothing_that_was_told(tmp_path: Path, sync: str, anyio_backend: str) -> None:
    words = ("--journal-sync", sync, "--loop", anyio_backend)
    with served(tmp_path, *words) as there:
        async with websocket(there.url) as peer:
            welcome = await peer.hello()
            again = (await peer.submit("again", "x"))["payload"]["job_id"]
            counting = (await peer.submit("count", 100_000))["payload"]["job_id"]
            told = list(await peer.until_event(50))
            there.process.send_signal(signal.SIGKILL)
    ends: dict[str, Message] = {}
    with served(tmp_path, *words) as there:
        async with websocket(there.url) as peer:
            await peer.resume(welcome, 0)
            while len(ends) < 2:
                message = await peer.receive()
                if message["type"] in ("job.result", "job.error"):
                    ends[message["job_id"]] = message["payload"]
            events = peer.events
    assert events[:50] == told
    assert [event["event_seq"] for event in events] == list(range(1, len(events) + 1))
    assert ends[again]["result"] == [again, 2, "x"]
    assert ends[counting]["message"] == "the runtime was restarted"
    assert query(tmp_path / "kept.journal", "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_full_disk_ends_the_process_and_says_what_to_do(
    tmp_path: Path, anyio_backend: str, deaf: bool
) -> None:
    there = Served(tmp_path, "--journal", "kept.journal", "--loop", anyio_backend, agents=AGENTS)
    async with websocket(there.url) as peer, websocket(there.url) as quiet:
        welcome = await peer.hello()
        await quiet.hello()
        if deaf:
            await peer.submit("deaf")
            await peer.until_event(1)
        await peer.submit("fill")
        # The server does not wait for a peer that has not read so far.
        assert await peer.end() in (1011, None)
        assert await quiet.end() == 1011
        told = peer.events
    said = there.process.read_to_end()
    assert there.process.returncode == 1
    assert "kept.journal cannot be written: " in said
    assert "make sure that its disk works and has room, and start again" in said
    assert "Traceback" not in said
    with served(tmp_path) as there:
        async with websocket(there.url) as peer:
            await peer.resume(welcome, 0)
            assert (await peer.until_event(len(told)))[: len(told)] == told


def test_a_journal_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(AGENTS)
    (tmp_path / "notes").write_text("to buy: milk, bread, and a newspaper. " * 5)
    done = arcp_io("serve", "example:app", "--port", "0", "--journal", "notes", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot serve: {tmp_path / 'notes'} is not a journal")
    filled(tmp_path / "newer", [b"x"])
    query(tmp_path / "newer", "PRAGMA user_version=9")
    done = arcp_io("serve", "example:app", "--port", "0", "--journal", "newer", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "version 9" in done.stderr and "use a newer arcp-io" in done.stderr


def test_two_processes_cannot_share_a_journal(tmp_path: Path) -> None:
    with served(tmp_path) as there:
        done: subprocess.CompletedProcess[str] = arcp_io(
            "serve", "example:app", "--port", "0", "--journal", "kept.journal", cwd=tmp_path
        )
        assert done.returncode == 1
        assert f"in use by process {there.process.pid}: stop it" in done.stderr
