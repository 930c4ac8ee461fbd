"""The client: what runtimes say, in every form that it accepts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcp_proto.client import ClientConfig
from arcp_proto.client_handlers import ENDS, HANDLERS
from arcp_proto.connection import Framing, Phase
from arcp_proto.errors import RETRYABLE, ErrorCode
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.messages import TO_CLIENT
from arcp_proto.output import (
    CancelAnswered,
    ConnectionEnded,
    JobAccepted,
    JobEmitted,
    JobEnded,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    Welcomed,
)

from .scripted_runtime import JOB, WELCOME, ScriptedRuntime, accepted, chunk, log, numbers


@pytest.fixture
def runtime() -> ScriptedRuntime:
    runtime = ScriptedRuntime()
    runtime.welcome()
    return runtime


def error(code: str, **fields: Any) -> dict[str, Any]:
    return {"code": code, "message": "no", "retryable": False, **fields}


def end(code: str, final_status: str = "error", **fields: Any) -> dict[str, Any]:
    return {"final_status": final_status, **error(code), "completed_at": "2026-01-01T00:00:00Z", **fields}


# Before the welcome.


@pytest.mark.parametrize(
    "message_type", sorted(set(TO_CLIENT) - {"session.welcome", "session.error", "session.ping"})
)
def test_before_the_welcome_all_else_is_ignored(message_type: str) -> None:
    runtime = ScriptedRuntime()
    assert runtime.say_raw(json.dumps({"type": message_type, "job_id": JOB, "event_seq": 1})) == []
    runtime.only(Welcomed, runtime.welcome())


def test_a_ping_before_the_welcome_is_answered() -> None:
    runtime = ScriptedRuntime()
    assert runtime.say("session.ping", {"nonce": "n", "sent_at": "t"}) == []
    (pong,) = runtime.sent("session.pong")
    assert pong["payload"]["ping_nonce"] == "n"
    assert "session_id" not in pong


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "INTERNAL_ERROR", "SOMETHING_NEW"])
def test_an_error_before_the_welcome_is_the_end(code: str) -> None:
    runtime = ScriptedRuntime()
    failed, ended = runtime.say("session.error", {"code": code, "message": "no", "details": {"a": 1}})
    assert failed == SessionFailed(code, "no", RETRYABLE.get(code, False), {"a": 1})
    assert ended == ConnectionEnded(runtime.connection, "peer", code, "the hello was refused")
    assert [closing.connection for closing in runtime.closings] == [runtime.connection]
    assert runtime.advance(3) == []


@pytest.mark.parametrize(
    "payload", [{}, {"session_id": 5}, {"session_id": "s" * 300}, {**WELCOME, "runtime": 5}]
)
def test_a_welcome_that_cannot_be_read_is_the_end(payload: dict[str, Any]) -> None:
    runtime = ScriptedRuntime()
    ended = runtime.only(ConnectionEnded, runtime.say("session.welcome", payload))
    assert (ended.who, ended.code) == ("local", "INVALID_REQUEST")
    assert len(runtime.closings[0].reason.encode()) <= 123


def test_a_welcome_of_another_protocol_is_the_end() -> None:
    runtime = ScriptedRuntime()
    ended = runtime.only(ConnectionEnded, runtime.say("session.welcome", WELCOME, arcp="2.0"))
    assert (ended.code, ended.reason) == (
        "INVALID_REQUEST",
        "ARCP 2.0 is not supported; this client speaks 1.1",
    )


def test_a_welcome_that_says_little() -> None:
    runtime = ScriptedRuntime()
    welcomed = runtime.only(Welcomed, runtime.say("session.welcome", {}, session_id="sess_9"))
    assert (welcomed.session_id, welcomed.features, welcomed.agents) == ("sess_9", frozenset(), [])
    assert runtime.advance(1000) == []


def test_agents_as_names_and_an_interval_with_a_fraction() -> None:
    runtime = ScriptedRuntime()
    capabilities = {"features": ["heartbeat"], "agents": ["a", {"name": "b"}, 5]}
    runtime.say("session.welcome", {**WELCOME, "capabilities": capabilities, "heartbeat_interval_sec": 9.5})
    assert [agent.name for agent in runtime.client.agents] == ["a", "b"]
    runtime.advance(10)
    assert len(runtime.sent("session.ping")) == 1


def test_too_large_a_welcome_is_refused_by_its_header() -> None:
    runtime = ScriptedRuntime()
    ended = runtime.only(ConnectionEnded, runtime.carry_out(runtime.connection.too_large(now=runtime.now)))
    assert (ended.code, runtime.closings[0].code) == ("INVALID_REQUEST", 1009)


# What is ignored.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"type":5}',
        '{"type":"job.zork"}',
        '{"type":"session.welcome"}',
        '{"type":"session.jobs"}',
        '{"type":"job.subscribed","payload":{"job_id":"j"}}',
        '{"type":"job.submit"}',
        '{"arcp":"2.0","type":"session.bye"}',
        '{"type":"job.event","payload":[]}',
        '{"type":"job.event","payload":{"kind":"log"}}',
        '{"type":"job.event","job_id":"j","payload":{}}',
        '{"type":"job.result","payload":{"result":1}}',
        '{"type":"job.accepted","payload":{}}',
        '{"type":"job.cancelled"}',
        '{"type":"session.error","payload":5}',
    ],
)
def test_what_cannot_be_read_or_is_not_known_is_ignored(runtime: ScriptedRuntime, text: str) -> None:
    assert runtime.say_raw(text) == []
    assert runtime.client.take().writable == ()
    runtime.accept()


def test_bytes_that_are_no_text_are_ignored(runtime: ScriptedRuntime) -> None:
    assert runtime.say_raw(b'{"type":"\xff"}') == []


@pytest.mark.parametrize("text", ["nonsense", '{"type":"job.zork"}', '{"type":"job.event","payload":{}}'])
def test_more_than_ten_of_them_a_second_are_the_end(runtime: ScriptedRuntime, text: str) -> None:
    for _ in range(10):
        assert runtime.say_raw(text) == []
    runtime.advance(1)
    for _ in range(10):
        assert runtime.say_raw(text) == []
    ended = runtime.only(ConnectionEnded, runtime.say_raw(text))
    assert (ended.who, ended.code) == ("local", "INVALID_REQUEST")


def test_an_overlong_line_is_ignored() -> None:
    runtime = ScriptedRuntime(framing=Framing.LINES)
    runtime.say_raw("x" * 70_000 + "\n")
    welcome = json.dumps({"type": "session.welcome", "payload": WELCOME})
    runtime.only(Welcomed, runtime.say_raw(welcome + "\r\n"))


@pytest.mark.parametrize("welcomed", [False, True])
def test_pings_that_nobody_takes_the_answers_of_are_the_end(welcomed: bool) -> None:
    runtime = ScriptedRuntime()
    if welcomed:
        runtime.welcome()
    ping = b'{"type":"session.ping","payload":{"nonce":"n"}}'
    outputs = [runtime.connection.receive(ping, now=runtime.now) for _ in range(1001)]
    (ended,) = [event for output in outputs for event in output.events]
    assert isinstance(ended, ConnectionEnded)
    assert ended.code == "INTERNAL_ERROR"


# The session.


def test_a_ping_is_answered_at_once(runtime: ScriptedRuntime) -> None:
    runtime.client.submit("echo", now=runtime.now)
    runtime.say("session.ping", {"nonce": "n"})
    first, second = runtime.received[-2:]
    assert (first["type"], first["session_id"], second["type"]) == ("session.pong", "sess_1", "job.submit")


@pytest.mark.parametrize("message_type", ["session.bye", "session.closed"])
def test_the_runtime_says_goodbye(runtime: ScriptedRuntime, message_type: str) -> None:
    closed, ended = runtime.say(message_type, {"reason": "maintenance"})
    assert closed == SessionClosed("maintenance")
    assert ended == ConnectionEnded(runtime.connection, "peer", "", "session closed")
    assert runtime.say("job.event", log(), job_id=JOB) == []


# Answers to submits.


def test_an_acceptance_names_its_request(runtime: ScriptedRuntime) -> None:
    first, second = runtime.submit(), runtime.submit()
    for number, request_id in ((2, second), (1, first)):
        job_id = f"job_{number}"
        payload = accepted(
            job_id,
            request_id=request_id,
            lease={"fs.read": ["/a"]},
            lease_constraints={"expires_at": "2027-01-01T00:00:00Z"},
            budget={"USD": 5},
        )
        event = runtime.only(
            JobAccepted, runtime.say("job.accepted", payload, job_id=job_id, trace_id="ab" * 16)
        )
        assert event == JobAccepted(
            request_id,
            JobId(job_id),
            "echo",
            {"fs.read": ["/a"]},
            "2027-01-01T00:00:00Z",
            {"USD": 5},
            "2026-01-01T00:00:00Z",
            "ab" * 16,
        )


def test_acceptances_without_a_request_come_in_order(runtime: ScriptedRuntime) -> None:
    runtime.cancel("job_0")
    requests = [runtime.submit(), runtime.submit()]
    events = [runtime.only(JobAccepted, runtime.say("job.accepted", accepted(f"job_{n}"))) for n in (1, 2)]
    assert [event.request_id for event in events] == requests
    assert (events[0].expires_at, events[0].budget, events[0].trace_id) == (None, {}, None)
    assert runtime.say("job.accepted", accepted("job_3")) == []


def test_an_acceptance_of_what_was_not_asked_for_is_nothing(runtime: ScriptedRuntime) -> None:
    request_id, cancel = runtime.submit(), runtime.cancel()
    assert runtime.say("job.accepted", accepted(request_id="unknown")) == []
    assert runtime.say("job.accepted", accepted(request_id=cancel)) == []
    event = runtime.only(JobAccepted, runtime.say("job.accepted", accepted(request_id=request_id)))
    assert event.request_id == request_id


def test_a_little_acceptance_with_its_job_in_the_envelope(runtime: ScriptedRuntime) -> None:
    runtime.submit()
    event = runtime.only(JobAccepted, runtime.say("job.accepted", {"budget": {"USD": "USD:5"}}, job_id=JOB))
    assert (event.job_id, event.agent, event.lease, event.budget) == (JOB, "", {}, {"USD": "5"})


# Refusals.


def refused(runtime: ScriptedRuntime, message_type: str, payload: Any, **envelope: Any) -> RequestRefused:
    return runtime.only(RequestRefused, runtime.say(message_type, payload, **envelope))


@pytest.mark.parametrize("message_type", ["session.error", "job.error"])
@pytest.mark.parametrize("place", ["payload", "details", "envelope"])
def test_a_refusal_names_its_request(runtime: ScriptedRuntime, message_type: str, place: str) -> None:
    runtime.submit()
    request_id = runtime.submit()
    fields: dict[str, Any] = {"message": "no agent", "retryable": True}
    envelope: dict[str, Any] = {}
    match place:
        case "payload":
            fields["request_id"] = request_id
        case "details":
            fields["details"] = {"request_id": request_id}
        case "envelope":
            envelope["id"] = request_id
    event = refused(runtime, message_type, error("AGENT_NOT_AVAILABLE", **fields), **envelope)
    details = fields.get("details", {})
    assert event == RequestRefused(request_id, "AGENT_NOT_AVAILABLE", "no agent", True, None, details)


@pytest.mark.parametrize("message_type", ["session.error", "job.error"])
def test_a_refusal_of_what_was_not_asked_for_is_nothing(runtime: ScriptedRuntime, message_type: str) -> None:
    request_id = runtime.submit()
    assert runtime.say(message_type, error("INTERNAL_ERROR", request_id="unknown")) == []
    assert runtime.say(message_type, error("INTERNAL_ERROR", request_id="unknown"), job_id="job_9") == []
    assert (
        refused(runtime, message_type, error("INTERNAL_ERROR", request_id=request_id)).request_id
        == request_id
    )


@pytest.mark.parametrize("message_type", ["session.error", "job.error"])
def test_a_refusal_without_a_name_is_for_the_oldest_submit_or_then_cancel(
    runtime: ScriptedRuntime, message_type: str
) -> None:
    first, cancel, second = runtime.submit(), runtime.cancel("job_7"), runtime.submit()
    events = [refused(runtime, message_type, {"code": "INTERNAL_ERROR"}) for _ in range(3)]
    assert [event.request_id for event in events] == [first, second, cancel]
    assert events[2] == RequestRefused(cancel, "INTERNAL_ERROR", "INTERNAL_ERROR", True, JobId("job_7"), {})
    failed = runtime.only(SessionFailed, runtime.say(message_type, {"code": "INTERNAL_ERROR"}))
    assert failed == SessionFailed("INTERNAL_ERROR", "INTERNAL_ERROR", True, {})


@pytest.mark.parametrize("code", ["HEARTBEAT_LOST", "UNAUTHENTICATED"])
@pytest.mark.parametrize(
    ("message_type", "job_id"), [("session.error", None), ("job.error", None), ("job.error", "j")]
)
def test_some_errors_are_the_connections(
    runtime: ScriptedRuntime, message_type: str, job_id: str | None, code: str
) -> None:
    request_id = runtime.submit()
    failed = runtime.only(SessionFailed, runtime.say(message_type, error(code), job_id=job_id))
    assert failed == SessionFailed(code, "no", False, {})
    named = refused(runtime, message_type, error(code, request_id=request_id), job_id=job_id)
    assert named.request_id == request_id


def test_an_error_that_names_a_job_is_for_the_cancel_of_it(runtime: ScriptedRuntime) -> None:
    runtime.submit()
    runtime.cancel("job_1")
    request_id = runtime.cancel("job_2")
    event = refused(runtime, "session.error", error("JOB_NOT_FOUND", job_id="job_2"))
    assert (event.request_id, event.job_id) == (request_id, "job_2")


def test_a_submit_refused_under_a_made_up_job(runtime: ScriptedRuntime) -> None:
    runtime.cancel("job_1")
    request_id = runtime.submit()
    event = refused(runtime, "job.error", end("INVALID_REQUEST"), job_id="job_made_up", event_seq=1)
    assert (event.request_id, event.job_id) == (request_id, None)


def test_an_error_for_a_submit_only_is_not_for_an_older_cancel(runtime: ScriptedRuntime) -> None:
    runtime.cancel("job_1")
    request_id = runtime.submit()
    assert refused(runtime, "session.error", error("AGENT_NOT_AVAILABLE")).request_id == request_id
    runtime.submit()
    assert refused(runtime, "session.error", error("JOB_NOT_FOUND")).job_id == "job_1"
    runtime.only(SessionFailed, runtime.say("session.error", error("JOB_NOT_FOUND")))


@pytest.mark.parametrize("code", ["JOB_NOT_FOUND", "INVALID_REQUEST", "PERMISSION_DENIED"])
def test_a_refused_cancel_does_not_end_an_accepted_job(runtime: ScriptedRuntime, code: str) -> None:
    runtime.accept()
    request_id = runtime.cancel()
    event = refused(runtime, "job.error", error(code, final_status="error"), job_id=JOB, event_seq=1)
    assert (event.request_id, event.code, event.job_id) == (request_id, code, JOB)
    runtime.only(JobEnded, runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=2))


def test_a_key_used_twice_does_not_end_the_job_that_has_it(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    request_id = runtime.submit(idempotency_key="k")
    payload = error("DUPLICATE_KEY", details={"existing_job_id": JOB})
    event = refused(runtime, "job.error", payload, job_id=JOB, event_seq=1)
    assert (event.request_id, event.details) == (request_id, {"existing_job_id": JOB})
    runtime.only(JobEnded, runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=2))


def test_a_refused_cancel_names_its_request_by_the_envelope(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    request_id = runtime.cancel()
    event = refused(runtime, "job.error", error("INTERNAL_ERROR"), job_id=JOB, id=request_id)
    assert event.request_id == request_id
    runtime.only(JobEnded, runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1))


def test_a_cancel_of_a_job_that_is_over_is_refused(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    request_id = runtime.cancel()
    event = refused(runtime, "job.error", error("JOB_NOT_FOUND"), job_id=JOB, event_seq=2)
    assert event.request_id == request_id


# Cancels.


@pytest.mark.parametrize("final_status", [None, "success"])
def test_a_cancel_is_answered_by_its_name(runtime: ScriptedRuntime, final_status: str | None) -> None:
    runtime.cancel()
    request_id = runtime.cancel()
    payload = {"job_id": JOB, "request_id": request_id, "final_status": final_status}
    event = runtime.only(CancelAnswered, runtime.say("job.cancelled", payload, event_seq=1))
    assert event == CancelAnswered(request_id, JOB, 1, final_status)
    assert runtime.say("job.cancelled", payload, event_seq=2) == []


def test_a_cancel_is_answered_without_a_name(runtime: ScriptedRuntime) -> None:
    runtime.cancel("job_2")
    first, second = runtime.cancel(), runtime.cancel()
    for request_id in (first, second, None):
        event = runtime.only(CancelAnswered, runtime.say("job.cancelled", {"reason": "r"}, job_id=JOB))
        assert event == CancelAnswered(request_id, JOB, 0, None)


def test_an_answer_to_a_cancel_is_none_to_a_submit(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit()
    assert runtime.say("job.cancelled", {"job_id": JOB, "request_id": request_id}) == []
    runtime.only(JobAccepted, runtime.say("job.accepted", accepted(request_id=request_id)))


@pytest.mark.parametrize(
    ("message_type", "payload"),
    [("job.result", {"final_status": "cancelled"}), ("job.error", end("CANCELLED", "cancelled"))],
)
def test_the_end_of_a_job_answers_its_cancels_first(
    runtime: ScriptedRuntime, message_type: str, payload: dict[str, Any]
) -> None:
    runtime.accept()
    first, other, second = runtime.cancel(), runtime.cancel("job_2"), runtime.cancel()
    *answers, ended = runtime.say(message_type, payload, job_id=JOB, event_seq=1)
    assert answers == [CancelAnswered(request_id, JOB, 0, "cancelled") for request_id in (first, second)]
    assert isinstance(ended, JobEnded)
    assert (ended.final_status, ended.code, ended.retryable) == ("cancelled", "CANCELLED", False)
    assert refused(runtime, "session.error", error("JOB_NOT_FOUND")).request_id == other


# Events.


def test_an_event(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    event = runtime.only(JobEmitted, runtime.say("job.event", log(), job_id=JOB, event_seq=1))
    assert event == JobEmitted(JOB, 1, "log", "2026-01-01T00:00:00Z", {"level": "info", "message": "hi"})


def test_an_event_of_another_job_without_a_number(runtime: ScriptedRuntime) -> None:
    event = runtime.only(
        JobEmitted, runtime.say("job.event", {"kind": "x-vendor.a.b", "body": 5, "job_id": "job_9"})
    )
    assert event == JobEmitted(JobId("job_9"), 0, "x-vendor.a.b", "", {"value": 5})


def test_a_copy_of_an_event_is_nothing(runtime: ScriptedRuntime) -> None:
    assert len(runtime.say("job.event", log(), job_id=JOB, event_seq=1, id="e1")) == 1
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=1, id="e1") == []
    assert len(runtime.say("job.event", log(), job_id=JOB, event_seq=1, id="e2")) == 1


def test_a_bad_event_keeps_back_none_behind_it(runtime: ScriptedRuntime) -> None:
    runtime.say("job.event", log("3"), job_id=JOB, event_seq=3)
    runtime.say_raw(json.dumps({"type": "job.zork", "job_id": JOB, "event_seq": 2}))
    events = runtime.say("job.event", {"kind": 5}, job_id=JOB, event_seq=1)
    assert numbers(events) == [3]


def test_what_waited_behind_a_goodbye_is_not_handed_out(runtime: ScriptedRuntime) -> None:
    for seq in range(3, 20):
        runtime.say("job.event", log(), job_id=JOB, event_seq=seq)
    runtime.say("session.bye", {}, event_seq=2)
    events = runtime.say("job.event", log(), job_id=JOB, event_seq=1)
    assert [type(event) for event in events] == [JobEmitted, SessionClosed, ConnectionEnded]


def test_after_its_end_a_job_is_silent(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=2) == []
    assert runtime.say("job.result", {"result": 2}, job_id=JOB, event_seq=3) == []
    runtime.submit()
    assert runtime.say("job.error", end("INTERNAL_ERROR"), job_id=JOB, event_seq=4) == []


def test_a_job_that_is_accepted_again_speaks_again(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    runtime.accept()
    event = runtime.only(JobEnded, runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=2))
    assert event.result == 1


# Ends.


@pytest.mark.parametrize("name", ["result", "output", "value"])
@pytest.mark.parametrize("value", [1, "text", [None], False, 0, None])
def test_a_result_under_any_name(runtime: ScriptedRuntime, name: str, value: Any) -> None:
    runtime.accept()
    payload = {"final_status": "success", "completed_at": "t", name: value, "summary": "s"}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=1))
    assert event == JobEnded(JOB, 1, "success", "t", value, summary="s")


def test_no_result(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    event = runtime.only(JobEnded, runtime.say("job.result", {"final_status": "completed"}, job_id=JOB))
    assert event == JobEnded(JOB, 0, "success", "")


def test_the_result_of_a_job_that_is_not_ours(runtime: ScriptedRuntime) -> None:
    event = runtime.only(JobEnded, runtime.say("job.result", {"result": 5}, job_id="job_9"))
    assert (event.job_id, event.result) == ("job_9", 5)
    runtime.say("job.event", chunk(0, "x", more=False), job_id="job_8")
    session = runtime.client.session
    assert session is not None
    assert session.assembly.size == 0
    event = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1"}, job_id="job_8"))
    assert (event.final_status, event.result, event.result_id) == ("success", None, "res_1")


@pytest.mark.parametrize("code", [*ErrorCode, "SOMETHING_NEW"])
def test_an_accepted_job_ends_with_any_code(runtime: ScriptedRuntime, code: str) -> None:
    runtime.accept()
    runtime.submit()
    runtime.cancel()
    payload = end(code, message="why", retryable=True, details={"a": 1, "request_id": "not ours"})
    *answers, event = runtime.say("job.error", payload, job_id=JOB, event_seq=1)
    assert event == JobEnded(
        JOB,
        1,
        "error",
        "2026-01-01T00:00:00Z",
        code=code,
        message="why",
        retryable=True,
        details={"a": 1, "request_id": "not ours"},
    )
    assert [type(answer) for answer in answers] == [CancelAnswered]


@pytest.mark.parametrize("code", [*ErrorCode, "SOMETHING_NEW"])
def test_an_accepted_job_ends_also_without_a_time_when_nothing_is_asked(
    runtime: ScriptedRuntime, code: str
) -> None:
    runtime.accept()
    event = runtime.only(JobEnded, runtime.say("job.error", {"code": code}, job_id=JOB, event_seq=1))
    assert (event.code, event.message, event.completed_at) == (code, code, "")
    assert event.retryable is RETRYABLE.get(code, False)


@pytest.mark.parametrize(
    ("payload", "final_status"),
    [
        ({"code": "CANCELLED"}, "cancelled"),
        ({"code": "TIMEOUT"}, "timed_out"),
        ({"code": "X", "final_status": "failed"}, "error"),
        ({"code": "X", "final_status": "success"}, "error"),
        ({"code": "X", "final_status": "exploded"}, "error"),
    ],
)
def test_the_status_of_an_error(runtime: ScriptedRuntime, payload: dict[str, Any], final_status: str) -> None:
    runtime.accept()
    event = runtime.only(JobEnded, runtime.say("job.error", payload, job_id=JOB, event_seq=1))
    assert event.final_status == final_status


def test_the_error_of_a_job_that_is_not_ours(runtime: ScriptedRuntime) -> None:
    event = runtime.only(
        JobEnded, runtime.say("job.error", end("INTERNAL_ERROR"), job_id="job_9", event_seq=1)
    )
    assert (event.job_id, event.code) == ("job_9", "INTERNAL_ERROR")


@pytest.mark.parametrize(
    ("final_status", "expected", "code"),
    [
        ("cancelled", "cancelled", "CANCELLED"),
        ("timed_out", "timed_out", "TIMEOUT"),
        ("failed", "error", "INTERNAL_ERROR"),
        ("exploded", "error", "INTERNAL_ERROR"),
    ],
)
@pytest.mark.parametrize("summary", [None, "why"])
def test_a_result_that_is_none(
    runtime: ScriptedRuntime, final_status: str, expected: str, code: str, summary: str | None
) -> None:
    runtime.accept()
    payload = {"final_status": final_status, "summary": summary, "result": "ignored"}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=1))
    assert (event.final_status, event.code, event.result) == (expected, code, None)
    assert event.message == (summary or ENDS[expected][1])
    assert event.retryable is RETRYABLE[code]


# Streamed results.


def test_a_streamed_result_is_joined_and_its_chunks_are_events(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    first = runtime.only(JobEmitted, runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1))
    assert (first.kind, first.body["data"]) == ("result_chunk", "ab")
    runtime.say("job.event", chunk(1, "c", more=False), job_id=JOB, event_seq=2)
    payload = {"final_status": "success", "completed_at": "t", "result_id": "res_1", "result_size": 3}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=3))
    assert event == JobEnded(JOB, 3, "success", "t", "abc", "res_1", 3)


def test_a_value_too_large_for_a_frame_is_a_value_again(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(0, '{"a":1}', more=False), job_id=JOB, event_seq=1)
    payload = {"result_id": "res_1", "result_size": 7, "content_type": "application/json"}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=2))
    assert event.result == {"a": 1}


@pytest.mark.parametrize(
    ("chunks", "fields", "message"),
    [
        ([], {}, "no chunk of it came"),
        ([chunk(0, "ab")], {}, "without the last one"),
        ([chunk(0, "ab", more=False)], {"result_size": 3}, "the job says 3"),
        ([chunk(1, "ab", more=False)], {}, "where 0 was due"),
        ([chunk(0, "ab", more=False)], {"content_type": "application/json"}, "no JSON"),
    ],
)
def test_a_broken_stream_is_an_error_of_its_job_alone(
    runtime: ScriptedRuntime, chunks: list[Any], fields: dict[str, Any], message: str
) -> None:
    runtime.accept()
    for payload in chunks:
        runtime.only(JobEmitted, runtime.say("job.event", payload, job_id=JOB))
    event = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1", **fields}, job_id=JOB))
    assert (event.final_status, event.code, event.retryable) == ("error", "INTERNAL_ERROR", True)
    assert message in event.message
    assert event.result is None
    runtime.accept("job_2")


def test_a_result_beyond_the_limit_is_not_kept() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(result=3)))
    runtime.welcome()
    runtime.accept()
    runtime.say("job.event", chunk(0, "abcd", more=False), job_id=JOB)
    event = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1"}, job_id=JOB))
    assert event.message == "the result is larger than 3 bytes"


def test_an_error_after_chunks_is_the_error(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(1, "ab"), job_id=JOB)
    event = runtime.only(JobEnded, runtime.say("job.error", end("TIMEOUT", "timed_out"), job_id=JOB))
    assert (event.final_status, event.code, event.message) == ("timed_out", "TIMEOUT", "no")


# The table.


def test_the_table_names_every_message_that_this_client_asks_for() -> None:
    later = {"session.jobs", "job.subscribed"}
    assert set(HANDLERS[Phase.OPEN]) == set(TO_CLIENT) - later - {"session.welcome"}
    assert set(HANDLERS[Phase.AWAITING_WELCOME]) == {"session.welcome", "session.error", "session.ping"}
    assert not HANDLERS[Phase.CLOSING]
    assert not HANDLERS[Phase.CLOSED]
