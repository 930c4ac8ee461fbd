"""Costs: exact from the digits of the wire to the counter, reported as in §9.6, and reserved while open."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.recording import record, replay
from arcp_proto.server.jobs.spending import MAX_HOLDS
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire.event_bodies import Metric
from tests.unit.server.jobs.test_gate import ALL, EVERYTHING, Gate
from tests.unit.world import CONFIG, FEATURES, SEED, START, UNIX, World

REMAINING: Final = "cost.budget.remaining"


def budget(*amounts: str, **config: Any) -> Gate:
    return Gate({**EVERYTHING, "cost.budget": list(amounts)}, **config)


def numbers(gate: Gate, name: str = REMAINING) -> list[Any]:
    """Return the values of a metric, with their exact digits."""
    frames = [msgspec.json.decode(raw, type=dict[str, msgspec.Raw])["payload"] for raw in gate.peer.numbered]
    bodies = [msgspec.json.decode(frame, type=dict[str, Any]).get("body", {}) for frame in frames]
    return [body["value"] for body in bodies if body.get("name") == name]


def left(gate: Gate, currency: str = "USD") -> str:
    return str(gate.job.budget.left(currency))


def states(gate: Gate) -> Any:
    return gate.job.budget.remaining, gate.job.budget.held, gate.job.holds, gate.said()


# Metrics that spend.


def test_a_cost_reduces_the_counter_of_its_currency() -> None:
    gate = budget("USD:5.00", "EUR:1")
    gate.spend(0.25)
    assert gate.job.budget.remaining == {"USD": Decimal("4.75"), "EUR": Decimal(1)}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "costs", "value": 1, "unit": "USD"},
        {"name": "cost", "value": 1, "unit": "USD"},
        {"name": "Cost.x", "value": 1, "unit": "USD"},
        {"name": "tokens", "value": -1, "unit": "USD"},
        {"name": "cost.x", "value": 1},
        {"name": "cost.x", "value": 1, "unit": "usd"},
        {"name": "cost.x", "value": 1e300, "unit": "tokens"},
    ],
)
def test_other_metrics_spend_nothing(body: Any) -> None:
    gate = budget("USD:5")
    gate.world.emit(gate.id, "metric", body)
    assert left(gate) == "5"
    assert gate.said() == [("metric", body)]


@pytest.mark.parametrize("name", ["cost.", "cost.inference", "cost.budget", "cost.budget.remaining.of.mine"])
def test_every_metric_with_the_prefix_cost_spends(name: str) -> None:
    gate = budget("USD:5")
    gate.world.emit(gate.id, "metric", Metric(name, 1, "USD"))
    assert left(gate) == "4"


def test_an_agent_cannot_emit_cost_budget_remaining() -> None:
    gate = budget("USD:5")
    for body in ({"name": REMAINING, "value": 500, "unit": "USD"}, Metric(REMAINING, 500, "USD")):
        with pytest.raises(LocalProtocolError, match="only the runtime"):
            gate.world.emit(gate.id, "metric", body)
    assert states(gate) == ({"USD": 5}, {}, {}, [])


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.01,
        Decimal("-0.01"),
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        10**400,
        10**18,
        1e18,
        1e300,
        Decimal("1e400"),
        Decimal("1e999999"),
        Decimal("1e-41"),
        Decimal("0." + "1" * 65),
        5e-324,
        True,
        "1",
        None,
        [1],
    ],
)
def test_a_wrong_cost_raises_and_changes_nothing(value: Any) -> None:
    gate = budget("USD:5")
    with pytest.raises(LocalProtocolError):
        gate.spend(value)
    with pytest.raises(LocalProtocolError):
        gate.world.emit(gate.id, "metric", Metric("cost.x", value, "USD"))
    if value != "1":
        with pytest.raises(LocalProtocolError):
            gate.reserve(value)
    gate.reserve("1")
    before = states(gate)
    if value != "1":
        with pytest.raises(LocalProtocolError):
            gate.runtime.agents.settle(gate.id, 1, value, now=gate.world.now)
    assert states(gate) == before
    assert left(gate) == "5"


@pytest.mark.parametrize(
    ("value", "counted", "written"),
    [
        (0.1, "4.9", b"0.1"),
        (0.1 + 0.2, "4.69999999999999996", b"0.30000000000000004"),
        (1, "4", b"1"),
        (Decimal("1.10"), "3.9", b"1.1"),
        (
            Decimal("0.1234567890123456789012345"),
            "4.8765432109876543210987655",
            b"0.1234567890123456789012345",
        ),
        (1e-7, "4.9999999", b"0.0000001"),
        (Decimal("1E+1"), "-5", b"10"),
        (-0.0, "5", b"0"),
        (10**18 - 1, "-999999999999999994", b"999999999999999999"),
    ],
)
def test_a_cost_is_exact(value: Any, counted: str, written: bytes) -> None:
    gate = budget("USD:5")
    gate.spend(value)
    assert gate.job.budget.left("USD") == Decimal(counted)
    assert b'"value":' + written + b"," in gate.peer.numbered[0]


def test_a_thousand_cents_are_ten_dollars() -> None:
    gate = budget("USD:10")
    for _ in range(999):
        gate.spend(0.01)
    assert (left(gate), gate.ask()) == ("0.01", "")
    gate.spend(0.01)
    assert (left(gate), gate.ask()) == ("0.00", "BUDGET_EXHAUSTED")


def test_a_cost_without_a_budget_is_published_as_it_is() -> None:
    gate = Gate(EVERYTHING)
    gate.spend(Decimal("0.10"))
    assert gate.said() == [("metric", {"name": "cost.it", "value": 0.1, "unit": "USD"})]


def test_a_cost_counts_in_full_after_exhaustion_and_expiry() -> None:
    gate = budget("USD:1", expires=10)
    gate.spend(3)
    assert left(gate) == "-2"
    gate.world.advance(10.5)
    gate.spend(1)
    assert left(gate) == "-3"


def test_a_decimal_is_written_digit_by_digit_in_any_metric() -> None:
    gate = Gate(EVERYTHING)
    body = {"name": "ratio", "value": Decimal("-0.12345678901234567890"), "unit": None}
    gate.world.emit(gate.id, "metric", body)
    assert b'{"name":"ratio","value":-0.1234567890123456789}' in gate.peer.numbered[0]


# Reports of the remaining budget.


def test_the_remaining_budget_follows_the_cost() -> None:
    gate = budget("USD:5.00")
    gate.spend(0.5)
    assert gate.said() == [
        ("metric", {"name": "cost.it", "value": 0.5, "unit": "USD"}),
        ("metric", {"name": REMAINING, "value": 4.5, "unit": "USD"}),
    ]


def test_the_remaining_budget_is_reported_per_hundredth_of_its_start() -> None:
    gate = budget("USD:1.00")
    for _ in range(5):
        gate.spend(0.004)
    assert numbers(gate) == [0.988]
    gate.spend(0.002)
    assert numbers(gate) == [0.988, 0.978]


def test_the_remaining_budget_is_reported_when_it_reaches_zero() -> None:
    gate = budget("USD:1.00")
    gate.spend(0.995)
    gate.spend(0.004)
    assert numbers(gate) == [0.005]
    gate.spend(0.001)
    assert numbers(gate) == [0.005, 0]
    gate.spend(0.001)
    gate.spend(0.009)
    assert numbers(gate) == [0.005, 0, -0.01]


def test_a_cost_of_zero_reports_nothing_and_makes_no_record() -> None:
    gate = budget("USD:1.00", journal=True)
    gate.spend(0)
    assert numbers(gate) == []
    assert [type(made).__name__ for made in gate.world.records[-1:]] == ["Published"]


def test_a_warning_at_four_fifths_of_the_budget_is_sent_once() -> None:
    gate = budget("USD:1", "EUR:1")
    gate.spend(0.79)
    assert "status" not in dict(gate.said())
    gate.spend(0.01)
    gate.spend(0.1)
    assert [body for kind, body in gate.said() if kind == "status"] == [
        {"phase": "budget_warning", "message": "80 % of the budget of 1 USD are used; 0.2 are left"}
    ]
    gate.spend(1, "EUR")
    assert len([kind for kind, _ in gate.said() if kind == "status"]) == 2


def test_only_sessions_with_the_feature_get_the_remaining_budget() -> None:
    gate = budget("USD:1")
    without = gate.world.client(features=FEATURES)
    for observer in (without, late := gate.world.client(features=ALL)):
        observer.send("job.subscribe", {"job_id": gate.id})
    gate.spend(0.5)
    names = [
        [frame["payload"]["body"]["name"] for frame in peer.about(gate.id)]
        for peer in (gate.peer, without, late)
    ]
    assert names == [["cost.it", REMAINING], ["cost.it"], ["cost.it", REMAINING]]
    assert without.numbers() == [1]
    again = gate.world.client(features=FEATURES)
    again.send("job.subscribe", {"job_id": gate.id, "history": True})
    gate.world.advance(1)
    assert [frame["payload"]["body"]["name"] for frame in again.about(gate.id)] == ["cost.it"]


def test_job_accepted_shows_the_budget_and_job_subscribed_its_rest() -> None:
    gate = budget("USD:5.00", "EUR:1")
    gate.spend(0.75)
    accepted = gate.peer.of("job.accepted")[0]["payload"]
    assert accepted["budget"] == {"USD": 5, "EUR": 1}
    observer = gate.world.client()
    observer.send("job.subscribe", {"job_id": gate.id})
    assert observer.of("job.subscribed")[0]["payload"]["budget"] == {"USD": 4.25, "EUR": 1}


def test_a_repeated_key_shows_the_initial_budget() -> None:
    world = World()
    peer = world.client(features=ALL)
    submit = {"agent": "echo", "idempotency_key": "k", "lease_request": {"cost.budget": ["USD:5"]}}
    job = peer.submit(**submit)
    world.emit(job, "metric", {"name": "cost.x", "value": 1, "unit": "USD"})
    peer.send("job.submit", {"input": None, **submit})
    world.finish(job)
    peer.send("job.submit", {"input": None, **submit})
    assert [frame["payload"]["budget"] for frame in peer.of("job.accepted")] == [{"USD": 5}] * 3


# Holds.


def test_a_reservation_is_settled_with_its_actual_cost() -> None:
    gate = budget("USD:1.00")
    assert gate.runtime.agents.reserve(gate.id, "USD", "0.50", now=gate.world.now) == 1
    assert gate.runtime.agents.reserve(gate.id, "USD", Decimal("0.3"), now=gate.world.now) == 2
    assert (left(gate), gate.job.budget.free("USD")) == ("1.00", Decimal("0.2"))
    gate.runtime.agents.settle(gate.id, 1, 0.4, "cost.search", {"model": "m"}, now=gate.world.now)
    gate.world.take()
    assert gate.said() == [
        ("metric", {"name": "cost.search", "value": 0.4, "unit": "USD", "dimensions": {"model": "m"}}),
        ("metric", {"name": REMAINING, "value": 0.6, "unit": "USD"}),
    ]
    assert gate.job.budget.free("USD") == Decimal("0.3")
    gate.runtime.agents.settle(gate.id, 2, "0.7", now=gate.world.now)
    gate.world.take()
    assert (gate.job.budget.left("USD"), gate.job.budget.held) == (Decimal("-0.1"), {})
    assert gate.said()[2][1] == {"name": "cost.settled", "value": 0.7, "unit": "USD"}


def test_a_released_reservation_costs_nothing() -> None:
    gate = budget("USD:1")
    gate.reserve("0.5")
    gate.runtime.agents.release(gate.id, 1, now=gate.world.now)
    gate.world.take()
    assert states(gate) == ({"USD": 1}, {}, {}, [])


def test_a_reservation_is_settled_once() -> None:
    gate = budget("USD:1")
    gate.reserve("0.5")
    gate.runtime.agents.release(gate.id, 1, now=gate.world.now)
    for hold in (1, 2, 0, -1):
        with pytest.raises(LocalProtocolError, match="has no reservation"):
            gate.runtime.agents.release(gate.id, hold, now=gate.world.now)
        with pytest.raises(LocalProtocolError, match="has no reservation"):
            gate.runtime.agents.settle(gate.id, hold, 1, now=gate.world.now)
    gate.reserve("0.5")
    assert list(gate.job.holds) == [2]


@pytest.mark.parametrize("name", ["", "price", REMAINING, 7])
def test_the_metric_of_a_settlement_has_the_prefix_cost(name: Any) -> None:
    gate = budget("USD:1")
    gate.reserve("0.5")
    with pytest.raises(LocalProtocolError):
        gate.runtime.agents.settle(gate.id, 1, 1, name, now=gate.world.now)
    assert list(gate.job.holds) == [1]


@pytest.mark.parametrize("currency", ["", "U S", "x" * 33, "\udc80", 7, None])
def test_reserve_raises_for_a_wrong_currency(currency: Any) -> None:
    with pytest.raises(LocalProtocolError, match="is not a currency"):
        budget("USD:1").reserve(1, currency)


@pytest.mark.parametrize("amount", ["", "1e3", "-1", "+1", " 1", ".5", "1.", "NaN", "٣", "1_0", b"1", 1j])
def test_reserve_raises_for_a_wrong_amount(amount: Any) -> None:
    with pytest.raises(LocalProtocolError, match="a reservation"):
        budget("USD:1").reserve(amount)


def test_an_unbound_currency_can_be_reserved_and_settled() -> None:
    gate = budget("USD:1")
    assert gate.reserve(10**17, "EUR") == ""
    gate.runtime.agents.settle(gate.id, 1, "1.50", now=gate.world.now)
    gate.world.take()
    assert gate.said() == [("metric", {"name": "cost.settled", "value": 1.5, "unit": "EUR"})]
    assert gate.job.budget.counters() == {"USD": 1}


def test_the_number_of_reservations_is_limited() -> None:
    gate = budget("USD:1")
    for _ in range(MAX_HOLDS):
        gate.reserve("0.0001")
    with pytest.raises(LocalProtocolError, match="at most 1000 reservations"):
        gate.reserve("0.0001")


def test_a_refused_reservation_names_the_free_amount() -> None:
    gate = budget("USD:1.00")
    with pytest.raises(Denied) as denied:
        gate.runtime.agents.reserve(gate.id, "USD", "1.01", now=gate.world.now)
    assert str(denied.value) == "1.01 USD are asked for, and only 1 are left and not reserved"
    assert denied.value.details == {"capability": "cost.budget", "target": "USD"}
    gate.world.take()
    assert gate.job.holds == {}


def test_concurrent_operations_cannot_overspend_what_they_reserve() -> None:
    gate = budget("USD:1.00")
    granted = [code for code in (gate.reserve("0.3") for _ in range(10)) if code == ""]
    assert len(granted) == 3
    for hold in list(gate.job.holds):
        gate.runtime.agents.settle(gate.id, hold, "0.3", now=gate.world.now)
    assert gate.job.budget.left("USD") == Decimal("0.1")


def test_an_unsettled_reservation_is_spent_when_the_job_ends() -> None:
    gate = budget("USD:1.00")
    gate.reserve("0.4")
    job = gate.job
    gate.world.finish(gate.id)
    assert (job.budget.left("USD"), job.budget.held, job.holds) == (Decimal("0.6"), {}, {})


# Records.


def restored(gate: Gate, config: Any = None) -> Runtime:
    made = gate.world.records
    return Runtime.restore(config or gate.world.config, made, seed=bytes(32), now=gate.world.now, unix=UNIX)


def test_counters_and_reservations_survive_a_crash() -> None:
    agents = tuple(msgspec.structs.replace(agent, restartable=True) for agent in CONFIG.agents)
    gate = budget("USD:1.00", "EUR:2", journal=True, agents=agents)
    gate.spend(0.25)
    gate.reserve("0.25")
    gate.reserve("0.1", "EUR")
    gate.runtime.agents.settle(gate.id, 2, "0.1", now=gate.world.now)
    gate.world.take()
    runtime = restored(gate)
    job = state_of(runtime).jobs[gate.id]
    assert job.status == "running"
    assert job.budget.remaining == {"USD": Decimal("0.5"), "EUR": Decimal("1.9")}, "unsettled is spent"
    assert (job.holds, job.budget.held, job.hold_count) == ({}, {}, 2)
    assert runtime.agents.reserve(gate.id, "USD", "0.5", now=gate.world.now) == 3


def test_a_snapshot_holds_the_counters() -> None:
    gate = budget("USD:1.00", journal=True)
    gate.spend(0.25)
    gate.reserve("0.25")
    records = gate.runtime.snapshot()
    kept = Runtime.restore(gate.world.config, records, seed=bytes(32), now=START, unix=UNIX)
    assert state_of(kept).jobs[gate.id].budget.remaining == {"USD": Decimal("0.5")}
    assert kept.snapshot() == restored(gate).snapshot()


def test_a_replay_repeats_costs() -> None:
    lines: list[str] = []
    runtime = Runtime(CONFIG, seed=SEED, now=START, unix=UNIX)
    record(runtime, lines.append, keep_secrets=True)
    world = World(runtime=runtime)
    peer = world.client(features=ALL)
    job = peer.submit(lease_request={"cost.budget": ["USD:5"], "tool.call": ["t"]})
    world.emit(job, "metric", {"name": "cost.x", "value": Decimal("0.10"), "unit": "USD"})
    world.emit(job, "metric", Metric("cost.x", 0.3, "USD"))
    odd = {"value": {"$decimal": "1"}}
    world.emit(job, "x-vendor.acme.odd", odd)
    runtime.agents.reserve(job, "USD", Decimal("1.5"), now=world.now)
    runtime.agents.reserve(job, "USD", 1.25, now=world.now)
    runtime.agents.settle(job, 1, Decimal("1.25"), "cost.y", {"a": 1}, now=world.now)
    runtime.agents.release(job, 2, now=world.now)
    runtime.agents.authorize(job, "tool.call", "t", now=world.now)
    for refused in (
        lambda: runtime.agents.authorize(job, "tool.call", "rm", now=world.now),
        lambda: runtime.agents.reserve(job, "USD", 100, now=world.now),
        lambda: runtime.agents.upstream_exhausted(job, "no", now=world.now),
        lambda: world.emit(job, "tool_call", {"tool": "rm", "args": {}, "call_id": "c"}),
    ):
        with pytest.raises(Denied):
            refused()
    world.take()
    world.finish(job)
    again = replay(lines)
    assert [envelope for _, envelope in again.envelopes] == peer.raw
    assert peer.about(job)[4]["payload"]["body"] == odd
