"""Sockets on asyncio: a Protocol, without a task.

All sockets read into one buffer of their loop, and copy the received bytes at once: allocating a large
buffer for each read costs more than the read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from arcp_io.drivers.loop import Connected
from arcp_io.drivers.sockets import send_at_once
from arcp_io.drivers.transport import Receiver
from arcp_proto import InvariantViolated

if TYPE_CHECKING:
    from .loop import AsyncioLoop

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds for the end of TLS."""


class SocketStream(asyncio.BufferedProtocol):
    """A ByteStream over a socket, or TLS. Once connected, it reports to its `transport`."""

    __slots__ = (
        "_carried",
        "_connected",
        "_early",
        "_give_up",
        "_loop",
        "_paused",
        "_socket",
        "_tls",
        "_unfinished",
        "transport",
    )

    def __init__(self, loop: AsyncioLoop, connected: Connected) -> None:
        self._loop = loop
        self._connected: Connected | None = connected
        self._paused = False
        self._unfinished = False
        self._carried = False
        self._early = b""
        """Bytes that are written before the TLS handshake has ended."""
        self._give_up: Callable[[], object] | None = None
        """Gives up the connection that is being made; None once it is made."""

    def accept(self, give_up: Callable[[], object]) -> None:
        """Report to a transport from now on, before the TLS handshake; `give_up` ends the handshake."""
        self._give_up = give_up
        self._carry()

    def failed(self, reason: str) -> None:
        """End the stream, unless its connection is made."""
        if self._give_up not in (None, _nothing):
            self._give_up = _nothing
            self._loop.stream_closed(self)
            self.transport.ended(reason)

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._give_up = None
        self._socket = cast(asyncio.Transport, transport)
        # Paused means that some data are not written. TLS pauses at the mark, plain sockets above it.
        self._tls = transport.get_extra_info("sslcontext") is not None
        self._socket.set_write_buffer_limits(high=1 if self._tls else 0, low=0)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            send_at_once(raw)
        if not self._carried:
            self._carry()
        if self._early:
            early, self._early = self._early, b""
            if self.write(early):
                self.transport.written()

    def _carry(self) -> None:
        connected, self._connected = self._connected, None
        if connected is None:
            raise InvariantViolated("a stream is connected once")
        self.transport: Receiver = self._loop.stream_opened(self, connected)
        self._carried = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._loop.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.received(bytes(self._loop.buffer[:nbytes]))

    def eof_received(self) -> bool:
        return self.transport.received_eof() and not self._tls

    def connection_lost(self, exc: Exception | None) -> None:
        self._loop.stream_closed(self)
        if self._carried:
            self.transport.ended("the stream was closed" if exc is None else f"the stream broke: {exc}")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._unfinished:
            self._unfinished = False
            self.transport.written()

    # Called by the transport.

    def write(self, data: bytes) -> bool:
        if self._give_up is not None:
            self._early = data
            return False
        # TLS pauses for bytes of its own too, and may resume within a write.
        self._socket.write(data)
        self._unfinished = self._paused
        return not self._unfinished

    def pause(self) -> None:
        self._socket.pause_reading()

    def resume(self) -> None:
        self._socket.resume_reading()

    def end(self) -> None:
        if self._give_up is not None:
            self._give_up()
        elif self._tls:
            self._socket.close()
        else:
            self._socket.write_eof()

    def close(self) -> None:
        if self._give_up is not None:
            self._give_up()
        else:
            self._socket.close()

    def abort(self) -> None:
        if self._give_up is not None:
            self._give_up()
        else:
            self._socket.abort()


def _nothing() -> None:
    """Replace `give_up` after the connection attempt has ended."""
