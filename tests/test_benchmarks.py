"""The benchmarks measure what they say: figures, targets, plots, guard, and servers for the load client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from xml.etree import ElementTree

import pytest

from arcp_proto.runtime import Runtime
from benchmarks import guard, simulated
from benchmarks.case import Case, Implementation, Metrics, Row, Scenario
from benchmarks.in_memory import Pair
from benchmarks.load import Session
from benchmarks.plots import PLOTS, drawn, lines_of
from benchmarks.process import Server, serving
from benchmarks.runner import Runner, rows_of
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.a_events import events
from benchmarks.scenarios.b_jobs import throughput
from benchmarks.scenarios.c_observers import fan_out
from benchmarks.scenarios.d_resume import replay
from benchmarks.table import as_json, lines, number, ratio
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
def test_ratios_are_read_as_people_say_them(value: float, text: str) -> None:
    assert ratio(value) == text


def test_a_target_is_held_missed_or_not_measured() -> None:
    to_peer, to_floor = verdicts(_rows(), scale=1.0)
    assert (to_peer.value, to_peer.holds, to_peer.reaches_aim) == (0.1, True, False)
    assert (to_floor.value, to_floor.holds, to_floor.reaches_aim) == (2.0, True, False)
    assert str(to_peer).startswith("held")


def test_absolute_targets_are_scaled_and_others_are_not() -> None:
    samples = {ASYNCIO: {"first_event_ms": [6.0]}}
    (found,) = verdicts(rows_of("a", "burst n=20000", samples), scale=4.0)
    assert (found.value, found.holds, found.reaches_aim) == (1.5, True, False)
    (found,) = verdicts(rows_of("g", "500 idle sessions", {ASYNCIO: {"session_kb": [13.0]}}), scale=4.0)
    assert (found.value, found.holds) == (13.0, False)
    assert str(found).startswith("MISSED")


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
        assert events(200, False, server)["server_cpu_us"] > 0
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


def test_the_guard_counts_the_same_each_time() -> None:
    async def steps() -> None:
        async with Pair.open() as pair:
            await pair.emit(100, True)
            counter.start()
            try:
                await pair.emit(100, True)
            finally:
                counter.stop()

    found = []
    for _ in range(2):
        counter = guard.Counter(bytecodes=False)
        simulated.run(steps)
        found.append(counter.counts)
    assert found[0] == found[1]
    assert found[0]["python_calls"] > 100


def test_the_guard_finds_a_planted_slowdown(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"event": guard.count_core(0, 128)}
    assert guard.exceeded(before, before) == []
    publish = Runtime.publish

    def slower(*arguments: Any) -> None:
        for text in "abcdefghij":
            assert not (lambda text=text: text.isupper())()
        publish(*arguments)

    monkeypatch.setattr(Runtime, "publish", slower)
    after = {"event": guard.count_core(0, 128)}
    assert len(guard.exceeded(after, before)) == 3


def test_a_path_without_a_budget_is_told() -> None:
    assert guard.exceeded({"new": {"c_calls": 1.0}}, {}) == ["new: c_calls has no budget"]
    assert guard.exceeded({"old": {"c_calls": 11.5}}, {"old": {"c_calls": 10.0}}) == [
        "old: 11.5 c_calls, +15% of 10.0"
    ]


def test_every_path_has_a_budget() -> None:
    budget = json.loads(guard.BUDGET.read_text())
    assert all(set(counts) == {"python_calls", "c_calls", "bytecodes"} for counts in budget.values())
