"""Submits that wait: for their credentials, or for those before them (§7.1): answers keep submit order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from . import issuing, messages, refusals, submitting, wire
from .audit import note
from .connection import Connection, Phase
from .credentials import Credential
from .errors import ErrorCode, Refusal
from .job import Terms
from .machine import found
from .quirks import RefusalForm
from .session import Session
from .times import parse_time

if TYPE_CHECKING:
    from .ids import Principal, SessionId
    from .runtime import Runtime

GIVEN_UP: Final = "too many submits wait for their answers"


class Turn(msgspec.Struct, eq=False):
    """One submit that is not answered: judged when its turn comes, unless it has been before.

    `alias` names the credentials that it waits for, until they or the `refusal` have come. `asked_on` is the
    connection on which it came last. `counts`: it is among the submits that may become jobs. `wants`: the key
    that nobody behind it takes. `expired`: its lease has ended, whatever a wall clock says later.
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


def take(runtime: Runtime, connection: Connection, turn: Turn) -> None:
    """Judge a submit, or let it wait behind others; raises Refusal when none waits."""
    session = turn.session
    if not session.turns:
        if not submitting.judge(runtime, connection, turn):
            _wait(runtime, turn)
        return
    if len(session.turns) >= runtime.limits.waiting_submits:
        raise Refusal(
            ErrorCode.INTERNAL_ERROR,
            GIVEN_UP,
            details={
                "limit": "waiting_submits",
                "max": runtime.limits.waiting_submits,
                "retry_after_ms": 1000,
            },
        )
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
    _answer(runtime, session, freed)
    for session_id in freed:
        waiting = runtime.sessions.get(session_id)
        if waiting is not None and waiting is not session:
            proceed(runtime, waiting)


def _answer(runtime: Runtime, session: Session, freed: dict[SessionId, None]) -> None:
    while session.turns:
        turn = session.turns[0]
        connection = session.connection
        try:
            if turn.refusal is not None:
                raise turn.refusal
            if turn.alias is None:
                if not submitting.judge(runtime, connection, turn):
                    return
            elif turn.credentials is None or turn.terms is None:
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


def abandon(runtime: Runtime, session: Session) -> None:
    """The session is over: nobody gets these answers, so no job comes of the submits."""
    waiting = list(session.turns)
    freed: dict[SessionId, None] = {}
    session.turns.clear()
    for turn in waiting:
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
    key = found(turn.submit, "what waits to be judged was read").idempotency_key
    if key is not None and turn.refusal is None:
        turn.wants = turn.session.principal, key
        runtime.issuing.wanted[turn.wants] += 1


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
