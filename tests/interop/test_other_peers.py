"""The SDKs of other languages, as they write and read by their sources: Go, Java, TypeScript, and Rust."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcp_proto.engine.output import (
    CancelAcknowledged,
    ConnectionEnded,
    JobAccepted,
    JobEnded,
    JobEvent,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    Welcomed,
)
from arcp_proto.errors import ErrorCode
from tests.interop.others import (
    LOCAL_TIME,
    TRACE,
    UNKNOWN_JOB,
    capabilities,
    go_client,
    go_id,
    java_client,
    java_id,
    typescript_client,
    typescript_id,
    typescript_reads,
    world,
)
from tests.unit.scripted_runtime import ScriptedRuntime

# Clients of theirs.


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return ScriptedRuntime()


def test_a_go_client_has_a_job_done() -> None:
    peer = go_client(world())
    (accepted,) = peer.send("job.submit", {"agent": "echo", "input": {"x": 1}}, id=go_id(1), trace_id=TRACE)
    job = accepted["job_id"]
    assert accepted["payload"]["job_id"] == job
    assert "event_seq" not in accepted
    peer.world.emit(job, "progress", {"current": 1, "total": 2})
    peer.world.finish(job, {"x": 1})
    event, result = peer.about(job)
    assert event["payload"]["body"] == {"current": 1, "total": 2}
    assert result["payload"]["output"] == result["payload"]["result"] == {"x": 1}
    assert {frame["trace_id"] for frame in peer.about(job)} == {TRACE}


def test_a_go_client_finds_what_was_refused_by_its_id() -> None:
    peer = go_client(world())
    requests: list[tuple[str, Any, dict[str, Any], str]] = [
        ("job.submit", {"agent": "none"}, {}, "AGENT_NOT_AVAILABLE"),
        ("job.cancel", {"reason": "stop"}, {"job_id": UNKNOWN_JOB}, "JOB_NOT_FOUND"),
        ("job.cancel", {}, {}, "INVALID_REQUEST"),
        ("session.list_jobs", {"filter": {}, "cursor": "1|job_1"}, {}, "INVALID_REQUEST"),
        ("job.subscribe", {"job_id": UNKNOWN_JOB}, {"job_id": UNKNOWN_JOB}, "JOB_NOT_FOUND"),
        ("session.unheard_of", {}, {}, "INVALID_REQUEST"),
    ]
    for number, (kind, payload, fields, code) in enumerate(requests, 1):
        (error,) = peer.send(kind, payload, id=go_id(number), **fields)
        assert error["type"] == "session.error"
        assert (error["payload"]["code"], error["payload"]["request_id"]) == (code, go_id(number))
        assert error["payload"].get("job_id") == fields.get("job_id")
        assert isinstance(error["payload"]["retryable"], bool)


def test_a_go_client_cancels_by_the_envelope() -> None:
    peer = go_client(world())
    job = peer.submit()
    (cancelled,) = peer.send("job.cancel", {"reason": "stop"}, id=go_id(2), job_id=job)
    assert (cancelled["type"], cancelled["payload"]["job_id"]) == ("job.cancelled", job)
    peer.world.stopped(job)
    assert [frame["type"] for frame in peer.about(job)] == ["job.cancelled", "job.error"]
    assert peer.frames[-1]["payload"]["code"] == "CANCELLED"
    assert peer.numbers() == [1, 2]


def test_a_go_client_answers_a_ping_and_says_goodbye() -> None:
    peer = go_client(world())
    peer.world.advance(30)
    (ping,) = peer.of("session.ping")
    pong = {"ping_nonce": ping["payload"]["nonce"], "received_at": "0001-01-01T00:00:00Z"}
    assert peer.send("session.pong", pong, id=go_id(1)) == []
    (closed,) = peer.send("session.close", {"reason": "client close"}, id=go_id(2))
    assert (closed["type"], closed["payload"]) == ("session.closed", {"reason": "client close"})


def test_a_java_client_is_anonymous_unless_it_has_a_token() -> None:
    peer = java_client(world(anonymous=True), {"scheme": "anonymous"})
    (welcome,) = peer.frames
    assert welcome["type"] == "session.welcome"
    assert {"name", "version"} == set(welcome["payload"]["runtime"])
    assert all(isinstance(agent, dict) for agent in welcome["payload"]["capabilities"]["agents"])
    peer = java_client(world(), {"scheme": "anonymous"})
    assert peer.codes() == ["UNAUTHENTICATED"]
    assert peer.closing is not None


def test_a_java_client_has_a_job_done() -> None:
    peer = java_client(world())
    constraints = {"expires_at": "2099-01-01T00:00:00Z", "expiresAt": "2099-01-01T00:00:00Z"}
    submit = {"agent": "echo", "input": None, "lease_constraints": constraints}
    (accepted,) = peer.send("job.submit", submit, id=java_id(1))
    assert accepted["payload"]["lease_constraints"] == {"expires_at": "2099-01-01T00:00:00Z"}
    job = accepted["job_id"]
    peer.world.emit(job, "log", {"level": "info", "message": "hi"})
    peer.world.finish(job, [1])
    event, result = peer.about(job)
    assert set(event["payload"]) >= {"kind", "ts", "body"}
    assert event["payload"]["ts"].endswith("Z")
    assert result["payload"]["result"] == [1]


def test_a_java_client_finds_what_was_refused_by_the_envelope_id() -> None:
    """Refuse without a job id: the Java client would end that job."""
    peer = java_client(world())
    job = peer.submit()
    requests: list[tuple[str, Any, dict[str, Any], str]] = [
        ("job.submit", {"agent": "none", "input": 1}, {}, "AGENT_NOT_AVAILABLE"),
        ("job.cancel", {"reason": "r"}, {"job_id": UNKNOWN_JOB}, "JOB_NOT_FOUND"),
        ("job.cancel", {"reason": "r"}, {}, "INVALID_REQUEST"),
        ("session.list_jobs", {"cursor": "MQ"}, {}, "INVALID_REQUEST"),
        ("job.subscribe", {"job_id": UNKNOWN_JOB}, {"job_id": UNKNOWN_JOB}, "JOB_NOT_FOUND"),
    ]
    for number, (kind, payload, fields, code) in enumerate(requests, 1):
        (error,) = peer.send(kind, payload, id=java_id(number), trace_id=TRACE, **fields)
        assert (error["type"], error["id"], error["payload"]["code"]) == ("job.error", java_id(number), code)
        assert "job_id" not in error
        assert "event_seq" not in error
        assert error["payload"]["final_status"] == "error"
    peer.world.finish(job)
    assert peer.frames[-1]["type"] == "job.result"


def test_a_java_client_takes_answers_in_the_order_of_its_submits() -> None:
    peer = java_client(world())
    for number, agent in enumerate(("echo", "none", "plain", "none", "echo@1.0.0"), 1):
        peer.send("job.submit", {"agent": agent, "input": number}, id=java_id(number))
    answers = [
        frame["payload"].get("request_id", frame["id"])
        for frame in peer.frames
        if frame["type"] in ("job.accepted", "job.error")
    ]
    assert answers == [java_id(number) for number in range(1, 6)]


def test_a_typescript_client_reads_everything() -> None:
    peer = typescript_client(world())
    lease = {"cost.budget": ["USD:5.00"]}
    submit = {"agent": "echo", "lease_request": lease, "lease_constraints": {}}
    peer.send("job.submit", submit, id=typescript_id(1), trace_id=TRACE, session_id=peer.session_id)
    job = peer.frames[-1]["job_id"]
    peer.world.emit(job)
    peer.world.write(job, "streamed")
    peer.world.finish(job)
    peer.world.finish(peer.submit(), None, None)
    peer.world.finish(peer.submit(), {"x": None}, "said")
    for code in ErrorCode:
        peer.world.fail(peer.submit(), code.value)
    timed_out = peer.submit(max_runtime_sec=1)
    peer.world.advance(30)
    peer.world.stopped(timed_out)
    peer.send("session.list_jobs", {}, id=typescript_id(2))
    peer.send("session.list_jobs", {"limit": 1, "cursor": None}, id=typescript_id(3))
    for number, job_id in enumerate((job, timed_out, UNKNOWN_JOB), 4):
        subscribe = {"job_id": job_id, "history": True}
        peer.send("job.subscribe", subscribe, id=typescript_id(number), job_id=job_id)
    peer.world.advance(0.001)
    peer.send("job.submit", {"agent": "none"}, id=typescript_id(7), trace_id=TRACE)
    assert peer.send("session.bye", {"reason": "done"}, id=typescript_id(8)) == []
    assert peer.closing is not None and peer.closing.code == 1000
    assert {frame["type"] for frame in peer.frames} == {
        *("session.welcome", "session.ping", "session.jobs"),
        *("job.accepted", "job.event", "job.result", "job.error", "job.subscribed"),
    }
    for frame in peer.frames:
        typescript_reads(frame)


def test_a_typescript_client_reads_why_it_gets_no_session() -> None:
    peer = typescript_client(world(), "wrong")
    (error,) = peer.frames
    assert (error["type"], error["payload"]["code"]) == ("session.error", "UNAUTHENTICATED")
    typescript_reads(error)


def test_a_typescript_client_finds_a_refused_submit_by_its_trace() -> None:
    peer = typescript_client(world())
    submit = {"agent": "echo@9"}
    (error,) = peer.send("job.submit", submit, id=typescript_id(1), trace_id=TRACE)
    assert (error["type"], error["trace_id"]) == ("job.error", TRACE)
    assert error["job_id"].startswith("job_")
    assert "event_seq" not in error
    assert error["payload"]["code"] == "AGENT_VERSION_NOT_AVAILABLE"


def test_a_typescript_client_hears_nothing_of_a_refused_cancel() -> None:
    """Leave a refused cancel unanswered: the TypeScript client would end a job, or all of them."""
    peer = typescript_client(world())
    job = peer.submit()
    for job_id in (UNKNOWN_JOB, "", None):
        assert peer.send("job.cancel", {}, id=typescript_id(1), job_id=job_id) == []
    (cancelled,) = peer.send("job.cancel", {"reason": "stop"}, id=typescript_id(2), job_id=job)
    assert cancelled["type"] == "job.cancelled"
    peer.world.stopped(job)
    assert peer.frames[-1]["payload"]["final_status"] == "cancelled"
    for frame in peer.frames:
        typescript_reads(frame)


# Rust speaks an older protocol: neither side gets anywhere, and both are told.


def test_a_rust_client_is_refused() -> None:
    peer = world().connect()
    hello = {
        "auth": {"scheme": "bearer", "token": "tok-alice"},
        "client": {"kind": "demo", "version": "1.0"},
        "capabilities": {},
    }
    (error,) = peer.send("session.open", hello, id="msg_01ARZ3", timestamp="2026-05-13T19:30:00Z")
    assert (error["type"], error["payload"]["code"]) == ("session.error", "INVALID_REQUEST")
    assert peer.closing is not None


def test_a_rust_runtime_drops_the_connection(runtime: ScriptedRuntime) -> None:
    (ended,) = runtime.carry_out(runtime.connection.lost(now=runtime.now))
    assert isinstance(ended, ConnectionEnded)
    assert ended.who == "transport"


# Our client, and what their runtimes say.


def test_a_go_runtime_welcomes_us(runtime: ScriptedRuntime) -> None:
    agents = [
        {"name": "echo", "bare": True},
        {"name": "x", "versions": ["1.0.0", "2.0.0"], "default": "2.0.0"},
    ]
    welcome = {
        "runtime": {"name": "arcp-go-runtime", "version": "1.0.0"},
        "resume_token": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "resume_window_sec": 600,
        "heartbeat_interval_sec": 30,
        "capabilities": {**capabilities(), "agents": agents},
    }
    (welcomed,) = runtime.say("session.welcome", welcome, session_id="sess_go")
    assert isinstance(welcomed, Welcomed)
    assert (welcomed.session_id, welcomed.runtime.name) == ("sess_go", "arcp-go-runtime")
    assert [(agent.name, agent.versions, agent.default) for agent in welcomed.agents] == [
        ("echo", [], None),
        ("x", ["1.0.0", "2.0.0"], "2.0.0"),
    ]


def test_a_go_runtime_answers_submits_in_order(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    first, refused, second = (runtime.submit(agent) for agent in ("echo", "foo", "echo"))
    accepted = {"job_id": "job_1", "budget": {"USD": 5}, "accepted_at": LOCAL_TIME, "agent": "echo"}
    (event,) = runtime.say("job.accepted", accepted, job_id="job_1")
    assert isinstance(event, JobAccepted)
    assert (event.request_id, event.budget, event.lease) == (first, {"USD": 5}, {})
    error = {
        "code": "AGENT_NOT_AVAILABLE",
        "message": "AGENT_NOT_AVAILABLE: agent foo is not registered",
        "retryable": False,
        "request_id": refused,
    }
    (event,) = runtime.say("session.error", error)
    assert isinstance(event, RequestRefused)
    assert event.request_id == refused
    (event,) = runtime.say("job.accepted", {"job_id": "job_2", "accepted_at": LOCAL_TIME}, job_id="job_2")
    assert isinstance(event, JobAccepted)
    assert event.request_id == second


def test_the_events_of_a_go_runtime(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    job = runtime.accept()
    said: list[tuple[str, dict[str, Any]]] = [
        ("log", {"level": "INFO+2", "message": "m", "fields": {"k": 1}}),
        ("tool_result", {"call_id": "c_1", "result": None}),
        ("status", {"phase": "back_pressure", "message": "lag", "details": {"threshold": 100}}),
        ("status", {"phase": "credential_rotated", "message": "c", "details": {"id": "c", "value": "new"}}),
        ("progress", {"current": 1, "total": 2}),
    ]
    bodies, values = [], []
    for number, (kind, body) in enumerate(said, 1):
        payload = {"kind": kind, "ts": LOCAL_TIME, "body": body}
        (event,) = runtime.say("job.event", payload, job_id=job, event_seq=number)
        assert isinstance(event, JobEvent)
        bodies.append(event.body)
        values.append(event.value)
    assert bodies[0] == {"level": "info", "message": "m", "dimensions": {"k": 1}}
    assert bodies[1] == {"call_id": "c_1", "result": None}
    assert bodies[3]["id"] == "c"
    assert "new" not in str(bodies[3])
    assert values[3] is not None
    assert values[3].reveal() == "new"
    (end,) = runtime.say("job.result", {"final_status": "success", "output": [1]}, job_id=job, event_seq=6)
    assert isinstance(end, JobEnded)
    assert end.result == [1]


def test_a_go_runtime_cancels(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    job = runtime.accept()
    request = runtime.cancel(job, "stop")
    (event,) = runtime.say("job.cancelled", {"job_id": job, "reason": "stop"}, job_id=job, event_seq=1)
    assert isinstance(event, CancelAcknowledged)
    assert event.request_id == request
    error = {"final_status": "cancelled", "code": "CANCELLED", "retryable": False}
    (event,) = runtime.say("job.error", error, job_id=job, event_seq=2)
    assert isinstance(event, JobEnded)
    assert (event.final_status, event.code) == ("cancelled", "CANCELLED")
    request = runtime.cancel("job_2")
    refusal = {"code": "JOB_NOT_FOUND", "message": "m", "retryable": False, "request_id": request}
    (event,) = runtime.say("session.error", {**refusal, "job_id": "job_2"}, job_id="job_2")
    assert isinstance(event, RequestRefused)
    assert (event.request_id, event.job_id) == (request, "job_2")


def test_a_go_runtime_pings_and_loses_us(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    runtime.say("session.ping", {"nonce": "p_1", "sent_at": LOCAL_TIME})
    assert [pong["payload"]["ping_nonce"] for pong in runtime.sent("session.pong")] == ["p_1"]
    job = runtime.accept()
    message = "heartbeat lost: no inbound traffic within two intervals"
    error = {"code": "HEARTBEAT_LOST", "message": message, "retryable": True}
    (event,) = runtime.say("session.error", error)
    assert isinstance(event, SessionFailed)
    assert runtime.state.session is not None and job in runtime.state.session.jobs


def test_a_java_runtime_refuses_by_the_envelope_id(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    first, second = runtime.submit("none"), runtime.submit("echo")
    error = {"final_status": "error", "code": "AGENT_NOT_AVAILABLE", "message": "m", "retryable": False}
    (event,) = runtime.say("job.error", error, id=first)
    assert isinstance(event, RequestRefused)
    assert event.request_id == first
    accepted = (
        '{"arcp":"1.1","id":"01JV","type":"job.accepted","session_id":"sess_1","job_id":"job_1","payload":'
        '{"job_id":"job_1","agent":"echo@1","lease":{},"budget":{"credits":1E+3},"accepted_at":"'
        '2026-05-13T19:30:00.123456789Z"}}'
    )
    (event,) = runtime.say_raw(accepted)
    assert isinstance(event, JobAccepted)
    assert (event.request_id, event.budget) == (second, {"credits": 1000})


def test_a_java_runtime_refuses_in_the_name_of_a_job_that_goes_on(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    job = runtime.accept()
    request = runtime.cancel(job)
    error = {"final_status": "error", "code": "JOB_NOT_FOUND", "message": "m", "retryable": False}
    (event,) = runtime.say("job.error", error, id=request, job_id=job)
    assert isinstance(event, RequestRefused)
    assert event.request_id == request
    result = {"final_status": "success", "result": {"x": 1}}
    (event,) = runtime.say("job.result", result, job_id=job, event_seq=1)
    assert isinstance(event, JobEnded)
    assert event.result == {"x": 1}


def test_a_java_runtime_cancels_and_closes(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    job = runtime.accept()
    request = runtime.cancel(job, "stop")
    (event,) = runtime.say("job.cancelled", {"reason": "stop"}, job_id=job, event_seq=1)
    assert isinstance(event, CancelAcknowledged)
    assert event.request_id == request
    error = {"final_status": "cancelled", "code": "CANCELLED", "message": "stop", "retryable": False}
    (event,) = runtime.say("job.error", error, job_id=job, event_seq=2)
    assert isinstance(event, JobEnded)
    runtime.client.close("done", now=runtime.now)
    runtime.take()
    closed, ended = runtime.say("session.closed", {"reason": "done"})
    assert isinstance(closed, SessionClosed)
    assert isinstance(ended, ConnectionEnded)
    assert ended.who == "local"


def test_a_typescript_runtime_refuses_in_three_ways(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    job = runtime.accept("job_1")
    unknown, version = runtime.submit("none"), runtime.submit("echo@9")
    repeated = runtime.submit(idempotency_key="k")
    error = {"final_status": "error", "code": "AGENT_NOT_AVAILABLE", "message": "m", "retryable": False}
    refusals = [
        runtime.say("job.error", error, job_id="job_fresh", event_seq=1),
        runtime.say("session.error", {**error, "code": "AGENT_VERSION_NOT_AVAILABLE"}),
        runtime.say(
            "job.error",
            {**error, "code": "DUPLICATE_KEY", "details": {"existing_job_id": job}},
            job_id=job,
            event_seq=2,
        ),
    ]
    requests = []
    for (event,) in refusals:
        assert isinstance(event, RequestRefused)
        requests.append(event.request_id)
    assert requests == [unknown, version, repeated]
    assert runtime.state.session is not None and job in runtime.state.session.jobs


def test_a_typescript_runtime_runs_and_cancels_a_job(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    job = runtime.accept(trace_id=TRACE)
    events = [
        *runtime.say(
            "job.event",
            {"kind": "status", "ts": LOCAL_TIME, "body": {"phase": "running"}},
            job_id=job,
            event_seq=1,
        ),
        *runtime.say(
            "job.event",
            {"kind": "metric", "ts": LOCAL_TIME, "body": {"name": "m", "value": 1, "dims": {"a": "b"}}},
            job_id=job,
            event_seq=2,
        ),
    ]
    assert [event.body for event in events if isinstance(event, JobEvent)] == [
        {"phase": "running"},
        {"name": "m", "value": 1, "dimensions": {"a": "b"}},
    ]
    request = runtime.cancel(job)
    (event,) = runtime.say("job.cancelled", {}, job_id=job)
    assert isinstance(event, CancelAcknowledged)
    assert event.request_id == request
    error = {
        "final_status": "cancelled",
        "code": "CANCELLED",
        "message": "client_cancel",
        "retryable": False,
    }
    (event,) = runtime.say("job.error", error, job_id=job, event_seq=3)
    assert isinstance(event, JobEnded)
    assert event.final_status == "cancelled"
    request = runtime.cancel(job)
    (event,) = runtime.say("job.error", {**error, "code": "JOB_NOT_FOUND"}, job_id=job, event_seq=4)
    assert isinstance(event, RequestRefused)
    assert event.request_id == request


def test_a_typescript_runtime_knows_no_close(runtime: ScriptedRuntime) -> None:
    runtime.welcome()
    runtime.client.close("done", now=runtime.now)
    runtime.take()
    error = {"code": "INVALID_REQUEST", "message": "Unknown core message type", "retryable": False}
    (event,) = runtime.say("session.error", {**error, "details": {"type": "session.close"}})
    assert isinstance(event, ConnectionEnded)
    assert (event.who, event.code) == ("local", "")


@pytest.mark.parametrize("text", ["{}", json.dumps({"type": "session.accepted", "payload": {}})])
def test_frames_of_a_rust_runtime_do_not_end_the_connection(runtime: ScriptedRuntime, text: str) -> None:
    assert runtime.say_raw(text) == []
    assert runtime.state.connection is not None
