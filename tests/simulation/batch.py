"""Many seeds: in processes, some of them twice, the second time under another hash seed."""

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
"""One seed in so many is run once more, in another process under another hash seed."""
BETWEEN_COLLECTIONS: Final = 25
"""Seeds, after which garbage goes; while a chunk runs nothing else looks for it, which takes long."""
CHUNK: Final = 200
"""Seeds of one task."""
ROOT: Final = Path(__file__).parents[2]


class Failure(NamedTuple):
    """A seed that failed, and why."""

    seed: int
    name: str
    message: str


def run_chunk(seeds: Sequence[int], inputs: int) -> list[Failure]:
    """Run some seeds; those that are run twice must do the same each time."""
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
                why = "it depends on PYTHONHASHSEED" if again else "it does something else the second time"
                failures.append(Failure(seed, "determinism", why))
    return failures


def digests_elsewhere(seeds: Sequence[int], inputs: int) -> dict[int, str]:
    """The digests of these runs in a process with another hash seed."""
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
    """Run many seeds; yields the failures of a number of them at a time."""
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
    """Shrink a failing run, and write its plan and its trace; returns what is left of it."""
    plan = draw(failure.seed, inputs)
    if failure.name != "determinism":
        plan = shrink(plan, failure.name)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"seed-{failure.seed}.json").write_bytes(msgspec.json.encode(plan))
    (out / f"seed-{failure.seed}.trace").write_text(trace_of(plan))
    return plan, play(plan)


def read_plan(path: Path) -> Plan:
    """A plan that `keep` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Plan)
