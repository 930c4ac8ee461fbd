"""Money: a grammar in, exact decimals in memory, the shortest JSON number out (§9.6)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Final

import msgspec

from .errors import ErrorCode, Refusal, ensure

COST_BUDGET: Final = "cost.budget"

_MAX_DIGITS: Final = 18
_AMOUNT: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,31}):([0-9]{1,18})(?:\.([0-9]{1,9}))?\Z")
_EXACT: Final = Context(prec=64, traps=[Inexact, InvalidOperation])
"""Wide enough for any sum of amounts, and it raises before it would round."""


def parse_amount(text: str) -> tuple[str, Decimal]:
    """Currency and amount of a `cost.budget` pattern such as USD:5.00; raises Refusal INVALID_REQUEST.

    At most 18 digits, leading and trailing zeros included, at most 9 of them after the point.
    """
    match = _AMOUNT.match(text)
    if match is None or len(match[2]) + len(match[3] or "") > _MAX_DIGITS:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"{text[:64]!r} is no amount: a currency, a colon and at most {_MAX_DIGITS} digits,"
            " at most 9 of them after the point",
        )
    currency, _, number = text.partition(":")
    return currency, Decimal(number)


def parse_budget(lease: Mapping[str, Sequence[str]]) -> dict[str, Decimal]:
    """The initial counter of each currency of a lease; a currency that comes twice is summed.

    Empty when the lease has no `cost.budget`: nothing bounds the cost (§9.6).
    """
    counters: dict[str, Decimal] = {}
    for pattern in lease.get(COST_BUDGET, ()):
        currency, amount = parse_amount(pattern)
        counters[currency] = _EXACT.add(counters.get(currency, Decimal(0)), amount)
    return counters


def to_json(amount: Decimal) -> msgspec.Raw:
    """The shortest JSON number that is exactly `amount`, without an exponent: 5, 0.5, -0.12."""
    ensure(amount.is_finite(), "an amount is not a finite number")
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return msgspec.Raw(b"0" if text == "-0" else text.encode())


def to_wire(counters: Mapping[str, Decimal]) -> dict[str, msgspec.Raw]:
    """The `budget` of a message: each currency's counter as a JSON number (§7.1)."""
    return {currency: to_json(amount) for currency, amount in counters.items()}
