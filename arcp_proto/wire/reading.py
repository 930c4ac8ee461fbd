"""The messages of the feature READING: one look at a job, and its events apart from subscriptions.

The feature is ours (`x-vendor.arcp-io.reading`): other implementations neither send nor get these messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from arcp_proto.errors import LocalProtocolError
from arcp_proto.limits import MAX_READ_KINDS, MAX_RUNTIME_SEC

from .codec import Count
from .fields import Id, Lease

MAX_POSITION: Final = 2**63 - 1
"""The highest position that peers can hold."""


class BudgetCounter(msgspec.Struct, omit_defaults=True):
    """One currency of a budget, in its amounts (§9.6): `reserved` is part of `remaining`."""

    initial: Any
    remaining: Any
    reserved: Any = None


class Glance(msgspec.Struct, omit_defaults=True):
    """The part of a `JobEntry` that a runtime adds with the feature READING."""

    attempt: Count | None = None
    agent_runs: bool | None = None
    ends_as: str | None = None
    budget: dict[str, BudgetCounter] | None = None
    completed_at: str | None = None
    code: str | None = None
    stopped: bool | None = None


class Describe(msgspec.Struct, omit_defaults=True):
    """`x-vendor.arcp-io.job.describe`: ask for one look at a job (feature READING).

    With `input` the answer shows the input of the job, if the runtime has kept it.
    """

    job_id: Id
    input: bool = False


class JobEnding(msgspec.Struct, omit_defaults=True):
    """The end of a job (§7.3): its terminal without the value of the result."""

    final_status: str
    completed_at: str
    code: str | None = None
    message: str | None = None
    retryable: bool | None = None
    details: dict[str, Any] | None = None
    summary: str | None = None
    result_id: str | None = None
    result_size: Count | None = None
    """Bytes of the result: of its JSON, or decoded if it was streamed."""


class JobDescription(msgspec.Struct, omit_defaults=True):
    """One look at a job, at the time of the answer."""

    job_id: Id
    agent: str
    """`name@version`, or the name of an agent without versions (§7.5)."""
    status: str
    """pending, running, success, error, cancelled or timed_out (§7.3)."""
    created_at: str
    """When the job was accepted; times are RFC 3339 in UTC."""
    lease: Lease
    job_seq: Count
    """The position of the last event, the terminal included; 0 before the first."""
    history_from_job_seq: Count
    """The position of the first event that can still be read."""
    attempt: Count = 1
    """The number of the start of the agent: 1, and one more after each restart of the runtime."""
    agent_runs: bool = False
    """Whether the agent has not stopped; it may outlive its job when it ignores its cancellation (§7.4)."""
    ends_as: str | None = None
    """The final status of an unfinished job, once it is decided: its agent is then being stopped."""
    max_runtime_sec: int | None = None
    expires_at: str | None = None
    """When the lease ends (§9.5)."""
    budget: dict[str, BudgetCounter] | None = None
    """The counters of the budget that the lease names, by currency (§9.6)."""
    progress: dict[str, Any] | None = None
    """The body of the last `progress` event that is kept (§8.2)."""
    parent_job_id: str | None = None
    children: list[str] | None = None
    """The jobs that it has delegated and that are not forgotten, oldest first (§10)."""
    trace_id: str | None = None
    end: JobEnding | None = None
    stopped: bool | None = None
    """Of an ended job: whether its agent is known to have stopped (§7.4). None before the end.

    It is false if the agent had not stopped at the end (`end.details` `{"stopped": false}`) and either still
    runs (`agent_runs`), or the runtime cannot tell: it was restarted since, or the agent had a process at a
    place that is out of reach.
    """
    agent_stopped_at: str | None = None
    """When an agent that had not stopped at the end of its job has stopped; not kept over a restart."""
    input: Any = None
    """The input of the job, if the request asked for it and it has at most 32 KiB as JSON."""
    input_size: Count | None = None
    """Bytes of the input as the submit had it, if the request asked for it and the runtime has kept it.

    A runtime with a journal keeps the inputs of jobs that it may have to start again, until they end.
    """


class Described(msgspec.Struct):
    """`x-vendor.arcp-io.job.described`, the answer to a describe."""

    request_id: str
    job: JobDescription


class ReadEvents(msgspec.Struct, omit_defaults=True):
    """`x-vendor.arcp-io.job.read`: ask for the events of a job above a position (feature READING).

    The answer holds at most `limit` events, and only those of these `kinds` and the terminal. If there are
    none yet, it comes with the next one, or without any after `wait_ms` milliseconds.
    """

    job_id: Id
    from_job_seq: Count = 0
    limit: int | None = None
    wait_ms: int | None = None
    kinds: list[str] | None = None


def read_events(
    job_id: str, after: int, most: int | None, wait_sec: float, kinds: Sequence[str] | None
) -> ReadEvents:
    """Return the request for the events of a job above a position.

    Raises LocalProtocolError for values out of range.
    """
    if isinstance(kinds, str) or (kinds is not None and len(kinds) > MAX_READ_KINDS):
        raise LocalProtocolError(f"kinds is a list of at most {MAX_READ_KINDS} words")
    if not 0 <= after <= MAX_POSITION or not 0 <= wait_sec <= MAX_RUNTIME_SEC:
        raise LocalProtocolError("a read begins at a position from 0 on, and waits no negative time")
    if most is not None and most < 1:
        raise LocalProtocolError("a read asks for at least one event")
    words = None if kinds is None else list(kinds)
    return ReadEvents(job_id, after, most, int(wait_sec * 1_000) or None, words)


class PageEvent(msgspec.Struct):
    """One event of a page: the type and the payload of its `job.event`, `job.result` or `job.error`."""

    type: str
    payload: dict[str, Any]


class EventsPage(msgspec.Struct, omit_defaults=True):
    """`x-vendor.arcp-io.job.events`, the answer to a read.

    `job_seq` is the position up to which the job was read: the next read begins there. `ended` tells that
    nothing follows. `history_from_job_seq` is the position of the first event that is left, if events above
    the position of the read are gone.
    """

    request_id: str
    job_id: Id
    job_seq: Count
    events: list[PageEvent]
    ended: bool = False
    history_from_job_seq: Count | None = None


class EncodedEvents(msgspec.Struct, omit_defaults=True):
    """An `EventsPage` as a runtime writes it, of events that are JSON already."""

    request_id: str
    job_id: Id
    job_seq: Count
    events: list[msgspec.Raw]
    ended: bool = False
    history_from_job_seq: Count | None = None
