"""Every fact in the code is in the table, with its fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from arcp_proto.engine.output import Audit
from arcp_proto.server.audit import FACTS, note
from tests.unit.world import World

CORE = Path(__file__).parents[3] / "arcp_proto"


def facts_in(source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name and the fields of every `note(…)`, and of every `Audit(…)` with a literal name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name("note") | ast.Attribute(attr="note"), args=[_, what, _]):
                assert isinstance(what, ast.Constant), ast.unparse(node)
                yield what.value, tuple(str(keyword.arg) for keyword in node.keywords)
            case ast.Call(func=ast.Name("Audit") | ast.Attribute(attr="Audit"), args=[what, _, facts]):
                if isinstance(what, ast.Constant):
                    assert isinstance(facts, ast.Dict), ast.unparse(node)
                    keys = [key.value for key in facts.keys if isinstance(key, ast.Constant)]
                    yield what.value, tuple(keys)


def test_the_table_has_the_audit_facts_of_the_code_and_no_others() -> None:
    told = [
        (what, path.stem, sorted(fields))
        for path in sorted(CORE.rglob("*.py"))
        for what, fields in facts_in(path.read_text())
    ]
    assert [(what, *rest) for what, *rest in told if sorted(FACTS[what]) != rest[1]] == []
    assert sorted({what for what, *_ in told}) == sorted(FACTS)


def test_no_audit_fact_has_a_field_for_a_secret() -> None:
    secret = ("token", "value", "secret", "auth", "bearer")
    assert [name for fields in FACTS.values() for name in fields if name in secret] == []


def test_note_hands_out_an_audit_fact() -> None:
    world = World()
    note(world.state, "takeover", "alice", peer="here", session_id="s", superseded_peer="there")
    world.take()
    fact = world.last(Audit)
    assert (fact.what, fact.principal) == ("takeover", "alice")
    assert fact.facts == {"peer": "here", "session_id": "s", "superseded_peer": "there"}
