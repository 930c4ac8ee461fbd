"""Gaps in the numbers of events, and back-pressure; acks are in test_client."""

from __future__ import annotations

import json

import pytest

from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import ConnectionEnded, Detached, Event, MarkedProcessed, SessionFailed
from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.recording import record, replay
from tests.unit.scripted_runtime import JOB, UNIX, WELCOME, ScriptedRuntime, log, numbers


def emit(runtime: ScriptedRuntime, seq: int, message: str = "hi") -> list[Event]:
    return runtime.say("job.event", log(message), job_id=JOB, event_seq=seq, id=f"e{seq}")


# Gaps.


def test_a_gap_makes_the_client_resume_from_its_last_number(runtime: ScriptedRuntime) -> None:
    emit(runtime, 1)
    emit(runtime, 3)
    ended, detached = runtime.advance(1.1)
    assert isinstance(ended, ConnectionEnded)
    assert isinstance(detached, Detached)
    assert (ended.code, detached.reason) == ("INTERNAL_ERROR", "events 2..2 are missing")
    assert runtime.connect()["last_event_seq"] == 1
    runtime.welcome()
    assert numbers([*emit(runtime, 2), *emit(runtime, 3)]) == [2, 3]


def test_a_gap_that_a_resume_does_not_fill_is_given_up_and_reported(runtime: ScriptedRuntime) -> None:
    emit(runtime, 1)
    emit(runtime, 4)
    runtime.advance(1.1)
    runtime.connect()
    runtime.welcome()
    emit(runtime, 4)
    emit(runtime, 5)
    emit(runtime, 7)
    failed, *events = runtime.advance(1.1)
    assert failed == SessionFailed("INTERNAL_ERROR", "events 2..3 are missing", True, {})
    assert numbers(events) == [4, 5]
    assert runtime.state.connection is connection_state(runtime.connection)
    _, detached = runtime.advance(1.1)
    assert isinstance(detached, Detached), "each gap leads to a resume"
    assert detached.reason == "events 6..6 are missing"


def test_a_full_reorder_buffer_resumes_at_once() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_gap_events=3)))
    runtime.welcome()
    assert [emit(runtime, seq) for seq in (2, 3, 4)] == [[], [], []]
    assert [type(event) for event in emit(runtime, 5)] == [ConnectionEnded, Detached]
    runtime.connect()
    runtime.welcome()
    events = [event for seq in (2, 3, 4, 5) for event in emit(runtime, seq)]
    assert numbers(events) == [2, 3, 4, 5]


def test_a_gap_without_a_token_ends_the_connection() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(resume_token="")
    emit(runtime, 2)
    assert [type(event) for event in runtime.advance(1.1)][:2] == [SessionFailed, ConnectionEnded]


def test_a_gap_of_a_closing_session_is_reported_without_a_resume() -> None:
    runtime = ScriptedRuntime(ClientConfig(close_wait_sec=5))
    runtime.welcome()
    runtime.client.close(now=runtime.now)
    runtime.take()
    emit(runtime, 2)
    failed, ended, *_ = runtime.advance(1.1)
    assert failed == SessionFailed("INTERNAL_ERROR", "events 1..1 are missing", True, {})
    assert isinstance(ended, ConnectionEnded)
    assert runtime.state.session is None


def test_the_next_gap_waits_for_its_whole_time_when_the_one_before_was_given_up_early() -> None:
    """Give up the first gap 0.1 seconds early, because too many events wait behind it."""
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_gap_events=3)))
    runtime.welcome()
    for seq in (2, 3, 4, 5):
        emit(runtime, seq)
    runtime.connect()
    runtime.welcome()
    emit(runtime, 2)
    runtime.advance(0.9)
    emit(runtime, 3)
    emit(runtime, 4)
    assert numbers(emit(runtime, 8)) == [2, 3, 4]
    assert runtime.advance(0.5) == []
    _, detached = runtime.advance(0.6)
    assert isinstance(detached, Detached)
    assert detached.reason == "events 5..7 are missing"


# Back-pressure.


@pytest.fixture
def slow() -> ScriptedRuntime:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_unprocessed_bytes=1_000)))
    runtime.welcome()
    return runtime


def test_too_many_unprocessed_bytes_stop_the_reading(slow: ScriptedRuntime) -> None:
    seq = 0
    while slow.connection.reading:
        seq += 1
        emit(slow, seq, "x" * 100)
    assert 2 <= seq <= 10
    slow.client.mark_processed(JOB, 1, now=slow.now)
    assert slow.connection.reading
    emit(slow, seq + 1, "x" * 100)
    assert not slow.connection.reading


def test_while_an_answer_is_due_four_times_as_much_is_read(slow: ScriptedRuntime) -> None:
    emit(slow, 1, "x" * 2_000)
    assert not slow.connection.reading
    slow.client.cancel(JOB, now=slow.now)
    assert slow.connection.reading
    emit(slow, 2, "x" * 3_000)
    assert not slow.connection.reading


def test_unprocessed_events_of_a_lost_session_count_too(slow: ScriptedRuntime) -> None:
    emit(slow, 1, "x" * 2_000)
    slow.reconnect(session_id="sess_2")
    assert not slow.connection.reading
    slow.client.mark_processed(JOB, 1, now=slow.now)
    assert slow.connection.reading


def test_silence_is_not_counted_while_the_client_does_not_read() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_unprocessed_bytes=100)))
    runtime.welcome(heartbeat_interval_sec=10)
    emit(runtime, 1, "x" * 1_000)
    assert runtime.advance(100) == []


def test_the_cursor_is_the_last_processed_event(runtime: ScriptedRuntime) -> None:
    assert runtime.client.cursor == 0
    for seq in (1, 2, 3):
        emit(runtime, seq)
    runtime.client.mark_processed(JobId("job_other"), 3, now=runtime.now)
    assert runtime.client.cursor == 0
    runtime.client.mark_processed(JOB, 2, now=runtime.now)
    assert runtime.client.cursor == 2
    runtime.client.mark_processed(JOB, 1, now=runtime.now)
    assert runtime.client.cursor == 2


# The end of an iteration.


def test_the_last_event_of_an_iteration_counts_as_processed_later(runtime: ScriptedRuntime) -> None:
    for seq in (1, 2, 3):
        emit(runtime, seq)
    runtime.client.mark_processed(JOB, 1, now=runtime.now)
    runtime.client.stopped_iterating(JOB, 2, now=runtime.now)
    assert runtime.advance(4.9) == []
    assert runtime.client.cursor == 1
    assert runtime.advance(0.1) == [MarkedProcessed(JOB, 2)]
    assert runtime.client.cursor == 2
    runtime.advance(1)
    assert [ack["payload"]["last_processed_seq"] for ack in runtime.sent("session.ack")] == [1, 2]


def test_a_later_iteration_may_end_again(runtime: ScriptedRuntime) -> None:
    for seq in (1, 2):
        emit(runtime, seq)
    runtime.client.stopped_iterating(JOB, 1, now=runtime.now)
    runtime.advance(3)
    runtime.client.stopped_iterating(JOB, 2, now=runtime.now)
    assert runtime.advance(4.9) == []
    assert runtime.advance(0.1) == [MarkedProcessed(JOB, 2)]


def test_a_user_that_goes_on_marks_its_events_itself(runtime: ScriptedRuntime) -> None:
    for seq in (1, 2, 3):
        emit(runtime, seq)
    runtime.client.stopped_iterating(JOB, 2, now=runtime.now)
    runtime.client.mark_processed(JOB, 1, now=runtime.now)
    assert runtime.state.timers.armed(TimerKind.PROCESSED, JOB) is not None
    runtime.client.mark_processed(JOB, 2, now=runtime.now)
    assert runtime.state.timers.armed(TimerKind.PROCESSED, JOB) is None
    assert runtime.advance(60) == []


def test_the_end_of_an_iteration_outlives_a_lost_session(runtime: ScriptedRuntime) -> None:
    emit(runtime, 1)
    runtime.client.stopped_iterating(JOB, 1, now=runtime.now)
    runtime.reconnect(session_id="sess_2")
    runtime.advance(5)
    assert runtime.events[-1] == MarkedProcessed(JOB, 1)
    assert runtime.state.session is not None
    assert runtime.state.session.acks.size == 0


def test_the_next_process_gets_the_last_event_of_an_iteration(runtime: ScriptedRuntime) -> None:
    emit(runtime, 1)
    runtime.client.stopped_iterating(JOB, 1, now=runtime.now)
    runtime.client.detach(now=runtime.now)
    assert MarkedProcessed(JOB, 1) not in runtime.advance(60)
    assert runtime.client.cursor == 0


def test_the_end_of_an_iteration_after_the_session_is_ignored(runtime: ScriptedRuntime) -> None:
    emit(runtime, 1)
    runtime.client.stopped_iterating(JOB, 1, now=runtime.now)
    runtime.client.close(now=runtime.now)
    runtime.say("session.closed", {})
    runtime.client.stopped_iterating(JOB, 1, now=runtime.now)
    assert runtime.advance(60) == []
    assert len(runtime.state.timers) == 0


def test_a_recording_tells_when_an_event_was_acked() -> None:
    client = Client(ClientConfig(), seed=bytes(32), now=SECOND, unix=UNIX)
    lines: list[str] = []
    record(client, lines.append, keep_secrets=True)
    connection = client.connect(None, now=SECOND)
    messages = (
        {"type": "session.welcome", "payload": WELCOME},
        {"type": "job.event", "job_id": JOB, "event_seq": 1, "payload": log()},
    )
    outputs = [connection.receive(json.dumps(message).encode(), now=SECOND) for message in messages]
    client.stopped_iterating(JOB, 1, now=SECOND)
    while (deadline := client.deadline()) is not None and deadline.at <= 20 * SECOND:
        outputs.append(client.handle_timer(now=deadline.at))
    sent = [envelope for output in outputs for _, envelope in output.envelopes()]
    assert [json.loads(envelope)["payload"] for envelope in sent if b"session.ack" in envelope] == [
        {"last_processed_seq": 1}
    ]
    again = replay(lines)
    assert [envelope for _, envelope in again.envelopes] == sent
    assert MarkedProcessed(JOB, 1) in [event for output in again.outputs for event in output.events]
