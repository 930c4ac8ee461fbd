"""The client: its calls, and the states in which they are allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.client.client import Client
from arcp_proto.client.config import CLIENT_FEATURES, ClientConfig
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import (
    ConnectionEnded,
    JobEnded,
    JobEvent,
    SessionClosed,
    SessionFailed,
    Welcomed,
)
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import InvariantViolated, LocalProtocolError
from arcp_proto.ids import SECOND, JobId, SessionId, UnixTime
from arcp_proto.limits import Limits
from arcp_proto.secret import Secret
from arcp_proto.wire.messages import AgentEntry, Peer
from arcp_proto.wire.timestamps import format_time
from arcp_proto.wire.trace_context import EXTENSION
from tests.unit.scripted_runtime import FEATURES, JOB, UNIX, WELCOME, ScriptedRuntime, log, numbers

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def runtime() -> ScriptedRuntime:
    runtime = ScriptedRuntime()
    runtime.welcome()
    return runtime


def fresh(config: ClientConfig | None = None) -> Client:
    return Client(config or ClientConfig(), seed=bytes(32), now=SECOND, unix=UNIX)


# Configuration.


@pytest.mark.parametrize(
    "config",
    [
        ClientConfig(features=("heartbeat", "zork")),
        ClientConfig(name="n" * 257),
        ClientConfig(version="v" * 257),
    ],
)
def test_a_wrong_configuration_raises(config: ClientConfig) -> None:
    with pytest.raises(LocalProtocolError):
        fresh(config)


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Client(ClientConfig(), seed=b"short", now=0, unix=UNIX)


def test_a_client_without_a_session_has_no_id_features_and_agents() -> None:
    client = fresh()
    assert (client.session_id, client.features, client.agents) == (None, frozenset(), [])


# Connecting.


def test_the_hello_has_client_auth_and_capabilities() -> None:
    runtime = ScriptedRuntime(ClientConfig(name="me", version="3"))
    (hello,) = runtime.received
    assert (hello["type"], hello["arcp"], len(hello["id"])) == ("session.hello", "1.1", 26)
    assert "session_id" not in hello
    assert hello["payload"] == {
        "client": {"name": "me", "version": "3"},
        "auth": {"scheme": "bearer", "token": "secret"},
        "capabilities": {"encodings": ["json"], "features": list(CLIENT_FEATURES)},
    }
    assert runtime.connection.phase is Phase.AWAITING_WELCOME


def test_without_a_token_the_hello_is_anonymous() -> None:
    client = fresh(ClientConfig(features=()))
    client.connect(None, now=SECOND)
    ((_, hello),) = client.take().envelopes()
    assert json.loads(hello)["payload"]["auth"] == {"scheme": "anonymous"}
    assert json.loads(hello)["payload"]["capabilities"]["features"] == []


@pytest.mark.parametrize("token", ["", "x" * 16385, "\ud800"])
def test_a_token_that_cannot_be_sent_raises_and_changes_nothing(token: str) -> None:
    client = fresh()
    with pytest.raises(LocalProtocolError) as raised:
        client.connect(Secret(token), now=SECOND)
    assert not token or token not in str(raised.value)
    assert state_of(client).connections == {}
    assert client.connect(Secret("x" * 16384), now=SECOND) in state_of(client).handles.values()


def test_a_second_connection_at_a_time_raises(runtime: ScriptedRuntime) -> None:
    with pytest.raises(LocalProtocolError, match="already in use"):
        runtime.client.connect(None, now=runtime.now)
    runtime.carry_out(runtime.connection.lost(now=runtime.now))
    again = runtime.client.connect(None, now=runtime.now)
    assert connection_state(again).number == connection_state(runtime.connection).number + 1


def test_a_closing_connection_allows_the_next_one(runtime: ScriptedRuntime) -> None:
    runtime.say("session.bye")
    assert runtime.connection.phase is Phase.CLOSING
    following = runtime.client.connect(Secret("secret"), now=runtime.now)
    runtime.carry_out(runtime.connection.lost(now=runtime.now))
    assert runtime.state.connection is connection_state(following)
    assert following.phase is Phase.AWAITING_WELCOME


def test_the_welcome_opens_the_session() -> None:
    runtime = ScriptedRuntime()
    welcomed = runtime.only(Welcomed, runtime.welcome("ack", "zork"))
    assert welcomed == Welcomed(
        runtime.connection,
        SessionId("sess_1"),
        Peer("script", "1"),
        frozenset({"ack"}),
        [AgentEntry("echo", [])],
        600,
    )
    client = runtime.client
    assert client.session_id == "sess_1"
    assert client.features == {"ack"}
    assert client.agents == welcomed.agents
    assert client.deadline() is None


def test_a_client_reads_large_messages_from_the_beginning() -> None:
    """Check one limit for all messages, since a read may bring the welcome with large frames of a replay."""
    runtime = ScriptedRuntime()
    assert runtime.connection.message_limit == 4 * 1024 * 1024
    runtime.welcome()
    assert runtime.connection.message_limit == 4 * 1024 * 1024


def test_a_connection_without_a_welcome_in_time_ends() -> None:
    runtime = ScriptedRuntime()
    assert runtime.advance(9.9) == []
    ended = runtime.only(ConnectionEnded, runtime.advance(0.2))
    assert (ended.who, ended.code, ended.reason) == ("local", "INTERNAL_ERROR", "no welcome in time")
    assert [closing.code for closing in runtime.closings] == [1008]


def test_without_resuming_the_end_of_the_transport_ends_the_session(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.submit()
    ended = runtime.only(ConnectionEnded, runtime.carry_out(runtime.connection.lost(now=runtime.now)))
    assert (ended.who, ended.code) == ("transport", "")
    assert runtime.client.session_id is None
    assert runtime.client.deadline() is None
    assert runtime.state.connections == {}


def test_a_new_connection_opens_a_new_session(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.carry_out(runtime.connection.lost(now=runtime.now))
    runtime.connection = runtime.client.connect(Secret("secret"), now=runtime.now)
    runtime.take()
    runtime.welcome(session_id="sess_2")
    assert runtime.client.session_id == "sess_2"
    assert runtime.say("job.event", log(), job_id=JOB, event_seq=1) != []
    assert len({envelope["id"] for envelope in runtime.received}) == len(runtime.received)


# Submitting.


def test_a_submit_has_every_given_field(runtime: ScriptedRuntime) -> None:
    request_id = runtime.submit(
        "echo@1",
        {"x": [1]},
        lease_request={"fs.read": ("/a/**",), "tool.call": []},
        expires_at="2027-01-01T00:00:00Z",
        idempotency_key="k",
        max_runtime_sec=60,
        traceparent=TRACEPARENT,
        tracestate="a=1",
    )
    (submit,) = runtime.sent("job.submit")
    assert submit == {
        "arcp": "1.1",
        "id": request_id,
        "type": "job.submit",
        "session_id": "sess_1",
        "trace_id": TRACEPARENT[3:35],
        "extensions": {EXTENSION: {"traceparent": TRACEPARENT, "tracestate": "a=1"}},
        "payload": {
            "agent": "echo@1",
            "input": {"x": [1]},
            "lease_request": {"fs.read": ["/a/**"], "tool.call": []},
            "lease_constraints": {"expires_at": "2027-01-01T00:00:00Z"},
            "idempotency_key": "k",
            "max_runtime_sec": 60,
        },
    }


def test_a_submit_without_options_has_agent_and_input(runtime: ScriptedRuntime) -> None:
    runtime.submit("echo")
    (submit,) = runtime.sent("job.submit")
    assert submit["payload"] == {"agent": "echo", "input": None}
    assert not {"extensions", "job_id"} & set(submit)


def test_every_submit_has_a_trace_id_of_its_own(runtime: ScriptedRuntime) -> None:
    for _ in range(3):
        runtime.submit("echo")
    traces = [frame["trace_id"] for frame in runtime.sent("job.submit")]
    assert len(set(traces)) == 3
    assert all(len(trace) == 32 and int(trace, 16) for trace in traces)
    again = ScriptedRuntime()
    again.welcome()
    again.submit("echo")
    assert again.sent("job.submit")[0]["trace_id"] == traces[0], "the seed decides"


@pytest.mark.parametrize("tracestate", [None, "x" * 513, "a\n=1"])
def test_a_tracestate_that_cannot_be_sent_is_left_out(
    runtime: ScriptedRuntime, tracestate: str | None
) -> None:
    runtime.submit(traceparent=TRACEPARENT, tracestate=tracestate)
    assert runtime.sent("job.submit")[0]["extensions"] == {EXTENSION: {"traceparent": TRACEPARENT}}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": float("nan")}, "not finite"),
        ({"input": {1: 2}}, "not a string"),
        ({"input": "\ud800"}, "lone surrogate"),
        ({"input": b"bytes"}, "not a JSON value"),
        ({"input": nested(63)}, "deeper than"),
        ({"agent": "\ud800"}, "lone surrogate"),
        ({"input": "x" * 1024 * 1024}, "a frame holds 1047552"),
        ({"lease_request": {"fs.read": "/a"}}, "list of patterns"),
        ({"lease_request": {"fs.read": 1}}, "list of patterns"),
        ({"lease_request": ["fs.read"]}, "list of patterns"),
        ({"traceparent": "nonsense"}, "traceparent"),
    ],
)
def test_a_submit_that_cannot_be_sent_raises_and_changes_nothing(
    runtime: ScriptedRuntime, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        runtime.client.submit(**{"agent": "echo", "now": runtime.now, **arguments})
    assert not any(runtime.client.take()[:-1])
    runtime.submit()
    assert len(runtime.sent("job.submit")) == 1


def test_an_input_may_nest_as_deep_as_its_envelope_allows(runtime: ScriptedRuntime) -> None:
    runtime.submit(input=nested(62))
    assert len(runtime.sent("job.submit")) == 1


@pytest.mark.parametrize(
    ("framing", "limit"), [(Framing.MESSAGES, 1024 * 1024 - 1024), (Framing.LINES, 60 * 1024)]
)
def test_a_frame_is_never_larger_than_its_limit(framing: Framing, limit: int) -> None:
    runtime = ScriptedRuntime(framing=framing)
    line = json.dumps({"type": "session.welcome", "payload": {**WELCOME, "session_id": "ü" * 256}})
    runtime.say_raw(line + "\n")
    with pytest.raises(LocalProtocolError, match="a frame holds"):
        runtime.submit(input="x" * (limit - 512), traceparent=TRACEPARENT)
    runtime.submit(input="x" * (limit - 1536), traceparent=TRACEPARENT)
    for size in range(limit - 1536, limit, 8):
        try:
            runtime.client.submit("echo", "x" * size, traceparent=TRACEPARENT, now=runtime.now)
        except LocalProtocolError:
            break
        assert max(len(envelope) for _, envelope in runtime.client.take().envelopes()) <= limit
    assert size > limit - 1536


def test_request_ids_do_not_depend_on_the_connection(runtime: ScriptedRuntime) -> None:
    first, second = runtime.submit(), runtime.submit()
    assert (len(first), first[:16], first != second) == (26, second[:16], True)
    [hello] = runtime.sent("session.hello")
    assert first[:16] != hello["id"][:16]
    assert len(set(first[:16])) > 4


def test_a_connection_holds_as_many_bytes_as_may_wait(
    runtime: ScriptedRuntime,
) -> None:
    most = runtime.client.limits.max_control_bytes
    assert connection_state(runtime.connection).has_room(most)
    assert not connection_state(runtime.connection).has_room(most + 1)


def test_a_message_is_limited_to_the_size_of_a_frame() -> None:
    """Derive the largest input from the error, which counts the head of the envelope too."""
    runtime = ScriptedRuntime()
    runtime.welcome()
    size = 1024 * 1024
    with pytest.raises(LocalProtocolError, match="a frame holds") as refused:
        runtime.submit(input="x" * size)
    counted, limit = map(int, re.findall(r"\d+", str(refused.value)))
    fits = size - (counted - limit)
    runtime.submit(input="x" * fits)
    with pytest.raises(LocalProtocolError, match="a frame holds"):
        runtime.submit(input="x" * (fits + 1))


def call_submit(client: Client, now: int) -> object:
    return client.submit("echo", now=now)


def call_cancel(client: Client, now: int) -> object:
    return client.cancel(JOB, now=now)


@pytest.mark.parametrize("call", [call_submit, call_cancel])
def test_requests_without_an_open_session_raise(call: Callable[[Client, int], object]) -> None:
    with pytest.raises(LocalProtocolError, match="no session is open"):
        call(fresh(), SECOND)
    runtime = ScriptedRuntime()
    with pytest.raises(LocalProtocolError, match="no session is open"):
        call(runtime.client, runtime.now)
    runtime.welcome()
    runtime.client.close(now=runtime.now)
    with pytest.raises(LocalProtocolError, match="being closed"):
        call(runtime.client, runtime.now)
    runtime.take()
    runtime.say("session.closed")
    with pytest.raises(LocalProtocolError, match="no session is open"):
        call(runtime.client, runtime.now)


def test_requests_without_an_answer_are_bounded() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_pending_requests=2)))
    runtime.welcome()
    runtime.submit()
    cancel = runtime.cancel()
    with pytest.raises(LocalProtocolError, match="2 requests wait"):
        runtime.submit()
    runtime.say("job.cancelled", {"job_id": JOB, "request_id": cancel}, job_id=JOB, event_seq=1)
    runtime.submit()


def test_unfinished_jobs_are_bounded() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_total_running_jobs=2)))
    runtime.welcome()
    runtime.accept("job_1")
    runtime.accept("job_2")
    with pytest.raises(LocalProtocolError, match="2 jobs are unfinished"):
        runtime.submit()
    runtime.cancel("job_2")
    runtime.say("job.result", {"result": 1}, job_id="job_1", event_seq=1)
    runtime.say("job.result", {"final_status": "cancelled"}, job_id="job_2", event_seq=2)
    runtime.accept("job_3")
    runtime.submit()


def test_bytes_that_wait_for_the_transport_are_bounded(runtime: ScriptedRuntime) -> None:
    client, now = runtime.client, runtime.now
    for _ in range(4):
        client.submit("echo", "x" * 1_000_000, now=now)
    with pytest.raises(LocalProtocolError, match="too large together"):
        client.submit("echo", "x" * 1_000_000, now=now)
    runtime.take()
    client.submit("echo", "x" * 1_000_000, now=now)
    runtime.take()
    assert len(runtime.sent("job.submit")) == 5
    assert runtime.say("session.pong") == []


# Cancelling.


def test_a_cancel_has_its_job_id_twice_and_a_reason(runtime: ScriptedRuntime) -> None:
    request_id = runtime.cancel()
    runtime.cancel("job_2", "x" * 2000)
    first, second = runtime.sent("job.cancel")
    assert (first["id"], first["job_id"], first["payload"]) == (
        request_id,
        JOB,
        {"job_id": JOB, "reason": ""},
    )
    assert first["session_id"] == "sess_1"
    assert second["payload"]["reason"] == "x" * 999 + "…"


def test_a_cancel_that_cannot_be_sent_raises_and_changes_nothing(runtime: ScriptedRuntime) -> None:
    for job_id, reason in (("job_1", "\ud800"), ("\ud800", ""), ("j" * 1024 * 1024, "")):
        with pytest.raises(LocalProtocolError):
            runtime.client.cancel(JobId(job_id), reason, now=runtime.now)
    assert not any(runtime.client.take()[:-1])


# Closing.


def test_a_close_is_answered_by_session_closed(runtime: ScriptedRuntime) -> None:
    runtime.client.close("done", now=runtime.now)
    runtime.client.close("again", now=runtime.now)
    assert runtime.take() == []
    (close,) = runtime.sent("session.close")
    assert (close["session_id"], close["payload"]) == ("sess_1", {"reason": "done"})
    closed, ended = runtime.say("session.closed", {"reason": "done"})
    assert closed == SessionClosed("done")
    assert ended == ConnectionEnded(runtime.connection, "local", "", "session closed")
    assert [closing.code for closing in runtime.closings] == [1000]


def test_a_close_waits_a_second_for_its_answer_and_still_reads(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.client.close(now=runtime.now)
    runtime.take()
    assert runtime.sent("session.close")[0]["payload"] == {"reason": ""}
    assert runtime.advance(0.9) == []
    runtime.only(JobEvent, runtime.say("job.event", log(), job_id=JOB, event_seq=1))
    ended = runtime.only(ConnectionEnded, runtime.advance(0.2))
    assert (ended.who, ended.code, ended.reason) == ("local", "", "the close was not answered")


def test_the_host_sets_how_long_a_close_waits() -> None:
    runtime = ScriptedRuntime(ClientConfig(close_wait_sec=3))
    runtime.welcome()
    runtime.client.close(now=runtime.now)
    runtime.take()
    assert runtime.advance(2.9) == []
    runtime.only(ConnectionEnded, runtime.advance(0.2))


@pytest.mark.parametrize("code", ["INVALID_REQUEST", "UNAUTHENTICATED"])
@pytest.mark.parametrize("named", [False, True])
def test_an_error_in_answer_to_a_close_ends_the_wait(
    runtime: ScriptedRuntime, code: str, named: bool
) -> None:
    submit = runtime.submit()
    runtime.client.close(now=runtime.now)
    runtime.take()
    refused = runtime.say("session.error", {"code": "INTERNAL_ERROR", "request_id": submit})
    assert len(refused) == 1
    close_id = runtime.sent("session.close")[0]["id"] if named else None
    payload = {"code": code, "request_id": close_id}
    ended = runtime.only(ConnectionEnded, runtime.say("session.error", payload))
    assert (ended.who, ended.code) == ("local", "")


def test_the_end_of_the_transport_ends_a_close(runtime: ScriptedRuntime) -> None:
    runtime.client.close(now=runtime.now)
    runtime.take()
    ended = runtime.only(ConnectionEnded, runtime.carry_out(runtime.connection.lost(now=runtime.now)))
    assert ended.who == "transport"
    assert runtime.advance(5) == []


def test_a_close_before_the_welcome_ends_at_once() -> None:
    runtime = ScriptedRuntime()
    runtime.client.close(now=runtime.now)
    ended = runtime.only(ConnectionEnded, runtime.take())
    assert (ended.who, ended.code) == ("local", "")
    assert runtime.sent("session.close") == []
    assert runtime.say_raw(json.dumps({"type": "session.welcome", "payload": WELCOME})) == []


def test_a_close_without_a_connection_or_with_no_text_raises(runtime: ScriptedRuntime) -> None:
    with pytest.raises(LocalProtocolError, match="no connection"):
        fresh().close(now=SECOND)
    with pytest.raises(LocalProtocolError, match="lone surrogate"):
        runtime.client.close("\ud800", now=runtime.now)
    runtime.submit()


def test_a_transport_that_does_not_take_the_end_is_aborted(runtime: ScriptedRuntime) -> None:
    runtime.say("session.bye")
    runtime.advance(5.1)
    assert [closing.abort for closing in runtime.closings] == [False, True]


# Liveness.


def test_heartbeats_only_when_both_sides_want_them() -> None:
    for features, interval in ((["ack"], 30), (["heartbeat"], None)):
        runtime = ScriptedRuntime()
        runtime.welcome(*features, heartbeat_interval_sec=interval)
        assert runtime.advance(1000) == []
        assert runtime.sent("session.ping") == []


def test_a_silent_runtime_is_pinged_and_then_disconnected() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome(heartbeat_interval_sec=10)
    assert runtime.advance(10) == []
    (ping,) = runtime.sent("session.ping")
    assert ping["session_id"] == "sess_1"
    assert runtime.advance(10.9) == []
    sent = len(runtime.received)
    ended = runtime.only(ConnectionEnded, runtime.advance(0.2))
    assert (ended.who, ended.code) == ("local", "HEARTBEAT_LOST")
    assert [closing.code for closing in runtime.closings] == [1001]
    assert len(runtime.received) == sent


def test_the_times_that_a_client_writes_follow_the_wall_clock() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome(heartbeat_interval_sec=10)
    runtime.client.wall_clock_set(UNIX + 3_600 * SECOND, now=runtime.now)
    runtime.advance(10)
    (ping,) = runtime.sent("session.ping")
    assert ping["payload"]["sent_at"] == format_time(UnixTime(UNIX + 3_610 * SECOND))


def test_every_received_byte_counts_as_life() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome(heartbeat_interval_sec=10)
    for _ in range(10):
        assert runtime.advance(20) == []
        runtime.say("session.pong", {"ping_nonce": "?"})
    assert len(runtime.sent("session.ping")) >= 10


# Acks.


def emit(runtime: ScriptedRuntime, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        runtime.say("job.event", log(), job_id=JOB, event_seq=seq)


def process(runtime: ScriptedRuntime, first: int, last: int, job_id: JobId = JOB) -> None:
    for seq in range(first, last + 1):
        runtime.client.mark_processed(job_id, seq, now=runtime.now)
    runtime.take()


def acked(runtime: ScriptedRuntime) -> list[int]:
    return [ack["payload"]["last_processed_seq"] for ack in runtime.sent("session.ack")]


def test_processed_events_are_acked_after_a_quarter_of_a_second(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 3)
    assert runtime.client.deadline() is None
    process(runtime, 1, 2)
    runtime.advance(0.24)
    assert acked(runtime) == []
    runtime.advance(0.02)
    assert acked(runtime) == [2]
    process(runtime, 3, 3)
    runtime.advance(1)
    assert acked(runtime) == [2, 3]
    assert runtime.client.deadline() is None


def test_further_processed_events_do_not_delay_an_ack(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 3)
    process(runtime, 1, 1)
    runtime.advance(0.2)
    process(runtime, 2, 2)
    runtime.advance(0.06)
    assert acked(runtime) == [2]


def test_32_processed_events_are_acked_at_once_but_not_twice_in_an_interval(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 100)
    process(runtime, 1, 31)
    assert acked(runtime) == []
    process(runtime, 32, 32)
    assert acked(runtime) == [32]
    process(runtime, 33, 99)
    assert acked(runtime) == [32]
    runtime.advance(0.25)
    assert acked(runtime) == [32, 99]


def test_an_ack_never_passes_an_unprocessed_event(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.say("job.event", log(), job_id="job_2", event_seq=1)
    emit(runtime, 2, 40)
    process(runtime, 2, 40)
    runtime.advance(1)
    assert acked(runtime) == []
    process(runtime, 1, 1, JobId("job_2"))
    assert acked(runtime) == [40]


def test_numbers_without_an_event_are_acked_without_processing(runtime: ScriptedRuntime) -> None:
    cancel = runtime.cancel()
    runtime.say("job.cancelled", {"job_id": JOB, "request_id": cancel}, job_id=JOB, event_seq=1)
    runtime.say("job.cancelled", {"job_id": JOB, "request_id": "unknown"}, job_id=JOB, event_seq=2)
    runtime.say("job.event", "no object", job_id=JOB, event_seq=3)
    runtime.advance(0.3)
    assert acked(runtime) == [3]


def test_the_end_of_a_job_is_acked_once_it_is_processed(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    runtime.only(JobEnded, runtime.say("job.result", {"result": 1}, job_id=JOB, event_seq=1))
    runtime.advance(1)
    assert acked(runtime) == []
    process(runtime, 1, 1)
    runtime.advance(1)
    assert acked(runtime) == [1]


def test_no_acks_unless_they_were_negotiated() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome("result_chunk")
    runtime.accept()
    emit(runtime, 1, 40)
    process(runtime, 1, 40)
    runtime.advance(1)
    assert acked(runtime) == []


def test_processing_an_event_of_an_earlier_session_changes_nothing(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 1)
    runtime.carry_out(runtime.connection.lost(now=runtime.now))
    process(runtime, 1, 1)
    runtime.connection = runtime.client.connect(None, now=runtime.now)
    runtime.take()
    process(runtime, 1, 1)
    runtime.welcome()
    runtime.accept("job_9")
    runtime.say("job.event", log(), job_id="job_9", event_seq=1)
    process(runtime, 1, 1)
    runtime.advance(1)
    assert acked(runtime) == []
    process(runtime, 1, 1, JobId("job_9"))
    runtime.advance(1)
    assert acked(runtime) == [1]


def test_acks_wait_for_a_blocked_transport(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 1)
    runtime.carry_out(runtime.connection.blocked(now=runtime.now))
    process(runtime, 1, 1)
    runtime.advance(2)
    assert acked(runtime) == []
    runtime.carry_out(runtime.connection.drained(now=runtime.now))
    runtime.advance(0.3)
    assert acked(runtime) == [1]


def test_no_acks_after_the_close(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 2)
    process(runtime, 1, 1)
    runtime.client.close(now=runtime.now)
    process(runtime, 2, 2)
    runtime.advance(0.5)
    assert acked(runtime) == []


# Gaps.


def test_a_gap_in_numbers_has_a_second_to_fill(runtime: ScriptedRuntime) -> None:
    assert runtime.say("job.event", log("3"), job_id=JOB, event_seq=3) == []
    assert runtime.say("job.event", log("2"), job_id=JOB, event_seq=2) == []
    assert runtime.advance(0.9) == []
    assert numbers(runtime.say("job.event", log("1"), job_id=JOB, event_seq=1)) == [1, 2, 3]
    assert runtime.advance(5) == []


def test_a_gap_that_does_not_fill_breaks_the_session(runtime: ScriptedRuntime) -> None:
    runtime.say("job.event", log(), job_id=JOB, event_seq=4)
    failed, ended = runtime.advance(1.1)
    assert failed == SessionFailed("INTERNAL_ERROR", "events 1..3 are missing", True, {})
    assert ended == ConnectionEnded(runtime.connection, "local", "INTERNAL_ERROR", "events 1..3 are missing")
    assert runtime.client.session_id is None


def test_each_gap_has_its_own_second(runtime: ScriptedRuntime) -> None:
    runtime.say("job.event", log(), job_id=JOB, event_seq=2)
    runtime.say("job.event", log(), job_id=JOB, event_seq=4)
    runtime.advance(0.9)
    runtime.say("job.event", log(), job_id=JOB, event_seq=1)
    assert runtime.advance(0.9) == []
    runtime.say("job.event", log(), job_id=JOB, event_seq=1, id="again")
    failed, _ = runtime.advance(0.2)
    assert failed == SessionFailed("INTERNAL_ERROR", "events 3..3 are missing", True, {})


def test_no_more_than_256_events_are_held_back(runtime: ScriptedRuntime) -> None:
    for seq in range(2, 258):
        assert runtime.say("job.event", log(), job_id=JOB, event_seq=seq) == []
    failed, ended = runtime.say("job.event", log(), job_id=JOB, event_seq=258)
    assert isinstance(failed, SessionFailed)
    assert isinstance(ended, ConnectionEnded)


def test_no_more_bytes_than_the_limit_are_held_back() -> None:
    runtime = ScriptedRuntime(ClientConfig(limits=Limits(max_gap_bytes=1000)))
    runtime.welcome()
    assert runtime.say("job.event", log("x" * 500), job_id=JOB, event_seq=3) == []
    assert len(runtime.say("job.event", log("x" * 500), job_id=JOB, event_seq=2)) == 2


def test_a_gap_and_a_close_due_together_end_the_connection_once(runtime: ScriptedRuntime) -> None:
    runtime.client.close(now=runtime.now)
    runtime.take()
    runtime.say("job.event", log(), job_id=JOB, event_seq=2)
    assert runtime.only(ConnectionEnded, runtime.advance(1.1)).reason == "the close was not answered"


# The machine.


def test_a_timer_of_a_runtime_raises_invariant_violated() -> None:
    runtime = ScriptedRuntime()
    runtime.state.timers.arm(TimerKind.GRACE, connection_state(runtime.connection).number, runtime.state.now)
    with pytest.raises(InvariantViolated, match="no timer grace"):
        runtime.advance(1)


def test_an_ack_timer_without_the_feature_ack_raises_invariant_violated() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome("heartbeat")
    runtime.state.timers.arm(TimerKind.ACK, connection_state(runtime.connection).number, runtime.state.now)
    with pytest.raises(InvariantViolated, match="not negotiated"):
        runtime.advance(1)


def test_a_replay_repeats_the_calls_of_the_user() -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = []
    client = fresh()
    state_of(client).recorder = lambda name, arguments, now: calls.append((name, tuple(arguments)))
    token = Secret("secret")
    connection = client.connect(token, Framing.MESSAGES, secure=True, peer="p", now=SECOND)
    connection.receive(json.dumps({"type": "session.welcome", "payload": WELCOME}).encode(), now=SECOND)
    client.submit("echo", 1, {"fs.read": []}, "2027-01-01T00:00:00Z", "k", 5, TRACEPARENT, "a=1", now=SECOND)
    client.cancel(JOB, "why", now=SECOND)
    client.mark_processed(JOB, 1, now=SECOND)
    client.close("bye", now=SECOND)
    assert calls[0] == ("connect", (token, "messages", True, "p"))
    assert calls[2:] == [
        ("submit", ("echo", 1, {"fs.read": []}, "2027-01-01T00:00:00Z", "k", 5, TRACEPARENT, "a=1")),
        ("cancel", (JOB, "why")),
        ("mark_processed", (JOB, 1)),
        ("close", ("bye",)),
    ]
    sent = [envelope for _, envelope in client.take().envelopes()]
    again = fresh()
    connection = again.connect(token, Framing.MESSAGES, secure=True, peer="p", now=SECOND)
    connection.receive(calls[1][1][1], now=SECOND)
    for name, arguments in calls[2:]:
        getattr(again, name)(*arguments, now=SECOND)
    assert [envelope for _, envelope in again.take().envelopes()] == sent


def test_no_repr_of_a_client_shows_a_secret() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome(resume_token="rt_very_secret")
    for thing in (runtime.client, runtime.connection, runtime.state.session, runtime.events):
        assert "very_secret" not in repr(thing)
    runtime.carry_out(runtime.connection.lost(now=runtime.now))
    output = runtime.client.take()
    connection = runtime.client.connect(Secret("hunter2"), now=runtime.now)
    for secretive in (output, connection, runtime.client):
        assert "hunter2" not in repr(secretive)


def test_the_configuration_survives_json() -> None:
    config = ClientConfig(name="x", features=("ack",), limits=Limits(max_pending_requests=3))
    assert msgspec.convert(msgspec.to_builtins(config), ClientConfig) == config


def test_an_ended_session_leaves_no_timers(runtime: ScriptedRuntime) -> None:
    runtime.accept()
    emit(runtime, 1, 2)
    emit(runtime, 4, 4)
    process(runtime, 1, 1)
    armed = runtime.state.timers.keys()
    assert TimerKey(TimerKind.GAP, connection_state(runtime.connection).number) in armed
    assert TimerKey(TimerKind.ACK, connection_state(runtime.connection).number) in armed
    runtime.carry_out(runtime.connection.lost(now=runtime.now))
    assert runtime.state.timers.keys() == []


def test_the_client_features_are_those_of_the_scripted_runtime() -> None:
    assert list(CLIENT_FEATURES) == FEATURES
