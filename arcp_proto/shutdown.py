"""The end of a runtime: no more sessions and jobs, time for those that run, then all connections close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .connection import Phase
from .errors import ErrorCode
from .ids import SECOND, Time
from .machine import CLOSE_RESTART
from .outcome import fix_outcome, outcome_of
from .output import RuntimeEnded
from .timers import TimerKind

if TYPE_CHECKING:
    from .runtime import Runtime

SHUTTING_DOWN = "the runtime is shutting down"


def begin(runtime: Runtime, drain: float) -> None:
    """Give running jobs `drain` seconds, or the rest of an earlier, shorter time."""
    at = Time(runtime.now + int(drain * SECOND))
    armed = runtime.timers.armed(TimerKind.DRAIN, 0)
    if at <= runtime.now:
        runtime.timers.disarm(TimerKind.DRAIN, 0)
        cancel_rest(runtime)
    elif runtime.unfinished and (armed is None or at < armed):
        runtime.timers.arm(TimerKind.DRAIN, 0, at)
    end_if_over(runtime)


def cancel_rest(runtime: Runtime) -> None:
    """The time is over: stop every agent whose job has not ended."""
    stop = outcome_of(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN)
    for job in list(runtime.unfinished.values()):
        fix_outcome(runtime, job, stop)


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
