"""A server behind the gateway of another node: `pytest --foreign-gateway` serves attacks and peers by it."""

from __future__ import annotations

import atexit
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from arcp_io.app import App
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import Journal
from arcp_io.server.server import Server, serve
from tests.cluster.served import served, spread
from tests.cluster.servers import private_database, query

LEASE: Final = 1.0
"""Seconds of a lease: these tests do not wait for the end of one."""
TENANT: Final = "everyone"
"""The tenant of all principals, so that they share a shard as those of one runtime do."""
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
    app.tenant = lambda principal: TENANT
    url = await anyio.to_thread.run_sync(_taken)
    stores = [PostgresStore(url), PostgresStore(url)]
    try:
        for store in stores:
            await anyio.to_thread.run_sync(store.open)
        async with served(app, stores[0], lease=LEASE) as owner:
            await spread(owner)
            async with served(app, stores[1], lease=LEASE) as gateway:
                server = owner.shards.server(0)
                assert server is not None and gateway.shards.server(0) is None
                server.url, server.port = gateway.url, gateway.gateway.port
                yield server
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
