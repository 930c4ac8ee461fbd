"""The runners that programs use: `asyncio.run`, `uvloop.run`, `trio.run`, `anyio.run`."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import anyio

Main: TypeAlias = Callable[[], Awaitable[Any]]


def _asyncio(main: Main) -> Any:
    async def coroutine() -> Any:
        return await main()

    return asyncio.run(coroutine())


def _uvloop(main: Main) -> Any:
    import uvloop

    async def coroutine() -> Any:
        return await main()

    return uvloop.run(coroutine())


def _trio(main: Main) -> Any:
    import trio

    return trio.run(main)


RUNNERS: Final[dict[str, Callable[[Main], Any]]] = {
    "asyncio": _asyncio,
    "trio": _trio,
    **({"uvloop": _uvloop} if importlib.util.find_spec("uvloop") else {}),
    "anyio": anyio.run,
}
"""Functions by name, each of which runs an async function without arguments and returns its result."""


def run(name: str, main: Main) -> Any:
    """Run an async function under the runner of this name."""
    return RUNNERS[name](main)


def driver_of(name: str) -> str:
    """Return the event loop that a runner runs, as `drivers.loop.current` names it: asyncio or trio."""
    return "trio" if name == "trio" else "asyncio"
