"""Spending: costs reduce the counters of a job's budget, and events report what is left (§9.6)."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.errors import LocalProtocolError
from arcp_proto.leases.budget import Cost, Hold, is_currency, shown, to_cost
from arcp_proto.server.journal.records import Reserved, Settled, Spent
from arcp_proto.wire import codec
from arcp_proto.wire.event_bodies import (
    BUDGET_WARNING,
    COST_PREFIX,
    METRIC,
    REMAINING,
    STATUS,
    Status,
    encode_metric,
)

from . import publish
from .job import Job

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

MAX_HOLDS: Final = 1_000
"""How many reservations of one job may be unsettled."""


def cost_of(job: Job, fields: dict[str, Any]) -> tuple[str, Decimal] | None:
    """Return the currency and amount that a metric spends; None when it spends nothing.

    Only a currency that the budget bounds is spent. Raises LocalProtocolError for a cost that no counter can
    hold.
    """
    unit = fields.get("unit")
    if unit is None or not fields["name"].startswith(COST_PREFIX) or job.budget.bound(unit) is None:
        return None
    return unit, to_cost(fields["value"], "value")


def spend(state: RuntimeState, job: Job, currency: str, amount: Decimal, metric: bytes) -> None:
    """Count a cost that the agent reports, publish its metric, and then report what is left."""
    if amount:
        state.commit(Spent(job.id, currency, amount))
    state.publish(job, METRIC, metric)
    tell(state, job, (currency,))


def tell(state: RuntimeState, job: Job, currencies: Iterable[str], *, always: bool = False) -> None:
    """Report what is left where a counter has moved by enough, and warn once when little is left.

    With `always`, an amount has moved to a child or back, without being used (§10).
    """
    for currency in currencies:
        budget = job.budget.bound(currency)
        if budget is None:
            continue
        left = budget.remaining[currency]
        if always or budget.moved(currency):
            budget.told[currency] = left
            body = encode_metric({"name": REMAINING, "value": left, "unit": currency})
            publish.publish(state, job, METRIC, body, taken_as=REMAINING)
        if budget.low(currency) and not always:
            budget.warned[currency] = None
            whole = shown(budget.initial[currency])
            message = f"80 % of the budget of {whole} {currency} are used; {shown(left)} are left"
            state.publish(job, STATUS, codec.encode_checked(Status(BUDGET_WARNING, message)))


# Reservations.


def check_reservation(job: Job, currency: str, amount: Cost) -> Decimal:
    """Return the exact amount of a reservation; raises LocalProtocolError if it is wrong or one too many."""
    exact = to_cost(amount, "a reservation")
    if not is_currency(currency):
        raise LocalProtocolError(f"{currency!r:.64} is not a currency")
    if len(job.holds) >= MAX_HOLDS:
        raise LocalProtocolError(f"a job has at most {MAX_HOLDS} reservations that are not settled")
    return exact


def reserve(state: RuntimeState, job: Job, currency: str, amount: Decimal) -> int:
    """Hold back an amount that is free; return the number of the reservation."""
    state.commit(Reserved(job.id, job.hold_count + 1, currency, amount))
    return job.hold_count


def find(job: Job, hold: int) -> Hold:
    """Return an unsettled reservation; raises LocalProtocolError when there is none with this number."""
    found = job.holds.get(hold)
    if found is None:
        raise LocalProtocolError(f"{job.id} has no reservation {hold}, or it is over")
    return found


def settle(state: RuntimeState, job: Job, hold: int, actual: Decimal, metric: bytes) -> None:
    """Settle a reservation: count what was spent, publish its metric, and then report what is left."""
    currency = job.holds[hold].currency
    state.commit(Settled(job.id, hold, actual))
    state.publish(job, METRIC, metric)
    tell(state, job, (currency,))


def release(state: RuntimeState, job: Job, hold: int) -> None:
    """Settle a reservation of which nothing was spent."""
    state.commit(Settled(job.id, hold, Decimal(0)))
