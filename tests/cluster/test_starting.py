"""The start of a node over a store that is slow to answer, that is starting itself, or that is not there."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import anyio
import pytest

from arcp_io.cluster import starting
from arcp_io.cluster.errors import StoreAway
from arcp_io.cluster.node import Node
from arcp_io.cluster.store import PostgresStore
from arcp_io.server.server import serve
from tests.cluster.beaten import until
from tests.cluster.conftest import MakeStore
from tests.cluster.proxy import proxy_to
from tests.cluster.served import served, spread
from tests.hanging import PATIENCE
from tests.io.apps import make_app
from tests.io.peers import websocket

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio", "trio")]

STARTING_UP: Final = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
"""The fields of an error with which a server refuses connections while it recovers."""


@pytest.mark.parametrize("connections", [0, 1])
async def test_a_node_waits_for_a_store_that_is_slow_to_answer(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture, connections: int
) -> None:
    """Hold the connection that checks the store, or the one of the first beat, beyond libpq's time limit."""
    caplog.set_level(logging.INFO, "arcp_io")
    app, other = make_app(), make_store(shards=2)
    with proxy_to(other.url.libpq) as (proxy, url):
        proxy.hold(after=connections)
        store = PostgresStore(url)
        async with anyio.create_task_group() as tasks:

            async def pass_on_once_it_is_told() -> None:
                await until(lambda: "The node waits up to 60 s" in caplog.text)
                proxy.flow()

            tasks.start_soon(pass_on_once_it_is_told)
            async with served(app, store) as node:
                await spread(node)
                async with websocket(node.url) as peer:
                    await peer.hello()
    assert "connection timeout expired" in caplog.text
    assert "the store answers after" in caplog.text


@contextmanager
def server_that_starts() -> Iterator[str]:
    """Run a server that refuses connections as PostgreSQL does while it recovers; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(1024)
                        client.sendall(b"E" + (len(STARTING_UP) + 4).to_bytes(4, "big") + STARTING_UP)

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        try:
            yield f"postgresql://127.0.0.1:{listener.getsockname()[1]}/db?sslmode=disable&gssencmode=disable"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


async def test_a_node_waits_so_long_for_a_server_that_is_starting_and_not_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starting, "START_SECONDS", 1.0)
    with (
        server_that_starts() as url,
        pytest.raises(StoreAway, match=r"starting up.* has waited for it for 1 s"),
    ):
        async with serve(make_app(), journal=PostgresStore(url), node=Node(), port=0):
            pass
    assert "The node waits up to 1 s" in caplog.text


async def test_a_store_that_cannot_be_reached_is_refused_at_once(caplog: pytest.LogCaptureFixture) -> None:
    store = PostgresStore("postgresql://127.0.0.1:1/db")
    with pytest.raises(StoreAway, match=r"cannot be reached: .*refused"):
        async with serve(make_app(), journal=store, node=Node(), port=0):
            pass
    assert "waits" not in caplog.text
