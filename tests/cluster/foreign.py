"""A server behind the gateway of another node: `pytest --foreign-gateway` serves attacks and peers by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from arcp_io.app import App
from arcp_io.cluster.placing import shard_of
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import Journal
from arcp_io.server.server import Server, serve
from tests.cluster.served import owner_first, served, spread
from tests.cluster.servers import private_database

SHARDS: Final = 2
LEASE: Final = 1.0
"""Seconds of a lease: these tests do not wait for the end of one."""
TENANT: Final = "everyone"
"""The tenant of all principals, so that they share a shard as those of one runtime do."""


@asynccontextmanager
async def serve_through_a_foreign_gateway(
    app: App, *, port: int, journal: Journal | None = None
) -> AsyncIterator[Server]:
    """Serve an App as two nodes; yield the server of the shard, with the URL of the other node.

    An App with a journal of its own is served alone.
    """
    if journal is not None:
        async with serve(app, port=port, journal=journal) as alone:
            yield alone
        return
    app.tenant = lambda principal: TENANT
    database = private_database()
    url = await anyio.to_thread.run_sync(database.__enter__)
    stores = [PostgresStore(url), PostgresStore(url)]
    try:
        for store in stores:
            await anyio.to_thread.run_sync(lambda store=store: store.open(make_shards=SHARDS))
        async with (
            served(app, stores[0], lease=LEASE) as first,
            served(app, stores[1], lease=LEASE) as second,
        ):
            await spread(first, second)
            owner, gateway = owner_first(TENANT, first, second)
            server = owner.shards.server(shard_of(TENANT, SHARDS))
            server.url, server.port = gateway.url, gateway.gateway.port
            yield server
    finally:
        with anyio.CancelScope(shield=True):
            for store in stores:
                await anyio.to_thread.run_sync(store.close)
            await anyio.to_thread.run_sync(database.__exit__, None, None, None)
