"""Idempotency keys: equal submits, the state that is kept for a key, and the end of a key (§7.2)."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import combinations
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import SECOND, JobId, Principal, UnixTime
from arcp_proto.limits import MAX_DEPTH, Limits
from arcp_proto.server.jobs.idempotency import Claim, Keys, fingerprint
from arcp_proto.wire.canonical_json import canonical_json
from arcp_proto.wire.codec import decode_value
from arcp_proto.wire.messages import LeaseConstraints

ALICE, BOB = Principal("alice"), Principal("bob")
TERMINAL = ("job.result", b'{"final_status":"success"', None)
DAY = Limits(idempotency_retention_sec=24 * 3600)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(0, 25).map(lambda power: 10**power)
    | st.integers(0, 25).map(lambda power: float(10**power))
    | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def of_input(value: Any) -> bytes:
    return fingerprint("echo", value, None, None, None)


def claim_of(size: int = 10) -> Claim:
    return Claim(b"f" * 32, JobId("job_1"), b"a" * size)


# Submits that are the same.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1", "1e0"),
        ("100", "1E2"),
        ("0", "-0.0"),
        ("-12.50", "-1.25e1"),
        ("1" + "0" * 30, "1e30"),
        ("1234567890123456", "1234567890123456.0"),
        ("-9007199254740992", "-9007199254740992.0"),
        ("10000000000000000", "1e16"),
        ("12345678901234568", "12345678901234568.0"),
        ('{"a": 1, "b": [2]}', '{"b": [2.0], "a": 1}'),
        ('{"a": {"x": null, "y": true}}', '{"a": {"y": true, "x": null}}'),
        ('"\\u00e4"', '"ä"'),
    ],
)
def test_equal_inputs_have_the_same_fingerprint(one: str, other: str) -> None:
    assert one != other
    assert of_input(decode_value(one.encode())) == of_input(decode_value(other.encode()))


def test_different_inputs_have_different_fingerprints() -> None:
    different: list[Any] = [
        *(None, True, False, 0, 1, -1, 10, 0.1, 1.5, 15, 10**30, 10**30 + 1, 10**400, 10**401, 1e-7, -1e-7),
        *(
            "",
            "1",
            "true",
            "null",
            "d1e0;",
            "n",
            [],
            [[]],
            {},
            [None],
            [1],
            ["1"],
            [1, 1],
            [[1], 1],
            [1, [1]],
        ),
        *({"a": None}, {"a": 1}, {"a": "1"}, {"": 1}, {"a": 1, "b": 1}, {"a": {"b": 1}}, ["a", 1], "a1"),
        *({"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "c": 2}}, {"a": 1, "b": {}}, {"a": {}, "b": 1}),
        *(["ab", "c"], ["a", "bc"], ["abc"], [{"a": 1}, {}], [{}, {"a": 1}]),
    ]
    for one, other in combinations(different, 2):
        assert of_input(one) != of_input(other), (one, other)


@pytest.mark.parametrize("digits", ["1", "15", "1234567"])
@pytest.mark.parametrize("zeros", [0, 1, 2, 15, 16, 17, 300])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_has_the_same_fingerprint_with_and_without_an_exponent(
    sign: str, digits: str, zeros: int
) -> None:
    plain, power = sign + digits + "0" * zeros, f"{sign}{digits}e{zeros}"
    around = '{"a": [0.5, "1.0", %s, 20], "1e5": "\\"1e5"}'
    inputs = [decode_value((around % text).encode()) for text in (plain, power)]
    assert of_input(inputs[0]) == of_input(inputs[1])
    assert of_input(decode_value(plain.encode())) == of_input(decode_value(power.encode()))
    assert of_input(int(plain)) != of_input(int(plain) + 1)


def test_the_deepest_input_has_a_fingerprint() -> None:
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert of_input(decode_value(deep)) != of_input(decode_value(deep[1:-1]))


@given(values, values)
def test_fingerprints_are_equal_exactly_for_equal_inputs(one: Any, other: Any) -> None:
    assert (of_input(one) == of_input(other)) == (exact(one) == exact(other))


@given(values)
def test_a_fingerprint_survives_the_wire(value: Any) -> None:
    again = decode_value(msgspec.json.encode(value))
    turned = decode_value(json.dumps(backwards(value)).encode())
    assert of_input(value) == of_input(again) == of_input(turned)


def exact(value: Any) -> Any:
    """Return a value whose parts compare equal exactly if they are the same JSON value."""
    match value:
        case None | bool() | str():
            return type(value).__name__, value
        case int() | float():
            return "number", Decimal(repr(value))
        case dict():
            return "object", {key: exact(item) for key, item in value.items()}
        case _:
            return "array", [exact(item) for item in value]


def backwards(value: Any) -> Any:
    """Return the same value with the keys of its objects in reverse order."""
    match value:
        case dict():
            return {key: backwards(value[key]) for key in reversed(value)}
        case list():
            return [backwards(item) for item in value]
        case _:
            return value


STORED: Final = (
    (
        '{"text": "a \\" 1.0, \\\\", "n": [1, 1.0, -0.0, 0.5, true, null]}',
        "4b9220330c334e6318de9e8eb00ee0a24bb55a123b958afa4983ac0f50f66036",
    ),
    (
        "[1e300, 1.5e16, 15e15, 1.2345678901234567e16, -1.5e-7, 9e15, -9e15, 5e-324]",
        "cbd6463e8894b358d17e38af5edbe18941b13873a6578bdba7a652b4c9a150d4",
    ),
    (
        "[10000000000000000, -12345678901234560, 1234567890123456789, 123456789012345600000000000]",
        "ee38d7a806be5a2c0c7a42ece8578e96cf563e3c8cfbe70bc24e172b1df9bc3c",
    ),
    (
        "[9007199254740993, 9007199254740992, 9007199254740992.0, 18446744073709551616, -1234567890123450]",
        "2a0b2944b016223e31a0c17e137bbc70a3c205ca50f024713747d7766b9d62ee",
    ),
)
"""Inputs, and their fingerprints in a journal of version 0.1.0."""


@pytest.mark.parametrize(("text", "stored"), STORED)
def test_the_fingerprints_in_journals_are_pinned(text: str, stored: str) -> None:
    assert of_input(decode_value(text.encode())).hex() == stored


@pytest.mark.parametrize(
    "number", [1.5e300, 1e16, 1.2345678901234567e16, 10.0, 10**20, 10**15 + 1, -0.0, 0.5]
)
@pytest.mark.parametrize(
    "beside", ["", "1.0", '",', '\\"', "\\\\", "\0\1", "1.5e300", "[10000000000000000000]"]
)
def test_strings_beside_numbers_keep_their_fingerprint(number: float, beside: str) -> None:
    written = canonical_json([beside, number, beside, {beside: number}])
    assert [one for one in json.loads(written) if isinstance(one, str)] == [beside, beside]
    assert list(json.loads(written)[3]) == [beside]
    assert canonical_json([beside, number]) == canonical_json([beside, decode_value(str(number).encode())])


def test_every_parameter_of_a_submit_changes_its_fingerprint() -> None:
    lease, constraints = {"tool.call": ["*"]}, LeaseConstraints("2030-01-01T00:00:00Z")
    submits = [
        fingerprint("echo", None, None, None, None),
        fingerprint("echo@1.0.0", None, None, None, None),
        fingerprint("echo", {}, None, None, None),
        fingerprint("echo", None, lease, None, None),
        fingerprint("echo", None, {"tool.call": []}, None, None),
        fingerprint("echo", None, {"tool.call": ["*", "*"]}, None, None),
        fingerprint("echo", None, None, constraints, None),
        fingerprint("echo", None, None, None, 1),
        fingerprint("echo", None, None, None, 2),
        fingerprint("echo", lease, None, None, None),
        fingerprint("echo", 1, None, None, None),
        fingerprint("echo", None, lease, constraints, 1),
    ]
    assert len({*submits}) == len(submits)
    assert {len(each) for each in submits} == {32}


def test_an_absent_and_an_empty_lease_have_the_same_fingerprint() -> None:
    bare = fingerprint("echo", None, None, None, None)
    assert fingerprint("echo", None, {}, None, None) == bare
    assert fingerprint("echo", None, None, LeaseConstraints(), None) == bare
    assert fingerprint("echo", None, {}, LeaseConstraints(None), None) == bare


def test_a_fingerprint_ignores_the_order_of_namespaces_but_not_of_patterns() -> None:
    one = fingerprint("echo", None, {"fs.read": ["/a", "/b"], "tool.call": ["*"]}, None, None)
    assert fingerprint("echo", None, {"tool.call": ["*"], "fs.read": ["/a", "/b"]}, None, None) == one
    assert fingerprint("echo", None, {"tool.call": ["*"], "fs.read": ["/b", "/a"]}, None, None) != one


# State that is kept for a key.


def test_a_key_belongs_to_its_principal() -> None:
    keys, claim = Keys(), claim_of()
    assert keys.get(ALICE, "k") is None
    keys.add(ALICE, "k", claim)
    assert keys.get(ALICE, "k") is claim
    assert keys.get(BOB, "k") is None
    keys.add(BOB, "k", claim_of())
    assert keys.get(BOB, "k") is not claim
    assert len(keys) == 2


def test_a_key_is_claimed_once() -> None:
    keys = Keys()
    keys.add(ALICE, "k", claim_of())
    with pytest.raises(InvariantViolated, match="claimed once"):
        keys.add(ALICE, "k", claim_of())


def test_a_claim_keeps_the_terminal() -> None:
    keys = Keys()
    keys.add(ALICE, "k", claim_of(10))
    assert keys.size(ALICE) == 1 + 32 + 10
    keys.ended(ALICE, "k", ("job.result", b"123", b"12345"), UnixTime(7))
    claim = keys.get(ALICE, "k")
    assert claim is not None
    assert (claim.ended, claim.ended_at) == (("job.result", b"123", b"12345"), 7)
    assert keys.size(ALICE) == 1 + 32 + 10 + 3 + 5
    keys.forget(ALICE, "k")
    assert (keys.size(ALICE), len(keys), keys.get(ALICE, "k")) == (0, 0, None)


def test_a_principal_without_keys_leaves_nothing_behind() -> None:
    keys = Keys()
    names = [Principal(f"p{number}") for number in range(100)]
    for name in names:
        for key in ("k", "l"):
            keys.add(name, key, claim_of())
    keys.ended(names[0], "k", TERMINAL, UnixTime(1))
    for name in names:
        keys.forget(name, "l")
    assert list(keys._held) == names
    for name in names:
        keys.forget(name, "k")
    assert (keys._held, keys._claims, keys._ended) == ({}, {}, [])


def test_the_oldest_key_skips_the_forgotten_ones() -> None:
    keys = Keys()
    for key in "abcd":
        keys.add(ALICE, key, claim_of())
    assert keys.oldest(ALICE) is None
    for at, key in enumerate("bacd"):
        keys.ended(ALICE, key, TERMINAL, UnixTime(at))
    left = []
    for key in ("c", "b", "a", "d"):
        left.append(keys.oldest(ALICE))
        keys.forget(ALICE, key)
    assert left == ["b", "b", "a", "d"]
    assert keys.oldest(ALICE) is None


def test_a_full_table_of_keys_names_its_limit() -> None:
    limits = Limits(
        max_principal_idempotency_keys=2, max_total_idempotency_keys=3, max_principal_idempotency_bytes=100
    )
    keys = Keys()
    assert keys.room(ALICE, 100, limits) is None
    assert keys.room(ALICE, 101, limits) == "max_principal_idempotency_bytes"
    keys.add(ALICE, "ä", claim_of(26))
    assert keys.room(ALICE, 40, limits) is None
    assert keys.room(ALICE, 41, limits) == "max_principal_idempotency_bytes"
    assert keys.room(BOB, 100, limits) is None
    keys.ended(ALICE, "ä", ("job.result", b"x" * 40, None), UnixTime(1))
    assert keys.room(ALICE, 0, limits) is None
    assert keys.room(ALICE, 1, limits) == "max_principal_idempotency_bytes"
    keys.add(ALICE, "l", claim_of(0))
    assert keys.room(ALICE, 0, limits) == "max_principal_idempotency_keys"
    assert keys.room(BOB, 0, limits) is None
    keys.add(BOB, "k", claim_of(0))
    assert keys.room(BOB, 0, limits) == "max_total_idempotency_keys"
    assert keys.room(Principal("carol"), 0, limits) == "max_total_idempotency_keys"
    keys.forget(ALICE, "ä")
    assert keys.room(ALICE, 0, limits) is None


# The end of a key.


def test_a_key_expires_a_day_after_the_end_of_its_job() -> None:
    keys = Keys()
    keys.add(ALICE, "k", claim_of())
    assert keys.next_due(DAY) is None
    assert keys.due(UnixTime(10**30), DAY) == []
    keys.ended(ALICE, "k", TERMINAL, UnixTime(5))
    due = keys.next_due(DAY)
    assert due == 5 + 24 * 3600 * SECOND
    assert keys.due(UnixTime(due - 1), DAY) == []
    assert keys.due(due, DAY) == [(ALICE, "k")]
    assert keys.due(due, DAY) == [(ALICE, "k")], "only the record takes it away"
    keys.forget(ALICE, "k")
    assert (keys.due(due, DAY), keys.next_due(DAY)) == ([], None)


def test_the_oldest_end_expires_first_even_if_the_clock_went_back() -> None:
    keys = Keys()
    for key, at in (("a", 30), ("b", 10), ("c", 20), ("d", 40)):
        keys.add(ALICE, key, claim_of())
        keys.ended(ALICE, key, TERMINAL, UnixTime(at * SECOND))
    limits = Limits(idempotency_retention_sec=100)
    assert keys.next_due(limits) == 110 * SECOND
    assert keys.due(UnixTime(130 * SECOND), limits) == [(ALICE, "b"), (ALICE, "c"), (ALICE, "a")]
    keys.forget(ALICE, "c")
    assert keys.due(UnixTime(130 * SECOND), limits) == [(ALICE, "b"), (ALICE, "a")]
    keys.forget(ALICE, "b")
    assert keys.next_due(limits) == 130 * SECOND


def test_expired_keys_come_in_the_order_of_their_ends() -> None:
    keys, limits = Keys(), Limits(idempotency_retention_sec=0)
    for place in range(50):
        keys.add(ALICE, str(place), claim_of())
        keys.ended(ALICE, str(place), TERMINAL, UnixTime(place * 37 % 50))
    ends = {place * 37 % 50: str(place) for place in range(50)}
    assert keys.due(UnixTime(39), limits) == [(ALICE, ends[at]) for at in range(40)]


def test_a_key_claimed_anew_does_not_expire_by_its_former_end() -> None:
    keys, limits = Keys(), Limits(idempotency_retention_sec=1)
    for key, at in (("a", 1), ("b", 2), ("c", 3)):
        keys.add(ALICE, key, claim_of())
        keys.ended(ALICE, key, TERMINAL, UnixTime(at))
    for key in ("b", "c"):
        keys.forget(ALICE, key)
        keys.add(ALICE, key, claim_of())
    assert keys.due(UnixTime(SECOND + 9), limits) == [(ALICE, "a")]
    keys.ended(ALICE, "b", TERMINAL, UnixTime(5))
    keys.ended(ALICE, "c", TERMINAL, UnixTime(3))
    assert keys.due(UnixTime(SECOND + 3), limits) == [(ALICE, "a"), (ALICE, "c")]
    assert keys.due(UnixTime(SECOND + 5), limits) == [(ALICE, "a"), (ALICE, "c"), (ALICE, "b")]
    for key in "abc":
        keys.forget(ALICE, key)
    assert (keys.due(UnixTime(SECOND + 9), limits), keys.next_due(limits)) == ([], None)


names = st.tuples(st.sampled_from([ALICE, BOB]), st.sampled_from("abcde"))
steps = st.lists(st.tuples(st.sampled_from(["add", "end", "forget", "due"]), names, st.integers(0, 20)))


@given(steps)
def test_keys_equal_a_plain_table(steps: list[tuple[str, tuple[Principal, str], int]]) -> None:
    keys, limits = Keys(), Limits(idempotency_retention_sec=0)
    table: dict[tuple[Principal, str], Claim] = {}
    for step, name, number in steps:
        known = table.get(name)
        if step == "add" and known is None:
            table[name] = claim_of(number)
            keys.add(*name, claim_of(number))
        elif step == "end" and known is not None and known.ended is None:
            known.ended, known.ended_at = ("job.error", b"e" * number, b"i"), UnixTime(number)
            keys.ended(*name, known.ended, known.ended_at)
        elif step == "forget" and known is not None:
            del table[name]
            keys.forget(*name)
        ends = sorted((claim.ended_at, *name) for name, claim in table.items() if claim.ended is not None)
        assert keys.due(UnixTime(number), limits) == [(who, key) for at, who, key in ends if at <= number]
        assert keys.next_due(limits) == (ends[0][0] if ends else None)
        assert list(keys.items()) == [(*name, claim) for name, claim in table.items()]
    restored = Keys()
    for principal, key, claim in keys.items():
        restored.load(principal, key, msgspec.structs.replace(claim))
    assert list(restored.items()) == list(keys.items())
    assert restored.due(UnixTime(20), limits) == keys.due(UnixTime(20), limits)
    for who in (ALICE, BOB):
        kept = sum(len(key) + claim.size for (owner, key), claim in table.items() if owner == who)
        assert keys.size(who) == restored.size(who) == kept
