"""Sockets and pipes on trio, without its own streams, so that immediate writes need no task."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from arcp_io.drivers.loop import Connected
from arcp_io.drivers.sockets import send_at_once
from arcp_io.drivers.transport import Receiver

if TYPE_CHECKING:
    from .loop import TrioLoop

_NOTHING: Final = memoryview(b"")


class DirectStream(ABC):
    """A ByteStream: one task reads; a write is tried at once, and a task sends the rest.

    All streams read into one buffer of their loop, and copy the received bytes at once: allocating a large
    buffer for each read costs more than the read.
    """

    __slots__ = (
        "_closed",
        "_loop",
        "_reading",
        "_receive",
        "_rest",
        "_resumed",
        "_send",
        "_sending",
        "_writing",
        "transport",
    )

    def __init__(
        self,
        loop: TrioLoop,
        reading: int | socket.socket,
        writing: int | socket.socket,
        receive: Callable[[memoryview], int],
        send: Callable[[bytes | memoryview], int],
        connected: Connected,
    ) -> None:
        self._loop = loop
        self._reading = reading
        self._writing = writing
        self._receive = receive
        self._send = send
        self._closed = False
        self._resumed: trio.Event | None = None
        self._rest = _NOTHING
        self._sending = False
        self.transport: Receiver = connected(self)
        """The receiver that the stream reports to."""
        loop.start(self._read, "arcp reader")

    # Called by the transport.

    def write(self, data: bytes) -> bool:
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            reason = f"the stream broke: {error}"
            self._loop.call_soon(lambda: self.transport.ended(reason))
            return False
        if sent == len(data):
            return True
        self._rest = memoryview(data)[sent:]
        if not self._sending:
            self._sending = True
            self._loop.start(self._send_rest, "arcp sender")
        return False

    def pause(self) -> None:
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.resume()
            self._close()

    abort = close

    @abstractmethod
    def end(self) -> None:
        """End our direction."""

    @abstractmethod
    def _close(self) -> None:
        """Close the descriptors that the stream owns."""

    # The tasks.

    async def _read(self) -> None:
        reason = "the stream was closed"
        try:
            while not self._closed:
                if self._resumed is not None:
                    await self._resumed.wait()
                    continue
                await trio.lowlevel.wait_readable(self._reading)
                try:
                    size = self._receive(self._loop.buffer)
                except BlockingIOError:
                    continue
                if not size:
                    if self.transport.received_eof():
                        await self._wait_until_closed()
                    break
                self.transport.received(bytes(self._loop.buffer[:size]))
        except OSError as error:
            reason = f"the stream broke: {error}"
        except trio.ClosedResourceError:
            pass
        finally:
            self.transport.ended(reason)

    async def _wait_until_closed(self) -> None:
        while not self._closed:
            self.pause()
            if self._resumed is not None:
                await self._resumed.wait()

    async def _send_rest(self) -> None:
        try:
            while self._rest and not self._closed:
                await trio.lowlevel.wait_writable(self._writing)
                try:
                    self._rest = self._rest[self._send(self._rest) :]
                except BlockingIOError:
                    continue
                if not self._rest:
                    self.transport.written()  # The transport may write more.
        except OSError as error:
            self.transport.ended(f"the stream broke: {error}")
        except trio.ClosedResourceError:
            pass
        finally:
            self._sending = False


class SocketStream(DirectStream):
    """A stream over a socket, which it owns."""

    __slots__ = ("_socket",)

    def __init__(self, loop: TrioLoop, opened: socket.socket, connected: Connected) -> None:
        opened.setblocking(False)
        send_at_once(opened)
        self._socket = opened
        super().__init__(loop, opened, opened, opened.recv_into, opened.send, connected)

    def end(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class PipeStream(DirectStream):
    """A stream over two pipes, one for each direction, which it owns."""

    __slots__ = ("_pipes",)

    def __init__(self, loop: TrioLoop, reading: int, writing: int, connected: Connected) -> None:
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._pipes = (reading, writing)
        super().__init__(
            loop,
            reading,
            writing,
            lambda buffer: os.readv(reading, [buffer]),
            partial(os.write, writing),
            connected,
        )

    def end(self) -> None:
        self.close()

    def _close(self) -> None:
        for pipe in self._pipes:
            trio.lowlevel.notify_closing(pipe)
            os.close(pipe)
