"""Subscriptions: which jobs a principal may observe, and their history and live events (§7.6)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal, require
from arcp_proto.ids import MILLISECOND, JobId, Monotonic, Principal
from arcp_proto.limits import details_of
from arcp_proto.server import responses
from arcp_proto.server.audit import note
from arcp_proto.server.jobs.fan_out import end_of
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.jobs.listing import Everybody
from arcp_proto.server.journal.records import Observed, Replayed, Replied, Unobserved
from arcp_proto.server.responses import subscribed_of
from arcp_proto.wire import codec, messages
from arcp_proto.wire.messages import MessageType

from .backlogs import Backlog
from .session import Reply, Session, admission_of, session_of

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

EVERYBODY = "*"
"""The word for all owners in the observers' data: the jobs of every principal of the tenant."""


class Right(StrEnum):
    """The right of a principal to the jobs of another, as the host configures it."""

    LIST = "list"
    OBSERVE = "observe"


def rights_of(state: RuntimeState, session: Session) -> Mapping[str, str]:
    """Return the rights of a session to the jobs of others, by owner."""
    if session.guest:
        return state.guests.get(session.principal, {}).get(session.tenant, {})
    return state.observers.get(session.principal, {})


def right_to(state: RuntimeState, session: Session, job: Job) -> Right | None:
    """Return what a session may do with a job; None: the job is not visible in it.

    The jobs of a principal are not visible in the sessions that it has as a guest.
    """
    if job.terms.principal == session.principal and not session.guest:
        return Right.OBSERVE
    return _granted(rights_of(state, session), session.tenant, job)


def right_without_session(state: RuntimeState, principal: Principal, job: Job) -> Right | None:
    """Return what a principal may do with a job outside of any session, and so outside of any tenant."""
    if job.terms.principal == principal:
        return Right.OBSERVE
    return _granted(state.observers.get(principal, {}), "", job)


def _granted(owners: Mapping[str, str], tenant: str, job: Job) -> Right | None:
    """Return the right to a job of another principal that the data grants within a tenant."""
    word = owners.get(job.terms.principal)
    if word is None and job.terms.tenant == tenant:
        word = owners.get(EVERYBODY)
    return None if word is None else Right(word)


def visible_job(state: RuntimeState, session: Session, job_id: str) -> tuple[Job, Right]:
    """Return a job that is visible in a session, and the right to it; raises Refusal JOB_NOT_FOUND (§12).

    The refusal is the same for a job that does not exist and for one that is not visible.
    """
    job = state.jobs.get(JobId(job_id))
    right = None if job is None else right_to(state, session, job)
    if job is None or right is None:
        raise Refusal(ErrorCode.JOB_NOT_FOUND, "no such job")
    return job, right


def owners_listed(state: RuntimeState, session: Session) -> list[Principal] | Everybody:
    """Return the principals whose jobs a session may list: its own first, or all of its tenant (§6.6)."""
    principal, owners = session.principal, rights_of(state, session)
    if EVERYBODY in owners:
        return Everybody(session.tenant)
    others = [Principal(owner) for owner in owners if owner != principal]
    return others if session.guest else [principal, *others]


def on_subscribe(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, subscribe: messages.Subscribe
) -> None:
    """Handle `job.subscribe` (§7.6): answer, then replay the history if asked for, then send live events."""
    session = session_of(connection)
    note_decision(state, session, subscribe.job_id)
    job, right = visible_job(state, session, subscribe.job_id)
    if right is not Right.OBSERVE:
        raise Refusal(ErrorCode.PERMISSION_DENIED, "this job may be listed, and not observed")
    if _is_answered(session, connection, connection.request_id(envelope)):
        return
    check_room(state, session, job)
    start, cut = _asked(session, job, subscribe) if subscribe.history else (None, False)
    observe(state, session, job, start)
    if job.id in session.backlogs and start is not None:
        allowance = state.caps.allowances[connection.number]
        allowance.ask(job.id, job.history.end, session.backlogs, state.limits.max_session_subscriptions)
    request_id = connection.request_id(envelope)
    message = subscribed_of(job, session, request_id, replayed=start is not None, cut=cut)
    payload = codec.encode_checked(message)
    reply = Reply(session.log.last, request_id, MessageType.JOB_SUBSCRIBED, job.id, payload)
    state.commit(Replied(session.id, reply))
    responses.send(connection, reply, job)


def _is_answered(session: Session, connection: ConnectionState, request_id: str) -> bool:
    """Return whether this connection was sent the answer to a subscribe of before its resume.

    A client that asks for such answers repeats the requests that it has no answer to (§6.3).
    """
    admission = admission_of(connection)
    if admission is None or not admission.replays:
        return False
    return session.replies.was_sent(request_id, MessageType.JOB_SUBSCRIBED)


def _asked(session: Session, job: Job, subscribe: messages.Subscribe) -> tuple[int, bool]:
    """Return the position from which a history is asked for, and whether some of that is gone.

    The position is past the end of the history if not even the terminal event is asked for.
    """
    history = job.history
    if session.positions and subscribe.from_job_seq is not None:
        return subscribe.from_job_seq, subscribe.from_job_seq < history.first
    after = subscribe.from_event_seq or 0
    if job.end is not None and after >= job.end.source:
        return history.end + 1, after < history.cut
    return history.after(after), after < history.cut


def note_decision(state: RuntimeState, session: Session, job_id: str) -> None:
    """Write the audit fact of a subscribe or a first read: the owner of the job and the decision (§14)."""
    job = state.jobs.get(JobId(job_id))
    right = None if job is None else right_to(state, session, job)
    _note(state, session.principal, session.id, job_id, job, right)


def decide(state: RuntimeState, principal: Principal, job_id: str) -> Right | None:
    """Return the right of a principal to a job outside of any session, and write the audit fact (§14).

    An unknown job and one that is not visible are not told apart.
    """
    job = state.jobs.get(JobId(job_id))
    right = None if job is None else right_without_session(state, principal, job)
    _note(state, principal, "", job_id, job, right)
    return right


def _note(
    state: RuntimeState, principal: str, session_id: str, job_id: str, job: Job | None, right: Right | None
) -> None:
    decisions = {Right.OBSERVE: "granted", Right.LIST: "list only", None: "not visible"}
    note(
        state,
        "subscription",
        principal,
        session_id=session_id,
        job_id=job_id,
        owner=None if job is None else job.terms.principal,
        decision="unknown" if job is None else decisions[right],
    )


def on_unsubscribe(
    state: RuntimeState,
    connection: ConnectionState,
    envelope: codec.Envelope,
    unsubscribe: messages.Unsubscribe,
) -> None:
    """Handle `job.unsubscribe` (§7.6): end the observation, without an answer; a submitter keeps its job."""
    session = session_of(connection)
    job_id = JobId(unsubscribe.job_id)
    state.caps.allowances[connection.number].asked.pop(job_id, None)
    backlog = session.backlogs.get(job_id)
    if backlog is not None and backlog.owed:
        return  # The events published since wait behind this history and are due to the submitter.
    if job_id in session.observed or job_id in session.backlogs:
        state.commit(Unobserved(session.id, job_id))


def check_room(state: RuntimeState, session: Session, job: Job) -> None:
    """Check that a session may observe this job besides others; raises Refusal INVALID_REQUEST if not."""
    most = state.limits.max_session_subscriptions
    known = session.subscribed_to()
    if job.id not in known and len(known) >= most:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"a session observes at most {most} jobs: unsubscribe from some",
            details=details_of("max_session_subscriptions", most),
        )


def observe(state: RuntimeState, session: Session, job: Job, start: int | None) -> None:
    """Observe a job with its history from position `start` on; None: only live events from now on.

    The terminal event of a job that has ended stands at the end of its history.
    """
    if start is None:
        if not job.ended and job.home is not session and job.id not in session.observed:
            backlog = None if session.reading else Backlog(job.history.end)
            state.commit(Observed(session.id, job.id, backlog))
        return
    start, end = max(start, job.history.first), job.history.end
    if job.home is session:
        _observe_at_home(state, session, job, start)
    elif job.end is None or start <= end:
        _observe_again(state, session, job, Backlog(min(start, end)))
    feed_soon(state, session, session.quirk.history_after_ms)


def _observe_at_home(state: RuntimeState, session: Session, job: Job, start: int) -> None:
    """Replay a history in the session that has submitted the job.

    Events published meanwhile wait behind the history, so that positions rise here as in any observer. A
    session without positions goes by the numbers of its events: there new events are sent at once, with the
    history between them.
    """
    end = job.history.end
    if start < end:
        until = None if session.positions else end
        due = end if until is None else 0
        _observe_again(state, session, job, Backlog(start, until, owed=until is None, due=due))


def _observe_again(state: RuntimeState, session: Session, job: Job, backlog: Backlog) -> None:
    """Start to replay a history in a session, with all of the backlog that it still waits for."""
    waiting = session.backlogs.get(job.id)
    if waiting is not None and session.positions:
        backlog.position = min(backlog.position, waiting.position)
        if waiting.owed:
            backlog.owed, backlog.due = True, waiting.due
    state.commit(Observed(session.id, job.id, backlog))


def fall_behind(state: RuntimeState, session: Session) -> None:
    """Turn the live observations of a session into backlogs, when its transport or the journal takes no more.

    The events then wait in the histories of the jobs. So an observer that does not read costs no memory, and
    its log keeps the events that it needs for its resume.
    """
    for job in sorted(session.observed.values(), key=lambda job: job.number):
        if session.id in job.observers:
            state.commit(Observed(session.id, job.id, Backlog(job.history.end)))


def feed_soon(state: RuntimeState, session: Session, after_ms: int = 0) -> None:
    """Arm the timer for the next piece of a session's backlogs, if transport and journal take more."""
    if not session.backlogs or not session.reading:
        return
    if state.timers.armed(TimerKind.BACKLOG, session.id) is None:
        at = Monotonic(state.now + after_ms * MILLISECOND)
        state.timers.arm(TimerKind.BACKLOG, session.id, at)


def feed(state: RuntimeState, session: Session) -> None:
    """Replay one piece of the first backlog of which something may go; called by its timer."""
    job_id = session.backlogs.next(state.jobs)
    if job_id is None or not session.reading:
        return
    job, backlog = state.jobs[job_id], session.backlogs[job_id]
    upto = job.history.reach(backlog.position, *_piece(state))
    if backlog.until is not None:
        upto = min(upto, backlog.until)
    allowance = state.caps.allowances.get(require(session.connection, "a reader is connected").number)
    wait = 0 if allowance is None else allowance.replay(state.now, job_id, backlog.position, upto)
    if wait:
        state.timers.arm(TimerKind.BACKLOG, session.id, Monotonic(state.now + wait))
        return
    state.commit(Replayed(session.id, job.id, upto))
    state.delivered(session)
    feed_soon(state, session)


def revoke(state: RuntimeState) -> None:
    """End the observations that the host's new configuration no longer allows."""
    for session in state.sessions.values():
        for job in sorted(session.observed.values(), key=lambda job: job.number):
            if job.id in session.observed and right_to(state, session, job) is not Right.OBSERVE:
                note(
                    state,
                    "subscription_revoked",
                    session.principal,
                    session_id=session.id,
                    job_id=job.id,
                    owner=job.terms.principal,
                )
                why = "this job may be observed no longer"
                state.commit(end_of(state, session, job, why))
                state.delivered(session)


def _piece(state: RuntimeState) -> tuple[int, int]:
    """Return how many events and bytes are replayed at a time: half of what fits into a log, at most."""
    limits = state.limits
    events = min(limits.max_session_events, limits.max_principal_events) // 2
    size = min(limits.max_session_bytes, limits.max_principal_bytes) // 2
    return max(min(limits.max_backlog_events, events), 1), min(limits.max_backlog_bytes, size)
