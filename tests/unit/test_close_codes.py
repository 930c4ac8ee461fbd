"""The codes with which connections are closed: one table, to which all other code refers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import arcp_io
import arcp_proto
from arcp_proto import CloseCode

PACKAGES = [Path(package.__file__ or "").parent for package in (arcp_proto, arcp_io)]
FILES = [path for package in PACKAGES for path in sorted(package.rglob("*.py"))]


def test_codes_are_those_of_the_registry() -> None:
    assert [int(code) for code in CloseCode] == [1000, 1001, 1002, 1008, 1009, 1011, 1012, 1013]


@pytest.mark.parametrize("call", ["close", "abandon", "fail", "close_connection", "Closing"])
def test_no_code_is_written_as_a_number(call: str) -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) == call
        and any(isinstance(arg, ast.Constant) and type(arg.value) is int for arg in node.args)
    ]
    assert found == []
