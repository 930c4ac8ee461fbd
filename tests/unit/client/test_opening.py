"""The attempts of a client to open its first session."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import ConnectionEnded, Dial, Output, SessionFailed, SessionLost
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import LocalProtocolError, require
from arcp_proto.ids import SECOND, SessionId
from arcp_proto.recording import record, replay
from arcp_proto.secret import Secret
from tests.unit.scripted_runtime import UNIX, WELCOME

NOW = 1_000 * SECOND


def opening(**config: Any) -> tuple[Client, list[Dial]]:
    """Return a client that has asked for its first transport, and its requests."""
    client = Client(ClientConfig(**config), seed=bytes(32), now=NOW, unix=UNIX)
    client.dial(now=NOW)
    return client, dials_of(client.take())


def dials_of(output: Output) -> list[Dial]:
    return [request for request in output.requests if isinstance(request, Dial)]


def test_the_first_attempt_is_at_once_and_each_later_one_within_twice_the_time_of_the_last() -> None:
    client, dials = opening(reconnect_first_ms=100, reconnect_most_sec=30)
    for _ in range(12):
        client.dial_failed(now=NOW)
        dials += dials_of(client.take())
    waits = [dial.at - NOW for dial in dials]
    most = [0, *(min(0.1 * 2**failures, 30) * SECOND for failures in range(12))]
    assert all(0 <= wait <= longest for wait, longest in zip(waits, most, strict=True))
    assert [dial.attempt for dial in dials] == [*range(1, 14)]
    assert len({*waits}) > 8


def test_a_recording_tells_when_first_attempts_were_made() -> None:
    client = Client(ClientConfig(), seed=bytes(range(32)), now=NOW, unix=UNIX)
    lines: list[str] = []
    record(client, lines.append, keep_secrets=True)
    client.dial(now=NOW)
    dials = dials_of(client.take())
    for _ in range(3):
        client.dial_failed(now=NOW)
        dials += dials_of(client.take())
    assert [dial for output in replay(lines).outputs for dial in dials_of(output)] == dials


def test_a_transport_that_ends_before_the_welcome_is_another_attempt() -> None:
    client, _ = opening(resume=False)
    for attempt in (2, 3):
        connection = client.connect(None, now=NOW)
        client.take()
        (dial,) = dials_of(connection.lost(now=NOW))
        assert dial.attempt == attempt
    connection = client.connect(None, now=NOW)
    client.take()
    while not dials_of(output := client.handle_timer(now=require(client.deadline(), "a timer is armed").at)):
        pass
    assert [type(event) for event in output.events] == [ConnectionEnded]


def test_a_refused_first_session_is_not_tried_again() -> None:
    client, _ = opening()
    connection = client.connect(None, now=NOW)
    client.take()
    error = {"type": "session.error", "payload": {"code": "UNAUTHENTICATED", "message": "no"}}
    output = connection.receive(json.dumps(error).encode(), now=NOW)
    assert [type(event) for event in output.events] == [SessionFailed, ConnectionEnded]
    assert dials_of(output) == []
    client.dial_failed(now=NOW)
    assert dials_of(client.take()) == []
    assert state_of(client).timers.armed(TimerKind.GIVE_UP, 0) is None


@pytest.mark.parametrize("stored", [False, True], ids=["a first session", "a stored session"])
def test_a_retryable_refusal_is_tried_again_after_the_time_that_it_names(stored: bool) -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 0) if stored else None
    client = Client(ClientConfig(resume=False), seed=bytes(32), now=NOW, unix=UNIX, resumption=resumption)
    client.dial(now=NOW)
    client.take()
    error = {"code": "BUSY", "message": "full", "retryable": True, "details": {"retry_after_ms": 7000}}
    for attempt in (2, 3):
        output = refused_by(client, error)
        (dial,) = dials_of(output)
        assert (dial.attempt, dial.at) == (attempt, NOW + 7 * SECOND)
        (failed,) = (event for event in output.events if isinstance(event, SessionFailed))
        assert failed.code == "BUSY"
    client.dial_failed(now=NOW)
    assert [dial.attempt for dial in dials_of(client.take())] == [4]
    assert dials_of(refused_by(client, {"code": "UNAUTHENTICATED", "message": "no"})) == []


def test_a_runtime_that_refuses_for_the_whole_time_is_given_up() -> None:
    client, _ = opening(give_up_sec=60)
    assert len(dials_of(refused_by(client, {"code": "INTERNAL_ERROR", "retryable": True}))) == 1
    client.handle_timer(now=NOW + 60 * SECOND)
    client.dial_failed(now=NOW + 60 * SECOND)
    assert dials_of(client.take()) == []


def refused_by(client: Client, error: dict[str, Any]) -> Output:
    """Connect the client, and let the runtime refuse its hello."""
    connection = client.connect(None, now=NOW)
    client.take()
    message = json.dumps({"type": "session.error", "payload": error})
    return connection.receive(message.encode(), now=NOW)


def test_a_first_session_is_given_up_after_its_time() -> None:
    client, _ = opening(give_up_sec=60)
    client.dial_failed(now=NOW + 59 * SECOND)
    assert len(dials_of(client.take())) == 1
    assert client.handle_timer(now=NOW + 60 * SECOND).events == ()
    client.dial_failed(now=NOW + 61 * SECOND)
    assert dials_of(client.take()) == []


def test_a_first_connection_without_a_welcome_is_given_up() -> None:
    client, _ = opening(give_up_sec=5)
    client.connect(None, now=NOW)
    client.take()
    output = client.handle_timer(now=NOW + 5 * SECOND)
    (ended,) = output.events
    assert isinstance(ended, ConnectionEnded)
    assert ended.reason == "the runtime was not reached for 5 s"
    assert dials_of(output) == []


@pytest.mark.parametrize("leave", [Client.detach, Client.close])
def test_a_user_that_leaves_before_the_welcome_gets_no_dial(leave: Callable[..., None]) -> None:
    client, _ = opening()
    connection = client.connect(None, now=NOW)
    client.take()
    leave(client, now=NOW)
    output = client.take()
    connection.lost(now=NOW)
    client.dial_failed(now=NOW)
    assert dials_of(output) + dials_of(client.take()) == []


def test_a_welcome_ends_the_first_attempts() -> None:
    client, _ = opening(resume=False)
    connection = client.connect(None, now=NOW)
    with pytest.raises(LocalProtocolError, match="in use"):
        client.dial(now=NOW)
    connection.receive(json.dumps({"type": "session.welcome", "payload": WELCOME}).encode(), now=NOW)
    assert dials_of(connection.lost(now=NOW)) == []
    client.dial_failed(now=NOW)
    assert dials_of(client.take()) == []


def test_a_stored_session_is_dialled_like_a_first_one() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 0)
    client = Client(ClientConfig(), seed=bytes(32), now=NOW, unix=UNIX, resumption=resumption)
    client.dial(now=NOW)
    client.dial_failed(now=NOW)
    assert [dial.attempt for dial in dials_of(client.take())] == [1, 2]
    events = [event for _ in range(3) for event in client.handle_timer(now=NOW + 600 * SECOND).events]
    assert [type(event) for event in events] == [SessionLost]


@pytest.mark.parametrize("fails", ["before the connection", "before the welcome"])
def test_a_stored_session_is_dialled_until_it_is_open_also_without_resume(fails: str) -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 0)
    client = Client(ClientConfig(resume=False), seed=bytes(32), now=NOW, unix=UNIX, resumption=resumption)
    client.dial(now=NOW)
    dials = dials_of(client.take())
    for _ in range(3):
        if fails == "before the connection":
            client.dial_failed(now=NOW)
            dials += dials_of(client.take())
        else:
            connection = client.connect(None, now=NOW)
            client.take()
            dials += dials_of(connection.lost(now=NOW))
    assert [dial.attempt for dial in dials] == [1, 2, 3, 4]


def test_a_refused_stored_session_is_not_dialled_again_without_resume() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 0)
    client = Client(ClientConfig(resume=False), seed=bytes(32), now=NOW, unix=UNIX, resumption=resumption)
    client.dial(now=NOW)
    client.take()
    connection = client.connect(None, now=NOW)
    client.take()
    error = {"type": "session.error", "payload": {"code": "UNAUTHENTICATED", "message": "no"}}
    assert dials_of(connection.receive(json.dumps(error).encode(), now=NOW)) == []
    client.dial_failed(now=NOW)
    assert dials_of(client.take()) == []
