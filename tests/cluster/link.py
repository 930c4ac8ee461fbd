"""A link between two processes of this machine: a TCP proxy that delays, stalls, cuts and refuses."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

BYTES: Final = 65_536


class Link:
    """A proxy from its own port to a port of this machine that may change, or may not be served."""

    def __init__(self, target: int = 0) -> None:
        """Lead to a port; 0 refuses every connection."""
        self.target = target
        self.delay = 0.0
        """Seconds for which bytes wait."""
        self.refuses = False
        """Whether new connections are closed at once."""
        self.port = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def listen(self) -> None:
        """Begin on a free port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def stall(self) -> None:
        """Let all bytes wait, those of new connections as well: as a network does that loses packets."""
        self._flows.clear()

    def flow(self) -> None:
        """Pass on what has waited, also when one of the sides has given up meanwhile."""
        self._flows.set()

    def cut(self) -> None:
        """Reset all connections of now."""
        for writers in self._open.values():
            for writer in writers:
                writer.transport.abort()

    def refuse(self) -> None:
        """Reset all connections, and close new ones at once."""
        self.refuses = True
        self.cut()

    def heal(self) -> None:
        """Take connections, and pass everything on."""
        self.refuses = False
        self.flow()

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(list(self._open))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._open[task] = [writer]
        try:
            await self._flows.wait()
            if self.refuses or not self.target:
                return
            try:
                target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                return
            writers.append(target_writer)
            await asyncio.gather(self._copy(reader, target_writer), self._copy(target_reader, writer))
        finally:
            for one in writers:
                one.close()
            del self._open[task]

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(BYTES):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        await self._flows.wait()
        writer.close()
