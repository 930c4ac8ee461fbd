"""Runs of several seeds, in a module of their own so that other processes can import it."""

from __future__ import annotations

from collections.abc import Sequence

from . import runtimes
from .play import draw, play


def run_chunk(seeds: Sequence[int], moves: int, only: str | None = None) -> list[str]:
    """Run seeds in one way or in both; return the failures."""
    failed = []
    for seed in seeds:
        if only != "runtimes" and (result := play(draw(seed, moves))).name:
            failed.append(f"seed {seed}, ownership: {result.message}")
        if only != "ownership" and (result := runtimes.play(seed)).name:
            failed.append(f"seed {seed}, runtimes: {result.message}")
    return failed
