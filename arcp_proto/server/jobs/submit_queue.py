"""The ordered submit queue of a session: submits are answered in the order in which they came (§7.1).

A submit waits for its credentials, for its idempotency key, or for the submits before it. While
`Limits.max_session_waiting_submits` of a session wait, its connection is not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from arcp_proto.engine.connection import Connection, Phase
from arcp_proto.engine.machine import found
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import Time
from arcp_proto.server import error_responses
from arcp_proto.server.audit import note
from arcp_proto.server.credentials import issuing
from arcp_proto.server.sessions.session import Session, admission_of, attached_to, session_of
from arcp_proto.wire import codec, messages
from arcp_proto.wire.credential import Credential
from arcp_proto.wire.inputs import given_bytes
from arcp_proto.wire.peer_quirks import RefusalForm
from arcp_proto.wire.timestamps import parse_time

from . import gate, submission
from .turn import Turn

if TYPE_CHECKING:
    from arcp_proto.ids import SessionId
    from arcp_proto.server.state import RuntimeState


def on_submit(
    runtime: RuntimeState, connection: Connection, envelope: codec.Envelope, submit: messages.Submit
) -> None:
    """Handle `job.submit` (§7.1): accept it after every check, or let it wait."""
    session = session_of(connection)
    admission = found(admission_of(connection), "a connection in a session was admitted")
    if admission.replays and submission.answered_before(runtime, connection, session, envelope):
        return
    request_id = connection.request_id(envelope)
    if session.turns or submit.idempotency_key is not None or issuing.issues(runtime, session):
        take(runtime, connection, Turn(session, envelope, submit, request_id, connection))
    else:  # It waits for no other submit, key or credentials.
        submission.carry_out(runtime, connection, session, envelope, submit, request_id)


def take(runtime: RuntimeState, connection: Connection, turn: Turn) -> None:
    """Judge a submit at once, or let it wait behind others; raises Refusal when no other waits."""
    session = turn.session
    if not session.turns:
        if not submission.judge(runtime, connection, turn):
            _wait(runtime, turn)
        return
    try:
        submission.ask_ahead(runtime, turn)
    except Refusal as refusal:
        turn.refusal = refusal
    _wait(runtime, turn)


def keeps_place(runtime: RuntimeState, connection: Connection, refusal: Refusal) -> bool:
    """Return whether a refusal waits for the answers to the submits before it, and queue it there.

    This holds for the refusal of a submit, and for one that the peer would take for the answer to a submit
    (`RefusalForm.JOB_ERROR_OF_JOB`).
    """
    envelope, session = connection.answering, attached_to(connection)
    if envelope is None or session is None or not session.turns or refusal.fatal:
        return False
    binds = session.quirk.refusal_of(envelope.type) is RefusalForm.JOB_ERROR_OF_JOB
    if not (envelope.type == "job.submit" or binds) or connection.phase is not Phase.OPEN:
        return False
    if len(session.turns) >= runtime.limits.max_control_envelopes:
        refusal.fatal = True
        return False
    job_id = error_responses.job_id_of(envelope, refusal)
    payload = msgspec.Raw(b"{}" if job_id is None else codec.encode_checked({"job_id": job_id}))
    envelope = msgspec.structs.replace(envelope, payload=payload)
    session.turns.append(Turn(session, envelope, None, envelope.id, connection, refusal=refusal))
    return True


def ready(runtime: RuntimeState, turn: Turn, credentials: list[Credential]) -> None:
    """Give a submit the credentials that it has waited for, unless its lease has ended meanwhile (§9.5)."""
    try:
        _check_lease(runtime, turn)
    except Refusal as refusal:
        turn.refusal = refusal
    else:
        turn.credentials = credentials
    proceed(runtime, turn.session)


def refused(runtime: RuntimeState, turn: Turn, refusal: Refusal) -> None:
    """Refuse a submit that does not get its credentials."""
    turn.refusal = refusal
    proceed(runtime, turn.session)


def proceed(runtime: RuntimeState, session: Session) -> None:
    """Answer the submits of a session that can be answered, in order, and those that wait for their keys."""
    freed: dict[SessionId, None] = {}
    full = len(session.turns) >= runtime.limits.max_session_waiting_submits
    _answer(runtime, session, freed)
    if full:
        _read_on(runtime, session)
    for session_id in freed:
        waiting = runtime.sessions.get(session_id)
        if waiting is not None and waiting is not session:
            proceed(runtime, waiting)


def _read_on(runtime: RuntimeState, session: Session) -> None:
    """Continue to read from the session's connection, if there is room for further submits."""
    connection = session.connection
    if connection is None or connection.phase is not Phase.OPEN or not connection.holds_input:
        return
    if len(session.turns) < runtime.limits.max_session_waiting_submits:
        runtime.timers.arm(TimerKind.ROOM, connection.number, runtime.now)


def _answer(runtime: RuntimeState, session: Session, freed: dict[SessionId, None]) -> None:
    while session.turns:
        turn = session.turns[0]
        connection = session.connection
        _unpin(runtime, turn)  # The job counts it anew.
        try:
            if turn.refusal is not None:
                raise turn.refusal
            if turn.alias is None:
                if not submission.judge(runtime, connection, turn):
                    _pin(runtime, turn)
                    return
            elif turn.credentials is None or turn.terms is None:
                _pin(runtime, turn)
                return
            else:
                _check_lease(runtime, turn)
                accepted_at, some = runtime.unix, bool(turn.credentials)
                issuing.counts_no_more(runtime, turn)
                terms = msgspec.structs.replace(turn.terms, accepted_at=accepted_at, credentials=some)
                submit, alias = found(turn.submit, "a submit that is accepted was decoded"), turn.alias
                credentials = turn.credentials
                submission.accept(
                    runtime, connection, session, submit, terms, turn.request_id, credentials, alias
                )
        except Refusal as refusal:
            session.turns.pop(0)
            _refuse(runtime, connection, turn, refusal)
        else:
            session.turns.pop(0)
        _free_key(runtime, turn, freed)


def lease_ends(runtime: RuntimeState, alias: str) -> None:
    """Refuse a submit whose lease ends before its credentials have come (§9.5).

    If the wall clock was set back, the lease ends later: watch it again.
    """
    turn = runtime.issuing.awaited.get(alias)
    if not isinstance(turn, Turn):
        return
    try:
        _check_lease(runtime, turn)
    except Refusal as refusal:
        refused(runtime, turn, refusal)
    else:
        watch_lease(runtime, turn)


def watch_lease(runtime: RuntimeState, turn: Turn) -> None:
    """Arm the timer for the end of the lease of a submit that waits for credentials, by the wall clock."""
    expires_at = None if turn.terms is None else turn.terms.expires_at
    expires = None if expires_at is None else parse_time(expires_at)
    if expires is None or turn.alias not in runtime.issuing.awaited:
        return
    left = 0 if turn.expired else max(0, expires - runtime.wall)
    runtime.timers.arm(TimerKind.LEASE_ENDS, turn.alias, Time(runtime.now + left))
    gate.watch_wall_clock(runtime)


def watches_lease(runtime: RuntimeState) -> bool:
    """Return whether a submit that waits for credentials has a lease that ends."""
    return any(
        isinstance(waiting, Turn) and waiting.terms is not None and waiting.terms.expires_at is not None
        for waiting in runtime.issuing.awaited.values()
    )


def wall_clock_moved(runtime: RuntimeState) -> None:
    """Arm the timers for the leases of waiting submits anew, after the wall clock was set."""
    for waiting in runtime.issuing.awaited.values():
        if isinstance(waiting, Turn):
            watch_lease(runtime, waiting)


def abandon(runtime: RuntimeState, session: Session) -> None:
    """Drop the waiting submits of a session that has ended: no client gets answers, so no job starts."""
    waiting = list(session.turns)
    freed: dict[SessionId, None] = {}
    session.turns.clear()
    for turn in waiting:
        _unpin(runtime, turn)
        issuing.drop(runtime, turn)
        _free_key(runtime, turn, freed)
    for session_id in freed:
        if session_id in runtime.sessions:
            proceed(runtime, runtime.sessions[session_id])


def wall_clock_moves(runtime: RuntimeState) -> None:
    """Note which leases of waiting submits have ended before the wall clock is set: they stay so (§9.5)."""
    for session in runtime.sessions.values():
        for turn in session.turns:
            turn.expired = _has_ended(runtime, turn)


def refuse_all(runtime: RuntimeState, message: str) -> None:
    """Refuse every waiting submit, because the runtime is shutting down."""
    for session in list(runtime.sessions.values()):
        for turn in session.turns:
            if turn.refusal is None:
                turn.refusal = Refusal(ErrorCode.INTERNAL_ERROR, message)
                issuing.drop(runtime, turn)
        proceed(runtime, session)


def _wait(runtime: RuntimeState, turn: Turn) -> None:
    """Queue a submit; later submits with the same key wait for it."""
    turn.session.turns.append(turn)
    submit = found(turn.submit, "a submit that waits was decoded")
    payload = msgspec.Raw(codec.encode_checked({"agent": submit.agent}))  # All that a refusal may name.
    turn.envelope = msgspec.structs.replace(turn.envelope, payload=payload)
    _pin(runtime, turn)
    key = submit.idempotency_key
    if key is not None and turn.refusal is None:
        turn.wants = turn.session.principal, key
        runtime.issuing.wanted[turn.wants] += 1


def _pin(runtime: RuntimeState, turn: Turn) -> None:
    """Pin the bytes that a waiting submit would give to its job."""
    if turn.submit is None or turn.refusal is not None:
        return
    given = given_bytes(turn.submit.input, turn.submit.lease_request)
    if given:
        turn.pinned = given
        runtime.pin(turn.session.principal, given)


def _unpin(runtime: RuntimeState, turn: Turn) -> None:
    if turn.pinned:
        runtime.unpin(turn.session.principal, turn.pinned)
        turn.pinned = 0


def _check_lease(runtime: RuntimeState, turn: Turn) -> None:
    """Check that the lease of a submit has not ended; raises Refusal LEASE_EXPIRED, and drops its turn."""
    if not _has_ended(runtime, turn):
        return
    terms = found(turn.terms, "a submit with a lease has terms")
    issuing.drop(runtime, turn)
    note(runtime, "lease_expired", terms.principal, job_id=terms.job_id, expires_at=terms.expires_at)
    message = f"the lease expired at {terms.expires_at}, before the job could begin"
    raise Refusal(ErrorCode.LEASE_EXPIRED, message)


def _has_ended(runtime: RuntimeState, turn: Turn) -> bool:
    expires_at = None if turn.terms is None else turn.terms.expires_at
    expires = None if expires_at is None else parse_time(expires_at)
    return turn.expired or (expires is not None and runtime.wall >= expires)


def _refuse(runtime: RuntimeState, connection: Connection | None, turn: Turn, refusal: Refusal) -> None:
    if connection is None or connection.phase is not Phase.OPEN:
        return
    admission = admission_of(connection)
    if admission is not None and admission.replays and connection is not turn.asked_on:
        return  # The client asks again on this connection: the submit is then judged anew.
    before, connection.answering = connection.answering, turn.envelope
    error_responses.answer(runtime, connection, refusal)
    connection.answering = before


def _free_key(runtime: RuntimeState, turn: Turn, freed: dict[SessionId, None]) -> None:
    """Release the key of an answered submit, and add the sessions that wait for it to `freed`."""
    key, wanted = turn.wants, runtime.issuing.wanted
    if key is None:
        return
    wanted[key] -= 1
    if not wanted[key]:
        del wanted[key]
    if turn.terms is not None:
        freed.update(runtime.issuing.keys.pop(key, {}))
