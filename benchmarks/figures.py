"""The file of figures, `{"machine": …, "runs": …, "rows": …}`, to which each slice of a run adds."""

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
    """The figures of a file; a scenario that is measured again replaces its former rows."""

    machine: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Runs by the letter of the scenario: `calibration_ms`, `scale` (the time of a fixed loop over its time
    on the machine of the targets), `quick`, the `seconds` that the run took, and the `commit` that was
    measured, with a plus if files differed from it."""
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file of figures; return empty figures when the file does not exist."""
        if not file.exists():
            return cls()
        report = json.loads(file.read_text())
        return cls(report["machine"], report["runs"], [_row(row) for row in report["rows"]])

    def write(self, file: Path) -> None:
        """Replace the file in one step: an interrupted run keeps the scenarios that were written before."""
        anew = file.with_name(f"{file.name}.new")
        anew.write_text(self.text())
        anew.replace(file)

    def text(self) -> str:
        """Return the text of the file, with one row on each line."""
        runs = ",\n".join(f"  {json.dumps(letter)}: {json.dumps(run)}" for letter, run in self.runs.items())
        rows = ",\n".join(f"  {json.dumps(row)}" for row in as_json(self.rows))
        machine = json.dumps(self.machine)
        return f'{{\n "machine": {machine},\n "runs": {{\n{runs}\n }},\n "rows": [\n{rows}\n ]\n}}\n'

    def replace(self, scenario: str, rows: Iterable[Row], run: dict[str, Any]) -> None:
        """Replace the rows and the run of a scenario."""
        self.runs = dict(sorted({**self.runs, scenario: run}.items()))
        others = [row for row in self.rows if row.scenario != scenario]
        self.rows = sorted([*others, *rows], key=lambda row: row.scenario)

    def scales(self) -> dict[str, float]:
        """Return the scale of each scenario."""
        return {letter: float(run["scale"]) for letter, run in self.runs.items()}


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return rows as the `rows` of a report in JSON."""
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
    """Round to five digits, since further digits are noise."""
    return float(f"{value:.5g}")


def _row(values: dict[str, Any]) -> Row:
    low, high = values["spread"]
    implementation = Implementation(values["implementation"])
    return Row(**{**values, "implementation": implementation, "spread": (low, high)})
