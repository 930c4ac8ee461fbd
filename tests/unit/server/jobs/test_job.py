"""One job: its lifecycle, and the parts that its envelopes share."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import product

import msgspec
import pytest

from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import JobId, Principal, SessionId, UnixTime
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import Budget
from arcp_proto.server.jobs.job import CURRENCY_BYTES, End, Job, Terms
from arcp_proto.server.jobs.stage import JOB_ENDED
from arcp_proto.wire import codec
from arcp_proto.wire.codec import event_envelope, event_tail
from arcp_proto.wire.trace_context import TraceContext

LEGAL = {
    "pending": "running error cancelled timed_out",
    "running": "success error cancelled timed_out",
    "success": "",
    "error": "",
    "cancelled": "",
    "timed_out": "",
}
"""The lifecycle of §7.3; `success` only after the agent has run."""


def job_of(version: str | None = "1.0.0", trace: TraceContext | None = None) -> Job:
    terms = Terms(
        job_id=JobId("job_100%d"),
        session_id=SessionId("sess_x"),
        principal=Principal("alice"),
        agent="echo",
        version=version,
        lease={},
        expires_at=None,
        max_runtime_sec=None,
        trace=trace or TraceContext("a" * 32),
        span_id="b" * 16,
        accepted_at=UnixTime(0),
    )
    return Job(7, terms, {})


@pytest.mark.parametrize(("before", "after"), list(product(JobStatus, JobStatus)))
def test_the_lifecycle_leads_from_pending_to_a_terminal_status(before: JobStatus, after: JobStatus) -> None:
    job = job_of()
    job.status = before
    if after.value in LEGAL[before].split() or after is before:
        job.recorded(JOB_ENDED, after)
        assert job.status is after
    else:
        with pytest.raises(InvariantViolated, match="does not go from"):
            job.recorded(JOB_ENDED, after)
        assert job.status is before


def test_a_new_job_is_pending() -> None:
    job = job_of()
    assert (job.id, job.agent) == ("job_100%d", "echo@1.0.0")
    assert job_of(version=None).agent == "echo"
    assert (job.status, job.ended, job.outcome, job.paused) == (JobStatus.PENDING, False, None, False)
    assert (job.number, job.attempt, job.home, job.home_seq) == (7, 1, None, 0)


@pytest.mark.parametrize("explicit", [False, True])
def test_the_envelope_template_of_a_job_is_made_once(explicit: bool) -> None:
    job = job_of(trace=TraceContext("a" * 32, explicit=explicit, tracestate="b=100%d %b"))
    head = job.head("job.event")
    assert job.head("job.event") is head
    assert job.head("job.error") is not head
    frame = json.loads(event_envelope(head, b"0" * 16, b"sess_x", 7, b'{"a":1'))
    assert frame["job_id"] == "job_100%d"
    assert frame["event_seq"] == 7
    assert frame["id"] == "0" * 25 + "7"
    assert frame["payload"] == {"a": 1}
    extension = frame.get("extensions", {}).get("x-vendor.opentelemetry.tracecontext", {})
    assert extension.get("tracestate") == ("b=100%d %b" if explicit else None)


def test_job_seq_follows_the_payload() -> None:
    job = job_of()
    head = job.head("job.event")
    frame = json.loads(event_envelope(head, b"0" * 16, b"sess_x", 7, b'{"a":1', event_tail(3)))
    assert frame["payload"] == {"a": 1, "job_seq": 3}


@pytest.mark.parametrize("currencies", [0, 1, 7])
def test_a_job_that_has_ended_counts_for_each_currency_of_its_budget(currencies: int) -> None:
    job = job_of()
    lease = {"fs.read": ["/" + "x" * 600]}
    job.terms = msgspec.structs.replace(job.terms, lease=lease)
    job.budget = Budget({f"X{number:02}": Decimal(1) for number in range(currencies)})
    job.end = End("job.error", b"p" * 100, UnixTime(0), source=1)
    job.pack()
    assert job.kept == 100 + len(codec.encode_value(lease)) + currencies * CURRENCY_BYTES
