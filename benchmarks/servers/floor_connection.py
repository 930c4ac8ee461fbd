"""The wire of the floor: the framing, and the time at which waiting messages are written."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .floor import Floor, Session

PAUSE: Final = 0.001
"""Seconds between two writes while events keep coming."""

Store = Callable[[Sequence[bytes]], object]


class Connection(asyncio.Protocol):
    """A connection over a WebSocket, or with `lines` over a pair of pipes."""

    def __init__(self, floor: Floor, *, lines: bool = False, store: Store | None = None) -> None:
        self.session: Session = floor.open(self)
        self.transport: asyncio.WriteTransport
        self._floor, self._lines, self._store = floor, lines, store
        self._loop = asyncio.get_running_loop()
        self._open = lines
        self._rest = b""
        self._scheduled = False
        self._quiet_until = 0.0
        self._paused: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        if not self._lines:
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.session.connection is self:
            self.session.connection = None
            self.session.pending, self.session.size = [], 0
        self.resume_writing()

    def pause_writing(self) -> None:
        self._paused = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._paused is not None:
            paused, self._paused = self._paused, None
            if not paused.done():
                paused.set_result(None)
            self._flush()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self._open:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._rest = data
                return
            self._open = True
            self.transport.write(_accepted(data[:end]))
            data = data[end:]
        *messages, self._rest = data.split(b"\n") if self._lines else _unframe(data)
        for message in messages:
            self._floor.receive(self, message)

    def flush_soon(self) -> None:
        """Write the first event at once, and later events at most once a millisecond."""
        if not self._scheduled:
            self._scheduled = True
            wait = self._quiet_until - self._loop.time()
            if wait > 0:
                self._loop.call_later(wait, self._flush_events)
            else:
                self._loop.call_soon(self._flush_events)

    def flush_next(self) -> None:
        """Write all waiting messages after two turns of the loop, with the events of the first turn."""
        self._loop.call_soon(self._loop.call_soon, self._flush)

    async def relieved(self) -> None:
        """Write, and wait until the connection takes more bytes."""
        self._flush()
        if self._paused is not None:
            await self._paused
        else:
            await asyncio.sleep(0)

    def _flush_events(self) -> None:
        self._scheduled = False
        self._quiet_until = self._loop.time() + PAUSE
        self._flush()

    def _flush(self) -> None:
        session = self.session
        messages = session.pending
        if messages and self._paused is None and session.connection is self:
            session.pending, session.size = [], 0
            if self._store is not None:
                self._store(messages)
            self.transport.write(b"\n".join([*messages, b""]) if self._lines else _frame(messages))


def _accepted(request: bytes) -> bytes:
    key = next(
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    digest = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + digest + b"\r\n\r\n"


_HEADS: Final = [bytes((0x81, size)) for size in range(126)]
_HEADS.extend(b"\x81\x7e" + size.to_bytes(2, "big") for size in range(126, 65536))


def _frame(messages: Sequence[bytes]) -> bytes:
    parts: list[bytes] = []
    for message in messages:
        size = len(message)
        parts.append(_HEADS[size] if size < 65536 else b"\x81\x7f" + size.to_bytes(8, "big"))
        parts.append(message)
    return b"".join(parts)


def _unframe(data: bytes) -> list[bytes]:
    """Split bytes into messages, and the rest. A mask of zeros, which the load client uses, costs nothing."""
    found, position, size = [], 0, len(data)
    while size - position >= 6:
        length, start = data[position + 1] & 0x7F, position + 2
        if length == 126:
            length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif length == 127:
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = start + 4 + length
        if end > size:
            break
        mask, message = data[start : start + 4], data[start + 4 : end]
        if mask != bytes(4):
            pattern = (mask * (length // 4 + 1))[:length]
            number = int.from_bytes(message, "big") ^ int.from_bytes(pattern, "big")
            message = number.to_bytes(length, "big")
        if data[position] == 0x81:
            found.append(message)
        position = end
    return [*found, data[position:]]


class Input(asyncio.Protocol):
    """The pipe from which a connection reads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.data_received(data)
