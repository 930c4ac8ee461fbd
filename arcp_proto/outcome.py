"""How jobs end: the first outcome wins, and exactly one terminal is sent (§7.3, §7.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from . import wire
from .errors import RETRYABLE, ErrorCode
from .ids import SECOND, Time
from .job import Job, Outcome, Status
from .machine import found
from .messages import JobError, Result
from .output import ResumeJob, StopJob
from .records import JobEnded, OutcomeFixed
from .timers import TimerKind

if TYPE_CHECKING:
    from .runtime import Runtime

STATUS_OF: Final[dict[str, Status]] = {
    ErrorCode.CANCELLED: Status.CANCELLED,
    ErrorCode.TIMEOUT: Status.TIMED_OUT,
}
"""The final status of an error code; any other is `error`."""


def outcome_of(
    code: str, message: str, *, retryable: bool | None = None, details: dict[str, Any] | None = None
) -> Outcome:
    """The outcome that an error code means; `retryable` by the table unless it is given."""
    if retryable is None:
        retryable = RETRYABLE.get(code, False)
    return Outcome(STATUS_OF.get(code, Status.ERROR), code, message, retryable, details)


def fix_outcome(runtime: Runtime, job: Job, outcome: Outcome) -> None:
    """Decide how an unfinished job ends, unless that is decided, and stop its agent."""
    if job.outcome is not None or job.ended:
        return
    runtime.commit(OutcomeFixed(job.id, outcome))
    runtime.timers.disarm(TimerKind.MAX_RUNTIME, job.id)
    if job.id in runtime.running:
        stop_agent(runtime, job, outcome.message)
    else:
        end_with_error(runtime, job, outcome)


def stop_agent(runtime: Runtime, job: Job, reason: str) -> None:
    """Cancel the agent, and give it its grace."""
    kill_at = Time(runtime.now + runtime.limits.grace * SECOND)
    runtime.timers.arm(TimerKind.GRACE, job.id, kill_at)
    runtime.request(StopJob(job.id, reason, kill_at))


def starts_again(runtime: Runtime, job: Job) -> bool:
    """Whether an unfinished job starts again, from its input, when the runtime is restarted."""
    kept = job.input is not None and job.outcome is None and not job.streamed
    return kept and runtime.inventory.restartable(job.terms.agent)


def grace_over(runtime: Runtime, job: Job) -> None:
    """The agent has not stopped in time: the terminal says so, and the agent counts on."""
    if runtime.left(job):
        return
    outcome = found(job.outcome, "a grace follows an outcome")
    details = {**(outcome.details or {}), "stopped": False}
    end_with_error(runtime, job, msgspec.structs.replace(outcome, details=details))


def agent_ended(runtime: Runtime, job: Job, outcome: Outcome) -> None:
    """The agent is over: by the outcome that was fixed, else by this one."""
    del runtime.running[job.id]
    if not job.ended and not runtime.left(job):
        end_with_error(runtime, job, job.outcome or outcome)


def end_with_error(runtime: Runtime, job: Job, outcome: Outcome) -> None:
    """Send `job.error`."""
    error = JobError(
        outcome.status.value,
        outcome.code,
        outcome.message or outcome.code,
        outcome.retryable,
        runtime.time_text(),
        outcome.details,
    )
    payload = wire.encode_checked(error)
    if len(payload) > runtime.payload_limit(job):
        error.details = None
        payload = wire.encode_checked(error)
    _end(runtime, job, outcome.status, "job.error", payload[:-1])


def end_with_result(runtime: Runtime, job: Job, result: Result, inline: bytes | None = None) -> None:
    """Send `job.result`, which fits; `inline` is its open payload for sessions that cannot read chunks."""
    del runtime.running[job.id]
    _end(runtime, job, Status.SUCCESS, "job.result", wire.encode_checked(result)[:-1], inline)


def _end(
    runtime: Runtime, job: Job, status: Status, message_type: str, payload: bytes, inline: bytes | None = None
) -> None:
    takers = [*job.observers.values()] if job.home is None else [job.home, *job.observers.values()]
    runtime.commit(JobEnded(job.id, status, message_type, payload, runtime.unix, inline))
    for session in takers:
        runtime.delivered(session)
    runtime.timers.disarm(TimerKind.MAX_RUNTIME, job.id)
    runtime.timers.disarm(TimerKind.GRACE, job.id)
    if job.paused and job.id in runtime.running:
        runtime.request(ResumeJob(job.id))  # An agent that has not stopped finds that its job is over.
    job.paused = False
    runtime.job_over(job)
