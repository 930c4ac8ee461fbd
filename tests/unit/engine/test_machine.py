"""The behaviour that both roles share: time, timers, heartbeats, accumulated output and closing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.machine import cut
from arcp_proto.engine.output import NOTHING, ConnectionEnded, Deadline
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import InvariantViolated, require
from arcp_proto.ids import SECOND, JobId, Monotonic
from arcp_proto.limits import Limits
from arcp_proto.server.journal.records import SessionEnded
from tests.unit.world import CONFIG, START, UNIX, Peer, World

FAST = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=10)


def lost(peer: Peer) -> None:
    """Check that the connection of a peer was ended for its silence."""
    error = peer.frames[-1]
    assert error["type"] == "session.error"
    assert error["payload"]["code"] == "HEARTBEAT_LOST"
    assert error["payload"]["retryable"]
    assert "request_id" not in error["payload"] and "job_id" not in error["payload"]
    assert peer.closing is not None and peer.closing.code == 1008


# Outputs.


@pytest.fixture
def world() -> World:
    return World(FAST)


def test_take_hands_out_everything_once() -> None:
    world = World()
    peer = world.connect()
    runtime = world.runtime
    assert runtime.take() == (NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, runtime.deadline())
    one, two = runtime.connect(now=world.now), runtime.connect(now=world.now)
    runtime.shut_down(0, now=world.now)
    output = runtime.take()
    assert [closing.connection for closing in output.closing] == [peer.connection, one, two]
    assert [type(event) for event in output.events] == [ConnectionEnded] * 3
    assert runtime.take().closing is NOTHING


def test_an_output_accumulates_in_order() -> None:
    separate, together = World(), World()
    outputs = []
    for world in (separate, together):
        peer = world.client()
        peer.slow = True
        job = peer.submit()
        runtime = world.runtime
        runtime.agents.emit(job, "log", {"level": "info", "message": "1"}, now=world.now)
        if world is separate:
            outputs.append(runtime.take())
        runtime.agents.finish(job, now=world.now)
        outputs.append(runtime.take())
        assert [frame.get("event_seq") for frame in peer.pull()] == [None, 1, 2]
    assert [connection_state(connection).number for connection in outputs[2].writable] == [1]
    assert separate.runtime.snapshot() == together.runtime.snapshot()


def test_the_deadline_names_its_reason() -> None:
    world = World()
    assert world.runtime.deadline() is None
    world.connect()
    assert world.runtime.deadline() == Deadline(Monotonic(START + 10 * SECOND), "hello")
    assert world.runtime.deadline() is world.runtime.deadline()
    world.client()
    assert world.runtime.deadline() == Deadline(Monotonic(START + 10 * SECOND), "hello")


# Time.


def test_the_monotonic_clock_never_goes_back() -> None:
    world = World()
    peer = world.client()
    world.now += 5 * SECOND
    peer.send("session.ping")
    world.now -= 60 * SECOND
    peer.send("session.ping")
    assert world.state.now == START + 5 * SECOND
    assert connection_state(peer.connection).heard_at == START + 5 * SECOND


def test_the_wall_clock_follows_the_monotonic_one_from_where_it_was_set() -> None:
    runtime = World().runtime
    runtime.wall_clock_set(UNIX + 100 * SECOND, now=START + SECOND)
    assert state_of(runtime).unix == UNIX + 100 * SECOND
    runtime.handle_timer(now=START + 3 * SECOND)
    assert state_of(runtime).unix == UNIX + 102 * SECOND
    runtime.wall_clock_set(UNIX, now=START + 3 * SECOND)
    assert state_of(runtime).unix == UNIX + 102 * SECOND
    assert state_of(runtime).time_text() == "2026-05-28T20:28:22.000Z"


def test_a_timer_called_early_late_or_twice_is_harmless() -> None:
    world = World()
    peer = world.client()
    for now in (0, START, START, START + 29 * SECOND):
        assert world.runtime.handle_timer(now=now)[:-1] == (NOTHING,) * 5
    world.now = START + 45 * SECOND
    for _ in range(3):
        world.carry_out(world.runtime.handle_timer(now=world.now))
    assert len(peer.of("session.ping")) == 1


def test_a_machine_has_no_timers_but_its_own() -> None:
    runtime = World().runtime
    for kind in (TimerKind.CLOSE, TimerKind.ACK):
        state_of(runtime).timers.arm(kind, 1, state_of(runtime).now)
        with pytest.raises(InvariantViolated, match="no timer"):
            runtime.handle_timer(now=START)
        state_of(runtime).done()
    state_of(runtime).timers.arm(TimerKind.HEARTBEAT, 7, state_of(runtime).now)
    with pytest.raises(InvariantViolated, match="outlived"):
        runtime.handle_timer(now=START)


# Liveness.


def test_a_quiet_peer_is_pinged_and_given_up(world: World, peer: Peer, job: JobId) -> None:
    world.advance(9.99)
    assert peer.of("session.ping") == []
    world.advance(0.01)
    [ping] = peer.of("session.ping")
    assert ping["payload"]["nonce"].startswith("p_")
    assert ping["payload"]["sent_at"] == "2026-05-28T20:26:50.000Z"
    world.advance(10.99)
    assert len(peer.of("session.ping")) == 2
    assert peer.connection.phase is Phase.OPEN
    world.advance(0.01)
    lost(peer)
    ended = world.last(ConnectionEnded)
    assert (ended.who, ended.code) == ("local", "HEARTBEAT_LOST")
    assert world.stops() == [] and job in world.state.running


@pytest.mark.parametrize("message", ["session.pong", "zork", "session.error", "garbage"])
def test_every_byte_from_a_peer_counts_as_life(world: World, peer: Peer, message: str) -> None:
    for _ in range(5):
        world.advance(20)
        peer.feed(b"!") if message == "garbage" else peer.send(message)
    assert peer.connection.phase is Phase.OPEN
    world.advance(21)
    lost(peer)


def test_a_partial_line_counts_as_life(world: World) -> None:
    peer = world.client(framing=Framing.LINES)
    for _ in range(5):
        world.advance(20)
        peer.feed(b" ")
    assert peer.connection.phase is Phase.OPEN


def test_one_ping_an_interval_to_a_peer_that_only_talks(world: World, peer: Peer) -> None:
    for _ in range(60):
        world.advance(1)
        peer.send("session.pong")
    assert len(peer.of("session.ping")) == 6


def test_a_peer_that_only_receives_is_pinged_and_given_up(world: World, peer: Peer, job: JobId) -> None:
    for _ in range(20):
        world.advance(1)
        world.emit(job)
    assert len(peer.of("session.ping")) == 2
    world.advance(1)
    lost(peer)


def test_no_ping_where_both_sides_talk(world: World, peer: Peer, job: JobId) -> None:
    for _ in range(60):
        world.advance(1)
        peer.send("session.pong")
        world.emit(job)
    assert peer.of("session.ping") == []


def test_no_heartbeat_where_it_was_not_negotiated(world: World) -> None:
    peer = world.client(features=("ack",))
    world.advance(3_600)
    assert [frame["type"] for frame in peer.frames] == ["session.welcome"]


def test_silence_is_not_counted_while_nothing_is_read() -> None:
    world = World(FAST, limits=Limits(max_held_messages=0))
    peer = world.client()
    assert not peer.connection.reading
    world.advance(100)
    assert peer.connection.phase is Phase.OPEN
    assert len(peer.of("session.ping")) == 10


def test_silence_is_not_counted_during_the_verification() -> None:
    world = World(heartbeat_interval_sec=3, tokens=None)
    peer = world.connect()
    peer.hello()
    world.advance(9)
    world.carry_out(
        world.runtime.authenticated(connection_state(peer.connection).number, "alice", now=world.now)
    )
    world.advance(4)
    assert [frame["type"] for frame in peer.frames] == ["session.welcome", "session.ping"]


def test_silence_is_not_counted_while_the_driver_does_not_read(world: World, peer: Peer) -> None:
    for _ in range(2):
        world.carry_out(peer.connection.stopped_reading(now=world.now))
    assert peer.connection.reading  # The runtime still allows reading.
    world.advance(100)
    assert peer.connection.phase is Phase.OPEN
    assert len(peer.of("session.ping")) == 10
    for _ in range(2):
        world.carry_out(peer.connection.stopped_reading(False, now=world.now))
        world.advance(10)
    world.advance(0.9)
    assert peer.connection.phase is Phase.OPEN
    world.advance(0.1)
    lost(peer)


def test_heartbeat_lost_answers_no_earlier_message(world: World, peer: Peer, job: JobId) -> None:
    """Check that an error without a request is not taken for the answer to the last message."""
    peer.cancel(job)
    peer.send("session.error", {"code": "X"})
    world.advance(21)
    lost(peer)


def test_a_heartbeat_due_in_the_same_call_as_a_close_is_dropped(world: World, peer: Peer) -> None:
    """Let the last job end, which closes the connection, in the call in which the heartbeat is due."""
    peer.submit()
    world.runtime.shut_down(0, now=world.now)
    world.take()
    world.now = START + 10 * SECOND
    world.carry_out(world.runtime.handle_timer(now=world.now))
    assert peer.closing is not None and peer.closing.code == 1012
    armed = world.state.timers.keys()
    assert [key.kind for key in armed] == [TimerKind.RETENTION, TimerKind.LINGER, TimerKind.RESUME_WINDOW]
    assert peer.of("session.ping") == []


@pytest.mark.parametrize("window", [0, 60])
def test_a_session_outlives_its_connection_by_its_window(window: int) -> None:
    world = World(resume_window_sec=window, journal=True)
    peer = world.client()
    assert peer.frames[0]["payload"]["resume_window_sec"] == window
    job = peer.submit()
    peer.drop()
    if window:
        assert len(world.state.sessions) == 1
        world.emit(job)
        assert world.state.timers.keys() == [TimerKey(TimerKind.RESUME_WINDOW, peer.session_id)]
        world.advance(59.9)
        assert len(world.state.sessions) == 1
        world.advance(0.2)
    assert world.state.sessions == {}
    assert type(world.records[-1]) is SessionEnded
    assert world.state.jobs[job].observers == {}
    assert world.state.timers.keys() == []


# The limit of answers that wait.


def test_a_close_above_the_limit_of_answers_still_closes() -> None:
    world = World(limits=Limits(max_control_envelopes=1))
    peer = world.client()
    peer.slow = True
    peer.send("session.list_jobs")
    peer.send("session.close", {"reason": "enough"})
    assert peer.closing is not None and peer.closing.code == 1000
    assert [frame["type"] for frame in peer.pull()] == ["session.jobs", "session.closed"]


# The wall clock.


def test_deadlines_follow_the_wall_clock_back_and_times_on_the_wire_do_not() -> None:
    world = World()
    runtime = world.state
    runtime.wall_clock_set(UNIX - 300 * SECOND, now=world.now)
    assert runtime.wall == UNIX - 300 * SECOND
    assert runtime.unix == UNIX
    world.take()
    peer = world.client()
    earlier = {"expires_at": "2026-05-28T20:25:00Z"}
    [accepted] = peer.send("job.submit", {"agent": "echo", "lease_constraints": earlier})
    assert accepted["type"] == "job.accepted"
    assert accepted["payload"]["accepted_at"] == "2026-05-28T20:26:40.000Z"


# Recorders.


def test_a_recorder_that_fails_does_not_stop_the_machine() -> None:
    world = World()
    peer = world.client()
    job = peer.submit()

    def full(name: str, arguments: Sequence[Any], now: Monotonic) -> None:
        raise OSError("no space left")

    world.state.recorder = full
    for call in (lambda: world.emit(job), lambda: peer.send("session.ping")):
        with pytest.raises(OSError, match="no space"):
            call()
    world.state.recorder = None
    world.emit(job)
    assert peer.numbers() == [1]


# Small functions.


def test_cut_limits_the_length_of_a_text() -> None:
    assert cut("x" * 1000) == "x" * 1000
    assert cut("x" * 1001) == "x" * 999 + "…"
    assert cut("") == ""


def test_found_raises_for_none() -> None:
    assert require(0, "zero is there") == 0
    with pytest.raises(InvariantViolated, match="gone"):
        require(None, "gone")
