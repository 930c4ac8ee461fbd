"""The drivers on the running asyncio loop, without sockets: one server, a load session and a client."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from arcp_io import Session, connect
from arcp_io.drivers.memory import LengthCodec, MemoryStream
from arcp_io.drivers.transport import StreamTransport
from arcp_io.server.memory import CAPACITY, MemoryServer, serve_memory
from arcp_proto import Framing

from .servers.options import TOKEN, Options
from .servers.ours import app_of

HELLO = {
    "client": {"name": "load", "version": "1"},
    "auth": {"scheme": "bearer", "token": TOKEN},
    "capabilities": {"encodings": ["json"], "features": []},
}


class Load:
    """A session that waits for the ends of jobs, and decodes no other message."""

    def __init__(self, server: MemoryServer) -> None:
        runtime = server.server
        self._ids = itertools.count(1)
        self._arrived = asyncio.Event()
        self._stream, theirs = MemoryStream.pair(runtime.loop, runtime.loop, CAPACITY)
        self._stream.transport = _Sink(self)
        connection = runtime.connect(Framing.MESSAGES, secure=True, peer="memory")
        theirs.transport = StreamTransport(runtime.pump, connection, LengthCodec(1 << 20), theirs)
        runtime.pump.run()

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        """Send one message."""
        envelope = {"arcp": "1.1", "id": f"01J{next(self._ids)}", "type": kind, "payload": payload}
        self._stream.write(LengthCodec(1 << 20).frame([msgspec.json.encode(envelope)]))

    async def run(self, agent: str, input: Any) -> None:
        """Submit one job, and wait for its end."""
        self._arrived.clear()
        self.send("job.submit", {"agent": agent, "input": input})
        await self._arrived.wait()

    def received(self, data: bytes) -> None:
        """Receive bytes of the server, and note the end of a job or the welcome."""
        if b'"type":"job.result"' in data or b'"type":"session.welcome"' in data:
            self._arrived.set()

    async def hello(self) -> None:
        """Open the session, and wait for the welcome."""
        self.send("session.hello", HELLO)
        await self._arrived.wait()


class _Sink(StreamTransport):
    """The load session's end of the stream, in the place of a transport."""

    __slots__ = ("_load",)

    def __init__(self, load: Load) -> None:
        self._load = load

    def received(self, data: bytes) -> None:
        self._load.received(data)

    def written(self) -> None:
        pass

    def ended(self, reason: str) -> None:
        pass


class Pair:
    """A server, a load session, and a session of the client of arcp-io."""

    def __init__(self, load: Load, session: Session) -> None:
        self._load = load
        self._session = session

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Pair]:
        """Serve, and connect both sessions."""
        async with serve_memory(app_of(Options("asyncio"))) as server, connect(server, TOKEN) as session:
            load = Load(server)
            await load.hello()
            yield cls(load, session)

    async def emit(self, count: int, suspend: bool) -> None:
        """Publish events of one job to the load session."""
        await self._load.run("emit", {"n": count, "suspend": suspend})

    async def jobs(self, count: int) -> None:
        """Run jobs of the load session, one after the other."""
        for _ in range(count):
            await self._load.run("echo", {"x": 1})

    async def receive(self, count: int) -> None:
        """Publish events of one job to the client, which iterates over them; the counts include both ends."""
        job = await self._session.submit("emit", {"n": count})
        received = 0
        async for _ in job:
            received += 1
        if received != count:
            raise AssertionError(f"{received} of {count} events have come")
