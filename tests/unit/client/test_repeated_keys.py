"""Submits that repeat the key of an earlier job, whose events the runtime does not send unasked (§7.2)."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import Event, JobAccepted, JobEnded, JobEvent, JobLost, SubscriptionEnded
from arcp_proto.ids import SECOND, JobId
from arcp_proto.wire.timestamps import format_time
from tests.unit.scripted_runtime import JOB, NUMBERED, UNIX, ScriptedRuntime, accepted, log

FIRST_TRACE = "ab" * 16


def repeat(runtime: ScriptedRuntime, trace_id: str | None = FIRST_TRACE, **fields: Any) -> None:
    """Accept a submit with a key as the job of an earlier submit."""
    request_id = runtime.submit(idempotency_key="k")
    if trace_id is not None:
        fields["trace_id"] = trace_id
    (event,) = runtime.say("job.accepted", accepted(**fields), job_id=JOB, trace_id=trace_id)
    assert isinstance(event, JobAccepted)
    assert event.request_id == request_id


def asked(runtime: ScriptedRuntime) -> list[dict[str, Any]]:
    return [frame["payload"] for frame in runtime.sent("job.subscribe")]


def answer(runtime: ScriptedRuntime, **fields: Any) -> list[Event]:
    payload = {"job_id": JOB, "current_status": "running", "agent": "echo", "replayed": True, **fields}
    return runtime.say("job.subscribed", payload)


def said(runtime: ScriptedRuntime, seq: int, text: str, **payload: Any) -> list[str]:
    events = runtime.say("job.event", {**log(text), **payload}, job_id=JOB, event_seq=seq)
    return [event.body["message"] for event in events if isinstance(event, JobEvent)]


WITH_HISTORY = {"job_id": JOB, "from_job_seq": 0, "history": True}


def test_a_silent_job_of_a_key_is_observed_after_a_second(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    runtime.advance(0.9)
    assert asked(runtime) == []
    runtime.advance(0.2)
    assert asked(runtime) == [WITH_HISTORY]
    runtime.advance(60)
    assert len(asked(runtime)) == 1


def test_a_job_of_a_key_that_sends_events_is_not_observed(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    assert said(runtime, 1, "a") == ["a"]
    runtime.advance(60)
    assert asked(runtime) == []


def test_a_job_of_a_key_that_ends_is_not_observed(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    (event,) = runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    assert isinstance(event, JobEnded)
    runtime.advance(60)
    assert asked(runtime) == []


def test_the_history_of_a_key_may_precede_its_answer(runtime: ScriptedRuntime) -> None:
    """Replay the history first, as the runtimes in TypeScript and Python do, with numbers of this session."""
    runtime.reconnect(*NUMBERED)
    repeat(runtime)
    runtime.advance(1)
    assert said(runtime, 1, "a") + said(runtime, 2, "b") == ["a", "b"]
    answer(runtime, subscribed_from=2)
    assert said(runtime, 3, "c") == ["c"]
    (end,) = runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=4)
    assert isinstance(end, JobEnded) and end.result == 1


def test_the_history_of_a_key_may_follow_its_answer(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    runtime.advance(1)
    answer(runtime)
    assert said(runtime, 1, "a", job_seq=7) + said(runtime, 2, "b", job_seq=8) == ["a", "b"]
    assert said(runtime, 3, "a", job_seq=7) == [], "a copy"


def test_events_that_come_during_the_subscribe_are_handed_out_once(runtime: ScriptedRuntime) -> None:
    """Send the first event of a silent job during the subscribe, live and again with its history."""
    repeat(runtime)
    runtime.advance(1)
    assert said(runtime, 1, "b", job_seq=2) == ["b"]
    answer(runtime, job_seq=3)
    came = [said(runtime, seq, "x", job_seq=at) for seq, at in ((2, 1), (3, 2), (4, 3), (5, 4))]
    assert came == [[], [], ["x"], ["x"]]
    assert said(runtime, 6, "e") == ["e"]


@pytest.mark.parametrize("message_type", ["job.error", "session.error"])
def test_a_job_of_a_key_that_is_forgotten_is_lost(runtime: ScriptedRuntime, message_type: str) -> None:
    repeat(runtime)
    runtime.advance(1)
    error = {"final_status": "error", "code": "JOB_NOT_FOUND", "message": "no such job", "retryable": False}
    (lost,) = runtime.say(message_type, error, job_id=JOB)
    assert isinstance(lost, JobLost)
    assert (lost.job_id, lost.code) == (JOB, "JOB_NOT_FOUND")
    assert "idempotency key" in lost.message and "no such job" in lost.message
    assert runtime.state.session is not None and JOB not in runtime.state.session.jobs


def test_an_ended_job_of_a_key_without_history_is_lost(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    runtime.advance(1)
    (lost,) = answer(runtime, current_status="success", replayed=False)
    assert isinstance(lost, JobLost)


@pytest.mark.parametrize(("code", "retryable"), [("INVALID_REQUEST", False), ("INTERNAL_ERROR", True)])
def test_a_job_of_a_key_that_cannot_be_observed_is_awaited(
    runtime: ScriptedRuntime, code: str, retryable: bool
) -> None:
    repeat(runtime)
    for _ in range(10):
        runtime.advance(1)
        if len(asked(runtime)) > 0 and runtime.state.session and len(runtime.state.session.requests):
            request_id = runtime.sent("job.subscribe")[-1]["id"]
            payload = {"code": code, "message": "no", "retryable": retryable, "request_id": request_id}
            assert runtime.say("session.error", payload) == []
    assert len(asked(runtime)) == (5 if retryable else 1)
    assert said(runtime, 1, "a") == ["a"]


def test_a_job_that_the_submit_itself_has_started_is_not_observed(runtime: ScriptedRuntime) -> None:
    runtime.submit(idempotency_key="k")
    (submit,) = runtime.sent("job.submit")
    now = format_time(runtime.state.unix)
    runtime.say("job.accepted", accepted(accepted_at=now), job_id=JOB, trace_id=submit["trace_id"])
    runtime.advance(60)
    assert asked(runtime) == []


@pytest.mark.parametrize("age", [4, 6])
def test_a_trace_id_of_an_earlier_job_makes_the_client_observe_it(runtime: ScriptedRuntime, age: int) -> None:
    """Repeat the trace id for a job that was accepted before, as the runtime in Java does."""
    runtime.submit(idempotency_key="k")
    (submit,) = runtime.sent("job.submit")
    earlier = format_time(runtime.state.unix - age * SECOND)
    assert runtime.state.unix >= UNIX
    runtime.say("job.accepted", accepted(accepted_at=earlier), job_id=JOB, trace_id=submit["trace_id"])
    runtime.advance(2)
    assert len(asked(runtime)) == (age > 5)


def test_a_trace_id_of_the_user_does_not_show_a_new_job(runtime: ScriptedRuntime) -> None:
    runtime.submit(idempotency_key="k", traceparent=f"00-{FIRST_TRACE}-{'12' * 8}-01")
    now = format_time(runtime.state.unix)
    runtime.say("job.accepted", accepted(accepted_at=now), job_id=JOB, trace_id=FIRST_TRACE)
    runtime.advance(2)
    assert asked(runtime) == [WITH_HISTORY]


def test_a_repeated_submit_may_be_answered_by_its_own_job(
    runtime: ScriptedRuntime,
) -> None:
    """Lose the first answer, and the events behind it, with the session."""
    runtime.submit(idempotency_key="k")
    runtime.reconnect(session_id="sess_2")
    submit = runtime.sent("job.submit")[-1]
    now = format_time(runtime.state.unix)
    runtime.say("job.accepted", accepted(accepted_at=now), job_id=JOB, trace_id=submit["trace_id"])
    runtime.advance(2)
    assert asked(runtime) == [WITH_HISTORY]


@pytest.mark.parametrize("status", ["success", "completed", "failed", "cancelled"])
def test_an_ended_job_of_a_key_is_observed_at_once(runtime: ScriptedRuntime, status: str) -> None:
    repeat(runtime, status=status)
    assert asked(runtime) == [WITH_HISTORY]


def test_without_subscribe_a_job_of_a_key_is_awaited() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome("list_jobs")
    repeat(runtime, status="success")
    runtime.advance(60)
    assert asked(runtime) == []
    assert said(runtime, 1, "a") == ["a"]


def test_a_resumed_session_subscribes_a_second_after_its_welcome(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    runtime.drop()
    runtime.advance(2)
    runtime.connect()
    runtime.welcome()
    assert asked(runtime) == []
    runtime.advance(1)
    assert asked(runtime) == [WITH_HISTORY]


def test_a_new_session_subscribes_to_a_job_of_a_key_like_any_other(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    runtime.reconnect(session_id="sess_2")
    assert asked(runtime) == [WITH_HISTORY]
    runtime.advance(5)
    assert len(asked(runtime)) == 1


def test_an_unsubscribe_keeps_a_job_that_the_session_may_have_submitted(runtime: ScriptedRuntime) -> None:
    """Unsubscribe from a job whose events the runtime may send without a subscription too."""
    repeat(runtime)
    runtime.advance(1)
    answer(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    assert said(runtime, 1, "a") == ["a"]
    assert runtime.state.session is not None and JOB in runtime.state.session.jobs


def test_a_job_that_cannot_be_observed_in_another_session_is_lost(runtime: ScriptedRuntime) -> None:
    """Refuse the subscribe in another session, which receives no events of the job without it."""
    repeat(runtime)
    runtime.reconnect(session_id="sess_2")
    request_id = runtime.sent("job.subscribe")[-1]["id"]
    payload = {"code": "INVALID_REQUEST", "message": "too many", "request_id": request_id}
    (lost,) = runtime.say("session.error", payload)
    assert isinstance(lost, JobLost)
    assert (lost.job_id, lost.message) == (JOB, "too many")


def test_a_followed_job_of_a_key_is_not_subscribed_again(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", accepted(request_id=request_id), job_id=JOB)
    assert said(runtime, 1, "a") == ["a"]
    repeat(runtime)
    runtime.advance(60)
    assert asked(runtime) == []


def test_a_subscription_of_a_job_of_a_key_that_ends_is_renewed(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    runtime.advance(1)
    answer(runtime)
    assert said(runtime, 1, "a", job_seq=7) == ["a"]
    notice = {
        "kind": "status",
        "ts": "t",
        "body": {"phase": "unsubscribed", "message": "too slow"},
        "job_seq": None,
    }
    (ended,) = runtime.say("job.event", notice, job_id=JOB, event_seq=2)
    assert isinstance(ended, SubscriptionEnded)
    runtime.advance(1)
    assert asked(runtime)[-1]["from_job_seq"] == 7


def test_a_cut_history_of_a_key_doubles_no_event(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    assert said(runtime, 1, "a") + said(runtime, 2, "b") == ["a", "b"]
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert said(runtime, 3, "c") == ["c"], "the event arrives without the subscription, before the history"
    notice = {"kind": "status", "ts": "t", "body": {"phase": "unsubscribed"}, "job_seq": None}
    (ended,) = runtime.say("job.event", notice, job_id=JOB, event_seq=4)
    assert isinstance(ended, SubscriptionEnded)
    runtime.advance(1)
    assert asked(runtime)[-1]["from_job_seq"] == 3


def test_a_restarted_client_subscribes_to_a_silent_job_of_a_key(runtime: ScriptedRuntime) -> None:
    repeat(runtime)
    again = ScriptedRuntime(ClientConfig(), resumption=runtime.client.resumption())
    again.welcome()
    again.advance(1)
    assert asked(again) == [WITH_HISTORY]


def test_a_repeated_key_works_without_resuming_sessions() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome()
    repeat(runtime)
    runtime.advance(1)
    assert asked(runtime) == [WITH_HISTORY]
    assert JobId(asked(runtime)[0]["job_id"]) == JOB
