"""Accepting relayed connections: the end of them at the owner of a shard."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
import msgspec

from arcp_io.drivers.loop import AgentTask, Connected, Listening, Loop
from arcp_io.drivers.sockets import is_loopback, open_listeners
from arcp_io.drivers.transport import ByteStream, Receiver

from .relay_handshake import Answer, OwnerHandshake
from .relay_header import NONCE_BYTES, RelayForged, RelayHeader, RelayRefused

logger = logging.getLogger("arcp_io.cluster")

HEADER_SEC: Final = 5.0
"""Seconds from the accept until the header is complete, TLS included."""
MAX_UNVERIFIED: Final = 512
"""Connections whose header is not complete."""
LOG_SEC: Final = 10.0
"""Seconds between two warnings of one kind."""

Admit = Callable[[RelayHeader], Connected | Answer]
"""Decides about a verified header: returns the function that takes the stream, or the answer that refuses it.

That function returns the next receiver of the stream, which then gets the bytes behind the header. It is
called when the answer is written: at once, or at a later turn.
"""


class RelayListener:
    """Listens for connections of gateways; closing it leaves those that were given away."""

    def __init__(
        self,
        loop: Loop,
        key: bytes,
        admit: Admit,
        *,
        header_sec: float = HEADER_SEC,
        max_unverified: int = MAX_UNVERIFIED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the key of this node, 32 random bytes, and the function that decides about headers."""
        self.loop = loop
        self.host = ""
        self.port = 0
        self.key = key
        self._admit = admit
        self._header_sec = header_sec
        self._max_unverified = max_unverified
        self._clock = clock
        self._listening: list[Listening] = []
        self._waiting: dict[Unverified, float] = {}
        """When the time of each connection ends whose header is not complete; the oldest come first."""
        self._waiting_by_host: Counter[str] = Counter()
        self._watching: AgentTask | None = None
        self._warned: dict[str, float] = {}

    @property
    def unverified(self) -> int:
        """The number of connections whose header is not complete."""
        return len(self._waiting)

    async def listen(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        """Accept on every address of a host; port 0 is a free one. Raises OSError."""
        listeners = await open_listeners(host, port)
        self.host, self.port = host, listeners[0].getsockname()[1]
        accepted = partial(self._accepted, context is not None or is_loopback(host))
        for listener in listeners:
            self._listening.append(await self.loop.listen(listener, context, accepted))

    def close(self) -> None:
        """Stop accepting, and close the connections whose header is not complete."""
        for listening in self._listening:
            listening.close()
        for unverified in list(self._waiting):
            unverified.abort()

    # Called by connections.

    def forget(self, unverified: Unverified) -> None:
        """Stop waiting for the header of a connection."""
        if self._waiting.pop(unverified, None) is not None:
            self._waiting_by_host[unverified.host] -= 1
            if not self._waiting_by_host[unverified.host]:
                del self._waiting_by_host[unverified.host]

    def admitted(self, header: RelayHeader, *, private: bool) -> Connected | Answer:
        """Ask about a verified header; only a private connection to this node keeps it secure."""
        if not private and header.secure:
            header = msgspec.structs.replace(header, secure=False)
        return self._admit(header)

    def warn(self, problem: str, peer: str) -> None:
        """Log why a connection was closed, at most every LOG_SEC for each kind of problem."""
        now = self._clock()
        if now - self._warned.get(problem, float("-inf")) >= LOG_SEC:
            self._warned[problem] = now
            logger.warning("a relayed connection from %s was closed: %s", peer, problem)

    # Helpers of the methods above.

    def _accepted(self, private: bool, stream: ByteStream, peer: str) -> Receiver:
        unverified = Unverified(self, stream, peer, private=private)
        if len(self._waiting) >= self._max_unverified and not self._make_room(unverified.host):
            self.warn(f"{self._max_unverified} others wait for their headers", peer)
            unverified.abort()
            return unverified
        self._waiting[unverified] = self._clock() + self._header_sec
        self._waiting_by_host[unverified.host] += 1
        if self._watching is None or self._watching.done():
            self._watching = self.loop.start(self._watch, "arcp headers of relayed connections")
        unverified.greet()
        return unverified

    def _make_room(self, host: str) -> bool:
        """Close the latest connection of the host that has most of them; False if `host` has as many."""
        most, count = self._waiting_by_host.most_common(1)[0]
        if self._waiting_by_host[host] >= count:
            return False
        latest = next(each for each in reversed(self._waiting) if each.host == most)
        self.warn(f"{self._max_unverified} others wait for their headers", latest.peer)
        latest.abort()
        return True

    async def _watch(self) -> None:
        """Close connections whose header is late."""
        while self._waiting:
            first, due = next(iter(self._waiting.items()))
            left = due - self._clock()
            if left > 0:
                await anyio.sleep(left)
            else:
                self.warn(f"its header has not come within {self._header_sec:g} s", first.peer)
                first.abort()


class Unverified:
    """A connection until its header is verified and answered; the receiver of its stream's reports."""

    __slots__ = (
        "_answer",
        "_connected",
        "_decided",
        "_handshake",
        "_listener",
        "_over",
        "_paused",
        "_private",
        "_stream",
        "_writing",
        "host",
        "peer",
    )

    def __init__(self, listener: RelayListener, stream: ByteStream, peer: str, *, private: bool) -> None:
        self.peer = peer
        self.host = peer.rpartition(":")[0]
        self._listener = listener
        self._stream = stream
        self._handshake = OwnerHandshake(listener.key, os.urandom(NONCE_BYTES))
        self._private = private
        self._decided = False
        """Whether the header is complete, and answered or refused."""
        self._answer = b""
        """The answer, until it is written to the stream."""
        self._connected: Connected | None = None
        """The function that takes the stream when the answer is written; None if the header is refused."""
        self._writing = False
        """Whether a write is in progress."""
        self._paused = False
        self._over = False
        """Whether the stream is closed or has another receiver."""

    def greet(self) -> None:
        """Send the nonce."""
        self._writing = not self._stream.write(self._handshake.greeting)

    def abort(self) -> None:
        """Close the connection at once."""
        if not self._over:
            self._end()
            self._stream.abort()

    # Called by the stream.

    def received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            header = self._handshake.receive(data)
        except RelayForged as error:
            self._listener.warn(str(error), self.peer)
            self.abort()
        except RelayRefused as error:
            self._listener.warn(str(error), self.peer)
            self._decide(Answer.BAD_HEADER)
        else:
            if header is not None:
                self._admit(header)

    def written(self) -> None:
        self._writing = False
        if not self._over:
            self._progress()

    def received_eof(self) -> bool:
        self.abort()
        return False

    def ended(self, reason: str) -> None:
        if not self._over:
            logger.info("a relayed connection from %s ended before its header: %s", self.peer, reason)
            self.abort()

    # Helpers of the methods above.

    def _admit(self, header: RelayHeader) -> None:
        try:
            self._decide(self._listener.admitted(header, private=self._private))
        except BaseException as error:
            self._listener.loop.crash(error)
            self.abort()

    def _decide(self, decision: Connected | Answer) -> None:
        """Answer the header; more bytes are not read before the stream is given away."""
        self._listener.forget(self)
        self._decided = True
        if isinstance(decision, Answer):
            self._answer = self._handshake.answer(decision)
        else:
            self._connected = decision
            self._answer = self._handshake.answer(Answer.ACCEPTED)
        self._progress()
        if not self._over:
            self._paused = True
            self._stream.pause()

    def _progress(self) -> None:
        """Write the answer, and then give the stream away or close it."""
        if not self._decided or self._writing:
            return
        if self._answer:
            answer, self._answer = self._answer, b""
            self._writing = not self._stream.write(answer)
        if not self._writing:
            self._over = True
            if self._connected is None:
                self._stream.close()
            else:
                self._give_away(self._connected)

    def _give_away(self, connected: Connected) -> None:
        if self._paused:
            self._stream.resume()
        receiver = connected(self._stream)
        self._stream.transport = receiver
        if self._handshake.rest:
            receiver.received(self._handshake.rest)

    def _end(self) -> None:
        self._over = True
        self._listener.forget(self)
