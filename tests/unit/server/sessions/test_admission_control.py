"""The limits of a peer, of a principal and of all principals, under a virtual clock."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import Audit, Authenticate, ConnectionEnded, StartJob, StopJob
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.recording import record, replay
from arcp_proto.server.sessions.admission_control import Early, Exceeded, RunningJobs, origin_of
from tests.unit.world import CONFIG, Frame, Peer, World

QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)


def world_of(*, anonymous: bool = False, window: int = 600, **limits: Any) -> World:
    config = msgspec.structs.replace(
        QUIET, limits=Limits(**limits), anonymous=anonymous, resume_window_sec=window
    )
    return World(config)


def facts(world: World, what: str = "limit_reached") -> list[dict[str, Any]]:
    return [fact.facts for fact in world.all(Audit) if fact.what == what]


def details(frame: Frame) -> dict[str, Any]:
    found: dict[str, Any] = frame["payload"]["details"]
    return found


def refused(frames: list[Frame], limit: str, most: int) -> None:
    """Check that the only frame is the error for a limit that passes with time."""
    [error] = frames
    assert error["type"] == "session.error"
    payload = error["payload"]
    assert (payload["code"], payload["retryable"]) == ("INTERNAL_ERROR", True)
    assert (payload["details"]["limit"], payload["details"]["max"]) == (limit, most)
    assert payload["details"]["retry_after_ms"] > 0


def ping(peer: Peer) -> list[Frame]:
    return peer.send("session.ping", {"nonce": "n", "sent_at": ""})


# Requests a second.


def test_a_connection_above_its_burst_of_requests_gets_an_error() -> None:
    world = world_of(max_requests_per_sec=5)
    peer = world.client()
    for _ in range(10):
        assert ping(peer)[0]["type"] == "session.pong"
    refused(ping(peer), "requests_per_sec", 5)
    assert not peer.connection.reading
    fact = {"limit": "max_requests_per_sec", "max": 5, "untold": 0}
    assert facts(world) == [{"peer": "here", "session_id": peer.session_id, **fact}]
    assert world.last(Audit).principal == "alice"


def test_requests_above_the_rate_are_read_when_the_bucket_allows() -> None:
    world = world_of(max_requests_per_sec=5)
    peer = world.client()
    for _ in range(11):
        ping(peer)
    assert ping(peer) == []
    world.advance(0.9)
    assert not peer.connection.reading
    world.advance(0.1)
    assert peer.connection.reading
    assert peer.frames[-1]["type"] == "session.pong"


def test_lines_of_one_chunk_above_the_rate_wait() -> None:
    world = world_of(max_requests_per_sec=5)
    peer = world.client(framing=Framing.LINES)
    line = b'{"type":"session.ping","id":"x","payload":{"nonce":"n"}}\n'
    answers = peer.feed(line * 30)
    assert [frame["type"] for frame in answers] == ["session.pong"] * 10 + ["session.error"]
    world.advance(1)
    assert len(peer.of("session.pong")) == 15
    assert len(peer.of("session.error")) == 2
    world.advance(10)
    assert (len(peer.of("session.pong")), len(peer.of("session.error"))) == (26, 4)


def test_a_connection_gets_one_error_about_limits_a_second() -> None:
    world = world_of(max_total_running_jobs=1)
    peer = world.client()
    peer.submit()
    for _ in range(5):
        peer.send("job.submit", {"agent": "echo"})
    assert len(peer.of("session.error")) == 1
    world.advance(1)
    assert len(peer.of("session.error")) == 2
    world.advance(10)
    assert len(peer.of("session.error")) == 5
    assert peer.connection.phase is Phase.OPEN


def test_a_cancel_on_a_paused_connection_is_carried_out_later() -> None:
    world = world_of(max_total_running_jobs=1)
    peer = world.client()
    job = peer.submit()
    peer.send("job.submit", {"agent": "echo"})
    assert peer.cancel(job) == []
    world.advance(1)
    assert world.last(StopJob).job_id == job


def test_a_connection_ten_seconds_above_its_rate_is_closed_and_its_session_detached() -> None:
    world = world_of(max_requests_per_sec=5)
    peer = world.client()
    seconds = 0
    while peer.connection.phase is Phase.OPEN and seconds < 30:
        while peer.connection.reading and peer.connection.phase is Phase.OPEN:
            ping(peer)
        world.advance(1)
        seconds += 1
    assert 10 <= seconds <= 12
    assert peer.closing is not None
    assert peer.closing.code == 1008
    assert details(peer.frames[-1])["limit"] == "requests_per_sec"
    again = world.resumed(peer)
    assert again.of("session.welcome")


def test_a_connection_above_its_rate_now_and_then_is_not_closed() -> None:
    world = world_of(max_requests_per_sec=5)
    peer = world.client()
    for _ in range(30):
        while peer.connection.reading:
            ping(peer)
        world.advance(4)
    assert peer.connection.phase is Phase.OPEN


def test_connections_of_a_principal_share_its_rate_and_no_other_principal_does() -> None:
    world = world_of(max_requests_per_sec=6, max_principal_requests_per_sec=8)
    one, two, other = world.client(), world.client(), world.client("tok-bob")
    for _ in range(8):
        assert ping(one)[0]["type"] == ping(two)[0]["type"] == "session.pong"
    refused(ping(one), "principal_requests_per_sec", 8)
    refused(ping(two), "principal_requests_per_sec", 8)
    for _ in range(12):
        assert ping(other)[0]["type"] == "session.pong"


def test_a_new_connection_does_not_reset_the_rate_of_its_principal() -> None:
    world = world_of(window=0, max_requests_per_sec=100, max_principal_requests_per_sec=8)
    for _ in range(4):
        peer = world.client()
        for _ in range(4):
            assert ping(peer)[0]["type"] == "session.pong"
        peer.drop()
    refused(ping(world.client()), "principal_requests_per_sec", 8)
    assert list(world.state.caps.standings) == ["alice"]


def test_groups_without_sessions_are_forgotten_when_their_bucket_is_full() -> None:
    world = world_of(window=0)
    peer = world.client()
    ping(peer)
    peer.drop()
    assert list(world.state.caps.standings) == ["alice"]
    world.advance(5)
    world.client("tok-bob").drop()
    world.client("tok-bob").drop()
    assert "alice" not in world.state.caps.standings


@pytest.mark.parametrize("left", ["session", "connection"])
def test_a_group_with_a_session_again_is_not_forgotten(left: str) -> None:
    world = world_of(window=1, max_principal_requests_per_sec=1)
    first = world.client()
    ping(first)
    first.drop()
    ping(first := world.client())
    first.drop()
    world.advance(1)
    assert list(world.state.caps.resting) == ["alice"]
    again = world.client()
    standing = world.state.caps.standings["alice"]
    world.advance(5)
    if left == "session":
        again.drop()
    else:
        again.slow = True
        again.send("session.close", {})  # The answer waits for the transport.
        world.advance(1)
    assert (len(standing.sessions), standing.connections) == ((1, 0) if left == "session" else (0, 1))
    world.client("tok-bob").drop()
    assert world.state.caps.standings["alice"] is standing
    again.drop()
    world.advance(1)
    assert (len(standing.sessions), standing.connections) == (0, 0)
    world.client("tok-bob").drop()
    assert list(world.state.caps.standings) == ["bob"]


def test_acks_and_pongs_do_not_count_as_requests() -> None:
    world = world_of(max_requests_per_sec=1)
    peer = world.client()
    for _ in range(50):
        assert peer.send("session.ack", {"last_processed_seq": 0}) == []
        assert peer.send("session.pong", {"ping_nonce": "n"}) == []
    assert peer.connection.reading


def test_unknown_message_types_count_as_requests() -> None:
    world = world_of(max_requests_per_sec=1)
    peer = world.client()
    future = b'{"arcp":"2.0","type":"session.ping","id":"f"}'
    assert [peer.send_bytes(future)[0]["payload"]["code"] for _ in range(2)] == ["INVALID_REQUEST"] * 2
    refused(peer.send_bytes(future), "requests_per_sec", 1)


def test_a_flood_of_submit_and_cancel_starts_no_more_than_the_rate() -> None:
    world = world_of(max_requests_per_sec=10)
    peer = world.client()
    while peer.connection.reading:
        peer.send("job.submit", {"agent": "echo"})
        if peer.connection.reading:
            peer.cancel(world.last(StartJob).job_id)
    assert len(world.all(StartJob)) == 10


def test_silence_is_not_counted_while_a_connection_is_not_read() -> None:
    world = World(heartbeat_interval_sec=1, limits=Limits(max_total_running_jobs=0))
    peer = world.client()
    peer.send("job.submit", {"agent": "echo"})
    world.advance(1)
    assert peer.connection.phase is Phase.OPEN
    assert connection_state(peer.connection).listening


def test_a_replay_of_a_recording_keeps_the_order_of_paused_requests() -> None:
    config = msgspec.structs.replace(
        QUIET, limits=Limits(max_requests_per_sec=3, max_principal_requests_per_sec=5)
    )
    world, recording = World(config), list[str]()
    record(world.runtime, recording.append, keep_secrets=True)
    lines = [world.client(framing=Framing.LINES) for _ in range(2)]
    peers = [world.client(), *lines, world.client("tok-bob")]
    for _ in range(30):
        for peer in peers:
            if peer.connection.phase is not Phase.OPEN:
                continue
            if peer in lines:
                peer.feed(b'{"type":"session.ping","id":"x","payload":{"nonce":"n"}}\n' * 4)
            else:  # This driver ignores `reading`.
                ping(peer)
        world.advance(0.5)
    again = replay(recording)
    sent = {connection_state(peer.connection).number: peer.raw for peer in peers}
    for number, raw in sent.items():
        assert [envelope for one, envelope in again.envelopes if one == number] == raw
    assert sum(frame["type"] == "session.error" for peer in peers for frame in peer.frames) > 20


# Sessions.


def test_the_longest_detached_session_without_jobs_ends_for_a_new_one() -> None:
    world = world_of(max_principal_sessions=3)
    busy, first, second = world.client(), world.client(), world.client()
    busy.submit()
    for peer in (busy, second, first):
        world.advance(1)
        peer.drop()
    third = world.client()
    assert third.connection.phase is Phase.OPEN
    assert set(world.state.sessions) == {busy.session_id, first.session_id, third.session_id}
    evicted = {"peer": "", "session_id": second.session_id, "reason": "detached"}
    assert facts(world, "session_evicted") == [evicted]
    gone = world.resumed(second)
    assert gone.codes() == ["RESUME_WINDOW_EXPIRED"]


def test_one_session_too_many_is_a_retryable_error() -> None:
    world = world_of(max_principal_sessions=2)
    kept = [world.client(), world.client()]
    peer = world.connect()
    refused(peer.hello(), "sessions", 2)
    assert peer.closing is not None
    assert peer.closing.code == 1008
    assert world.client("tok-bob").connection.phase is Phase.OPEN
    kept[0].drop()
    assert world.client().connection.phase is Phase.OPEN


def test_a_resume_does_not_count_as_a_new_session() -> None:
    world = world_of(max_principal_sessions=1)
    peer = world.client()
    again = world.resumed(peer)
    again.drop()
    assert world.resumed(again).of("session.welcome")


def test_an_attached_session_that_was_idle_for_an_hour_ends_for_a_new_one() -> None:
    world = world_of(max_principal_sessions=3)
    idle, talks, waits = world.client(), world.client(), world.client()
    waits.submit()
    for _ in range(61):
        world.advance(60)
        ping(idle)
        talks.send("session.list_jobs")
    other = world.client()
    assert other.connection.phase is Phase.OPEN
    assert idle.session_id not in world.state.sessions
    refused(idle.of("session.error"), "sessions", 3)
    assert facts(world, "session_evicted")[0]["reason"] == "idle"
    refused(world.connect().hello(), "sessions", 3)


def test_the_longest_idle_session_ends_first_even_without_a_resume_window() -> None:
    world = world_of(max_principal_sessions=2, window=0)
    late, early = world.client(), world.client()
    world.advance(100)
    late.send("session.list_jobs")
    world.advance(3_700)
    world.client()
    assert early.closing is not None
    assert late.closing is None


def test_a_session_that_observes_or_got_an_event_is_not_idle() -> None:
    world = world_of(max_principal_sessions=2)
    works, observes = world.client(), world.client()
    job = works.submit()
    observes.send("job.subscribe", {"job_id": job})
    world.advance(4_000)
    refused(world.connect().hello(), "sessions", 2)
    world.finish(job)
    world.advance(1_000)
    refused(world.connect().hello(), "sessions", 2)
    world.advance(3_000)
    assert world.client().connection.phase is Phase.OPEN


def test_a_failed_search_for_an_unused_session_is_not_repeated_for_a_second() -> None:
    world = world_of(max_principal_sessions=1)
    peer = world.client()
    job = peer.submit()
    peer.drop()
    refused(world.connect().hello(), "sessions", 1)
    world.finish(job)
    refused(world.connect().hello(), "sessions", 1)
    world.advance(1)
    assert world.client().connection.phase is Phase.OPEN


def test_anonymous_clients_share_one_limit_of_sessions() -> None:
    world = world_of(
        anonymous=True,
        max_anonymous_sessions=2,
        max_principal_sessions=1,
        max_total_running_jobs=10,
        max_principal_running_jobs=1,
    )
    peers = [world.connect() for _ in range(3)]
    for peer in peers:
        peer.hello(None, scheme="anonymous")
    refused(peers[2].of("session.error"), "anonymous_sessions", 2)
    peers[0].submit()
    refused(peers[1].send("job.submit", {"agent": "echo"}), "principal_jobs", 1)
    peers[1].drop()
    again = world.connect()
    again.hello(None, scheme="anonymous")
    assert again.connection.phase is Phase.OPEN
    named = world.client()
    named.submit()


def test_restored_sessions_are_counted() -> None:
    world = World(QUIET, journal=True, limits=Limits(max_principal_sessions=2))
    old = [world.client(), world.client()]
    world.restart()
    assert world.client().connection.phase is Phase.OPEN
    assert old[0].session_id not in world.state.sessions
    assert old[1].session_id in world.state.sessions


# Connections.


def test_closing_connections_count_against_the_limit_of_a_principal() -> None:
    world = world_of(max_principal_connections=2)
    peer = world.client()
    second = world.resumed(peer)
    third = world.resumed(second)
    refused(third.of("session.error"), "connections", 2)
    assert world.client("tok-bob").connection.phase is Phase.OPEN
    peer.drop()
    assert world.resumed(second).connection.phase is Phase.OPEN


def test_connections_before_their_welcome_are_limited_in_total_and_per_origin() -> None:
    world = world_of(max_early_connections=4)
    crowd = [world.connect(peer=f"192.0.2.1:{port}") for port in range(6)]
    assert [peer.connection.phase for peer in crowd] == [Phase.AWAITING_HELLO] * 4 + [Phase.CLOSING] * 2
    refused(crowd[2].hello(), "early_connections", 4)
    other = world.connect(peer="192.0.2.2:1")
    other.hello()
    assert other.connection.phase is Phase.OPEN
    crowd[0].hello()
    assert crowd[0].connection.phase is Phase.OPEN
    assert world.connect(peer="192.0.2.1:9").connection.phase is Phase.AWAITING_HELLO


def test_one_origin_has_half_of_the_early_places_and_a_few_refusals() -> None:
    world = world_of(max_early_connections=1_000)
    crowd = [world.connect(peer=f"192.0.2.1:{port}") for port in range(533)]
    waiting = [peer.connection.phase is Phase.AWAITING_HELLO for peer in crowd]
    assert waiting == [True] * 532 + [False]
    crowd[499].hello()
    assert crowd[499].connection.phase is Phase.OPEN
    refused(crowd[500].hello(), "early_connections", 1_000)
    for port in range(700):
        world.connect(peer=f"192.0.2.{2 + port // 200}:{port}")
    assert len(world.state.caps.early) == 1_000 + 64


def test_a_connection_without_a_hello_loses_its_early_place() -> None:
    world = world_of(max_early_connections=2)
    slow = [world.connect(peer="a"), world.connect(peer="b")]
    late = world.connect(peer="c")
    refused(late.hello(), "early_connections", 2)
    world.advance(10)
    for peer in slow:
        assert peer.codes() == ["UNAUTHENTICATED"]
        peer.drop()
    reasons = [fact["reason"] for fact in facts(world, "authentication_failed")]
    assert reasons == ["no hello", "no hello"]
    fresh = world.connect(peer="c")
    fresh.hello()
    assert fresh.connection.phase is Phase.OPEN


def test_audit_facts_about_early_connections_are_rate_limited_and_counted() -> None:
    world = world_of(max_early_connections=2)
    for _ in range(150):
        world.connect(peer="a")
    told = [fact for fact in facts(world) if fact["limit"] == "max_early_connections"]
    assert len(told) == 100
    world.advance(10)
    world.connect(peer="a")
    assert facts(world)[-1]["untold"] == 48


@pytest.mark.parametrize(
    ("peer", "origin"),
    [
        ("192.0.2.1:5000", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:5000", "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:5000", "fe80::/64"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("[zork]:1", "[zork]"),
        ("stdio", "stdio"),
        ("", ""),
        ("unix:path", "unix:path"),
        ("2001:db8::1", "2001:db8::1"),
        ("host:", "host:"),
    ],
)
def test_the_origin_of_a_peer_is_its_host_or_ipv6_prefix(peer: str, origin: str) -> None:
    assert origin_of(peer) == origin


def test_a_removed_early_connection_frees_its_place() -> None:
    early = Early(2)
    assert [early.add(number, "a") for number in range(3)] == [True, True, False]
    assert (early.placed(0), early.placed(1)) == (True, False)
    assert early.add(3, "b")
    early.remove(0)
    early.remove(0)
    assert early.add(4, "a")
    assert early.placed(4)
    assert len(early) == 3


# Failed authentications.


def test_an_origin_with_too_many_failed_authentications_is_throttled() -> None:
    world = world_of(max_failed_authentications=3)
    for number in range(3):
        peer = world.connect(peer=f"192.0.2.1:{number}")
        assert peer.hello(f"guess{number}")[0]["payload"]["code"] == "UNAUTHENTICATED"
    asked = len(world.all(Authenticate))
    right = world.connect(peer="192.0.2.1:9")
    refused(right.hello(), "failed_authentications", 3)
    assert details(right.frames[0])["retry_after_ms"] == 20_000
    assert len(world.all(Authenticate)) == asked
    elsewhere = world.connect(peer="192.0.2.2:9")
    elsewhere.hello()
    assert elsewhere.connection.phase is Phase.OPEN
    world.advance(20)
    later = world.connect(peer="192.0.2.1:10")
    later.hello()
    assert later.connection.phase is Phase.OPEN


def test_a_valid_resume_token_passes_the_throttle_of_its_origin() -> None:
    world = world_of(max_failed_authentications=1)
    peer = world.client()
    world.connect().hello("wrong")
    refused(world.connect().hello(), "failed_authentications", 1)
    assert world.resumed(peer).connection.phase is Phase.OPEN
    assert world.resumed(peer, resume_token="rt_guess").codes() == ["INTERNAL_ERROR"]


def test_an_origin_that_another_host_throttles_is_throttled_until_its_allowance_grows() -> None:
    world = world_of(max_failed_authentications=3)
    member = world.client()
    assert not world.runtime.tokens.throttles("192.0.2.1:1", now=world.now)
    world.runtime.tokens.throttle("192.0.2.1:1", now=world.now)
    world.runtime.tokens.throttle("192.0.2.1:2", now=world.now)  # A second call does not prolong it.
    assert world.runtime.tokens.throttles("192.0.2.1:3", now=world.now)
    assert not world.runtime.tokens.throttles("192.0.2.2:1", now=world.now)
    refused(world.connect(peer="192.0.2.1:4").hello(), "failed_authentications", 3)
    asked = len(world.all(Authenticate))
    token = member.token
    guessing = world.connect(peer="192.0.2.1:5")
    guess = {"resume_token": token[:-1], "last_event_seq": 0}
    refused(guessing.hello(resume=guess), "failed_authentications", 3)
    assert len(world.all(Authenticate)) == asked
    known = world.connect(peer="192.0.2.1:6")
    known.hello(resume={"resume_token": token, "last_event_seq": 0})
    assert known.connection.phase is Phase.OPEN
    world.advance(20)
    assert not world.runtime.tokens.throttles("192.0.2.1:7", now=world.now)


def test_a_token_that_the_host_has_refused_counts_against_its_origin() -> None:
    world = world_of(max_failed_authentications=2)
    for reason in ("expired", "the scheme"):
        world.runtime.tokens.refused("192.0.2.1:1", reason, now=world.now)
    world.runtime.tokens.refused("192.0.2.1:2", "the token", now=world.now)
    assert not world.runtime.tokens.throttles("192.0.2.1:3", now=world.now)
    world.runtime.tokens.refused("192.0.2.1:4", "the token", now=world.now)
    world.take()
    assert world.runtime.tokens.throttles("192.0.2.1:5", now=world.now)
    reasons = [fact["reason"] for fact in facts(world, "authentication_failed")]
    assert reasons == ["expired", "the scheme", "the token", "the token"]


def test_only_refused_tokens_count_as_failed_authentications() -> None:
    world = world_of(max_failed_authentications=1)
    world.client()
    world.connect().hello("x", scheme="zork")
    world.connect().hello(None)
    world.tokens = None
    slow = world.connect()
    slow.hello()
    world.advance(10)
    broken = world.connect()
    broken.hello()
    world.verdict(None, failed=True)
    expired = world.connect()
    expired.hello()
    world.verdict("alice", expires=1)
    reasons = [fact["reason"] for fact in facts(world, "authentication_failed")]
    assert reasons == ["the scheme", "the scheme", "no answer", "the verifier", "expired"]
    last = world.connect()
    last.hello()
    world.verdict("alice")
    assert last.connection.phase is Phase.OPEN


def test_no_audit_fact_holds_a_token() -> None:
    world = world_of(max_failed_authentications=2)
    for _ in range(4):
        world.connect().hello("gu3ss")
    told = repr([fact.facts for fact in world.all(Audit)])
    assert "gu3ss" not in told
    assert "max_failed_authentications" in told


# Jobs.


def test_running_jobs_are_limited_per_principal() -> None:
    world = world_of(max_principal_running_jobs=2)
    peer = world.client()
    first, _ = peer.submit(), peer.submit()
    refused(peer.send("job.submit", {"agent": "echo"}), "principal_jobs", 2)
    world.client("tok-bob").submit()
    world.finish(first)
    world.advance(1)
    peer.submit()


def test_an_agent_that_ignores_its_cancel_still_counts_as_running() -> None:
    world = world_of(max_principal_running_jobs=1)
    peer = world.client()
    job = peer.submit()
    peer.cancel(job)
    world.advance(6)
    refused(peer.send("job.submit", {"agent": "echo"}), "principal_jobs", 1)
    world.advance(1)
    world.stopped(job)
    peer.submit()


def test_running_jobs_are_counted_by_group() -> None:
    world = World()
    job = world.state.jobs[world.client().submit()]
    running = RunningJobs()
    running.add(job, None)
    running.add(job, None)
    assert (running.count(None), running.count("alice"), list(running)) == (1, 0, [job.id])
    del running[job.id]
    assert running.count(None) == 0
    with pytest.raises(KeyError):
        del running[JobId("job_x")]


def test_exceeded_is_retryable_and_names_the_limit() -> None:
    error = Exceeded("max_principal_sessions", 3, "too many", retry_after_ms=7)
    assert error.code is ErrorCode.INTERNAL_ERROR
    assert error.details == {"limit": "sessions", "max": 3, "retry_after_ms": 7}


def test_a_bucket_does_not_depend_on_the_start_of_the_clock() -> None:
    for start in (0, 10**18):
        world = world_of(max_requests_per_sec=2)
        world.now = start + 1_000 * SECOND
        peer = world.client()
        assert [ping(peer)[0]["type"] for _ in range(5)] == ["session.pong"] * 4 + ["session.error"]
    assert world.all(ConnectionEnded) == []
