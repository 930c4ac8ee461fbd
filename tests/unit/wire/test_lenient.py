"""Messages of peers: the exact form, examples of the draft, recorded frames, and every known deviation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.errors import ErrorCode, Refusal, Unreadable
from arcp_proto.wire import codec, lenient, messages
from arcp_proto.wire.messages import (
    Accepted,
    Ack,
    AgentEntry,
    Auth,
    Cancel,
    Cancelled,
    ClientCapabilities,
    Close,
    Closed,
    Credential,
    Hello,
    JobEntry,
    JobError,
    JobEvent,
    JobFilter,
    Jobs,
    LeaseConstraints,
    ListJobs,
    Peer,
    Ping,
    Pong,
    Result,
    Resume,
    RuntimeCapabilities,
    SessionError,
    SessionResume,
    Submit,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from fuzz import fuzz_wire, harness
from tests.unit.wire.test_codec import DEPTHS, JSON_VALUES, at_depth, nested, outcome
from tests.unit.wire.test_messages import EXACT, NAMES, SHAPES

CORPUS: Final = Path(harness.__file__).parent / "corpus"
READ: Final[dict[str, Callable[[codec.Envelope], msgspec.Struct]]] = {
    "runtime": fuzz_wire.read_request,
    "client": lenient.read_message,
}
ENVELOPE_ID: Final = "01JENVELOPE"


def envelope(message_type: str, payload: Any, **fields: Any) -> codec.Envelope:
    frame = {"arcp": "1.1", "id": ENVELOPE_ID, "type": message_type, "payload": payload, **fields}
    return codec.decode_envelope(json.dumps(frame).encode())


def read(to: str, message_type: str, payload: Any, **fields: Any) -> msgspec.Struct:
    return READ[to](envelope(message_type, payload, **fields))


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every payload be read as one that deviates."""
    monkeypatch.setattr(codec, "decode_payload", lambda payload, decode: None)


# The exact form.


@pytest.mark.parametrize("entry", EXACT, ids=NAMES)
def test_the_exact_form_is_read_as_it_is(entry: dict[str, Any]) -> None:
    expected = msgspec.convert(entry["payload"], SHAPES[entry["to"]][entry["type"]])
    message = read(entry["to"], entry["type"], entry["payload"])
    assert message == expected
    assert json.loads(codec.encode_checked(message)) == entry["payload"]


@pytest.mark.parametrize("entry", EXACT, ids=NAMES)
def test_the_repairs_change_nothing_that_is_exact(
    entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(entry["to"], entry["type"], entry["payload"])
    slowly(monkeypatch)
    assert read(entry["to"], entry["type"], entry["payload"]) == expected


@pytest.mark.parametrize("entry", EXACT, ids=NAMES)
def test_null_counts_as_absent_for_every_optional_field(entry: dict[str, Any]) -> None:
    """Check nulls of optional fields, and unknown fields, which are ignored."""
    expected = read(entry["to"], entry["type"], entry["payload"])
    absent = [name for name in type(expected).__struct_fields__ if name not in entry["payload"]]
    for name in [*absent, "unknown"]:
        assert read(entry["to"], entry["type"], entry["payload"] | {name: None}) == expected
    nulls = dict.fromkeys(absent)
    assert read(entry["to"], entry["type"], entry["payload"] | nulls | {"unknown": [{"a": 1}]}) == expected


@pytest.mark.parametrize("entry", EXACT, ids=NAMES)
def test_numbers_are_read_in_every_form(entry: dict[str, Any]) -> None:
    shape = SHAPES[entry["to"]][entry["type"]]
    expected = read(entry["to"], entry["type"], entry["payload"])
    for name, value in entry["payload"].items():
        if type(value) is int and name in shape.__struct_fields__:
            for form in (float(value), str(value)):
                assert read(entry["to"], entry["type"], entry["payload"] | {name: form}) == expected


# Forms that other implementations send.


def corpus(name: str, *, beginning: str = "") -> list[Any]:
    lines = [json.loads(line) for line in (CORPUS / name).read_text(encoding="utf-8").splitlines()]
    return [pytest.param(line, id=line["name"]) for line in lines if line["name"].startswith(beginning)]


@pytest.mark.parametrize("line", corpus("wire.ndjson", beginning="draft"))
def test_the_examples_of_the_draft_are_accepted(line: dict[str, Any]) -> None:
    accepted = fuzz_wire.check_message(json.dumps(line["frame"]).encode())
    assert accepted
    for message in accepted:
        said = json.loads(codec.encode_checked(message))
        for name, value in line["frame"]["payload"].items():
            if value is not None and name != "jobs":
                assert said[name] == value or value == {}, name


def test_every_section_of_the_draft_with_json_is_among_the_examples() -> None:
    sections = {parameter.id.split()[1] for parameter in corpus("wire.ndjson", beginning="draft")}
    listed = "§6.2 §6.4 §6.5 §6.6 §7.1 §7.6 §8.2.1 §8.4 §9.5 §9.6 §9.7 §9.8.1"
    assert sections == set(listed.split(" "))


@pytest.mark.parametrize("line", corpus("peer_frames.ndjson"))
def test_recorded_frames_of_a_peer_are_accepted(line: dict[str, Any]) -> None:
    to = "runtime" if line["by"] == "client" else "client"
    frame = line["frame"]
    message = READ[to](codec.decode_envelope(json.dumps(frame).encode()))
    assert type(message) is SHAPES[to][frame["type"]]


# Messages of a client.

NOBODY: Final = Hello(Peer("", ""), Auth(""), ClientCapabilities([], []))
REQUESTS: Final[list[tuple[str, Any, dict[str, Any], msgspec.Struct]]] = [
    ("session.hello", None, {}, NOBODY),
    (
        "session.hello",
        {"client": {"name": None}, "capabilities": {"features": None}, "auth": None},
        {},
        NOBODY,
    ),
    (
        "session.hello",
        {"auth": {"token": "t"}},
        {},
        Hello(Peer("", ""), Auth("bearer", "t"), ClientCapabilities([], [])),
    ),
    (
        "session.hello",
        {
            "client": {"name": "c"},
            "auth": {},
            "capabilities": {"features": ["ack", 5, None, ["x"]], "encodings": 5},
        },
        {},
        Hello(Peer("c", ""), Auth("bearer"), ClientCapabilities([], ["ack"])),
    ),
    ("session.hello", {"resume": {}}, {}, NOBODY),
    ("session.hello", {"resume": {"session_id": None}, "resume_token": "", "last_event_seq": 5}, {}, NOBODY),
    (
        "session.hello",
        {"resume_token": "t"},
        {},
        Hello(Peer("", ""), Auth(""), ClientCapabilities([], []), Resume("t", 0)),
    ),
    (
        "session.hello",
        {"resume_token": "t", "last_event_seq": "5"},
        {},
        Hello(Peer("", ""), Auth(""), ClientCapabilities([], []), Resume("t", 5)),
    ),
    (
        "session.hello",
        {"resume": {"resume_token": "t", "last_event_seq": None}, "resume_token": "u", "last_event_seq": 9},
        {},
        Hello(Peer("", ""), Auth(""), ClientCapabilities([], []), Resume("t", 0)),
    ),
    ("session.resume", {"resume_token": "t"}, {"session_id": "s"}, SessionResume("t", 0, "s")),
    (
        "session.resume",
        {"resume_token": "t", "last_event_seq": 3},
        {"session_id": "s"},
        SessionResume("t", 3, "s"),
    ),
    (
        "session.resume",
        {"resume_token": "t", "session_id": "mine", "auth": {"token": "b", "scheme": None}},
        {"session_id": "s"},
        SessionResume("t", 0, "mine", Auth("bearer", "b")),
    ),
    (
        "session.resume",
        {"resume_token": "t", "auth": None, "replies": 1},
        {},
        SessionResume("t", 0, replies=True),
    ),
    ("session.ping", None, {}, Ping("", "")),
    ("session.ping", {"nonce": "n", "sent_at": 5}, {}, Ping("n", "")),
    ("session.pong", {"ping_nonce": None, "received_at": None}, {}, Pong("", "")),
    ("session.ack", {}, {}, Ack(0)),
    ("session.list_jobs", None, {}, ListJobs()),
    ("session.list_jobs", {"filter": {}, "limit": "50", "cursor": ""}, {}, ListJobs(limit=50)),
    ("session.list_jobs", {"filter": {"status": None, "agent": "a"}}, {}, ListJobs(JobFilter(agent="a"))),
    ("session.list_jobs", {"filter": {"status": "running"}}, {}, ListJobs(JobFilter(["running"]))),
    ("session.list_jobs", {"status": ["running"]}, {}, ListJobs(JobFilter(["running"]))),
    ("session.list_jobs", {"status": "running", "limit": 5}, {}, ListJobs(JobFilter(["running"]), limit=5)),
    (
        "session.list_jobs",
        {"agent": "a", "created_after": "t", "created_before": "u", "status": None, "x": 1},
        {},
        ListJobs(JobFilter(agent="a", created_after="t", created_before="u")),
    ),
    (
        "session.list_jobs",
        {"agent": "flat", "status": ["running"], "filter": {"agent": "a"}},
        {},
        ListJobs(JobFilter(["running"], "a")),
    ),
    ("session.close", None, {}, Close("")),
    ("session.close", {"reason": 5}, {}, Close("")),
    ("session.bye", {"reason": "r" * 5000}, {}, Close("r" * 1000)),
    ("job.submit", {"agent": "a"}, {}, Submit("a", None)),
    (
        "job.submit",
        {"agent": "a", "lease_request": None, "lease_constraints": None, "idempotency_key": None},
        {},
        Submit("a", None),
    ),
    ("job.submit", {"agent": "a", "input": 1, "lease_constraints": {}}, {}, Submit("a", 1)),
    ("job.submit", {"agent": "a", "lease_constraints": {"expires_at": None}}, {}, Submit("a", None)),
    (
        "job.submit",
        {"agent": "a", "input": 1, "lease_constraints": {"expires_at": "t", "expiresAt": "u"}},
        {},
        Submit("a", 1, lease_constraints=LeaseConstraints("t")),
    ),
    (
        "job.submit",
        {"agent": "a", "lease_request": {"fs.read": ["/a"], "fs.write": None}},
        {},
        Submit("a", None, {"fs.read": ["/a"]}),
    ),
    ("job.submit", {"agent": "a", "max_runtime_sec": "60"}, {}, Submit("a", None, max_runtime_sec=60)),
    ("job.submit", {"agent": "a", "max_runtime_sec": -5.0}, {}, Submit("a", None, max_runtime_sec=-5)),
    ("job.cancel", None, {"job_id": "j"}, Cancel("j", "")),
    ("job.cancel", {"job_id": "", "reason": None}, {"job_id": "j"}, Cancel("j", "")),
    ("job.cancel", {"job_id": "mine", "reason": ["why"]}, {"job_id": "j"}, Cancel("mine", "")),
    ("job.cancel", {"job_id": "j", "reason": "r" * 1001}, {}, Cancel("j", "r" * 1000)),
    ("job.subscribe", {"history": 1, "from_event_seq": "7"}, {"job_id": "j"}, Subscribe("j", 7, True)),
    (
        "job.subscribe",
        {"history": 1, "from_job_seq": "7"},
        {"job_id": "j"},
        Subscribe("j", None, True, from_job_seq=7),
    ),
    (
        "job.subscribe",
        {"job_id": "j", "history": True, "from_job_seq": 7.0, "from_event_seq": None},
        {},
        Subscribe("j", None, True, from_job_seq=7),
    ),
    ("job.subscribe", {"job_id": "j", "history": None}, {}, Subscribe("j")),
    ("job.unsubscribe", None, {"job_id": "j"}, Unsubscribe("j")),
]


@pytest.mark.parametrize(("message_type", "payload", "fields", "expected"), REQUESTS)
def test_a_request_is_read_leniently(
    message_type: str, payload: Any, fields: dict[str, Any], expected: msgspec.Struct
) -> None:
    assert read("runtime", message_type, payload, **fields) == expected


def test_a_hello_in_the_exact_form_may_resume_flat() -> None:
    exact = {
        "client": {"name": "c", "version": "1"},
        "auth": {"scheme": "bearer", "token": "t"},
        "capabilities": {"encodings": [], "features": []},
    }
    hello = read("runtime", "session.hello", exact | {"resume_token": "r", "last_event_seq": 5})
    assert isinstance(hello, Hello)
    assert (hello.resume, hello.resume_token, hello.last_event_seq) == (Resume("r", 5), None, None)
    both = {"resume_token": "r", "last_event_seq": 5, "resume": {"resume_token": "n", "last_event_seq": 6}}
    hello = read("runtime", "session.hello", exact | both)
    assert isinstance(hello, Hello)
    assert (hello.resume, hello.resume_token, hello.last_event_seq) == (Resume("n", 6), None, None)


def test_features_are_bounded() -> None:
    hello = read("runtime", "session.hello", {"capabilities": {"features": [f"f{n}" for n in range(1000)]}})
    assert isinstance(hello, Hello)
    assert hello.capabilities.features == [f"f{n}" for n in range(64)]


def test_a_token_of_any_length_is_handed_on() -> None:
    """Check that the shape accepts a long token, which the handler then answers with UNAUTHENTICATED."""
    hello = read("runtime", "session.hello", {"auth": {"token": "t" * 20_000}})
    assert isinstance(hello, Hello)
    assert hello.auth.token == "t" * 20_000


# Messages of a runtime.

CREDENTIAL: Final = {"id": "c", "scheme": "bearer", "value": "v", "endpoint": "e"}
JOB: Final = {"job_id": "j", "agent": "a", "status": "running", "lease": {}, "last_event_seq": 1}
MESSAGES: Final[list[tuple[str, Any, dict[str, Any], msgspec.Struct]]] = [
    (
        "session.welcome",
        None,
        {"session_id": "s"},
        Welcome(Peer("", ""), "s", "", 0, RuntimeCapabilities([], [], []), ""),
    ),
    (
        "session.welcome",
        {
            "session_id": "mine",
            "runtime": {"name": "r", "version": None},
            "resume_token": "t",
            "resume_window_sec": "600",
            "heartbeat_interval_sec": 0.5,
            "accepted_at": None,
            "capabilities": {
                "features": ["ack", 5],
                "agents": ["a", {"name": "b", "bare": True}, 5, {"n": 1}],
            },
        },
        {"session_id": "s"},
        Welcome(
            Peer("r", ""),
            "mine",
            "t",
            600,
            RuntimeCapabilities([], ["ack"], [AgentEntry("a", []), AgentEntry("b", [])]),
            "",
            1,
        ),
    ),
    (
        "session.welcome",
        {
            "session_id": "s",
            "resume_window_sec": -5,
            "heartbeat_interval_sec": 0,
            "capabilities": {"agents": [{"name": "a", "versions": ["1", 2], "default": None}]},
        },
        {},
        Welcome(Peer("", ""), "s", "", 0, RuntimeCapabilities([], [], [AgentEntry("a", ["1"])]), ""),
    ),
    (
        "session.welcome",
        {"session_id": "s", "resume_window_sec": 1e300, "heartbeat_interval_sec": True, "capabilities": None},
        {},
        Welcome(Peer("", ""), "s", "", 2**31, RuntimeCapabilities([], [], []), ""),
    ),
    ("session.error", None, {}, SessionError("INTERNAL_ERROR", "", True)),
    ("session.error", {"code": "TIMEOUT", "details": "late"}, {}, SessionError("TIMEOUT", "", True)),
    (
        "session.error",
        {"code": "INTERNAL", "message": None, "details": {"request_id": "r", "x": None}},
        {"job_id": "j"},
        SessionError("INTERNAL_ERROR", "", True, "r", "j", {"request_id": "r", "x": None}),
    ),
    (
        "session.error",
        {"code": "NOT_FOUND", "message": "m", "retryable": "perhaps", "details": None},
        {},
        SessionError("NOT_FOUND", "m", False),
    ),
    (
        "session.error",
        {
            "code": "INTERNAL",
            "message": "m",
            "retryable": False,
            "details": {"request_id": 5},
            "job_id": "mine",
        },
        {"job_id": "j"},
        SessionError("INTERNAL_ERROR", "m", False, None, "mine", {"request_id": 5}),
    ),
    ("session.jobs", {"jobs": None}, {}, Jobs("", [], None)),
    ("session.jobs", {"request_id": "r", "jobs": {}}, {}, Jobs("r", [], None)),
    (
        "session.jobs",
        {"request_id": "r", "jobs": [{"job_id": "j"}, {"agent": "nameless"}, {"job_id": 5}, "j"]},
        {},
        Jobs("r", [JobEntry("j", "", "", {}, "", "", 0)], None),
    ),
    (
        "session.jobs",
        {"jobs": [JOB | {"created_at": "t", "status": "queued"}, JOB | {"submitted_at": "u", "lease": None}]},
        {},
        Jobs(
            "",
            [JobEntry("j", "a", "pending", {}, "t", "t", 1), JobEntry("j", "a", "running", {}, "u", "u", 1)],
            None,
        ),
    ),
    ("session.closed", {"reason": None}, {}, Closed("")),
    ("session.bye", None, {}, Closed("")),
    ("job.accepted", None, {"job_id": "j"}, Accepted("j", "", {}, "", "")),
    (
        "job.accepted",
        {"lease": {"a": ["b"], "c": None}},
        {"job_id": "j"},
        Accepted("j", "", {"a": ["b"]}, "", ""),
    ),
    (
        "job.accepted",
        {"job_id": "mine", "lease": None, "lease_constraints": {"expires_at": None}, "budget": None},
        {"job_id": "j"},
        Accepted("mine", "", {}, "", "", LeaseConstraints()),
    ),
    (
        "job.accepted",
        {
            "job_id": "j",
            "budget": {
                "USD": "USD:1.50",
                "EUR": "5",
                "credits": 10,
                "x": -0.5,
                "y": None,
                "z": [],
                "w": True,
            },
        },
        {},
        Accepted("j", "", {}, "", "", budget={"USD": "1.50", "EUR": "5", "credits": 10, "x": -0.5}),
    ),
    ("job.cancelled", {"reason": ""}, {"job_id": "j"}, Cancelled("j", "")),
    (
        "job.cancelled",
        {"job_id": "j", "request_id": "r", "reason": "why", "final_status": "completed"},
        {},
        Cancelled("j", "r", "why", "success"),
    ),
    (
        "job.subscribed",
        {
            "current_status": "accepted",
            "replayed": 3,
            "subscribed_from": "7",
            "lease": {"a": ["b"], "c": None},
        },
        {"job_id": "j"},
        Subscribed("j", "pending", "", {"a": ["b"]}, 7, True, ""),
    ),
    (
        "job.subscribed",
        {"job_id": "j", "current_status": "failed", "replayed": 0, "budget": {"USD": "USD:5"}},
        {},
        Subscribed("j", "error", "", {}, 0, False, "", budget={"USD": "5"}),
    ),
    ("job.subscribed", {"job_id": "j", "replayed": "yes"}, {}, Subscribed("j", "", "", {}, 0, False, "")),
    ("job.event", {"kind": "status"}, {}, JobEvent("status", "", {})),
    ("job.event", {"kind": "k", "ts": 5, "body": None, "job_seq": "5"}, {}, JobEvent("k", "", {}, 5)),
    ("job.event", {"kind": "k", "ts": "t", "body": {}, "job_seq": None}, {}, JobEvent("k", "t", {})),
    ("job.event", {"kind": "k", "ts": "t", "body": [1]}, {}, JobEvent("k", "t", {"value": [1]})),
    (
        "job.event",
        {"kind": "tool_call", "ts": "t", "body": {"tool_call_id": "c", "name": "n", "arguments": None}},
        {},
        JobEvent("tool_call", "t", {"call_id": "c", "tool": "n", "args": None}),
    ),
    (
        "job.event",
        {"kind": "log", "ts": "t", "body": {"level": "INFO+2", "message": "m", "fields": {}}},
        {},
        JobEvent("log", "t", {"level": "info", "message": "m", "dimensions": {}}),
    ),
    (
        "job.event",
        {"kind": "log", "ts": "t", "body": {"level": "WARN-1"}},
        {},
        JobEvent("log", "t", {"level": "warn"}),
    ),
    (
        "job.event",
        {"kind": "log", "ts": "t", "body": {"level": "Loud"}},
        {},
        JobEvent("log", "t", {"level": "loud"}),
    ),
    ("job.event", {"kind": "log", "ts": "t", "body": {"level": 5}}, {}, JobEvent("log", "t", {"level": 5})),
    (
        "job.event",
        {"kind": "x-vendor.a.b", "ts": "t", "body": {"level": "INFO", "fields": 1}},
        {},
        JobEvent("x-vendor.a.b", "t", {"level": "INFO", "fields": 1}),
    ),
    (
        "job.event",
        {
            "kind": "status",
            "ts": "t",
            "body": {"phase": "credential_rotated", "details": {"id": "c", "value": "v"}},
        },
        {},
        JobEvent(
            "status",
            "t",
            {"phase": "credential_rotated", "details": {"id": "c", "value": "v"}, "id": "c", "value": "v"},
        ),
    ),
    (
        "job.event",
        {"kind": "status", "ts": "t", "body": {"phase": "other", "details": {"id": "c", "value": "v"}}},
        {},
        JobEvent("status", "t", {"phase": "other", "details": {"id": "c", "value": "v"}}),
    ),
    ("job.result", None, {}, Result("success", "")),
    ("job.result", {"output": 1}, {}, Result("success", "", 1)),
    ("job.result", {"value": 1}, {}, Result("success", "", 1)),
    ("job.result", {"value": 3, "output": 2, "result": 1}, {}, Result("success", "", 1)),
    (
        "job.result",
        {"final_status": "completed", "completed_at": "t", "result": 0},
        {},
        Result("success", "t", 0),
    ),
    (
        "job.result",
        {"final_status": "success", "completed_at": "t", "output": {}},
        {},
        Result("success", "t", {}),
    ),
    (
        "job.result",
        {"final_status": "success", "completed_at": "t", "result": None},
        {},
        Result("success", "t"),
    ),
    ("job.result", {"final_status": "timed_out", "completed_at": None}, {}, Result("timed_out", "")),
    (
        "job.result",
        {"result_id": "r", "result_size": "5", "summary": None},
        {},
        Result("success", "", result_id="r", result_size=5),
    ),
    ("job.error", {"code": "CANCELLED"}, {}, JobError("cancelled", "CANCELLED", "", False, "")),
    ("job.error", {"code": "TIMEOUT", "message": "m"}, {}, JobError("timed_out", "TIMEOUT", "m", True, "")),
    (
        "job.error",
        {"code": "INTERNAL", "final_status": "failed"},
        {},
        JobError("error", "INTERNAL_ERROR", "", True, ""),
    ),
    ("job.error", {}, {}, JobError("error", "INTERNAL_ERROR", "", True, "")),
    (
        "job.error",
        {"code": "DUPLICATE_KEY", "retryable": None, "details": {"request_id": "r"}},
        {},
        JobError("error", "DUPLICATE_KEY", "", False, "", {"request_id": "r"}, request_id="r"),
    ),
    (
        "job.error",
        {
            "code": "X",
            "message": "m",
            "retryable": True,
            "completed_at": "t",
            "final_status": "error",
            "request_id": "r",
        },
        {},
        JobError("error", "X", "m", True, "t", request_id="r"),
    ),
]


@pytest.mark.parametrize(("message_type", "payload", "fields", "expected"), MESSAGES)
def test_a_message_is_read_leniently(
    message_type: str, payload: Any, fields: dict[str, Any], expected: msgspec.Struct
) -> None:
    assert read("client", message_type, payload, **fields) == expected


@pytest.mark.parametrize("message_type", ["job.accepted", "job.subscribed"])
@pytest.mark.parametrize("slow", [False, True])
def test_credentials_are_read_leniently(
    message_type: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skip unknown schemes and incomplete entries, and give constraints the names of the draft."""
    credentials: list[Any] = [
        CREDENTIAL | {"constraints": {"cost_budget": ["USD:1"], "model.use": ["m"], "expires_at": "t"}},
        CREDENTIAL | {"scheme": "signed_url"},
        CREDENTIAL | {"id": "d"},
    ]
    if slow:
        slowly(monkeypatch)
        credentials += [{"id": "e"}, "f", CREDENTIAL | {"value": None}]
    payload: dict[str, Any] = {
        "job_id": "j",
        "agent": "a",
        "lease": {},
        "accepted_at": "t",
        "current_status": "running",
        "subscribed_from": 0,
        "replayed": False,
        "request_id": "r",
        "credentials": credentials,
    }
    message = read("client", message_type, payload)
    assert isinstance(message, Accepted | Subscribed)
    constraints = {"model.use": ["m"], "expires_at": "t", "cost.budget": ["USD:1"]}
    assert message.credentials == [
        Credential("c", "bearer", "v", "e", constraints=constraints),
        Credential("d", "bearer", "v", "e"),
    ]


@pytest.mark.parametrize("credentials", [5, {}, "c", None])
def test_credentials_that_are_not_a_list_are_absent(credentials: Any) -> None:
    message = read("client", "job.accepted", {"job_id": "j", "credentials": credentials})
    assert isinstance(message, Accepted)
    assert not message.credentials


# Messages that cannot be repaired.

NO_OBJECTS: Final[list[Any]] = [5, "{}", [], True, [{}]]
REFUSED: Final[list[tuple[str, str, Any, str]]] = [
    ("runtime", "session.hello", {"client": "c"}, "client"),
    ("runtime", "session.hello", {"client": {"name": 5}}, "client.name"),
    ("runtime", "session.hello", {"auth": "t"}, "auth"),
    ("runtime", "session.hello", {"auth": {"token": 5}}, "auth.token"),
    ("runtime", "session.hello", {"capabilities": []}, "capabilities"),
    ("runtime", "session.hello", {"resume": "t"}, "resume"),
    ("runtime", "session.hello", {"resume": {"session_id": "s"}}, "resume_token"),
    ("runtime", "session.hello", {"resume": {"resume_token": "t", "last_event_seq": -1}}, "last_event_seq"),
    ("runtime", "session.hello", {"resume": {"resume_token": "t", "session_id": "s" * 257}}, "session_id"),
    ("runtime", "session.hello", {"resume_token": 5}, "resume_token"),
    ("runtime", "session.resume", {}, "resume_token"),
    ("runtime", "session.resume", {"resume_token": "t", "last_event_seq": "x"}, "last_event_seq"),
    ("runtime", "session.resume", {"resume_token": "t", "auth": 5}, "auth"),
    ("runtime", "session.ping", {"nonce": 5}, "nonce"),
    ("runtime", "session.ping", {"nonce": "n" * 257}, "nonce"),
    ("runtime", "session.pong", {"ping_nonce": {}}, "ping_nonce"),
    ("runtime", "session.ack", {"last_processed_seq": 5.5}, "last_processed_seq"),
    ("runtime", "session.ack", {"last_processed_seq": -1}, "last_processed_seq"),
    ("runtime", "session.ack", {"last_processed_seq": 10**400}, "last_processed_seq"),
    ("runtime", "session.ack", {"last_processed_seq": True}, "last_processed_seq"),
    ("runtime", "session.list_jobs", {"filter": []}, "filter"),
    ("runtime", "session.list_jobs", {"filter": {"status": [5]}}, "status"),
    ("runtime", "session.list_jobs", {"status": [5]}, "status"),
    ("runtime", "session.list_jobs", {"limit": 5.5}, "limit"),
    ("runtime", "session.list_jobs", {"cursor": 5}, "cursor"),
    ("runtime", "job.submit", {}, "agent"),
    ("runtime", "job.submit", {"agent": None}, "agent"),
    ("runtime", "job.submit", {"agent": ""}, "agent"),
    ("runtime", "job.submit", {"agent": "a" * 257}, "agent"),
    ("runtime", "job.submit", {"agent": "a", "lease_request": []}, "lease_request"),
    ("runtime", "job.submit", {"agent": "a", "lease_request": {"fs.read": "/a"}}, "lease_request"),
    ("runtime", "job.submit", {"agent": "a", "lease_request": {"fs.read": [5]}}, "lease_request"),
    ("runtime", "job.submit", {"agent": "a", "lease_constraints": "t"}, "lease_constraints"),
    ("runtime", "job.submit", {"agent": "a", "lease_constraints": {"expires_at": 5}}, "expires_at"),
    ("runtime", "job.submit", {"agent": "a", "idempotency_key": ""}, "idempotency_key"),
    ("runtime", "job.submit", {"agent": "a", "idempotency_key": "k" * 257}, "idempotency_key"),
    ("runtime", "job.submit", {"agent": "a", "idempotency_key": 5}, "idempotency_key"),
    ("runtime", "job.submit", {"agent": "a", "max_runtime_sec": 1.5}, "max_runtime_sec"),
    ("runtime", "job.submit", {"agent": "a", "max_runtime_sec": "soon"}, "max_runtime_sec"),
    ("runtime", "job.cancel", {"reason": "r"}, "job_id"),
    ("runtime", "job.cancel", {"job_id": 5}, "job_id"),
    ("runtime", "job.cancel", {"job_id": "j" * 257}, "job_id"),
    ("runtime", "job.subscribe", {}, "job_id"),
    ("runtime", "job.subscribe", {"job_id": "j", "from_event_seq": -1}, "from_event_seq"),
    ("runtime", "job.subscribe", {"job_id": "j", "from_job_seq": -1}, "from_job_seq"),
    ("runtime", "job.subscribe", {"job_id": "j", "from_job_seq": "x"}, "from_job_seq"),
    ("runtime", "job.subscribe", {"job_id": "j", "history": "maybe"}, "history"),
    ("runtime", "job.unsubscribe", {"job_id": None}, "job_id"),
    ("client", "session.welcome", {}, "session_id"),
    ("client", "session.welcome", {"session_id": "s" * 257}, "session_id"),
    ("client", "session.welcome", {"session_id": "s", "capabilities": 5}, "capabilities"),
    ("client", "job.accepted", {}, "job_id"),
    ("client", "job.accepted", {"job_id": "j", "lease": []}, "lease"),
    ("client", "job.cancelled", {}, "job_id"),
    ("client", "job.subscribed", {}, "job_id"),
    ("client", "job.event", {}, "kind"),
    ("client", "job.event", {"kind": 5}, "kind"),
    ("client", "job.result", {"result_size": -1}, "result_size"),
    *(
        (to, name, payload, "payload")
        for to, shapes in SHAPES.items()
        for name in shapes
        for payload in NO_OBJECTS
    ),
]


@pytest.mark.parametrize(("to", "message_type", "payload", "field"), REFUSED)
def test_a_refusal_names_the_field(to: str, message_type: str, payload: Any, field: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(to, message_type, payload)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert field in caught.value.message
    assert not caught.value.fatal


def test_a_refusal_repeats_nothing_of_what_was_sent() -> None:
    secret = "hunter2"
    for to, message_type, payload in (
        ("runtime", "session.hello", {"auth": {"token": [secret]}}),
        ("runtime", "session.hello", {"auth": secret}),
        ("runtime", "session.hello", {"resume": {"resume_token": {secret: secret}}}),
        ("runtime", "job.submit", {"agent": "a", "lease_request": {secret: {secret: 1}}}),
        ("runtime", "job.submit", {"agent": "a", "max_runtime_sec": secret}),
        ("runtime", "job.submit", {"agent": "a" * 257, "idempotency_key": secret * 100}),
        ("client", "job.accepted", {"job_id": [secret]}),
        ("client", "job.event", {"kind": {secret: secret}}),
    ):
        with pytest.raises(Refusal) as caught:
            read(to, message_type, payload)
        assert secret not in str(caught.value)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000])
def test_a_number_that_cannot_be_held_is_refused(number: str) -> None:
    payload = '{"agent":"a","input":' + number + "}"
    frame = codec.decode_envelope(('{"type":"job.submit","payload":' + payload + "}").encode())
    with pytest.raises(Unreadable, match=codec.NO_OBJECT):
        lenient.read_request(frame)


@pytest.mark.parametrize("deviating", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_of_the_stack_changes_nothing(depth: int, deviating: bool) -> None:
    payload: dict[str, Any] = {"agent": "a", "input": nested(62)}
    frame = envelope("job.submit", payload | {"max_runtime_sec": "5"} if deviating else payload)
    kind, submit = at_depth(depth, lambda: outcome(lambda: lenient.read_request(frame)))
    assert kind == "returned"
    assert isinstance(submit, Submit)
    value = at_depth(depth, submit.input.value)
    assert (value == nested(62), submit.max_runtime_sec) == (True, 5 if deviating else None)


# Payloads of any shape.

FIELDS: Final = sorted(
    {
        *(
            name
            for shapes in SHAPES.values()
            for shape in shapes.values()
            for name in shape.__struct_fields__
        ),
        *("output", "value", "retryable", "name", "version", "token", "scheme", "versions", "status"),
    }
)
LIKELY: Final[st.SearchStrategy[Any]] = st.recursive(
    st.sampled_from(
        [None, True, False, 0, 5, 5.0, -1, 2**63, 1e300, "", "5", "x", "bearer", "INTERNAL", "queued"]
    )
    | JSON_VALUES,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), children, max_size=6)
    ),
    max_leaves=10,
)


@pytest.mark.parametrize("to", SHAPES)
@given(data=st.data())
def test_anything_is_a_message_or_refused(to: str, data: st.DataObject) -> None:
    """Check that each accepted message is the same after it was written and read again."""
    message_type = data.draw(st.sampled_from(list(SHAPES[to])))
    fields = SHAPES[to][message_type].__struct_fields__
    likely = st.dictionaries(st.sampled_from([*fields, *FIELDS]), LIKELY, max_size=8)
    frame = envelope(message_type, data.draw(likely | LIKELY), job_id=data.draw(st.none() | st.just("j")))
    role = fuzz_wire.ROLES[list(SHAPES).index(to)]
    fuzz_wire.check_payload(frame, role)


@settings(max_examples=400)
@given(entry=st.sampled_from(EXACT), data=st.data())
def test_one_wrong_field_is_repaired_or_refused(entry: dict[str, Any], data: st.DataObject) -> None:
    shape = SHAPES[entry["to"]][entry["type"]]
    name = data.draw(st.sampled_from(shape.__struct_fields__))
    frame = envelope(entry["type"], entry["payload"] | {name: data.draw(LIKELY)})
    fuzz_wire.check_payload(frame, fuzz_wire.ROLES[list(SHAPES).index(entry["to"])])


def test_every_type_has_a_rule() -> None:
    assert set(lenient.RULES) == {*messages.TO_RUNTIME, *messages.TO_CLIENT}


@pytest.mark.parametrize("level", ["Warning", "WARN", "warning"])
@pytest.mark.parametrize("more", [{}, {"dims": {"a": 1}}])
def test_a_log_level_is_normalised_even_in_an_exact_body(level: str, more: dict[str, Any]) -> None:
    body = lenient.settled_body("log", {"level": level, "message": "hi", **more})
    assert (body["level"], body["message"], body.get("dimensions", {})) == (
        "warn",
        "hi",
        more.get("dims", {}),
    )
