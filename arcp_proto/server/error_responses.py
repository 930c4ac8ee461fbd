"""Error responses: the answer to a refused request, in the form that its peer can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.machine import cut
from arcp_proto.engine.phases import Phase
from arcp_proto.errors import RETRYABLE, ErrorCode, Refusal, Unreadable, UnreadablePayload
from arcp_proto.ids import JobId, SessionId, ulid
from arcp_proto.limits import MAX_AGENT_LENGTH, MAX_ID_LENGTH
from arcp_proto.server.sessions.session import Session, attached_to
from arcp_proto.wire import codec, messages
from arcp_proto.wire.peer_quirks import RefusalForm
from arcp_proto.wire.trace_context import read_trace

if TYPE_CHECKING:
    from .state import RuntimeState

UNKNOWN_AGENT: Final = "unknown"
NULL: Final = msgspec.Raw(b"null")
LONGEST: Final = 6 * MAX_ID_LENGTH + 2
"""Bytes of the longest JSON string of an id."""
_UNREAD: Final = (Unreadable, UnreadablePayload)
_OF_A_JOB: Final = ("job.cancel", "job.subscribe", "job.unsubscribe")


def answer(state: RuntimeState, connection: ConnectionState, refusal: Refusal) -> None:
    """Answer `connection.answering` with an error, or report a fault of the connection itself."""
    envelope, session = connection.answering, attached_to(connection)
    if envelope is not None and envelope.type == "session.error":
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
        final_status="error",
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
        if envelope.type == "session.resume":
            asked = _name(names.session_id) or envelope.session_id
        elif envelope.type == "session.hello":
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
