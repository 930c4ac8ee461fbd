"""HAProxy as the load balancer of a fleet: it connects to the nodes in turn, as the guide configures it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from tests.cluster.balancers import NODES, changed_haproxy
from tests.cluster.node_process import Place
from tests.kill9.witness import Stream

SLOTS: Final = 40
"""Servers of HAProxy: places that nodes of a round have, one after the other."""
LOOK: Final = 0.05
"""Seconds between two looks for nodes that listen."""
SERVERS: Final = f"    server one {NODES[0]}\n    server two {NODES[1]}"
TEMPLATE: Final = f"""    http-response set-header x-node %s
    server-template node 1-{SLOTS} 127.0.0.1:1 disabled"""


class Haproxy:
    """HAProxy before the places of a fleet, in the part of `Balancer`.

    It connects to the ports of nodes and not to their links, so that it notices at once that one is gone.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        """Take the list of places, which may change."""
        self._places = places
        self._slots: dict[Place, int] = {}
        self._count = 0
        """Slots that were used."""
        self._ends = ExitStack()
        self._port, self._commands = self._ends.enter_context(changed_haproxy({SERVERS: TEMPLATE}))
        self._looking: asyncio.Task[None] | None = None

    async def dial(self, chosen: Callable[[Place], object]) -> Stream:
        """Connect to HAProxy; the head of its answer tells which node it has chosen."""
        self.look()
        return await asyncio.open_connection("127.0.0.1", self._port)

    def gateway_of(self, head: bytes) -> Place | None:
        """Return the place that has answered, by the head of the answer."""
        found = re.search(rb"x-node: node(\d+)", head)
        places = {slot: place for place, slot in self._slots.items()}
        return places.get(int(found[1])) if found else None

    def look(self) -> None:
        """Tell HAProxy about places where a node listens, and about those that are gone."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on())
        for place in self._places:
            if place.port and place not in self._slots:
                self._count += 1
                slot = self._slots[place] = self._count
                self._tell(f"set server nodes/node{slot} addr 127.0.0.1 port {place.port}")
                self._tell(f"set server nodes/node{slot} state ready")
                self._tell(f"enable health nodes/node{slot}")
        for place in [place for place in self._slots if place not in self._places]:
            self._tell(f"set server nodes/node{self._slots.pop(place)} state maint")

    async def close(self) -> None:
        """End HAProxy."""
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.to_thread(self._ends.close)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self.look()

    def _tell(self, command: str) -> str:
        """Give a command; return the answer."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(self._commands))
            stream.sendall(f"{command}\n".encode())
            return stream.recv(65536).decode()
