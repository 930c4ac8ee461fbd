"""What a runtime may say, when, and what the client makes of it: the protocol as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from . import messages, wire
from .chunks import ChunkError
from .client_session import ClientSession
from .connection import Connection, Phase
from .errors import RETRYABLE, ErrorCode, Refusal, Unreadable
from .ids import JobId, SessionId
from .limits import MAX_ID_LENGTH
from .machine import CLOSE_NORMAL, found
from .output import (
    CancelAnswered,
    JobAccepted,
    JobEmitted,
    JobEnded,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    Welcomed,
)
from .requests import Outstanding, RequestKind
from .tolerance import read_message

if TYPE_CHECKING:
    from .client import Client

OF_THE_CONNECTION: Final = (ErrorCode.HEARTBEAT_LOST, ErrorCode.UNAUTHENTICATED)
"""Codes that answer no request that they do not name."""

ENDS: Final[Mapping[str, tuple[ErrorCode, str]]] = {
    "error": (ErrorCode.INTERNAL_ERROR, "the job failed"),
    "cancelled": (ErrorCode.CANCELLED, "the job was cancelled"),
    "timed_out": (ErrorCode.TIMEOUT, "the job timed out"),
}
"""What a `job.result` means that is none, by its final status; any other word is `error`."""


def handle(client: Client, connection: Connection, data: bytes) -> None:
    """Read one message and carry out what can be by now: it, those that waited for it, or none."""
    connection.answering = None
    envelope = wire.decode_envelope(data)
    connection.answering = envelope
    session = client.session
    if session is None or envelope.event_seq is None:
        _carry_out(client, connection, envelope)
        return
    for message in _in_order(client, connection, session, envelope, len(data)):
        if connection.phase is Phase.OPEN:
            _carry_out(client, connection, message)
    if connection.phase is Phase.OPEN:
        client.ack_soon(connection, session)


# Before the session.


def on_welcome(
    client: Client, connection: Connection, envelope: wire.Envelope, welcome: messages.Welcome
) -> None:
    """`session.welcome` (§6.2)."""
    offered = frozenset(welcome.capabilities.features)
    features = frozenset(name for name in client.config.features if name in offered)
    session_id, agents = SessionId(welcome.session_id), welcome.capabilities.agents
    session = ClientSession(session_id, features, agents, client.limits, client.now)
    client.open_session(connection, session, welcome.heartbeat_interval_sec)
    client.happened(
        Welcomed(connection, session_id, welcome.runtime, features, agents, welcome.resume_window_sec)
    )


def on_early_error(
    client: Client, connection: Connection, envelope: wire.Envelope, error: messages.SessionError
) -> None:
    """`session.error` before the welcome: there will be none (§6.1)."""
    _fail(client, error)
    client.close_connection(
        connection, CLOSE_NORMAL, "the hello was refused", who="peer", error=error.code, flush=False
    )


# The session.


def on_ping(client: Client, connection: Connection, envelope: wire.Envelope, ping: messages.Ping) -> None:
    """`session.ping` is answered at once, negotiated or not (§6.4)."""
    connection.send(messages.Pong(ping.nonce, client.time_text()), urgent=True)


def on_pong(client: Client, connection: Connection, envelope: wire.Envelope, pong: messages.Pong) -> None:
    """`session.pong`: that something was heard is all it says (§6.4)."""


def on_closed(
    client: Client, connection: Connection, envelope: wire.Envelope, closed: messages.Closed
) -> None:
    """`session.closed` and `session.bye` (§6.7): an answer to our close, or the runtime's own."""
    asked = client.session is not None and client.session.closing
    client.happened(SessionClosed(closed.reason))
    client.close_connection(
        connection, CLOSE_NORMAL, "session closed", who="local" if asked else "peer", flush=False
    )


def on_session_error(
    client: Client, connection: Connection, envelope: wire.Envelope, error: messages.SessionError
) -> None:
    """`session.error`: the refusal of a request, or of our close by some peers, or the connection's."""
    session = _session(client)
    requests = session.requests
    request = requests.take(error.request_id or envelope.id)
    if request is None and session.closing:
        client.close_connection(connection, CLOSE_NORMAL, "session closed", flush=False)
        return
    if request is None and error.request_id:
        return  # Something that has no answer was refused, or what is no longer waited for.
    if request is None and error.code not in OF_THE_CONNECTION:
        request = requests.take_refused(error.code, _name(error.job_id))
    if request is None:
        _fail(client, error)
    else:
        _refused(client, request, error)


# Jobs.


def on_accepted(
    client: Client, connection: Connection, envelope: wire.Envelope, accepted: messages.Accepted
) -> None:
    """`job.accepted` (§7.1): by `request_id`, or without one for the oldest submit."""
    session = _session(client)
    if accepted.request_id:
        request = session.requests.take(accepted.request_id, RequestKind.SUBMIT)
    else:
        request = session.requests.take_submit()
    if request is None:
        return
    job_id = JobId(accepted.job_id)
    session.accept_job(job_id)
    constraints = accepted.lease_constraints
    client.happened(
        JobAccepted(
            request.id,
            job_id,
            accepted.agent,
            accepted.lease,
            None if constraints is None else constraints.expires_at,
            accepted.budget or {},
            accepted.accepted_at,
            accepted.trace_id or envelope.trace_id,
        )
    )


def on_cancelled(
    client: Client, connection: Connection, envelope: wire.Envelope, cancelled: messages.Cancelled
) -> None:
    """`job.cancelled` (§7.4): by `request_id`, or without one for the oldest cancel of the job."""
    requests, job_id = _session(client).requests, JobId(cancelled.job_id)
    if cancelled.request_id:
        request = requests.take(cancelled.request_id, RequestKind.CANCEL)
        if request is None:
            return
    else:
        request = requests.take_cancel(job_id)
    request_id = None if request is None else request.id
    client.happened(CancelAnswered(request_id, job_id, envelope.event_seq or 0, cancelled.final_status))


def on_event(
    client: Client, connection: Connection, envelope: wire.Envelope, event: messages.JobEvent
) -> None:
    """`job.event` (§8.1); chunks of a result are kept for its end as well (§8.4)."""
    session, job_id = _session(client), _job_id(envelope)
    if job_id in session.ended:
        return
    if event.kind == "result_chunk" and job_id in session.jobs:
        session.assembly.add(job_id, event.body)
    seq = _hand_out(session, envelope, job_id)
    client.happened(JobEmitted(job_id, seq, event.kind, event.ts, event.body))


def on_result(
    client: Client, connection: Connection, envelope: wire.Envelope, result: messages.Result
) -> None:
    """`job.result` (§8.4): success, or from some peers the end of a job that was cancelled or timed out."""
    session, job_id = _session(client), _job_id(envelope)
    if job_id in session.ended:
        return
    end = JobEnded(
        job_id,
        envelope.event_seq or 0,
        result.final_status,
        result.completed_at,
        result_id=result.result_id,
        result_size=result.result_size,
        summary=result.summary,
    )
    if result.final_status != "success":
        _set_fault(end, result.final_status, result.summary)
    elif job_id in session.jobs:
        try:
            end.result = session.assembly.finish(job_id, result)
        except ChunkError as error:
            _set_fault(end, "error", str(error))
    elif result.result is not messages.UNSET:
        end.result = result.result
    _end(client, session, envelope, end)


def on_job_error(
    client: Client, connection: Connection, envelope: wire.Envelope, error: messages.JobError
) -> None:
    """`job.error`: the end of a job (§7.3), or from some peers the refusal of a request."""
    session, job_id = _session(client), _name(envelope.job_id)
    request = _refused_by(session, envelope, error, job_id)
    if request is not None:
        _refused(client, request, error)
    elif job_id in session.ended or (error.request_id and job_id not in session.jobs):
        return  # A second end, or the refusal of what is no longer waited for.
    elif job_id is None or (error.code in OF_THE_CONNECTION and job_id not in session.jobs):
        _fail(client, error)
    else:
        _end(client, session, envelope, _end_of(envelope, error, job_id))


Handler = Callable[["Client", Connection, wire.Envelope, Any], None]

HANDLERS: Final[Mapping[Phase, Mapping[str, Handler]]] = {
    Phase.AWAITING_WELCOME: {
        "session.welcome": on_welcome,
        "session.error": on_early_error,
        "session.ping": on_ping,
    },
    Phase.OPEN: {
        "session.ping": on_ping,
        "session.pong": on_pong,
        "session.error": on_session_error,
        "session.closed": on_closed,
        "session.bye": on_closed,
        "job.accepted": on_accepted,
        "job.cancelled": on_cancelled,
        "job.event": on_event,
        "job.result": on_result,
        "job.error": on_job_error,
    },
    Phase.CLOSING: {},
    Phase.CLOSED: {},
}
"""Which message is legal in which phase; any other is ignored."""


def _in_order(
    client: Client, connection: Connection, session: ClientSession, envelope: wire.Envelope, size: int
) -> Sequence[wire.Envelope]:
    """The numbered envelopes whose turn it is."""
    numbers = session.numbers
    waited, last = numbers.held_count > 0, numbers.last
    ready = numbers.offer(envelope.event_seq or 0, envelope, size)
    if waited or numbers.held_count:
        client.watch_gap(connection, session, moved=numbers.last > last)
    return ready


def _carry_out(client: Client, connection: Connection, envelope: wire.Envelope) -> None:
    """One message in its turn. A bad one is ignored and keeps back none behind it; too many close (§1)."""
    try:
        if not envelope.supported:
            raise Refusal(
                ErrorCode.INVALID_REQUEST,
                f"ARCP {envelope.arcp} is not supported; this client speaks {wire.VERSION}",
                fatal=connection.phase is Phase.AWAITING_WELCOME,
            )
        handler = HANDLERS[connection.phase].get(envelope.type)
        if handler is None:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"{envelope.type[:64]} is not legal here")
        handler(client, connection, envelope, read_message(envelope))
    except Refusal as refusal:
        if envelope.type == "session.welcome" and connection.phase is Phase.AWAITING_WELCOME:
            refusal.fatal = True  # There will be no other.
        connection.count_bad(refusal)
        client.refuse(connection, refusal)


def _refused_by(
    session: ClientSession, envelope: wire.Envelope, error: messages.JobError, job_id: JobId | None
) -> Outstanding | None:
    """The request that a `job.error` answers; None when it is the end of its job, or nobody's.

    A request that it names is what it answers. Otherwise an accepted job ends, unless the code is one by
    which peers refuse requests in its name; they do not say when it was completed, as ends do. The error of
    a job that was never accepted refuses what is outstanding.
    """
    requests = session.requests
    request = requests.take(error.request_id or envelope.id)
    if request is not None:
        return request
    if job_id is not None and (job_id in session.jobs or job_id in session.ended):
        return None if error.completed_at else requests.take_about(error.code, job_id)
    if error.request_id or error.code in OF_THE_CONNECTION:
        return None
    return requests.take_refused(error.code, job_id)


def _refused(client: Client, request: Outstanding, error: messages.SessionError | messages.JobError) -> None:
    client.happened(
        RequestRefused(
            request.id,
            error.code,
            error.message or error.code,
            error.retryable,
            request.job_id,
            error.details or {},
        )
    )


def _fail(client: Client, error: messages.SessionError | messages.JobError) -> None:
    message = error.message or error.code
    client.happened(SessionFailed(error.code, message, error.retryable, error.details or {}))


def _end_of(envelope: wire.Envelope, error: messages.JobError, job_id: JobId) -> JobEnded:
    return JobEnded(
        job_id,
        envelope.event_seq or 0,
        error.final_status if error.final_status in ENDS else "error",
        error.completed_at,
        code=error.code,
        message=error.message or error.code,
        retryable=error.retryable,
        details=error.details or {},
    )


def _set_fault(end: JobEnded, final_status: str, message: str | None) -> None:
    """Make a `job.result` the end of a job that has none."""
    code, meaning = ENDS.get(final_status, ENDS["error"])
    end.final_status = final_status if final_status in ENDS else "error"
    end.code, end.message, end.retryable = code.value, message or meaning, RETRYABLE[code]


def _end(client: Client, session: ClientSession, envelope: wire.Envelope, end: JobEnded) -> None:
    """A job is over, and so is every cancel of it that was not answered: some peers never do."""
    while (request := session.requests.take_cancel(end.job_id)) is not None:
        client.happened(CancelAnswered(request.id, end.job_id, 0, end.final_status))
    session.end_job(end.job_id)
    _hand_out(session, envelope, end.job_id)
    client.happened(end)


def _hand_out(session: ClientSession, envelope: wire.Envelope, job_id: JobId) -> int:
    """The number of what the user has to process; 0 for none."""
    seq = envelope.event_seq or 0
    if seq and session.acks is not None:
        session.acks.handed_out(seq, job_id)
    return seq


def _job_id(envelope: wire.Envelope) -> JobId:
    """The job of a message, which some peers name in the payload alone; raises Unreadable without one."""
    job_id = _name(envelope.job_id)
    if job_id is None:
        payload = wire.decode_value(envelope.payload)
        job_id = _name(payload.get("job_id")) if isinstance(payload, dict) else None
    if job_id is None:
        raise Unreadable(f"{envelope.type} names no job")
    return job_id


def _name(job_id: Any) -> JobId | None:
    return JobId(job_id) if isinstance(job_id, str) and 0 < len(job_id) <= MAX_ID_LENGTH else None


def _session(client: Client) -> ClientSession:
    return found(client.session, "only an open connection gets here")
