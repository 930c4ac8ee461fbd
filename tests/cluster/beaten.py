"""Nodes without a gateway: their shards listen by themselves, where a test asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Final

import anyio

from arcp_io.agents.threads import call_in_thread
from arcp_io.app import App
from arcp_io.cluster.beating import Beating
from arcp_io.cluster.ownership import Ownership
from arcp_io.cluster.rows import ShardRow
from arcp_io.cluster.shards import Shards
from arcp_io.cluster.store import PostgresStore
from arcp_io.drivers.loop import Loop, open_loop
from arcp_io.server.server import Server
from arcp_proto import RECORD_VERSION, SECOND
from tests.io.apps import front

LEASE: Final = 0.5
"""Seconds of a lease in these tests."""
LIMIT: Final = 60.0
"""Seconds after which a test gives up waiting."""
_numbers = count(1)


class Beaten:
    """A node that beats, and its shards."""

    def __init__(
        self, loop: Loop, store: PostgresStore, ownership: Ownership, shards: Shards, beating: Beating
    ) -> None:
        self._loop = loop
        self.store = store
        self.ownership = ownership
        self.shards = shards
        self.beating = beating

    async def url(self, shard: int) -> str:
        """Return the URL of a shard that this node serves, which listens from now on."""
        server = await self.served(shard)
        shown = front()
        await shown.open(self._loop)
        shown.serve(server)
        return server.url

    async def served(self, shard: int) -> Server:
        """Wait until this node serves a shard, and return its server."""
        with anyio.fail_after(LIMIT):
            while (server := self.shards.server(shard)) is None:
                await anyio.sleep(0.01)
        return server

    async def row(self, shard: int) -> ShardRow:
        """Return the row of a shard."""
        return (await call_in_thread(self.store.read, name="test")).shards[shard]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.01)


@asynccontextmanager
async def beaten(app: App, store: PostgresStore, *, lease: float = LEASE) -> AsyncIterator[Beaten]:
    """Let a node beat until the block is left, which leaves its shards as a crash does."""
    async with open_loop() as loop:
        address = f"127.0.0.1:{next(_numbers)}"
        ownership = Ownership(
            store.node,
            address,
            shards=store.shards,
            lease=int(lease * SECOND),
            record_version=RECORD_VERSION,
        )
        shards = Shards(app, store, ownership, loop)
        beating = Beating(store, ownership, shards, loop)
        await call_in_thread(partial(store.describe, address, b"k" * 32), name="test")
        beating.start()
        yield Beaten(loop, store, ownership, shards, beating)
