"""The form of jobs in answers: `job.accepted`, `job.subscribed`, and entries of `session.jobs`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.leases.budget import COST_BUDGET, to_wire
from arcp_proto.server.credentials.model import shown, with_credentials
from arcp_proto.server.sessions.session import attached_to
from arcp_proto.wire import codec, messages
from arcp_proto.wire.inputs import SMALL
from arcp_proto.wire.timestamps import format_time

if TYPE_CHECKING:
    from arcp_proto.engine.connection_state import ConnectionState
    from arcp_proto.server.jobs.idempotency import Claim
    from arcp_proto.server.jobs.job import Job
    from arcp_proto.server.sessions.reply_cache import Reply
    from arcp_proto.server.sessions.session import Session
    from arcp_proto.wire.peer_quirks import Quirk


def send(connection: ConnectionState, reply: Reply, job: Job | None) -> None:
    """Queue an answer that is kept, at its place among the events (§6.3), with current credentials."""
    payload, session = reply.payload, attached_to(connection)
    if job is not None and job.credentials and session is not None:
        payload = with_credentials(payload, shown(job, session))
    envelope = codec.control_envelope(
        connection.fresh_id(),
        reply.message_type,
        payload,
        session_id=connection.session_id,
        job_id=reply.job_id,
        trace_id=None if job is None else job.terms.trace.trace_id,
        extensions=None if job is None else job.extensions,
    )
    connection.queue(envelope, reply.after)


def accepted_of(job: Job, request_id: str, session: Session | None = None) -> messages.Accepted:
    """Return `job.accepted` (§7.1), in the form that the peer of a session reads."""
    terms = job.terms
    quirk = None if session is None else session.quirk
    return messages.Accepted(
        job_id=job.id,
        agent=terms.agent if terms.version is None else job.agent,
        lease=job.lease,
        accepted_at=format_time(terms.accepted_at),
        request_id=request_id,
        lease_constraints=_constraints(job) if terms.expires_at else None,
        budget=_budget(job.budget.initial, quirk) if job.budget.initial else None,
        trace_id=terms.trace.trace_id,
        job_seq=job.last_position if session is not None and session.positions else None,
    )


def accepted_again(claim: Claim, request_id: str, session: Session) -> messages.Accepted:
    """Return `job.accepted` for a job of which only the claim of its idempotency key is left (§7.2)."""
    accepted = msgspec.convert(codec.decode_value(claim.accepted), messages.Accepted)
    accepted.request_id = request_id
    if session.positions and claim.position:
        accepted.job_seq = claim.position
    if accepted.budget is not None:
        amounts = {
            currency: msgspec.Raw(codec.encode_checked(amount))
            for currency, amount in accepted.budget.items()
        }
        accepted.budget = _as_read(amounts, session.quirk)
    return accepted


def subscribed_of(
    job: Job, session: Session, request_id: str, *, replayed: bool, cut: bool
) -> messages.Subscribed:
    """Return `job.subscribed` (§7.6); `cut` tells that some of the requested history is gone."""
    terms, positions = job.terms, session.positions
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
        history_from=_history_from(job) if cut else None,
        job_seq=job.last_position if positions else None,
        history_from_job_seq=job.history.first + 1 if cut and positions else None,
    )


def _history_from(job: Job) -> int:
    """Return the home number of the first event that is left, or of the next one."""
    if job.history.events:
        return job.history.source_at(job.history.first)
    return job.home_seq + 1 if job.end is None else job.end.source


def entry_of(job: Job, session: Session | None = None) -> messages.JobEntry:
    """Return one entry of a page (§6.6), as this session may see it."""
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
    """Return this entry as JSON, cached once the job has ended, when it is the same for every session.

    An entry with a large lease is made each time, so that the lease is kept only once.
    """
    entry = job.entry
    if entry is None:
        entry = codec.encode_checked(entry_of(job, session))
        if job.end is not None and len(job.packed or b"") <= SMALL:
            job.entry = entry
    return b'%b,"job_seq":%d}' % (entry[:-1], job.last_position) if session.positions else entry


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
    """Return the counters in the form that a peer reads."""
    if quirk is None or not quirk.budget_as_strings:
        return dict(amounts)
    return {currency: f"{currency}:{bytes(amount).decode()}" for currency, amount in amounts.items()}
