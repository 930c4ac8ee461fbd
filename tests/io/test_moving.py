"""Connections that begin at one runtime and are carried on at another, and principals verified before."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.drivers.stdio import RequestCodec
from arcp_io.drivers.transport import StreamTransport
from arcp_io.drivers.websocket import MAX_TAPPED, ServerCodec, TappedCodec
from arcp_io.drivers.ws_admission import Admission
from arcp_io.journal import MemoryJournal
from arcp_io.server.auth import Verified
from arcp_io.server.server import Server, open_server
from arcp_proto import Authenticate, Framing, LocalProtocolError
from arcp_proto.engine.endpoint import state_of
from tests.io.apps import front, make_app
from tests.io.fakes import HELLO, SUBMIT, FakeStream, Stand
from tests.io.peers import websocket
from tests.unit.io_drivers.test_websocket import TEXT, request, to_server

PING = {"type": "session.ping", "id": "p", "payload": {"nonce": "n"}}
BEARER: dict[str, Any] = {"type": "session.hello", "payload": {"auth": {"scheme": "bearer", "token": "t"}}}


def movable(stand: Stand) -> FakeStream:
    """Return the stream of a client whose connection can be moved."""
    stream = FakeStream()
    connection = stand.runtime.connect(Framing.LINES, now=stand.at)
    codec = RequestCodec(connection.message_limit)
    stream.transport = StreamTransport(stand.pump, connection, codec, stream, movable=True)
    stand.pump.run()
    return stream


def moved(stream: FakeStream, stand: Stand) -> None:
    """Move the connection of a stream to another stand."""
    stream.transport.move(stand.pump, stand.runtime.connect(Framing.LINES, now=stand.at))
    stand.pump.run()


def admit(stand: Stand) -> None:
    """Let the host of a stand answer for the token of a client."""
    (asked,) = stand.requests
    assert isinstance(asked, Authenticate)
    stand.pump.carry_out(stand.runtime.authenticated(asked.request, "alice", now=stand.at))


def types(stream: FakeStream) -> list[str]:
    return [message["type"] for write in stream.messages() for message in write]


# Moving.


def test_a_moved_connection_gets_every_message_again() -> None:
    lobby, shard = Stand(), Stand()
    stream = movable(lobby)
    lobby.say(BEARER, PING, on=stream)  # No verifier answers: the messages behind the hello are held.
    assert (types(stream), lobby.runtime.connection_count) == ([], 2)
    moved(stream, shard)
    assert (lobby.runtime.connection_count, shard.runtime.connection_count) == (1, 2)
    admit(shard)
    assert types(stream) == ["session.welcome", "session.pong"]
    shard.say(PING, on=stream)
    assert types(stream) == ["session.pong"]


def test_a_released_connection_is_lost_and_its_stream_is_left_open() -> None:
    lobby = Stand()
    stream = movable(lobby)
    lobby.say(BEARER, PING, on=stream)
    assert stream.transport.release() == (stream, False)
    assert lobby.runtime.connection_count == 1
    assert stream.ending == []
    stream.transport.received(b"for another receiver\n")
    stream.transport.ended("for another receiver")
    assert (stream.messages(), stream.ending) == ([], [])
    with pytest.raises(LocalProtocolError, match="cannot be moved"):
        stream.transport.release()


def test_a_connection_moves_before_its_first_message() -> None:
    lobby, shard = Stand(), Stand()
    stream = movable(lobby)
    moved(stream, shard)
    shard.say(HELLO, on=stream)
    assert types(stream) == ["session.welcome"]


def test_an_incomplete_message_moves_as_well() -> None:
    lobby, shard = Stand(), Stand()
    stream = movable(lobby)
    stream.transport.received(b'{"type":"session.hello","payload":{"auth":')
    moved(stream, shard)
    stream.transport.received(b'{"scheme":"anonymous"}}}\n')
    assert types(stream) == ["session.welcome"]


def test_messages_that_the_first_runtime_did_not_take_move_as_well() -> None:
    lobby, shard = Stand(max_held_messages=1), Stand()
    stream = movable(lobby)
    lobby.say(BEARER, *[PING] * 5, on=stream)
    assert stream.paused
    moved(stream, shard)
    admit(shard)
    assert types(stream) == ["session.welcome", *["session.pong"] * 5]
    assert not stream.paused


def test_the_end_of_a_moved_connection_is_that_of_its_second_runtime() -> None:
    lobby, shard = Stand(), Stand()
    stream = movable(lobby)
    moved(stream, shard)
    shard.say(HELLO, SUBMIT, on=stream)
    stream.transport.ended("cut")
    assert (lobby.runtime.connection_count, shard.runtime.connection_count) == (1, 1)


@pytest.mark.parametrize("why", ["welcomed", "gone", "not movable"])
def test_other_connections_cannot_be_moved(why: str) -> None:
    lobby, shard = Stand(), Stand()
    stream = lobby.stream if why == "not movable" else movable(lobby)
    if why == "welcomed":
        lobby.say(HELLO, on=stream)
    elif why == "gone":
        stream.transport.ended("cut")
    connection = shard.runtime.connect(Framing.LINES, now=shard.at)
    with pytest.raises(LocalProtocolError, match="cannot be moved"):
        stream.transport.move(shard.pump, connection)


# The bytes behind an opening handshake.


@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_bytes_behind_the_handshake_are_read_again_by_an_opened_codec(step: int) -> None:
    sent = request() + to_server(TEXT, b"one") + to_server(TEXT, b"x" * 70_000) + to_server(TEXT, b"cut")[:-2]
    tapped = TappedCodec(Admission(), limit=100_000)
    messages = [one for at in range(0, len(sent), step) for one in tapped.receive(sent[at : at + step])]
    assert tapped.open and messages == [b"one", b"x" * 70_000]
    tap = tapped.untap()
    assert tap == sent[len(request()) :]
    opened = ServerCodec.opened(limit=100_000)
    assert opened.open and opened.data_to_send() == b""
    assert opened.receive(tap) == messages
    assert opened.receive(to_server(TEXT, b"cut")[-2:]) == [b"cut"]
    assert opened.frame([b"{}"]) == tapped.frame([b"{}"])
    assert tapped.untap() is None


def test_an_opened_codec_closes_as_any_other() -> None:
    codec = ServerCodec.opened(limit=100)
    codec.close(1012, "restart")
    assert codec.data_to_send()[:4] == b"\x88\x09\x03\xf4"
    assert not codec.open


def test_too_many_bytes_are_not_kept() -> None:
    codec = TappedCodec(Admission(), limit=2 * MAX_TAPPED)
    codec.receive(request())
    codec.receive(to_server(TEXT, b"x" * (MAX_TAPPED - 12))[:-2])
    assert codec.tap is not None
    codec.receive(b"x" * 4)
    assert codec.tap is None and codec.untap() is None


def test_the_request_of_a_handshake_is_not_kept() -> None:
    codec = TappedCodec(Admission(), limit=100)
    codec.receive(request(host="elsewhere") + b"rest")
    assert not codec.open
    assert codec.untap() == b""


# Principals that are known before.


class Counting:
    """A verifier that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, token: str) -> str:
        self.asked += 1
        return "alice"


def connected(server: Server, verified: Verified | None) -> FakeStream:
    stream = FakeStream()
    connection = server.connect(Framing.LINES, secure=True, peer="here", verified=verified)
    codec = RequestCodec(connection.message_limit)
    stream.transport = StreamTransport(server.pump, connection, codec, stream)
    server.pump.run()
    return stream


def say(stream: FakeStream, *messages: dict[str, Any]) -> None:
    stream.transport.received("".join(json.dumps(message) + "\n" for message in messages).encode())


async def awaited(stream: FakeStream, message_type: str) -> dict[str, Any]:
    """Return the first message of a type that a client gets; earlier ones are dropped."""
    while True:
        for write in stream.messages():
            for message in write:
                if message["type"] == message_type:
                    return message
        await anyio.sleep(0.001)


@pytest.mark.anyio
async def test_a_verified_principal_is_not_verified_again() -> None:
    verifier = Counting()
    app = App("tests", "1", auth=verifier)

    @app.agent("whoami")
    async def whoami(job: JobContext, input: Any) -> str:
        return job.principal

    async with open_server(app, 0.0) as server:
        stream = connected(server, Verified("carol"))
        say(stream, BEARER)
        await awaited(stream, "session.welcome")
        say(stream, {"type": "job.submit", "payload": {"agent": "whoami"}})
        message = await awaited(stream, "job.result")
        assert (message["payload"]["result"], verifier.asked) == ("carol", 0)
        other = connected(server, None)
        say(other, BEARER)
        await awaited(other, "session.welcome")
        assert verifier.asked == 1


@pytest.mark.anyio
async def test_a_verified_principal_expires() -> None:
    async with open_server(App("tests", "1", auth=Counting()), 0.0) as server:
        stream = connected(server, Verified("carol", expires=1.0))
        say(stream, BEARER)
        message = await awaited(stream, "session.error")
        assert message["payload"]["code"] == "UNAUTHENTICATED"


@pytest.mark.anyio
async def test_a_verified_principal_is_forgotten_with_its_connection() -> None:
    async with open_server(App("tests", "1", auth=Counting()), 0.0) as server:
        stream = connected(server, Verified("carol"))
        stream.transport.ended("cut")
        assert server._agents._verified == {}


# Handing over a server.


@pytest.mark.anyio
async def test_a_server_hands_over_and_the_next_one_starts_what_was_kept() -> None:
    journal, goes_on = MemoryJournal(), anyio.Event()

    def app() -> App:
        made = make_app()

        @made.agent("waits")
        async def waits(job: JobContext, input: Any) -> str:
            await goes_on.wait()
            return "done"

        return made

    async with (
        open_server(app(), 0.0, journal, front=front()) as server,
        anyio.create_task_group() as tasks,
        websocket(server.url) as peer,
    ):
        welcome = await peer.hello()
        await peer.submit("waits")
        tasks.start_soon(server.hand_over, 60.0)
        while not state_of(server.runtime).handing_over:
            await anyio.sleep(0.001)
        kept = (await peer.submit("echo", {"x": 1}))["payload"]["job_id"]
        goes_on.set()
        assert await peer.end() == 1012
        done = list(peer.events)
    assert [event["payload"]["result"] for event in done] == ["done"]
    async with open_server(app(), 0.0, journal, front=front()) as server, websocket(server.url) as peer:
        await peer.resume(welcome, 1)
        (event,) = await peer.until_event(1)
        assert (event["job_id"], event["payload"]["result"]) == (kept, {"x": 1})
