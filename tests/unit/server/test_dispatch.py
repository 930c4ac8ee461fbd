"""Messages of a client: when each is allowed, and the answer that it gets."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto import Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import Authenticate, ConnectionEnded, PauseJob, StartJob, StopJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import MAX_RUNTIME_SEC, Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.dispatch import HANDLERS
from arcp_proto.wire.messages import TO_RUNTIME
from tests.unit.world import AGENTS, FEATURES, START, Peer, World

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
EXTENSION = "x-vendor.opentelemetry.tracecontext"


def refused(peer: Peer, code: str, close: int = 1008) -> dict[str, Any]:
    """Check that a connection was refused with an error and closes, and return the error."""
    assert peer.closing is not None
    assert (peer.closing.code, peer.closing.abort) == (close, False)
    assert peer.connection.phase is Phase.CLOSING
    error: dict[str, Any] = peer.frames[-1]
    assert error["type"] == "session.error"
    assert error["payload"]["code"] == code
    return error


# The handshake.


def test_a_hello_asks_the_host_and_is_welcomed() -> None:
    world = World(tokens=None)
    peer = world.connect()
    assert peer.hello("tok") == []
    asked = world.last(Authenticate)
    assert asked.connection is peer.connection
    assert (asked.scheme, asked.token.reveal()) == ("bearer", "tok")
    assert (asked.client.name, asked.client.version) == ("test", "1")
    world.carry_out(world.runtime.authenticated(asked.request, "alice", now=world.now))
    welcome = peer.frames[0]
    assert welcome["type"] == "session.welcome"
    assert list(welcome) == ["arcp", "id", "type", "session_id", "payload"]
    payload = welcome["payload"]
    assert payload["session_id"] == welcome["session_id"]
    assert payload["session_id"].startswith("sess_") and len(payload["session_id"]) == 31
    assert payload["resume_token"].startswith("rt_") and len(payload["resume_token"]) == 46
    assert payload["resume_window_sec"] == 600
    assert payload["heartbeat_interval_sec"] == 30
    assert payload["runtime"] == {"name": "world", "version": "1"}
    assert payload["accepted_at"] == "2026-05-28T20:26:40.000Z"
    assert payload["capabilities"] == {
        "encodings": ["json"],
        "features": list(FEATURES),
        "agents": [
            {"name": "echo", "versions": ["1.0.0", "2.0.0"], "default": "2.0.0"},
            {"name": "plain", "versions": []},
        ],
    }
    assert peer.connection.phase is Phase.OPEN


def test_features_are_the_intersection(world: World) -> None:
    welcome = world.client(features=("progress", "subscribe", "zork", "ack")).frames[0]
    assert welcome["payload"]["capabilities"]["features"] == ["ack", "subscribe", "progress"]
    assert "heartbeat_interval_sec" not in welcome["payload"]
    assert world.state.timers.keys() == []


def test_a_runtime_without_heartbeats_offers_none() -> None:
    world = World(heartbeat_interval_sec=0)
    assert "heartbeat" not in world.client().frames[0]["payload"]["capabilities"]["features"]


def test_a_hello_without_a_principal_is_unauthenticated(world: World) -> None:
    peer = world.connect()
    peer.hello("wrong", hello_id="h")
    error = refused(peer, "UNAUTHENTICATED")
    assert error["payload"]["request_id"] == "h"
    assert not error["payload"]["retryable"]
    assert "wrong" not in str(error)
    assert error["session_id"].startswith("sess_")
    assert world.state.sessions == {}
    assert world.last(ConnectionEnded).code == "UNAUTHENTICATED"


def test_a_verifier_that_fails_is_an_internal_error() -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    request = world.last(Authenticate).request
    world.carry_out(world.runtime.authenticated(request, "alice", failed=True, now=world.now))
    assert refused(peer, "INTERNAL_ERROR", 1011)["payload"]["retryable"]


def test_a_verifier_that_takes_too_long_is_an_internal_error() -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    world.advance(9.9)
    assert peer.closing is None
    world.advance(0.2)
    refused(peer, "INTERNAL_ERROR", 1011)
    request = world.last(Authenticate).request
    world.carry_out(world.runtime.authenticated(request, "alice", now=world.now))
    assert world.state.sessions == {}


def test_an_answer_about_a_lost_connection_is_ignored() -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    peer.drop()
    assert world.state.pending == {}
    request = world.last(Authenticate).request
    world.carry_out(world.runtime.authenticated(request, "alice", now=world.now))
    assert world.state.sessions == {}


def test_a_second_answer_of_the_verifier_is_ignored(world: World, peer: Peer) -> None:
    world.carry_out(
        world.runtime.authenticated(connection_state(peer.connection).number, None, now=world.now)
    )
    world.carry_out(world.runtime.authenticated(99, "alice", now=world.now))
    assert peer.connection.phase is Phase.OPEN
    assert len(world.state.sessions) == 1


@pytest.mark.parametrize(
    ("scheme", "token"), [("bearer", None), ("bearer", ""), ("basic", "tok-alice"), ("anonymous", None)]
)
def test_an_auth_without_a_bearer_token_is_unauthenticated(
    world: World, scheme: str, token: str | None
) -> None:
    peer = world.connect()
    peer.hello(token, scheme=scheme)
    refused(peer, "UNAUTHENTICATED")
    assert world.requests == []


def test_an_anonymous_hello_is_welcomed_where_it_is_allowed() -> None:
    world = World(anonymous=True)
    first, second = world.connect(), world.connect()
    first.hello(None, scheme="anonymous")
    second.hello(None, scheme="anonymous")
    assert first.frames[0]["type"] == second.frames[0]["type"] == "session.welcome"
    principals = [session.principal for session in world.state.sessions.values()]
    assert len(dict.fromkeys(principals)) == 2
    assert all(principal.startswith("anonymous-") for principal in principals)
    assert world.requests == []


def test_a_connection_without_a_hello_in_time_is_closed(world: World) -> None:
    peer = world.connect()
    world.advance(9.9)
    assert peer.frames == []
    world.advance(0.2)
    assert "request_id" not in refused(peer, "UNAUTHENTICATED")["payload"]


@pytest.mark.parametrize("sent", ["session.resume", "session.hello"])
def test_a_resume_of_an_unknown_session_is_refused(sent: str) -> None:
    peer = World().connect()
    resume = {"session_id": "sess_old", "resume_token": "rt_x", "last_event_seq": 3}
    if sent == "session.resume":
        peer.send(sent, resume)
    else:
        auth = {"scheme": "bearer", "token": "tok-alice"}
        peer.send(sent, {"auth": auth, "resume": resume})
    error = refused(peer, "RESUME_WINDOW_EXPIRED")
    assert error["session_id"] == "sess_old"
    assert not error["payload"]["retryable"]


def test_messages_behind_the_hello_wait_for_the_verifier() -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    assert peer.send("session.ping", {"nonce": "n"}) == []
    assert peer.send("job.submit", {"agent": "echo"}, id="s") == []
    request = world.last(Authenticate).request
    world.carry_out(world.runtime.authenticated(request, "alice", now=world.now))
    kinds = [frame["type"] for frame in peer.frames]
    assert kinds == ["session.welcome", "session.pong", "job.accepted"]


def test_messages_behind_a_refused_hello_are_dropped() -> None:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    peer.send("job.submit", {"agent": "echo"})
    request = world.last(Authenticate).request
    world.carry_out(world.runtime.authenticated(request, None, now=world.now))
    refused(peer, "UNAUTHENTICATED")
    assert len(peer.frames) == 1
    assert peer.connection.reading


def test_too_many_messages_behind_the_hello_stop_the_reading() -> None:
    world = World(limits=Limits(max_held_messages=3), tokens=None)
    peer = world.connect()
    peer.hello()
    for _ in range(3):
        assert peer.connection.reading
        peer.send("session.ping", {"nonce": "n"})
    assert not peer.connection.reading
    request = world.last(Authenticate).request
    world.carry_out(world.runtime.authenticated(request, "alice", now=world.now))
    assert peer.connection.reading
    assert len(peer.of("session.pong")) == 3


# Liveness and acks.


def test_a_ping_is_answered_even_without_heartbeats() -> None:
    peer = World().client(features=())
    [pong] = peer.send("session.ping", {"nonce": "n1", "sent_at": "x"})
    assert pong["type"] == "session.pong"
    assert pong["payload"] == {"ping_nonce": "n1", "received_at": "2026-05-28T20:26:40.000Z"}
    assert peer.send("session.pong", {"ping_nonce": "zork"}) == []


def test_acks_free_the_log_and_never_go_back(world: World, peer: Peer, job: JobId) -> None:
    for _ in range(5):
        world.emit(job)
    session = world.state.sessions[next(iter(world.state.sessions))]
    assert peer.send("session.ack", {"last_processed_seq": 3}) == []
    assert (session.acked, session.log.first, len(session.log)) == (3, 4, 2)
    assert peer.send("session.ack", {"last_processed_seq": 2}) == []
    assert session.acked == 3
    assert peer.send("session.ack", {"last_processed_seq": "5"}) == []
    assert (session.acked, len(session.log), session.log.last) == (5, 0, 5)


@pytest.mark.parametrize("seq", [3, -1, 2**63, 1.5, True, "x", None])
def test_an_ack_above_the_last_event_is_invalid(world: World, peer: Peer, job: JobId, seq: Any) -> None:
    world.emit(job)
    world.emit(job)
    answer = peer.send("session.ack", {"last_processed_seq": seq}, id="a")
    if seq is None:
        assert answer == []  # An absent number counts as 0.
    else:
        assert answer[0]["payload"]["code"] == "INVALID_REQUEST"
        assert answer[0]["payload"]["request_id"] == "a"
    assert world.state.sessions[peer_session(peer)].acked == 0


def peer_session(peer: Peer) -> Any:
    assert connection_state(peer.connection).session is not None
    return connection_state(peer.connection).session.id


# Submitting.


def test_a_submit_is_accepted_and_its_agent_started(world: World, peer: Peer) -> None:
    lease = {"fs.read": ["/data/**"], "cost.budget": ["USD:5.00", "EUR:0.5", "USD:0.25"]}
    [accepted] = peer.send(
        "job.submit",
        {
            "agent": "echo@1.0.0",
            "input": {"x": [1, None]},
            "lease_request": lease,
            "lease_constraints": {"expires_at": "2026-06-01T00:00:00+00:00"},
            "parent_job_id": "job_ignored",
            "max_runtime_sec": 60,
        },
        id="s1",
        trace_id=TRACE,
    )
    payload = accepted["payload"]
    started = world.last(StartJob)
    assert accepted["type"] == "job.accepted"
    assert "event_seq" not in accepted
    assert accepted["job_id"] == payload["job_id"] == started.job_id
    assert accepted["trace_id"] == payload["trace_id"] == started.trace_id == TRACE
    assert payload["agent"] == "echo@1.0.0"
    assert payload["lease"] == lease
    assert payload["lease_constraints"] == {"expires_at": "2026-06-01T00:00:00Z"}
    assert payload["budget"] == {"USD": 5.25, "EUR": 0.5}
    assert payload["accepted_at"] == "2026-05-28T20:26:40.000Z"
    assert payload["request_id"] == "s1"
    assert list(payload) == [
        "job_id",
        "agent",
        "lease",
        "accepted_at",
        "request_id",
        "lease_constraints",
        "budget",
        "trace_id",
    ]
    assert (started.agent, started.version, started.principal) == ("echo", "1.0.0", "alice")
    assert started.input == {"x": [1, None]}
    assert started.lease == lease
    assert started.trace_headers["traceparent"].startswith(f"00-{TRACE}-")
    assert world.state.timers.armed(TimerKind.MAX_RUNTIME, started.job_id) == START + 60 * SECOND


def test_job_accepted_of_a_plain_submit_has_the_required_fields(world: World, peer: Peer) -> None:
    [accepted] = peer.send("job.submit", {"agent": "plain"})
    payload = accepted["payload"]
    assert payload["agent"] == "plain"
    assert payload["lease"] == {}
    assert "budget" not in payload and "lease_constraints" not in payload
    assert len(payload["trace_id"]) == 32
    started = world.last(StartJob)
    assert (started.version, started.input, dict(started.lease)) == (None, None, {})
    assert "extensions" not in accepted


def test_a_submit_without_an_id_gets_an_answer(peer: Peer) -> None:
    [accepted] = peer.send_bytes(b'{"type":"job.submit","payload":{"agent":"echo"}}')
    assert len(accepted["payload"]["request_id"]) == 26
    [error] = peer.send_bytes(b'{"type":"job.submit","payload":{"agent":"zork"}}')
    assert "request_id" not in error["payload"] and "details" not in error["payload"]


def test_a_submit_gets_the_default_or_the_requested_version(peer: Peer) -> None:
    peer.submit("echo")
    assert peer.frames[-1]["payload"]["agent"] == "echo@2.0.0"
    [error] = peer.send("job.submit", {"agent": "echo@3.0.0"})
    assert error["payload"]["code"] == "AGENT_VERSION_NOT_AVAILABLE"
    assert "1.0.0, 2.0.0" in error["payload"]["message"]
    [error] = peer.send("job.submit", {"agent": "zork"})
    assert error["payload"]["code"] == "AGENT_NOT_AVAILABLE"
    [error] = peer.send("job.submit", {"agent": "Not An Agent"})
    assert error["payload"]["code"] == "INVALID_REQUEST"


BAD_SUBMITS: list[tuple[dict[str, Any], str]] = [
    ({}, "INVALID_REQUEST"),
    ({"agent": ""}, "INVALID_REQUEST"),
    ({"agent": 5}, "INVALID_REQUEST"),
    ({"agent": "echo", "max_runtime_sec": 0}, "INVALID_REQUEST"),
    ({"agent": "echo", "max_runtime_sec": -1}, "INVALID_REQUEST"),
    ({"agent": "echo", "max_runtime_sec": 1.5}, "INVALID_REQUEST"),
    ({"agent": "echo", "max_runtime_sec": MAX_RUNTIME_SEC + 1}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_request": {"zork": ["x"]}}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_request": {"fs.read": ["relative"]}}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_request": {"cost.budget": ["USD:x"]}}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_request": {"cost.budget": ["USD:-1"]}}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_request": {"tool.call": ["x" * 513]}}, "INVALID_REQUEST"),
    (
        {"agent": "echo", "lease_request": {"tool.call": [f"{n}" + "x" * 500 for n in range(40)]}},
        "INVALID_REQUEST",
    ),
    ({"agent": "echo", "lease_request": "all"}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_constraints": {"expires_at": "2020-01-01T00:00:00Z"}}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_constraints": {"expires_at": "soon"}}, "INVALID_REQUEST"),
    ({"agent": "echo", "lease_constraints": {"expires_at": "2030-01-01T00:00:00+01:00"}}, "INVALID_REQUEST"),
]


@pytest.mark.parametrize(("payload", "code"), BAD_SUBMITS)
def test_a_refused_submit_changes_nothing(
    world: World, peer: Peer, payload: dict[str, Any], code: str
) -> None:
    requests, timers = len(world.requests), world.state.timers.keys()
    [error] = peer.send("job.submit", payload, id="s9")
    assert error["type"] == "session.error"
    assert error["payload"]["code"] == code
    assert error["payload"]["request_id"] == error["payload"]["details"]["request_id"] == "s9"
    assert world.state.jobs == {}
    assert len(world.requests) == requests
    assert world.state.timers.keys() == timers
    assert peer.connection.phase is Phase.OPEN


def test_the_checks_of_a_submit_come_in_order() -> None:
    """Send a payload that breaks every rule, and mend the rule of the first error after each answer."""
    world = World(limits=Limits(max_total_running_jobs=0))
    peer = world.client()
    payload: dict[str, Any] = {
        "agent": "zork",
        "max_runtime_sec": 0,
        "lease_request": {"fs.read": ["relative"], "cost.budget": ["USD:x"]},
        "lease_constraints": {"expires_at": "soon"},
    }

    def message() -> str:
        text: str = peer.send("job.submit", payload)[0]["payload"]["message"]
        return text

    assert "max_runtime_sec" in message()
    payload["max_runtime_sec"] = MAX_RUNTIME_SEC
    assert "zork" in message()
    payload["agent"] = "echo@9"
    assert "versions" in message()
    payload["agent"] = "echo"
    assert "relative" in message()
    payload["lease_request"]["fs.read"] = ["/"]
    assert "USD:x" in message()
    payload["lease_request"]["cost.budget"] = ["USD:1"]
    assert "expires_at" in message()
    payload["lease_constraints"] = None
    assert "too many jobs" in message()


def test_a_submit_above_the_limit_of_running_jobs_is_refused() -> None:
    world = World(limits=Limits(max_total_running_jobs=1))
    peer = world.client()
    job = peer.submit()
    [error] = peer.send("job.submit", {"agent": "echo"}, id="s2")
    assert error["payload"]["code"] == "INTERNAL_ERROR"
    assert error["payload"]["retryable"]
    assert error["payload"]["details"] == {
        "limit": "running_jobs",
        "max": 1,
        "retry_after_ms": 1000,
        "request_id": "s2",
    }
    world.advance(1)
    peer.cancel(job)
    world.advance(6)
    assert peer.of("job.error")
    assert peer.send("job.submit", {"agent": "echo"})[0]["type"] == "session.error"  # The agent still runs.
    world.advance(1)
    world.stopped(job)
    peer.submit()


def test_a_job_of_a_blocked_connection_starts_paused(world: World, peer: Peer) -> None:
    world.carry_out(peer.connection.blocked(now=world.now))
    job = peer.submit()
    assert world.requests[-1] == PauseJob(job)


# Trace context.


def test_a_traceparent_is_kept_and_its_extension_sent_back(world: World, peer: Peer) -> None:
    carried = {"traceparent": f"00-{TRACE}-{PARENT}-00", "tracestate": "v=1"}
    [accepted] = peer.send("job.submit", {"agent": "echo"}, extensions={EXTENSION: carried, "other": 1})
    started = world.last(StartJob)
    assert started.trace_id == TRACE
    assert started.trace_headers["tracestate"] == "v=1"
    assert started.trace_headers["traceparent"].endswith("-00")
    assert PARENT not in started.trace_headers["traceparent"]
    assert accepted["extensions"] == {EXTENSION: dict(started.trace_headers)}
    world.emit(started.job_id)
    world.finish(started.job_id)
    for frame in peer.about(started.job_id):
        assert frame["trace_id"] == TRACE
        assert frame["extensions"] == accepted["extensions"]


@pytest.mark.parametrize("trace_id", ["0" * 32, "xyz", 5, None])
def test_a_submit_without_a_valid_trace_gets_a_new_one(peer: Peer, trace_id: Any) -> None:
    one = peer.send("job.submit", {"agent": "echo"}, trace_id=trace_id)[0]["trace_id"]
    two = peer.send("job.submit", {"agent": "echo"}, trace_id=trace_id)[0]["trace_id"]
    assert one != two
    assert len(one) == 32 and int(one, 16)


# Cancelling.


def test_cancel_is_answered_and_ends_the_job_when_its_agent_has_stopped(
    world: World, peer: Peer, job: JobId
) -> None:
    [answer] = peer.send("job.cancel", {"job_id": job, "reason": "enough"}, id="c1")
    assert answer["type"] == "job.cancelled"
    assert answer["event_seq"] == 1
    assert answer["payload"] == {"job_id": job, "request_id": "c1", "reason": "enough"}
    stop = world.last(StopJob)
    assert (stop.job_id, stop.kill_at) == (job, world.now + 5 * SECOND)
    assert stop.reason == "cancelled by the client: enough"
    world.emit(job)  # An agent may emit while it unwinds.
    world.stopped(job)
    end = peer.frames[-1]
    assert (end["type"], end["event_seq"]) == ("job.error", 3)
    assert end["payload"] == {
        "final_status": "cancelled",
        "code": "CANCELLED",
        "message": "cancelled by the client: enough",
        "retryable": False,
        "completed_at": "2026-05-28T20:26:40.000Z",
    }


def test_a_job_ends_after_the_grace_of_an_agent_that_does_not_stop(
    world: World, peer: Peer, job: JobId
) -> None:
    peer.cancel(job)
    world.advance(4.9)
    assert not peer.of("job.error")
    world.advance(0.2)
    [end] = peer.of("job.error")
    assert end["payload"]["details"] == {"stopped": False}
    assert job in world.state.running
    world.finish(job, "too late")
    assert job not in world.state.running
    assert peer.frames[-1] is end


@pytest.mark.parametrize("how", ["finish", "fail", "stopped", "timeout", "cancel"])
def test_the_first_outcome_of_a_job_counts(world: World, peer: Peer, how: str) -> None:
    job = peer.submit(max_runtime_sec=3)
    peer.cancel(job, "first")
    match how:
        case "finish":
            world.finish(job, 1)
        case "fail":
            world.fail(job)
        case "stopped":
            world.stopped(job)
        case "timeout":
            world.advance(4)
            world.stopped(job)
        case "cancel":
            [answer] = peer.cancel(job, "second")
            assert "final_status" not in answer["payload"]
            world.stopped(job)
    [end] = [*peer.of("job.error"), *peer.of("job.result")]
    assert end["payload"]["code"] == "CANCELLED"
    assert "first" in end["payload"]["message"]
    assert len(world.stops()) == 1


def test_a_cancel_after_the_end_is_answered_with_the_final_status(
    world: World, peer: Peer, job: JobId
) -> None:
    world.finish(job)
    [answer] = peer.cancel(job)
    assert answer["type"] == "job.cancelled"
    assert answer["payload"]["final_status"] == "success"
    assert answer["event_seq"] == 2
    assert "reason" not in answer["payload"]
    assert world.stops() == []


def test_only_the_submitting_session_may_cancel(world: World) -> None:
    alice, again, bob = world.client(), world.client(), world.client("tok-bob")
    job = alice.submit()
    [error] = again.cancel(job)
    assert error["payload"]["code"] == "PERMISSION_DENIED"
    assert error["payload"]["job_id"] == job
    [foreign] = bob.send("job.cancel", {"job_id": job}, id="c")
    [unknown] = bob.send("job.cancel", {"job_id": job[:-1] + "!"}, id="c")
    assert foreign["payload"]["code"] == unknown["payload"]["code"] == "JOB_NOT_FOUND"
    assert foreign["payload"]["message"] == unknown["payload"]["message"]
    assert world.stops() == []
    alice.drop()
    assert again.cancel(job)[0]["payload"]["code"] == "PERMISSION_DENIED"
    again.send("session.pong", {})
    world.advance(601)
    [answer] = world.client().cancel(job)  # The submitting session has ended.
    assert answer["type"] == "job.cancelled"
    world.stopped(job)
    assert again.of("job.error") == []


def test_a_detached_session_still_keeps_others_from_cancelling() -> None:
    world = World(resume_window_sec=60)
    alice, again = world.client(), world.client()
    job = alice.submit()
    alice.drop()
    assert again.cancel(job)[0]["payload"]["code"] == "PERMISSION_DENIED"
    again.send("session.pong", {})
    world.advance(61)
    later = world.client()
    assert later.cancel(job)[0]["type"] == "job.cancelled"


def test_a_cancel_names_its_job_in_the_payload_or_the_envelope(peer: Peer, job: JobId) -> None:
    assert peer.send("job.cancel", job_id=job)[0]["payload"]["job_id"] == job
    [error] = peer.send("job.cancel")
    assert error["payload"]["code"] == "INVALID_REQUEST"


def test_a_long_reason_is_cut(world: World, peer: Peer, job: JobId) -> None:
    [answer] = peer.cancel(job, "x" * 5000)
    assert len(answer["payload"]["reason"]) == 1000
    world.stopped(job)
    assert len(peer.frames[-1]["payload"]["message"]) == 1000


# Closing.


@pytest.mark.parametrize("message_type", ["session.close", "session.bye"])
def test_session_close_is_answered_and_jobs_continue(
    world: World, peer: Peer, job: JobId, message_type: str
) -> None:
    world.emit(job)
    answers = peer.send(message_type, {"reason": "done"})
    if message_type == "session.close":
        [closed] = answers
        assert (closed["type"], closed["payload"]) == ("session.closed", {"reason": "done"})
    else:
        assert answers == []  # Senders of session.bye do not know session.closed.
    assert peer.closing is not None and peer.closing.code == 1000
    ended = world.last(ConnectionEnded)
    assert (ended.who, ended.code, ended.reason) == ("peer", "", "session closed")
    assert world.stops() == []
    assert peer.send("session.ping", {"nonce": "late"}) == []
    world.emit(job)
    world.finish(job)
    assert peer.numbers() == [1]
    peer.drop()
    assert len(world.all(ConnectionEnded)) == 1
    assert world.state.connections == {}


def test_a_close_follows_the_envelopes_queued_before(world: World, peer: Peer, job: JobId) -> None:
    peer.slow = True
    for _ in range(3):
        world.emit(job)
    peer.send("session.close", {"reason": ""})
    world.emit(job)
    assert [frame["type"] for frame in peer.pull()] == ["job.event"] * 3 + ["session.closed"]


# Refusing.


def test_an_illegal_or_unknown_message_in_an_open_session_is_invalid(world: World, peer: Peer) -> None:
    for message_type, payload in (
        ("session.hello", {"auth": {"token": "tok-alice"}}),
        ("session.resume", {"resume_token": "x"}),
        ("session.list_jobs", {"cursor": "x"}),
        ("job.subscribe", {"job_id": ""}),
        ("job.unsubscribe", {"job_id": ""}),
        ("session.welcome", {}),
        ("job.event", {}),
        ("zork", {}),
    ):
        [error] = peer.send(message_type, payload, id="m")
        assert error["type"] == "session.error"
        assert error["payload"]["code"] == "INVALID_REQUEST"
        assert error["payload"]["request_id"] == "m"
    assert peer.connection.phase is Phase.OPEN
    assert len(world.state.sessions) == 1
    assert peer.send("session.error", {"code": "X"}) == []


@pytest.mark.parametrize("version", ["2.0", "2", "0.9", "", "x", 2])
def test_another_major_version_is_invalid(world: World, version: Any) -> None:
    early = world.connect()
    early.send("session.hello", {"auth": {"token": "tok-alice"}}, arcp=version)
    message = refused(early, "INVALID_REQUEST")["payload"]["message"]
    assert "1.1" in message and str(version) in message
    peer = world.client()
    [error] = peer.send("session.ping", {"nonce": "n"}, arcp=version)
    assert error["payload"]["code"] == "INVALID_REQUEST"
    assert peer.connection.phase is Phase.OPEN


@pytest.mark.parametrize("version", ["1", "1.0", "1.1", "1.9", None, 1.1])
def test_every_version_of_our_major_version_is_accepted(peer: Peer, version: Any) -> None:
    assert peer.send("session.ping", {"nonce": "n"}, arcp=version)[0]["type"] == "session.pong"


@pytest.mark.parametrize(
    ("message_type", "payload", "feature"),
    [
        ("session.ack", {"last_processed_seq": 0}, "ack"),
        ("session.list_jobs", {}, "list_jobs"),
        ("job.subscribe", {"job_id": "job_x"}, "subscribe"),
        ("job.unsubscribe", {"job_id": "job_x"}, "subscribe"),
    ],
)
def test_a_message_of_a_feature_that_was_not_negotiated_is_invalid(
    message_type: str, payload: dict[str, Any], feature: str
) -> None:
    peer = World().client(features=tuple(name for name in FEATURES if name != feature))
    [error] = peer.send(message_type, payload)
    assert error["payload"]["code"] == "INVALID_REQUEST"
    assert f"the feature {feature}" in error["payload"]["message"]
    assert peer.connection.phase is Phase.OPEN


def test_every_session_gets_the_same_inventory() -> None:
    config = RuntimeConfig(name="n", version="1", agents=tuple(reversed(AGENTS)))
    agents = World(config).client().frames[0]["payload"]["capabilities"]["agents"]
    assert [agent["name"] for agent in agents] == ["echo", "plain"]


def test_a_rule_has_the_shape_of_its_message() -> None:
    rules = [row for rows in HANDLERS.values() for row in rows.items()]
    assert {kind: rule.shape for kind, rule in rules} == TO_RUNTIME
