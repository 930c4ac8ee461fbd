"""The client against the runtime, in memory."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto import Framing
from arcp_proto.client.config import CLIENT_FEATURES, ClientConfig
from arcp_proto.engine.output import (
    CancelAcknowledged,
    ConnectionEnded,
    JobAccepted,
    JobEnded,
    JobEvent,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    StartJob,
    StopJob,
    Welcomed,
)
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.wire.event_bodies import Log, Progress
from tests.unit.pair import RUNTIME_CONFIG, Pair


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.connect()
    return pair


def config(**fields: Any) -> RuntimeConfig:
    return RuntimeConfig(name="pair", version="1", agents=(AgentInfo("echo", ("1.0.0",)),), **fields)


def test_client_and_runtime_shake_hands(pair: Pair) -> None:
    welcomed = pair.last(Welcomed)
    assert welcomed.runtime.name == "pair"
    assert welcomed.features == set(CLIENT_FEATURES) - {"provisioned_credentials"}
    assert [agent.name for agent in pair.client.agents] == ["echo"]
    assert list(pair.runtime_state.sessions) == [pair.client.session_id]


def test_a_wrong_token_is_unauthenticated() -> None:
    pair = Pair()
    pair.connect("wrong")
    failed, ended = pair.events
    assert isinstance(failed, SessionFailed)
    assert isinstance(ended, ConnectionEnded)
    assert (failed.code, ended.who) == ("UNAUTHENTICATED", "peer")
    assert not pair.client_state.connections
    assert not pair.runtime_state.connections


def test_an_anonymous_client_is_welcomed(pair: Pair) -> None:
    pair = Pair()
    pair.connect(None)
    assert pair.last(Welcomed).session_id == pair.client.session_id
    pair = Pair(config())
    pair.connect(None)
    assert pair.last(SessionFailed).code == "UNAUTHENTICATED"


@pytest.mark.parametrize("framing", list(Framing))
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_a_job_from_its_submit_to_its_end(framing: Framing, piece: int) -> None:
    pair = Pair(framing=framing, piece=piece)
    pair.connect()
    job_id = pair.submit("echo", {"x": 1}, max_runtime_sec=60)
    assert pair.last(StartJob).input == {"x": 1}
    pair.runtime.agents.emit(job_id, "log", Log("info", "hello"), now=pair.now)
    pair.runtime.agents.emit(job_id, "progress", Progress(1, 2), now=pair.now)
    pair.runtime.agents.finish(job_id, {"echo": 1}, now=pair.now, summary="done")
    pair.settle()
    assert pair.last(JobAccepted).job_id == job_id
    assert [(event.seq, event.kind) for event in pair.all(JobEvent)] == [(1, "log"), (2, "progress")]
    end = pair.last(JobEnded)
    assert (end.job_id, end.seq, end.final_status, end.result, end.summary) == (
        job_id,
        3,
        "success",
        {"echo": 1},
        "done",
    )


def test_several_jobs_at_once_are_told_apart(pair: Pair) -> None:
    requests = [pair.client.submit("echo", number, now=pair.now) for number in range(5)]
    pair.settle()
    jobs = [start.job_id for start in pair.all(StartJob)]
    assert [accepted.request_id for accepted in pair.all(JobAccepted)] == requests
    for number, job_id in reversed(list(enumerate(jobs))):
        pair.runtime.agents.finish(job_id, number, now=pair.now)
    pair.settle()
    assert {end.job_id: end.result for end in pair.all(JobEnded)} == dict(zip(jobs, range(5), strict=True))


def test_a_refused_submit_between_two_others(pair: Pair) -> None:
    first = pair.client.submit("echo", now=pair.now)
    refused = pair.client.submit("nobody", now=pair.now)
    third = pair.client.submit("echo", now=pair.now)
    pair.settle()
    assert [accepted.request_id for accepted in pair.all(JobAccepted)] == [first, third]
    assert [(event.request_id, event.code) for event in pair.all(RequestRefused)] == [
        (refused, "AGENT_NOT_AVAILABLE")
    ]


def test_a_cancel_is_answered_and_ends_the_job(pair: Pair) -> None:
    job_id = pair.submit()
    request_id = pair.client.cancel(job_id, "enough", now=pair.now)
    pair.settle()
    assert pair.last(CancelAcknowledged) == CancelAcknowledged(request_id, job_id, 1, None)
    assert pair.last(StopJob).job_id == job_id
    assert pair.all(JobEnded) == []
    pair.job_stopped(job_id)
    end = pair.last(JobEnded)
    assert (end.seq, end.final_status, end.code) == (2, "cancelled", "CANCELLED")


def test_a_cancel_that_crosses_the_end_of_its_job(pair: Pair) -> None:
    job_id = pair.submit()
    pair.runtime.agents.finish(job_id, 1, now=pair.now)
    request_id = pair.client.cancel(job_id, now=pair.now)
    pair.settle()
    assert pair.all(CancelAcknowledged) == [CancelAcknowledged(request_id, job_id, 0, "success")]
    assert [end.final_status for end in pair.all(JobEnded)] == ["success"]
    again = pair.client.cancel(job_id, now=pair.now)
    pair.settle()
    assert pair.last(CancelAcknowledged) == CancelAcknowledged(again, job_id, 3, "success")


def test_a_cancel_of_an_unknown_job_is_refused(pair: Pair) -> None:
    request_id = pair.client.cancel(JobId("job_unknown"), now=pair.now)
    pair.settle()
    refused = pair.last(RequestRefused)
    assert (refused.request_id, refused.code, refused.job_id) == (request_id, "JOB_NOT_FOUND", "job_unknown")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["grü", "ße" * 30_000], "grü" + "ße" * 30_000),
        ([b"\x00" * 50_000, b"\xff"], b"\x00" * 50_000 + b"\xff"),
    ],
)
def test_a_streamed_result_is_joined(pair: Pair, pieces: list[str | bytes], expected: str | bytes) -> None:
    job_id = pair.submit()
    for piece in pieces:
        pair.runtime.agents.write_result(job_id, piece, now=pair.now)
    pair.runtime.agents.finish(job_id, now=pair.now)
    pair.settle()
    end = pair.last(JobEnded)
    assert end.final_status == "success"
    assert end.result == expected
    assert {event.kind for event in pair.all(JobEvent)} == {"result_chunk"}


def test_a_large_value_arrives_complete(pair: Pair) -> None:
    job_id = pair.submit()
    value = {"text": "ü" * 100_000, "numbers": list(range(1000))}
    pair.runtime.agents.finish(job_id, value, now=pair.now)
    pair.settle()
    assert pair.last(JobEnded).result == value


def test_a_stream_for_a_client_without_chunks_is_inline() -> None:
    pair = Pair(client=ClientConfig(features=("heartbeat",)))
    pair.connect()
    job_id = pair.submit()
    pair.runtime.agents.write_result(job_id, "small", now=pair.now)
    pair.runtime.agents.finish(job_id, now=pair.now)
    pair.settle()
    assert (pair.last(JobEnded).result, pair.all(JobEvent)) == ("small", [])


@pytest.mark.parametrize(
    "code", ["INTERNAL_ERROR", "INVALID_REQUEST", "JOB_NOT_FOUND", "UNAUTHENTICATED", "MINE"]
)
def test_the_error_of_an_agent_with_any_code_reaches_the_client(pair: Pair, code: str) -> None:
    job_id = pair.submit()
    request_id = pair.client.cancel(job_id, now=pair.now)
    pair.runtime.agents.fail(job_id, code, "why", now=pair.now, details={"request_id": "upstream"})
    pair.settle()
    end = pair.last(JobEnded)
    assert (end.job_id, end.final_status, end.code, end.message) == (job_id, "error", code, "why")
    assert [answer.request_id for answer in pair.all(CancelAcknowledged)] == [request_id]


def test_a_job_that_runs_too_long_times_out(pair: Pair) -> None:
    job_id = pair.submit(max_runtime_sec=3)
    pair.advance(3)
    assert pair.last(StopJob).job_id == job_id
    pair.advance(5)
    end = pair.last(JobEnded)
    assert (end.final_status, end.code, end.details) == ("timed_out", "TIMEOUT", {"stopped": False})


def test_processed_events_free_the_log_of_the_runtime(pair: Pair) -> None:
    job_id = pair.submit()
    for number in range(100):
        pair.runtime.agents.emit(job_id, "log", Log("info", str(number)), now=pair.now)
    pair.settle()
    session = pair.runtime_state.sessions[pair.last(Welcomed).session_id]
    for event in pair.all(JobEvent)[:60]:
        pair.client.mark_processed(event.job_id, event.receipt, now=pair.now)
    pair.settle()
    assert session.log.first == 61 - 28
    pair.advance(0.25)
    assert (session.log.first, len(session.log)) == (61, 40)


def test_the_trace_of_a_submit_comes_back(pair: Pair) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    job_id = pair.submit(traceparent=traceparent, tracestate="a=1")
    assert pair.last(JobAccepted).trace_id == traceparent[3:35]
    assert pair.last(StartJob).trace_headers["tracestate"] == "a=1"
    pair.runtime.agents.finish(job_id, now=pair.now)
    pair.settle()
    assert pair.sent_by("runtime", "job.result")[0]["trace_id"] == traceparent[3:35]


def test_an_idle_session_stays_open_by_heartbeats(pair: Pair) -> None:
    pair.advance(1000)
    assert pair.all(ConnectionEnded) == []
    assert pair.sent_by("client", "session.ping")


@pytest.mark.parametrize("mute", ["client", "runtime"])
def test_a_silent_side_is_given_up(pair: Pair, mute: str) -> None:
    pair.muted[mute] = True
    pair.advance(70)
    ended = pair.last(ConnectionEnded)
    assert not pair.client_state.connections
    assert not pair.runtime_state.connections
    if mute == "runtime":
        assert (ended.who, ended.code) == ("local", "HEARTBEAT_LOST")
    else:
        assert pair.last(SessionFailed).code == "HEARTBEAT_LOST"


def test_a_new_session_follows_a_close(pair: Pair) -> None:
    first = pair.client.session_id
    pair.client.close("done", now=pair.now)
    pair.settle()
    assert pair.last(SessionClosed) == SessionClosed("done")
    assert pair.last(ConnectionEnded).who == "local"
    assert pair.client.session_id is None
    pair.connect()
    assert pair.client.session_id not in (None, first)
    job_id = pair.submit()
    pair.runtime.agents.finish(job_id, 1, now=pair.now)
    pair.settle()
    assert pair.last(JobEnded).seq == 1


def test_a_dropped_transport_is_resumed(pair: Pair) -> None:
    pair.submit()
    pair.drop()
    assert pair.last(ConnectionEnded).who == "transport"
    assert not pair.client_state.connections
    assert not pair.runtime_state.connections
    pair.connect()
    assert len(pair.all(Welcomed)) == 2


def test_a_shutdown_reaches_the_client(pair: Pair) -> None:
    job_id = pair.submit()
    pair.runtime.shut_down(1.0, now=pair.now)
    pair.client.submit("echo", now=pair.now)
    pair.settle()
    assert pair.last(RequestRefused).code == "INTERNAL_ERROR"
    pair.advance(1)
    pair.job_stopped(job_id)
    assert pair.last(JobEnded).code == "INTERNAL_ERROR"
    assert pair.last(ConnectionEnded).who == "transport"


def test_one_job_too_many_is_refused() -> None:
    runtime = config(limits=Limits(max_total_running_jobs=1))
    pair = Pair(runtime)
    pair.connect()
    pair.submit()
    request_id = pair.client.submit("echo", now=pair.now)
    pair.settle()
    refused = pair.last(RequestRefused)
    assert (refused.request_id, refused.retryable) == (request_id, True)
    assert refused.details["limit"] == "running_jobs"


@pytest.mark.parametrize("framing", list(Framing))
def test_every_frame_of_the_client_is_unique_and_names_its_session(framing: Framing) -> None:
    pair = Pair(RUNTIME_CONFIG, framing=framing)
    pair.connect()
    job_id = pair.submit()
    pair.client.cancel(job_id, now=pair.now)
    pair.advance(100)
    pair.client.close(now=pair.now)
    pair.settle()
    envelopes = [sent.envelope for sent in pair.sent if sent.sender == "client"]
    assert len({envelope["id"] for envelope in envelopes}) == len(envelopes)
    session_id = pair.last(Welcomed).session_id
    assert {envelope.get("session_id") for envelope in envelopes[1:]} == {session_id}


def delegated(pair: Pair) -> tuple[JobId, JobId]:
    """Submit a job that delegates, and return its id and that of its child."""
    job_id = pair.submit(lease_request={"agent.delegate": ["*"], "fs.read": ["/a"]})
    child = pair.runtime.agents.delegate(job_id, "echo", now=pair.now)
    pair.settle()
    return job_id, child


@pytest.mark.parametrize("depth", [1, 2])
def test_the_end_of_a_child_refuses_no_submit(pair: Pair, depth: int) -> None:
    job_id = pair.submit(lease_request={"agent.delegate": ["*"], "fs.read": ["/a", "/b", "/c"]})
    for n in range(depth):
        lease = {"agent.delegate": ["*"], "fs.read": ["/a", "/b", "/c"][n + 1 :]}
        job_id = pair.runtime.agents.delegate(job_id, "echo", None, lease, now=pair.now)
        pair.settle()
    pair.muted["client"] = True
    pair.client.submit("echo", None, now=pair.now)
    pair.settle()
    pair.runtime.agents.fail(job_id, "INTERNAL_ERROR", "no", now=pair.now)
    pair.settle()
    assert pair.all(RequestRefused) == []
    assert pair.last(JobEnded).job_id == job_id and pair.last(JobEnded).code == "INTERNAL_ERROR"


def test_a_child_is_followed_where_its_frames_come_anyhow(pair: Pair) -> None:
    job_id, child = delegated(pair)
    pair.client.subscribe(child, history=True, now=pair.now)
    pair.settle()
    pair.runtime.agents.emit(child, "log", Log("info", "hi"), now=pair.now)
    pair.settle()
    pair.runtime.agents.finish(child, {"ok": True}, now=pair.now)
    pair.settle()
    pair.advance(1)
    of_child = [event for event in pair.events if getattr(event, "job_id", None) == child]
    assert [type(event).__name__ for event in of_child] == ["Subscribed", "JobEvent", "JobEnded"]
    assert pair.last(JobEnded).result == {"ok": True}
    pair.runtime.agents.finish(job_id, None, now=pair.now)
    pair.settle()
    assert pair.last(JobEnded).job_id == job_id


def test_events_of_children_follow_a_resume(pair: Pair) -> None:
    _, child = delegated(pair)
    pair.drop()
    pair.runtime.agents.emit(child, "log", Log("info", "hi"), now=pair.now)
    pair.runtime.agents.fail(child, "X_MINE", "no", now=pair.now)
    pair.settle()
    pair.connect()
    assert (pair.last(JobEvent).job_id, pair.last(JobEnded).code) == (child, "X_MINE")
