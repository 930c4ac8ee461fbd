"""Amounts: grammar, exact arithmetic, JSON numbers."""

from __future__ import annotations

import json
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.errors import ErrorCode, InvariantViolated, Refusal
from arcp_proto.leases.budget import Budget, Hold, parse_amount, parse_budget, shown, to_cost, to_wire
from arcp_proto.wire import codec
from arcp_proto.wire.codec import decimal_json

numbers = st.one_of(
    st.from_regex(r"[0-9]{1,18}", fullmatch=True),
    st.from_regex(r"[0-9]{1,9}\.[0-9]{1,9}", fullmatch=True),
)


@pytest.mark.parametrize(
    ("text", "currency", "amount"),
    [
        ("USD:5.00", "USD", "5.00"),
        ("credits:1000", "credits", "1000"),
        ("EUR:0", "EUR", "0"),
        ("USD:007", "USD", "7"),
        ("x:0.000000001", "x", "0.000000001"),
        ("USD:999999999999999999", "USD", "999999999999999999"),
        ("USD:999999999.999999999", "USD", "999999999.999999999"),
        ("tokens_k:1", "tokens_k", "1"),
        ("GPU-4.h:1", "GPU-4.h", "1"),
        ("a" * 32 + ":1", "a" * 32, "1"),
    ],
)
def test_an_amount_is_a_currency_and_a_decimal(text: str, currency: str, amount: str) -> None:
    assert parse_amount(text) == (currency, Decimal(amount))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "USD",
        "USD:",
        ":5",
        "5",
        "USD:5.",
        "USD:.5",
        "USD:-5",
        "USD:+5",
        "USD:5e3",
        "USD:1E400",
        "USD:0x10",
        "USD:1_000",
        "USD:1,5",
        "USD: 5",
        "USD :5",
        " USD:5",
        "USD:5\n",
        "USD:5:5",
        "USD:NaN",
        "USD:Infinity",
        "USD:٥",
        "USD:1.2.3",
        "USD:1234567890123456789",
        "USD:1234567890.123456789",
        "USD:0.1234567890",
        "1USD:5",
        "_x:5",
        "ÜSD:5",
        "U SD:5",
        "a" * 33 + ":1",
        pytest.param("USD:" + "9" * 10_000, id="long"),
    ],
)
def test_a_text_that_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="is not an amount") as caught:
        parse_amount(text)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert not caught.value.fatal
    assert len(caught.value.message) < 300


@given(numbers)
def test_amounts_are_exact(number: str) -> None:
    currency, amount = parse_amount(f"USD:{number}")
    assert currency == "USD"
    whole, _, decimals = number.partition(".")
    assert amount * 10 ** len(decimals) == int(whole + decimals)


def test_a_lease_without_a_budget_has_no_counters() -> None:
    assert parse_budget({}) == {}
    assert parse_budget({"fs.read": ["/**"]}) == {}


def test_each_currency_has_its_counter_in_the_order_of_the_lease() -> None:
    budget = parse_budget({"cost.budget": ["credits:10", "USD:5.00", "usd:1"], "fs.read": ["/**"]})
    assert list(budget.items()) == [("credits", Decimal(10)), ("USD", Decimal(5)), ("usd", Decimal(1))]


def test_the_same_currency_twice_is_summed() -> None:
    assert parse_budget({"cost.budget": ["USD:0.1", "EUR:1", "USD:0.2"]}) == {
        "USD": Decimal("0.3"),
        "EUR": Decimal(1),
    }


def test_a_budget_refuses_wrong_amounts() -> None:
    with pytest.raises(Refusal, match="is not an amount"):
        parse_budget({"cost.budget": ["USD:1", "nonsense"]})


@given(st.lists(numbers, min_size=1, max_size=64))
def test_a_sum_is_exact_in_any_decimal_context(amounts: list[str]) -> None:
    with localcontext(prec=3):
        total = parse_budget({"cost.budget": [f"USD:{number}" for number in amounts]})["USD"]
    billionths = 0
    for number in amounts:
        whole, _, decimals = number.partition(".")
        billionths += int(whole + decimals.ljust(9, "0"))
    assert total.scaleb(9) == billionths


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("5", b"5"),
        ("5.00", b"5"),
        ("0.50", b"0.5"),
        ("-0.12", b"-0.12"),
        ("100", b"100"),
        ("1E+2", b"100"),
        ("1E-9", b"0.000000001"),
        ("0", b"0"),
        ("0.000", b"0"),
        ("-0", b"0"),
        ("-0.00", b"0"),
        ("-3.10", b"-3.1"),
        ("63999999999999999936.000000001", b"63999999999999999936.000000001"),
    ],
)
def test_the_shortest_number_is_written(amount: str, written: bytes) -> None:
    assert bytes(decimal_json(Decimal(amount))) == written


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_writing_an_infinite_amount_raises(amount: str) -> None:
    with pytest.raises(InvariantViolated):
        decimal_json(Decimal(amount))


@given(st.integers(-(10**30), 10**30), st.integers(0, 9))
def test_amounts_round_trip_without_an_exponent(digits: int, decimals: int) -> None:
    amount = Decimal(digits).scaleb(-decimals)
    with localcontext(prec=3):
        written = bytes(decimal_json(amount))
    assert json.loads(written, parse_float=Decimal, parse_int=Decimal) == amount
    assert b"e" not in written.lower()
    assert not (b"." in written and written.endswith((b"0", b".")))


# Counters.


def test_a_budget_spends_holds_and_lets_go() -> None:
    budget = Budget.of({"cost.budget": ["USD:1.00", "EUR:2"]})
    budget.spend("USD", Decimal("0.3"))
    budget.hold(Hold("USD", Decimal("0.5")))
    assert (budget.left("USD"), budget.free("USD"), budget.free("EUR")) == (
        Decimal("0.7"),
        Decimal("0.2"),
        Decimal(2),
    )
    assert budget.used_up() is None
    budget.hold(Hold("USD", Decimal("0.2")))
    assert budget.used_up() == "USD"
    budget.let_go(Hold("USD", Decimal("0.5")))
    budget.let_go(Hold("USD", Decimal("0.2")))
    assert (budget.held, budget.remaining["USD"], budget.initial["USD"]) == ({}, Decimal("0.7"), Decimal(1))


def test_an_unbound_currency_has_no_counter() -> None:
    budget = Budget.of({})
    budget.spend("USD", Decimal(5))
    budget.hold(Hold("USD", Decimal(5)))
    budget.let_go(Hold("USD", Decimal(5)))
    assert (budget.counters(), budget.left("USD"), budget.free("USD"), budget.used_up()) == (
        {},
        None,
        None,
        None,
    )


def test_a_child_without_a_budget_has_that_of_its_parent() -> None:
    parent = Budget.of({"cost.budget": ["USD:1"]})
    assert Budget.of({"tool.call": ["*"]}, parent) is parent


def test_a_currency_that_a_child_does_not_name_is_still_its_parents() -> None:
    parent = Budget.of({"cost.budget": ["USD:5", "EUR:1"]})
    parent.withdraw({"USD": Decimal(2)})
    child = Budget.of({"cost.budget": ["USD:2"]}, parent)
    child.spend("USD", Decimal("0.5"))
    child.spend("EUR", Decimal("0.75"))
    child.hold(Hold("EUR", Decimal("0.25")))
    assert child.counters() == {"USD": Decimal("1.5"), "EUR": Decimal("0.25")}
    assert (child.used_up(), parent.used_up()) == ("EUR", "EUR")
    child.let_go(Hold("EUR", Decimal("0.25")))
    parent.give_back(child.remaining)
    assert parent.counters() == {"USD": Decimal("4.5"), "EUR": Decimal("0.25")}


def test_an_overspend_is_charged() -> None:
    parent = Budget.of({"cost.budget": ["USD:5"]})
    parent.withdraw({"USD": Decimal(1)})
    parent.give_back({"USD": Decimal("-0.5")})
    assert parent.remaining == {"USD": Decimal("3.5")}


@pytest.mark.parametrize(
    ("spent", "moved"), [("0.00999", False), ("0.01", True), ("-0.01", True), ("0", False), ("1", True)]
)
def test_a_counter_is_told_again_when_it_has_moved_by_a_hundredth(spent: str, moved: bool) -> None:
    budget = Budget.of({"cost.budget": ["USD:1"]})
    budget.spend("USD", Decimal(spent))
    assert budget.moved("USD") is moved


def test_arithmetic_ignores_the_decimal_context_of_the_caller() -> None:
    with localcontext(prec=3):
        budget = Budget.of({"cost.budget": ["USD:999999999.999999999"]})
        budget.spend("USD", Decimal("0.1234567890123456789"))
        budget.hold(Hold("USD", Decimal("0.000000001")))
        budget.give_back({"USD": Decimal("-0.000000000000000001")})
        free = budget.free("USD")
        assert (budget.moved("USD"), budget.low("USD")) == (False, False)
    assert str(free) == "999999999.8765432089876543201"


@pytest.mark.parametrize(
    ("cost", "exact"),
    [
        (0.1, "0.1"),
        (1e-7, "1E-7"),
        (3, "3"),
        ("0.50", "0.5"),
        (Decimal("1.10"), "1.1"),
        (-0.0, "0"),
        (1e17, "1E17"),
    ],
)
def test_a_cost_has_the_value_of_its_digits(cost: Any, exact: str) -> None:
    assert to_cost(cost) == Decimal(exact)
    assert shown(to_cost(cost)) == format(Decimal(exact), "f")


def test_a_float_of_a_class_of_its_own_is_read_as_a_float() -> None:
    class Odd(float):
        def __repr__(self) -> str:
            return "a million"

    assert to_cost(Odd(0.5)) == Decimal("0.5")


@given(
    st.floats(min_value=0, max_value=1e17, allow_subnormal=False).filter(
        lambda number: not 0 < number < 1e-20
    )
)
def test_a_float_counts_as_its_shortest_form(number: float) -> None:
    with localcontext(prec=3):
        assert to_cost(number) == Decimal(repr(number))


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 12)), max_size=50))
def test_no_money_is_made_or_lost(costs: list[tuple[int, int]]) -> None:
    budget = Budget.of({"cost.budget": ["USD:1000000"]})
    total = Fraction(0)
    for digits, decimals in costs:
        budget.spend("USD", to_cost(f"{digits // 10**decimals}.{digits % 10**decimals:0{max(decimals, 1)}}"))
        total += Fraction(digits // 10**decimals) + Fraction(
            digits % 10**decimals, 10 ** max(decimals, 1) if decimals else 1
        )
    assert Fraction(budget.remaining["USD"]) == 1_000_000 - total


def test_a_counter_holds_the_sum_of_any_number_of_costs() -> None:
    budget = Budget({"USD": Decimal(1)})
    budget.spend("USD", to_cost("0." + "0" * 39 + "1"))
    most = to_cost(10**18 - 1)
    with localcontext(prec=200):
        budget.remaining["USD"] -= most * 10**40
    before = budget.remaining["USD"]
    budget.spend("USD", most)
    assert budget.moved("USD")
    assert budget.low("USD")
    with localcontext(prec=200):
        assert budget.remaining["USD"] == before - most


def test_counters_are_written_as_json_numbers() -> None:
    counters = parse_budget({"cost.budget": ["USD:5.00", "credits:0.5"]})
    assert codec.encode_checked(to_wire(counters)) == b'{"USD":5,"credits":0.5}'
