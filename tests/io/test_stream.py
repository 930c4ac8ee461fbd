"""Back-pressure and closing, as the stream and the core see them."""

from __future__ import annotations

from arcp_io.drivers.stdio import LineCodec
from arcp_proto import Phase
from arcp_proto.engine.endpoint import state_of
from tests.io.fakes import HELLO, SUBMIT, Stand
from tests.io.test_pump import types

BYE = {"type": "session.close", "id": "b", "payload": {}}


def test_one_write_at_a_time_and_blocked_at_the_second() -> None:
    stand = Stand()
    job = stand.start()
    stand.stream.full = True
    stand.emit(job, 64)
    assert stand.pauses == []  # It has not tried again yet.
    stand.emit(job, 64)
    assert stand.pauses == ["PauseJob"]
    stand.emit(job, 64)
    stand.stream.full = False
    stand.stream.take()
    assert stand.pauses == ["PauseJob", "ResumeJob"]
    assert types(stand.stream.messages()) == [["job.event"] * 64, ["job.event"] * 128]


def test_a_stream_is_drained_when_nothing_waits() -> None:
    stand = Stand()
    job = stand.start()
    stand.stream.full = True
    stand.emit(job, 128, size=4000)
    assert stand.pauses == ["PauseJob"]
    for _ in range(7):  # 64 KiB a batch.
        stand.stream.take()
        assert stand.pauses == ["PauseJob"]
    stand.stream.full = False
    stand.stream.take()
    assert stand.pauses == ["PauseJob", "ResumeJob"]
    assert sum(len(write) for write in stand.stream.messages()) == 128


def test_an_agent_that_outruns_one_batch_a_turn_is_paused_too() -> None:
    stand = Stand()
    job = stand.start()
    stand.emit(job, 64, size=10_000)
    stand.emit(job, 64, size=10_000)
    assert stand.pauses == ["PauseJob"]
    while stand.loop.waiting:
        stand.loop.turn()
    assert stand.pauses == ["PauseJob", "ResumeJob"]
    writes = stand.stream.messages()
    assert sum(len(write) for write in writes) == 128
    assert all(len(write) <= 7 for write in writes)


def test_an_event_evicted_before_its_pull_ends_the_connection() -> None:
    stand = Stand(max_session_events=100)
    job = stand.start()
    stand.stream.full = True
    stand.emit(job, 300)  # Though it is paused.
    stand.stream.full = False
    stand.stream.take()
    stand.loop.turn()
    first, last = stand.stream.messages()
    assert types([first]) == [["job.event"] * 64]
    assert last[0]["payload"]["code"] == "INTERNAL_ERROR"
    assert stand.stream.ending == ["end"]
    assert stand.connection.phase is Phase.CLOSING


def test_the_end_comes_after_the_last_envelope() -> None:
    stand = Stand()
    job = stand.start()
    stand.stream.full = True
    stand.emit(job, 64)
    stand.emit(job, 64)
    stand.say(BYE)
    assert stand.stream.ending == []
    stand.stream.full = False
    stand.stream.take()
    assert stand.stream.ending == ["end"]
    assert types(stand.stream.messages()) == [["job.event"] * 64, ["job.event"] * 64 + ["session.closed"]]
    assert state_of(stand.runtime).connections
    stand.stream.transport.ended("the peer ended the stream")
    assert not state_of(stand.runtime).connections
    assert stand.stream.ending == ["end", "close"]


def test_the_end_does_not_wait_for_ever() -> None:
    stand = Stand(close_linger_sec=5)
    stand.start()
    stand.stream.full = True
    stand.say(BYE)
    stand.pass_time(5_000)
    assert stand.stream.ending == ["abort"]
    assert not state_of(stand.runtime).connections


def test_a_stream_that_breaks_while_it_is_full_lets_agents_go() -> None:
    stand = Stand()
    job = stand.start()
    stand.stream.full = True
    stand.emit(job, 128)
    stand.stream.transport.ended("reset")
    assert stand.pauses == ["PauseJob", "ResumeJob"]
    assert stand.stream.ending == ["abort"]
    stand.emit(job, 64)
    stand.stream.transport.written()
    stand.stream.transport.received(b"late\n")
    assert not stand.stream.messages()


def test_input_of_a_closing_connection_is_dropped() -> None:
    stand = Stand()
    stand.say(HELLO)
    stand.pump.hold(stand.connection, True)
    stand.say(SUBMIT)
    assert stand.stream.paused
    stand.runtime.shut_down(0, now=stand.at)
    stand.pump.run()
    assert not stand.stream.paused  # To see the peer's end.
    stand.say(SUBMIT)
    stand.loop.turn()
    assert not state_of(stand.runtime).jobs


def test_a_transport_ends_once_for_the_first_reason_that_it_is_told() -> None:
    stand = Stand()
    stand.start()
    transport = stand.stream.transport
    assert transport.gone == ""
    transport.ended("the stream broke")
    transport.ended("the stream was closed")
    assert transport.gone == "the stream broke"
    assert stand.stream.ending == ["close"]
    assert not state_of(stand.runtime).connections


def test_a_codec_of_lines_counts_what_it_holds_of_the_first_line() -> None:
    codec = LineCodec(100)
    assert codec.pending == 0
    codec.receive(b"ab")
    assert codec.pending == 2
