"""Some seeds at a time, in a module of its own so that other processes can run it."""

from __future__ import annotations

from collections.abc import Sequence

from . import runtimes
from .play import draw, play


def run_chunk(seeds: Sequence[int], moves: int, only: str | None = None) -> list[str]:
    """Run some seeds; return what has failed."""
    failed = []
    for seed in seeds:
        if only != "runtimes" and (result := play(draw(seed, moves))).name:
            failed.append(f"seed {seed}, ownership: {result.message}")
        if only != "ownership" and (result := runtimes.play(seed)).name:
            failed.append(f"seed {seed}, runtimes: {result.message}")
    return failed
