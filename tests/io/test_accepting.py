"""The cost of a connection before its hello: waits for TLS, long heads, control frames."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from websockets.frames import Frame, Opcode

from arcp_io.client.connect import connect
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.timers import TimerKind
from arcp_proto.limits import KIB, MIB
from tests.io.apps import TOKEN, make_app
from tests.io.peers import Ended, WebSocketPeer, websocket

pytestmark = pytest.mark.anyio

OPENING = (
    b"GET /arcp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


@asynccontextmanager
async def served(context: ssl.SSLContext | None = None, **limits: Any) -> AsyncIterator[Server]:
    """Serve with these limits."""
    async with serve(make_app(**limits), port=0, ssl_context=context) as server:
        with anyio.fail_after(30):
            yield server


async def everything(stream: SocketStream) -> bytes:
    """Return what comes until the end of the stream."""
    data = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            data += await stream.receive()
    return data


async def until(condition: Any) -> None:
    while not condition():
        await anyio.sleep(0.01)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_connection_counts_from_its_accept(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, secure: bool
) -> None:
    """Half of the bound is for one place; beyond it a connection is closed, TLS or not."""
    async with served(
        server_tls if secure else None, max_early_connections=8, hello_timeout_sec=20
    ) as server:
        async with AsyncExitStack() as stack:
            streams = [await anyio.connect_tcp("127.0.0.1", server.port) for _ in range(40)]
            for stream in streams:
                await stack.enter_async_context(stream)
            await until(lambda: len(state_of(server.runtime).connections) >= 8)
            ended: list[SocketStream] = []

            async def watch(stream: SocketStream) -> None:
                await everything(stream)
                ended.append(stream)

            async with anyio.create_task_group() as tasks:
                for stream in streams:
                    tasks.start_soon(watch, stream)
                await until(lambda: len(ended) >= 24)
                assert len(state_of(server.runtime).connections) <= 16
                tasks.cancel_scope.cancel()
        await until(lambda: not state_of(server.runtime).connections)
        context = client_tls if secure else None
        async with connect(server.url, token=TOKEN, ssl_context=context) as session:
            assert await (await session.submit("echo", "hi")).result() == "hi"


async def test_a_connection_that_does_not_begin_tls_ends_with_its_peer(server_tls: ssl.SSLContext) -> None:
    async with served(server_tls) as server:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
            async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
                if said:
                    await stream.send(said)
                if not said.startswith(b"GET"):
                    await until(lambda: state_of(server.runtime).connections)
            await until(lambda: not state_of(server.runtime).connections)


async def test_a_server_that_stops_ends_connections_that_wait_for_tls(server_tls: ssl.SSLContext) -> None:
    async with served(server_tls) as server:
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        await until(lambda: state_of(server.runtime).connections)
    assert await everything(stream) == b""
    await stream.aclose()


@pytest.mark.parametrize("piece", [16_000, 1])
async def test_a_head_has_at_most_16_kib(piece: int) -> None:
    async with served() as server:
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            head = OPENING + b"X: " + b"y" * 6_000 + b"\r\nY: " + b"z" * 7_000 + b"\r\n\r\n"
            await stream.send(head)
            assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            head = OPENING + (b"X: " + b"y" * 7_000 + b"\r\n") * 3
            with suppress(anyio.BrokenResourceError):
                await stream.send(head[:-100])
                for at in range(len(head) - 100, len(head), piece):
                    await stream.send(head[at : at + piece])
            assert (await everything(stream)).startswith(b"HTTP/1.1 431 ")


async def pings(peer: WebSocketPeer, count: int) -> None:
    """Send pings, which are answered or not."""
    with suppress(anyio.BrokenResourceError):
        await peer.stream.send(Frame(Opcode.PING, b"x").serialize(mask=True) * count)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_few_control_frames_come_before_the_welcome(at_once: bool) -> None:
    async with served(max_early_control_frames=16) as server:
        async with websocket(server.url) as peer:
            await pings(peer, 16)
            assert (await peer.hello(TOKEN))["type"] == "session.welcome"
        async with websocket(server.url) as peer:
            for _ in range(1 if at_once else 17):
                await pings(peer, 17 if at_once else 1)
            error = await peer.receive()
            assert error["payload"]["code"] == "INVALID_REQUEST"
            assert "control frames" in error["payload"]["message"]
            with pytest.raises(Ended) as ended:
                await peer.receive()
            assert ended.value.code == 1008


@pytest.mark.parametrize(
    "frame",
    [Frame(Opcode.PING, b""), Frame(Opcode.PONG, b"x"), Frame(Opcode.CONT, b"", fin=False)],
    ids=["ping", "pong", "empty piece"],
)
async def test_control_frames_count_as_requests(frame: Frame) -> None:
    async with (
        served(max_requests_per_sec=50) as server,
        websocket(server.url) as peer,
        websocket(server.url) as other,
    ):
        assert (await peer.hello(TOKEN))["type"] == "session.welcome"
        assert (await other.hello("other"))["type"] == "session.welcome"
        if frame.opcode is Opcode.CONT:
            await peer.stream.send(Frame(Opcode.TEXT, b'{"type":', fin=False).serialize(mask=True))
        await peer.stream.send(frame.serialize(mask=True) * 400)
        told = await peer.receive()
        assert told["payload"]["details"]["limit"] == "requests_per_sec"
        assert (await other.run("echo", "hi"))[-1]["payload"]["result"] == "hi"
        if frame.opcode is Opcode.CONT:
            end = b'"session.ping","id":"p","payload":{"nonce":"later"}}'
            await peer.stream.send(Frame(Opcode.CONT, end).serialize(mask=True))
        while told["type"] != "session.pong":  # It is read again after a second.
            if frame.opcode is not Opcode.CONT:
                await peer.send("session.ping", {"nonce": "later"})
            told = await peer.receive()
        assert told["payload"]["ping_nonce"] == "later"


@pytest.mark.parametrize("half", ["frame", "message"])
async def test_the_rest_of_a_message_comes_in_time(half: str) -> None:
    text = b'{"type":"session.ping","id":"p","payload":{"nonce":"whole"}}'
    frames = Frame(Opcode.TEXT, text).serialize(mask=True)
    if half == "message":
        frames = Frame(Opcode.TEXT, text[:9], fin=False).serialize(mask=True)
        frames += Frame(Opcode.CONT, text[9:]).serialize(mask=True)
    async with served(message_timeout_sec=1) as server, websocket(server.url) as peer:
        assert (await peer.hello(TOKEN, features=["ack"]))["type"] == "session.welcome"
        for _ in range(3):
            await peer.stream.send(frames[:20])
            await until(lambda: state_of(server.runtime).timers.armed(TimerKind.REST, 1) is not None)
            await peer.stream.send(frames[20:])
            assert (await peer.receive())["payload"]["ping_nonce"] == "whole"
            assert state_of(server.runtime).timers.armed(TimerKind.REST, 1) is None
        await peer.stream.send(frames[:20])
        error = await peer.receive()
        assert error["payload"]["code"] == "INVALID_REQUEST"
        assert "the rest of a message" in error["payload"]["message"]


@pytest.mark.parametrize("half", ["frame", "message"])
async def test_the_received_part_of_a_message_counts_as_it_grows(half: str) -> None:
    """Two connections hold half a message each; the third is refused, and the two go on."""
    text = b'{"type":"session.ping","id":"p","payload":{"nonce":"whole","x":"%b"}}' % (b"x" * 500 * KIB)
    frames = Frame(Opcode.TEXT, text).serialize(mask=True)
    if half == "message":
        frames = Frame(Opcode.TEXT, text[:100], fin=False).serialize(mask=True)
        frames += Frame(Opcode.CONT, text[100 : 300 * KIB], fin=False).serialize(mask=True)
        frames += Frame(Opcode.CONT, text[300 * KIB :]).serialize(mask=True)
    begun, rest = frames[: 400 * KIB], frames[400 * KIB :]
    async with served(max_principal_bytes=2 * MIB) as server, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(websocket(server.url)) for _ in range(3)]
        for count, peer in enumerate(peers, 1):
            assert (await peer.hello(TOKEN, features=["ack"]))["type"] == "session.welcome"
            if count == 3:
                break
            await peer.stream.send(begun)
            await until(lambda count=count: state_of(server.runtime).holdings.pinned > count * 300 * KIB)
        await peers[2].stream.send(begun)
        error = await peers[2].receive()
        assert error["payload"]["details"]["limit"] == "principal_bytes"
        for peer in peers[:2]:
            await peer.stream.send(rest)
            assert (await peer.receive())["payload"]["ping_nonce"] == "whole"
        await until(lambda: state_of(server.runtime).holdings.pinned == 0)
