"""What jobs look like in answers: `job.accepted`, `job.subscribed`, an entry of `session.jobs`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from . import messages, wire
from .budget import COST_BUDGET, to_wire
from .credentials import shown
from .inputs import SMALL
from .nothing import NOTHING
from .times import format_time

if TYPE_CHECKING:
    from .idempotency import Claim
    from .job import Job
    from .quirks import Quirk
    from .session import Session


def accepted_of(job: Job, request_id: str, quirk: Quirk | None = None) -> messages.Accepted:
    """`job.accepted` (§7.1), in the form that the peer reads."""
    terms = job.terms
    return messages.Accepted(
        job_id=job.id,
        agent=terms.agent if terms.version is None else job.agent,
        lease=job.lease,
        accepted_at=format_time(terms.accepted_at),
        request_id=request_id,
        lease_constraints=_constraints(job) if terms.expires_at else None,
        budget=_budget(job.budget.initial, quirk) if job.budget.initial else None,
        trace_id=terms.trace.trace_id,
    )


def accepted_again(claim: Claim, request_id: str, quirk: Quirk) -> messages.Accepted:
    """`job.accepted` once more, of a job that is known by its idempotency key alone (§7.2)."""
    accepted = msgspec.convert(wire.decode_value(claim.accepted), messages.Accepted)
    accepted.request_id = request_id
    if accepted.budget is not None:
        amounts = {
            currency: msgspec.Raw(wire.encode_checked(amount)) for currency, amount in accepted.budget.items()
        }
        accepted.budget = _as_read(amounts, quirk)
    return accepted


def subscribed_of(
    job: Job, request_id: str, *, replayed: bool, history_from: int | None
) -> messages.Subscribed:
    """`job.subscribed` (§7.6)."""
    terms = job.terms
    return messages.Subscribed(
        job_id=job.id,
        current_status=job.status.value,
        agent=job.agent,
        lease=job.lease,
        subscribed_from=job.home_seq,
        replayed=replayed,
        request_id=request_id,
        lease_constraints=_constraints(job),
        budget=_budget(_own_counters(job), None),
        parent_job_id=terms.parent_job_id,
        trace_id=terms.trace.trace_id,
        history_from=history_from,
    )


def entry_of(job: Job, session: Session | None = None) -> messages.JobEntry:
    """One job of a page (§6.6), as this session is shown it."""
    accepted_at = format_time(job.terms.accepted_at)
    terms, credentials = job.terms, None
    if session is not None and terms.parent_job_id is None:
        credentials = shown(job, session)
    return messages.JobEntry(
        job_id=job.id,
        agent=job.agent,
        status=job.status.value,
        lease=job.lease,
        created_at=accepted_at,
        submitted_at=accepted_at,
        last_event_seq=job.home_seq,
        parent_job_id=terms.parent_job_id,
        trace_id=terms.trace.trace_id,
        credentials=credentials,
    )


def entry_json(job: Job, session: Session) -> bytes:
    """The same as JSON, written once of a job that has ended: then nobody is shown anything else.

    What is not small is written each time: it is kept once, in the job.
    """
    if job.entry is not None:
        return job.entry
    entry = wire.encode_checked(entry_of(job, session))
    if job.end is not None and len(job.packed or b"") <= SMALL:
        job.entry = entry
    return entry


def _constraints(job: Job) -> messages.LeaseConstraints | None:
    return messages.LeaseConstraints(job.terms.expires_at) if job.terms.expires_at else None


def _own_counters(job: Job) -> Mapping[str, Decimal]:
    """Return what is left of the currencies that the lease of a job names (§7.6).

    A child that names none spends from the counters of the jobs above it, which are not its own.
    """
    return job.budget.remaining if COST_BUDGET in job.lease else NOTHING


def _budget(counters: Mapping[str, Decimal], quirk: Quirk | None) -> dict[str, Any] | None:
    return _as_read(to_wire(counters), quirk) if counters else None


def _as_read(amounts: dict[str, msgspec.Raw], quirk: Quirk | None) -> dict[str, Any]:
    """The counters in the form that a peer reads."""
    if quirk is None or not quirk.budget_as_strings:
        return dict(amounts)
    return {currency: f"{currency}:{bytes(amount).decode()}" for currency, amount in amounts.items()}
