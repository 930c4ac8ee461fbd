"""How the payloads of events begin: written once a kind and millisecond (§8.1)."""

from __future__ import annotations

from typing import Final

from . import wire
from .ids import MILLISECOND, Time
from .times import format_time

MOST: Final = 64
"""Kinds of one millisecond that are kept; vendors have as many as they like."""


class Openings:
    """Of the events of one millisecond, by kind."""

    __slots__ = ("_by_kind", "_text", "_until")

    def __init__(self) -> None:
        self._by_kind: dict[str, bytes] = {}
        self._until = -(2**63)
        self._text = ""

    def of(self, kind: str, unix: Time) -> bytes:
        """What stands before the body, at a time that never goes back."""
        if unix >= self._until:
            self._by_kind.clear()
            self._text = format_time(unix)
            self._until = unix - unix % MILLISECOND + MILLISECOND
        opening = self._by_kind.get(kind)
        if opening is None:
            opening = wire.event_opening(kind, self._text)
            if len(self._by_kind) < MOST:
                self._by_kind[kind] = opening
        return opening
