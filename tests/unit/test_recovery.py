"""Jobs that the client observes again by itself."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto.client import ClientConfig
from arcp_proto.ids import JobId, SessionId
from arcp_proto.output import (
    Event,
    JobAccepted,
    JobEmitted,
    JobEnded,
    JobLost,
    RequestRefused,
    SessionLost,
    Subscribed,
    SubscriptionEnded,
    Welcomed,
)
from arcp_proto.recovery import MOST_REFUSALS, WINDOW
from arcp_proto.resumption import ResumedJob, Resumption
from arcp_proto.secret import Secret

from .scripted_runtime import JOB, ScriptedRuntime, chunk, log, numbers

UNSUBSCRIBED: dict[str, Any] = {
    "kind": "status",
    "ts": "t",
    "body": {"phase": "unsubscribed", "message": "too slow"},
}


@pytest.fixture
def runtime() -> ScriptedRuntime:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    return runtime


def lose(runtime: ScriptedRuntime, *features: str) -> list[Event]:
    """The session is lost, and another takes its place."""
    count = len(runtime.events)
    runtime.reconnect(*features, session_id=f"sess_{len(runtime.dials) + 2}")
    return runtime.events[count:]


def subscribes(runtime: ScriptedRuntime) -> list[tuple[str, int]]:
    return [(frame["job_id"], frame["payload"]["from_event_seq"]) for frame in runtime.sent("job.subscribe")]


def answer(runtime: ScriptedRuntime, job_id: str = JOB, **fields: Any) -> list[Event]:
    """Answer the last subscribe of a job."""
    asked = [frame for frame in runtime.sent("job.subscribe") if frame["job_id"] == job_id][-1]
    payload = {
        "job_id": job_id,
        "request_id": asked["id"],
        "current_status": "running",
        "agent": "echo",
        "subscribed_from": 9,
        "replayed": True,
        **fields,
    }
    return runtime.say("job.subscribed", payload)


def refuse(runtime: ScriptedRuntime, code: str, **fields: Any) -> list[Event]:
    request_id = runtime.sent("job.subscribe")[-1]["id"]
    return runtime.say("session.error", {"code": code, "request_id": request_id, **fields})


def observed(runtime: ScriptedRuntime, seq: int, home: int, job_id: str = JOB, **payload: Any) -> list[Event]:
    return runtime.say(
        "job.event", {**log(), **payload, "source_seq": home}, job_id=job_id, event_seq=seq, id=f"e{seq}"
    )


# A lost session.


def test_a_job_goes_on_behind_what_was_handed_out(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    for seq in (1, 2):
        runtime.say("job.event", log(), job_id=JOB, event_seq=seq)
    lose(runtime)
    assert subscribes(runtime) == [(JOB, 2)]
    subscribed = runtime.only(Subscribed, answer(runtime))
    assert (subscribed.request_id, subscribed.job_id, subscribed.replayed) == (None, JOB, True)
    events = observed(runtime, 1, 2) + observed(runtime, 2, 3) + observed(runtime, 3, 7)
    assert [(event.seq, event.source_seq) for event in events if isinstance(event, JobEmitted)] == [
        (2, 3),
        (3, 7),
    ]
    end = runtime.only(
        JobEnded,
        runtime.say("job.result", {"result": 5, "source_seq": 8}, job_id=JOB, event_seq=4),
    )
    assert (end.result, end.source_seq) == (5, 8)
    assert runtime.client.resumption() is not None


def test_a_second_loss_goes_on_where_the_first_recovery_stopped(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    observed(runtime, 1, 4)
    lose(runtime)
    lose(runtime)
    assert subscribes(runtime) == [(JOB, 0), (JOB, 3), (JOB, 3)], "4 may be the number of several"


def test_a_result_is_joined_over_the_loss(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1)
    lose(runtime)
    answer(runtime)
    runtime.say("job.event", {**chunk(1, "c", more=False), "source_seq": 2}, job_id=JOB, event_seq=1)
    payload = {"result_id": "res_1", "result_size": 3, "source_seq": 3}
    end = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=2))
    assert (end.result, end.code) == ("abc", "")


def test_a_result_that_is_no_longer_whole_is_an_error(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1)
    lose(runtime)
    subscribed = runtime.only(Subscribed, answer(runtime, history_from=4))
    assert subscribed.history_from == 4
    runtime.say("job.event", {**chunk(3, "d", more=False), "source_seq": 4}, job_id=JOB, event_seq=1)
    payload = {"result_id": "res_1", "source_seq": 5}
    end = runtime.only(JobEnded, runtime.say("job.result", payload, job_id=JOB, event_seq=2))
    assert (end.code, end.result) == ("INTERNAL_ERROR", None)
    assert "chunks 1 to 2 are gone" in end.message


def test_a_job_that_is_not_known_any_more_is_lost(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    assert refuse(runtime, "JOB_NOT_FOUND", message="no job") == [JobLost(JOB, "JOB_NOT_FOUND", "no job")]
    assert runtime.client.session is not None
    assert not runtime.client.session.jobs
    assert runtime.advance(100) == []


def test_a_job_that_has_ended_unseen_is_lost(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    lost = runtime.only(JobLost, answer(runtime, current_status="completed", replayed=False))
    assert lost.job_id == JOB


def test_a_runtime_that_offers_no_subscription_loses_all(runtime: ScriptedRuntime) -> None:
    runtime.accept("job_1")
    runtime.accept("job_2")
    lost = [event for event in lose(runtime, "ack") if isinstance(event, JobLost)]
    assert [event.job_id for event in lost] == ["job_1", "job_2"]
    assert runtime.sent("job.subscribe") == []


def test_what_passes_with_time_is_asked_again_a_second_later(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    for count in range(1, MOST_REFUSALS):
        assert len(subscribes(runtime)) == count
        assert refuse(runtime, "INTERNAL_ERROR") == []
        assert runtime.advance(0.9) == []
        assert len(subscribes(runtime)) == count
        runtime.advance(0.2)
    runtime.only(JobLost, refuse(runtime, "INTERNAL_ERROR"))


def test_not_all_are_asked_for_at_once(runtime: ScriptedRuntime) -> None:
    for number in range(WINDOW + 5):
        runtime.accept(f"job_{number}")
    lose(runtime)
    assert len(subscribes(runtime)) == WINDOW
    answer(runtime, "job_0")
    refuse(runtime, "JOB_NOT_FOUND")
    assert len(subscribes(runtime)) == WINDOW + 2


def test_a_drop_during_the_recovery_does_not_stop_it(runtime: ScriptedRuntime) -> None:
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
def test_a_job_that_comes_by_itself_is_not_lost_when_its_session_is_resumed(
    runtime: ScriptedRuntime, features: tuple[str, ...]
) -> None:
    lose(runtime, *features)
    runtime.accept()
    assert runtime.client.session_id is not None
    told = runtime.reconnect(*features, session_id=runtime.client.session_id)
    assert [type(event) for event in told] == [Welcomed]
    assert subscribes(runtime) == []
    assert numbers(own(runtime, 1)) == [1]


def test_nothing_is_asked_for_twice_and_nothing_that_comes_by_itself(runtime: ScriptedRuntime) -> None:
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


def test_an_answer_that_comes_twice_replays_nothing_twice(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    observed(runtime, 1, 5)
    assert answer(runtime) == []
    assert observed(runtime, 2, 5) == []
    assert len(observed(runtime, 3, 6)) == 1


def test_what_was_processed_late_is_not_taken_for_the_new_sessions(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", log(), job_id=JOB, event_seq=1)
    lose(runtime)
    answer(runtime)
    observed(runtime, 1, 2)
    runtime.client.processed(JOB, 1, now=runtime.now)
    assert runtime.client.cursor == 0
    runtime.client.processed(JOB, 1, now=runtime.now)
    assert runtime.client.cursor == 1


def test_a_cancel_of_a_recovered_job(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    request_id = runtime.cancel()
    assert runtime.sent("job.cancel")[-1]["payload"]["job_id"] == JOB
    refused = runtime.only(
        RequestRefused, runtime.say("session.error", {"code": "JOB_NOT_FOUND", "request_id": request_id})
    )
    assert refused.request_id == request_id


def test_a_lost_session_that_is_given_up_asks_for_nothing() -> None:
    runtime = ScriptedRuntime(ClientConfig(give_up_sec=30))
    runtime.welcome()
    runtime.accept()
    lose(runtime)
    refuse(runtime, "INTERNAL_ERROR")
    runtime.drop()
    finals = [event for event in runtime.advance(31) if isinstance(event, SessionLost | JobLost)]
    assert [type(event) for event in finals] == [SessionLost, JobLost]
    assert runtime.client.timers.keys() == []


# A subscription that has ended.


def subscribe(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    observed(runtime, 1, 3)


def test_an_ended_subscription_is_asked_for_again_a_second_later(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    event = runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=2))
    assert event == SubscriptionEnded(JOB, 2, "too slow")
    runtime.advance(0.9)
    assert len(subscribes(runtime)) == 1
    runtime.advance(0.2)
    assert subscribes(runtime) == [(JOB, 0), (JOB, 2)]
    runtime.only(Subscribed, answer(runtime))
    assert numbers(observed(runtime, 3, 3) + observed(runtime, 4, 4)) == [4]
    runtime.client.processed(JOB, 1, now=runtime.now)
    assert runtime.client.cursor == 3, "nobody has to process the notice"


def test_while_it_is_detached_it_waits(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=2)
    runtime.drop()
    runtime.advance(2)
    assert len(subscribes(runtime)) == 1
    runtime.connect()
    runtime.welcome()
    assert len(subscribes(runtime)) == 2


def test_what_an_observed_agent_says_is_no_end(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.only(JobEmitted, observed(runtime, 2, 4, **UNSUBSCRIBED))


def test_what_an_agent_of_ours_says_is_no_end(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.only(JobEmitted, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1))


def test_a_job_that_a_key_has_brought_may_end_so_too(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1))
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 0)]


def test_another_process_knows_that_a_key_has_brought_it() -> None:
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


def test_without_resuming_it_is_only_told() -> None:
    runtime = ScriptedRuntime(ClientConfig(resume=False))
    runtime.welcome()
    subscribe(runtime)
    notice = {**UNSUBSCRIBED, "body": {"phase": "unsubscribed"}}
    event = runtime.only(SubscriptionEnded, runtime.say("job.event", notice, job_id=JOB, event_seq=2))
    assert event.message == ""
    runtime.advance(10)
    assert len(subscribes(runtime)) == 1


def test_who_unsubscribes_meanwhile_is_asked_for_no_more(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=2)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.advance(5)
    assert len(subscribes(runtime)) == 1


def test_a_job_ends_while_its_subscription_is_asked_for(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    assert answer(runtime) == []
    assert observed(runtime, 1, 5) == []
    other = JobId("job_2")
    runtime.accept(other)
    assert runtime.client.session is not None
    assert list(runtime.client.session.jobs) == [other]


# A subscription of a job that this session has submitted.


def own(runtime: ScriptedRuntime, *seqs: int) -> list[Event]:
    """Events that come by themselves."""
    return [event for seq in seqs for event in runtime.say("job.event", log(), job_id=JOB, event_seq=seq)]


def test_where_the_job_is_at_home_it_goes_on_when_a_subscription_ends(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    own(runtime, 1, 2)
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    observed(runtime, 3, 1)
    runtime.only(JobEmitted, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=4))
    assert numbers(own(runtime, 5)) == [5]
    runtime.advance(5)
    assert len(subscribes(runtime)) == 1


def test_a_job_that_nobody_knows_to_be_at_home_goes_on_when_it_says_so(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1))
    assert numbers(own(runtime, 2)) == [2], "its own events come"
    runtime.advance(5)
    assert subscribes(runtime) == [], "and nothing need be asked for"


def test_it_goes_on_also_when_it_was_asked_for(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1)
    runtime.advance(1.1)
    assert numbers(own(runtime, 2, 3)) == [2, 3]
    answer(runtime)
    assert numbers(observed(runtime, 4, 2)) == []
    assert numbers(observed(runtime, 5, 3)) == []
    assert numbers(own(runtime, 6)) == [6]


# What is carried out twice.


def test_a_history_that_comes_twice_is_handed_out_once(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert numbers(observed(runtime, 1, 1) + observed(runtime, 2, 2)) == [1, 2]
    assert observed(runtime, 3, 1) + observed(runtime, 4, 2) == [], "its answer was lost"
    assert numbers(observed(runtime, 5, 3)) == [5]
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert numbers(observed(runtime, 6, 1)) == [6], "it was asked for again"


def test_what_is_observed_no_longer_is_said_before_what_was_asked_later(runtime: ScriptedRuntime) -> None:
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


def test_an_answer_that_comes_again_brings_its_history_again(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert numbers(observed(runtime, 1, 1) + observed(runtime, 2, 2)) == [1, 2]
    assert answer(runtime) == [], "the request is answered"
    assert observed(runtime, 3, 2) == []
    assert numbers(observed(runtime, 4, 3)) == [4]


def test_what_a_lost_answer_has_brought_waits_for_the_next(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, None, False, now=runtime.now)
    runtime.take()
    answer(runtime, replayed=False)
    assert numbers(observed(runtime, 1, 4)) == [1]
    runtime.client.subscribe(JOB, 2, True, now=runtime.now)
    runtime.take()
    runtime.reconnect()
    assert observed(runtime, 2, 3) + observed(runtime, 3, 4) == [], "all of it comes again"
    answer(runtime)
    assert numbers(observed(runtime, 4, 3) + observed(runtime, 5, 4)) == [4, 5]


def test_a_subscribe_of_the_user_and_our_own_do_not_bring_it_twice(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    for seq in (1, 2):
        runtime.say("job.event", log(), job_id=JOB, event_seq=seq)
    runtime.drop()
    runtime.client.subscribe(JOB, 3, True, now=runtime.now)
    runtime.connect()
    runtime.welcome(session_id="sess_9")
    assert subscribes(runtime) == [(JOB, 3), (JOB, 2)], "the user's leaves out what we need"
    users, ours = runtime.sent("job.subscribe")
    said = {"job_id": JOB, "current_status": "running", "agent": "a", "subscribed_from": 5, "replayed": True}
    runtime.say("job.subscribed", {**said, "request_id": users["id"]})
    assert numbers(observed(runtime, 1, 4) + observed(runtime, 2, 5)) == [1, 2]
    runtime.say("job.subscribed", {**said, "request_id": ours["id"]})
    assert numbers(observed(runtime, 3, 4) + observed(runtime, 4, 5) + observed(runtime, 5, 6)) == [5]


# Keys.


def test_the_history_of_a_job_that_a_lost_answer_has_joined_waits_for_it(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.reconnect()
    assert observed(runtime, 1, 1) + observed(runtime, 2, 2) == []
    accepted, *rest = runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    assert isinstance(accepted, JobAccepted)
    assert numbers(rest) == [1, 2]


def test_so_does_the_history_of_a_job_that_had_ended_here(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    request_id = runtime.submit(idempotency_key="k")
    runtime.reconnect()
    assert observed(runtime, 2, 1) == []
    accepted, *rest = runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    assert isinstance(accepted, JobAccepted)
    assert numbers(rest) == [2]


def test_the_end_of_a_job_whose_acceptance_was_lost_refuses_nothing(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    other = runtime.submit()
    runtime.reconnect(replies=True)
    end = {"code": "TIMEOUT", "final_status": "timed_out", "completed_at": "t"}
    assert runtime.say("job.error", end, job_id=JOB, event_seq=1) == []
    accepted, ended = runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    assert isinstance(accepted, JobAccepted)
    assert isinstance(ended, JobEnded)
    runtime.only(JobAccepted, runtime.say("job.accepted", {"job_id": "job_2", "request_id": other}))


def test_what_still_comes_of_a_job_that_is_not_observed_is_nobodys(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    assert observed(runtime, 1, 1) == []
    assert runtime.client.cursor == 1


def test_what_a_lost_join_has_brought_is_not_taken_for_a_history(runtime: ScriptedRuntime) -> None:
    runtime.submit(idempotency_key="k")
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    runtime.reconnect()
    assert observed(runtime, 1, 8) == [], "it may be of the submit"
    runtime.only(Subscribed, answer(runtime))
    assert runtime.client.cursor == 1, "it comes again"
    assert numbers(observed(runtime, 2, 1) + observed(runtime, 3, 8)) == [2, 3]


def test_another_process_does_not_show_what_was_left_out_before() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 4, (ResumedJob(JOB, 5, observed=True),))
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption)
    runtime.welcome()
    assert observed(runtime, 5, 4) + observed(runtime, 6, 5) == []
    assert numbers(observed(runtime, 7, 6)) == [7]


def test_what_a_child_does_waits_for_no_answer(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": "job_2", "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=1)
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    assert numbers(runtime.say("job.event", log(), job_id="job_2", event_seq=2)) == [2]
    refuse(runtime, "JOB_NOT_FOUND")
    end = {"code": "INTERNAL_ERROR", "final_status": "error", "completed_at": "t"}
    runtime.only(JobEnded, runtime.say("job.error", end, job_id="job_2", event_seq=3))


def test_a_child_goes_on_when_a_subscription_of_it_ends(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": "job_2", "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=1)
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(JobEmitted, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=2))
    assert numbers(runtime.say("job.event", log(), job_id="job_2", event_seq=3)) == [3]


def test_a_child_of_a_job_whose_session_is_lost_is_asked_for_again(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    lose(runtime)
    answer(runtime)
    observed(runtime, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=2))
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 0), ("job_2", 0), ("job_2", 0)], "it does not come by itself"


def test_a_child_of_a_lost_session_does_not_come_by_itself_in_the_next(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": "job_2", "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=1)
    lose(runtime)
    answer(runtime)
    assert runtime.client.session is not None and not runtime.client.session.knows(JobId("job_2"))
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=1))


def test_so_is_a_child_of_a_job_that_a_key_has_brought(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    observed(runtime, 1, 1, kind="delegate", body={"child_job_id": "job_2", "agent": "a"})
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    runtime.only(SubscriptionEnded, runtime.say("job.event", UNSUBSCRIBED, job_id="job_2", event_seq=2))


# A subscribe whose answer is lost, and events that share a home number.


def in_doubt(runtime: ScriptedRuntime, *, live: bool = False) -> None:
    """What was observed was asked for again, on a connection that is gone."""
    subscribe(runtime)
    runtime.client.subscribe(JOB, None if live else 0, not live, now=runtime.now)
    runtime.take()
    assert runtime.client.session_id is not None
    runtime.reconnect(session_id=runtime.client.session_id, replies=True)


def test_from_what_may_be_a_copy_all_waits_for_the_answer(runtime: ScriptedRuntime) -> None:
    in_doubt(runtime)
    assert observed(runtime, 2, 3) + observed(runtime, 3, 4) == []
    answer(runtime)
    again = [event for seq, home in ((4, 3), (5, 4), (6, 5)) for event in observed(runtime, seq, home)]
    assert numbers(again) == [4, 5, 6]


def asked_twice(runtime: ScriptedRuntime) -> None:
    """The history was asked for again, since the first answer came late: it may come twice, unanswered."""
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    assert runtime.client.session_id is not None
    runtime.reconnect(session_id=runtime.client.session_id, replies=True)
    answer(runtime)


def test_a_replay_that_begins_once_more_without_an_answer_is_left_out_where_the_job_is_at_home(
    runtime: ScriptedRuntime,
) -> None:
    runtime.accept()
    own(runtime, 1, 2)
    asked_twice(runtime)
    assert numbers(observed(runtime, 3, 1)) == [3]
    assert observed(runtime, 4, 1) == []
    assert numbers(observed(runtime, 5, 2) + own(runtime, 6)) == [5, 6]


def test_a_replay_that_may_have_begun_once_more_without_an_answer_is_asked_for(
    runtime: ScriptedRuntime,
) -> None:
    asked_twice(runtime)
    assert numbers(observed(runtime, 1, 3)) == [1]
    assert observed(runtime, 2, 3) + observed(runtime, 3, 4) == [], "of the second, or of the first with 3"
    runtime.advance(1.1)
    assert subscribes(runtime) == [(JOB, 0), (JOB, 0), (JOB, 2)]
    answer(runtime)
    again = [event for seq, home in ((4, 3), (5, 3), (6, 4)) for event in observed(runtime, seq, home)]
    assert numbers(again) == [5, 6]
    assert numbers(observed(runtime, 7, 4)) == [7], "nothing else may come twice"


def test_from_what_may_be_a_copy_all_is_asked_for_when_there_is_no_answer(runtime: ScriptedRuntime) -> None:
    in_doubt(runtime)
    assert observed(runtime, 2, 3) + observed(runtime, 3, 4) == []
    refuse(runtime, "PERMISSION_DENIED")
    runtime.advance(1.1)
    assert subscribes(runtime)[-1] == (JOB, 2)
    answer(runtime)
    again = [event for seq, home in ((4, 3), (5, 3), (6, 4)) for event in observed(runtime, seq, home)]
    assert numbers(again) == [5, 6]


def test_what_goes_on_live_is_no_copy(runtime: ScriptedRuntime) -> None:
    in_doubt(runtime, live=True)
    assert numbers(observed(runtime, 2, 3)) == [2]
    answer(runtime, replayed=False)
    assert numbers(observed(runtime, 3, 3)) == [3]
    answer(runtime, replayed=False)
    assert numbers(observed(runtime, 4, 3)) == [4], "the answer came twice, and began nothing"
    answer(runtime, replayed=True)
    again = [event for seq in (5, 6, 7, 8, 9) for event in observed(runtime, seq, 3)]
    assert numbers(again) == [9], "the answer came a third time, and began it anew"


def test_at_home_what_may_be_a_copy_stops_nothing(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    own(runtime, 1)
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    assert numbers(observed(runtime, 2, 1)) == [2]
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    assert runtime.client.session_id is not None
    runtime.reconnect(session_id=runtime.client.session_id, replies=True)
    assert observed(runtime, 3, 1) == []
    assert numbers(own(runtime, 4)) == [4]


def test_what_another_process_had_joined_is_not_counted_from_its_beginning() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 4, ())
    runtime = ScriptedRuntime(ClientConfig(), resumption=resumption)
    runtime.welcome()
    assert numbers(observed(runtime, 5, 3) + observed(runtime, 6, 3)) == [5, 6]
    lose(runtime)
    assert subscribes(runtime) == [(JOB, 3)], "nobody knows how many of 3 came before"


def test_counts_are_forgotten_where_they_were_counted_otherwise(runtime: ScriptedRuntime) -> None:
    subscribe(runtime)
    assert runtime.client.session_id is not None
    runtime.reconnect("subscribe", "ack", session_id=runtime.client.session_id)
    assert numbers(observed(runtime, 2, 3)) == [2], "it goes on"
    lose(runtime, "subscribe", "ack")
    assert subscribes(runtime)[-1] == (JOB, 2)
    lose(runtime, "subscribe")
    assert subscribes(runtime)[-1] == (JOB, 3)


def another_process(runtime: ScriptedRuntime) -> ScriptedRuntime:
    """It begins with what this one has written down, in the same session."""
    resumption = runtime.client.resumption()
    assert resumption is not None
    other = ScriptedRuntime(ClientConfig(), resumption=Resumption.of_json(resumption.to_json()))
    other.welcome(session_id=resumption.session_id)
    return other


def lose_all_processed(runtime: ScriptedRuntime) -> None:
    """The session is lost; 3 is asked for again, as others may have that number, and comes behind `job_2`."""
    subscribe(runtime)
    runtime.client.processed(JOB, 1, now=runtime.now)
    lose(runtime)
    answer(runtime)
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    observed(runtime, 1, 5, "job_2")
    assert subscribes(runtime)[1] == (JOB, 2)


def test_another_process_does_not_show_again_what_comes_again_of_a_number(runtime: ScriptedRuntime) -> None:
    lose_all_processed(runtime)
    runtime.client.processed(JobId("job_2"), 1, now=runtime.now)
    other = another_process(runtime)
    assert subscribes(other) == [(JOB, 2)]
    assert observed(other, 2, 3) == [], "it may be any of that number"
    answer(other)
    assert observed(other, 3, 3) == []
    assert numbers(observed(other, 4, 3) + observed(other, 5, 4)) == [4, 5]


def test_when_that_has_come_another_process_asks_for_nothing(runtime: ScriptedRuntime) -> None:
    lose_all_processed(runtime)
    assert observed(runtime, 2, 3) == []
    assert subscribes(another_process(runtime)) == [(JOB, 2)], "the event before it is not processed"
    runtime.client.processed(JobId("job_2"), 1, now=runtime.now)
    other = another_process(runtime)
    assert subscribes(other) == []
    assert numbers(observed(other, 3, 3) + observed(other, 4, 4)) == [3, 4]


def test_another_process_asks_again_when_it_resumes_from_before_the_answer(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    own(runtime, 1, 2)
    for seq in (1, 2):
        runtime.client.processed(JOB, seq, now=runtime.now)
    lose(runtime)
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    observed(runtime, 1, 5, "job_2")
    assert observed(runtime, 2, 7) == [], "of whatever; it comes again"
    answer(runtime)
    other = another_process(runtime)
    assert subscribes(other) == [(JOB, 2)]
    assert numbers(observed(other, 1, 5, "job_2") + observed(other, 2, 7)) == [1]
    answer(other)
    assert numbers(observed(other, 3, 3) + observed(other, 4, 7)) == [3, 4]
    runtime.client.processed(JobId("job_2"), 1, now=runtime.now)
    assert subscribes(another_process(runtime)) == []


def test_a_child_goes_on_when_it_is_unsubscribed(runtime: ScriptedRuntime) -> None:
    child = JobId("job_2")
    runtime.accept()
    runtime.client.unsubscribe(child, now=runtime.now)
    runtime.take()
    assert runtime.say("job.event", log(), job_id=child, event_seq=1) == [], "whose it is, nobody knows"
    said = {"kind": "delegate", "ts": "t", "body": {"child_job_id": child, "agent": "a"}}
    runtime.say("job.event", said, job_id=JOB, event_seq=2)
    assert numbers(runtime.say("job.event", log(), job_id=child, event_seq=3)) == [3]
    runtime.client.unsubscribe(child, now=runtime.now)
    runtime.take()
    assert numbers(runtime.say("job.event", log(), job_id=child, event_seq=4)) == [4]
    assert observed(runtime, 5, 1, child) == [], "what it was subscribed to for, comes no more"


def test_another_process_learns_of_a_child_by_the_history(runtime: ScriptedRuntime) -> None:
    child = JobId("job_2")
    runtime.accept()
    said = {"kind": "delegate", "body": {"child_job_id": child, "agent": "a"}}
    other = another_process(runtime)
    other.client.subscribe(JOB, 0, True, now=other.now)
    other.take()
    answer(other)
    observed(other, 1, 1, **said)
    other.client.unsubscribe(child, now=other.now)
    other.take()
    assert numbers(other.say("job.event", log(), job_id=child, event_seq=2)) == [2]
