"""Clients of two nodes behind HAProxy and nginx: sessions go on at whichever node they reach."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from arcp_io.app import App
from tests.attacks.table import TABLE
from tests.cluster import servers
from tests.cluster.balancers import balancer, certificates, connections_to, free_port, missing, plain_haproxy
from tests.cluster.conftest import MakeStore, skip_for
from tests.cluster.foreign import NOT_BEHIND_HAPROXY, serve_behind_haproxy
from tests.cluster.served import served, spread
from tests.cluster.test_cli import await_owners
from tests.hanging import PATIENCE
from tests.io.peers import Ended, Message, Peer, websocket
from tests.io.processes import Served, arcp_io

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio")]


class Clients:
    """Clients of a load balancer."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self.url = url
        self.context = context

    async def opened(self, input: Any) -> tuple[Message, list[Message]]:
        """Open a session, run a job in it, and drop it; return its welcome and what was numbered."""
        async with websocket(self.url, self.context) as peer:
            welcome = await peer.hello("s3cret")
            await peer.submit("echo", input)
            await peer.until("job.result")
            return welcome, [*peer.events]

    async def resumed(self, welcome: Message, numbered: list[Message]) -> Message:
        """Resume a session as often as needed, and check what comes; return the new welcome."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                async with websocket(self.url, self.context) as peer:
                    return await self._resumed(peer, welcome, numbered)
            except (Ended, OSError, anyio.EndOfStream, anyio.BrokenResourceError, AssertionError) as error:
                if time.monotonic() > until:
                    raise AssertionError("the session is not resumed") from error
                await anyio.sleep(0.1)

    async def _resumed(self, peer: Peer, welcome: Message, numbered: list[Message]) -> Message:
        again = await peer.resume(welcome, 0, token=None)
        assert again["type"] == "session.welcome", again
        assert await peer.until_event(len(numbered)) == numbered
        return again


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("program", ["haproxy", "nginx"])
async def test_sessions_go_on_behind_a_load_balancer(
    database: str, tmp_path: Path, program: str, loop: str
) -> None:
    skip_for(missing(program))
    assert arcp_io("store", "init", database, "--shards", "4").returncode == 0
    files = certificates(tmp_path)
    ports = [free_port(), free_port()]

    def start(number: int) -> Served:
        directory = tmp_path / str(number)
        directory.mkdir(exist_ok=True)
        tls = ("--certfile", str(files.chain), "--keyfile", str(files.key))
        hosts = ("--allow-host", "127.0.0.1", "--allow-host", "node.agents.example")
        words = ("--journal", database, "--lease", "1s", "--loop", loop, "--port", str(ports[number]))
        return Served(directory, *words, *tls, *hosts)

    nodes = [start(0), start(1)]
    await_owners(database, 2)
    with balancer(program, files, ports, tmp_path) as url:
        clients = Clients(url, files.context())
        welcome, numbered = await clients.opened({"x": 1})
        for _ in range(2):  # Once at each node.
            welcome = await clients.resumed(welcome, numbered)
        async with websocket(url, clients.context) as one, websocket(url, clients.context) as two:
            await one.hello("s3cret")
            await two.hello("b0b")
            assert all(connections_to(port) for port in ports)
        nodes[0].process.send_signal(signal.SIGTERM)
        welcome = await clients.resumed(welcome, numbered)
        assert nodes[0].ended() == 0
        other, more = await clients.opened({"x": 2})
        nodes[0] = start(0)
        await_owners(database, 2)
        nodes[1].process.send_signal(signal.SIGKILL)
        await clients.resumed(welcome, numbered)
        await clients.resumed(other, more)
        nodes[1].process.read_to_end()
    assert nodes[0].stop() == 0


async def test_sessions_are_opened_through_haproxy_and_foreign_gateways() -> None:
    skip_for(servers.missing() or missing("haproxy"))
    app = App("behind", "1", tokens={"s3cret": "alice"})
    async with (
        serve_behind_haproxy(app, port=0) as server,
        websocket(server.url) as one,
        websocket(server.url) as two,
    ):
        for peer in (one, two):
            assert (await peer.hello("s3cret"))["type"] == "session.welcome"
        assert server.counts().attached_sessions == 2
        assert connections_to(server.port) == 2


async def test_a_connection_that_a_frozen_node_takes_goes_on_at_another_node(make_store: MakeStore) -> None:
    skip_for(missing("haproxy"))
    app = App("behind", "1", tokens={"s3cret": "alice"})
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        async with served(app, make_store(shards=2)) as node:
            await spread(node)
            here = node.gateway.port
            proxy = plain_haproxy([frozen.getsockname()[1], here])
            port = await anyio.to_thread.run_sync(proxy.__enter__)
            try:
                for _ in range(2):
                    async with websocket(node.url.replace(f":{here}/", f":{port}/")) as peer:
                        assert (await peer.hello("s3cret"))["type"] == "session.welcome"
            finally:
                await anyio.to_thread.run_sync(proxy.__exit__, None, None, None)


def test_attacks_that_are_left_out_behind_haproxy_are_in_the_table() -> None:
    assert set(NOT_BEHIND_HAPROXY) <= {row.name for row in TABLE}
