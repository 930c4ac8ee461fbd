"""The language of a pattern, by its definition, as a set of all strings up to a length.

A set of strings is an integer. Strings of one length stand in one block, in the order of the alphabet, and
shorter blocks below longer ones; so the strings that begin with one character are a quarter of a block, and
in the same order as the block before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Final

ALPHABET: Final = "ab/x"
"""`x` stands for everything that no pattern names."""
SYMBOLS: Final = ("a", "b", "/", "*", "**")

Blocks = tuple[int, ...]


def patterns(symbols: int) -> list[str]:
    """Return all patterns of at most that many symbols, each once: `*` and `**` are `***`, which is `**`."""
    texts = ("".join(made) for count in range(1, symbols + 1) for made in product(SYMBOLS, repeat=count))
    return list(dict.fromkeys(texts))


def strings(length: int) -> Iterator[str]:
    """Yield all of them, the empty one first, in the order of the bits."""
    return ("".join(made) for size in range(length + 1) for made in product(ALPHABET, repeat=size))


def language(pattern: str, length: int) -> int:
    """Return the strings of at most `length` characters that the pattern matches."""
    found = at = 0
    for size, block in enumerate(_language(pattern, length)):
        found |= block << at
        at += len(ALPHABET) ** size
    return found


@cache
def _language(pattern: str, length: int) -> Blocks:
    """Return a block for each length."""
    if not pattern:
        return (1,) + (0,) * length
    directory = re.match(r"/\*\*+(?=/|$)", pattern)
    wildcard = re.match(r"\*+", pattern)
    if directory:
        rest = _language(pattern[directory.end() :], length)
        return _either(rest, _after("/", _repeated(ALPHABET, rest)))
    if wildcard:
        rest = _language(pattern[wildcard.end() :], length)
        return _repeated(ALPHABET if len(wildcard[0]) > 1 else ALPHABET.replace("/", ""), rest)
    return _after(pattern[0], _language(pattern[1:], length))


def _after(character: str, rest: Blocks) -> Blocks:
    """Return the character, followed by any of the rest."""
    place = ALPHABET.index(character)
    return (0, *(block << place * len(ALPHABET) ** size for size, block in enumerate(rest[:-1])))


def _repeated(characters: str, rest: Blocks) -> Blocks:
    """Return runs of these characters, followed by any of the rest."""
    blocks = list(rest)
    for size in range(1, len(rest)):
        for character in characters:
            blocks[size] |= blocks[size - 1] << ALPHABET.index(character) * len(ALPHABET) ** (size - 1)
    return tuple(blocks)


def _either(one: Blocks, other: Blocks) -> Blocks:
    return tuple(a | b for a, b in zip(one, other, strict=True))
