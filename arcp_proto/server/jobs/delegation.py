"""Delegation: the authority of a child job, and its start (§10); `completion` has its end."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from arcp_proto.errors import Denied, ErrorCode, LocalProtocolError, Refusal, require
from arcp_proto.ids import JobId, UnixTime, qualified, ulid
from arcp_proto.leases import ceilings
from arcp_proto.leases.budget import parse_budget
from arcp_proto.leases.lease import Grants, parse_expiry, parse_lease
from arcp_proto.limits import WIRE_WORDS, details_of
from arcp_proto.namespaces import AGENT_DELEGATE, COST_BUDGET, MODEL_USE
from arcp_proto.server.audit import note
from arcp_proto.server.journal.records import Delegated
from arcp_proto.server.sessions import admission_control
from arcp_proto.wire import codec
from arcp_proto.wire.event_bodies import Delegate, EventKind, encode_body
from arcp_proto.wire.inputs import Input, given_bytes
from arcp_proto.wire.messages import Lease

from . import gate, publish, spending, submission
from .job import Job, Terms
from .stage import OUTCOME_COUNTS

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState


class Wish(msgspec.Struct, frozen=True):
    """A request of a job to delegate to an agent; without a lease the child gets that of the job (§10)."""

    agent: str
    lease: Lease | None = None
    expires_at: str | None = None
    max_runtime_sec: int | None = None


class Share(msgspec.Struct, frozen=True):
    """The part of its parent's authority that a child gets: lease, budget of its own, and expiry."""

    lease: Lease
    budget: Mapping[str, Decimal]
    expires_at: str | None
    expires: UnixTime | None


def read_wish(agent: Any, lease: Any, expires_at: Any, max_runtime_sec: Any) -> Wish:
    """Return the request of an agent; raises LocalProtocolError for values of other types."""
    fields = {
        "agent": agent,
        "lease": lease,
        "expires_at": expires_at,
        "max_runtime_sec": max_runtime_sec,
    }
    try:
        wish = msgspec.convert(fields, Wish)
    except msgspec.ValidationError as error:
        raise LocalProtocolError(f"this cannot be delegated: {error}") from None
    codec.encode_value(fields)
    return wish


def written(state: RuntimeState, input: Any) -> Input:
    """Return the input of a child as JSON; raises LocalProtocolError if it is not JSON or too large."""
    encoded = codec.encode_value(input)
    if len(encoded) > state.limits.max_message_bytes:
        raise LocalProtocolError(f"the input of a child has at most {state.limits.max_message_bytes} bytes")
    return Input.of(encoded)


def delegate(state: RuntimeState, parent: Job, wish: Wish, input: Input) -> Job:
    """Start a child of a running job; raises Denied, and then changes nothing.

    The checks come in the order of §10: the gate, the agent, the subset, the ceiling and limits of the host.
    """
    if parent.stage in OUTCOME_COUNTS:
        outcome = require(parent.outcome, "the outcome of a job that is stopped is fixed")
        raise Denied(ErrorCode(outcome.code), "the job is ending and can delegate no longer")
    target = target_of(parent, wish.agent)
    gate.check(state, parent, AGENT_DELEGATE, target)
    try:
        name, version = state.inventory.resolve(wish.agent)
        submission.check_runtime(wish.max_runtime_sec)
        share = share_of(state, parent, wish)
        ceiling = ceilings.ceiling_for(state.config.ceilings, parent.terms.principal, name, version)
        gate.check_ceiling(state, ceiling, share.lease, share.expires, parent)
        _check_limits(state, parent, given_bytes(input, share.lease))
    except Refusal as refusal:
        _refuse(state, parent, target, refusal)
    principal = parent.terms.principal
    scope = state.scope(principal)
    terms = Terms(
        job_id=JobId("job_" + ulid(state.entropy.bits(scope, "job"))),
        session_id=parent.terms.session_id,
        principal=principal,
        agent=name,
        version=version,
        lease=share.lease,
        expires_at=share.expires_at,
        max_runtime_sec=wish.max_runtime_sec,
        trace=msgspec.structs.replace(parent.terms.trace, parent_id=parent.terms.span_id),
        span_id=state.entropy.bits(scope, "span")[:8].hex(),
        accepted_at=state.unix,
        parent_job_id=parent.id,
        depth=parent.terms.depth + 1,
        credentials=bool(parent.credentials),
        tenant=parent.terms.tenant,
    )
    return _begin(state, parent, terms, input)


def _begin(state: RuntimeState, parent: Job, terms: Terms, input: Input) -> Job:
    """Publish the `delegate` event that announces the child, before anything that the child does."""
    announced = Delegate(terms.job_id, qualified(terms.agent, terms.version), terms.lease)
    body = encode_body(EventKind.DELEGATE, announced)
    payload = codec.open_event(EventKind.DELEGATE, state.time_text(), body)
    state.commit(Delegated(terms, payload))
    publish.spread(state, parent, None)
    child = state.jobs[terms.job_id]
    spending.tell(state, parent, parse_budget(terms.lease), always=True)
    home = child.home
    child.paused = home is not None and home.full
    submission.start(state, child, input, attempt=1)
    return child


# The share of a child.


def share_of(state: RuntimeState, parent: Job, wish: Wish) -> Share:
    """Return what the child gets; raises Refusal INVALID_REQUEST for a request that cannot be read.

    Raises Refusal LEASE_SUBSET_VIOLATION for a lease that is not covered, or narrower in nothing (§9.4).
    """
    lease = _inherited(parent) if wish.lease is None else parse_lease(wish.lease)
    budget = parse_budget(lease)
    expires_at, expires = parent.terms.expires_at, parent.expires
    if wish.expires_at is not None:
        expiry = parse_expiry(wish.expires_at, unix=state.wall)
        if expires is not None and expiry.unix > expires:
            raise _violation(f"the lease of the job expires at {expires_at}, before {expiry.text}")
        expires_at, expires = expiry.text, expiry.unix
    narrower = _check_grants(state, parent, lease)
    narrower = _check_budget(parent, budget) or narrower or expires != parent.expires
    if not narrower:
        raise _violation("the lease of a child must be narrower than that of the job in something (§9.4)")
    return Share(lease, budget, expires_at, expires)


def _inherited(parent: Job) -> Lease:
    """Return the inherited lease, without `cost.budget`: the child spends from the counters of its parent."""
    lease = parent.terms.lease
    return {
        name: list(patterns) for name, patterns in lease.items() if name not in (AGENT_DELEGATE, COST_BUDGET)
    }


def _check_grants(state: RuntimeState, parent: Job, lease: Lease) -> bool:
    """Return whether the patterns of a child are narrower than its parent's; raises Refusal if uncovered."""
    asked = dict(lease)
    free = MODEL_USE in asked and gate.any_model(state, parent)
    if free:
        del asked[MODEL_USE]  # The job may use any model: all that a child names is less.
    grants = Grants.of(asked)
    if not parent.grants.covers(grants):
        raise _violation(f"{_uncovered(parent, asked)} is not covered by the lease of the job")
    return free or not grants.covers(parent.grants)


def _uncovered(parent: Job, lease: Lease) -> str:
    """Return the first namespace that the parent does not cover."""
    for name, patterns in lease.items():
        if not parent.grants.covers(Grants.of({name: patterns})):
            return name
    return "the lease that was asked for"


def _check_budget(parent: Job, budget: Mapping[str, Decimal]) -> bool:
    """Return whether a budget is less than that of its parent; raises Refusal if it is more than is free."""
    narrower = False
    for currency, amount in budget.items():
        free, left = parent.budget.free(currency), parent.budget.left(currency)
        if free is not None and amount > free:
            raise _violation(f"{free:f} {currency} of the budget are left, not {amount:f}")
        narrower = narrower or left is None or amount < left
    return narrower


def _violation(message: str) -> Refusal:
    return Refusal(ErrorCode.LEASE_SUBSET_VIOLATION, message)


# Refusals.


def target_of(parent: Job, agent: str) -> str:
    """Return the target for the gate: the agent's name, or `name@version` if the lease grants that."""
    return agent if parent.grants.allows(AGENT_DELEGATE, agent) else agent.partition("@")[0]


def _check_limits(state: RuntimeState, parent: Job, given: int) -> None:
    """Check depth and number of jobs; raises Refusal, retryable if the limit passes with time (§12)."""
    limits = state.limits
    if parent.terms.depth >= limits.max_delegation_depth:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"delegation goes {limits.max_delegation_depth} jobs deep at most",
            details=details_of("max_delegation_depth", limits.max_delegation_depth),
        )
    tree = sum(1 for _ in parent.root.descendants())
    full = None
    if len(parent.children) >= limits.max_job_children:
        full = "max_job_children"
    elif tree >= limits.max_job_descendants:
        full = "max_job_descendants"
    if full is not None:
        most: int = getattr(limits, full)
        message = f"too many {WIRE_WORDS[full]} of a job are running"
        raise admission_control.Exceeded(full, most, message, principal=parent.terms.principal)
    submission.check_limits(state, parent.terms.principal, given, keyed=False)


def _refuse(state: RuntimeState, parent: Job, target: str, refusal: Refusal) -> NoReturn:
    """Raise Denied into the agent; write an audit fact if the refusal is about authority or a limit."""
    if refusal.code in (ErrorCode.LEASE_SUBSET_VIOLATION, ErrorCode.PERMISSION_DENIED):
        gate.deny(state, parent, refusal.code, refusal.message, AGENT_DELEGATE, target)
    if isinstance(refusal, admission_control.Exceeded):
        note(
            state,
            "limit_reached",
            refusal.principal,
            peer="",
            session_id=None,
            limit=refusal.limit,
            max=refusal.most,
            untold=0,
        )
    details = None if refusal.details is None else dict(refusal.details)
    raise Denied(refusal.code, refusal.message, details)
