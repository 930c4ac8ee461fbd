"""Dialing the owner of a shard for a client: the gateway's end of a relayed connection."""

from __future__ import annotations

import os
import ssl
from typing import Final

import anyio

from arcp_io.drivers.loop import Event, Loop
from arcp_io.drivers.transport import ByteStream

from .relay_handshake import Answer, GatewayHandshake
from .relay_header import NONCE_BYTES, RelayHeader, RelayRefused
from .splice import Splice

DIAL_SEC: Final = 2.0
"""Seconds for one attempt to reach an owner, TLS and handshake included."""


class NotTaken(RelayRefused):
    """The node at the address of the owner does not take the connection; `answer` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(_REASONS[answer])
        self.answer = answer


_REASONS: Final = {
    Answer.NOT_OWNER: "the node does not own the shard in this epoch",
    Answer.TRY_AGAIN: "the node takes no relayed connection at the moment",
    Answer.BAD_HEADER: "the node does not read headers of this version",
}


class OwnerStream:
    """The stream to an owner that has taken a connection; the receiver of its reports until it is spliced."""

    __slots__ = ("_failure", "_handshake", "_over", "stream", "writing")

    def __init__(self, stream: ByteStream, handshake: GatewayHandshake, over: Event) -> None:
        self.stream = stream
        self.writing = False
        """Whether a write is in progress."""
        self._handshake = handshake
        self._over = over
        self._failure: Exception | None = None

    @property
    def rest(self) -> bytes:
        """The bytes that the owner has sent behind its answer."""
        return self._handshake.rest

    async def opened(self) -> None:
        """Wait until the owner has taken the connection; the stream is paused then.

        Raises ConnectionError, RelayForged, and NotTaken.
        """
        await self._over.wait()
        answer = self._handshake.answer
        if self._failure is not None:
            raise self._failure
        if answer is not None and answer is not Answer.ACCEPTED:
            raise NotTaken(answer)

    def join(self, splice: Splice) -> None:
        """Give the stream to the splice of the client."""
        header = self._handshake.header
        if self._failure is None:
            splice.join(self.stream, self.rest, header.shard, header.epoch, writing=self.writing)
        else:
            splice.abort()

    # Called by the stream.

    def received(self, data: bytes) -> None:
        if self._failure is not None:
            return
        try:
            sent = self._handshake.receive(data)
        except (RelayRefused, ValueError) as error:
            self._fail(error)
            return
        if sent and not self.stream.write(sent):
            self.writing = True
        if self._handshake.answer is not None and not self._over.is_set():
            self.stream.pause()
            self._over.set()

    def written(self) -> None:
        self.writing = False

    def received_eof(self) -> bool:
        self.ended("the owner closed the connection")
        return False

    def ended(self, reason: str) -> None:
        self._fail(ConnectionError(reason))

    # Helpers of the methods above.

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
            self._over.set()


async def dial_owner(
    loop: Loop,
    address: tuple[str, int],
    context: ssl.SSLContext | None,
    header: RelayHeader,
    key: bytes,
    *,
    timeout: float = DIAL_SEC,
) -> OwnerStream:
    """Connect to an owner, and return its stream once it has taken the connection that the header describes.

    `key` is that of the owner, as the store has it. No byte of the client is sent before the owner has
    proved that it has the key. Raises OSError (TimeoutError among them) when it is not reached or leaves,
    RelayForged for another process at its address, NotTaken when it refuses, and ValueError for a header
    that is out of bounds.
    """
    handshake = GatewayHandshake(header, key, os.urandom(NONCE_BYTES))
    over = loop.event()
    dialed: list[OwnerStream] = []

    def connected(stream: ByteStream) -> OwnerStream:
        dialed.append(OwnerStream(stream, handshake, over))
        return dialed[0]

    try:
        with anyio.fail_after(timeout):
            owner = await loop.connect(*address, context, connected)
            await owner.opened()
        return owner
    except BaseException:
        for owner in dialed:
            owner.stream.abort()
        raise
