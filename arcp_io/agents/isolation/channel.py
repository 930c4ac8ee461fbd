"""The runtime's end of the pipes of an agent's process: messages in and out, with back-pressure."""

from __future__ import annotations

from typing import Final

import anyio

from arcp_io.drivers.transport import ByteStream
from arcp_io.errors import ConnectionLost

from .protocol import Gathering

HELD: Final = 64 * 1024
"""Bytes that wait here, if they are not one message, before no more is read."""


class Channel:
    """What a stream reports to; for one task that receives, and sends answers."""

    def __init__(self, stream: ByteStream, limit: int) -> None:
        """`limit`: bytes of a message that comes."""
        self._stream = stream
        self._gathering = Gathering(limit)
        self._paused = False
        self._gone = ""
        self._unsent: list[bytes] = []
        """What waits behind a write that is under way."""
        self._state: bytes | None = None
        """Likewise, in place of what was to be told before."""
        self._writing = False
        self._changed: anyio.Event | None = None

    async def receive(self) -> bytes:
        """Wait for a message; raises ConnectionLost when the stream has ended, ValueError for a long one."""
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
        """Send a message, behind those that wait."""
        if self._writing:
            self._unsent.append(data)
        elif not self._gone:
            self._writing = not self._stream.write(data)

    def tell_state(self, data: bytes) -> None:
        """Send a message, or have it in place of the last of these that still waits."""
        if self._writing:
            self._state = data
        else:
            self.tell(data)

    def close(self) -> None:
        """Read and write no more; again is harmless."""
        if not self._gone:
            self._gone = "the pipes were closed"
            self._stream.abort()

    # What the stream reports.

    def received(self, data: bytes) -> None:
        """Bytes have come in."""
        self._gathering.add(data)
        if self._gathering.size >= HELD and not self._paused:
            self._paused = True
            self._stream.pause()
        self._wake()

    def written(self) -> None:
        """The last write has finished."""
        unsent, self._unsent = self._unsent, []
        if self._state is not None:
            unsent.append(self._state)
            self._state = None
        self._writing = bool(unsent) and not self._gone and not self._stream.write(b"".join(unsent))
        self._wake()

    def ended(self, reason: str) -> None:
        """The process has closed its pipes, or is gone."""
        self._gone = self._gone or reason
        self._wake()

    # Below: steps of the above.

    def _resume(self) -> None:
        """Read on, if what waits is not a whole message."""
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
