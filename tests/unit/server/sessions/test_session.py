"""One session, and its numbered stream of events."""

from __future__ import annotations

from arcp_proto.ids import JobId, Principal, SessionId
from arcp_proto.server.sessions.session import Session
from arcp_proto.wire.codec import decode_envelope, event_head
from arcp_proto.wire.envelopes import Entry
from arcp_proto.wire.peer_quirks import QUIRKS
from tests.unit.world import Peer, World


def test_a_session_starts_with_its_negotiated_features_and_an_empty_log() -> None:
    session = Session(SessionId("sess_x"), Principal("alice"), ["ack", "progress"], "java")
    assert session.features == {"ack", "progress"}
    assert session.quirk is QUIRKS["java"]
    assert (session.acked, session.tokens, session.jobs, session.connection) == (0, [], {}, None)


def test_event_ids_differ_between_sessions() -> None:
    sessions = [Session(SessionId(name), Principal("alice"), [], "") for name in ("sess_a", "sess_b")]
    entry = Entry(event_head("job.event", JobId("job_x"), None), b"{")
    one, two = (decode_envelope(session.envelopes.one(entry, 7)).id for session in sessions)
    assert one != two
    assert one[0] == two[0] == "0" and one[16:] == two[16:] == "0000000007"


def test_an_ack_moves_the_cursor_of_the_connection(world: World, peer: Peer) -> None:
    job = peer.submit()
    peer.slow = True
    for _ in range(3):
        world.emit(job)
    peer.send("session.ack", {"last_processed_seq": 2})
    [session] = world.state.sessions.values()
    assert (session.acked, session.log.first) == (2, 3)
    assert [frame["event_seq"] for frame in peer.pull()] == [3]


def test_a_fifth_token_replaces_the_oldest_unproven_one() -> None:
    session = Session(SessionId("sess_x"), Principal("alice"), [], "")
    over = [session.issue(bytes([number])) for number in range(6)]
    assert over == [None, None, None, None, b"\1", b"\2"]
    assert session.tokens == [b"\0", b"\3", b"\4", b"\5"]


def test_a_proven_token_ends_those_before_it() -> None:
    session = Session(SessionId("sess_x"), Principal("alice"), [], "")
    for number in range(4):
        session.issue(bytes([number]))
    assert session.prove(b"\2") == [b"\0", b"\1"]
    assert session.prove(b"\2") == []
    assert session.tokens == [b"\2", b"\3"]


def test_a_session_reads_while_its_transport_is_not_full(world: World, peer: Peer) -> None:
    [session] = world.state.sessions.values()
    assert session.reading
    world.carry_out(peer.connection.blocked(now=world.now))
    assert not session.reading
    world.carry_out(peer.connection.drained(now=world.now))
    assert session.reading
    peer.drop()
    assert not session.reading


def test_a_session_keeps_only_its_unfinished_jobs(world: World, peer: Peer) -> None:
    [session] = world.state.sessions.values()
    first, second = peer.submit(), peer.submit()
    assert list(session.jobs) == [first, second]
    world.finish(first)
    assert list(session.jobs) == [second]
