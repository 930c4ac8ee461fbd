"""Scaling plots as SVG: both axes are logarithmic, and each implementation has a line."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from .case import Row

COLOURS: Final = {
    "asyncio": "#1f77b4",
    "uvloop": "#17becf",
    "trio": "#2ca02c",
    "peer": "#d62728",
    "floor": "#7f7f7f",
}
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 90, 36, 48

Point = tuple[float, float]


class Plot(NamedTuple):
    """A metric of one scenario, against the number in the names of its cases."""

    file: str
    title: str
    scenario: str
    case: str
    """A regular expression of the whole name of a case, with a group that is the number."""
    metric: str
    across: str
    up: str


PLOTS: Final = (
    Plot("events", "Events of one job", "a", r"burst n=(\d+)", "events_per_s", "events", "events/s"),
    Plot("replay", "Replay of a session", "d", r"n=(\d+)", "replay_ms", "events waiting", "ms"),
    Plot("listing", "A page of 100 jobs", "e", r"(\d+) jobs", "page_ms", "jobs", "ms"),
    Plot("observers", "Fan-out", "c", r"(\d+) observers", "deliveries_per_s", "observers", "deliveries/s"),
)


def write_plots(rows: Iterable[Row], place: Path) -> list[Path]:
    """Write every plot that has at least two points; return the files."""
    rows, written = list(rows), []
    place.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        lines = lines_of(plot, rows)
        if any(len(points) > 1 for points in lines.values()):
            written.append(place / f"{plot.file}.svg")
            written[-1].write_text(drawn(plot, lines))
    return written


def lines_of(plot: Plot, rows: Iterable[Row]) -> dict[str, list[Point]]:
    """Return the points of each implementation, from left to right."""
    lines: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        number = re.fullmatch(plot.case, row.case)
        if row.scenario == plot.scenario and row.metric == plot.metric and number and row.value > 0:
            lines[row.implementation].append((float(number[1]), row.value))
    return {name: sorted(points) for name, points in lines.items()}


def drawn(plot: Plot, lines: Mapping[str, Sequence[Point]]) -> str:
    """Return the plot as SVG."""
    across = _Axis([x for points in lines.values() for x, _ in points], LEFT, WIDTH - RIGHT)
    up = _Axis([y for points in lines.values() for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 20, plot.title, "start", ' font-size="15" font-weight="bold"'),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, plot.across),
        _text(8, TOP - 4, plot.up, "start"),
    ]
    for value in across.ticks():
        x = across.place(value)
        parts += [_line(x, TOP, x, HEIGHT - BOTTOM), _text(x, HEIGHT - BOTTOM + 18, _short(value))]
    for value in up.ticks():
        y = up.place(value)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 6, y + 4, _short(value), "end")]
    ends: list[float] = []
    for name, points in sorted(lines.items(), key=lambda item: up.place(item[1][-1][1])):
        places = [(across.place(x), up.place(y)) for x, y in points]
        colour = COLOURS[name]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        label = max([places[-1][1] + 4, *(end + 14 for end in ends[-1:])])
        ends.append(label)
        parts.append(_text(places[-1][0] + 8, label, name, "start", f' fill="{colour}"'))
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """A logarithmic axis over whole powers of ten."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low = math.floor(math.log10(min(values)) + 1e-9)
        self._high = max(self._low + 1, math.ceil(math.log10(max(values)) - 1e-9))
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'
