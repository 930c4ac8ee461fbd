"""Streams inside one process, without sockets, and the target for clients that use them."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, Self, runtime_checkable

from arcp_proto import Connection

from .clock import Clock
from .loop import Loop
from .pump import Pump
from .transport import Receiver, StreamTransport

_LENGTH: Final = struct.Struct(">I")


@runtime_checkable
class MemoryTarget(Protocol):
    """A target for clients of the same event loop: `serve_memory` yields one."""

    @property
    def lasting(self) -> bool:
        """Whether a second connection reaches the same runtime, so that a session can be resumed."""

    @property
    def clock(self) -> Clock | None:
        """The clock that its clients use, if it is driven by hand."""

    def dial(self, pump: Pump, connection: Connection) -> StreamTransport:
        """Connect a client's connection, and return its transport."""
        ...


class LengthCodec:
    """The framing of messages in memory: four bytes of length, then the message."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = True
        self.finished = False
        self.too_large = False
        self.controls = 0
        self.pending = 0
        self.failure: str | None = None
        self._rest = b""
        """The beginning of the next message, or of its length."""

    def receive(self, data: bytes) -> list[bytes]:
        messages: list[bytes] = []
        data, begin = self._rest + data, _LENGTH.size
        while not self.too_large and len(data) >= begin:
            (length,) = _LENGTH.unpack_from(data, begin - _LENGTH.size)
            end = begin + length
            if length > self.limit:
                self.too_large = True
            elif len(data) < end:
                break
            else:
                messages.append(data[begin:end])
                begin = end + _LENGTH.size
        self._rest = b"" if self.too_large else data[begin - _LENGTH.size :]
        return messages

    def receive_eof(self) -> None:
        self.open = False

    def frame(self, messages: Sequence[bytes]) -> bytes:
        return b"".join(part for message in messages for part in (_LENGTH.pack(len(message)), message))

    def close(self, code: int, reason: str) -> None:
        self.open = False
        self.finished = True

    def data_to_send(self) -> bytes:
        return b""


class MemoryStream:
    """One end of a pair of ByteStreams: written bytes are delivered at the next turn of the other end's
    loop.
    """

    transport: Receiver
    """The receiver that the stream reports to."""
    _other: MemoryStream

    def __init__(self, loop: Loop, capacity: int) -> None:
        self._loop = loop
        self._capacity = capacity
        self._inbox: deque[bytes] = deque()
        self._inbox_size = 0
        self._paused = self._closed = False
        self._other_ended = False
        self._awake = False
        self._unwritten = False

    @classmethod
    def pair(cls, one: Loop, other: Loop, capacity: int) -> tuple[Self, Self]:
        """Return two connected ends, each on its own loop."""
        ends = cls(one, capacity), cls(other, capacity)
        ends[0]._other, ends[1]._other = ends[1], ends[0]
        return ends

    def write(self, data: bytes) -> bool:
        other = self._other
        other._inbox.append(data)
        other._inbox_size += len(data)
        other._wake()
        self._unwritten = other._inbox_size > self._capacity
        return not self._unwritten

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._wake()

    def end(self) -> None:
        self._other._other_ended = True
        self._other._wake()

    def close(self) -> None:
        self._closed = True
        self._inbox.clear()
        self.end()

    abort = close

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._awake = False
        while self._inbox and not self._paused and not self._closed:
            data = self._inbox.popleft()
            self._inbox_size -= len(data)
            self.transport.received(data)
        if self._other._unwritten and not self._inbox:
            self._other._unwritten = False
            self._other._loop.call_soon(self._other.transport.written)
        if self._other_ended and not self._inbox:
            self.transport.received_eof()
