"""The WebSocket codec: handshake, framing, limits, close, and agreement with websockets alone."""

from __future__ import annotations

import itertools
import logging
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_io.drivers.websocket import HELD, PONGS_HELD, ClientCodec, ServerCodec, WebSocketCodec
from arcp_io.drivers.ws_admission import Admission
from arcp_proto.errors import LocalProtocolError
from fuzz import fuzz_websocket, harness

URI = "ws://127.0.0.1:7777/arcp"
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
SIZES = (0, 1, 125, 126, 127, 4095, 4096, 65_535, 65_536, 70_000)


def request(path: str = "/arcp", host: str = "localhost:7777", extra: str = "") -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    ).encode("latin-1")


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = b"", reserved: int = 0
) -> bytes:
    """Return a frame as RFC 6455, 5.2 lays it out, masked if there is a mask."""
    size = len(payload)
    bit = 0x80 if mask else 0
    head = bytes([fin << 7 | reserved << 4 | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask:
        payload = bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask)))
    return head + mask + payload


def to_server(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    return frame(opcode, payload, fin=fin, mask=b"\x11\x22\x33\x44", reserved=reserved)


def open_pair(limit: int = 65_536) -> tuple[ClientCodec, ServerCodec]:
    """Return a client and a server after their handshake."""
    client, server = ClientCodec(URI, limit=limit), ServerCodec(Admission(), limit=limit)
    assert server.receive(client.data_to_send()) == []
    assert client.receive(server.data_to_send()) == []
    assert client.open and server.open
    return client, server


def open_server(limit: int = 65_536) -> ServerCodec:
    return open_pair(limit)[1]


def receive_all(codec: WebSocketCodec, pieces: Iterable[bytes]) -> list[bytes]:
    return [message for piece in pieces for message in codec.receive(piece)]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


class TestServerHandshake:
    def test_accepts_without_subprotocol_or_extension(self) -> None:
        server = ServerCodec(Admission(), limit=100)
        offered = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\n"
        assert not server.open
        assert server.receive(request("/arcp?trace=1", extra=offered)) == []
        head = server.data_to_send()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        assert b"Extensions" not in head and b"Protocol:" not in head
        assert (server.open, server.finished, server.failure) == (True, False, None)
        assert (server.status, server.target, server.close_code) == (101, "/arcp?trace=1", None)

    def test_head_cut_anywhere(self) -> None:
        head, text = request(), to_server(TEXT, b"early")
        for cut in range(1, len(head)):
            server = ServerCodec(Admission(), limit=100)
            assert server.receive(head[:cut]) == [] and server.data_to_send() == b"" and not server.open
            assert server.receive(head[cut:] + text) == [b"early"]
            assert server.data_to_send().startswith(b"HTTP/1.1 101 ")

    def test_bytes_behind_the_request_wait_for_its_answer(self) -> None:
        server = ServerCodec(Admission(), limit=100)
        early = to_server(PING, b"p") + to_server(TEXT, b"a") + to_server(TEXT, b"b")
        assert server.receive(request() + early[:-1]) == [b"a"]
        head, _, rest = server.data_to_send().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") and rest == frame(PONG, b"p")
        assert server.receive(early[-1:]) == [b"b"]

    def test_plain_http_is_told_to_upgrade(self) -> None:
        server = ServerCodec(Admission(), limit=100)
        server.receive(b"GET /arcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server.data_to_send().startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert (server.open, server.finished, server.status) == (False, True, 426)
        assert server.failure == "the request was refused with HTTP 426"

    def test_after_a_refusal_nothing_is_read(self) -> None:
        server = ServerCodec(Admission(), limit=100)
        assert server.receive(request("/nowhere") + to_server(TEXT, b"early")) == []
        assert server.data_to_send().startswith(b"HTTP/1.1 404 ")
        assert server.receive(request() + to_server(TEXT, b"late")) == []
        assert server.data_to_send() == b"" and not server.open

    @pytest.mark.parametrize(
        "data", [b"\x16\x03\x01\x02\x00\n", b"hello\r\n", request().replace(b"\r\n", b"\n")]
    )
    def test_bytes_that_are_not_http_are_dropped(self, data: bytes) -> None:
        server = ServerCodec(Admission(), limit=100)
        assert server.receive(data) == [] and server.data_to_send() == b""
        assert server.finished and server.failure == "did not receive a valid HTTP request"

    @pytest.mark.parametrize("piece", [b"x" * 1000, b"Name: value\r\n" * 50])
    def test_endless_heads_are_cut_off(self, piece: bytes) -> None:
        server = ServerCodec(Admission(), limit=100)
        server.receive(request()[:-2])
        for _ in range(20):
            server.receive(piece)
        assert server.finished and server.failure is not None and not server.open

    def test_end_inside_the_head(self) -> None:
        server = ServerCodec(Admission(), limit=100)
        server.receive(request()[:40])
        server.receive_eof()
        assert server.closed and server.failure is not None and server.close_code == 1006
        assert server.receive(request()) == []

    def test_close_before_the_handshake_gives_up(self) -> None:
        client, server = ClientCodec(URI, limit=100), ServerCodec(Admission(), limit=100)
        for codec in (client, server):
            codec.close(1001)
            assert codec.finished and codec.data_to_send() == b"" and codec.failure is not None
            assert codec.receive(request()) == [] and not codec.open
            codec.receive_eof()
            assert codec.closed


class TestClientHandshake:
    def test_request(self) -> None:
        client = ClientCodec("wss://[::1]:7777/arcp?a=b", limit=100, origin="https://app.example")
        head = client.data_to_send()
        assert head.startswith(b"GET /arcp?a=b HTTP/1.1\r\nHost: [::1]:7777\r\n") and head.endswith(
            b"\r\n\r\n"
        )
        assert b"\r\nOrigin: https://app.example\r\n" in head and b"Extensions" not in head
        assert (client.host, client.port, client.secure) == ("::1", 7777, True)
        assert client.data_to_send() == b""

    def test_no_origin_by_default(self) -> None:
        assert b"Origin" not in ClientCodec(URI, limit=100).data_to_send()

    @pytest.mark.parametrize(
        "uri", ["http://localhost/arcp", "ws:///arcp", "ws://host/#part", "ws://host:x/", ""]
    )
    def test_bad_uri(self, uri: str) -> None:
        with pytest.raises(ValueError):
            ClientCodec(uri, limit=100)

    def test_bytes_behind_the_response_are_read(self) -> None:
        client, server = ClientCodec(URI, limit=100), ServerCodec(Admission(), limit=100)
        server.receive(client.data_to_send())
        data = server.data_to_send() + server.frame([b"one", b"two"])
        assert receive_all(client, one_by_one(data)) == [b"one", b"two"]
        assert client.open and client.status == 101 and client.failure is None

    @pytest.mark.parametrize("length", ["Content-Length: 16\r\n", ""])
    def test_refusal(self, length: str) -> None:
        client = ClientCodec(URI, limit=100)
        response = f"HTTP/1.1 503 Service Unavailable\r\n{length}\r\nbusy\r\n\r\n" + "\n" * 8
        assert receive_all(client, one_by_one(response.encode())) == []
        client.receive_eof()
        assert client.finished and client.closed and client.status == 503
        assert client.failure == "server rejected WebSocket connection: HTTP 503"

    def test_refusal_with_a_body_of_many_lines(self) -> None:
        client = ClientCodec(URI, limit=100)
        assert client.receive(b"HTTP/1.1 404 Not Found\r\n\r\n" + b"\n\r\n" * 5000) == []
        client.receive_eof()
        assert client.finished and client.status == 404

    def test_wrong_answer_to_the_key(self) -> None:
        client, server = ClientCodec(URI, limit=100), ServerCodec(Admission(), limit=100)
        server.receive(request())
        assert client.receive(server.data_to_send() + frame(TEXT, b"early")) == []
        assert client.finished and not client.open and client.failure is not None

    def test_end_before_the_response(self) -> None:
        client = ClientCodec(URI, limit=100)
        client.receive_eof()
        assert client.closed and client.failure == "did not receive a valid HTTP response"


class TestMessages:
    @pytest.mark.parametrize("size", SIZES)
    def test_every_length_class(self, size: int) -> None:
        client, server = open_pair(limit=70_000)
        payload = bytes(itertools.islice(itertools.cycle(b"abcdefg"), size))
        assert server.receive(to_server(TEXT, payload)) == [payload]
        assert server.receive(to_server(BINARY, payload)) == [payload]
        assert client.receive(frame(TEXT, payload)) == [payload]
        assert server.frame([payload]) == frame(TEXT, payload)
        assert server.receive(client.frame([payload])) == [payload]

    def test_batches_keep_the_order_of_all_kinds(self) -> None:
        server = open_server()
        data = (
            to_server(TEXT, b"1")
            + to_server(BINARY, b"\xff2")
            + to_server(TEXT, b"3a", fin=False)
            + to_server(PING, b"now")
            + to_server(CONTINUATION, b"3b", fin=False)
            + to_server(CONTINUATION, b"3c")
            + to_server(PONG)
            + to_server(TEXT)
            + to_server(TEXT, b"4")
        )
        assert server.receive(data) == [b"1", b"\xff2", b"3a3b3c", b"", b"4"]
        assert server.data_to_send() == frame(PONG, b"now")
        assert receive_all(server, one_by_one(data)) == [b"1", b"\xff2", b"3a3b3c", b"", b"4"]

    def test_messages_are_bytes_of_their_own(self) -> None:
        server = open_server()
        data = bytearray(
            to_server(TEXT, b"text") + to_server(BINARY, b"data") + to_server(TEXT, b"te", fin=False)
        )
        messages = server.receive(data) + server.receive(bytearray(to_server(CONTINUATION, b"xt")))
        data[:] = bytes(len(data))
        assert messages == [b"text", b"data", b"text"] and {type(message) for message in messages} == {bytes}

    def test_the_pieces_of_a_frame_are_only_collected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server, split, looks = open_server(), ServerCodec._split, []

        def counted(codec: ServerCodec, data: bytes, messages: list[bytes]) -> int:
            looks.append(len(data))
            return split(codec, data, messages)

        monkeypatch.setattr(ServerCodec, "_split", counted)
        assert receive_all(server, one_by_one(to_server(TEXT, b"x" * 1000))) == [b"x" * 1000]
        assert looks == [1, 2, 4, 1008]

    def test_text_is_not_checked_for_utf8(self) -> None:
        assert open_server().receive(to_server(TEXT, b"\xff\xfe")) == [b"\xff\xfe"]

    def test_a_mask_a_frame_from_the_source_given(self) -> None:
        counter = itertools.count(1)
        asked: list[int] = []

        def random_bytes(count: int) -> bytes:
            asked.append(count)
            return bytes(next(counter) % 256 for _ in range(count))

        client = ClientCodec(URI, limit=100, random_bytes=random_bytes)
        server = ServerCodec(Admission(), limit=100)
        server.receive(client.data_to_send())
        client.receive(server.data_to_send())
        data = client.frame([b"aa", b"bb"]) + client.frame([b"cc"])
        assert data == b"".join(
            frame(TEXT, text, mask=bytes(range(at, at + 4)))
            for text, at in ((b"aa", 1), (b"bb", 5), (b"cc", 9))
        )
        assert asked == [8, 4]

    def test_nothing_to_frame(self) -> None:
        client, server = open_pair()
        assert client.frame([]) == server.frame([]) == b""

    @settings(deadline=None)
    @given(st.lists(st.binary(max_size=300)), st.lists(st.integers(0, 3000)))
    def test_conversation_cut_anywhere(self, messages: list[bytes], cuts: list[int]) -> None:
        client, server = open_pair()
        for sender, receiver in ((client, server), (server, client)):
            data = sender.frame(messages)
            places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
            pieces = [data[start:end] for start, end in itertools.pairwise(places)]
            assert receive_all(receiver, pieces) == messages


class TestLimit:
    def test_is_decided_at_the_header(self) -> None:
        for opcode in (TEXT, BINARY, PING, PONG, CLOSE, CONTINUATION):
            server = open_server(limit=200)
            header = to_server(opcode, bytes(201))[:4]
            assert receive_all(server, one_by_one(header[:3])) == [] and not server.too_large
            assert server.receive(header[3:]) == [] and server.too_large

    def test_largest_length_of_all(self) -> None:
        client, server = open_pair()
        server.receive(b"\x81\xff" + b"\xff" * 8)
        client.receive(b"\x81\x7f" + b"\xff" * 8)
        assert server.too_large and client.too_large

    def test_exactly_the_limit_is_fine(self) -> None:
        server = open_server(limit=126)
        fragments = to_server(TEXT, b"x" * 60, fin=False) + to_server(CONTINUATION, b"x" * 66)
        assert server.receive(to_server(TEXT, b"x" * 126) + fragments) == [b"x" * 126] * 2
        assert not server.too_large

    def test_fragments_count_together(self) -> None:
        server = open_server(limit=126)
        server.receive(to_server(TEXT, b"x" * 100, fin=False))
        assert server.receive(to_server(CONTINUATION, b"x" * 27)[:2]) == [] and server.too_large

    def test_room_is_free_again_after_the_last_fragment(self) -> None:
        server = open_server(limit=10)
        message = to_server(TEXT, b"12345", fin=False) + to_server(CONTINUATION, b"67890")
        assert server.receive(message * 3) == [b"1234567890"] * 3

    def test_may_rise_between_two_frames(self) -> None:
        client, server = open_pair(limit=10)
        large = b"x" * 100
        assert server.receive(client.frame([b"hello"])) == [b"hello"]
        server.limit = 100
        assert server.receive(client.frame([large])) == [large]
        server.limit = 99
        assert server.receive(client.frame([b"y", large])) == [b"y"] and server.too_large

    def test_the_owner_has_the_last_word(self) -> None:
        server = open_server(limit=10)
        data = to_server(TEXT, b"fits") + to_server(TEXT, b"does not fit") + to_server(TEXT, b"dropped")
        assert server.receive(data) == [b"fits"]
        assert server.too_large and server.open and not server.finished and server.close_code is None
        assert server.receive(to_server(TEXT, b"dropped") + to_server(PING)) == []
        assert server.data_to_send() == b""
        assert server.frame([b"error"]) == frame(TEXT, b"error")
        server.close(1009, "message too large")
        assert server.data_to_send() == frame(CLOSE, b"\x03\xf1message too large")
        assert server.finished and not server.open and not server.closed_by_peer
        assert (server.close_code, server.close_reason) == (1009, "message too large")
        assert server.receive(to_server(CLOSE, b"\x03\xf1")) == [] and not server.closed
        server.receive_eof()
        assert server.closed and server.close_code == 1009

    def test_client_waits_for_the_end_of_the_server(self) -> None:
        client, _ = open_pair(limit=10)
        client.receive(frame(TEXT, b"does not fit"))
        client.close(1009)
        assert client.data_to_send()[:1] == b"\x88" and client.close_expected and not client.finished
        client.receive_eof()
        assert client.finished and client.closed and client.close_code == 1009

    @pytest.mark.parametrize(("begun", "held"), [(HELD - 100, True), (HELD + 100, False)])
    @pytest.mark.parametrize("pieces", [1, 2])
    def test_a_close_holds_little_of_a_message_that_is_not_whole(
        self, begun: int, held: bool, pieces: int
    ) -> None:
        server = open_server(limit=4 * HELD)
        if pieces == 2:
            server.receive(to_server(TEXT, b"x" * 1_000, fin=False))
            begun -= 1_000
        large = to_server(CONTINUATION if pieces == 2 else TEXT, b"x" * 3 * HELD)
        server.receive(large[:begun])
        assert server.pending >= begun
        server.close(1008, "too much")
        assert server.data_to_send()[:1] == b"\x88" and server.close_code == 1008
        assert (server.pending > 0, bool(server._buffer)) == (held, held)
        assert server.finished is not held  # No answer is awaited behind the rest.
        for at in range(begun, len(large) - 1, 1_000):
            assert server.receive(large[at : min(at + 1_000, len(large) - 1)]) == []
            assert len(server._buffer) <= HELD
        assert server.receive(large[-1:] + to_server(TEXT, b"later")) == []

    def test_a_large_frame_after_our_close_ends_reading(self) -> None:
        server = open_server(limit=10)
        server.close(1000)
        assert server.receive(to_server(TEXT, b"does not fit") + to_server(TEXT, b"x")) == []
        assert server.finished and not server.too_large and server.close_code == 1000

    def test_end_right_after(self) -> None:
        server = open_server(limit=10)
        server.receive(to_server(TEXT, b"does not fit"))
        server.receive_eof()
        assert server.closed and not server.open and server.close_code == 1006


class TestClose:
    @pytest.mark.parametrize("code", [1000, 1001, 1008, 1009, 1011, 1012])
    def test_ours(self, code: int) -> None:
        client, server = open_pair()
        server.close(code, "because")
        with pytest.raises(LocalProtocolError):
            server.frame([b"late"])
        assert not server.open and server.close_expected and not server.finished
        server.close(1000, "again")
        assert client.receive(server.data_to_send()) == [] and server.data_to_send() == b""
        assert (client.close_code, client.close_reason, client.closed_by_peer) == (code, "because", True)
        with pytest.raises(LocalProtocolError):
            client.frame([b"late"])
        server.receive(client.data_to_send())
        assert server.finished and not client.finished and client.close_expected
        client.receive_eof()
        server.receive_eof()
        assert client.finished and client.closed and server.closed
        assert (server.close_code, server.close_reason, server.closed_by_peer) == (code, "because", False)

    def test_theirs(self) -> None:
        client, server = open_pair()
        client.close(1001, "tab closed")
        assert server.receive(client.data_to_send() + client_noise()) == []
        assert server.data_to_send() == frame(CLOSE, b"\x03\xe9tab closed")
        assert server.finished and server.closed_by_peer and server.close_code == 1001

    def test_both_at_once(self) -> None:
        client, server = open_pair()
        server.close(1012)
        client.close(1000)
        server.receive(client.data_to_send())
        client.receive(server.data_to_send())
        assert server.close_code == 1012 and client.close_code == 1000
        assert not server.closed_by_peer and not client.closed_by_peer and server.finished

    def test_messages_before_the_answer_still_arrive(self) -> None:
        client, server = open_pair()
        late = client.frame([b"one", b"two"])
        server.close(1000)
        assert receive_all(server, one_by_one(late)) == [b"one", b"two"]

    def test_reason_is_cut_between_characters(self) -> None:
        server = open_server()
        server.close(1011, "!" + "\u20ac" * 100)
        assert server.data_to_send() == frame(CLOSE, b"\x03\xf3!" + "\u20ac".encode() * 40)

    def test_reason_that_has_no_utf8(self) -> None:
        server = open_server()
        server.close(1011, "\ud800")
        assert server.data_to_send() == frame(CLOSE, b"\x03\xf3?")

    def test_no_code(self) -> None:
        server = open_server()
        server.receive(to_server(CLOSE))
        assert server.close_code == 1005 and server.closed_by_peer and server.data_to_send() == frame(CLOSE)

    def test_stream_cut_off(self) -> None:
        server = open_server()
        server.receive(to_server(TEXT, b"half of it")[:9])
        server.receive_eof()
        server.receive_eof()
        assert (server.close_code, server.close_reason, server.closed_by_peer) == (1006, "", False)
        assert server.closed and server.finished and not server.open and server.data_to_send() == b""
        assert server.receive(to_server(TEXT, b"late")) == []

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (frame(TEXT, b"unmasked"), 1002),
            (frame(TEXT, b"unmasked")[:2], 1002),
            (to_server(TEXT, b"reserved", reserved=4), 1002),
            (to_server(PING, b"reserved", reserved=1), 1002),
            (to_server(3), 1002),
            (to_server(15)[:2], 1002),
            (to_server(PING, fin=False), 1002),
            (to_server(PING, b"x" * 126), 1002),
            (to_server(CONTINUATION, b"of nothing"), 1002),
            (to_server(TEXT, fin=False) + to_server(TEXT), 1002),
            (to_server(TEXT, fin=False) + to_server(CLOSE, b"\x03\xe8"), 1002),
            (to_server(CLOSE, b"\x03"), 1002),
            (to_server(CLOSE, b"\x03\xed"), 1002),
            (to_server(CLOSE, b"\x03\xe8\xff"), 1007),
        ],
    )
    def test_errors(self, data: bytes, code: int) -> None:
        for pieces in ([data], one_by_one(data)):
            server = open_server()
            assert receive_all(server, [to_server(TEXT, b"before"), *pieces, client_noise()]) == [b"before"]
            assert (server.close_code, server.closed_by_peer, server.open) == (code, False, False)
            assert server.data_to_send()[2:4] == code.to_bytes(2, "big") and server.finished

    def test_client_does_not_take_masked_frames(self) -> None:
        client, _ = open_pair()
        assert client.receive(to_server(TEXT, b"masked")) == [] and client.close_code == 1002


class TestFloods:
    def test_only_the_latest_ping_is_kept(self) -> None:
        server = open_server()
        for number in range(1000):
            server.receive(to_server(PING, b"%d" % number))
        kept = b"".join(frame(PONG, b"%d" % number) for number in range(1000 - PONGS_HELD, 1000))
        server.close(1000)
        assert server.data_to_send() == kept + frame(CLOSE, b"\x03\xe8")
        server.receive(to_server(PING, b"after"))
        assert server.data_to_send() == frame(PONG, b"after")

    @pytest.mark.parametrize(
        "data",
        [
            to_server(PING, b"p" * 125),
            to_server(PONG, b"p" * 125),
            to_server(CONTINUATION, b"", fin=False),
        ],
    )
    def test_do_not_grow_memory(self, data: bytes) -> None:
        server = open_server()
        server.receive(to_server(TEXT, b"", fin=False))
        tracemalloc.start()
        try:
            for _ in range(3000):
                server.receive(data)
            assert tracemalloc.get_traced_memory()[0] < 16 * 1024
        finally:
            tracemalloc.stop()
        assert len(server.data_to_send()) <= 5 * 1024

    def test_dropped_bytes_are_not_kept(self) -> None:
        server = open_server(limit=10)
        server.receive(to_server(TEXT, b"does not fit"))
        tracemalloc.start()
        try:
            for _ in range(100):
                server.receive(bytes(10_000))
            assert tracemalloc.get_traced_memory()[0] < 16 * 1024
        finally:
            tracemalloc.stop()


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client, server = open_pair()
        server.receive(client.frame([b"token"]) + to_server(BINARY, b"token"))
        server.receive(to_server(CLOSE, b"\x03\xe8token"))
        client.receive(server.data_to_send())
        server.receive_eof()
        client.receive_eof()
    assert caplog.records == []


def client_noise() -> bytes:
    return to_server(TEXT, b"too late") + to_server(PING, b"too late") + bytes(40)


frames = st.builds(
    frame,
    st.sampled_from([TEXT, TEXT, BINARY, CONTINUATION, PING, PONG]) | st.sampled_from([CLOSE, 3, 11]),
    st.binary(max_size=12) | st.sampled_from([b"x" * 125, b"x" * 126, b"x" * 300, b"\x03\xe8bye"]),
    fin=st.sampled_from([True, True, True, False]),
    mask=st.just(b"\x0a\x0b\x0c\x0d"),
    reserved=st.sampled_from([0] * 9 + [4]),
)


@settings(max_examples=300, deadline=None)
@given(
    stream=st.lists(frames, max_size=8).map(b"".join) | st.binary(max_size=200),
    server=st.booleans(),
    limit=st.sampled_from(fuzz_websocket.LIMITS),
    cuts=st.lists(st.integers(0, 400), max_size=6).map(tuple),
    close_after=st.none() | st.integers(0, 6),
)
def test_agrees_with_websockets_alone(
    stream: bytes, server: bool, limit: int, cuts: tuple[int, ...], close_after: int | None
) -> None:
    fuzz_websocket.compare(
        fuzz_websocket.Case(stream, server=server, limit=limit, cuts=cuts, close_after=close_after)
    )


@pytest.mark.parametrize(("name", "data"), list(harness.seeds(fuzz_websocket.CORPUS)))
def test_corpus(name: str, data: bytes) -> None:
    fuzz_websocket.check(data)
