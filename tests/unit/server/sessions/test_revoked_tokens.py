"""Bearer tokens that the host revokes while connections are open (§6.1, §6.3)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.output import Audit, Authenticate, StopJob
from arcp_proto.errors import LocalProtocolError
from arcp_proto.recording import replay
from arcp_proto.server.journal.records import SessionKept, TokenIssued, decode_record, encode_record
from tests.unit.test_recording import pulled, recorded
from tests.unit.world import CONFIG, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True)


def opened(world: World, token_id: str, principal: str = "alice", **resume: Any) -> Peer:
    """Return a client whose bearer token has an id."""
    peer = world.connect()
    peer.hello(resume=resume or None)
    world.verdict(principal, token_id=token_id)
    return peer


def by_token(world: World, peer: Peer) -> Peer:
    """Return a connection that asks for the session of `peer` with its resume token alone."""
    again = world.connect()
    again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0})
    return again


def revoke(world: World, *token_ids: str) -> None:
    """Revoke tokens, as the host does."""
    world.runtime.tokens.revoke(token_ids, now=world.now)
    world.take()


def refused(peer: Peer) -> None:
    """Check that the last frame is UNAUTHENTICATED with what helps, and that the connection closes."""
    payload = peer.frames[-1]["payload"]
    assert (payload["code"], payload["retryable"]) == ("UNAUTHENTICATED", False)
    assert payload["message"] == "the token was revoked: resume with a fresh token"
    assert peer.closing is not None and peer.closing.code == 1008


def test_only_the_connections_of_a_revoked_token_end() -> None:
    world = World(tokens=None)
    one, other = opened(world, "t1"), opened(world, "t2")
    same, stranger, unnamed = opened(world, "t1"), opened(world, "t3", "bob"), opened(world, "")
    assert world.runtime.tokens.in_use() == ["t1", "t2", "t3"]
    revoke(world, "t1", "", "unknown")
    refused(one)
    refused(same)
    assert [peer.closing for peer in (other, stranger, unnamed)] == [None] * 3
    assert world.runtime.tokens.in_use() == ["t2", "t3"]
    facts = [audit for audit in world.all(Audit) if audit.what == "authentication_revoked"]
    assert [(fact.principal, fact.facts["peer"]) for fact in facts] == [("alice", "here")] * 2


def test_jobs_go_on_and_a_fresh_token_resumes() -> None:
    world = World(tokens=None)
    peer = opened(world, "t1")
    job = peer.submit("echo")
    revoke(world, "t1")
    refused(peer)
    world.emit(job)
    assert not world.all(StopJob)
    fresh = opened(world, "t2", resume_token=peer.token, last_event_seq=0)
    assert [frame["type"] for frame in fresh.frames] == ["session.welcome", "job.event"]
    revoke(world, "t1")
    assert fresh.closing is None
    revoke(world, "t2")
    refused(fresh)


def test_the_host_is_asked_about_the_token_of_a_session_that_comes_back_without_one() -> None:
    world = World(tokens=None)
    peer = opened(world, "t1")
    revoke(world, "t1")
    again = by_token(world, peer)
    asked = world.last(Authenticate)
    assert (asked.principal, asked.token_id) == ("alice", "t1")
    before = world.runtime.snapshot()
    world.verdict(None)
    refused(again)
    assert world.runtime.snapshot() == before
    assert world.last(Audit).facts["reason"] == "revoked"


def test_a_session_that_came_back_without_a_token_still_has_that_of_before() -> None:
    world = World(tokens=None)
    peer = opened(world, "t1")
    peer.drop()
    again = by_token(world, peer)
    world.verdict("alice", token_id="another")
    assert again.frames[0]["type"] == "session.welcome"
    revoke(world, "another")
    assert again.closing is None
    revoke(world, "t1")
    refused(again)


@pytest.mark.parametrize("compacted", [False, True])
def test_the_id_of_a_token_survives_a_restart(compacted: bool) -> None:
    world = World(JOURNAL, tokens=None)
    peer = opened(world, "t1")
    if compacted:
        world.records = world.runtime.snapshot()
    world.records = [decode_record(encode_record(record)) for record in world.records]
    world.restart()
    by_token(world, peer)
    assert world.last(Authenticate).token_id == "t1"


def test_records_without_an_id_are_read() -> None:
    world = World(JOURNAL, tokens=None)
    opened(world, "")
    for record in (*world.records, *world.runtime.snapshot()):
        if isinstance(record, TokenIssued | SessionKept):
            fields = msgspec.msgpack.decode(encode_record(record))
            assert fields.pop("token_id") == ""
            assert decode_record(msgspec.msgpack.encode(fields)) == record


def test_a_session_without_a_resume_window_ends() -> None:
    world = World(msgspec.structs.replace(CONFIG, resume_window_sec=0), tokens=None)
    one, other = opened(world, "t1"), opened(world, "t1")
    revoke(world, "t1")
    refused(one)
    refused(other)
    assert world.state.sessions == {}


def test_clients_that_insist_with_a_revoked_token_do_not_block_the_place_they_come_from() -> None:
    world = World(tokens=None)
    peer = opened(world, "t1")
    revoke(world, "t1")
    for _ in range(world.state.limits.max_failed_authentications + 5):
        again = world.connect()
        again.hello(resume={"resume_token": peer.token, "last_event_seq": 0})
        world.verdict(None)
        assert again.codes() == ["UNAUTHENTICATED"]
    assert not world.runtime.tokens.throttles("here", now=world.now)
    assert opened(world, "t2").frames[0]["type"] == "session.welcome"


@pytest.mark.parametrize("token_id", ["x" * 257, "é", "\ud800"])
def test_an_id_out_of_bounds_raises_before_anything_changes(token_id: str) -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    with pytest.raises(LocalProtocolError, match="256 characters"):
        world.verdict("alice", token_id=token_id)
    world.verdict("alice", token_id="x" * 256)
    assert peer.frames[0]["type"] == "session.welcome"


def test_a_recording_has_the_ids_and_the_revocation() -> None:
    world, lines = recorded()
    world.tokens = None
    peer = opened(world, "t1")
    opened(world, "t2")
    revoke(world, "t1")
    assert peer.codes() == ["UNAUTHENTICATED"]
    assert sorted(replay(lines).envelopes) == sorted(pulled(world))
