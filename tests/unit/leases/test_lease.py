"""Lease requests and expiries that are accepted, and those that are refused."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import SECOND, UnixTime
from arcp_proto.leases.lease import Expiry, parse_expiry, parse_lease
from arcp_proto.limits import MAX_LEASE_BYTES, MAX_NAME_LENGTH, MAX_NAMESPACES, MAX_PATTERNS
from arcp_proto.namespaces import RESERVED
from arcp_proto.wire import codec

AT = UnixTime(1_778_715_720 * SECOND)  # 2026-05-13T23:42:00Z
NOW = UnixTime(AT - 3600 * SECOND)


def refused_lease(request: dict[str, list[str]]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse_lease(request)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert len(caught.value.message) < 1000
    return caught.value


def test_an_absent_lease_is_an_empty_lease() -> None:
    assert parse_lease(None) == {}
    assert parse_lease({}) == {}


def test_the_lease_of_the_draft_is_accepted_unchanged() -> None:
    request = {
        "fs.read": ["/workspace/myapp/**"],
        "fs.write": ["/workspace/myapp/src/**"],
        "net.fetch": ["https://api.example.com/**"],
        "tool.call": ["index.*"],
        "agent.delegate": ["code-*"],
        "cost.budget": ["USD:5.00", "credits:1000", "USD:1"],
        "model.use": ["tier-fast/*"],
        "x-vendor.acme.db": ["read", "read"],
    }
    assert parse_lease(request) == request


def test_order_is_kept_and_the_lease_is_a_copy() -> None:
    request = {"model.use": ["b", "a"], "fs.read": ["/b", "/a"]}
    lease = parse_lease(request)
    assert codec.encode_checked(lease) == b'{"model.use":["b","a"],"fs.read":["/b","/a"]}'
    request["fs.read"].append("/c")
    assert lease["fs.read"] == ["/b", "/a"]


@pytest.mark.parametrize("namespace", [name for name in RESERVED if name != "cost.budget"])
def test_an_empty_list_grants_nothing(namespace: str) -> None:
    assert parse_lease({namespace: []}) == {namespace: []}


def test_a_budget_names_an_amount() -> None:
    assert refused_lease({"cost.budget": []}).message == "cost.budget names no amount"
    assert "is not an amount" in refused_lease({"cost.budget": ["USD:1", "five"]}).message
    assert "is not an amount" in refused_lease({"cost.budget": ["**"]}).message


@pytest.mark.parametrize(
    "namespace", ["x-vendor.a", "x-vendor.acme.db-1", "x-vendor.acme:x/y", "x-vendor." + "a" * 247]
)
def test_vendors_have_namespaces_of_their_own(namespace: str) -> None:
    assert parse_lease({namespace: ["any text"]}) == {namespace: ["any text"]}


@pytest.mark.parametrize(
    "namespace",
    [
        "",
        "fs",
        "fs.delete",
        "FS.READ",
        "cost_budget",
        "x-vendor",
        "x-vendor.",
        "x-vendor.a b",
        "x-vendor.é",
        "x-vendor.a\n",
        "vendor.acme",
        " fs.read",
        pytest.param("x-vendor." + "a" * (MAX_NAME_LENGTH - 8), id="long"),
        pytest.param("y" * 100_000, id="very long"),
    ],
)
def test_any_other_namespace_is_refused(namespace: str) -> None:
    assert "is not a capability namespace" in refused_lease({namespace: []}).message


def test_every_pattern_is_checked_by_its_namespace() -> None:
    assert "is not an absolute path" in refused_lease({"fs.read": ["/ok", "relative"]}).message
    assert "is not a URL of the form" in refused_lease({"net.fetch": ["/ok"]}).message
    assert "a pattern is empty" in refused_lease({"tool.call": [""]}).message


def test_the_namespaces_of_a_lease_are_limited() -> None:
    request = {f"x-vendor.n{number}": ["a"] for number in range(MAX_NAMESPACES)}
    assert len(parse_lease(request)) == MAX_NAMESPACES
    refused = refused_lease({**request, "fs.read": ["/a"]})
    assert refused.details == {"limit": "lease_namespaces", "max": MAX_NAMESPACES}


def test_the_patterns_of_a_namespace_are_limited() -> None:
    assert len(parse_lease({"fs.read": ["/a"] * MAX_PATTERNS})["fs.read"]) == MAX_PATTERNS
    refused = refused_lease({"fs.read": ["/a"] * (MAX_PATTERNS + 1)})
    assert refused.message == "a lease_request has at most 64 patterns for fs.read, this one has 65"
    assert refused.details == {"limit": "lease_patterns", "max": MAX_PATTERNS}


def test_the_size_of_a_lease_is_limited_as_written() -> None:
    request = {"tool.call": ["a" * 500] * 32}
    room = MAX_LEASE_BYTES - len(codec.encode_checked(request))
    request["tool.call"].append("b" * (room - 3))
    assert len(codec.encode_checked(parse_lease(request))) == MAX_LEASE_BYTES
    request["tool.call"][-1] += "b"
    refused = refused_lease(request)
    assert refused.details == {"limit": "lease_bytes", "max": MAX_LEASE_BYTES}


@given(
    st.dictionaries(
        st.sampled_from(RESERVED) | st.text(),
        st.lists(st.text() | st.sampled_from(["/a/**", "https://a/", "USD:1", "**", "\ud800"])),
    )
)
def test_a_lease_is_taken_unchanged_or_refused(request: dict[str, list[str]]) -> None:
    try:
        lease = parse_lease(request)
    except Refusal as refused:
        assert refused.code is ErrorCode.INVALID_REQUEST
    else:
        assert list(lease.items()) == list(request.items())


@pytest.mark.parametrize(
    ("text", "expiry"),
    [
        ("2026-05-13T23:42:00Z", Expiry(AT, "2026-05-13T23:42:00Z")),
        ("2026-05-13t23:42:00z", Expiry(AT, "2026-05-13T23:42:00Z")),
        ("2026-05-13T23:42:00+00:00", Expiry(AT, "2026-05-13T23:42:00Z")),
        ("2026-05-13T23:42:00.000Z", Expiry(AT, "2026-05-13T23:42:00.000Z")),
        ("2026-05-13T23:42:00.000000001Z", Expiry(UnixTime(AT + 1), "2026-05-13T23:42:00.000000001Z")),
        (
            "9999-12-31T23:59:59.999999999Z",
            Expiry(UnixTime(253_402_300_800 * SECOND - 1), "9999-12-31T23:59:59.999999999Z"),
        ),
    ],
)
def test_an_expiry_is_a_utc_time_to_the_nanosecond(text: str, expiry: Expiry) -> None:
    assert parse_expiry(text, unix=NOW) == expiry


def test_an_expiry_lies_in_the_future() -> None:
    assert parse_expiry("2026-05-13T23:42:00Z", unix=UnixTime(AT - 1)).unix == AT
    for unix in (AT, AT + 1, 10**30):
        with pytest.raises(Refusal, match=r"2026-05-13T23:42:00Z is not in the future") as caught:
            parse_expiry("2026-05-13T23:42:00z", unix=UnixTime(unix))
        assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "never",
        "null",
        "2026-05-13",
        "2026-05-13T23:42:00",
        "2026-05-13T23:42:00-00:00",
        "2026-05-13T23:42:00+02:00",
        "2026-05-13T23:42:00.1234567890Z",
        "2026-12-31T23:59:60Z",
        "2027-02-29T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "99999999999999999999",
        pytest.param("x" * 100_000, id="long"),
    ],
)
def test_an_expiry_that_is_not_a_utc_time_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="is not a UTC time") as caught:
        parse_expiry(text, unix=NOW)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert len(caught.value.message) < 200


@given(st.text())
def test_any_text_is_an_expiry_or_refused(text: str) -> None:
    try:
        expiry = parse_expiry(text, unix=NOW)
    except Refusal:
        return
    assert expiry.unix > NOW


@given(st.datetimes(), st.sampled_from(["Z", "z", "+00:00"]))
def test_an_echoed_expiry_means_the_same_time(moment: datetime, zone: str) -> None:
    text = f"{moment}{zone}"
    expiry = parse_expiry(text, unix=UnixTime(-(10**20)))
    assert parse_expiry(expiry.text, unix=UnixTime(-(10**20))) == expiry
    assert expiry.text == str(moment).replace(" ", "T") + "Z"
