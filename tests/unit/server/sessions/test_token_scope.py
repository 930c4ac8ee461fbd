"""Scopes of bearer tokens: the agents and the leases that a session may submit (§6.1, §9.2, §14)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from arcp_proto import Ceiling, LocalProtocolError, TokenScope
from arcp_proto.engine.output import Audit, StartJob
from arcp_proto.ids import Principal
from arcp_proto.leases import MAX_SCOPE_BYTES, check_scope
from arcp_proto.recording import replay
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.runtime import Runtime
from tests.unit.test_recording import pulled, recorded
from tests.unit.world import CONFIG, Peer, World

AGENTS = (AgentInfo("echo"), AgentInfo("search", ("1", "2"), "2"), AgentInfo("spend"))
JOURNAL = msgspec.structs.replace(CONFIG, journal=True, agents=AGENTS)
ECHO = TokenScope(agents=("echo",))


def opened(world: World, scope: TokenScope | None, **resume: Any) -> Peer:
    """Return a client whose token has a scope."""
    peer = world.connect()
    peer.hello(resume=resume or None)
    world.verdict("alice", scope=scope)
    return peer


def answer(peer: Peer, agent: str, **payload: Any) -> dict[str, Any]:
    """Submit a job, and return the type of the answer with its code, message and details."""
    frame = peer.send("job.submit", {"agent": agent, "input": None, **payload})[-1]
    found: dict[str, Any] = {"type": frame["type"], **frame["payload"]}
    return found


def listed(peer: Peer) -> list[Any]:
    """Return the agents of the last welcome."""
    agents: list[Any] = peer.of("session.welcome")[-1]["payload"]["capabilities"]["agents"]
    return agents


def test_a_token_without_a_scope_allows_every_agent() -> None:
    world = World(JOURNAL, tokens=None)
    peer = opened(world, None)
    assert [answer(peer, name)["type"] for name in ("echo", "search", "spend")] == ["job.accepted"] * 3


@pytest.mark.parametrize(
    ("agents", "allowed"),
    [
        ((), []),
        (("*",), ["echo", "search", "search@1", "spend"]),
        (("echo",), ["echo"]),
        (("search",), ["search", "search@1"]),
        (("search@2",), ["search"]),
        (("search@1",), ["search@1"]),
        (("ech", "echo@1", "search@3"), []),
    ],
)
def test_a_scope_allows_the_agents_that_it_names(agents: tuple[str, ...], allowed: list[str]) -> None:
    world = World(JOURNAL, tokens=None)
    peer = opened(world, TokenScope(agents=agents))
    found = {name: answer(peer, name) for name in ("echo", "search", "search@1", "spend")}
    assert [name for name, got in found.items() if got["type"] == "job.accepted"] == allowed
    denied = [got for name, got in found.items() if name not in allowed]
    assert [got["code"] for got in denied] == ["PERMISSION_DENIED"] * len(denied)
    assert len(world.all(StartJob)) == len(allowed)
    facts = [fact.facts["namespace"] for fact in world.all(Audit) if fact.what == "ceiling_exceeded"]
    assert facts == ["agent"] * len(denied)


def test_the_welcome_lists_the_agents_and_versions_that_the_token_allows() -> None:
    world = World(JOURNAL, tokens=None)
    assert [entry["name"] for entry in listed(opened(world, None))] == ["echo", "search", "spend"]
    (entry,) = listed(opened(world, TokenScope(agents=("search@1",))))
    assert (entry["name"], entry["versions"], entry.get("default")) == ("search", ["1"], None)
    (entry,) = listed(opened(world, TokenScope(agents=("search@2",))))
    assert (entry["versions"], entry["default"]) == (["2"], "2")
    assert listed(opened(world, TokenScope(agents=()))) == []


def test_the_lease_is_within_the_ceiling_of_the_token_and_that_of_the_runtime() -> None:
    ours = Ceiling(lease={"cost.budget": ["USD:5"]})
    world = World(msgspec.structs.replace(JOURNAL, ceilings=(ours,)), tokens=None)
    theirs = Ceiling(agent="spend", lease={"cost.budget": ["USD:10"]}, longest_expiry_sec=60)
    peer = opened(world, TokenScope(ceilings=(theirs,)))
    soon, late = (moment(world.state.wall, seconds) for seconds in (50, 70))
    for budget, expires_at, code in (
        ("USD:5", soon, None),
        ("USD:6", soon, "cost.budget"),
        ("USD:5", late, "expires_at"),
        ("USD:5", None, "expires_at"),
    ):
        constraints = {} if expires_at is None else {"lease_constraints": {"expires_at": expires_at}}
        got = answer(peer, "spend", lease_request={"cost.budget": [budget]}, **constraints)
        assert got.get("details", {}).get("namespace") == code, (budget, expires_at, got)
    narrow = TokenScope(ceilings=(msgspec.structs.replace(theirs, lease={"cost.budget": ["USD:1"]}),))
    got = answer(
        opened(world, narrow),
        "spend",
        lease_request={"cost.budget": ["USD:2"]},
        lease_constraints={"expires_at": soon},
    )
    assert got["code"] == "PERMISSION_DENIED"


def moment(base: int, seconds: int) -> str:
    """Return a time in seconds after a Unix time in nanoseconds, as the wire has it."""
    at = datetime.fromtimestamp(base // 10**9, UTC) + timedelta(seconds=seconds)
    return at.isoformat().replace("+00:00", "Z")


def test_a_resume_by_the_resume_token_alone_keeps_the_scope() -> None:
    world = World(JOURNAL, tokens=None)
    peer = opened(world, ECHO)
    peer.drop()
    again = world.connect()
    again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0})
    world.verdict("alice")
    assert answer(again, "spend")["code"] == "PERMISSION_DENIED"
    assert answer(again, "echo")["type"] == "job.accepted"


@pytest.mark.parametrize("scope", [None, TokenScope(agents=("spend",))])
def test_a_fresh_bearer_brings_its_own_scope(scope: TokenScope | None) -> None:
    world = World(JOURNAL, tokens=None)
    peer = opened(world, ECHO)
    peer.drop()
    again = opened(world, scope, resume_token=peer.token, last_event_seq=0)
    assert again.frames[0]["type"] == "session.welcome"
    assert answer(again, "spend")["type"] == "job.accepted"
    assert (answer(again, "echo")["type"] == "job.accepted") is (scope is None)


@pytest.mark.parametrize("compacted", [False, True])
def test_the_scope_survives_a_restart(compacted: bool) -> None:
    world = World(JOURNAL, tokens=None)
    peer = opened(world, ECHO)
    if compacted:
        world.records = world.runtime.snapshot()
    world.restart()
    again = world.connect()
    again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0})
    world.verdict("alice")
    assert answer(again, "spend")["code"] == "PERMISSION_DENIED"
    assert answer(again, "echo")["type"] == "job.accepted"


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (TokenScope(agents=("a" * MAX_SCOPE_BYTES,)), "at most 8192 bytes"),
        (TokenScope(agents=("\ud800",)), "lone surrogate"),
        (TokenScope(ceilings=(Ceiling(lease={"zork": ["*"]}),)), "zork"),
        (TokenScope(ceilings=(Ceiling(lease={}, longest_expiry_sec=0),)), "longest_expiry_sec"),
    ],
)
def test_an_invalid_scope_raises_and_changes_nothing(scope: TokenScope, reason: str) -> None:
    world = World(JOURNAL, tokens=None)
    peer = world.connect()
    peer.hello()
    with pytest.raises(LocalProtocolError, match=reason):
        world.verdict("alice", scope=scope)
    world.verdict("alice")
    assert peer.frames[0]["type"] == "session.welcome"


def test_the_longest_scope_is_taken() -> None:
    size = len(msgspec.json.encode(TokenScope(agents=("",))))
    check_scope(TokenScope(agents=("a" * (MAX_SCOPE_BYTES - size),)))
    with pytest.raises(LocalProtocolError):
        check_scope(TokenScope(agents=("a" * (MAX_SCOPE_BYTES - size + 1),)))


def test_a_ceiling_of_a_scope_may_be_for_a_principal() -> None:
    scope = TokenScope(ceilings=(Ceiling(principal="bob", lease={}), Ceiling(lease={"tool.call": ["*"]})))
    found = scope.ceiling(Principal("alice"), "echo", None)
    assert found is not None and "tool.call" in found.lease


def test_a_replay_of_a_recording_has_the_scopes() -> None:
    world, lines = recorded()
    world.tokens = None
    peer = opened(world, TokenScope(agents=("echo",), ceilings=(Ceiling(lease={"tool.call": ["x"]}),)))
    answer(peer, "echo", lease_request={"tool.call": ["y"]})
    assert peer.frames[-1]["payload"]["code"] == "PERMISSION_DENIED"
    played = replay(lines)
    assert played.envelopes == pulled(world)
    assert isinstance(played.machine, Runtime) and played.machine.snapshot() == world.runtime.snapshot()
