"""python -m benchmarks: measure all implementations side by side, and print the table of ratios.

Needs the extra `bench`; the run makes the peer's own environment below build/ when it is missing. Client and
server are processes of their own, on cores of their own; CPU is the time that the operating system counts for
the measured process. Repetitions take turns, so that a disturbance of the machine disturbs all
implementations: the result is the ratios of one run, not its absolute figures. `--json` replaces the figures
of the measured scenarios in the file and keeps the others, so that a whole run can be done in slices.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from .case import Implementation
from .environment import commit, peer_environment
from .figures import Figures
from .machine import CORES, REFERENCE_MS, allow_many_files, describe, pin
from .runner import Runner
from .scenarios import SCENARIOS
from .svg import write_plots
from .table import heading, lines
from .targets import verdicts


def main() -> int:
    """Run the chosen scenarios; return 1 when a case could not be measured."""
    arguments = _parser().parse_args()
    allow_many_files()
    pin(CORES.client)
    chosen = [
        scenario
        for scenario in SCENARIOS
        if not arguments.only or {scenario.letter, scenario.name} & set(arguments.only)
    ]
    taking_part = {name for scenario in chosen for case in scenario.cases for name in case.implementations}
    if Implementation.PEER in taking_part & set(arguments.implementations):
        peer_environment()
    runner = Runner(quick=arguments.quick, implementations=arguments.implementations)
    figures = Figures() if arguments.json is None else Figures.read(arguments.json)
    measured = set()
    print(heading())
    for scenario in chosen:
        rows, start = [], time.perf_counter()
        for found in runner.run(scenario):
            rows += found
            print("\n".join(lines(found)), flush=True)
        speed = statistics.median(runner.calibrations)
        runner.calibrations.clear()
        run = {
            "calibration_ms": round(speed, 3),
            "scale": round(speed / REFERENCE_MS, 3),
            "quick": arguments.quick,
            "seconds": round(time.perf_counter() - start),
            "commit": commit(),
        }
        figures.machine = describe()
        figures.replace(scenario.letter, rows, run)
        measured.add(scenario.letter)
        if arguments.json is not None:
            figures.write(arguments.json)
    print(_speed(figures, measured))
    print("\n".join(str(found) for found in verdicts(figures) if found.target.scenario in measured))
    if arguments.plot is not None:
        write_plots(figures.rows, arguments.plot)
    return 1 if runner.failures else 0


def _speed(figures: Figures, measured: set[str]) -> str:
    runs = {letter: run for letter, run in figures.runs.items() if letter in measured}
    took = ", ".join(f"{letter} {run['seconds']}" for letter, run in runs.items())
    scale = statistics.median(run["scale"] for run in runs.values()) if runs else 1.0
    return (
        f"{sum(run['seconds'] for run in runs.values())} s ({took}); "
        f"this machine takes {scale:.2f} times as long as the reference"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure everything side by side."
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="a scenario, repeatable")
    parser.add_argument("--quick", action="store_true", help="the whole table in less than five minutes")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures, over those of the same scenarios"
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write the scaling plots, as SVG")
    parser.add_argument(
        "--implementations",
        type=lambda names: [Implementation(name) for name in names.split(",")],
        default=list(Implementation),
        metavar="NAMES",
        help="only these, separated by commas",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
