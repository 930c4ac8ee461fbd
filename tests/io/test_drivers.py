"""Conversations over real sockets, TLS, the pipes of a child and a slow network, on every loop."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream

from arcp_io.server.server import serve
from tests.io.apps import make_app
from tests.io.conftest import on_every_loop
from tests.io.peers import Ended, Peer, WebSocketPeer, child, websocket

pytestmark = pytest.mark.anyio

Talk = Callable[[Peer], Awaitable[None]]


async def talk_through_a_job(peer: Peer) -> None:
    """Hello, a job with events, its result, and a goodbye."""
    welcome = await peer.hello()
    assert welcome["type"] == "session.welcome"
    assert {"name": "echo", "versions": []} in welcome["payload"]["capabilities"]["agents"]
    *events, result = await peer.run("flood", {"events": 100})
    assert [event["event_seq"] for event in events] == list(range(1, 101))
    assert [event["payload"]["body"]["message"] for event in events] == [
        f"{number} " for number in range(100)
    ]
    assert result["type"] == "job.result"
    assert result["event_seq"] == 101
    assert (await peer.run("echo", {"a": [1, "ü"]}))[-1]["payload"]["result"] == {"a": [1, "ü"]}
    await peer.send("session.close", {"reason": "done"})
    assert (await peer.receive())["type"] == "session.closed"
    with pytest.raises(Ended) as ended:
        await peer.receive()
    assert ended.value.code in (1000, None)


async def talk_nonsense(peer: Peer) -> None:
    """Send texts that are not envelopes; each is answered, and the session continues."""
    await peer.hello()
    for nonsense in ("", "{", "[]", "null", '{"type": 1}', '{"type":"job.teleport"}', "\x00", '"\\ud800"'):
        if nonsense:
            await peer.send_text(nonsense)
            answer = await peer.receive()
            assert answer["type"] == "session.error"
            assert answer["payload"]["code"] == "INVALID_REQUEST"
    await peer.send("session.ping", {"nonce": "n", "sent_at": "2026-01-01T00:00:00Z"})
    assert (await peer.receive())["payload"]["ping_nonce"] == "n"
    assert (await peer.run("echo", 1))[-1]["payload"]["result"] == 1


async def talk_with_a_wrong_token(peer: Peer) -> None:
    """Send a wrong token, which ends the connection."""
    error = await peer.hello(token="wrong")
    assert error["type"] == "session.error"
    assert error["payload"]["code"] == "UNAUTHENTICATED"
    assert await peer.end() in (1008, None)


async def talk_before_hello(peer: Peer) -> None:
    """Begin without a hello, which ends the connection."""
    await peer.send("job.submit", {"agent": "echo"})
    assert (await peer.receive())["payload"]["code"] == "INVALID_REQUEST"
    assert await peer.end() in (1008, None)


async def talk_and_cancel(peer: Peer) -> None:
    """Cancel a job, which publishes an event while it unwinds."""
    await peer.hello()
    accepted = await peer.submit("sleep")
    assert (await peer.receive())["payload"]["body"]["phase"] == "asleep"
    await peer.send("job.cancel", {"job_id": accepted["job_id"], "reason": "enough"})
    messages = await peer.until("job.error")
    assert [message["type"] for message in messages] == ["job.cancelled", "job.event", "job.error"]
    assert messages[-1]["payload"]["final_status"] == "cancelled"


async def talk_at_once(peer: Peer) -> None:
    """Many jobs in flight: every one ends once, and the numbers have no gap."""
    await peer.hello()
    for number in range(64):
        await peer.send("job.submit", {"agent": "echo", "input": number})
    seqs: list[int] = []
    results: dict[str, int] = {}
    while len(results) < 64:
        message = await peer.receive()
        if message["type"] == "job.result":
            seqs.append(message["event_seq"])
            results[message["job_id"]] = message["payload"]["result"]
    assert seqs == list(range(1, 65))
    assert sorted(results.values()) == list(range(64))


async def talk_at_length(peer: Peer) -> None:
    """Receive a result that is too large for a frame in chunks: over stdio from 60 KiB, else from 1 MiB."""
    await peer.hello()
    for size, fits in ((300_000, isinstance(peer, WebSocketPeer)), (1_100_000, False)):
        *chunks, result = await peer.run("large", size)
        if fits:
            assert (chunks, result["payload"]["result"]) == ([], "y" * size)
        else:
            assert "".join(chunk["payload"]["body"]["data"] for chunk in chunks) == '"' + "y" * size + '"'
            assert result["payload"]["result_size"] == size + 2


async def talk_and_say_bye(peer: Peer) -> None:
    """Close a session; the end of the connection alone answers `session.bye`."""
    await peer.hello()
    await peer.send("session.bye", {"reason": "done"})
    with pytest.raises(Ended) as ended:
        await peer.receive()
    assert ended.value.code in (1000, None)


TALKS = [
    talk_through_a_job,
    talk_nonsense,
    talk_with_a_wrong_token,
    talk_before_hello,
    talk_and_cancel,
    talk_at_once,
    talk_at_length,
    talk_and_say_bye,
]
talks = pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.__name__)


@on_every_loop
@talks
async def test_over_a_socket(talk: Talk) -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await talk(peer)


@on_every_loop
@talks
async def test_over_tls(talk: Talk, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with serve(make_app(), port=0, ssl_context=server_tls) as server:
        assert server.url.startswith("wss://")
        async with websocket(server.url, client_tls) as peer:
            await talk(peer)


@on_every_loop
@talks
async def test_over_a_childs_pipes(talk: Talk, runner: str) -> None:
    async with child(runner) as peer:
        await talk(peer)


@pytest.mark.parametrize("talk", [talk_through_a_job, talk_and_cancel], ids=lambda talk: talk.__name__)
async def test_byte_by_byte(talk: Talk) -> None:
    async with (
        serve(make_app(), port=0) as server,
        byte_by_byte(server.port) as port,
        websocket(f"ws://127.0.0.1:{port}/arcp") as peer,
    ):
        await talk(peer)


@asynccontextmanager
async def byte_by_byte(port: int) -> AsyncIterator[int]:
    """Run a proxy that carries one byte at a time, both ways; yield its port."""

    async def carry(source: ByteStream, sink: ByteStream) -> None:
        try:
            async for data in source:
                for at in range(len(data)):
                    await sink.send(data[at : at + 1])
            await sink.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            await sink.aclose()

    async def proxy(near: ByteStream) -> None:
        async with near, await anyio.connect_tcp("127.0.0.1", port) as far, anyio.create_task_group() as both:
            both.start_soon(carry, near, far)
            both.start_soon(carry, far, near)

    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(listener.serve, proxy)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        group.cancel_scope.cancel()


@on_every_loop
async def test_a_client_that_offers_subprotocols_is_answered_ours() -> None:
    """Check the answer that a browser needs: it fails a connection whose offers are not answered."""
    async with serve(make_app(), port=0) as server:
        host, port = server.url.removeprefix("ws://").partition("/")[0].split(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(
                f"GET /arcp HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Protocol: chat, arcp.v1\r\n\r\n".encode()
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Protocol: arcp.v1\r\n" in head
