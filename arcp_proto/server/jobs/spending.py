"""Costs: they leave the counters of a job's budget, and what is left is told (§9.6)."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.errors import LocalProtocolError
from arcp_proto.leases.budget import Cost, Hold, is_currency, shown, to_cost
from arcp_proto.server.journal.records import Reserved, Settled, Spent
from arcp_proto.wire import codec
from arcp_proto.wire.event_bodies import COST_PREFIX, REMAINING, Status, encode_metric

from . import publish
from .job import Job

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

WARNING: Final = "budget_warning"
MAX_HOLDS: Final = 1_000
"""Reservations of one job that are not settled."""


def cost_of(job: Job, fields: dict[str, Any]) -> tuple[str, Decimal] | None:
    """What a metric spends: a currency that is bound, and how much; None when it spends nothing.

    Raises LocalProtocolError for a cost that no counter can hold.
    """
    unit = fields.get("unit")
    if unit is None or not fields["name"].startswith(COST_PREFIX) or job.budget.bound(unit) is None:
        return None
    return unit, to_cost(fields["value"], "value")


def spend(runtime: RuntimeState, job: Job, currency: str, amount: Decimal, metric: bytes) -> None:
    """A cost that the agent reports: it is counted, published, and what is left told behind it."""
    if amount:
        runtime.commit(Spent(job.id, currency, amount))
    runtime.publish(job, "metric", metric)
    tell(runtime, job, (currency,))


def tell(runtime: RuntimeState, job: Job, currencies: Iterable[str], *, always: bool = False) -> None:
    """Tell in a job what is left, where a counter has moved by enough, and once that little is left.

    With `always` it has moved to a child or back, and nothing of it was used (§10).
    """
    for currency in currencies:
        budget = job.budget.bound(currency)
        if budget is None:
            continue
        left = budget.remaining[currency]
        if always or budget.moved(currency):
            budget.told[currency] = left
            body = encode_metric({"name": REMAINING, "value": left, "unit": currency})
            publish.publish(runtime, job, "metric", body, taken_as=REMAINING)
        if budget.low(currency) and not always:
            budget.warned[currency] = None
            whole = shown(budget.initial[currency])
            message = f"80 % of the budget of {whole} {currency} are used; {shown(left)} are left"
            runtime.publish(job, "status", codec.encode_checked(Status(WARNING, message)))


# Holds.


def check_reservation(job: Job, currency: str, amount: Cost) -> Decimal:
    """The amount of a reservation; raises LocalProtocolError for what is none, or one too many."""
    exact = to_cost(amount, "a reservation")
    if not is_currency(currency):
        raise LocalProtocolError(f"{currency!r:.64} is no currency")
    if len(job.holds) >= MAX_HOLDS:
        raise LocalProtocolError(f"a job has at most {MAX_HOLDS} reservations that are not settled")
    return exact


def reserve(runtime: RuntimeState, job: Job, currency: str, amount: Decimal) -> int:
    """Hold back an amount that is free."""
    runtime.commit(Reserved(job.id, job.hold_count + 1, currency, amount))
    return job.hold_count


def find(job: Job, hold: int) -> Hold:
    """A hold that is not over; raises LocalProtocolError when there is none."""
    found = job.holds.get(hold)
    if found is None:
        raise LocalProtocolError(f"{job.id} has no reservation {hold}, or it is over")
    return found


def settle(runtime: RuntimeState, job: Job, hold: int, actual: Decimal, metric: bytes) -> None:
    """A hold is over: what was spent is counted, published, and what is left told behind it."""
    currency = job.holds[hold].currency
    runtime.commit(Settled(job.id, hold, actual))
    runtime.publish(job, "metric", metric)
    tell(runtime, job, (currency,))


def release(runtime: RuntimeState, job: Job, hold: int) -> None:
    """A hold is over, and nothing was spent."""
    runtime.commit(Settled(job.id, hold, Decimal(0)))
