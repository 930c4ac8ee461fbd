"""W3C Trace Context, from an envelope and into tools."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.wire.trace_context import (
    EXTENSION,
    TraceContext,
    extensions_json,
    headers,
    read_trace,
    traceparent,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = "2d13b9ded9e6770fc5af4ac37d4493a7"
PARENT = "00f067aa0ba902b7"
SPAN = "d52720f0e8f9ee1f"


def carrier(traceparent: object, **more: object) -> dict[str, Any]:
    return {EXTENSION: {"traceparent": traceparent, **more}}


@pytest.mark.parametrize("text", [TRACE, TRACE.upper(), "4BF92F3577b34da6a3ce929d0e0e4736"])
def test_a_trace_id_is_32_hex_digits_in_any_case(text: str) -> None:
    assert read_trace(text, None) == TraceContext(TRACE, flags=1)


@pytest.mark.parametrize("text", ["1" + "0" * 31, "0" * 31 + "1", "f" * 32])
def test_all_zeros_are_not_a_trace_id(text: str) -> None:
    assert read_trace(text, {}) == TraceContext(text)


@pytest.mark.parametrize(
    ("flags", "kept"), [("00", 0), ("01", 1), ("02", 2), ("03", 3), ("ff", 3), ("fc", 0), ("81", 1)]
)
def test_a_traceparent_gives_trace_parent_and_the_flags_we_know(flags: str, kept: int) -> None:
    context = read_trace(f"00-{TRACE}-{PARENT}-{flags}", None)
    assert context == TraceContext(TRACE, PARENT, flags=kept)


@pytest.mark.parametrize("version", ["01", "cc", "fe"])
@pytest.mark.parametrize("more", ["", "-", "-what comes later"])
def test_a_later_version_is_read_as_far_as_we_know_it(version: str, more: str) -> None:
    assert read_trace(f"{version}-{TRACE}-{PARENT}-01{more}", None) == TraceContext(TRACE, PARENT)


BROKEN_TRACEPARENTS = [
    "",
    f"00-{TRACE}-{PARENT}",
    f"00-{TRACE}-{PARENT}-01-",
    f"00-{TRACE}-{PARENT}-01-more",
    f"00-{TRACE}-{PARENT}-01\n",
    f"cc-{TRACE}-{PARENT}-01.more",
    f"ff-{TRACE}-{PARENT}-01",
    f"0-{TRACE}-{PARENT}-01",
    f"000-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{PARENT}-01",
    f"00-{TRACE}-{PARENT.upper()}-01",
    f"00-{TRACE}-{PARENT}-0G",
    f"00-{TRACE[:-1]}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}0-01",
    f" 00-{TRACE}-{PARENT}-01",
    f"00_{TRACE}_{PARENT}_01",
]


@pytest.mark.parametrize(
    "text",
    [
        *BROKEN_TRACEPARENTS,
        "0" * 32,
        TRACE[:-1],
        TRACE + "0",
        TRACE + "\n",
        "g" * 32,
        "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
        "٤" * 32,
    ],
)
def test_an_unreadable_trace_counts_as_absent(text: str) -> None:
    assert read_trace(text, None) is None
    assert read_trace(text, carrier(f"00-{OTHER}-{PARENT}-01")) == TraceContext(OTHER, PARENT, explicit=True)


def test_an_absent_trace_is_none() -> None:
    assert read_trace(None, None) is None
    assert read_trace(None, {}) is None
    assert read_trace(None, {"x-vendor.other": {"traceparent": f"00-{TRACE}-{PARENT}-01"}}) is None


def test_the_extension_alone_names_the_trace() -> None:
    extensions = carrier(f"00-{TRACE}-{PARENT}-03", tracestate="congo=t61rcWkgMzE")
    assert read_trace(None, extensions) == TraceContext(TRACE, PARENT, "congo=t61rcWkgMzE", 3, True)


@pytest.mark.parametrize("trace_id", [TRACE, TRACE.upper(), f"00-{TRACE}-{SPAN}-00"])
def test_the_extension_says_more_about_the_trace_of_the_envelope(trace_id: str) -> None:
    extensions = carrier(f"00-{TRACE}-{PARENT}-01", tracestate="a=1")
    assert read_trace(trace_id, extensions) == TraceContext(TRACE, PARENT, "a=1", 1, True)


def test_the_trace_of_the_envelope_wins_over_the_extension() -> None:
    extensions = carrier(f"00-{OTHER}-{PARENT}-00", tracestate="a=1")
    assert read_trace(TRACE, extensions) == TraceContext(TRACE, explicit=True)
    assert read_trace(f"00-{TRACE}-{SPAN}-00", extensions) == TraceContext(TRACE, SPAN, None, 0, True)


@pytest.mark.parametrize("value", [None, "text", 7, [], {}, {"traceparent": None}, {"tracestate": "a=1"}])
def test_an_extension_of_another_shape_is_as_if_absent(value: object) -> None:
    assert read_trace(None, {EXTENSION: value}) is None
    assert read_trace(TRACE, {EXTENSION: value}) == TraceContext(TRACE)


@pytest.mark.parametrize("text", BROKEN_TRACEPARENTS)
def test_a_broken_traceparent_takes_its_tracestate_along(text: str) -> None:
    assert read_trace(TRACE, carrier(text, tracestate="a=1")) == TraceContext(TRACE)


@pytest.mark.parametrize("state", ["a", "a=1", "a" * 512, " ~", "a=1,b=2"])
def test_a_tracestate_of_printable_ascii_is_kept(state: str) -> None:
    context = read_trace(None, carrier(f"00-{TRACE}-{PARENT}-01", tracestate=state))
    assert context == TraceContext(TRACE, PARENT, state, 1, True)


@pytest.mark.parametrize("state", [None, "", "a" * 513, "a=\x1f", "a=\x7f", "a=é", "a\r\nX: y", 5, ["a=1"]])
def test_any_other_tracestate_is_dropped(state: object) -> None:
    context = read_trace(None, carrier(f"00-{TRACE}-{PARENT}-01", tracestate=state))
    assert context == TraceContext(TRACE, PARENT, None, 1, True)


def test_tools_get_the_headers_of_their_own_span() -> None:
    bare = TraceContext(TRACE)
    full = TraceContext(TRACE, PARENT, "a=1", 0, True)
    assert traceparent(bare, SPAN) == f"00-{TRACE}-{SPAN}-01"
    assert headers(bare, SPAN) == {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert headers(full, SPAN) == {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "a=1"}


def test_only_a_peer_that_sends_the_extension_gets_it() -> None:
    assert extensions_json(TraceContext(TRACE, PARENT, "a=1"), SPAN) is None
    written = extensions_json(TraceContext(TRACE, PARENT, 'a="1"%', 1, True), SPAN)
    assert written is not None
    assert json.loads(written) == carrier(f"00-{TRACE}-{SPAN}-01", tracestate='a="1"%')
    written = extensions_json(TraceContext(TRACE, explicit=True), SPAN)
    assert written == b'{"%b":{"traceparent":"00-%b-%b-01"}}' % (
        EXTENSION.encode(),
        TRACE.encode(),
        SPAN.encode(),
    )


hexadecimal = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda digits: digits.strip("0"))
contexts = st.builds(
    TraceContext,
    trace_id=st.builds("{}{}".format, hexadecimal, hexadecimal),
    tracestate=st.none() | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1),
    flags=st.integers(0, 3),
    explicit=st.just(True),
)


@given(contexts, hexadecimal)
def test_a_context_that_goes_out_comes_back_with_the_span_as_parent(context: TraceContext, span: str) -> None:
    written = extensions_json(context, span)
    assert written is not None
    expected = msgspec.structs.replace(context, parent_id=span)
    assert read_trace(None, json.loads(written)) == expected
    assert read_trace(context.trace_id, json.loads(written)) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.none() | st.text(),
    st.none()
    | st.dictionaries(
        st.just(EXTENSION) | st.text(),
        json_values | st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), json_values),
    ),
)
def test_reading_a_trace_never_raises(trace_id: str | None, extensions: dict[str, Any] | None) -> None:
    context = read_trace(trace_id, extensions)
    assert context is None or len(context.trace_id) == 32
