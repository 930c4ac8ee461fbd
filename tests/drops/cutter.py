"""A proxy in a process of its own that cuts connections anywhere, in many ways.

python -m tests.drops.cutter PORT CUTS MEAN SEED

Carries connections to a port of this machine, and cuts CUTS of them, each after a random number of bytes
from the server, MEAN of them on average. Prints its own port, and then a line of JSON for each connection
that it accepts and each that it cuts, with the time (CLOCK_MONOTONIC, seconds). Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys
import time
from contextlib import suppress
from enum import StrEnum
from typing import Final

READ_SIZE: Final = 65536
STALL: Final = 1.0
"""Seconds for which a server is left with a connection that is dead on the other side."""
RESET: Final = struct.pack("ii", 1, 0)


class Way(StrEnum):
    """The end of a connection as one side sees it."""

    FIN = "fin"
    RST = "rst"
    STALL = "stall"
    """Not at all, for a while."""


class Cutter:
    """Connections to one port."""

    def __init__(self, port: int, cuts: int, mean: int, seed: int) -> None:
        self._port = port
        self._cuts_left = cuts
        self._mean = mean
        self._source = random.Random(seed)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection from its first byte to its cut."""
        say("accepted")
        with suppress(OSError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
            outward = asyncio.create_task(copy(reader, to_server))
            cut = await self._inward(from_server, writer)
            if cut:
                await self._cut(writer, to_server)
            outward.cancel()
            to_server.close()
        writer.close()

    async def _inward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass on what the server says, up to the place of the cut; return whether it came to that."""
        if self._cuts_left <= 0:
            await copy(reader, writer)
            return False
        room = self._source.randrange(1, 2 * self._mean)
        with suppress(OSError):
            while data := await reader.read(min(READ_SIZE, room)):
                writer.write(data)
                await writer.drain()
                room -= len(data)
                if room <= 0 and self._cuts_left > 0:
                    self._cuts_left -= 1
                    return True
        return False

    async def _cut(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        to_client = self._source.choice((Way.FIN, Way.RST))
        to_server = self._source.choice((Way.FIN, Way.RST, Way.RST, Way.STALL))
        end(client, to_client)
        say("cut", client=to_client, server=to_server, left=self._cuts_left)
        if to_server is Way.STALL:
            await asyncio.sleep(STALL)
        end(server, to_server)


def end(writer: asyncio.StreamWriter, way: Way) -> None:
    """End one side."""
    if way is Way.FIN:
        writer.close()
    else:
        sock: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes from one side to the other until the end."""
    with suppress(OSError):
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    writer.close()


def say(what: str, **facts: object) -> None:
    """Print one line."""
    print(json.dumps({"what": what, "at": time.monotonic(), **facts}), flush=True)


async def _main(port: int, cuts: int, mean: int, seed: int) -> None:
    cutter = Cutter(port, cuts, mean, seed)
    server = await asyncio.start_server(cutter.carry, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
