"""Run async tests under the runners that programs use: `asyncio.run`, `uvloop.run`, `trio.run`, `anyio.run`.

A test marked `anyio` runs once for each runner. anyio's own pytest plugin is not used: its runner sets a
context variable that tells anyio its event loop, also in callbacks where no task runs, and so hides code that
needs that variable. Programs that start with `asyncio.run` do not have it. The plugins of pytest-asyncio and
pytest-trio are off too (pyproject.toml); tests/io/test_fixtures.py uses them in processes of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import pytest

from tests.hanging import bounded
from tests.runners import RUNNERS, run

ANYWHERE: Final = tuple(name for name in RUNNERS if name != "anyio")
"""The runners of a test that is not marked `on_every_loop`."""
TWINS: Final = ("io", "cli", "interop", "attacks", "docs", "placing")
"""The folders in which `--loops=one` runs each test on one loop."""


def generate(metafunc: pytest.Metafunc) -> None:
    """Parametrize an async test with the names of its runners."""
    if metafunc.definition.get_closest_marker("anyio") is None or not iscoroutinefunction(metafunc.function):
        return
    only = metafunc.definition.get_closest_marker("only_on")
    if only is not None:
        names: Iterable[str] = only.args
    elif metafunc.definition.get_closest_marker("on_every_loop") is not None:
        names = RUNNERS
    else:
        names = ANYWHERE
    if any("anyio_backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")):
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: name its runners by pytest.mark.only_on(...)")
    if "runner" not in metafunc.fixturenames:
        metafunc.fixturenames.append("runner")
    metafunc.parametrize("runner", list(names), indirect=True)


def call(item: pytest.Function) -> bool | None:
    """Run an async test under its runner; None for any other test."""
    params: dict[str, Any] = {} if not hasattr(item, "callspec") else item.callspec.params
    if "runner" not in params or not iscoroutinefunction(item.obj):
        return None
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    run(params["runner"], partial(bounded(item.obj), **arguments))
    return True


def one_of_each(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Split tests into those that `--loops=one` runs and those that it leaves out.

    Of tests that differ only in their loop, one runs. The choice depends on the name of the test alone.
    """
    twins: dict[str, list[pytest.Item]] = {}
    for item in items:
        if (name := _twin_name(item)) is not None:
            twins.setdefault(name, []).append(item)
    left_out: dict[pytest.Item, None] = {}
    for name, group in twins.items():
        chosen = group[crc32(name.encode()) % len(group)]
        left_out |= dict.fromkeys(item for item in group if item is not chosen)
    return [item for item in items if item not in left_out], list(left_out)


def _twin_name(item: pytest.Item) -> str | None:
    """Return the name of a test without its loop, or None for a test without a loop."""
    call = getattr(item, "callspec", None)
    if call is None or Path(item.path).parent.name not in TWINS:
        return None
    ids = call.id.split("-")
    for value in call.params.values():
        if isinstance(value, str) and value in RUNNERS and value in ids:
            ids.remove(value)
            return f"{item.nodeid.partition('[')[0]}[{'-'.join(ids)}]"
    return None
