"""The benchmarks: figures, targets, plots, the guard of hot paths, and servers for the load client."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from arcp_proto.server import agent_api
from arcp_proto.wire.event_bodies import Body
from benchmarks import guard, readme, simulated
from benchmarks.case import Case, Implementation, Metrics, Row, Scenario
from benchmarks.figures import FIGURES, Figures, as_json
from benchmarks.in_memory import Pair
from benchmarks.load import Session
from benchmarks.process import Server, serving
from benchmarks.runner import Runner, rows_of
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.a_events import events
from benchmarks.scenarios.b_jobs import throughput
from benchmarks.scenarios.c_observers import fan_out
from benchmarks.scenarios.d_resume import replay
from benchmarks.svg import PLOTS, drawn, lines_of
from benchmarks.table import lines, number, ratio
from benchmarks.targets import TARGETS, To, verdicts

ASYNCIO, TRIO, PEER, FLOOR = (Implementation(name) for name in ("asyncio", "trio", "peer", "floor"))
OURS_AND_FLOOR = [name for name in Implementation if name is not PEER]


def _rows(case: str = "burst n=20000") -> list[Row]:
    return rows_of(
        "a",
        case,
        {
            ASYNCIO: {"server_cpu_us": [2.0, 1.0, 3.0]},
            PEER: {"server_cpu_us": [20.0, 20.0, 21.0]},
            FLOOR: {"server_cpu_us": [1.0, 1.0]},
        },
    )


def test_a_row_has_the_median_the_spread_and_the_ratios() -> None:
    assert _rows()[0] == Row(
        "a", "burst n=20000", ASYNCIO, "server_cpu_us", 2.0, (1.0, 3.0), ratio_to_peer=0.1, ratio_to_floor=2.0
    )


def test_without_a_peer_there_is_no_ratio_to_it() -> None:
    (row,) = rows_of("a", "case", {ASYNCIO: {"p50_us": [1.0]}})
    assert (row.ratio_to_peer, row.ratio_to_floor) == (None, None)


def test_the_report_is_json() -> None:
    assert json.loads(json.dumps(as_json(_rows())))[0] == {
        "scenario": "a",
        "case": "burst n=20000",
        "implementation": "asyncio",
        "metric": "server_cpu_us",
        "value": 2.0,
        "spread": [1.0, 3.0],
        "ratio_to_peer": 0.1,
        "ratio_to_floor": 2.0,
    }


def test_the_table_shows_figures_and_ratios() -> None:
    head, figures, ratios = lines(_rows())
    assert head == "a burst n=20000"
    assert figures.split() == ["server_cpu_us", "2", "[1", "3]", "20", "[20", "21]", "1"]
    assert ratios.split() == ["1/10", "peer", "2", "floor", "1/20", "peer"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (12.34, "12.3"), (1234.5, "1234"), (43_800, "43.8k"), (2e6, "2M")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.1, "1/10"), (0.6, "0.6"), (13.0, "13")])
def test_ratios_below_one_half_are_fractions(value: float, text: str) -> None:
    assert ratio(value) == text


def _figures(rows: list[Row], scale: float = 1.0) -> Figures:
    figures = Figures()
    for letter in {row.scenario for row in rows}:
        figures.replace(letter, [row for row in rows if row.scenario == letter], {"scale": scale})
    return figures


def test_a_target_is_held_missed_or_not_measured() -> None:
    to_peer, to_floor = verdicts(_figures(_rows()))
    assert (to_peer.value, to_peer.holds, to_peer.reaches_aim) == (0.1, True, False)
    assert (to_floor.value, to_floor.holds, to_floor.reaches_aim) == (2.0, True, False)
    assert str(to_peer).startswith("held")


def test_absolute_targets_are_scaled_and_others_are_not() -> None:
    samples = {ASYNCIO: {"first_event_ms": [6.0]}}
    (found,) = verdicts(_figures(rows_of("a", "burst n=20000", samples), scale=4.0))
    assert (found.value, found.holds, found.reaches_aim) == (1.5, True, False)
    rows = rows_of("g", "500 idle sessions", {ASYNCIO: {"session_kb": [13.0]}})
    (found,) = verdicts(_figures(rows, scale=4.0))
    assert (found.value, found.holds) == (13.0, False)
    assert str(found).startswith("MISSED")


def test_a_measurement_scales_by_the_peer_of_the_same_run_and_not_by_the_loop() -> None:
    samples = {ASYNCIO: {"replay_ms": [40.0]}, PEER: {"replay_ms": [980.0]}}
    (found,) = verdicts(_figures(rows_of("d", "n=10000", samples), scale=1.0))
    assert (found.value, found.holds) == (20.0, True)


def test_slices_of_a_run_are_one_file(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert Figures.read(file).rows == []
    for rows in (_rows("old"), rows_of("b", "case", {ASYNCIO: {"p50_us": [1.0]}}), _rows("new")):
        figures = Figures.read(file)
        figures.machine = {"cores": 2}
        figures.replace(rows[0].scenario, rows, {"scale": 2.0})
        figures.write(file)
    assert [row.case for row in Figures.read(file).rows] == ["new", "new", "new", "case"]
    assert Figures.read(file).rows[:3] == _rows("new")
    assert Figures.read(file).scales() == {"a": 2.0, "b": 2.0}
    assert set(json.loads(file.read_text())) == {"machine", "runs", "rows"}


def test_the_pages_show_the_figures_that_are_committed() -> None:
    figures = Figures.read(FIGURES)
    short, text = readme.README.read_text(), readme.PERFORMANCE.read_text()
    assert readme.with_part(short, readme.in_short(figures)) == short
    assert readme.with_part(text, readme.part(figures)) == text
    for plot in PLOTS:
        picture = readme.PICTURES / f"{plot.file}.svg"
        assert picture.read_text() == drawn(plot, lines_of(plot, figures.rows))
        assert f"(../benchmarks/plots/{plot.file}.svg)" in text


def test_every_line_of_the_table_is_of_a_case_that_there_is() -> None:
    cases = {(scenario.letter, case.name) for scenario in SCENARIOS for case in scenario.cases}
    assert [line for line in readme.LINES if (line.scenario, line.case) not in cases] == []
    assert readme.IN_SHORT.keys() <= {line.what for line in readme.LINES}


def test_the_table_says_what_was_missed() -> None:
    samples = {ASYNCIO: {"server_cpu_us": [9.0]}, PEER: {"server_cpu_us": [20.0]}}
    figures = _figures(rows_of("a", "burst n=20000", samples))
    figures.machine = {"processor": "any", "cores": 2, "python": "3.11.7"}
    figures.runs["a"] |= {"quick": True, "seconds": 120}
    assert "Commits" not in readme.part(figures)
    figures.runs["a"]["commit"] = "1234567+"
    written = readme.part(figures)
    assert "Commits, as far as they were noted: a at 1234567+." in written
    assert "| a) event, agent never suspends: µs | 20 |  | 9 = 1/2.22 ✗ |" in written
    assert "* a burst n=20000, server_cpu_us, asyncio: 0.45 of the peer (must ≤ 0.111" in written
    assert "A quick run of 2 minutes on any, 2 cores" in written
    with pytest.raises(ValueError, match="marks"):
        readme.with_part("no marks", written)


def test_every_target_is_of_a_case_that_there_is() -> None:
    cases = {(scenario.letter, case.name) for scenario in SCENARIOS for case in scenario.cases}
    assert [target for target in TARGETS if (target.scenario, target.case) not in cases] == []
    others = [target for target in TARGETS if target.to is To.CASE]
    assert [target for target in others if (target.scenario, target.other_case) not in cases] == []


def test_every_plot_finds_its_cases() -> None:
    for plot in PLOTS:
        (scenario,) = (one for one in SCENARIOS if one.letter == plot.scenario)
        rows = [
            row
            for case in scenario.cases
            for row in rows_of(scenario.letter, case.name, {ASYNCIO: {plot.metric: [2.0]}})
        ]
        found = lines_of(plot, rows)
        assert len(found[ASYNCIO]) > 2
        root = ElementTree.fromstring(drawn(plot, found))
        assert root.tag.endswith("svg")


def test_repetitions_are_interleaved_and_a_failure_costs_only_its_own_figures() -> None:
    order: list[str] = []

    @contextmanager
    def opened(implementation: Implementation) -> Iterator[Implementation]:
        yield implementation

    def measure(implementation: Implementation) -> Metrics:
        order.append(implementation)
        if implementation is TRIO:
            raise RuntimeError("cannot")
        return {"ms": float(len(order))}

    runner = Runner(quick=True, implementations=[ASYNCIO, TRIO, FLOOR])
    scenario = Scenario(
        "x", "x", "", [Case("case", opened, measure), Case("slow", opened, measure, quick=False)]
    )
    (rows,) = runner.run(scenario)
    assert order == ["asyncio", "trio", "floor", "asyncio", "floor"]
    assert [(row.implementation, row.value) for row in rows] == [(ASYNCIO, 2.5), (FLOOR, 4.0)]
    assert len(runner.failures) == 1


@pytest.mark.parametrize("implementation", OURS_AND_FLOOR)
def test_servers_serve_the_load_client(implementation: Implementation) -> None:
    with serving()(implementation) as server:
        # The clock of another process may not advance during so short a run.
        assert any(events(200, False, server)["server_cpu_us"] > 0 for _ in range(50))
        assert throughput(50, 8, server)["jobs_per_s"] > 0
        assert fan_out(2, True, server)["deliveries_per_s"] > 0
        assert replay(200, server)["replay_ms"] > 0
        _check_page(server)


def _check_page(server: Server) -> None:
    with server.connect() as session:
        session.send("session.list_jobs", {"limit": 3})
        assert len(session.until("session.jobs")["payload"]["jobs"]) == 3


def test_the_load_client_takes_frames_cut_anywhere() -> None:
    event = b'{"type":"job.event","payload":{"message":"' + b"x" * 200 + b'"}}'
    end = b'{"type":"job.result","payload":{}}'
    stream = b"".join(_frame(message) for message in (event, event, end, event))
    for size in (1, 2, 3, 100, 10_000):
        pieces = iter([stream[start : start + size] for start in range(0, len(stream), size)])
        session = Session(lambda data: None, partial(next, pieces))
        assert session.until("job.result")["type"] == "job.result"
        while session.events < 3:
            session.receive()


def _frame(message: bytes) -> bytes:
    size = len(message)
    return b"\x81" + (bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + message


class _Garbage:
    """An object that refers to itself, whose finalizer is a Python function."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        pass


def _hook_of_the_collector(phase: str, info: dict[str, int]) -> None:
    pass


@pytest.fixture
def busy_collector() -> Iterator[None]:
    """Run the collector at nearly every allocation, with a hook that it calls each time."""
    threshold = gc.get_threshold()
    gc.callbacks.append(_hook_of_the_collector)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(_hook_of_the_collector)


@pytest.mark.parametrize("bytecodes", [False, True])
def test_the_guard_counts_the_same_each_time(busy_collector: None, bytecodes: bool) -> None:
    async def steps(count: int) -> None:
        async with Pair.open() as pair:
            await pair.emit(100, True)
            garbage.extend(_Garbage() for _ in range(count))
            garbage.clear()
            counter.start()
            try:
                await pair.emit(100, True)
            finally:
                counter.stop()

    found, garbage = [], list[_Garbage]()
    for count in (0, 50):
        counter = guard.Counter(bytecodes=bytecodes)
        simulated.run(partial(steps, count))
        found.append(counter.counts)
        assert gc.isenabled()
    assert found[0] == found[1]
    assert all(value > 100 for value in found[0].values())


def _some_paths() -> dict[str, guard.Counts]:
    return {
        "core: event": guard.count_core(0),
        "drivers: event": guard.count_drivers(Pair.emit, False),
    }


def test_the_guard_fails_on_a_planted_slowdown_and_only_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["guard"])
    monkeypatch.setattr(guard, "measure", _some_paths)
    assert guard.main() == 0
    assert "EXCEEDED" not in capsys.readouterr().out
    encode_body = agent_api.encode_body

    def slower(kind: str, body: Body | Mapping[str, Any]) -> bytes:
        for letter in "many a little makes a mickle" * 4:
            assert not (lambda text=letter: text.isupper())()
        return encode_body(kind, body)

    monkeypatch.setattr(agent_api, "encode_body", slower)
    counted = sys.version_info[:2] == guard.VERSION
    assert guard.main() == counted
    out = capsys.readouterr().out
    for path in ("core: event", "drivers: event"):
        for count in ("python_calls", "c_calls", "bytecodes"):
            assert bool(re.search(f"EXCEEDED: {path}: [0-9.]+ {count}", out)) == counted


def test_a_path_without_a_budget_is_reported() -> None:
    assert guard.exceeded({"new": {"c_calls": 1.0}}, {}) == ["new: c_calls has no budget"]
    assert guard.exceeded({"old": {"c_calls": 11.5}}, {"old": {"c_calls": 10.0}}) == [
        "old: 11.5 c_calls, +15% of 10.0"
    ]


def test_every_path_has_a_budget() -> None:
    budget = json.loads(guard.BUDGET.read_text())
    assert all(set(counts) == {"python_calls", "c_calls", "bytecodes"} for counts in budget.values())
