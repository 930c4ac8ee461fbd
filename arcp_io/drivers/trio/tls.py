"""TLS on trio."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from arcp_io.drivers.loop import READ_SIZE, Connected
from arcp_io.drivers.transport import Receiver

if TYPE_CHECKING:
    from .loop import TrioLoop

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds for the end of TLS."""


async def client_side(
    stream: trio.SocketStream, context: ssl.SSLContext, hostname: str
) -> trio.SSLStream[trio.SocketStream]:
    """Begin TLS as a client; raises ssl.SSLError, or another OSError, and closes the stream then."""
    tls = trio.SSLStream(stream, context, server_hostname=hostname)
    try:
        await tls.do_handshake()
    except BaseException as error:
        stream.socket.close()
        if isinstance(error, trio.BrokenResourceError) and isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    return tls


class TlsStream:
    """A ByteStream over TLS: one task reads, and each write has a task until it is sent."""

    def __init__(
        self,
        loop: TrioLoop,
        tls: trio.SSLStream[trio.SocketStream],
        connected: Connected,
    ) -> None:
        """Carry a connection over `tls`, whose handshake may not have begun."""
        self._loop = loop
        self._socket = tls.transport_stream
        self._tls = tls
        self._resumed: trio.Event | None = None
        self._outgoing = b""
        self._sending = False
        self._begun = self._closed = False
        self.transport: Receiver = connected(self)
        """The receiver that the stream reports to."""
        loop.start(self._read, "arcp TLS reader")

    # Called by the transport.

    def write(self, data: bytes) -> bool:
        self._outgoing = data
        if not self._sending:
            self._sending = True
            self._loop.start(self._send, "arcp TLS sender")
        return False

    def pause(self) -> None:
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def end(self) -> None:
        if not self._begun:
            self.abort()  # To close in order, trio would continue the handshake.
        elif not self._closed:
            self._closed = True
            self.resume()
            self._loop.start(self._close, "arcp TLS end")

    close = end

    def abort(self) -> None:
        self._closed = True
        self.resume()
        self._socket.socket.close()

    # The tasks.

    async def _read(self) -> None:
        reason = "the stream was closed"
        try:
            await self._tls.do_handshake()
            self._begun = True
            while data := await self._tls.receive_some(READ_SIZE):
                self.transport.received(bytes(data))
                while self._resumed is not None:
                    await self._resumed.wait()
            self.transport.received_eof()
        except trio.BrokenResourceError as error:
            reason = f"the stream broke: {error.__cause__ or error}"
        except trio.ClosedResourceError:
            pass
        finally:
            self.transport.ended(reason)

    async def _send(self) -> None:
        try:
            while data := self._outgoing:
                self._outgoing = b""
                await self._tls.send_all(data)
                self.transport.written()  # The transport may write more.
        except trio.BrokenResourceError as error:
            self.transport.ended(f"the stream broke: {error.__cause__ or error}")
        except trio.ClosedResourceError:
            pass
        finally:
            self._sending = False

    async def _close(self) -> None:
        try:
            with trio.move_on_after(SHUTDOWN_TIMEOUT), suppress(trio.BrokenResourceError):
                await self._tls.aclose()
        finally:
            self.abort()
