"""The exit codes of the process."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from arcp_proto import JobStatus


class Exit(IntEnum):
    """Exit codes of `arcp-io`."""

    SUCCESS = 0
    ERROR = 1
    USAGE = 2
    CANCELLED = 3
    TIMED_OUT = 4
    CONNECTION = 5
    EVENTS_LOST = 6
    NOT_STOPPED = 7
    """The job was cancelled, and its agent did not stop in its grace."""
    OUTPUT = 8
    """The result could not be written to its destination."""
    INTERRUPTED = 130


BY_STATUS: Final[Mapping[str, Exit]] = {
    JobStatus.SUCCESS: Exit.SUCCESS,
    JobStatus.ERROR: Exit.ERROR,
    JobStatus.CANCELLED: Exit.CANCELLED,
    JobStatus.TIMED_OUT: Exit.TIMED_OUT,
}
"""Final status of a job -> exit code."""

SUCCEEDED: Final = (Exit.SUCCESS, Exit.EVENTS_LOST)
"""Exit codes of a job that has a result."""

EXPLAINED: Final = (
    "Exit code: 0 the job succeeded, 1 it failed or was refused, 2 usage, 3 cancelled, 4 timed out, "
    "5 no connection or the connection was lost, 6 the job succeeded and some of its events were lost, "
    "8 the result could not be written, 130 the job was left as it is, by Ctrl-C or another signal."
)

CANCEL_EXPLAINED: Final = (
    "Exit code: 0 the job was cancelled, or had succeeded, 1 it had failed, or the cancel was refused, "
    "2 usage, 4 it had timed out, 5 no connection or the connection was lost, 7 the job was cancelled and "
    "its agent did not stop, 130 interrupted."
)

DEMO_EXPLAINED: Final = (
    "Exit code: 0 the job succeeded, 1 it failed, 2 usage, 3 Ctrl-C cancelled it, 8 the report could not be "
    "written, 130 interrupted."
)
