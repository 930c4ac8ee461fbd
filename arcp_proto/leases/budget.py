"""Money: a grammar in, exact decimals in memory, the shortest JSON number out (§9.6)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Final

import msgspec

from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal
from arcp_proto.wire import codec

COST_BUDGET: Final = "cost.budget"

_MAX_DIGITS: Final = 18
_CURRENCY: Final = r"[A-Za-z][A-Za-z0-9_.-]{0,31}"
_AMOUNT: Final = re.compile(rf"({_CURRENCY}):([0-9]{{1,18}})(?:\.([0-9]{{1,9}}))?\Z")
_IS_CURRENCY: Final = re.compile(_CURRENCY + r"\Z")
_EXACT: Final = Context(prec=128, traps=[Inexact, InvalidOperation])
"""It raises before it would round. Costs have 58 digits at most, so that no agent lives to fill it."""
_COST: Final = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,40})?\Z", re.ASCII)
_COST_DIGITS: Final = 18
_COST_DECIMALS: Final = 40
"""Of one cost; the shortest form of a float has 17 digits, wherever its point is."""
_ZERO: Final = Decimal(0)
_TOLD_SHARE: Final = Decimal(100)
_WARNED_SHARE: Final = Decimal(5)

Cost = str | int | float | Decimal
"""What a cost may be given as; a float means its shortest form, the rest is exact."""


class Hold(msgspec.Struct, frozen=True):
    """Money that is held back for an operation that has not been settled."""

    currency: str
    amount: Decimal


class Budget:
    """The counters of one lease, by currency; empty when nothing bounds the cost (§9.6).

    A currency that it does not name is bound by the budget `around` it, of the job that delegated. Only
    what comes from records changes `remaining` and `held`; `told` and `warned` say what was announced.
    """

    __slots__ = ("around", "held", "initial", "remaining", "told", "warned")

    def __init__(self, initial: Mapping[str, Decimal], around: Budget | None = None) -> None:
        self.initial = dict(initial)
        self.remaining = dict(initial)
        """What is not spent; below zero after a cost that was more than was left."""
        self.held: dict[str, Decimal] = {}
        """What is held back of it."""
        self.around = around
        self.told = dict(initial)
        """What the last `cost.budget.remaining` of each currency said."""
        self.warned: dict[str, None] = {}
        """Of which currencies it was said that four fifths are gone."""

    @classmethod
    def of(cls, lease: Mapping[str, Sequence[str]], around: Budget | None = None) -> Budget:
        """The budget of a lease; a child that names none spends from its parent's own (§10)."""
        counters = parse_budget(lease) if COST_BUDGET in lease else None
        if not counters:
            return UNBOUND if around is None else around
        return cls(counters, around)

    def bound(self, currency: str) -> Budget | None:
        """Whose counter bounds a currency; None when nothing does."""
        budget: Budget | None = self
        while budget is not None and currency not in budget.remaining:
            budget = budget.around
        return budget

    def counters(self) -> dict[str, Decimal]:
        """What remains of every currency that is bound."""
        counters = {} if self.around is None else self.around.counters()
        counters.update(self.remaining)
        return counters

    def left(self, currency: str) -> Decimal | None:
        """What remains of a currency; None when nothing bounds it."""
        budget = self.bound(currency)
        return None if budget is None else budget.remaining[currency]

    def free(self, currency: str) -> Decimal | None:
        """What remains of a currency and is not held back; None when nothing bounds it."""
        budget = self.bound(currency)
        if budget is None:
            return None
        return _EXACT.subtract(budget.remaining[currency], budget.held.get(currency, _ZERO))

    def used_up(self) -> str | None:
        """A currency of which nothing is free any more, the first in order; None while there is none."""
        if not self.remaining and self.around is None:
            return None
        for currency in self.counters():
            free = self.free(currency)
            if free is not None and free <= 0:
                return currency
        return None

    @property
    def exhausted(self) -> bool:
        """Whether nothing is free of some currency, so that no operation is allowed."""
        return self.used_up() is not None

    # What records do.

    def spend(self, currency: str, amount: Decimal) -> None:
        """A cost: it counts in full, also when less is left."""
        budget = self.bound(currency)
        if budget is not None:
            budget.remaining[currency] = _EXACT.subtract(budget.remaining[currency], amount)

    def hold(self, hold: Hold) -> None:
        """Hold back."""
        budget = self.bound(hold.currency)
        if budget is not None and hold.amount:
            budget.held[hold.currency] = _EXACT.add(budget.held.get(hold.currency, _ZERO), hold.amount)

    def let_go(self, hold: Hold) -> None:
        """Hold back no longer."""
        budget = self.bound(hold.currency)
        if budget is not None and hold.amount:
            held = _EXACT.subtract(budget.held[hold.currency], hold.amount)
            budget.held[hold.currency] = held
            if not held:
                del budget.held[hold.currency]

    def withdraw(self, amounts: Mapping[str, Decimal]) -> None:
        """What a child got for itself leaves the counters (§10)."""
        for currency, amount in amounts.items():
            self.spend(currency, amount)

    def give_back(self, amounts: Mapping[str, Decimal]) -> None:
        """What a child has left comes back; what it overspent, a negative rest, is charged (§10)."""
        for currency, amount in amounts.items():
            self.spend(currency, amount.copy_negate())

    # What is to be announced.

    def moved(self, currency: str) -> bool:
        """Whether a counter is to be told again: it moved by 1 % of its start, or has reached zero (§9.6)."""
        told, left = self.told[currency], self.remaining[currency]
        if left <= 0 < told:
            return True
        change = _EXACT.subtract(told, left)
        return bool(change) and _EXACT.multiply(change.copy_abs(), _TOLD_SHARE) >= self.initial[currency]

    def low(self, currency: str) -> bool:
        """Whether four fifths of a counter are gone, for the first time."""
        left = _EXACT.multiply(self.remaining[currency], _WARNED_SHARE)
        return currency not in self.warned and left <= self.initial[currency] > 0


UNBOUND: Final = Budget({})
"""That of every lease that names no amount: there is nothing in it to change."""


def to_cost(value: Cost, what: str = "a cost") -> Decimal:
    """A cost as an exact amount; raises LocalProtocolError for a negative or endless one, or no number."""
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
    """The number that is meant, of any size; None for what is none."""
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


def is_currency(text: object) -> bool:
    """Whether a budget can be in it: a letter, and at most 31 more characters, digits or `_`, `.`, `-`."""
    return isinstance(text, str) and _IS_CURRENCY.match(text) is not None


def parse_budget(lease: Mapping[str, Sequence[str]]) -> dict[str, Decimal]:
    """The initial counter of each currency of a lease; a currency that comes twice is summed.

    Empty when the lease has no `cost.budget`: nothing bounds the cost (§9.6).
    """
    counters: dict[str, Decimal] = {}
    for pattern in lease.get(COST_BUDGET, ()):
        currency, amount = parse_amount(pattern)
        counters[currency] = _EXACT.add(counters.get(currency, Decimal(0)), amount)
    return counters


def shown(amount: Decimal) -> str:
    """An amount for people, as it stands on the wire."""
    return bytes(codec.decimal_json(amount)).decode()


def to_wire(counters: Mapping[str, Decimal]) -> dict[str, msgspec.Raw]:
    """The `budget` of a message: each currency's counter as a JSON number (§7.1)."""
    return {currency: codec.decimal_json(amount) for currency, amount in counters.items()}
