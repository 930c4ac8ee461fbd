"""All patterns of a few symbols against each other and against all short strings.

python -m tests.brute_force --symbols 5 --length 8 [--from K] [--count N] [--pairs P] [--seed S]

Begins at the parent of number K and ends after N of them; prints what was compared, and the longest string
that was needed to tell two patterns apart. Exits with 1 when Grants are wrong, or when that string has the
length of the longest that were tried. --pairs P tries P parents of two random patterns more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from .compare import Covering, Wrong, compare_matches
from .languages import patterns

STEP = 100
"""Parents between two lines of what was found."""


def run(symbols: int, length: int, first: int, count: int, pairs: int, seed: int) -> None:
    """Compare, and print what was found; raises Wrong."""
    texts = patterns(symbols)
    print(f"{len(texts):,} patterns of at most {symbols} symbols, strings of at most {length}", flush=True)
    begun = time.monotonic()
    covering = Covering(texts, length)
    last = min(first + count, len(texts))
    matched = 0
    for at in range(first, last, STEP):
        part = texts[at : min(at + STEP, last)]
        matched += compare_matches(part, length)
        covering.compare(part)
        print(
            f"up to parent {at + len(part):,}: {matched:,} matches,"
            f" {_told(covering)}; {time.monotonic() - begun:.0f} s",
            flush=True,
        )
    if pairs:
        covering.compare_pairs(pairs, seed)
        print(f"and {pairs:,} parents of two patterns: {_told(covering)}; {time.monotonic() - begun:.0f} s")


def _told(covering: Covering) -> str:
    compared, covered, together, longest, (parents, child) = covering.found
    more = f" ({together:,} only by both patterns)" if together else ""
    return (
        f"{compared:,} pairs, {covered:,} covered{more}, longest shortest counterexample"
        f" {longest} characters ({child!r} in {list(parents)})"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser("python -m tests.brute_force", description=__doc__)
    parser.add_argument("--symbols", type=int, default=5)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    try:
        run(options.symbols, options.length, options.first, options.count, options.pairs, options.seed)
    except Wrong as wrong:
        print(f"wrong: {wrong}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
