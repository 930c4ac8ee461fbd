"""The ordered submit queue of a session: submits are answered in the order in which they came (§7.1).

A submit waits for its credentials, for its idempotency key, or for the submits before it. While
`Limits.max_session_waiting_submits` of a session wait, its connection is not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal, require
from arcp_proto.ids import Monotonic
from arcp_proto.server import responses
from arcp_proto.server.audit import note
from arcp_proto.server.credentials import issuing
from arcp_proto.server.sessions.session import Session, Turn, admission_of, attached_to, session_of
from arcp_proto.wire import codec, messages
from arcp_proto.wire.credential import Credential
from arcp_proto.wire.inputs import given_bytes
from arcp_proto.wire.peer_quirks import RefusalForm
from arcp_proto.wire.timestamps import parse_time

from . import gate, submission

if TYPE_CHECKING:
    from arcp_proto.ids import SessionId
    from arcp_proto.server.state import RuntimeState


def on_submit(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, submit: messages.Submit
) -> None:
    """Handle `job.submit` (§7.1): accept it after every check, or let it wait."""
    session = session_of(connection)
    admission = require(admission_of(connection), "a connection in a session was admitted")
    if admission.replays and submission.answered_before(state, connection, session, envelope):
        return
    request_id = connection.request_id(envelope)
    if session.turns or submit.idempotency_key is not None or issuing.issues(state, session):
        take(state, connection, Turn(session, envelope, submit, request_id, connection))
    else:  # The submit waits for no other one, no key and no credentials.
        submission.carry_out(state, connection, session, envelope, submit, request_id)


def take(state: RuntimeState, connection: ConnectionState, turn: Turn) -> None:
    """Judge a submit at once, or let it wait behind others; raises Refusal when no other waits."""
    session = turn.session
    if not session.turns:
        if not submission.judge(state, connection, turn):
            _wait(state, turn)
        return
    try:
        submission.ask_ahead(state, turn)
    except Refusal as refusal:
        turn.refusal = refusal
    _wait(state, turn)


def keeps_place(state: RuntimeState, connection: ConnectionState, refusal: Refusal) -> bool:
    """Return whether a refusal waits for the answers to the submits before it, and queue it there.

    This holds for the refusal of a submit, and for one that the peer would take for the answer to a submit
    (`RefusalForm.JOB_ERROR_OF_JOB`).
    """
    envelope, session = connection.answering, attached_to(connection)
    if envelope is None or session is None or not session.turns or refusal.fatal:
        return False
    binds = session.quirk.refusal_of(envelope.type) is RefusalForm.JOB_ERROR_OF_JOB
    if not (envelope.type == messages.MessageType.JOB_SUBMIT or binds) or connection.phase is not Phase.OPEN:
        return False
    if len(session.turns) >= state.limits.max_control_envelopes:
        refusal.fatal = True
        return False
    job_id = responses.job_id_of(envelope, refusal)
    payload = msgspec.Raw(b"{}" if job_id is None else codec.encode_checked({"job_id": job_id}))
    envelope = msgspec.structs.replace(envelope, payload=payload)
    session.turns.append(Turn(session, envelope, None, envelope.id, connection, refusal=refusal))
    return True


def ready(state: RuntimeState, turn: Turn, credentials: list[Credential]) -> None:
    """Give a submit the credentials that it has waited for, unless its lease has ended meanwhile (§9.5)."""
    try:
        _check_lease(state, turn)
    except Refusal as refusal:
        turn.refusal = refusal
    else:
        turn.credentials = credentials
    proceed(state, turn.session)


def refused(state: RuntimeState, turn: Turn, refusal: Refusal) -> None:
    """Refuse a submit that does not get its credentials."""
    turn.refusal = refusal
    proceed(state, turn.session)


def proceed(state: RuntimeState, session: Session) -> None:
    """Answer the submits of a session that can be answered, in order, and those that wait for their keys."""
    _proceed(state, session)
    state.may_be_over = True


def _proceed(state: RuntimeState, session: Session) -> None:
    freed: dict[SessionId, None] = {}
    full = len(session.turns) >= state.limits.max_session_waiting_submits
    _answer(state, session, freed)
    if full:
        _read_on(state, session)
    for session_id in freed:
        waiting = state.sessions.get(session_id)
        if waiting is not None and waiting is not session:
            _proceed(state, waiting)


def waits(state: RuntimeState) -> bool:
    """Return whether a submit waits for its credentials."""
    return any(isinstance(waiting, Turn) for waiting in state.issuing.awaited.values())


def _read_on(state: RuntimeState, session: Session) -> None:
    """Continue to read from the session's connection, if there is room for further submits."""
    connection = session.connection
    if connection is None or connection.phase is not Phase.OPEN or not connection.holds_input:
        return
    if len(session.turns) < state.limits.max_session_waiting_submits:
        state.timers.arm(TimerKind.ROOM, connection.number, state.now)


def _answer(state: RuntimeState, session: Session, freed: dict[SessionId, None]) -> None:
    while session.turns:
        turn = session.turns[0]
        connection = session.connection
        _unpin(state, turn)  # The job counts it anew.
        try:
            if turn.refusal is not None:
                raise turn.refusal
            if turn.alias is None:
                if not submission.judge(state, connection, turn):
                    _pin(state, turn)
                    return
            elif turn.credentials is None or turn.terms is None:
                _pin(state, turn)
                return
            else:
                _check_lease(state, turn)
                accepted_at, some = state.unix, bool(turn.credentials)
                issuing.counts_no_more(state, turn)
                terms = msgspec.structs.replace(turn.terms, accepted_at=accepted_at, credentials=some)
                submit, alias = require(turn.submit, "a submit that is accepted was decoded"), turn.alias
                credentials = turn.credentials
                submission.accept(
                    state, connection, session, submit, terms, turn.request_id, credentials, alias
                )
        except Refusal as refusal:
            session.turns.pop(0)
            _refuse(state, connection, turn, refusal)
        else:
            session.turns.pop(0)
        _free_key(state, turn, freed)


def lease_ends(state: RuntimeState, alias: str) -> None:
    """Refuse a submit whose lease ends before its credentials have come (§9.5).

    If the wall clock was set back, the lease ends later: watch it again.
    """
    turn = state.issuing.awaited.get(alias)
    if not isinstance(turn, Turn):
        return
    try:
        _check_lease(state, turn)
    except Refusal as refusal:
        refused(state, turn, refusal)
    else:
        watch_lease(state, turn)


def watch_lease(state: RuntimeState, turn: Turn) -> None:
    """Arm the timer for the end of the lease of a submit that waits for credentials, by the wall clock."""
    expires_at = None if turn.terms is None else turn.terms.expires_at
    expires = None if expires_at is None else parse_time(expires_at)
    if expires is None or turn.alias not in state.issuing.awaited:
        return
    left = 0 if turn.expired else max(0, expires - state.wall)
    state.timers.arm(TimerKind.LEASE_ENDS, turn.alias, Monotonic(state.now + left))
    gate.watch_wall_clock(state)


def watches_lease(state: RuntimeState) -> bool:
    """Return whether a submit that waits for credentials has a lease that ends."""
    return any(
        isinstance(waiting, Turn) and waiting.terms is not None and waiting.terms.expires_at is not None
        for waiting in state.issuing.awaited.values()
    )


def wall_clock_moved(state: RuntimeState) -> None:
    """Arm the timers for the leases of waiting submits anew, after the wall clock was set."""
    for waiting in state.issuing.awaited.values():
        if isinstance(waiting, Turn):
            watch_lease(state, waiting)


def abandon(state: RuntimeState, session: Session) -> None:
    """Drop the waiting submits of a session that has ended: no client gets answers, so no job starts."""
    waiting = list(session.turns)
    freed: dict[SessionId, None] = {}
    session.turns.clear()
    for turn in waiting:
        _unpin(state, turn)
        issuing.drop(state, turn)
        _free_key(state, turn, freed)
    for session_id in freed:
        if session_id in state.sessions:
            _proceed(state, state.sessions[session_id])
    state.may_be_over = True


def wall_clock_moves(state: RuntimeState) -> None:
    """Note which leases of waiting submits have ended before the wall clock is set: they stay so (§9.5)."""
    for session in state.sessions.values():
        for turn in session.turns:
            turn.expired = _has_ended(state, turn)


def refuse_all(state: RuntimeState, message: str) -> None:
    """Refuse every waiting submit, because the runtime is shutting down."""
    for session in list(state.sessions.values()):
        for turn in session.turns:
            if turn.refusal is None:
                turn.refusal = Refusal(ErrorCode.INTERNAL_ERROR, message)
                issuing.drop(state, turn)
        proceed(state, session)


def _wait(state: RuntimeState, turn: Turn) -> None:
    """Queue a submit; later submits with the same key wait for it."""
    turn.session.turns.append(turn)
    submit = require(turn.submit, "a submit that waits was decoded")
    payload = msgspec.Raw(codec.encode_checked({"agent": submit.agent}))  # All that a refusal may name.
    turn.envelope = msgspec.structs.replace(turn.envelope, payload=payload)
    _pin(state, turn)
    key = submit.idempotency_key
    if key is not None and turn.refusal is None:
        turn.wants = turn.session.principal, key
        state.issuing.wanted[turn.wants] += 1


def _pin(state: RuntimeState, turn: Turn) -> None:
    """Pin the bytes that a waiting submit would give to its job."""
    if turn.submit is None or turn.refusal is not None:
        return
    given = given_bytes(turn.submit.input, turn.submit.lease_request)
    if given:
        turn.pinned = given
        state.pin(turn.session.principal, given)


def _unpin(state: RuntimeState, turn: Turn) -> None:
    if turn.pinned:
        state.unpin(turn.session.principal, turn.pinned)
        turn.pinned = 0


def _check_lease(state: RuntimeState, turn: Turn) -> None:
    """Check that the lease of a submit has not ended; raises Refusal LEASE_EXPIRED, and drops its turn."""
    if not _has_ended(state, turn):
        return
    terms = require(turn.terms, "a submit with a lease has terms")
    issuing.drop(state, turn)
    note(state, "lease_expired", terms.principal, job_id=terms.job_id, expires_at=terms.expires_at)
    message = f"the lease expired at {terms.expires_at}, before the job could begin"
    raise Refusal(ErrorCode.LEASE_EXPIRED, message)


def _has_ended(state: RuntimeState, turn: Turn) -> bool:
    expires_at = None if turn.terms is None else turn.terms.expires_at
    expires = None if expires_at is None else parse_time(expires_at)
    return turn.expired or (expires is not None and state.wall >= expires)


def _refuse(state: RuntimeState, connection: ConnectionState | None, turn: Turn, refusal: Refusal) -> None:
    if connection is None or connection.phase is not Phase.OPEN:
        return
    admission = admission_of(connection)
    if admission is not None and admission.replays and connection is not turn.asked_on:
        return  # The client asks again on this connection: the submit is then judged anew.
    before, connection.answering = connection.answering, turn.envelope
    responses.refuse(state, connection, refusal)
    connection.answering = before


def _free_key(state: RuntimeState, turn: Turn, freed: dict[SessionId, None]) -> None:
    """Release the key of an answered submit, and add the sessions that wait for it to `freed`."""
    key, wanted = turn.wants, state.issuing.wanted
    if key is None:
        return
    wanted[key] -= 1
    if not wanted[key]:
        del wanted[key]
    if turn.terms is not None:
        freed.update(state.issuing.keys.pop(key, {}))
