"""Results in pieces: cut and written by the runtime, checked and joined by the client (§8.4)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from arcp_proto.errors import LocalProtocolError

from . import codec
from .event_bodies import ResultChunk

BODY_BYTES: Final = 200
"""More bytes than a chunk's JSON without its data, for a `result_id` of at most 64 plain characters."""
JSON_TYPE: Final = "application/json"
"""The content type of chunks that are the JSON text of a returned value."""

_JSON_FIELD: Final = b',"content_type":"%b"' % JSON_TYPE.encode()
_LEAST_CHUNK: Final = 4
_LEAST_FRAME: Final = BODY_BYTES + 6
"""Least bytes of a frame; the widest character has four bytes in UTF-8, six as an escape."""
_WHOLE_ESCAPES: Final = re.compile(rb"(?:[^\\]++|\\u.{4}|\\[^u])*+", re.DOTALL)


class ChunkError(Exception):
    """The peer's chunks do not form the expected result (§8.4). The data before them are kept."""


def encode_chunk(result_id: str, chunk_seq: int, data: str | bytes, *, more: bool) -> bytes:
    """Return the body of a `result_chunk` as JSON: text as utf8, bytes as base64; raises
    LocalProtocolError.
    """
    if isinstance(data, str):
        return _body(result_id, chunk_seq, codec.encode_checked(data), b"utf8", more=more)
    return _body(result_id, chunk_seq, _as_base64(data), b"base64", more=more)


def encode_chunks(
    result_id: str, chunk_seq: int, data: str | bytes, *, chunk: int, frame: int
) -> Iterator[bytes]:
    """Yield the bodies of the pieces of `data`, numbered from `chunk_seq`; none is the last of its result."""
    room = _room(chunk, frame)
    if isinstance(data, str):
        for number, (_, encoded, _) in enumerate(_cut_text(data, chunk, room), chunk_seq):
            yield _body(result_id, number, encoded, b"utf8", more=True)
    else:
        for number, (piece, _) in enumerate(_cut_bytes(data, min(chunk, room // 4 * 3)), chunk_seq):
            yield _body(result_id, number, _as_base64(piece), b"base64", more=True)


def encode_whole(result_id: str, text: str, chunk: int, frame: int) -> Iterator[bytes]:
    """Yield the bodies of the chunks of the JSON text of a returned value.

    The first has the `content_type` of JSON, and only the last says that no more follow.
    """
    for number, (_, encoded, more) in enumerate(_cut_text(text, chunk, _room(chunk, frame))):
        yield _body(result_id, number, encoded, b"utf8", more=more, json=number == 0)


def cut(data: str | bytes, *, chunk: int, frame: int) -> Iterator[tuple[str | bytes, bool]]:
    """Return the pieces of `data`, each with whether more follow; one empty piece for empty data.

    A piece has at most `chunk` decoded bytes, and its body, as `encode_chunk` writes it, at most `frame`.
    Text is cut between characters. Raises LocalProtocolError for text with a lone surrogate, at its piece,
    and at once for bounds that are too small for a single character.
    """
    room = _room(chunk, frame)
    if isinstance(data, str):
        return ((piece, more) for piece, _, more in _cut_text(data, chunk, room))
    return _cut_bytes(data, min(chunk, room // 4 * 3))


class ChunkReader:
    """Reads the chunks of one result in order and checks their number, name, size and end (§8.4).

    It stores none of them, so a result of any size is read in constant memory.
    """

    __slots__ = ("binary", "content_type", "due", "ended", "limit", "result_id", "size")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        """Decoded bytes of the whole result; None: no limit."""
        self.due = 0
        """The number of the next chunk."""
        self.size = 0
        """Decoded bytes read so far."""
        self.result_id: str | None = None
        self.content_type: str | None = None
        """`application/json` for the JSON text of a returned value; None for a stream, or if unknown."""
        self.binary = False
        """Whether a chunk was sent as base64, so that the result is bytes."""
        self.ended = False
        """Whether the last chunk was read."""

    def read(self, chunk: ResultChunk) -> bytes:
        """Return the decoded data of the next chunk; raises ChunkError for a chunk out of order.

        A refused chunk changes nothing.
        """
        if self.result_id not in (None, chunk.result_id):
            raise ChunkError(f"a chunk of {chunk.result_id!r} came in the result {self.result_id!r}")
        if self.ended:
            raise ChunkError(f"chunk {chunk.chunk_seq} came after the last one")
        if chunk.chunk_seq != self.due:
            raise ChunkError(f"chunk {chunk.chunk_seq} came where {self.due} was due")
        data = _decode(chunk)
        if self.limit is not None and self.size + len(data) > self.limit:
            raise ChunkError(f"the result is larger than {self.limit} bytes")
        self.size += len(data)
        self.due += 1
        self.result_id = chunk.result_id
        self.content_type = self.content_type or chunk.content_type
        self.binary = self.binary or chunk.encoding == "base64"
        self.ended = not chunk.more
        return data

    def finish(self, result_id: str | None, result_size: int | None) -> None:
        """Check the end against the fields of `job.result`; raises ChunkError if they do not match.

        `result_size` is in decoded bytes. Both are None if the peer did not send them.
        """
        if not self.ended:
            raise ChunkError(f"the result ended after {self.due} chunks, without the last one")
        if result_id not in (None, self.result_id):
            raise ChunkError(f"the job names the result {result_id!r}, its chunks {self.result_id!r}")
        if result_size is not None and result_size != self.size:
            raise ChunkError(f"the result has {self.size} bytes, the job says {result_size}")


class Assembler:
    """Joins the chunks of one result and never holds more than `limit` decoded bytes (§8.4)."""

    __slots__ = ("_data", "reader")

    def __init__(self, limit: int) -> None:
        self.reader = ChunkReader(limit)
        self._data = bytearray()

    @property
    def size(self) -> int:
        """Number of decoded bytes held."""
        return len(self._data)

    @property
    def joined(self) -> str | bytes:
        """The data so far: text if every chunk was utf8, otherwise bytes."""
        return bytes(self._data) if self.reader.binary else self._data.decode()

    def add(self, chunk: ResultChunk) -> None:
        """Take the next chunk; raises ChunkError for a chunk out of order."""
        self._data += self.reader.read(chunk)

    def finish(self, result_id: str | None, result_size: int | None) -> str | bytes:
        """Return the result that `job.result` names: text if every chunk was utf8, otherwise bytes.

        `result_size` is in decoded bytes, None if the peer did not send it. Raises ChunkError.
        """
        self.reader.finish(result_id, result_size)
        return self.joined


def read_chunk(body: Mapping[str, Any]) -> ResultChunk:
    """Return the body of a `result_chunk` as its Struct; raises ChunkError if it is invalid."""
    fields = {"encoding": "utf8", **{name: value for name, value in body.items() if value is not None}}
    if not isinstance(fields.get("content_type", ""), str):
        del fields["content_type"]
    try:
        return msgspec.convert(fields, ResultChunk, strict=False)
    except msgspec.ValidationError as error:
        raise ChunkError(f"a chunk cannot be read: {error}") from None


def missing_chunks(chunk: ResultChunk, due: int) -> str:
    """Return the message for missing chunks before this one."""
    last = chunk.chunk_seq - 1
    which = f"chunk {due} is" if due == last else f"chunks {due} to {last} are"
    return f"{which} gone: chunk {chunk.chunk_seq} came where {due} was due"


def _body(
    result_id: str, chunk_seq: int, data: bytes, encoding: bytes, *, more: bool, json: bool = False
) -> bytes:
    """Return a `ResultChunk` as JSON; `data` is a JSON string already."""
    named = codec.encode_checked(result_id)
    last = b"true" if more else b"false"
    return b'{"result_id":%b,"chunk_seq":%d,"data":%b,"encoding":"%b","more":%b%b}' % (
        named,
        chunk_seq,
        data,
        encoding,
        last,
        _JSON_FIELD if json else b"",
    )


def _as_base64(data: bytes) -> bytes:
    """Return bytes as a JSON string of base64, which needs no escapes."""
    return b'"%b"' % base64.b64encode(data)


def _room(chunk: int, frame: int) -> int:
    if chunk < _LEAST_CHUNK or frame < _LEAST_FRAME:
        raise LocalProtocolError(f"a chunk has at least {_LEAST_CHUNK} bytes and {_LEAST_FRAME} of frame")
    return frame - BODY_BYTES


def _cut_text(text: str, chunk: int, room: int) -> Iterator[tuple[str, bytes, bool]]:
    """Yield pieces of text, each also as a JSON string, and whether more follow."""
    start, more = 0, True
    while more:
        piece, encoded = fit_json(_fit_utf8(text[start : start + chunk], chunk), room)
        start += len(piece)
        more = start < len(text)
        yield piece, encoded, more


def _cut_bytes(data: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    for start in range(0, len(data) or 1, size):
        yield data[start : start + size], start + size < len(data)


def _fit_utf8(text: str, size: int) -> str:
    """Return as much of the text as `size` bytes of UTF-8 hold."""
    if text.isascii():
        return text[:size]
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError("a string holds a lone surrogate, which is not text") from None
    return text if len(encoded) <= size else _whole_characters(encoded[:size])


def fit_json(text: str, size: int) -> tuple[str, bytes]:
    """Return as much of the text as `size` bytes hold between the quotes of its JSON string, and that
    string.
    """
    encoded = codec.encode_checked(text)
    if len(encoded) - 2 <= size:
        return text, encoded
    whole: bytes = _WHOLE_ESCAPES.findall(encoded, 1, 1 + size)[0]
    encoded = b'"%b"' % _whole_characters(whole).encode()
    return codec.decode_value(encoded), encoded


def _whole_characters(encoded: bytes) -> str:
    """Return UTF-8 as text, without a truncated last character."""
    return encoded.decode(errors="ignore")


def _decode(chunk: ResultChunk) -> bytes:
    try:
        match chunk.encoding:
            case "utf8":
                return chunk.data.encode()
            case "base64":
                return _of_base64(chunk.data)
    except ValueError:
        raise ChunkError(f"chunk {chunk.chunk_seq} is not valid {chunk.encoding}") from None
    raise ChunkError(f"chunk {chunk.chunk_seq} has the unknown encoding {chunk.encoding[:64]!r}")


def _of_base64(text: str) -> bytes:
    """Return the bytes of base64; raises ValueError.

    msgspec takes half the time, but does not accept excess padding.
    """
    try:
        return msgspec.convert(text, bytes)
    except msgspec.ValidationError:
        return base64.b64decode(text, validate=True)
