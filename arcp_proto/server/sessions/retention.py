"""Retention: how long logs, histories, finished jobs and keys are kept, within their limits (§6.3, §6.5).

The resume window is a promise within the limits. Above the limit of a session or job its own oldest events
go; above that of a principal, the oldest of this principal; above the total, the oldest of the principal that
holds most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import require
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, Monotonic, Principal, SessionId
from arcp_proto.server.audit import notice
from arcp_proto.server.jobs.fan_out import end_of
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.journal.apply import ending
from arcp_proto.server.journal.records import (
    Evicted,
    HistoryCut,
    JobForgotten,
    KeyForgotten,
    Replayed,
    SessionEnded,
    Unobserved,
)
from arcp_proto.wire import codec
from arcp_proto.wire.event_bodies import DELEGATE

from .event_log import MARK, Log
from .session import Session

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

AT_A_TIME: Final = 64
"""The divisor of a principal's limits: one such part at most is freed in one step."""
OF_THE_LARGEST: Final = 16
"""The divisor of the finished jobs of the principal with most: one such part is forgotten above the total."""

_ANNOUNCES: Final = codec.kind_opening(DELEGATE)
"""The beginning of an event that announces a child."""


# Logs and histories.


def shrink(state: RuntimeState, session: Session) -> None:
    """Evict the oldest events of a log that is above its limits."""
    excess = session.log.excess(state.limits.max_session_events, state.limits.max_session_bytes)
    if excess:
        state.commit(Evicted(session.id, excess))


def age(state: RuntimeState, session: Session) -> Monotonic | None:
    """Evict the events that are older than the resume window, in a session without `ack` (§6.3).

    Return when the first event that is left passes the window, if there is one.
    """
    aged = _aged_at(state, session)
    if aged is None or state.now < aged:
        return aged
    log, horizon = session.log, Monotonic(state.now - state.config.resume_window_sec * SECOND)
    upto = log.older_than(horizon)
    if state.journaling:  # An event is not sent before it is durable.
        upto = min(upto, log.durable_before(horizon))
    if upto >= log.first:
        state.commit(Evicted(session.id, upto))
    return _aged_at(state, session)


def _aged_at(state: RuntimeState, session: Session) -> Monotonic | None:
    oldest = session.log.oldest_at
    return None if oldest is None else Monotonic(oldest + MARK + state.config.resume_window_sec * SECOND)


def cut_history(state: RuntimeState, job: Job, upto: int) -> None:
    """Drop the events of a job before a position, and end the observations that had not come so far (§7.6).

    A session that cannot subscribe again, because it observes by an idempotency key, continues with the rest.
    """
    over = [
        session
        for session in job.waiting()
        if session.backlogs[job.id].position < upto and Feature.SUBSCRIBE in session.features
    ]
    why = "the history was cut: subscribe again from the last job_seq"
    ended = [end_of(state, session, job, why) for session in over]
    state.commit(HistoryCut(job.id, upto, ended))
    for session in over:
        state.delivered(session)


def trim_history(state: RuntimeState, job: Job) -> None:
    """Keep a history within its own limits."""
    limits = state.limits
    excess = job.history.excess(limits.max_history_events, limits.max_history_bytes)
    if excess and number_at_home(state, job, excess):  # Numbering it may have cut the history already.
        excess = job.history.excess(limits.max_history_events, limits.max_history_bytes)
    if excess:
        cut_history(state, job, excess)


def number_at_home(state: RuntimeState, job: Job, upto: int) -> bool:
    """Number what waits behind a history in the submitting session before `upto`.

    The log of the session then keeps these events as it keeps live ones. Return whether there were any.
    """
    session = _waiting_home(job)
    if session is None or session.backlogs[job.id].position >= upto:
        return False
    _announce_at_home(state, session, job)
    backlog = session.backlogs.get(job.id)  # Room may have been made meanwhile.
    if backlog is not None and backlog.position < upto:
        state.commit(Replayed(session.id, job.id, min(upto, job.history.end)))
        state.delivered(session)
    return True


def _announce_at_home(state: RuntimeState, session: Session, job: Job) -> None:
    """Number the history of a parent up to the event that announces a job, which waits behind it (§10)."""
    parent = state.jobs.get(job.terms.parent_job_id) if job.terms.parent_job_id is not None else None
    backlog = None if parent is None else session.backlogs.get(parent.id)
    if parent is None or backlog is None or session.backlogs[job.id].position > 0:
        return
    start = max(backlog.position, parent.history.first)
    for position, past in enumerate(parent.history.between(start, parent.history.end), start):
        if past.payload.startswith(_ANNOUNCES) and past.payload.find(job.id.encode()) >= 0:
            number_at_home(state, parent, position + 1)
            return


def _waiting_home(job: Job) -> Session | None:
    """Return the session that has submitted a job, if it waits for a history of it."""
    return next((session for session in job.behind.values() if session.backlogs[job.id].owed), None)


def _finish_at_home(state: RuntimeState, job: Job) -> None:
    """Number what fits of a finished job that waits in the submitting session, behind its children (§10).

    If too much waits, the terminal comes alone.
    """
    _finish_children(state, job)
    home = _waiting_home(job)
    if home is not None and _may_end_alone(state, home, job):
        _announce_at_home(state, home, job)
        _end_alone(state, home, job)
    else:
        number_at_home(state, job, job.history.end + 1)


def _finish_children(state: RuntimeState, job: Job) -> None:
    session = _waiting_home(job)
    for child_id in () if session is None else session.backlogs.children_of(job.id):
        _finish_at_home(state, state.jobs[child_id])


def make_room(state: RuntimeState) -> None:
    """Free the oldest events and finished jobs of principals until all are within their limits (§6.5).

    A job that is about to be finished counts once it is. Idempotency keys stay: without its key a repeated
    submit would run again.
    """
    while (principal := state.holdings.crowded()) is not None:
        if not _give_up_oldest(state, principal):
            break


def _give_up_oldest(state: RuntimeState, principal: Principal) -> bool:
    limits, holdings = state.limits, state.holdings
    holder = holdings.victim(principal) if holdings.of(principal)[0] else None
    large = state.retired.oldest_large(principal) if holdings.too_large(principal) else None
    if large is not None:
        ended_at = large[1] - limits.retention_sec * SECOND
        if holder is None or ended_at <= require(holder.oldest_at, "the chosen holder has an event"):
            forget(state, state.jobs[large[0]])
            return True
    if holder is None:
        return False
    events, size = limits.max_principal_events // AT_A_TIME, limits.max_principal_bytes // AT_A_TIME
    upto = holder.oldest(max(events, 1), max(size, 1))
    if isinstance(holder, Log):
        state.commit(Evicted(holder.session_id, upto))
    else:
        job = state.jobs[holder.job_id]
        if not number_at_home(state, job, upto):
            cut_history(state, job, upto)
    return True


# Finished jobs.


def retire(state: RuntimeState, job: Job, at: Monotonic) -> None:
    """Keep a job that has ended until `at`, and forget the oldest finished jobs above the limits."""
    retired, limits, principal = state.retired, state.limits, job.terms.principal
    if retired.add(job.id, principal, at, large=job.kept > 0) > limits.max_principal_finished_jobs:
        forget_oldest(state, principal)
    if len(retired) > limits.max_total_finished_jobs:
        largest = retired.largest()
        for _ in range(max(1, retired.count(largest) // OF_THE_LARGEST)):
            forget_oldest(state, largest)
    if state.timers.armed(TimerKind.RETENTION, 0) is None:
        _watch(state)
    if state.holdings.over:
        make_room(state)


def forget_oldest(state: RuntimeState, principal: Principal) -> None:
    """Forget the first finished job of a principal that its submitter does not wait for, else its first."""
    for _ in range(state.retired.count(principal)):
        job = state.jobs[state.retired.oldest(principal)]
        if _waiting_home(job) is None:
            break
        _keep_longer(state, job)
    forget(state, state.jobs[state.retired.oldest(principal)])


def _keep_longer(state: RuntimeState, job: Job) -> None:
    """Keep a finished job as if it had ended now."""
    state.retired.remove(job.terms.principal, job.id)
    at = Monotonic(state.now + max(state.limits.retention_sec, 1) * SECOND)
    state.retired.add(job.id, job.terms.principal, at, large=job.kept > 0)


def forget(state: RuntimeState, job: Job) -> None:
    """Forget a finished job: it can be listed and observed no longer."""
    state.retired.remove(job.terms.principal, job.id)  # Making room meanwhile takes another.
    if not state.retired:
        state.timers.disarm(TimerKind.RETENTION, 0)
    _finish_at_home(state, job)
    for session in job.waiting():
        _end_alone(state, session, job)
    state.commit(JobForgotten(job.id))


def _may_end_alone(state: RuntimeState, session: Session, job: Job) -> bool:
    """Return whether the submitting session gets nothing but the terminal of a job that is forgotten.

    That is so if all that it waits for had been numbered in it before, and does not fit into its log: the
    events in it that wait for the journal or for the client are worth more than copies. It is also so if
    what it waits for does not fit into a log behind the events that are not sent: not all of it can be sent,
    and the terminal says so to a client with positions, which would learn of an evicted event by a gap.
    """
    backlog, log, history, limits = session.backlogs[job.id], session.log, job.history, state.limits
    size = sum(len(past.payload) for past in history.between(backlog.position, history.end))
    count = history.end - backlog.position
    if backlog.asked and backlog.due >= history.end:
        return len(log) + count >= limits.max_session_events or log.size + size > limits.max_session_bytes
    if not session.positions:
        return False
    unsent = log.between(_sent(session), log.last)
    size += sum(len(entry.payload) for entry in unsent)
    return len(unsent) + count >= limits.max_session_events or size > limits.max_session_bytes


def _sent(session: Session) -> int:
    """Return the number of the last event that needs no place in a log: it is sent, or acknowledged."""
    kept_from = session.log.first - 1
    return kept_from if session.connection is None else max(session.connection.outbox.cursor, kept_from)


def _end_alone(state: RuntimeState, session: Session, job: Job) -> None:
    """Send the terminal event, without the rest of the history, to a session that is behind (§7.2).

    With positions it says so, as nothing else would tell the client.
    """
    if job.id not in session.observed:
        state.commit(Unobserved(session.id, job.id))
        return
    end = require(job.end, "a job is forgotten after its end")
    message_type, payload = ending(state, job, session, end)
    if session.positions and session.backlogs[job.id].position < job.history.end:
        payload = codec.left_alone(payload, job.last_position)
    state.commit(Unobserved(session.id, job.id, payload, message_type, job.last_position))
    state.delivered(session)


def forget_due(state: RuntimeState) -> None:
    """Forget the finished jobs whose time is over.

    A job is kept for the same time again while a history of it is due to the session that has submitted it.
    """
    while (principal := state.retired.due(state.now)) is not None:
        job = state.jobs[state.retired.oldest(principal)]
        if _waiting_home(job) is not None:
            _keep_longer(state, job)
        else:
            forget(state, job)
    if state.timers.armed(TimerKind.RETENTION, 0) is None:
        _watch(state)


def _watch(state: RuntimeState) -> None:
    at = state.retired.next_at
    if at is not None:
        state.timers.arm(TimerKind.RETENTION, 0, at)


# Idempotency keys.


def watch_keys(state: RuntimeState) -> None:
    """Arm the timer for the next expiry of a key; keys expire by the wall clock, which outlives a restart."""
    due = state.keys.next_due(state.limits)
    if due is not None and state.timers.armed(TimerKind.KEYS, 0) is None:
        at = Monotonic(state.now + max(due - state.unix, SECOND))
        state.timers.arm(TimerKind.KEYS, 0, at)


def forget_keys(state: RuntimeState) -> None:
    """Forget the idempotency keys that have expired."""
    for principal, key in state.keys.due(state.unix, state.limits):
        state.commit(KeyForgotten(principal, key))
    watch_keys(state)


# Sessions and principals.


def await_resume(state: RuntimeState, session: Session) -> None:
    """End a detached session after its resume window, or at once if that is zero (§6.3)."""
    window = state.config.resume_window_sec
    if window > 0:
        notice(state, "session_detached", session.principal, session_id=session.id, resume_window_sec=window)
        state.arm_after(TimerKind.RESUME_WINDOW, session.id, window)
    else:
        end_session(state, session.id)


def end_session(state: RuntimeState, session_id: SessionId) -> None:
    """End a session, which can be resumed no longer; its jobs continue."""
    session = state.sessions[session_id]
    state.hooks.session_ends(state, session)
    state.commit(SessionEnded(session_id))
    notice(state, "session_ended", session.principal, session_id=session_id)
    state.timers.disarm(TimerKind.RESUME_WINDOW, session_id)
    state.timers.disarm(TimerKind.BACKLOG, session_id)
    state.unsaved.pop(session_id, None)
    state.unsettled.pop(session_id, None)
    let_go(state, session.principal)


def let_go(state: RuntimeState, principal: Principal) -> None:
    """Count an ended session or job of an anonymous principal; forget the principal after the last."""
    left = state.anonymous_principals.get(principal)
    if left is None:
        return
    if left > 1:
        state.anonymous_principals[principal] = left - 1
    else:
        del state.anonymous_principals[principal]
        state.entropy.forget(state.scope(principal))
        while (key := state.keys.oldest(principal)) is not None:
            state.commit(KeyForgotten(principal, key))  # No other principal can use it.
        if state.keys.next_due(state.limits) is None:
            state.timers.disarm(TimerKind.KEYS, 0)
