"""Children of followed jobs, and jobs that are not followed, when the client subscribes again."""

from __future__ import annotations

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.output import JobEnded, JobEvent, JobLost, SubscriptionEnded
from arcp_proto.ids import JobId, SessionId
from arcp_proto.secret import Secret
from tests.unit.resubscribing import (
    UNSUBSCRIBED,
    another_process,
    answer,
    at,
    lose,
    process_all,
    refuse,
    subscribes,
)
from tests.unit.scripted_runtime import JOB, ScriptedRuntime, log, numbers, positions

# Jobs that are not observed, and children.


def test_late_events_of_an_unsubscribed_job_are_dropped(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    assert at(runtime, 1, 1) == []
    assert runtime.client.cursor == 1


def test_a_restarted_client_hands_out_no_copies_of_a_child() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 4, (ResumedJob(JOB, 5, observed=True),))
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption)
    runtime.welcome()
    assert at(runtime, 5, 4) + at(runtime, 6, 5) == []
    assert positions(at(runtime, 7, 6)) == [6]


def test_events_of_a_child_do_not_wait_for_job_accepted(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": "job_2", "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=1)
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    assert numbers(runtime.say("job.event", log(), job_id="job_2", event_seq=2)) == [2]
    refuse(runtime, "JOB_NOT_FOUND")
    end = {"code": "INTERNAL_ERROR", "final_status": "error", "completed_at": "t"}
    runtime.only(JobEnded, runtime.say("job.error", end, job_id="job_2", event_seq=3))


def test_a_child_continues_when_its_subscription_ends(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": "job_2", "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=1)
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(JobEvent, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=2))
    assert numbers(runtime.say("job.event", log(), job_id="job_2", event_seq=3)) == [3]


def follow_an_ended_child_again(runtime: ScriptedRuntime) -> None:
    """End a child that needs no subscription; then ask for its history."""
    runtime.accept()
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    at(runtime, 2, 1, "job_2")
    end = {"code": "INTERNAL_ERROR", "final_status": "error", "completed_at": "t", "job_seq": 2}
    runtime.only(JobEnded, runtime.say("job.error", end, job_id="job_2", event_seq=3))
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2", current_status="error", job_seq=2)


def test_the_history_of_an_ended_child_is_subscribed_to_again_when_it_is_cut(
    runtime: ScriptedRuntime,
) -> None:
    follow_an_ended_child_again(runtime)
    assert positions(at(runtime, 4, 1, "job_2")) == [1]
    notice = {**UNSUBSCRIBED, "job_seq": None}
    runtime.only(SubscriptionEnded, runtime.say("job.event", notice, job_id="job_2", event_seq=5))
    runtime.advance(1.1)
    assert subscribes(runtime) == [("job_2", 0), ("job_2", 1)], "the history comes by the subscription alone"
    assert [type(event) for event in refuse(runtime, "JOB_NOT_FOUND")] == [JobLost]


def test_an_unsubscribe_ends_the_history_of_an_ended_child(runtime: ScriptedRuntime) -> None:
    follow_an_ended_child_again(runtime)
    runtime.client.unsubscribe(JobId("job_2"), now=runtime.now)
    runtime.take()
    assert [frame["job_id"] for frame in runtime.sent("job.unsubscribe")] == ["job_2"]


def test_a_child_of_a_lost_session_is_subscribed_again(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=2))
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 0), ("job_2", 0), ("job_2", 0)], "the child needs a subscription"


def test_a_child_of_a_lost_session_needs_a_subscription_in_the_next(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": "job_2", "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=1)
    lose(runtime)
    answer(runtime)
    assert runtime.state.session is not None and not runtime.state.session.knows(JobId("job_2"))
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=1))


def test_a_child_of_a_job_of_a_key_loses_its_subscription(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=2))


# Children.


def test_a_child_continues_after_an_unsubscribe(runtime: ScriptedRuntime) -> None:
    child = JobId("job_2")
    runtime.accept()
    runtime.client.unsubscribe(child, now=runtime.now)
    runtime.take()
    assert runtime.say("job.event", log(), job_id=child, event_seq=1) == [], "its parent is unknown"
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": child, "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=2)
    assert numbers(runtime.say("job.event", log(), job_id=child, event_seq=3)) == [3]
    runtime.client.unsubscribe(child, now=runtime.now)
    runtime.take()
    assert numbers(runtime.say("job.event", log(), job_id=child, event_seq=4)) == [4]


def test_the_history_of_a_child_that_is_left_before_the_answer_is_dropped(runtime: ScriptedRuntime) -> None:
    child = JobId("job_2")
    runtime.accept()
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": child, "agent": "a"})
    runtime.client.subscribe(child, 0, True, now=runtime.now)
    assert positions(at(runtime, 2, 1, child)) == [1]
    runtime.client.unsubscribe(child, now=runtime.now)
    runtime.take()
    answer(runtime, child, job_seq=1)
    assert at(runtime, 3, 1, child) == [], "the history has begun before the runtime handles the unsubscribe"
    assert positions(at(runtime, 4, 2, child)) == [2]


def test_a_child_goes_on_from_where_its_user_has_asked_again(runtime: ScriptedRuntime) -> None:
    child = JobId("job_2")
    runtime.accept()
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": child, "agent": "a"})
    assert positions(at(runtime, 2, 1, child)) == [1], "the user does not process it"
    for history in (False, True):
        runtime.client.subscribe(child, 0, history, now=runtime.now)
        runtime.take()
        answer(runtime, child, job_seq=1, replayed=history)
    kept = runtime.client.resumption()
    assert kept is not None
    assert [job.cursor for job in kept.jobs if job.job_id == child] == [0]


def test_a_child_of_a_job_that_was_left_is_left(runtime: ScriptedRuntime) -> None:
    child = JobId("job_2")
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": child, "agent": "a"})
    runtime.client.unsubscribe(child, now=runtime.now)
    runtime.take()
    assert at(runtime, 2, 1, child, kind="delegate", body={"child_job_id": "job_3", "agent": "a"}) == []
    assert at(runtime, 3, 1, "job_3") == []
    runtime.client.subscribe(JobId("job_3"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_3", job_seq=1)
    assert positions(at(runtime, 4, 1, "job_3")) == [1]
    assert [frame["job_id"] for frame in runtime.sent("job.unsubscribe")] == [child]


def test_a_restarted_client_learns_of_a_child_by_the_history(runtime: ScriptedRuntime) -> None:
    child = JobId("job_2")
    runtime.accept()
    said = {"kind": "delegate", "body": {"child_job_id": child, "agent": "a"}}
    other = another_process(runtime)
    other.client.subscribe(JOB, 0, True, now=other.now)
    other.take()
    answer(other)
    at(other, 1, 1, **said)
    other.client.unsubscribe(child, now=other.now)
    other.take()
    assert numbers(other.say("job.event", log(), job_id=child, event_seq=2)) == [2]


def test_a_restarted_client_leaves_a_child_that_was_announced_to_an_earlier_process(
    runtime: ScriptedRuntime,
) -> None:
    """Unsubscribe from a child that the client cannot tell from a job that the earlier process observes."""
    child = JobId("job_2")
    runtime.accept()
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": child, "agent": "a"})
    process_all(runtime)
    other = another_process(runtime)
    assert positions(at(other, 2, 1, child)) == [1]
    other.client.unsubscribe(child, now=other.now)
    other.take()
    end = {"code": "CANCELLED", "final_status": "cancelled", "completed_at": "t", "job_seq": 2}
    assert other.say("job.error", end, job_id=child, event_seq=3) == []
    assert other.client.cursor == 1, "the event that was handed out is not processed"
    process_all(other, child)
    assert other.client.cursor == 3


def test_a_restarted_client_keeps_a_grandchild_of_a_child_that_it_was_told_of(
    runtime: ScriptedRuntime,
) -> None:
    """Unsubscribe from the child of a child that was announced to this process: it comes by itself."""
    runtime.accept()
    other = another_process(runtime)
    at(other, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    at(other, 2, 1, "job_2", kind="delegate", body={"child_job_id": "job_3", "agent": "a"})
    for child in (JobId("job_3"), JobId("job_2")):
        other.client.unsubscribe(child, now=other.now)
        other.take()
    assert positions(at(other, 3, 1, "job_3")) == [1]
    assert positions(
        at(other, 4, 2, "job_2", kind="delegate", body={"child_job_id": "job_4", "agent": "a"})
    ) == [2]
    other.client.unsubscribe(JobId("job_4"), now=other.now)
    assert positions(at(other, 5, 1, "job_4")) == [1]


def test_a_restarted_client_keeps_a_grandchild_whose_parent_was_left_before(runtime: ScriptedRuntime) -> None:
    """Leave a child behind the announcement of its own child, which comes again to the next process."""
    child, said = JobId("job_2"), {"kind": "delegate", "body": {"child_job_id": "job_3", "agent": "a"}}
    runtime.accept()
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": child, "agent": "a"})
    process_all(runtime)
    assert positions(at(runtime, 2, 1, child, **said)) == [1]
    runtime.client.unsubscribe(child, now=runtime.now)
    stored = runtime.client.resumption()
    assert stored is not None and stored.unfollowed == ((JobId("job_3"), 2, 0),)
    other = another_process(runtime)
    assert at(other, 2, 1, child, **said) == [], "the job was left"
    later = {"kind": "delegate", "body": {"child_job_id": "job_4", "agent": "a"}}
    assert at(other, 3, 2, child, **later) == []
    assert at(other, 4, 1, "job_4") == [], "no process was told of it"
    assert positions(at(other, 5, 1, "job_3")) == [1]
    process_all(other, JobId("job_3"))
    stored = other.client.resumption()
    assert stored is not None and (stored.cursor, stored.unfollowed) == (5, ())


@pytest.mark.parametrize("announced_first", [True, False])
def test_an_unsubscribe_ends_no_child_that_a_restarted_client_was_told_of(
    runtime: ScriptedRuntime, announced_first: bool
) -> None:
    """Check that the child goes on in the next process too, also if its event came first."""
    child = JobId("job_2")
    runtime.accept()
    other = another_process(runtime)
    said = {"kind": "delegate", "body": {"child_job_id": child, "agent": "a"}}
    if announced_first:
        at(other, 1, 1, **said)
    assert positions(at(other, 2 - (not announced_first), 1, child)) == [1]
    if not announced_first:
        at(other, 2, 1, **said)
    other.client.unsubscribe(child, now=other.now)
    other.take()
    process_all(other)
    process_all(other, child)
    third = another_process(other)
    end = {"code": "CANCELLED", "final_status": "cancelled", "completed_at": "t", "job_seq": 2}
    third.only(JobEnded, third.say("job.error", end, job_id=child, event_seq=3))


def test_a_known_child_is_stored_as_one_that_comes_by_itself(runtime: ScriptedRuntime) -> None:
    """Let the third process unsubscribe from a child that the second one was told of."""
    child = JobId("job_2")
    runtime.accept()
    other = another_process(runtime)
    at(other, 1, 1, kind="delegate", body={"child_job_id": child, "agent": "a"})
    at(other, 2, 1, child)
    process_all(other)
    process_all(other, child)
    third = another_process(other)
    third.client.unsubscribe(child, now=third.now)
    third.take()
    assert positions(at(third, 3, 2, child)) == [2]


def processed_child(runtime: ScriptedRuntime, *positions_of_child: int) -> None:
    """Hold back the cursor by an event of the parent, and process events of its child behind it."""
    runtime.accept()
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    for seq, position in enumerate(positions_of_child, start=2):
        at(runtime, seq, position, "job_2")
    process_all(runtime, "job_2")


def test_a_restarted_client_hands_out_no_copies_of_a_child_that_is_not_followed(
    runtime: ScriptedRuntime,
) -> None:
    processed_child(runtime, 1, 2)
    other = another_process(runtime)
    assert positions(at(other, 1, 1)) == [1]
    assert positions(at(other, 2, 1, "job_2") + at(other, 3, 2, "job_2") + at(other, 4, 3, "job_2")) == [3]


def test_the_third_process_hands_out_no_copies_of_a_child_either(runtime: ScriptedRuntime) -> None:
    processed_child(runtime, 1, 2)
    third = another_process(another_process(runtime))
    at(third, 1, 1)
    process_all(third)
    assert positions(at(third, 2, 1, "job_2") + at(third, 3, 2, "job_2") + at(third, 4, 3, "job_2")) == [3]


def test_a_restarted_client_hands_out_no_second_end_of_a_child(runtime: ScriptedRuntime) -> None:
    processed_child(runtime, 1)
    end = {"final_status": "success", "completed_at": "t", "result": 1, "job_seq": 2}
    runtime.only(JobEnded, runtime.say("job.result", end, job_id="job_2", event_seq=3))
    held = another_process(runtime)
    assert at(held, 1, 1) and not at(held, 2, 1, "job_2")
    held.only(JobEnded, held.say("job.result", end, job_id="job_2", event_seq=3))
    process_all(runtime, "job_2")
    other = another_process(runtime)
    assert at(other, 1, 1) and not at(other, 2, 1, "job_2")
    assert other.say("job.result", end, job_id="job_2", event_seq=3) == []


def test_a_child_is_stored_no_longer_once_the_cursor_has_passed_its_events(runtime: ScriptedRuntime) -> None:
    processed_child(runtime, 1, 2)
    stored = runtime.client.resumption()
    assert stored is not None and stored.unfollowed == ((JobId("job_2"), 3, 2),)
    process_all(runtime)
    stored = runtime.client.resumption()
    assert stored is not None and stored.unfollowed == () and stored.cursor == 3


def test_a_lost_child_has_no_later_end(runtime: ScriptedRuntime) -> None:
    """Check that no later process reports an end of a lost child: its end "will not be seen"."""
    announces = {"kind": "delegate", "body": {"child_job_id": "job_2", "agent": "a"}}
    end = {"final_status": "success", "completed_at": "t", "result": 1, "job_seq": 1}
    processed_child(runtime)
    runtime.only(JobEnded, runtime.say("job.result", end, job_id="job_2", event_seq=2))
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2", job_seq=1)
    runtime.only(JobEnded, runtime.say("job.result", end, job_id="job_2", event_seq=3))
    other = another_process(runtime)
    assert positions(at(other, 1, 1, **announces)) == [1]
    assert at(other, 2, 1, "job_2") == [], "the history is asked for again"
    other.only(JobLost, refuse(other, "JOB_NOT_FOUND"))
    assert other.say("job.result", end, job_id="job_2", event_seq=3) == []
    third = another_process(other)
    for process in (third, another_process(third)):
        assert positions(at(process, 1, 1, **announces)) == [1]
        assert process.say("job.result", end, job_id="job_2", event_seq=2) == []


def test_a_notice_does_not_follow_a_child_of_an_earlier_process() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 4, (ResumedJob(JOB, 2),))
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption)
    runtime.welcome()
    said = {"phase": "back_pressure", "message": "slow"}
    notice = runtime.only(JobEvent, at(runtime, 5, None, job_id="job_2", kind="status", body=said))
    assert (notice.job_id, notice.job_seq) == ("job_2", None)
    stored = runtime.client.resumption()
    assert stored is not None
    assert [job.job_id for job in stored.jobs] == [JOB], "the notice does not say how far the child has come"
    assert positions(at(runtime, 6, 3, job_id="job_2")) == [3]


def test_the_end_of_its_subscription_does_not_follow_a_child_that_comes_by_itself(
    runtime: ScriptedRuntime,
) -> None:
    """Check that a restarted client hands out the notice, and does not ask for all of the child again."""
    child = JobId("job_2")
    runtime.accept()
    other = another_process(runtime)
    at(other, 1, 1, kind="delegate", body={"child_job_id": child, "agent": "a"})
    notice = {**UNSUBSCRIBED, "job_seq": None}
    other.only(JobEvent, other.say("job.event", notice, job_id=child, event_seq=2))
    stored = other.client.resumption()
    assert stored is not None and [job.job_id for job in stored.jobs] == [JOB]
    assert positions(at(other, 3, 7, child)) == [7]
    other.advance(1.1)
    assert subscribes(other) == []


def announce_a_child(runtime: ScriptedRuntime) -> None:
    """Open a session that is resumed, with a job that delegates to a child, of which events 1 and 2 come."""
    runtime.welcome()
    runtime.accept()
    at(runtime, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    assert positions(at(runtime, 2, 1, "job_2") + at(runtime, 3, 2, "job_2")) == [1, 2]


def test_a_history_without_its_answer_brings_no_event_of_a_child_again() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    announce_a_child(runtime)
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    runtime.reconnect()
    assert at(runtime, 4, 1, "job_2") + at(runtime, 5, 2, "job_2") == [], "the answer is to come first"
    answer(runtime, "job_2")
    replayed = [at(runtime, seq, position, "job_2") for seq, position in ((6, 1), (7, 2), (8, 3))]
    assert [positions(events) for events in replayed] == [[1], [2], [3]]


def test_a_child_that_is_left_in_its_history_goes_on_where_the_history_was_left() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    announce_a_child(runtime)
    end = {"code": "INTERNAL_ERROR", "final_status": "error", "completed_at": "t", "job_seq": 3}
    runtime.only(JobEnded, runtime.say("job.error", end, job_id="job_2", event_seq=4))
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2", current_status="error", job_seq=3)
    assert positions(at(runtime, 5, 1, "job_2")) == [1]
    runtime.client.unsubscribe(JobId("job_2"), now=runtime.now)
    runtime.take()
    assert positions(at(runtime, 6, 2, "job_2")) == [2]
    runtime.only(JobEnded, runtime.say("job.error", end, job_id="job_2", event_seq=7))


@pytest.mark.parametrize("again", [True, False])
def test_an_end_below_what_was_asked_for_comes_once(again: bool) -> None:
    """Drop the end that the first copy of a request brings, when the second was answered by the status."""
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    runtime.client.subscribe(JOB, 7, True, now=runtime.now)
    runtime.take()
    if again:
        runtime.reconnect()
    told = answer(runtime, current_status="error", job_seq=1)
    assert runtime.only(JobEnded, told[1:]).job_seq is None
    end = {"code": "INTERNAL_ERROR", "final_status": "error", "completed_at": "t", "job_seq": 1}
    if again:
        assert runtime.say("job.error", end, job_id=JOB, event_seq=1) == []
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, current_status="error", job_seq=1)
    runtime.only(JobEnded, runtime.say("job.error", end, job_id=JOB, event_seq=1 + again))
