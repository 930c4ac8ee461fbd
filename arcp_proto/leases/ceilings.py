"""Ceilings: bounds of the leases that a principal may request; a request beyond is refused (§9.2, §14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal
from arcp_proto.ids import SECOND, Principal, UnixTime, qualified
from arcp_proto.limits import MAX_RUNTIME_SEC
from arcp_proto.namespaces import COST_BUDGET, MODEL_USE

from .budget import parse_budget, shown
from .lease import Grants, parse_lease

EVERYBODY: Final = "*"


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a submit may request, by principal and agent; "*" matches all.

    `agent` is a name, or `name@version`. `lease` has the form of a `lease_request`: its patterns must cover
    the request, and each of its `cost.budget` amounts must be named, and not exceeded. Without
    `longest_expiry_sec` a lease needs no end.
    """

    principal: str = EVERYBODY
    agent: str = EVERYBODY
    lease: dict[str, list[str]]
    longest_expiry_sec: int | None = None


class Beyond(Refusal):
    """A request exceeds its ceiling."""

    def __init__(self, message: str, namespace: str) -> None:
        super().__init__(ErrorCode.PERMISSION_DENIED, message, details={"namespace": namespace})
        self.namespace = namespace


def check_ceilings(ceilings: Sequence[Ceiling]) -> None:
    """Raise LocalProtocolError for a ceiling with an invalid lease or expiry."""
    for ceiling in ceilings:
        try:
            parse_lease(ceiling.lease)
        except Refusal as refusal:
            raise LocalProtocolError(f"ceiling for {ceiling.principal}: {refusal.message}") from None
        longest = ceiling.longest_expiry_sec
        if longest is not None and not 1 <= longest <= MAX_RUNTIME_SEC:
            raise LocalProtocolError(f"longest_expiry_sec {longest} is not from 1 to {MAX_RUNTIME_SEC}")


def ceiling_for(
    ceilings: Sequence[Ceiling], principal: Principal, agent: str, version: str | None
) -> Ceiling | None:
    """Return the first ceiling for this principal and agent."""
    agents = (EVERYBODY, agent, qualified(agent, version))
    for ceiling in ceilings:
        if ceiling.principal in (EVERYBODY, principal) and ceiling.agent in agents:
            return ceiling
    return None


def check_lease(
    ceiling: Ceiling | None,
    lease: Mapping[str, Sequence[str]],
    *,
    any_model: bool,
    around: Mapping[str, Decimal] = NOTHING,
) -> None:
    """Raise Refusal PERMISSION_DENIED for a parsed lease that a ceiling does not cover.

    `any_model` says that a lease which names no models allows all; `around` are the amounts, by currency,
    that the parent of a child leaves it.
    """
    if ceiling is not None:
        _check_patterns(ceiling, lease, any_model=any_model)
        _check_amounts(ceiling, around, lease)


def check_expiry(ceiling: Ceiling | None, expires: UnixTime | None, wall: UnixTime) -> None:
    """Raise Refusal PERMISSION_DENIED for a lease that would last longer than a ceiling allows."""
    longest = None if ceiling is None else ceiling.longest_expiry_sec
    if longest is not None and (expires is None or expires > wall + longest * SECOND):
        raise Beyond(f"expires_at has to be at most {longest} seconds away", "expires_at")


def _check_patterns(ceiling: Ceiling, lease: Mapping[str, Sequence[str]], *, any_model: bool) -> None:
    most = Grants.of(ceiling.lease)
    for namespace, patterns in lease.items():
        if namespace != COST_BUDGET and not most.covers(Grants.of({namespace: patterns})):
            raise Beyond(f"{namespace} asks for more than is allowed here", namespace)
    if any_model and MODEL_USE in ceiling.lease and MODEL_USE not in lease:
        raise Beyond(f"{MODEL_USE} has to name models: without it any is allowed", MODEL_USE)


def _check_amounts(
    ceiling: Ceiling, around: Mapping[str, Decimal], lease: Mapping[str, Sequence[str]]
) -> None:
    asked = {**around, **parse_budget(lease)}
    for currency, most in parse_budget(ceiling.lease).items():
        amount = asked.get(currency)
        if amount is None or amount > most:
            raise Beyond(
                f"the lease has to name a {COST_BUDGET} of at most {currency}:{shown(most)}", COST_BUDGET
            )
