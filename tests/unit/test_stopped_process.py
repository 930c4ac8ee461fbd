"""A process that stood still, stopped or asleep: transports are read before a peer is given up (§6.4).

The driver's next timer comes late then, and what peers have said meanwhile waits in their transports.
"""

from __future__ import annotations

import pytest

from arcp_proto import Phase
from arcp_proto.ids import SECOND
from tests.unit.scripted_runtime import ScriptedRuntime
from tests.unit.world import Peer, World

HEARTBEAT = 30


def stop(world: World, seconds: float) -> None:
    """Let the process stand still, and go on with its timers, before sockets are read."""
    world.now += int(seconds * SECOND)
    world.carry_out(world.runtime.handle_timer(now=world.now))


@pytest.mark.parametrize("seconds", [66, 90, 3_600])
def test_a_stopped_runtime_reads_before_it_gives_up_a_client(
    world: World, peer: Peer, seconds: float
) -> None:
    world.advance(HEARTBEAT - 1)
    stop(world, seconds)
    assert peer.closing is None
    assert peer.send("session.ping", {"nonce": "n"})[-1]["type"] == "session.pong"
    world.advance(HEARTBEAT)
    assert peer.closing is None
    world.advance(2 * HEARTBEAT + 4)
    assert peer.codes() == ["HEARTBEAT_LOST"]


def test_a_silent_client_is_given_up_soon_after_a_stop(world: World, peer: Peer) -> None:
    stop(world, 90)
    assert peer.closing is None
    assert peer.frames[-1]["type"] == "session.ping"
    world.advance(HEARTBEAT / 10 - 0.1)
    assert peer.closing is None
    world.advance(0.2)
    assert peer.codes() == ["HEARTBEAT_LOST"]


def test_a_process_reads_after_every_stop(world: World, peer: Peer) -> None:
    for _ in range(5):
        stop(world, 100)
        assert peer.closing is None
        peer.send("session.pong", {"ping_nonce": peer.frames[-1]["payload"]["nonce"]})


def test_a_timer_that_comes_a_little_late_gives_up_a_silent_client(world: World, peer: Peer) -> None:
    world.advance(2 * HEARTBEAT)
    stop(world, HEARTBEAT / 10 + 1)
    assert peer.codes() == ["HEARTBEAT_LOST"]


def test_a_hello_that_waits_in_the_transport_is_read_after_a_stop(world: World) -> None:
    peer = world.connect()
    stop(world, 60)
    assert peer.closing is None
    peer.hello()
    assert peer.connection.phase is Phase.OPEN
    silent = world.connect()
    stop(world, 60)
    assert silent.closing is None
    world.advance(1.1)
    assert silent.codes() == ["UNAUTHENTICATED"]


@pytest.mark.parametrize("seconds", [66, 90, 3_600])
def test_a_stopped_client_reads_before_it_gives_up_its_runtime(seconds: float) -> None:
    runtime = ScriptedRuntime()
    runtime.welcome(heartbeat_interval_sec=HEARTBEAT)
    runtime.now += int(seconds * SECOND)
    runtime.carry_out(runtime.client.handle_timer(now=runtime.now))
    assert runtime.closings == []
    runtime.say("session.ping", {"nonce": "n"})
    runtime.advance(HEARTBEAT)
    assert runtime.closings == []
    runtime.advance(2 * HEARTBEAT + 4)
    assert runtime.closings[0].reason.startswith("nothing was received")


def test_a_client_reads_the_welcome_that_came_during_a_stop() -> None:
    runtime = ScriptedRuntime()
    runtime.now += 60 * SECOND
    runtime.carry_out(runtime.client.handle_timer(now=runtime.now))
    assert runtime.closings == []
    runtime.welcome()
    runtime.advance(20)
    assert runtime.closings == []
