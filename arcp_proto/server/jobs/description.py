"""The description of a job: one look at all that is known of it (feature READING)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.features import Feature
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import to_wire
from arcp_proto.limits import KIB
from arcp_proto.namespaces import COST_BUDGET
from arcp_proto.wire import codec, reading
from arcp_proto.wire.reading import BudgetCounter, JobDescription, JobEnding
from arcp_proto.wire.timestamps import format_time

from .job import Job
from .stage import AgentStage

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

MOST_CHILDREN: Final = 256
"""Children that a description names at most; an unfinished job has fewer."""
MOST_INPUT: Final = 32 * KIB
"""Bytes of an input, as JSON, that a description shows at most."""
NONE: Final = msgspec.Raw(b"null")


def glance_at(job: Job) -> reading.Glance:
    """Return what a listing shows of a job beyond its entry, in sessions with the feature."""
    end = None if job.end is None else _decode_terminal(job.end.payload + b"}")
    return reading.Glance(
        attempt=job.attempt,
        agent_runs=job.agent_stage is not AgentStage.NONE,
        ends_as=_decided(job),
        budget=_budget(job),
        completed_at=None if end is None else end.completed_at,
        code=None if end is None else end.code,
        stopped=None if end is None else has_stopped(job, end.details),
    )


def describe(state: RuntimeState, job: Job) -> JobDescription:
    """Return the description of a job; it changes nothing."""
    terms, history, end = job.terms, job.history, _end(job)
    progress = history.last_with(Feature.PROGRESS)
    children = [str(job_id) for job_id in state.listing.children_of(job.id)][-MOST_CHILDREN:]
    return JobDescription(
        job_id=job.id,
        agent=job.agent,
        status=job.status.value,
        created_at=format_time(terms.accepted_at),
        lease=job.lease,
        job_seq=job.last_position,
        history_from_job_seq=history.first + 1,
        attempt=job.attempt,
        agent_runs=job.agent_stage is not AgentStage.NONE,
        ends_as=_decided(job),
        max_runtime_sec=terms.max_runtime_sec,
        expires_at=terms.expires_at,
        budget=_budget(job),
        progress=None if progress is None else codec.decode_open(progress)["body"],
        parent_job_id=terms.parent_job_id,
        children=children or None,
        trace_id=terms.trace.trace_id,
        end=end,
        stopped=None if end is None else has_stopped(job, end.details),
        agent_stopped_at=None if job.agent_stopped_at is None else format_time(job.agent_stopped_at),
    )


def stopped_of(job: Job) -> bool | None:
    """Return whether the agent of a job is known to have stopped; None before the end."""
    if job.end is None:
        return None
    decided = job.status is JobStatus.SUCCESS or job.agent_stage is not AgentStage.NONE
    return has_stopped(job, None if decided else _decode_terminal(job.end.payload + b"}").details)


def has_stopped(job: Job, details: Mapping[str, Any] | None) -> bool:
    """Return whether the agent of an ended job is known to have stopped; `details` are those of the end.

    After a restart only the details are known, which say whether it had stopped at the end.
    """
    if job.agent_stage is not AgentStage.NONE:
        return False
    return job.agent_stopped_at is not None or (details or {}).get("stopped") is not False


def show_input(told: JobDescription, job: Job) -> None:
    """Add the input of a job to its description, as far as it is kept and is not too large."""
    kept = job.input
    if kept is not None:
        told.input_size = len(kept)
        if len(kept) <= MOST_INPUT:
            told.input = msgspec.Raw(kept)


def _decided(job: Job) -> str | None:
    """Return the final status of an unfinished job, once it is decided."""
    return None if job.outcome is None or job.ended else job.outcome.status.value


def _budget(job: Job) -> dict[str, BudgetCounter] | None:
    """Return the counters that the lease of a job names; others are those of the jobs above it."""
    budget = job.budget
    if COST_BUDGET not in job.lease or not budget.initial:
        return None
    initial, remaining, reserved = map(to_wire, (budget.initial, budget.remaining, _reserved(job)))
    return {name: BudgetCounter(initial[name], remaining[name], reserved.get(name)) for name in initial}


def _reserved(job: Job) -> Mapping[str, Decimal]:
    return {} if job.ended else job.budget.held


class _Terminal(msgspec.Struct):
    """The fields of a terminal that a description shows; `result` is not read."""

    final_status: str
    completed_at: str
    result: msgspec.Raw = NONE
    code: str | None = None
    message: str | None = None
    retryable: bool | None = None
    details: dict[str, Any] | None = None
    summary: str | None = None
    result_id: str | None = None
    result_size: int | None = None


_decode_terminal: Final = codec.decoder_of(_Terminal)


def _end(job: Job) -> JobEnding | None:
    if job.end is None:
        return None
    told = _decode_terminal(job.end.payload + b"}")
    size = told.result_size
    if size is None and told.result != NONE:
        size = len(told.result)
    return JobEnding(
        told.final_status,
        told.completed_at,
        told.code,
        told.message,
        told.retryable,
        told.details,
        told.summary,
        told.result_id,
        size,
    )
