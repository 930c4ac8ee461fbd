"""Envelopes without a number that wait for one transport, in order (§8.3)."""

from __future__ import annotations

import msgspec


class Waiting(msgspec.Struct, gc=False):
    """A control envelope: sent once event `after` is out and `records` are durable."""

    after: int
    records: int
    envelope: bytes


class Controls:
    """Control envelopes among the events, oldest first."""

    __slots__ = ("size", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.size = 0
        """Bytes of all of them."""

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def first(self) -> Waiting | None:
        """What goes next; None for nothing."""
        return self.waiting[0] if self.waiting else None

    def add(self, after: int, records: int, envelope: bytes) -> None:
        """One more, behind all others."""
        self.waiting.append(Waiting(after, records, envelope))
        self.size += len(envelope)

    def take(self, upto: int, persisted: int, limit: int, size: int) -> list[bytes]:
        """Take the first ones that may be sent once event `upto` is out and so many records are durable.

        At most `limit` of them, and no more once they have `size` bytes.
        """
        taken: list[bytes] = []
        for one in self.waiting:
            if one.after > upto or one.records > persisted or len(taken) == limit or size <= 0:
                break
            taken.append(one.envelope)
            size -= len(one.envelope)
            self.size -= len(one.envelope)
        del self.waiting[: len(taken)]
        return taken

    def clear(self) -> None:
        """Nothing is sent any more."""
        self.waiting.clear()
        self.size = 0
