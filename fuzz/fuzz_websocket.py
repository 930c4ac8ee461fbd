"""Fuzz the WebSocket codec against websockets alone, in both roles.

Both receive the same stream, cut at the same places, and must agree on messages, answers, close code and end.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import Self

from fuzz import harness

with harness.instrumented(__name__):
    from websockets.client import ClientProtocol
    from websockets.frames import Frame, Opcode
    from websockets.http11 import Request
    from websockets.protocol import State
    from websockets.server import ServerProtocol
    from websockets.uri import parse_uri

    from arcp_io.drivers.websocket import PONGS_HELD, ClientCodec, ServerCodec
    from arcp_io.drivers.ws_admission import Admission

CORPUS = Path(__file__).parent / "corpus" / "websocket.ndjson"
LIMITS = (65_536, 0, 5, 125, 126, 300, 4 * 1024 * 1024)
URI = "ws://localhost:7777/arcp"
HEAD_END = b"\n\r\n"
REQUEST = (
    b"GET /arcp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ACCEPT = b"$ACCEPT"
"""The placeholder of a response for the value that answers the client's random key."""
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: $ACCEPT\r\n\r\n"
)
WORDS = ("$ACCEPT", "Host: ", "Origin: ", "HTTP/1.1 ", "Content-Length: ", "Transfer-Encoding: chunked")


@dataclasses.dataclass(frozen=True)
class Case:
    """One run: a stream to a server or a client, behind a valid HTTP head unless `greet` is false."""

    stream: bytes
    server: bool = True
    greet: bool = True
    limit: int = LIMITS[0]
    cuts: tuple[int, ...] = ()
    """The places of the cuts in `stream`; a valid head arrives together with the first piece."""
    close_after: int | None = None
    """The number of the piece after which the codec closes with 1001, or None."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a case from any bytes: flags, limit, piece before the close, count of cuts, cuts, stream."""
        flags, limit, close_after, count = data[:4].ljust(4, b"\0")
        count %= 8
        cuts = data[4 : 4 + 2 * count]
        return cls(
            stream=data[4 + 2 * count :],
            server=not flags & 1,
            greet=not flags & 2,
            limit=LIMITS[limit % len(LIMITS)],
            cuts=tuple(int.from_bytes(cuts[at : at + 2], "big") for at in range(0, len(cuts), 2)),
            close_after=close_after % 8 if flags & 4 else None,
        )

    def pieces(self, key: str) -> list[bytes]:
        """Return the pieces of the stream in which they arrive; `key` is that of the client's request."""
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        cuts = sorted({min(cut, len(self.stream)) for cut in self.cuts})
        pieces = [self.stream[start:end] for start, end in itertools.pairwise([0, *cuts, len(self.stream)])]
        if self.greet:
            pieces[0] = (REQUEST if self.server else RESPONSE) + pieces[0]
        if not self.server:
            pieces = [piece.replace(ACCEPT, base64.b64encode(accept)) for piece in pieces]
        return pieces


@dataclasses.dataclass
class Outcome:
    """The result of a run; `answers` are the unmasked frames that were sent, each an opcode and a payload."""

    key: str
    messages: list[bytes]
    status: int | None
    answers: list[tuple[int, bytes]]
    close_code: int | None
    finished: bool
    closed: bool


def check(data: bytes) -> None:
    """Run one input; raises AssertionError where the codec and the library differ."""
    compare(Case.from_bytes(data))


def compare(case: Case) -> None:
    """Run a case with its own cuts, in one piece, and with a cut after each of the first bytes."""
    for cuts in (case.cuts, (), tuple(range(100))):
        variant = dataclasses.replace(case, cuts=cuts)
        ours = run_codec(variant)
        alone = run_library(variant, ours.key)
        if case.server and ours.status in (403, 404):
            # Admission belongs to the codec; the library alone accepts such a request.
            assert ours.finished and not ours.messages, (variant, ours)
        else:
            assert ours == alone, f"{variant}\n  ours  {ours}\n  alone {alone}"


def run_codec(case: Case) -> Outcome:
    """Run the codec as a driver does."""
    codec: ServerCodec | ClientCodec
    if case.server:
        codec, key = ServerCodec(Admission(), limit=case.limit), ""
    else:
        codec = ClientCodec(URI, limit=case.limit)
        key = codec.data_to_send().partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
    messages: list[bytes] = []
    answers: list[tuple[int, bytes]] = []
    for number, piece in enumerate(case.pieces(key)):
        greeted = codec.status is not None
        messages += codec.receive(piece)
        if codec.too_large and codec.open:
            assert codec.frame([b"an error"]).startswith(b"\x81")
            codec.close(1009)
        if number == case.close_after and codec.open:
            codec.close(1001, "going away")
        sent = codec.data_to_send()
        assert len(sent) < 32 * 1024
        if codec.status == 101:
            answers += frames(sent if greeted or not case.server else sent.partition(HEAD_END)[2])
    codec.receive_eof()
    assert codec.receive(b"late") == [] and codec.data_to_send() == b"" and not codec.open
    return Outcome(key, messages, codec.status, answers, codec.close_code, codec.finished, codec.closed)


class Library:
    """The Sans-I/O layer of websockets alone, which receives the HTTP head in one piece."""

    def __init__(self, case: Case, key: str) -> None:
        self.protocol: ServerProtocol | ClientProtocol
        if case.server:
            self.protocol = ServerProtocol(origins=[None], max_size=case.limit)
        else:
            self.protocol = ClientProtocol(parse_uri(URI), max_size=case.limit)
            self.protocol.key = key
        self.head: bytes | None = b""
        self.status: int | None = None
        self.messages: list[bytes] = []
        self.fragments: list[bytes] = []
        self.finished = False

    def receive(self, data: bytes) -> None:
        if self.head is not None:
            self.head += data
            end = self.head.find(HEAD_END)
            if end < 0:
                return
            head, data = self.head[: end + 3], self.head[end + 3 :]
            self.head = None
            self.step(head)
        if data:
            self.step(data)

    def receive_eof(self) -> None:
        if self.head:
            self.step(self.head)
        self.protocol.receive_eof()
        self.read_events()

    def step(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        self.read_events()

    def read_events(self) -> None:
        for event in self.protocol.events_received():
            if isinstance(event, Frame):
                if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    self.fragments.append(bytes(event.data))
                    if event.fin:
                        self.messages.append(b"".join(self.fragments))
                        self.fragments.clear()
            elif isinstance(event, Request):
                assert isinstance(self.protocol, ServerProtocol)
                response = self.protocol.accept(event)
                self.status = response.status_code
                self.protocol.send_response(response)
            else:
                self.status = event.status_code

    def answers(self) -> list[tuple[int, bytes]]:
        """Return the frames sent since the last call, with at most `PONGS_HELD` pongs in a row."""
        sent: list[tuple[int, bytes]] = []
        for chunk in self.protocol.data_to_send():
            self.finished |= not chunk
            if not chunk.startswith(b"HTTP/"):
                sent += frames(chunk)
        kept: list[tuple[int, bytes]] = []
        for pong, run in itertools.groupby(sent, lambda frame: frame[0] == Opcode.PONG):
            kept += list(run)[-PONGS_HELD if pong else 0 :]
        return kept


def run_library(case: Case, key: str) -> Outcome:
    """Run the library on the same pieces, with the same key."""
    library = Library(case, key)
    protocol = library.protocol
    answers: list[tuple[int, bytes]] = []
    for number, piece in enumerate(case.pieces(key)):
        library.receive(piece)
        if number == case.close_after and protocol.state is State.OPEN:
            protocol.send_close(1001, "going away")
        answers += library.answers()
    library.receive_eof()
    answers += library.answers()
    closed = protocol.state is State.CLOSED
    close = protocol.close_sent
    code = int(close.code) if close is not None else 1006 if closed else None
    return Outcome(key, library.messages, library.status, answers, code, library.finished, closed)


def frames(sent: bytes) -> list[tuple[int, bytes]]:
    """Return frames as opcode and unmasked payload; a close with 1009 has its code only, without a reason."""
    found: list[tuple[int, bytes]] = []
    while sent:
        opcode, length, masked = sent[0] & 0x0F, sent[1] & 0x7F, sent[1] >> 7
        key, start = (sent[2:6], 6) if masked else (b"\0\0\0\0", 2)
        payload = bytes(byte ^ mask for byte, mask in zip(sent[start : start + length], itertools.cycle(key)))
        if opcode == Opcode.CLOSE and payload[:2] == (1009).to_bytes(2, "big"):
            payload = payload[:2]
        found.append((opcode, payload))
        sent = sent[start + length :]
    return found


if __name__ == "__main__":
    harness.run(check, CORPUS, WORDS)
