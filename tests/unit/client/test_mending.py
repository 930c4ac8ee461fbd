"""Results of which an earlier process has taken chunks: the client asks for the whole job again (§8.4)."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import (
    CancelAcknowledged,
    Event,
    JobEnded,
    JobEvent,
    RequestRefused,
    SessionLost,
    Subscribed,
)
from arcp_proto.ids import JobId
from tests.unit.resubscribing import (
    UNSUBSCRIBED,
    another_process,
    answer,
    asked,
    at,
    lose,
    own,
    process_all,
    refuse,
    subscribes,
)
from tests.unit.scripted_runtime import JOB, NUMBERED, ScriptedRuntime, chunk

WHOLE = {"final_status": "success", "completed_at": "t", "result_id": "res_1", "result_size": 4}


def begin(*features: str) -> ScriptedRuntime:
    """Continue a job in another process, after its first chunk was processed."""
    first = ScriptedRuntime(ClientConfig())
    first.welcome(*features)
    first.accept()
    first.say("job.event", chunk(0, "ab"), job_id=JOB, event_seq=1)
    process_all(first)
    resumption = first.client.resumption()
    assert resumption is not None
    other = another_process(first) if not features else ScriptedRuntime(ClientConfig(), resumption=resumption)
    if features:
        other.welcome(*features)
    other.positions[JOB] = 1
    return other


def end(runtime: ScriptedRuntime, *, size: int = 4) -> list[Event]:
    """Send the other chunk, and the end of the job."""
    runtime.say("job.event", chunk(1, "cd", more=False), job_id=JOB, event_seq=2)
    return runtime.say("job.result", {**WHOLE, "result_size": size}, job_id=JOB, event_seq=3)


def history(runtime: ScriptedRuntime, seq: int = 4, **fields: Any) -> list[Event]:
    """Send the history of the job, with numbers that begin at `seq`."""
    told = [chunk(0, "ab"), chunk(1, "cd", more=False)]
    events = [
        event
        for number, payload in enumerate(told)
        for event in runtime.say(
            "job.event",
            {**payload, "job_seq": number + 1, **fields},
            job_id=JOB,
            event_seq=seq + number,
            id=f"h{seq + number}",
        )
    ]
    payload = {**WHOLE, "job_seq": 3, **fields}
    return events + runtime.say("job.result", payload, job_id=JOB, event_seq=seq + 2, id=f"h{seq + 2}")


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return begin()


def test_missing_chunks_make_the_client_subscribe_again(runtime: ScriptedRuntime) -> None:
    assert end(runtime) == []
    assert asked(runtime) == [{"job_id": JOB, "from_job_seq": 0}]
    assert answer(runtime, current_status="success") == []
    (ended,) = history(runtime)
    assert isinstance(ended, JobEnded)
    assert (ended.seq, ended.final_status, ended.result, ended.code) == (3, "success", "abcd", "")


def test_the_end_of_a_mended_job_is_acked_once_it_is_processed(runtime: ScriptedRuntime) -> None:
    end(runtime)
    process_all(runtime)
    assert runtime.client.cursor == 2
    answer(runtime)
    history(runtime)
    assert runtime.client.cursor == 2
    process_all(runtime)
    assert runtime.client.cursor == 6
    resumption = runtime.client.resumption()
    assert resumption is not None
    assert resumption.jobs == ()


def test_a_history_for_mending_counts_from_its_answer(runtime: ScriptedRuntime) -> None:
    """Drop events before the answer: an earlier process may have asked for them from a later position on."""
    end(runtime)
    assert at(runtime, 4, 2) == []
    assert runtime.say("job.result", {**WHOLE, "job_seq": 3}, job_id=JOB, event_seq=5) == []
    answer(runtime)
    assert [type(event) for event in history(runtime, 6)] == [JobEnded]


def test_without_positions_a_history_for_mending_may_precede_its_answer() -> None:
    runtime = begin(*NUMBERED)
    end(runtime)
    assert asked(runtime) == [{"job_id": JOB, "from_event_seq": 0}]
    (ended,) = history(runtime)
    assert isinstance(ended, JobEnded)
    assert ended.result == "abcd"
    assert answer(runtime) == []


def test_without_positions_live_events_are_not_taken_for_the_history() -> None:
    runtime = begin(*NUMBERED)
    end(runtime)
    assert runtime.say("job.result", WHOLE, job_id=JOB, event_seq=4) == []
    answer(runtime)
    assert [type(event) for event in history(runtime, 5)] == [JobEnded]


def test_missing_chunks_that_are_gone_keep_the_end_unmended(runtime: ScriptedRuntime) -> None:
    end(runtime)
    answer(runtime, history_from_job_seq=3)
    (ended,) = runtime.say("job.result", {**WHOLE, "job_seq": 3}, job_id=JOB, event_seq=4)
    assert isinstance(ended, JobEnded)
    assert (ended.seq, ended.final_status, ended.code) == (3, "error", "INTERNAL_ERROR")
    assert subscribes(runtime) == [(JOB, 0)]


@pytest.mark.parametrize("fields", [{"current_status": "success", "replayed": False}])
def test_a_history_that_is_gone_keeps_the_end_unmended(
    runtime: ScriptedRuntime, fields: dict[str, Any]
) -> None:
    end(runtime)
    (ended,) = answer(runtime, **fields)
    assert isinstance(ended, JobEnded)
    assert ended.code == "INTERNAL_ERROR"


def test_a_refused_history_keeps_the_end_unmended(runtime: ScriptedRuntime) -> None:
    end(runtime)
    (ended,) = refuse(runtime, "JOB_NOT_FOUND")
    assert isinstance(ended, JobEnded)
    assert ended.code == "INTERNAL_ERROR"


def test_a_retryable_refusal_of_a_history_is_tried_again(runtime: ScriptedRuntime) -> None:
    end(runtime)
    assert refuse(runtime, "INTERNAL_ERROR", retryable=True) == []
    runtime.advance(1)
    assert subscribes(runtime) == [(JOB, 0), (JOB, 0)]
    answer(runtime)
    assert [type(event) for event in history(runtime)] == [JobEnded]


def test_a_subscription_for_mending_that_ends_is_renewed(runtime: ScriptedRuntime) -> None:
    end(runtime)
    answer(runtime)
    runtime.say("job.event", {**chunk(0, "ab"), "job_seq": 1}, job_id=JOB, event_seq=4)
    assert runtime.say("job.event", UNSUBSCRIBED, job_id=JOB, event_seq=5) == []
    runtime.advance(1)
    answer(runtime)
    (ended,) = history(runtime, 6)
    assert isinstance(ended, JobEnded)
    assert ended.result == "abcd"


def test_a_new_session_mends_a_result_as_well(runtime: ScriptedRuntime) -> None:
    end(runtime)
    assert [type(event) for event in lose(runtime) if isinstance(event, JobEnded | SessionLost)] == [
        SessionLost
    ]
    assert subscribes(runtime) == [(JOB, 0), (JOB, 0)]
    answer(runtime)
    (ended,) = history(runtime, 1)
    assert isinstance(ended, JobEnded)
    assert ended.result == "abcd"
    process_all(runtime)
    assert runtime.client.cursor == 3


def test_a_session_without_subscribe_keeps_the_end_unmended(runtime: ScriptedRuntime) -> None:
    end(runtime)
    *_, ended = lose(runtime, "ack")
    assert isinstance(ended, JobEnded)
    assert ended.code == "INTERNAL_ERROR"
    other = begin()
    other.reconnect("ack")
    (ended,) = end(other)
    assert isinstance(ended, JobEnded)


def test_giving_up_the_session_hands_out_the_unmended_end(runtime: ScriptedRuntime) -> None:
    end(runtime)
    runtime.drop()
    *_, lost, ended = runtime.advance(600)
    assert isinstance(lost, RequestRefused | SessionLost)
    assert isinstance(ended, JobEnded)


def test_only_chunks_of_an_earlier_process_are_mended() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    runtime.accept()
    own(runtime, 1)
    (ended,) = end(runtime)
    assert isinstance(ended, JobEnded)
    assert (ended.code, subscribes(runtime)) == ("INTERNAL_ERROR", [])


def test_a_user_that_subscribes_while_mending_gets_the_end_and_the_history(runtime: ScriptedRuntime) -> None:
    end(runtime)
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    ended, subscribed = answer(runtime)
    assert isinstance(ended, JobEnded)
    assert isinstance(subscribed, Subscribed)
    assert [type(event) for event in history(runtime)] == [JobEvent, JobEvent, JobEnded]


def test_a_cancel_while_mending_is_answered_with_the_end(runtime: ScriptedRuntime) -> None:
    end(runtime)
    request_id = runtime.cancel()
    answer(runtime)
    cancelled, ended = history(runtime)
    assert cancelled == CancelAcknowledged(request_id, JOB, 0, "success")
    assert isinstance(ended, JobEnded)


def test_an_unsubscribe_while_mending_releases_the_cursor(runtime: ScriptedRuntime) -> None:
    other = JobId("job_2")
    runtime.client.subscribe(other, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, other)
    process_all(runtime)
    assert runtime.state.session is not None
    runtime.state.session.jobs[other].restored = True
    payload = {**WHOLE, "job_seq": 10}
    assert runtime.say("job.result", payload, job_id=other, event_seq=2) == []
    assert runtime.client.cursor == 1
    runtime.client.unsubscribe(other, now=runtime.now)
    assert runtime.client.cursor == 2


def test_a_job_error_in_the_history_keeps_the_end_unmended(runtime: ScriptedRuntime) -> None:
    end(runtime)
    error = {"final_status": "error", "completed_at": "t", "code": "X", "message": "m", "job_seq": 3}
    assert runtime.say("job.error", error, job_id=JOB, event_seq=4) == []
    answer(runtime)
    (ended,) = runtime.say("job.error", error, job_id=JOB, event_seq=5)
    assert isinstance(ended, JobEnded)
    assert ended.code == "INTERNAL_ERROR"
