"""Bodies of events: those that an agent may emit, and their written form (§8.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcp_proto.errors import RETRYABLE, ErrorCode, LocalProtocolError
from arcp_proto.wire import event_bodies
from arcp_proto.wire.event_bodies import (
    ArtifactRef,
    Body,
    Delegate,
    EventKind,
    Log,
    Metric,
    Progress,
    ResultChunk,
    Status,
    Thought,
    ToolCall,
    ToolError,
    ToolResult,
)

NAN: Final = float("nan")
INFINITY: Final = float("inf")
NEVER_ENDS: Final[list[Any]] = []
NEVER_ENDS.append(NEVER_ENDS)
UNTYPED_LOG: Final[Any] = Log

WRITTEN: Final[list[tuple[str, Body, dict[str, Any]]]] = [
    ("log", Log("info", "hello"), {"level": "info", "message": "hello"}),
    ("log", Log("WARNING", "hello"), {"level": "warn", "message": "hello"}),
    ("thought", Thought("so"), {"text": "so"}),
    (
        "tool_call",
        ToolCall("search", {"q": [1]}, "c1"),
        {"tool": "search", "args": {"q": [1]}, "call_id": "c1"},
    ),
    ("tool_result", ToolResult("c1", 5), {"call_id": "c1", "result": 5}),
    ("tool_result", ToolResult("c1", None), {"call_id": "c1", "result": None}),
    (
        "tool_result",
        ToolResult("c1", error=ToolError("TIMEOUT", "late", True)),
        {"call_id": "c1", "error": {"code": "TIMEOUT", "message": "late", "retryable": True}},
    ),
    ("status", Status("running"), {"phase": "running"}),
    ("status", Status("running", "now"), {"phase": "running", "message": "now"}),
    (
        "metric",
        Metric("cost.inference", 0.0234, "USD"),
        {"name": "cost.inference", "value": 0.0234, "unit": "USD"},
    ),
    ("metric", Metric("m", -1, dimensions={"a": 1}), {"name": "m", "value": -1, "dimensions": {"a": 1}}),
    ("artifact_ref", ArtifactRef("s3://a", "text/plain"), {"uri": "s3://a", "content_type": "text/plain"}),
    (
        "artifact_ref",
        ArtifactRef("s3://a", "text/plain", 0, "ab"),
        {"uri": "s3://a", "content_type": "text/plain", "byte_size": 0, "sha256": "ab"},
    ),
    ("delegate", Delegate("job_2", "echo"), {"child_job_id": "job_2", "agent": "echo"}),
    (
        "delegate",
        Delegate("job_2", "echo", {"fs.read": ["/a"]}),
        {"child_job_id": "job_2", "agent": "echo", "lease": {"fs.read": ["/a"]}},
    ),
    ("progress", Progress(0), {"current": 0}),
    (
        "progress",
        Progress(47, 12.5, "files", "m"),
        {"current": 47, "total": 12.5, "units": "files", "message": "m"},
    ),
    (
        "result_chunk",
        ResultChunk("res_1", 0, "data", "utf8", False),
        {"result_id": "res_1", "chunk_seq": 0, "data": "data", "encoding": "utf8", "more": False},
    ),
]
NAMES: Final = [f"{number} {kind}" for number, (kind, _body, _written) in enumerate(WRITTEN)]


@pytest.mark.parametrize(("kind", "body", "written"), WRITTEN, ids=NAMES)
def test_a_body_is_written_as_the_draft_says(kind: str, body: Body, written: dict[str, Any]) -> None:
    assert json.loads(event_bodies.encode_body(kind, body)) == written


@pytest.mark.parametrize(("kind", "body", "written"), WRITTEN, ids=NAMES)
def test_a_mapping_is_written_like_the_struct(kind: str, body: Body, written: dict[str, Any]) -> None:
    assert json.loads(event_bodies.encode_body(kind, written)) == written


def test_integers_stay_integers() -> None:
    assert event_bodies.encode_body("progress", Progress(47, 120)) == b'{"current":47,"total":120}'
    assert (
        event_bodies.encode_body("progress", {"current": 47, "total": 120}) == b'{"current":47,"total":120}'
    )


def test_every_kind_of_the_draft_has_a_body() -> None:
    kinds = "log thought tool_call tool_result status metric artifact_ref delegate progress result_chunk"
    assert [kind.value for kind in EventKind] == kinds.split(" ")
    assert set(event_bodies.BODIES) == set(kinds.split(" ")) == {kind for kind, _body, _written in WRITTEN}
    assert {event_bodies.BODIES[kind] for kind in EventKind} == set(event_bodies.KINDS)


WRONG: Final[list[tuple[str, Body | Mapping[str, Any], str]]] = [
    ("log", Log("loud", "m"), "not a log level"),
    ("log", {"level": "loud", "message": "m"}, "not a log level"),
    ("log", {"message": "m"}, "level"),
    ("log", {"level": 5, "message": "m"}, "level"),
    ("thought", {"text": None}, "text"),
    ("thought", {}, "text"),
    ("thought", Thought("\ud800"), "surrogate"),
    ("thought", {"text": "t", "\ud800": 1}, "surrogate"),
    ("metric", Metric("m", NAN), "finite"),
    ("metric", {"name": "m", "value": INFINITY}, "finite"),
    ("metric", {"name": "m", "value": "5"}, "value"),
    ("metric", {"name": "m", "value": True}, "value"),
    ("metric", Metric("cost.inference", -0.1, "USD"), "not negative"),
    ("metric", {"name": "cost.inference", "value": -1}, "not negative"),
    ("metric", Metric("m", 1, dimensions={"a": NAN}), "finite"),
    ("metric", Metric("m", 1, dimensions={"a": {1, 2}}), "set"),
    ("progress", Progress(-1), "not negative"),
    ("progress", Progress(NAN), "finite"),
    ("progress", Progress(1, INFINITY), "finite"),
    ("progress", {"current": -0.5}, "not negative"),
    ("progress", {"current": 1, "total": None, "units": 5}, "units"),
    ("tool_call", ToolCall("t", b"bytes", "c"), "bytes"),
    ("tool_call", ToolCall("t", {1: 2}, "c"), "not a string"),
    ("tool_call", ToolCall("t", NEVER_ENDS, "c"), "contains itself"),
    ("tool_call", {"tool": "t", "args": {1: 2}, "call_id": "c"}, "not a string"),
    ("tool_result", ToolResult("c"), "either a result or an error"),
    ("tool_result", ToolResult("c", 1, ToolError("TIMEOUT", "m", True)), "either a result or an error"),
    ("tool_result", {"call_id": "c"}, "either a result or an error"),
    ("tool_result", ToolResult("c", {"a": object()}), "object"),
    ("tool_result", {"call_id": "c", "error": {"code": "TIMEOUT"}}, "message"),
    ("artifact_ref", ArtifactRef("u", "t", -1), "not negative"),
    ("artifact_ref", {"uri": "u", "content_type": "t", "byte_size": 1.5}, "byte_size"),
    ("sideways", {}, "not an event kind"),
    ("x-vendor.acme", {}, "not an event kind"),
    ("x-vendor.acme.tick", {"at": NAN}, "finite"),
    ("log", {"level": "info", "message": "m", "more": NAN}, "finite"),
    ("status", {"phase": "p", "details": {1: 2}}, "not a string"),
    ("x-vendor.acme.tick", {"self": NEVER_ENDS}, "contains itself"),
    ("status", Thought("so"), "a Thought is not a body of the kind 'status'"),
    ("x-vendor.acme.tick", Thought("so"), "a Thought is not a body of the kind"),
    ('a"b', Thought("so"), "a Thought is not a body of the kind"),
    ("log", UNTYPED_LOG(5, "m"), "level"),
    ("thought", UNTYPED_LOG("info", "m"), "a Log is not a body of the kind 'thought'"),
]


FIELDS: Final = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(-(2**70), 2**70), st.floats(), st.just("info")
)


@given(
    kind=st.sampled_from(["log", "thought", "status", "progress"]),
    values=st.lists(FIELDS, min_size=4, max_size=4),
)
@example("progress", [2**63, None, None, None])
@example("status", ["credential_rotated", None, None, None])
def test_a_struct_is_written_or_refused_as_its_fields_are(kind: str, values: list[Any]) -> None:
    shape = event_bodies.BODIES[kind]
    names = shape.__struct_fields__
    fields = dict(zip(names, values, strict=False))
    made: Any = shape(*values[: len(names)])
    try:
        written = event_bodies.encode_body(kind, fields)
    except LocalProtocolError:
        with pytest.raises(LocalProtocolError):
            event_bodies.encode_body(kind, made)
    else:
        assert event_bodies.encode_body(kind, made) == written


@pytest.mark.parametrize(("kind", "body", "says"), WRONG)
def test_a_wrong_body_raises(kind: str, body: Body | Mapping[str, Any], says: str) -> None:
    with pytest.raises(LocalProtocolError, match=says):
        event_bodies.encode_body(kind, body)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("DEBUG", "debug"),
        ("trace", "debug"),
        ("Info", "info"),
        ("Warning", "warn"),
        ("warn", "warn"),
        ("ERROR", "error"),
        ("critical", "error"),
        ("fatal", "error"),
    ],
)
def test_levels_are_sent_in_four_words(said: str, sent: str) -> None:
    for body in (Log(said, "m"), {"level": said, "message": "m"}):
        assert json.loads(event_bodies.encode_body("log", body)) == {"level": sent, "message": "m"}


def test_an_event_is_not_changed_by_being_sent() -> None:
    body = Log("WARNING", "m")
    fields = {"level": "WARNING", "message": "m", "fields": {"k": 1}}
    event_bodies.encode_body("log", body)
    event_bodies.encode_body("log", fields)
    assert body == Log("WARNING", "m")
    assert fields == {"level": "WARNING", "message": "m", "fields": {"k": 1}}


def test_a_mapping_may_hold_fields_beyond_the_draft() -> None:
    body = {"phase": "running", "details": {"since": [1, 2]}}
    assert json.loads(event_bodies.encode_body("status", body)) == body


@pytest.mark.parametrize(
    ("kind", "said", "sent"),
    [
        (
            "tool_call",
            {"tool_call_id": "c", "name": "t", "arguments": 1},
            {"call_id": "c", "tool": "t", "args": 1},
        ),
        ("tool_result", {"tool_call_id": "c", "output": 1}, {"call_id": "c", "result": 1}),
        (
            "log",
            {"level": "info", "message": "m", "attributes": {"k": 1}},
            {"level": "info", "message": "m", "dimensions": {"k": 1}},
        ),
        (
            "metric",
            {"name": "m", "value": 1, "dims": {"k": 1}},
            {"name": "m", "value": 1, "dimensions": {"k": 1}},
        ),
        ("status", {"name": "n", "phase": "p"}, {"name": "n", "phase": "p"}),
    ],
)
def test_synonyms_are_sent_as_the_draft_names_them(
    kind: str, said: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert event_bodies.with_draft_names(kind, said) == sent
    assert json.loads(event_bodies.encode_body(kind, said)) == sent


@pytest.mark.parametrize("value", ["1e-64", "1.7e308", "-1e308", "0", "0.1"])
def test_a_decimal_has_as_many_digits_as_peers_can_hold(value: str) -> None:
    fields = event_bodies.read_metric(Metric("m", Decimal(value)))
    assert fields == {"name": "m", "value": Decimal(value)}
    assert float(msgspec.json.decode(event_bodies.encode_metric(fields))["value"]) == float(value)


@pytest.mark.parametrize("value", ["1e-65", "0.1" + 64 * "0", "1e309", "-1e309", "NaN", "sNaN", "-Infinity"])
def test_a_decimal_with_more_digits_is_refused(value: str) -> None:
    with pytest.raises(LocalProtocolError, match="not finite, or has too many digits"):
        event_bodies.read_metric(Metric("m", Decimal(value)))


@pytest.mark.parametrize("kind", ["log", "metric"])
@pytest.mark.parametrize("synonym", ["dims", "attributes", "fields"])
def test_every_synonym_of_dimensions(kind: str, synonym: str) -> None:
    assert event_bodies.with_draft_names(kind, {synonym: 1, "x": 2}) == {"x": 2, "dimensions": 1}


def test_the_name_of_the_draft_wins_over_a_synonym() -> None:
    both = {"output": 1, "result": 2, "call_id": "c"}
    assert event_bodies.with_draft_names("tool_result", both) == {"result": 2, "call_id": "c"}
    assert both == {"output": 1, "result": 2, "call_id": "c"}


@given(st.dictionaries(st.sampled_from(["dims", "fields", "dimensions", "name", "x"]), st.integers()))
def test_renaming_twice_is_renaming_once(body: dict[str, int]) -> None:
    once = event_bodies.with_draft_names("metric", body)
    assert event_bodies.with_draft_names("metric", once) == once
    assert ("dimensions" in once) == any(name in body for name in ("dims", "fields", "dimensions"))


@pytest.mark.parametrize(
    "kind", ["x-vendor.acme.tick", "x-vendor.a.b.c", "x-vendor.acme.a b", "x-vendor.a." + "b" * 117]
)
def test_vendor_kinds_are_accepted(kind: str) -> None:
    assert event_bodies.is_vendor_kind(kind)
    assert event_bodies.encode_body(kind, {"n": 1}) == b'{"n":1}'


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "log",
        "x-vendor.",
        "x-vendor.acme",
        "x-vendor.acme.",
        "x-vendor..tick",
        "vendor.acme.tick",
        "acme.tick",
        "x-vendor.acme.\n",
        'x-vendor.acme."',
        "x-vendor.acme.\\",
        "x-vendor.acme.é",
        "x-vendor.a." + "b" * 118,
    ],
)
def test_a_wrong_vendor_kind_is_refused(kind: str) -> None:
    assert not event_bodies.is_vendor_kind(kind)


def test_features_are_needed_by_two_kinds_and_one_metric() -> None:
    assert event_bodies.FEATURE_OF_KIND == {
        "progress": "progress",
        "result_chunk": "result_chunk",
        "cost.budget.remaining": "cost.budget",
    }


@pytest.mark.parametrize("number", [10**400, -(10**400)])
@pytest.mark.parametrize(
    ("kind", "field"), [("metric", "value"), ("progress", "current"), ("progress", "total")]
)
def test_a_number_that_no_peer_can_hold_is_refused(kind: str, field: str, number: int) -> None:
    body = {"name": "x", "value": 1} if kind == "metric" else {"current": 1, "total": 2}
    with pytest.raises(LocalProtocolError, match=f"{field} is larger than any number"):
        event_bodies.encode_body(kind, {**body, field: number})


def test_an_optional_field_of_none_is_absent_and_an_unknown_one_is_kept() -> None:
    assert (
        event_bodies.encode_body("status", {"phase": "x", "message": None, "more": None})
        == b'{"phase":"x","more":null}'
    )
    assert (
        event_bodies.encode_body("tool_result", {"call_id": "c", "result": None})
        == b'{"call_id":"c","result":null}'
    )


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("code", [*ErrorCode, "X_MINE"])
def test_the_retryable_of_a_tool_result_is_the_tables_for_a_code_of_the_draft(code: str, said: bool) -> None:
    expected = RETRYABLE.get(code, said)
    error = {"code": code, "message": "m", "retryable": said}
    given = ToolError(code, "m", said)
    for body in (ToolResult("c", error=given), {"call_id": "c", "error": error}):
        encoded = json.loads(event_bodies.encode_body("tool_result", body))
        assert encoded == {"call_id": "c", "error": {**error, "retryable": expected}}
    assert (given.retryable, error["retryable"]) == (said, said)  # The agent's object does not change.
