"""The end of a job, as a test compares it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from arcp_proto import JobDescription


@dataclass(frozen=True)
class Ending:
    """The end of a job (§7.3), without the value of its result."""

    status: str
    """success, error, cancelled or timed_out."""
    code: str | None
    """The error code (§12); None for a success."""
    message: str | None
    spent: Mapping[str, Decimal]
    """Currency -> the part of the budget that was spent (§9.6); empty without a budget."""


def ending_of(job: JobDescription) -> Ending:
    """Return the end of a finished job; raises AssertionError for one that has not ended."""
    if job.end is None:
        raise AssertionError(f"job {job.job_id} has not ended: it is {job.status}")
    counters = job.budget or {}
    spent = {name: _amount(one.initial) - _amount(one.remaining) for name, one in counters.items()}
    return Ending(job.end.final_status, job.end.code, job.end.message, spent)


def _amount(value: Any) -> Decimal:
    return Decimal(bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value))
