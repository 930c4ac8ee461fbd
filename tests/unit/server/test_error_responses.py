"""Answers to refused requests, in the form that each peer can read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcp_proto import Phase
from arcp_proto.ids import JobId
from arcp_proto.wire import codec
from tests.unit.wire.test_peer_quirks import HELLOS, peer_of
from tests.unit.world import Peer, World

TRACE = "0af7651916cd43dd8448eb211c80319c"


def refused_submit(peer: Peer) -> list[dict[str, Any]]:
    return peer.send("job.submit", {"agent": "zork@1"}, id="s1", trace_id=TRACE)


def test_a_refusal_is_a_session_error() -> None:
    for name in ("", "go"):
        [error] = refused_submit(peer_of(name))
        assert error["type"] == "session.error"
        assert error["payload"] == {
            "code": "AGENT_NOT_AVAILABLE",
            "message": "zork is not registered",
            "retryable": False,
            "request_id": "s1",
            "details": {"request_id": "s1"},
        }
        assert "job_id" not in error and "event_seq" not in error


def test_java_gets_a_job_error_with_the_id_of_its_request() -> None:
    peer = peer_of("java")
    for frames in (
        refused_submit(peer),
        peer.send("job.cancel", {"job_id": "job_x"}, id="s1"),
        peer.send("session.list_jobs", {"cursor": "x"}, id="s1"),
        peer.send("zork", {}, id="s1"),
    ):
        [error] = frames
        assert (error["type"], error["id"]) == ("job.error", "s1")
        assert "job_id" not in error and "event_seq" not in error and "job_id" not in error["payload"]
        assert error["payload"]["final_status"] == "error"
        assert error["payload"]["details"] == {"request_id": "s1"}
    [error] = peer.send("zork", id="")
    assert len(error["id"]) == 26 and "details" not in error["payload"]
    [error] = peer.feed(b"garbage")
    assert error["type"] == "session.error"


def test_typescript_gets_a_job_error_with_the_trace_of_its_submit() -> None:
    peer = peer_of("typescript")
    [error] = refused_submit(peer)
    assert error["type"] == "job.error"
    assert error["job_id"].startswith("job_")
    assert error["trace_id"] == TRACE
    assert "event_seq" not in error
    assert error["payload"]["code"] == "AGENT_NOT_AVAILABLE"
    [again] = peer.send("job.submit", {"agent": "zork"})
    assert again["job_id"] != error["job_id"]
    assert "trace_id" not in again
    assert peer.send("job.cancel", {"job_id": "job_x"}) == []
    assert peer.send("session.list_jobs", {"cursor": "x"})[0]["type"] == "session.error"


def test_pypi_is_accepted_and_at_once_refused() -> None:
    peer = peer_of("pypi")
    accepted, error = refused_submit(peer)
    assert (accepted["type"], error["type"]) == ("job.accepted", "job.error")
    assert accepted["job_id"] == accepted["payload"]["job_id"] == error["job_id"]
    assert accepted["payload"]["request_id"] == "s1"
    assert accepted["payload"]["agent"] == "zork@1"
    assert (error["payload"]["final_status"], error["payload"]["code"]) == ("error", "AGENT_NOT_AVAILABLE")
    assert accepted["trace_id"] == error["trace_id"] == TRACE
    assert "event_seq" not in error
    assert JobId(error["job_id"]) not in peer.world.state.jobs
    assert peer.send("job.cancel", {"job_id": error["job_id"]}) == []
    assert peer.send("session.list_jobs", {"cursor": "x"})[0]["type"] == "session.error"


@pytest.mark.parametrize(
    ("payload", "agent"),
    [
        ("{}", "unknown"),
        ('{"agent":5}', "unknown"),
        ('{"agent":""}', "unknown"),
        ('"text"', "unknown"),
        ('{"agent":"' + "x" * 300 + '"}', "x" * 256),
        ('{"agent":"' + "x" * 1_536 + '"}', "x" * 256),
        ('{"agent":"' + "x" * 1_537 + '"}', "unknown"),  # This is longer than any id is as JSON.
        ('{"agent":"a","input":1e999}', "a"),
    ],
)
def test_pypi_gets_the_agent_of_its_refused_submit(payload: str, agent: str) -> None:
    peer = peer_of("pypi")
    frames = peer.feed(b'{"type":"job.submit","id":"s","payload":%b}' % payload.encode())
    if len(frames) == 1:  # The envelope itself could not be read.
        assert frames[0]["type"] == "session.error"
    else:
        assert frames[0]["payload"]["agent"] == agent


@pytest.mark.parametrize("name", HELLOS)
def test_a_fatal_error_has_one_form(name: str) -> None:
    peer = peer_of(name)
    for _ in range(11):
        peer.send("zork", id="z")
    error = peer.frames[-1]
    assert error["type"] == "session.error"
    assert error["payload"]["request_id"] == "z"
    assert peer.closing is not None


@pytest.mark.parametrize("name", HELLOS)
def test_no_error_answers_an_error(name: str) -> None:
    peer = peer_of(name)
    assert peer.send("session.error", {"code": "X"}) == []
    assert peer.send("session.error", {"code": "X"}, arcp="2.0") == []
    assert peer.connection.phase is Phase.OPEN


def test_no_error_answers_an_error_before_the_welcome() -> None:
    peer = World().connect()
    assert peer.send("session.error", {"code": "X"}) == []
    assert peer.closing is not None and peer.closing.code == 1008


def test_a_refusal_names_the_job_of_its_request() -> None:
    peer = peer_of("")
    assert peer.send("job.cancel", {"job_id": "job_x"})[0]["payload"]["job_id"] == "job_x"
    assert peer.send("job.subscribe", job_id="job_y")[0]["payload"]["job_id"] == "job_y"
    assert "job_id" not in peer.send("job.cancel", {"job_id": 5})[0]["payload"]
    assert "job_id" not in peer.send("session.list_jobs", job_id="job_z")[0]["payload"]


@pytest.mark.parametrize(
    ("message_type", "payload", "fields", "named"),
    [
        ("session.resume", {"resume_token": "x", "session_id": "sess_asked"}, {}, True),
        ("session.resume", {"resume_token": "x"}, {"session_id": "sess_asked"}, True),
        ("session.resume", {"session_id": "sess_asked"}, {}, False),
        (
            "session.hello",
            {"auth": {}, "resume": {"resume_token": "x", "session_id": "sess_asked"}},
            {},
            True,
        ),
        ("session.hello", {"auth": {}, "resume": {"resume_token": "x"}}, {}, False),
        ("session.hello", {"auth": {}}, {"session_id": "sess_asked"}, False),
        ("job.submit", {}, {"session_id": "sess_asked"}, False),
    ],
)
def test_an_error_before_the_welcome_names_the_requested_session(
    message_type: str, payload: dict[str, Any], fields: dict[str, Any], named: bool
) -> None:
    peer = World().connect()
    [error] = peer.send(message_type, payload, **fields)
    assert (error["session_id"] == "sess_asked") is named
    assert error["session_id"].startswith("sess_")


@pytest.mark.parametrize("name", HELLOS)
def test_the_longest_refusal_fits_a_frame(name: str) -> None:
    peer = peer_of(name)
    before = len(peer.raw)
    long = "\x01" * 256
    peer.send("job.cancel", {"job_id": long}, id=long)
    peer.send("job.submit", {"agent": "x" * 300}, id=long)
    peer.send("job.submit", {"agent": "echo", "lease_request": {"y" * 100_000: []}}, id=long)
    assert all(len(raw) < 16 * 1024 for raw in peer.raw[before:])
    assert all(json.loads(raw) for raw in peer.raw)


NESTED = "[" * 60 + "]" * 60


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"job.cancel","id":"x","payload":{"job_id":%s}}',
        '{"type":"job.subscribe","id":"x","payload":{"job_id":%s}}',
        '{"type":"job.submit","id":"x","payload":{"agent":%s,"input":1}}',
        '{"type":"job.submit","id":"x","payload":{"agent":"echo","input":{"a":%s},"max_runtime_sec":"x"}}',
        '{"type":"session.list_jobs","id":"x","payload":{"filter":%s}}',
    ],
)
def test_a_payload_that_is_refused_is_not_decoded_again(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    decoded: list[int] = []
    decode = codec.decode_value

    def counted(data: Any) -> Any:
        decoded.append(len(bytes(data)))
        return decode(data)

    peer = peer_of("")
    monkeypatch.setattr(codec, "decode_value", counted)
    [error] = peer.feed((message % NESTED).encode())
    assert error["payload"]["code"] == "INVALID_REQUEST"
    assert len(decoded) == 1


@pytest.mark.parametrize("kind", ["session.hello", "session.resume"])
def test_a_hello_that_is_refused_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    decoded: list[int] = []
    decode = codec.decode_value

    def counted(data: Any) -> Any:
        decoded.append(len(bytes(data)))
        return decode(data)

    monkeypatch.setattr(codec, "decode_value", counted)
    peer = World().connect()
    payload = f'{{"resume_token":{NESTED},"auth":{NESTED},"capabilities":[]}}'
    [error] = peer.feed(f'{{"type":"{kind}","id":"x","payload":{payload}}}'.encode())
    assert error["payload"]["code"] == "INVALID_REQUEST"
    assert len(decoded) == 1


class Decoded:
    """The sizes of the payloads that a decoder has read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        decode, exact = codec.decode_value, codec.decode_payload
        monkeypatch.setattr(codec, "decode_value", lambda data: self._note(data) or decode(data))
        monkeypatch.setattr(codec, "decode_payload", lambda data, by: self._note(data) or exact(data, by))

    def _note(self, data: Any) -> None:
        self.sizes.append(len(bytes(data)))


LARGE = json.dumps([{"a": [number]} for number in range(2_000)])


@pytest.mark.parametrize(
    ("message", "job_id"),
    [
        ('{"type":"job.cancel","id":"x","payload":{"job_id":"job_x","reason":"","more":%s}}', "job_x"),
        ('{"type":"job.cancel","id":"x","job_id":"job_y","payload":{"reason":"","more":%s}}', "job_y"),
        ('{"type":"job.subscribe","id":"x","payload":{"more":%s,"job_id":"job_x"}}', "job_x"),
        ('{"type":"job.submit","id":"x","payload":{"agent":"zork","input":%s}}', None),
    ],
)
@pytest.mark.parametrize("name", HELLOS)
def test_a_readable_message_that_is_refused_is_not_decoded_again(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str, job_id: str | None
) -> None:
    peer = peer_of(name)
    decoded = Decoded(monkeypatch)
    frames = peer.feed((message % LARGE).encode())
    assert sum(size > 1_000 for size in decoded.sizes) <= 1 + (job_id == "job_y")  # The id is repaired.
    if frames and job_id is not None and frames[-1]["type"] == "session.error":
        assert frames[-1]["payload"]["job_id"] == job_id


@pytest.mark.parametrize("kind", ["job.cancel", "job.submit"])
def test_a_message_that_is_refused_unread_is_not_decoded(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Send a message for a version of the protocol that is not supported."""
    peer = peer_of("")
    decoded = Decoded(monkeypatch)
    payload = f'{{"job_id":"job_x","agent":"echo","input":{LARGE}}}'
    [error] = peer.feed(f'{{"arcp":"2.0","type":"{kind}","id":"x","payload":{payload}}}'.encode())
    assert max(decoded.sizes, default=0) < 100
    assert error["payload"].get("job_id") == ("job_x" if kind == "job.cancel" else None)


@pytest.mark.parametrize("kind", ["job.cancel", "job.subscribe", "job.unsubscribe"])
def test_a_message_of_a_job_that_is_refused_unread_is_answered_with_the_longest_id(kind: str) -> None:
    """Send an id of 256 characters, each of which takes six bytes as JSON."""
    peer = peer_of("")
    job_id = "\x01" * 256
    [error] = peer.send(kind, {"job_id": job_id}, arcp="2.0")
    assert error["payload"]["job_id"] == job_id


@pytest.mark.parametrize("value", ["5", "null", '""', LARGE, json.dumps("x" * 257), '"\\u0001"'])
def test_a_refusal_does_not_repeat_a_wrong_id(value: str) -> None:
    peer = peer_of("")
    [error] = peer.feed(b'{"arcp":"2.0","type":"job.cancel","payload":{"job_id":%b}}' % value.encode())
    assert error["payload"].get("job_id") == ("\x01" if "u0001" in value else None)
