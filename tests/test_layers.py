"""The layers of both packages: the allowed imports, and no circles. Imports for types alone count as well."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[1]

BASE: Final = "base"
TOP: Final = "top"

LAYERS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "arcp_proto": ((BASE,), ("wire",), ("leases",), ("engine",), ("server", "client"), (TOP,)),
    "arcp_io": ((BASE,), ("journal",), ("drivers",), ("host", "client"), ("cluster",), (TOP,)),
}
"""The layers of each package, the lowest first; two layers of one row do not import each other."""

HOST: Final = "host"
LAYER_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys(("errors", "ids", "limits", "secret", "features", "empty"), BASE),
    **dict.fromkeys(("close_codes", "job_statuses", "namespaces"), BASE),
    **dict.fromkeys(("version", "forks", "files", "values", "lease_terms", "exports", "observation"), BASE),
    **dict.fromkeys(("otel", "event_records"), BASE),
    **dict.fromkeys(("agents", "server", "app", "placing", "provisioning", "litellm", "http_client"), HOST),
    **dict.fromkeys(("mcp_tools", "prices", "metering", "pydantic_ai"), HOST),
    **dict.fromkeys(("recording", "stand_ins", "__init__", "cli", "demo", "sync", "testing"), TOP),
}
"""The layer of a module or folder of a package that is not the layer of its own name.

In arcp_proto `server` is a layer; in arcp_io it belongs to the layer that runs agents and serves them.
"""

DOORS: Final = ("arcp_proto", "arcp_proto.leases", "arcp_proto.wire")
"""The modules of the core whose `__all__` arcp_io uses: state machines, leases, and the form of messages."""


class Import(NamedTuple):
    """An import of one module by another; `typing` says whether it serves types alone."""

    importer: str
    imported: str
    typing: bool


def modules(package: str) -> dict[str, Path]:
    """Return the modules of a package by their dotted names; an `__init__` has the name of its folder."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: str) -> Iterator[Import]:
    """Yield every import of a module of a package by another one of it."""
    known = modules(package)
    for name, path in known.items():
        here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node, typing in _imports_of(ast.parse(path.read_text())):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            target = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                found = f"{target}.{alias.name}"
                imported = found if found in known else target
                if imported in known and imported != name:
                    yield Import(name, imported, typing)


def layer(name: str) -> str:
    """Return the layer of a module by its dotted name."""
    package, *rest = name.split(".")
    first = rest[0] if rest else "__init__"
    if package == "arcp_proto" and first in LAYERS[package][4]:
        return first
    return LAYER_OF.get(first, first)


def rank(name: str) -> int:
    """Return the height of the layer of a module."""
    rows = LAYERS[name.partition(".")[0]]
    return next(number for number, row in enumerate(rows) if layer(name) in row)


@pytest.mark.parametrize("package", LAYERS)
def test_every_module_has_a_layer(package: str) -> None:
    rows = LAYERS[package]
    known = {one for row in rows for one in row}
    assert {layer(name) for name in modules(package)} == known


@pytest.mark.parametrize("package", LAYERS)
def test_nothing_imports_upwards(package: str) -> None:
    upward = [
        (one.importer, one.imported)
        for one in imports(package)
        if rank(one.imported) > rank(one.importer)
        or (rank(one.imported) == rank(one.importer) and layer(one.imported) != layer(one.importer))
    ]
    assert upward == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_modules_import_each_other_when_they_are_loaded(package: str) -> None:
    known = modules(package)
    graph: dict[str, set[str]] = {name: set() for name in known}
    for one in imports(package):
        if not one.typing and known[one.imported].name != "__init__.py":
            graph[one.importer].add(one.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {error.args[1]}")


def test_the_two_packages_import_in_one_direction() -> None:
    for path in modules("arcp_proto").values():
        assert "arcp_io" not in {
            (node.module or "").partition(".")[0] for node, _ in _imports_of(ast.parse(path.read_text()))
        }


@pytest.mark.parametrize("package", ["arcp_io", "benchmarks"])
def test_others_import_public_names_of_the_core_alone(package: str) -> None:
    public = {door: {*importlib.import_module(door).__all__} for door in DOORS}
    public["arcp_proto"] |= {door.rpartition(".")[2] for door in DOORS[1:]}
    found: list[tuple[str, str, str]] = []
    for name, path in modules(package).items():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    imported = [(module, alias.name) for alias in names]
                case ast.Import(names=names):
                    imported = [(alias.name, "") for alias in names]
                case _:
                    continue
            inner = [one for one in imported if one[0].partition(".")[0] == "arcp_proto"]
            found += [(name, *one) for one in inner if one[1] not in public.get(one[0], ())]
    assert found == []


def test_every_public_name_of_the_core_is_there() -> None:
    for door in DOORS:
        module = importlib.import_module(door)
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_imports_are_found() -> None:
    source = (
        "from . import a\nif TYPE_CHECKING:\n    from .b import C\ndef f():\n    from arcp_io.d import E\n"
    )
    found = [(node.level, node.module, typing) for node, typing in _imports_of(ast.parse(source))]
    assert found == [(1, None, False), (1, "b", True), (0, "arcp_io.d", True)]


def _imports_of(tree: ast.Module) -> Iterator[tuple[ast.ImportFrom, bool]]:
    """Yield every `from … import …`, and whether the load of the module leaves it out."""
    at_load = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node, id(node) not in at_load
