"""python -m benchmarks.readme [FIGURES]: write figures into README.md and docs/performance.md; draw plots.

README.md has a few lines of the table, docs/performance.md has all of them and the plots. Without an argument
the figures are those of benchmarks/figures.json; the figures of a given file replace these.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from .case import Implementation, Row
from .environment import ROOT
from .figures import FIGURES, Figures
from .svg import PLOTS, write_plots
from .table import number, ratio
from .targets import (
    BURST,
    GATEWAY,
    IDLE_NODE,
    MORE_NODES,
    ONE_NODE,
    RESTORE,
    SUSPENDING,
    TARGETS,
    Target,
    To,
    Verdict,
    verdicts,
)

README: Final = ROOT / "README.md"
PERFORMANCE: Final = ROOT / "docs" / "performance.md"
PICTURES: Final = Path(__file__).with_name("plots")
BEGIN: Final = "<!-- Between here and the end of figures `python -m benchmarks.readme` writes. -->\n"
END: Final = "<!-- The end of figures. -->\n"
OURS: Final = (Implementation.ASYNCIO, Implementation.UVLOOP, Implementation.TRIO)


class Line(NamedTuple):
    """A line of the table of figures."""

    what: str
    scenario: str
    case: str
    metric: str


LINES: Final = (
    Line("event, agent never suspends: µs", "a", BURST, "server_cpu_us"),
    Line("the same, events/s", "a", BURST, "events_per_s"),
    Line("event, agent suspends at each: µs", "a", SUSPENDING, "server_cpu_us"),
    Line("first of 20,000 events at the client: ms", "a", BURST, "first_event_ms"),
    Line("first of 100,000 events: ms", "a", "burst n=100000", "first_event_ms"),
    Line("submit → result, p50: µs of time", "b", "one after the other", "p50_us"),
    Line("job, 64 in flight: µs", "b", "64 in flight", "server_cpu_us"),
    Line("job, 1,024 in flight: µs", "b", "1024 in flight", "server_cpu_us"),
    Line("delivery to one of 100 observers: µs", "c", "100 observers", "server_cpu_us"),
    Line("the same, agent suspends: µs", "c", "100 observers, suspending", "server_cpu_us"),
    Line("replay of 10,000 events: ms", "d", "n=10000", "replay_ms"),
    Line("replay of 40,000 events: ms", "d", "n=40000", "replay_ms"),
    Line("page of 100 of 10,000 jobs: ms", "e", "10000 jobs", "server_cpu_ms"),
    Line("page of 100 of 100,000 jobs: ms", "e", "100000 jobs", "server_cpu_ms"),
    Line("16,000 idempotency keys, last quarter over first", "f", "16000 keys", "last_over_first"),
    Line("idle session: KB", "g", "500 idle sessions", "session_kb"),
    Line("buffered event: KB", "g", "20000 buffered events", "event_kb"),
    Line("finished job: KB", "g", "5000 finished jobs", "finished_job_kb"),
    Line("10,000 idle sessions: % of a core", "g", "10000 sessions, heartbeats every 30 s", "cpu_percent"),
    Line("client stalls for 2 s: MB", "h", "client stalls 2 s", "grown_mb"),
    Line("each dead observer, an event: µs", "h", "10 dead observers", "each_dead_cpu_us"),
    Line("each dead observer, an event: KB", "h", "10 dead observers", "each_dead_kb"),
    Line("others, while 1 of 100 stalls", "h", "1 of 100 observers stalls", "stalled_over_all_reading"),
    Line("30 MB result to its own client: MB/s", "i", "text, own client", "mb_per_s"),
    Line("30 MB result, peak above idle: MB", "i", "text, load client", "peak_mb"),
    Line("client, an event: µs", "j", "receive n=20000", "client_cpu_us"),
    Line("stdio: events/s", "k", "burst n=20000", "events_per_s"),
    Line("SQLite journal, NORMAL: events/s", "l", "normal n=5000", "events_per_s"),
    Line("SQLite journal, FULL: events/s", "l", "full n=5000", "events_per_s"),
    Line("`authorize`, 64 patterns: µs", "m", "authorize, 64 patterns", "authorize_cpu_us"),
    Line("event, core alone: µs", "n", "events n=20000", "cpu_us"),
    Line("`import arcp_io`: ms of time", "o", "import", "ms"),
    Line("process start → first welcome: ms of time", "o", "start to first welcome", "ms"),
    Line("`arcp-io --version`: ms of time", "o", "--version", "ms"),
    Line("event, one node on PostgreSQL: µs", "p", ONE_NODE, "postgres_server_cpu_us"),
    Line("the same over one on SQLite FULL", "p", ONE_NODE, "postgres_over_sqlite"),
    Line("the same, of PostgreSQL itself: µs", "p", ONE_NODE, "store_cpu_us"),
    Line("submit → result on PostgreSQL, p50: ms of time", "p", ONE_NODE, "postgres_job_p50_ms"),
    Line("submit → result on SQLite FULL, p50: ms of time", "p", ONE_NODE, "sqlite_job_p50_ms"),
    Line("a commit of PostgreSQL alone, p50: ms of time", "p", ONE_NODE, "commit_p50_ms"),
    Line("one node, 8 clients: events/s", "p", MORE_NODES, "nodes_1_events_per_s"),
    Line("event on 2 nodes, half of them relayed, over 1", "p", MORE_NODES, "nodes_2_over_1"),
    Line("event on 4 nodes, 3/4 of them relayed, over 1", "p", MORE_NODES, "nodes_4_over_1"),
    Line("2 nodes over 1, without what they take idle", "p", MORE_NODES, "nodes_2_over_1_without_beats"),
    Line("4 nodes over 1, without what they take idle", "p", MORE_NODES, "nodes_4_over_1_without_beats"),
    Line("events/s of 2 nodes over 1", "p", MORE_NODES, "nodes_2_speed_over_1"),
    Line("events/s of 4 nodes over 1", "p", MORE_NODES, "nodes_4_speed_over_1"),
    Line("event, of a gateway: µs", "p", GATEWAY, "relayed_gateway_cpu_us"),
    Line("event, of gateway and owner over the owner alone", "p", GATEWAY, "relayed_over_direct"),
    Line("round trip, added by a gateway: ms of time", "p", GATEWAY, "added_request_ms"),
    Line("idle node with 128 shards: % of a core", "p", IDLE_NODE, "cpu_percent"),
    Line("the same, of PostgreSQL: % of a core", "p", IDLE_NODE, "store_cpu_percent"),
    Line("the same, beyond a server with SQLite: MB", "p", IDLE_NODE, "memory_mb"),
    Line("restore of 100,000 records: ms of time", "p", RESTORE, "ms_of_100k_records"),
)


IN_SHORT: Final[Mapping[str, str]] = {
    "event, agent never suspends: µs": "CPU of the server for an event: µs",
    "submit → result, p50: µs of time": "time from a submit to its result, p50: µs",
    "job, 64 in flight: µs": "CPU of the server for a job, 64 in flight: µs",
    "delivery to one of 100 observers: µs": "CPU for an event to one of 100 observers: µs",
    "replay of 10,000 events: ms": "replay of 10,000 events after a resume: ms",
    "idle session: KB": "memory of an idle session: KB",
    "SQLite journal, FULL: events/s": "events/s into an SQLite journal, synced to the disk",
    "`import arcp_io`: ms of time": "`import arcp_io`: ms",
}
"""The lines of the table that README.md shows as well, with their names on that page."""


def main() -> int:
    """Write the figures and the plots into both pages; return 0."""
    if sys.argv[1:]:
        Figures.read(Path(sys.argv[1])).write(FIGURES)
    figures = Figures.read(FIGURES)
    README.write_text(with_part(README.read_text(), in_short(figures)))
    PERFORMANCE.write_text(with_part(PERFORMANCE.read_text(), part(figures)))
    write_plots(figures.rows, PICTURES)
    return 0


def with_part(text: str, written: str) -> str:
    """Return a page with `written` between its marks; raises ValueError when it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the marks of the figures are missing")
    return f"{before}{BEGIN}\n{written}\n{END}{after}"


def in_short(figures: Figures) -> str:
    """Return the lines of the table that README.md shows: the peer, and arcp-io on two loops."""
    found = _rows_by_line(figures)
    names = (Implementation.PEER, Implementation.ASYNCIO, Implementation.TRIO)
    written = ["| | PyPI | asyncio | trio |", "|---|---:|---:|---:|"]
    for line in LINES:
        rows = found.get((line.scenario, line.case, line.metric))
        if rows and line.what in IN_SHORT:
            cells = [_value(rows.get(name)) for name in names]
            written.append(f"| {IN_SHORT[line.what]} | {' | '.join(cells)} |")
    return "\n".join([*written, ""])


def _rows_by_line(figures: Figures) -> dict[tuple[str, str, str], dict[Implementation, Row]]:
    found: dict[tuple[str, str, str], dict[Implementation, Row]] = defaultdict(dict)
    for row in figures.rows:
        found[row.scenario, row.case, row.metric][row.implementation] = row
    return found


def part(figures: Figures) -> str:
    """Return the table, the targets that were missed, and the plots, for docs/performance.md."""
    found = _rows_by_line(figures)
    stand: dict[tuple[str, str, str, Implementation], list[Verdict]] = defaultdict(list)
    for verdict in verdicts(figures):
        stand[*_place(verdict.target), verdict.target.implementation].append(verdict)
    names = ("PyPI", "floor", *OURS, "must", "aim")
    written = [f"| | {' | '.join(names)} |", f"|---{'|---:' * (len(names) - 2)}|---|---|"]
    for line in LINES:
        place = (line.scenario, line.case, line.metric)
        if rows := found.get(place):
            cells = [_value(rows.get(Implementation.PEER)), _value(rows.get(Implementation.FLOOR))]
            cells += [_ours(rows.get(name), stand.get((*place, name), ())) for name in OURS]
            cells += [_bounds(line, "must"), _bounds(line, "aim")]
            written.append(f"| {line.scenario}) {line.what} | {' | '.join(cells)} |")
    missed = [f"* {verdict.text}" for verdict in verdicts(figures) if not verdict.holds]
    written += ["", _about(figures), ""]
    written += ["These musts are missed:", "", *missed, ""] if missed else ["All musts hold.", ""]
    written += [f"![{plot.title}](../benchmarks/plots/{plot.file}.svg)" for plot in PLOTS]
    return "\n".join([*written, ""])


def _place(target: Target) -> tuple[str, str, str]:
    return target.scenario, target.case, target.metric


def _value(row: Row | None) -> str:
    return "" if row is None else number(row.value)


def _ours(row: Row | None, stand: Iterable[Verdict]) -> str:
    if row is None:
        return ""
    mark = _mark(list(stand))
    of_peer = f" = {ratio(row.ratio_to_peer)}" if row.ratio_to_peer and row.ratio_to_peer > 0 else ""
    return f"{number(row.value)}{of_peer}{mark}"


def _mark(stand: list[Verdict]) -> str:
    """Return the mark of the targets of one figure: missed, held, or better than the aim."""
    if not stand:
        return ""
    if not all(one.holds for one in stand):
        return " ✗"
    return " ✓✓" if all(one.reaches_aim for one in stand) else " ✓"


def _bounds(line: Line, which: str) -> str:
    """Return the bounds of a line on asyncio, and those on trio where they differ."""
    bounds: dict[Implementation, list[str]] = defaultdict(list)
    for target in TARGETS:
        if _place(target) == (line.scenario, line.case, line.metric):
            bounds[target.implementation].append(
                _bound(target, target.must if which == "must" else target.aim)
            )
    asyncio, trio = (", ".join(bounds[name]) for name in (Implementation.ASYNCIO, Implementation.TRIO))
    return f"{asyncio}; trio {trio}" if trio and trio != asyncio else asyncio


def _bound(target: Target, value: float) -> str:
    match target.to:
        case To.PEER:
            return f"{ratio(value)} PyPI"
        case To.FLOOR:
            return f"{ratio(value)} floor"
        case To.ASYNCIO:
            return f"{ratio(value)} asyncio"
        case To.CASE:
            return f"{number(value)} of that of {target.other_case}"
        case To.REFERENCE | To.PLAIN:
            return number(value)


def _about(figures: Figures) -> str:
    machine, runs, scales = figures.machine, figures.runs.values(), sorted(figures.scales().values())
    quick = {run["quick"] for run in runs}
    kind = "whole" if quick == {False} else "quick" if quick == {True} else "partly quick"
    minutes = sum(run["seconds"] for run in runs) / 60
    commits = [f"{letter} at {run['commit']}" for letter, run in figures.runs.items() if run.get("commit")]
    return (
        f"A {kind} run of {minutes:.0f} minutes on {machine['processor']}, {machine['cores']} cores, "
        f"CPython {machine['python']}; a fixed loop takes {scales[0]:.2f} to {scales[-1]:.2f} times as long "
        "as on the machine of the absolute bounds."
        + (f" Commits, as far as they were noted: {', '.join(commits)}." if commits else "")
    )


if __name__ == "__main__":
    sys.exit(main())
