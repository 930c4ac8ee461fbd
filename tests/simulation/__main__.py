"""Simulate: `python -m tests.simulation --seeds 1000`. Exits with 1 when a seed failed."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from .batch import CHUNK, Failure, keep, read_plan, run
from .plan import Plan, draw
from .play import play, trace_of

OUT: Final = Path("build/simulation")
MOST_KEPT: Final = 20
"""Failures whose plans are shrunk and written; later ones are only counted."""
LEAST_A_MINUTE: Final = 50
"""The least number of seeds that one process runs in a minute on a shared processor; alone it runs 700."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 when a seed has failed, or too few seeds were run."""
    options = _options(arguments)
    if options.digest:
        gc.disable()
        for seed in options.digest:
            print(seed, play(draw(seed, options.inputs)).digest)
        return 0
    if options.replay is not None:
        return _replay(read_plan(options.replay), options.trace)
    if options.trace and options.seed is not None:
        return _replay(draw(options.seed, options.inputs), trace=True)
    return _simulate(options)


def least_of(options: argparse.Namespace) -> int:
    """Return the number of seeds that a run has to complete at least."""
    if options.least is not None:
        return int(options.least)
    wanted = max(options.seeds - options.start, 1)
    if options.minutes is None:
        return wanted
    return max(1, min(wanted, int(LEAST_A_MINUTE * options.minutes * options.processes)))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=1_000, help="number of seeds, together with those that --from leaves out"
    )
    parser.add_argument("--seed", type=int, help="the first seed, by default 0")
    parser.add_argument(
        "--from", type=int, default=0, dest="start", help="number of seeds at the beginning that are left out"
    )
    parser.add_argument("--minutes", type=float, help="begin no further seeds after this time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--least",
        type=int,
        help="fail when fewer seeds were run: by default all seeds, and with --minutes"
        f" {LEAST_A_MINUTE} for each minute and process",
    )
    parser.add_argument("--inputs", type=int, default=200, help="number of moves of one run")
    parser.add_argument(
        "--out", type=Path, default=Path("build/simulation"), help="folder for the plans of failures"
    )
    parser.add_argument("--replay", type=Path, help="run a plan from a file instead of seeds")
    parser.add_argument(
        "--trace", action="store_true", help="print every event of the run of --replay or --seed"
    )
    parser.add_argument("--digest", type=int, nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _replay(plan: Plan, trace: bool) -> int:
    if trace:
        print(trace_of(plan), end="")
    result = play(plan)
    print(result.message or "passed", dict(sorted(result.counts.items())))
    return 1 if result.name else 0


def _simulate(options: argparse.Namespace) -> int:
    first = (options.seed or 0) + options.start
    end = (options.seed or 0) + options.seeds
    began, done, failed = time.monotonic(), 0, 0
    step = CHUNK * options.processes * 2
    for start in range(first, end, step):
        if options.minutes is not None and time.monotonic() - began >= 60 * options.minutes:
            break
        seeds = range(start, min(start + step, end))
        for count, failures in run(seeds, options.inputs, options.processes):
            done += count
            for failure in failures:
                failed += 1
                _tell(failure, options, shrinks=failed <= MOST_KEPT)
        spent = time.monotonic() - began
        print(
            f"{done} seeds done in {spent:.0f} s; continue with --from {seeds.stop - (options.seed or 0)}",
            flush=True,
        )
    print(f"{done - failed} passed, {failed} failed")
    least = least_of(options)
    if done < least:
        print(f"only {done} of at least {least} seeds were run")
    return 1 if failed or done < least else 0


def _tell(failure: Failure, options: argparse.Namespace, *, shrinks: bool) -> None:
    print(f"seed {failure.seed}: {failure.message}", flush=True)
    if shrinks:
        plan, result = keep(failure, options.inputs, options.out)
        print(f"  {msgspec.json.encode(plan.options).decode()}")
        print(
            f"  {options.out}/seed-{failure.seed}.json: {len(plan.moves)} moves: {result.message}", flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
