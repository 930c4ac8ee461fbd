"""Arbitrary bytes to both sides of the handshake of a relayed connection: no unsigned message is accepted.

The first byte of an input chooses the side that receives the stream, and whether its header or
answer is signed with the key; the second byte is the size of the pieces that the stream is cut into.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_io.cluster.relay_handshake import (
        ANSWER_BYTES,
        MAGIC,
        Answer,
        GatewayHandshake,
        OwnerHandshake,
    )
    from arcp_io.cluster.relay_header import (
        MAX_GUEST,
        MAX_LINE_BYTES,
        MAX_PEER,
        MAX_PRINCIPAL,
        TAIL_BYTES,
        RelayForged,
        RelayHeader,
        RelayRefused,
        encode,
        header_mac,
    )

CORPUS: Final = Path(__file__).parent / "corpus" / "relay.ndjson"
KEY: Final = bytes(range(32))
OWNER_NONCE: Final = b"owner's nonce, which is new here"
GATEWAY_NONCE: Final = b"gateway's nonce, new here as well"[:32]
HEADER: Final = RelayHeader(7, 3, "alice", None, True, "10.0.0.9:50000")
WORDS: Final = (
    '{"v":1,"shard":7,"epoch":3,"principal":"alice","expires":null,"secure":true,"peer":"h:1"}\n',
    '"v":1',
    '"v":2',
    '"shard":',
    '"principal":null',
    ',"guest":"acme"',
    ',"guest":""',
    '"expires":9223372036854775807',
    "\\ud800",
    "9223372036854775808",
    "1e9",
    "ARCPNODE",
    "\n",
    "a" * 300,
    "[" * 3000,
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one side: its header or answer, its error, and the bytes that it sent and left."""

    header: RelayHeader | None = None
    answer: Answer | None = None
    error: str = ""
    forged: bool = False
    sent: bytes = b""
    rest: bytes = b""


def check(data: bytes) -> None:
    """Run one input; raises AssertionError if a side accepts a forged message, or if the cuts matter."""
    flags, cut, stream = data[0] if data else 0, data[1] if data[1:] else 0, data[2:]
    signed = bool(flags & 2)
    run = owner if flags & 1 else gateway
    if signed:
        stream = sign_header(stream) if flags & 1 else sign_answer(stream)
    whole = run([stream])
    step = 1 + cut
    pieces = run([stream[at : at + step] for at in range(0, len(stream), step)])
    if whole.error:
        assert dataclasses.replace(pieces, sent=b"") == dataclasses.replace(whole, sent=b""), (pieces, whole)
    else:
        assert pieces == whole, (pieces, whole)
    if not signed:
        assert whole.header is None and whole.answer is None, whole
        assert whole.forged == (whole.error != ""), whole
    check_text(whole.error, stream)
    if whole.header is not None:
        check_header(whole.header)


def owner(pieces: list[bytes]) -> Outcome:
    """Pass a stream to the owner's side."""
    side, header = OwnerHandshake(KEY, OWNER_NONCE), None
    try:
        for piece in pieces:
            header = side.receive(piece) or header
    except RelayRefused as error:
        assert side.signed != isinstance(error, RelayForged)
        return Outcome(error=str(error), forged=isinstance(error, RelayForged))
    if header is None:
        assert not side.signed and not side.rest
    else:
        assert len(side.answer(Answer.ACCEPTED)) == ANSWER_BYTES
    return Outcome(header=header, rest=side.rest)


def gateway(pieces: list[bytes]) -> Outcome:
    """Pass a stream to the gateway's side."""
    side, sent = GatewayHandshake(HEADER, KEY, GATEWAY_NONCE), b""
    try:
        for piece in pieces:
            sent += side.receive(piece)
    except RelayForged as error:
        return Outcome(error=str(error), forged=True)
    assert side.answer is not None or not side.rest
    return Outcome(answer=side.answer, sent=sent, rest=side.rest)


def sign_header(stream: bytes) -> bytes:
    """Sign the first line of a stream, as a process with the key does."""
    line, newline, rest = stream.partition(b"\n")
    mac = header_mac(line + newline, KEY, OWNER_NONCE, GATEWAY_NONCE)
    return line + newline + GATEWAY_NONCE + mac + rest


def sign_answer(stream: bytes) -> bytes:
    """Return a valid greeting, a signed answer chosen by the first byte of a stream, and the rest of it."""
    side = OwnerHandshake(KEY, OWNER_NONCE)
    side.receive(encode(HEADER, key=KEY, owner_nonce=OWNER_NONCE, gateway_nonce=GATEWAY_NONCE))
    answer = Answer(stream[0] % len(Answer)) if stream else Answer.ACCEPTED
    return MAGIC + OWNER_NONCE + side.answer(answer) + stream[1:]


def check_text(error: str, stream: bytes) -> None:
    """Raise AssertionError if a message shows a key, a nonce or received bytes."""
    for secret in (KEY, OWNER_NONCE, GATEWAY_NONCE):
        assert secret.hex() not in error and repr(secret)[2:-1] not in error
    for at in range(0, min(len(stream), 4096) - 24, 24):  # Limits in a message are shorter.
        assert stream[at : at + 24].decode("latin-1") not in error


def check_header(header: RelayHeader) -> None:
    """Raise AssertionError if an accepted header is out of bounds, or cannot be sent again."""
    assert 0 <= header.shard < 2**31 and 1 <= header.epoch < 2**63
    assert header.principal is None or 1 <= len(header.principal) <= MAX_PRINCIPAL
    assert header.expires is None or 0 <= header.expires < 2**63
    assert len(header.peer) <= MAX_PEER and isinstance(header.secure, bool)
    assert header.guest is None or 1 <= len(header.guest) <= MAX_GUEST
    again = encode(header, key=KEY, owner_nonce=OWNER_NONCE, gateway_nonce=GATEWAY_NONCE)
    assert len(again) <= MAX_LINE_BYTES + TAIL_BYTES
    assert owner([again]).header == header


if __name__ == "__main__":
    harness.run(check, CORPUS, WORDS)
