"""python -m benchmarks: measure everything side by side, and print the table of ratios.

Needs the extra `bench`; the peer's own environment is made below build/ when there is none. Client and server
are processes of their own, on cores of their own; CPU is what the operating system has counted for the one
that is measured. Repetitions take turns, so that what disturbs one disturbs all: the ratios of one run are
the result, figures alone are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from .case import Implementation, Row
from .environment import peer_environment
from .machine import CORES, REFERENCE_MS, allow_many_files, describe, pin
from .plots import write_plots
from .runner import Runner
from .scenarios import SCENARIOS
from .table import as_json, heading, lines
from .targets import verdicts


def main() -> int:
    """Run what was asked for; 1 when something could not be measured."""
    arguments = _parser().parse_args()
    allow_many_files()
    pin(CORES.client)
    if Implementation.PEER in arguments.implementations:
        peer_environment()
    runner = Runner(quick=arguments.quick, implementations=arguments.implementations)
    rows: list[Row] = []
    print(heading())
    for scenario in SCENARIOS:
        if not arguments.only or {scenario.letter, scenario.name} & set(arguments.only):
            for found in runner.run(scenario):
                rows += found
                print("\n".join(lines(found)), flush=True)
    speed = statistics.median(runner.calibrations)
    print(f"calibration {speed:.2f} ms, {speed / REFERENCE_MS:.2f} of the reference")
    print("\n".join(map(str, verdicts(rows, speed / REFERENCE_MS))))
    machine = {**describe(), "calibration_ms": speed, "scale": speed / REFERENCE_MS}
    if arguments.json is not None:
        report = {"machine": machine, "rows": as_json(rows)}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.plot is not None:
        write_plots(rows, arguments.plot)
    return 1 if runner.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure everything side by side."
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="a scenario, repeatable")
    parser.add_argument("--quick", action="store_true", help="the whole table in some minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
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
