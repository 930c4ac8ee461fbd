"""Dispatch: which message is legal in which phase, and what the runtime does at each message and timer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import msgspec

from arcp_proto.close_codes import CloseCode
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import ErrorCode, InvariantViolated, Refusal, require
from arcp_proto.features import Feature
from arcp_proto.ids import JobId, SessionId
from arcp_proto.limits import MAX_ID_LENGTH
from arcp_proto.server.jobs.listing import Filter, page
from arcp_proto.server.jobs.submission import on_cancel
from arcp_proto.server.jobs.submit_queue import on_submit
from arcp_proto.server.journal.records import Released, RuntimeKept
from arcp_proto.server.sessions.guests import check_no_guest
from arcp_proto.server.sessions.handshake import on_hello, on_resume, prove
from arcp_proto.server.sessions.reads import on_describe, on_read
from arcp_proto.server.sessions.session import Session, admission_of, session_of
from arcp_proto.server.sessions.subscriptions import on_subscribe, on_unsubscribe, owners_listed
from arcp_proto.wire import codec, messages, reading
from arcp_proto.wire.lenient import read_request
from arcp_proto.wire.messages import MessageType

from . import shutdown
from .credentials import issuing, revocation
from .hooks import Hooks
from .jobs import completion, gate, results, submission, submit_queue
from .jobs.job import Job, Verdict
from .responses import entry_json
from .sessions import admission_control, handshake, reads, retention, subscriptions

if TYPE_CHECKING:
    from .state import RuntimeState

DEFAULT_PAGE: Final = 100
"""Jobs of a page when the client does not set a limit (§6.6)."""
PAGE_BYTES: Final = 6 * MAX_ID_LENGTH + 512
"""An upper bound for the bytes around the entries of a page: the request's id, escaped, and the cursor."""
JOBS_A_REQUEST: Final = 50
"""How many jobs that a listing shows or searches count as one more request: they cost about as much (§14)."""


class Rule(msgspec.Struct, frozen=True):
    """The handler of a message type, the shape of its payload, and the feature that it needs (§6.2).

    A message that is `counted` is a request, which counts against the rates. A message that is `idle` does
    not show that the session is used (§14). Only a message `for_guests` may come in the session of a guest.
    """

    shape: type[msgspec.Struct]
    handle: Callable[[RuntimeState, ConnectionState, codec.Envelope, Any], None]
    feature: Feature | None = None
    counted: bool = True
    idle: bool = False
    for_guests: bool = False


def handle(state: RuntimeState, connection: ConnectionState, message: bytes) -> None:
    """Read one message and carry it out; raises Refusal."""
    connection.answering = None
    envelope = codec.decode_envelope(message)
    connection.answering = envelope
    phase = connection.phase
    rule = HANDLERS[phase].get(envelope.type)
    if phase is Phase.AWAITING_HELLO:
        admission_control.check_place(state, connection)
    elif rule is None or rule.counted:
        admission_control.count_request(state, connection, idle=rule is None or rule.idle)
    elif not rule.idle:
        admission_control.active(state, connection)
    if envelope.arcp != codec.VERSION and not envelope.supported:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"ARCP {envelope.arcp} is not supported; this runtime speaks {codec.VERSION}",
        )
    if rule is None:
        _not_legal(connection, envelope)
        return
    if not rule.for_guests:
        check_no_guest(state, connection, envelope.type)
    if rule.feature is not None and rule.feature not in session_of(connection).features:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"{envelope.type} needs the feature {rule.feature}, which was not negotiated",
        )
    rule.handle(state, connection, envelope, read_request(envelope))


# The session.


def on_ping(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, ping: messages.Ping
) -> None:
    """Handle `session.ping`: answer at once, even if heartbeats were not negotiated (§6.4)."""
    connection.send(messages.Pong(ping.nonce, state.time_text()), urgent=True)


def on_pong(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, pong: messages.Pong
) -> None:
    """Handle `session.pong` (§6.4): its sender has read the welcome before the ping, and has its token."""
    if connection.has_pinged(pong.ping_nonce):
        prove(state, connection, session_of(connection))


def on_ack(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, ack: messages.Ack
) -> None:
    """Handle `session.ack`: free the log up to the acknowledged event (§6.5)."""
    session = session_of(connection)
    if not 0 <= ack.last_processed_seq <= session.log.last:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"last_processed_seq is not between 0 and the last event, {session.log.last}",
        )
    admission = require(admission_of(connection), "a connection in a session was admitted")
    if ack.last_processed_seq > admission.cursor:
        prove(state, connection, session)
    if ack.last_processed_seq > session.acked:
        state.commit(Released(session.id, ack.last_processed_seq))
    if session.log.last - session.acked <= state.limits.back_pressure_events:
        session.lagging = False


def on_close(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, close: messages.Close
) -> None:
    """Detach the session and close; jobs go on (§6.7).

    `session.close` is answered by `session.closed`. `session.bye` is answered by the close alone: its
    senders do not know `session.closed`.
    """
    if envelope.type == MessageType.SESSION_CLOSE:
        connection.send(messages.Closed(close.reason))
    state.close_connection(connection, CloseCode.NORMAL_CLOSURE, "session closed", who="peer", flush=True)


def on_list_jobs(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, request: messages.ListJobs
) -> None:
    """Handle `session.list_jobs` (§6.6): answer with a page, newest first, as long as fits a frame."""
    session, limits, cursors = session_of(connection), state.limits, state.cursors
    principal, asked = session.principal, Filter.of(request.filter)
    visited = session.tenant if session.guest else None
    last = below = None
    if request.cursor is not None:
        last = below = cursors.read(request.cursor, principal, asked, visited)
    limit = min(max(DEFAULT_PAGE if request.limit is None else request.limit, 1), limits.max_page_jobs)
    owners = owners_listed(state, session)
    jobs, next_below = page(state.listing, owners, asked, below, limit, limits.max_page_jobs)
    looked = len(jobs) if asked.indexed else min(len(state.jobs), limits.max_page_jobs)
    if looked >= JOBS_A_REQUEST:
        admission_control.count_work(
            state, connection, min(looked // JOBS_A_REQUEST, limits.max_requests_per_sec)
        )
    room = limits.max_envelope_bytes - codec.HEAD_BYTES - PAGE_BYTES
    entries: list[msgspec.Raw] = []
    for job in jobs:
        entry = entry_json(job, session)
        room -= len(entry) + 1
        if room < 0:
            next_below = last
            break
        entries.append(msgspec.Raw(entry))
        last = job.number
    cursor = None
    if next_below is not None:
        cursor = cursors.write(principal, asked, next_below, visited)
        if state.cursor_key is None:
            state.commit(RuntimeKept(state.job_count, state.entropy.key("cursors")))
    answer = messages.EncodedJobs(connection.request_id(envelope), entries, cursor)
    connection.send(answer, message_type=MessageType.SESSION_JOBS)


M = TypeVar("M", bound=msgspec.Struct)


def _rule(
    shape: type[M],
    handle: Callable[[RuntimeState, ConnectionState, codec.Envelope, M], None],
    *,
    feature: Feature | None = None,
    counted: bool = True,
    idle: bool = False,
    for_guests: bool = False,
) -> Rule:
    """Return a rule whose handler takes payloads of `shape`, as a type checker sees."""
    return Rule(shape, handle, feature, counted, idle, for_guests)


HANDLERS: Final[Mapping[Phase, Mapping[str, Rule]]] = {
    Phase.AWAITING_HELLO: {
        MessageType.SESSION_HELLO: _rule(messages.Hello, on_hello, for_guests=True),
        MessageType.SESSION_RESUME: _rule(messages.SessionResume, on_resume, for_guests=True),
    },
    Phase.OPEN: {
        MessageType.SESSION_PING: _rule(messages.Ping, on_ping, idle=True, for_guests=True),
        MessageType.SESSION_PONG: _rule(messages.Pong, on_pong, counted=False, idle=True, for_guests=True),
        MessageType.SESSION_ACK: _rule(
            messages.Ack, on_ack, feature=Feature.ACK, counted=False, for_guests=True
        ),
        MessageType.SESSION_LIST_JOBS: _rule(
            messages.ListJobs, on_list_jobs, feature=Feature.LIST_JOBS, for_guests=True
        ),
        MessageType.SESSION_CLOSE: _rule(messages.Close, on_close, for_guests=True),
        MessageType.SESSION_BYE: _rule(messages.Close, on_close, for_guests=True),
        MessageType.JOB_SUBMIT: _rule(messages.Submit, on_submit),
        MessageType.JOB_CANCEL: _rule(messages.Cancel, on_cancel),
        MessageType.JOB_SUBSCRIBE: _rule(
            messages.Subscribe, on_subscribe, feature=Feature.SUBSCRIBE, for_guests=True
        ),
        MessageType.JOB_UNSUBSCRIBE: _rule(
            messages.Unsubscribe, on_unsubscribe, feature=Feature.SUBSCRIBE, for_guests=True
        ),
        MessageType.JOB_DESCRIBE: _rule(
            reading.Describe, on_describe, feature=Feature.READING, for_guests=True
        ),
        MessageType.JOB_READ: _rule(
            reading.ReadEvents, on_read, feature=Feature.READING, counted=False, for_guests=True
        ),
    },
    Phase.AUTHENTICATING: {},
    Phase.CLOSING: {},
    Phase.CLOSED: {},
}
"""The legal messages of each phase."""


def _not_legal(connection: ConnectionState, envelope: codec.Envelope) -> None:
    kind = envelope.type
    if kind == MessageType.SESSION_ERROR and connection.phase is Phase.OPEN:
        return  # No error answers an error.
    if connection.phase is Phase.AWAITING_HELLO:
        raise Refusal(ErrorCode.INVALID_REQUEST, "a connection begins with session.hello or session.resume")
    if kind in messages.TO_RUNTIME:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{kind} is not legal in an open session")
    unknown = Refusal(ErrorCode.INVALID_REQUEST, "unknown message type")
    connection.count_bad(unknown)
    raise unknown


HOOKS: Final = Hooks(
    session_ends=submit_queue.abandon,
    wall_clock_moves=submit_queue.wall_clock_moves,
    wall_clock_moved=submit_queue.wall_clock_moved,
    lease_is_watched=submit_queue.watches_lease,
    revoked=completion.release,
    submit_waits=submit_queue.watch_lease,
    submit_is_ready=submit_queue.ready,
    submit_is_refused=submit_queue.refused,
    job_is_ready=submission.go,
    verdicts={Verdict.RETURNED: results.returned, Verdict.FAILED: completion.failed},
)
"""The functions behind the hooks."""


def carry_out(state: RuntimeState, key: TimerKey) -> None:
    """Carry out a timer that is due."""
    due = DUE.get(key.kind)
    if due is None:
        raise InvariantViolated(f"a runtime has no timer {key.kind}")
    due(state, key.owner)


def _no_hello(state: RuntimeState, connection: ConnectionState) -> None:
    late = Refusal(ErrorCode.UNAUTHENTICATED, "no session.hello in time", fatal=True)
    admission_control.failed(state, connection, "no hello")
    state.refuse(connection, late)


def _not_verified(state: RuntimeState, connection: ConnectionState) -> None:
    late = Refusal(ErrorCode.INTERNAL_ERROR, "authentication took too long", fatal=True)
    admission_control.failed(state, connection, "no answer")
    state.refuse(connection, late)


def _ran_too_long(state: RuntimeState, job: Job) -> None:
    message = f"the job ran longer than its max_runtime_sec of {job.terms.max_runtime_sec}"
    completion.fix_outcome(state, job, completion.outcome_of(ErrorCode.TIMEOUT, message))


# The owner of a timer that is due.


def _connection(state: RuntimeState, owner: int | str) -> ConnectionState:
    return state.connections[int(owner)]


def _number(state: RuntimeState, owner: int | str) -> int:
    return int(owner)


def _session_id(state: RuntimeState, owner: int | str) -> SessionId:
    return SessionId(str(owner))


def _session(state: RuntimeState, owner: int | str) -> Session:
    return state.sessions[_session_id(state, owner)]


def _job(state: RuntimeState, owner: int | str) -> Job:
    return state.jobs[JobId(str(owner))]


def _alias(state: RuntimeState, owner: int | str) -> str:
    return str(owner)


Owner = TypeVar("Owner")
Due: TypeAlias = "Callable[[RuntimeState, int | str], None]"
"""The function of a timer; its owner is the number of a connection, or the id of a session or a job."""


def _due(
    find: Callable[[RuntimeState, int | str], Owner], carry_out: Callable[[RuntimeState, Owner], None]
) -> Due:
    """Return a row of DUE: `carry_out` gets the owner in the form in which `find` returns it."""
    return lambda state, owner: carry_out(state, find(state, owner))


def _of_runtime(carry_out: Callable[[RuntimeState], None]) -> Due:
    """Return a row of DUE for a timer that the runtime itself owns."""
    return lambda state, _: carry_out(state)


DUE: Final[Mapping[TimerKind, Due]] = {
    TimerKind.HELLO: _due(_connection, _no_hello),
    TimerKind.AUTHENTICATION: _due(_connection, _not_verified),
    TimerKind.RESUME_WINDOW: _due(_session_id, retention.end_session),
    TimerKind.MAX_RUNTIME: _due(_job, _ran_too_long),
    TimerKind.LEASE_EXPIRED: _due(_job, gate.due),
    TimerKind.LEASE_ENDS: _due(_alias, submit_queue.lease_ends),
    TimerKind.ISSUE: _due(_alias, issuing.late),
    TimerKind.REVOCATION: _due(_alias, revocation.again),
    TimerKind.REVOCATION_WAIT: _due(_job, completion.wait_over),
    TimerKind.WALL_CLOCK: _of_runtime(gate.look_again),
    TimerKind.GRACE: _due(_job, completion.grace_over),
    TimerKind.RETENTION: _of_runtime(retention.forget_due),
    TimerKind.KEYS: _of_runtime(retention.forget_keys),
    TimerKind.BACKLOG: _due(_session, subscriptions.feed),
    TimerKind.READS: _due(_number, reads.serve),
    TimerKind.EXPIRY: _due(_connection, handshake.expire),
    TimerKind.DRAIN: _of_runtime(shutdown.drain_over),
}
"""The function of each timer, and how it gets the owner."""
