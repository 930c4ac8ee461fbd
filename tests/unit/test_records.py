"""Facts: applied live and in recovery alike, they are all that has to survive."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from arcp_proto import records
from arcp_proto.ids import JobId, Principal, SessionId, Time
from arcp_proto.job import Outcome, Status, Terms
from arcp_proto.records import APPLY, Record, takers_of
from arcp_proto.runtime import Runtime
from arcp_proto.trace import TraceContext

from .world import CONFIG, SEED, START, UNIX, World

SESSION, OTHER, JOB = SessionId("sess_1"), SessionId("sess_2"), JobId("job_1")
TERMS = Terms(
    job_id=JOB,
    session_id=SESSION,
    principal=Principal("alice"),
    agent="echo",
    version="1.0.0",
    lease={"cost.budget": ["USD:1.50"]},
    expires_at="2030-01-01T00:00:00Z",
    max_runtime_sec=5,
    trace=TraceContext("a" * 32, explicit=True, tracestate="v=1"),
    span_id="b" * 16,
    accepted_at=Time(UNIX),
)


def applied(*made: Record) -> Runtime:
    """A runtime to which records were applied, without what recovery decides by itself."""
    runtime = Runtime(CONFIG, seed=SEED, now=START, unix=UNIX)
    for record in made:
        APPLY[type(record)](runtime, record)
    return runtime


OPENED = records.SessionOpened(SESSION, Principal("alice"), ["ack", "result_chunk"], "")
OPENED_OTHER = records.SessionOpened(OTHER, Principal("bob"), ["progress"], "go")
ACCEPTED = records.JobAccepted(TERMS)
STARTED = records.JobStarted(JOB)
ENDED = records.JobEnded(JOB, Status.SUCCESS, "job.result", b'{"result":1', Time(7), b'{"inline":1')


def test_every_record_has_its_rule() -> None:
    assert list(APPLY) == list(get_args(Record))


def test_sessions() -> None:
    runtime = applied(OPENED, records.TokenIssued(SESSION, b"digest"), OPENED_OTHER)
    session = runtime.sessions[SESSION]
    assert (session.principal, session.tokens) == ("alice", [b"digest"])
    assert session.features == {"ack", "result_chunk"}
    assert runtime.sessions[OTHER].quirk.name == "go"
    APPLY[records.SessionEnded](runtime, records.SessionEnded(SESSION))
    assert list(runtime.sessions) == [OTHER]


def test_a_session_that_ends_observes_no_longer() -> None:
    runtime = applied(OPENED, ACCEPTED, STARTED, records.SessionEnded(SESSION))
    assert runtime.jobs[JOB].observers == {}
    assert not runtime.jobs[JOB].ended


def test_jobs() -> None:
    runtime = applied(OPENED, ACCEPTED)
    job = runtime.jobs[JOB]
    assert (job.status, job.terms, list(job.observers)) == (Status.PENDING, TERMS, [SESSION])
    assert {name: str(amount) for name, amount in job.budget.items()} == {"USD": "1.50"}
    assert job.extensions is not None and b"v=1" in job.extensions
    assert list(runtime.sessions[SESSION].jobs) == [JOB]
    APPLY[records.JobStarted](runtime, STARTED)
    assert job.status is Status.RUNNING
    outcome = Outcome(Status.CANCELLED, "CANCELLED", "m", False)
    APPLY[records.OutcomeFixed](runtime, records.OutcomeFixed(JOB, outcome))
    assert job.outcome == outcome
    APPLY[records.JobEnded](runtime, ENDED)
    assert (job.status, job.ended_at, job.observers) == (Status.SUCCESS, 7, {})
    assert runtime.sessions[SESSION].jobs == {}
    APPLY[records.JobForgotten](runtime, records.JobForgotten(JOB))
    assert runtime.jobs == {}


@pytest.mark.parametrize(
    ("kind", "takers"), [("log", 2), ("progress", 1), ("result_chunk", 1), ("x-vendor.a.b", 2)]
)
def test_who_takes_an_event(kind: str, takers: int) -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED)
    job = runtime.jobs[JOB]
    job.observers[OTHER] = runtime.sessions[OTHER]
    assert len(takers_of(job, kind)) == takers
    APPLY[records.Published](runtime, records.Published(JOB, kind, b"{"))
    assert sum(len(session.log) for session in runtime.sessions.values()) == takers


def test_what_is_delivered_to_one_session_alone() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED)
    delivered = records.Delivered(OTHER, JOB, "job.cancelled", b'{"a":1')
    APPLY[records.Delivered](runtime, delivered)
    assert len(runtime.sessions[SESSION].log) == 0
    [(head, payload)] = runtime.sessions[OTHER].log.entries()
    assert b'"type":"job.cancelled"' in head and payload == b'{"a":1'


def test_a_terminal_is_written_for_each_session_as_it_reads_it() -> None:
    runtime = applied(OPENED, OPENED_OTHER, ACCEPTED, STARTED)
    runtime.jobs[JOB].observers[OTHER] = runtime.sessions[OTHER]
    ended = msgspec.structs.replace(ENDED, payload=b'{"result":1', inline=b'{"result":2')
    APPLY[records.JobEnded](runtime, ended)
    assert runtime.sessions[SESSION].log.entries()[0][1] == b'{"result":1'
    runtime = applied(OPENED_OTHER, msgspec.structs.replace(ACCEPTED, terms=_of(OTHER)), STARTED)
    APPLY[records.JobEnded](
        runtime, msgspec.structs.replace(ended, payload=b'{"final_status":"success","result":1')
    )
    assert runtime.sessions[OTHER].log.entries()[0][1] == b'{"result":2,"output":2'


def _of(session_id: SessionId) -> Terms:
    return msgspec.structs.replace(TERMS, session_id=session_id)


def test_released_and_evicted() -> None:
    runtime = applied(OPENED, ACCEPTED, *[records.Published(JOB, "log", b"{")] * 5)
    session = runtime.sessions[SESSION]
    APPLY[records.Evicted](runtime, records.Evicted(SESSION, 1))
    assert (session.log.first, session.acked) == (2, 0)
    APPLY[records.Released](runtime, records.Released(SESSION, 3))
    assert (session.log.first, session.acked) == (4, 3)
    APPLY[records.Released](runtime, records.Released(SESSION, 2))
    assert (session.log.first, session.acked) == (4, 3)


@pytest.mark.parametrize("ended", [False, True])
def test_a_snapshot_is_the_same_state(ended: bool) -> None:
    outcome = Outcome(Status.CANCELLED, "CANCELLED", "m", False, {"a": 1})
    made: list[Record] = [
        OPENED,
        records.TokenIssued(SESSION, b"digest"),
        OPENED_OTHER,
        ACCEPTED,
        STARTED,
        *[records.Published(JOB, "log", b'{"a":1')] * 3,
        records.Released(SESSION, 1),
        records.OutcomeFixed(JOB, outcome),
    ]
    if ended:
        made.append(msgspec.structs.replace(ENDED, status=Status.CANCELLED))
    runtime = applied(*made)
    again = applied(*runtime.snapshot())
    assert again.snapshot() == runtime.snapshot()
    job = again.jobs[JOB]
    assert (job.status, job.outcome) == (Status.CANCELLED if ended else Status.RUNNING, outcome)
    assert list(job.observers) == ([] if ended else [SESSION])
    assert list(again.sessions[SESSION].jobs) == ([] if ended else [JOB])
    session = again.sessions[SESSION]
    assert (session.log.first, session.log.last, session.acked) == (2, 4 if ended else 3, 1)


def test_records_can_be_written_and_read_again() -> None:
    config = msgspec.structs.replace(CONFIG, journal=True, resume_window_sec=60)
    world = World(config)
    peer = world.client()
    job = peer.submit(lease_request={"cost.budget": ["USD:1"]}, max_runtime_sec=3)
    world.emit(job)
    peer.send("session.ack", {"last_processed_seq": 1})
    peer.cancel(job)
    world.stopped(job)
    made: list[Any] = [*world.records, *world.runtime.snapshot()]
    assert len(dict.fromkeys(type(record) for record in made)) >= 10
    for codec in (msgspec.json, msgspec.msgpack):
        decoder = codec.Decoder(list[Record])
        assert decoder.decode(codec.Encoder().encode(made)) == made


def test_no_record_holds_a_secret() -> None:
    world = World(msgspec.structs.replace(CONFIG, journal=True, resume_window_sec=60))
    peer = world.client()
    written = msgspec.json.encode([*world.records, *world.runtime.snapshot()]).decode()
    assert peer.frames[0]["payload"]["resume_token"] not in written
    assert "tok-alice" not in written
