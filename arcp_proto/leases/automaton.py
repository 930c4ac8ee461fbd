"""Patterns as an automaton: one step for each character, for any patterns (§9.2).

A state of a pattern is a place in it, and a set of states is an integer with a bit for each place. A place
may have a character that leads to the next place, and a wildcard that stays. An optional directory, `/**`
before a slash or the end, is an additional place, with a character that leads past it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .patterns import Parts

_TOKEN: Final = re.compile(r"(?:/\*\*+)+(?=/|\Z)|\*+|.", re.DOTALL)
_MOST_REMEMBERED: Final = 1_024
"""Steps that a small automaton caches; others are computed again."""
_SMALL: Final = 512
"""Places of an automaton that caches that many steps; one of twice the size caches half of them."""


class Move(NamedTuple):
    """The effect of one character on a set of states: which advance one place, which two, and which stay."""

    on: int
    past: int
    stay: int


class Automaton:
    """The union of some patterns. The accepted language never changes; steps are cached."""

    __slots__ = (
        "_first",
        "_room",
        "_rows",
        "accepting",
        "letters",
        "moves",
        "other",
        "past",
        "start",
        "stops",
        "universal",
    )

    def __init__(self, patterns: Iterable[Parts]) -> None:
        self.letters: list[str | None] = []
        """The character at each place that leads to the next place, or None."""
        self.past: list[str | None] = []
        """The character at each place that leads past the next place, or None."""
        self.stops: list[str | None] = []
        """The characters at which the wildcard of each place stops, or None."""
        self.start = self.accepting = self.universal = 0
        """Sets of states: the start, the accepting ones, and those that accept any continuation."""
        for parts in patterns:
            self._add(parts)
        self.moves, self.other = self._moves()
        self._first = _Row(self, self.start)
        self._first.kept = True
        self._rows = {self.start: self._first}
        self._room = _MOST_REMEMBERED // (1 + len(self.letters) // _SMALL)

    def matches(self, text: Iterable[str]) -> bool:
        """Return whether one of the patterns matches all of the characters."""
        row = self._first
        for character in text:
            row = row[character]
        return row.accepted

    def step(self, states: int, character: str) -> int:
        """Return the states after one more character."""
        on, past, stay = self.moves.get(character, self.other)
        return (states & on) << 1 | (states & past) << 2 | states & stay

    def row_after(self, row: _Row, character: str) -> _Row:
        """Return the row after one more character; cached while there is room."""
        states = self.step(row.states, character)
        after = self._rows.get(states)
        if after is None:
            after = _Row(self, states)
        if self._room and row.kept and (character.isascii() or character in self.moves):
            self._room -= 1
            row[character] = self._rows[states] = after
            after.kept = True
        return after

    def _add(self, parts: Parts) -> None:
        self.start |= 1 << self._place()
        missing = False
        for text, star, run in parts:
            for token in _TOKEN.findall(text):
                here = len(self.letters) - 1
                if token[0] == "*":
                    self.stops[here] = star if len(token) == 1 else run
                    continue
                self.letters[here] = token[0]
                if missing:
                    self.past[here - 1] = token[0]
                self._place()
                missing = len(token) > 1
                if missing:
                    self.stops[here + 1] = run
        here = len(self.letters) - 1
        self.accepting |= 3 << here - 1 if missing else 1 << here
        stops = self.stops[here]
        if stops is not None and "/" not in stops:
            self.universal |= 1 << here

    def _place(self) -> int:
        self.letters.append(None)
        self.past.append(None)
        self.stops.append(None)
        return len(self.letters) - 1

    def _moves(self) -> tuple[dict[str, Move], Move]:
        """Return the moves of the patterns' characters, and the move of all other characters."""
        on, past, loops = _masks(self.letters), _masks(self.past), _masks(self.stops)
        return {
            character: Move(
                on.get(character, 0),
                past.get(character, 0),
                sum(mask for stops, mask in loops.items() if character not in stops),
            )
            for character in dict.fromkeys([*on, *past, *"".join(loops)])
        }, Move(0, 0, sum(loops.values()))


class _Row(dict[str, "_Row"]):
    """A set of states, and the rows that follow it."""

    __slots__ = ("_automaton", "accepted", "kept", "states")

    def __init__(self, automaton: Automaton, states: int) -> None:
        super().__init__()
        self._automaton = automaton
        self.states = states
        self.accepted = states & automaton.accepting != 0
        self.kept = False

    def __missing__(self, character: str) -> _Row:
        return self._automaton.row_after(self, character)


def _masks(values: Sequence[str | None]) -> dict[str, int]:
    """Return the places of each value, with a bit for each place."""
    masks: dict[str, int] = {}
    for place, value in enumerate(values):
        if value is not None:
            masks[value] = masks.get(value, 0) | 1 << place
    return masks
