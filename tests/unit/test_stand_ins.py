"""The stand-ins for secrets in a recording, and the places where secrets are found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcp_proto import stand_ins
from arcp_proto.errors import Refusal
from arcp_proto.recording import _without_secrets
from arcp_proto.stand_ins import SALT_BYTES, StandIns, redact, token_of
from arcp_proto.wire import codec, lenient

SALT = b"s" * SALT_BYTES


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"session.hello","payload":{"auth":{"scheme":"bearer","token":"%s"}}}',
        '{ "payload" : {"resume":{"resume_token":"%s"}},\n "type":"session.hello"}   ',
        '{"type":"session.hello","payload":{"token":"%s","auth":{"token":"%s"}}}',
        '{"type":"session.hello","payload":{"auth":{"token":"\\u0065%s","token":"%s"}}}',
        '{"type":"session.resume","payload":{"resume_token":"%s","auth":[{"token":"%s"}]}}',
        '{"type":"session.hallo","payload":{"auth":{"token":"%s"}}}',
        '{"type":"session.hello","payload":{"auth":{"token":"%s"',
        '{"type":"session.hello","payload":{"auth":{"token":"%s"}}} \xff',
        '{"type":"job.event","payload":{"body":{"phase":"credential_rotated","value":"%s"}}}',
        '{"type":"job.accepted","payload":{"credentials":[{"id":"c","value":"%s"}]}}',
        '{"type":"session.hello","payload":{"auth":{"token":"%s","token":5}}}',
        '{"type":"session.hello","payload":{"auth":{"token":["%s",{"a":"%s"}]}}}',
        '{"type":"session.hello","payload":{"auth":{"tok\\u0065n":"%s"',
        '{}{"type":"session.hello","payload":{"auth":{"token":"%s"}}}',
        '{"type":"session.ping","auth":{"token":"%s"},"payload":{"nonce":"x"}}',
        '{"type":"session.ping","payload":{"Authorization":"Bearer %s"}}',
        '{"type":"job.submit","payload":{"agent":"a","input":{"api-key":"%s"}}}',
        '{"type":"job.submit","payload":{"agent":"a","input":{"token":{"a":["%s"]}}}}',
        '{"type":"x-vendor.other.key","payload":{"value":"%s"}}',
        '["%s"]',
        "GET / HTTP/1.1\r\nAuthorization: Bearer %s\r\n",
        '{"auth":{"token":"%s"},"x":' + "[" * 70,
    ],
)
def test_no_secret_survives_redaction(text: str) -> None:
    message = text.replace("%s", "s3cret").encode("latin-1")
    redacted = redact(message, StandIns(SALT))
    assert b"s3cret" not in redacted
    assert len(redacted) == len(message)


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"job.submit" , "payload":{"agent":"a", "input":{"value":"not ours","a":[ 1]}}}',
        b'{"type":"session.ping","id":"secret","payload":{"nonce":"token"}}',
        b'{"type":"job.event","payload":{"kind":"metric","body":{"value":"5"}}}',
        b'{"type":"session.hello","payload":{"auth":{"token":5}}}',
        b'{"type":"session.hello","payload":{"x":1e999,"y":1e5,"z":[{}]}}',
        b"",
    ],
)
def test_a_message_without_a_secret_is_not_changed(message: bytes) -> None:
    assert redact(message, StandIns(SALT)) == message


HELLO = b'{"type":"session.hello","id":"h","payload":{"auth":{"token":"s3cret","n":1}}}'


@given(
    st.integers(0, len(HELLO)),
    st.integers(0, len(HELLO)),
    st.binary(max_size=3) | st.sampled_from([b"", b"{}", b"[" * 70, b'"\\ud800"', b"1e999", b"\\", b'"']),
)
@example(0, 0, b"{}")
@example(0, len(HELLO), b"[1]")
@example(7, 22, b"")
@example(HELLO.index(b"1}"), HELLO.index(b"1}") + 1, b"1e999")
def test_a_redacted_message_is_refused_like_the_original(start: int, end: int, other: bytes) -> None:
    message = HELLO[:start] + other + HELLO[end:]
    redacted = redact(message, StandIns(SALT))
    assert _came_of(redacted) == _came_of(message)
    assert len(redacted) == len(message)


def _came_of(message: bytes) -> object:
    """Return the message of the refusal, or the parts that were read; the repr of a hello hides secrets."""
    try:
        envelope = codec.decode_envelope(message)
        hello = lenient.read_request(envelope) if envelope.type == "session.hello" else None
    except Refusal as refusal:
        return refusal.message
    return envelope.type, envelope.id, repr(hello)


def test_a_redacted_message_keeps_the_other_fields() -> None:
    frame: dict[str, Any] = {
        "id": "h",
        "type": "session.hello",
        "payload": {"auth": {"token": "é"}, "x": [1, None]},
    }
    redacted = json.loads(redact(json.dumps(frame).encode(), StandIns(SALT)))
    assert redacted["payload"]["auth"]["token"] == StandIns(SALT).of("é")
    del redacted["payload"]["auth"], frame["payload"]["auth"]
    assert redacted == frame


def test_stand_ins_are_as_long_as_secrets_and_differ_by_salt() -> None:
    found, other = StandIns(SALT), StandIns(SALT + b"s")
    assert found.of("s3cret") == StandIns(SALT).of("s3cret") != found.of("s3creT")
    assert other.of("s3cret") != found.of("s3cret")
    assert len(found.of("é😀")) == 6
    assert found.of("") == ""


def test_a_token_is_remembered_once_the_host_has_verified_it() -> None:
    found = StandIns(SALT)
    found.shown(1, "one")
    found.shown(2, "two")
    assert not found.knows("one")
    found.answered(1, "alice")
    found.answered(2, None)
    found.answered(2, "late")
    assert (found.knows("one"), found.knows("two"), found.knows("alice")) == (True, False, False)


def test_the_token_of_a_connection_that_is_lost_before_its_answer_is_forgotten() -> None:
    stand_ins = StandIns(SALT)
    hello = b'{"type":"session.hello","payload":{"auth":{"scheme":"bearer","token":"s3cret"}}}'
    for number in range(10):
        _without_secrets("message", (number, hello), stand_ins, from_clients=True)
        assert list(stand_ins._pending) == [number]
        _without_secrets("lost", (number, "the peer is gone"), stand_ins, from_clients=True)
    assert not stand_ins._pending


def test_the_number_of_remembered_secrets_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "_MOST_PROVED", 2)
    found = StandIns(SALT)
    for secret in ("a", "b"):
        found.prove(secret)
    assert (found.knows("a"), found.knows("b")) == (True, True)
    found.prove("c")
    assert (found.knows("a"), found.knows("b"), found.knows("c")) == (False, True, True)


def test_a_secret_that_is_known_is_covered_in_a_payload_but_not_as_a_type() -> None:
    found = StandIns(SALT)
    found.prove("session.ping")
    message = b'{"type":"session.ping","id":"session.ping","payload":{"nonce":"session.ping"}}'
    covered = json.loads(redact(message, found))
    assert covered == {
        **json.loads(message),
        "payload": {"nonce": found.of("session.ping")},
    }


def test_a_text_of_a_user_is_covered_in_its_own_message_alone() -> None:
    found = StandIns(SALT, trusting=True)
    redacted = redact(b'{"type":"job.submit","payload":{"agent":"a","input":{"token":"plain"}}}', found)
    assert b"plain" not in redacted
    assert not found.knows("plain")


def test_a_client_learns_secrets_from_its_runtime() -> None:
    found = StandIns(SALT, trusting=True)
    redact(b'{"type":"session.welcome","payload":{"resume_token":"rt_1"}}', found)
    assert b"rt_1" not in redact(b'{"type":"job.event","payload":{"body":{"x":"rt_1"}}}', found)


@pytest.mark.parametrize(
    ("message", "token"),
    [
        ('{"type":"session.hello","payload":{"auth":{"token":"t"}}}', "t"),
        ('{"type":"session.resume","payload":{"auth":{"token":"t"}}}', "t"),
        ('{"type":"session.ping","payload":{"auth":{"token":"t"}}}', None),
        ('{"type":"session.hello","payload":{"auth":{"token":5}}}', None),
        ('{"type":"session.hello","payload":{"auth":{}}}', None),
        ('{"type":"session.hello","payload":[]}', None),
        ("{", None),
    ],
)
def test_the_token_of_a_hello_is_replaced(message: str, token: str | None) -> None:
    assert token_of(message.encode()) == token
