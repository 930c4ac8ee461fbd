"""Simulate clusters: `python -m tests.simulation.cluster --seeds 1000`. Exits with 1 when a seed failed.

Each seed runs twice: as `ownership`, with scribes instead of runtimes and more faults, and as `runtimes`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

from . import runtimes
from .batch import run_chunk
from .play import MOVES, draw, play, trace_of

CHUNK: Final = 10
"""The number of seeds of one task."""
LEAST_A_MINUTE: Final = 10
"""The least number of seeds that one process runs in a minute on a shared processor; alone it runs 70."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 when a seed has failed, or too few seeds were run."""
    options = _options(arguments)
    if options.digest:
        for seed in options.digest:
            print(seed, play(draw(seed, options.moves)).digest, runtimes.play(seed).digest)
        return 0
    if options.trace is not None:
        if options.only != "runtimes":
            print(trace_of(draw(options.trace, options.moves)), end="")
        if options.only != "ownership":
            print(runtimes.play(options.trace, print).message)
        return 0
    return _simulate(options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.cluster", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=1_000, help="number of seeds, with those that --from leaves out"
    )
    parser.add_argument("--from", type=int, default=0, dest="start", help="number of seeds that are left out")
    parser.add_argument("--minutes", type=float, help="begin no further seeds after this time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--moves", type=int, default=MOVES, help="number of moves of one run")
    parser.add_argument(
        "--only", choices=("ownership", "runtimes"), help="run each seed in one of these ways only"
    )
    parser.add_argument("--least", type=int, help="fail when fewer seeds were run")
    parser.add_argument("--trace", type=int, metavar="SEED", help="print every event of the run of a seed")
    parser.add_argument("--digest", type=int, nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def least_of(options: argparse.Namespace) -> int:
    """Return the number of seeds that a run has to complete at least."""
    wanted = max(options.seeds - options.start, 1)
    if options.least is not None:
        return int(options.least)
    if options.minutes is None:
        return wanted
    return max(1, min(wanted, int(LEAST_A_MINUTE * options.minutes * options.processes)))


def _chunks(options: argparse.Namespace, until: float) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of seeds of each task, and its failures."""
    chunks = [
        range(start, min(start + CHUNK, options.seeds))
        for start in range(options.start, options.seeds, CHUNK)
    ]
    if options.processes <= 1:
        for chunk in chunks:
            if time.monotonic() < until:
                yield len(chunk), run_chunk(chunk, options.moves, options.only)
        return
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for start in range(0, len(chunks), options.processes):
            if time.monotonic() < until:
                tasks = [
                    (len(chunk), pool.submit(run_chunk, chunk, options.moves, options.only))
                    for chunk in chunks[start : start + options.processes]
                ]
                for count, task in tasks:
                    yield count, task.result()


def _simulate(options: argparse.Namespace) -> int:
    began, done, failed = time.monotonic(), 0, 0
    until = float("inf") if options.minutes is None else began + 60 * options.minutes
    for count, failures in _chunks(options, until):
        done += count
        failed += len(failures)
        for line in failures:
            print(line, flush=True)
    spent = time.monotonic() - began
    print(f"{done} seeds, {failed} failures in {spent:.0f} s; continue with --from {options.start + done}")
    least = least_of(options)
    if done < least:
        print(f"only {done} of at least {least} seeds were run")
    return 1 if failed or done < least else 0


if __name__ == "__main__":
    sys.exit(main())
