"""The table of figures, as text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final

from .case import Implementation, Row

WIDTH: Final = 22


def heading() -> str:
    """Return the first line of the table."""
    names = "".join(f"{name:>{WIDTH}}" for name in Implementation)
    return f"{'':30}{names}"


def lines(rows: Iterable[Row]) -> list[str]:
    """Return two lines for each metric of a case: medians with spreads, and ratios to peer and floor."""
    written: list[str] = []
    for (scenario, case, metric), group in groupby(sorted(rows, key=_place), key=_place):
        by_implementation = {row.implementation: row for row in group}
        figures = "".join(_right(by_implementation.get(name), _figure) for name in Implementation)
        ratios = "".join(_right(by_implementation.get(name), _ratios) for name in Implementation)
        written += [f"{scenario} {case}", f"  {metric:28}{figures}"]
        if ratios.strip():
            written.append(f"{'':30}{ratios}")
    return _without_repeated_names(written)


def number(value: float) -> str:
    """Return a number with three digits, or with all digits before the point."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(value: float) -> str:
    """Return a ratio as a fraction when it is below one half: 1/9 in place of 0.11."""
    return f"1/{number(1 / value)}" if 0 < value < 0.5 else number(value)


def _place(row: Row) -> tuple[str, str, str]:
    return row.scenario, row.case, row.metric


def _right(row: Row | None, text: Any) -> str:
    return f"{'' if row is None else text(row):>{WIDTH}}"


def _figure(row: Row) -> str:
    low, high = row.spread
    if low == high:
        return number(row.value)
    return f"{number(row.value)} [{number(low)} {number(high)}]"


def _ratios(row: Row) -> str:
    parts = []
    if row.ratio_to_peer is not None and row.implementation != "peer":
        parts.append(f"{ratio(row.ratio_to_peer)} peer")
    if row.ratio_to_floor is not None and row.implementation not in ("floor", "peer"):
        parts.append(f"{ratio(row.ratio_to_floor)} floor")
    return " ".join(parts)


def _without_repeated_names(written: Iterable[str]) -> list[str]:
    kept: list[str] = []
    last = ""
    for line in written:
        if line.startswith(" "):
            kept.append(line)
        elif line != last:
            kept.append(line)
            last = line
    return kept
