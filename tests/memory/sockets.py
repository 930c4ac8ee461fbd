"""Bounds of what strangers and clients make a server hold by their sockets: parts of messages, heads, TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import anyio
import trustme
from websockets.frames import Frame, Opcode

from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.limits import KIB, MIB
from tests.io.apps import TOKEN, make_app
from tests.io.peers import websocket

from .caps import LIMITS, Filled
from .host import resident

TLS: Final = 384 * KIB
"""Documented bytes of a connection that has not begun TLS."""
READ: Final = 128 * KIB
"""Of a connection that is read: what its driver and its peer in this process take beside what counts."""


@asynccontextmanager
async def _served(context: ssl.SSLContext | None = None, **limits: Any) -> AsyncIterator[Server]:
    async with serve(make_app(**limits), port=0, ssl_context=context) as server:
        with anyio.fail_after(60):
            yield server


async def _settled(server: Server) -> None:
    """Let what was sent be read."""
    for _ in range(50):
        await anyio.sleep(0.01)


async def _partial() -> Filled:
    """Fill messages without their last byte, in every session that a principal may have."""
    text = b'{"type":"session.ping","payload":{"nonce":"n","x":"%b"}}' % (
        b"x" * (LIMITS.max_message_bytes - 100)
    )
    frame = Frame(Opcode.TEXT, text).serialize(mask=True)[:-1]
    found: list[Filled] = []
    with suppress(OSError):  # Of a peer that was refused, and whose end is said to a closed socket.
        async with _served() as server, AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(websocket(server.url)) for _ in range(24)]
            for peer in peers:
                await peer.hello(TOKEN, features=["ack"])
            before = resident()
            for peer in peers:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # It may be refused.
                    await peer.stream.send(frame)
            await _settled(server)
            held = state_of(server.runtime).holdings.pinned
            assert held <= LIMITS.max_principal_bytes // 2
            documented = LIMITS.max_principal_bytes // 2 + READ * len(peers)
            found.append(Filled(resident() - before, documented, f"{held // MIB} MiB are counted"))
    return found[0]


async def _heads() -> Filled:
    """Fill heads of HTTP that do not end."""
    head = b"GET /arcp HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 15_000
    async with _served(max_early_connections=400, hello_timeout_sec=60) as server, AsyncExitStack() as stack:
        before = resident()
        for _ in range(200):
            stream = await anyio.connect_tcp("127.0.0.1", server.port)
            await stack.enter_async_context(stream)
            await stream.send(head)
        await _settled(server)
        connections = len(state_of(server.runtime).connections)
        return Filled(
            resident() - before, LIMITS.max_early_message_bytes * connections, f"{connections} connections"
        )


async def _silent() -> Filled:
    """Fill connections to a listener of TLS that say nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with (
        _served(context, max_early_connections=200, hello_timeout_sec=60) as server,
        AsyncExitStack() as stack,
    ):
        before = resident()
        for _ in range(150):
            stream = await anyio.connect_tcp("127.0.0.1", server.port)
            await stack.enter_async_context(stream)
        await _settled(server)
        connections = len(state_of(server.runtime).connections)
        return Filled(resident() - before, TLS * connections, f"{connections} connections")


def _run(fill: Callable[[], Awaitable[Filled]]) -> Callable[[], Filled]:
    return lambda: anyio.run(fill)


SOCKETS: Final[Mapping[str, Callable[[], Filled]]] = {
    "max_principal_bytes: parts of messages": _run(_partial),
    "max_early_connections: heads that do not end": _run(_heads),
    "max_early_connections: silent, before TLS": _run(_silent),
}
