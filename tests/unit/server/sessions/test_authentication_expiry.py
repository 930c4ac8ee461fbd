"""Authentication that expires: afterwards a session is resumed only with a fresh bearer (§6.1, §6.3)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.output import Audit, Authenticate
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND
from arcp_proto.server.journal.records import SessionKept, TokenIssued, decode_record, encode_record
from arcp_proto.server.runtime import Runtime
from tests.unit.world import CONFIG, START, UNIX, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True)


def opened(world: World, seconds: float | None, **resume: Any) -> Peer:
    """Return a client that the host has verified for a number of seconds, or without an end."""
    peer = world.connect()
    peer.hello(resume=resume or None)
    expires = None if seconds is None else world.state.unix + int(seconds * SECOND)
    world.verdict("alice", expires=expires)
    return peer


def by_token(world: World, peer: Peer) -> Peer:
    """Return a connection that asks for the session of `peer` with its resume token alone."""
    again = world.connect()
    again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0})
    return again


def asked(world: World) -> int:
    """Return the number of times that the host was asked to authenticate."""
    return len(world.all(Authenticate))


def refused(peer: Peer) -> None:
    """Check that a resume without a bearer token was refused, and that the connection closes."""
    (frame,) = peer.frames
    assert (frame["type"], frame["payload"]["code"]) == ("session.error", "UNAUTHENTICATED")
    assert "fresh token" in frame["payload"]["message"]
    assert frame["payload"]["retryable"] is False
    assert peer.closing is not None and peer.closing.code == 1008


def test_the_resume_token_alone_does_not_resume_after_the_expiry() -> None:
    world = World(tokens=None)
    peer = opened(world, 20)
    world.advance(21)
    before, questions = world.runtime.snapshot(), asked(world)
    refused(by_token(world, peer))
    assert asked(world) == questions
    assert world.runtime.snapshot() == before
    assert world.last(Audit).what == "authentication_failed"


def test_the_resume_token_alone_resumes_before_the_expiry_and_only_until_then() -> None:
    world = World(tokens=None)
    peer = opened(world, 20)
    peer.drop()
    world.advance(15)
    again = by_token(world, peer)
    world.verdict("alice")
    assert again.frames[0]["type"] == "session.welcome"
    world.advance(4.9)
    assert again.closing is None
    world.advance(0.2)
    assert again.codes() == ["UNAUTHENTICATED"]
    refused(by_token(world, again))


def test_an_expiry_that_passes_while_the_host_is_asked_counts() -> None:
    world = World(tokens=None)
    peer = opened(world, 20)
    peer.drop()
    world.advance(19)
    again = by_token(world, peer)
    world.advance(2)
    world.verdict("alice")
    refused(again)


def test_the_host_may_shorten_an_authentication_but_not_lengthen_it() -> None:
    world = World(tokens=None)
    peer = opened(world, 20)
    peer.drop()
    again = by_token(world, peer)
    world.verdict("alice", expires=world.state.unix + 10 * SECOND)
    world.advance(10.1)
    assert again.codes() == ["UNAUTHENTICATED"]
    fresh = opened(world, 20, resume_token=again.token)
    fresh.drop()
    last = by_token(world, fresh)
    world.verdict("alice", expires=world.state.unix + 1_000 * SECOND)
    world.advance(20.1)
    assert last.codes() == ["UNAUTHENTICATED"]


@pytest.mark.parametrize("seconds", [30, None])
def test_a_fresh_bearer_replaces_the_expiry(seconds: float | None) -> None:
    world = World(tokens=None)
    peer = opened(world, 20)
    world.advance(21)
    fresh = opened(world, seconds, resume_token=peer.token)
    assert fresh.frames[0]["type"] == "session.welcome"
    fresh.drop()
    world.advance(20)
    again = by_token(world, fresh)
    world.verdict("alice")
    assert again.frames[0]["type"] == "session.welcome"
    world.advance(20)
    assert again.codes() == ([] if seconds is None else ["UNAUTHENTICATED"])


@pytest.mark.parametrize("compacted", [False, True])
def test_the_expiry_survives_a_restart(compacted: bool) -> None:
    world = World(JOURNAL, tokens=None)
    peer = opened(world, 20)
    peer.drop()
    if compacted:
        world.records = world.runtime.snapshot()
    world.records = [decode_record(encode_record(record)) for record in world.records]
    world.restart()
    again = by_token(world, peer)
    world.verdict("alice")
    assert again.frames[0]["type"] == "session.welcome"
    world.advance(20.1)
    assert again.codes() == ["UNAUTHENTICATED"]
    if compacted:
        world.records = world.runtime.snapshot()
    world.restart()
    refused(by_token(world, again))
    assert opened(world, None, resume_token=again.token).frames[0]["type"] == "session.welcome"


def test_records_without_an_expiry_are_read() -> None:
    world = World(JOURNAL, tokens=None)
    opened(world, None)
    for record in (*world.records, *world.runtime.snapshot()):
        if isinstance(record, TokenIssued | SessionKept):
            fields = msgspec.msgpack.decode(encode_record(record))
            assert fields.pop("expires") is None
            assert decode_record(msgspec.msgpack.encode(fields)) == record


@pytest.mark.parametrize("expires", [2**63, 10**30])
def test_an_expiry_beyond_the_range_of_a_record_is_capped(expires: int) -> None:
    world = World(JOURNAL, tokens=None)
    peer = world.connect()
    peer.hello()
    world.verdict("alice", expires=expires)
    assert peer.frames[0]["type"] == "session.welcome"
    assert [decode_record(encode_record(record)) for record in world.records] == world.records


@pytest.mark.parametrize("principal", ["", "a\ud800", "\udfff"])
def test_a_principal_that_is_not_valid_unicode_raises_before_anything_changes(principal: str) -> None:
    runtime = Runtime(JOURNAL, seed=bytes(32), now=START, unix=UNIX)
    world = World(runtime=runtime, tokens=None)
    peer = world.connect()
    peer.hello()
    with pytest.raises(LocalProtocolError, match="principal"):
        world.verdict(principal)
    world.verdict("alice")
    assert peer.frames[0]["type"] == "session.welcome"
