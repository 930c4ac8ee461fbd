"""Shortening: what is cut out of an event that does not fit a frame, and the mark that says so (§8.2).

A body keeps its shape: text stays text, an array an array, an object an object. So a body that was valid for
its kind stays valid. Values that name or measure something are never cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from arcp_proto.wire import codec
from arcp_proto.wire.event_bodies import EventKind
from arcp_proto.wire.result_chunks import fit_json

CUT: Final = "x-vendor.arcp-io.cut"
"""The field of an object that says how many bytes of its fields are left out."""

WHOLE: Final[Mapping[str, frozenset[str]]] = {
    EventKind.LOG: frozenset(("level",)),
    EventKind.TOOL_CALL: frozenset(("tool", "call_id")),
    EventKind.TOOL_RESULT: frozenset(("call_id",)),
    EventKind.STATUS: frozenset(("phase",)),
    EventKind.METRIC: frozenset(("name", "value", "unit")),
    EventKind.PROGRESS: frozenset(("current", "total", "units")),
    EventKind.ARTIFACT_REF: frozenset(("uri", "content_type", "byte_size", "sha256")),
    EventKind.DELEGATE: frozenset(("child_job_id", "agent", "lease")),
}
"""The fields of an event's body, by kind, that are sent whole or not at all."""

LEAST: Final = 96
"""The fewest bytes to which a value is cut: its mark, and a little of its content."""
_MARK: Final = 64
"""An upper bound for the bytes of a mark as JSON, with a number of 20 digits, without the quotes."""


def shorten(kind: str, encoded: bytes, limit: int) -> bytes | None:
    """Return a body of at most `limit` bytes, with marks where something is left out.

    `encoded` is a valid body of the kind as JSON. Return None when the fields that may not be cut take too
    much.
    """
    whole = WHOLE.get(kind, frozenset())
    fields = codec.decode_fields(encoded)
    kept = {name: value for name, value in fields.items() if name in whole}
    cuttable = {name: value for name, value in fields.items() if name not in whole}
    room = limit - 2 - sum(_size(name, value) for name, value in kept.items())
    if room < LEAST + _MARK:
        return None
    short = {**kept, **_cut_fields(cuttable, room)}
    return _object({name: short.pop(name) for name in fields if name in short} | short)


def _shortened(value: msgspec.Raw, room: int) -> msgspec.Raw:
    """Return a value of the same type in at most `room` bytes, which are at least LEAST."""
    data = bytes(value)
    if len(data) <= room:
        return value
    match data[:1]:
        case b'"':
            return _text(data, room)
        case b"[":
            return _cut_items(codec.decode_items(value), room)
        case b"{":
            return msgspec.Raw(_object(_cut_fields(codec.decode_fields(value), room - 2)))
        case _:
            return msgspec.Raw(codec.encode_checked(_mark(len(data))))


def _text(data: bytes, room: int) -> msgspec.Raw:
    text: str = codec.decode_value(data)
    piece, _ = fit_json(text[:room], room - 2 - _MARK)
    left_out = len(text.encode()) - len(piece.encode())
    return msgspec.Raw(codec.encode_checked(piece + _mark(left_out)))


def _cut_items(items: list[msgspec.Raw], room: int) -> msgspec.Raw:
    """Keep the first items, and as much as fits of the next one."""
    kept: list[bytes] = []
    left = room - 4 - _MARK
    for number, item in enumerate(items):
        size = len(bytes(item)) + 1
        if size > left:
            if left > LEAST:
                kept.append(bytes(_shortened(item, left - 1)))
                number += 1
            rest = sum(len(bytes(one)) for one in items[number:])
            if rest:
                kept.append(codec.encode_checked(_mark(rest)))
            break
        kept.append(bytes(item))
        left -= size
    return msgspec.Raw(b"[" + b",".join(kept) + b"]")


def _cut_fields(fields: Mapping[str, msgspec.Raw], room: int) -> dict[str, msgspec.Raw]:
    """Cut the largest fields to the same size, or keep the first fields when there are too many for that."""
    sizes = {name: _size(name, value) for name, value in fields.items()}
    if sum(sizes.values()) <= room:
        return dict(fields)
    share = _share(fields, room)
    if share >= LEAST:
        return {name: _shortened(value, share) for name, value in fields.items()}
    short: dict[str, msgspec.Raw] = {}
    left, left_out = room - _size(CUT, msgspec.Raw(b'""')) - _MARK, 0
    for name, value in fields.items():
        if sizes[name] <= left:
            short[name] = value
            left -= sizes[name]
        else:
            left_out += sizes[name]
    short[CUT] = msgspec.Raw(codec.encode_checked(_mark(left_out)))
    return short


def _share(fields: Mapping[str, msgspec.Raw], room: int) -> int:
    """Return the most bytes that a value may have, so that the larger values get what smaller ones leave."""
    values = sorted(len(bytes(value)) for value in fields.values())
    left = room - sum(_size(name, msgspec.Raw(b"")) for name in fields)
    for number, size in enumerate(values):
        share = left // (len(values) - number)
        if size > share:
            return share
        left -= size
    return left


def _mark(left_out: int) -> str:
    return f"… [cut: {left_out} bytes left out]"


def _size(name: str, value: msgspec.Raw) -> int:
    """Return the bytes of a field in an object, with the comma behind it."""
    return len(codec.encode_checked(name)) + len(bytes(value)) + 2


def _object(fields: Mapping[str, msgspec.Raw]) -> bytes:
    return codec.encode_checked(fields)
