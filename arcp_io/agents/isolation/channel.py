"""The runtime's end of the pipes to an isolated agent: messages in and out, with back-pressure."""

from __future__ import annotations

from typing import Final

import anyio

from arcp_io.drivers.transport import ByteStream
from arcp_io.errors import ConnectionLost

from .protocol import Gathering

HELD: Final = 64 * 1024
"""Bytes that may wait here before reading pauses, unless they are one incomplete message."""


class Channel:
    """Receives messages from a stream and sends answers, for one task."""

    def __init__(self, stream: ByteStream, limit: int) -> None:
        """Read from and write to a stream; a received message has at most `limit` bytes."""
        self._stream = stream
        self._gathering = Gathering(limit)
        self._paused = False
        self._gone = ""
        self._unsent: list[bytes] = []
        """Messages that wait behind the write in progress."""
        self._state: bytes | None = None
        """The newest state message that waits behind the write in progress; it replaces older ones."""
        self._writing = False
        self._changed: anyio.Event | None = None

    async def receive(self) -> bytes:
        """Wait for a message.

        Raises ConnectionLost at the end of the stream, and ValueError for a long message.
        """
        while (message := self._gathering.take()) is None:
            if self._gone:
                raise ConnectionLost(self._gone)
            self._resume()
            await self._change()
        return message

    async def send(self, data: bytes) -> None:
        """Send a message, and wait until it is written; raises ConnectionLost."""
        self.tell(data)
        while self._writing:
            if self._gone:
                raise ConnectionLost(self._gone)
            await self._change()

    def tell(self, data: bytes) -> None:
        """Send a message after those that wait."""
        if self._writing:
            self._unsent.append(data)
        elif not self._gone:
            self._writing = not self._stream.write(data)

    def tell_state(self, data: bytes) -> None:
        """Send a state message, in place of an older one that still waits."""
        if self._writing:
            self._state = data
        else:
            self.tell(data)

    def close(self) -> None:
        """Stop reading and writing; calling it again has no effect."""
        if not self._gone:
            self._gone = "the pipes were closed"
            self._stream.abort()

    # Called by the stream.

    def received(self, data: bytes) -> None:
        """Take received bytes."""
        self._gathering.add(data)
        if self._gathering.size >= HELD and not self._paused:
            self._paused = True
            self._stream.pause()
        self._wake()

    def written(self) -> None:
        """Note that the last write has finished, and begin the next."""
        unsent, self._unsent = self._unsent, []
        if self._state is not None:
            unsent.append(self._state)
            self._state = None
        self._writing = bool(unsent) and not self._gone and not self._stream.write(b"".join(unsent))
        self._wake()

    def received_eof(self) -> bool:
        """Note that the process has closed its pipes."""
        self.ended("the peer ended the stream")
        return False

    def ended(self, reason: str) -> None:
        """Note that the process has closed its pipes or has ended."""
        self._gone = self._gone or reason
        self._wake()

    # Helpers of the methods above.

    def _resume(self) -> None:
        """Resume reading, because no complete message is available."""
        if self._paused:
            self._paused = False
            self._stream.resume()

    async def _change(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
