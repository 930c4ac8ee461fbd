"""Bodies of events that do not fit a frame: they are cut, keep their shape, and say how much is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.wire import codec
from arcp_proto.wire.event_bodies import BODIES, encode_body
from arcp_proto.wire.shortening import CUT, LEAST, shorten

VENDOR = "x-vendor.acme.thing"
ERROR = {"code": "INTERNAL_ERROR", "message": "y" * 5_000, "retryable": True}


def short(kind: str, body: dict[str, Any], limit: int = 1_000) -> dict[str, Any]:
    encoded = encode_body(kind, body)
    assert len(encoded) > limit
    cut = shorten(kind, encoded, limit)
    assert cut is not None
    assert len(cut) <= limit
    value = codec.decode_value(cut)
    assert isinstance(value, dict)
    assert encode_body(kind, value) == cut or kind == "metric"
    return value


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("log", {"level": "info", "message": "x" * 5_000}, "message"),
        ("thought", {"text": "x" * 5_000}, "text"),
        ("status", {"phase": "p", "message": "x" * 5_000}, "message"),
        ("progress", {"current": 1, "total": 2, "units": "u", "message": "x" * 5_000}, "message"),
        ("tool_call", {"tool": "t", "args": {"q": "x" * 5_000}, "call_id": "c"}, "args"),
        ("tool_result", {"call_id": "c", "result": ["x" * 5_000]}, "result"),
        ("tool_result", {"call_id": "c", "error": ERROR}, "error"),
        ("metric", {"name": "n", "value": 1.5, "unit": "u", "dimensions": {"d": "x" * 5_000}}, "dimensions"),
        (VENDOR, {"any": "x" * 5_000, "n": 1}, "any"),
    ],
)
def test_only_large_fields_are_cut(kind: str, body: dict[str, Any], field: str) -> None:
    cut = short(kind, body)
    assert list(cut) == list(body)
    assert {name: value for name, value in cut.items() if name != field} == {
        name: value for name, value in body.items() if name != field
    }
    assert type(cut[field]) is type(body[field])
    assert "bytes left out]" in json.dumps(cut[field])
    if kind in BODIES:
        codec.decoder_of(BODIES[kind])(codec.encode_value(cut))


@pytest.mark.parametrize("unit", ["x", "é", "😀", "\n", "\x00"])
def test_the_mark_of_a_text_counts_the_bytes_that_are_left_out(unit: str) -> None:
    text = short("thought", {"text": unit * 5_000})["text"]
    kept, _, mark = text.partition("… [cut: ")
    left_out = len((unit * 5_000).encode()) - len(kept.encode())
    assert mark == f"{left_out} bytes left out]"
    assert kept and set(kept) == {unit}


def test_large_fields_get_the_room_that_small_ones_leave() -> None:
    cut = short(VENDOR, {"a": "x" * 300, "b": "y" * 5_000, "c": "z" * 5_000})
    assert cut["a"] == "x" * 300
    assert abs(len(cut["b"]) - len(cut["c"])) <= 1
    assert len(codec.encode_value(cut)) > 900


def test_the_first_items_of_an_array_are_kept() -> None:
    result = short("tool_result", {"call_id": "c", "result": list(range(5_000))})["result"]
    *items, mark = result
    assert items == list(range(len(items)))
    assert 200 < len(items) < 300
    left_out = sum(len(str(number)) for number in range(len(items), 5_000))
    assert mark == f"… [cut: {left_out} bytes left out]"


def test_an_item_that_does_not_fit_is_cut_itself() -> None:
    first, second, mark = short("tool_result", {"call_id": "c", "result": [1, {"t": "x" * 5_000}, 3]})[
        "result"
    ]
    assert first == 1
    assert second["t"].startswith("xxx")
    assert mark == "… [cut: 1 bytes left out]"


def test_the_first_of_many_fields_are_kept() -> None:
    args = {f"name {number}": number for number in range(2_000)}
    cut = short("tool_call", {"tool": "t", "args": args, "call_id": "c"})["args"]
    names = list(cut)
    assert names[-1] == CUT
    assert names[:-1] == list(args)[: len(names) - 1]
    assert 40 < len(names) < 70
    assert "bytes left out]" in cut[CUT]


def test_shortening_keeps_numbers_exact() -> None:
    encoded = b'{"name":"cost.x","value":0.10000000000000000001,"dimensions":{"d":"' + b"x" * 5_000 + b'"}}'
    cut = shorten("metric", encoded, 1_000)
    assert cut is not None
    assert cut.startswith(b'{"name":"cost.x","value":0.10000000000000000001,"dimensions":{"d":"xxx')


@pytest.mark.parametrize(("limit", "names"), [(204, ["a", "b"]), (203, [CUT])])
def test_all_fields_are_cut_if_each_has_room_else_the_first_ones_are_kept(
    limit: int, names: list[str]
) -> None:
    """Leave room for two cut values of 96 bytes each, with names of 6 bytes, in braces."""
    assert list(short(VENDOR, {"a": "x" * 500, "b": "y" * 500}, limit)) == names


def test_a_number_that_is_too_long_is_replaced_by_its_mark() -> None:
    body = {"n": 10**500, "text": "x" * 5_000, "more": "y" * 5_000}
    assert short(VENDOR, body, 600)["n"] == "… [cut: 501 bytes left out]"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("artifact_ref", {"uri": "data:," + "x" * 5_000, "content_type": "text/plain"}),
        ("delegate", {"child_job_id": "j", "agent": "a", "lease": {"fs.read": ["/" + "x" * 5_000]}}),
        ("tool_call", {"tool": "t", "args": {}, "call_id": "c" * 5_000}),
        ("status", {"phase": "x" * 5_000}),
    ],
)
def test_fields_that_name_something_are_not_cut(kind: str, body: dict[str, Any]) -> None:
    assert shorten(kind, encode_body(kind, body), 1_000) is None


def test_a_body_is_cut_only_if_its_whole_fields_leave_room() -> None:
    """Leave room for a cut value of 96 bytes, and for a mark of 64 bytes for omitted fields."""
    whole = len('"phase":"",') + 2  # The braces.
    phase = "p" * (1_000 - whole - 160)
    cut = short("status", {"phase": phase, "message": "x" * 5_000})
    assert cut["phase"] == phase
    assert cut["message"].endswith("bytes left out]")
    assert (
        shorten("status", encode_body("status", {"phase": phase + "p", "message": "x" * 5_000}), 1_000)
        is None
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=60,
)


@given(st.dictionaries(st.text(max_size=20), values, max_size=10), st.integers(3 * LEAST, 3_000))
def test_every_shortened_body_fits_and_keeps_its_shape(body: dict[str, Any], limit: int) -> None:
    encoded = codec.encode_value(body)
    cut = shorten(VENDOR, encoded, limit)
    assert cut is not None or not body
    if cut is None:
        return
    assert len(cut) <= max(limit, len(encoded) if len(encoded) <= limit else 0)
    value = codec.decode_value(cut)
    if len(encoded) <= limit - 2:
        assert value == body
    assert [name for name in value if name != CUT] == [name for name in body if name in value and name != CUT]
    for name, kept in value.items():
        if name in body and not isinstance(body[name], int | None):
            assert type(kept) is type(body[name])
