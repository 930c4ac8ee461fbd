"""Peers that are wrong, slow, silent or gone: none of them costs the server more than its own connection."""

from __future__ import annotations

import json
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from arcp_io.app import App
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from tests.io.apps import Counters, make_app
from tests.io.conftest import on_every_loop
from tests.io.peers import child, connect_tcp, websocket

pytestmark = pytest.mark.anyio

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        pytest.param("GET /arcp HTTP/1.1\r\nHost: localhost\r\n\r\n", 426, id="no upgrade"),
        pytest.param("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, id="another path"),
        pytest.param("GET / HTTP/1.1\r\n\r\n", 403, id="no host"),
        pytest.param(UPGRADE.format(path="/arcp/", host="localhost", more=""), 404, id="path"),
        pytest.param(UPGRADE.format(path="/arcp", host="evil.example", more=""), 403, id="host"),
        pytest.param(
            UPGRADE.format(path="/arcp", host="localhost", more="Origin: http://evil.example\r\n"),
            403,
            id="origin",
        ),
        pytest.param(UPGRADE.format(path="/arcp?x=1", host="LOCALHOST:9", more=""), 101, id="accepted"),
    ],
)
async def test_http_is_answered_and_closed(request_text: str, status: int) -> None:
    async with serve(make_app(), port=0) as server, await connect(server) as stream:
        await stream.send(request_text.encode("latin-1"))
        if status == 101:
            answer = await stream.receive()
        else:
            answer = await read_to_end(stream)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        await still_serves(server)


@pytest.mark.parametrize(
    "nothing", [b"\xff" * 100_000, b"\x16\x03\x01 TLS\r\n\r\n", b"POST / HTTP/1.0\r\n\r\n"]
)
async def test_a_malformed_opening_ends_the_connection(nothing: bytes) -> None:
    async with serve(make_app(), port=0) as server, await connect(server) as stream:
        await stream.send(nothing)
        await read_to_end(stream)
        await still_serves(server)


@on_every_loop
async def test_no_tls_where_tls_is_spoken(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with serve(make_app(), port=0, ssl_context=server_tls) as server, await connect(server) as stream:
        await stream.send(b"GET /arcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in await read_to_end(stream)
        await still_serves(server, client_tls)


@pytest.mark.parametrize("size", [64 * 1024 + 1, 80 * 1024 * 1024])
async def test_a_message_too_large_before_the_welcome(size: int) -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        # Only the header counts: the message itself is still on its way when it is refused.
        await peer.stream.send(b"\x81\xff" + struct.pack(">Q", size) + b"mask" + b"x" * 1000)
        error = await peer.receive()
        assert (error["type"], error["payload"]["code"]) == ("session.error", "INVALID_REQUEST")
        assert await peer.end() == 1009


@on_every_loop
async def test_the_refusal_reaches_a_client_that_goes_on_sending() -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        await peer.stream.send(b"\x81\xff" + struct.pack(">Q", 8_000_000) + b"mask")
        for _ in range(80):  # The server does not want it, but takes it: a reset would overtake the refusal.
            await peer.stream.send(bytes(100_000))
        assert (await peer.receive())["payload"]["code"] == "INVALID_REQUEST"
        assert await peer.end() == 1009


@on_every_loop
async def test_a_message_too_large_in_a_session() -> None:
    async with serve(make_app(max_message_bytes=200_000), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        largest = json.dumps({"type": "session.ping", "payload": {"nonce": "n"}}).ljust(200_000)
        await peer.send_text(largest)
        assert (await peer.receive())["type"] == "session.pong"
        await peer.send_text(largest + " ")
        error = await peer.receive()
        assert (error["type"], error["payload"]["code"]) == ("session.error", "INVALID_REQUEST")
        assert await peer.end() == 1009
        await still_serves(server)


async def test_a_line_too_large_is_skipped(runner: str) -> None:
    async with child(runner) as peer:
        await peer.hello()
        await peer.send_text("x" * (4 * 1024 * 1024 + 1))
        assert (await peer.receive())["payload"]["code"] == "INVALID_REQUEST"
        assert (await peer.run("echo", 7))[-1]["payload"]["result"] == 7


@pytest.mark.parametrize("moment", ["connected", "opening", "open", "welcomed", "running"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_a_peer_that_is_gone(moment: str, reset: bool) -> None:
    async with serve(make_app(), port=0) as server:
        async with await connect(server) as stream:
            if reset:
                raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if moment == "opening":
                await stream.send(b"GET /arcp HT")
            elif moment != "connected":
                await stream.send(UPGRADE.format(path="/arcp", host="localhost", more="").encode())
                await stream.receive()
            if moment in ("welcomed", "running"):
                await send_masked(stream, {"type": "session.hello", "payload": {"auth": auth()}})
                await stream.receive()
            if moment == "running":
                await send_masked(stream, {"type": "job.submit", "id": "1", "payload": {"agent": "sleep"}})
                await stream.receive()
            await until(lambda: len(state_of(server.runtime).connections) == 1)
        await until(lambda: not state_of(server.runtime).connections)
        assert len(state_of(server.runtime).running) == (moment == "running")
        await still_serves(server)


async def test_many_come_and_go() -> None:
    app = make_app()
    app.resume_window = 1
    async with serve(app, port=0) as server:

        async def come_and_go(number: int) -> None:
            for _ in range(25):
                async with websocket(server.url) as peer:
                    await peer.hello()
                    if number % 2:
                        await peer.send("session.close")
                        assert await peer.end() == 1000

        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(come_and_go, number)
        await until(lambda: not state_of(server.runtime).sessions)
        assert not state_of(server.runtime).connections
        assert not state_of(server.runtime).timers.keys()


@on_every_loop
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_client_that_never_reads_pauses_its_own_agents_alone(
    secure: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    counters = Counters()
    app = make_app(counters=counters, close_linger_sec=1)
    context = server_tls if secure else None
    async with serve(app, port=0, ssl_context=context) as server, websocket(server.url, client_tls) as idle:
        raw = idle.stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await idle.hello()
        await idle.submit("flood", {"events": 1_000_000, "size": 2000})
        emitted = -1
        with anyio.fail_after(20):
            running = state_of(server.runtime).running
            while counters.emitted != emitted or not all(job.paused for job in running.values()):
                emitted = counters.emitted  # Until what lies between has filled up.
                await still_serves(server, client_tls)
        for _ in range(3):
            await still_serves(server, client_tls)
        assert counters.emitted == emitted < 10_000
        (session,) = (session for session in state_of(server.runtime).sessions.values() if session.connection)
        assert len(session.log) == emitted
        # Its transport takes no goodbye either: the linger timer aborts it.


@on_every_loop
async def test_the_peer_says_goodbye_to_the_websocket_alone() -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        await peer.submit("sleep")
        await peer.say_goodbye(4000)
        assert await peer.end() == 4000  # The server ends the stream; the peer has not.
        assert not state_of(server.runtime).connections
        assert state_of(server.runtime).running


@on_every_loop
async def test_a_goodbye_of_a_peer_that_does_not_read() -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        await peer.submit("flood", {"events": 1_000_000, "size": 5000})
        transport = next(iter(state_of(server.runtime).connections.values()))
        await until(lambda: transport.blocked)
        await anyio.wait_all_tasks_blocked()
        await peer.say_goodbye(1000)
        await until(lambda: not state_of(server.runtime).connections)


async def test_a_slow_client_gets_everything() -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        await peer.submit("flood", {"events": 3_000, "size": 5_000})
        await until(lambda: any(job.paused for job in state_of(server.runtime).running.values()))
        messages = await peer.until("job.result")
        assert [message["event_seq"] for message in messages] == list(range(1, 3_002))


async def test_reading_stops_while_a_token_is_verified() -> None:
    verified = anyio.Event()

    async def verify(token: str) -> str:
        await verified.wait()
        return "alice"

    app = App("tests", "1", auth=verify)
    async with serve(app, port=0) as server, websocket(server.url) as peer:
        await peer.send("session.hello", {"auth": auth()})
        for number in range(500):
            await peer.send("session.ping", {"nonce": str(number)})
        await until(lambda: any(not one.reading for one in state_of(server.runtime).connections.values()))
        verified.set()
        assert (await peer.receive())["type"] == "session.welcome"
        for number in range(500):
            assert (await peer.receive())["payload"]["ping_nonce"] == str(number)


async def test_a_client_that_says_nothing_is_closed() -> None:
    app = make_app(hello_timeout_sec=1)
    async with serve(app, port=0) as server, websocket(server.url) as peer, await connect(server) as silent:
        assert (await peer.receive())["payload"]["code"] == "UNAUTHENTICATED"
        assert await peer.end() == 1008
        assert await read_to_end(silent) == b""  # It has not even opened a WebSocket.


async def test_no_descriptor_is_free_for_a_while() -> None:
    async with serve(make_app(), port=0) as server:
        with socket.socket() as waiting:
            waiting.setblocking(False)
            with no_descriptor_free():
                waiting.connect_ex(("127.0.0.1", server.port))
                for _ in range(20):
                    await anyio.sleep(0.01)
                assert not state_of(server.runtime).connections
            await until(lambda: bool(state_of(server.runtime).connections))
        await still_serves(server)


async def test_plain_text_beyond_this_machine_has_to_be_allowed() -> None:
    with pytest.raises(ValueError, match="allow_plain=True"):
        async with serve(make_app(), host="0.0.0.0", port=0):
            pass
    async with (
        serve(make_app(), host="0.0.0.0", port=0, allow_plain=True) as server,
        websocket(f"ws://127.0.0.1:{server.port}/arcp") as peer,
    ):
        assert (await peer.hello())["type"] == "session.welcome"


async def test_a_port_that_is_taken() -> None:
    async with serve(make_app(), port=0) as server:
        with pytest.raises(OSError, match="in use"):
            async with serve(make_app(), port=server.port):
                pass
        await still_serves(server)


async def test_localhost_is_every_address_it_has() -> None:
    async with serve(make_app(), host="localhost", port=0, path="/elsewhere") as server:
        assert server.url == f"ws://localhost:{server.port}/elsewhere"
        async with websocket(server.url) as peer:
            assert (await peer.hello())["type"] == "session.welcome"


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Lower the limit of descriptors, so that each attempt to open another one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as highest:
        lowest_free = highest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def connect(server: Server) -> SocketStream:
    return await connect_tcp("127.0.0.1", server.port)


async def read_to_end(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return data


async def send_masked(stream: SocketStream, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    await stream.send(b"\x81\xfe" + struct.pack(">H", len(data)) + bytes(4) + data)


def auth() -> dict[str, str]:
    return {"scheme": "bearer", "token": "t0ken"}


async def still_serves(server: Server, context: ssl.SSLContext | None = None) -> None:
    """Check that another client can run a job."""
    async with websocket(server.url, context) as peer:
        await peer.hello(token="other")
        assert (await peer.run("echo", "still"))[-1]["payload"]["result"] == "still"
        await peer.send("session.close")
        assert await peer.end() == 1000


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that the server reaches by itself."""
    for _ in range(4_000):
        if condition():
            return
        await anyio.sleep(0.005)
    raise AssertionError("it did not come to that")
