"""Retention: how long logs, histories, finished jobs and keys are kept, within their limits (§6.3, §6.5).

The resume window is a promise within the limits. Above the limit of a session or job its own oldest events
go; above that of a principal, the oldest of this principal; above the total, the oldest of the principal that
holds most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto.engine.machine import found
from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import SECOND, Principal, SessionId, Time
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

from .event_log import MARK, Log
from .session import Session

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

AT_A_TIME: Final = 64
"""The divisor of a principal's limits: one such part at most is freed in one step."""
OF_THE_LARGEST: Final = 16
"""The divisor of the finished jobs of the principal with most: one such part is forgotten above the total."""


# Logs and histories.


def shrink(runtime: RuntimeState, session: Session) -> None:
    """Evict the oldest events of a log that is above its limits."""
    excess = session.log.excess(runtime.limits.max_session_events, runtime.limits.max_session_bytes)
    if excess:
        runtime.commit(Evicted(session.id, excess))


def aged_at(runtime: RuntimeState, session: Session) -> Time | None:
    """Return when the first event of a session without `ack` passes the resume window (§6.3), if any."""
    oldest = session.log.oldest_at
    return None if oldest is None else Time(oldest + MARK + runtime.config.resume_window_sec * SECOND)


def age(runtime: RuntimeState, session: Session) -> None:
    """Evict the events that are older than the resume window, in a session without `ack` (§6.3)."""
    aged = aged_at(runtime, session)
    horizon = Time(runtime.now - runtime.config.resume_window_sec * SECOND)
    if aged is None or runtime.now < aged:
        return
    log = session.log
    upto = log.older_than(horizon)
    if runtime.journaling:  # Events that the journal has still to store have not been sent.
        upto = min(upto, log.last - log.unsaved[0])
    if upto >= log.first:
        runtime.commit(Evicted(session.id, upto))


def cut_history(runtime: RuntimeState, job: Job, upto: int) -> None:
    """Drop the events of a job before a position, and end the observations that had not come so far (§7.6).

    A session that cannot subscribe again, because it observes by an idempotency key, continues with the rest.
    """
    over = [
        session
        for session in job.behind.values()
        if session.backlogs[job.id].position < upto and "subscribe" in session.features
    ]
    why = "the history was cut: subscribe again from the last job_seq"
    ended = [end_of(runtime, session, job, why) for session in over]
    runtime.commit(HistoryCut(job.id, upto, ended))
    for session in over:
        runtime.delivered(session)


def trim_history(runtime: RuntimeState, job: Job) -> None:
    """Keep a history within its own limits."""
    limits = runtime.limits
    excess = job.history.excess(limits.max_history_events, limits.max_history_bytes)
    if excess and number_at_home(runtime, job, excess):  # Numbering it may have cut the history already.
        excess = job.history.excess(limits.max_history_events, limits.max_history_bytes)
    if excess:
        cut_history(runtime, job, excess)


def number_at_home(runtime: RuntimeState, job: Job, upto: int) -> bool:
    """Number what waits behind a history in the submitting session, if its backlog is before `upto`.

    The log of the session then keeps these events as it keeps live ones. Return whether there were any.
    """
    for session in job.behind.values():
        backlog = session.backlogs[job.id]
        if backlog.owed and backlog.position < upto:
            runtime.commit(Replayed(session.id, job.id, job.history.end))
            runtime.delivered(session)
            return True
    return False


def make_room(runtime: RuntimeState) -> None:
    """Free the oldest events and finished jobs of principals until all are within their limits (§6.5).

    A job that is about to be finished counts once it is. Idempotency keys stay: without its key a repeated
    submit would run again.
    """
    while (principal := runtime.holdings.crowded()) is not None:
        if not _give_up_oldest(runtime, principal):
            break


def _give_up_oldest(runtime: RuntimeState, principal: Principal) -> bool:
    limits, holdings = runtime.limits, runtime.holdings
    holder = holdings.victim(principal) if holdings.of(principal)[0] else None
    large = runtime.retired.oldest_large(principal) if holdings.too_large(principal) else None
    if large is not None:
        ended_at = large[1] - limits.retention_sec * SECOND
        if holder is None or ended_at <= found(holder.oldest_at, "the chosen holder has an event"):
            forget(runtime, runtime.jobs[large[0]])
            return True
    if holder is None:
        return False
    events, size = limits.max_principal_events // AT_A_TIME, limits.max_principal_bytes // AT_A_TIME
    upto = holder.oldest(max(events, 1), max(size, 1))
    if isinstance(holder, Log):
        runtime.commit(Evicted(holder.session_id, upto))
    else:
        job = runtime.jobs[holder.job_id]
        if not number_at_home(runtime, job, upto):
            cut_history(runtime, job, upto)
    return True


# Finished jobs.


def retire(runtime: RuntimeState, job: Job, at: Time) -> None:
    """Keep a job that has ended until `at`, and forget the oldest finished jobs above the limits."""
    retired, limits, principal = runtime.retired, runtime.limits, job.terms.principal
    if retired.add(job.id, principal, at, large=job.kept > 0) > limits.max_principal_finished_jobs:
        forget_oldest(runtime, principal)
    if len(retired) > limits.max_total_finished_jobs:
        largest = retired.largest()
        for _ in range(max(1, retired.count(largest) // OF_THE_LARGEST)):
            forget_oldest(runtime, largest)
    if runtime.timers.armed(TimerKind.RETENTION, 0) is None:
        _watch(runtime)
    if runtime.holdings.over:
        make_room(runtime)


def forget_oldest(runtime: RuntimeState, principal: Principal) -> None:
    """Forget the first finished job of a principal that its submitter does not wait for, else its first."""
    for _ in range(runtime.retired.count(principal)):
        job = runtime.jobs[runtime.retired.oldest(principal)]
        if not _is_due_at_home(job):
            break
        _keep_longer(runtime, job)
    forget(runtime, runtime.jobs[runtime.retired.oldest(principal)])


def _is_due_at_home(job: Job) -> bool:
    """Return whether the session that has submitted a job waits for a history of it."""
    return any(session.backlogs[job.id].owed for session in job.behind.values())


def _keep_longer(runtime: RuntimeState, job: Job) -> None:
    """Keep a finished job as if it had ended now."""
    runtime.retired.remove(job.terms.principal, job.id)
    at = Time(runtime.now + max(runtime.limits.retention_sec, 1) * SECOND)
    runtime.retired.add(job.id, job.terms.principal, at, large=job.kept > 0)


def forget(runtime: RuntimeState, job: Job) -> None:
    """Forget a finished job: it can be listed and observed no longer."""
    runtime.retired.remove(job.terms.principal, job.id)  # Making room meanwhile takes another.
    if not runtime.retired:
        runtime.timers.disarm(TimerKind.RETENTION, 0)
    number_at_home(runtime, job, job.history.end + 1)
    for session in list(job.behind.values()):
        _end_alone(runtime, session, job)
    runtime.commit(JobForgotten(job.id))


def _end_alone(runtime: RuntimeState, session: Session, job: Job) -> None:
    """Send the terminal event, without the rest of the history, to a session that is behind (§7.2)."""
    if job.id not in session.observed:
        runtime.commit(Unobserved(session.id, job.id))
        return
    end = found(job.end, "a job is forgotten after its end")
    message_type, payload = ending(runtime, job, session, end)
    runtime.commit(Unobserved(session.id, job.id, payload, message_type, job.last_position))
    runtime.delivered(session)


def forget_due(runtime: RuntimeState) -> None:
    """Forget the finished jobs whose time is over.

    A job is kept for the same time again while a history of it is due to the session that has submitted it.
    """
    while (principal := runtime.retired.due(runtime.now)) is not None:
        job = runtime.jobs[runtime.retired.oldest(principal)]
        if _is_due_at_home(job):
            _keep_longer(runtime, job)
        else:
            forget(runtime, job)
    if runtime.timers.armed(TimerKind.RETENTION, 0) is None:
        _watch(runtime)


def _watch(runtime: RuntimeState) -> None:
    at = runtime.retired.next_at
    if at is not None:
        runtime.timers.arm(TimerKind.RETENTION, 0, at)


# Idempotency keys.


def watch_keys(runtime: RuntimeState) -> None:
    """Arm the timer for the next expiry of a key; keys expire by the wall clock, which outlives a restart."""
    due = runtime.keys.next_due(runtime.limits)
    if due is not None and runtime.timers.armed(TimerKind.KEYS, 0) is None:
        at = Time(runtime.now + max(due - runtime.unix, SECOND))
        runtime.timers.arm(TimerKind.KEYS, 0, at)


def forget_keys(runtime: RuntimeState) -> None:
    """Forget the idempotency keys that have expired."""
    for principal, key in runtime.keys.due(runtime.unix, runtime.limits):
        runtime.commit(KeyForgotten(principal, key))
    watch_keys(runtime)


# Sessions and principals.


def await_resume(runtime: RuntimeState, session: Session) -> None:
    """End a detached session after its resume window, or at once if that is zero (§6.3)."""
    window = runtime.config.resume_window_sec
    if window > 0:
        notice(
            runtime, "session_detached", session.principal, session_id=session.id, resume_window_sec=window
        )
        at = Time(runtime.now + window * SECOND)
        runtime.timers.arm(TimerKind.RESUME_WINDOW, session.id, at)
    else:
        end_session(runtime, session.id)


def end_session(runtime: RuntimeState, session_id: SessionId) -> None:
    """End a session, which can be resumed no longer; its jobs continue."""
    session = runtime.sessions[session_id]
    runtime.hooks.session_ends(runtime, session)
    runtime.commit(SessionEnded(session_id))
    notice(runtime, "session_ended", session.principal, session_id=session_id)
    runtime.timers.disarm(TimerKind.RESUME_WINDOW, session_id)
    runtime.timers.disarm(TimerKind.BACKLOG, session_id)
    runtime.unsaved.pop(session_id, None)
    runtime.unsettled.pop(session_id, None)
    let_go(runtime, session.principal)


def let_go(runtime: RuntimeState, principal: Principal) -> None:
    """Count an ended session or job of an anonymous principal; forget the principal after the last."""
    left = runtime.anonymous_principals.get(principal)
    if left is None:
        return
    if left > 1:
        runtime.anonymous_principals[principal] = left - 1
    else:
        del runtime.anonymous_principals[principal]
        runtime.entropy.forget(runtime.scope(principal))
        while (key := runtime.keys.oldest(principal)) is not None:
            runtime.commit(KeyForgotten(principal, key))  # No other principal can use it.
        if runtime.keys.next_due(runtime.limits) is None:
            runtime.timers.disarm(TimerKind.KEYS, 0)
