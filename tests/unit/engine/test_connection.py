"""One connection: bytes in and envelopes out, in order, and no envelope after its end."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, ConnectionEnded
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND, JobId, Principal
from arcp_proto.limits import KIB, MIB, Limits
from arcp_proto.recording import record, replay
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.state import PARTIAL
from tests.unit.world import CONFIG, Peer, World


def limited(**limits: int) -> World:
    return World(limits=Limits(**limits))


# Receiving.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b"{}",
        b'{"type":5}',
        b'{"type":""}',
        b'{"type":"session.ping","id":"' + b"x" * 257 + b'"}',
        b"\xff\xfe",
        b'{"type":"session.ping","payload":{"nonce":"\\ud800"}}',
        b'{"type":"session.ping","payload":{"nonce":NaN}}',
        b'{"type":"session.ping","payload":{"nonce":1e999}}',
        b'{"type":"session.ping","payload":' + b"[" * 65 + b"]" * 65 + b"}",
    ],
)
def test_an_unreadable_message_is_invalid(world: World, data: bytes) -> None:
    early = world.connect()
    [error] = early.feed(data)
    assert (error["type"], error["payload"]["code"]) == ("session.error", "INVALID_REQUEST")
    assert early.closing is not None and early.closing.code == 1008
    peer = world.client()
    [error] = peer.feed(data)
    assert (error["type"], error["payload"]["code"]) == ("session.error", "INVALID_REQUEST")
    assert "request_id" not in error["payload"]
    assert peer.connection.phase is Phase.OPEN
    assert peer.send("session.ping", {"nonce": "n"})[0]["type"] == "session.pong"


def test_more_than_ten_bad_messages_a_second_close_the_connection(world: World, peer: Peer) -> None:
    for _ in range(10):
        peer.feed(b"zork")
    world.now += SECOND
    for number in range(10):
        peer.send("zork") if number % 2 else peer.feed(b"{}")
    assert peer.connection.phase is Phase.OPEN
    assert peer.codes() == ["INVALID_REQUEST"] * 20
    peer.feed(b"zork")
    assert peer.codes() == ["INVALID_REQUEST"] * 21
    assert peer.closing is not None and peer.closing.code == 1008


def test_refused_requests_are_not_bad_messages(peer: Peer) -> None:
    for _ in range(30):
        peer.send("job.submit", {"agent": "zork"})
        peer.send("session.list_jobs")
    assert peer.connection.phase is Phase.OPEN


def test_a_message_that_is_too_large_closes_the_connection(world: World) -> None:
    early = world.connect()
    assert early.connection.message_limit == 64 * KIB
    [error] = early.feed(b" " * (64 * KIB + 1))
    assert error["payload"]["code"] == "INVALID_REQUEST"
    assert early.closing is not None and early.closing.code == 1009
    peer = world.client()
    assert peer.connection.message_limit == 4 * 1024 * KIB
    job = peer.submit()
    peer.feed(b" " * (4 * 1024 * KIB + 1))
    assert str(4 * 1024 * KIB) in peer.frames[-1]["payload"]["message"]
    assert peer.closing is not None and peer.closing.code == 1009
    assert job in world.state.unfinished


def test_a_message_of_exactly_the_limit_is_read(peer: Peer) -> None:
    ping = b'{"type":"session.ping","payload":{"nonce":"n"}}'
    peer.feed(ping.ljust(4 * 1024 * KIB))
    assert peer.frames[-1]["type"] == "session.pong"


def test_a_message_too_large_by_its_header_closes_the_connection(world: World, peer: Peer) -> None:
    peer.send("session.error", {"code": "X"})  # No answer follows, so no request is named.
    world.carry_out(peer.connection.too_large(now=world.now))
    assert peer.frames[-1]["payload"]["code"] == "INVALID_REQUEST"
    assert "request_id" not in peer.frames[-1]["payload"]
    assert peer.closing is not None and peer.closing.code == 1009
    world.carry_out(peer.connection.too_large(now=world.now))
    assert len(peer.codes()) == 1


def test_a_message_too_large_during_the_verification_closes_the_connection() -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    peer.feed(b" " * (64 * KIB + 1))
    assert peer.closing is not None and peer.closing.code == 1009
    world.carry_out(
        world.runtime.authenticated(connection_state(peer.connection).number, "alice", now=world.now)
    )
    assert world.state.sessions == {}


# Lines.


def test_lines_are_read_wherever_they_are_cut(world: World) -> None:
    peer = world.client(framing=Framing.LINES)
    ping = b'{"type":"session.ping","payload":{"nonce":"n"}}'
    stream = ping + b"\r\n\n  \n" + ping + b"\n" + ping
    for start in range(0, len(stream), 7):
        peer.feed(stream[start : start + 7])
    assert len(peer.of("session.pong")) == 2
    peer.feed(b"\n")
    assert len(peer.of("session.pong")) == 3
    assert all(raw.endswith(b"}\n") and raw.count(b"\n") == 1 for raw in peer.raw)


def test_an_overlong_line_is_skipped_and_answered() -> None:
    world = limited(max_message_bytes=8 * KIB)
    peer = world.client(framing=Framing.LINES)
    for _ in range(4):
        peer.feed(b"x" * 4 * KIB)
    assert peer.codes() == ["INVALID_REQUEST"]
    peer.feed(b'x\n{"type":"session.ping","payload":{"nonce":"n"}}\n')
    assert peer.codes() == ["INVALID_REQUEST"]
    assert peer.frames[-1]["type"] == "session.pong"
    assert peer.connection.phase is Phase.OPEN


def test_an_overlong_first_line_closes() -> None:
    peer = World().connect(Framing.LINES)
    peer.feed(b"x" * 70 * KIB)
    assert peer.codes() == ["INVALID_REQUEST"]
    assert peer.closing is not None and peer.closing.code == 1008


def test_lines_behind_a_hello_wait() -> None:
    world = World(limits=Limits(max_held_messages=2), tokens=None)
    peer = world.connect(Framing.LINES)
    hello = {"type": "session.hello", "payload": {"auth": {"token": "t"}}}
    lines = [hello] + [{"type": "session.ping", "payload": {"nonce": str(n)}} for n in range(5)]
    peer.feed(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    assert not peer.connection.reading
    world.carry_out(world.runtime.authenticated(world.last(Authenticate).request, "a", now=world.now))
    assert [pong["payload"]["ping_nonce"] for pong in peer.of("session.pong")] == list("01234")
    assert peer.connection.reading


def test_receive_raises_while_reading_is_off() -> None:
    world = World(limits=Limits(max_held_messages=2), tokens=None)
    peer = world.connect()
    peer.hello()
    for _ in range(5):
        peer.send("session.ping")
    with pytest.raises(LocalProtocolError, match="reading is off"):
        peer.send("session.ping")
    world.carry_out(world.runtime.authenticated(world.last(Authenticate).request, "a", now=world.now))
    assert len(peer.of("session.pong")) == 5


@pytest.mark.parametrize("framing", Framing)
def test_bytes_of_held_messages_are_limited(framing: Framing) -> None:
    config = msgspec.structs.replace(CONFIG, limits=Limits(max_held_message_bytes=KIB, max_message_bytes=KIB))
    world = World(config, tokens=None)
    peer = world.connect(framing)
    peer.hello()
    peer.send_bytes(b" " * KIB + b"x")
    assert not peer.connection.reading
    with pytest.raises(LocalProtocolError, match="reading is off"):
        for _ in range(10):
            peer.send_bytes(b" " * KIB + b"x")


@pytest.mark.parametrize("framing", Framing)
def test_bytes_received_after_the_end_are_dropped(framing: Framing) -> None:
    world = limited(max_held_message_bytes=KIB, max_message_bytes=64 * KIB)
    peer = world.client(framing=framing)
    peer.send("session.close", {})
    count = len(peer.frames)
    for _ in range(100):
        peer.feed(b"x" * KIB)
        peer.send("job.submit", {"agent": "echo"})
    peer.drop()
    peer.send("session.ping")
    assert len(peer.frames) == count
    assert world.state.jobs == {}


# Pulling.


def test_answers_keep_their_place_among_events_and_urgent_ones_go_first(
    world: World, peer: Peer, job: JobId
) -> None:
    peer.slow = True
    world.emit(job)
    peer.send("zork", id="first")
    world.emit(job)
    world.emit(job)
    peer.send("zork", id="second")
    peer.send("session.ping", {"nonce": "n"})
    found = [frame.get("event_seq") or frame["payload"].get("request_id") for frame in peer.pull()]
    assert found == [None, 1, "first", 2, 3, "second"]


def test_no_answer_overtakes_an_event_that_was_evicted() -> None:
    world = limited(max_session_events=16)
    peer = world.client()
    job = peer.submit()
    peer.slow = True
    for _ in range(20):
        world.emit(job)
    peer.send("zork")
    assert peer.pull() == []
    assert peer.connection.overrun


def test_a_pull_has_limits(world: World, peer: Peer, job: JobId) -> None:
    peer.slow = True
    for _ in range(10):
        world.emit(job)
    for nonce in "abc":
        peer.send("session.ping", {"nonce": nonce})
    assert [frame["type"] for frame in peer.pull(limit=2)] == ["session.pong"] * 2
    assert [frame.get("event_seq") for frame in peer.pull(limit=3)] == [None, 1, 2]
    assert [frame.get("event_seq") for frame in peer.pull(size=1)] == [3]
    assert [frame.get("event_seq") for frame in peer.pull(size=2 * len(peer.raw[-1]))] == [4, 5]
    assert peer.connection.envelopes_to_send(0) == peer.connection.envelopes_to_send(5, 0) == []
    peer.send("zork")
    assert peer.connection.pending
    assert [frame.get("event_seq") for frame in peer.pull(limit=6)] == [6, 7, 8, 9, 10, None]
    assert not peer.connection.pending
    assert peer.pull() == []


def test_answers_count_in_a_pull(peer: Peer) -> None:
    peer.slow = True
    for number in range(5):
        peer.send("session.list_jobs", id=str(number))
    assert [frame["payload"]["request_id"] for frame in peer.pull(size=1)] == ["0"]
    size = len(peer.raw[-1])
    assert [frame["payload"]["request_id"] for frame in peer.pull(size=2 * size)] == ["1", "2"]
    assert [frame["payload"]["request_id"] for frame in peer.pull(size=size + 1)] == ["3", "4"]


def test_a_pull_takes_64_kib_unless_told(world: World, peer: Peer, job: JobId) -> None:
    peer.slow = True
    for _ in range(5):
        world.emit(job, "thought", {"text": "x" * 20_000})
    for _ in range(300):
        world.emit(job)
    assert len(peer.connection.envelopes_to_send()) == 4
    assert len(peer.connection.envelopes_to_send(size=10**9)) == 256


def test_nothing_overtakes_the_welcome() -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.slow = True
    peer.hello()
    peer.send("session.ping", {"nonce": "a"})
    peer.send("job.submit", {"agent": "echo"})
    world.carry_out(world.runtime.authenticated(world.last(Authenticate).request, "a", now=world.now))
    assert [frame["type"] for frame in peer.pull(limit=1)] == ["session.welcome"]
    assert [frame["type"] for frame in peer.pull(limit=1)] == ["session.pong"]
    assert [frame["type"] for frame in peer.pull()] == ["job.accepted"]


def test_a_peer_that_was_never_welcomed_gets_nothing_but_the_error() -> None:
    world = World(journal=True, limits=Limits(max_control_envelopes=3))
    world.durable = False
    peer = world.connect()
    peer.hello()
    peer.send("session.ping", {"nonce": "n"})
    for _ in range(5):
        peer.send("session.list_jobs")
    assert peer.closing is not None
    assert [frame["type"] for frame in peer.frames] == ["session.error"]
    assert peer.codes() == ["INTERNAL_ERROR"]
    world.persist()
    assert len(peer.frames) == 1


def test_an_ack_moves_the_cursor_of_a_connection(world: World, peer: Peer, job: JobId) -> None:
    peer.slow = True
    for _ in range(4):
        world.emit(job)
    peer.send("session.ack", {"last_processed_seq": 3})
    assert [frame["event_seq"] for frame in peer.pull()] == [4]
    assert not peer.connection.overrun


def test_ids_are_never_used_twice(world: World, peer: Peer, job: JobId) -> None:
    for _ in range(30):
        world.emit(job)
        peer.send("session.ping", {"nonce": "n"})
    ids = [frame["id"] for frame in peer.frames]
    assert len(dict.fromkeys(ids)) == len(ids)
    assert {len(frame_id) for frame_id in ids} == {26}
    assert {frame["id"][0] for frame in peer.frames if "event_seq" in frame} == {"0"}
    assert {frame["id"][0] for frame in peer.frames if "event_seq" not in frame} == {"1"}


def test_too_many_unsent_answers_close_the_connection() -> None:
    world = limited(max_control_envelopes=5)
    peer = world.client()
    peer.slow = True
    for _ in range(4):
        peer.send("session.list_jobs")
    peer.send("session.ping", {"nonce": "n"})
    assert peer.connection.phase is Phase.OPEN
    peer.send("session.list_jobs", id="last")
    assert peer.closing is not None and peer.closing.code == 1011
    pulled = peer.pull()
    assert [frame["type"] for frame in pulled] == ["session.pong", "session.error"]
    assert pulled[-1]["payload"]["code"] == "INTERNAL_ERROR"
    assert "request_id" not in pulled[-1]["payload"]


def test_too_many_bytes_of_unsent_answers_close_the_connection() -> None:
    world = limited(max_control_bytes=2_000)
    peer = world.client()
    peer.slow = True
    for _ in range(20):
        peer.send("session.list_jobs")
    assert world.last(ConnectionEnded).code == "INTERNAL_ERROR"


@pytest.mark.parametrize("limits", [{"max_control_envelopes": 8}, {"max_control_bytes": 1_500}])
def test_half_of_the_unsent_answers_make_a_connection_crowded_until_a_pull(limits: dict[str, Any]) -> None:
    world = limited(**limits)
    peer = world.client()
    peer.slow = True
    crowded = []
    for _ in range(5):
        peer.send("session.list_jobs")
        crowded.append(world.runtime.crowded(peer.connection))
    assert crowded[0] is False and crowded[-1] is True
    assert peer.connection.phase is Phase.OPEN
    peer.pull()
    assert not world.runtime.crowded(peer.connection)


def test_a_closing_connection_is_never_crowded() -> None:
    world = limited(max_control_envelopes=8)
    peer = world.client()
    peer.slow = True
    for _ in range(5):
        peer.send("session.list_jobs")
    peer.send("session.close", {})
    assert peer.connection.phase is Phase.CLOSING
    assert not world.runtime.crowded(peer.connection)


def test_pulled_answers_do_not_count_as_unsent() -> None:
    world = limited(max_control_envelopes=5, max_control_bytes=3_000)
    peer = world.client()
    for _ in range(30):
        peer.send("session.list_jobs")
    assert peer.connection.phase is Phase.OPEN


# The end.


def test_a_fatal_error_drops_what_was_queued(world: World, peer: Peer, job: JobId) -> None:
    peer.slow = True
    world.emit(job)
    peer.send("session.list_jobs")
    world.carry_out(peer.connection.too_large(now=world.now))
    world.emit(job)
    assert [frame["type"] for frame in peer.pull()] == ["session.error"]
    assert peer.codes() == ["INVALID_REQUEST"]


def test_a_transport_that_does_not_take_the_last_envelopes_is_aborted() -> None:
    world = World(resume_window_sec=0)
    peer = world.client()
    peer.send("session.close", {})
    assert world.state.timers.keys() == [TimerKey(TimerKind.LINGER, 1)]
    world.advance(4.9)
    assert peer.closing is not None and not peer.closing.abort
    world.advance(0.2)
    assert (peer.closing.code, peer.closing.abort) == (1001, True)
    world.advance(100)
    assert world.state.timers.keys() == []
    peer.drop()
    assert world.state.connections == {}


def test_the_loss_of_a_connection_is_reported_once() -> None:
    world = World(resume_window_sec=0)
    peer = world.client()
    world.carry_out(peer.connection.lost(now=world.now, reason="reset"))
    ended = world.last(ConnectionEnded)
    assert (ended.who, ended.code, ended.reason) == ("transport", "", "reset")
    peer.drop()
    peer.drop()
    assert len(world.all(ConnectionEnded)) == 1
    assert world.state.connections == {}
    assert world.state.timers.keys() == []
    assert peer.connection.phase is Phase.CLOSED
    assert not peer.connection.pending


def test_a_lost_transport_is_not_asked_to_close(world: World) -> None:
    peer = world.connect()
    other = world.connect()
    world.runtime.shut_down(0, now=world.now)
    output = peer.connection.lost(now=world.now)
    assert [closing.connection for closing in output.closing] == [other.connection]
    assert output.writable == ()


def test_entropy_of_a_connection_is_forgotten_with_it(world: World) -> None:
    for _ in range(5):
        world.connect().drop()
    assert world.state.entropy._scopes == {}


# The rest of a message that has begun.


def begun(world: World) -> Any:
    """Return a welcomed client without a heartbeat, from which a part of a message has arrived."""
    peer = world.client(features=("ack",))
    world.carry_out(peer.connection.message_begun(1, now=world.now))
    return peer


def test_a_partial_message_must_be_complete_within_a_minute(world: World) -> None:
    peer = begun(world)
    world.advance(59.9)
    assert peer.closing is None
    world.advance(0.2)
    assert peer.codes() == ["INVALID_REQUEST"]
    assert "60 seconds" in peer.frames[-1]["payload"]["message"]
    assert peer.closing is not None and peer.closing.code == 1008


def test_a_partial_message_completed_in_time_is_read(world: World) -> None:
    peer = begun(world)
    world.advance(59)
    world.carry_out(peer.connection.message_begun(0, now=world.now))
    world.advance(600)
    assert peer.closing is None
    assert world.state.timers.armed(TimerKind.REST, connection_state(peer.connection).number) is None


def test_a_partial_message_has_no_deadline_while_reading_is_off(world: World) -> None:
    peer = begun(world)
    world.carry_out(peer.connection.stopped_reading(now=world.now))
    world.advance(300)
    assert peer.closing is None
    world.carry_out(peer.connection.stopped_reading(False, now=world.now))
    world.advance(60.1)
    assert peer.closing is not None


def test_a_partial_message_is_read_after_a_stop_of_the_process(world: World) -> None:
    peer = begun(world)
    world.now += 600 * SECOND
    world.carry_out(world.runtime.handle_timer(now=world.now))
    assert peer.closing is None


def test_a_closing_connection_waits_for_no_partial_message(world: World) -> None:
    for end in ("drop", "close"):
        peer = begun(world)
        if end == "drop":
            peer.drop()
        else:
            peer.send("session.close", {})
        assert world.state.timers.armed(TimerKind.REST, connection_state(peer.connection).number) is None
        world.carry_out(peer.connection.message_begun(1, now=world.now))
        assert world.state.timers.armed(TimerKind.REST, connection_state(peer.connection).number) is None


@pytest.mark.parametrize("framing", Framing)
def test_a_peer_that_sends_continuously_keeps_its_connection(world: World, framing: Framing) -> None:
    """Check a peer that is inside a message at every read, and completes messages all the time."""
    peer = world.client(features=("ack",), framing=framing)
    world.carry_out(peer.connection.message_begun(10, now=world.now))
    for _ in range(4):
        world.advance(30)
        peer.send("session.ack", {"last_processed_seq": 0})
    world.advance(59)
    assert peer.closing is None
    world.advance(2)
    assert peer.closing is not None


# The bytes of a message that has begun (§14).

ALICE: Final = Principal("alice")


def pinned(world: World) -> tuple[int, int]:
    return world.state.holdings.pinned_by(ALICE), world.state.holdings.pinned


def grows(peer: Peer, size: int) -> None:
    peer.world.carry_out(peer.connection.message_begun(size, now=peer.world.now))


@pytest.mark.parametrize("end", ["message", "whole", "drop", "close"])
def test_a_partial_message_is_pinned_until_it_is_complete(world: World, end: str) -> None:
    peer = world.client(features=("ack",))
    for size, counted in ((PARTIAL, 0), (PARTIAL + 1, PARTIAL + 1), (3 * PARTIAL, 3 * PARTIAL)):
        grows(peer, size)
        assert pinned(world) == (counted, counted)
    if end == "message":
        peer.send("session.ack", {"last_processed_seq": 0})
    elif end == "whole":
        world.carry_out(peer.connection.message_begun(0, now=world.now))
    elif end == "drop":
        peer.drop()
    else:
        peer.send("session.close", {})
    assert pinned(world) == (0, 0)


def test_partial_messages_above_the_share_of_a_principal_are_refused() -> None:
    world = World(limits=Limits(max_principal_bytes=MIB))
    peers = [world.client() for _ in range(3)]
    for peer in peers:
        grows(peer, 200 * KIB)
    assert [peer.closing is None for peer in peers] == [True, True, False]
    error = peers[2].frames[-1]["payload"]
    assert (error["code"], error["details"]["limit"]) == ("INTERNAL_ERROR", "principal_bytes")
    assert pinned(world) == (400 * KIB, 400 * KIB)
    grows(peers[0], 300 * KIB)
    assert peers[0].closing is None
    bob = world.client("tok-bob")
    grows(bob, 500 * KIB)
    assert bob.closing is None
    world.advance(61)
    assert pinned(world)[1] == 0
    assert all(peer.closing is not None for peer in (*peers, bob))


def test_a_message_does_not_count_twice() -> None:
    """Check that the bytes of a message are no longer counted when those of its input are."""
    world = World(limits=Limits(max_principal_bytes=MIB))
    peer = world.client()
    grows(peer, 400 * KIB)
    [accepted] = peer.send("job.submit", {"agent": "echo", "input": "x" * 400 * KIB})
    assert accepted["type"] == "job.accepted"
    assert 400 * KIB < pinned(world)[0] < 401 * KIB


def test_partial_messages_before_the_welcome_are_not_counted(world: World) -> None:
    peer = world.connect()
    grows(peer, 60 * KIB)
    assert pinned(world) == (0, 0)


def test_inputs_about_connections_are_replayed() -> None:
    lines: list[str] = []
    world = World()
    record(world.runtime, lines.append, keep_secrets=True)
    peer = world.client()
    grows(peer, 100 * KIB)
    world.carry_out(peer.connection.control_frames(3, now=world.now))
    grows(peer, 200 * KIB)
    before = pinned(world)
    again = replay(lines).machine
    assert isinstance(again, Runtime)
    assert (
        (state_of(again).holdings.pinned_by(ALICE), state_of(again).holdings.pinned)
        == before
        == (200 * KIB,) * 2
    )
