"""The end of a runtime: no more sessions and jobs, time for those that run, then all connections close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import outcome, turns
from .connection import Phase
from .errors import ErrorCode
from .ids import SECOND, Time
from .machine import CLOSE_RESTART
from .output import RuntimeEnded
from .timers import OF_A_RUN, TimerKind

if TYPE_CHECKING:
    from .job import Job
    from .runtime import Runtime

SHUTTING_DOWN = "the runtime is shutting down"


def begin(runtime: Runtime, drain: float) -> None:
    """Give running jobs `drain` seconds, or the rest of an earlier, shorter time."""
    turns.refuse_all(runtime, SHUTTING_DOWN)
    at = Time(runtime.now + int(drain * SECOND))
    armed = runtime.timers.armed(TimerKind.DRAIN, 0)
    if at <= runtime.now:
        runtime.timers.disarm(TimerKind.DRAIN, 0)
        cancel_rest(runtime)
    elif runtime.unfinished and (armed is None or at < armed):
        runtime.timers.arm(TimerKind.DRAIN, 0, at)
    end_if_over(runtime)


def cancel_rest(runtime: Runtime) -> None:
    """The time is over: stop every agent whose job has not ended.

    A job that can start again when the runtime is restarted is left as it is, to the next process.
    """
    stop = outcome.outcome_of(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN)
    for job in list(runtime.unfinished.values()):
        if not outcome.starts_again(runtime, job):
            outcome.fix_outcome(runtime, job, stop)
        elif job.id not in runtime.leaving:
            runtime.leaving[job.id] = job
            for child in list(job.children.values()):
                outcome.fix_outcome(runtime, child, stop)  # It would be started again by its parent only.
            outcome.stop_agent(runtime, job, SHUTTING_DOWN)


def left(runtime: Runtime, job: Job) -> bool:
    """Whether a job whose agent has stopped, or will not, is left to the next process; here it is done."""
    if job.id not in runtime.leaving or job.outcome is not None:
        return False
    runtime.unfinished.pop(job.id, None)
    runtime.timers.disarm_all(OF_A_RUN, job.id)
    end_if_over(runtime)
    return True


def end_if_over(runtime: Runtime) -> None:
    """Close every connection once no job is left, and tell when the last one is gone."""
    if not runtime.draining or runtime.unfinished or runtime.ended:
        return
    runtime.timers.disarm(TimerKind.DRAIN, 0)
    for connection in list(runtime.connections.values()):
        if connection.phase is not Phase.CLOSING:
            runtime.close_connection(connection, CLOSE_RESTART, SHUTTING_DOWN, flush=True)
    if not runtime.connections:
        runtime.ended = True
        runtime.happened(RuntimeEnded(len(runtime.running)))
