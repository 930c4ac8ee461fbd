"""The first message of a connection, as a host with several runtimes examines it."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.engine.output import Authenticate
from arcp_proto.errors import LocalProtocolError
from arcp_proto.wire import FirstKind, FirstMessage, Scheme, look
from arcp_proto.wire.first import EARLY_BYTES, MAX_LABEL_LENGTH, is_label, label_of, token_prefix
from tests.unit.wire.test_codec import JSON_VALUES
from tests.unit.wire.test_lenient import CORPUS
from tests.unit.world import World

RANDOM: Final = "aB3_-" * 8 + "xyz"
"""The part of a resume token behind its label: 43 characters."""
LABELLED: Final = f"rt_17.{RANDOM}"
HELLO: Final = {"client": {"name": "t", "version": "1"}, "capabilities": {"encodings": [], "features": []}}


def seen(message_type: str, payload: Any = None, **fields: Any) -> FirstMessage:
    """Return the facts that are found in an envelope of this type."""
    return look(
        json.dumps({"arcp": "1.1", "id": "1", "type": message_type, "payload": payload, **fields}).encode()
    )


def hello(**fields: Any) -> FirstMessage:
    return seen("session.hello", {**HELLO, **fields})


# Facts in a first message.


def test_a_hello_with_a_bearer_token() -> None:
    assert hello(auth={"scheme": "bearer", "token": "t"}) == FirstMessage(
        kind=FirstKind.HELLO, scheme=Scheme.BEARER
    )


@pytest.mark.parametrize(
    ("auth", "scheme"),
    [
        ({"token": "t"}, Scheme.BEARER),
        ({"scheme": "bearer"}, Scheme.NONE),
        ({"scheme": "bearer", "token": ""}, Scheme.NONE),
        ({"scheme": "anonymous"}, Scheme.ANONYMOUS),
        ({"scheme": "anonymous", "token": "t"}, Scheme.ANONYMOUS),
        ({"scheme": "mtls", "token": "t"}, Scheme.OTHER),
        ({"scheme": "none", "token": "t"}, Scheme.OTHER),
        ({"scheme": "other", "token": "t"}, Scheme.OTHER),
        ({"scheme": ""}, Scheme.OTHER),
    ],
)
def test_the_scheme_of_a_hello(auth: dict[str, str], scheme: Scheme) -> None:
    assert hello(auth=auth).scheme is scheme


@pytest.mark.parametrize(
    "resume",
    [
        {"resume": {"resume_token": LABELLED, "last_event_seq": 3}},
        {"resume": {"resume_token": LABELLED}},
        {"resume_token": LABELLED},
    ],
)
def test_a_hello_that_resumes_has_the_label_of_its_token(resume: dict[str, Any]) -> None:
    found = hello(auth={"scheme": "bearer", "token": "t"}, **resume)
    assert (found.resumes, found.label) == (True, "17")


def test_a_session_resume_needs_no_authentication() -> None:
    found = seen("session.resume", {"resume_token": LABELLED, "last_event_seq": 0})
    assert found == FirstMessage(kind=FirstKind.RESUME, resumes=True, label="17")
    found = seen("session.resume", {"resume_token": "rt_x", "auth": {"scheme": "bearer", "token": "t"}})
    assert found == FirstMessage(kind=FirstKind.RESUME, scheme=Scheme.BEARER, resumes=True)


@pytest.mark.parametrize("message_type", ["job.submit", "session.welcome", "unknown", "session.close"])
def test_another_message_is_not_read(message_type: str) -> None:
    assert seen(message_type, {"resume_token": LABELLED}) == FirstMessage(kind=FirstKind.OTHER)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b'{"type":""}',
        b'{"type":"session.hello","payload":[]}',
        b'{"type":"session.hello","payload":{"auth":5}}',
        b'{"type":"session.resume","payload":{}}',
        b'{"arcp":"2.0","type":"session.hello","payload":{}}',
        b"[" * 60_000,
    ],
)
def test_a_message_that_no_runtime_reads_is_malformed(message: bytes) -> None:
    assert look(message) == FirstMessage(kind=FirstKind.MALFORMED)


def test_a_message_above_the_limit_is_malformed() -> None:
    message = b'{"type":"session.hello","payload":{"auth":{"token":"t"}}}'
    assert look(message.ljust(EARLY_BYTES)).kind is FirstKind.HELLO
    assert look(message.ljust(EARLY_BYTES + 1)).kind is FirstKind.MALFORMED
    assert look(message, limit=len(message) - 1).kind is FirstKind.MALFORMED


def test_nothing_of_a_secret_is_kept() -> None:
    secret = "tok-" + "s" * 60
    for token in (secret, f"rt_{secret}", f"rt_{RANDOM}{RANDOM}", f"rt_.{RANDOM}", f"x{LABELLED}"):
        found = hello(auth={"scheme": secret, "token": secret}, resume={"resume_token": token})
        assert found == FirstMessage(kind=FirstKind.HELLO, scheme=Scheme.OTHER, resumes=True)


@given(
    JSON_VALUES
    | st.binary(max_size=200)
    | st.integers(1, 2_000).map(lambda depth: b"[" * depth + b"]" * depth)
)
def test_no_bytes_raise(value: Any) -> None:
    message = value if isinstance(value, bytes) else json.dumps(value).encode()
    assert isinstance(look(message), FirstMessage)
    wrapped = json.dumps({"type": "session.hello", "payload": {"auth": {"token": "t"}, "resume": str(value)}})
    assert isinstance(look(wrapped.encode("utf-8", "surrogatepass")), FirstMessage)


@pytest.mark.parametrize("name", ["wire.ndjson", "peer_frames.ndjson", "inputs.ndjson"])
def test_a_runtime_sees_the_same_in_recorded_messages(name: str) -> None:
    for line in (CORPUS / name).read_bytes().splitlines():
        _check_with_a_runtime(line)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["session.hello", "session.resume", "session.ping", "x"])},
        optional={
            "arcp": st.sampled_from(["1", "1.0", "1.7", "2.0", ""]) | st.none(),
            "id": st.text(max_size=3) | st.none(),
            "payload": st.fixed_dictionaries(
                {},
                optional={
                    "client": st.none() | st.fixed_dictionaries({}, optional={"name": st.text(max_size=2)}),
                    "auth": st.none()
                    | st.fixed_dictionaries(
                        {},
                        optional={
                            "scheme": st.sampled_from(["bearer", "anonymous", "x", "", None]),
                            "token": st.sampled_from(["t", "", None, 5]),
                        },
                    ),
                    "resume_token": st.sampled_from([LABELLED, "rt_", "", None, 5]),
                    "last_event_seq": st.sampled_from([0, 5, "7", -1, None]),
                    "resume": st.none()
                    | st.fixed_dictionaries({}, optional={"resume_token": st.sampled_from([LABELLED, 5])}),
                },
            )
            | st.none()
            | st.just([]),
        },
    )
)
def test_a_runtime_sees_the_same(message: dict[str, Any]) -> None:
    _check_with_a_runtime(json.dumps(message).encode())


def _check_with_a_runtime(message: bytes) -> None:
    """Compare the facts in a message with the behaviour of a runtime that receives it."""
    found = look(message)
    world = World(tokens=None)
    peer = world.connect()
    peer.send_bytes(message)
    asked = bool(world.all(Authenticate))
    starts = found.kind in (FirstKind.HELLO, FirstKind.RESUME)
    assert asked == (starts and found.scheme is Scheme.BEARER)
    refused = [] if asked else peer.codes()
    if found.kind is FirstKind.HELLO or (found.kind is FirstKind.RESUME and found.scheme is Scheme.OTHER):
        assert asked or refused == ["UNAUTHENTICATED"]
    elif found.kind is FirstKind.RESUME:
        assert asked or refused == ["RESUME_WINDOW_EXPIRED"]
    else:
        assert refused == ["INVALID_REQUEST"]


# Labels.


@pytest.mark.parametrize("label", ["0", "127", "a-b_C", "x" * MAX_LABEL_LENGTH])
def test_a_labelled_token_shows_its_label(label: str) -> None:
    assert is_label(label)
    assert label_of(token_prefix(label) + RANDOM) == label


@pytest.mark.parametrize("text", ["", "x" * (MAX_LABEL_LENGTH + 1), "a.b", "a b", "ä", "1\n", "a/b", "٣"])
def test_other_texts_are_not_labels(text: str) -> None:
    assert not is_label(text)
    assert label_of(f"rt_{text}.{RANDOM}") == ""


@pytest.mark.parametrize(
    "token", ["", "rt_", f"rt_{RANDOM}", f"rt_1.{RANDOM}x", f"rt_1.{RANDOM[1:]}", f"rt_1.{RANDOM}\n"]
)
def test_a_token_without_a_label(token: str) -> None:
    assert label_of(token) == ""


def test_the_resume_tokens_of_a_runtime_have_its_label() -> None:
    world = World(label="17")
    token = world.client().token
    assert token.startswith("rt_17.") and len(token) == len("rt_17.") + 43
    assert label_of(token) == "17"


def test_a_session_with_a_label_is_resumed_and_gets_another_such_token() -> None:
    world = World(label="17")
    peer = world.client()
    again = world.resumed(peer)
    assert again.session_id == peer.session_id
    assert label_of(again.token) == "17" and again.token != peer.token


def test_without_a_label_tokens_are_as_before() -> None:
    assert (
        World().client().token
        == World(label="").client().token
        == "rt_YuTpxfQCUzQJzR4b-dmO3523gHyaD_lkK7v3CWdu6lw"
    )


@pytest.mark.parametrize("label", ["x" * (MAX_LABEL_LENGTH + 1), "17.", "a b", "ä"])
def test_a_label_out_of_bounds_is_refused(label: str) -> None:
    with pytest.raises(LocalProtocolError, match="a label has at most 32 letters"):
        World(label=label)
