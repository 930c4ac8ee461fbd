"""Each ASGI server with the application alone: jobs, cuts, a client that stalls, refusals, and its end."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import anyio.to_thread
import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from arcp_io import connect, sync
from tests.asgi.servers import SERVERS, Site, running
from tests.hanging import PATIENCE
from tests.io.apps import TOKEN
from tests.io.peers import WebSocketPeer, connect_tcp, websocket
from tests.io.proxy import proxy

MIB = 1024 * 1024
EVENTS = 6_000
SIZE = 8_000
"""Bytes of each of these events: 48 MB together, more than all buffers of a connection."""
GROWTH = 24 * MIB
"""Bytes by which a server may grow for one client that does not read."""

CODES = {"granian": None}
"""Server -> the close code of an idle connection at its end, if that is not 1012; None: without one."""

pytestmark = [pytest.mark.parametrize("server", SERVERS)]


async def still(site: Site) -> None:
    """Wait until the server does nothing for a while."""
    busy, quiet = site.busy(), 0
    while quiet < 4:
        await anyio.sleep(0.1)
        quiet = quiet + 1 if site.busy() == busy else 0
        busy = site.busy()


@pytest.mark.anyio
@pytest.mark.only_on("asyncio")
async def test_jobs_cuts_refusals_and_a_stalled_client(server: str, tmp_path: Path) -> None:
    with running(server, "alone", tmp_path) as site:
        async with connect(site.url, TOKEN) as session:
            job = await session.submit("flood", {"events": 500, "size": 100})
            assert len([event async for event in job]) == 500
            assert await (await session.submit("echo", {"x": 1})).result() == {"x": 1}
        async with proxy(site.url, cuts=5, span=(2_000, 20_000), seed=1) as between:
            async with connect(between.url, TOKEN) as session:
                job = await session.submit("flood", {"events": 1_000, "size": 100})
                came = [int(event.body["message"].partition(" ")[0]) async for event in job]
                assert came == list(range(1_000))
            assert between.connections > 1
        assert (site.get("/readyz"), site.get("/livez"), site.get("/other")) == (200, 200, 404)
        await check_refusals(site)
        await check_a_stalled_client(site)


async def check_refusals(site: Site) -> None:
    """Check that a foreign origin gets 403 before the upgrade, and a wrong token an error after it."""
    uri = parse_uri(site.url)
    stream = await connect_tcp(uri.host, uri.port)
    async with stream:
        protocol: Any = ClientProtocol(uri, origin="http://evil.example")
        assert (await WebSocketPeer(stream, protocol).shake_hands()).status_code == 403
    async with websocket(site.url) as peer:
        assert (await peer.hello("wrong"))["payload"]["code"] == "UNAUTHENTICATED"
        assert await peer.end() == 1008


async def check_a_stalled_client(site: Site) -> None:
    """Check that a client that does not read costs a bounded amount of memory, and loses nothing."""
    async with websocket(site.url) as peer:
        await peer.hello(features=["ack"])
        await still(site)
        before = site.memory()
        await peer.submit("flood", {"events": EVENTS, "size": SIZE})
        await still(site)
        grown = site.memory() - before
        assert grown < GROWTH, f"{grown / MIB:.0f} MiB"
        await peer.until("job.result", "job.error")
        numbers = [
            int(event["payload"]["body"]["message"].partition(" ")[0])
            for event in peer.events
            if event["type"] == "job.event" and event["payload"]["kind"] == "log"
        ]
        assert numbers == list(range(EVENTS))


@pytest.mark.anyio
@pytest.mark.only_on("asyncio")
async def test_a_stop_closes_an_idle_connection(server: str, tmp_path: Path) -> None:
    with running(server, "alone", tmp_path) as site:
        async with websocket(site.url) as peer, anyio.create_task_group() as tasks:
            await peer.hello()
            tasks.start_soon(anyio.to_thread.run_sync, site.stop)
            assert await peer.end() == CODES.get(server, 1012)


def test_a_stop_with_an_open_session_loses_nothing(server: str, tmp_path: Path) -> None:
    """Check that jobs end within the drain, and that the session goes on at the next process."""
    journal = str(tmp_path / "agents.journal")
    came: list[str] = []
    results: list[Any] = []

    def follow(job: sync.Job) -> None:
        came.extend(event.body["message"] for event in job)
        results.append(job.result())

    with running(server, "alone", tmp_path, ARCP_JOURNAL=journal) as site:
        port = site.port
        with sync.connect(site.url, TOKEN) as session:
            job = session.submit("steps", 100)
            reading = Thread(target=follow, args=(job,))
            reading.start()
            until = time.monotonic() + PATIENCE
            while len(came) < 10:
                assert time.monotonic() < until
                time.sleep(0.01)
            site.stop()
            with running(server, "alone", tmp_path, port=port, ARCP_JOURNAL=journal):
                reading.join(PATIENCE)
                assert session.submit("echo", 1).result() == 1
    assert came == [str(number) for number in range(100)]
    assert results == [100]
