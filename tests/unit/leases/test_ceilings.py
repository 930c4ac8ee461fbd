"""Ceilings: the host grants a lease below the ceiling of its principal whole, and refuses any other."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from arcp_proto.engine.output import Audit
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import Principal
from arcp_proto.leases.ceilings import Ceiling, ceiling_for
from tests.unit.server.jobs.test_gate import at
from tests.unit.world import CONFIG, World

DATA: Final = Ceiling(lease={"fs.read": ["/data/**"], "tool.call": ["search", "get"]})
MONEY: Final = Ceiling(lease={"cost.budget": ["USD:5", "EUR:1"]})


def asked(
    ceilings: tuple[Ceiling, ...], *, token: str = "tok-alice", agent: str = "echo", **submit: Any
) -> str:
    """Submit a job, and return the code of the refusal, or an empty text if it is accepted."""
    config = {name: submit.pop(name) for name in ("models_required",) if name in submit}
    world = World(msgspec.structs.replace(CONFIG, ceilings=ceilings, **config))
    peer = world.client()
    answer = peer.send("job.submit", {"agent": agent, "input": None, **submit})[0]
    assert answer["type"] in ("job.accepted", "session.error")
    if answer["type"] == "job.accepted":
        assert answer["payload"]["lease"] == submit.get("lease_request", {}), "never cut"
        return ""
    assert not world.state.jobs
    code: str = answer["payload"]["code"]
    return code


@pytest.mark.parametrize(
    ("lease", "code"),
    [
        ({}, ""),
        ({"fs.read": ["/data/a", "/data/b/**"]}, ""),
        ({"tool.call": ["get"]}, ""),
        ({"fs.read": ["/data/**"], "tool.call": ["get", "search"]}, ""),
        ({"fs.read": ["/**"]}, "PERMISSION_DENIED"),
        ({"fs.read": ["/data/a", "/etc"]}, "PERMISSION_DENIED"),
        ({"fs.write": ["/data/a"]}, "PERMISSION_DENIED"),
        ({"fs.write": []}, ""),
        ({"tool.call": ["*"]}, "PERMISSION_DENIED"),
        ({"cost.budget": ["USD:1000000"]}, ""),
    ],
)
def test_a_lease_is_covered_by_its_ceiling_or_refused(lease: Any, code: str) -> None:
    assert asked((DATA,), lease_request=lease) == code


@pytest.mark.parametrize("named", [{"principal": "*"}, {"agent": "*"}, {"principal": "*", "agent": "*"}])
def test_a_ceiling_for_a_star_binds_every_principal_and_every_agent(named: dict[str, str]) -> None:
    ceiling = Ceiling(lease={"fs.read": ["/data/**"]}, **named)
    assert asked((ceiling,), lease_request={"fs.read": ["/data/a"]}) == ""
    assert asked((ceiling,), lease_request={"fs.read": ["/etc"]}) == "PERMISSION_DENIED"


def test_without_a_ceiling_a_lease_is_granted_as_asked() -> None:
    assert asked((), lease_request={"fs.write": ["/**"], "net.fetch": ["**"]}) == ""


@pytest.mark.parametrize(
    ("amounts", "code"),
    [
        (["USD:5", "EUR:1"], ""),
        (["USD:4.99", "EUR:0", "credits:1000"], ""),
        (["USD:5"], "PERMISSION_DENIED"),
        (["USD:5.000000001", "EUR:1"], "PERMISSION_DENIED"),
        (["USD:3", "USD:3", "EUR:1"], "PERMISSION_DENIED"),
        (None, "PERMISSION_DENIED"),
    ],
)
def test_a_budget_is_named_and_not_above_its_ceiling(amounts: Any, code: str) -> None:
    lease = {} if amounts is None else {"cost.budget": amounts}
    assert asked((MONEY,), lease_request=lease) == code


@pytest.mark.parametrize(
    ("expires", "code"), [(60, ""), (1, ""), (61, "PERMISSION_DENIED"), (None, "PERMISSION_DENIED")]
)
def test_a_lease_ends_within_its_ceiling(expires: float | None, code: str) -> None:
    constraints = {} if expires is None else {"lease_constraints": {"expires_at": at(expires)}}
    assert asked((Ceiling(lease={}, longest_expiry_sec=60),), lease_request={}, **constraints) == code


def test_a_lease_must_name_a_model_where_any_would_be_allowed() -> None:
    models = (Ceiling(lease={"model.use": ["small-*"]}),)
    assert asked(models, lease_request={"model.use": ["small-3"]}, models_required=False) == ""
    assert asked(models, lease_request={}, models_required=False) == "PERMISSION_DENIED"
    assert asked(models, lease_request={}) == ""
    assert asked((Ceiling(lease={}),), lease_request={}, models_required=False) == ""


def test_the_first_ceiling_that_is_for_a_submit_binds_it() -> None:
    ceilings = (
        Ceiling(principal="alice", agent="echo@1.0.0", lease={"tool.call": ["a"]}),
        Ceiling(principal="alice", agent="echo", lease={"tool.call": ["b"]}),
        Ceiling(agent="plain", lease={"tool.call": ["c"]}),
        Ceiling(principal="bob", lease={"tool.call": ["d"]}),
    )
    found = {
        (principal, agent, version): ceiling_for(ceilings, Principal(principal), agent, version)
        for principal in ("alice", "bob", "eve")
        for agent, version in (("echo", "1.0.0"), ("echo", "2.0.0"), ("plain", None))
    }
    assert {key: None if one is None else one.lease["tool.call"][0] for key, one in found.items()} == {
        ("alice", "echo", "1.0.0"): "a",
        ("alice", "echo", "2.0.0"): "b",
        ("alice", "plain", None): "c",
        ("bob", "echo", "1.0.0"): "d",
        ("bob", "echo", "2.0.0"): "d",
        ("bob", "plain", None): "c",
        ("eve", "echo", "1.0.0"): None,
        ("eve", "echo", "2.0.0"): None,
        ("eve", "plain", None): "c",
    }


def test_a_ceiling_is_checked_after_agent_and_grammar_and_before_expiry() -> None:
    wide, past = {"fs.write": ["/**"]}, {"expires_at": "2020-01-01T00:00:00Z"}
    assert asked((DATA,), agent="nobody", lease_request=wide) == "AGENT_NOT_AVAILABLE"
    assert asked((DATA,), lease_request={**wide, "nonsense": []}) == "INVALID_REQUEST"
    assert asked((DATA,), lease_request=wide, lease_constraints=past) == "PERMISSION_DENIED"
    assert asked((DATA,), lease_request={}, lease_constraints=past) == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "ceiling",
    [
        Ceiling(lease={"fs.read": ["relative"]}),
        Ceiling(lease={"nonsense": ["x"]}),
        Ceiling(lease={"cost.budget": ["five"]}),
        Ceiling(lease={}, longest_expiry_sec=0),
        Ceiling(lease={}, longest_expiry_sec=-1),
    ],
)
def test_a_wrong_ceiling_raises(ceiling: Ceiling) -> None:
    with pytest.raises(LocalProtocolError):
        World(ceilings=(ceiling,))


def test_a_lease_beyond_its_ceiling_is_an_audit_fact() -> None:
    world = World(ceilings=(DATA,))
    peer = world.client()
    peer.send("job.submit", {"agent": "echo", "input": None, "lease_request": {"fs.write": ["/data/a"]}})
    fact = world.last(Audit)
    assert (fact.what, fact.principal) == ("ceiling_exceeded", "alice")
    assert fact.facts == {"session_id": peer.session_id, "agent": "echo", "namespace": "fs.write"}
