"""A session between its connections: detached, resumed, lost, given up (§6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_proto.close_codes import CloseCode
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.output import ConnectionEnded, Detached, RequestRefused, SessionLost, Welcomed
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, require
from arcp_proto.ids import JobId, SessionId
from arcp_proto.limits import MAX_TOKEN_LENGTH
from arcp_proto.secret import Secret
from arcp_proto.wire import messages

from . import commands, flow, resubscribe
from .backoff import Fate
from .pending import Outstanding, RequestKind
from .session import ClientSession

if TYPE_CHECKING:
    from .state import ClientState

CONNECTION_LOST = "CONNECTION_LOST"
"""The code of a request that may have been carried out, or not: its answer will not come. It is ours."""

NOT_NEGOTIATED = "NOT_NEGOTIATED"
"""The code of a request that waited for a runtime which did not negotiate its feature (§6.2). It is ours."""


def resume_of(client: ClientState, session: ClientSession | None) -> messages.Resume | None:
    """Return the part of the next hello that resumes the session; None for a new session."""
    if session is None or session.lost or session.token is None:
        return None
    earlier = 1 if client.reconnecting.earlier else 0
    last = max(session.numbers.last - earlier, 0)
    return messages.Resume(session.token.reveal(), last, session.id, replies=True)


def welcomed(client: ClientState, connection: ConnectionState, welcome: messages.Welcome) -> None:
    """Handle a welcome: the session is open, or open again, or another one in its place."""
    offered = frozenset(welcome.capabilities.features)
    features = frozenset(name for name in client.config.features if name in offered)
    session_id = SessionId(welcome.session_id)
    session, resumed = client.session, False
    if session is None:
        session = client.session = ClientSession(session_id, client.limits, client.now)
    elif session.id == session_id and not session.lost:
        resumed = True
        session.numbers.resume()
    else:
        if not session.lost:
            lose(client, session, "", "the runtime has opened another session in its place")
        session.renew(session_id, client.now)
    if 0 < len(welcome.resume_token) <= MAX_TOKEN_LENGTH:
        session.token = Secret(welcome.resume_token)
    session.features, session.agents = features, welcome.capabilities.agents
    session.heartbeat_sec, session.framing = welcome.heartbeat_interval_sec, connection.framing
    session.resume_window_sec = welcome.resume_window_sec
    session.attached, session.acking = True, "ack" in features
    session.names = session.names or welcome.replies
    client.attach(connection, session)
    client.happened(
        Welcomed(
            client.handles[connection],
            session_id,
            welcome.runtime,
            features,
            welcome.capabilities.agents,
            welcome.resume_window_sec,
            resumed,
        )
    )
    _ask_again(client, connection, session, welcome.replies and resumed)
    resubscribe.begin(client)


def refused(client: ClientState, error: messages.SessionError | messages.JobError) -> None:
    """Handle the refusal of a hello: of the first session, or of one that was to be resumed or replaced."""
    session = client.session
    client.reconnecting.refused(
        error.code,
        error.message or error.code,
        error.retryable,
        error.details or {},
        resuming=resume_of(client, session) is not None,
        cursor=0 if session is None else session.numbers.last,
        heartbeat_sec=None if session is None else session.heartbeat_sec,
        now=client.now,
    )


def ended(client: ClientState, session: ClientSession, end: ConnectionEnded) -> None:
    """Handle the end of a connection that carried a session, or was to carry it."""
    reconnecting = client.reconnecting
    if session.closing or (session.attached and not client.config.resume and not client.left):
        forget(client, session)
        return
    if session.attached:
        session.attached = False
        session.numbers.resume()
        session.drop_early([job_id for job_id in session.early if session.requests.wants_history(job_id)])
        reconnecting.detached(client.now, failed=bool(end.code))
        if session.token is not None and reconnecting.fate is Fate.AGAIN and not client.left:
            client.happened(Detached(session.id, end.code, end.reason))
        if session.token is None and reconnecting.fate is Fate.AGAIN:
            lose(client, session, end.code, "the runtime gave no token to resume it")
    if client.left or not client.config.resume:
        return
    if reconnecting.fate is Fate.OVER:
        give_up(client, session, reconnecting.code, reconnecting.reason)
        return
    if reconnecting.fate is Fate.LOST:
        lose(client, session, reconnecting.code, reconnecting.reason)
        if session.stuck:
            _lose_jobs(client, session, reconnecting.code, reconnecting.reason)
    watch(client)
    client.request(reconnecting.dial(client.now, client.draw))


def not_opened(client: ClientState) -> None:
    """Try again to open a first session, until it is given up or refused for a lasting reason."""
    client.opening = client.failure is None or client.failure.retryable
    if client.opening:
        client.request(client.reconnecting.dial(client.now, client.draw))
    else:
        client.timers.disarm(TimerKind.GIVE_UP, 0)


def watch(client: ClientState) -> None:
    """Give up when the session is not reached in time, counted from when it was attached last.

    For a first session the time is counted from `Client.dial`.
    """
    if client.timers.armed(TimerKind.GIVE_UP, 0) is None:
        client.arm_after(TimerKind.GIVE_UP, 0, client.config.give_up_sec)


def too_large(client: ClientState, reason: str) -> None:
    """Handle a message that is larger than the limit, which ends its connection, and comes again on resume.

    The second time at one place the session is lost with all its jobs, as the message may be of any.
    """
    session = client.session
    if session is not None and session.attached and client.config.resume and not session.closing:
        session.stuck = session.large_at == session.numbers.last
        session.large_at = session.numbers.last
        if session.stuck:
            client.reconnecting.lose(ErrorCode.INVALID_REQUEST, reason)


def on_give_up(client: ClientState) -> None:
    """Give up a session that was not reached in time."""
    session, connection = client.session, client.connection
    client.opening = False
    reason = f"the runtime was not reached for {client.config.give_up_sec} s"
    if connection is None:
        if session is not None:
            give_up(client, session, ErrorCode.RESUME_WINDOW_EXPIRED.value, reason)
        return
    client.reconnecting.give_up(ErrorCode.RESUME_WINDOW_EXPIRED, reason)
    client.close_connection(connection, CloseCode.NORMAL_CLOSURE, reason, flush=False)


def lose(client: ClientState, session: ClientSession, code: str, reason: str) -> None:
    """Give up a session that cannot be resumed; another one is opened, and follows its unfinished jobs."""
    client.happened(SessionLost(session.id, code, reason, final=False))
    resubscribe.forget(client, session)
    session.lose()
    client.reconnecting.lost(client.now, client.draw)


def give_up(client: ClientState, session: ClientSession, code: str, reason: str) -> None:
    """Report that a session and its jobs are lost, and open no other."""
    client.happened(SessionLost(session.id, code, reason, final=True))
    forget(client, session)
    _refuse_all(client, session, reason)
    _lose_jobs(client, session, code, reason)


def forget(client: ClientState, session: ClientSession) -> None:
    """Forget a session that is over."""
    resubscribe.forget(client, session)
    flow.forget_stopped(client, session)
    client.timers.disarm(TimerKind.GIVE_UP, 0)
    client.session, client.opening = None, False


def close(client: ClientState, session: ClientSession, reason: str) -> None:
    """Close a detached session for the user: nothing is sent, and open requests are refused."""
    forget(client, session)
    _refuse_all(client, session, reason)


def _send(
    client: ClientState, connection: ConnectionState, session: ClientSession, request: Outstanding
) -> None:
    """Send a request, now that the session is attached; one that its runtime did not negotiate is refused."""
    message = require(request.message, "a request that waits has its message")
    reason = commands.not_negotiated(message, session.features or frozenset())
    if reason is None:
        transmit(connection, session, request)
    else:
        session.requests.take(request.id)
        _refuse(client, request, NOT_NEGOTIATED, reason)


def transmit(connection: ConnectionState, session: ClientSession, request: Outstanding) -> None:
    """Hand a request to its connection."""
    message = require(request.message, "a request that is sent has its message")
    connection.send(
        commands.as_negotiated(message, session.features or frozenset()),
        job_id=request.job_id,
        trace_id=request.trace_id,
        extensions=request.extensions,
        message_id=request.id,
    )
    request.sent = True


def unsubscribe(client: ClientState, session: ClientSession, message: messages.Unsubscribe) -> None:
    """Observe a job no longer; as there is no answer, the message is sent again on the next connection."""
    job_id = JobId(message.job_id)
    job = session.jobs.get(job_id)
    if job is not None and (job.own or (session.is_placed and not job.may_be_observed)):
        return  # The runtime sends its events all the same.
    if job is None or job.may_be_observed:
        session.leave(job_id, session.requests.asked)
        for request in session.requests:
            if request.job_id == job_id and request.kind is RequestKind.SUBSCRIBE:
                request.dropped = True
    if session.attached and client.connection is not None:
        client.connection.send(message, job_id=job_id)


def _ask_again(
    client: ClientState, connection: ConnectionState, session: ClientSession, replies: bool
) -> None:
    """Send what has no answer, in its order: with `replies` the runtime does nothing of it twice."""
    for request in session.requests:
        _unsubscribe_again(connection, session, request.number)
        fits = request.size <= client.frame_limit(connection.framing)
        again = replies or request.repeatable or not request.sent
        if request.message is not None and again and fits:
            if request.sent:
                session.requests.doubt(request)
            _send(client, connection, session, request)
        else:
            session.requests.take(request.id)
            what = "the answer was lost with the connection" if fits else "it no longer fits a frame"
            _refuse(client, request, CONNECTION_LOST, what)
    _unsubscribe_again(connection, session, session.requests.asked + 1)


def _unsubscribe_again(connection: ConnectionState, session: ClientSession, number: int) -> None:
    """Send the unsubscribes that came before a request once more."""
    for job_id, asked in session.unwanted.items():
        if asked is not None and asked < number:
            session.unwanted[job_id] = None
            connection.send(messages.Unsubscribe(job_id), job_id=job_id)


def _refuse_all(client: ClientState, session: ClientSession, reason: str) -> None:
    for request in session.requests:
        session.requests.take(request.id)
        _refuse(client, request, CONNECTION_LOST, reason)


def _lose_jobs(client: ClientState, session: ClientSession, code: str, reason: str) -> None:
    for job in list(session.jobs.values()):
        resubscribe.lose(client, session, job, code, f"its session is lost: {reason}")


def _refuse(client: ClientState, request: Outstanding, code: str, message: str) -> None:
    if not request.ours:
        client.happened(RequestRefused(request.id, code, message, False, request.job_id, {}))
