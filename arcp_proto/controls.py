"""Envelopes without a number that wait for one transport, in order (§8.3)."""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """A control envelope: sent once event `after` is out and `records` are durable."""

    after: int
    records: int
    envelope: bytes


class Controls:
    """Control envelopes among the events, oldest first."""

    __slots__ = ("_waiting", "size")

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self.size = 0
        """Bytes of all of them."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Waiting | None:
        """What goes next; None for nothing."""
        return self._waiting[0] if self._waiting else None

    def add(self, after: int, records: int, envelope: bytes) -> None:
        """One more, behind all others."""
        self._waiting.append(Waiting(after, records, envelope))
        self.size += len(envelope)

    def pop(self) -> bytes:
        """Take the first, which is there."""
        envelope = self._waiting.pop(0).envelope
        self.size -= len(envelope)
        return envelope

    def clear(self) -> None:
        """Nothing is sent any more."""
        self._waiting.clear()
        self.size = 0
