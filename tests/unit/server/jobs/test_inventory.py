"""Agents, their versions, and the version that a name resolves to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal
from arcp_proto.ids import qualified
from arcp_proto.limits import MAX_AGENT_LENGTH
from arcp_proto.server.jobs.inventory import AgentInfo, Inventory
from arcp_proto.wire.messages import AgentEntry

INVENTORY = Inventory(
    [
        AgentInfo("summarise", ("2026-05",)),
        AgentInfo("code-refactor", ("1.0.0", "2.0.0"), "2.0.0"),
        AgentInfo("echo"),
    ]
)


def test_the_welcome_lists_agents_by_name() -> None:
    assert INVENTORY.entries == [
        AgentEntry("code-refactor", ["1.0.0", "2.0.0"], "2.0.0"),
        AgentEntry("echo", []),
        AgentEntry("summarise", ["2026-05"], "2026-05"),
    ]


def test_a_runtime_may_have_no_agents() -> None:
    assert Inventory([]).entries == []


@pytest.mark.parametrize(
    ("agent", "resolved"),
    [
        ("code-refactor", ("code-refactor", "2.0.0")),
        ("code-refactor@1.0.0", ("code-refactor", "1.0.0")),
        ("code-refactor@2.0.0", ("code-refactor", "2.0.0")),
        ("summarise", ("summarise", "2026-05")),
        ("echo", ("echo", None)),
    ],
)
def test_a_bare_name_resolves_to_the_default_version(agent: str, resolved: tuple[str, str | None]) -> None:
    assert INVENTORY.resolve(agent) == resolved


@pytest.mark.parametrize("agent", ["unknown", "unknown@1.0.0", "code", "code-refactor2", "e"])
def test_an_unknown_name_is_not_available(agent: str) -> None:
    with pytest.raises(Refusal) as caught:
        INVENTORY.resolve(agent)
    assert caught.value.code is ErrorCode.AGENT_NOT_AVAILABLE
    assert caught.value.message == f"{agent.partition('@')[0]} is not registered"


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("code-refactor@3.0.0", "code-refactor@3.0.0 is not registered; versions: 1.0.0, 2.0.0"),
        ("code-refactor@1.0", "code-refactor@1.0 is not registered; versions: 1.0.0, 2.0.0"),
        ("echo@1", "echo@1 is not registered; versions: none"),
    ],
)
def test_an_unknown_version_is_not_available(agent: str, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        INVENTORY.resolve(agent)
    assert caught.value.code is ErrorCode.AGENT_VERSION_NOT_AVAILABLE
    assert caught.value.message == message


@pytest.mark.parametrize(
    "agent",
    [
        "",
        "@",
        "@1",
        "echo@",
        "Echo",
        "-echo",
        "echo@1@2",
        "echo 1",
        " echo",
        "echo\n",
        "échò",
        "echo@1/2",
        "echo@v\n",
    ],
)
def test_an_agent_that_breaks_the_grammar_is_invalid(agent: str) -> None:
    with pytest.raises(Refusal, match="is not an agent") as caught:
        INVENTORY.resolve(agent)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_the_length_of_an_agent_is_limited() -> None:
    longest = "echo@" + "1" * (MAX_AGENT_LENGTH - 5)
    with pytest.raises(Refusal) as caught:
        INVENTORY.resolve(longest)
    assert caught.value.code is ErrorCode.AGENT_VERSION_NOT_AVAILABLE
    with pytest.raises(Refusal) as caught:
        INVENTORY.resolve(longest + "1")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details == {"limit": "agent_length", "max": MAX_AGENT_LENGTH}


@given(st.text())
def test_every_text_is_resolved_or_refused(agent: str) -> None:
    try:
        name, version = INVENTORY.resolve(agent)
    except Refusal:
        return
    assert agent in (name, qualified(name, version))


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        ([AgentInfo("")], "is not an agent name"),
        ([AgentInfo("Echo")], "is not an agent name"),
        ([AgentInfo("echo@1")], "is not an agent name"),
        ([AgentInfo(".echo")], "is not an agent name"),
        ([AgentInfo("echo", ("",))], "is not a version"),
        ([AgentInfo("echo", ("1 0",))], "is not a version"),
        ([AgentInfo("echo", ("1@0",))], "is not a version"),
        ([AgentInfo("echo", ("1", "1"), "1")], "comes twice"),
        ([AgentInfo("echo", ("1", "2"))], "needs a default"),
        ([AgentInfo("echo", ("1", "2"), "3")], "needs a default"),
        ([AgentInfo("echo", ("1",), "2")], "needs a default"),
        ([AgentInfo("echo", (), "1")], "needs a default"),
        ([AgentInfo("echo", ("1",)), AgentInfo("echo", ("2",))], "same name"),
        ([AgentInfo("a" * (MAX_AGENT_LENGTH + 1))], "longer than"),
        ([AgentInfo("a", ("1" * (MAX_AGENT_LENGTH - 1),))], "longer than"),
    ],
)
def test_a_wrong_registration_raises_with_its_reason(agents: list[AgentInfo], message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        Inventory(agents)


@pytest.mark.parametrize(
    "agent",
    [
        AgentInfo("a" * MAX_AGENT_LENGTH),
        AgentInfo("a", ("1" * (MAX_AGENT_LENGTH - 2),)),
        AgentInfo("0._-", ("V1.0+build_7-x",)),
        AgentInfo("echo", ("1",), "1"),
    ],
)
def test_every_registered_agent_resolves(agent: AgentInfo) -> None:
    inventory = Inventory([agent])
    name, version = inventory.resolve(agent.name)
    assert inventory.resolve(qualified(name, version)) == (agent.name, version)


def test_a_qualified_name_has_the_version_if_there_is_one() -> None:
    assert qualified("echo", None) == "echo"
    assert qualified("echo", "1.0.0") == "echo@1.0.0"
