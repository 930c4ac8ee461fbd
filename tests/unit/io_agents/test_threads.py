"""Plain functions in threads, whose event loop stops before they end or at that moment."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from arcp_io.agents.threads import call_in_thread
from tests.hanging import PATIENCE


def test_a_function_that_ends_as_its_loop_stops_leaves_no_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end, told = threading.Event(), threading.Event(), threading.Event()

    def function() -> None:
        begun.set()
        may_end.wait(PATIENCE)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_soon: Callable[..., Any] = loop.call_soon_threadsafe

        def call_and_tell(*args: Any, **options: Any) -> Any:
            handle = call_soon(*args, **options)
            told.set()
            return handle

        call = asyncio.create_task(call_in_thread(function, name="test"))
        while not begun.is_set():
            await asyncio.sleep(0)
        monkeypatch.setattr(loop, "call_soon_threadsafe", call_and_tell)
        may_end.set()
        assert told.wait(PATIENCE)  # The loop has the callback, and stops one turn after it.
        assert not call.done()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
