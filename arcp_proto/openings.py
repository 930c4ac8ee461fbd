"""How the payloads of events begin: written once a kind and millisecond (§8.1)."""

from __future__ import annotations

from typing import Final

from . import wire
from .ids import MILLISECOND, Time
from .machine import NEVER, Machine
from .times import format_time

MOST: Final = 64
"""Kinds of one millisecond that are kept; vendors have as many as they like."""


class Openings:
    """Of the events of one millisecond of the wall clock of a machine, by kind."""

    __slots__ = ("_machine", "_text", "by_kind", "until")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._text = ""
        self.by_kind: dict[str, bytes] = {}
        """Those of the millisecond that were written."""
        self.until = NEVER
        """The end of it."""

    def of(self, kind: str) -> bytes:
        """What stands before the body of an event that is published now."""
        machine = self._machine
        now = machine.now
        if now < self.until:
            machine.read_at = now
            opening = self.by_kind.get(kind)
            if opening is not None:
                return opening
        else:
            self.by_kind.clear()
            unix = machine.unix
            self._text = format_time(unix)
            self.until = Time(now + MILLISECOND - unix % MILLISECOND)
        opening = wire.event_opening(kind, self._text)
        if len(self.by_kind) < MOST:
            self.by_kind[kind] = opening
        return opening

    def forget(self) -> None:
        """The wall clock was set."""
        self.until = NEVER
