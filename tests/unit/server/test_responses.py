"""Jobs in answers: job.accepted, job.subscribed and entries of listings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.features import Feature
from arcp_proto.ids import JobId, Monotonic, Principal, SessionId, UnixTime
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import Budget
from arcp_proto.server.jobs.idempotency import Claim
from arcp_proto.server.jobs.job import End, Job, Terms
from arcp_proto.server.jobs.stage import JobStage
from arcp_proto.server.responses import accepted_again, accepted_of, entry_json, entry_of, subscribed_of
from arcp_proto.server.sessions.session import Session
from arcp_proto.wire.trace_context import TraceContext
from tests.unit.world import UNIX

LEASE = {"cost.budget": ["USD:1.50", "EUR:2"]}


def job_of(**changes: Any) -> Job:
    """Return a job right after its acceptance."""
    terms = Terms(
        job_id=JobId("job_1"),
        session_id=SessionId("sess_1"),
        principal=Principal("alice"),
        agent="echo",
        version="1.0.0",
        lease={},
        expires_at=None,
        max_runtime_sec=None,
        trace=TraceContext("a" * 32),
        span_id="b" * 16,
        accepted_at=UnixTime(UNIX),
    )
    terms = msgspec.structs.replace(terms, **changes)
    return Job(1, terms, Budget.of(terms.lease))


def session_of(quirk: str = "", *features: str) -> Session:
    return Session(SessionId("sess_1"), Principal("alice"), list(features), quirk)


def written(message: msgspec.Struct) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(message))
    return shown


def test_a_listing_entry_is_cached_once_the_job_has_ended() -> None:
    job, session = job_of(), Session(SessionId("sess_1"), Principal("alice"), [], "")
    job.home_seq = 1
    assert msgspec.json.decode(entry_json(job, session)) == written(entry_of(job, session))
    job.home_seq = 2
    assert msgspec.json.decode(entry_json(job, session))["last_event_seq"] == 2
    assert job.entry is None
    job.status, job.stage = JobStatus.ERROR, JobStage.ENDED
    job.end = End("job.error", b"{", UnixTime(UNIX), 2)
    last = entry_json(job, session)
    assert msgspec.json.decode(last) == written(entry_of(job, session))
    assert entry_json(job, session) is job.entry is last


def test_job_accepted_has_its_required_fields() -> None:
    assert written(accepted_of(job_of(), "r1")) == {
        "job_id": "job_1",
        "agent": "echo@1.0.0",
        "lease": {},
        "accepted_at": "2026-05-28T20:26:40.000Z",
        "request_id": "r1",
        "trace_id": "a" * 32,
    }


def test_job_accepted_has_the_requested_optional_fields() -> None:
    job = job_of(lease=LEASE, expires_at="2030-01-01T00:00:00Z", version=None)
    shown = written(accepted_of(job, "r1"))
    assert shown["lease_constraints"] == {"expires_at": "2030-01-01T00:00:00Z"}
    assert shown["budget"] == {"USD": 1.5, "EUR": 2}
    assert (shown["agent"], shown["lease"]) == ("echo", LEASE)


@pytest.mark.parametrize(
    ("quirk", "budget"),
    [
        ("", {"USD": 1.5, "EUR": 2}),
        ("java", {"USD": 1.5, "EUR": 2}),
        ("pypi", {"USD": "USD:1.5", "EUR": "EUR:2"}),
    ],
)
def test_a_budget_has_the_form_that_its_peer_reads(quirk: str, budget: dict[str, Any]) -> None:
    job = job_of(lease=LEASE)
    session = session_of(quirk)
    assert written(accepted_of(job, "r1", session))["budget"] == budget
    claim = Claim(b"", JobId("job_1"), msgspec.json.encode(accepted_of(job, "")))
    assert written(accepted_again(claim, "r1", session))["budget"] == budget


def test_a_repeated_key_of_a_forgotten_job_gets_the_first_answer() -> None:
    job = job_of(lease=LEASE, expires_at="2030-01-01T00:00:00Z")
    claim = Claim(b"", JobId("job_1"), msgspec.json.encode(accepted_of(job, "")))
    assert written(accepted_again(claim, "r2", session_of())) == written(accepted_of(job, "r2"))
    plain = Claim(b"", JobId("job_1"), msgspec.json.encode(accepted_of(job_of(), "")))
    assert written(accepted_again(plain, "r2", session_of("pypi"))) == written(accepted_of(job_of(), "r2"))


def test_job_subscribed_has_its_fields() -> None:
    shown = written(subscribed_of(job_of(), session_of(), "r1", replayed=False, cut=False))
    assert shown == {
        "job_id": "job_1",
        "current_status": "pending",
        "agent": "echo@1.0.0",
        "lease": {},
        "subscribed_from": 0,
        "replayed": False,
        "request_id": "r1",
        "trace_id": "a" * 32,
    }
    job = job_of()
    job.home_seq = 6
    cut = written(subscribed_of(job, session_of(), "r1", replayed=True, cut=True))
    assert (cut["replayed"], cut["history_from"]) == (True, 7)


def test_answers_have_positions_where_negotiated() -> None:
    job, session, claim = (
        job_of(),
        session_of("", Feature.POSITIONS),
        Claim(b"", JobId("job_1"), b"{}", position=9),
    )
    claim.accepted = msgspec.json.encode(accepted_of(job, ""))
    assert written(accepted_of(job, "r1", session))["job_seq"] == 0
    history = job.open_history()
    for number in range(4):
        history.append(b"{", 1, None, 1, Monotonic(number))
    assert written(accepted_of(job, "r1", session))["job_seq"] == 4
    assert written(accepted_again(claim, "r1", session))["job_seq"] == 9
    subscribed = written(subscribed_of(job, session, "r1", replayed=True, cut=False))
    assert (subscribed["job_seq"], "history_from_job_seq" in subscribed) == (4, False)
    history.release(3)
    subscribed = written(subscribed_of(job, session, "r1", replayed=True, cut=True))
    assert (subscribed["job_seq"], subscribed["history_from_job_seq"]) == (4, 4)
    assert msgspec.json.decode(entry_json(job, session)) == {**written(entry_of(job, session)), "job_seq": 4}
    job.status, job.stage = JobStatus.ERROR, JobStage.ENDED
    job.end = End("job.error", b"{", UnixTime(UNIX), 2)
    for _ in range(2):
        assert msgspec.json.decode(entry_json(job, session))["job_seq"] == 5
        assert "job_seq" not in msgspec.json.decode(entry_json(job, session_of()))
    history.release(4)
    subscribed = written(subscribed_of(job, session, "r1", replayed=True, cut=True))
    assert (subscribed["job_seq"], subscribed["history_from_job_seq"], subscribed["history_from"]) == (
        5,
        5,
        2,
    )


def test_a_position_missing_in_an_old_journal_is_left_out() -> None:
    claim = Claim(b"", JobId("job_1"), msgspec.json.encode(accepted_of(job_of(), "")))
    assert accepted_again(claim, "r1", session_of("", Feature.POSITIONS)).job_seq is None


def test_a_listing_entry_has_no_budget() -> None:
    job = job_of(lease=LEASE)
    job.home_seq = 9
    shown = written(entry_of(job))
    assert shown["last_event_seq"] == 9
    assert shown["created_at"] == shown["submitted_at"] == "2026-05-28T20:26:40.000Z"
    assert "budget" not in shown and shown["lease"] == LEASE
