"""Subscriptions at runtimes that send no positions: every event arrives at least once."""

from __future__ import annotations

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.output import JobAccepted, JobEnded, SubscriptionEnded
from tests.unit.resubscribing import UNSUBSCRIBED, answer, asked, at, lose, own, refuse
from tests.unit.scripted_runtime import JOB, NUMBERED, ScriptedRuntime, log, numbers, positions


@pytest.fixture
def numbered() -> ScriptedRuntime:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(*NUMBERED)
    return runtime


def test_without_positions_a_history_is_asked_from_a_home_number(numbered: ScriptedRuntime) -> None:
    numbered.accept()
    own(numbered, 1, 2)
    lose(numbered, *NUMBERED)
    assert asked(numbered) == [{"job_id": JOB, "from_event_seq": 2}]
    answer(numbered)
    assert numbers(own(numbered, 1, 2)) == [1, 2], "another session has numbers of its own"
    lose(numbered, *NUMBERED)
    assert asked(numbered)[-1] == {"job_id": JOB, "from_event_seq": 2}


def test_without_positions_copies_are_recognised_by_envelope_ids(numbered: ScriptedRuntime) -> None:
    numbered.accept()
    assert numbers(numbered.say("job.event", log(), job_id=JOB, event_seq=1, id="a")) == [1]
    lose(numbered, *NUMBERED)
    answer(numbered)
    assert numbered.say("job.event", log(), job_id=JOB, event_seq=1, id="a") == []
    assert numbers(numbered.say("job.event", log(), job_id=JOB, event_seq=2, id="b")) == [2]
    assert numbers(numbered.say("job.event", log(), job_id=JOB, event_seq=3, id="c")) == [3]
    assert numbered.client.cursor == 1, "a copy is processed"


def test_a_history_that_the_user_asks_for_again_may_have_the_same_ids(numbered: ScriptedRuntime) -> None:
    for seq in (1, 2):
        numbered.client.subscribe(JOB, 0, True, now=numbered.now)
        numbered.take()
        answer(numbered)
        assert numbers(numbered.say("job.event", log(), job_id=JOB, event_seq=seq, id="a")) == [seq]


def test_an_ended_subscription_is_renewed_from_the_number_of_the_user(numbered: ScriptedRuntime) -> None:
    numbered.client.subscribe(JOB, 4, True, now=numbered.now)
    numbered.take()
    answer(numbered)
    assert numbers(own(numbered, 1)) == [1]
    numbered.only(SubscriptionEnded, numbered.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=2))
    numbered.advance(1.1)
    assert asked(numbered) == [{"job_id": JOB, "from_event_seq": 4}] * 2
    answer(numbered)
    assert numbers(own(numbered, 3)) == [3]


def test_a_restarted_client_asks_from_the_processed_number(numbered: ScriptedRuntime) -> None:
    numbered.accept()
    own(numbered, 1, 2, 3)
    numbered.client.mark_processed(JOB, 2, now=numbered.now)
    resumption = numbered.client.resumption()
    assert resumption is not None
    other = ScriptedRuntime(ClientConfig(), resumption=Resumption.of_json(resumption.to_json()))
    other.welcome(*NUMBERED, session_id="sess_9")
    assert asked(other) == [{"job_id": JOB, "from_event_seq": 2}]
    answer(other)
    assert numbers(own(other, 1)) == [1]


def test_a_runtime_that_begins_to_tell_positions_is_asked_from_a_number(numbered: ScriptedRuntime) -> None:
    numbered.accept()
    own(numbered, 1, 2)
    lose(numbered)
    assert [frame["payload"] for frame in numbered.sent("job.subscribe")] == [
        {"job_id": JOB, "from_event_seq": 2, "history": True}
    ]
    answer(numbered, job_seq=5)
    assert positions(at(numbered, 1, 4) + at(numbered, 2, 5) + at(numbered, 3, 5)) == [4, 5]


def test_the_history_of_a_job_that_a_lost_answer_has_joined_waits_for_it(numbered: ScriptedRuntime) -> None:
    request_id = numbered.submit(idempotency_key="k")
    numbered.reconnect(*NUMBERED)
    assert own(numbered, 1, 2) == []
    accepted, *rest = numbered.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    assert isinstance(accepted, JobAccepted)
    assert numbers(rest) == [1, 2]


def test_the_history_of_a_job_that_had_ended_here_is_asked_for_if_it_came_too_early(
    numbered: ScriptedRuntime,
) -> None:
    numbered.accept()
    numbered.say("job.result", {"result": 1}, job_id=JOB, event_seq=1)
    request_id = numbered.submit(idempotency_key="k")
    numbered.reconnect(*NUMBERED)
    assert own(numbered, 2) == []
    numbered.only(JobAccepted, numbered.say("job.accepted", {"job_id": JOB, "request_id": request_id}))
    numbered.advance(1.1)
    assert asked(numbered) == [{"job_id": JOB, "from_event_seq": 0}]


def test_the_end_of_a_job_whose_acceptance_was_lost_refuses_no_request(numbered: ScriptedRuntime) -> None:
    request_id = numbered.submit(idempotency_key="k")
    other = numbered.submit()
    numbered.reconnect(*NUMBERED, replies=True)
    end = {"code": "TIMEOUT", "final_status": "timed_out", "completed_at": "t"}
    assert numbered.say("job.error", end, job_id=JOB, event_seq=1) == []
    accepted, ended = numbered.say("job.accepted", {"job_id": JOB, "request_id": request_id})
    assert isinstance(accepted, JobAccepted)
    assert isinstance(ended, JobEnded)
    numbered.only(JobAccepted, numbered.say("job.accepted", {"job_id": "job_2", "request_id": other}))


def test_a_history_before_an_answer_that_never_comes_is_asked_for_again(
    numbered: ScriptedRuntime,
) -> None:
    numbered.client.subscribe(JOB, 0, True, now=numbered.now)
    numbered.take()
    answer(numbered)
    numbered.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=1)
    numbered.advance(1.1)
    assert own(numbered, 2) == []
    refuse(numbered, "INTERNAL_ERROR", retryable=True)
    assert numbered.client.cursor == 2, "the event comes again"
    numbered.advance(1.1)
    assert own(numbered, 3) == []
    assert numbers(answer(numbered)) == [3]
