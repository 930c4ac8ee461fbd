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
    """A job has ended: forget it when its time is over."""
    at = Time(runtime.now + runtime.limits.retention * SECOND)
    runtime.retired.append((at, job.id))
    if runtime.timers.armed(TimerKind.RETENTION, 0) is None:
        runtime.timers.arm(TimerKind.RETENTION, 0, at)


def forget(runtime: Runtime) -> None:
    """Forget the jobs whose time is over."""
    retired = runtime.retired
    while retired and retired[0][0] <= runtime.now:
        runtime.commit(JobForgotten(retired.popleft()[1]))
    if retired:
        runtime.timers.arm(TimerKind.RETENTION, 0, retired[0][0])


def forget_anonymous(runtime: Runtime, principal: Principal) -> None:
    """Forget the entropy of an anonymous principal that has no session and no unfinished job left."""
    if principal not in runtime.anonymous_principals:
        return
    owners = [session.principal for session in runtime.sessions.values()]
    owners += [job.terms.principal for job in runtime.unfinished.values()]
    if principal not in owners:
        del runtime.anonymous_principals[principal]
        runtime.entropy.forget(runtime.scope(principal))
