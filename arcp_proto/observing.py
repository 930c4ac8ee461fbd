"""Jobs seen from elsewhere: who may, history first, then live (§7.6)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from . import delivering, messages, wire
from .answers import subscribed_of
from .audit import note
from .connection import Connection
from .errors import ErrorCode, Refusal
from .ids import MILLISECOND, JobId, Principal, Time
from .job import Job
from .machine import found
from .records import Observed, Replayed, Replied, Unobserved
from .replies import Reply
from .session import Backlog, Session
from .timers import TimerKind

if TYPE_CHECKING:
    from .runtime import Runtime

EVERYBODY = "*"
"""As an owner: the jobs of every principal."""


class Right(StrEnum):
    """What a principal may do with another's jobs, as the host's data says it."""

    LIST = "list"
    OBSERVE = "observe"


def right_to(runtime: Runtime, principal: Principal, job: Job) -> Right | None:
    """What a principal may see of a job; None: it does not exist for it."""
    owner = job.terms.principal
    if owner == principal:
        return Right.OBSERVE
    owners = runtime.observers.get(principal)
    word = None if owners is None else owners.get(owner, owners.get(EVERYBODY))
    return None if word is None else Right(word)


def visible_job(runtime: Runtime, principal: Principal, job_id: str) -> tuple[Job, Right]:
    """A job that exists for a principal; raises Refusal JOB_NOT_FOUND, whyever it does not (§12)."""
    job = runtime.jobs.get(JobId(job_id))
    right = None if job is None else right_to(runtime, principal, job)
    if job is None or right is None:
        raise Refusal(ErrorCode.JOB_NOT_FOUND, "no such job")
    return job, right


def owners_listed(runtime: Runtime, principal: Principal) -> list[Principal] | None:
    """Whose jobs a principal is shown in a listing, its own first; None: everybody's (§6.6)."""
    owners = runtime.observers.get(principal, {})
    if EVERYBODY in owners:
        return None
    return [principal, *(Principal(owner) for owner in owners if owner != principal)]


def on_subscribe(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, subscribe: messages.Subscribe
) -> None:
    """`job.subscribe` (§7.6): the answer, then history if asked for, then live."""
    session = found(connection.session, "only an open connection gets here")
    _note_decision(runtime, session, subscribe.job_id)
    job, right = visible_job(runtime, session.principal, subscribe.job_id)
    if right is not Right.OBSERVE:
        raise Refusal(ErrorCode.PERMISSION_DENIED, "this job may be listed, and not observed")
    check_room(runtime, session, job)
    after = (subscribe.from_event_seq or 0) if subscribe.history else None
    observe(runtime, session, job, after)
    if job.id in session.backlogs and after is not None:
        allowance = runtime.caps.allowances[connection.number]
        allowance.ask(job.id, job.history.end, session.backlogs, runtime.limits.subscriptions)
    _answer(runtime, connection, session, envelope, job, after)


def _note_decision(runtime: Runtime, session: Session, job_id: str) -> None:
    """Who asked for whose job, and what it is told (§14)."""
    job = runtime.jobs.get(JobId(job_id))
    right = None if job is None else right_to(runtime, session.principal, job)
    decisions = {Right.OBSERVE: "granted", Right.LIST: "list only", None: "not visible"}
    note(
        runtime,
        "subscription",
        session.principal,
        session_id=session.id,
        job_id=job_id,
        owner=None if job is None else job.terms.principal,
        decision="unknown" if job is None else decisions[right],
    )


def on_unsubscribe(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, unsubscribe: messages.Unsubscribe
) -> None:
    """`job.unsubscribe` (§7.6) ends observing, and has no answer; the submitting session keeps its job."""
    session = found(connection.session, "only an open connection gets here")
    job_id = JobId(unsubscribe.job_id)
    runtime.caps.allowances[connection.number].asked.pop(job_id, None)
    if job_id in session.observed or job_id in session.backlogs:
        runtime.commit(Unobserved(session.id, job_id))


def check_room(runtime: Runtime, session: Session, job: Job) -> None:
    """Raise Refusal unless a session may observe one more job, or does observe this one."""
    most = runtime.limits.subscriptions
    known = session.observed.keys() | session.backlogs.keys()
    if job.id not in known and len(known) >= most:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"a session observes at most {most} jobs: unsubscribe from some",
            details={"limit": "subscriptions", "max": most},
        )


def observe(runtime: Runtime, session: Session, job: Job, after: int | None) -> None:
    """Observe a job from the event above home number `after` on, None: live from now on."""
    if after is None:
        if not job.ended and job.home is not session and job.id not in session.observed:
            backlog = None if session.reading else Backlog(job.history.end)
            runtime.commit(Observed(session.id, job.id, backlog))
        return
    position, end = job.history.after(after), job.history.end
    if job.home is session:
        if position < end:
            runtime.commit(Observed(session.id, job.id, Backlog(position, end)))
    elif job.end is None or after < job.end.source:
        runtime.commit(Observed(session.id, job.id, Backlog(position)))
    feed_soon(runtime, session, session.quirk.history_after_ms)


def fall_behind(runtime: Runtime, session: Session) -> None:
    """Nobody takes what is numbered, or the journal is behind: let what the session observes wait.

    It waits in the histories of the jobs. So an observer costs nothing that does not read, or has to wait for
    the journal, and its log keeps what it will resume with.
    """
    for job in sorted(session.observed.values(), key=lambda job: job.number):
        if session.id in job.observers:
            runtime.commit(Observed(session.id, job.id, Backlog(job.history.end)))


def feed_soon(runtime: Runtime, session: Session, after_ms: int = 0) -> None:
    """Number the next piece of what a session has asked for, as fast as transport and journal take it."""
    if not session.backlogs or not session.reading:
        return
    if runtime.timers.armed(TimerKind.BACKLOG, session.id) is None:
        at = Time(runtime.now + after_ms * MILLISECOND)
        runtime.timers.arm(TimerKind.BACKLOG, session.id, at)


def feed(runtime: Runtime, session: Session) -> None:
    """Its time has come: one piece of the history that was asked for first."""
    job_id = next(iter(session.backlogs), None)
    if job_id is None or not session.reading:
        return
    job, backlog = runtime.jobs[job_id], session.backlogs[job_id]
    upto = job.history.reach(backlog.position, *_piece(runtime))
    if backlog.until is not None:
        upto = min(upto, backlog.until)
    allowance = runtime.caps.allowances.get(found(session.connection, "what reads is connected").number)
    wait = 0 if allowance is None else allowance.replay(runtime.now, job_id, backlog.position, upto)
    if wait:
        runtime.timers.arm(TimerKind.BACKLOG, session.id, Time(runtime.now + wait))
        return
    runtime.commit(Replayed(session.id, job.id, upto))
    runtime.delivered(session)
    feed_soon(runtime, session)


def revoke(runtime: Runtime) -> None:
    """The host's data is another: end the observations that it does not allow."""
    for session in runtime.sessions.values():
        for job in sorted(session.observed.values(), key=lambda job: job.number):
            if job.id in session.observed and right_to(runtime, session.principal, job) is not Right.OBSERVE:
                note(
                    runtime,
                    "subscription_revoked",
                    session.principal,
                    session_id=session.id,
                    job_id=job.id,
                    owner=job.terms.principal,
                )
                why = "this job may not be observed any more"
                runtime.commit(end_of(runtime, session, job, why))
                runtime.delivered(session)


def _piece(runtime: Runtime) -> tuple[int, int]:
    """Events and bytes that are numbered at once: a log holds them beside as many that were not sent."""
    limits = runtime.limits
    events = min(limits.session_events, limits.principal_events) // 2
    size = min(limits.session_bytes, limits.principal_bytes) // 2
    return max(min(limits.backlog_events, events), 1), min(limits.backlog_bytes, size)


def end_of(runtime: Runtime, session: Session, job: Job, why: str) -> Unobserved:
    """The end of a subscription, which says so last; the session and the job go on (§7.6)."""
    return Unobserved(session.id, job.id, delivering.notice(runtime, "unsubscribed", why))


def _answer(
    runtime: Runtime,
    connection: Connection,
    session: Session,
    envelope: wire.Envelope,
    job: Job,
    after: int | None,
) -> None:
    history_from = None
    if after is not None and after < job.history.cut:
        history_from = job.history.source_at(job.history.first) if job.history.events else job.home_seq + 1
        if job.end is not None and not job.history.events:
            history_from = job.end.source
    request_id = connection.request_id(envelope)
    message = subscribed_of(job, request_id, replayed=after is not None, history_from=history_from)
    payload = wire.encode_checked(message)
    reply = Reply(session.log.last, request_id, "job.subscribed", job.id, payload)
    runtime.commit(Replied(session.id, reply))
    connection.answer(reply, job)
