"""Numbered envelopes of one session, many at a time: what they have in common is written once (§8.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from . import wire
from .ids import SessionId, event_id_prefix

if TYPE_CHECKING:
    from .log import Entry

AT_ONCE: Final = 64
"""Envelopes that are written before their bytes are counted."""
FEW: Final = 4
"""So few are written one by one."""

_THOUSAND: Final = 1_000
_PADDED: Final = tuple(b"%03d" % number for number in range(_THOUSAND))
_PLAIN: Final = tuple(b"%d" % number for number in range(_THOUSAND))


class Envelopes:
    """Writes what is numbered in one session, and keeps the pieces of the head that it wrote last."""

    __slots__ = ("_head", "_id_prefix", "_pieces", "_session_id")

    def __init__(self, session_id: SessionId) -> None:
        self._session_id = session_id.encode()
        self._id_prefix = event_id_prefix(session_id).encode()
        self._head = b""
        self._pieces = (b"", b"", b"", b"")

    def of(self, entries: Sequence[Entry], after: int, size: int) -> list[bytes]:
        """The envelopes of entries numbered above `after`, until they have so many bytes."""
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
        """The envelope of one entry."""
        payload = entry.payload if entry.rotated is None else entry.rotated.complete(entry.payload)
        return wire.event_envelope(
            entry.head, self._id_prefix, self._session_id, number, payload, entry.source
        )

    def _write(self, entries: Sequence[Entry], first: int) -> list[bytes]:
        """Envelopes whose numbers differ in the last three digits only."""
        heads = [entry.head if entry.rotated is None else None for entry in entries]
        head = heads[0]
        if head is None or len(entries) < FEW or heads.count(head) < len(heads):
            return [self.one(entry, number) for number, entry in enumerate(entries, first)]
        if head is not self._head:
            self._head, self._pieces = head, _pieces(head)
        opening, kind, names, before_payload = self._pieces
        thousands, low = divmod(first, _THOUSAND)
        before_id = b"%b%b%07d" % (opening, self._id_prefix, thousands)
        before_number = b"%b%b%b" % (kind, self._session_id, names)
        padded = plain = _PADDED[low : low + len(entries)]
        if thousands:
            before_number += b"%d" % thousands
        else:
            plain = _PLAIN[low : low + len(entries)]
        join = b"".join
        return [
            join((before_id, last_digits, before_number, digits, before_payload, entry.payload, entry.tail))
            for entry, last_digits, digits in zip(entries, padded, plain, strict=True)
        ]


def _pieces(head: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """What stands in a head before the id, the session, the number, and the payload."""
    before_payload = head[: head.rindex(b"%b")]
    opening, kind, rest = (before_payload % (b"\0", 0, b"\0", 0)).split(b"\0")
    before_number, name, after = rest.partition(b'"event_seq":')
    return opening, kind.removeprefix(b"0" * 10), before_number + name, after.removeprefix(b"0")
