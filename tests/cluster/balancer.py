"""A load balancer before the nodes, as an operator would run one: it asks for the health of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from tests.cluster.node_process import Place
from tests.kill9.witness import Stream

INTERVAL: Final = 0.25
"""Seconds between two questions."""
ANSWER: Final = 0.75
"""Seconds within which a node answers."""
QUESTION: Final = b"GET /arcp/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


class Balancer:
    """The load balancer, which chooses a node for each connection."""

    def __init__(self, places: Sequence[Place], source: random.Random) -> None:
        """Take the list of places, which may change."""
        self.healthy: set[Place] = set()
        self._places = places
        self._source = source
        self._tasks: dict[Place, asyncio.Task[None]] = {}

    async def dial(self, chosen: Callable[[Place], object]) -> Stream:
        """Connect to a healthy node, or to any if none is healthy; `chosen` is called with its place."""
        self.look()
        places = [place for place in self._places if place in self.healthy] or list(self._places)
        place = self._source.choice(places)
        chosen(place)
        return await asyncio.open_connection("127.0.0.1", place.clients.port)

    def gateway_of(self, head: bytes) -> Place | None:
        """Return None: `dial` has told the place before the answer came."""
        return None

    def look(self) -> None:
        """Ask all present places for their health from now on, and forget the others."""
        for place in self._places:
            if place not in self._tasks:
                self._tasks[place] = asyncio.create_task(self._ask_on(place))
        for place in [place for place in self._tasks if place not in self._places]:
            self._tasks.pop(place).cancel()
            self.healthy.discard(place)

    async def close(self) -> None:
        """Stop the health checks."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _ask_on(self, place: Place) -> None:
        while True:
            if await is_healthy(place):
                self.healthy.add(place)
            else:
                self.healthy.discard(place)
            await asyncio.sleep(INTERVAL)


async def is_healthy(place: Place) -> bool:
    """Return whether the node at a place says that it takes clients."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER):
            reader, writer = await asyncio.open_connection("127.0.0.1", place.clients.port)
            try:
                writer.write(QUESTION)
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    return False
