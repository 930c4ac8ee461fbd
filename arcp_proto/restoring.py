"""A runtime from its records: what they say, and what its restart decides (§6.3, §7.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from . import delivering, observing, outcome, retention, revoking, submitting
from .applying import APPLY
from .errors import ErrorCode
from .ids import SECOND, Principal, Time
from .inputs import Input
from .job import Job, Status
from .records import Record

if TYPE_CHECKING:
    from .runtime import Runtime

RESTARTED: Final = "the runtime was restarted"


def restore(runtime: Runtime, records: Iterable[Record]) -> None:
    """Fill a new runtime; `take` then hands out what this decides."""
    runtime.used = True
    for record in records:
        APPLY[type(record)](runtime, record)
    for job in runtime.jobs.values():
        runtime.written_before(job.terms.accepted_at if job.end is None else job.end.at)
    for session in runtime.sessions.values():
        session.log.settle()
        session.lagging = session.acking and session.log.last - session.acked > runtime.limits.lag
        if session.anonymous:
            _count(runtime, session.principal)
    for session in list(runtime.sessions.values()):
        observing.fall_behind(runtime, session)
    observing.revoke(runtime)
    for session in list(runtime.sessions.values()):
        delivering.sent(runtime, session)
        retention.await_resume(runtime, session)
    for job in runtime.jobs.values():
        retention.trim_history(runtime, job)
    ended = [(job.end.at, job) for job in runtime.jobs.values() if job.end is not None]
    for at, job in sorted(ended, key=lambda pair: pair[0]):
        left = at + runtime.limits.retention * SECOND - runtime.wall
        retention.retire(
            runtime, job, Time(runtime.now + min(max(left, 0), runtime.limits.retention * SECOND))
        )
    revoking.restored(runtime)
    unfinished = [job for job in runtime.jobs.values() if job.end is None]
    for job in reversed(unfinished):
        if job.parent is not None:
            _end(runtime, job)  # Leaves before branches; a job that starts again delegates again.
    for job in unfinished:
        if job.end is None:
            _go_on(runtime, job)
    if runtime.holdings.over:
        retention.make_room(runtime)
    retention.watch_keys(runtime)


def _go_on(runtime: Runtime, job: Job) -> None:
    """The agent of an unfinished job died with the process: it starts again, or the job ends."""
    if job.input is not None and outcome.starts_again(runtime, job):
        attempt = job.attempt + (job.status is Status.RUNNING)
        submitting.start(runtime, job, Input.of(job.input), attempt=attempt)
        return
    _end(runtime, job)


def _end(runtime: Runtime, job: Job) -> None:
    """Its agent died with the process."""
    if job.terms.principal in runtime.anonymous_principals:
        _count(runtime, job.terms.principal)
    runtime.unfinished[job.id] = job
    lost = outcome.outcome_of(ErrorCode.INTERNAL_ERROR, RESTARTED)
    outcome.end_with_error(runtime, job, job.outcome or lost)


def _count(runtime: Runtime, principal: Principal) -> None:
    """A session or an unfinished job of a principal that never comes again."""
    runtime.anonymous_principals[principal] = runtime.anonymous_principals.get(principal, 0) + 1
