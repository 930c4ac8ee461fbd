"""When a pump sends what, and what it does about timers, full hosts and bugs."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_io.drivers.pump import Schedule
from arcp_io.drivers.stdio import RequestCodec
from arcp_io.drivers.transport import StreamTransport
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Audit, ConnectionEnded, Output, StartJob
from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import MILLISECOND, SECOND
from arcp_proto.limits import KIB, MIB
from tests.io.fakes import HELLO, START, SUBMIT, UNIX, FakeStream, Noting, SlowJournal, Stand


def types(writes: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[message["type"] for message in write] for write in writes]


def test_the_answers_to_one_read_are_one_write() -> None:
    stand = Stand()
    stand.say(HELLO, {"type": "session.ping", "payload": {"nonce": "n"}}, {"type": "job.cancel"})
    assert types(stand.stream.messages()) == [["session.welcome", "session.pong", "session.error"]]


def test_a_job_is_accepted_together_with_what_its_agent_says_at_once() -> None:
    stand = Stand()
    stand.say(HELLO)
    stand.stream.messages()
    stand.say(SUBMIT, SUBMIT | {"id": "2"})
    assert not stand.stream.messages()
    first, second = (one.job_id for one in stand.requests if isinstance(one, StartJob))
    stand.emit(first)
    for job in (first, second):
        stand.runtime.agents.finish(job, now=stand.at)
        stand.pump.soon(urgent=True)
    stand.loop.turn()
    assert types(stand.stream.messages()) == [
        ["job.accepted", "job.accepted", "job.event", "job.result", "job.result"]
    ]


def test_the_first_event_goes_out_at_the_next_turn() -> None:
    stand = Stand()
    job = stand.start()
    stand.emit(job, 3)
    assert not stand.stream.messages()
    stand.loop.turn()
    assert types(stand.stream.messages()) == [["job.event"] * 3]


def test_while_events_keep_coming_they_go_out_once_a_millisecond() -> None:
    stand = Stand()
    job = stand.start()
    for _ in range(10):
        stand.emit(job)
        stand.loop.turn()
        stand.pass_time(0.05)
    assert types(stand.stream.messages()) == [["job.event"]]
    stand.pass_time(0.5)
    assert types(stand.stream.messages()) == [["job.event"] * 9]
    stand.emit(job)
    stand.loop.turn()
    assert not stand.stream.messages()  # The millisecond begins again with each write.
    stand.pass_time(1)
    assert types(stand.stream.messages()) == [["job.event"]]
    stand.pass_time(1)
    stand.emit(job)
    stand.loop.turn()
    assert types(stand.stream.messages()) == [["job.event"]]


def test_the_quiet_begins_when_a_write_to_many_has_ended_and_is_three_times_as_long() -> None:
    stand = Stand()
    job = stand.start()
    stand.stream.takes = 5
    stand.emit(job)
    stand.loop.turn()
    stand.emit(job)
    stand.pass_time(14.5)
    assert types(stand.stream.messages()) == [["job.event"]]
    stand.emit(job)
    stand.pass_time(0.5)
    assert types(stand.stream.messages()) == [["job.event"] * 2]
    stand.pass_time(15)
    stand.stream.takes = 500  # But it is bounded.
    stand.emit(job)
    stand.loop.turn()
    stand.emit(job)
    stand.stream.messages()
    stand.pass_time(19.5)
    assert not stand.stream.messages()
    stand.pass_time(0.5)
    assert types(stand.stream.messages()) == [["job.event"]]


def test_input_of_one_client_does_not_flush_events_to_another() -> None:
    stand = Stand()
    job = stand.start()
    other = stand.connect()
    stand.say(HELLO, {"type": "job.submit", "id": "2", "payload": {"agent": "agent"}}, on=other)
    stand.loop.turn()
    stand.emit(job)
    stand.loop.turn()
    stand.emit(job)
    stand.stream.messages()
    other.messages()
    stand.say({"type": "session.ping", "id": "p", "payload": {"nonce": "n"}}, on=other)
    assert types(other.messages()) == [["session.pong"]]
    assert not stand.stream.messages()
    stand.pass_time(1)
    assert types(stand.stream.messages()) == [["job.event"]]


def test_many_events_go_out_at_once() -> None:
    stand = Stand()
    job = stand.start()
    stand.emit(job, 63)
    assert not stand.stream.messages()
    stand.emit(job)
    assert types(stand.stream.messages()) == [["job.event"] * 64]
    stand.emit(job, size=30_000, told=30_000)
    assert not stand.stream.messages()
    stand.emit(job, size=36_000, told=36_000)
    assert types(stand.stream.messages()) == [["job.event"] * 2]


def test_a_terminal_goes_out_at_the_next_turn_with_all_before_it() -> None:
    stand = Stand()
    job = stand.start()
    stand.emit(job)
    stand.loop.turn()
    stand.emit(job, 2)
    stand.stream.messages()
    stand.runtime.agents.finish(job, now=stand.at)
    stand.pump.soon(urgent=True)
    assert not stand.stream.messages()
    stand.loop.turn()
    assert types(stand.stream.messages()) == [["job.event", "job.event", "job.result"]]
    stand.pass_time(1)
    assert not stand.stream.messages()


def test_a_reply_takes_along_what_waits() -> None:
    stand = Stand()
    job = stand.start()
    stand.emit(job)
    stand.loop.turn()
    stand.emit(job, 2)
    stand.stream.messages()
    stand.say({"type": "session.ping", "id": "p", "payload": {"nonce": "n"}})
    assert types(stand.stream.messages()) == [["session.pong", "job.event", "job.event"]]


def test_the_timer_follows_the_earlier_of_deadline_and_events() -> None:
    stand = Stand(hello_timeout_sec=7)
    assert stand.loop.armed is not None
    assert stand.loop.armed[0] == START + 7 * SECOND
    job = stand.start()
    assert stand.loop.armed is None
    stand.emit(job)
    stand.loop.turn()
    stand.pass_time(0.25)
    stand.emit(job)
    assert stand.loop.armed is not None
    assert stand.loop.armed[0] == START + MILLISECOND


def test_a_timer_that_fires_early_is_taken_at_its_word() -> None:
    stand = Stand(hello_timeout_sec=7)
    assert stand.loop.armed is not None
    stand.at += 7 * SECOND - MILLISECOND
    stand.loop.armed[1]()
    (write,) = stand.stream.messages()
    assert write[0]["payload"]["code"] == "UNAUTHENTICATED"
    assert [type(event) for event in stand.events] == [Audit, ConnectionEnded]


def test_a_wall_clock_that_was_set_is_told() -> None:
    stand = Stand(hello_timeout_sec=7)
    stand.wall += 3_600 * SECOND
    stand.pass_time(7_000)
    assert state_of(stand.runtime).unix == UNIX + 3_607 * SECOND


def test_a_wall_clock_that_wanders_is_not() -> None:
    stand = Stand(hello_timeout_sec=7)
    stand.wall += 99 * MILLISECOND
    stand.pass_time(7_000)
    assert state_of(stand.runtime).unix == UNIX + 7 * SECOND


def test_a_host_that_has_enough_is_left_alone() -> None:
    stand = Stand()
    stand.say(HELLO)
    stand.pump.hold(stand.connection, True)
    stand.stream.messages()
    stand.say(SUBMIT)
    stand.say(SUBMIT | {"id": "2"})
    assert stand.stream.paused
    assert not stand.stream.messages()
    stand.pump.hold(stand.connection, False)
    stand.loop.turn()
    stand.loop.turn()
    assert types(stand.stream.messages()) == [["job.accepted", "job.accepted"]]
    assert not stand.stream.paused


def test_while_a_host_has_enough_the_silence_of_the_peer_is_not_counted() -> None:
    stand = Stand(heartbeat=30)
    stand.say(HELLO | {"payload": HELLO["payload"] | {"capabilities": {"features": ["heartbeat"]}}})
    stand.pump.hold(stand.connection, True)
    for _ in range(300):  # A second each: after a longer stop the machine looks again before it gives up.
        stand.pass_time(1_000)
    assert state_of(stand.runtime).connections
    stand.pump.hold(stand.connection, False)
    for _ in range(300):
        stand.pass_time(1_000)
    assert not state_of(stand.runtime).connections


def test_a_bug_in_an_input_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*args: object, **kwargs: object) -> Output:
        raise InvariantViolated("a bug")

    stand = Stand()
    job = stand.start()
    monkeypatch.setattr(state_of(stand.runtime), "_handle", bug)
    stand.say(SUBMIT)
    assert isinstance(stand.loop.failure, InvariantViolated)
    monkeypatch.undo()
    with pytest.raises(InvariantViolated):
        stand.emit(job)  # The machine does not trust itself either.
    assert not stand.stream.messages()


def test_a_bug_in_what_the_end_of_a_transport_causes_stops_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bug(*args: object, **kwargs: object) -> Output:
        raise InvariantViolated("a bug")

    stand = Stand()
    stand.start()
    monkeypatch.setattr(state_of(stand.runtime), "lose_connection", bug)
    stand.stream.transport.ended("the peer is gone")
    assert isinstance(stand.loop.failure, InvariantViolated)


def test_a_closing_connection_without_a_transport_is_lost() -> None:
    stand = Stand(hello_timeout_sec=7)
    stand.start()
    lonely = stand.runtime.connect(now=stand.at)
    stand.pump.run()
    stand.pass_time(7_000)
    assert connection_state(lonely).number not in state_of(stand.runtime).connections


def test_a_transport_that_comes_too_late_is_aborted() -> None:
    stand = Stand(hello_timeout_sec=7)
    late = stand.runtime.connect(now=stand.at)
    stand.pump.run()
    stand.pass_time(7_000)
    stream = FakeStream()
    stream.transport = StreamTransport(stand.pump, late, RequestCodec(late.message_limit), stream)
    stand.loop.turn()
    assert stream.ending == ["abort"]
    assert not stream.written


def test_after_the_stop_nothing_is_armed_or_sent() -> None:
    stand = Stand()
    job = stand.start()
    stand.emit(job)
    stand.pump.stop()
    assert stand.stream.ending == ["abort"]
    stand.loop.turn()
    stand.emit(job, 64)
    assert not stand.stream.messages()
    assert stand.loop.armed is None
    assert stand.loop.failure is None


# A line that has begun.


def test_the_rest_of_a_line_comes_within_a_minute() -> None:
    stand = Stand()
    stand.say(HELLO)
    stand.stream.messages()
    ping = b'{"type":"session.ping","payload":{"nonce":"n"}}'
    for _ in range(3):
        stand.stream.transport.received(ping[:9])
        stand.pass_time(59_000)
        stand.stream.transport.received(ping[9:] + b"\r\n")
        assert types(stand.stream.messages()) == [["session.pong"]]
    stand.pass_time(600_000)
    assert not stand.stream.messages()
    stand.stream.transport.received(ping + b"\n" + ping[:9])
    stand.stream.messages()
    stand.pass_time(59_900)
    assert not stand.stream.messages()
    stand.pass_time(200)
    [[error]] = stand.stream.messages()
    assert (error["type"], error["payload"]["code"]) == ("session.error", "INVALID_REQUEST")
    assert "the rest of a message" in error["payload"]["message"]


def test_the_received_part_of_a_line_counts_as_it_grows() -> None:
    stand = Stand(max_principal_bytes=MIB)
    stand.say(HELLO)
    stand.stream.messages()
    holdings, inputs = state_of(stand.runtime).holdings, 0
    for piece in range(1, 9):
        stand.stream.transport.received(b"x" * 32 * KIB)
        held = piece * 32 * KIB
        assert holdings.pinned in (0, held, held - 32 * KIB)  # Told each 64 KiB.
        inputs += holdings.pinned == held
    assert (holdings.pinned, inputs) == (224 * KIB, 3)
    stand.stream.transport.received(b"\n")
    assert holdings.pinned == 0
    stand.stream.messages()
    stand.stream.transport.received(b"x" * 600 * KIB)
    [[error]] = stand.stream.messages()
    assert error["payload"]["details"]["limit"] == "principal_bytes"
    assert holdings.pinned == 0


def test_a_line_that_is_too_long_counts_no_more_than_is_kept() -> None:
    stand = Stand(max_message_bytes=MIB)
    stand.say(HELLO)
    for _ in range(40):
        stand.stream.transport.received(b"x" * 100 * KIB)
    assert state_of(stand.runtime).holdings.pinned <= MIB


# When something is sent.


def test_each_step_of_the_schedule() -> None:
    """Follow each arrow of the drawing in `Schedule`."""
    stand = Stand()
    stand.say(HELLO)
    assert stand.pump.schedule is Schedule.IDLE
    stand.say(SUBMIT)
    (job,) = (one.job_id for one in stand.requests if isinstance(one, StartJob))
    assert stand.pump.schedule is Schedule.AFTER_AGENTS
    stand.loop.turn()
    assert stand.pump.schedule is Schedule.IDLE
    stand.pass_time(1)
    stand.emit(job)
    assert stand.pump.schedule is Schedule.NEXT_TURN
    stand.loop.turn()
    assert stand.pump.schedule is Schedule.IDLE
    stand.emit(job)
    assert stand.pump.schedule is Schedule.COLLECTING
    stand.pass_time(1)
    assert stand.pump.schedule is Schedule.IDLE
    stand.emit(job)
    stand.pump.soon(urgent=True)
    assert stand.pump.schedule is Schedule.NEXT_TURN
    stand.say(SUBMIT | {"id": "2"})
    assert stand.pump.schedule is Schedule.AFTER_AGENTS
    stand.pump.run()
    assert stand.pump.schedule is Schedule.IDLE
    stand.loop.turn()
    stand.pass_time(1)
    stand.emit(job)
    stand.loop.turn()
    stand.emit(job)
    assert stand.pump.schedule is Schedule.COLLECTING
    stand.say(SUBMIT | {"id": "3"})
    assert stand.pump.schedule is Schedule.AFTER_AGENTS


def test_a_run_leaves_a_turn_and_a_collection_as_they_are() -> None:
    stand = Stand()
    job = stand.start()
    stand.emit(job)
    stand.pump.run()
    assert stand.pump.schedule is Schedule.NEXT_TURN
    stand.loop.turn()
    stand.emit(job)
    stand.loop.turn()
    stand.emit(job)
    stand.pump.run()
    assert stand.pump.schedule is Schedule.COLLECTING


@pytest.mark.parametrize("before", ["idle", "next turn", "collecting", "after agents"])
def test_a_stopped_pump_sends_nothing_in_any_state(before: str) -> None:
    stand = Stand()
    job = stand.start()
    if before == "after agents":
        stand.say(SUBMIT | {"id": "2"})
    elif before != "idle":
        stand.emit(job)
    if before == "collecting":
        stand.loop.turn()
        stand.emit(job)
    assert stand.pump.schedule is Schedule(before)
    stand.stream.messages()
    stand.pump.stop()
    stand.emit(job, 100)
    stand.pump.soon(urgent=True)
    stand.loop.turn()
    stand.pass_time(5)
    assert stand.pump.schedule is Schedule.STOPPED
    assert not stand.stream.messages()


def test_a_meter_notes_events_of_agents_and_nothing_else() -> None:
    stand, meter = Stand(), Noting()
    stand.pump.meter = meter
    job = stand.start()
    assert meter.noted == []
    stand.emit(job, 2)
    assert meter.noted == ["published"] * 2
    stand.wall += 3_600 * SECOND
    stand.pump.look_at_wall()
    stand.runtime.agents.finish(job, now=stand.at)
    stand.pump.soon(urgent=True)
    stand.loop.turn()
    assert meter.noted == ["published"] * 2


def test_a_meter_notes_which_records_are_kept_and_durable() -> None:
    journal, meter = SlowJournal(), Noting()
    stand = Stand(journal=journal)
    stand.pump.meter = meter
    stand.say(HELLO)
    count = stand.runtime.record_count
    assert meter.noted == [f"kept {count}"]
    journal.store()
    stand.loop.turn()
    assert meter.noted == [f"kept {count}", f"durable {count}"]
    stand.pump.stop()
    stand.pump.persisted(count, stand.runtime.persisted)
    assert len(meter.noted) == 2
