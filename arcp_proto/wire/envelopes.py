"""Numbered envelopes of one session, many at a time: their common parts are written once (§8.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final, Protocol

import msgspec

from arcp_proto.ids import SessionId, event_id_prefix

from . import codec
from .codec import OpenObject

AT_ONCE: Final = 64
"""Envelopes that are written before their bytes are counted."""
FEW: Final = 4
"""Number of envelopes below which they are written one by one."""

_THOUSAND: Final = 1_000
_PADDED: Final = tuple(b"%03d" % number for number in range(_THOUSAND))
_PLAIN: Final = tuple(b"%d" % number for number in range(_THOUSAND))
_PADDED_END: Final = tuple(digits + codec.END for digits in _PADDED)
_PLAIN_END: Final = tuple(digits + codec.END for digits in _PLAIN)


class LeftOut(Protocol):
    """The part of an event's envelope that its stored payload leaves out."""

    def complete(self, payload: OpenObject) -> OpenObject:
        """Return the payload with the part that it leaves out."""
        ...


class Entry(msgspec.Struct, gc=False, frozen=True):
    """One event as every log holds it: the template of its head, and its payload.

    `position` is its place in its job, from 1, the same in every session; 0 if it is not in a job's history.
    `rotated` is the part that the payload leaves out: the new value of a credential, as long as it is valid
    (§9.8.2).
    """

    head: bytes
    payload: OpenObject
    position: int = 0
    rotated: LeftOut | None = None


class Envelopes:
    """Writes the numbered envelopes of one session, and keeps the pieces of the last head."""

    __slots__ = ("_head", "_id_prefix", "_pieces", "_positions", "_session_id")

    def __init__(self, session_id: SessionId, *, positions: bool = False) -> None:
        self._positions = positions
        self._session_id = session_id.encode()
        self._id_prefix = event_id_prefix(session_id).encode()
        self._head = b""
        self._pieces = (b"", b"", b"", b"")

    def of(self, entries: Sequence[Entry], after: int, size: int) -> list[bytes]:
        """Return the envelopes of entries numbered above `after`, until they have at least `size` bytes."""
        made: list[bytes] = []
        if len(entries) < FEW:
            for number, entry in enumerate(entries, after + 1):
                if size > 0:
                    made.append(self.one(entry, number))
                    size -= len(made[-1])
            return made
        typical = len(entries[0].payload) + 1
        while size > 0 and len(made) < len(entries):
            begin, first = len(made), after + len(made) + 1
            count = min(AT_ONCE, size // typical + 1, _THOUSAND - first % _THOUSAND)
            some = self._write(entries[begin : begin + count], first)
            written = sum(map(len, some))
            typical = written // len(some)
            while written - len(some[-1]) >= size:
                written -= len(some.pop())
            made += some
            size -= written
        return made

    def one(self, entry: Entry, number: int) -> bytes:
        """Return the envelope of one entry."""
        payload = entry.payload if entry.rotated is None else entry.rotated.complete(entry.payload)
        tail = codec.event_tail(entry.position) if self._positions else codec.END
        return codec.event_envelope(entry.head, self._id_prefix, self._session_id, number, payload, tail)

    def _write(self, entries: Sequence[Entry], first: int) -> list[bytes]:
        """Return envelopes whose numbers differ in the last three digits only."""
        count, heads = len(entries), [entry.head if entry.rotated is None else None for entry in entries]
        head = heads[0]
        if head is None or count < FEW or heads.count(head) < count:
            return [self.one(entry, number) for number, entry in enumerate(entries, first)]
        if head is not self._head:
            self._head, self._pieces = head, _pieces(head)
        opening, kind, names, before_payload = self._pieces
        thousands, low = divmod(first, _THOUSAND)
        before_id = b"%b%b%07d" % (opening, self._id_prefix, thousands)
        before_number = b"%b%b%b" % (kind, self._session_id, names)
        padded = plain = _PADDED[low : low + count]
        if thousands:
            before_number += b"%d" % thousands
        else:
            plain = _PLAIN[low : low + count]
        columns: list[Iterable[bytes]] = [
            repeat(before_id, count),
            padded,
            repeat(before_number, count),
            plain,
            repeat(before_payload, count),
            [entry.payload for entry in entries],
        ]
        if self._positions:
            columns += _ends([entry.position for entry in entries])
        else:
            columns.append(repeat(codec.END, count))
        return list(map(b"".join, zip(*columns, strict=True)))


def _ends(positions: list[int]) -> Sequence[Iterable[bytes]]:
    """Return the ends of envelopes with these positions as one column, or as a common part and the rest."""
    first, count = positions[0], len(positions)
    thousands, low = divmod(first, _THOUSAND)
    if first and low + count <= _THOUSAND and positions == [*range(first, first + count)]:
        if thousands:
            return repeat(b"%b%d" % (codec.JOB_SEQ, thousands), count), _PADDED_END[low : low + count]
        return repeat(codec.JOB_SEQ, count), _PLAIN_END[low : low + count]
    return (map(codec.event_tail, positions),)


def _pieces(head: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the parts of a head before the id, the session, the number, and the payload."""
    before_payload = head[: head.rindex(b"%b")]
    opening, kind, rest = (before_payload % (b"\0", 0, b"\0", 0)).split(b"\0")
    before_number, name, after = rest.partition(b'"event_seq":')
    return opening, kind.removeprefix(b"0" * 10), before_number + name, after.removeprefix(b"0")
