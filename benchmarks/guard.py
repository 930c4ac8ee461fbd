"""python -m benchmarks.guard: check that the hot paths take no more steps than their budget.

The guard counts steps and measures no time: calls of Python functions, calls of C functions and bytecodes,
for each event or job. The counts have to stay within a tenth of budget.json, which `--update` writes anew.
The budget is that of CPython 3.11, since other versions count otherwise.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

from . import simulated
from .core import Core
from .in_memory import Pair

BUDGET: Final = Path(__file__).with_name("budget.json")
SLACK: Final = 1.10
VERSION: Final = (3, 11)
WARM: Final = 200

Counts = dict[str, float]
"""`python_calls`, `c_calls` and `bytecodes`."""


def measure() -> dict[str, Counts]:
    """Return the counts of each path for one unit."""
    return {
        "core: event": count_core(0),
        "core: delivery to one of 11": count_core(10),
        "drivers: event": count_drivers(Pair.emit, False),
        "drivers: event of an agent that suspends": count_drivers(Pair.emit, True),
        "drivers: job": count_drivers(Pair.jobs),
        "drivers: event that a client iterates over": count_drivers(Pair.receive),
    }


def exceeded(found: Mapping[str, Counts], budget: Mapping[str, Counts]) -> list[str]:
    """Return the counts that exceed their budget by more than a tenth, and those that have no budget."""
    problems = []
    for path, counts in found.items():
        for name, value in counts.items():
            allowed = budget.get(path, {}).get(name)
            if allowed is None:
                problems.append(f"{path}: {name} has no budget")
            elif value > allowed * SLACK:
                problems.append(f"{path}: {value:.1f} {name}, {value / allowed - 1:+.0%} of {allowed:.1f}")
    return problems


def main() -> int:
    """Compare the counts with the budget, or write it; return 1 when a count exceeds its budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the budget anew")
    arguments = parser.parse_args()
    if sys.version_info[:2] != VERSION:
        print("only CPython 3.11 has a budget: nothing was counted")
        return 0
    found = measure()
    if arguments.update:
        BUDGET.write_text(json.dumps(found, indent=1) + "\n")
    budget = json.loads(BUDGET.read_text())
    for path, counts in found.items():
        print(f"{path:45}", ", ".join(f"{value:9.1f} {name}" for name, value in counts.items()))
    problems = exceeded(found, budget)
    for problem in problems:
        print(f"EXCEEDED: {problem}")
    if problems:
        print("mend it, or change the budget in the same commit and say why: --update")
    return 1 if problems else 0


class Counter:
    """A counter of the calls or the bytecodes of this thread between `start` and `stop`.

    Logging is off in between, since its cost depends on handlers and levels that other code has set. The
    cyclic garbage collector is off as well: its runs depend on all earlier allocations of the process, and
    the finalizers, callbacks of weak references and hooks in `gc.callbacks` that it calls are not counted.
    """

    def __init__(self, *, bytecodes: bool) -> None:
        self.counts = {"bytecodes": 0} if bytecodes else {"python_calls": 0, "c_calls": 0}
        self._bytecodes = bytecodes
        self._traced = sys.gettrace()
        """The trace function that was set before, such as that of coverage; `stop` sets it again."""
        self._collected = gc.isenabled()
        self._logged = logging.NOTSET

    def start(self) -> None:
        """Switch logging off, collect all garbage, switch the collector off, and begin to count."""
        self._logged = logging.root.manager.disable
        logging.disable()
        gc.collect()
        gc.disable()
        sys.settrace(None)
        if self._bytecodes:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None:  # Frames that run already, such as a task of the loop.
                frame.f_trace, frame.f_trace_opcodes = self._stepped, True
                frame = frame.f_back
            sys.settrace(self._entered)  # Python 3.12 checks only here whether a frame asks for its opcodes.
        else:
            sys.setprofile(self._called)

    def stop(self) -> None:
        """End the count, and restore the trace function, logging and the collector."""
        sys.setprofile(None)
        sys.settrace(self._traced)
        logging.disable(self._logged)
        if self._collected:
            gc.enable()

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.counts["python_calls"] += 1
        elif event == "c_call":
            self.counts["c_calls"] += 1

    def _entered(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.counts["bytecodes"] += 1
        return self._stepped


def count_core(observers: int, count: int = 1_024) -> Counts:
    """Count the steps of the core for an event, or for its delivery to one submitter or observer."""
    counts: Counts = {}
    for bytecodes in (False, True):
        core, counter = Core(observers), Counter(bytecodes=bytecodes)
        core.emit(WARM)
        _counted(counter, partial(core.emit, count))
        counts |= {name: value / count / (observers + 1) for name, value in counter.counts.items()}
    return counts


def count_drivers(do: Callable[..., Awaitable[object]], *arguments: Any, count: int = 512) -> Counts:
    """Count the steps of drivers and core for one of the `count` events or jobs that `do` runs."""
    counts: Counts = {}
    for bytecodes in (False, True):
        counter = Counter(bytecodes=bytecodes)
        simulated.run(partial(_counted_pair, counter, do, arguments, count))
        counts |= {name: value / count for name, value in counter.counts.items()}
    return counts


def _counted(counter: Counter, do: Callable[[], object]) -> None:
    counter.start()
    try:
        do()
    finally:
        counter.stop()


async def _counted_pair(
    counter: Counter, do: Callable[..., Awaitable[object]], arguments: tuple[Any, ...], count: int
) -> None:
    async with Pair.open() as pair:
        await do(pair, WARM, *arguments)
        counter.start()
        try:
            await do(pair, count, *arguments)
        finally:
            counter.stop()


if __name__ == "__main__":
    sys.exit(main())
