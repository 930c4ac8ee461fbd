"""The floor of clients: it splits and decodes frames, keeps events for an iterator, and checks nothing."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from ..servers.options import TOKEN
from .settings import Settings, from_command_line, measured

ACK_EVERY: Final = 256


class Payload(msgspec.Struct, gc=False):
    """The payload of an event."""

    kind: str
    ts: str
    body: msgspec.Raw


class Envelope(msgspec.Struct, gc=False):
    """The fields that the client reads of every message."""

    type: str
    payload: msgspec.Raw
    session_id: str = ""
    event_seq: int = 0


class Chunk(msgspec.Struct, gc=False):
    """A chunk of a result."""

    data: str
    encoding: str


_envelope = msgspec.json.Decoder(Envelope).decode
_payload = msgspec.json.Decoder(Payload).decode
_chunk = msgspec.json.Decoder(Chunk).decode
_encode = msgspec.json.Encoder().encode


class Client(asyncio.Protocol):
    """One session."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._rest = b""
        self._open = False
        self._session = ""
        self._transport: asyncio.Transport
        self._messages: deque[Envelope] = deque()
        self._arrived: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(
            f"GET /arcp HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        hello = {
            "client": {"name": "floor", "version": "1"},
            "auth": {"scheme": "bearer", "token": TOKEN},
            "capabilities": {"encodings": ["json"], "features": ["ack", "progress", "result_chunk"]},
        }
        self.send("session.hello", hello)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        position, size = 0, len(data)
        if not self._open:
            position = data.find(b"\r\n\r\n") + 4
            if position < 4:
                self._rest = data
                return
            self._open = True
        while size - position >= 2:
            length, start = data[position + 1], position + 2
            if length == 126:
                length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif length == 127:
                length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            end = start + length
            if end > size:
                break
            self._messages.append(_envelope(data[start:end]))
            position = end
        self._rest = data[position:]
        if self._arrived is not None and self._messages:
            arrived, self._arrived = self._arrived, None
            arrived.set_result(None)

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        """Send one message, masked with zeros."""
        message = _encode(
            {"arcp": "1.1", "id": "01J", "type": kind, "session_id": self._session, "payload": payload}
        )
        size = len(message)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self._transport.write(b"\x81" + length + bytes(4) + message)

    async def hello(self) -> None:
        """Wait for the welcome."""
        self._session = (await self.receive()).session_id

    async def receive(self) -> Envelope:
        """Wait for the next message, and return it."""
        while not self._messages:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        return self._messages.popleft()

    async def events(self, agent: str, input: Any) -> AsyncIterator[Payload]:
        """Submit a job, and yield its events."""
        self.send("job.submit", {"agent": agent, "input": input})
        while (envelope := await self.receive()).type != "job.result":
            if envelope.type == "job.event":
                if envelope.event_seq % ACK_EVERY == 0:
                    self.send("session.ack", {"last_processed_seq": envelope.event_seq})
                yield _payload(envelope.payload)

    async def join(self, input: Any) -> int:
        """Receive a chunked result, and return its size."""
        parts: list[bytes] = []
        async for payload in self.events("chunks", input):
            chunk = _chunk(payload.body)
            parts.append(base64.b64decode(chunk.data) if chunk.encoding == "base64" else chunk.data.encode())
        return len(b"".join(parts))

    async def jobs(self, count: int) -> float:
        """Run jobs one after the other; return the median of seconds from submit to result."""
        took = []
        for _ in range(count):
            start = time.perf_counter()
            async for _ in self.events("echo", {"x": 1}):
                pass
            took.append(time.perf_counter() - start)
        return sorted(took)[count // 2]


async def main(settings: Settings) -> None:
    """Carry out the task."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(settings.port), "127.0.0.1", settings.port)
    await client.hello()
    await client.jobs(20)
    with measured() as found:
        if settings.task == "events":
            found["events"] = 0
            async for _ in client.events("emit", settings.input):
                found["events"] += 1
        elif settings.task == "result":
            found["size"] = await client.join(settings.input)
        else:
            found["p50"] = await client.jobs(settings.count)


if __name__ == "__main__":
    asyncio.run(main(from_command_line()))
