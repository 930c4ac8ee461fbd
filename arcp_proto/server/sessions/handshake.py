"""The handshake: `session.hello`, `session.resume` and `session.welcome` (§6.1 to §6.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.machine import cut
from arcp_proto.engine.output import Authenticate
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal, require
from arcp_proto.features import Feature
from arcp_proto.ids import Monotonic, Principal, SessionId, UnixTime, control_id_prefix, ulid
from arcp_proto.secret import Secret
from arcp_proto.server import responses
from arcp_proto.server.audit import note, notice
from arcp_proto.server.credentials import issuing
from arcp_proto.server.jobs import back_pressure
from arcp_proto.server.journal.records import SessionOpened, TokenIssued, TokenProven
from arcp_proto.wire import codec, messages
from arcp_proto.wire.first import token_prefix
from arcp_proto.wire.framing import Framing
from arcp_proto.wire.peer_quirks import QUIRKS, recognise

from . import admission_control, guests
from .retention import end_session
from .session import Admission, Session, admission_of, session_of
from .subscriptions import feed_soon

if TYPE_CHECKING:
    from arcp_proto.leases.token_scope import TokenScope
    from arcp_proto.server.state import RuntimeState

ANONYMOUS: Final = "anonymous"
LATEST: Final = UnixTime(2**63 - 1)
"""The latest expiry that a record can hold, in the year 2262; a later one counts as this one."""
BEARER: Final = "bearer"
NOT_RESUMED: Final = "the session cannot be resumed"
EXPIRED: Final = "the authentication has expired: resume with a fresh token"
REVOKED: Final = "the token was revoked: resume with a fresh token"
MAX_TOKEN_ID: Final = 256
"""Characters of the id of a bearer token."""


class Pending(msgspec.Struct):
    """A hello or a resume that waits for the host to verify it."""

    connection: ConnectionState
    envelope: codec.Envelope
    features: list[str]
    quirk: str
    resume: messages.Resume | None
    asks: bool | None = None
    """Whether the client asks for credentials; None when a `session.resume` does not say so."""
    principal: Principal | None = None
    """The principal that may resume by the resume token alone, if the host confirms it."""
    expires: UnixTime | None = None
    """When the authentication ends, in Unix nanoseconds, as the host has answered; None: never."""
    scope: TokenScope | None = None
    """The bounds of the bearer token, as the host has answered; None: without bounds."""
    token_id: str = ""
    """The id of the bearer token, as the host has answered, or else of the last one of the session."""


def on_hello(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, hello: messages.Hello
) -> None:
    """Handle `session.hello` (§6.2): ask the host to verify its token, or open an anonymous session."""
    if state.draining and hello.resume is None:
        raise Refusal(ErrorCode.INTERNAL_ERROR, admission_control.SHUTTING_DOWN)
    state.timers.disarm(TimerKind.HELLO, connection.number)
    offered = frozenset(hello.capabilities.features)
    nobody = _claims_nobody(state, hello.auth)
    secret = connection.secure and not nobody  # Only a verified principal gets credentials (§9.8).
    features = [
        name
        for name in state.features
        if name in offered and (secret or name != Feature.PROVISIONED_CREDENTIALS)
    ]
    quirk = recognise(envelope) if state.config.quirks else ""
    pending = Pending(
        connection, envelope, features, quirk, hello.resume, Feature.PROVISIONED_CREDENTIALS in offered
    )
    if nobody and state.config.anonymous:
        _enter_anonymously(state, pending)
    else:
        _authenticate(state, pending, hello.auth, hello.client)


def on_resume(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, resume: messages.SessionResume
) -> None:
    """Handle `session.resume` (§6.3); without `auth`, ask the host whether the principal is still valid."""
    state.timers.disarm(TimerKind.HELLO, connection.number)
    asked = messages.Resume(resume.resume_token, resume.last_event_seq, resume.session_id, resume.replies)
    pending = Pending(connection, envelope, [], "", asked)
    nobody = messages.Peer("", "")
    if resume.auth is not None and not _claims_nobody(state, resume.auth):
        _authenticate(state, pending, resume.auth, nobody)
        return
    session = _find(state, asked)
    if session is None:
        raise _not_resumed(state, pending, asked, "the token")
    _check_expiry(state, connection, session)
    if session.anonymous:
        _resume(state, pending, asked, session.principal)
        return
    pending.principal, pending.token_id = session.principal, session.token_id
    handle = state.handles[connection]
    request = Authenticate(0, handle, "", Secret(""), nobody, session.principal, session.token_id)
    _ask(state, pending, request)


def check_principal(principal: str | None) -> None:
    """Check that a record can hold a principal; raises LocalProtocolError if it is empty or not Unicode."""
    if principal == "":
        raise LocalProtocolError("a principal is not empty: answer None for a token that is not valid")
    try:
        (principal or "").encode()
    except UnicodeEncodeError:
        raise LocalProtocolError("the principal holds a lone surrogate, so it is not valid Unicode") from None


def check_token_id(token_id: str) -> None:
    """Check that a record can hold the id of a bearer token; raises LocalProtocolError."""
    if len(token_id) > MAX_TOKEN_ID or not token_id.isascii():
        raise LocalProtocolError(f"the id of a token has at most {MAX_TOKEN_ID} characters, all of ASCII")


def finish(
    state: RuntimeState,
    pending: Pending,
    principal: Principal | None,
    expires: UnixTime | None,
    scope: TokenScope | None,
    token_id: str,
    *,
    failed: bool,
) -> None:
    """Carry out the host's answer to `Authenticate`: welcome the peer or refuse it (§6.1, §6.2)."""
    connection = pending.connection
    state.timers.disarm(TimerKind.AUTHENTICATION, connection.number)
    connection.answering = pending.envelope
    pending.expires, pending.scope = expires, scope
    if pending.principal is None:
        pending.token_id = token_id
    try:
        principal = _verified(state, pending, principal, expires, failed=failed)
        admission_control.check_connections(state, principal)
        if pending.resume is not None:
            _resume(state, pending, pending.resume, principal)
        elif state.draining:
            raise Refusal(ErrorCode.INTERNAL_ERROR, admission_control.SHUTTING_DOWN)
        else:
            guests.check_right(state, connection, principal)
            admission_control.make_room(state, principal, anonymous=False)
            _open(state, pending, principal)
    except Refusal as refusal:
        state.refuse(connection, refusal)
        return
    finally:
        connection.answering = None
    if admission_of(connection) is not None:
        watch_expiry(state, connection)
    connection.release_held()


def _verified(
    state: RuntimeState,
    pending: Pending,
    principal: Principal | None,
    expires: UnixTime | None,
    *,
    failed: bool,
) -> Principal:
    """Return the verified principal; raises Refusal when there is none."""
    connection, resume = pending.connection, pending.resume
    if failed:
        admission_control.failed(state, connection, "the verifier")
        raise Refusal(ErrorCode.INTERNAL_ERROR, "the token could not be verified: try again")
    if pending.principal is not None and resume is not None and principal != pending.principal:
        if principal is None and pending.token_id:
            admission_control.failed(state, connection, "revoked")
            raise Refusal(ErrorCode.UNAUTHENTICATED, REVOKED)
        raise _not_resumed(state, pending, resume, "the host")
    if principal is None or (expires is not None and expires <= state.wall):
        reason = "the token" if principal is None else "expired"
        guessed = principal is None and (resume is None or _find(state, resume) is None)
        admission_control.failed(state, connection, reason, guessed=guessed)
        raise Refusal(ErrorCode.UNAUTHENTICATED, "the token is not valid")
    return principal


def watch_expiry(state: RuntimeState, connection: ConnectionState) -> None:
    """Arm the timer for the end of the authentication, by the present wall clock."""
    admission = admission_of(connection)
    expires_at = None if admission is None else admission.expires_at
    if expires_at is not None and connection.phase is Phase.OPEN:
        at = Monotonic(state.now + max(expires_at - state.wall, 0))
        state.timers.arm(TimerKind.EXPIRY, connection.number, at)


def expire(state: RuntimeState, connection: ConnectionState) -> None:
    """Close a connection whose authentication has expired; a fresh token resumes the session (§6.1)."""
    session = session_of(connection)
    note(
        state,
        "authentication_expired",
        session.principal,
        peer=connection.peer,
        session_id=session.id,
    )
    state.refuse(connection, Refusal(ErrorCode.UNAUTHENTICATED, EXPIRED, fatal=True))


def revoke(state: RuntimeState, token_ids: Iterable[str]) -> None:
    """Close the connections that bearer tokens with these ids have opened; fresh tokens resume (§6.1)."""
    revoked = dict.fromkeys(token_ids)
    for session in list(state.sessions.values()):
        connection = session.connection
        if connection is not None and session.token_id in revoked:
            note(
                state,
                "authentication_revoked",
                session.principal,
                peer=connection.peer,
                session_id=session.id,
            )
            state.refuse(connection, Refusal(ErrorCode.UNAUTHENTICATED, REVOKED, fatal=True))


def prove(state: RuntimeState, connection: ConnectionState, session: Session) -> None:
    """Note that the peer holds the token of its welcome: the older ones are valid no longer (§6.3)."""
    admission = require(admission_of(connection), "a connection in a session was admitted")
    token, admission.token = admission.token, None
    if token is not None and token in session.tokens and session.tokens[0] != token:
        state.commit(TokenProven(session.id, token))


# Verification.


def _claims_nobody(state: RuntimeState, auth: messages.Auth) -> bool:
    """Return whether `auth` claims no principal: scheme `anonymous`, or `bearer` without a token.

    Go clients without a token send the second form; it counts where the host allows anonymous sessions.
    """
    return auth.scheme == ANONYMOUS or (state.config.anonymous and auth.scheme == BEARER and not auth.token)


def _enter_anonymously(state: RuntimeState, pending: Pending) -> None:
    connection, resume = pending.connection, pending.resume
    guests.check_right(state, connection, Principal(""))
    if resume is None:
        admission_control.make_room(state, Principal(""), anonymous=True)
        _open(state, pending, _nobody_else(state, connection), anonymous=True)
        return
    session = _find(state, resume)
    if session is None or not session.anonymous:
        reason = "the token" if session is None else "the principal"
        raise _not_resumed(state, pending, resume, reason)
    _resume(state, pending, resume, session.principal)


def _nobody_else(state: RuntimeState, connection: ConnectionState) -> Principal:
    """Return a fresh principal for an anonymous session, which is never used again (§6.1)."""
    principal = Principal("anonymous-" + ulid(state.entropy.bits(connection.scope, ANONYMOUS)))
    state.anonymous_principals[principal] = 1
    return principal


def _authenticate(state: RuntimeState, pending: Pending, auth: messages.Auth, client: messages.Peer) -> None:
    if auth.scheme != BEARER or not auth.token:
        admission_control.failed(state, pending.connection, "the scheme")
        raise Refusal(ErrorCode.UNAUTHENTICATED, "a bearer token is required")
    if pending.resume is None or _find(state, pending.resume) is None:
        admission_control.check_failures(
            state, pending.connection
        )  # A valid resume token shows that the peer does not guess.
    _ask(
        state,
        pending,
        Authenticate(0, state.handles[pending.connection], auth.scheme, Secret(auth.token), client),
    )


def _ask(state: RuntimeState, pending: Pending, request: Authenticate) -> None:
    connection = pending.connection
    request.request = connection.number
    connection.goes_to(Phase.AUTHENTICATING)
    state.arm_after(TimerKind.AUTHENTICATION, connection.number, state.limits.authentication_timeout_sec)
    state.pending[connection.number] = pending
    state.request(request)


# Resume.


def _find(state: RuntimeState, resume: messages.Resume) -> Session | None:
    """Return the session of a resume token, found by its digest; None when it is not valid."""
    token = Secret(resume.resume_token)
    digest = token.digest()
    session = state.tokens.get(digest)
    if session is None or not any(token.matches(valid) for valid in session.tokens):
        return None
    return session if resume.session_id in (None, session.id) else None


def _resume(state: RuntimeState, pending: Pending, resume: messages.Resume, principal: Principal) -> None:
    """Resume a session; raises Refusal, and then nothing has changed for its owner (§6.3).

    Unknown, stale and foreign tokens and ended sessions are refused in the same way.
    """
    connection, cursor = pending.connection, resume.last_event_seq
    session = _find(state, resume)
    if session is None or session.principal != principal or not guests.may_return(connection, session):
        reason = "the token" if session is None else "the principal"
        raise _not_resumed(state, pending, resume, reason, principal)
    if pending.principal is not None:
        _check_expiry(state, connection, session)
        pending.expires = min(filter(None, (pending.expires, session.expires)), default=None)
        pending.scope = session.token_scope
    digest, log = Secret(resume.resume_token).digest(), session.log
    if cursor > log.last:
        _note_refused(state, pending, resume, "ahead", principal)
        raise Refusal(
            ErrorCode.INVALID_REQUEST, f"last_event_seq {cursor} is above the last event, {log.last}"
        )
    if cursor < log.first - 1:
        if session.connection is None and session.tokens[-1] == digest:
            end_session(state, session.id)  # No other token can ask for fewer events.
        raise _not_resumed(state, pending, resume, "evicted", principal)
    if Feature.PROVISIONED_CREDENTIALS in session.features and not connection.secure:
        message = "a session with credentials is resumed over a secure connection only"
        raise Refusal(ErrorCode.PERMISSION_DENIED, message, fatal=True)
    if session.long_frames and connection.framing is Framing.LINES:
        message = "a session that was opened over WebSocket is resumed over WebSocket only"
        raise Refusal(ErrorCode.PERMISSION_DENIED, message, fatal=True)
    if session.tokens[0] != digest:
        state.commit(TokenProven(session.id, digest))
    _take_over(state, session, connection)
    _welcome(state, pending, session, cursor)
    if session.guest:
        guests.note_admitted(state, session, connection)
    state.hold_back(session, cursor)
    again = log.last - cursor
    notice(state, "session_resumed", principal, session_id=session.id, peer=connection.peer, events=again)
    for reply in session.replies.replay(asked=resume.replies):
        responses.send(connection, reply, state.jobs.get(reply.job_id))
    back_pressure.pause_jobs(state, session)
    feed_soon(state, session)


def _check_expiry(state: RuntimeState, connection: ConnectionState, session: Session) -> None:
    """Check that a session may be resumed without a bearer token; raises Refusal after its expiry (§6.3)."""
    if session.expires is not None and session.expires <= state.wall:
        admission_control.failed(state, connection, "expired")
        raise Refusal(ErrorCode.UNAUTHENTICATED, EXPIRED)


def _take_over(state: RuntimeState, session: Session, connection: ConnectionState) -> None:
    """Attach a session to the connection of its newest valid resume, and close its old connection (§6.3).

    The old connection is closed even if it still seems alive.
    """
    state.timers.disarm(TimerKind.RESUME_WINDOW, session.id)
    old, session.connection = session.connection, connection
    if old is not None:
        note(
            state,
            "takeover",
            session.principal,
            peer=connection.peer,
            session_id=session.id,
            superseded_peer=old.peer,
        )
        superseded = Refusal(
            ErrorCode.UNAUTHENTICATED,
            "another connection has resumed this session",
            fatal=True,
            details={"reason": "superseded"},
        )
        state.refuse(old, superseded)


def _note_refused(
    state: RuntimeState, pending: Pending, resume: messages.Resume, reason: str, principal: str
) -> None:
    session_id = None if resume.session_id is None else cut(resume.session_id)
    peer = pending.connection.peer
    note(state, "resume_refused", principal, peer=peer, session_id=session_id, reason=reason)


def _not_resumed(
    state: RuntimeState, pending: Pending, resume: messages.Resume, reason: str, principal: str = ""
) -> Refusal:
    """Return the one refusal for every failed resume; only the audit fact gives the `reason`."""
    _note_refused(state, pending, resume, reason, principal)
    return Refusal(ErrorCode.RESUME_WINDOW_EXPIRED, NOT_RESUMED, fatal=True, details={"final": True})


# Welcome.


def _open(state: RuntimeState, pending: Pending, principal: Principal, *, anonymous: bool = False) -> None:
    session_id = SessionId("sess_" + ulid(state.entropy.bits(state.scope(principal), "session")))
    long_frames = pending.connection.framing is Framing.MESSAGES and QUIRKS[pending.quirk].long_frames
    connection = pending.connection
    tenant, guest = connection.tenant or "", connection.guest
    state.commit(
        SessionOpened(
            session_id, principal, pending.features, pending.quirk, anonymous, long_frames, tenant, guest
        )
    )
    session = state.sessions[session_id]
    session.connection = connection
    _welcome(state, pending, session, 0)
    if guest:
        guests.note_admitted(state, session, connection)
    notice(state, "session_opened", principal, session_id=session_id, peer=connection.peer)


def _welcome(state: RuntimeState, pending: Pending, session: Session, cursor: int) -> None:
    """Send `session.welcome` with a new resume token; a resumed session keeps its first features."""
    connection, config = pending.connection, state.config
    if pending.asks is not None:
        session.withheld = issuing.withheld(state, session) if pending.asks else ""
    token = state.entropy.token(state.scope(session.principal), token_prefix(config.label))
    digest = token.digest()
    state.commit(TokenIssued(session.id, digest, cursor, pending.expires, pending.scope, pending.token_id))
    replies = pending.resume is not None and pending.resume.replies
    connection.admission = Admission(digest, cursor, replies, pending.expires)
    state.caps.let_in(connection, session, state.now)
    # From here on ids come from the principal's entropy, which other peers do not change.
    ids = control_id_prefix(state.entropy.bits(state.scope(session.principal), "control"))
    connection.open(session, cursor, ids)
    heartbeat = config.heartbeat_interval_sec if Feature.HEARTBEAT in session.features else None
    features = [name for name in state.features if name in session.features]
    welcome = messages.Welcome(
        runtime=messages.Peer(config.name, config.version),
        session_id=session.id,
        resume_token=token.reveal(),
        resume_window_sec=config.resume_window_sec,
        capabilities=messages.RuntimeCapabilities(["json"], features, _agents(state, session)),
        accepted_at=state.time_text(),
        heartbeat_interval_sec=heartbeat,
        replies=replies,
    )
    connection.send(welcome, after=cursor)
    if heartbeat is not None:
        state.start_heartbeat(connection, heartbeat)


def _agents(state: RuntimeState, session: Session) -> list[messages.AgentEntry]:
    """Return the agents that the token of a session allows, as its welcome lists them."""
    scope = session.token_scope
    return state.inventory.entries if scope is None else state.inventory.allowed(scope)
