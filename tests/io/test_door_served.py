"""Servers behind one door, over real sockets: they wait together, and one that is fenced ends alone."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.agents.threads import Threads
from arcp_io.app import App
from arcp_io.drivers.door import Door, since_boot
from arcp_io.journal import Fenced, MemoryJournal
from arcp_io.journal.protocol import Durable, Failed
from arcp_io.server.server import Server, open_server
from arcp_io.server.shared import Shared
from arcp_proto.ids import SECOND
from tests.io import isolated
from tests.io.apps import Counters, front, make_app
from tests.io.conftest import on_every_loop
from tests.io.peers import websocket

pytestmark = pytest.mark.anyio


class TakenJournal(MemoryJournal):
    """A journal that another process takes over when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = False

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        self._on_failed = on_failed
        super().open(record_version, on_durable, on_failed)

    def append(self, first: int, records: Sequence[bytes]) -> None:
        if self.taken:
            raise Fenced("another process has the journal")
        super().append(first, records)

    def take(self) -> None:
        """Let the journal say so by itself."""
        self.taken = True
        self._on_failed(Fenced("another process has the journal"))


@asynccontextmanager
async def served(app: App, door: Door | None, journal: MemoryJournal | None = None) -> AsyncIterator[Server]:
    """Serve an App on a free port, behind a door."""
    async with open_server(
        app, 0.0, journal or MemoryJournal(), shared=Shared(door=door), front=front()
    ) as server:
        yield server


def opened() -> Door:
    """Return a door that is open for longer than a test takes."""
    door = Door()
    door.open_until(since_boot() + 3_600 * SECOND)
    return door


def close(door: Door) -> None:
    """End the time of a door, without a notice to the server."""
    door.open_until(since_boot())


def open_again(door: Door) -> None:
    door.open_until(since_boot() + 3_600 * SECOND)


async def turns(count: int = 200) -> None:
    """Let the loop turn often, so that all that is due has run."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()
    await anyio.sleep(0.05)


@on_every_loop
async def test_behind_a_closed_door_nothing_is_answered_and_then_everything() -> None:
    door, counters = opened(), Counters()
    async with served(make_app(counters=counters), door) as server, websocket(server.url) as peer:
        await peer.hello()
        job = (await peer.submit("sleep"))["payload"]["job_id"]
        await peer.until_event(1)
        close(door)
        await peer.send("session.ping", {"nonce": "n", "sent_at": ""})
        await peer.send("job.cancel", {"job_id": job})
        peer.protocol.send_ping(b"x")
        await peer._flush()
        await turns()
        with anyio.move_on_after(0.05):  # Not even the WebSocket itself answers.
            raise AssertionError(await peer.stream.receive())
        assert counters.cancelled == 0
        assert server.counts().unfinished_jobs == 1
        open_again(door)
        types = [message["type"] for message in await peer.until("job.error")]
        assert types == ["session.pong", "job.cancelled", "job.event", "job.error"]
        assert counters.cancelled == 1


@on_every_loop
async def test_an_agent_waits_behind_a_closed_door() -> None:
    door = opened()
    app, begun, said = make_app(), anyio.Event(), []

    @app.agent("speaks")
    async def speaks(job: JobContext, input: Any) -> None:
        begun.set()
        while len(said) < 50:
            await job.log("info", str(len(said)))
            said.append(1)
            await anyio.lowlevel.checkpoint()

    async with served(app, door) as server, websocket(server.url) as peer:
        await peer.hello()
        await peer.send("job.submit", {"agent": "speaks", "input": None})
        await begun.wait()
        close(door)
        door.look()
        before = len(said)
        await turns()
        assert len(said) <= before + 1
        open_again(door)
        messages = await peer.until("job.result")
        assert len([message for message in messages if message["type"] == "job.event"]) == 50


@on_every_loop
async def test_a_client_that_leaves_behind_a_closed_door_is_noted_when_it_is_open() -> None:
    door = opened()
    async with served(make_app(), door) as server:
        async with websocket(server.url) as peer:
            await peer.hello()
            close(door)
        await turns()
        assert server.runtime.connection_count == 1
        open_again(door)
        while server.runtime.connection_count:
            await anyio.sleep(0.001)


@on_every_loop
async def test_a_client_that_comes_behind_a_closed_door_is_welcomed_when_it_is_open() -> None:
    door = opened()
    async with served(make_app(), door) as server, anyio.create_task_group() as tasks:
        close(door)
        welcomed = anyio.Event()

        async def come() -> None:
            async with websocket(server.url) as peer:
                assert (await peer.hello())["type"] == "session.welcome"
                welcomed.set()

        tasks.start_soon(come)
        await turns()
        assert not welcomed.is_set()
        open_again(door)
        await welcomed.wait()


@on_every_loop
@pytest.mark.parametrize("by_itself", [True, False])
async def test_a_fenced_server_ends_alone(by_itself: bool) -> None:
    door, journal, counters = opened(), TakenJournal(), Counters()
    async with served(make_app(), door) as other, websocket(other.url) as stays:
        await stays.hello()
        with pytest.raises(Fenced, match="another process"):
            async with (
                served(make_app(counters=counters), door, journal) as server,
                websocket(server.url) as peer,
            ):
                await peer.hello()
                await peer.submit("sleep")
                await peer.until_event(1)
                stored = journal.next
                if by_itself:
                    journal.take()
                else:
                    journal.taken = True
                    await peer.send("job.submit", {"agent": "echo", "input": 1})
                with anyio.CancelScope(shield=True):
                    assert await peer.end() == 1012
                await anyio.sleep_forever()
        assert (counters.cancelled, journal.next) == (1, stored)
        assert [message["type"] for message in await stays.run("echo", 1)] == ["job.result"]


async def test_the_processes_of_a_fenced_server_are_killed() -> None:
    journal = TakenJournal()
    with pytest.raises(Fenced):
        async with served(isolated.app, None, journal) as server, websocket(server.url) as peer:
            await peer.hello()
            await peer.submit("stuck")
            (event,) = await peer.until_event(1)
            pid = int(event["payload"]["body"]["phase"].split()[0])
            journal.take()
            with anyio.CancelScope(shield=True):
                assert await peer.end() == 1012
            await anyio.sleep_forever()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_servers_share_the_threads_of_blocking_agents() -> None:
    shared, runs, goes_on = Shared(threads=Threads(1)), threading.Semaphore(0), threading.Event()

    def app() -> App:
        made = make_app()

        @made.agent("plain")
        def plain(job: BlockingJobContext, input: Any) -> None:
            runs.release()
            goes_on.wait()

        return made

    first = open_server(app(), 0.0, shared=shared, front=front())
    second = open_server(app(), 0.0, shared=shared, front=front())
    async with first as one, second as other, websocket(one.url) as peer, websocket(other.url) as another:
        for client in (peer, another):
            await client.hello()
            await client.submit("plain")
        while not runs.acquire(blocking=False):
            await anyio.sleep(0.001)
        await turns()
        assert not runs.acquire(blocking=False)
        goes_on.set()
        await peer.until("job.result")
        await another.until("job.result")
