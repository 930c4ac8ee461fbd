"""The layout of the project: sizes, names, docstrings, and words for unfinished work."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("arcp_proto", "arcp_io")
OTHERS: Final = ("tests", "fuzz", "benchmarks")
TOP_LEVEL: Final = (
    *PACKAGES,
    *OTHERS,
    "docs",
    *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"),
    *("dist", "build", "PKG-INFO"),  # Files and folders that builds make.
)
"""The names at the top of the project, beside those that begin with a dot."""
MAX_LINES: Final = {**dict.fromkeys(PACKAGES, 600), **dict.fromkeys(OTHERS, 900)}
MAX_FUNCTION_LINES: Final = {**dict.fromkeys(PACKAGES, 60), **dict.fromkeys(OTHERS, 80)}

LEFT_BEHIND: Final = re.compile(
    r"\b(?:TO" + r"DO|FIX" + r"ME)\b"
    r"|type: *ig" + r"nore|no" + r"qa\b|pragma: *no" + r" cover"
    r"|pytest\.(?:sk" + r"ip|xf" + r"ail|imports" + r"kip)|mark\.(?:sk" + r"ip|xf" + r"ail)"
)
"""Marks of unfinished work, and of checks that are switched off."""
NEEDS_A_SERVER: Final = (
    "tests/cluster/conftest.py",
    "tests/dashboard/conftest.py",
    "tests/placing/engines.py",
)
"""The files that skip tests, for want of PostgreSQL, a load balancer, a browser, or an engine of agents."""
MACHINE_PATH: Final = re.compile(r"(?<![\w.*-])/(?:wo" + r"rk|ro" + r"ot|tm" + r"p|ho" + r"me/\w+)(?![\w-])")


class Function(NamedTuple):
    """A function and its number of lines."""

    name: str
    lines: int


def functions(source: str) -> list[Function]:
    """Return every function of a module, including nested ones."""
    return [
        Function(node.name, (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def documented(source: str) -> dict[str, bool]:
    """Return the top-level names of a module, each with whether it has a docstring, in it or after it."""
    names: dict[str, bool] = {}
    body = ast.parse(source).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        followed = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names[name] = ast.get_docstring(node) is not None
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names[name] = followed
    return names


@cache
def documented_anywhere() -> dict[str, bool]:
    """Return modules and top-level names of both packages, since arcp_io exports names of arcp_proto."""
    found: dict[str, bool] = {}
    for path in _sources(*PACKAGES):
        source = path.read_text()
        found[path.stem] = ast.get_docstring(ast.parse(source)) is not None
        for name, has_docstring in documented(source).items():
            found[name] = found.get(name, False) or has_docstring
    return found


def _sources(*roots: str) -> Iterator[Path]:
    for root in roots:
        yield from sorted((ROOT / root).rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_file_can_be_read_at_one_sitting() -> None:
    found: list[tuple[str, str, int]] = []
    for path in _sources(*PACKAGES, *OTHERS):
        root, source = path.relative_to(ROOT).parts[0], path.read_text()
        lines = source.count("\n")
        found += [(_name(path), "the file", lines)] if lines > MAX_LINES[root] else []
        long = [each for each in functions(source) if each.lines > MAX_FUNCTION_LINES[root]]
        found += [(_name(path), *each) for each in long]
    assert found == []


def test_no_file_has_marks_of_unfinished_work() -> None:
    paths = list(_sources(*PACKAGES, *OTHERS))
    assert len(paths) > 300
    found = {_name(path): LEFT_BEHIND.findall(path.read_text()) for path in paths}
    assert [found.pop(name) for name in NEEDS_A_SERVER] == [["pytest.sk" + "ip"]] * 3
    assert {name: words for name, words in found.items() if words} == {}


def test_no_file_names_a_place_on_a_machine() -> None:
    texts = [
        path for root in (*PACKAGES, *OTHERS, "docs", ".ci") for path in sorted((ROOT / root).rglob("*"))
    ]
    texts += [ROOT / name for name in ("pyproject.toml", "README.md", "CHANGELOG.md")]
    found = [
        (_name(path), match[0])
        for path in texts
        if path.is_file() and "__pycache__" not in path.parts
        for match in MACHINE_PATH.finditer(path.read_text(errors="replace"))
    ]
    assert found == []


def test_the_top_folder_holds_known_names_only() -> None:
    names = sorted(path.name for path in ROOT.iterdir())
    assert [name for name in names if name not in TOP_LEVEL and not name.startswith(".")] == []
    assert set(PACKAGES) <= set(names)


def test_every_test_is_run_by_one_of_the_two_commands() -> None:
    """Compare the folders of tests with those that `pytest` runs by itself and those that `.ci/run` adds."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    by_itself = {Path(name) for name in config["tool"]["pytest"]["ini_options"]["testpaths"]}
    added = {Path(name) for name in re.findall(r"\btests/\w+\b", (ROOT / ".ci" / "run").read_text())}
    there = {Path(*path.relative_to(ROOT).parts[:2]) for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert there <= by_itself | added
    assert by_itself <= there | {path.relative_to(ROOT) for path in (ROOT / "tests").glob("test_*.py")}
    assert Path("tests/brute_force") in there - by_itself


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_sorted_and_there(package: str) -> None:
    module = importlib.import_module(package)
    names = module.__all__
    constants = [name for name in names if name.isupper()]
    assert names == constants + sorted(name for name in names if name not in constants)
    assert constants == sorted(constants)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not documented_anywhere()[name]] == []


def test_long_functions_are_found() -> None:
    source = "def f():\n    async def g():\n        pass\n    return g\n"
    assert functions(source) == [("f", 4), ("g", 2)]


def test_missing_docstrings_are_found() -> None:
    source = 'class A:\n    """Doc."""\nclass B: pass\nX = 1\n"""Doc."""\nY: int = 2\ndef f(): ...\n'
    assert documented(source) == {"A": True, "B": False, "X": True, "Y": False, "f": False}


@pytest.mark.parametrize(
    "line",
    [
        "# TO" + "DO: later",
        "x = 1  # no" + "qa: E501",
        "@pytest.mark.sk" + "ipif(True)",
        "pytest.sk" + "ip()",
    ],
)
def test_marks_of_unfinished_work_are_found(line: str) -> None:
    assert LEFT_BEHIND.search(line)


@pytest.mark.parametrize("path", ["/wo" + "rk/main", '"/tm' + 'p"', "cd /ro" + "ot", "/ho" + "me/me/x"])
def test_machine_paths_are_found(path: str) -> None:
    assert MACHINE_PATH.search(path)


@pytest.mark.parametrize(
    "path", ["/workspace/a", "a/tmp/b", "fs.read:/data/tmp", "/rooted", "/tmpfs", "**/work"]
)
def test_other_paths_are_not_found(path: str) -> None:
    assert not MACHINE_PATH.search(path)
