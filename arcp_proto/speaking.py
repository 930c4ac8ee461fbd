"""Events that one agent publishes in a row: they get their numbers together, before anything else (§8.3).

What comes out is the same as if each had been numbered when it was published, to a millisecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .delivering import spread
from .entering import number, number_all
from .ids import Time
from .job import Job

if TYPE_CHECKING:
    from .runtime import Runtime

SHORT: Final = 1024
"""Bytes of the body of an event that waits for others."""
MOST: Final = 64
"""Events that wait at a time."""


def begin(runtime: Runtime, job: Job) -> None:
    """End the input in which an event of a job was numbered, or let it go on with its next ones.

    Not for observers, nor for what is recorded or kept in a journal one by one.
    """
    apart = runtime.journaling or runtime.recorder is not None
    if apart or job.home is None or job.observers or job.body_limit < SHORT:
        runtime.busy = False
    else:
        runtime.speaker = job


def end(runtime: Runtime, job: Job) -> None:
    """Number what the speaker has said, and end the input."""
    runtime.speaker, runtime.busy = None, False
    said, runtime.said = runtime.said, []
    if not said:
        return
    if runtime.said_at > runtime.now:
        runtime.now = Time(runtime.said_at)
    if not number_all(runtime, job, said):
        for payload in said:
            if number(runtime, job, "", payload):
                spread(runtime, job, None)
