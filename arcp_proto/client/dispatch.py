"""The messages that a runtime may send in each phase, and their handlers: the protocol as a table.

The handlers of messages about jobs are in `job_messages`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.close_codes import CloseCode
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.job_pages import read_of
from arcp_proto.engine.output import JobDescribed, JobsListed, SessionClosed, SessionFailed
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import JobId, RequestId
from arcp_proto.wire import codec, messages, reading
from arcp_proto.wire.lenient import read_message
from arcp_proto.wire.messages import MessageType

from . import flow, resuming
from . import job_messages as jobs
from .pending import RequestKind
from .session import ClientSession

if TYPE_CHECKING:
    from .state import ClientState

SUPERSEDED: Final = "superseded"
"""The `reason` in the details of the UNAUTHENTICATED that says that another connection has the session."""


FATAL: Final = "fatal"
"""A detail of an error that is true if the runtime ends the connection, and answers no request by it."""
_OPEN: Final = Phase.OPEN


def handle(client: ClientState, connection: ConnectionState, data: bytes) -> None:
    """Read one message, and carry out those whose turn it is: it, those that waited for it, or none."""
    envelope = codec.decode_envelope(data)
    session = client.session
    if session is None or connection.phase is not _OPEN:
        _carry_out(client, connection, envelope)
        return
    if envelope.type != MessageType.SESSION_ERROR:
        client.reconnecting.heard = True
    if envelope.event_seq is None:
        _carry_out(client, connection, envelope)
    else:
        carry_out(client, connection, _in_order(client, connection, session, envelope, len(data)))
        if connection.phase is _OPEN:
            flow.ack_soon(client, connection, session)
    if session.early.count and not session.requests.unsure:
        _let_go(client, connection, session)


def carry_out(client: ClientState, connection: ConnectionState, envelopes: Iterable[codec.Envelope]) -> None:
    """Carry out numbered envelopes whose turn it is, until one ends the connection."""
    for envelope in envelopes:
        if connection.phase is _OPEN:
            _carry_out(client, connection, envelope)
            _let_children_go_on(client, connection)


# Gaps in the numbers (§8.3).


def watch_gap(
    client: ClientState, connection: ConnectionState, session: ClientSession, *, moved: bool
) -> None:
    """Arm or disarm the timer for missing events; `moved` says that the stream went on."""
    numbers, limits = session.numbers, client.limits
    if numbers.held_count == 0:
        client.timers.disarm(TimerKind.GAP, connection.number)
    elif numbers.held_count > limits.max_gap_events or numbers.held_bytes > limits.max_gap_bytes:
        give_up_gap(client, connection, session)
    elif moved or client.timers.armed(TimerKind.GAP, connection.number) is None:
        client.arm_after(TimerKind.GAP, connection.number, limits.gap_timeout_sec)


def give_up_gap(client: ClientState, connection: ConnectionState, session: ClientSession) -> None:
    """Resume a session with a gap behind its last number, once for each gap.

    Events that do not come then are given up and reported, since some runtimes leave out numbers.
    """
    first, last = session.numbers.missing() or (0, 0)
    message = f"events {first}..{last} are missing"
    resumes = client.config.resume and session.token is not None and not session.closing
    if resumes and session.skipped != first:
        session.skipped = first
        client.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, message, fatal=True))
        return
    client.happened(SessionFailed(ErrorCode.INTERNAL_ERROR.value, message, True, {}))
    if not resumes:
        client.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, message, fatal=True))
        return
    carry_out(client, connection, session.numbers.skip())
    if client.session is session and session.attached:
        watch_gap(client, connection, session, moved=True)


# Before the session.


def on_welcome(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, welcome: messages.Welcome
) -> None:
    """Handle `session.welcome` (§6.2)."""
    resuming.welcomed(client, connection, welcome)


def on_early_error(
    client: ClientState,
    connection: ConnectionState,
    envelope: codec.Envelope,
    error: messages.SessionError | messages.JobError,
) -> None:
    """Handle a refusal of the hello: `session.error`, or from some peers `job.error` (§6.1)."""
    jobs.fail(client, error)
    resuming.refused(client, error)
    client.close_connection(
        connection,
        CloseCode.NORMAL_CLOSURE,
        "the hello was refused",
        who="peer",
        error=error.code,
        flush=False,
    )


def on_early_event(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, message: msgspec.Struct
) -> None:
    """Handle a message of a job before the welcome.

    Some peers send events there when a session is resumed, and again behind the welcome.
    """
    if isinstance(message, messages.JobError) and envelope.event_seq is None:
        on_early_error(client, connection, envelope, message)
    elif client.session is None or envelope.event_seq is None:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{envelope.type} is not legal here")


# The session.


def on_ping(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, ping: messages.Ping
) -> None:
    """Answer `session.ping` at once, negotiated or not (§6.4)."""
    connection.send(messages.Pong(ping.nonce, client.time_text()), urgent=True)


def on_pong(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, pong: messages.Pong
) -> None:
    """Handle `session.pong`, which only shows that the peer lives (§6.4)."""


def on_closed(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, closed: messages.Closed
) -> None:
    """Handle `session.closed` and `session.bye` (§6.7): an answer to our close, or the runtime's own."""
    asked = client.session is not None and client.session.closing
    client.happened(SessionClosed(closed.reason))
    client.close_connection(
        connection, CloseCode.NORMAL_CLOSURE, "session closed", who="local" if asked else "peer", flush=False
    )


def on_session_error(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, error: messages.SessionError
) -> None:
    """Handle `session.error`: of a request, of the connection, or from some peers of our close."""
    session = jobs.session_of(client)
    requests = session.requests
    request = requests.take(error.request_id or envelope.id)
    session.names = session.names or bool(error.request_id)
    if request is None and session.closing:
        client.close_connection(connection, CloseCode.NORMAL_CLOSURE, "session closed", flush=False)
        return
    if request is None and error.request_id:
        return  # A message without an answer was refused, or a request that does not wait any longer.
    if request is None and error.code not in jobs.OF_THE_CONNECTION:
        closes = (error.details or {}).get(FATAL) is True
        if closes or (session.names and error.code == ErrorCode.INTERNAL_ERROR):
            jobs.fail(client, error)
            return
        if requests.repeated(envelope.id, error.job_id):
            return
        request = requests.take_refused(error.code, jobs.name(error.job_id), jobs.trace_ids_of(envelope))
    if request is not None:
        jobs.refused(client, request, error)
        return
    jobs.fail(client, error)
    if (error.details or {}).get("reason") == SUPERSEDED and client.config.resume:
        client.reconnecting.superseded(client.now, client.draw)
        client.close_connection(
            connection, CloseCode.NORMAL_CLOSURE, SUPERSEDED, who="peer", error=error.code, flush=False
        )


def on_accepted(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, accepted: messages.Accepted
) -> None:
    """Handle `job.accepted` (§7.1), and the events of the job that came before it."""
    jobs.on_accepted(client, connection, envelope, accepted)
    if accepted.parent_job_id:
        _let_children_go_on(client, connection)
    else:
        _go_on(client, connection, JobId(accepted.job_id))


def on_subscribed(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, answer: messages.Subscribed
) -> None:
    """Handle `job.subscribed` (§7.6), and the events that some peers replay before it.

    A runtime that tells positions replays a history behind its answer: what came before comes again.
    """
    session = jobs.session_of(client)
    if session.is_placed and answer.replayed:
        session.drop_early([JobId(answer.job_id)])
    jobs.on_subscribed(client, connection, envelope, answer)
    _go_on(client, connection, JobId(answer.job_id))


def on_jobs(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, page: messages.Jobs
) -> None:
    """Handle `session.jobs` (§6.6): by `request_id`, or without one for the oldest list."""
    requests = jobs.session_of(client).requests
    request = requests.take_answered(RequestKind.LIST, page.request_id, envelope.id)
    if request is not None:
        client.happened(JobsListed(request.id, page.jobs, page.next_cursor))


def on_described(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, answer: reading.Described
) -> None:
    """Handle `x-vendor.arcp-io.job.described`."""
    request = jobs.session_of(client).requests.take(answer.request_id, RequestKind.DESCRIBE)
    if request is not None:
        client.happened(JobDescribed(request.id, answer.job))


def on_events(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, page: reading.EventsPage
) -> None:
    """Handle `x-vendor.arcp-io.job.events`, which changes nothing of what the session follows."""
    read = read_of(RequestId(page.request_id), page)
    if jobs.session_of(client).requests.take(page.request_id, RequestKind.READ) is not None:
        client.happened(read)


Handler = Callable[["ClientState", ConnectionState, codec.Envelope, Any], None]

HANDLERS: Final[Mapping[Phase, Mapping[str, Handler]]] = {
    Phase.AWAITING_WELCOME: {
        MessageType.SESSION_WELCOME: on_welcome,
        MessageType.SESSION_ERROR: on_early_error,
        MessageType.SESSION_PING: on_ping,
        MessageType.JOB_CANCELLED: on_early_event,
        MessageType.JOB_EVENT: on_early_event,
        MessageType.JOB_RESULT: on_early_event,
        MessageType.JOB_ERROR: on_early_event,
    },
    Phase.OPEN: {
        MessageType.SESSION_PING: on_ping,
        MessageType.SESSION_PONG: on_pong,
        MessageType.SESSION_ERROR: on_session_error,
        MessageType.SESSION_CLOSED: on_closed,
        MessageType.SESSION_BYE: on_closed,
        MessageType.SESSION_JOBS: on_jobs,
        MessageType.JOB_DESCRIBED: on_described,
        MessageType.JOB_EVENTS: on_events,
        MessageType.JOB_ACCEPTED: on_accepted,
        MessageType.JOB_SUBSCRIBED: on_subscribed,
        MessageType.JOB_CANCELLED: jobs.on_cancelled,
        MessageType.JOB_EVENT: jobs.on_event,
        MessageType.JOB_RESULT: jobs.on_result,
        MessageType.JOB_ERROR: jobs.on_job_error,
    },
    Phase.CLOSING: {},
    Phase.CLOSED: {},
}
"""The messages that are legal in each phase; any other is ignored."""


def _go_on(client: ClientState, connection: ConnectionState, job_id: JobId) -> None:
    """Carry out the events that waited for an answer about a job."""
    session = jobs.session_of(client)
    if job_id in session.early and job_id in session.jobs:
        carry_out(client, connection, session.early.take(job_id))


def _let_go(client: ClientState, connection: ConnectionState, session: ClientSession) -> None:
    """Carry out or drop the events that still wait when every submit is answered.

    They are of a job of the process that has begun the session, or of a child of a job that a key has
    brought. Runtimes without positions send others, which were not asked for.
    """
    for job_id in list(session.early):
        if session.requests.wants_history(job_id):
            continue
        if session.restored or session.is_placed:
            carry_out(client, connection, session.early.take(job_id))
        else:
            session.drop_early([job_id])


def _let_children_go_on(client: ClientState, connection: ConnectionState) -> None:
    """Carry out the events of children that have been announced.

    They waited, as the announcement did, for an answer about the job that delegated.
    """
    session = client.session
    if session is None or not session.early.count:
        return
    announced = [job_id for job_id in session.early if job_id in session.children]
    for job_id in announced:
        if not session.requests.wants_history(job_id):
            carry_out(client, connection, session.early.take(job_id))


def _in_order(
    client: ClientState,
    connection: ConnectionState,
    session: ClientSession,
    envelope: codec.Envelope,
    size: int,
) -> Sequence[codec.Envelope]:
    """Return the numbered envelopes whose turn it is."""
    numbers = session.numbers
    waited, last = numbers.held_count > 0, numbers.last
    ready = numbers.offer(envelope.event_seq or 0, envelope, size)
    if waited or numbers.held_count:
        watch_gap(client, connection, session, moved=numbers.last > last)
    return ready


def _carry_out(client: ClientState, connection: ConnectionState, envelope: codec.Envelope) -> None:
    """Carry out one message in its turn; a bad one is ignored, and too many of them close (§1)."""
    try:
        if not envelope.supported:
            raise Refusal(
                ErrorCode.INVALID_REQUEST,
                f"ARCP {envelope.arcp} is not supported; this client speaks {codec.VERSION}",
                fatal=connection.phase is Phase.AWAITING_WELCOME,
            )
        handler = HANDLERS[connection.phase].get(envelope.type)
        if handler is None:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"{envelope.type[:64]} is not legal here")
        handler(client, connection, envelope, read_message(envelope))
    except Refusal as refusal:
        if envelope.type == MessageType.SESSION_WELCOME and connection.phase is Phase.AWAITING_WELCOME:
            refusal.fatal = True  # No other welcome will come.
        connection.count_bad(refusal)
        client.refuse(connection, refusal)
