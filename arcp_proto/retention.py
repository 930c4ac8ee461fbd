"""What is kept after its end, and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ids import SECOND, Principal, Time
from .job import Job
from .records import Evicted, JobForgotten
from .session import Session
from .timers import TimerKind

if TYPE_CHECKING:
    from .runtime import Runtime


def evict(runtime: Runtime, session: Session) -> None:
    """Keep a session's log within its limits: the oldest events go."""
    excess = session.log.excess(runtime.limits.session_events, runtime.limits.session_bytes)
    if excess:
        runtime.commit(Evicted(session.id, excess))


def retire(runtime: Runtime, job: Job) -> None:
    """A job has ended: forget it when its time is over, or when too many others have ended since."""
    at = Time(runtime.now + runtime.limits.retention * SECOND)
    runtime.retired.append((at, job.id))
    if len(runtime.retired) > runtime.limits.finished_jobs:
        runtime.commit(JobForgotten(runtime.retired.popleft()[1]))
    if runtime.timers.armed(TimerKind.RETENTION, 0) is None:
        runtime.timers.arm(TimerKind.RETENTION, 0, at)


def forget(runtime: Runtime) -> None:
    """Forget the jobs whose time is over."""
    retired = runtime.retired
    while retired and retired[0][0] <= runtime.now:
        runtime.commit(JobForgotten(retired.popleft()[1]))
    if retired:
        runtime.timers.arm(TimerKind.RETENTION, 0, retired[0][0])


def let_go(runtime: Runtime, principal: Principal) -> None:
    """A session or a job of this principal is over: after its last, forget one that never comes again."""
    left = runtime.anonymous_principals.get(principal)
    if left is None:
        return
    if left > 1:
        runtime.anonymous_principals[principal] = left - 1
    else:
        del runtime.anonymous_principals[principal]
        runtime.entropy.forget(runtime.scope(principal))
