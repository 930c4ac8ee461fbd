"""Two pipes on asyncio, one for each direction."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, cast

from arcp_io.drivers.loop import Connected
from arcp_io.drivers.transport import Receiver

if TYPE_CHECKING:
    from .loop import AsyncioLoop


class PipeStream:
    """A ByteStream over two pipes."""

    transport: Receiver
    """The receiver of reports, once both pipes are open."""

    def __init__(self, loop: AsyncioLoop, connected: Connected) -> None:
        self._loop = loop
        self._connected = connected
        self._writing = False
        self._opened = False
        self._reader_open = self._writer_open = False

    async def open(self, reading: int, writing: int) -> None:
        """Own and carry both descriptors; raises OSError, and closes them then."""
        native = asyncio.get_running_loop()
        reader, writer = os.fdopen(reading, "rb", buffering=0), os.fdopen(writing, "wb", buffering=0)
        try:
            self._writer, _ = await native.connect_write_pipe(lambda: _Writing(self), writer)
            await native.connect_read_pipe(lambda: _Reading(self), reader)
        except BaseException:
            reader.close()
            writer.close()
            raise

    # Called by the pipes.

    def opened(self, reader: asyncio.ReadTransport) -> None:
        """Note that the second pipe is open."""
        self._reader = reader
        self._reader_open = True
        self.transport = self._loop.stream_opened(self, self._connected)
        self._opened = True
        if not self._writer_open:
            self._loop.call_soon(lambda: self.transport.ended("the peer does not read"))

    def received(self, data: bytes) -> None:
        self.transport.received(data)

    def reader_closed(self) -> None:
        self._reader_open = False
        if not self._writer_open:
            self._loop.stream_closed(self)
        self.transport.ended("the peer ended the stream")

    def writer_opened(self, writer: asyncio.WriteTransport) -> None:
        writer.set_write_buffer_limits(high=0)  # Paused means that some data are not written.
        self._writer_open = True

    def writer_closed(self, error: Exception | None) -> None:
        self._writer_open = False
        if not self._opened:
            return
        if not self._reader_open:
            self._loop.stream_closed(self)
        self.transport.ended("the stream was closed" if error is None else f"the stream broke: {error}")

    def writing(self, writing: bool) -> None:
        """Note whether a write is in progress."""
        self._writing = writing
        if not writing:
            self.transport.written()

    # Called by the transport.

    def write(self, data: bytes) -> bool:
        """Write without waiting, and return whether all was taken.

        Data for a closed pipe are dropped and reported.
        """
        if self._writer_open:  # asyncio drops data for a closed pipe, uvloop raises RuntimeError.
            self._writer.write(data)
        return not self._writing

    def pause(self) -> None:
        self._reader.pause_reading()

    def resume(self) -> None:
        self._reader.resume_reading()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    end = close

    def abort(self) -> None:
        self._reader.close()
        # asyncio fails on the abort of a pipe that is closing and has nothing left to write.
        if not self._writer.is_closing() or self._writer.get_write_buffer_size():
            self._writer.abort()


class _Reading(asyncio.Protocol):
    def __init__(self, stream: PipeStream) -> None:
        self._stream = stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream.opened(cast(asyncio.ReadTransport, transport))

    def data_received(self, data: bytes) -> None:
        self._stream.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.reader_closed()


class _Writing(asyncio.BaseProtocol):
    def __init__(self, stream: PipeStream) -> None:
        self._stream = stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream.writer_opened(cast(asyncio.WriteTransport, transport))

    def pause_writing(self) -> None:
        self._stream.writing(True)

    def resume_writing(self) -> None:
        self._stream.writing(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.writer_closed(exc)
