"""Docstrings and comments of the packages refer to names that exist."""

from __future__ import annotations

import ast
import keyword
import re
import sys
from pathlib import Path
from typing import Final

import arcp_io
import arcp_proto
from tests.docs.pages import ROOT

PACKAGES: Final = ("arcp_proto", "arcp_io")
SOURCES: Final = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
ELSEWHERE: Final = frozenset(
    (*keyword.kwlist, *sys.stdlib_module_names, *PACKAGES, *arcp_io.__all__, *arcp_proto.__all__)
)
"""Names that no source of the packages has to define."""
_NAME: Final = re.compile(r"`([a-z_]+(?:\.\w+)*)`")
_SEE: Final = re.compile(r"\b[Ss]ee `([a-z_]+)`")


def names_of(source: str) -> set[str]:
    """Return every name and every text of a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case (
                ast.arg(arg=name)
                | ast.Attribute(attr=name)
                | ast.Name(id=name)
                | ast.Constant(value=str(name))
            ):
                found.add(name)
            case ast.keyword(arg=str(name)):
                found.add(name)
    return found


def modules_of(paths: list[Path]) -> set[str]:
    """Return the names of modules and of the packages that they are in."""
    return {path.stem for path in paths} | {path.parent.name for path in paths}


def test_names_in_docstrings_exist() -> None:
    """Check names in backticks, which the code has; "see `name`" leads to a module, or a name beside it."""
    here = {path: names_of(path.read_text()) for path in SOURCES}
    modules = modules_of(SOURCES)
    anywhere = ELSEWHERE | modules | set().union(*here.values())
    wrong = []
    for path in SOURCES:
        text = path.read_text()
        near = ELSEWHERE | modules | here[path]
        names = [name for name in _NAME.findall(text) if not {name, name.partition(".")[0]} & anywhere]
        names += [name for name in _SEE.findall(text) if name not in near]
        wrong += [(str(path.relative_to(ROOT)), name) for name in names]
    assert wrong == []
