"""Pairs of leases: one covers another exactly if it allows everything that the other allows.

The first line names a namespace; further lines are patterns of the parent (`+`) and of the child (`-`).
Targets are patterns of the child with a text in place of each wildcard. The bytes also stand for four tiny
patterns, which regular expressions compare on all short texts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Final
from zlib import crc32

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_proto.errors import ensure
    from arcp_proto.leases.lease import Grants
    from arcp_proto.namespaces import RESERVED
    from fuzz.fuzz_grants import read

CORPUS: Final = Path(__file__).parent / "corpus" / "leases.ndjson"
ANY_NAMESPACE: Final = "x-vendor.a.b"
MOST_TARGETS: Final = 24
"""The number of targets that are made for one pair."""
FILLINGS: Final = ("", "a", "b", "ab", "/", "a/b", "//", "/a", "b/", ".", "..", "a.b", ":", "é", "?", " ")
SYMBOLS: Final = ("a", "b", "/", "*", "**")
TEXTS: Final = tuple("".join(made) for size in range(1, 7) for made in product("abx/", repeat=size))
"""The texts on which tiny patterns are compared; `x` stands for all letters that no pattern names."""
DECIDED: Final = 3
"""The number of symbols of a pattern up to which the texts tell any two languages apart."""
_TOKEN: Final = re.compile(r"(?:/\*\*+)(?=/|\Z)|\*+|.", re.DOTALL)


def check(data: bytes) -> None:
    """Check the pair of an input; raises InvariantViolated for a wrong answer."""
    check_tiny(data)
    namespace, *lines = data.decode("utf-8", "replace").split("\n")
    parent = read(namespace, [line[1:] for line in lines if line[:1] == "+"])
    child = read(namespace, [line[1:] for line in lines if line[:1] == "-"])
    check_pair(namespace, parent, child, random.Random(crc32(data)))


def check_pair(namespace: str, parent: Sequence[str], child: Sequence[str], dice: random.Random) -> None:
    """Check that covered targets are allowed, and that a lease covers each part of itself."""
    one, other = (Grants.of({namespace: patterns}) for patterns in (parent, child))
    covered = one.covers(other)
    ensure(one.covers(one) and other.covers(other), "a lease does not cover itself")
    if not covered:
        both = Grants.of({namespace: [*parent, *child]})
        ensure(both.covers(one), "a lease does not cover a part of it")
        return
    for pattern in child[:4]:
        ensure(one.covers(Grants.of({namespace: [pattern]})), "a part of a covered lease is not covered")
    for target in targets(child, dice):
        allowed = not other.allows(namespace, target) or one.allows(namespace, target)
        ensure(allowed, f"{target!r} is covered and not allowed")


def targets(patterns: Sequence[str], dice: random.Random) -> Iterator[str]:
    """Yield texts that the patterns may match."""
    for _ in range(MOST_TARGETS if patterns else 0):
        pattern = dice.choice(patterns)
        yield re.sub(r"\*+", lambda _: "".join(dice.choices(FILLINGS, k=dice.randrange(3))), pattern)


def check_tiny(data: bytes) -> None:
    """Compare four tiny patterns, two of them the parent's, on all short texts."""
    made = [
        "".join(SYMBOLS[byte % len(SYMBOLS)] for byte in part) for part in (data[0:3], data[3:6], data[6:9])
    ]
    parent, child = [pattern for pattern in made[:2] if pattern], made[2]
    longer = "".join(SYMBOLS[byte // 5 % len(SYMBOLS)] for byte in data[9:14])
    for pattern in (child, longer):
        if not pattern:
            continue
        covered = Grants.of({ANY_NAMESPACE: parent}).covers(Grants.of({ANY_NAMESPACE: [pattern]}))
        matched = 0
        for other in parent:
            matched |= language(other)
        more = language(pattern) & ~matched
        if more or pattern is child:
            ensure(covered == (not more), f"{parent} and {pattern!r}: covered is {covered}")


@cache
def language(pattern: str) -> int:
    """Return the texts that a pattern matches, one bit for each text."""
    matches = re.compile(_expression(pattern), re.DOTALL).fullmatch
    return sum(1 << place for place, text in enumerate(TEXTS) if matches(text))


def _expression(pattern: str) -> str:
    """Return a pattern as a regular expression, by the rules of docs/guides/leases.md."""
    words = {"*": "[^/]*", "**": ".*"}
    found = []
    for token in _TOKEN.findall(pattern):
        if token[0] == "*":
            found.append(words["*" if len(token) == 1 else "**"])
        else:
            found.append("(?:/.*)?" if len(token) > 1 else re.escape(token))
    return "".join(found)


def words() -> list[str]:
    """Return texts that leases are likely to hold."""
    parts = [
        "**",
        "/**/",
        "/**",
        "*",
        "/*",
        "/../",
        "//",
        "a",
        "b",
        "/a/b",
        "?",
        ":*",
        "https://a.b/",
        "s3://",
    ]
    return [*(f"{name}\n+" for name in RESERVED), "\n-", "\n+", *parts]


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
