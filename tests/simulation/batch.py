"""Runs of many seeds in several processes; some seeds run twice, with a different hash seed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from .plan import Plan, draw
from .play import Result, play, shrink, trace_of

TWICE: Final = 20
"""One seed in this number runs a second time, in another process with another hash seed."""
BETWEEN_COLLECTIONS: Final = 25
"""Seeds between two garbage collections; automatic collection is off, since it takes long."""
CHUNK: Final = 200
"""The number of seeds of one task."""
ROOT: Final = Path(__file__).parents[2]


class Failure(NamedTuple):
    """A seed that failed, and the reason."""

    seed: int
    name: str
    message: str


def run_chunk(seeds: Sequence[int], inputs: int) -> list[Failure]:
    """Run seeds and return the failures; a seed that runs twice has to give the same digest each time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return _run_all(seeds, inputs)
    finally:
        if collects:
            gc.enable()


def _run_all(seeds: Sequence[int], inputs: int) -> list[Failure]:
    failures = []
    twins: dict[int, str] = {}
    for seed in seeds:
        if seed % BETWEEN_COLLECTIONS == 0:
            gc.collect()
        result = play(draw(seed, inputs))
        if result.name:
            failures.append(Failure(seed, result.name, result.message))
        elif seed % TWICE == 0:
            twins[seed] = result.digest
    if twins:
        others = digests_elsewhere(list(twins), inputs)
        for seed, digest in twins.items():
            if others.get(seed) != digest:
                again = play(draw(seed, inputs)).digest == digest
                why = (
                    "the digest depends on PYTHONHASHSEED"
                    if again
                    else "a second run in the same process gives another digest"
                )
                failures.append(Failure(seed, "determinism", why))
    return failures


def digests_elsewhere(seeds: Sequence[int], inputs: int) -> dict[int, str]:
    """Return the digests of the runs of seeds in another process with another hash seed."""
    command = [
        sys.executable,
        "-m",
        "tests.simulation",
        "--inputs",
        str(inputs),
        "--digest",
        *map(str, seeds),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": str(1 + seeds[0] % 1_000)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return {int(seed): digest for seed, digest in (line.split() for line in done.stdout.splitlines())}


def run(seeds: Sequence[int], inputs: int, processes: int) -> Iterator[tuple[int, list[Failure]]]:
    """Run many seeds; yield the number of seeds of each task and its failures."""
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    if processes <= 1:
        for chunk in chunks:
            yield len(chunk), run_chunk(chunk, inputs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        tasks: dict[Future[list[Failure]], int] = {
            pool.submit(run_chunk, chunk, inputs): len(chunk) for chunk in chunks
        }
        for task in as_completed(tasks):
            yield tasks[task], task.result()


def keep(failure: Failure, inputs: int, out: Path) -> tuple[Plan, Result]:
    """Shrink a failing run and write its plan and its trace; return the smaller plan and its result."""
    plan = draw(failure.seed, inputs)
    if failure.name != "determinism":
        plan = shrink(plan, failure.name)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"seed-{failure.seed}.json").write_bytes(msgspec.json.encode(plan))
    (out / f"seed-{failure.seed}.trace").write_text(trace_of(plan))
    return plan, play(plan)


def read_plan(path: Path) -> Plan:
    """Read a plan that `keep` has written."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)
