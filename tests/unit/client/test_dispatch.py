"""The client: the messages of a runtime about the session, in every accepted form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcp_proto import Framing, Phase
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.dispatch import HANDLERS
from arcp_proto.engine.output import ConnectionEnded, SessionClosed, SessionFailed, SessionLost, Welcomed
from arcp_proto.errors import RETRYABLE
from arcp_proto.wire.messages import TO_CLIENT
from tests.unit.scripted_runtime import JOB, WELCOME, ScriptedRuntime, log


@pytest.fixture
def runtime() -> ScriptedRuntime:
    runtime = ScriptedRuntime()
    runtime.welcome()
    return runtime


# Before the welcome.


@pytest.mark.parametrize(
    "message_type", sorted(set(TO_CLIENT) - {"session.welcome", "session.error", "session.ping"})
)
def test_messages_before_the_welcome_are_ignored(message_type: str) -> None:
    runtime = ScriptedRuntime()
    assert runtime.say_raw(json.dumps({"type": message_type, "job_id": JOB, "event_seq": 1})) == []
    runtime.only(Welcomed, runtime.welcome())


def test_a_ping_before_the_welcome_is_answered() -> None:
    runtime = ScriptedRuntime()
    assert runtime.say("session.ping", {"nonce": "n", "sent_at": "t"}) == []
    (pong,) = runtime.sent("session.pong")
    assert pong["payload"]["ping_nonce"] == "n"
    assert "session_id" not in pong


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "INTERNAL_ERROR", "SOMETHING_NEW"])
def test_an_error_before_the_welcome_ends_the_connection(code: str) -> None:
    runtime = ScriptedRuntime()
    failed, ended = runtime.say("session.error", {"code": code, "message": "no", "details": {"a": 1}})
    assert failed == SessionFailed(code, "no", RETRYABLE.get(code, False), {"a": 1})
    assert ended == ConnectionEnded(runtime.connection, "peer", code, "the hello was refused")
    assert [closing.connection for closing in runtime.closings] == [runtime.connection]
    assert runtime.advance(3) == []


@pytest.mark.parametrize(
    "payload", [{}, {"session_id": 5}, {"session_id": "s" * 300}, {**WELCOME, "runtime": 5}]
)
def test_an_unreadable_welcome_ends_the_connection(payload: dict[str, Any]) -> None:
    runtime = ScriptedRuntime()
    ended = runtime.only(ConnectionEnded, runtime.say("session.welcome", payload))
    assert (ended.who, ended.code) == ("local", "INVALID_REQUEST")
    assert len(runtime.closings[0].reason.encode()) <= 123


def test_a_welcome_of_another_version_ends_the_connection() -> None:
    runtime = ScriptedRuntime()
    ended = runtime.only(ConnectionEnded, runtime.say("session.welcome", WELCOME, arcp="2.0"))
    assert (ended.code, ended.reason) == (
        "INVALID_REQUEST",
        "ARCP 2.0 is not supported; this client speaks 1.1",
    )


def test_a_welcome_with_missing_fields_gets_defaults() -> None:
    runtime = ScriptedRuntime()
    welcomed = runtime.only(Welcomed, runtime.say("session.welcome", {}, session_id="sess_9"))
    assert (welcomed.session_id, welcomed.features, welcomed.agents) == ("sess_9", frozenset(), [])
    assert runtime.advance(1000) == []


def test_a_welcome_may_have_agent_names_and_a_fractional_interval() -> None:
    runtime = ScriptedRuntime()
    capabilities = {"features": ["heartbeat"], "agents": ["a", {"name": "b"}, 5]}
    runtime.say("session.welcome", {**WELCOME, "capabilities": capabilities, "heartbeat_interval_sec": 9.5})
    assert [agent.name for agent in runtime.client.agents] == ["a", "b"]
    runtime.advance(10)
    assert len(runtime.sent("session.ping")) == 1


def test_a_welcome_that_is_too_large_is_refused_by_its_header() -> None:
    runtime = ScriptedRuntime()
    ended = runtime.only(ConnectionEnded, runtime.carry_out(runtime.connection.too_large(now=runtime.now)))
    assert (ended.code, runtime.closings[0].code) == ("INVALID_REQUEST", 1009)


# Ignored messages.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"type":5}',
        '{"type":"job.zork"}',
        '{"type":"session.welcome"}',
        '{"type":"session.jobs"}',
        '{"type":"job.subscribed","payload":{}}',
        '{"type":"job.submit"}',
        '{"arcp":"2.0","type":"session.bye"}',
        '{"type":"job.event","payload":[]}',
        '{"type":"job.event","payload":{"kind":"log"}}',
        '{"type":"job.event","job_id":"j","payload":{}}',
        '{"type":"job.result","payload":{"result":1}}',
        '{"type":"job.accepted","payload":{}}',
        '{"type":"job.cancelled"}',
        '{"type":"session.error","payload":5}',
    ],
)
def test_unreadable_and_unknown_messages_are_ignored(runtime: ScriptedRuntime, text: str) -> None:
    assert runtime.say_raw(text) == []
    assert runtime.client.take().writable == ()
    runtime.accept()


def test_bytes_that_are_not_utf8_are_ignored(runtime: ScriptedRuntime) -> None:
    assert runtime.say_raw(b'{"type":"\xff"}') == []


@pytest.mark.parametrize("text", ["nonsense", '{"type":"job.zork"}', '{"type":"job.event","payload":{}}'])
def test_more_than_ten_bad_messages_a_second_end_the_connection(runtime: ScriptedRuntime, text: str) -> None:
    for _ in range(10):
        assert runtime.say_raw(text) == []
    runtime.advance(1)
    for _ in range(10):
        assert runtime.say_raw(text) == []
    ended = runtime.only(ConnectionEnded, runtime.say_raw(text))
    assert (ended.who, ended.code) == ("local", "INVALID_REQUEST")


def test_an_overlong_line_is_ignored() -> None:
    runtime = ScriptedRuntime(framing=Framing.LINES)
    runtime.say_raw("x" * 70_000 + "\n")
    welcome = json.dumps({"type": "session.welcome", "payload": WELCOME})
    runtime.only(Welcomed, runtime.say_raw(welcome + "\r\n"))


@pytest.mark.parametrize("welcomed", [False, True])
def test_unsent_answers_to_pings_end_the_connection(welcomed: bool) -> None:
    runtime = ScriptedRuntime()
    if welcomed:
        runtime.welcome()
    ping = b'{"type":"session.ping","payload":{"nonce":"n"}}'
    outputs = [runtime.connection.receive(ping, now=runtime.now) for _ in range(1001)]
    (ended,) = [event for output in outputs for event in output.events]
    assert isinstance(ended, ConnectionEnded)
    assert ended.code == "INTERNAL_ERROR"


# The session.


def test_a_ping_is_answered_at_once(runtime: ScriptedRuntime) -> None:
    runtime.client.submit("echo", now=runtime.now)
    runtime.say("session.ping", {"nonce": "n"})
    first, second = runtime.received[-2:]
    assert (first["type"], first["session_id"], second["type"]) == ("session.pong", "sess_1", "job.submit")


@pytest.mark.parametrize("message_type", ["session.bye", "session.closed"])
def test_session_bye_of_the_runtime_ends_the_connection(runtime: ScriptedRuntime, message_type: str) -> None:
    closed, ended = runtime.say(message_type, {"reason": "maintenance"})
    assert closed == SessionClosed("maintenance")
    assert ended == ConnectionEnded(runtime.connection, "peer", "", "session closed")
    assert runtime.say("job.event", log(), job_id=JOB) == []


# The table of messages.


def test_the_table_names_every_message_of_a_runtime() -> None:
    assert set(HANDLERS[Phase.OPEN]) == set(TO_CLIENT) - {"session.welcome"}
    early = {"job.cancelled", "job.event", "job.result", "job.error"}
    assert set(HANDLERS[Phase.AWAITING_WELCOME]) == {
        "session.welcome",
        "session.error",
        "session.ping",
        *early,
    }
    assert not HANDLERS[Phase.CLOSING]
    assert not HANDLERS[Phase.CLOSED]


# A resume before its answer.


def resuming() -> ScriptedRuntime:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    runtime.drop()
    runtime.connect()
    return runtime


def test_events_before_the_welcome_of_a_resume_come_again_behind_it() -> None:
    runtime = resuming()
    for seq in range(1, 100):
        assert runtime.say("job.event", log(), job_id=JOB, event_seq=seq) == []
    assert runtime.say("job.error", {"code": "CANCELLED"}, job_id=JOB, event_seq=100) == []
    welcomed = runtime.only(Welcomed, runtime.welcome())
    assert welcomed.resumed


def test_events_before_the_first_welcome_are_bad_messages() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    for seq in range(1, 11):
        assert runtime.say("job.event", log(), job_id=JOB, event_seq=seq) == []
    runtime.only(ConnectionEnded, runtime.say("job.event", log(), job_id=JOB, event_seq=11))


def test_a_job_error_can_refuse_a_hello() -> None:
    payload = {"code": "RESUME_WINDOW_EXPIRED", "message": "gone", "details": {"final": True}}
    failed, ended, lost = resuming().say("job.error", payload)
    assert isinstance(failed, SessionFailed)
    assert isinstance(ended, ConnectionEnded)
    assert isinstance(lost, SessionLost)
    assert (ended.who, lost.final) == ("peer", False)
    failed, ended = ScriptedRuntime().say("job.error", {"code": "UNAUTHENTICATED"})
    assert isinstance(ended, ConnectionEnded)
