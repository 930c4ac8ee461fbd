"""Relayed connections over real sockets: bytes, flow control, ends, proofs and TLS on both hops."""

from __future__ import annotations

import logging
import random
import socket
import ssl
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import trustme

from arcp_io.app import App
from arcp_io.client.connect import connect
from arcp_io.cluster import splice as splices
from arcp_io.cluster.relay_dial import NotTaken, dial_owner
from arcp_io.cluster.relay_handshake import GREETING_BYTES, MAGIC, Answer
from arcp_io.cluster.relay_header import MAX_LINE_BYTES, RelayForged, RelayHeader, encode, header_mac
from arcp_io.cluster.relay_listener import RelayListener
from arcp_io.drivers.loop import READ_SIZE, open_loop
from arcp_io.drivers.node_tls import check_plain_nodes, load_node_tls
from arcp_io.drivers.transport import ByteStream, StreamTransport
from arcp_io.drivers.websocket import ServerCodec, TappedCodec
from arcp_io.drivers.ws_admission import Admission
from arcp_io.server.auth import Verified
from arcp_io.server.server import open_server, serve
from arcp_proto import Framing, LocalProtocolError
from tests.io.apps import TOKEN, make_app
from tests.io.conftest import on_every_loop
from tests.io.relayed import HEADER, KEY, LARGE, Received, Relay, node_tls, relayed
from tests.io.test_leaks import nothing_left
from tests.io.test_limits import until

pytestmark = pytest.mark.anyio

MEMORY = 2 * 1024 * 1024
"""Bytes that a gateway may hold for one splice, with any peers; the bound of a splice is lower."""
NEVER_STALLED = 256 * 1024 * 1024
"""Bytes beyond what kernels take for a side that does not read (up to 32 MiB each here)."""


class Client:
    """The socket of a client, which does not block."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    async def send_all(self, data: bytes) -> None:
        while data:
            data = data[self.send(data) :]
            await anyio.lowlevel.checkpoint()

    async def receive(self, size: int) -> bytes:
        """Receive `size` bytes, or fewer at the end of the stream."""
        data = bytearray()
        for _ in range(20_000):
            try:
                piece = self.socket.recv(min(size - len(data), 1 << 20))
            except BlockingIOError:
                await anyio.sleep(0.001)
                continue
            data += piece
            if not piece or len(data) == size:
                return bytes(data)
        raise AssertionError(f"only {len(data)} bytes came")


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """Cut bytes anywhere."""
    dice, at = random.Random(seed), 0
    while at < len(data):
        step = dice.choice([1, 2, 7, 100, 5_000, 70_000])
        yield data[at : at + step]
        at += step


@on_every_loop
async def test_bytes_that_are_cut_anywhere_arrive_in_order_both_ways() -> None:
    data = random.Random(1).randbytes(400_000)
    async with nothing_left(), relayed(answer=bytes) as relay:
        with closing(Client(relay.port)) as client:
            received = bytearray()
            for piece in pieces(data, 2):
                await client.send_all(piece)
                received += await client.receive(len(piece)) if len(piece) > 100 else b""
            received += await client.receive(len(data) - len(received))
            assert received == data
        assert bytes(relay.owners[0].data) == data
        assert relay.headers == [HEADER]
        await until(lambda: len(relay.splices) == 0)


@on_every_loop
async def test_first_bytes_come_behind_the_header() -> None:
    first = b"GET /arcp HTTP/1.1\r\n\r\n" + b"\x81\x85mask" * 1000
    async with nothing_left(), relayed() as relay, relay_client(relay.port, first):
        await until(lambda: len(relay.owners) == 1 and bytes(relay.owners[0].data) == first)
        assert (relay.begun[0].shard, relay.begun[0].epoch) == (7, 3)


@on_every_loop
@pytest.mark.parametrize("slow", ["client", "owner"])
async def test_the_memory_of_a_splice_with_a_slow_side_is_bounded(slow: str) -> None:
    async with nothing_left(), relayed() as relay, relay_client(relay.port, b"first") as client:
        await until(lambda: len(relay.owners) == 1)
        owner = relay.owners[0]
        await until(lambda: owner.data == b"first")
        send = client.send if slow == "owner" else partial(taken, owner)
        if slow == "owner":
            owner.stream.pause()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            sent = await sent_until_stalled(send)
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY
        finally:
            tracemalloc.stop()
        assert sent < NEVER_STALLED
        splice = relay.begun[0]
        held = (splice.client if slow == "client" else splice.owner).unwritten
        assert splices.WINDOW <= held < splices.WINDOW + READ_SIZE
        if slow == "client":
            assert await client.receive(sent) == bytes(sent)
        else:
            owner.stream.resume()
            await until(lambda: len(owner.data) == len(b"first") + sent)


@on_every_loop
async def test_a_client_that_does_not_read_is_cut_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splices, "LOOK_SEC", 0.01)
    async with nothing_left(), relayed() as relay, relay_client(relay.port, b"first"):
        await until(lambda: len(relay.owners) == 1)
        owner = relay.owners[0]
        assert not owner.stream.write(bytes(LARGE))
        await until(lambda: len(relay.splices) == 0)
        await until(lambda: owner.eof or bool(owner.reasons))
        owner.stream.abort()


@on_every_loop
async def test_each_direction_ends_by_itself() -> None:
    async with nothing_left(), relayed() as relay, relay_client(relay.port, b"first") as client:
        await until(lambda: len(relay.owners) == 1)
        owner = relay.owners[0]
        client.socket.shutdown(socket.SHUT_WR)
        await until(lambda: owner.eof)
        assert owner.data == b"first"
        owner.stream.write(b"and still an answer")
        assert await client.receive(19) == b"and still an answer"
        assert len(relay.splices) == 1
        owner.stream.end()
        assert await client.receive(1) == b""
        await until(lambda: len(relay.splices) == 0)
        owner.stream.close()


@on_every_loop
async def test_the_end_of_the_owner_comes_after_its_last_bytes() -> None:
    async with nothing_left(), relayed() as relay, relay_client(relay.port, b"first") as client:
        await until(lambda: len(relay.owners) == 1)
        owner = relay.owners[0]
        assert not owner.stream.write(bytes(LARGE))
        owner_wrote = anyio.Event()
        owner.written = owner_wrote.set
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owner_wrote.wait)
            assert len(await client.receive(LARGE)) == LARGE
        owner.stream.end()
        assert await client.receive(1) == b""
        assert not owner.eof and not owner.reasons
        await client.send_all(b"a close frame")
        client.socket.shutdown(socket.SHUT_WR)
        await until(lambda: owner.eof)
        assert owner.data == b"firsta close frame"
        await until(lambda: len(relay.splices) == 0)
        owner.stream.close()


@on_every_loop
async def test_a_reset_is_passed_on() -> None:
    async with nothing_left(), relayed() as relay:
        client = Client(relay.port)
        await client.send_all(b"first")
        await until(lambda: len(relay.owners) == 1)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(lambda: len(relay.splices) == 0)
        await until(lambda: relay.owners[0].eof or bool(relay.owners[0].reasons))
        relay.owners[0].stream.close()


@on_every_loop
async def test_an_owner_that_dies_takes_the_connection_of_its_client_with_it() -> None:
    async with nothing_left(), relayed() as relay, relay_client(relay.port, b"first") as client:
        await until(lambda: len(relay.owners) == 1)
        relay.owners[0].stream.abort()
        assert await client.receive(1) == b""
        await until(lambda: len(relay.splices) == 0)


@on_every_loop
async def test_splices_to_an_earlier_owner_are_cut() -> None:
    async with nothing_left(), relayed() as relay, relay_client(relay.port, b"first") as client:
        await until(lambda: len(relay.owners) == 1)
        await until(lambda: relay.begun[0].epoch == 3)
        relay.splices.cut({7: 4})
        assert await client.receive(1) == b""
        await until(lambda: relay.owners[0].eof or bool(relay.owners[0].reasons))
        relay.owners[0].stream.close()


@on_every_loop
@pytest.mark.parametrize("answer", [Answer.NOT_OWNER, Answer.TRY_AGAIN])
async def test_an_owner_that_refuses_is_named_by_its_answer(answer: Answer) -> None:
    async with nothing_left(), relayed() as relay:
        relay.admits = answer
        with pytest.raises(NotTaken) as caught:
            await relay.dial()
        assert caught.value.answer is answer
        assert relay.listener.unverified == 0
        with closing(Client(relay.port)) as client:
            await client.send_all(b"first")
            assert await client.receive(100) == b"no owner"


@on_every_loop
async def test_a_gateway_without_the_key_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with nothing_left(), relayed() as relay:
        for _ in range(3):
            with pytest.raises(ConnectionError, match="closed"):
                await relay.dial(key=b"k" * 32)
        assert relay.headers == []
        assert relay.listener.unverified == 0
    assert caplog.text.count("not signed with the key") == 1
    for secret in (KEY, b"k" * 32):
        assert secret.hex() not in caplog.text and repr(secret)[2:-1] not in caplog.text


@on_every_loop
async def test_a_recorded_header_is_not_valid_on_another_connection() -> None:
    async with nothing_left(), relayed() as relay:
        with closing(Client(relay.listener.port)) as first, closing(Client(relay.listener.port)) as second:
            greeting = await first.receive(GREETING_BYTES)
            nonce = greeting.removeprefix(MAGIC)
            header = encode(HEADER, key=KEY, owner_nonce=nonce, gateway_nonce=b"g" * 32)
            assert await second.receive(GREETING_BYTES) != greeting
            await second.send_all(header)
            assert await second.receive(100) == b""
            assert relay.headers == []
            for piece in pieces(header + b"first", 3):
                await first.send_all(piece)
            await until(lambda: len(relay.owners) == 1 and relay.owners[0].data == b"first")


@on_every_loop
async def test_a_late_header_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with nothing_left(), open_loop() as loop:
        listener = RelayListener(loop, KEY, lambda header: Answer.NOT_OWNER, header_sec=0.05)
        await listener.listen("127.0.0.1", 0, None)
        with closing(Client(listener.port)) as silent, closing(Client(listener.port)) as slow:
            await slow.send_all(b'{"v":1')
            for client in (silent, slow):
                assert len(await client.receive(1000)) == GREETING_BYTES
        assert listener.unverified == 0
        listener.close()
    assert "has not come within 0.05 s" in caplog.text


@on_every_loop
async def test_a_header_that_is_too_long_is_refused() -> None:
    async with nothing_left(), relayed() as relay:
        with closing(Client(relay.listener.port)) as client:
            await client.receive(GREETING_BYTES)
            await client.send_all(b"a" * MAX_LINE_BYTES)
            assert await client.receive(1) == b""


@on_every_loop
async def test_a_signed_header_of_another_version_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nothing_left(), relayed() as relay:
        line = b'{"v":2,"shard":7}\n'
        monkeypatch.setattr(
            "arcp_io.cluster.relay_handshake.encode",
            lambda header, *, key, owner_nonce, gateway_nonce: signed(line, key, owner_nonce, gateway_nonce),
        )
        with pytest.raises(NotTaken) as caught:
            await relay.dial()
        assert caught.value.answer is Answer.BAD_HEADER


@on_every_loop
@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", MAGIC + b"n" * 32 + b"\0" + b"m" * 32])
async def test_another_process_at_the_address_of_an_owner_gets_no_byte_of_a_client(said: bytes) -> None:
    async with nothing_left(), open_loop() as loop:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            with pytest.raises(RelayForged):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(speak, listener, said)
                    try:
                        await dial_owner(loop, address, None, HEADER, KEY)
                    except RelayForged as error:
                        found = error
                raise found


@on_every_loop
async def test_an_owner_that_does_not_answer_is_given_up() -> None:
    async with nothing_left(), open_loop() as loop:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with pytest.raises(TimeoutError):
                await dial_owner(loop, listener.getsockname(), None, HEADER, KEY, timeout=0.05)
            address = listener.getsockname()
        with pytest.raises(OSError):
            await dial_owner(loop, address, None, HEADER, KEY)


@on_every_loop
async def test_connections_without_a_header_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    async with nothing_left(), open_loop() as loop:
        listener = RelayListener(loop, KEY, lambda header: Received, max_unverified=2)
        await listener.listen("127.0.0.1", 0, None)
        clients = [Client(listener.port) for _ in range(3)]
        for client, size in zip(clients, (GREETING_BYTES, GREETING_BYTES, 0), strict=True):
            assert len(await client.receive(size or 1)) == size
        assert listener.unverified == 2
        clients[0].close()
        await until(lambda: listener.unverified == 1)
        owner = await dial_owner(loop, ("127.0.0.1", listener.port), None, HEADER, KEY)
        assert listener.unverified == 1
        listener.close()
        assert await clients[1].receive(1) == b""
        owner.stream.abort()
        for client in clients:
            client.close()
    assert "2 others wait" in caplog.text


@pytest.mark.only_on("asyncio")
async def test_a_host_with_fewer_connections_displaces_one_of_the_host_with_most() -> None:
    class Fake:
        def __init__(self) -> None:
            self.aborted = False

        def write(self, data: bytes) -> bool:
            return True

        def abort(self) -> None:
            self.aborted = True

    async with open_loop() as loop:
        listener = RelayListener(loop, KEY, lambda header: Answer.NOT_OWNER, max_unverified=3)
        streams = [Fake() for _ in range(6)]
        hosts = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "10.0.0.2:1", "[::1]:1", "10.0.0.1:4"]
        for stream, host in zip(streams, hosts, strict=True):
            listener._accepted(False, stream, host)
        assert [stream.aborted for stream in streams] == [False, True, True, False, False, True]
        assert listener.unverified == 3
        listener.close()


@on_every_loop
@pytest.mark.parametrize("private", [True, False])
async def test_a_header_is_secure_only_if_the_connection_between_the_nodes_is(private: bool) -> None:
    found: list[RelayHeader] = []

    def admit(header: RelayHeader) -> Answer:
        found.append(header)
        return Answer.NOT_OWNER

    async with open_loop() as loop:
        listener = RelayListener(loop, KEY, admit)
        await listener.listen("127.0.0.1" if private else "0.0.0.0", 0, None)
        with pytest.raises(NotTaken):
            await dial_owner(loop, ("127.0.0.1", listener.port), None, HEADER, KEY)
        listener.close()
    assert [header.secure for header in found] == [private]


@on_every_loop
async def test_tls_on_both_hops(
    tmp_path: Path, authority: trustme.CA, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    data = random.Random(4).randbytes(3_000_000)
    tls = node_tls(tmp_path, authority)
    async with nothing_left(), relayed(server_tls, tls) as relay:
        client = await relay.loop.connect("127.0.0.1", relay.port, client_tls, Received)
        client.stream.write(b"first")
        await until(lambda: len(relay.owners) == 1)
        owner = relay.owners[0]
        await until(lambda: owner.data == b"first")
        client.writes = 0
        client.stream.write(data)
        owner.stream.write(data[::-1])
        await until(lambda: len(owner.data) == len(data) + 5 and len(client.data) == len(data))
        assert bytes(owner.data) == b"first" + data and bytes(client.data) == data[::-1]
        await until(lambda: owner.writes == 1 or owner.stream.write(b""))
        owner.stream.end()
        await until(lambda: client.eof or bool(client.reasons))
        client.stream.close()
        await until(lambda: len(relay.splices) == 0)
        assert relay.headers[0].secure


@on_every_loop
async def test_a_session_and_its_resume_through_a_relay() -> None:
    """Check a relay that also carries the upgrade, without knowledge of its content."""
    async with nothing_left(), serve(make_app(), port=0) as server, relayed() as relay:
        admission = Admission(hosts=["127.0.0.1"])
        relay.admits = lambda stream: server.accepted(admission, False, stream, "a peer")
        url = f"ws://127.0.0.1:{relay.port}/arcp"
        async with connect(url, TOKEN) as session:
            job = await session.submit("flood", {"events": 3_000, "size": 100})
            texts = []
            async for event in job:
                texts.append(str(event.body["message"]))
                if len(texts) == 1_000:
                    relay.splices.close()
            assert [int(text.split()[0]) for text in texts] == list(range(3_000))
            assert (await (await session.submit("echo", {"a": [1]})).result()) == {"a": [1]}
        assert len(relay.begun) >= 2
        await until(lambda: len(relay.splices) == 0)


@on_every_loop
async def test_a_connection_that_a_lobby_has_upgraded_is_relayed_with_what_it_has_sent() -> None:
    lobby_app, app = App("lobby", "1", auth=never), make_app()
    async with nothing_left(), open_server(lobby_app, 0) as lobby, open_server(app, 0) as server:
        relay = Relay(lobby.loop, None, None)
        transports: list[StreamTransport] = []

        def accepted(stream: ByteStream, peer: str) -> StreamTransport:
            connection = lobby.connect(Framing.MESSAGES, secure=False, peer=peer)
            codec = TappedCodec(Admission(hosts=["127.0.0.1"]), limit=connection.message_limit)
            transports.append(StreamTransport(lobby.pump, connection, codec, stream, movable=True))
            lobby.pump.run()
            relay.loop.start(partial(hand_on, transports[-1], codec), "gateway")
            return transports[-1]

        async def hand_on(transport: StreamTransport, codec: TappedCodec) -> None:
            await until(lambda: bool(codec.tap))
            stream, writing = transport.release()
            splice = relay.splices.begin(stream, codec.untap() or b"", writing=writing)
            await relay.dial_for(splice)

        def take(stream: ByteStream) -> StreamTransport:
            principal = Verified(relay.headers[-1].principal or "")
            connection = server.connect(Framing.MESSAGES, secure=False, peer="p", verified=principal)
            codec = ServerCodec.opened(limit=connection.message_limit)
            transport = StreamTransport(server.pump, connection, codec, stream)
            server.pump.run()
            return transport

        relay.admits = take
        await relay.open(None, accepted)
        async with connect(f"ws://127.0.0.1:{relay.port}/arcp", "any token") as session:
            assert await (await session.submit("echo", [1, 2])).result() == [1, 2]
            assert server.runtime.counts().sessions == 1
        assert lobby.runtime.connection_count == 0 and transports[0].gone
        with pytest.raises(LocalProtocolError, match="cannot be moved"):
            transports[0].release()
        relay.close()
        await until(lambda: server.runtime.connection_count == 0)


@on_every_loop
@pytest.mark.parametrize("fault", ["no certificate", "other authority", "other name", "plain"])
async def test_both_nodes_verify_each_other(tmp_path: Path, authority: trustme.CA, fault: str) -> None:
    owner_tls = node_tls(tmp_path, authority, "localhost" if fault == "other name" else "127.0.0.1")
    context: ssl.SSLContext | None = owner_tls.client
    if fault == "no certificate":
        context = ssl.create_default_context()
        authority.configure_trust(context)
    elif fault == "other authority":
        other = tmp_path / "other"
        other.mkdir()
        context = node_tls(other, trustme.CA(), trusted=authority).client
    elif fault == "plain":
        context = None
    async with nothing_left(), relayed(tls=owner_tls) as relay:
        with pytest.raises(OSError):
            address = ("127.0.0.1", relay.listener.port)
            await dial_owner(relay.loop, address, context, HEADER, KEY, timeout=0.3 if context is None else 5)
        await until(lambda: relay.listener.unverified == 0)
        assert relay.headers == []


@pytest.mark.parametrize("broken", ["certfile", "keyfile", "cafile"])
def test_files_that_are_not_there_or_empty_are_named(
    tmp_path: Path, authority: trustme.CA, broken: str
) -> None:
    node_tls(tmp_path, authority)
    files = {"certfile": "node.pem", "keyfile": "node.key", "cafile": "ca.pem"}
    paths = {name: str(tmp_path / file) for name, file in files.items()}
    Path(paths[broken]).write_text("")
    with pytest.raises(ValueError, match=files[broken]):
        load_node_tls(**paths)
    Path(paths[broken]).unlink()
    with pytest.raises(OSError, match=files[broken]):
        load_node_tls(**paths)


def test_plain_connections_between_machines_must_be_allowed(tmp_path: Path, authority: trustme.CA) -> None:
    check_plain_nodes("127.0.0.1", None, allow_plain=False)
    check_plain_nodes("10.0.0.5", None, allow_plain=True)
    check_plain_nodes("10.0.0.5", node_tls(tmp_path, authority), allow_plain=False)
    with pytest.raises(ValueError, match=r"between 10\.0\.0\.5 and other nodes in clear text"):
        check_plain_nodes("10.0.0.5", None, allow_plain=False)


class relay_client:
    """A client that has sent its first bytes, and is closed at the end of the block."""

    def __init__(self, port: int, first: bytes) -> None:
        self._client = Client(port)
        self._first = first

    async def __aenter__(self) -> Client:
        await self._client.send_all(self._first)
        return self._client

    async def __aexit__(self, *error: object) -> None:
        self._client.close()


async def never(token: str) -> str | None:
    """Verify no token."""
    await anyio.sleep_forever()


def taken(owner: Received, data: bytes) -> int:
    """Write bytes to the stream of an owner, unless its last write is not finished; return how many."""
    if owner.unfinished:
        return 0
    owner.unfinished = not owner.stream.write(data)
    return len(data)


async def sent_until_stalled(send: Callable[[bytes], int]) -> int:
    """Send until nothing is taken for a while, and return how much was."""
    sent = idle = 0
    while idle < 300 and sent < NEVER_STALLED:
        step = send(bytes(1 << 16))
        sent += step
        idle = 0 if step else idle + 1
        await anyio.sleep(0 if step else 0.002)
    return sent


async def speak(listener: socket.socket, said: bytes) -> None:
    """Accept one connection, say something, and check that only a header comes."""
    listener.setblocking(False)
    while True:
        try:
            accepted, _ = listener.accept()
            break
        except BlockingIOError:
            await anyio.sleep(0.001)
    with accepted:
        accepted.setblocking(False)
        accepted.send(said)
        received = b""
        for _ in range(2_000):
            try:
                piece = accepted.recv(1 << 16)
            except BlockingIOError:
                await anyio.sleep(0.005)
                continue
            except ConnectionError:
                break
            if not piece:
                break
            received += piece
        assert received == b"" or b"10.0.0.9" in received.split(b"\n")[0]
        assert len(received) < 300


def signed(line: bytes, key: bytes, owner_nonce: bytes, gateway_nonce: bytes) -> bytes:
    """Return a line with the tail of a header."""
    return line + gateway_nonce + header_mac(line, key, owner_nonce, gateway_nonce)
