"""Recovery: a runtime restored from its records, and what its restart decides (§6.3, §7.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import SECOND, Monotonic, Principal
from arcp_proto.job_statuses import JobStatus
from arcp_proto.server.credentials import revocation
from arcp_proto.server.jobs import completion, publish, submission
from arcp_proto.server.jobs.job import Job, Outcome
from arcp_proto.server.sessions import guests, retention, subscriptions
from arcp_proto.wire.inputs import Input

from .apply import APPLY
from .records import Record

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

RESTARTED: Final = "the runtime was restarted"


def restore(state: RuntimeState, records: Iterable[Record]) -> None:
    """Fill a new runtime from records; the next `take` hands out what recovery decides."""
    apply_all(state, records)
    _resume_clock(state)
    _restore_sessions(state)
    _restore_finished(state)
    revocation.restored(state)
    _end_unfinished(state)
    if state.holdings.over:
        retention.make_room(state)
    retention.watch_keys(state)


def apply_all(state: RuntimeState, records: Iterable[Record]) -> None:
    """Apply records to a new runtime, without the decisions of a recovery."""
    state.used = True
    for record in records:
        APPLY[type(record)](state, record)


def _resume_clock(state: RuntimeState) -> None:
    """Let the time of the next event follow that of every restored job."""
    for job in state.jobs.values():
        state.written_before(job.terms.accepted_at if job.end is None else job.end.at)


def _restore_sessions(state: RuntimeState) -> None:
    """Let every session wait for its resume."""
    for session in state.sessions.values():
        session.log.settle(state.now)
        session.lagging = (
            session.acking and session.log.last - session.acked > state.limits.back_pressure_events
        )
        if session.anonymous:
            _count(state, session.principal)
    guests.revoke(state)
    for session in list(state.sessions.values()):
        subscriptions.fall_behind(state, session)
    subscriptions.revoke(state)
    for session in list(state.sessions.values()):
        publish.sent(state, session)
        retention.await_resume(state, session)


def _restore_finished(state: RuntimeState) -> None:
    """Trim the histories, and retire each finished job for the rest of its time, the oldest first."""
    for job in state.jobs.values():
        retention.trim_history(state, job)
    window = state.limits.retention_sec * SECOND
    ended = [(job.end.at, job) for job in state.jobs.values() if job.end is not None]
    for at, job in sorted(ended, key=lambda pair: pair[0]):
        left = min(max(at + window - state.wall, 0), window)
        retention.retire(state, job, Monotonic(state.now + left))


def _end_unfinished(state: RuntimeState) -> None:
    """Start unfinished jobs again, or end them, children before their parents."""
    unfinished = [job for job in state.jobs.values() if not job.ended]
    for job in reversed(unfinished):
        if job.parent is not None:
            _end(state, job)  # A restarted parent delegates anew.
    for job in unfinished:
        if job.parent is None and not job.ended:
            _go_on(state, job)


def _go_on(state: RuntimeState, job: Job) -> None:
    """Start a job that never ran, start one again, or end it: its agent died with the process."""
    if job.input is not None and completion.starts_again(state, job):
        attempt = job.attempt + (job.status is JobStatus.RUNNING)
        submission.start(state, job, Input.of(job.input), attempt=attempt)
        return
    _end(state, job)


def _end(state: RuntimeState, job: Job) -> None:
    """End a job whose agent died with the process, or is not registered in this one."""
    if job.terms.principal in state.anonymous_principals:
        _count(state, job.terms.principal)
    state.unfinished[job.id] = job
    completion.end_with_error(state, job, job.outcome or _lost(state, job))


def _lost(state: RuntimeState, job: Job) -> Outcome:
    """Return the outcome of a job that does not go on; one that was kept lacks its agent."""
    if job.status is JobStatus.PENDING and job.input is not None:
        try:
            state.inventory.resolve(job.agent)
        except Refusal as refusal:
            return completion.outcome_of(refusal.code, refusal.message)
    return completion.outcome_of(ErrorCode.INTERNAL_ERROR, RESTARTED)


def _count(state: RuntimeState, principal: Principal) -> None:
    """Count a session or an unfinished job of an anonymous principal."""
    state.anonymous_principals[principal] = state.anonymous_principals.get(principal, 0) + 1
