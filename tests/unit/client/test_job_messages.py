"""The client: the messages of a runtime about jobs, in every accepted form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import (
    CancelAcknowledged,
    ConnectionEnded,
    Event,
    JobAccepted,
    JobEnded,
    JobEvent,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    Subscribed,
)
from arcp_proto.errors import RETRYABLE, ErrorCode
from arcp_proto.ids import JobId
from arcp_proto.job_statuses import FAILURES
from arcp_proto.limits import Limits
from tests.unit.scripted_runtime import (
    JOB,
    NUMBERED,
    ScriptedRuntime,
    accepted,
    chunk,
    log,
    numbers,
    positions,
)


@pytest.fixture
def runtime() -> ScriptedRuntime:
    runtime = ScriptedRuntime()
    runtime.welcome()
    return runtime


def error(code: str, **fields: Any) -> dict[str, Any]:
    return {"code": code, "message": "no", "retryable": False, **fields}


def end(code: str, final_status: str = "error", **fields: Any) -> dict[str, Any]:
    return {"final_status": final_status, **error(code), "completed_at": "2026-01-01T00:00:00Z", **fields}


# Answers to submits.


def test_job_accepted_answers_the_request_that_it_names(runtime: ScriptedRuntime) -> None:
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


def test_job_accepted_without_a_request_id_answers_submits_in_order(runtime: ScriptedRuntime) -> None:
    runtime.cancel("job_0")
    requests = [runtime.submit(), runtime.submit()]
    events = [runtime.only(JobAccepted, runtime.say("job.accepted", accepted(f"job_{n}"))) for n in (1, 2)]
    assert [event.request_id for event in events] == requests
    assert (events[0].expires_at, events[0].budget, events[0].trace_id) == (None, {}, None)
    assert runtime.say("job.accepted", accepted("job_3")) == []


def test_job_accepted_of_an_unknown_request_is_ignored(runtime: ScriptedRuntime) -> None:
    request_id, cancel = runtime.submit(), runtime.cancel()
    assert runtime.say("job.accepted", accepted(request_id="unknown")) == []
    assert runtime.say("job.accepted", accepted(request_id=cancel)) == []
    event = runtime.only(JobAccepted, runtime.say("job.accepted", accepted(request_id=request_id)))
    assert event.request_id == request_id


def test_job_accepted_with_a_parent_answers_no_submit(runtime: ScriptedRuntime) -> None:
    runtime.accept("job_parent")
    request_id = runtime.submit()
    child = accepted("job_child", parent_job_id="job_parent", delegate_id="d1")
    assert runtime.say("job.accepted", child, job_id="job_child") == []
    payload = error("INTERNAL_ERROR", final_status="error", message="child")
    ended = runtime.only(JobEnded, runtime.say("job.error", payload, job_id="job_child", event_seq=1))
    assert (ended.job_id, ended.code) == ("job_child", "INTERNAL_ERROR")
    event = runtime.only(JobAccepted, runtime.say("job.accepted", accepted("job_2")))
    assert event.request_id == request_id


def test_the_end_of_a_job_no_longer_observed_refuses_no_request(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JobId("job_9"), now=runtime.now)
    runtime.take()
    runtime.say("job.subscribed", {"job_id": "job_9", "current_status": "running"})
    runtime.client.unsubscribe(JobId("job_9"), now=runtime.now)
    runtime.take()
    request_id = runtime.submit()
    assert runtime.say("job.error", error("INTERNAL_ERROR"), job_id="job_9", event_seq=1) == []
    event = runtime.only(JobAccepted, runtime.say("job.accepted", accepted("job_2")))
    assert event.request_id == request_id


def test_a_minimal_job_accepted_has_its_job_id_in_the_envelope(runtime: ScriptedRuntime) -> None:
    runtime.submit()
    event = runtime.only(JobAccepted, runtime.say("job.accepted", {"budget": {"USD": "USD:5"}}, job_id=JOB))
    assert (event.job_id, event.agent, event.lease, event.budget) == (JOB, "", {}, {"USD": "5"})


# Refusals.


def refused(runtime: ScriptedRuntime, message_type: str, payload: Any, **envelope: Any) -> RequestRefused:
    return runtime.only(RequestRefused, runtime.say(message_type, payload, **envelope))


@pytest.mark.parametrize("message_type", ["session.error", "job.error"])
@pytest.mark.parametrize("place", ["payload", "details", "envelope"])
def test_an_error_answers_the_request_that_it_names(
    runtime: ScriptedRuntime, message_type: str, place: str
) -> None:
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
def test_an_error_for_an_unknown_request_is_ignored(runtime: ScriptedRuntime, message_type: str) -> None:
    request_id = runtime.submit()
    assert runtime.say(message_type, error("INTERNAL_ERROR", request_id="unknown")) == []
    assert runtime.say(message_type, error("INTERNAL_ERROR", request_id="unknown"), job_id="job_9") == []
    assert (
        refused(runtime, message_type, error("INTERNAL_ERROR", request_id=request_id)).request_id
        == request_id
    )


@pytest.mark.parametrize("message_type", ["session.error", "job.error"])
def test_an_error_without_a_request_id_answers_the_oldest_submit_then_cancel(
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
def test_some_error_codes_concern_the_connection(
    runtime: ScriptedRuntime, message_type: str, job_id: str | None, code: str
) -> None:
    request_id = runtime.submit()
    failed = runtime.only(SessionFailed, runtime.say(message_type, error(code), job_id=job_id))
    assert failed == SessionFailed(code, "no", False, {})
    named = refused(runtime, message_type, error(code, request_id=request_id), job_id=job_id)
    assert named.request_id == request_id


def test_an_error_with_a_job_id_answers_the_cancel_of_that_job(runtime: ScriptedRuntime) -> None:
    runtime.submit()
    runtime.cancel("job_1")
    request_id = runtime.cancel("job_2")
    event = refused(runtime, "session.error", error("JOB_NOT_FOUND", job_id="job_2"))
    assert (event.request_id, event.job_id) == (request_id, "job_2")


def test_a_job_error_of_an_unknown_job_refuses_the_submit(runtime: ScriptedRuntime) -> None:
    runtime.cancel("job_1")
    request_id = runtime.submit()
    event = refused(
        runtime, "job.error", end("INVALID_REQUEST", job_seq=None), job_id="job_made_up", event_seq=1
    )
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


def test_duplicate_key_does_not_end_the_job_that_has_the_key(runtime: ScriptedRuntime) -> None:
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


def test_a_cancel_of_an_ended_job_is_refused(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    request_id = runtime.cancel()
    event = refused(runtime, "job.error", error("JOB_NOT_FOUND"), job_id=JOB, event_seq=2)
    assert event.request_id == request_id


# Cancels.


@pytest.mark.parametrize("final_status", [None, "success"])
def test_job_cancelled_answers_the_cancel_that_it_names(
    runtime: ScriptedRuntime, final_status: str | None
) -> None:
    runtime.cancel()
    request_id = runtime.cancel()
    payload = {"job_id": JOB, "request_id": request_id, "final_status": final_status}
    event = runtime.only(CancelAcknowledged, runtime.say("job.cancelled", payload, event_seq=1))
    assert event == CancelAcknowledged(request_id, JOB, 1, final_status)
    assert runtime.say("job.cancelled", payload, event_seq=2) == []


def test_job_cancelled_without_a_request_id_answers_the_cancel_of_its_job(runtime: ScriptedRuntime) -> None:
    runtime.cancel("job_2")
    first, second = runtime.cancel(), runtime.cancel()
    for request_id in (first, second, None):
        event = runtime.only(CancelAcknowledged, runtime.say("job.cancelled", {"reason": "r"}, job_id=JOB))
        assert event == CancelAcknowledged(request_id, JOB, 0, None)


@pytest.mark.parametrize(
    ("final_status", "code"),
    [("success", ""), ("error", "INTERNAL_ERROR"), ("cancelled", "CANCELLED"), ("timed_out", "TIMEOUT")],
)
def test_a_job_that_had_ended_before_it_was_cancelled_ends(
    numbered: ScriptedRuntime, final_status: str, code: str
) -> None:
    numbered.accept()
    numbered.say("job.event", log(), job_id=JOB, event_seq=1)
    request_id = numbered.cancel()
    payload = {"job_id": JOB, "request_id": request_id, "final_status": final_status}
    acknowledged, ended = numbered.say("job.cancelled", payload, event_seq=2)
    assert acknowledged == CancelAcknowledged(request_id, JOB, 2, final_status)
    assert isinstance(ended, JobEnded)
    message = "the job had ended already" if code else ""
    assert (ended.final_status, ended.code, ended.message) == (final_status, code, message)
    assert ended.receipt == 0
    assert numbered.say("job.result", {"final_status": "success"}, job_id=JOB, event_seq=3) == []


@pytest.mark.parametrize("fields", [{}, {"history": True, "after": 9}])
def test_an_ended_job_without_later_events_ends_when_it_is_observed(
    runtime: ScriptedRuntime, fields: dict[str, Any]
) -> None:
    runtime.positions[JOB] = 9
    request_id = runtime.client.subscribe(JOB, now=runtime.now, **fields)
    runtime.take()
    payload = {"job_id": JOB, "request_id": request_id, "current_status": "cancelled", "subscribed_from": 9}
    subscribed, ended = runtime.say("job.subscribed", payload)
    assert isinstance(subscribed, Subscribed)
    assert isinstance(ended, JobEnded)
    assert (ended.final_status, ended.code, ended.receipt) == ("cancelled", "CANCELLED", 0)


def test_an_end_that_is_still_due_is_awaited(runtime: ScriptedRuntime, numbered: ScriptedRuntime) -> None:
    numbered.accept()
    numbered.client.subscribe(JOB, 0, True, now=numbered.now)
    numbered.take()
    runtime.accept()
    for one in (runtime, numbered):
        payload = {"job_id": JOB, "request_id": one.cancel(), "final_status": "success"}
        one.only(CancelAcknowledged, one.say("job.cancelled", payload, event_seq=1))
        other = {"job_id": "job_2", "request_id": one.cancel("job_2"), "final_status": "success"}
        one.only(CancelAcknowledged, one.say("job.cancelled", other, event_seq=2))


def test_job_cancelled_answers_no_submit(runtime: ScriptedRuntime) -> None:
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
    assert answers == [CancelAcknowledged(request_id, JOB, 0, "cancelled") for request_id in (first, second)]
    assert isinstance(ended, JobEnded)
    assert (ended.final_status, ended.code, ended.retryable) == ("cancelled", "CANCELLED", False)
    assert refused(runtime, "session.error", error("JOB_NOT_FOUND")).request_id == other


# Events.


def test_an_event_is_handed_out(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    event = runtime.only(JobEvent, runtime.say("job.event", log(), job_id=JOB, event_seq=1))
    body = {"level": "info", "message": "hi"}
    assert event == JobEvent(JOB, 1, "log", "2026-01-01T00:00:00Z", body, 1, size=event.size, receipt=1)
    assert event.size >= len(json.dumps(body))


@pytest.mark.parametrize("details", [None, {"id": "cred_1", "value": "sk-new"}])
def test_the_new_value_of_a_credential_is_not_in_the_body_of_its_event(
    runtime: ScriptedRuntime, details: dict[str, str] | None
) -> None:
    runtime.accept()
    body = {"phase": "credential_rotated", "id": "cred_1", "value": "sk-new"}
    if details is not None:
        body["details"] = details
    said = {"kind": "status", "ts": "t", "body": body}
    event = runtime.only(JobEvent, runtime.say("job.event", said, job_id=JOB, event_seq=1))
    assert event.body == {"phase": "credential_rotated", "id": "cred_1"}
    assert event.value is not None and event.value.reveal() == "sk-new"
    assert "sk-new" not in repr(event)
    other = runtime.only(JobEvent, runtime.say("job.event", {**said, "kind": "log"}, job_id=JOB, event_seq=2))
    assert (other.value, other.body["value"]) == (None, "sk-new")


def test_an_event_of_an_unknown_job_without_a_number_is_handed_out(runtime: ScriptedRuntime) -> None:
    event = runtime.only(
        JobEvent, runtime.say("job.event", {"kind": "x-vendor.a.b", "body": 5, "job_id": "job_9"})
    )
    assert event == JobEvent(
        JobId("job_9"), 0, "x-vendor.a.b", "", {"value": 5}, 1, size=event.size, receipt=1
    )


def test_a_copy_of_an_event_is_dropped(runtime: ScriptedRuntime) -> None:
    assert len(runtime.say("job.event", log(), job_id=JOB, event_seq=1, id="e1")) == 1
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=1, id="e1") == []
    assert len(runtime.say("job.event", log(), job_id=JOB, event_seq=1, id="e2")) == 1


def test_a_bad_event_does_not_hold_back_later_ones(runtime: ScriptedRuntime) -> None:
    runtime.say("job.event", log("3"), job_id=JOB, event_seq=3)
    runtime.say_raw(json.dumps({"type": "job.zork", "job_id": JOB, "event_seq": 2}))
    events = runtime.say("job.event", {"kind": 5}, job_id=JOB, event_seq=1)
    assert numbers(events) == [3]


def test_events_held_back_at_a_bye_are_not_handed_out(runtime: ScriptedRuntime) -> None:
    for seq in range(3, 20):
        runtime.say("job.event", log(), job_id=JOB, event_seq=seq)
    runtime.say("session.bye", {}, event_seq=2)
    events = runtime.say("job.event", log(), job_id=JOB, event_seq=1)
    assert [type(event) for event in events] == [JobEvent, SessionClosed, ConnectionEnded]


def test_events_after_the_end_of_a_job_are_dropped(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=2) == []
    assert runtime.say("job.result", {"result": 2}, job_id=JOB, event_seq=3) == []
    runtime.submit()
    assert runtime.say("job.error", end("INTERNAL_ERROR"), job_id=JOB, event_seq=4) == []


def test_events_of_a_job_accepted_again_are_handed_out(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    runtime.accept()
    event = runtime.only(JobEnded, runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=2))
    assert event.result == 1


# Ends.


@pytest.mark.parametrize("name", ["result", "output", "value"])
@pytest.mark.parametrize("value", [1, "text", [None], False, 0, None])
def test_a_result_is_read_under_every_known_name(runtime: ScriptedRuntime, name: str, value: Any) -> None:
    runtime.accept()
    payload = {"final_status": "success", "completed_at": "t", name: value, "summary": "s"}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=1))
    assert event == JobEnded(JOB, 1, "success", "t", value, summary="s", job_seq=1, receipt=1)


def test_a_job_result_without_a_result_is_none(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    event = runtime.only(JobEnded, runtime.say("job.result", {"final_status": "completed"}, job_id=JOB))
    assert event == JobEnded(JOB, 0, "success", "", job_seq=1, receipt=1)


def test_the_result_of_an_unknown_job_is_handed_out(runtime: ScriptedRuntime) -> None:
    event = runtime.only(JobEnded, runtime.say("job.result", {"result": 5}, job_id="job_9"))
    assert (event.job_id, event.result) == ("job_9", 5)
    runtime.say("job.event", chunk(0, "x", more=False), job_id="job_8")
    session = runtime.state.session
    assert session is not None
    assert session.assembly.size == 0
    event = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1"}, job_id="job_8"))
    assert (event.final_status, event.result, event.result_id) == ("success", None, "res_1")


@pytest.mark.parametrize("code", [*ErrorCode, "SOMETHING_NEW"])
def test_a_job_error_with_any_code_ends_an_accepted_job(runtime: ScriptedRuntime, code: str) -> None:
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
        job_seq=1,
        receipt=1,
    )
    assert [type(answer) for answer in answers] == [CancelAcknowledged]


@pytest.mark.parametrize("code", [*ErrorCode, "SOMETHING_NEW"])
def test_a_job_error_without_completed_at_ends_an_accepted_job_without_requests(
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
def test_the_status_of_a_job_error_follows_its_code(
    runtime: ScriptedRuntime, payload: dict[str, Any], final_status: str
) -> None:
    runtime.accept()
    event = runtime.only(JobEnded, runtime.say("job.error", payload, job_id=JOB, event_seq=1))
    assert event.final_status == final_status


def test_the_job_error_of_an_unknown_job_is_handed_out(runtime: ScriptedRuntime) -> None:
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
def test_a_job_result_with_another_final_status_is_an_error(
    runtime: ScriptedRuntime, final_status: str, expected: str, code: str, summary: str | None
) -> None:
    runtime.accept()
    payload = {"final_status": final_status, "summary": summary, "result": "ignored"}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=1))
    assert (event.final_status, event.code, event.result) == (expected, code, None)
    assert event.message == (summary or FAILURES[expected][1])
    assert event.retryable is RETRYABLE[code]


# Streamed results.


def test_a_streamed_result_is_joined_and_its_chunks_are_events(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    first = runtime.only(JobEvent, runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1))
    assert (first.kind, first.body["data"]) == ("result_chunk", "ab")
    runtime.say("job.event", chunk(1, "c", more=False), job_id=JOB, event_seq=2)
    payload = {"final_status": "success", "completed_at": "t", "result_id": "res_1", "result_size": 3}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=3))
    assert event == JobEnded(JOB, 3, "success", "t", "abc", "res_1", 3, job_seq=3, receipt=3)


def test_a_streamed_result_that_the_user_reads_is_not_joined(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1)
    reader, early = runtime.client.stream_result(JOB, now=runtime.now)
    assert (early, reader.due) == ("ab", 1)
    event = runtime.only(
        JobEvent, runtime.say("job.event", chunk(1, "c", more=False), job_id=JOB, event_seq=2)
    )
    assert event.body["data"] == "c"
    session = runtime.state.session
    assert session is not None
    assert session.assembly.size == 0
    payload = {"final_status": "success", "completed_at": "t", "result_id": "res_1", "result_size": 3}
    end = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=3))
    assert end == JobEnded(JOB, 3, "success", "t", None, "res_1", 3, job_seq=3, receipt=3)


def test_a_result_of_a_job_that_is_not_followed_has_nothing_to_read(runtime: ScriptedRuntime) -> None:
    reader, early = runtime.client.stream_result(JOB, now=runtime.now)
    assert (early, reader.due) == ("", 0)


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
        ([chunk(0, "ab", more=False)], {"content_type": "application/json"}, "not JSON"),
    ],
)
def test_a_broken_stream_is_an_error_of_its_job_alone(
    runtime: ScriptedRuntime, chunks: list[Any], fields: dict[str, Any], message: str
) -> None:
    runtime.accept()
    for payload in chunks:
        runtime.only(JobEvent, runtime.say("job.event", payload, job_id=JOB))
    event = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1", **fields}, job_id=JOB))
    assert (event.final_status, event.code, event.retryable) == ("error", "INTERNAL_ERROR", True)
    assert message in event.message
    assert event.result is None
    runtime.accept("job_2")


def test_a_streamed_result_above_the_limit_is_not_kept() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_result_bytes=3)))
    runtime.welcome()
    runtime.accept()
    runtime.say("job.event", chunk(0, "abcd", more=False), job_id=JOB)
    event = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1"}, job_id=JOB))
    assert event.message == "the result is larger than 3 bytes"


def test_a_job_error_after_chunks_ends_with_the_error(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(1, "ab"), job_id=JOB)
    event = runtime.only(JobEnded, runtime.say("job.error", end("TIMEOUT", "timed_out"), job_id=JOB))
    assert (event.final_status, event.code, event.message) == ("timed_out", "TIMEOUT", "no")


# Observed jobs.


def subscribe(runtime: ScriptedRuntime, after: int | None = 0, **answer: Any) -> None:
    """Subscribe to a job with its history, and answer."""
    history = after is not None
    request_id = runtime.client.subscribe(JOB, after, history, now=runtime.now)
    runtime.take()
    payload = {"current_status": "running", "replayed": history, "job_seq": 9, **answer}
    runtime.say("job.subscribed", {"job_id": JOB, "request_id": request_id, **payload}, job_id=JOB)


def at(
    runtime: ScriptedRuntime, seq: int, position: int | None, payload: dict[str, Any] | None = None
) -> list[Event]:
    """Send an event of the job with a number of the session and a position; return the client's events."""
    return runtime.say("job.event", {**(payload or log()), "job_seq": position}, job_id=JOB, event_seq=seq)


def test_an_observed_event_tells_its_position(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    event = runtime.only(JobEvent, at(runtime, 1, 7))
    assert (event.seq, event.job_seq) == (1, 7)
    end = runtime.only(
        JobEnded, runtime.say("job.error", {**end_of("TIMEOUT"), "job_seq": 8}, job_id=JOB, event_seq=2)
    )
    assert (end.seq, end.job_seq, end.code) == (2, 8, "TIMEOUT")


@pytest.mark.parametrize("ending", ["job.result", "job.error"])
def test_a_repeated_end_of_a_job_is_a_copy(runtime: ScriptedRuntime, ending: str) -> None:
    subscribe(runtime, 4)
    payload = {**end_of("TIMEOUT"), "final_status": "timed_out"}
    assert runtime.say(ending, {**payload, "job_seq": 4}, job_id=JOB, event_seq=1) == []
    runtime.only(JobEnded, runtime.say(ending, {**payload, "job_seq": 5}, job_id=JOB, event_seq=2))


def end_of(code: str) -> dict[str, Any]:
    return end(code, "timed_out")


def test_events_of_a_subscription_that_was_taken_back_are_not_of_the_next_one(
    runtime: ScriptedRuntime,
) -> None:
    first = runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    second = runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    payload = {"job_id": JOB, "current_status": "running", "replayed": True, "job_seq": 2}
    runtime.only(Subscribed, runtime.say("job.subscribed", {**payload, "request_id": first}, job_id=JOB))
    assert at(runtime, 1, 1) == []
    runtime.only(Subscribed, runtime.say("job.subscribed", {**payload, "request_id": second}, job_id=JOB))
    assert [event.seq for event in (*at(runtime, 2, 1), *at(runtime, 3, 2))] == [2, 3]
    assert runtime.client.cursor == 1, "the first event does not wait for the user"


def test_a_subscription_from_above_the_last_event_brings_all_later_events(
    runtime: ScriptedRuntime,
) -> None:
    subscribe(runtime, 20)
    runtime.only(JobEvent, at(runtime, 1, 10))
    runtime.only(JobEnded, runtime.say("job.error", {**end_of("TIMEOUT"), "job_seq": 11}, job_id=JOB))


def test_an_event_of_a_job_that_is_not_followed_is_handed_out(runtime: ScriptedRuntime) -> None:
    """Check that the event holds the ack back until its receipt is processed."""
    event = runtime.only(JobEvent, at(runtime, 1, 7))
    assert runtime.client.cursor == 0
    runtime.client.mark_processed(JOB, event.receipt, now=runtime.now)
    assert runtime.client.cursor == 1


@pytest.mark.parametrize("after", [None, 3])
def test_a_subscription_brings_the_events_above_a_position(
    runtime: ScriptedRuntime, after: int | None
) -> None:
    subscribe(runtime, after, job_seq=3)
    assert at(runtime, 1, 2) + at(runtime, 2, 3) == []
    assert positions(at(runtime, 3, 4)) == [4]


def test_no_event_is_handed_out_after_an_unsubscribe(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    assert at(runtime, 1, 10) + at(runtime, 2, None) == []
    subscribe(runtime)
    assert positions(at(runtime, 3, 1)) == [1]


def test_an_unsubscribe_takes_back_a_subscribe_that_is_not_answered(runtime: ScriptedRuntime) -> None:
    request_id = runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    payload = {"job_id": JOB, "request_id": request_id, "current_status": "running"}
    runtime.only(Subscribed, runtime.say("job.subscribed", payload))
    assert runtime.state.session is not None
    assert not runtime.state.session.jobs


def test_a_submitted_job_is_not_unsubscribed(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    subscribe(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    runtime.only(JobEvent, runtime.say("job.event", log(), job_id=JOB, event_seq=1))


def test_the_number_of_unsubscribed_jobs_kept_is_limited() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_session_subscriptions=3)))
    runtime.welcome()
    for number in range(9):
        runtime.client.unsubscribe(JobId(f"job_{number}"), now=runtime.now)
    assert runtime.state.session is not None
    assert list(runtime.state.session.unwanted) == ["job_6", "job_7", "job_8"]


def test_the_history_of_a_submitted_job_comes_before_its_new_events(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    at(runtime, 1, 1, chunk(0, "a"))
    subscribe(runtime, job_seq=1)
    events = [
        *at(runtime, 2, 1, chunk(0, "a")),
        *at(runtime, 3, 1, chunk(0, "a")),
        *at(runtime, 4, 2, chunk(1, "b", more=False)),
    ]
    assert (numbers(events), positions(events)) == ([2, 4], [1, 2])
    event = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1"}, job_id=JOB, event_seq=5))
    assert event.result == "ab"


def test_an_ended_job_can_be_subscribed_again(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    subscribe(runtime, current_status="success", job_seq=1)
    payload = {"result": 1, "job_seq": 1}
    event = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=2))
    assert (event.result, event.job_seq) == (1, 1)


@pytest.mark.parametrize(
    ("after", "answer"),
    [(None, {}), (9, {}), (99, {"replayed": True}), (None, {"job_seq": 0})],
)
def test_an_ended_job_without_a_kept_history_is_not_awaited(
    runtime: ScriptedRuntime, after: int | None, answer: dict[str, Any]
) -> None:
    subscribe(runtime, after, current_status="success", **answer)
    assert runtime.state.session is not None
    assert not runtime.state.session.jobs


# Runtimes without positions, which may replay a history before their answer.


@pytest.fixture
def numbered() -> ScriptedRuntime:
    runtime = ScriptedRuntime()
    runtime.welcome(*NUMBERED)
    return runtime


def test_history_that_comes_before_the_answer_waits_for_it(numbered: ScriptedRuntime) -> None:
    request_id = numbered.client.subscribe(JOB, 0, True, now=numbered.now)
    numbered.take()
    assert numbered.say("job.event", log("1"), job_id=JOB, event_seq=1) == []
    assert numbered.say("job.error", end("CANCELLED", "cancelled"), job_id=JOB, event_seq=2) == []
    assert numbered.client.cursor == 0
    payload = {"job_id": JOB, "request_id": request_id, "current_status": "cancelled", "replayed": True}
    answer, event, ending = numbered.say("job.subscribed", payload)
    assert isinstance(answer, Subscribed)
    assert isinstance(event, JobEvent) and isinstance(ending, JobEnded)
    numbered.client.mark_processed(JOB, ending.receipt, now=numbered.now)
    assert numbered.client.cursor == 2


def test_history_behind_the_answer_is_handed_out_at_once(numbered: ScriptedRuntime) -> None:
    subscribe(numbered)
    assert numbers(numbered.say("job.event", log("1"), job_id=JOB, event_seq=1)) == [1]


@pytest.mark.parametrize(("after", "left"), [(None, 0), (9, 0), (3, 1)])
def test_an_ended_job_subscribed_above_its_last_number_is_not_awaited(
    numbered: ScriptedRuntime, after: int | None, left: int
) -> None:
    subscribe(numbered, after, job_seq=None, subscribed_from=9, current_status="success")
    assert numbered.state.session is not None
    assert len(numbered.state.session.jobs) == left


def test_the_history_of_a_refused_subscribe_is_dropped(numbered: ScriptedRuntime) -> None:
    request_id = numbered.client.subscribe(JOB, 0, True, now=numbered.now)
    numbered.take()
    numbered.say("job.event", log("1"), job_id=JOB, event_seq=1)
    payload = {"code": "PERMISSION_DENIED", "request_id": request_id}
    numbered.only(RequestRefused, numbered.say("session.error", payload))
    assert numbered.client.cursor == 1


def test_history_before_an_answer_that_a_drop_has_lost_comes_again() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(*NUMBERED)
    request_id = runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    runtime.say("job.event", log("1"), job_id=JOB, event_seq=1)
    runtime.reconnect(*NUMBERED)
    runtime.say("job.event", log("1"), job_id=JOB, event_seq=2)
    payload = {"job_id": JOB, "request_id": request_id, "current_status": "running", "replayed": True}
    assert numbers(runtime.say("job.subscribed", payload)) == [2]


def test_an_event_that_comes_too_early_and_finds_no_room_is_handed_out() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_history_events=1)))
    runtime.welcome(*NUMBERED)
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    assert runtime.say("job.event", log("1"), job_id=JOB, event_seq=1) == []
    assert numbers(runtime.say("job.event", log("2"), job_id=JOB, event_seq=2)) == [2]


# Errors without the name of a request.


def test_an_internal_error_without_a_request_id_concerns_the_connection_if_others_have_one(
    runtime: ScriptedRuntime,
) -> None:
    runtime.accept()
    runtime.submit()
    runtime.only(RequestRefused, runtime.say("session.error", error("INTERNAL_ERROR")))
    request_id = runtime.submit()
    refused(runtime, "session.error", error("INTERNAL_ERROR", request_id=request_id))
    request_id = runtime.submit()
    runtime.only(SessionFailed, runtime.say("session.error", error("INTERNAL_ERROR")))
    assert refused(runtime, "session.error", error("AGENT_NOT_AVAILABLE")).request_id == request_id, (
        "an error with another code may still answer it"
    )


def test_a_fatal_error_answers_no_request(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit()
    payload = error("INTERNAL_ERROR", details={"fatal": True})
    runtime.only(SessionFailed, runtime.say("session.error", payload))
    assert refused(runtime, "session.error", error("INTERNAL_ERROR")).request_id == request_id


def test_a_repeated_error_answers_one_request(runtime: ScriptedRuntime) -> None:
    first, second = runtime.submit(), runtime.submit()
    assert refused(runtime, "session.error", error("INVALID_REQUEST"), id="e1").request_id == first
    assert runtime.say("session.error", error("INVALID_REQUEST"), id="e1") == []
    assert refused(runtime, "session.error", error("INVALID_REQUEST"), id="e2").request_id == second


def test_a_repeated_job_accepted_without_a_request_id_answers_one_submit(runtime: ScriptedRuntime) -> None:
    runtime.submit()
    second = runtime.submit()
    assert len(runtime.say("job.accepted", accepted("job_1"), id="a1")) == 1
    assert runtime.say("job.accepted", accepted("job_1"), id="a1") == []
    event = runtime.only(JobAccepted, runtime.say("job.accepted", accepted("job_2"), id="a2"))
    assert event.request_id == second
