"""Grants against languages: what they match, and what they cover."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from arcp_proto.leases.lease import Grants

from .languages import ALPHABET, language, strings

CAPABILITY: Final = "tool.call"
"""The capability whose targets are compared as they are."""

SHARE: Final = 0.05
"""Of the children of a parent of two patterns, those that are tried though one of the two says it all."""


class Compared(NamedTuple):
    """The numbers of patterns and strings of a comparison."""

    compared: int
    covered: int
    together: int
    """Of those that are covered, those that one pattern of the parent alone does not cover."""
    longest: int
    """Characters of the longest of all shortest strings that the child matches and the parent does not."""
    example: tuple[tuple[str, ...], str]
    """The parent and the child of it."""


class Wrong(AssertionError):
    """A pattern does not do what it has to."""


def grants(*patterns: str) -> Grants:
    """Return the grants of these patterns, for tools."""
    return Grants.of({CAPABILITY: patterns})


def compare_matches(patterns: Iterable[str], length: int) -> int:
    """Match each with all strings up to `length` but the empty one, which cannot be a target; count them."""
    texts = list(strings(length))
    count = 0
    for pattern in patterns:
        allows = grants(pattern).allows
        expected = language(pattern, length)
        # The highest bit first, as an integer is written; the lowest is the empty string.
        digits = "".join("1" if allows(CAPABILITY, text) else "0" for text in reversed(texts[1:]))
        if int(digits, 2) << 1 != expected & ~1:
            wrong = next(
                text
                for place, text in enumerate(texts[1:], 1)
                if allows(CAPABILITY, text) != bool(expected >> place & 1)
            )
            raise Wrong(f"{pattern!r} and {wrong!r}: {allows(CAPABILITY, wrong)}")
        count += len(texts) - 1
    return count


class Covering:
    """Asks whether lists of patterns cover each other, and counts strings instead."""

    def __init__(self, patterns: Sequence[str], length: int) -> None:
        self.patterns = patterns
        self._languages = {pattern: language(pattern, length) & ~1 for pattern in patterns}
        self._grants = {pattern: grants(pattern) for pattern in patterns}
        self._lengths = _lengths(length)
        self._bound = length
        self._compared = self._covered = self._together = self._longest = 0
        self._example: tuple[tuple[str, ...], str] = ((), "")

    def compare(self, parents: Iterable[str]) -> None:
        """Compare each of these with every pattern as its child."""
        for parent in parents:
            for child in self.patterns:
                self._one((parent,), self._languages[parent], self._grants[parent], child)

    def compare_pairs(self, count: int, seed: int) -> None:
        """Compare `count` parents of two random patterns: all children that need both, and some others."""
        source = random.Random(seed)
        for _ in range(count):
            one, other = source.choice(self.patterns), source.choice(self.patterns)
            first, second = self._languages[one], self._languages[other]
            parent = grants(one, other)
            for child in self.patterns:
                asked = self._languages[child]
                together = not asked & ~(first | second) and asked & ~first and asked & ~second
                if together or source.random() < SHARE:
                    self._one((one, other), first | second, parent, child)
                    self._together += bool(together)

    @property
    def found(self) -> Compared:
        """Return the counts so far; raises Wrong when a string of the longest length was needed to decide."""
        if self._longest >= self._bound:
            raise Wrong(f"{self._example} need strings of {self._longest} characters: the bound is too low")
        return Compared(self._compared, self._covered, self._together, self._longest, self._example)

    def _one(self, parents: tuple[str, ...], matched: int, parent: Grants, child: str) -> None:
        more = self._languages[child] & ~matched
        covered = parent.covers(self._grants[child])
        if covered != (more == 0):
            raise Wrong(f"{parents} and {child!r}: {covered}")
        self._compared += 1
        self._covered += covered
        if more and more & self._lengths[self._longest] == 0:
            self._longest = next(size for size, upto in enumerate(self._lengths) if more & upto)
            self._example = parents, child


def _lengths(length: int) -> list[int]:
    """Return the set of all strings that are not longer, for each length."""
    sets, bits = [], 0
    for size in range(length + 1):
        bits += len(ALPHABET) ** size
        sets.append((1 << bits) - 1)
    return sets
