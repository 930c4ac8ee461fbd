"""The input of a job: JSON until its agent asks for it, and what it takes of memory (§7.1, §14)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from . import wire
from .limits import KIB

if TYPE_CHECKING:
    from .wire import Envelope

SMALL: Final = 512
"""Bytes of JSON that do not count: what they take in memory is part of what any job takes."""
_OBJECT: Final = 192
_LIST: Final = 64
_STRING: Final = 64
_ITEM: Final = 40
"""Bytes that CPython takes for an object with one field, a list, a string without its characters, and the
number and the place of an item behind another."""
_PIECE: Final = 64 * KIB
"""Bytes that are looked at at once, so that a look takes little memory."""
_WIDE: Final = re.compile(rb"\\u[dD][89abAB]")
"""The escape of a character beyond U+FFFF."""
_BELOW_FOUR_BYTES: Final = bytes(range(0xF0))


class Input(msgspec.Struct, frozen=True, gc=False):
    """The input of a job as JSON that was decoded once, and the bytes that count for it (`memory_of`)."""

    json: bytes
    size: int

    @classmethod
    def of(cls, json: bytes) -> Input:
        """Take JSON that was read or written by `wire`."""
        return cls(json, memory_of(json) if len(json) > SMALL else 0)

    def value(self) -> Any:
        """Return the value, made anew at each call."""
        return wire.decode_again(self.json)


NO_INPUT: Final = Input(b"null", 0)
"""Of a job that was given nothing."""


class _Fields(msgspec.Struct):
    """What is looked for in a payload that was read."""

    input: msgspec.Raw = msgspec.Raw(b"null")


_decode_fields: Final = wire.decoder_of(_Fields)


def input_of(envelope: Envelope) -> Input:
    """Return the input in the payload of a `job.submit` that was read; nothing else of it is kept."""
    return Input.of(bytes(_decode_fields(envelope.payload).input))


def given_bytes(input: Input, lease: Mapping[str, Sequence[str]] | None) -> int:
    """Return the bytes that count for what a job is given: its input, and a lease that is not small."""
    size = input.size
    if lease:
        json = wire.encode_checked(lease)
        if len(json) > SMALL:
            size += memory_of(json)
    return size


def memory_of(json: bytes) -> int:
    """Return how many bytes the values of a JSON text take in memory at most, or it itself, if that is more.

    Costs a constant number of passes over the text.
    """
    width = 1
    if not json.isascii():
        width = 4 if json.translate(None, _BELOW_FOUR_BYTES) else 2
    if b"\\u" in json:
        width = 4 if width == 4 or _WIDE.search(json) else 2
    # Each quote that is left begins or ends a string.
    clean = json.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = objects = lists = items = quotes = 0
    for start in range(0, len(clean), _PIECE):
        parts = clean[start : start + _PIECE].split(b'"')
        outside = b"".join(parts[quotes % 2 :: 2])
        bare += len(outside)
        objects += outside.count(b"{")
        lists += outside.count(b"[")
        items += outside.count(b",")
        quotes += len(parts) - 1
    text, numbers, strings = width * (len(json) - bare), bare // 2, quotes // 2
    values = _OBJECT * objects + _LIST * lists + _STRING * strings + _ITEM * (items + 1)
    return max(len(json), text + numbers + values)
