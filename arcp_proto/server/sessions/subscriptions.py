"""Jobs seen from elsewhere: who may, history first, then live (§7.6)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from arcp_proto.engine.connection import Connection
from arcp_proto.engine.machine import found
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import MILLISECOND, JobId, Principal, Time
from arcp_proto.server import responses
from arcp_proto.server.audit import note
from arcp_proto.server.jobs.fan_out import end_of
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.journal.records import Observed, Replayed, Replied, Unobserved
from arcp_proto.server.responses import subscribed_of
from arcp_proto.wire import codec, messages

from .reply_cache import Reply
from .session import Backlog, Session, admission_of, session_of

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

EVERYBODY = "*"
"""As an owner: the jobs of every principal."""


class Right(StrEnum):
    """What a principal may do with another's jobs, as the host's data says it."""

    LIST = "list"
    OBSERVE = "observe"


def right_to(runtime: RuntimeState, principal: Principal, job: Job) -> Right | None:
    """What a principal may see of a job; None: it does not exist for it."""
    owner = job.terms.principal
    if owner == principal:
        return Right.OBSERVE
    owners = runtime.observers.get(principal)
    word = None if owners is None else owners.get(owner, owners.get(EVERYBODY))
    return None if word is None else Right(word)


def visible_job(runtime: RuntimeState, principal: Principal, job_id: str) -> tuple[Job, Right]:
    """A job that exists for a principal; raises Refusal JOB_NOT_FOUND, whyever it does not (§12)."""
    job = runtime.jobs.get(JobId(job_id))
    right = None if job is None else right_to(runtime, principal, job)
    if job is None or right is None:
        raise Refusal(ErrorCode.JOB_NOT_FOUND, "no such job")
    return job, right


def owners_listed(runtime: RuntimeState, principal: Principal) -> list[Principal] | None:
    """Whose jobs a principal is shown in a listing, its own first; None: everybody's (§6.6)."""
    owners = runtime.observers.get(principal, {})
    if EVERYBODY in owners:
        return None
    return [principal, *(Principal(owner) for owner in owners if owner != principal)]


def on_subscribe(
    runtime: RuntimeState, connection: Connection, envelope: codec.Envelope, subscribe: messages.Subscribe
) -> None:
    """`job.subscribe` (§7.6): the answer, then history if asked for, then live."""
    session = session_of(connection)
    _note_decision(runtime, session, subscribe.job_id)
    job, right = visible_job(runtime, session.principal, subscribe.job_id)
    if right is not Right.OBSERVE:
        raise Refusal(ErrorCode.PERMISSION_DENIED, "this job may be listed, and not observed")
    answer = _answered_before(session, connection, connection.request_id(envelope))
    if answer is not None:
        responses.send(connection, answer, job)
        return
    check_room(runtime, session, job)
    start, cut = _asked(session, job, subscribe) if subscribe.history else (None, False)
    observe(runtime, session, job, start)
    if job.id in session.backlogs and start is not None:
        allowance = runtime.caps.allowances[connection.number]
        allowance.ask(job.id, job.history.end, session.backlogs, runtime.limits.subscriptions)
    request_id = connection.request_id(envelope)
    message = subscribed_of(job, session, request_id, replayed=start is not None, cut=cut)
    payload = codec.encode_checked(message)
    reply = Reply(session.log.last, request_id, "job.subscribed", job.id, payload)
    runtime.commit(Replied(session.id, reply))
    responses.send(connection, reply, job)


def _answered_before(session: Session, connection: Connection, request_id: str) -> Reply | None:
    """Return the answer to a subscribe that was carried out before the resume, and may not have arrived.

    A client that asks for such answers sends what it has no answer to once more (§6.3).
    """
    admission = admission_of(connection)
    if admission is None or not admission.replays:
        return None
    kept = (one for one in session.replies if one.message_type == "job.subscribed")
    return next((one for one in kept if one.request_id == request_id), None)


def _asked(session: Session, job: Job, subscribe: messages.Subscribe) -> tuple[int, bool]:
    """Return from where on a history is asked for, and whether some of that is gone.

    The first is counted as by `History`, and is behind its end if not even the terminal is asked for.
    """
    history = job.history
    if session.positions and subscribe.from_job_seq is not None:
        return subscribe.from_job_seq, subscribe.from_job_seq < history.first
    after = subscribe.from_event_seq or 0
    if job.end is not None and after >= job.end.source:
        return history.end + 1, after < history.cut
    return history.after(after), after < history.cut


def _note_decision(runtime: RuntimeState, session: Session, job_id: str) -> None:
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
    runtime: RuntimeState, connection: Connection, envelope: codec.Envelope, unsubscribe: messages.Unsubscribe
) -> None:
    """`job.unsubscribe` (§7.6) ends observing, and has no answer; the submitting session keeps its job."""
    session = session_of(connection)
    job_id = JobId(unsubscribe.job_id)
    runtime.caps.allowances[connection.number].asked.pop(job_id, None)
    backlog = session.backlogs.get(job_id)
    if backlog is not None and backlog.owed:
        return  # What was published waits behind the history.
    if job_id in session.observed or job_id in session.backlogs:
        runtime.commit(Unobserved(session.id, job_id))


def check_room(runtime: RuntimeState, session: Session, job: Job) -> None:
    """Raise Refusal unless a session may observe one more job, or does observe this one."""
    most = runtime.limits.subscriptions
    known = session.observed.keys() | session.backlogs.keys()
    if job.id not in known and len(known) >= most:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"a session observes at most {most} jobs: unsubscribe from some",
            details={"limit": "subscriptions", "max": most},
        )


def observe(runtime: RuntimeState, session: Session, job: Job, start: int | None) -> None:
    """Observe a job with its history from `start` on, counted as by `History`; None: live from now on.

    The terminal of a job that has ended stands at the end of its history.
    """
    if start is None:
        if not job.ended and job.home is not session and job.id not in session.observed:
            backlog = None if session.reading else Backlog(job.history.end)
            runtime.commit(Observed(session.id, job.id, backlog))
        return
    start, end = max(start, job.history.first), job.history.end
    if job.home is session:
        _observe_at_home(runtime, session, job, start)
    elif job.end is None or start <= end:
        _observe_again(runtime, session, job, Backlog(min(start, end)))
    feed_soon(runtime, session, session.quirk.history_after_ms)


def _observe_at_home(runtime: RuntimeState, session: Session, job: Job, start: int) -> None:
    """Replay a history in the session that has submitted the job.

    What is published waits behind it, so that positions rise there as everywhere. A session that is not told
    positions goes by the numbers of what it gets: there events come at once, and the history between them.
    """
    end = job.history.end
    if start < end:
        until = None if session.positions else end
        _observe_again(runtime, session, job, Backlog(start, until, owed=until is None))


def _observe_again(runtime: RuntimeState, session: Session, job: Job, backlog: Backlog) -> None:
    """Let a session get a history. Nothing is left out that it waits for already."""
    waiting = session.backlogs.get(job.id)
    if waiting is not None and session.positions:
        backlog.position, backlog.owed = min(backlog.position, waiting.position), waiting.owed or backlog.owed
    runtime.commit(Observed(session.id, job.id, backlog))


def fall_behind(runtime: RuntimeState, session: Session) -> None:
    """Nobody takes what is numbered, or the journal is behind: let what the session observes wait.

    It waits in the histories of the jobs. So an observer costs nothing that does not read, or has to wait for
    the journal, and its log keeps what it will resume with.
    """
    for job in sorted(session.observed.values(), key=lambda job: job.number):
        if session.id in job.observers:
            runtime.commit(Observed(session.id, job.id, Backlog(job.history.end)))


def feed_soon(runtime: RuntimeState, session: Session, after_ms: int = 0) -> None:
    """Number the next piece of what a session has asked for, as fast as transport and journal take it."""
    if not session.backlogs or not session.reading:
        return
    if runtime.timers.armed(TimerKind.BACKLOG, session.id) is None:
        at = Time(runtime.now + after_ms * MILLISECOND)
        runtime.timers.arm(TimerKind.BACKLOG, session.id, at)


def feed(runtime: RuntimeState, session: Session) -> None:
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


def revoke(runtime: RuntimeState) -> None:
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


def _piece(runtime: RuntimeState) -> tuple[int, int]:
    """Events and bytes that are numbered at once: a log holds them beside as many that were not sent."""
    limits = runtime.limits
    events = min(limits.session_events, limits.principal_events) // 2
    size = min(limits.session_bytes, limits.principal_bytes) // 2
    return max(min(limits.backlog_events, events), 1), min(limits.backlog_bytes, size)
