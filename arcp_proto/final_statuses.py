"""The statuses with which a job ends, and the error code that each stands for (§7.3, §12): one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from .errors import ErrorCode


class Failure(NamedTuple):
    """The error of a job with a final status, when its end names none."""

    code: ErrorCode
    message: str


FAILURES: Final[Mapping[str, Failure]] = {
    "error": Failure(ErrorCode.INTERNAL_ERROR, "the job failed"),
    "cancelled": Failure(ErrorCode.CANCELLED, "the job was cancelled"),
    "timed_out": Failure(ErrorCode.TIMEOUT, "the job timed out"),
}
"""Each final status but `success`, with its error."""

FINAL_STATUSES: Final = ("success", *FAILURES)
"""The statuses of a job that is over, in the words of the draft."""

_BY_CODE: Final = {failure.code.value: status for status, failure in FAILURES.items() if status != "error"}


def status_of(code: str) -> str:
    """Return the final status of a job whose error has this code."""
    return _BY_CODE.get(code, "error")
