"""arcp_io.cluster.guests: the tenant in the URL of a client, and rights across tenants."""

from __future__ import annotations

import logging
import re
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_io.cluster.guests import (
    MAX_TENANT,
    Rights,
    fault_of_query,
    rights_of,
    tenant_asked,
    warn_of_guests,
)
from arcp_proto import LocalProtocolError

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=MAX_TENANT)
pieces = st.lists(
    st.sampled_from(
        ["tenant", "=", "&", "?", "#", ";", "%", "%74", "%3D", "%26", "%ff", "%00", "+", "a", "é", "\udcff"]
    )
    | st.text(max_size=4),
    max_size=12,
).map("".join)


@given(names)
def test_a_tenant_is_read_as_it_was_written(name: str) -> None:
    for written in (quote(name, safe=""), quote_plus(name)):
        assert tenant_asked(f"/arcp?tenant={written}") == name
    assert tenant_asked("/arcp?" + urlencode({"x": "1", "tenant": name, "y": name})) == name


@given(pieces)
def test_any_query_is_read_or_refused(query: str) -> None:
    target = f"/arcp?{query}"
    try:
        tenant = tenant_asked(target)
    except ValueError as error:
        assert fault_of_query(target) == str(error) != ""
        return
    assert fault_of_query(target) == ""
    assert tenant is None or (
        1 <= len(tenant.encode().decode()) <= MAX_TENANT and not re.search("[\x00-\x1f\x7f]", tenant)
    )


@given(names, names, st.data())
def test_a_parameter_that_is_given_twice_is_refused_however_it_is_written(
    one: str, other: str, data: st.DataObject
) -> None:
    def escaped(name: str) -> str:
        return "".join(f"%{ord(char):02x}" if data.draw(st.booleans()) else char for char in name)

    pairs = [
        f"{escaped('tenant')}={quote(one, safe='')}",
        f"{escaped('tenant')}={quote(other, safe='')}",
        "a=b",
    ]
    query = "&".join(data.draw(st.permutations(pairs)))
    with pytest.raises(ValueError, match="more than once"):
        tenant_asked(f"/arcp?{query}")


@pytest.mark.parametrize(
    ("target", "tenant"),
    [
        ("/arcp", None),
        ("/arcp?", None),
        ("/arcp?x=1", None),
        ("/arcp?Tenant=acme", None),
        ("/arcp?tenants=acme", None),
        ("/arcp?x=tenant=acme", None),
        ("/arcp?x=1;tenant=acme", None),
        ("/tenant=acme", None),
        ("/arcp?tenant=acme", "acme"),
        ("/arcp?%74enant=acme", "acme"),
        ("/arcp?x&tenant=acme&", "acme"),
        ("/arcp?tenant=a=b?c", "a=b?c"),
        ("/arcp?tenant=a+b%2Bc%26d", "a b+c&d"),
        ("/arcp?tenant=caf%C3%A9", "café"),
        ("/arcp?tenant=" + "%C3%A9" * MAX_TENANT, "é" * MAX_TENANT),
    ],
)
def test_a_query_names_a_tenant_or_none(target: str, tenant: str | None) -> None:
    assert tenant_asked(target) == tenant
    assert fault_of_query(target) == ""


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("tenant", "characters"),
        ("tenant=", "characters"),
        ("tenant=" + "a" * (MAX_TENANT + 1), "characters"),
        ("tenant=secret&tenant=secret", "more than once"),
        ("tenant=secret&%74%65nant=", "more than once"),
        ("tenant=secret%", "percent"),
        ("tenant=secret%4", "percent"),
        ("tenant=secret%zz", "percent"),
        ("tenant=secret%ff", "UTF-8"),
        ("tenant=secret%ed%a0%80", "UTF-8"),
        ("tenant=secret\udcff", "UTF-8"),
        ("tenant=secret%00", "control"),
        ("tenant=secret%0d%0aX:+1", "control"),
        ("tenant=secret%c2%85", "control"),
    ],
)
def test_a_query_that_is_not_clear_is_refused_and_not_shown(query: str, why: str) -> None:
    fault = fault_of_query(f"/arcp?{query}")
    assert why in fault
    assert "secret" not in fault


def test_rights_are_those_of_observers_or_of_guests() -> None:
    teams = {"alice": "a", "amy": "a", "bob": "b", "carol": "c"}
    observers = {
        "carol": {"alice": "observe", "amy": "list", "bob": "list", "carol": "observe", "*": "observe"},
        "alice": {"amy": "list"},
    }
    assert rights_of(observers, teams.__getitem__) == Rights(
        {"carol": {"carol": "observe", "*": "observe"}, "alice": {"amy": "list"}},
        {"carol": {"a": {"alice": "observe", "amy": "list"}, "b": {"bob": "list"}}},
    )
    assert rights_of({}, teams.__getitem__) == Rights({}, {})


@pytest.mark.parametrize("owner", ["alice", "bob", "*"])
def test_an_unknown_right_raises(owner: str) -> None:
    with pytest.raises(LocalProtocolError, match="write"):
        rights_of({"alice": {owner: "write"}}, lambda principal: principal)


def test_a_right_across_tenants_is_logged_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "arcp_io")
    warn_of_guests(rights_of({"alice": {"alice": "observe", "*": "list"}}, lambda principal: principal))
    assert not caplog.records
    warn_of_guests(
        rights_of({"alice": dict.fromkeys(["b", "c", "d", "e"], "list")}, lambda principal: principal)
    )
    (logged,) = caplog.records
    shown = "(alice to jobs of b, alice to jobs of c, alice to jobs of d, ...)"
    assert logged.getMessage().startswith(f"observers gives 4 rights across tenants {shown}:")
