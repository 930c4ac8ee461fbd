"""A gateway and an owner on one event loop, joined by a relay, for the tests of relayed connections."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trustme

from arcp_io.cluster.relay_dial import OwnerStream, dial_owner
from arcp_io.cluster.relay_handshake import Answer
from arcp_io.cluster.relay_header import RelayHeader
from arcp_io.cluster.relay_listener import RelayListener
from arcp_io.cluster.splice import Splice, Splices
from arcp_io.drivers.loop import Accepted, Connected, Listening, Loop, open_loop
from arcp_io.drivers.node_tls import NodeTls, load_node_tls
from arcp_io.drivers.transport import ByteStream, Receiver

KEY = os.urandom(32)
HEADER = RelayHeader(7, 3, "alice", None, True, "10.0.0.9:50000")
LARGE = 32 * 1024 * 1024
"""Bytes, more than any system holds for a socket."""


class Received:
    """A receiver that keeps everything, and answers each piece by `answer`."""

    def __init__(self, stream: ByteStream, answer: Callable[[bytes], bytes] | None = None) -> None:
        self.stream = stream
        self.data = bytearray()
        self.reasons: list[str] = []
        self.writes = 0
        self.unfinished = False
        """Whether a write of the test is not finished."""
        self.eof = False
        self._answer = answer

    def received(self, data: bytes) -> None:
        self.data += data
        if self._answer is not None and (answer := self._answer(data)):
            self.stream.write(answer)

    def written(self) -> None:
        self.writes += 1
        self.unfinished = False

    def received_eof(self) -> bool:
        self.eof = True
        return True

    def ended(self, reason: str) -> None:
        self.reasons.append(reason)
        self.stream.abort()


class Entrance:
    """The receiver of a client until its first bytes are there, as a gateway that reads the first message."""

    def __init__(self, relay: Relay, stream: ByteStream) -> None:
        self._relay = relay
        self._stream = stream

    def received(self, data: bytes) -> None:
        splice = self._relay.splices.begin(self._stream, data)
        self._relay.begun.append(splice)
        self._relay.loop.start(lambda: self._relay.dial_for(splice), "dial")

    def written(self) -> None: ...

    def received_eof(self) -> bool:
        return False

    def ended(self, reason: str) -> None:
        self._stream.abort()


class Relay:
    """The gateway and the owner. `owners` are the receivers of relayed streams, `headers` what came first."""

    def __init__(self, loop: Loop, tls: NodeTls | None, answer: Callable[[bytes], bytes] | None) -> None:
        self.loop = loop
        self.tls = tls
        self.splices = Splices(loop)
        self.begun: list[Splice] = []
        self.owners: list[Received] = []
        self.headers: list[RelayHeader] = []
        self.failures: list[BaseException] = []
        self.admits: Connected | Answer = self._take
        self.listener = RelayListener(loop, KEY, self._admit)
        self.port = 0
        self._answer = answer
        self._listening: Listening | None = None

    async def open(self, context: ssl.SSLContext | None, accepted: Accepted | None = None) -> None:
        """Listen for clients, and for the gateway."""
        await self.listener.listen("127.0.0.1", 0, self.tls and self.tls.server)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        entrance = accepted or (lambda stream, _: Entrance(self, stream))
        self._listening = await self.loop.listen(listener, context, entrance)

    def close(self) -> None:
        self.listener.close()
        self.splices.close()
        if self._listening is not None:
            self._listening.close()

    async def dial(self, header: RelayHeader = HEADER, key: bytes = KEY, **options: Any) -> OwnerStream:
        """Dial the owner as the gateway does."""
        address = ("127.0.0.1", self.listener.port)
        context = self.tls and self.tls.client
        return await dial_owner(self.loop, address, context, header, key, **options)

    async def dial_for(self, splice: Splice) -> None:
        """Dial the owner, and join the splice."""
        try:
            (await self.dial()).join(splice)
        except Exception as error:
            self.failures.append(error)
            splice.refuse(b"no owner")

    def _admit(self, header: RelayHeader) -> Connected | Answer:
        self.headers.append(header)
        return self.admits

    def _take(self, stream: ByteStream) -> Receiver:
        self.owners.append(Received(stream, self._answer))
        return self.owners[-1]


@asynccontextmanager
async def relayed(
    context: ssl.SSLContext | None = None,
    tls: NodeTls | None = None,
    answer: Callable[[bytes], bytes] | None = None,
) -> AsyncIterator[Relay]:
    """Yield a gateway and an owner; `context` is for clients, `tls` between the two."""
    async with open_loop() as loop:
        relay = Relay(loop, tls, answer)
        try:
            await relay.open(context)
            yield relay
        finally:
            relay.close()


def node_tls(folder: Any, authority: trustme.CA, *names: str, trusted: trustme.CA | None = None) -> NodeTls:
    """Return the contexts of a node with a certificate for these names."""
    issued = authority.issue_cert(*(names or ("127.0.0.1",)))
    certfile, keyfile, cafile = (folder / name for name in ("node.pem", "node.key", "ca.pem"))
    certfile.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(keyfile)
    (trusted or authority).cert_pem.write_to_path(cafile)
    return load_node_tls(str(certfile), str(keyfile), str(cafile))
