"""Recovery: a runtime restored from its records, and what its restart decides (§6.3, §7.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from arcp_proto.errors import ErrorCode
from arcp_proto.ids import SECOND, Principal, Time
from arcp_proto.server.credentials import revocation
from arcp_proto.server.jobs import completion, publish, submission
from arcp_proto.server.jobs.job import Job, Status
from arcp_proto.server.sessions import retention, subscriptions
from arcp_proto.wire.inputs import Input

from .apply import APPLY
from .records import Record

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

RESTARTED: Final = "the runtime was restarted"


def restore(runtime: RuntimeState, records: Iterable[Record]) -> None:
    """Fill a new runtime from records; the next `take` hands out what recovery decides."""
    runtime.used = True
    for record in records:
        APPLY[type(record)](runtime, record)
    for job in runtime.jobs.values():
        runtime.written_before(job.terms.accepted_at if job.end is None else job.end.at)
    for session in runtime.sessions.values():
        session.log.settle()
        session.lagging = (
            session.acking and session.log.last - session.acked > runtime.limits.back_pressure_events
        )
        if session.anonymous:
            _count(runtime, session.principal)
    for session in list(runtime.sessions.values()):
        subscriptions.fall_behind(runtime, session)
    subscriptions.revoke(runtime)
    for session in list(runtime.sessions.values()):
        publish.sent(runtime, session)
        retention.await_resume(runtime, session)
    for job in runtime.jobs.values():
        retention.trim_history(runtime, job)
    ended = [(job.end.at, job) for job in runtime.jobs.values() if job.end is not None]
    for at, job in sorted(ended, key=lambda pair: pair[0]):
        left = at + runtime.limits.retention_sec * SECOND - runtime.wall
        retention.retire(
            runtime, job, Time(runtime.now + min(max(left, 0), runtime.limits.retention_sec * SECOND))
        )
    revocation.restored(runtime)
    unfinished = [job for job in runtime.jobs.values() if not job.ended]
    for job in reversed(unfinished):
        if job.parent is not None:
            _end(runtime, job)  # Leaves before branches; a restarted parent delegates anew.
    for job in unfinished:
        if job.parent is None and not job.ended:
            _go_on(runtime, job)
    if runtime.holdings.over:
        retention.make_room(runtime)
    retention.watch_keys(runtime)


def _go_on(runtime: RuntimeState, job: Job) -> None:
    """Start an unfinished job again, or end it: its agent died with the process."""
    if job.input is not None and completion.starts_again(runtime, job):
        attempt = job.attempt + (job.status is Status.RUNNING)
        submission.start(runtime, job, Input.of(job.input), attempt=attempt)
        return
    _end(runtime, job)


def _end(runtime: RuntimeState, job: Job) -> None:
    """End a job whose agent died with the process."""
    if job.terms.principal in runtime.anonymous_principals:
        _count(runtime, job.terms.principal)
    runtime.unfinished[job.id] = job
    lost = completion.outcome_of(ErrorCode.INTERNAL_ERROR, RESTARTED)
    completion.end_with_error(runtime, job, job.outcome or lost)


def _count(runtime: RuntimeState, principal: Principal) -> None:
    """Count a session or an unfinished job of an anonymous principal."""
    runtime.anonymous_principals[principal] = runtime.anonymous_principals.get(principal, 0) + 1
