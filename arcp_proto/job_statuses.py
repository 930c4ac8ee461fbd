"""The statuses of a job, and the error code that each final one stands for (§7.3, §12): one table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from .errors import ErrorCode


class JobStatus(StrEnum):
    """The status of a job on the wire (§7.3)."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


SUCCESS: Final = JobStatus.SUCCESS
"""The status of most ends: on CPython 3.11 a constant costs less than a member of an enum."""


class Failure(NamedTuple):
    """The error of a job with a final status, when its end names none."""

    code: ErrorCode
    message: str


FAILURES: Final[Mapping[str, Failure]] = {
    JobStatus.ERROR: Failure(ErrorCode.INTERNAL_ERROR, "the job failed"),
    JobStatus.CANCELLED: Failure(ErrorCode.CANCELLED, "the job was cancelled"),
    JobStatus.TIMED_OUT: Failure(ErrorCode.TIMEOUT, "the job timed out"),
}
"""Each final status but `success`, with its error."""

FINAL_STATUSES: Final = (SUCCESS, JobStatus.ERROR, JobStatus.CANCELLED, JobStatus.TIMED_OUT)
"""The statuses of a job that is over, in the words of the draft."""

_BY_CODE: Final[Mapping[str, JobStatus]] = {
    ErrorCode.CANCELLED.value: JobStatus.CANCELLED,
    ErrorCode.TIMEOUT.value: JobStatus.TIMED_OUT,
}


def status_of(code: str) -> JobStatus:
    """Return the final status of a job whose error has this code."""
    return _BY_CODE.get(code, JobStatus.ERROR)
