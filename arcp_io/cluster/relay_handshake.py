"""The opening of a relayed connection, without I/O: both sides prove that they have the key of the owner.

    owner                                                gateway
      |-- greeting: MAGIC, nonce of the owner ------------->|
      |<-- header: a line of JSON, nonce of the gateway, MAC|
      |-- answer: a byte, MAC ----------------------------->|
      |<== bytes of the client, bytes for the client ======>|

The key is in the row of the owner in the store: a process that can read the store is a node. The MACs cover
the nonces of both sides, which are new for each connection, so that recorded ones are not valid again. The
gateway sends bytes of the client, which may hold a bearer token, only after the proof in the answer: another
process may listen at the address of an owner that has ended.
"""

from __future__ import annotations

import hmac
from enum import IntEnum
from typing import Final

from .relay_header import (
    MAC_BYTES,
    MAX_LINE_BYTES,
    NONCE_BYTES,
    TAIL_BYTES,
    RelayForged,
    RelayHeader,
    decode,
    encode,
)

MAGIC: Final = b"ARCPNODE"
"""The bytes with which a node begins, so that a gateway notices when it reaches something else."""
GREETING_BYTES: Final = len(MAGIC) + NONCE_BYTES
ANSWER_BYTES: Final = 1 + MAC_BYTES

_ANSWER_LABEL: Final = b"arcp relay answer\n"


class Answer(IntEnum):
    """The answer of an owner to a header that is signed with its key."""

    ACCEPTED = 0
    """The connection is the owner's from now on."""
    NOT_OWNER = 1
    """The node does not own the shard in this epoch: the gateway reads the store again."""
    TRY_AGAIN = 2
    """The node owns the shard, and takes no connection at the moment."""
    BAD_HEADER = 3
    """The header is of another version, or out of bounds."""


class OwnerHandshake:
    """The owner's side: send `greeting`, pass received bytes to `receive`, send `answer`."""

    __slots__ = ("_buffer", "_gateway_nonce", "_key", "_line", "_nonce", "signed")

    def __init__(self, key: bytes, nonce: bytes) -> None:
        """Take the key of this node, and a nonce that is never used again."""
        self.signed = False
        """Whether the received header was signed with the key, so that it may be answered."""
        self._key = key
        self._nonce = nonce
        self._gateway_nonce = b""
        self._line = b""
        self._buffer = bytearray()

    @property
    def greeting(self) -> bytes:
        """The first bytes that the owner sends."""
        return MAGIC + self._nonce

    @property
    def rest(self) -> bytes:
        """The bytes that were received behind the header."""
        return bytes(self._buffer) if self._line else b""

    def receive(self, data: bytes) -> RelayHeader | None:
        """Take received bytes, cut anywhere; return the header once it is complete, else None.

        Bytes behind the header are added to `rest`. Raises RelayForged for bytes that are not signed with the
        key, and RelayRefused for a signed header that is of another version or out of bounds.
        """
        self._buffer += data
        if self._line:
            return None
        end = self._buffer.find(b"\n", 0, MAX_LINE_BYTES) + 1
        if not end:
            if len(self._buffer) >= MAX_LINE_BYTES:
                raise RelayForged(f"no header ends within the first {MAX_LINE_BYTES} bytes")
            return None
        if len(self._buffer) < end + TAIL_BYTES:
            return None
        self._line, tail = bytes(self._buffer[:end]), bytes(self._buffer[end : end + TAIL_BYTES])
        del self._buffer[: end + TAIL_BYTES]
        self._gateway_nonce = tail[:NONCE_BYTES]
        self.signed = True
        try:
            return decode(self._line, tail, key=self._key, owner_nonce=self._nonce)
        except RelayForged:
            self.signed = False
            raise

    def answer(self, answer: Answer) -> bytes:
        """Return the answer to a signed header."""
        mac = _answer_mac(answer, self._line, self._key, self._nonce, self._gateway_nonce)
        return bytes([answer]) + mac


class GatewayHandshake:
    """The gateway's side: pass received bytes to `receive`, and send the bytes that it returns."""

    __slots__ = ("_buffer", "_key", "_line", "_nonce", "_owner_nonce", "answer", "header")

    def __init__(self, header: RelayHeader, key: bytes, nonce: bytes) -> None:
        """Take a header, the key of the owner, and a nonce that is never used again."""
        self.answer: Answer | None = None
        """The answer of the owner, once it is received and proved."""
        self.header = header
        self._key = key
        self._nonce = nonce
        self._owner_nonce = b""
        self._line = b""
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """The bytes that were received behind the answer."""
        return b"" if self.answer is None else bytes(self._buffer)

    def receive(self, data: bytes) -> bytes:
        """Take received bytes, cut anywhere; return the bytes to send.

        Bytes behind the answer are added to `rest`. Raises RelayForged when the sender is not a node, or does
        not have the key of the owner, and ValueError for a header whose fields are out of bounds.
        """
        self._buffer += data
        sent = b""
        if not self._line:
            magic = self._buffer[: len(MAGIC)]
            if not MAGIC.startswith(magic):
                raise RelayForged("the other side is not a node: its first bytes are not those of a greeting")
            if len(self._buffer) < GREETING_BYTES:
                return b""
            self._owner_nonce = bytes(self._buffer[len(MAGIC) : GREETING_BYTES])
            del self._buffer[:GREETING_BYTES]
            sent = encode(
                self.header, key=self._key, owner_nonce=self._owner_nonce, gateway_nonce=self._nonce
            )
            self._line = sent[:-TAIL_BYTES]
        if self.answer is None and len(self._buffer) >= ANSWER_BYTES:
            self.answer = self._proved(bytes(self._buffer[:ANSWER_BYTES]))
            del self._buffer[:ANSWER_BYTES]
        return sent

    def _proved(self, answer: bytes) -> Answer:
        mac = _answer_mac(answer[0], self._line, self._key, self._owner_nonce, self._nonce)
        if not hmac.compare_digest(mac, answer[1:]):
            raise RelayForged("the answer is not signed with the key of the owner for this connection")
        try:
            return Answer(answer[0])
        except ValueError:
            return Answer.TRY_AGAIN  # A newer release has more answers.


def _answer_mac(answer: int, line: bytes, key: bytes, owner_nonce: bytes, gateway_nonce: bytes) -> bytes:
    """Return the MAC of an answer, valid for one connection and one header."""
    said = _ANSWER_LABEL + bytes([answer]) + owner_nonce + gateway_nonce + line
    return hmac.digest(key, said, "sha256")
