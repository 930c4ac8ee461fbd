"""Subscriptions that a client restores in another process from a stored session."""

from __future__ import annotations

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.output import JobEnded, JobLost, SubscriptionEnded
from arcp_proto.ids import SessionId
from arcp_proto.secret import Secret
from tests.unit.resubscribing import (
    UNSUBSCRIBED,
    accept_by_key,
    another_process,
    answer,
    at,
    lose,
    own,
    process_all,
    refuse,
    subscribe,
    subscribe_second,
    subscribes,
)
from tests.unit.scripted_runtime import FEATURES, JOB, ScriptedRuntime, positions


def test_a_restarted_client_does_not_subscribe_to_jobs_that_the_session_replays(
    runtime: ScriptedRuntime,
) -> None:
    subscribe(runtime)
    process_all(runtime)
    lose(runtime)
    answer(runtime)
    subscribe_second(runtime)
    assert positions(at(runtime, 2, 4)) == [4]
    other = another_process(runtime)
    assert subscribes(other) == []
    assert positions(at(other, 1, 5, "job_2") + at(other, 2, 4) + at(other, 3, 5)) == [5, 4, 5]


def test_a_restarted_client_subscribes_to_a_job_that_is_followed_again(runtime: ScriptedRuntime) -> None:
    """Keep the events of the first subscription unprocessed."""
    subscribe(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.client.subscribe(JOB, 1, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert positions(at(runtime, 2, 2)) == [2]
    other = another_process(runtime)
    assert subscribes(other) == [(JOB, 1)]
    assert at(other, 1, 3) + at(other, 2, 2) == []
    answer(other)
    assert positions(at(other, 3, 2) + at(other, 4, 3)) == [2, 3]


def test_a_restarted_client_drops_events_of_an_unsubscribed_job(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    other = another_process(runtime)
    assert [frame["job_id"] for frame in other.sent("job.unsubscribe")] == [JOB], "its record may be lost"
    assert at(other, 1, 4) == []


@pytest.mark.parametrize("answered", [False, True])
def test_a_restarted_client_drops_events_of_a_job_left_before_an_empty_subscribe(
    runtime: ScriptedRuntime, answered: bool
) -> None:
    subscribe(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.client.subscribe(JOB, None, False, now=runtime.now)
    runtime.take()
    assert positions(at(runtime, 2, 4)) == []
    if answered:
        answer(runtime, current_status="success", job_seq=5, replayed=False)
    other = another_process(runtime)
    assert positions(at(other, 1, 3) + at(other, 2, 4) + at(other, 3, 5)) == []
    assert other.client.resumption() is not None


def test_a_restarted_client_leaves_an_unknown_job(runtime: ScriptedRuntime) -> None:
    """Unsubscribe from a job that an earlier process may have submitted, and store the unsubscribe."""
    other = another_process(runtime)
    assert positions(at(other, 1, 1)) == [1]
    other.client.unsubscribe(JOB, now=other.now)
    other.take()
    assert [frame["job_id"] for frame in other.sent("job.unsubscribe")] == [JOB]
    assert positions(at(other, 2, 2)) == []
    third = another_process(other)
    assert positions(at(third, 1, 1) + at(third, 2, 2)) == []


def test_a_restarted_client_drops_events_of_a_lost_job(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    lose(runtime)
    refuse(runtime, "JOB_NOT_FOUND")
    assert at(runtime, 1, 4) == []
    assert at(another_process(runtime), 1, 4) == []


def test_events_before_the_answer_to_a_repeated_subscribe_are_replayed(
    runtime: ScriptedRuntime,
) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    runtime.reconnect(replies=True)
    assert at(runtime, 1, 1) == []
    answer(runtime, job_seq=1)
    assert positions(at(runtime, 2, 1)) == [1]


def test_a_restarted_client_subscribes_to_jobs_of_a_lost_session(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    lose(runtime)
    answer(runtime)
    other = another_process(runtime)
    assert subscribes(other) == [(JOB, 0)], "position 3 is not processed"
    assert at(other, 1, 4) == []
    answer(other)
    assert positions(at(other, 2, 3) + at(other, 3, 4)) == [3, 4]


def test_a_restarted_client_that_resumes_before_the_answer_subscribes_again(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    own(runtime, 1, 2)
    process_all(runtime)
    lose(runtime)
    subscribe_second(runtime)
    assert at(runtime, 2, 7) == [], "position 7 comes again behind the answer"
    answer(runtime)
    other = another_process(runtime)
    assert subscribes(other) == [(JOB, 2)]
    assert positions(at(other, 1, 5, "job_2") + at(other, 2, 7)) == [5]
    answer(other)
    assert positions(at(other, 3, 3) + at(other, 4, 7)) == [3, 7]
    process_all(runtime, "job_2")
    assert subscribes(another_process(runtime)) == []


def test_a_restarted_client_continues_a_history_that_the_user_asked_for(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    own(runtime, 1, 2, 3, 4)
    process_all(runtime)
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert positions(at(runtime, 5, 1)) == [1]
    process_all(runtime)
    assert positions(at(runtime, 6, 2)) == [2]
    other = another_process(runtime)
    events = [event for seq, one in enumerate((1, 2, 3, 4, 5), 5) for event in at(other, seq, one)]
    assert positions(events) == [2, 3, 4, 5]
    process_all(other)
    assert subscribes(another_process(other)) == []


def test_a_restarted_client_gets_events_unprocessed_when_a_subscription_was_renewed(
    runtime: ScriptedRuntime,
) -> None:
    accept_by_key(runtime)
    runtime.advance(1.1)
    own(runtime, 1, 2)
    answer(runtime, job_seq=4)
    assert positions(at(runtime, 3, 3)) == [3]
    other = another_process(runtime)
    events = [event for seq in (1, 2, 3, 4) for event in at(other, seq, seq)]
    assert positions(events) == [1, 2, 3, 4]


def test_a_position_of_a_kind_not_taken_is_not_missed(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    assert positions(at(runtime, 2, 7)) == [7]
    lose(runtime, *[name for name in FEATURES if name != "progress"])
    assert subscribes(runtime)[-1] == (JOB, 7)
    answer(runtime, job_seq=9)
    assert positions(at(runtime, 1, 9)) == [9]
    other = another_process(runtime)
    assert at(other, 1, 9) == [], "positions 3 and 7 of the lost session are not processed"
    answer(other, job_seq=9)
    events = at(other, 2, 3) + at(other, 3, 7) + at(other, 4, 9) + at(other, 5, 12)
    assert positions(events) == [3, 7, 9, 12]


def test_a_restarted_client_takes_a_job_that_was_joined_again_from_a_resume_without_subscribe() -> None:
    """Join a job with an unprocessed end by a repeated key; a resume brings both ends without a subscribe."""
    features = [feature for feature in FEATURES if feature != "subscribe"]
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(*features)
    end = {"final_status": "success", "completed_at": "t", "result": 1, "job_seq": 1}
    for seq in (1, 2):
        accept_by_key(runtime)
        runtime.only(JobEnded, runtime.say("job.result", end, job_id=JOB, event_seq=seq))
    resumption = runtime.client.resumption()
    assert resumption is not None and [job.behind for job in resumption.jobs] == [False]
    other = ScriptedRuntime(ClientConfig(), resumption=resumption)
    other.welcome(*features, session_id="sess_1")
    assert [event for event in other.events if isinstance(event, JobLost)] == []
    other.only(JobEnded, other.say("job.result", end, job_id=JOB, event_seq=1))
    assert other.say("job.result", end, job_id=JOB, event_seq=2) == []


@pytest.mark.parametrize("resume", [True, False])
def test_the_end_of_an_earlier_subscription_is_not_taken_for_that_of_the_next(resume: bool) -> None:
    """Send the end of an earlier process's subscription before the answer to the client's own subscribe."""
    job = ResumedJob(JOB, 3, observed=True, behind=True)
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 0, (job,))
    runtime = ScriptedRuntime(ClientConfig(resume=resume), resumption=resumption)
    runtime.welcome()
    assert subscribes(runtime) == [(JOB, 3)]
    assert runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1) == []
    assert at(runtime, 2, 9) == []
    runtime.advance(1.1)
    assert len(subscribes(runtime)) == 1 and runtime.client.cursor == 2
    answer(runtime, job_seq=9, history_from_job_seq=9)
    assert positions(at(runtime, 3, 9)) == [9]
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=4))


def test_a_job_of_its_own_that_is_over_is_subscribed_to_again_when_its_history_is_cut() -> None:
    """Cut the history that a restarted client asks for, after the end of the job has come."""
    kept = ResumedJob(JOB, 2, own=True, behind=True)
    runtime = ScriptedRuntime(
        ClientConfig(), resumption=Resumption(SessionId("sess_1"), Secret("rt_1"), 4, (kept,))
    )
    runtime.welcome()
    end = {"code": "CANCELLED", "final_status": "cancelled", "completed_at": "t", "job_seq": 9}
    assert runtime.say("job.error", end, job_id=JOB, event_seq=5) == []
    answer(runtime, current_status="cancelled", job_seq=9)
    assert positions(at(runtime, 6, 3)) == [3]
    notice = {**UNSUBSCRIBED, "job_seq": None}
    runtime.only(SubscriptionEnded, runtime.say("job.event", notice, job_id=JOB, event_seq=7))
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 2), (JOB, 3)]
    answer(runtime, current_status="cancelled", job_seq=9, history_from_job_seq=9)
    runtime.only(JobEnded, runtime.say("job.error", end, job_id=JOB, event_seq=8))
