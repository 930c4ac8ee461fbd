"""The purity of arcp_proto: no I/O, clock, randomness, tasks or hash order; the imports of both packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from arcp_io.version import VERSION

ROOT: Final = Path(__file__).parents[1]
PROTO: Final = sorted((ROOT / "arcp_proto").rglob("*.py"))
IO: Final = sorted((ROOT / "arcp_io").rglob("*.py"))
BRIDGES: Final = ("arcp_io.mcp_tools.", "arcp_io.pydantic_ai", "arcp_io.metering", "arcp_io.prices")
"""Modules that need a framework, which may not be installed, and loads more."""
PURE_IO: Final = [
    ROOT / "arcp_io" / "cluster" / name
    for name in (
        "decisions.py",
        "fair_share.py",
        "ownership.py",
        "relay_handshake.py",
        "relay_header.py",
        "rows.py",
    )
]
"""Modules of arcp_io that are as pure as the core."""

PURE_MODULES: Final = {
    "__future__": None,
    "abc": None,
    "arcp_proto": None,
    "array": None,
    "base64": None,
    "bisect": None,
    "collections": None,
    "collections.abc": None,
    "datetime": ("date", "timedelta"),
    "decimal": ("Context", "Decimal", "Inexact", "InvalidOperation"),
    "enum": None,
    "functools": ("lru_cache", "partial"),
    "hashlib": None,
    "heapq": None,
    "hmac": None,
    "ipaddress": None,
    "itertools": None,
    "operator": ("itemgetter",),
    "math": None,
    "msgspec": None,
    "re": None,
    "typing": None,
    "unicodedata": ("category", "normalize"),
}
"""The modules that arcp_proto may import, with the names that it may use of them, or None for all names."""
DECODES: Final = ("wire", "codec")
"""The names of the module that decodes."""
ONLY_WIRE: Final = ("sys",)
"""Modules for the decoder alone, whose result must not depend on the stack of its caller."""
IMPURE_BUILTINS: Final = (
    *("id", "hash"),
    *("open", "print", "input", "eval", "exec", "compile", "breakpoint", "__import__"),
)
IMPURE_METHODS: Final = ("now", "utcnow", "today", "getcontext", "setcontext", "localcontext")
"""Methods of datetime, date and decimal that read a clock or a context."""
SETS: Final = ("set", "frozenset")
ITERATES: Final = (
    *("list", "tuple", "deque", "iter", "next", "enumerate", "map", "filter", "zip", "reversed"),
    *("join", "extend", "extendleft", "fromkeys", "from_iterable"),
)
"""Calls whose results show the order in which their arguments are iterated."""
STARTS_A_LOOP: Final = ("anyio.run", "start_blocking_portal")
LOOPS: Final = ("asyncio", "trio", "anyio", "websockets")


def impure_imports(source: str, module: str = "machine") -> list[str]:
    """Return the imports of a module of arcp_proto that are not allowed."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if not _is_pure(alias.name, None, module)]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                names = [alias.name for alias in node.names]
                found += [
                    f"{node.module}.{name}" for name in names if not _is_pure(node.module, name, module)
                ]
            elif node.level > 1:
                found.append("." * node.level + (node.module or ""))
    return found


def impure_code(source: str) -> list[str]:
    """Return code that arcp_proto must not contain: impure calls, async, assert, and iterations of sets."""
    tree = ast.parse(source)
    sets = _names_of_sets(tree)
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in (*IMPURE_BUILTINS, *IMPURE_METHODS):
                found.append(f"{name}()")
            case ast.Call(func=ast.Attribute(attr=name)) if name in IMPURE_METHODS:
                found.append(f"{name}()")
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                found.append("async")
            case ast.Assert():
                found.append("assert")
        found += [f"iterates {ast.unparse(item)}" for item in _iterated(node) if _is_set(item, sets)]
    return found


def foreign_imports(source: str, names: tuple[str, ...]) -> list[str]:
    """Return the imports of these top-level packages, anywhere in a module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            found.append(node.module)
    return [name for name in found if name.partition(".")[0] in names]


def anyio_outside_tasks(source: str) -> list[str]:
    """Return the calls of anyio that stand outside of an `async def`, except those that start an event loop.

    anyio finds its loop through the running task, but callbacks of transports and timers run outside tasks.
    """
    tree = ast.parse(source)
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [
                (alias.asname or alias.name).partition(".")[0]
                for alias in node.names
                if alias.name.partition(".")[0] == "anyio"
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "anyio":
            names += [alias.asname or alias.name for alias in node.names]
    return list(_calls_outside_tasks(tree, names, in_task=False))


def _calls_outside_tasks(node: ast.AST, names: list[str], *, in_task: bool) -> Iterator[str]:
    match node:
        case ast.AsyncFunctionDef():
            in_task = True
        case ast.FunctionDef() | ast.Lambda() | ast.ClassDef():
            in_task = False
        case ast.Call(func=function) if not in_task:
            called = ast.unparse(function)
            if called.partition(".")[0] in names and called not in STARTS_A_LOOP:
                yield called
    for child in ast.iter_child_nodes(node):
        yield from _calls_outside_tasks(child, names, in_task=in_task)


def test_the_core_is_pure() -> None:
    assert len(PROTO) > 70
    assert _found([*PROTO, *PURE_IO], lambda path: impure_imports(path.read_text(), path.stem)) == []
    assert _found([*PROTO, *PURE_IO], lambda path: impure_code(path.read_text())) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import asyncio", ["asyncio"]),
        ("import time, os", ["time", "os"]),
        ("import datetime", ["datetime"]),
        ("from datetime import date, datetime", ["datetime.datetime"]),
        ("from random import random", ["random.random"]),
        ("def f():\n    import socket", ["socket"]),
        ("import sys", ["sys"]),
        ("from arcp_io import App", ["arcp_io.App"]),
        ("from ..arcp_io import App", ["..arcp_io"]),
        ("from decimal import getcontext", ["decimal.getcontext"]),
        ("import msgspec.json\nfrom collections.abc import Mapping\nfrom .ids import Monotonic", []),
    ],
)
def test_an_impure_import_is_found(source: str, found: list[str]) -> None:
    assert impure_imports(source) == found


def test_only_wire_knows_the_recursion_limit() -> None:
    assert impure_imports("import sys", "wire") == []
    assert impure_imports("import sys\nimport os", "wire") == ["os"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("key = id(thing)", ["id()"]),
        ("key = hash(thing)", ["hash()"]),
        ("at = datetime.now()", ["now()"]),
        ("day = date.today()", ["today()"]),
        ("print(1)", ["print()"]),
        ("async def f(): pass", ["async"]),
        ("assert thing", ["assert"]),
        ("for x in {1, 2}: pass", ["iterates {1, 2}"]),
        ("y = [x for x in set(z)]", ["iterates set(z)"]),
        ("y = list(frozenset(z))", ["iterates frozenset(z)"]),
        ("y = ', '.join({x for x in z})", ["iterates {x for x in z}"]),
        ("f(*{1, 2})", ["iterates {1, 2}"]),
        ("a, b = {1, 2}", ["iterates {1, 2}"]),
        ("seen: set[int] = set()\nfor x in seen: pass", ["iterates seen"]),
        ("seen = set()\ny = tuple(seen)", ["iterates seen"]),
        ("def f(names: frozenset[str]):\n    return [n for n in names]", ["iterates names"]),
        ("def f(self):\n    self.seen = set()\n    yield from self.seen", ["iterates self.seen"]),
        ("for x in {1} | other: pass", ["iterates {1} | other"]),
        ("seen = set()\ny = seen.pop()", ["iterates seen"]),
    ],
)
def test_impure_code_is_found(source: str, found: list[str]) -> None:
    assert impure_code(source) == found


@pytest.mark.parametrize(
    "source",
    [
        "y = sorted({1, 2})",
        "y = 1 in {1, 2}",
        "y = frozenset(x for x in z)",
        "y = len(set(z))",
        "pattern = re.compile('x')",
        "connection.open(session)",
        "def id(self): return self.terms.id",
        "for x in {1: 2}: pass",
        "jobs: dict[str, set[int]] = {}\nfor x in jobs: pass",
        "queue = deque()\ny = queue.pop()",
    ],
)
def test_pure_code_is_not_found(source: str) -> None:
    assert impure_code(source) == []


def test_importing_the_core_loads_no_event_loop() -> None:
    loaded = _loaded_by("import arcp_proto")
    assert "msgspec" in loaded
    assert loaded.isdisjoint(
        {*LOOPS, "socket", "selectors", "ssl", "threading", "logging", "random", "secrets"}
    )
    assert "arcp_io" not in loaded


def test_a_server_loads_nothing_of_the_client_side() -> None:
    client = {"arcp_proto.client.client", "arcp_proto.client.dispatch", "arcp_proto.recording"}
    assert not client & _loaded_by("from arcp_io import App, serve")
    assert client <= _loaded_by("from arcp_proto import Client, record")


SERVING: Final = """
import asyncio, os, sys
from arcp_io import App, serve

async def main():
    async with serve(App("example", "1", tokens={"s3cret": "alice"}), port=0):
        print(*sys.modules, flush=True)
        os._exit(0)

asyncio.run(main())
"""


def test_a_server_on_asyncio_loads_no_backend_of_anyio() -> None:
    loaded = _loaded_by(SERVING) - _loaded_by("import anyio")  # Old releases load more by themselves.
    assert "arcp_io.server.server" in loaded
    assert not [
        name for name in loaded if name.startswith(("anyio._backends", "anyio.from_thread", "sqlite3"))
    ]


def test_the_version_is_printed_before_any_module_is_loaded() -> None:
    before, told = _loaded_by(""), _loaded_by("from arcp_io.cli import main; main(['--version'])")
    assert {name for name in told - before if not name.startswith("arcp_io")} <= {
        "__future__",
        "arcp-io",
        VERSION,
    }


def test_importing_the_drivers_loads_nothing_of_a_loop() -> None:
    loaded = _loaded_by("import arcp_io")
    assert "arcp_io" in loaded
    assert loaded.isdisjoint({*LOOPS, "arcp_proto", "socket", "ssl", "logging", "typer", "rich", "httpx"})


def test_only_the_trio_driver_loads_trio() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in IO]
    others = [name for name in modules if ".trio" not in name and "__main__" not in name]
    others = [name for name in others if not name.startswith(BRIDGES)]
    assert len(others) > 20
    loaded = _loaded_by("\n".join(f"import {name.removesuffix('.__init__')}" for name in others))
    assert any(name.startswith("arcp_io") and name.endswith(".asyncio") for name in loaded)
    assert "trio" not in loaded


def test_anyio_is_called_in_tasks_only() -> None:
    assert _found(IO, lambda path: anyio_outside_tasks(path.read_text())) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import anyio\nlock = anyio.Lock()", ["anyio.Lock"]),
        ("import anyio\ndef f():\n    with anyio.CancelScope(): pass", ["anyio.CancelScope"]),
        ("import anyio\nasync def f():\n    g(lambda: anyio.current_time())", ["anyio.current_time"]),
        ("import anyio\nasync def f():\n    def g(): return anyio.Event()", ["anyio.Event"]),
        ("import anyio.lowlevel as low\ndef f(): low.checkpoint()", ["low.checkpoint"]),
        ("from anyio import Event\nclass A:\n    event = Event()", ["Event"]),
        ("from anyio.abc import TaskGroup\ndef f(tasks: TaskGroup): tasks.start_soon(g)", []),
        ("import anyio\ndef f() -> anyio.Event: return g()", []),
        ("import anyio\nasync def f(): await anyio.sleep(1)", []),
        ("import anyio\ndef f(): anyio.run(g)", []),
    ],
)
def test_anyio_outside_a_task_is_found(source: str, found: list[str]) -> None:
    assert anyio_outside_tasks(source) == found


@pytest.mark.parametrize("foreign", LOOPS[:2])
def test_each_driver_imports_its_own_loop_only(foreign: str) -> None:
    others = [
        path for path in IO if ("trio" in path.relative_to(ROOT / "arcp_io").parts) == (foreign == "asyncio")
    ]
    assert _found(others, lambda path: foreign_imports(path.read_text(), (foreign,))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import trio", ["trio"]),
        ("def f():\n    from trio.lowlevel import wait_readable", ["trio.lowlevel"]),
        ("from .trio import loop\nimport triol", []),
    ],
)
def test_a_foreign_import_is_found(source: str, found: list[str]) -> None:
    assert foreign_imports(source, ("trio",)) == found


def _found(paths: list[Path], check: Callable[[Path], list[str]]) -> list[tuple[str, list[str]]]:
    """Return what a check finds, by file."""
    return [(str(path.relative_to(ROOT)), found) for path in paths if (found := check(path))]


def _is_pure(module: str | None, name: str | None, inside: str) -> bool:
    if module in ONLY_WIRE:
        return inside in DECODES
    package = module if module in PURE_MODULES else (module or "").partition(".")[0]
    if package not in PURE_MODULES:
        return False
    allowed = PURE_MODULES[package]
    return allowed is None or name in allowed


def _iterated(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions whose order a node shows."""
    match node:
        case ast.For(iter=item) | ast.comprehension(iter=item) | ast.YieldFrom(value=item):
            yield item
        case ast.Starred(value=item, ctx=ast.Load()):
            yield item
        case ast.Assign(targets=[ast.Tuple() | ast.List()], value=item):
            yield item
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if name in ITERATES:
            yield from args
        case ast.Call(func=ast.Attribute(attr="pop", value=item), args=[]):
            yield item


def _is_set(item: ast.expr, sets: list[str]) -> bool:
    match item:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in SETS
        case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right):
            return _is_set(left, sets) or _is_set(right, sets)
        case ast.Name() | ast.Attribute():
            return ast.unparse(item) in sets
    return False


def _names_of_sets(tree: ast.AST) -> list[str]:
    """Return names and `self.` attributes that a module annotates as sets, or binds to a set."""
    names: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(target=target, annotation=annotation) if _is_set_type(annotation):
                names.append(ast.unparse(target))
            case ast.arg(arg=name, annotation=ast.expr() as annotation) if _is_set_type(annotation):
                names.append(name)
            case ast.Assign(targets=[target], value=value) if _is_set(value, names):
                names.append(ast.unparse(target))
    return names


def _is_set_type(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).partition("[")[0] in SETS


def _loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after it has run some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())
