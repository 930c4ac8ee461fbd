"""Bytes and JSON: the only module that converts between them.

Every error is an `Unreadable` (for data of a peer) or a `LocalProtocolError` (for data of our own side), at
any depth of the caller's stack.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import accumulate
from operator import itemgetter
from typing import Annotated, Any, Final, Generic, NewType, Protocol, TypeVar, cast

import msgspec

from arcp_proto.errors import LocalProtocolError, Unreadable, ensure
from arcp_proto.ids import JobId, SessionId
from arcp_proto.limits import KIB, MAX_CONTAINERS, MAX_DEPTH, MAX_ID_LENGTH

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number of events, bytes or seconds that peers can hold."""

OpenObject = NewType("OpenObject", bytes)
"""A JSON object without its last brace: fields may be added behind it, and the brace."""

VERSION: Final = "1.1"
HEAD_BYTES: Final = 320
"""More bytes than the longest envelope without `extensions` has around its payload."""

NOT_TEXT: Final = "the message is not UTF-8"
TOO_DEEP: Final = f"the message nests deeper than {MAX_DEPTH}, or its brackets do not match"
TOO_MANY: Final = f"the message holds more than {MAX_CONTAINERS} objects and lists"
NO_OBJECT: Final = "the message is not a JSON object that can be held"
"""Reasons why a message is unreadable. They name nothing of its content, since a recording replaces it."""

_ACCEPTED_VERSION: Final = re.compile(r"1(\.\d{1,9})?\Z")
_MAX_VERSION_LENGTH: Final = 16
_PIECE: Final = 64 * KIB
"""Bytes that are split at their quotes at once, so that this takes little memory."""
_STEPS: Final = bytes.maketrans(b"{}[]", b"\x01\xff\x01\xff")
"""The change of depth by each bracket, as a signed byte."""
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ONE_DIGIT: Final = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBER: Final = b"0" * 300
"""Digits, as `_ONE_DIGIT` leaves them; a number with fewer and no exponent is in the range of all numbers."""
_SHORT: Final = 512
"""Bytes of JSON in which no number can take long to decode."""
_HEADROOM: Final = 4 * MAX_DEPTH
_EMPTY: Final = msgspec.Raw(b"{}")
_TEXT: Final = frozenset((str,))
_LEAVES: Final = frozenset((str, int, bool, type(None)))
"""Types whose values hold no others and can be written as JSON, except surrogates and large integers."""


class Envelope(msgspec.Struct, gc=False):
    """One envelope as it was read (§5); `id` is empty when it was missing, `payload` is still JSON.

    Session and job ids that are longer than any id may be are dropped.
    """

    type: str
    id: str = ""
    arcp: str = VERSION
    session_id: str | None = None
    job_id: str | None = None
    trace_id: str | None = None
    event_seq: Count | None = None
    extensions: dict[str, Any] | None = None
    payload: msgspec.Raw = _EMPTY

    @property
    def supported(self) -> bool:
        """Whether the major version of the envelope is ours."""
        return _ACCEPTED_VERSION.match(self.arcp) is not None


class _LooseEnvelope(msgspec.Struct):
    """The fields of an envelope with any types: each is checked separately."""

    type: Any = None
    id: Any = None
    arcp: Any = None
    session_id: Any = None
    job_id: Any = None
    trace_id: Any = None
    event_seq: Any = None
    extensions: Any = None
    payload: msgspec.Raw = _EMPTY


def decoder_of(shape: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """Return a decoder for `decode_payload`, for messages of exactly this shape.

    msgspec takes 10 us for a float near the end of the range, 2 us a byte: longer messages with exponents are
    given to a decoder that lets `float` read each number, at a constant cost.
    """
    return Decoders(shape).either


class Decoders(Generic[T]):
    """Decoders for messages of exactly one shape; they raise ValueError or RecursionError for any other.

    Nothing but the shape is checked: neither unknown fields, nor the depth of fields of any type. Messages
    that are not short are first tried as the shape `without_floats`, if there is one.
    """

    def __init__(self, shape: type[T], without_floats: type[T] | None = None) -> None:
        self.short: Callable[[bytes | msgspec.Raw], T] = msgspec.json.Decoder(shape).decode
        """The decoder for messages that are short or have no exponents."""
        self.evenly: Callable[[bytes | msgspec.Raw], T] = msgspec.json.Decoder(
            shape, float_hook=_float
        ).decode
        """The decoder for messages with exponents; as fast as the other where a shape has no floats."""
        self._without_floats = None if without_floats is None else msgspec.json.Decoder(without_floats).decode

    def either(self, data: bytes | msgspec.Raw) -> T:
        """Decode one message of any length."""
        if len(data) > _SHORT and has_exponents(bytes(data)):
            return self.evenly(data)
        return self.short(data)

    def suited_to(self, messages: Iterable[bytes]) -> Callable[[bytes], T]:
        """Return a decoder for all these messages; the fastest one if all are short."""
        if max(map(len, messages), default=0) <= _SHORT:
            return self.short
        return self.either if self._without_floats is None else self._long

    def _long(self, data: bytes) -> T:
        if len(data) > _SHORT and self._without_floats is not None:
            try:
                return self._without_floats(data)
            except ValueError:
                pass  # It fails at the first float.
        return self.either(data)


def has_exponents(data: bytes) -> bool:
    """Return whether a number of this JSON text may have an exponent; strings may give a false True."""
    return b"0e" in data.translate(_ONE_DIGIT)


def may_overflow(data: bytes) -> bool:
    """Return whether a number of this JSON text may be beyond the range of numbers; False for most texts."""
    digits = data.translate(_ONE_DIGIT)
    return b"0e" in digits or _LONG_NUMBER in digits


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("Number out of range")
    return number


_decode_exact: Final = Decoders(Envelope).evenly
_decode_loose: Final = decoder_of(_LooseEnvelope)
_any: Final[Decoders[Any]] = Decoders(object)
_decode_any: Final = _any.either
decode_short: Final = _any.short
"""Return a JSON value of at most 512 bytes; raises ValueError or RecursionError for invalid JSON."""
_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


def decode_envelope(data: bytes) -> Envelope:
    """Return one message as an envelope; raises Unreadable if it does not hold one (§12)."""
    if len(data) > MAX_CONTAINERS and holds_too_many(data):
        raise Unreadable(TOO_MANY)
    _check_text(data)
    try:
        envelope = _decode_exact(data)
    except (ValueError, RecursionError):
        envelope = _loose(_read(_decode_loose, data))
    if not envelope.type:
        raise Unreadable("the envelope has no type")
    if len(envelope.id) > MAX_ID_LENGTH:
        raise Unreadable(f"the envelope's id is longer than {MAX_ID_LENGTH} characters")
    if len(envelope.arcp) > _MAX_VERSION_LENGTH:
        envelope.arcp = envelope.arcp[:_MAX_VERSION_LENGTH]
    if envelope.session_id is not None:
        envelope.session_id = _name(envelope.session_id)
    if envelope.job_id is not None:
        envelope.job_id = _name(envelope.job_id)
    return envelope


def decode_payload(payload: msgspec.Raw, decode: Callable[[bytes | msgspec.Raw], T]) -> T | None:
    """Return the payload by an exact decoder, or None when it deviates and has to be read leniently."""
    try:
        return decode(payload)
    except (ValueError, RecursionError):
        return None


def decode_value(data: bytes | msgspec.Raw) -> Any:
    """Return any JSON value; raises Unreadable for invalid JSON and for values beyond the limits.

    A payload has been checked with its envelope; bytes from elsewhere are checked here.
    """
    if isinstance(data, bytes):
        _check_text(data)
    return _read(_decode_any, data)


def decode_checked(data: bytes, *, evenly: bool) -> Any:
    """Return a JSON value that was checked before; `evenly` if its numbers may have exponents."""
    decode = _any.evenly if evenly else _any.short
    try:
        return decode(data)
    except RecursionError:
        return with_headroom(decode, data)


def decode_fields(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Return the fields of a JSON object, each as JSON text; raises Unreadable for anything else."""
    if isinstance(data, bytes):
        _check_text(data)
    return _read(_decode_fields, data)


def decode_items(data: msgspec.Raw) -> list[msgspec.Raw]:
    """Return the items of a JSON array, each as JSON text; raises Unreadable for anything else."""
    return _read(_decode_items, data)


def check_depth(data: bytes) -> bool:
    """Return whether JSON text nests at most MAX_DEPTH deep, in one pass over its brackets.

    A text with too few brackets for that needs no pass. False for brackets that are not closed.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return True
    outside, _ = outside_strings(data)
    steps = array("b", outside.translate(_STEPS, _NOT_BRACKETS))
    return 2 * steps.count(1) == len(steps) and max(accumulate(steps), default=0) <= MAX_DEPTH


def holds_too_many(data: bytes) -> bool:
    """Return whether JSON text holds more than MAX_CONTAINERS objects and lists."""
    if data.count(b"[") + data.count(b"{") <= MAX_CONTAINERS:
        return False
    outside, _ = outside_strings(data)
    return outside.count(b"[") + outside.count(b"{") > MAX_CONTAINERS


def outside_strings(data: bytes) -> tuple[bytes, int]:
    """Return JSON text without its strings, and the number of their quotes.

    A text that is not JSON loses the parts between its quotes, up to the place where a decoder refuses it.
    """
    if b"\\" in data:  # Each remaining quote begins or ends a string.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if len(data) <= _PIECE:
        parts = data.split(b'"')
        return b"".join(parts[::2]), len(parts) - 1
    quotes, outside = 0, []
    for start in range(0, len(data), _PIECE):
        parts = data[start : start + _PIECE].split(b'"')
        outside.append(b"".join(parts[quotes % 2 :: 2]))
        quotes += len(parts) - 1
    return b"".join(outside), quotes


def encode_value(value: object) -> bytes:
    """Return a value of our own side as JSON, after checking it.

    Raises LocalProtocolError if JSON cannot hold it.
    """
    check_value(value)
    return encode_checked(value)


def encode_checked(value: object) -> bytes:
    """Return a message or a value that holds only checked values as JSON; raises LocalProtocolError."""
    try:
        return _encode(value)
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError, OverflowError):
        return _encode_or_explain(value)


opened: Final[Callable[[bytes], OpenObject]] = itemgetter(slice(-1))
"""Return a JSON object without its last brace."""


def decode_open(data: OpenObject) -> Any:
    """Return the value of an open object."""
    return decode_value(data + b"}")


def compact(data: bytes) -> bytes:
    """Return bytes without the spare memory that msgspec leaves behind them: up to half of the encoded
    size.
    """
    return bytes(memoryview(data))


def _encode_or_explain(value: object) -> bytes:
    try:
        return with_headroom(_encode, value)
    except UnicodeEncodeError:
        raise LocalProtocolError("a string holds a lone surrogate, which is not text") from None
    except RecursionError:
        raise LocalProtocolError("the value is nested too deeply, or contains itself") from None
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"this cannot be written as JSON: {error}") from None


def check_value(value: object, *, around: int = 2) -> None:
    """Raise LocalProtocolError unless `value` is JSON: str keys, finite numbers, nested not too deeply.

    `around` is the number of objects that will enclose it: an envelope and its payload, or more.
    """
    if type(value) in _LEAVES or (type(value) is dict and _is_flat(value)):
        return
    deepest = MAX_DEPTH - around
    open_containers: list[Iterator[object]] = [iter((value,))]
    while open_containers:
        for item in open_containers[-1]:
            children = _children(item)
            if children is not None:
                if len(open_containers) > deepest:
                    raise LocalProtocolError(f"the value nests deeper than {deepest}, or contains itself")
                open_containers.append(children)
                break
        else:
            open_containers.pop()


def decimal_json(amount: Decimal) -> msgspec.Raw:
    """Return the shortest JSON number that is exactly `amount`, without an exponent: 5, 0.5, -0.12."""
    ensure(amount.is_finite(), "an amount is not a finite number")
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return msgspec.Raw(b"0" if text == "-0" else text.encode())


def control_envelope(
    message_id: str,
    message_type: str,
    payload: bytes,
    *,
    session_id: SessionId | None = None,
    job_id: JobId | None = None,
    trace_id: str | None = None,
    extensions: bytes | None = None,
) -> bytes:
    """Return an envelope without a number; `payload` and `extensions` are JSON objects.

    `trace_id` is checked; the other ids may be the peer's, and hold any characters.
    """
    head = b'{"arcp":"1.1","id":%b,"type":"%b"' % (_encode(message_id), message_type.encode())
    if session_id is not None:
        head += b',"session_id":' + _encode(session_id)
    if job_id is not None:
        head += b',"job_id":' + _encode(job_id)
    if trace_id is not None:
        head += b',"trace_id":"%b"' % trace_id.encode()
    if extensions is not None:
        head += b',"extensions":' + extensions
    return b'%b,"payload":%b}' % (head, payload)


def event_head(
    message_type: str, job_id: JobId, trace_id: str | None, extensions: bytes | None = None
) -> bytes:
    """Return the common beginning of all numbered envelopes of one type of a job: a template for
    `event_envelope`.
    """
    head = b'{"arcp":"1.1","id":"%%b%%010d","type":"%b","session_id":"%%b","job_id":"%b"' % (
        message_type.encode(),
        job_id.encode().replace(b"%", b"%%"),
    )
    if trace_id is not None:
        head += b',"trace_id":"%b"' % trace_id.encode()
    head += b',"event_seq":%d'
    if extensions is not None:
        head += b',"extensions":' + extensions.replace(b"%", b"%%")
    return head + b',"payload":%b'


def closed_head(head: bytes) -> bytes:
    """Return a head with the end of the envelope, in the form of releases before positions."""
    return head + END


def open_head(head: bytes) -> bytes:
    """Return a head without the end that releases before positions wrote after the payload."""
    return head[: head.rindex(b"%b") + 2]


class EventOpening(Protocol):
    """The bytes before the body in the payload of a `job.event`; a body behind them makes the payload."""

    def __add__(self, body: bytes, /) -> OpenObject:
        """Return the payload without its last brace."""
        ...

    def __buffer__(self, flags: int, /) -> memoryview:
        """Return the bytes themselves, to compare with a payload that begins with them."""
        ...


def open_event(kind: str, ts: str, body: bytes) -> OpenObject:
    """Return the payload of a `job.event` without its last brace: a session may add to it (§7.6, §8.1)."""
    return event_opening(kind, ts) + body


def kind_opening(kind: str) -> bytes:
    """Return the first bytes of the payloads of all events of a kind."""
    return b'{"kind":%b,' % encode_checked(kind)


def event_opening(kind: str, ts: str) -> EventOpening:
    """Return the part before the body in the payload of a `job.event`."""
    return cast(EventOpening, b'{"kind":"%b","ts":"%b","body":' % (kind.encode(), ts.encode()))


END: Final = b"}}"
"""The braces that end the payload of a numbered envelope and the envelope."""
JOB_SEQ: Final = b',"job_seq":'


def left_alone(payload: OpenObject, position: int) -> OpenObject:
    """Return the payload of a terminal at a position, in front of which the history of its job is gone."""
    return OpenObject(b'%b,"history_from_job_seq":%d' % (payload, position))


def event_tail(position: int) -> bytes:
    """Return the end of a numbered envelope with a position in its payload; without one for 0."""
    return b"%b%d}}" % (JOB_SEQ, position) if position else END


def event_envelope(
    head: bytes, id_prefix: bytes, session_id: bytes, seq: int, payload: OpenObject, tail: bytes = END
) -> bytes:
    """Return a numbered envelope."""
    return head % (id_prefix, seq, session_id, seq, payload) + tail


def _loose(fields: _LooseEnvelope) -> Envelope:
    return Envelope(
        type=_text(fields.type) or "",
        id=_text(fields.id) or "",
        arcp=_version(fields.arcp),
        session_id=_text(fields.session_id),
        job_id=_text(fields.job_id),
        trace_id=_text(fields.trace_id),
        event_seq=_count(fields.event_seq),
        extensions=fields.extensions if isinstance(fields.extensions, dict) else None,
        payload=fields.payload,
    )


def whole_number(value: object) -> int | None:
    """Return a number that a peer may have written as 5, 5.0 or "5"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit():
        return int(value)
    return None


def _version(value: object) -> str:
    if value is None:
        return VERSION
    return str(value) if isinstance(value, str | int | float) else ""


def _count(value: object) -> int | None:
    number = whole_number(value)
    return number if number is not None and 0 <= number < 2**63 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _name(value: str) -> str | None:
    return value if len(value) <= MAX_ID_LENGTH else None


def _check_text(data: bytes) -> None:
    if not _is_text(data):
        raise Unreadable(NOT_TEXT)
    if not check_depth(data):
        raise Unreadable(TOO_DEEP)


def _is_text(data: bytes) -> bool:
    """Return whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read(decode: Callable[[Any], T], data: bytes | msgspec.Raw) -> T:
    """Decode with a decoder of msgspec; raise Unreadable for each of its errors.

    Our own check finds the reason, because the exception class for bytes that are not UTF-8 differs between
    releases of msgspec.
    """
    try:
        return with_headroom(decode, data)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        raise Unreadable(NO_OBJECT if _is_text(bytes(data)) else NOT_TEXT) from None


def with_headroom(call: Callable[[Any], T], argument: object) -> T:
    """Call C code that recurses at most MAX_DEPTH deep, even if the caller's stack is nearly full."""
    try:
        return call(argument)
    except RecursionError:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _HEADROOM)
        try:
            return call(argument)
        finally:
            sys.setrecursionlimit(limit)


def _is_flat(fields: dict[Any, Any]) -> bool:
    """Return whether an object holds only values that hold no others."""
    return {*map(type, fields)} <= _TEXT and {*map(type, fields.values())} <= _LEAVES


def _children(item: object) -> Iterator[object] | None:
    """Return an iterator over a container's values, None for other values.

    Raises LocalProtocolError for a value that JSON cannot hold.
    """
    if item is None or isinstance(item, str | int):
        return None
    if isinstance(item, float):
        if not math.isfinite(item):
            raise LocalProtocolError("a number is not finite, and JSON cannot represent it")
        return None
    if isinstance(item, Mapping):
        for key in item:
            if not isinstance(key, str):
                raise LocalProtocolError(f"a key of an object is a {type(key).__name__}, not a string")
        return iter(item.values())
    if isinstance(item, list | tuple):
        return iter(item)
    raise LocalProtocolError(f"a {type(item).__name__} is not a JSON value")
