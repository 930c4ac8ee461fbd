"""Shutdown: no more sessions and jobs, time for the running jobs, then all connections close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_proto.engine.connection import Phase
from arcp_proto.engine.machine import CLOSE_RESTART
from arcp_proto.engine.output import RuntimeEnded
from arcp_proto.engine.timers import OF_A_RUN, TimerKind
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import SECOND, Time
from arcp_proto.server.sessions.admission_control import SHUTTING_DOWN

from .jobs import completion, submit_queue
from .jobs.stage import JobStage

if TYPE_CHECKING:
    from arcp_proto.server.jobs.job import Job

    from .state import RuntimeState


def begin(runtime: RuntimeState, drain: float) -> None:
    """Give running jobs `drain` seconds, or the rest of an earlier, shorter time."""
    submit_queue.refuse_all(runtime, SHUTTING_DOWN)
    at = Time(runtime.now + int(drain * SECOND))
    armed = runtime.timers.armed(TimerKind.DRAIN, 0)
    if at <= runtime.now:
        runtime.timers.disarm(TimerKind.DRAIN, 0)
        cancel_rest(runtime)
    elif runtime.unfinished and (armed is None or at < armed):
        runtime.timers.arm(TimerKind.DRAIN, 0, at)
    end_if_over(runtime)


def cancel_rest(runtime: RuntimeState) -> None:
    """Stop every agent whose job has not ended when the time to drain is over.

    A job that can start again after a restart of the runtime is left as it is, to the next process.
    """
    stop = completion.outcome_of(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN)
    for job in list(runtime.unfinished.values()):
        if not completion.starts_again(runtime, job):
            completion.fix_outcome(runtime, job, stop)
        elif job.stage is not JobStage.LEAVING:
            runtime.issuing.starts_no_more(job)
            job.goes_to(JobStage.LEAVING)
            for child in list(job.children.values()):
                completion.fix_outcome(runtime, child, stop)  # Only its parent would start it again.
            completion.stop_agent(runtime, job, SHUTTING_DOWN)


def leave(runtime: RuntimeState, job: Job) -> None:
    """Leave a job whose agent has stopped, or has not in time, to the next process; again is harmless."""
    if job.stage is not JobStage.LEFT:
        job.goes_to(JobStage.LEFT)
        job.word = None
    runtime.unfinished.pop(job.id, None)
    runtime.timers.disarm_all(OF_A_RUN, job.id)
    end_if_over(runtime)


def end_if_over(runtime: RuntimeState) -> None:
    """Close every connection once no job is left, and hand out `RuntimeEnded` after the last one is gone."""
    if not runtime.draining or runtime.unfinished or runtime.ended:
        return
    runtime.timers.disarm(TimerKind.DRAIN, 0)
    for connection in list(runtime.connections.values()):
        if connection.phase is not Phase.CLOSING:
            runtime.close_connection(connection, CLOSE_RESTART, SHUTTING_DOWN, flush=True)
    if not runtime.connections:
        runtime.ended = True
        runtime.happened(RuntimeEnded(len(runtime.running)))
