"""Submits that wait: for their credentials, or for those before them (§7.1): answers keep submit order.

While `Limits.waiting_submits` of a session wait, its connection is not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from . import authority, issuing, messages, refusals, submitting, wire
from .audit import note
from .connection import Connection, Phase
from .credentials import Credential
from .errors import ErrorCode, Refusal
from .ids import Time
from .inputs import given_bytes
from .job import Terms
from .machine import found
from .quirks import RefusalForm
from .session import Session
from .timers import TimerKind
from .times import parse_time

if TYPE_CHECKING:
    from .ids import Principal, SessionId
    from .runtime import Runtime


class Turn(msgspec.Struct, eq=False):
    """One submit that is not answered: judged when its turn comes, unless it has been before.

    `alias` names the credentials that it waits for, until they or the `refusal` have come. `asked_on` is the
    connection on which it came last. `counts`: it is among the submits that may become jobs. `wants`: the key
    that nobody behind it takes. `expired`: its lease has ended, whatever a wall clock says later. `pinned`:
    bytes of its input that the account of its principal has while it waits.
    """

    session: Session
    envelope: wire.Envelope
    submit: messages.Submit | None
    request_id: str
    asked_on: Connection | None = None
    alias: str | None = None
    terms: Terms | None = None
    credentials: list[Credential] | None = None
    refusal: Refusal | None = None
    counts: bool = False
    wants: tuple[Principal, str] | None = None
    expired: bool = False
    pinned: int = 0


def take(runtime: Runtime, connection: Connection, turn: Turn) -> None:
    """Judge a submit, or let it wait behind others; raises Refusal when none waits."""
    session = turn.session
    if not session.turns:
        if not submitting.judge(runtime, connection, turn):
            _wait(runtime, turn)
        return
    try:
        submitting.ask_ahead(runtime, turn)
    except Refusal as refusal:
        turn.refusal = refusal
    _wait(runtime, turn)


def keeps_place(runtime: Runtime, connection: Connection, refusal: Refusal) -> bool:
    """Return whether a refusal waits for the answers to the submits before it, and queue it there.

    That is the refusal of a submit, and one that its peer would take for the answer to a submit
    (`RefusalForm.JOB_ERROR_OF_JOB`).
    """
    envelope, session = connection.answering, connection.session
    if envelope is None or session is None or not session.turns or refusal.fatal:
        return False
    binds = session.quirk.refusal_of(envelope.type) is RefusalForm.JOB_ERROR_OF_JOB
    if not (envelope.type == "job.submit" or binds) or connection.phase is not Phase.OPEN:
        return False
    if len(session.turns) >= runtime.limits.control_envelopes:
        refusal.fatal = True
        return False
    job_id = refusals.job_id_of(envelope, refusal)
    payload = msgspec.Raw(b"{}" if job_id is None else wire.encode_checked({"job_id": job_id}))
    envelope = msgspec.structs.replace(envelope, payload=payload)
    session.turns.append(Turn(session, envelope, None, envelope.id, connection, refusal=refusal))
    return True


def ready(runtime: Runtime, turn: Turn, credentials: list[Credential]) -> None:
    """What a submit has waited for is there, unless its lease has ended meanwhile (§9.5)."""
    try:
        _check_lease(runtime, turn)
    except Refusal as refusal:
        turn.refusal = refusal
    else:
        turn.credentials = credentials
    proceed(runtime, turn.session)


def refused(runtime: Runtime, turn: Turn, refusal: Refusal) -> None:
    """A submit does not get its credentials."""
    turn.refusal = refusal
    proceed(runtime, turn.session)


def proceed(runtime: Runtime, session: Session) -> None:
    """Answer the submits of a session that can be answered, in their order, and those that wait for a key."""
    freed: dict[SessionId, None] = {}
    full = len(session.turns) >= runtime.limits.waiting_submits
    _answer(runtime, session, freed)
    if full:
        _read_on(runtime, session)
    for session_id in freed:
        waiting = runtime.sessions.get(session_id)
        if waiting is not None and waiting is not session:
            proceed(runtime, waiting)


def _read_on(runtime: Runtime, session: Session) -> None:
    """Carry out what has come in on the session's connection meanwhile, if there is room for it."""
    connection = session.connection
    if connection is None or connection.phase is not Phase.OPEN or not connection.holds_input:
        return
    if len(session.turns) < runtime.limits.waiting_submits:
        runtime.timers.arm(TimerKind.ROOM, connection.number, runtime.now)


def _answer(runtime: Runtime, session: Session, freed: dict[SessionId, None]) -> None:
    while session.turns:
        turn = session.turns[0]
        connection = session.connection
        _unpin(runtime, turn)  # As a job it is counted anew.
        try:
            if turn.refusal is not None:
                raise turn.refusal
            if turn.alias is None:
                if not submitting.judge(runtime, connection, turn):
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
                submit, alias = found(turn.submit, "what is accepted was read"), turn.alias
                credentials = turn.credentials
                submitting.accept(
                    runtime, connection, session, submit, terms, turn.request_id, credentials, alias
                )
        except Refusal as refusal:
            session.turns.pop(0)
            _refuse(runtime, connection, turn, refusal)
        else:
            session.turns.pop(0)
        _free_key(runtime, turn, freed)


def is_wanted(runtime: Runtime, session: Session, key: str) -> bool:
    """Whether a submit that is not answered may get this key of the session's principal.

    Who comes later does not ask ahead of it: in the same session each would wait for the other.
    """
    return (session.principal, key) in runtime.issuing.wanted


def waits_for_key(runtime: Runtime, session: Session, key: str) -> bool:
    """Whether another submit has this key, and is not answered: then this session waits for it too."""
    waiting = runtime.issuing.keys.get((session.principal, key))
    if waiting is None:
        return False
    waiting[session.id] = None
    return True


def knows(session: Session, request_id: str, connection: Connection) -> bool:
    """Whether this submit has come before, and waits; its answer is awaited on this connection now."""
    for turn in session.turns:
        if turn.request_id == request_id:
            turn.asked_on = connection
            return True
    return False


def lease_ends(runtime: Runtime, alias: str) -> None:
    """The lease of a submit has ended before its credentials came: refuse it now (§9.5).

    After the wall clock was set back the lease ends later: watch it again.
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


def watch_lease(runtime: Runtime, turn: Turn) -> None:
    """Look when the lease of a submit that waits for credentials ends, by the wall clock as it is now."""
    expires_at = None if turn.terms is None else turn.terms.expires_at
    expires = None if expires_at is None else parse_time(expires_at)
    if expires is None or turn.alias not in runtime.issuing.awaited:
        return
    left = 0 if turn.expired else max(0, expires - runtime.wall)
    runtime.timers.arm(TimerKind.LEASE_ENDS, turn.alias, Time(runtime.now + left))
    authority.watch_wall_clock(runtime)


def watches_lease(runtime: Runtime) -> bool:
    """Return whether the lease of a submit that waits for credentials is to end."""
    return any(
        isinstance(waiting, Turn) and waiting.terms is not None and waiting.terms.expires_at is not None
        for waiting in runtime.issuing.awaited.values()
    )


def wall_clock_moved(runtime: Runtime) -> None:
    """The wall clock was set: leases of submits that wait end by the new one."""
    for waiting in runtime.issuing.awaited.values():
        if isinstance(waiting, Turn):
            watch_lease(runtime, waiting)


def abandon(runtime: Runtime, session: Session) -> None:
    """The session is over: nobody gets these answers, so no job comes of the submits."""
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


def wall_clock_moves(runtime: Runtime) -> None:
    """The wall clock is about to be set: a lease that has ended by now stays so (§9.5)."""
    for session in runtime.sessions.values():
        for turn in session.turns:
            turn.expired = _has_ended(runtime, turn)


def refuse_all(runtime: Runtime, message: str) -> None:
    """Nothing that waits becomes a job: the runtime is shutting down."""
    for session in list(runtime.sessions.values()):
        for turn in session.turns:
            if turn.refusal is None:
                turn.refusal = Refusal(ErrorCode.INTERNAL_ERROR, message)
                issuing.drop(runtime, turn)
        proceed(runtime, session)


def _wait(runtime: Runtime, turn: Turn) -> None:
    """It is not answered at once: what comes later with its key waits for it."""
    turn.session.turns.append(turn)
    submit = found(turn.submit, "what waits to be judged was read")
    payload = msgspec.Raw(wire.encode_checked({"agent": submit.agent}))  # What a refusal may name.
    turn.envelope = msgspec.structs.replace(turn.envelope, payload=payload)
    _pin(runtime, turn)
    key = submit.idempotency_key
    if key is not None and turn.refusal is None:
        turn.wants = turn.session.principal, key
        runtime.issuing.wanted[turn.wants] += 1


def _pin(runtime: Runtime, turn: Turn) -> None:
    """What a submit that waits, and is not refused, would give its job counts."""
    if turn.submit is None or turn.refusal is not None:
        return
    given = given_bytes(turn.submit.input, turn.submit.lease_request)
    if given:
        turn.pinned = given
        runtime.pin(turn.session.principal, given)


def _unpin(runtime: Runtime, turn: Turn) -> None:
    if turn.pinned:
        runtime.unpin(turn.session.principal, turn.pinned)
        turn.pinned = 0


def _check_lease(runtime: Runtime, turn: Turn) -> None:
    """Raise Refusal LEASE_EXPIRED when nothing can be done with what a submit gets: it is revoked."""
    if not _has_ended(runtime, turn):
        return
    terms = found(turn.terms, "a lease that has ended was asked for")
    issuing.drop(runtime, turn)
    note(runtime, "lease_expired", terms.principal, job_id=terms.job_id, expires_at=terms.expires_at)
    message = f"the lease expired at {terms.expires_at}, before the job could begin"
    raise Refusal(ErrorCode.LEASE_EXPIRED, message)


def _has_ended(runtime: Runtime, turn: Turn) -> bool:
    expires_at = None if turn.terms is None else turn.terms.expires_at
    expires = None if expires_at is None else parse_time(expires_at)
    return turn.expired or (expires is not None and runtime.wall >= expires)


def _refuse(runtime: Runtime, connection: Connection | None, turn: Turn, refusal: Refusal) -> None:
    if connection is None or connection.phase is not Phase.OPEN:
        return
    repeats = connection.admission is not None and connection.admission.replays
    if repeats and connection is not turn.asked_on:
        return  # It was asked on a connection that is gone, and is asked again on this one: judged anew.
    before, connection.answering = connection.answering, turn.envelope
    refusals.answer(runtime, connection, refusal)
    connection.answering = before


def _free_key(runtime: Runtime, turn: Turn, freed: dict[SessionId, None]) -> None:
    """The key of a submit that is answered is free, or means a job: add the sessions that wait for it."""
    key, wanted = turn.wants, runtime.issuing.wanted
    if key is None:
        return
    wanted[key] -= 1
    if not wanted[key]:
        del wanted[key]
    if turn.terms is not None:
        freed.update(runtime.issuing.keys.pop(key, {}))
