"""Amounts: grammar, exact arithmetic, JSON numbers."""

from __future__ import annotations

import json
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto import wire
from arcp_proto.budget import parse_amount, parse_budget, to_json, to_wire
from arcp_proto.errors import ErrorCode, InvariantViolated, Refusal

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
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="is no amount") as caught:
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


def test_a_budget_refuses_what_is_no_amount() -> None:
    with pytest.raises(Refusal, match="is no amount"):
        parse_budget({"cost.budget": ["USD:1", "nonsense"]})


@given(st.lists(numbers, min_size=1, max_size=64))
def test_a_sum_is_exact_whatever_the_context_of_the_caller(amounts: list[str]) -> None:
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
    assert bytes(to_json(Decimal(amount))) == written


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_a_bug(amount: str) -> None:
    with pytest.raises(InvariantViolated):
        to_json(Decimal(amount))


@given(st.integers(-(10**30), 10**30), st.integers(0, 9))
def test_numbers_come_back_exactly_and_without_an_exponent(digits: int, decimals: int) -> None:
    amount = Decimal(digits).scaleb(-decimals)
    with localcontext(prec=3):
        written = bytes(to_json(amount))
    assert json.loads(written, parse_float=Decimal, parse_int=Decimal) == amount
    assert b"e" not in written.lower()
    assert not (b"." in written and written.endswith((b"0", b".")))


def test_counters_are_written_as_json_numbers() -> None:
    counters = parse_budget({"cost.budget": ["USD:5.00", "credits:0.5"]})
    assert wire.encode_checked(to_wire(counters)) == b'{"USD":5,"credits":0.5}'
