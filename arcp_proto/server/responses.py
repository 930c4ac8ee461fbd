"""Answers: the form of jobs in them, and refusals in the form that their peer can read (§12)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.machine import cut
from arcp_proto.engine.phases import Phase
from arcp_proto.errors import RETRYABLE, ErrorCode, Refusal, Unreadable, UnreadablePayload
from arcp_proto.features import Feature
from arcp_proto.ids import JobId, SessionId, ulid
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import to_wire
from arcp_proto.limits import MAX_AGENT_LENGTH, MAX_ID_LENGTH
from arcp_proto.namespaces import COST_BUDGET
from arcp_proto.server.credentials.model import shown, with_credentials
from arcp_proto.server.jobs.description import glance_at
from arcp_proto.server.sessions.session import Session, attached_to
from arcp_proto.wire import codec, messages
from arcp_proto.wire.inputs import SMALL
from arcp_proto.wire.messages import MessageType
from arcp_proto.wire.peer_quirks import RefusalForm
from arcp_proto.wire.timestamps import format_time
from arcp_proto.wire.trace_context import read_trace

if TYPE_CHECKING:
    from arcp_proto.engine.connection_state import ConnectionState
    from arcp_proto.server.jobs.idempotency import Claim
    from arcp_proto.server.jobs.job import Job
    from arcp_proto.server.sessions.session import Reply, Session
    from arcp_proto.wire.peer_quirks import Quirk

    from .state import RuntimeState


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
    if session.positions:
        entry = b'%b,"job_seq":%d}' % (codec.opened(entry), job.last_position)
    if Feature.READING in session.features:
        entry = b"%b,%b" % (codec.opened(entry), codec.encode_checked(glance_at(job))[1:])
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
    """Return the counters in the form that a peer reads."""
    if quirk is None or not quirk.budget_as_strings:
        return dict(amounts)
    return {currency: f"{currency}:{bytes(amount).decode()}" for currency, amount in amounts.items()}


UNKNOWN_AGENT: Final = "unknown"
NULL: Final = msgspec.Raw(b"null")
LONGEST: Final = 6 * MAX_ID_LENGTH + 2
"""Bytes of the longest JSON string of an id."""
_UNREAD: Final = (Unreadable, UnreadablePayload)
_OF_A_JOB: Final = (MessageType.JOB_CANCEL, MessageType.JOB_SUBSCRIBE, MessageType.JOB_UNSUBSCRIBE)


def refuse(state: RuntimeState, connection: ConnectionState, refusal: Refusal) -> None:
    """Answer `connection.answering` with an error, or report a fault of the connection itself."""
    envelope, session = connection.answering, attached_to(connection)
    if envelope is not None and envelope.type == MessageType.SESSION_ERROR:
        return  # No error answers an error.
    if envelope is None or session is None or refusal.fatal:
        _send_session_error(state, connection, envelope, refusal)
        return
    match session.quirk.refusal_of(envelope.type):
        case RefusalForm.NOTHING:
            return
        case RefusalForm.SESSION_ERROR:
            _send_session_error(state, connection, envelope, refusal)
        case RefusalForm.SESSION_ERROR_IF_IDLE:
            if not (session.jobs or session.turns):
                _send_session_error(state, connection, envelope, refusal)
        case RefusalForm.JOB_ERROR_OF_JOB:
            job_id = job_id_of(envelope, refusal)
            if job_id is None:
                _send_session_error(state, connection, envelope, refusal)
            elif JobId(job_id) not in session.jobs:
                connection.send(_job_error(state, envelope, refusal), job_id=JobId(job_id))
        case form:
            _send_job_error(state, connection, session, envelope, refusal, form)


def _send_session_error(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope | None, refusal: Refusal
) -> None:
    error = messages.SessionError(
        code=refusal.code.value,
        message=cut(refusal.message),
        retryable=RETRYABLE[refusal.code],
        request_id=None if envelope is None else envelope.id or None,
        job_id=job_id_of(envelope, refusal),
        details=_details(envelope, refusal),
    )
    session_id = None if connection.session is not None else _named_session(state, connection, refusal)
    urgent = refusal.fatal or connection.phase is not Phase.OPEN
    connection.send(error, urgent=urgent, session_id=session_id)


def _send_job_error(
    state: RuntimeState,
    connection: ConnectionState,
    session: Session,
    envelope: codec.Envelope,
    refusal: Refusal,
    form: RefusalForm,
) -> None:
    """Send a refusal to a peer that expects a `job.error`."""
    error = _job_error(state, envelope, refusal)
    if form is RefusalForm.JOB_ERROR_BY_ID:
        connection.send(error, message_id=envelope.id)
        return
    trace = read_trace(envelope.trace_id, envelope.extensions)
    trace_id = None if trace is None else trace.trace_id
    job_id = JobId("job_" + ulid(state.entropy.bits(state.scope(session.principal), "refused")))
    if form is RefusalForm.ACCEPTED_THEN_ERROR:
        request_id, now = connection.request_id(envelope), state.time_text()
        accepted = messages.Accepted(job_id, _agent_of(envelope), {}, now, request_id)
        connection.send(accepted, job_id=job_id, trace_id=trace_id)
    connection.send(error, job_id=job_id, trace_id=trace_id)


def _job_error(state: RuntimeState, envelope: codec.Envelope, refusal: Refusal) -> messages.JobError:
    return messages.JobError(
        final_status=JobStatus.ERROR,
        code=refusal.code.value,
        message=cut(refusal.message),
        retryable=RETRYABLE[refusal.code],
        completed_at=state.time_text(),
        details=_details(envelope, refusal),
    )


def _details(envelope: codec.Envelope | None, refusal: Refusal) -> dict[str, Any] | None:
    """Return the details of an error; `fatal` tells that the connection has failed, not a request."""
    details = dict(refusal.details or {})
    if envelope is None and refusal.fatal and refusal.code is ErrorCode.INTERNAL_ERROR:
        details["fatal"] = True
    if envelope is not None and envelope.id:
        details["request_id"] = envelope.id
    return details or None


class _Names(msgspec.Struct):
    """The fields of a refused payload that its answer may name; all others are skipped."""

    job_id: msgspec.Raw = NULL
    agent: msgspec.Raw = NULL
    session_id: msgspec.Raw = NULL
    resume: msgspec.Raw = NULL


_decode_names: Final = codec.decoder_of(_Names)


def _named_session(state: RuntimeState, connection: ConnectionState, refusal: Refusal) -> SessionId:
    """Return the session id of an error before the welcome: the requested one, else a fresh one."""
    envelope, asked = connection.answering, None
    if envelope is not None and not isinstance(refusal, _UNREAD):
        names = _names(envelope.payload)
        if envelope.type == MessageType.SESSION_RESUME:
            asked = _name(names.session_id) or envelope.session_id
        elif envelope.type == MessageType.SESSION_HELLO:
            asked = _name(_names(names.resume).session_id)
    if asked is not None:
        return SessionId(asked)
    return SessionId("sess_" + ulid(state.entropy.bits(connection.scope, "session")))


def job_id_of(envelope: codec.Envelope | None, refusal: Refusal) -> str | None:
    """Return the id of the job that a refused message is about, as it was named there.

    A payload that is refused because it could not be read is not looked at again.
    """
    if envelope is None or envelope.type not in _OF_A_JOB or isinstance(refusal, _UNREAD):
        return None
    return _name(_names(envelope.payload).job_id) or envelope.job_id


def _agent_of(envelope: codec.Envelope) -> str:
    """Return the agent that a refused submit names."""
    agent = _text(_names(envelope.payload).agent)
    return agent[:MAX_AGENT_LENGTH] if agent else UNKNOWN_AGENT


def _names(payload: msgspec.Raw) -> _Names:
    """Return the fields of a payload in one pass; none of a payload that is not an object."""
    try:
        return _decode_names(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _Names()


def _name(value: msgspec.Raw) -> str | None:
    """Return an id; None for any other value."""
    text = _text(value)
    return text if text and len(text) <= MAX_ID_LENGTH else None


def _text(value: msgspec.Raw) -> str | None:
    """Return a string that is not long; None for any other value."""
    if len(bytes(value)) > LONGEST:
        return None
    try:
        text = codec.decode_value(value)
    except Refusal:
        return None
    return text if isinstance(text, str) else None
