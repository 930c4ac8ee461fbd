"""What a client may say, when, and what the runtime does about it: the protocol as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from . import messages, outcome, wire
from .budget import parse_budget, to_wire
from .connection import Connection, Phase
from .errors import ErrorCode, Refusal
from .ids import SECOND, JobId, Principal, SessionId, Time, ulid
from .job import Job, Terms
from .lease import parse_expiry, parse_lease
from .limits import MAX_RUNTIME_SEC
from .machine import CLOSE_NORMAL, cut, found
from .output import Authenticate, PauseJob, StartJob
from .quirks import recognise
from .records import Delivered, JobAccepted, JobStarted, Released, SessionOpened, TokenIssued
from .secret import Secret
from .session import Session
from .shutdown import SHUTTING_DOWN
from .timers import TimerKind
from .tolerance import read_request
from .trace import TraceContext, headers, read_trace

if TYPE_CHECKING:
    from .runtime import Runtime


class PendingHello(NamedTuple):
    """A hello that the host is verifying."""

    connection: Connection
    envelope: wire.Envelope
    features: list[str]
    quirk: str


class Rule(NamedTuple):
    """Who handles a message, and the feature that it needs (§6.2)."""

    handle: Callable[[Runtime, Connection, wire.Envelope, Any], None]
    feature: str | None = None


def handle(runtime: Runtime, connection: Connection, data: bytes) -> None:
    """Read one message and carry it out; raises Refusal."""
    connection.answering = None
    envelope = wire.decode_envelope(data)
    connection.answering = envelope
    if not envelope.supported:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"ARCP {envelope.arcp} is not supported; this runtime speaks {wire.VERSION}",
        )
    rule = HANDLERS[connection.phase].get(envelope.type)
    if rule is None:
        _not_legal(connection, envelope)
        return
    if rule.feature is not None and rule.feature not in _session(connection).features:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"{envelope.type} needs the feature {rule.feature}, which was not negotiated",
        )
    rule.handle(runtime, connection, envelope, read_request(envelope))


def finish_hello(runtime: Runtime, hello: PendingHello, principal: Principal | None, *, failed: bool) -> None:
    """The host has answered: welcome, or refuse (§6.1, §6.2)."""
    connection = hello.connection
    runtime.timers.disarm(TimerKind.AUTHENTICATION, connection.number)
    if failed or principal is None:
        code = ErrorCode.INTERNAL_ERROR if failed else ErrorCode.UNAUTHENTICATED
        message = "authentication failed by itself" if failed else "the token is not valid"
        _refuse_hello(runtime, hello, Refusal(code, message, fatal=True))
    elif runtime.draining:
        _refuse_hello(runtime, hello, Refusal(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN, fatal=True))
    else:
        _welcome(runtime, hello, principal)
        connection.release_held()


# Before the session.


def on_hello(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, hello: messages.Hello
) -> None:
    """`session.hello` (§6.2): ask the host who it is."""
    if hello.resume is not None:
        _refuse_resume()
    if runtime.draining:
        raise Refusal(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN)
    runtime.timers.disarm(TimerKind.HELLO, connection.number)
    offered = frozenset(hello.capabilities.features)
    features = [name for name in runtime.features if name in offered]
    quirk = recognise(envelope) if runtime.config.quirks else ""
    pending = PendingHello(connection, envelope, features, quirk)
    if hello.auth.scheme == "anonymous" and runtime.config.anonymous:
        _welcome(runtime, pending, runtime.anonymous(connection))
        return
    if hello.auth.scheme != "bearer" or not hello.auth.token:
        raise Refusal(ErrorCode.UNAUTHENTICATED, "a bearer token is required")
    connection.phase = Phase.AUTHENTICATING
    at = Time(runtime.now + runtime.limits.authentication * SECOND)
    runtime.timers.arm(TimerKind.AUTHENTICATION, connection.number, at)
    runtime.hellos[connection.number] = pending
    token = Secret(hello.auth.token)
    runtime.request(Authenticate(connection.number, connection, hello.auth.scheme, token, hello.client))


def on_resume(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, resume: messages.SessionResume
) -> None:
    """`session.resume` (§6.3)."""
    _refuse_resume()


def _refuse_resume() -> None:
    raise Refusal(ErrorCode.RESUME_WINDOW_EXPIRED, "the session cannot be resumed", fatal=True)


def _refuse_hello(runtime: Runtime, hello: PendingHello, refusal: Refusal) -> None:
    hello.connection.answering = hello.envelope
    runtime.refuse(hello.connection, refusal)


def _welcome(runtime: Runtime, hello: PendingHello, principal: Principal) -> None:
    connection, config = hello.connection, runtime.config
    scope = runtime.scope(principal)
    session_id = SessionId("sess_" + ulid(runtime.entropy.bits(scope, "session")))
    runtime.commit(SessionOpened(session_id, principal, hello.features, hello.quirk))
    token = runtime.entropy.token(scope, "rt_")
    runtime.commit(TokenIssued(session_id, token.digest()))
    session = runtime.sessions[session_id]
    session.connection = connection
    connection.open(session)
    heartbeat = config.heartbeat_interval_sec if "heartbeat" in session.features else None
    welcome = messages.Welcome(
        runtime=messages.Peer(config.name, config.version),
        session_id=session_id,
        resume_token=token.reveal(),
        resume_window_sec=config.resume_window_sec,
        capabilities=messages.RuntimeCapabilities(["json"], hello.features, runtime.inventory.entries),
        accepted_at=runtime.time_text(),
        heartbeat_interval_sec=heartbeat,
    )
    connection.send(welcome)
    if heartbeat is not None:
        runtime.start_heartbeat(connection, heartbeat)


# The session.


def on_ping(runtime: Runtime, connection: Connection, envelope: wire.Envelope, ping: messages.Ping) -> None:
    """`session.ping` is answered at once, negotiated or not (§6.4)."""
    connection.send(messages.Pong(ping.nonce, runtime.time_text()), urgent=True)


def on_pong(runtime: Runtime, connection: Connection, envelope: wire.Envelope, pong: messages.Pong) -> None:
    """`session.pong`: that something was heard is all it says (§6.4)."""


def on_ack(runtime: Runtime, connection: Connection, envelope: wire.Envelope, ack: messages.Ack) -> None:
    """`session.ack` frees the log (§6.5)."""
    session = _session(connection)
    if not 0 <= ack.last_processed_seq <= session.log.last:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"last_processed_seq is not between 0 and the last event, {session.log.last}",
        )
    if ack.last_processed_seq > session.acked:
        runtime.commit(Released(session.id, ack.last_processed_seq))


def on_close(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, close: messages.Close
) -> None:
    """`session.close` and `session.bye` (§6.7): jobs go on."""
    connection.send(messages.Closed(close.reason))
    runtime.close_connection(connection, CLOSE_NORMAL, "session closed", who="peer", flush=True)


# Jobs.


def on_submit(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, submit: messages.Submit
) -> None:
    """`job.submit` (§7.1): every check, then the job exists."""
    session = _session(connection)
    terms = _check_submit(runtime, session, envelope, submit)
    runtime.commit(JobAccepted(terms))
    job = runtime.jobs[terms.job_id]
    _send_accepted(runtime, connection, envelope, job)
    if terms.max_runtime_sec is not None:
        at = Time(runtime.now + terms.max_runtime_sec * SECOND)
        runtime.timers.arm(TimerKind.MAX_RUNTIME, job.id, at)
    runtime.commit(JobStarted(job.id))
    runtime.start(job)
    runtime.request(
        StartJob(
            job.id,
            terms.agent,
            terms.version,
            submit.input,
            terms.principal,
            terms.lease,
            terms.trace.trace_id,
            headers(terms.trace, terms.span_id),
        )
    )
    if connection.is_blocked:
        job.paused = True
        runtime.request(PauseJob(job.id))


def on_cancel(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, cancel: messages.Cancel
) -> None:
    """`job.cancel` (§7.4): answered by `job.cancelled`; the terminal follows when the agent has stopped."""
    session = _session(connection)
    job = runtime.jobs.get(JobId(cancel.job_id))
    if job is None or job.terms.principal != session.principal:
        raise Refusal(ErrorCode.JOB_NOT_FOUND, "no such job")
    if job.terms.session_id != session.id and job.terms.session_id in runtime.sessions:
        raise Refusal(ErrorCode.PERMISSION_DENIED, "only the session that submitted a job cancels it")
    answer = messages.Cancelled(
        job.id,
        connection.request_id(envelope),
        cut(cancel.reason) or None,
        job.status.value if job.ended else None,
    )
    payload = wire.encode_checked(answer)[:-1]
    runtime.commit(Delivered(session.id, job.id, "job.cancelled", payload))
    runtime.sent_to([session])
    message = "cancelled by the client" + (f": {cancel.reason}" if cancel.reason else "")
    outcome.fix_outcome(runtime, job, outcome.outcome_of(ErrorCode.CANCELLED, cut(message)))


HANDLERS: Final[Mapping[Phase, Mapping[str, Rule]]] = {
    Phase.AWAITING_HELLO: {
        "session.hello": Rule(on_hello),
        "session.resume": Rule(on_resume),
    },
    Phase.OPEN: {
        "session.ping": Rule(on_ping),
        "session.pong": Rule(on_pong),
        "session.ack": Rule(on_ack, feature="ack"),
        "session.close": Rule(on_close),
        "session.bye": Rule(on_close),
        "job.submit": Rule(on_submit),
        "job.cancel": Rule(on_cancel),
    },
    Phase.AUTHENTICATING: {},
    Phase.CLOSING: {},
    Phase.CLOSED: {},
}
"""Which message is legal in which phase."""

FEATURE_OF: Final[Mapping[str, str]] = {
    "session.list_jobs": "list_jobs",
    "job.subscribe": "subscribe",
    "job.unsubscribe": "subscribe",
}
"""Messages of features that this runtime does not offer yet."""


def _not_legal(connection: Connection, envelope: wire.Envelope) -> None:
    kind = envelope.type
    if kind == "session.error" and connection.phase is Phase.OPEN:
        return  # No error answers an error.
    if connection.phase is Phase.AWAITING_HELLO:
        raise Refusal(ErrorCode.INVALID_REQUEST, "a connection begins with session.hello or session.resume")
    if kind in FEATURE_OF:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"{kind} needs the feature {FEATURE_OF[kind]}, which was not negotiated",
        )
    if kind in messages.TO_RUNTIME:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{kind} is not legal in an open session")
    unknown = Refusal(ErrorCode.INVALID_REQUEST, "unknown message type")
    connection.count_bad(unknown)
    raise unknown


def _check_submit(
    runtime: Runtime, session: Session, envelope: wire.Envelope, submit: messages.Submit
) -> Terms:
    """Check shape, agent, lease, budget, expiry, limits, in this order; raises Refusal, leaves no trace."""
    seconds = submit.max_runtime_sec
    if seconds is not None and not 1 <= seconds <= MAX_RUNTIME_SEC:
        raise Refusal(
            ErrorCode.INVALID_REQUEST, f"max_runtime_sec is a whole number from 1 to {MAX_RUNTIME_SEC}"
        )
    name, version = runtime.inventory.resolve(submit.agent)
    lease = parse_lease(submit.lease_request)
    parse_budget(lease)
    constraints = submit.lease_constraints
    expires_at = None
    if constraints is not None and constraints.expires_at is not None:
        expires_at = parse_expiry(constraints.expires_at, unix=runtime.unix).text
    if runtime.draining:
        raise Refusal(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN)
    if len(runtime.running) >= runtime.limits.running_jobs:
        raise Refusal(
            ErrorCode.INTERNAL_ERROR,
            "too many jobs are running",
            details={"limit": "running_jobs", "max": runtime.limits.running_jobs, "retry_after_ms": 1000},
        )
    scope = runtime.scope(session.principal)
    trace = read_trace(envelope.trace_id, envelope.extensions)
    if trace is None:
        trace = TraceContext(runtime.entropy.bits(scope, "trace").hex())
    return Terms(
        job_id=JobId("job_" + ulid(runtime.entropy.bits(scope, "job"))),
        session_id=session.id,
        principal=session.principal,
        agent=name,
        version=version,
        lease=lease,
        expires_at=expires_at,
        max_runtime_sec=seconds,
        trace=trace,
        span_id=runtime.entropy.bits(scope, "span")[:8].hex(),
        accepted_at=runtime.unix,
    )


def _send_accepted(runtime: Runtime, connection: Connection, envelope: wire.Envelope, job: Job) -> None:
    terms = job.terms
    budget: dict[str, Any] | None = dict(to_wire(job.budget)) or None
    if budget and _session(connection).quirk.budget_as_strings:
        budget = {currency: f"{currency}:{bytes(amount).decode()}" for currency, amount in budget.items()}
    accepted = messages.Accepted(
        job_id=job.id,
        agent=job.agent,
        lease=terms.lease,
        accepted_at=runtime.stamp.text(terms.accepted_at),
        request_id=connection.request_id(envelope),
        lease_constraints=messages.LeaseConstraints(terms.expires_at) if terms.expires_at else None,
        budget=budget,
        trace_id=terms.trace.trace_id,
    )
    connection.send(accepted, job_id=job.id, trace_id=terms.trace.trace_id, extensions=job.extensions)


def _session(connection: Connection) -> Session:
    return found(connection.session, "only an open connection gets here")
