"""A proxy that cuts connections at any byte, and refuses them for a while."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Stands before a server; every connection is reset after a random number of bytes, `cuts` times."""

    def __init__(self, server_url: str, *, cuts: int, span: tuple[int, int], seed: int) -> None:
        parts = urlsplit(server_url)
        self.server = (parts.hostname or "", parts.port or 0)
        self.path = parts.path
        self.url = ""
        self.cuts_left = cuts
        self.connections = 0
        self.refusing = False
        """True while new connections are reset at once."""
        self._span = span
        self._random = random.Random(seed)
        self._carried: dict[anyio.CancelScope, tuple[SocketStream, SocketStream]] = {}

    def cut(self) -> None:
        """Reset every open connection."""
        carried, self._carried = self._carried, {}
        for scope, streams in carried.items():
            for stream in streams:
                reset_on_close(stream)
            scope.cancel()

    async def carry(self, client: SocketStream) -> None:
        self.connections += 1
        async with client:
            if self.refusing:
                reset_on_close(client)
                return
            async with await anyio.connect_tcp(*self.server) as server:
                room = self._random.randint(*self._span) if self.cuts_left else None
                with anyio.CancelScope() as scope:
                    self._carried[scope] = (client, server)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._copy, client, server, None)
                        await self._copy(server, client, room)
                self._carried.pop(scope, None)

    async def _copy(self, source: SocketStream, sink: SocketStream, room: int | None) -> None:
        """Copy until one side has ended, or until `room` bytes have gone through."""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while room is None or room > 0:
                data = await source.receive()
                if room is not None:
                    data = data[:room]
                    room -= len(data)
                await sink.send(data)
            if self.cuts_left:
                self.cuts_left -= 1
                reset_on_close(source)
                reset_on_close(sink)
        for scope, streams in list(self._carried.items()):
            if source in streams:
                scope.cancel()


def reset_on_close(stream: SocketStream) -> None:
    with suppress(OSError):
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@asynccontextmanager
async def proxy(
    server_url: str, *, cuts: int = 0, span: tuple[int, int] = (1, 20_000), seed: int = 0
) -> AsyncIterator[Proxy]:
    """Run a proxy for a ws:// address, on either event loop."""
    between = Proxy(server_url, cuts=cuts, span=span, seed=seed)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        between.url = f"ws://127.0.0.1:{port}{between.path}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, between.carry)
            yield between
            tasks.cancel_scope.cancel()
