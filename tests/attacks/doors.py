"""Floods, slow peers, and the opening of the WebSocket (§4, §6.1, §14); over stdio: tests/io/test_caps.py."""

from __future__ import annotations

import struct
import zlib
from contextlib import AsyncExitStack, suppress
from typing import Final

import anyio
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

from arcp_io.server.server import Server
from arcp_proto.engine.endpoint import state_of
from tests.attacks.place import Place, Spy
from tests.attacks.rows import Stories, code_of, run
from tests.io.floods import flood
from tests.io.peers import Message

ROWS: Final = Stories()
story = ROWS.story


def limit_of(message: Message) -> str:
    """Return the limit that an error names, which passes with time."""
    payload = message["payload"]
    assert (payload["code"], payload["retryable"]) == ("INTERNAL_ERROR", True), message
    assert payload["details"]["max"] > 0
    assert payload["details"]["retry_after_ms"] > 0
    limit: str = payload["details"]["limit"]
    return limit


async def answers_http(server: Server, *lines: str) -> int:
    """Return the status with which an opening request is answered."""
    async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
        await stream.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = b""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while b"\r\n" not in answer:
                answer += await stream.receive()
        return int(answer.split()[1]) if answer else 0


def opening(*headers: str, path: str = "/arcp", host: str = "Host: localhost") -> list[str]:
    return [
        *(f"GET {path} HTTP/1.1", *([host] if host else []), "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13", *headers),
    ]


@story("openings from web pages, under other names, for other paths", "403, 404", "a session")
async def cross_site_websocket_hijacking(place: Place) -> None:
    server = place.server
    assert await answers_http(server, *opening()) == 101
    for origin in (
        "http://evil.example",
        "null",
        "http://localhost",
        "http://localhost.evil.example",
        "file://",
    ):
        assert await answers_http(server, *opening(f"Origin: {origin}")) == 403, origin
    for host in (
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "127.1"),
        *(
            "localhost@evil.example",
            "localhost/x",
            "2130706433",
            "[::ffff:127.0.0.1]",
            "localhost,evil.example",
        ),
    ):
        assert await answers_http(server, *opening(host=f"Host: {host}")) == 403, host
    assert await answers_http(server, *opening("Host: evil.example")) == 403
    assert await answers_http(server, *opening(host="")) == 403
    for path in (
        "/",
        "/arcp/",
        "/arcp/../arcp",
        "/ARCP",
        "/%61rcp",
        "//arcp",
        "/arcp%00",
        "/arcp;x",
        "http://x/arcp",
    ):
        assert await answers_http(server, *opening(path=path)) == 404, path


@story("openings that are not HTTP, or without end", "the end of the connection", "a session")
async def openings_that_are_none(place: Place) -> None:
    for nothing in (
        b"\xff" * 100_000,
        b"GET /arcp HTTP/1.1\r\n" + b"X: y\r\n" * 200,
        b"GET /arcp HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n",
        b"GET /arcp HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: localhost\r\n\r\n0\r\n\r\n",
        b"POST /arcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{}",
    ):
        async with await anyio.connect_tcp("127.0.0.1", place.server.port) as stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await stream.send(nothing)
                while True:
                    assert b" 101 " not in await stream.receive()


@story("a compressed message, after an offer of permessage-deflate", "no extension; 1002", "what is in it")
async def a_decompression_bomb(place: Place) -> None:
    offer = [ClientPerMessageDeflateFactory()]
    async with place.connected(extensions=offer) as peer:
        await peer.enter(place.name())
        assert peer.protocol.extensions == []
        bomb = zlib.compress(b" " * 50_000_000)
        head = struct.pack(">BBQ", 0xC1, 0xFF, len(bomb))
        await peer.stream.send(head + b"\0\0\0\0" + bomb)
        assert (await peer.ended()) == ([], 1002)


@story("frames that break RFC 6455: not masked, reserved, control frames in pieces", "1002", "an effect")
async def frames_that_break_the_protocol(place: Place) -> None:
    ping = b'{"type":"job.submit","payload":{"agent":"victim"}}'
    for frame in (
        bytes([0x81, len(ping)]) + ping,
        bytes([0x83, 0x80 | len(ping), 0, 0, 0, 0]) + ping,
        bytes([0x09, 0x80, 0, 0, 0, 0]),
        bytes([0x89, 0xFE, 0x00, 0x7E, 0, 0, 0, 0]) + bytes(126),
        bytes([0x80, 0x80 | len(ping), 0, 0, 0, 0]) + ping,
        bytes([0xB1, 0x80 | len(ping), 0, 0, 0, 0]) + ping,
    ):
        async with place.session() as peer:
            await peer.stream.send(frame)
            assert await peer.ended() == ([], 1002), frame
            jobs = [
                job
                for job in state_of(place.server.runtime).jobs.values()
                if job.terms.principal == peer.principal
            ]
            assert jobs == []


@story(
    "messages larger than allowed, at once and in pieces", "INVALID_REQUEST, 1009, at the header", "its bytes"
)
async def messages_that_are_too_large(place: Place) -> None:
    large = struct.pack(">BBQ", 0x81, 0xFF, 2**62) + b"mask"
    for welcomed, sent in (
        (False, struct.pack(">BBQ", 0x81, 0xFF, 65_537) + b"mask"),
        (True, large),
        (False, large),
    ):
        async with place.connected() as peer:
            if welcomed:
                await peer.enter(place.name())
            await peer.stream.send(sent + b"x" * 1000)
            (answer,), code = await peer.ended()
            assert (code_of(answer), code) == ("INVALID_REQUEST", 1009)
    async with place.session() as peer:
        piece = bytes(60_000)
        await peer.stream.send(Frame(Opcode.TEXT, piece, fin=False).serialize(mask=True))
        for _ in range(80):
            await peer.stream.send(Frame(Opcode.CONT, piece, fin=False).serialize(mask=True))
        (answer,), code = await peer.ended()
        assert (code_of(answer), code) == ("INVALID_REQUEST", 1009)


@story(
    "empty pieces of a message, and pings, without end",
    "INTERNAL_ERROR {requests_per_sec}",
    "memory, others' time",
)
async def frames_without_end(place: Place) -> None:
    async with (
        place.other(max_requests_per_sec=40) as server,
        place.session(server=server) as bob,
        place.session(server=server) as peer,
    ):
        piece = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
        ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
        await peer.stream.send(Frame(Opcode.TEXT, b'{"type":', fin=False).serialize(mask=True))
        await peer.stream.send(piece * 2_000 + ping * 200)
        assert limit_of(await peer.receive()) == "requests_per_sec"
        assert (await run(bob, "puppet", []))[2]["type"] == "job.result"


@story("pings, pongs and empty pieces before a hello", "INVALID_REQUEST, 1008, after 16", "others' time")
async def control_frames_before_a_hello(place: Place) -> None:
    for frame in (
        Frame(Opcode.PING, b""),
        Frame(Opcode.PONG, b"x" * 125),
        Frame(Opcode.TEXT, b"", fin=False),
    ):
        async with place.connected() as peer:
            frames = frame.serialize(mask=True)
            if frame.opcode is Opcode.TEXT:
                frames += Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * 1_000
            await peer.stream.send(frames if frame.opcode is Opcode.TEXT else frames * 1_000)
            (answer,), code = await peer.ended()
            assert (code_of(answer), code) == ("INVALID_REQUEST", 1008)


@story("a head of an opening that is larger than 16 KiB", "431", "memory")
async def a_head_without_end(place: Place) -> None:
    lines = opening(*(f"X-{number}: {'y' * 6_000}" for number in range(3)))
    assert await answers_http(place.server, *lines) == 431
    assert await answers_http(place.server, *lines[:-2]) == 101


@story(
    "submit and cancel as fast as it goes", "INTERNAL_ERROR {requests_per_sec}, then 1008", "others' answers"
)
async def a_flood_of_submit_and_cancel(place: Place) -> None:
    """Rapid reset (CVE-2023-44487)."""
    async with place.other(max_requests_per_sec=40) as server, place.session(server=server) as bob:
        async with place.session(server=server) as peer:
            told, code = await flood(peer, "victim")
        assert code == 1008
        limits = [limit_of(message) for message in told if code_of(message) == "INTERNAL_ERROR"]
        assert set(limits) == {"requests_per_sec"}
        assert 1 <= len(limits) <= 4
        assert sum(message["type"] == "job.accepted" for message in told) <= 200
        assert (await run(bob, "puppet", []))[2]["type"] == "job.result"
        assert [event["event_seq"] for event in bob.events] == [1]
    assert {fact.facts["limit"] for fact in place.facts if fact.what == "limit_reached"} == {
        "max_requests_per_sec"
    }


@story(
    "connections that say nothing, or one byte at a time",
    "UNAUTHENTICATED after the time of a hello",
    "a place",
)
async def hellos_that_are_slow(place: Place) -> None:
    async with place.other(max_early_connections=12) as server, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(place.connected(server)) for _ in range(2)]
        slow = await stack.enter_async_context(place.connected(server))
        half = await anyio.connect_tcp("127.0.0.1", server.port)
        await half.send(b"GET /arcp HT")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drip, slow)
            async with place.session(server=server) as bob:
                assert (await run(bob, "puppet", []))[2]["type"] == "job.result"
            for peer in (*silent, slow):
                assert code_of(await peer.receive()) == "UNAUTHENTICATED"
            tasks.cancel_scope.cancel()
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                assert b" 101 " not in await half.receive()
        await half.aclose()


async def drip(peer: Spy) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await peer.stream.send(b"\x81\xfe\x10\x00\x00\x00\x00\x00")
        while True:
            await peer.stream.send(b" ")
            await anyio.sleep(0.05)


@story(
    "more connections than may be without a hello",
    "INTERNAL_ERROR {early_connections}, or the end",
    "others' place",
)
async def connections_without_a_hello(place: Place) -> None:
    async with place.other(max_early_connections=4, hello_timeout_sec=5) as server, AsyncExitStack() as stack:
        bob = await stack.enter_async_context(place.session(server=server))
        for _ in range(2):
            await stack.enter_async_context(place.connected(server))
        late = await stack.enter_async_context(place.connected(server))
        assert limit_of(await late.hello("late/t0ken")) == "early_connections"
        streams = [await anyio.connect_tcp("127.0.0.1", server.port) for _ in range(20)]
        for stream in streams[4:]:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError), anyio.move_on_after(1):
                await stream.receive()
        assert len(state_of(server.runtime).connections) <= 9
        assert (await run(bob, "puppet", []))[2]["type"] == "job.result"
        for stream in streams:
            await stream.aclose()


@story(
    "tokens guessed one after the other", "INTERNAL_ERROR {failed_authentications}, unverified", "a question"
)
async def tokens_guessed_without_end(place: Place) -> None:
    async with place.other(max_failed_authentications=3) as server:
        async with place.session(server=server) as bob:
            for number in range(8):
                async with place.connected(server) as peer:
                    answer = await peer.hello(f"guess-{number}")
                    if number < 3:
                        assert code_of(answer) == "UNAUTHENTICATED"
                    else:
                        assert limit_of(answer) == "failed_authentications"
            assert (await run(bob, "puppet", []))[2]["type"] == "job.result"
            await bob.drop()
        async with place.connected(server) as peer:
            back = await peer.resume(bob.welcome, 1, token=f"{bob.principal}/t0ken")
            assert back["type"] == "session.welcome"


@story(
    "sessions, jobs and keys without end",
    "INTERNAL_ERROR {sessions, principal_jobs, idempotency_keys}",
    "others'",
)
async def a_principal_that_wants_everything(place: Place) -> None:
    small = {
        "max_principal_sessions": 3,
        "max_principal_running_jobs": 2,
        "max_principal_idempotency_keys": 3,
    }
    async with place.other(**small) as server, AsyncExitStack() as stack:
        bob = await stack.enter_async_context(place.session(server=server))
        peer = await stack.enter_async_context(place.session(server=server))
        for _ in range(2):
            await stack.enter_async_context(place.session(peer.principal, server))
        more = await stack.enter_async_context(place.connected(server))
        assert limit_of(await more.hello(f"{peer.principal}/t0ken")) == "sessions"
        for number in range(3):
            await peer.submit("puppet", [], idempotency_key=f"k{number}")
            await peer.until("job.result")
        assert limit_of(await peer.submit("puppet", [], idempotency_key="k3")) == "idempotency_keys"
        assert (await peer.submit("puppet", [], idempotency_key="k0"))["type"] == "job.accepted"
        await anyio.sleep(1.1)  # Until it is told of a limit again.
        for _ in range(2):
            assert (await peer.submit("victim"))["type"] == "job.accepted"
        assert limit_of(await peer.submit("victim")) == "principal_jobs"
        assert (await run(bob, "puppet", []))[2]["type"] == "job.result"


@story(
    "the wall clock set back after a lease has ended, and far forward before it has",
    "LEASE_EXPIRED",
    "a revival",
)
async def the_wall_clock_is_set(place: Place) -> None:
    async with place.other() as server, place.session(server=server) as peer:
        clock = server.pump.clock
        honest = clock.unix
        day = 86_400 * 1_000_000_000
        until = {"lease_constraints": {"expires_at": "2099-01-01T00:00:00Z"}}
        steps = [["tool", "grep"], ["sleep", 0.5], ["tool", "grep"]]
        accepted = await peer.submit("puppet", steps, lease_request={"tool.call": ["grep"]}, **until)
        assert accepted["type"] == "job.accepted"
        clock.unix = lambda: honest() + 40_000 * day
        server.runtime.wall_clock_set(clock.unix(), now=server.pump.now())
        server.pump.run()
        clock.unix = honest
        server.runtime.wall_clock_set(clock.unix(), now=server.pump.now())
        server.pump.run()
        told = await peer.until("job.error", "job.result")
        assert code_of(told[-1]) == "LEASE_EXPIRED"
        results = [one["payload"]["body"] for one in told[:-1] if one["payload"]["kind"] == "tool_result"]
        assert [body.get("error", {}).get("code") for body in results] == [None, "LEASE_EXPIRED"]
