"""The phases of a connection: the table, and every change in both roles."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from arcp_proto import Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.phases import PHASE_CHANGES, PhaseChange, Role
from arcp_proto.errors import InvariantViolated
from tests.unit.scripted_runtime import ScriptedRuntime
from tests.unit.world import Peer, World

PACKAGE: Final = Path(__file__).parents[3] / "arcp_proto"


def test_the_docstring_shows_the_table() -> None:
    lines, before = [], None
    for one in PHASE_CHANGES:
        name = "" if one.before is before else one.before.name
        lines.append(f"{name:16} -> {one.after.name:15} {one.role}: {one.function}".strip())
        before = one.before
    shown = [line.strip() for line in inspect.getdoc(Phase).splitlines() if "->" in line]
    assert shown == lines


@pytest.mark.parametrize(("before", "after"), list(product(Phase, Phase)))
def test_a_connection_goes_only_where_the_table_leads(before: Phase, after: Phase) -> None:
    connection = connection_state(World().connect().connection)
    connection.phase = before
    if any((one.before, one.after) == (before, after) for one in PHASE_CHANGES):
        connection.goes_to(after)
        assert connection.phase is after
    else:
        with pytest.raises(InvariantViolated, match="does not go from"):
            connection.goes_to(after)
        assert connection.phase is before


def test_a_change_of_one_role_does_not_begin_in_a_phase_of_the_other() -> None:
    begin = {Role.RUNTIME: {Phase.AWAITING_HELLO}, Role.CLIENT: {Phase.AWAITING_WELCOME}}
    for role, phases in begin.items():
        for _ in Phase:
            phases |= {one.after for one in PHASE_CHANGES if one.before in phases}
        wrong = [one for one in PHASE_CHANGES if one.before in phases and one.role not in (role, Role.BOTH)]
        assert wrong == []
    both = begin[Role.RUNTIME] & begin[Role.CLIENT]
    assert [one for one in PHASE_CHANGES if (one.before in both) != (one.role is Role.BOTH)] == []


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Return each function of a module by its name, behind that of its class if it has one."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def test_only_the_functions_of_the_table_change_a_phase() -> None:
    makers: set[tuple[str, str]] = set()
    for path in PACKAGE.rglob("*.py"):
        for name, function in _functions(ast.parse(path.read_text())):
            for node in ast.walk(function):
                match node:
                    case ast.Call(
                        func=ast.Attribute(attr="goes_to"),
                        args=[ast.Attribute(value=ast.Name(id="Phase"), attr=after)],
                    ):
                        makers.add((name, after))
                    case ast.Attribute(attr="phase", ctx=ast.Store()):
                        assert name in ("ConnectionState.__init__", "ConnectionState.goes_to")
    assert makers == {(one.function, one.after.name) for one in PHASE_CHANGES}


# Both roles make every change.


def waits_for_the_verifier() -> tuple[World, Peer]:
    world = World(tokens=None)
    peer = world.connect()
    peer.hello()
    return world, peer


def runtime_is_asked() -> None:
    waits_for_the_verifier()


def runtime_welcomes_nobody() -> None:
    world = World(anonymous=True)
    world.connect().hello(None, scheme="anonymous")


def runtime_hears_no_hello() -> None:
    World().connect().send("job.submit", {"agent": "echo"})


def runtime_loses_a_stranger() -> None:
    World().connect().drop()


def runtime_welcomes() -> None:
    world, _ = waits_for_the_verifier()
    world.verdict("alice")


def runtime_refuses() -> None:
    world, _ = waits_for_the_verifier()
    world.verdict(None)


def runtime_loses_one_that_it_verifies() -> None:
    _, peer = waits_for_the_verifier()
    peer.drop()


def runtime_closes() -> None:
    World().client().send("session.close", {})


def runtime_loses_a_client() -> None:
    World().client().drop()


def runtime_loses_what_it_has_closed() -> None:
    peer = World().client()
    peer.send("session.close", {})
    peer.drop()


def client_is_welcomed() -> None:
    ScriptedRuntime().welcome()


def client_leaves_before_the_welcome() -> None:
    runtime = ScriptedRuntime()
    runtime.client.close(now=runtime.now)


def client_loses_the_runtime_before_the_welcome() -> None:
    ScriptedRuntime().drop()


def client_leaves() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome()
    runtime.client.close(now=runtime.now)
    runtime.say("session.closed", {})
    runtime.drop()


def client_loses_the_runtime() -> None:
    runtime = ScriptedRuntime()
    runtime.welcome()
    runtime.drop()


P: Final = Phase
STORIES: Final[dict[Callable[[], None], tuple[tuple[Phase, Phase], ...]]] = {
    runtime_is_asked: ((P.AWAITING_HELLO, P.AUTHENTICATING),),
    runtime_welcomes_nobody: ((P.AWAITING_HELLO, P.OPEN),),
    runtime_hears_no_hello: ((P.AWAITING_HELLO, P.CLOSING),),
    runtime_loses_a_stranger: ((P.AWAITING_HELLO, P.CLOSED),),
    runtime_welcomes: ((P.AUTHENTICATING, P.OPEN),),
    runtime_refuses: ((P.AUTHENTICATING, P.CLOSING),),
    runtime_loses_one_that_it_verifies: ((P.AUTHENTICATING, P.CLOSED),),
    runtime_closes: ((P.OPEN, P.CLOSING),),
    runtime_loses_a_client: ((P.OPEN, P.CLOSED),),
    runtime_loses_what_it_has_closed: ((P.CLOSING, P.CLOSED),),
    client_is_welcomed: ((P.AWAITING_WELCOME, P.OPEN),),
    client_leaves_before_the_welcome: ((P.AWAITING_WELCOME, P.CLOSING),),
    client_loses_the_runtime_before_the_welcome: ((P.AWAITING_WELCOME, P.CLOSED),),
    client_leaves: ((P.OPEN, P.CLOSING), (P.CLOSING, P.CLOSED)),
    client_loses_the_runtime: ((P.OPEN, P.CLOSED),),
}
"""The changes of a phase in each story; the name of its function begins with the role."""


def _makes(change: PhaseChange, role: Role) -> bool:
    pair = change.before, change.after
    return any(pair in pairs for story, pairs in STORIES.items() if story.__name__.startswith(role.value))


def test_each_change_has_a_story_in_each_of_its_roles() -> None:
    for change in PHASE_CHANGES:
        roles = (Role.RUNTIME, Role.CLIENT) if change.role is Role.BOTH else (change.role,)
        assert [role for role in roles if not _makes(change, role)] == [], change


@pytest.mark.parametrize("story", STORIES)
def test_a_story_makes_its_changes(story: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Phase, Phase]] = []
    goes_to = ConnectionState.goes_to

    def watched(self: ConnectionState, after: Phase) -> None:
        made.append((self.phase, after))
        goes_to(self, after)

    monkeypatch.setattr(ConnectionState, "goes_to", watched)
    story()
    assert [pair for pair in STORIES[story] if pair not in made] == []
