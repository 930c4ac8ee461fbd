"""The end of a runtime: time for the running jobs, then all connections close.

A shutdown takes no more sessions and jobs. A hand-over takes both until no job runs, and keeps the jobs with
their inputs for the next process, which starts them; so clients wait, and are not refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_proto.close_codes import CloseCode
from arcp_proto.engine.output import RuntimeEnded
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import OF_A_RUN, TimerKind
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import SECOND, Monotonic
from arcp_proto.server.sessions.admission_control import SHUTTING_DOWN

from .jobs import completion, submit_queue
from .jobs.stage import JobStage

if TYPE_CHECKING:
    from arcp_proto.server.jobs.job import Job

    from .state import RuntimeState


def begin(state: RuntimeState, drain: float) -> None:
    """Take no more sessions and jobs, and give running jobs time."""
    state.draining = state.ending = True
    submit_queue.refuse_all(state, SHUTTING_DOWN)
    _give_time(state, drain)


def hand_over(state: RuntimeState, drain: float) -> None:
    """Keep the jobs that are accepted from now on for the next process, and give running jobs time."""
    state.handing_over = state.ending = True
    _give_time(state, drain)


def drain_over(state: RuntimeState) -> None:
    """Stop what still runs at the end of the time to drain."""
    cancel_rest(state)
    state.may_be_over = True


def _give_time(state: RuntimeState, drain: float) -> None:
    """Give running jobs `drain` seconds, or the rest of an earlier, shorter time."""
    at = Monotonic(state.now + int(drain * SECOND))
    armed = state.timers.armed(TimerKind.DRAIN, 0)
    if at <= state.now:
        state.timers.disarm(TimerKind.DRAIN, 0)
        cancel_rest(state)
    elif (_works(state) or submit_queue.waits(state)) and (armed is None or at < armed):
        state.timers.arm(TimerKind.DRAIN, 0, at)
    state.may_be_over = True


def cancel_rest(state: RuntimeState) -> None:
    """Stop every agent whose job has not ended when the time to drain is over.

    A job that can start after a restart of the runtime is left as it is, to the next process.
    """
    stop = completion.outcome_of(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN)
    for job in list(state.unfinished.values()):
        if not completion.starts_again(state, job):
            completion.fix_outcome(state, job, stop)
        elif job.stage not in (JobStage.LEAVING, JobStage.KEPT):
            state.issuing.starts_no_more(job)
            job.goes_to(JobStage.LEAVING)
            for child in list(job.children.values()):
                completion.fix_outcome(state, child, stop)  # Only its parent would start it again.
            completion.stop_agent(state, job, SHUTTING_DOWN)


def leave(state: RuntimeState, job: Job) -> None:
    """Leave a job whose agent has stopped, or has not in time, to the next process."""
    if job.stage is not JobStage.LEFT:
        job.goes_to(JobStage.LEFT)
        job.word = None
    state.unfinished.pop(job.id, None)
    state.timers.disarm_all(OF_A_RUN, job.id)
    state.may_be_over = True


def end_if_over(state: RuntimeState) -> None:
    """Close every connection once no job runs, and hand out `RuntimeEnded` after the last one is gone.

    A hand-over waits for submits that wait for their credentials as well, until the time to drain is over.
    """
    if not state.ending or state.ended or _works(state):
        return
    if not state.draining:
        if submit_queue.waits(state) and state.timers.armed(TimerKind.DRAIN, 0) is not None:
            return
        state.draining = True
        submit_queue.refuse_all(state, SHUTTING_DOWN)
    state.timers.disarm(TimerKind.DRAIN, 0)
    for connection in list(state.connections.values()):
        if connection.phase is not Phase.CLOSING:
            state.close_connection(connection, CloseCode.SERVICE_RESTART, SHUTTING_DOWN, flush=True)
    if not state.connections:
        state.ended = True
        state.happened(RuntimeEnded(len(state.running)))


def _works(state: RuntimeState) -> bool:
    """Return whether an unfinished job is not kept for the next process; the running ones come first."""
    return any(job.stage is not JobStage.KEPT for job in state.unfinished.values())
