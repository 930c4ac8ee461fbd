"""A time limit for async tests: a test that hangs fails, and shows where its tasks wait."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from threading import Timer
from typing import Any, Final

import anyio

from arcp_io.drivers.loop import current

PATIENCE: Final = 100
"""Seconds that no test takes, below the limit of pytest itself, which ends the whole process."""


def bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return an async test that is cancelled when it hangs, and then fails with the places of its tasks.

    A thread keeps the limit, since a deadline would be a timer of the loop, which some tests look for.
    """

    @wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        scope = anyio.CancelScope()
        told: list[str] = []

        def give_up() -> None:
            told.extend(_where(name, coro) for name, coro in tasks())
            scope.cancel()

        call_from_thread, tasks = _running_loop()
        timer = Timer(PATIENCE, call_from_thread, (give_up,))
        timer.start()
        try:
            with scope:
                try:
                    await test(*args, **kwargs)
                except BaseException:
                    if told:
                        told.append(traceback.format_exc())
                    raise
        finally:
            timer.cancel()
        if told:
            raise AssertionError("\n".join([f"the test hangs, after {PATIENCE} s:", *told]))

    return run


def _running_loop() -> tuple[Callable[[Callable[[], None]], object], Callable[[], list[tuple[str, Any]]]]:
    """Return how a thread calls into the loop, and a function for the names and coroutines of its tasks."""
    if current() == "trio":
        import trio

        call_from_thread = trio.lowlevel.current_trio_token().run_sync_soon
        return call_from_thread, lambda: [(task.name or "", task.coro) for task in anyio.get_running_tasks()]
    loop = asyncio.get_running_loop()
    return loop.call_soon_threadsafe, lambda: [
        (task.get_name(), task.get_coro()) for task in asyncio.all_tasks(loop)
    ]


def _where(name: str, coro: Any) -> str:
    return "\n    ".join([f"task {name}", *_frames(coro)])


def _frames(awaited: Any) -> Iterator[str]:
    """Yield the frames of a coroutine, the outermost first; asynchronous generators do not show theirs."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
