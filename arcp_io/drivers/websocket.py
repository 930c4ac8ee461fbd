"""WebSocket framing (RFC 6455) for both roles and both loops, without I/O.

The protocol is websockets' Sans-I/O layer. Beside it stands one short path for nearly all frames: complete
text messages. Every other frame goes to the library whole, and its results are merged in order.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Self

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.typing import Origin
from websockets.uri import parse_uri

from arcp_proto import CLOSE_REASON_BYTES, CloseCode, LocalProtocolError

from .ws_admission import Admission

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = ["ClientCodec", "ServerCodec", "TappedCodec", "WebSocketCodec"]

HEAD_BYTES: Final = 16 * 1024
"""Bytes of the head of the opening request or response; HTTP servers take 8 to 16 KiB."""
SMALL_PIECE: Final = 128
"""A piece of a message that is shorter, and not the last one, counts as a control frame."""
HELD: Final = 64 * 1024
"""Bytes of an incomplete message that are held while a connection closes."""
MAX_TAPPED: Final = 320 * 1024
"""Bytes behind an opening handshake that are kept: what a runtime takes before the welcome, and one read."""
PONGS_HELD: Final = 32
"""Pongs kept for a peer that pings and does not read; the latest alone would do (RFC 6455, 5.5.3)."""

_MASKED: Final = 0x80
_WHOLE_TEXT: Final = 0x80 | Opcode.TEXT.value
_OPCODES: Final = frozenset(opcode.value for opcode in Opcode)
_LENGTH_16: Final = struct.Struct(">H")
_LENGTH_64: Final = struct.Struct(">Q")
_OPEN: Final = State.OPEN
_HEAD_END: Final = b"\n\r\n"
_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)

_Event = Request | Response | Frame
"""An event of the library; after the handshake always a frame."""

# Outside the hierarchy of loggers: the library logs headers and frames, which hold tokens.
_SILENT: Final = logging.Logger("arcp_io.drivers.websocket", logging.CRITICAL + 1)


class WebSocketCodec(ABC):
    """The framing of one connection. After every input send `data_to_send()`; when `finished`, close.

    `limit`: bytes of one incoming message, fragments together; the owner may change it at any time.
    `too_large`: a frame header announced more. Reading has stopped, sending goes on until `close(1009)`.
    `finished`: `data_to_send()` returns the last bytes: then half-close the transport, or close it.
    `status`: of the HTTP response, sent or received; None without one.
    `open`: messages can be framed: the handshake succeeded, and no close frame was sent.
    `failure`: why the opening handshake failed; None unless it did.
    `pending`: received bytes of an incomplete message or frame; 0 for none.
    `controls`: control frames and small pieces so far; the owner may reset it. `most_controls` returns how
    many are allowed: the frames after one more are dropped.
    """

    __slots__ = (
        "_buffer",
        "_connecting",
        "_discarding",
        "_fragments",
        "_head_read",
        "_head_size",
        "_head_tail",
        "_mask_bit",
        "_mask_size",
        "_outgoing",
        "_pongs",
        "_protocol",
        "_side",
        "_wanted",
        "controls",
        "failure",
        "finished",
        "limit",
        "most_controls",
        "open",
        "pending",
        "status",
        "too_large",
    )

    def __init__(self, protocol: ServerProtocol | ClientProtocol, *, limit: int) -> None:
        self.limit = limit
        self.open = False
        self.controls = 0
        self.pending = 0
        self.most_controls: Callable[[], int] = _any_number
        self.too_large = False
        self.finished = False
        self.status: int | None = None
        self.failure: str | None = None
        self._side = protocol.side
        self._protocol: Protocol | None = protocol
        """The library's protocol: first for the handshake, then for frames that are not text messages."""
        self._mask_bit, self._mask_size = (_MASKED, 4) if protocol.side is Side.SERVER else (0, 0)
        self._connecting = True
        self._head_read = False
        self._head_size = 0
        self._head_tail = b""
        self._buffer = bytearray()
        self._wanted = 0
        self._fragments: bytearray | None = None
        self._discarding = False
        self._outgoing: list[bytes] = []
        self._pongs: list[bytes] = []

    @property
    def closed(self) -> bool:
        """Whether the peer's end of stream was received."""
        return self._protocol is not None and self._protocol.state is State.CLOSED

    @property
    def close_expected(self) -> bool:
        """Whether the peer should soon end the stream. Give it a moment, then close the transport."""
        return self._protocol is not None and self._protocol.close_expected()

    @property
    def close_code(self) -> int | None:
        """The code of the first close frame, the peer's or ours; None before one.

        1005: the peer gave no code; 1006: the stream ended without a close frame.
        """
        close = self._close_sent
        if close is not None:
            return int(close.code)
        return 1006 if self.closed else None

    @property
    def close_reason(self) -> str:
        """The text beside `close_code`, often empty; the peer's text is not trusted."""
        close = self._close_sent
        return "" if close is None else close.reason

    @property
    def closed_by_peer(self) -> bool:
        """Whether the first close frame was the peer's; ours then repeats its code."""
        protocol = self._protocol
        if protocol is None or protocol.close_rcvd_then_sent is not True:
            return False
        return protocol.close_rcvd == protocol.close_sent

    def receive(self, data: bytes | bytearray) -> list[bytes]:
        """Take bytes, split anywhere; return the messages they complete, text (UTF-8 unchecked) or binary.

        Never raises. After an error, `too_large`, the peer's close frame or its end, bytes are dropped.
        """
        messages: list[bytes] = []
        data = bytes(data)
        if self._connecting and not self._discarding:
            data = self._shake_hands(data)
        if self._discarding or not data:
            return messages
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                self.pending += len(data)
                if self.pending > HELD and not self.open:
                    self._discard()  # We have closed, and the message is not needed.
                return messages
            data = bytes(self._buffer)
            self._buffer.clear()
        taken = self._split(data, messages)
        if taken < len(data):
            self._buffer += data[taken:]
            self.pending = len(self._buffer)
        else:
            self.pending = 0
        if self._fragments is not None:
            self.pending += max(len(self._fragments), 1)
        return messages

    def receive_eof(self) -> None:
        """Note that the transport ended, in order or not. May be repeated."""
        if not self.closed:
            self._library().receive_eof()
            if self._connecting:
                self._note_handshake()
            self._collect()
            self._discard()

    @abstractmethod
    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return frames of text messages (UTF-8), joined. Raises LocalProtocolError unless `open`."""

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame, once; during the opening handshake, give the connection up.

        The reason is truncated to `CLOSE_REASON_BYTES`. After `too_large`, too many control frames, or in the
        midst of a large message, no answer is awaited (RFC 6455, 7.1.7).
        """
        if self._connecting:
            self.failure = self.failure or "closed before the opening handshake was over"
            self.finished = True
            self._outgoing.clear()
            self._discard()
        elif self.open:
            text = reason.encode(errors="replace")[:CLOSE_REASON_BYTES].decode(errors="ignore")
            if self.pending > HELD:
                self._discard()  # The rest would be held until an answer comes behind it.
            if self._discarding:  # No answer is awaited, which would not be read.
                self._library().fail(code, text)
            else:
                self._library().send_close(code, text)
            self._collect()

    def data_to_send(self) -> bytes:
        """Return the bytes of the protocol itself: handshake, pongs, close.

        Send them before frames made later. They may wait while the transport takes nothing: beyond the
        handshake, less than 5 KiB are held.
        """
        if not (self._outgoing or self._pongs):
            return b""
        data = b"".join((*self._outgoing, *self._pongs))
        self._outgoing.clear()
        self._pongs.clear()
        return data

    @property
    def _close_sent(self) -> Close | None:
        return None if self._protocol is None else self._protocol.close_sent

    def _library(self) -> Protocol:
        """Return the library's protocol.

        No extension is ever negotiated, so a new object can continue any connection.
        """
        if self._protocol is None:
            self._protocol = Protocol(self._side, max_size=None, logger=_SILENT)
        return self._protocol

    def _check_open(self) -> None:
        if not self.open:
            raise LocalProtocolError("the WebSocket is not open")

    @abstractmethod
    def _read_head(self, head: _Event) -> None:
        """Read the peer's half of the opening handshake, and answer it if it is a request."""

    def _shake_hands(self, data: bytes) -> bytes:
        """Give the library the HTTP head and return the bytes after it, which it would otherwise read too."""
        seen = self._head_tail + data
        end, in_head = seen.find(_HEAD_END), not self._head_read
        if self._head_read or end < 0:
            # Once the head is over and we still connect, this is the body of a response that refuses us.
            size = len(data)
        else:
            size = end + len(_HEAD_END) - len(self._head_tail)
            self._head_read = True
        if in_head:
            self._head_size += size
            if self._head_size > HEAD_BYTES:
                self._refuse_head()
                return b""
        self._head_tail = seen[-2:]
        self._library().receive_data(data[:size])
        self._note_handshake()
        rest = data[size:]
        return self._shake_hands(rest) if rest and self._connecting else rest

    def _note_handshake(self) -> None:
        protocol = self._library()
        for event in protocol.events_received():
            self._read_head(event)
        self._collect()
        error = protocol.handshake_exc
        if error is not None and self.failure is None:
            self.failure = str(error)
        if self.failure is not None:
            self._discard()
        elif self.open:
            self._connecting = False
            self._protocol = None  # It would keep the request, with its headers.

    def _split(self, data: bytes, messages: list[bytes]) -> int:
        """Take the complete frames that `data` begins with; return their size in bytes.

        Each frame is checked as the library does it, in its order: opcode, mask, length, all at the header.
        """
        size, mask_bit, mask_size = len(data), self._mask_bit, self._mask_size
        direct, limit = self._prospect()
        self._wanted = 2
        at = 0
        while size - at >= 2:
            first = data[at]
            length = data[at + 1] ^ mask_bit  # over 127: masked where it must not be, or not where it must
            whole_text = direct and first == _WHOLE_TEXT
            if length > 127 or not (whole_text or first & 0x0F in _OPCODES):
                self._hand_over(data[at : at + 2], messages)
                return size
            start = at + 2
            if length > 125:
                extended = _LENGTH_16 if length == 126 else _LENGTH_64
                start += extended.size
                if start > size:
                    self._wanted = start - at
                    break
                (length,) = extended.unpack_from(data, at + 2)
            if length > limit:
                self._refuse_frame()
                return size
            start += mask_size
            end = start + length
            if end > size:
                self._wanted = end - at
                break
            if not whole_text:
                self._hand_over(data[at:end], messages)
                if self._discarding:
                    return size
                direct, limit = self._prospect()
            elif mask_size:
                messages.append(apply_mask(data[start:end], data[start - 4 : start]))
            else:
                messages.append(data[start:end])
            at = end
        return at

    def _prospect(self) -> tuple[bool, int]:
        """Return whether a complete text frame, if that is next, needs no library, and the limit of any
        next frame.

        The library, too, counts control frames among fragments.
        """
        if self._fragments is not None:
            return False, self.limit - len(self._fragments)
        return self.open, self.limit

    def _hand_over(self, frame: bytes, messages: list[bytes]) -> None:
        """Give the library a complete frame, or the header of one that it will not read."""
        first = frame[0]
        if first & 0x08 or (first < _MASKED and len(frame) < SMALL_PIECE):
            self.controls += 1
            if self.controls > self.most_controls():
                self._discard()
                return
        protocol = self._library()
        protocol.receive_data(frame)
        for event in protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._merge(event, messages)
        if protocol.close_rcvd is not None or protocol.parser_exc is not None:
            self._collect()
            self._discard()
        elif frame[0] & 0x0F == Opcode.PING:
            self._pongs += protocol.data_to_send()
            del self._pongs[:-PONGS_HELD]

    def _merge(self, frame: Frame, messages: list[bytes]) -> None:
        if self._fragments is None and frame.fin:
            messages.append(bytes(frame.data))
            return
        if self._fragments is None:
            self._fragments = bytearray()
        self._fragments += frame.data
        if frame.fin:
            messages.append(bytes(self._fragments))
            self._fragments = None

    def _refuse_head(self) -> None:
        """Give up an opening handshake whose head is too large, before it is read."""
        self.failure = f"the head of the opening handshake is larger than {HEAD_BYTES} bytes"
        self.finished = True
        self._discard()

    def _refuse_frame(self) -> None:
        """Refuse a frame that is too large.

        The library would close at once; here the owner can give a reason.
        """
        if self.open:
            self.too_large = True
        else:
            self._library().fail(CloseCode.MESSAGE_TOO_BIG)
            self._collect()
        self._discard()

    def _discard(self) -> None:
        self._discarding = True
        self.pending = 0
        self._fragments = None
        self._buffer.clear()

    def _collect(self) -> None:
        protocol = self._library()
        self.open = protocol.state is _OPEN
        for chunk in protocol.data_to_send():
            if chunk:
                self._outgoing += (*self._pongs, chunk)
                self._pongs.clear()
            else:
                self.finished = True


class ServerCodec(WebSocketCodec):
    """The listening side: masked frames in, unmasked out, no extension.

    `target` is the path and query of the request, None before it. A query may hold secrets.
    """

    __slots__ = ("_admission", "target")

    def __init__(self, admission: Admission, *, limit: int) -> None:
        super().__init__(admission.protocol(_SILENT), limit=limit)
        self._admission = admission
        self.target: str | None = None

    def frame(self, messages: Sequence[bytes]) -> bytes:
        self._check_open()
        parts: list[bytes] = []
        for message in messages:
            size = len(message)
            parts.append(_TEXT_HEADERS[size] if size < 4096 else _text_header(size))
            parts.append(message)
        return b"".join(parts)

    def _refuse_head(self) -> None:
        super()._refuse_head()
        self.status = 431
        self._outgoing.append(_HEAD_TOO_LARGE)

    def _read_head(self, head: _Event) -> None:
        server = self._library()
        if isinstance(head, Request) and isinstance(server, ServerProtocol):
            self.target = head.path
            response = self._admission.answer(server, head)
            server.send_response(response)
            self.status = response.status_code
            if self.status != 101:
                self.failure = f"the request was refused with HTTP {self.status}"

    @classmethod
    def opened(cls, *, limit: int) -> Self:
        """Return a codec for a connection whose opening handshake is over, answered by another process."""
        codec = cls(Admission(), limit=limit)
        codec._connecting, codec._protocol, codec.open = False, None, True
        return codec


class TappedCodec(ServerCodec):
    """A listening side that keeps the bytes behind the opening handshake, for another process to read again.

    More than `MAX_TAPPED` bytes are not kept: `tap` is None then, as after `untap`.
    """

    __slots__ = ("tap",)

    def __init__(self, admission: Admission, *, limit: int) -> None:
        super().__init__(admission, limit=limit)
        self.tap: bytearray | None = bytearray()

    def receive(self, data: bytes | bytearray) -> list[bytes]:
        if not self._connecting:
            self._keep(data)
        return super().receive(data)

    def untap(self) -> bytes | None:
        """Return the bytes so far, or None if they were too many, and keep no more."""
        tap, self.tap = self.tap, None
        return None if tap is None else bytes(tap)

    def _shake_hands(self, data: bytes) -> bytes:
        behind = super()._shake_hands(data)
        self._keep(behind)
        return behind

    def _keep(self, data: bytes | bytearray) -> None:
        if self.tap is not None:
            self.tap += data
            if len(self.tap) > MAX_TAPPED:
                self.tap = None


class ClientCodec(WebSocketCodec):
    """The connecting side: its request waits in `data_to_send()`; unmasked frames in, masked out.

    `host`, `port` and `secure` say where to connect, from the URI. `random_bytes` is called like os.urandom
    and must be as hard to predict (RFC 6455, 10.3). Raises ValueError when `uri` is not ws:// or wss://.
    """

    __slots__ = ("_random_bytes", "host", "port", "secure")

    def __init__(
        self,
        uri: str,
        *,
        limit: int,
        origin: str | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        try:
            address = parse_uri(uri)
        except InvalidURI as error:
            raise ValueError(f"not a WebSocket URI: {error.msg}") from None
        client = ClientProtocol(
            address, origin=None if origin is None else Origin(origin), max_size=None, logger=_SILENT
        )
        super().__init__(client, limit=limit)
        self.host, self.port, self.secure = address.host, address.port, address.secure
        self._random_bytes = random_bytes
        client.send_request(client.connect())
        self._collect()

    def frame(self, messages: Sequence[bytes]) -> bytes:
        self._check_open()
        keys = self._random_bytes(4 * len(messages))
        parts: list[bytes] = []
        for number, message in enumerate(messages):
            key = keys[4 * number : 4 * number + 4]
            parts += (_text_header(len(message), _MASKED), key, apply_mask(message, key))
        return b"".join(parts)

    def _read_head(self, head: _Event) -> None:
        if isinstance(head, Response):
            self.status = head.status_code


def _any_number() -> int:
    return sys.maxsize


def _text_header(size: int, masked: int = 0) -> bytes:
    if size < 126:
        return struct.pack(">BB", _WHOLE_TEXT, masked | size)
    if size < 65536:
        return struct.pack(">BBH", _WHOLE_TEXT, masked | 126, size)
    return struct.pack(">BBQ", _WHOLE_TEXT, masked | 127, size)


_TEXT_HEADERS: Final = tuple(map(_text_header, range(4096)))
