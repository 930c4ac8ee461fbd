"""The file of figures, `{"machine": …, "runs": …, "rows": …}`, written by slices of a run one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from .case import Implementation, Row

FIGURES: Final = Path(__file__).with_name("figures.json")
"""The figures that README.md and docs/performance.md show."""


@dataclass
class Figures:
    """What was measured; a scenario that is measured again replaces what there was of it."""

    machine: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By letter of the scenario: `calibration_ms`, `scale` (how much slower than the machine of the targets
    this one was), `quick`, the `seconds` that it took, and the `commit` that ran, with a plus if files
    differed from it."""
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Self:
        """What the file says; nothing when there is no file."""
        if not file.exists():
            return cls()
        report = json.loads(file.read_text())
        return cls(report["machine"], report["runs"], [_row(row) for row in report["rows"]])

    def write(self, file: Path) -> None:
        """Replace the file, in one step: who is interrupted loses only what was not written."""
        anew = file.with_name(f"{file.name}.new")
        anew.write_text(self.text())
        anew.replace(file)

    def text(self) -> str:
        """What is in the file: a row a line."""
        runs = ",\n".join(f"  {json.dumps(letter)}: {json.dumps(run)}" for letter, run in self.runs.items())
        rows = ",\n".join(f"  {json.dumps(row)}" for row in as_json(self.rows))
        machine = json.dumps(self.machine)
        return f'{{\n "machine": {machine},\n "runs": {{\n{runs}\n }},\n "rows": [\n{rows}\n ]\n}}\n'

    def replace(self, scenario: str, rows: Iterable[Row], run: dict[str, Any]) -> None:
        """A scenario was measured."""
        self.runs = dict(sorted({**self.runs, scenario: run}.items()))
        others = [row for row in self.rows if row.scenario != scenario]
        self.rows = sorted([*others, *rows], key=lambda row: row.scenario)

    def scales(self) -> dict[str, float]:
        """Of each scenario."""
        return {letter: float(run["scale"]) for letter, run in self.runs.items()}


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The `rows` of a report."""
    return [
        {
            "scenario": row.scenario,
            "case": row.case,
            "implementation": str(row.implementation),
            "metric": row.metric,
            "value": _short(row.value),
            "spread": [_short(value) for value in row.spread],
            "ratio_to_peer": None if row.ratio_to_peer is None else _short(row.ratio_to_peer),
            "ratio_to_floor": None if row.ratio_to_floor is None else _short(row.ratio_to_floor),
        }
        for row in rows
    ]


def _short(value: float) -> float:
    """Five digits: more are noise."""
    return float(f"{value:.5g}")


def _row(values: dict[str, Any]) -> Row:
    low, high = values["spread"]
    implementation = Implementation(values["implementation"])
    return Row(**{**values, "implementation": implementation, "spread": (low, high)})
