"""Money: text in, exact decimals in memory, the shortest JSON number out (§9.6)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Final

import msgspec

from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal
from arcp_proto.namespaces import COST_BUDGET
from arcp_proto.wire import codec

_MAX_DIGITS: Final = 18
_CURRENCY: Final = r"[A-Za-z][A-Za-z0-9_.-]{0,31}"
_AMOUNT: Final = re.compile(rf"({_CURRENCY}):([0-9]{{1,18}})(?:\.([0-9]{{1,9}}))?\Z")
_IS_CURRENCY: Final = re.compile(_CURRENCY + r"\Z")
_EXACT: Final = Context(prec=128, traps=[Inexact, InvalidOperation])
"""A context that raises instead of rounding. A cost has at most 58 digits, so no agent can fill 128."""
_COST: Final = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,40})?\Z", re.ASCII)
_COST_DIGITS: Final = 18
_COST_DECIMALS: Final = 40
"""The most decimals of one cost; the shortest form of a float has 17 digits, with the point anywhere."""
_ZERO: Final = Decimal(0)
_TOLD_SHARE: Final = Decimal(100)
_WARNED_SHARE: Final = Decimal(5)

Cost = str | int | float | Decimal
"""Types of a cost; a float means its shortest form, the others are exact."""


class Hold(msgspec.Struct, frozen=True):
    """A reservation for an operation that has not been settled."""

    currency: str
    amount: Decimal


class Budget:
    """The counters of one lease, by currency; empty when nothing bounds the cost (§9.6).

    A currency that it does not name is bound by the budget `around` it, of the delegating job. Only records
    change `remaining` and `held`; `told` and `warned` note what was announced.
    """

    __slots__ = ("around", "held", "initial", "remaining", "told", "warned")

    def __init__(self, initial: Mapping[str, Decimal], around: Budget | None = None) -> None:
        self.initial = dict(initial)
        self.remaining = dict(initial)
        """Unspent amounts; negative after a cost that exceeded the rest."""
        self.held: dict[str, Decimal] = {}
        """Reserved amounts."""
        self.around = around
        self.told = dict(initial)
        """The last `cost.budget.remaining` of each currency."""
        self.warned: dict[str, None] = {}
        """Currencies for which the loss of four fifths was announced."""

    @classmethod
    def of(cls, lease: Mapping[str, Sequence[str]], around: Budget | None = None) -> Budget:
        """Return the budget of a lease; a child that names no budget spends from its parent's (§10)."""
        counters = parse_budget(lease) if COST_BUDGET in lease else None
        if not counters:
            return UNBOUND if around is None else around
        return cls(counters, around)

    def bound(self, currency: str) -> Budget | None:
        """Return the budget whose counter bounds a currency; None if it is unbounded."""
        budget: Budget | None = self
        while budget is not None and currency not in budget.remaining:
            budget = budget.around
        return budget

    def counters(self) -> dict[str, Decimal]:
        """Return the remaining amount of every bounded currency."""
        counters = {} if self.around is None else self.around.counters()
        counters.update(self.remaining)
        return counters

    def left(self, currency: str) -> Decimal | None:
        """Return the remaining amount of a currency; None if it is unbounded."""
        budget = self.bound(currency)
        return None if budget is None else budget.remaining[currency]

    def free(self, currency: str) -> Decimal | None:
        """Return the remaining amount of a currency without reservations; None if it is unbounded."""
        budget = self.bound(currency)
        if budget is None:
            return None
        return _EXACT.subtract(budget.remaining[currency], budget.held.get(currency, _ZERO))

    def used_up(self) -> str | None:
        """Return the first currency without a free amount; None if there is none."""
        if not self.remaining and self.around is None:
            return None
        for currency in self.counters():
            free = self.free(currency)
            if free is not None and free <= 0:
                return currency
        return None

    # Changes by records.

    def spend(self, currency: str, amount: Decimal) -> None:
        """Spend a cost: it counts in full, even if less is left."""
        budget = self.bound(currency)
        if budget is not None:
            budget.remaining[currency] = _EXACT.subtract(budget.remaining[currency], amount)

    def hold(self, hold: Hold) -> None:
        """Reserve an amount."""
        budget = self.bound(hold.currency)
        if budget is not None and hold.amount:
            budget.held[hold.currency] = _EXACT.add(budget.held.get(hold.currency, _ZERO), hold.amount)

    def let_go(self, hold: Hold) -> None:
        """Release a reservation."""
        budget = self.bound(hold.currency)
        if budget is not None and hold.amount:
            held = _EXACT.subtract(budget.held[hold.currency], hold.amount)
            budget.held[hold.currency] = held
            if not held:
                del budget.held[hold.currency]

    def withdraw(self, amounts: Mapping[str, Decimal]) -> None:
        """Deduct the amounts that a child got (§10)."""
        for currency, amount in amounts.items():
            self.spend(currency, amount)

    def give_back(self, amounts: Mapping[str, Decimal]) -> None:
        """Return a child's remaining amounts; an overspent amount, which is negative, is charged (§10)."""
        for currency, amount in amounts.items():
            self.spend(currency, amount.copy_negate())

    # Announcements.

    def moved(self, currency: str) -> bool:
        """Return whether to announce a counter again: it moved by 1 % of its start, or has reached zero
        (§9.6).
        """
        told, left = self.told[currency], self.remaining[currency]
        if left <= 0 < told:
            return True
        change = _EXACT.subtract(told, left)
        return bool(change) and _EXACT.multiply(change.copy_abs(), _TOLD_SHARE) >= self.initial[currency]

    def low(self, currency: str) -> bool:
        """Return whether four fifths of a counter are spent, for the first time."""
        left = _EXACT.multiply(self.remaining[currency], _WARNED_SHARE)
        return currency not in self.warned and left <= self.initial[currency] > 0


UNBOUND: Final = Budget({})
"""The budget of every lease without amounts; it never changes."""


def to_cost(value: Cost, what: str = "a cost") -> Decimal:
    """Return a cost as an exact amount.

    Raises LocalProtocolError for a negative or infinite one, or no number.
    """
    amount = _decimal(value)
    if amount is None or not amount.is_finite():
        raise LocalProtocolError(f"{what} is a finite decimal number of digits, not {_shown(value)}")
    if amount < 0:
        raise LocalProtocolError(f"{what} is not negative (§9.6)")
    try:
        amount = _EXACT.normalize(amount)
    except Inexact:
        amount = Decimal("Infinity")
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_COST_DECIMALS or amount.adjusted() >= _COST_DIGITS:
        raise LocalProtocolError(
            f"{what} has at most {_COST_DIGITS} digits, and {_COST_DECIMALS} after the point"
        )
    return amount


def _decimal(value: Cost) -> Decimal | None:
    """Return the number of a value, of any size; None if it is not a number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return Decimal(float.__repr__(value))
    if isinstance(value, int | Decimal):
        return Decimal(value)
    return Decimal(value) if isinstance(value, str) and _COST.match(value) else None


def _shown(value: Cost) -> str:
    return repr(value)[:40] if isinstance(value, str | float | Decimal) else f"a {type(value).__name__}"


def parse_amount(text: str) -> tuple[str, Decimal]:
    """Return currency and amount of a `cost.budget` pattern such as USD:5.00.

    Raises Refusal INVALID_REQUEST. An amount has at most 18 digits, including leading and trailing zeros, at
    most 9 of them after the point.
    """
    match = _AMOUNT.match(text)
    if match is None or len(match[2]) + len(match[3] or "") > _MAX_DIGITS:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"{text[:64]!r} is not an amount: a currency, a colon and at most {_MAX_DIGITS} digits,"
            " at most 9 of them after the point",
        )
    currency, _, number = text.partition(":")
    return currency, Decimal(number)


def is_currency(text: object) -> bool:
    """Return whether a budget can be in it: a letter, and at most 31 more characters, digits or `_`, `.`,
    `-`.
    """
    return isinstance(text, str) and _IS_CURRENCY.match(text) is not None


def parse_budget(lease: Mapping[str, Sequence[str]]) -> dict[str, Decimal]:
    """Return the initial counter of each currency of a lease; repeated currencies are summed.

    Empty when the lease has no `cost.budget`: nothing bounds the cost (§9.6).
    """
    counters: dict[str, Decimal] = {}
    for pattern in lease.get(COST_BUDGET, ()):
        currency, amount = parse_amount(pattern)
        counters[currency] = _EXACT.add(counters.get(currency, Decimal(0)), amount)
    return counters


def shown(amount: Decimal) -> str:
    """Return an amount for people, in the form of the wire."""
    return bytes(codec.decimal_json(amount)).decode()


def to_wire(counters: Mapping[str, Decimal]) -> dict[str, msgspec.Raw]:
    """Return the `budget` of a message: each currency's counter as a JSON number (§7.1)."""
    return {currency: codec.decimal_json(amount) for currency, amount in counters.items()}
