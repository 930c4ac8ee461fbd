"""Nodes with their gateways, in one process and over one store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import TaskStatus

from arcp_io.app import App
from arcp_io.cluster.node import Node, NodeServer
from arcp_io.cluster.placing import shard_of
from arcp_io.cluster.store import PostgresStore
from arcp_io.drivers.node_tls import NodeTls
from arcp_io.server.server import serve
from tests.cluster.beaten import LEASE, LIMIT


class Killed(Exception):
    """The end of a node as by a crash."""


@asynccontextmanager
async def served(
    app: App, store: PostgresStore, *, lease: float = LEASE, tls: NodeTls | None = None, **options: Any
) -> AsyncIterator[NodeServer]:
    """Serve an App as a node on a free port, in a task of its own; a test may kill it.

    The options are those of `serve`.
    """
    over = anyio.Event()
    async with anyio.create_task_group() as tasks:
        node: NodeServer = await tasks.start(_serve, app, store, Node(lease=lease, tls=tls), over, options)
        yield node
        over.set()


@asynccontextmanager
async def two_served(
    app: App, one: PostgresStore, two: PostgresStore
) -> AsyncIterator[tuple[NodeServer, NodeServer]]:
    """Serve an App as two nodes, each of which has its share of the shards."""
    async with served(app, one) as first, served(app, two) as second:
        await spread(first, second)
        yield first, second


async def _serve(
    app: App,
    store: PostgresStore,
    node: Node,
    over: anyio.Event,
    options: dict[str, Any],
    *,
    task_status: TaskStatus[NodeServer],
) -> None:
    with suppress(Killed):
        async with serve(app, journal=store, node=node, port=0, **options) as server:
            task_status.started(server)
            await over.wait()


def kill(node: NodeServer) -> None:
    """End a node as a crash does: it releases nothing."""
    node.loop.crash(Killed())


async def spread(*nodes: NodeServer) -> None:
    """Wait until the nodes serve all shards together, each its share."""
    count = nodes[0].gateway._count
    with anyio.fail_after(LIMIT):
        while True:
            owned = [{shard for shard in range(count) if node.shards.server(shard)} for node in nodes]
            sizes = sorted(map(len, owned))
            if sum(sizes) == count and sizes[-1] - sizes[0] <= 1:
                return
            await anyio.sleep(0.02)


def owner_first(principal: str, *nodes: NodeServer) -> list[Any]:
    """Return nodes with the one first that serves the shard of a principal."""
    shard = shard_of(principal, nodes[0].gateway._count)
    return sorted(nodes, key=lambda node: node.shards.server(shard) is None)
