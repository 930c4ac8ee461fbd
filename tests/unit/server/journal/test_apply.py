"""The effect of each record, by one table for live operation and recovery."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import JobId, Principal, SessionId, UnixTime
from arcp_proto.job_statuses import JobStatus
from arcp_proto.server.jobs.job import Outcome, Terms
from arcp_proto.server.journal import records
from arcp_proto.server.journal.apply import APPLY, head_of
from arcp_proto.server.journal.records import Record
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.sessions.backlogs import Backlog
from arcp_proto.server.sessions.session import Reply
from arcp_proto.server.state import RuntimeState
from arcp_proto.wire.trace_context import TraceContext
from tests.unit.world import CONFIG, SEED, START, UNIX

SESSION, OTHER, JOB = SessionId("sess_1"), SessionId("sess_2"), JobId("job_1")
ALICE, BOB = Principal("alice"), Principal("bob")
TERMS = Terms(
    job_id=JOB,
    session_id=SESSION,
    principal=ALICE,
    agent="echo",
    version="1.0.0",
    lease={"cost.budget": ["USD:1.50"]},
    expires_at="2030-01-01T00:00:00Z",
    max_runtime_sec=5,
    trace=TraceContext("a" * 32, explicit=True, tracestate="v=1"),
    span_id="b" * 16,
    accepted_at=UnixTime(UNIX),
)
KEYED = msgspec.structs.replace(TERMS, idempotency_key="k", fingerprint=b"f" * 32)
OPENED = records.SessionOpened(SESSION, ALICE, ["ack", "result_chunk"], "")
OPENED_OTHER = records.SessionOpened(OTHER, BOB, ["progress"], "go")
ACCEPTED = records.JobAcceptedRecord(TERMS, "r1")
STARTED = records.JobStarted(JOB)
ENDED = records.JobEndedRecord(
    JOB, JobStatus.SUCCESS, "job.result", b'{"result":1', UnixTime(7), b'{"inline":1'
)
OBSERVED = records.Observed(OTHER, JOB, None)


def applied(*made: Record) -> Runtime:
    """Return a runtime to which records were applied, without the decisions of a recovery."""
    runtime = Runtime(CONFIG, seed=SEED, now=START, unix=UNIX)
    apply(state_of(runtime), *made)
    return runtime


def apply(runtime: RuntimeState, *made: Record) -> None:
    for record in made:
        APPLY[type(record)](runtime, record)


def published(*kinds: str) -> list[Record]:
    return [records.Published(JOB, kind, b'{"n":%d' % number) for number, kind in enumerate(kinds, 1)]


def payloads(runtime: RuntimeState, session_id: SessionId) -> list[bytes]:
    return [payload for _, payload, _ in runtime.sessions[session_id].log.entries()]


def positions(runtime: RuntimeState, session_id: SessionId) -> list[int]:
    return runtime.sessions[session_id].log.positions()


def test_every_record_type_has_a_function() -> None:
    assert list(APPLY) == list(get_args(Record))


# Sessions.


def test_records_open_sessions_and_rotate_their_tokens() -> None:
    runtime = applied(OPENED, records.TokenIssued(SESSION, b"1"), OPENED_OTHER)
    session = state_of(runtime).sessions[SESSION]
    assert (session.principal, session.tokens) == ("alice", [b"1"])
    assert session.features == {"ack", "result_chunk"}
    assert state_of(runtime).sessions[OTHER].quirk.name == "go"
    assert state_of(runtime).tokens == {b"1": session}
    apply(state_of(runtime), *[records.TokenIssued(SESSION, token) for token in (b"2", b"3", b"4", b"5")])
    assert list(state_of(runtime).tokens) == session.tokens == [b"1", b"3", b"4", b"5"]
    apply(state_of(runtime), records.TokenProven(SESSION, b"4"))
    assert list(state_of(runtime).tokens) == session.tokens == [b"4", b"5"]
    apply(state_of(runtime), records.SessionEnded(SESSION))
    assert list(state_of(runtime).sessions) == [OTHER]
    assert state_of(runtime).tokens == {}


def test_the_end_of_a_session_detaches_its_jobs() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, STARTED, OBSERVED, *published("log", "log"))
    apply(state_of(runtime), records.SessionEnded(SESSION))
    job = state_of(runtime).jobs[JOB]
    assert (job.home, job.home_seq, job.ended) == (None, 2, False)
    apply(state_of(runtime), records.SessionEnded(OTHER))
    assert job.observers == {}
    assert state_of(runtime).holdings.of(BOB) == (0, 0)


def test_the_end_of_a_session_drops_its_backlogs() -> None:
    behind = records.Observed(OTHER, JOB, Backlog(0))
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, STARTED, *published("log"), behind)
    assert list(state_of(runtime).jobs[JOB].behind) == [OTHER]
    apply(state_of(runtime), records.SessionEnded(OTHER))
    assert state_of(runtime).jobs[JOB].behind == {}


def test_released_and_evicted_free_a_log() -> None:
    runtime = applied(OPENED, ACCEPTED, *published(*["log"] * 5))
    session = state_of(runtime).sessions[SESSION]
    apply(state_of(runtime), records.Evicted(SESSION, 1))
    assert (session.log.first, session.acked) == (2, 0)
    apply(state_of(runtime), records.Released(SESSION, 3))
    assert (session.log.first, session.acked) == (4, 3)
    apply(state_of(runtime), records.Released(SESSION, 2))
    assert (session.log.first, session.acked) == (4, 3)
    assert state_of(runtime).holdings.of(ALICE)[0] == 2 + 5


def test_a_reply_is_kept_until_a_later_event_was_seen() -> None:
    reply = Reply(0, "r2", "job.subscribed", JOB, b"{}")
    runtime = applied(OPENED, ACCEPTED, records.Replied(SESSION, reply), *published("log"))
    session = state_of(runtime).sessions[SESSION]
    assert [one.request_id for one in session.replies] == ["r1", "r2"]
    apply(state_of(runtime), records.TokenIssued(SESSION, b"t", 0))
    assert len(session.replies) == 2
    apply(state_of(runtime), records.TokenIssued(SESSION, b"u", 1))
    assert len(session.replies) == 0


# Jobs.


def test_records_take_a_job_from_its_acceptance_to_its_end() -> None:
    runtime = applied(OPENED, ACCEPTED)
    job = state_of(runtime).jobs[JOB]
    assert (job.status, job.terms, job.home) == (
        JobStatus.PENDING,
        TERMS,
        state_of(runtime).sessions[SESSION],
    )
    assert (job.number, list(job.submitters)) == (1, [SESSION])
    assert {name: str(amount) for name, amount in job.budget.remaining.items()} == {"USD": "1.50"}
    assert job.extensions is not None and b"v=1" in job.extensions
    assert list(state_of(runtime).sessions[SESSION].jobs) == [JOB]
    apply(state_of(runtime), STARTED)
    assert job.status is JobStatus.RUNNING
    outcome = Outcome(JobStatus.CANCELLED, "CANCELLED", "m", False)
    apply(state_of(runtime), records.OutcomeFixed(JOB, outcome))
    assert job.outcome == outcome
    apply(state_of(runtime), ENDED)
    assert job.end is not None
    assert (job.status, job.end.at, job.end.source, job.home) == (JobStatus.SUCCESS, 7, 1, None)
    assert state_of(runtime).sessions[SESSION].jobs == {}
    apply(state_of(runtime), records.JobForgotten(JOB))
    assert state_of(runtime).jobs == {} and len(state_of(runtime).listing) == 0
    assert state_of(runtime).holdings.of(ALICE)[0] == 1


def test_a_restarted_job_is_still_running() -> None:
    runtime = applied(OPENED, ACCEPTED, STARTED, records.JobStarted(JOB, 2))
    job = state_of(runtime).jobs[JOB]
    assert (job.status, job.attempt) == (JobStatus.RUNNING, 2)


def test_a_published_result_chunk_marks_the_job_as_streamed() -> None:
    runtime = applied(OPENED, ACCEPTED, STARTED, *published("log"))
    assert not state_of(runtime).jobs[JOB].streamed
    apply(state_of(runtime), *published("result_chunk"))
    assert state_of(runtime).jobs[JOB].streamed


def test_the_submitters_of_a_job_are_its_living_answered_sessions() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED)
    apply(state_of(runtime), records.JobJoined(OTHER, JOB, "r2"))
    assert list(state_of(runtime).jobs[JOB].submitters) == [SESSION, OTHER]
    apply(state_of(runtime), records.SessionEnded(SESSION), records.JobJoined(OTHER, JOB, "r3"))
    assert list(state_of(runtime).jobs[JOB].submitters) == [OTHER]
    assert [reply.request_id for reply in state_of(runtime).sessions[OTHER].replies] == ["r2", "r3"]


def test_job_joined_of_a_forgotten_job_changes_nothing() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, STARTED, ENDED, records.JobForgotten(JOB))
    before = runtime.snapshot()
    apply(state_of(runtime), records.JobJoined(OTHER, JOB, "r2"))
    assert runtime.snapshot() == before


def test_a_key_is_claimed_with_its_job_and_forgotten_by_itself() -> None:
    runtime = applied(OPENED, records.JobAcceptedRecord(KEYED, "r1"), STARTED)
    claim = state_of(runtime).keys.get(ALICE, "k")
    assert claim is not None
    assert (claim.fingerprint, claim.job_id, claim.ended) == (b"f" * 32, JOB, None)
    assert msgspec.json.decode(claim.accepted)["request_id"] == ""
    apply(state_of(runtime), ENDED, records.JobForgotten(JOB))
    claim = state_of(runtime).keys.get(ALICE, "k")
    assert claim is not None
    assert claim.ended == ("job.result", b'{"result":1', b'{"inline":1')
    apply(state_of(runtime), records.KeyForgotten(ALICE, "k"))
    assert len(state_of(runtime).keys) == 0


# Numbers.


@pytest.mark.parametrize(
    ("kind", "home", "other"),
    [("log", 1, 1), ("progress", 0, 1), ("result_chunk", 1, 0), ("x-vendor.a.b", 1, 1)],
)
def test_an_event_is_numbered_in_the_sessions_that_take_its_kind(kind: str, home: int, other: int) -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, OBSERVED, *published(kind))
    assert len(state_of(runtime).sessions[SESSION].log) == home
    assert len(state_of(runtime).sessions[OTHER].log) == other
    assert state_of(runtime).jobs[JOB].history.events == 1


def test_every_session_has_the_positions_of_events() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, STARTED, *published("log"))
    apply(state_of(runtime), OBSERVED, *published("log", "log"))
    assert positions(state_of(runtime), SESSION) == [1, 2, 3]
    assert positions(state_of(runtime), OTHER) == [2, 3]
    apply(state_of(runtime), records.SessionEnded(SESSION), *published("log"), ENDED)
    assert positions(state_of(runtime), OTHER) == [2, 3, 4, 5]


def test_delivered_is_numbered_in_one_session_only() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED)
    apply(state_of(runtime), records.Delivered(OTHER, JOB, "job.cancelled", b'{"a":1'))
    assert len(state_of(runtime).sessions[SESSION].log) == 0
    [(head, payload, _)] = state_of(runtime).sessions[OTHER].log.entries()
    assert (payload, positions(state_of(runtime), OTHER)) == (b'{"a":1', [0])
    assert b'"type":"job.cancelled"' in head
    assert state_of(runtime).jobs[JOB].home_seq == 0


def test_delivered_in_the_submitting_session_moves_the_home_number() -> None:
    runtime = applied(OPENED, ACCEPTED, *published("log"))
    apply(state_of(runtime), records.Delivered(SESSION, JOB, "job.cancelled", b'{"a":1'))
    assert state_of(runtime).jobs[JOB].home_seq == 2
    assert state_of(runtime).jobs[JOB].history.events == 1


def test_delivered_works_for_a_forgotten_job() -> None:
    runtime = applied(OPENED, OPENED_OTHER)
    apply(state_of(runtime), records.Delivered(OTHER, JOB, "job.result", b'{"a":1', trace_id="c" * 32))
    [(head, _, _)] = state_of(runtime).sessions[OTHER].log.entries()
    assert head == head_of(state_of(runtime), JOB, "c" * 32, "job.result") + b"}}"
    assert b"job_1" in head and b"c" * 32 in head


def test_a_terminal_has_the_form_that_each_session_reads() -> None:
    ended = msgspec.structs.replace(
        ENDED, payload=b'{"final_status":"success","result":1', inline=b'{"final_status":"success","result":2'
    )
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, STARTED, OBSERVED, ended)
    assert payloads(state_of(runtime), SESSION) == [b'{"final_status":"success","result":1']
    assert payloads(state_of(runtime), OTHER) == [b'{"final_status":"success","result":2,"output":2']
    assert state_of(runtime).jobs[JOB].observers == state_of(runtime).sessions[OTHER].observed == {}


# Observers.


def test_a_history_is_numbered_piece_by_piece_and_live_follows() -> None:
    behind = records.Observed(OTHER, JOB, Backlog(1))
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, *published("log", "log", "result_chunk"), behind)
    job, other = state_of(runtime).jobs[JOB], state_of(runtime).sessions[OTHER]
    apply(state_of(runtime), records.Replayed(OTHER, JOB, 2))
    assert payloads(state_of(runtime), OTHER) == [b'{"n":2']
    assert list(job.behind) == [OTHER] and job.observers == {}
    apply(state_of(runtime), records.Replayed(OTHER, JOB, 3))
    assert payloads(state_of(runtime), OTHER) == [b'{"n":2']
    assert job.behind == {} and list(job.observers) == [OTHER]
    assert list(other.observed) == [JOB] and not other.backlogs


def test_a_replay_of_an_ended_job_ends_with_its_terminal() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, STARTED, *published("log"), ENDED)
    apply(state_of(runtime), records.Observed(OTHER, JOB, Backlog(0)), records.Replayed(OTHER, JOB, 1))
    assert positions(state_of(runtime), OTHER) == [1, 2]
    assert state_of(runtime).sessions[OTHER].observed == {}


def test_a_replay_in_the_submitting_session_ends_where_live_events_began() -> None:
    runtime = applied(OPENED, ACCEPTED, *published("log", "log"))
    apply(state_of(runtime), records.Observed(SESSION, JOB, Backlog(0, 1)), records.Replayed(SESSION, JOB, 1))
    assert positions(state_of(runtime), SESSION) == [1, 2, 1]
    assert state_of(runtime).sessions[SESSION].observed == {}
    assert state_of(runtime).jobs[JOB].observers == {}


@pytest.mark.parametrize("backlog", [None, Backlog(0)])
def test_unobserved_ends_an_observation(backlog: Backlog | None) -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, *published("log"))
    apply(state_of(runtime), records.Observed(OTHER, JOB, backlog), records.Unobserved(OTHER, JOB))
    job, other = state_of(runtime).jobs[JOB], state_of(runtime).sessions[OTHER]
    assert job.observers == job.behind == other.observed == dict(other.backlogs.items()) == {}


def test_history_cut_ends_subscriptions_in_the_same_record() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, *published("log", "log", "log"))
    ended = records.Unobserved(OTHER, JOB, b'{"kind":"status"')
    apply(state_of(runtime), records.Observed(OTHER, JOB, Backlog(0)), records.HistoryCut(JOB, 2, [ended]))
    job, other = state_of(runtime).jobs[JOB], state_of(runtime).sessions[OTHER]
    assert job.observers == job.behind == other.observed == dict(other.backlogs.items()) == {}
    assert [payload for _, payload, _ in other.log.entries()] == [b'{"kind":"status"']
    assert other.log.last == 1


def test_history_cut_drops_events_and_moves_backlogs() -> None:
    runtime = applied(OPENED, ACCEPTED, *published("log", "log", "log"), records.HistoryCut(JOB, 2))
    history = state_of(runtime).jobs[JOB].history
    assert (history.first, history.cut, history.events) == (2, 2, 1)
    assert state_of(runtime).holdings.of(ALICE)[0] == 3 + 1
