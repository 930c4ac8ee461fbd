"""A server behind the gateway of another node: `pytest --foreign-gateway` serves attacks and peers by it.

With `--haproxy` as well, HAProxy stands before two such gateways.
"""

from __future__ import annotations

import atexit
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import anyio

from arcp_io.app import App
from arcp_io.cluster.node import NodeServer
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import Journal
from arcp_io.server.server import Server, serve
from tests.cluster.balancers import plain_haproxy
from tests.cluster.served import served, spread
from tests.cluster.servers import private_database, query

LEASE: Final = 1.0
"""Seconds of a lease: these tests do not wait for the end of one."""
TENANT: Final = "everyone"
"""The tenant of all principals, so that they share a shard as those of one runtime do."""
NOT_BEHIND_HAPROXY: Final = {
    "cross site websocket hijacking": "HAProxy refuses invalid Host headers itself, with other codes",
    "a head without end": "HAProxy bounds and times heads of HTTP",
    "hellos that are slow": "HAProxy bounds and times heads of HTTP",
    "openings that are none": "HAProxy waits for the end of a head, or refuses it itself",
    "tokens guessed without end": "each gateway counts the failures that reach it",
    "connections without a hello": "each gateway counts the connections that wait there",
}
"""Attacks that end at HAProxy, or that are bounded by each gateway for itself, with the reason."""
_unused: Final[list[str]] = []
"""The URLs of stores that tests of this process have made, and that none uses."""


@asynccontextmanager
async def serve_through_a_foreign_gateway(
    app: App, *, port: int, journal: Journal | None = None
) -> AsyncIterator[Server]:
    """Serve an App as two nodes; yield the server of the only shard, with the URL of the other node.

    An App with a journal of its own is served alone.
    """
    if journal is not None:
        async with serve(app, port=port, journal=journal) as alone:
            yield alone
        return
    async with _gateways(app, 1) as (server, gateways):
        server.url, server.port = gateways[0].url, gateways[0].gateway.port
        yield server


@asynccontextmanager
async def serve_behind_haproxy(
    app: App, *, port: int, journal: Journal | None = None
) -> AsyncIterator[Server]:
    """Serve an App as `serve_through_a_foreign_gateway`, with HAProxy before two foreign gateways.

    HAProxy sends connections to them in turn.
    """
    if journal is not None:
        async with serve(app, port=port, journal=journal) as alone:
            yield alone
        return
    async with _gateways(app, 2) as (server, gateways):
        proxy = plain_haproxy([gateway.gateway.port for gateway in gateways])
        proxied = await anyio.to_thread.run_sync(proxy.__enter__)
        try:
            server.url = gateways[0].url.replace(f":{gateways[0].gateway.port}/", f":{proxied}/")
            server.port = proxied
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(proxy.__exit__, None, None, None)


@asynccontextmanager
async def _gateways(app: App, count: int) -> AsyncIterator[tuple[Server, list[NodeServer]]]:
    """Serve an App as nodes; yield the server of the only shard, and nodes that do not own it."""
    app.tenant = lambda principal: TENANT
    url = await anyio.to_thread.run_sync(_taken)
    stores = [PostgresStore(url) for _ in range(1 + count)]
    try:
        async with AsyncExitStack() as stack:
            nodes: list[NodeServer] = []
            for store in stores:
                await anyio.to_thread.run_sync(store.open)
                nodes.append(await stack.enter_async_context(served(app, store, lease=LEASE)))
                await spread(nodes[0])
            owner, *gateways = nodes
            server = owner.shards.server(0)
            assert server is not None
            assert not any(gateway.shards.server(0) for gateway in gateways)
            yield server, gateways
    finally:
        with anyio.CancelScope(shield=True):
            for store in stores:
                await anyio.to_thread.run_sync(store.close)
        _unused.append(url)


def _taken() -> str:
    """Return the URL of a store of one shard, which had an owner before: a node claims it at once."""
    url = _unused.pop() if _unused else _made()
    for table in ("record", "kept", "node", "shard"):
        query(url, f"DELETE FROM arcp.{table}")
    query(url, "INSERT INTO arcp.shard (shard, epoch) VALUES (0, 1)")
    return url


def _made() -> str:
    """Make a database with a store, for this process; return its URL."""
    database = private_database()
    url = database.__enter__()
    atexit.register(database.__exit__, None, None, None)
    store = PostgresStore(url)
    store.open(make_shards=1)
    store.close()
    return url
