"""The client's session between its connections."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto import Framing
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.output import (
    CancelAcknowledged,
    ConnectionEnded,
    Detached,
    Dial,
    JobAccepted,
    JobEnded,
    JobEvent,
    JobLost,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    SessionLost,
    Subscribed,
    Welcomed,
)
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND, JobId, Monotonic, SessionId
from arcp_proto.limits import Limits
from arcp_proto.secret import Secret
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

GONE = {"code": "RESUME_WINDOW_EXPIRED", "message": "gone", "details": {"final": True}}


@pytest.fixture
def numbered() -> ScriptedRuntime:
    """Return a runtime that sends no positions, with a welcomed client."""
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(*NUMBERED)
    return runtime


def emit(runtime: ScriptedRuntime, first: int, last: int, job_id: str = JOB) -> list[int]:
    events = [
        event
        for seq in range(first, last + 1)
        for event in runtime.say("job.event", log(f"{seq}"), job_id=job_id, event_seq=seq, id=f"e{seq}")
    ]
    return numbers(events)


def resumption(cursor: int = 4, *jobs: ResumedJob) -> Resumption:
    return Resumption(SessionId("sess_1"), Secret("rt_1"), cursor, jobs)


# Detached and attached again.


def test_a_drop_is_reported_and_a_dial_requested_at_once(runtime: ScriptedRuntime) -> None:
    ended, detached = runtime.drop()
    assert isinstance(ended, ConnectionEnded)
    assert detached == Detached(SessionId("sess_1"), "", "the transport ended")
    assert runtime.dials == [Dial(Monotonic(runtime.now), 1)]
    assert runtime.client.session_id == "sess_1"


def test_an_error_before_the_end_gives_the_reason_of_a_drop(runtime: ScriptedRuntime) -> None:
    runtime.say("session.error", {"code": "INTERNAL_ERROR", "message": "events were evicted"})
    _, detached = runtime.drop()
    assert detached == Detached(SessionId("sess_1"), "INTERNAL_ERROR", "events were evicted")


def test_a_runtime_that_ends_each_connection_with_an_error_is_not_dialled_at_once(
    runtime: ScriptedRuntime,
) -> None:
    """Let a runtime answer something, and then end the connection with an error, again and again."""
    for attempt in range(1, 5):
        runtime.say("session.ping", {"nonce": "n"})
        runtime.say("session.error", {"code": "INTERNAL_ERROR", "message": "answers are not read"})
        runtime.drop()
        assert runtime.dials[-1].attempt == attempt
        runtime.connect()
        runtime.welcome()
    runtime.advance(1)
    runtime.say("session.error", {"code": "INTERNAL_ERROR", "message": "answers are not read"})
    runtime.drop()
    assert runtime.dials[-1].attempt == 1


def test_an_old_error_is_not_the_reason_of_a_drop(runtime: ScriptedRuntime) -> None:
    runtime.say("session.error", {"code": "INTERNAL_ERROR", "message": "too many requests"})
    runtime.advance(6)
    _, detached = runtime.drop()
    assert detached == Detached(SessionId("sess_1"), "", "the transport ended")


def test_an_error_is_not_the_reason_of_a_later_drop(runtime: ScriptedRuntime) -> None:
    runtime.say("session.error", {"code": "INTERNAL_ERROR", "message": "events were evicted"})
    runtime.drop()
    runtime.connect()
    runtime.welcome()
    _, detached = runtime.drop()
    assert detached == Detached(SessionId("sess_1"), "", "the transport ended")


def test_the_hello_holds_the_resume_in_both_forms(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 3)
    runtime.say("job.event", log(), job_id=JOB, event_seq=5)
    runtime.drop()
    hello = runtime.connect()
    assert hello["resume"] == {
        "session_id": "sess_1",
        "resume_token": "rt_1",
        "last_event_seq": 3,
        "replies": True,
    }
    assert (hello["resume_token"], hello["last_event_seq"]) == ("rt_1", 3)


def test_a_cursor_of_zero_is_sent(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    hello = runtime.connect()
    assert (hello["resume"]["last_event_seq"], hello["last_event_seq"]) == (0, 0)


def test_events_continue_after_a_resume_without_gap_or_copy(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 3)
    runtime.say("job.event", log("5"), job_id=JOB, event_seq=5, id="e5")
    welcomed = runtime.only(Welcomed, runtime.reconnect(resume_token="rt_2"))
    assert (welcomed.session_id, welcomed.resumed) == ("sess_1", True)
    assert emit(runtime, 2, 6) == [4, 5, 6]
    runtime.drop()
    assert runtime.connect()["resume"]["resume_token"] == "rt_2"


def test_a_welcome_without_a_token_keeps_the_last(runtime: ScriptedRuntime) -> None:
    runtime.reconnect(resume_token="")
    runtime.drop()
    assert runtime.connect()["resume"]["resume_token"] == "rt_1"


def test_events_processed_while_detached_are_acked_after_the_resume(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 2)
    runtime.drop()
    runtime.client.mark_processed(JOB, 1, now=runtime.now)
    assert runtime.client.cursor == 1
    runtime.connect()
    runtime.welcome()
    runtime.client.mark_processed(JOB, 2, now=runtime.now)
    runtime.advance(0.3)
    assert [ack["payload"]["last_processed_seq"] for ack in runtime.sent("session.ack")] == [2]


def test_a_streamed_result_is_joined_across_a_resume(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1)
    runtime.reconnect()
    runtime.say("job.event", chunk(1, "c", more=False), job_id=JOB, event_seq=2)
    end = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1"}, job_id=JOB, event_seq=3))
    assert end.result == "abc"


def test_a_resume_without_a_welcome_in_time_is_tried_again(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    runtime.connect()
    ended = runtime.only(ConnectionEnded, runtime.advance(10.1))
    assert ended.reason == "no welcome in time"
    assert [dial.attempt for dial in runtime.dials] == [1, 2]


def test_a_failed_dial_is_tried_again(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    for _ in range(5):
        runtime.client.dial_failed("refused", now=runtime.now)
        runtime.take()
    assert [dial.attempt for dial in runtime.dials] == [1, 2, 3, 4, 5, 6]
    assert all(
        0 <= dial.at - runtime.now <= 0.1 * 2 ** max(dial.attempt - 2, 0) * SECOND for dial in runtime.dials
    )
    assert len({dial.at for dial in runtime.dials}) > 3


def test_a_failed_dial_that_was_not_requested_is_ignored(runtime: ScriptedRuntime) -> None:
    runtime.client.dial_failed(now=runtime.now)
    ScriptedRuntime(ClientConfig()).client.dial_failed(now=runtime.now)
    assert runtime.take() == []
    assert runtime.dials == []


def test_session_bye_of_the_runtime_is_a_drop(runtime: ScriptedRuntime) -> None:
    kinds = [type(event) for event in runtime.say("session.bye", {"reason": "restart"})]
    assert kinds == [SessionClosed, ConnectionEnded, Detached]
    assert len(runtime.dials) == 1


def test_a_silent_runtime_is_a_drop() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(heartbeat_interval_sec=10)
    *_, detached = runtime.advance(21.1)
    assert isinstance(detached, Detached)
    assert detached.code == "HEARTBEAT_LOST"


def test_a_refused_first_connection_ends_the_client() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    assert len(runtime.say("session.error", {"code": "UNAUTHENTICATED"})) == 2
    assert runtime.dials == []
    assert runtime.state.timers.armed(TimerKind.GIVE_UP, 0) is None


# Requests.


def test_requests_made_while_detached_wait_for_the_resume(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    first, second = runtime.submit(), runtime.cancel()
    runtime.client.list_jobs(now=runtime.now)
    runtime.connect()
    assert runtime.received[-1]["type"] == "session.hello"
    runtime.welcome()
    sent = runtime.received[-3:]
    assert [frame["type"] for frame in sent] == ["job.submit", "job.cancel", "session.list_jobs"]
    assert [frame["id"] for frame in sent[:2]] == [first, second]
    assert {frame["session_id"] for frame in sent} == {"sess_1"}


def test_a_runtime_that_repeats_its_answers_gets_every_request_again(runtime: ScriptedRuntime) -> None:
    asked = [runtime.submit(), runtime.cancel("job_9"), runtime.submit(idempotency_key="k")]
    assert [type(event) for event in runtime.reconnect(replies=True)] == [Welcomed]
    assert [frame["id"] for frame in runtime.received[-3:]] == asked
    payload = accepted(request_id=asked[0])
    runtime.only(JobAccepted, runtime.say("job.accepted", payload))
    assert runtime.say("job.accepted", payload) == []
    runtime.reconnect(replies=True)
    assert [frame["id"] for frame in runtime.received[-2:]] == asked[1:]


def test_a_runtime_without_replies_gets_only_repeatable_requests_again(runtime: ScriptedRuntime) -> None:
    lost, cancel, keyed = runtime.submit(), runtime.cancel("job_9"), runtime.submit(idempotency_key="k")
    _, refused = runtime.reconnect()
    assert refused == RequestRefused(
        lost, "CONNECTION_LOST", "the answer was lost with the connection", False, None, {}
    )
    assert [frame["id"] for frame in runtime.received[-2:]] == [cancel, keyed]


def test_a_repeated_submit_keeps_its_trace(runtime: ScriptedRuntime) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    runtime.submit(traceparent=traceparent)
    runtime.reconnect(replies=True)
    first, again = runtime.sent("job.submit")
    assert first == again


def test_events_of_a_job_wait_for_a_lost_job_accepted(numbered: ScriptedRuntime) -> None:
    request_id = numbered.submit(idempotency_key="k")
    numbered.reconnect(*NUMBERED)
    assert emit(numbered, 1, 2) == []
    assert numbered.say("job.result", {"result": 5}, job_id=JOB, event_seq=3) == []
    assert numbered.client.cursor == 0
    answer, *rest = numbered.say("job.accepted", accepted(request_id=request_id))
    assert isinstance(answer, JobAccepted)
    assert numbers(rest[:2]) == [1, 2]
    assert isinstance(rest[2], JobEnded)


def test_events_with_positions_wait_for_a_lost_job_accepted(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.reconnect()
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=1) == []
    answer, *rest = runtime.say("job.accepted", accepted(request_id=request_id))
    assert isinstance(answer, JobAccepted)
    rest += runtime.say("job.event", log(), job_id=JOB, event_seq=2)
    assert positions(rest) == [1, 2]


@pytest.mark.parametrize("ending", ["job.result", "job.error"])
def test_events_that_wait_are_dropped_when_the_submit_is_refused(
    numbered: ScriptedRuntime, ending: str
) -> None:
    request_id = numbered.submit(idempotency_key="k")
    numbered.reconnect(*NUMBERED)
    emit(numbered, 1, 1)
    numbered.say(ending, {"code": "CANCELLED"}, job_id=JOB, event_seq=2)
    payload = {"code": "INTERNAL_ERROR", "request_id": request_id}
    other = numbered.submit()
    (refused,) = numbered.say("session.error", payload)
    assert isinstance(refused, RequestRefused)
    assert refused.request_id == request_id
    assert numbered.client.cursor == 2, "dropped events do not wait for the user"
    assert isinstance(numbered.say("job.accepted", accepted(request_id=other))[0], JobAccepted)


def test_a_waiting_request_too_large_for_a_new_framing_is_refused(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    request_id = runtime.submit(input="x" * 100_000)
    runtime.connect(Framing.LINES)
    welcome = '{"type":"session.welcome","payload":{"session_id":"sess_1","resume_token":"r"}}\n'
    _, refused = runtime.say_raw(welcome)
    assert isinstance(refused, RequestRefused)
    assert (refused.request_id, refused.code) == (request_id, "CONNECTION_LOST")


def test_waiting_requests_are_limited_in_number_and_bytes() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_pending_requests=6, max_control_bytes=3_000)))
    runtime.welcome()
    runtime.drop()
    for _ in range(2):
        runtime.submit(input="x" * 1_000)
    with pytest.raises(LocalProtocolError, match="too large together"):
        runtime.submit(input="x" * 1_000)
    assert len(runtime.state.session.requests if runtime.state.session else ()) == 2
    small = ScriptedRuntime(ClientConfig(limits=Limits(max_pending_requests=1)))
    small.welcome()
    small.drop()
    small.submit()
    with pytest.raises(LocalProtocolError, match="1 requests wait"):
        small.submit()


def test_a_request_too_large_to_keep_is_sent_once() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_control_bytes=3_000)))
    runtime.welcome()
    asked = [runtime.submit(input="x" * 1_000, idempotency_key=f"{number}") for number in range(3)]
    _, refused = runtime.reconnect(replies=True)
    assert isinstance(refused, RequestRefused)
    assert (refused.request_id, refused.code) == (asked[2], "CONNECTION_LOST")


def test_a_waiting_request_of_a_missing_feature_is_refused_at_the_welcome() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption())
    request_id = runtime.client.list_jobs(now=runtime.now)
    _, refused = runtime.welcome("ack")
    assert isinstance(refused, RequestRefused)
    assert (refused.request_id, refused.code) == (request_id, "NOT_NEGOTIATED")
    with pytest.raises(LocalProtocolError, match="does not offer subscribe"):
        runtime.client.subscribe(JOB, now=runtime.now)


def test_an_unsubscribe_is_repeated_after_a_resume(runtime: ScriptedRuntime) -> None:
    runtime.client.unsubscribe(JobId("job_5"), now=runtime.now)
    runtime.take()
    runtime.drop()
    runtime.client.unsubscribe(JobId("job_6"), now=runtime.now)
    runtime.connect()
    runtime.welcome()
    assert [frame["job_id"] for frame in runtime.sent("job.unsubscribe")] == ["job_5", "job_5", "job_6"]
    runtime.reconnect()
    assert len(runtime.sent("job.unsubscribe")) == 3


# Refused resumes.


def test_a_session_that_cannot_be_resumed_is_lost_and_another_opened(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 2)
    runtime.drop()
    runtime.connect()
    failed, ended, lost = runtime.say("session.error", GONE)
    assert isinstance(failed, SessionFailed) and isinstance(ended, ConnectionEnded)
    assert lost == SessionLost(SessionId("sess_1"), "RESUME_WINDOW_EXPIRED", "gone", final=False)
    assert runtime.dials[-1].at == runtime.now
    hello = runtime.connect()
    assert not {"resume", "resume_token", "last_event_seq"} & set(hello)
    welcomed = runtime.only(Welcomed, runtime.welcome(session_id="sess_2"))
    assert not welcomed.resumed
    (subscribe,) = runtime.sent("job.subscribe")
    assert subscribe["payload"] == {"job_id": JOB, "from_job_seq": 2, "history": True}


def test_a_welcome_with_another_session_id_loses_the_session(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    runtime.connect()
    lost, welcomed = runtime.welcome(session_id="sess_2")
    assert isinstance(lost, SessionLost)
    assert isinstance(welcomed, Welcomed)
    assert (lost.session_id, lost.final, welcomed.resumed) == ("sess_1", False, False)
    assert runtime.client.session_id == "sess_2"


def test_a_session_without_a_token_is_lost_with_its_connection() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(resume_token="")
    assert runtime.client.resumption() is None
    _, lost = runtime.drop()
    assert isinstance(lost, SessionLost)
    assert "resume" not in runtime.connect()


def test_a_new_session_refuses_submits_in_doubt_and_repeats_other_requests(
    runtime: ScriptedRuntime,
) -> None:
    lost, keyed, cancel = runtime.submit(), runtime.submit(idempotency_key="k"), runtime.cancel("job_5")
    runtime.drop()
    fresh = runtime.submit()
    runtime.connect()
    events = runtime.welcome(session_id="sess_2", replies=True)
    assert [event.request_id for event in events if isinstance(event, RequestRefused)] == [lost]
    assert [frame["id"] for frame in runtime.received[-3:]] == [keyed, cancel, fresh]


def test_a_subscribe_that_was_taken_back_is_taken_back_in_the_next_session(runtime: ScriptedRuntime) -> None:
    request_id = runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    runtime.reconnect(session_id="sess_2")
    assert [frame["type"] for frame in runtime.received[-2:]] == ["job.subscribe", "job.unsubscribe"]
    answer = {"job_id": JOB, "current_status": "running", "request_id": request_id, "replayed": True}
    runtime.only(Subscribed, runtime.say("job.subscribed", answer, job_id=JOB))
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=1) == []


def child(job_id: str) -> dict[str, Any]:
    return {"kind": "delegate", "ts": "", "body": {"child_job_id": job_id, "agent": "a", "lease": {}}}


def test_events_of_a_known_child_do_not_wait_for_job_accepted(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", child("job_2"), job_id=JOB, event_seq=1)
    runtime.submit()
    runtime.reconnect(replies=True)
    (event,) = runtime.say("job.event", log("of the child"), job_id="job_2", event_seq=2)
    assert isinstance(event, JobEvent) and event.job_id == "job_2"


def test_events_of_a_child_wait_with_its_delegate_event(numbered: ScriptedRuntime) -> None:
    request_id = numbered.submit()
    numbered.reconnect(*NUMBERED, replies=True)
    waiting = [
        *numbered.say("job.event", child("job_2"), job_id=JOB, event_seq=1),
        *numbered.say("job.event", child("job_3"), job_id="job_2", event_seq=2),
        *numbered.say("job.event", log("of the grandchild"), job_id="job_3", event_seq=3),
        *numbered.say("job.event", log(), job_id=JOB, event_seq=4),
    ]
    assert waiting == []
    events = numbered.say("job.accepted", accepted(JOB, request_id=request_id), job_id=JOB)
    assert [event.seq for event in events if isinstance(event, JobEvent)] == [1, 2, 3, 4]


def test_events_wait_for_a_job_accepted_that_is_no_longer_replayed(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit()
    runtime.reconnect(replies=True)
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=1) == []
    answer, event = runtime.say("job.accepted", accepted(JOB, request_id=request_id), job_id=JOB)
    assert isinstance(answer, JobAccepted) and isinstance(event, JobEvent)
    assert (event.seq, event.job_seq) == (1, 1)


def test_events_of_jobs_of_an_earlier_process_wait_until_every_submit_is_answered() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption())
    runtime.welcome()
    request_id = runtime.submit()
    runtime.reconnect(replies=True)
    first = runtime.client.cursor + 1
    assert runtime.say("job.event", log(), job_id="job_9", event_seq=first) == []
    answer, event = runtime.say("job.accepted", accepted(JOB, request_id=request_id), job_id=JOB)
    assert isinstance(answer, JobAccepted) and isinstance(event, JobEvent)
    assert (answer.job_id, event.job_id) == (JOB, "job_9")


def test_the_end_of_an_unknown_child_refuses_no_request_of_a_restarted_client() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption())
    runtime.welcome()
    runtime.submit()
    at = "2026-01-01T00:00:00Z"
    end = {"code": "CANCELLED", "message": "", "final_status": "cancelled", "completed_at": at}
    (event,) = runtime.say("job.error", end, job_id="job_2", event_seq=5)
    assert isinstance(event, JobEnded) and event.job_id == "job_2"


def test_refusals_of_other_runtimes_are_final_after_three_intervals(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 3)
    asked = []
    runtime.drop()
    began = runtime.now
    while not any(isinstance(event, SessionLost) for event in runtime.events):
        asked.append(runtime.connect()["last_event_seq"])
        runtime.say("session.error", {"code": "RESUME_WINDOW_EXPIRED", "message": "still attached"})
    assert runtime.now - began >= 105 * SECOND
    assert asked == [(3, 2)[number % 2] for number in range(len(asked))]


def test_a_bearer_refused_three_times_ends_the_client(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    pending = runtime.submit()
    runtime.drop()
    events = []
    for _ in range(3):
        runtime.connect()
        events = runtime.say("session.error", {"code": "UNAUTHENTICATED", "message": "expired"})
    assert isinstance(events[0], SessionFailed)
    assert isinstance(events[1], ConnectionEnded)
    assert events[2] == SessionLost(SessionId("sess_1"), "UNAUTHENTICATED", "expired", final=True)
    assert isinstance(events[3], RequestRefused)
    assert (events[3].request_id, events[3].code) == (pending, "CONNECTION_LOST")
    assert isinstance(events[4], JobLost)
    assert (events[4].job_id, events[4].code) == (JOB, "UNAUTHENTICATED")
    assert len(runtime.dials) == 3
    assert (runtime.state.session, runtime.client.resumption()) == (None, None)


def test_a_refused_token_ends_a_client_that_has_no_other_one() -> None:
    runtime = ScriptedRuntime(ClientConfig(fresh_tokens=False))
    runtime.welcome()
    runtime.accept()
    runtime.drop()
    runtime.connect()
    *_, lost, job = runtime.say("session.error", {"code": "UNAUTHENTICATED", "message": "expired"})
    assert isinstance(lost, SessionLost) and (lost.code, lost.final) == ("UNAUTHENTICATED", True)
    assert isinstance(job, JobLost) and job.message.endswith("no other token: expired")
    assert len(runtime.dials) == 1


SUPERSEDED = {"code": "UNAUTHENTICATED", "message": "elsewhere", "details": {"reason": "superseded"}}


def test_a_session_that_was_taken_over_is_taken_back_once(runtime: ScriptedRuntime) -> None:
    *_, ended, detached = runtime.say("session.error", SUPERSEDED)
    assert isinstance(ended, ConnectionEnded)
    assert isinstance(detached, Detached)
    assert (ended.who, detached.code) == ("peer", "UNAUTHENTICATED")
    assert SECOND <= runtime.dials[-1].at - runtime.now <= 5 * SECOND
    runtime.connect()
    runtime.welcome()
    lost = runtime.say("session.error", SUPERSEDED)[-1]
    assert isinstance(lost, SessionLost)
    assert lost.final
    assert len(runtime.dials) == 1


def test_an_error_of_the_connection_is_not_the_end_of_the_session(runtime: ScriptedRuntime) -> None:
    runtime.only(SessionFailed, runtime.say("session.error", {"code": "UNAUTHENTICATED"}))
    assert isinstance(runtime.drop()[-1], Detached)


def test_a_message_that_is_always_too_large_loses_the_session_and_its_jobs(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 1)
    ended, detached = runtime.carry_out(runtime.connection.too_large(now=runtime.now))
    assert isinstance(ended, ConnectionEnded)
    assert isinstance(detached, Detached)
    runtime.connect()
    runtime.welcome()
    emit(runtime, 2, 2)
    assert len(runtime.carry_out(runtime.connection.too_large(now=runtime.now))) == 2
    runtime.connect()
    runtime.welcome()
    _, lost, job = runtime.carry_out(runtime.connection.too_large(now=runtime.now))
    assert isinstance(lost, SessionLost)
    assert isinstance(job, JobLost)
    assert (lost.code, lost.final, job.job_id) == ("INVALID_REQUEST", False, JOB)
    assert "resume" not in runtime.connect()
    runtime.only(Welcomed, runtime.welcome(session_id="sess_2"))
    runtime.accept()
    assert isinstance(runtime.carry_out(runtime.connection.too_large(now=runtime.now))[1], Detached)


# Giving up.


def test_a_detached_session_is_given_up_after_its_resume_window(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.drop()
    assert runtime.advance(599.9) == []
    lost, job = runtime.advance(0.2)
    assert isinstance(lost, SessionLost)
    assert isinstance(job, JobLost)
    assert (lost.final, job.job_id) == (True, JOB)
    assert runtime.state.timers.keys() == []


def test_giving_up_ends_a_connection_without_a_welcome() -> None:
    runtime = ScriptedRuntime(ClientConfig(give_up_sec=20))
    runtime.welcome()
    runtime.drop()
    runtime.advance(15)
    runtime.connect()
    ended, lost = runtime.advance(5.1)
    assert isinstance(ended, ConnectionEnded)
    assert isinstance(lost, SessionLost)
    assert (lost.code, lost.final) == ("RESUME_WINDOW_EXPIRED", True)
    assert lost.reason == "the runtime was not reached for 20 s"
    assert len(runtime.dials) == 1


def test_the_time_to_give_up_counts_from_the_last_drop(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    runtime.advance(500)
    runtime.connect()
    runtime.welcome()
    assert runtime.advance(1000) == []
    runtime.drop()
    assert runtime.advance(599) == []


# Closing and leaving.


def test_a_close_while_detached_needs_no_connection(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    request_id = runtime.submit()
    runtime.client.close("done", now=runtime.now)
    refused, closed = runtime.take()
    assert isinstance(refused, RequestRefused)
    assert refused.request_id == request_id
    assert closed == SessionClosed("done")
    assert runtime.state.session is None
    runtime.client.dial_failed(now=runtime.now)
    assert runtime.advance(1000) == []
    assert len(runtime.dials) == 1


def test_a_close_before_the_welcome_of_a_resume_ends_at_once(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    runtime.connect()
    runtime.client.close(now=runtime.now)
    assert [type(event) for event in runtime.take()] == [ConnectionEnded, SessionClosed]
    assert runtime.state.session is None


def test_a_drop_during_a_close_ends_the_session(runtime: ScriptedRuntime) -> None:
    runtime.client.close(now=runtime.now)
    runtime.take()
    runtime.only(ConnectionEnded, runtime.drop())
    assert runtime.state.session is None
    assert runtime.dials == []


def test_a_client_that_leaves_can_resume_later(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 2)
    runtime.client.mark_processed(JOB, 1, now=runtime.now)
    runtime.client.detach(now=runtime.now)
    runtime.only(ConnectionEnded, runtime.take())
    assert runtime.sent("session.close") == []
    assert runtime.client.resumption() == Resumption(
        SessionId("sess_1"), found_token(runtime), 1, (ResumedJob(JOB, 1, own=True),)
    )
    with pytest.raises(LocalProtocolError, match="no session is open"):
        runtime.submit()
    assert runtime.advance(1000) == []
    assert runtime.dials == []
    assert runtime.connect()["last_event_seq"] == 2
    runtime.welcome()
    runtime.submit()


def found_token(runtime: ScriptedRuntime) -> Secret:
    session = runtime.state.session
    assert session is not None and session.token is not None
    return session.token


def test_a_client_that_leaves_while_detached_gets_no_dial(runtime: ScriptedRuntime) -> None:
    runtime.drop()
    runtime.client.detach(now=runtime.now)
    runtime.client.dial_failed(now=runtime.now)
    assert runtime.take() == []
    assert len(runtime.dials) == 1
    assert runtime.client.resumption() is not None
    assert runtime.state.timers.keys() == []


# Another process.


def test_a_restarted_client_continues_behind_the_cursor() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption(4, ResumedJob(JOB, 7)))
    runtime.positions[JOB] = 6
    hello = runtime.sent("session.hello")[0]["payload"]
    assert hello["resume"]["resume_token"] == "rt_1"
    assert (hello["resume"]["session_id"], hello["last_event_seq"]) == ("sess_1", 4)
    welcomed = runtime.only(Welcomed, runtime.welcome(resume_token="rt_2"))
    assert welcomed.resumed
    assert emit(runtime, 3, 6) == [5, 6]
    again = runtime.client.resumption()
    assert again is not None
    assert (again.cursor, again.token.reveal(), again.jobs) == (4, "rt_2", (ResumedJob(JOB, 7),))


def test_a_restarted_client_that_cannot_connect_dials() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption())
    runtime.only(ConnectionEnded, runtime.drop())
    assert len(runtime.dials) == 1
    assert runtime.state.timers.armed(TimerKind.GIVE_UP, 0) is not None


def test_a_restarted_client_recovers_the_jobs_of_a_lost_session() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption(4, ResumedJob(JOB, 3)))
    runtime.say("session.error", GONE)
    runtime.connect()
    runtime.welcome(session_id="sess_2")
    (subscribe,) = runtime.sent("job.subscribe")
    assert subscribe["payload"] == {"job_id": JOB, "from_job_seq": 3, "history": True}


def test_a_restarted_client_observes_jobs_behind_again() -> None:
    job = ResumedJob(JOB, 3, observed=True, behind=True)
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption(4, job))
    runtime.welcome()
    late = {**log(), "job_seq": 9}
    assert runtime.say("job.event", late, job_id=JOB, event_seq=5) == []
    (subscribe,) = runtime.sent("job.subscribe")
    answer = {"job_id": JOB, "request_id": subscribe["id"], "current_status": "running", "replayed": True}
    runtime.only(Subscribed, runtime.say("job.subscribed", answer))
    for seq, home in ((6, 3), (7, 4), (8, 9)):
        runtime.say("job.event", {**log(), "job_seq": home}, job_id=JOB, event_seq=seq)
    assert numbers(runtime.events) == [7, 8]


def test_a_restarted_client_can_cancel_a_job_by_its_id() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption(4, ResumedJob(JOB, 4)))
    request_id = runtime.cancel()
    runtime.welcome()
    payload = {"job_id": JOB, "request_id": request_id}
    answer = runtime.only(CancelAcknowledged, runtime.say("job.cancelled", payload, event_seq=5))
    assert answer.request_id == request_id


def test_a_restarted_client_follows_jobs_accepted_after_the_last_store() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption(0))
    runtime.welcome()
    runtime.say("job.event", chunk(0, "ab", more=False), job_id=JOB, event_seq=1)
    runtime.say("job.event", {**chunk(0, "c", more=False), "job_seq": 9}, job_id="job_2", event_seq=2)
    kept = runtime.client.resumption()
    assert kept is not None
    assert kept.jobs == (
        ResumedJob(JOB, keyed=True),
        ResumedJob(JobId("job_2"), 8, keyed=True),
    )
    end = runtime.only(JobEnded, runtime.say("job.result", {"result_id": "res_1"}, job_id=JOB, event_seq=3))
    assert end.result == "ab"
    payload = {"result_id": "res_1", "job_seq": 10}
    end = runtime.only(JobEnded, runtime.say("job.result", payload, job_id="job_2", event_seq=4))
    assert end.result == "c"
    runtime.client.unsubscribe(JobId("job_3"), now=runtime.now)
    runtime.take()
    assert runtime.say("job.event", log(), job_id="job_3", event_seq=5) == []


# Without resuming.


def test_without_resuming_the_session_ends_with_its_connection() -> None:
    runtime = ScriptedRuntime(ClientConfig(resume=False))
    runtime.welcome()
    runtime.only(ConnectionEnded, runtime.drop())
    assert (runtime.dials, runtime.state.session) == ([], None)
    assert "resume" not in runtime.connect()


def test_without_resuming_a_resumption_is_still_tried() -> None:
    runtime = ScriptedRuntime(ClientConfig(resume=False), resumption=resumption())
    runtime.drop()
    assert runtime.dials == []
    assert runtime.connect()["resume_token"] == "rt_1"


def test_no_repr_of_a_resumption_shows_a_secret(runtime: ScriptedRuntime) -> None:
    runtime.reconnect(resume_token="rt_very_secret")
    runtime.drop()
    things: list[Any] = [runtime.events, runtime.client, runtime.state.session, runtime.client.resumption()]
    assert all("very_secret" not in repr(thing) for thing in things)
