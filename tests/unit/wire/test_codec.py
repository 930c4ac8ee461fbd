"""Bytes and JSON: reading, refusing and writing, at any depth of the caller's stack."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal, Unreadable
from arcp_proto.ids import JobId, SessionId, control_id_prefix, event_id_prefix, ulid
from arcp_proto.limits import MAX_CONTAINERS, MAX_DEPTH
from arcp_proto.wire import codec, messages

JSON_VALUES: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4)
    ),
    max_leaves=12,
)
BITS: Final = st.binary(min_size=16, max_size=16)
TYPES: Final = sorted({*messages.TO_RUNTIME, *messages.TO_CLIENT})


def read(data: bytes) -> tuple[str, ...]:
    """Return the fields of a message, or the reason why it is refused."""
    try:
        envelope = codec.decode_envelope(data)
    except Unreadable as unreadable:
        assert unreadable.code is ErrorCode.INVALID_REQUEST
        return ("unreadable", unreadable.message)
    return (
        "read",
        *(repr(getattr(envelope, name)) for name in ("type", "id", "arcp", "job_id", "event_seq")),
    )


def envelope(text: str) -> codec.Envelope:
    return codec.decode_envelope(text.encode())


def ping(**fields: str) -> codec.Envelope:
    """Return a ping with more fields, each of which is given as JSON."""
    return envelope(
        "{" + "".join(f'"{name}":{text},' for name, text in fields.items()) + '"type":"session.ping"}'
    )


def at_depth(depth: int, call: Callable[[], Any]) -> Any:
    """Return the value of `call` where `depth` frames of Python lie below it."""
    frame, frames = sys._getframe(), 0
    while frame.f_back is not None:
        frame, frames = frame.f_back, frames + 1
    return climb(depth - frames, call)


def climb(more: int, call: Callable[[], Any]) -> Any:
    return call() if more <= 0 else climb(more - 1, call)


DEPTHS: Final = (0, 900, 960)
"""The numbers of frames below the call; CPython has a limit of 1,000, which 960 nearly reaches."""


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return ("returned", call())
    except (Refusal, LocalProtocolError) as error:
        return (type(error).__name__, str(error))


def everywhere(call: Callable[[], Any]) -> tuple[str, Any]:
    """Return the outcome of a call, and check that it is the same at every depth of the stack."""
    outcomes = [at_depth(depth, lambda: outcome(call)) for depth in DEPTHS]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    first: tuple[str, Any] = outcomes[0]
    return first


# Envelopes.


def test_an_envelope_with_everything() -> None:
    whole = envelope(
        '{"arcp":"1.1","id":"01J","type":"job.event","session_id":"s","job_id":"j","trace_id":"t",'
        '"event_seq":7,"extensions":{"x":1},"payload":{"kind":"log"}}'
    )
    assert (whole.arcp, whole.id, whole.type, whole.session_id) == ("1.1", "01J", "job.event", "s")
    assert (whole.job_id, whole.trace_id, whole.event_seq) == ("j", "t", 7)
    assert whole.extensions == {"x": 1}
    assert bytes(whole.payload) == b'{"kind":"log"}'


def test_an_envelope_with_a_type_alone() -> None:
    bare = envelope('{"type":"session.ping"}')
    assert (bare.arcp, bare.id, bare.session_id, bare.job_id) == ("1.1", "", None, None)
    assert (bare.trace_id, bare.event_seq, bare.extensions) == (None, None, None)
    assert bytes(bare.payload) == b"{}"


def test_nulls_are_absent() -> None:
    bare = ping(**{name: "null" for name in codec.Envelope.__struct_fields__ if name != "type"})
    assert (bare.arcp, bare.id, bare.session_id, bare.event_seq, bare.extensions) == (
        "1.1",
        "",
        None,
        None,
        None,
    )
    assert bytes(bare.payload) == b"null"


def test_unknown_fields_are_ignored() -> None:
    assert envelope('{"type":"session.ping","timestamp":{"a":[1e3]},"priority":5}').type == "session.ping"


@pytest.mark.parametrize("value", ["5", '"x"', "[1]", '{"a":1}', "true", "1.5"])
@pytest.mark.parametrize("name", ["id", "session_id", "job_id", "trace_id", "event_seq", "extensions"])
def test_a_field_of_another_type_is_absent_or_understood(name: str, value: str) -> None:
    """Check that only integers for event_seq, objects for extensions and strings for the rest are kept."""
    found = getattr(ping(**{name: value}), name)
    plain = json.loads(value)
    if name == "event_seq":
        assert found == (5 if value == "5" else None)
    elif name == "extensions":
        assert found == (plain if isinstance(plain, dict) else None)
    else:
        assert found == (plain if isinstance(plain, str) else "" if name == "id" else None)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0),
        ("5", 5),
        ("5.0", 5),
        ('"5"', 5),
        ("9223372036854775807", 2**63 - 1),
        ('"9223372036854775807"', 2**63 - 1),
        ("9223372036854775808", None),
        ('"99999999999999999999"', None),
        ("1e300", None),
        ("5.5", None),
        ("-1", None),
        ("true", None),
        ('"five"', None),
        ('"0"', 0),
        ('"٥"', None),
        ('"-5"', None),
        ('""', None),
    ],
)
def test_a_sequence_number_is_read_in_lenient_forms(written: str, number: int | None) -> None:
    assert ping(event_seq=written).event_seq == number


@pytest.mark.parametrize("value", [0, 5, -5, 10**30, 5.0, "5", "00000000000000000005"])
def test_whole_numbers_are_read(value: int | float | str) -> None:
    found = codec.whole_number(value)
    assert found == int(value)
    assert type(found) is int


@pytest.mark.parametrize(
    "value", [True, None, 5.5, "5.0", "", " 5", "5_0", "²", "000000000000000000005", [5]]
)
def test_a_number_that_is_not_whole_is_absent(value: object) -> None:
    assert codec.whole_number(value) is None


@pytest.mark.parametrize("version", ['"1"', '"1.0"', '"1.1"', '"1.99"', "1", "1.1", "1.0", "null"])
def test_versions_of_our_major_version_are_supported(version: str) -> None:
    assert ping(arcp=version).supported


@pytest.mark.parametrize(
    "version",
    [
        '"2"',
        '"2.0"',
        '"0.1"',
        '"11"',
        '""',
        '"1."',
        '"1.x"',
        '"1.1.1"',
        '"1.1\\n"',
        '"v1.1"',
        "2",
        "true",
        "[1]",
        '"1.11111111111111111111"',
        "[[[[[1]]]]]",
        "1e300",
    ],
)
def test_other_versions_are_not_supported(version: str) -> None:
    other = ping(arcp=version)
    assert not other.supported
    assert len(other.arcp) <= 16


@pytest.mark.parametrize("name", ["session_id", "job_id"])
def test_a_name_longer_than_any_id_is_absent(name: str) -> None:
    assert getattr(ping(**{name: f'"{"x" * 256}"'}), name) == "x" * 256
    assert getattr(ping(**{name: f'"{"x" * 257}"'}), name) is None


def test_an_id_is_bounded() -> None:
    assert len(envelope('{"type":"a","id":"%s"}' % ("é" * 256)).id) == 256
    with pytest.raises(Unreadable, match="longer than 256"):
        envelope('{"type":"a","id":"%s"}' % ("é" * 257))


@pytest.mark.parametrize(
    "text", ["{}", '{"type":null}', '{"type":5}', '{"type":""}', '{"Type":"session.ping"}']
)
def test_an_envelope_needs_a_type(text: str) -> None:
    with pytest.raises(Unreadable, match="no type"):
        envelope(text)


PING: Final = b'{"type":"session.ping","id":"1"}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \r\n\t ",
        b"null",
        b"true",
        b"5",
        b'"session.ping"',
        b"[]",
        b"[" + PING + b"]",
        b"\xef\xbb\xbf" + PING,
        PING + b" x",
        PING + PING,
        PING + b"\n" + PING,
        PING + b"\x00",
        PING[:-1],
        PING[1:],
        PING + b"}",
        b"{'type':'session.ping'}",
        b'{"type":"session.ping",}',
        b'{"type":"session.ping" /* why */}',
        b'{type:"session.ping"}',
        "{'type'}".encode("utf-16"),
        PING.decode().encode("utf-16"),
        PING.decode().encode("utf-32"),
        b'{"type":"session.ping","payload":{"a":01}}',
        b'{"type":"session.ping","payload":{"a":+1}}',
        b'{"type":"session.ping","payload":{"a":.5}}',
        b'{"type":"session.ping","payload":{"a":1.}}',
        b'{"type":"session.ping","payload":{"a":NaN}}',
        b'{"type":"session.ping","payload":{"a":Infinity}}',
        b'{"type":"session.ping","payload":{"a":-Infinity}}',
        b'{"type":"session.ping","payload":[1,}',
        b'{"type":"session.ping","payload":{"a":"\t"}}',
        b'{"type":"session.ping","payload":{"a":"\\x"}}',
        b'{"type":"session.ping","event_seq":1e400}',
        b'{"type":"session.ping","event_seq":' + b"9" * 5000 + b"}",
    ],
)
def test_bytes_that_are_not_an_envelope_are_unreadable(data: bytes) -> None:
    assert read(data)[0] == "unreadable"


@pytest.mark.parametrize(
    "position", ['"type":"a%s"', '"id":"%s","type":"a"', '"type":"a","%s":1', '"type":"a","x":"%s"']
)
@pytest.mark.parametrize("bad", ["\\ud800", "\\udfff", "\\ud800x", "\\ud800\\ud800", "x\\udc00\\ud800"])
def test_a_lone_surrogate_is_unreadable(position: str, bad: str) -> None:
    assert read(("{%s}" % (position % bad)).encode())[0] == "unreadable"


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\xe2\x82"]
)
def test_bytes_that_are_not_utf8_are_unreadable_anywhere(bad: bytes) -> None:
    whole = b'{"type":"a","id":"b","later":"c","payload":{"d":"e"},"extensions":{"f":"g"}} '
    for place in range(len(whole) + 1):
        assert read(whole[:place] + bad + whole[place:]) == ("unreadable", "the message is not UTF-8")


def test_text_beyond_ascii_is_kept() -> None:
    assert envelope('{"type":"é\\u00e9😀\\ud83d\\ude00"}').type == "éé😀😀"


def test_the_last_of_two_keys_counts() -> None:
    twice = envelope('{"type":"a","type":"b","payload":{"x":1},"payload":{"x":2}}')
    assert (twice.type, bytes(twice.payload)) == ("b", b'{"x":2}')


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_unreadable(data: bytes) -> None:
    assert read(data)[0] in ("read", "unreadable")


@given(JSON_VALUES)
def test_any_json_is_read_or_unreadable(value: Any) -> None:
    has_type = isinstance(value, dict) and isinstance(value.get("type"), str) and value["type"] != ""
    assert (read(json.dumps(value).encode())[0] == "read") == has_type


def test_an_unreadable_message_is_not_quoted() -> None:
    """Check that the reason does not quote the message, which may hold a token."""
    for text in (
        '{"token":"hunter2"',
        '{"token":"hunter2","type":5}',
        '{"token":"hunter2\\ud800","type":"a"}',
    ):
        assert "hunter2" not in "".join(read(text.encode()))


# Nesting.

NESTED: Final[dict[str, Callable[[int], str]]] = {
    "arrays": lambda depth: "[" * depth + "]" * depth,
    "objects": lambda depth: '{"a":' * depth + "1" + "}" * depth,
    "by turns": lambda depth: '[{"a":' * (depth // 2) + ("[]" if depth % 2 else "1") + "}]" * (depth // 2),
    "beside brackets in strings": lambda depth: '["]]}}\\"[",' * depth + "1" + "]" * depth,
    "never closed": lambda depth: "[" * depth,
    "closed by others": lambda depth: "[" * depth + "}" * depth,
}
POSITIONS: Final = {
    "payload": '{"type":"session.ping","payload":%s}',
    "inside the payload": '{"type":"session.ping","payload":{"a":[%s]}}',
    "unknown field": '{"type":"session.ping","later":%s}',
    "extensions": '{"type":"session.ping","extensions":{"a":%s}}',
    "id": '{"type":"session.ping","id":%s}',
    "arcp": '{"type":"session.ping","arcp":%s}',
    "event_seq": '{"type":"session.ping","event_seq":%s}',
    "type": '{"type":%s}',
    "before the type": '{"a":%s,"type":"session.ping"}',
    "alone": "%s",
}
AROUND: Final = {"inside the payload": 3, "extensions": 2, "alone": 0}
NO_TYPE: Final = ("type", "alone")
NOT_CLOSED: Final = ("never closed", "closed by others")


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("form", NESTED)
@pytest.mark.parametrize("total", [4, 63, 64, 65, 5000])
def test_the_depth_of_a_message_is_limited(position: str, form: str, total: int) -> None:
    """Check that a message is refused for its depth if and only if it nests deeper than 64, at any place."""
    depth = total - AROUND.get(position, 1)
    text = POSITIONS[position] % NESTED[form](max(depth, 1))
    kind, found = everywhere(lambda: read(text.encode()))
    assert kind == "returned"
    assert ("nests deeper" in found[1]) >= (total > MAX_DEPTH)
    if form in NOT_CLOSED or position in NO_TYPE:
        assert found[0] == "unreadable"
    else:
        assert found[0] == ("read" if total <= MAX_DEPTH else "unreadable")


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 5000])
@pytest.mark.parametrize("form", NESTED)
def test_the_depth_of_a_value_is_limited(form: str, depth: int) -> None:
    kind, _value = everywhere(lambda: codec.decode_value(NESTED[form](depth).encode()))
    assert kind == ("returned" if form not in NOT_CLOSED and depth <= MAX_DEPTH else "Unreadable")


def test_the_recursion_limit_is_as_it_was() -> None:
    limit = sys.getrecursionlimit()
    assert everywhere(lambda: codec.decode_value(b"[" * 64 + b"]" * 64))[0] == "returned"
    assert everywhere(lambda: codec.encode_checked(never_ending(1)))[0] == "LocalProtocolError"
    assert sys.getrecursionlimit() == limit


@given(JSON_VALUES)
def test_depth_is_measured_exactly(value: Any) -> None:
    def depth(item: Any) -> int:
        if not isinstance(item, dict | list):
            return 0
        return 1 + max(map(depth, item.values() if isinstance(item, dict) else item), default=0)

    text = json.dumps([value] * 70).encode()
    missing = MAX_DEPTH - 1 - depth(value)
    assert codec.check_depth(b"[" * missing + text + b"]" * missing)
    assert not codec.check_depth(b"[" * (missing + 1) + text + b"]" * (missing + 1))


@pytest.mark.parametrize(
    "text",
    [b'"' + b'\\"' * 2**20 + b"\\", b'"' * 2**21, b"[" * 2**21, b"[]" * 2**20, b'"' + b"\\" * 2**21],
    ids=["escaped quotes", "quotes", "open brackets", "pairs", "backslashes"],
)
def test_the_depth_of_two_megabytes_is_measured_quickly(text: bytes) -> None:
    """Measure a text for which a scan that begins again at every quote or bracket would take hours."""
    assert not codec.check_depth(b"[" * 65 + text)


# Values and payloads.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("5.0", 5.0),
        ("-0", 0),
        ("1e5", 1e5),
        ("1e-400", 0.0),
        ("18446744073709551616", 2**64),
        ("-" + "9" * 400, -int("9" * 400)),
        ('"\\u0000"', "\0"),
        ('{"a":1,"a":[2]}', {"a": [2]}),
        (" [null,true] ", [None, True]),
    ],
)
def test_values_are_decoded(text: str, value: Any) -> None:
    found = codec.decode_value(text.encode())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["1e400", "-1e400", "9" * 5000, "NaN", "[1e999]", '"\\ud800"', "", "nul", "1 2"]
)
def test_values_that_cannot_be_held_are_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        codec.decode_value(text.encode())


def test_a_value_that_is_not_utf8_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="not UTF-8"):
        codec.decode_value(b'"\xff"')
    with pytest.raises(Unreadable, match="not UTF-8"):
        codec.decode_value(msgspec.Raw(b'"\xff"'))


DECODE_PING: Final = msgspec.json.Decoder(messages.Ping).decode


def test_a_payload_of_the_exact_shape_is_decoded() -> None:
    payload = msgspec.Raw(b'{"nonce":"n","sent_at":"t","later":1}')
    assert codec.decode_payload(payload, DECODE_PING) == messages.Ping("n", "t")


@pytest.mark.parametrize("text", ["{}", "null", "[]", '{"nonce":5,"sent_at":"t"}', '{"nonce":"\\ud800"}'])
def test_a_payload_of_another_shape_is_refused(text: str) -> None:
    assert codec.decode_payload(msgspec.Raw(text.encode()), DECODE_PING) is None


# Values that are written.


@given(JSON_VALUES)
@example([[[]]])
@example({"a": [1e22, -0.0, 5e-324]})
def test_encoded_values_are_decoded_unchanged(value: Any) -> None:
    written = codec.encode_value(value)
    assert codec.decode_value(written) == json.loads(written) == value


class Word(StrEnum):
    A = "a"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ((1, [2]), b"[1,[2]]"),
        ({Word.A: Word.A}, b'{"a":"a"}'),
        (OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
        (2**64, b"18446744073709551616"),
        (5.0, b"5.0"),
        (True, b"true"),
    ],
)
def test_values_of_python_are_written_as_json(value: object, written: bytes) -> None:
    assert codec.encode_value(value) == written


def nested(depth: int, form: str = "arrays") -> Any:
    return json.loads(NESTED[form](depth)) if depth < 500 else in_lists(depth)


def in_lists(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def never_ending(width: int) -> Any:
    value: list[Any] = []
    value.extend([value] * width)
    return value


UNSAYABLE: Final[list[tuple[object, str]]] = [
    (float("nan"), "a number is not finite"),
    (float("inf"), "a number is not finite"),
    ({"a": [float("-inf")]}, "a number is not finite"),
    ({1, 2}, "a set is not a JSON value"),
    (frozenset([1]), "a frozenset is not a JSON value"),
    (b"bytes", "a bytes is not a JSON value"),
    (bytearray(b"bytes"), "a bytearray is not a JSON value"),
    (object(), "a object is not a JSON value"),
    ({"a": [{1: 2}]}, "a key of an object is a int"),
    ({None: 1}, "a key of an object is a NoneType"),
    ({(1,): 1}, "a key of an object is a tuple"),
    ({b"a": 1}, "a key of an object is a bytes"),
    (messages.Ping("n", "t"), "a Ping is not a JSON value"),
    (msgspec.Raw(b"{"), "a Raw is not a JSON value"),
    (MappingProxyType({"a": 1}), "this cannot be written as JSON"),
    ("\ud800", "a lone surrogate"),
    ({"\ud800": 1}, "a lone surrogate"),
    ([{"a": "x\udfff"}], "a lone surrogate"),
    (10**5000, "this cannot be written as JSON"),
    (never_ending(1), "or contains itself"),
    (never_ending(3), "or contains itself"),
    (nested(5000), "nests deeper than 62"),
    (nested(63), "nests deeper than 62"),
    (nested(63, "objects"), "nests deeper than 62"),
    (nested(63, "by turns"), "nests deeper than 62"),
]


@pytest.mark.parametrize(("value", "says"), UNSAYABLE, ids=[str(number) for number in range(len(UNSAYABLE))])
def test_a_value_that_is_not_json_raises(value: object, says: str) -> None:
    kind, message = everywhere(lambda: codec.encode_value(value))
    assert kind == "LocalProtocolError"
    assert says in message


@pytest.mark.parametrize("form", ["arrays", "objects", "by turns"])
def test_the_deepest_value_that_is_written_can_be_read(form: str) -> None:
    """Read the value inside an envelope and its payload, and leave room for the body of an event as well."""
    deepest = nested(MAX_DEPTH - 2, form)
    kind, written = everywhere(lambda: codec.encode_value(deepest))
    assert kind == "returned"
    message = b'{"type":"job.submit","payload":{"input":%b}}' % written
    assert everywhere(lambda: read(message))[1][0] == "read"
    codec.check_value(nested(MAX_DEPTH - 3, form), around=3)
    with pytest.raises(LocalProtocolError, match="nests deeper than 61"):
        codec.check_value(nested(MAX_DEPTH - 2, form), around=3)


@given(JSON_VALUES)
def test_a_checked_value_is_always_written(value: Any) -> None:
    codec.check_value(value)
    assert json.loads(codec.encode_checked(value)) == value


@pytest.mark.parametrize("message", [messages.Ping("\ud800", ""), messages.Submit("a", never_ending(1))])
def test_encode_checked_raises_only_local_protocol_error(message: msgspec.Struct) -> None:
    assert everywhere(lambda: codec.encode_checked(message))[0] == "LocalProtocolError"


def test_a_wrong_key_raises_only_local_protocol_error() -> None:
    assert outcome(lambda: codec.encode_checked({(1,): 2}))[0] == "LocalProtocolError"


# Envelopes that are written.


def test_a_control_envelope_with_everything() -> None:
    written = codec.control_envelope(
        "1ABC",
        "session.error",
        b'{"code":"X"}',
        session_id=SessionId("sess_1"),
        job_id=JobId("job_1"),
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        extensions=b'{"x":{}}',
    )
    assert written == (
        b'{"arcp":"1.1","id":"1ABC","type":"session.error","session_id":"sess_1","job_id":"job_1",'
        b'"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","extensions":{"x":{}},"payload":{"code":"X"}}'
    )


def test_a_control_envelope_with_nothing() -> None:
    written = codec.control_envelope("1ABC", "session.hello", b"{}")
    assert written == b'{"arcp":"1.1","id":"1ABC","type":"session.hello","payload":{}}'


@given(st.text(max_size=256), st.text(max_size=256), st.text(max_size=256))
@example('","type":"job.submit', '"', "\\")
def test_ids_of_a_peer_cannot_break_an_envelope(message_id: str, session_id: str, job_id: str) -> None:
    written = codec.control_envelope(
        message_id, "session.error", b"{}", session_id=SessionId(session_id), job_id=JobId(job_id)
    )
    found = codec.decode_envelope(written)
    assert found.type == "session.error"
    assert (found.id, found.session_id, found.job_id) == (message_id, session_id, job_id)


PREFIX: Final = event_id_prefix(SessionId("sess_1")).encode()


def test_an_event_envelope_with_everything() -> None:
    head = codec.event_head("job.event", JobId("job_1"), "4bf92f3577b34da6a3ce929d0e0e4736", b'{"x":{}}')
    written = codec.event_envelope(head, PREFIX, b"sess_1", 7, b'{"kind":"log"')
    assert written == (
        b'{"arcp":"1.1","id":"%b0000000007","type":"job.event","session_id":"sess_1","job_id":"job_1",'
        b'"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","event_seq":7,"extensions":{"x":{}},'
        b'"payload":{"kind":"log"}}' % PREFIX
    )


def test_an_event_envelope_without_trace_and_extensions() -> None:
    head = codec.event_head("job.cancelled", JobId("job_1"), None)
    written = codec.event_envelope(head, PREFIX, b"sess_1", 12345, b'{"job_id":"job_1"')
    assert written == (
        b'{"arcp":"1.1","id":"%b0000012345","type":"job.cancelled","session_id":"sess_1","job_id":"job_1",'
        b'"event_seq":12345,"payload":{"job_id":"job_1"}}' % PREFIX
    )


@given(st.text(st.sampled_from("%bds(){}0 "), max_size=20), JSON_VALUES)
def test_ids_and_extensions_are_never_templates(text: str, value: Any) -> None:
    """Check that extensions and payloads with characters of a format are not taken for one."""
    extensions = codec.encode_value({text: text})
    payload = codec.encode_value({"a": value, "b": text})[:-1]
    head = codec.event_head("job.event", JobId("job_" + text), None, extensions)
    found = codec.decode_envelope(codec.event_envelope(head, PREFIX, b"sess_1", 7, payload))
    assert (found.job_id, found.event_seq, found.extensions) == ("job_" + text, 7, {text: text})
    assert codec.decode_value(found.payload) == {"a": value, "b": text}


@given(st.lists(st.integers(1, 10**12), min_size=2, max_size=2, unique=True))
def test_the_ids_of_events_differ_and_sort_by_their_number(numbers: list[int]) -> None:
    head = codec.event_head("job.event", JobId("job_1"), None)
    ids = [
        codec.decode_envelope(codec.event_envelope(head, PREFIX, b"sess_1", number, b'{"a":1')).id
        for number in numbers
    ]
    assert ids[0] != ids[1]
    if max(numbers) < 10**10:
        assert (ids[0] < ids[1]) == (numbers[0] < numbers[1])
        assert [len(message_id) for message_id in ids] == [26, 26]


@given(BITS, BITS, st.integers(0, 10**20 - 1), st.sampled_from(TYPES), st.booleans())
@example(bytes(16), bytes(16), 10**20 - 1, max(TYPES, key=len), True)
def test_no_head_is_longer_than_head_bytes(
    session: bytes, job: bytes, number: int, message_type: str, traced: bool
) -> None:
    session_id, job_id = SessionId("sess_" + ulid(session)), JobId("job_" + ulid(job))
    trace_id = "f" * 32 if traced else None
    head = codec.event_head(message_type, job_id, trace_id)
    tail = codec.event_tail(2**63 - 1)
    event = codec.event_envelope(
        head, event_id_prefix(session_id).encode(), session_id.encode(), number, b"{", tail
    )
    control = codec.control_envelope(
        control_id_prefix(job) + f"{number:010}",
        message_type,
        b"{}",
        session_id=session_id,
        job_id=job_id,
        trace_id=trace_id,
    )
    assert max(len(event), len(control)) - len(b"{}") <= codec.HEAD_BYTES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1, 2.5, true]", False),
        ('{"e": 1}', False),
        ("1e5", True),
        ("1E5", True),
        ("9E-5", True),
        ("1.5e+300", True),
        ('"0e"', True),
    ],
)
def test_has_exponents_finds_exponents(text: str, found: bool) -> None:
    assert codec.has_exponents(text.encode()) is found


@given(
    st.lists(
        st.tuples(
            st.integers(), st.sampled_from(["", ".5", ".25"]), st.sampled_from("eE"), st.integers(-400, 400)
        ),
        min_size=1,
    )
)
def test_a_long_text_with_exponents_is_read_as_a_short_one(parts: list[tuple[int, str, str, int]]) -> None:
    numbers = [f"{whole}{fraction}{letter}{power}" for whole, fraction, letter, power in parts]
    each: list[object] = []
    for number in numbers:
        try:
            each.append(codec.decode_value(number.encode()))
        except Unreadable as unreadable:
            assert str(unreadable) == codec.NO_OBJECT
            each.append(None)
    text = f"[{', '.join(numbers)}{' ' * 512}]".encode()
    if None in each:
        with pytest.raises(Unreadable, match=codec.NO_OBJECT):
            codec.decode_value(text)
    else:
        assert codec.decode_value(text) == each
        assert all(type(number) is float for number in each)


class Texts(msgspec.Struct):
    """A shape without floats."""

    values: list[str | int]


class Values(msgspec.Struct):
    """A shape with floats."""

    values: list[Any]


@pytest.mark.parametrize("value", ["x", 5, 1.5, 1e300, None, True, "1e5" * 400, [["x" * 600]], 2**60])
@pytest.mark.parametrize("filling", [0, 600])
def test_a_shape_without_floats_is_only_a_shortcut(value: object, filling: int) -> None:
    decoders: codec.Decoders[Any] = codec.Decoders(Values, without_floats=Texts)
    data = msgspec.json.encode({"values": ["x" * filling, value]})
    for others in ([], [b"x" * 1000]):
        found = decoders.suited_to([data, *others])(data)
        assert found.values == decoders.either(data).values == ["x" * filling, value]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"values":5}', b'{"values":[1e999],"x":"' + b"x" * 600 + b'"}']
)
def test_a_value_that_fits_no_shape_raises(data: bytes) -> None:
    decoders: codec.Decoders[Any] = codec.Decoders(Values, without_floats=Texts)
    with pytest.raises(ValueError):
        decoders.suited_to([data])(data)


# The number of objects and lists in a message.


def calls_of(function: Any, data: bytes) -> int:
    """Return how many calls of C functions one call of `function` makes."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "c_call"

    sys.setprofile(count)
    try:
        function(data)
    finally:
        sys.setprofile(None)
    return calls


def test_depth_is_one_pass_however_deep() -> None:
    flat = b"[" + b"[]," * 40_333 + b" []]"
    deep = b"[" + (b"[" * 60 + b"]" * 60 + b",") * 1_000 + b"[]]"
    assert codec.check_depth(flat) and codec.check_depth(deep) and len(flat) == len(deep) == 121_004
    assert calls_of(codec.check_depth, deep) == calls_of(codec.check_depth, flat) <= 18


@pytest.mark.parametrize("pair", ["[]", "{}", '{"":0}', '["]","[[[["]'])
@pytest.mark.parametrize(
    ("text", "around"),
    [
        ('{"type":"x","payload":{"input":[%s]}}', 3),
        ('{"type":"x","payload":{},"extensions":{"x":[%s]}}', 4),
        ('{"type":"x","payload":{},"trace_id":[%s]}', 3),
    ],
)
def test_a_message_holds_at_most_100_000_objects_and_lists(pair: str, text: str, around: int) -> None:
    most = MAX_CONTAINERS - around
    assert codec.decode_envelope((text % ",".join([pair] * most)).encode()).type == "x"
    with pytest.raises(Unreadable, match="more than 100000 objects and lists"):
        codec.decode_envelope((text % ",".join([pair] * (most + 1))).encode())


def test_brackets_in_strings_do_not_count_as_containers() -> None:
    text = '{"type":"x","payload":{"input":"%s"}}' % ("[{" * 200_000)
    assert codec.decode_envelope(text.encode()).type == "x"


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), JSON_VALUES, max_size=4)
)
def test_an_open_object_may_get_another_field(value: dict[str, Any]) -> None:
    whole = codec.encode_value({"a": 1, **value})
    payload = codec.opened(whole)
    assert codec.decode_open(payload) == codec.decode_value(whole)
    assert codec.decode_value(payload + b',"job_seq":7}') == {**codec.decode_value(whole), "job_seq": 7}


def test_an_event_is_an_open_object() -> None:
    payload = codec.open_event("log", "2026-01-01T00:00:00.000Z", b'{"level":"info"}')
    assert codec.decode_open(payload) == {
        "kind": "log",
        "ts": "2026-01-01T00:00:00.000Z",
        "body": {"level": "info"},
    }
