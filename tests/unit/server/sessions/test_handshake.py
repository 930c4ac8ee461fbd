"""Sessions that continue: the clients and tokens that may resume one, and the events that are sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import Authenticate, ConnectionEnded, PauseJob, ResumeJob, StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import SECOND
from arcp_proto.limits import Limits
from arcp_proto.server.sessions.session import Session
from tests.unit.world import CONFIG, FEATURES, UNIX, Peer, World

ANONYMOUS = msgspec.structs.replace(CONFIG, anonymous=True)
SMALL = msgspec.structs.replace(CONFIG, limits=Limits(max_session_events=16))


def session_of(world: World) -> Session:
    """Return the only session."""
    [session] = world.state.sessions.values()
    return session


def started(world: World, events: int = 3, **hello: Any) -> tuple[Peer, str]:
    """Return a client with a job that has emitted some events, and the job."""
    peer = world.client(**hello)
    job = peer.submit()
    for _ in range(events):
        world.emit(job)
    return peer, job


def attempt(world: World, token: str, last: int = 0, bearer: str = "tok-alice", **resume: Any) -> Peer:
    """Return a connection that has asked for the session of a token with session.hello."""
    peer = world.connect()
    peer.hello(bearer, resume={"resume_token": token, "last_event_seq": last, **resume})
    return peer


def asked_by_token(world: World, token: str, last: int = 0, **fields: Any) -> Peer:
    """Return a connection that has asked for the session of a token with session.resume."""
    peer = world.connect()
    peer.send("session.resume", {"resume_token": token, "last_event_seq": last, **fields})
    return peer


def refused(peer: Peer, code: str = "RESUME_WINDOW_EXPIRED", close: int = 1008) -> dict[str, Any]:
    """Check that the connection was refused and closes, and return the payload of the error."""
    assert [frame["type"] for frame in peer.frames] == ["session.error"]
    assert peer.closing is not None and peer.closing.code == close
    assert peer.connection.phase is Phase.CLOSING
    payload: dict[str, Any] = peer.frames[0]["payload"]
    assert payload["code"] == code
    return payload


def welcomed(peer: Peer) -> dict[str, Any]:
    """Check that the connection is in a session, and return the payload of the welcome."""
    assert peer.frames[0]["type"] == "session.welcome"
    payload: dict[str, Any] = peer.frames[0]["payload"]
    return payload


# Events that a resume sends again.


def test_a_resumed_session_has_its_id_and_another_token(world: World) -> None:
    first, _ = started(world)
    first.drop()
    again = world.resumed(first)
    assert again.session_id == first.session_id
    assert again.token != first.token
    assert again.token.startswith("rt_") and len(again.token) == 46
    assert list(world.state.sessions) == [first.session_id]


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_a_resume_replays_frames_above_the_cursor_byte_for_byte_then_live_events(
    world: World, last: int
) -> None:
    first, job = started(world)
    first.drop()
    again = world.resumed(first, last)
    world.emit(job)
    assert again.numbered[:-1] == first.numbered[last:]
    assert again.numbers() == list(range(last + 1, 5))


def test_events_missed_while_detached_follow_the_welcome(world: World) -> None:
    first, job = started(world)
    first.drop()
    world.emit(job)
    world.finish(job, "done")
    again = world.resumed(first)
    assert [frame["type"] for frame in again.frames] == ["session.welcome", "job.event", "job.result"]
    assert again.numbers() == [4, 5]


def test_an_absent_cursor_means_zero(world: World) -> None:
    first, _ = started(world)
    first.drop()
    again = world.connect()
    again.hello(resume={"resume_token": first.token})
    assert again.numbers() == [1, 2, 3]


def test_a_hello_may_hold_the_fields_of_a_resume_flat(world: World) -> None:
    first, _ = started(world)
    first.drop()
    again = world.connect()
    auth = {"scheme": "bearer", "token": "tok-alice"}
    again.send("session.hello", {"auth": auth, "resume_token": first.token, "last_event_seq": 1})
    assert again.session_id == first.session_id
    assert again.numbers() == [2, 3]


def test_a_session_over_lines_is_resumed_over_messages(world: World) -> None:
    first = world.client(framing=Framing.LINES)
    world.emit(first.submit())
    first.drop()
    assert attempt(world, first.token).numbers() == [1]


def test_a_resumed_session_keeps_the_features_of_its_first_welcome(world: World) -> None:
    first, job = started(world, features=("ack",))
    first.drop()
    again = world.connect()
    again.hello(features=FEATURES, resume={"resume_token": first.token, "last_event_seq": 3})
    assert welcomed(again)["capabilities"]["features"] == ["ack"]
    assert "heartbeat_interval_sec" not in welcomed(again)
    world.emit(job, "progress", {"current": 1})
    assert again.numbers() == []


def test_a_resumed_connection_sends_heartbeats(world: World) -> None:
    first, _ = started(world)
    first.drop()
    again = world.resumed(first)
    assert welcomed(again)["heartbeat_interval_sec"] == 30
    world.advance(31)
    assert len(again.of("session.ping")) == 1


def test_envelope_ids_differ_on_all_connections_of_a_session(world: World) -> None:
    peers = [world.client()]
    for _ in range(4):
        peers[-1].send("session.ping", {"nonce": "n"})
        peers.append(world.resumed(peers[-1]))
    ids = [frame["id"] for peer in peers for frame in peer.frames]
    assert len(dict.fromkeys(ids)) == len(ids)


def test_a_resume_at_the_acked_event_is_served(world: World) -> None:
    first, _ = started(world)
    first.send("session.ack", {"last_processed_seq": 2})
    first.drop()
    assert world.resumed(first, 2).numbers() == [3]


@pytest.mark.parametrize("how", ["drop", "close", "silence"])
def test_a_session_can_be_resumed_after_every_kind_of_close(world: World, how: str) -> None:
    first, job = started(world)
    match how:
        case "drop":
            first.drop()
        case "close":
            first.send("session.close", {"reason": "done"})
        case "silence":
            world.advance(64)
            assert first.codes() == ["HEARTBEAT_LOST"]
    world.emit(job)
    assert world.resumed(first, 3).numbers() == [4]


# The window.


def test_a_session_ends_after_its_resume_window(world: World) -> None:
    first, _ = started(world)
    first.drop()
    world.advance(600)
    assert world.state.sessions == {} and world.state.tokens == {}
    refused(world.resumed(first))


def test_every_resume_restarts_the_resume_window() -> None:
    world = World(heartbeat_interval_sec=0)
    peer, _ = started(world)
    for _ in range(3):
        peer.drop()
        world.advance(599)
        peer = world.resumed(peer, 3)
    world.advance(10_000)
    assert session_of(world).connection is connection_state(peer.connection)


def test_a_resume_window_of_zero_ends_the_session_with_its_connection() -> None:
    world = World(resume_window_sec=0)
    first, job = started(world)
    first.drop()
    assert world.state.sessions == {}
    refused(world.resumed(first))
    assert job in world.state.running


# Cursors that cannot be served.


def test_a_cursor_above_the_last_number_is_invalid_and_changes_nothing(world: World) -> None:
    first, _ = started(world)
    first.drop()
    before = world.runtime.snapshot()
    payload = refused(world.resumed(first, 4), "INVALID_REQUEST")
    assert "above" in payload["message"] and "final" not in payload["details"]
    assert world.runtime.snapshot() == before
    welcomed(world.resumed(first, 3))


def test_a_cursor_just_below_the_first_kept_event_is_served() -> None:
    world = World(SMALL)
    first, _ = started(world, 17)
    first.drop()
    log = session_of(world).log
    assert log.first == 3
    assert world.resumed(first, 2).numbers() == list(range(3, 18))


def test_a_resume_by_the_newest_token_for_evicted_events_ends_a_detached_session() -> None:
    world = World(SMALL)
    first, job = started(world, 17)
    first.drop()
    refused(world.resumed(first, 1))
    assert world.state.sessions == {}
    refused(world.resumed(first, 17))
    assert job in world.state.running


def test_a_resume_for_evicted_events_does_not_end_an_attached_session() -> None:
    world = World(SMALL)
    first, _ = started(world, 17)
    refused(world.resumed(first, 1))
    assert first.closing is None
    welcomed(world.resumed(first, 17))


def test_a_resume_by_an_older_token_for_evicted_events_does_not_end_the_session() -> None:
    world = World(SMALL)
    first, _ = started(world, 17)
    second = world.resumed(first, 17)
    second.drop()
    refused(attempt(world, first.token, 1))
    welcomed(attempt(world, second.token, 17))


def test_a_resume_below_acked_events_is_refused(world: World) -> None:
    first, _ = started(world)
    first.send("session.ack", {"last_processed_seq": 2})
    first.drop()
    refused(world.resumed(first, 1))


# Tokens.


def test_at_most_four_tokens_are_valid(world: World) -> None:
    peers = [world.client()]
    for _ in range(4):
        peers.append(attempt(world, peers[0].token))
    assert len(session_of(world).tokens) == len(world.state.tokens) == 4
    refused(attempt(world, peers[1].token))
    welcomed(attempt(world, peers[2].token))


def test_the_last_proven_token_stays_among_the_four(world: World) -> None:
    first = world.client()
    for _ in range(10):
        welcomed(attempt(world, first.token))


def test_a_token_is_proven_when_it_is_presented(world: World) -> None:
    first = world.client()
    second = world.resumed(first)
    third = attempt(world, second.token)
    refused(attempt(world, first.token))
    welcomed(attempt(world, second.token))
    welcomed(attempt(world, third.token))


@pytest.mark.parametrize("pings", [1, 2])
def test_a_token_is_proven_by_the_answer_to_a_ping_after_its_welcome(world: World, pings: int) -> None:
    first = world.client()
    second = world.resumed(first)
    for _ in range(pings):
        world.advance(30)
    assert len(second.of("session.ping")) == pings
    second.send("session.pong", {"ping_nonce": second.of("session.ping")[0]["payload"]["nonce"]})
    assert len(session_of(world).tokens) == 1
    refused(attempt(world, first.token))


@pytest.mark.parametrize("nonce", ["", "p_", "p_zork", "of the connection before"])
def test_a_pong_that_answers_no_ping_of_ours_proves_nothing(world: World, nonce: str) -> None:
    first = world.client()
    world.advance(30)
    if nonce == "of the connection before":
        nonce = first.of("session.ping")[0]["payload"]["nonce"]
    second = world.resumed(first)
    second.send("session.pong", {"ping_nonce": nonce})
    world.advance(30)
    second.send("session.pong", {"ping_nonce": nonce})
    welcomed(attempt(world, first.token))


def test_a_token_is_proven_by_an_ack_above_the_cursor_of_its_resume(world: World) -> None:
    first, _ = started(world)
    second = world.resumed(first, 1)
    second.send("session.ack", {"last_processed_seq": 1})
    assert len(session_of(world).tokens) == 2
    second.send("session.ack", {"last_processed_seq": 2})
    assert len(session_of(world).tokens) == 1
    refused(attempt(world, first.token, 2))


def test_a_frame_that_may_precede_the_welcome_does_not_prove_its_token(world: World) -> None:
    first, job = started(world)
    second = world.resumed(first)
    second.submit()
    second.cancel(job)
    second.send("session.ping", {"nonce": "n"})
    second.send("session.list_jobs")
    welcomed(attempt(world, first.token))


def test_a_welcome_that_never_arrived_leaves_older_tokens_valid(world: World) -> None:
    first, _ = started(world)
    for _ in range(3):
        lost = world.connect()
        lost.slow = True
        lost.hello(resume={"resume_token": first.token, "last_event_seq": 0})
        lost.drop()
        assert lost.frames == []
    assert world.resumed(first, 0).numbers() == [1, 2, 3]


def test_a_session_keeps_only_digests_of_its_tokens() -> None:
    world = World(journal=True)
    first = world.client()
    second = world.resumed(first)
    kept = repr([world.records, world.runtime.snapshot(), world.state.tokens, session_of(world).tokens])
    assert first.token not in kept and second.token not in kept


# Resumes that are refused.


Refuse = Callable[[World, Peer], Peer]


def unknown(world: World, owner: Peer) -> Peer:
    return attempt(world, "rt_" + "x" * 43, session_id=owner.session_id)


def stale(world: World, owner: Peer) -> Peer:
    second = world.resumed(owner)
    welcomed(attempt(world, second.token))
    return attempt(world, owner.token, session_id=owner.session_id)


def foreign(world: World, owner: Peer) -> Peer:
    return attempt(world, owner.token, bearer="tok-bob", session_id=owner.session_id)


def ended(world: World, owner: Peer) -> Peer:
    owner.drop()
    world.advance(601)
    return attempt(world, owner.token, session_id=owner.session_id)


def below(world: World, owner: Peer) -> Peer:
    owner.send("session.ack", {"last_processed_seq": 3})
    return attempt(world, owner.token, 1, session_id=owner.session_id)


def empty(world: World, owner: Peer) -> Peer:
    return attempt(world, "", session_id=owner.session_id)


def not_ascii(world: World, owner: Peer) -> Peer:
    return attempt(world, owner.token + "é", session_id=owner.session_id)


def by_token_unknown(world: World, owner: Peer) -> Peer:
    return asked_by_token(world, "rt_x", session_id=owner.session_id)


def by_token_refused(world: World, owner: Peer) -> Peer:
    world.tokens = None
    peer = asked_by_token(world, owner.token, session_id=owner.session_id)
    world.verdict(None)
    return peer


def by_token_of_another(world: World, owner: Peer) -> Peer:
    world.tokens = None
    peer = asked_by_token(world, owner.token, session_id=owner.session_id)
    world.verdict("bob")
    return peer


def by_token_with_foreign_auth(world: World, owner: Peer) -> Peer:
    auth = {"scheme": "bearer", "token": "tok-bob"}
    return asked_by_token(world, owner.token, session_id=owner.session_id, auth=auth)


WAYS: list[Refuse] = [
    unknown,
    stale,
    foreign,
    ended,
    below,
    empty,
    not_ascii,
    by_token_unknown,
    by_token_refused,
    by_token_of_another,
    by_token_with_foreign_auth,
]


def bytes_of(peer: Peer) -> bytes:
    """Return the answer without its own id, which differs in each frame."""
    return peer.raw[0].replace(peer.frames[0]["id"].encode(), b"")


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_every_failed_resume_gets_the_same_answer(world: World, way: Refuse) -> None:
    owner, _ = started(world)
    peer = way(world, owner)
    assert refused(peer) == {
        "code": "RESUME_WINDOW_EXPIRED",
        "message": "the session cannot be resumed",
        "retryable": False,
        "request_id": peer.frames[0]["payload"]["request_id"],
        "details": {"final": True, "request_id": peer.frames[0]["payload"]["request_id"]},
    }
    assert peer.frames[0]["session_id"] == owner.session_id
    ask = asked_by_token if peer.frames[0]["payload"]["request_id"] == "req1" else attempt
    assert bytes_of(peer) == bytes_of(ask(world, "rt_nobody", session_id=owner.session_id))


@pytest.mark.parametrize("way", [unknown, foreign, by_token_unknown, by_token_with_foreign_auth])
def test_a_failed_resume_changes_nothing_for_the_owner(world: World, way: Refuse) -> None:
    owner, job = started(world)
    before, armed = world.runtime.snapshot(), world.state.timers.armed(TimerKind.HEARTBEAT, 1)
    peer = way(world, owner)
    refused(peer)
    peer.drop()
    assert world.runtime.snapshot() == before
    assert world.state.timers.armed(TimerKind.HEARTBEAT, 1) == armed
    world.emit(job)
    assert owner.closing is None and owner.numbers() == [1, 2, 3, 4]


def test_a_resume_token_with_another_session_id_is_refused(world: World) -> None:
    one, other = world.client(), world.client()
    refused(attempt(world, one.token, session_id=other.session_id))
    welcomed(attempt(world, one.token, session_id=one.session_id))
    assert other.closing is None


def test_an_invalid_bearer_is_unauthenticated_before_the_resume_is_looked_at(world: World) -> None:
    owner = world.client()
    payload = refused(attempt(world, owner.token, bearer="tok-nobody"), "UNAUTHENTICATED")
    assert "final" not in payload["details"]
    assert owner.closing is None


def test_a_connection_has_one_attempt_to_resume(world: World) -> None:
    owner = world.client()
    peer = attempt(world, "rt_x")
    refused(peer)
    assert peer.hello(resume={"resume_token": owner.token}) == []
    assert owner.closing is None


def test_a_verifier_that_fails_during_a_resume_changes_nothing_for_the_owner(world: World) -> None:
    owner = world.client()
    world.tokens = None
    late = attempt(world, owner.token)
    failing = attempt(world, owner.token)
    world.verdict("alice", failed=True)
    refused(failing, "INTERNAL_ERROR", 1011)
    world.advance(10)
    refused(late, "INTERNAL_ERROR", 1011)
    assert owner.closing is None


def test_a_session_resumed_during_a_shutdown_gets_the_ends_of_its_jobs(world: World) -> None:
    first, job = started(world)
    first.drop()
    world.runtime.shut_down(30, now=world.now)
    world.take()
    again = world.resumed(first)
    world.finish(job, 1)
    assert again.numbers() == [4]
    fresh = world.connect()
    fresh.hello()
    assert fresh.codes() == ["INTERNAL_ERROR"]
    assert again.closing is not None and again.closing.code == 1012


# session.resume.


def test_a_session_is_resumed_by_session_resume_with_auth(world: World) -> None:
    first, _ = started(world)
    first.drop()
    auth = {"scheme": "bearer", "token": "tok-alice"}
    again = asked_by_token(world, first.token, 1, auth=auth, session_id=first.session_id)
    assert again.session_id == first.session_id
    assert again.numbers() == [2, 3]
    assert world.last(Authenticate).principal is None


def test_without_auth_the_host_is_asked_whether_the_principal_still_holds(world: World) -> None:
    first, _ = started(world)
    first.drop()
    world.tokens = None
    again = asked_by_token(world, first.token, 1)
    asked = world.last(Authenticate)
    assert (asked.principal, asked.scheme, asked.token.reveal()) == ("alice", "", "")
    assert again.frames == []
    world.verdict("alice")
    assert again.session_id == first.session_id
    assert again.numbers() == [2, 3]


def test_the_host_is_not_asked_about_an_unknown_resume_token(world: World) -> None:
    refused(asked_by_token(world, "rt_x"))
    assert world.all(Authenticate) == []


def test_the_session_may_end_while_the_host_is_asked(world: World) -> None:
    first = world.client()
    first.drop()
    world.advance(595)
    world.tokens = None
    again = asked_by_token(world, first.token)
    world.advance(6)
    world.verdict("alice")
    refused(again)


def test_session_resume_with_auth_of_another_scheme_is_unauthenticated(world: World) -> None:
    first = world.client()
    auth = {"scheme": "basic", "token": "x"}
    refused(asked_by_token(world, first.token, auth=auth), "UNAUTHENTICATED")


# Anonymous sessions.


def nobody(world: World, **hello: Any) -> Peer:
    peer = world.connect()
    peer.hello(None, scheme="anonymous", **hello)
    return peer


@pytest.mark.parametrize("how", ["hello", "session.resume", "session.resume with auth"])
def test_an_anonymous_session_is_resumed_by_its_token(how: str) -> None:
    world = World(ANONYMOUS)
    first = nobody(world)
    world.emit(first.submit())
    first.drop()
    match how:
        case "hello":
            again = nobody(world, resume={"resume_token": first.token})
        case "session.resume":
            again = asked_by_token(world, first.token)
        case _:
            again = asked_by_token(world, first.token, auth={"scheme": "anonymous"})
    assert again.session_id == first.session_id
    assert again.numbers() == [1]
    assert world.all(Authenticate) == []


@pytest.mark.parametrize("token", [None, ""])
def test_a_bearer_without_a_token_is_anonymous_where_that_is_allowed(token: str | None) -> None:
    world = World(ANONYMOUS)
    first, other = world.connect(secure=True), world.connect()
    for peer in (first, other):
        peer.hello(token)
    assert first.connection.phase is other.connection.phase is Phase.OPEN
    assert world.all(Authenticate) == []
    job = first.submit()
    assert other.cancel(job)[0]["payload"]["code"] == "JOB_NOT_FOUND"
    again = world.connect()
    again.hello(token, resume={"resume_token": first.token})
    by_token = asked_by_token(world, again.token, auth={"scheme": "bearer"})
    assert again.session_id == by_token.session_id == first.session_id


@pytest.mark.parametrize("token", [None, ""])
def test_a_bearer_without_a_token_is_refused_where_anonymous_is_not_allowed(token: str | None) -> None:
    peer = World().connect()
    peer.hello(token)
    refused(peer, "UNAUTHENTICATED")


def test_a_verified_session_is_not_resumed_without_a_bearer() -> None:
    world = World(ANONYMOUS)
    first = world.client()
    refused(nobody(world, resume={"resume_token": first.token}))
    again = world.connect()
    again.hello(None, resume={"resume_token": first.token})
    refused(again)
    assert first.closing is None


def test_an_anonymous_session_is_not_resumed_by_a_verified_principal() -> None:
    world = World(ANONYMOUS)
    first = nobody(world)
    refused(attempt(world, first.token))
    assert first.closing is None


def test_a_resumed_anonymous_session_keeps_its_principal() -> None:
    world = World(ANONYMOUS)
    first = nobody(world)
    job = first.submit()
    again = nobody(world, resume={"resume_token": first.token})
    other = nobody(world)
    assert again.cancel(job)[0]["type"] == "job.cancelled"
    assert other.cancel(job)[0]["payload"]["code"] == "JOB_NOT_FOUND"


# Takeover.


def test_the_newest_resume_takes_the_session_over(world: World) -> None:
    old, job = started(world)
    new = world.resumed(old)
    error = old.frames[-1]
    assert error["type"] == "session.error"
    assert error["payload"] == {
        "code": "UNAUTHENTICATED",
        "message": "another connection has resumed this session",
        "retryable": False,
        "details": {"reason": "superseded"},
    }
    assert old.closing is not None and (old.closing.code, old.closing.abort) == (1008, False)
    assert world.last(ConnectionEnded).connection is old.connection
    world.emit(job)
    assert old.numbers() == [1, 2, 3]
    assert new.numbers() == [4]


def test_the_end_of_a_superseded_connection_does_not_touch_the_session(world: World) -> None:
    old, job = started(world)
    new = world.resumed(old)
    assert old.send("session.ping", {"nonce": "n"}) == []
    old.drop()
    world.emit(job)
    assert new.numbers() == [4]
    assert world.state.timers.armed(TimerKind.RESUME_WINDOW, new.session_id) is None


def test_a_request_read_before_a_takeover_is_answered_on_the_new_connection(world: World) -> None:
    old = world.client()
    old.slow = True
    old.send("job.submit", {"agent": "echo"}, id="before")
    job = world.last(StartJob).job_id
    new = world.resumed(old, 0, replies=True)
    world.emit(job)
    assert [frame["type"] for frame in new.frames] == ["session.welcome", "job.accepted", "job.event"]
    assert new.frames[1]["payload"]["request_id"] == "before"
    assert [frame["type"] for frame in old.pull()] == ["session.error"]


def test_agents_paused_for_the_old_connection_resume(world: World) -> None:
    old, job = started(world)
    world.carry_out(old.connection.blocked(now=world.now))
    assert world.all(PauseJob) == [PauseJob(job)]
    world.resumed(old)
    assert world.all(ResumeJob) == [ResumeJob(job)]
    world.carry_out(old.connection.drained(now=world.now))
    world.carry_out(old.connection.blocked(now=world.now))
    assert len(world.all(PauseJob)) == 1


def test_a_session_that_is_resumed_on_a_blocked_transport_makes_its_agents_wait(world: World) -> None:
    first, job = started(world)
    first.drop()
    again = world.connect()
    world.carry_out(again.connection.blocked(now=world.now))
    again.hello(resume={"resume_token": first.token, "last_event_seq": 3})
    assert world.all(PauseJob) == [PauseJob(job)]
    world.carry_out(again.connection.drained(now=world.now))
    assert world.all(ResumeJob) == [ResumeJob(job)]


def test_a_second_takeover_supersedes_the_first(world: World) -> None:
    peers = [world.client()]
    job = peers[0].submit()
    for number in range(1, 6):
        world.emit(job)
        peers.append(world.resumed(peers[-1], number))
    assert [peer.closing is not None for peer in peers] == [True] * 5 + [False]
    assert [peer.numbers() for peer in peers] == [[1], [2], [3], [4], [5], []]


# Expiry of the authentication.


def expiring(world: World, seconds: float, **resume: Any) -> Peer:
    """Return a client whose authentication holds for a number of seconds."""
    peer = world.connect()
    peer.hello(resume=resume or None)
    world.verdict("alice", expires=world.state.unix + int(seconds * SECOND))
    return peer


def test_when_the_authentication_expires_the_connection_is_closed() -> None:
    world = World(tokens=None)
    peer = expiring(world, 20)
    job = peer.submit()
    world.advance(19.9)
    assert peer.closing is None
    world.advance(0.2)
    [error] = peer.of("session.error")
    assert error["payload"]["code"] == "UNAUTHENTICATED"
    assert "request_id" not in error["payload"]
    assert peer.closing is not None and peer.closing.code == 1008
    assert job in world.state.running


def test_a_session_whose_authentication_expired_is_resumed_with_a_fresh_one() -> None:
    world = World(tokens=None)
    peer = expiring(world, 20)
    job = peer.submit()
    world.advance(21)
    world.emit(job)
    again = expiring(world, 20, resume_token=peer.token, last_event_seq=0)
    assert again.numbers() == [1]
    world.advance(10)
    assert again.closing is None


def test_each_connection_has_its_own_expiry() -> None:
    world = World(tokens=None)
    peer = expiring(world, 10)
    again = expiring(world, 25, resume_token=peer.token, last_event_seq=0)
    world.advance(24.9)
    assert again.closing is None
    world.advance(0.2)
    assert again.closing is not None


@pytest.mark.parametrize("seconds", [0, -1])
def test_an_authentication_that_has_expired_already_is_refused(seconds: float) -> None:
    world = World(tokens=None)
    refused(expiring(world, seconds), "UNAUTHENTICATED")
    assert world.state.sessions == {}


def test_an_authentication_expires_by_the_wall_clock() -> None:
    world = World(tokens=None)
    peer = expiring(world, 3_600)
    world.runtime.wall_clock_set(UNIX + 3_590 * SECOND, now=world.now)
    world.take()
    world.advance(9.9)
    assert peer.closing is None
    world.advance(0.2)
    assert peer.codes() == ["UNAUTHENTICATED"]


def test_a_wall_clock_beyond_the_expiry_closes_at_once() -> None:
    world = World(tokens=None)
    peer = expiring(world, 3_600)
    world.runtime.wall_clock_set(UNIX + 4_000 * SECOND, now=world.now)
    world.take()
    world.advance(0)
    assert peer.codes() == ["UNAUTHENTICATED"]


def test_a_clock_that_is_set_leaves_a_closing_connection_alone() -> None:
    world = World(tokens=None)
    peer = expiring(world, 3)
    peer.send("session.close", {})
    world.runtime.wall_clock_set(UNIX + SECOND, now=world.now)
    world.take()
    world.advance(4)
    assert peer.codes() == []


def test_a_clock_that_was_set_back_does_not_shorten_an_authentication() -> None:
    world = World(tokens=None)
    world.runtime.wall_clock_set(UNIX - 300 * SECOND, now=world.now)
    world.take()
    peer = world.connect()
    peer.hello()
    world.verdict("alice", expires=UNIX - 280 * SECOND)
    welcomed(peer)
    world.advance(19)
    assert peer.closing is None
    world.advance(2)
    assert peer.codes() == ["UNAUTHENTICATED"]
