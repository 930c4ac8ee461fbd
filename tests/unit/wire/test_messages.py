"""The shapes of messages: they are written exactly as in `exact_messages.ndjson`, and show no secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import rich.pretty

from arcp_proto.wire import messages

SHAPES: Final[Mapping[str, Mapping[str, type[msgspec.Struct]]]] = {
    "runtime": messages.TO_RUNTIME,
    "client": messages.TO_CLIENT,
}
EXACT: Final[list[dict[str, Any]]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "exact_messages.ndjson").read_text(encoding="utf-8").splitlines()
]
NAMES: Final = [f"{number} {entry['type']}" for number, entry in enumerate(EXACT, 1)]


def decoded(entry: dict[str, Any]) -> msgspec.Struct:
    return msgspec.json.decode(json.dumps(entry["payload"]), type=SHAPES[entry["to"]][entry["type"]])


@pytest.mark.parametrize("entry", EXACT, ids=NAMES)
def test_every_message_round_trips(entry: dict[str, Any]) -> None:
    """Check names and presence: no field is null, and no default is written unless it is always present."""
    assert json.loads(msgspec.json.encode(decoded(entry))) == entry["payload"]


@pytest.mark.parametrize("entry", EXACT, ids=NAMES)
def test_fields_are_written_in_the_order_of_the_struct(entry: dict[str, Any]) -> None:
    message = decoded(entry)
    written = [name for name in message.__struct_encode_fields__ if name in entry["payload"]]
    assert list(json.loads(msgspec.json.encode(message))) == written


@pytest.mark.parametrize("to", SHAPES)
def test_every_type_is_among_the_examples(to: str) -> None:
    assert {entry["type"] for entry in EXACT if entry["to"] == to} == set(SHAPES[to])


@pytest.mark.parametrize("to", SHAPES)
def test_every_field_is_among_the_examples(to: str) -> None:
    """Except fields that are only read: a flat resume, a request of job.error, the status of job.accepted."""
    for name, shape in SHAPES[to].items():
        only_read = {"resume_token", "last_event_seq", "request_id"}
        if name == "job.accepted":
            only_read.add("status")
        if name == "session.bye":
            continue
        shown = {field for entry in EXACT if entry["type"] == name for field in entry["payload"]}
        assert set(shape.__struct_fields__) - shown <= only_read, name


def test_the_types_are_those_of_the_draft() -> None:
    assert list(messages.TO_RUNTIME) == [
        "session.hello",
        "session.resume",
        "session.ping",
        "session.pong",
        "session.ack",
        "session.list_jobs",
        "session.close",
        "session.bye",
        "job.submit",
        "job.cancel",
        "job.subscribe",
        "job.unsubscribe",
        "x-vendor.arcp-io.job.describe",
        "x-vendor.arcp-io.job.read",
    ]
    assert list(messages.TO_CLIENT) == [
        "session.welcome",
        "session.ping",
        "session.pong",
        "session.error",
        "session.jobs",
        "session.closed",
        "session.bye",
        "job.accepted",
        "job.cancelled",
        "job.subscribed",
        "job.event",
        "job.result",
        "job.error",
        "x-vendor.arcp-io.job.described",
        "x-vendor.arcp-io.job.events",
    ]


def test_a_shape_is_sent_under_its_own_type() -> None:
    for table in SHAPES.values():
        for name, shape in table.items():
            sent = messages.TYPE_OF[shape]
            assert sent == name or name == "session.bye"
    assert "session.bye" not in messages.TYPE_OF.values()


SECRET: Final = "fake-but-secret"
GUARDED: Final[list[msgspec.Struct]] = [
    messages.Auth("bearer", SECRET),
    messages.Resume(SECRET, 5, "sess_1"),
    messages.Hello(
        messages.Peer("c", "1"),
        messages.Auth("bearer", SECRET),
        messages.ClientCapabilities([], []),
        messages.Resume(SECRET),
        SECRET,
    ),
    messages.SessionResume(SECRET, 5, "sess_1", messages.Auth("bearer", SECRET)),
    messages.Welcome(
        messages.Peer("r", "1"), "sess_1", SECRET, 600, messages.RuntimeCapabilities([], [], []), "t"
    ),
    messages.Credential("cred_1", "bearer", SECRET, "https://e.example"),
    messages.Accepted(
        "job_1", "a", {}, "t", "r", credentials=[messages.Credential("cred_1", "bearer", SECRET, "e")]
    ),
    messages.Subscribed(
        "job_1",
        "running",
        "a",
        {},
        0,
        False,
        "r",
        credentials=[messages.Credential("cred_1", "bearer", SECRET, "e")],
    ),
    messages.JobEvent("status", "t", {"phase": "credential_rotated", "id": "cred_1", "value": SECRET}),
]


@pytest.mark.parametrize("message", GUARDED, ids=[type(message).__name__ for message in GUARDED])
def test_no_repr_of_a_message_shows_a_secret(message: msgspec.Struct) -> None:
    assert SECRET in msgspec.json.encode(message).decode()
    for shown in (repr(message), str(message), f"{[message]}", rich.pretty.pretty_repr([message])):
        assert SECRET not in shown
        assert type(message).__name__ in shown


def test_a_message_without_a_secret_has_a_full_repr() -> None:
    event = messages.JobEvent("status", "t", {"phase": "running"}, 7)
    assert repr(event) == "JobEvent(kind='status', ts='t', body={'phase': 'running'}, job_seq=7)"
    assert repr(messages.Ping("n", "t")) == "Ping(nonce='n', sent_at='t')"


BOUNDS: Final = [
    (messages.Ping, {"nonce": "n" * 257, "sent_at": ""}),
    (messages.Pong, {"ping_nonce": "n" * 257, "received_at": ""}),
    (messages.Close, {"reason": "r" * 1001}),
    (messages.Cancel, {"job_id": "j", "reason": "r" * 1001}),
    (messages.Cancel, {"job_id": "", "reason": ""}),
    (messages.Unsubscribe, {"job_id": "j" * 257}),
    (messages.Ack, {"last_processed_seq": -1}),
    (messages.Ack, {"last_processed_seq": 2**63}),
    (messages.Subscribe, {"job_id": "j", "from_event_seq": -1}),
    (messages.Subscribe, {"job_id": "j", "from_job_seq": -1}),
    (messages.SessionResume, {"resume_token": "t", "last_event_seq": -1}),
    (messages.SessionResume, {"resume_token": "t", "last_event_seq": 0, "session_id": "s" * 257}),
    (messages.Submit, {"agent": "", "input": None}),
    (messages.Submit, {"agent": "a" * 257, "input": None}),
    (messages.Submit, {"agent": "a", "input": None, "idempotency_key": ""}),
    (messages.Submit, {"agent": "a", "input": None, "idempotency_key": "k" * 257}),
    (messages.ClientCapabilities, {"encodings": [], "features": ["f"] * 65}),
]


@pytest.mark.parametrize(("shape", "payload"), BOUNDS)
def test_a_payload_out_of_bounds_is_refused(shape: type[msgspec.Struct], payload: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(payload, shape)


@pytest.mark.parametrize(
    ("shape", "payload"),
    [
        (messages.Ping, {"nonce": "n" * 256, "sent_at": ""}),
        (messages.Close, {"reason": "r" * 1000}),
        (messages.Ack, {"last_processed_seq": 2**63 - 1}),
        (messages.Submit, {"agent": "a" * 256, "input": None, "idempotency_key": "k" * 256}),
        (messages.ClientCapabilities, {"encodings": [], "features": ["f"] * 64}),
    ],
)
def test_a_payload_at_its_bounds_is_accepted(shape: type[msgspec.Struct], payload: dict[str, Any]) -> None:
    assert msgspec.to_builtins(msgspec.convert(payload, shape)) == payload
