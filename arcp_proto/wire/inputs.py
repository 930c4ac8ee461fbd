"""The input of a job: JSON until its agent asks for it, and its size in memory (§7.1, §14)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from . import codec, messages

SMALL: Final = 512
"""Bytes of JSON that do not count: their memory is part of the cost of any job."""
_TINY: Final = 64
"""Bytes of JSON for which decoding is faster than checking for large numbers."""
_OBJECT: Final = 192
_LIST: Final = 64
_STRING: Final = 64
_ITEM: Final = 40
"""Bytes that CPython takes for an object with one field, a list, a string without its characters, and a
number with its place in a container.
"""
_WIDE: Final = re.compile(rb"\\u[dD][89abAB]")
"""The escape of a character beyond U+FFFF."""
_BELOW_FOUR_BYTES: Final = bytes(range(0xF0))


class Input(msgspec.Struct, frozen=True, gc=False):
    """The input of a job as JSON that was checked, and the bytes that count for it.

    `evenly` as in `codec.decode_checked`.
    """

    json: bytes
    size: int
    evenly: bool = True

    @classmethod
    def of(cls, json: bytes) -> Input:
        """Return the input for JSON that `codec` has read or written."""
        if len(json) <= SMALL:
            return cls(json, 0, False)
        outside, quotes = codec.outside_strings(json)
        return cls(json, _memory_of(json, outside, quotes), codec.may_overflow(outside))

    def value(self) -> Any:
        """Return the value, a new object at each call."""
        return codec.decode_checked(self.json, evenly=self.evenly)


NO_INPUT: Final = Input(b"null", 0)
"""The input of a job without an input."""


class _RawSubmit(messages.Submit, omit_defaults=True, gc=False):
    """A submit whose input is JSON."""

    input: msgspec.Raw


class _Fields(msgspec.Struct):
    """The input of a payload of any shape."""

    input: msgspec.Raw = msgspec.Raw(b"null")


_decode_submit: Final = codec.Decoders(_RawSubmit).evenly
_decode_fields: Final = codec.Decoders(_Fields).evenly


def decode_submit(payload: bytes | msgspec.Raw) -> messages.Submit:
    """Return a `job.submit` of the exact shape, with its input as an `Input`.

    Raises the errors of decoders. Raw JSON is valid JSON except that a number in it may be too large. So the
    value of an input that is not tiny is built, and dropped, only if it may hold such a number.
    """
    submit: messages.Submit = _decode_submit(payload)
    json = bytes(submit.input)
    if len(json) <= SMALL:
        if len(json) <= _TINY or codec.may_overflow(json):
            codec.decode_short(json)
        submit.input = Input(json, 0, False)
    else:
        submit.input = given = Input.of(json)
        if given.evenly:
            given.value()
    return submit


def input_of(payload: msgspec.Raw) -> Input:
    """Return the input in the payload of a `job.submit` of any shape."""
    return Input.of(bytes(codec.with_headroom(_decode_fields, payload).input))


def given_bytes(input: Input, lease: Mapping[str, Sequence[str]] | None) -> int:
    """Return the bytes that count for the input of a job, and for its lease unless it is small."""
    size = input.size
    if lease:
        json = codec.encode_checked(lease)
        if len(json) > SMALL:
            size += memory_of(json)
    return size


def memory_of(json: bytes) -> int:
    """Return an upper bound of the memory of a JSON text's values, and at least the size of the text.

    Costs a constant number of passes over the text.
    """
    return _memory_of(json, *codec.outside_strings(json))


def _memory_of(json: bytes, outside: bytes, quotes: int) -> int:
    width = 1
    if not json.isascii():
        width = 4 if json.translate(None, _BELOW_FOUR_BYTES) else 2
    if b"\\" in json and b"\\u" in json:  # Searching one byte is much faster than two.
        width = 4 if width == 4 or _WIDE.search(json) else 2
    bare = len(outside)
    text, numbers = width * (len(json) - bare), bare // 2
    values = (
        _OBJECT * outside.count(b"{")
        + _LIST * outside.count(b"[")
        + _STRING * (quotes // 2)
        + _ITEM * (outside.count(b",") + 1)
    )
    return max(len(json), text + numbers + values)
