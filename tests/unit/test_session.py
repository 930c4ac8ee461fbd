"""One client's numbered stream."""

from __future__ import annotations

from arcp_proto.ids import Principal, SessionId
from arcp_proto.log import Entry
from arcp_proto.quirks import QUIRKS
from arcp_proto.session import Session

from .world import World


def test_what_a_session_holds() -> None:
    session = Session(SessionId("sess_x"), Principal("alice"), ["ack", "progress"], "java")
    assert session.features == {"ack", "progress"}
    assert session.quirk is QUIRKS["java"]
    assert (session.acked, session.tokens, session.jobs, session.connection) == (0, [], {}, None)
    assert session.id_bytes == b"sess_x"
    assert len(session.id_prefix) == 16 and session.id_prefix.startswith(b"0")


def test_event_ids_differ_between_sessions() -> None:
    one, two = (Session(SessionId(name), Principal("alice"), [], "") for name in ("sess_a", "sess_b"))
    assert one.id_prefix != two.id_prefix


def test_acknowledge_without_a_connection() -> None:
    session = Session(SessionId("sess_x"), Principal("alice"), [], "")
    for _ in range(3):
        session.log.append(Entry(b"", b""))
    session.acknowledge(2)
    session.acknowledge(1)
    assert (session.acked, session.log.first) == (2, 3)


def test_acknowledge_moves_the_cursor_of_the_connection() -> None:
    world = World()
    peer = world.client()
    job = peer.submit()
    peer.slow = True
    for _ in range(3):
        world.emit(job)
    [session] = world.runtime.sessions.values()
    session.acknowledge(2)
    assert [frame["event_seq"] for frame in peer.pull()] == [3]


def test_jobs_of_a_session_are_those_that_have_not_ended() -> None:
    world = World()
    peer = world.client()
    [session] = world.runtime.sessions.values()
    first, second = peer.submit(), peer.submit()
    assert list(session.jobs) == [first, second]
    world.finish(first)
    assert list(session.jobs) == [second]
