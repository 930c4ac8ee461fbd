"""The numbered envelopes of one session as they arrive: in order, each once (§8.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .wire import Envelope

Key = tuple[int, str | None, str]
"""What two copies of one envelope have in common: number, job and envelope id."""


class Numbering:
    """Hands on what follows, holds back what came too early, drops what came twice.

    Only the last `window` envelopes are known as copies. A number that was handed on before, under another
    id, is taken as it comes: such a peer numbers each job by itself.
    """

    __slots__ = ("_held", "_order", "_seen", "_window", "held_bytes", "held_count", "last")

    def __init__(self, window: int) -> None:
        self.last = 0
        """Everything numbered up to here has been handed on."""
        self.held_count = 0
        self.held_bytes = 0
        self._window = window
        self._seen: set[Key] = set()
        self._order: deque[Key] = deque()
        self._held: dict[int, list[tuple[Envelope, int]]] = {}

    def offer(self, seq: int, envelope: Envelope, size: int) -> Sequence[Envelope]:
        """What may be handled now that this envelope of `size` bytes has come, in order."""
        key = (seq, envelope.job_id, envelope.id)
        if key in self._seen:
            return ()
        self._remember(key)
        if seq <= self.last:
            return (envelope,)
        if seq > self.last + 1:
            self._held.setdefault(seq, []).append((envelope, size))
            self.held_count += 1
            self.held_bytes += size
            return ()
        self.last = seq
        return (envelope, *self._release()) if self._held else (envelope,)

    def missing(self) -> tuple[int, int] | None:
        """The first and the last number that the held envelopes wait for; None when nothing is held."""
        return (self.last + 1, min(self._held) - 1) if self._held else None

    def _release(self) -> list[Envelope]:
        released = []
        while (found := self._held.pop(self.last + 1, None)) is not None:
            self.last += 1
            self.held_count -= len(found)
            self.held_bytes -= sum(size for _, size in found)
            released += [envelope for envelope, _ in found]
        return released

    def _remember(self, key: Key) -> None:
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > self._window:
            self._seen.discard(self._order.popleft())
