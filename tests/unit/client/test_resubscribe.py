"""Jobs that the client subscribes to again by itself, after a lost session or an ended subscription."""

from __future__ import annotations

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.client.resubscribe import MOST_REFUSALS, WINDOW
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.output import (
    JobEnded,
    JobEvent,
    JobLost,
    RequestRefused,
    SessionLost,
    Subscribed,
    SubscriptionEnded,
    Welcomed,
)
from arcp_proto.ids import JobId, SessionId
from arcp_proto.secret import Secret
from tests.unit.resubscribing import (
    UNSUBSCRIBED,
    accept_by_key,
    another_process,
    answer,
    at,
    lose,
    own,
    refuse,
    subscribe,
    subscribes,
)
from tests.unit.scripted_runtime import JOB, ScriptedRuntime, chunk, log, numbers, positions

# A lost session.


def test_a_recovered_job_continues_behind_the_events_handed_out(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    for seq in (1, 2):
        runtime.say("job.event", log(), job_id=JOB, event_seq=seq)
    lose(runtime)
    assert subscribes(runtime) == [(JOB, 2)]
    subscribed = runtime.only(Subscribed, answer(runtime))
    assert (subscribed.request_id, subscribed.job_id, subscribed.replayed) == (None, JOB, True)
    events = at(runtime, 1, 2) + at(runtime, 2, 3) + at(runtime, 3, 7)
    assert (numbers(events), positions(events)) == ([2, 3], [3, 7])
    end = runtime.only(
        JobEnded, runtime.say("job.result", {"result": 5, "job_seq": 8}, job_id=JOB, event_seq=4)
    )
    assert (end.result, end.job_seq) == (5, 8)
    assert runtime.client.resumption() is not None


def test_a_second_loss_continues_where_the_first_recovery_stopped(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    at(runtime, 1, 4)
    lose(runtime)
    lose(runtime)
    assert subscribes(runtime) == [(JOB, 0), (JOB, 4), (JOB, 4)]


def test_a_streamed_result_is_joined_across_a_lost_session(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1)
    lose(runtime)
    answer(runtime)
    runtime.say("job.event", {**chunk(1, "c", more=False), "job_seq": 2}, job_id=JOB, event_seq=1)
    payload = {"result_id": "res_1", "result_size": 3, "job_seq": 3}
    end = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=2))
    assert (end.result, end.code) == ("abc", "")


def test_a_streamed_result_with_lost_chunks_is_an_error(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1)
    lose(runtime)
    subscribed = runtime.only(Subscribed, answer(runtime, history_from_job_seq=4))
    assert subscribed.history_from == 4
    runtime.say("job.event", {**chunk(3, "d", more=False), "job_seq": 4}, job_id=JOB, event_seq=1)
    payload = {"result_id": "res_1", "job_seq": 5}
    end = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=2))
    assert (end.code, end.result) == ("INTERNAL_ERROR", None)
    assert "chunks 1 to 2 are gone" in end.message


def test_a_job_that_is_unknown_to_the_runtime_is_lost(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    assert refuse(runtime, "JOB_NOT_FOUND", message="no job") == [JobLost(JOB, "JOB_NOT_FOUND", "no job")]
    assert runtime.state.session is not None
    assert not runtime.state.session.jobs
    assert runtime.advance(100) == []


def test_an_ended_job_without_history_is_lost(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    lost = runtime.only(JobLost, answer(runtime, current_status="completed", replayed=False))
    assert lost.job_id == JOB


def test_a_runtime_without_subscribe_loses_every_job(runtime: ScriptedRuntime) -> None:
    runtime.accept("job_1")
    runtime.accept("job_2")
    lost = [event for event in lose(runtime, "ack") if isinstance(event, JobLost)]
    assert [event.job_id for event in lost] == ["job_1", "job_2"]
    assert runtime.sent("job.subscribe") == []


def test_a_retryable_refusal_of_a_subscribe_is_repeated_after_a_second(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    for count in range(1, MOST_REFUSALS):
        assert len(subscribes(runtime)) == count
        assert refuse(runtime, "INTERNAL_ERROR") == []
        assert runtime.advance(0.9) == []
        assert len(subscribes(runtime)) == count
        runtime.advance(0.2)
    runtime.only(JobLost, refuse(runtime, "INTERNAL_ERROR"))


def test_a_limited_number_of_jobs_is_recovered_at_a_time(runtime: ScriptedRuntime) -> None:
    for number in range(WINDOW + 5):
        runtime.accept(f"job_{number}")
    lose(runtime)
    assert len(subscribes(runtime)) == WINDOW
    answer(runtime, "job_0")
    refuse(runtime, "JOB_NOT_FOUND")
    assert len(subscribes(runtime)) == WINDOW + 2


def test_a_drop_during_the_recovery_does_not_end_the_recovery(runtime: ScriptedRuntime) -> None:
    for number in range(WINDOW + 5):
        runtime.accept(f"job_{number}")
    lose(runtime)
    assert runtime.client.session_id is not None
    runtime.reconnect(session_id=runtime.client.session_id, replies=True)
    assert len(subscribes(runtime)) == 2 * WINDOW
    for number in range(WINDOW + 5):
        answer(runtime, f"job_{number}")
    assert len(subscribes(runtime)) == 2 * WINDOW + 5
    assert len({job_id for job_id, _ in subscribes(runtime)}) == WINDOW + 5


@pytest.mark.parametrize("features", [("ack",), ("ack", "subscribe")])
def test_a_submitted_job_is_not_lost_when_its_session_is_resumed(
    runtime: ScriptedRuntime, features: tuple[str, ...]
) -> None:
    lose(runtime, *features)
    runtime.accept()
    assert runtime.client.session_id is not None
    told = runtime.reconnect(*features, session_id=runtime.client.session_id)
    assert [type(event) for event in told] == [Welcomed]
    assert subscribes(runtime) == []
    assert numbers(own(runtime, 1)) == [1]


def test_only_lost_jobs_are_subscribed_and_each_once(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    runtime.accept("job_2")
    assert runtime.client.session_id is not None
    for _ in range(2):
        runtime.reconnect(session_id=runtime.client.session_id)
    asked = runtime.sent("job.subscribe")
    assert [frame["job_id"] for frame in asked] == [JOB] * 3
    assert len({frame["id"] for frame in asked}) == 1, "one request, sent again"
    answer(runtime)
    assert len(runtime.sent("job.subscribe")) == 3


def test_a_repeated_job_subscribed_doubles_no_event(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    at(runtime, 1, 5)
    assert answer(runtime) == []
    assert at(runtime, 2, 5) == []
    assert len(at(runtime, 3, 6)) == 1


def test_a_late_processed_event_of_a_lost_session_does_not_move_the_next_cursor(
    runtime: ScriptedRuntime,
) -> None:
    runtime.accept()
    runtime.say("job.event", log(), job_id=JOB, event_seq=1)
    lose(runtime)
    answer(runtime)
    at(runtime, 1, 2)
    runtime.client.mark_processed(JOB, 1, now=runtime.now)
    assert runtime.client.cursor == 0
    runtime.client.mark_processed(JOB, 2, now=runtime.now)
    assert runtime.client.cursor == 1


def test_a_recovered_job_can_be_cancelled(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    request_id = runtime.cancel()
    assert runtime.sent("job.cancel")[-1]["payload"]["job_id"] == JOB
    refused = runtime.only(
        RequestRefused, runtime.say("session.error", {"code": "JOB_NOT_FOUND", "request_id": request_id})
    )
    assert refused.request_id == request_id


def test_a_lost_session_that_is_given_up_subscribes_to_no_job() -> None:
    runtime = ScriptedRuntime(ClientConfig(give_up_sec=30))
    runtime.welcome()
    runtime.accept()
    lose(runtime)
    refuse(runtime, "INTERNAL_ERROR")
    runtime.drop()
    finals = [event for event in runtime.advance(31) if isinstance(event, SessionLost | JobLost)]
    assert [type(event) for event in finals] == [SessionLost, JobLost]
    assert runtime.state.timers.keys() == []


# A subscription that has ended.


def test_an_ended_subscription_is_renewed_after_a_second(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    event = runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=2))
    assert event == SubscriptionEnded(JOB, 2, "too slow")
    runtime.advance(0.9)
    assert len(subscribes(runtime)) == 1
    runtime.advance(0.2)
    assert subscribes(runtime) == [(JOB, 0), (JOB, 3)]
    runtime.only(Subscribed, answer(runtime))
    assert numbers(at(runtime, 3, 3) + at(runtime, 4, 4)) == [4]
    runtime.client.mark_processed(JOB, 1, now=runtime.now)
    assert runtime.client.cursor == 3, "the notice does not wait for the user"


def test_the_renewal_of_a_subscription_waits_while_detached(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=2)
    runtime.drop()
    runtime.advance(2)
    assert len(subscribes(runtime)) == 1
    runtime.connect()
    runtime.welcome()
    assert len(subscribes(runtime)) == 2


def test_a_status_event_of_an_agent_does_not_end_a_subscription(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.only(JobEvent, at(runtime, 2, 4, kind="status", body=UNSUBSCRIBED["body"]))


def test_a_notice_to_one_session_has_no_position(runtime: ScriptedRuntime) -> None:
    notice = {**UNSUBSCRIBED, "body": {"phase": "back_pressure", "message": "too slow"}}
    runtime.accept()
    (told,) = runtime.say("job.event", notice, job_id=JOB, event_seq=1)
    assert isinstance(told, JobEvent)
    runtime.client.mark_processed(JOB, told.receipt, now=runtime.now)
    assert runtime.client.cursor == 1
    other = another_process(runtime)
    for client in (runtime, other):
        lose(client)
        assert subscribes(client) == [(JOB, 0)], "no event of the job has a position"


@pytest.mark.parametrize("position", [None, 1])
def test_a_submitted_job_has_no_subscription_to_end(runtime: ScriptedRuntime, position: int | None) -> None:
    runtime.accept()
    notice = {**UNSUBSCRIBED, "job_seq": position}
    runtime.only(JobEvent, runtime.say("job.event", notice, job_id=JOB, event_seq=1))
    runtime.advance(5)
    assert subscribes(runtime) == []


def test_a_subscription_to_a_job_of_a_key_is_renewed(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1))
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 0)]


def test_a_restarted_client_renews_the_subscription_to_a_job_of_a_key() -> None:
    job = ResumedJob(JOB, 3, keyed=True)
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 4, (job,))
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption)
    runtime.welcome()
    kept = runtime.client.resumption()
    assert kept is not None
    assert kept.jobs == (job,)
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=5))
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 3)]


def test_without_resuming_an_ended_subscription_is_only_reported() -> None:
    runtime = ScriptedRuntime(ClientConfig(resume=False))
    runtime.welcome()
    subscribe(runtime)
    notice = {**UNSUBSCRIBED, "body": {"phase": "unsubscribed"}}
    event = runtime.only(SubscriptionEnded, runtime.say("job.event", notice, job_id=JOB, event_seq=2))
    assert event.message == ""
    runtime.advance(10)
    assert len(subscribes(runtime)) == 1


def test_an_unsubscribe_stops_the_renewal_of_a_subscription(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=2)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.advance(5)
    assert len(subscribes(runtime)) == 1


def test_a_submitted_job_is_recovered_even_after_an_unsubscribe(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.client.unsubscribe(JOB, now=runtime.now)
    assert positions(own(runtime, 1)) == [1]
    lose(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    assert runtime.sent("job.unsubscribe") == []
    answer(runtime, job_seq=2)
    assert positions(at(runtime, 1, 2)) == [2]
    other = another_process(runtime)
    other.client.unsubscribe(JOB, now=other.now)
    other.take()
    assert other.state.session is not None
    assert (list(other.state.session.jobs), other.sent("job.unsubscribe")) == ([JOB], [])


def test_an_unsubscribe_during_the_subscribe_leaves_the_job(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    lose(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    assert answer(runtime) == []
    assert at(runtime, 1, 5) == []
    other = JobId("job_2")
    runtime.accept(other)
    assert runtime.state.session is not None
    assert list(runtime.state.session.jobs) == [other]


# A subscription of a job that this session has submitted.


def test_a_cut_history_beside_a_job_of_a_key_does_not_stop_its_events(
    runtime: ScriptedRuntime,
) -> None:
    """Repeat a trace id in the answer that only this submit has, so that its job needs no subscription."""
    request_id = runtime.submit(idempotency_key="k")
    trace_id = runtime.sent("job.submit")[-1]["trace_id"]
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id}, trace_id=trace_id)
    (notice,) = runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1)
    assert isinstance(notice, JobEvent)
    assert positions(own(runtime, 2)) == [1]


def test_a_child_of_a_job_of_a_key_needs_no_subscription(runtime: ScriptedRuntime) -> None:
    accept_by_key(runtime)
    body = {"child_job_id": "job_2", "agent": "a", "lease": {}}
    runtime.say("job.event", {"kind": "delegate", "ts": "", "body": body}, job_id=JOB, event_seq=1)
    request_id = runtime.submit()
    runtime.reconnect(replies=True)
    assert at(runtime, 2, 1, "job_2") == [], "job_2 may be the job of the submit"
    accepted = {"job_id": "job_3", "request_id": request_id}
    assert positions(runtime.say("job.accepted", accepted, job_id="job_3")) == [1]


def test_an_event_that_waited_for_a_submit_comes_with_the_history_that_is_asked_for(
    runtime: ScriptedRuntime,
) -> None:
    """Let an event precede the answer to a subscribe, which brings it again behind those before it."""
    runtime.accept()
    runtime.submit(idempotency_key="k")
    runtime.reconnect(replies=True)
    runtime.client.subscribe("job_2", 3, True, now=runtime.now)
    runtime.take()
    assert at(runtime, 1, 6, "job_2") == [], "job_2 may be the job of the submit"
    answer(runtime, "job_2")
    assert positions(
        at(runtime, 2, 4, "job_2") + at(runtime, 3, 5, "job_2") + at(runtime, 4, 6, "job_2")
    ) == [
        4,
        5,
        6,
    ]


def test_a_history_of_a_submitted_job_precedes_its_new_events(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    own(runtime, 1, 2)
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    events = at(runtime, 3, 1) + at(runtime, 4, 2) + at(runtime, 5, 2) + at(runtime, 6, 3) + at(runtime, 7, 2)
    assert positions(events) == [1, 2, 3]


def test_a_job_of_a_key_is_observed_from_its_last_event_on(runtime: ScriptedRuntime) -> None:
    accept_by_key(runtime)
    own(runtime, 1, 2)
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=3))
    assert at(runtime, 4, 3) == [], "the subscription brings the event again"
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 2)]
    answer(runtime, job_seq=4)
    events = [event for seq, one in enumerate((2, 3, 3, 4, 3, 5, 6), 5) for event in at(runtime, seq, one)]
    assert positions(events) == [3, 4, 5, 6]


# Requests that the runtime carries out twice.


def test_a_history_that_comes_twice_is_handed_out_once(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert positions(at(runtime, 1, 1) + at(runtime, 2, 2)) == [1, 2]
    assert at(runtime, 3, 1) + at(runtime, 4, 2) == [], "the history comes twice"
    assert positions(at(runtime, 5, 3)) == [3]
    runtime.client.subscribe(JOB, 1, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert positions(at(runtime, 6, 1) + at(runtime, 7, 2) + at(runtime, 8, 3)) == [2, 3], "asked for again"


def test_unsubscribes_are_repeated_before_later_requests(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, None, False, now=runtime.now)
    runtime.take()
    answer(runtime)
    runtime.drop()
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    runtime.submit(idempotency_key="k")
    runtime.connect()
    runtime.welcome()
    names = [one["type"] for one in runtime.received if one["type"] in ("job.unsubscribe", "job.submit")]
    assert names == ["job.unsubscribe", "job.submit"]


def test_a_history_whose_answer_was_lost_is_handed_out_once(runtime: ScriptedRuntime) -> None:
    """Send the history of a subscribe whose answer was lost, and that of its repetition."""
    runtime.client.subscribe(JOB, None, False, now=runtime.now)
    runtime.take()
    answer(runtime, replayed=False, job_seq=3)
    assert positions(at(runtime, 1, 4)) == [4]
    runtime.client.subscribe(JOB, 2, True, now=runtime.now)
    runtime.take()
    runtime.reconnect()
    assert at(runtime, 2, 3) + at(runtime, 3, 4) == [], "no answer has come to the subscribe"
    answer(runtime)
    assert positions(at(runtime, 4, 3) + at(runtime, 5, 4) + at(runtime, 6, 5)) == [3, 4, 5]


def test_a_subscribe_of_the_user_from_a_later_position_loses_no_event(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    for seq in (1, 2):
        runtime.say("job.event", log(), job_id=JOB, event_seq=seq)
    runtime.drop()
    runtime.client.subscribe(JOB, 3, True, now=runtime.now)
    runtime.connect()
    runtime.welcome(session_id="sess_9")
    assert subscribes(runtime) == [(JOB, 3), (JOB, 2)], "the subscribe of the user leaves out position 3"
    users, ours = runtime.sent("job.subscribe")
    said = {"job_id": JOB, "current_status": "running", "agent": "a", "job_seq": 5, "replayed": True}
    runtime.say("job.subscribed", {**said, "request_id": users["id"]})
    assert at(runtime, 1, 4) + at(runtime, 2, 5) == [], "position 3 comes first"
    runtime.say("job.subscribed", {**said, "request_id": ours["id"]})
    events = [event for seq, one in enumerate((3, 4, 5, 6), 3) for event in at(runtime, seq, one)]
    assert positions(events) == [3, 4, 5, 6]
