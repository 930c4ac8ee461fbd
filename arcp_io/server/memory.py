"""Connections inside one process, without sockets: for tests, and for agents that call agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from arcp_io.drivers.clock import Clock
from arcp_io.drivers.loop import Loop
from arcp_io.drivers.memory import LengthCodec, MemoryStream
from arcp_io.drivers.pump import Pump
from arcp_io.drivers.transport import StreamTransport
from arcp_proto import Connection, Framing

from .server import Server, open_server

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.journal import Journal

CAPACITY: Final = 256 * 1024
"""Bytes in flight to one side; a write beyond that finishes when the bytes have been delivered."""


class MemoryServer:
    """An App that is served in memory: clients of the same event loop `connect` to it.

    `server` is its Server, with `jobs`, `cancel` and `counts`.
    """

    lasting = False
    clock: Clock | None = None

    def __init__(self, server: Server, capacity: int) -> None:
        self.server = server
        self._capacity = capacity

    async def shut_down(self, drain: float = 0.0) -> None:
        """Shut the server down, as `Server.shut_down`."""
        await self.server.shut_down(drain)

    def dial(self, pump: Pump, connection: Connection) -> StreamTransport:
        """Connect a client's connection to the server, and return its transport."""
        server = self.server
        ours, theirs = self._pair(pump.loop, server.loop, self._capacity)
        accepted = server.connect(Framing.MESSAGES, secure=True, peer="memory")
        theirs.transport = StreamTransport(server.pump, accepted, LengthCodec(accepted.message_limit), theirs)
        server.pump.run()
        transport = StreamTransport(pump, connection, LengthCodec(connection.message_limit), ours)
        ours.transport = transport
        return transport

    def _pair(self, one: Loop, other: Loop, capacity: int) -> tuple[MemoryStream, MemoryStream]:
        """Return two connected ends, that of a client and that of the server."""
        return MemoryStream.pair(one, other, capacity)


@asynccontextmanager
async def serve_memory(
    app: App, *, drain: float = 0.0, capacity: int = CAPACITY, journal: Journal | None = None
) -> AsyncIterator[MemoryServer]:
    """Serve an App in memory, without sockets, until the block is left: for tests of agents.

    Clients of the same event loop connect to the yielded server: `connect(memory, token)`. Each direction of
    a connection buffers `capacity` bytes. `drain` and `journal` are those of `serve`.
    """
    async with open_server(app, drain, journal) as server:
        yield MemoryServer(server, capacity)
