"""Ends of jobs that arrive before the answer to the client's own subscribe, which may bring no events."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.client.kept_ends import KeptEnd, KeptEnds
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.output import Event, JobEnded, JobLost, SessionLost
from arcp_proto.ids import JobId, SessionId
from arcp_proto.limits import Limits
from arcp_proto.secret import Secret
from tests.unit.resubscribing import another_process, answer, at, lose, refuse, subscribes
from tests.unit.scripted_runtime import FEATURES, JOB, NUMBERED, ScriptedRuntime, log, positions


def restarted(*features: str, limits: Limits | None = None, seen: int = 0) -> ScriptedRuntime:
    """Resume a session in another process, whose log holds later events of a job than the next one."""
    cursor = 0 if seen else 3
    job = ResumedJob(JOB, cursor, seen=seen, observed=True, behind=True)
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 0, (job,))
    runtime = ScriptedRuntime(ClientConfig(limits=limits or Limits()), resumption=resumption)
    runtime.welcome(*features)
    assert subscribes(runtime) == [(JOB, None if seen else 3)]
    return runtime


def succeed(runtime: ScriptedRuntime, seq: int, position: int | None, **fields: Any) -> list[Event]:
    end = {"final_status": "success", "completed_at": "t", "result": 1, "job_seq": position, **fields}
    return runtime.say("job.result", end, job_id=JOB, event_seq=seq)


def fail(runtime: ScriptedRuntime, seq: int, position: int | None, **fields: Any) -> list[Event]:
    end = {"final_status": "error", "code": "INTERNAL_ERROR", "completed_at": "t", "job_seq": position}
    end.update(fields)
    return runtime.say("job.error", end, job_id=JOB, event_seq=seq)


def test_an_end_that_a_resume_brings_is_handed_out_when_the_job_is_forgotten() -> None:
    runtime = restarted()
    assert at(runtime, 1, 8) + succeed(runtime, 2, 9) == []
    end = runtime.only(JobEnded, refuse(runtime, "JOB_NOT_FOUND"))
    assert (end.seq, end.job_seq, end.result, end.code) == (2, 9, 1, "")
    assert end.history_from == 9, "nothing brings the events from 4 to 8"
    assert runtime.client.cursor == 1
    runtime.client.mark_processed(JOB, end.receipt, now=runtime.now)
    assert runtime.client.cursor == 2
    assert subscribes(another_process(runtime)) == []


def test_an_end_next_to_the_last_event_leaves_no_hole() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 4) == []
    assert runtime.only(JobEnded, refuse(runtime, "JOB_NOT_FOUND")).history_from is None


@pytest.mark.parametrize(("position", "hole"), [(5, 5), (4, None)])
def test_an_end_that_comes_alone_tells_of_the_hole_before_it(position: int, hole: int | None) -> None:
    runtime = restarted()
    answer(runtime, job_seq=3)
    events = succeed(runtime, 1, position, history_from_job_seq=position)
    assert runtime.only(JobEnded, events).history_from == hole
    runtime = restarted()
    answer(runtime, job_seq=3)
    events = fail(runtime, 1, position, history_from_job_seq=position)
    assert runtime.only(JobEnded, events).history_from == hole


def test_an_error_that_a_resume_brings_is_handed_out_when_the_job_is_forgotten() -> None:
    runtime = restarted()
    assert fail(runtime, 1, 9) == []
    end = runtime.only(JobEnded, refuse(runtime, "JOB_NOT_FOUND"))
    assert (end.final_status, end.code) == ("error", "INTERNAL_ERROR")


def test_an_end_that_a_subscription_brings_again_comes_once() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) == []
    assert runtime.client.cursor == 0, "another process may need the end again"
    answer(runtime, current_status="success", job_seq=5)
    assert runtime.client.cursor == 1
    assert positions(at(runtime, 2, 4)) == [4]
    assert runtime.only(JobEnded, succeed(runtime, 3, 5)).seq == 3


def test_an_end_is_kept_for_the_next_process() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) == []
    other = another_process(runtime)
    assert succeed(other, 1, 5) == []
    other.only(JobEnded, refuse(other, "JOB_NOT_FOUND"))


def test_an_end_is_handed_out_when_the_history_is_gone() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) == []
    runtime.only(JobEnded, answer(runtime, current_status="success", job_seq=5, replayed=False))


def test_an_end_is_handed_out_when_the_runtime_offers_subscriptions_no_longer() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) == []
    runtime.drop()
    runtime.connect()
    events = runtime.welcome(*(name for name in FEATURES if name != "subscribe"))
    assert [type(event) for event in events if isinstance(event, JobEnded | JobLost)] == [JobEnded]


def test_an_end_is_handed_out_when_the_session_is_lost_and_the_job_is_forgotten() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) == []
    assert any(isinstance(event, SessionLost) for event in lose(runtime))
    assert subscribes(runtime) == [(JOB, 3), (JOB, 3)]
    end = runtime.only(JobEnded, refuse(runtime, "JOB_NOT_FOUND"))
    assert (end.seq, end.job_seq) == (0, 5), "the number belongs to another session"
    assert runtime.client.cursor == 0
    runtime.client.mark_processed(JOB, end.receipt, now=runtime.now)
    assert runtime.client.cursor == 0


def test_an_end_without_its_chunks_is_handed_out_as_an_error() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5, result=None, result_id="res_1", result_size=3) == []
    end = runtime.only(JobEnded, refuse(runtime, "JOB_NOT_FOUND"))
    assert (end.final_status, end.code) == ("error", "INTERNAL_ERROR")
    assert subscribes(runtime) == [(JOB, 3)]


def test_an_end_of_a_runtime_without_positions_is_handed_out_when_the_job_is_forgotten() -> None:
    runtime = restarted(*NUMBERED, seen=4)
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=1) == []
    assert succeed(runtime, 2, None) == []
    end = runtime.only(JobEnded, refuse(runtime, "JOB_NOT_FOUND"))
    runtime.client.mark_processed(JOB, end.receipt, now=runtime.now)
    assert runtime.client.cursor == 2


@pytest.mark.parametrize(
    ("code", "told"),
    [("JOB_NOT_FOUND", JobEnded), ("PERMISSION_DENIED", JobLost)],
)
def test_a_second_subscribe_follows_an_answer_behind_an_end(
    code: str, told: type[JobEnded | JobLost]
) -> None:
    runtime = restarted(*NUMBERED, seen=4)
    assert succeed(runtime, 1, None) == []
    answer(runtime, current_status="success", job_seq=None)
    runtime.advance(1.1)
    assert len(subscribes(runtime)) == 2
    runtime.only(told, refuse(runtime, code))


@pytest.mark.parametrize("code", ["INVALID_REQUEST", "PERMISSION_DENIED"])
def test_a_refusal_tells_that_a_job_is_lost_while_its_history_is_there(code: str) -> None:
    runtime = restarted()
    assert at(runtime, 1, 8) + succeed(runtime, 2, 9) == []
    lost = runtime.only(JobLost, refuse(runtime, code))
    assert lost.code == code
    assert runtime.client.cursor == 2, "no event of the job is awaited"
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, current_status="success", job_seq=9)
    assert positions(at(runtime, 3, 1)) == [1]
    assert runtime.only(JobEnded, succeed(runtime, 4, 9)).seq == 4


def test_an_end_of_a_job_that_is_left_is_dropped() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) == []
    runtime.client.unsubscribe(JOB, now=runtime.now)
    runtime.take()
    assert runtime.client.cursor == 1
    assert refuse(runtime, "JOB_NOT_FOUND") == []


def test_an_end_is_dropped_when_the_user_asks_for_all_of_its_job() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) == []
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, current_status="success", job_seq=5)
    assert positions(at(runtime, 2, 1)) == [1]
    assert runtime.only(JobEnded, succeed(runtime, 3, 5)).seq == 3


def test_a_second_end_is_not_kept() -> None:
    runtime = restarted()
    assert succeed(runtime, 1, 5) + succeed(runtime, 2, 5) == []
    assert runtime.only(JobEnded, refuse(runtime, "JOB_NOT_FOUND")).seq == 1


def test_an_end_for_which_there_is_no_room_is_lost() -> None:
    runtime = restarted(limits=Limits(max_history_events=1, max_gap_bytes=10))
    assert succeed(runtime, 1, 5) == []
    assert runtime.client.cursor == 1
    runtime.only(JobLost, refuse(runtime, "JOB_NOT_FOUND"))


def kept(job_id: str, size: int) -> KeptEnd:
    return KeptEnd(JobEnded(JobId(job_id), 1, "success", "t"), None, size)


def test_kept_ends_are_bounded() -> None:
    ends = KeptEnds(2, 10)
    assert ends.keep(kept("job_1", 6)) and not ends.keep(kept("job_1", 1))
    assert not ends.keep(kept("job_2", 5)) and ends.keep(kept("job_2", 4))
    assert not ends.keep(kept("job_3", 0)), "the limit is two"
    assert ends.take(JobId("job_3")) is None and ends.take(JobId("job_1")) is not None
    assert JobId("job_1") not in ends and ends.keep(kept("job_3", 6))
