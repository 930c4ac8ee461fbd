"""The targets of a client, and how to connect to them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlsplit

import anyio

from arcp_io.drivers.clock import Clock
from arcp_io.drivers.memory import MemoryTarget
from arcp_io.drivers.pump import Pump
from arcp_io.drivers.stdio import Command, LineCodec, ending, reap, spawn
from arcp_io.drivers.transport import ByteStream, StreamTransport
from arcp_io.drivers.websocket import ClientCodec
from arcp_proto import CloseCode, Connection, Framing

if TYPE_CHECKING:
    from anyio.abc import Process

EXIT_SEEN: Final = 1.0
"""Seconds that a child gets to exit after the end of its output, so that its exit code can be reported."""


@dataclass(frozen=True)
class WebSocket:
    """A runtime at a ws:// or wss:// address.

    `ssl_context` None means the certificates that the system trusts.
    """

    url: str
    ssl_context: ssl.SSLContext | None = None
    origin: str | None = None


Target: TypeAlias = WebSocket | Command | MemoryTarget
"""A target that a client can connect to."""


def check_target(target: object) -> None:
    """Raise TypeError if a client cannot connect to the target."""
    if not isinstance(target, WebSocket | Command | MemoryTarget):
        raise TypeError(
            "connect() takes a ws:// or wss:// URL, or the server that serve_memory() yields, as in"
            f" connect(memory, token); it cannot connect to {target!r}"
        )


def framing_of(target: Target) -> Framing:
    """Return how envelopes are separated on a connection to the target."""
    return Framing.LINES if isinstance(target, Command) else Framing.MESSAGES


def is_secure(target: Target) -> bool:
    """Return whether the connection is private: TLS, a child's pipes, or memory."""
    return not isinstance(target, WebSocket) or target.url.startswith("wss:")


def can_dial_again(target: Target) -> bool:
    """Return whether a second connection reaches the same runtime; a child ends with its pipes."""
    return isinstance(target, WebSocket) or (isinstance(target, MemoryTarget) and target.lasting)


def clock_of(target: Target) -> Clock | None:
    """Return the clock that a client shares with the target; None: it has one of its own."""
    return target.clock if isinstance(target, MemoryTarget) else None


def label_of(target: Target) -> str:
    """Return a label for logs, without the query, which may hold a secret."""
    match target:
        case WebSocket(url):
            return url.partition("?")[0]
        case Command(argv):
            return argv[0]
        case _:
            return "memory"


async def dial(target: Target, pump: Pump, connection: Connection) -> StreamTransport:
    """Connect a client's connection to a target; return when it can be used.

    Raises OSError when the target cannot be reached, and ValueError for an invalid address; the connection is
    lost then, and when this is cancelled.
    """
    try:
        match target:
            case WebSocket():
                return await _dial_websocket(target, pump, connection)
            case Command():
                return await _dial_child(target, pump, connection)
            case MemoryTarget():
                return target.dial(pump, connection)
    except BaseException as error:
        pump.lost(connection, f"cannot connect: {error}")
        raise


async def _dial_websocket(target: WebSocket, pump: Pump, connection: Connection) -> StreamTransport:
    codec = ClientCodec(target.url, limit=connection.message_limit, origin=target.origin)
    context = (target.ssl_context or ssl.create_default_context()) if codec.secure else None
    ready = anyio.Event()
    try:
        transport = await pump.loop.connect(
            codec.host,
            codec.port,
            context,
            lambda stream: StreamTransport(pump, connection, codec, stream, ready.set),
        )
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, ConnectionResetError) as error:
        reason = error.strerror or str(error) or "the connection was reset"  # asyncio gives no reason.
        raise ConnectionError(_explained(target, reason)) from error
    try:
        await ready.wait()
        if transport.gone or codec.failure is not None:
            raise ConnectionError(_explained(target, codec.failure or transport.gone))
    except BaseException:
        transport.close(CloseCode.PROTOCOL_ERROR, "no WebSocket", abort=True)
        raise
    return transport


async def _dial_child(command: Command, pump: Pump, connection: Connection) -> StreamTransport:
    child, reading, writing = await spawn(command)
    ended = anyio.Event()
    pump.loop.start(partial(reap, child, ended), "arcp child")

    def connected(stream: ByteStream) -> StreamTransport:
        codec = LineCodec(connection.message_limit)
        return ChildTransport(pump, connection, codec, stream, child, command.argv[0], ended)

    return await pump.loop.open_pipes(reading, writing, connected)


class ChildTransport(StreamTransport):
    """Carries a connection over the pipes of a child, and reports how the child ended."""

    __slots__ = ("_child", "_ending", "_name")

    def __init__(
        self,
        pump: Pump,
        connection: Connection,
        codec: LineCodec,
        stream: ByteStream,
        child: Process,
        name: str,
        ended: anyio.Event,
    ) -> None:
        self._child = child
        self._name = name
        self._ending = False
        super().__init__(pump, connection, codec, stream, on_gone=ended.set)

    def ended(self, reason: str) -> None:
        """Note that the child's output has ended, or its input is broken; wait first for its exit code."""
        if not self.gone and not self._ending:
            self._ending = True
            self._pump.loop.start(partial(self._tell_end, reason), "arcp end of a child")

    async def _tell_end(self, reason: str) -> None:
        with anyio.move_on_after(EXIT_SEEN):
            await self._child.wait()
        code = self._child.returncode
        super().ended(reason if code is None else f"{self._name} {ending(code)}")


def _explained(target: WebSocket, reason: str) -> str:
    """Return why the WebSocket failed, with the mistake in the address that the reason suggests."""
    path = urlsplit(target.url).path
    if "HTTP 404" in reason:
        return f"{reason}: no runtime serves the path {path or '/'}; most runtimes use /arcp"
    if "HTTP 403" in reason:
        return (
            f"{reason}: no runtime is mounted at the path {path or '/'} (most use /arcp below the mount), or"
            " the runtime does not admit this Host"
        )
    if target.url.startswith("wss:") and "HTTP" not in reason:
        return f"TLS failed ({reason}): if the runtime does not use TLS, its address begins with ws://"
    if "did not receive a valid HTTP response" in reason:
        return f"{reason}: if the runtime uses TLS, its address begins with wss://"
    return reason
