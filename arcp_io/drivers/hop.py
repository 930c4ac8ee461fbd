"""Calls from threads into the event loop of a blocking session, which runs in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, Final, TypeVar, overload

import anyio
from anyio.from_thread import BlockingPortal

from arcp_io.errors import ConnectionLost

T = TypeVar("T")

LEFT: Final = "the session was left: this call works only inside the `with` block of its connect"


class Hop:
    """The way from any thread to the loop of one session."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self.over = False
        """Whether the block of the session was left."""

    @overload
    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T: ...

    @overload
    def call(self, function: Callable[[], T]) -> T: ...

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the loop's thread and return the result.

        Raises ConnectionLost after the block.
        """
        if self.over:
            raise ConnectionLost(LEFT)
        try:
            return self._portal.call(function)
        except CancelledError:
            raise ConnectionLost(LEFT) from None
        except RuntimeError:
            if self.over:
                raise ConnectionLost(LEFT) from None  # The block was left during this call.
            raise

    def call_within(self, timeout: float | None, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call a function for at most `timeout` seconds; raises TimeoutError after that."""

        async def limited() -> T:
            with anyio.fail_after(timeout):
                return await function()

        return self.call(limited)

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Iterate over the items of an async iterator in the loop."""

        async def next_item() -> tuple[T] | None:
            async for item in items:
                return (item,)
            return None

        while (found := self.call(next_item)) is not None:
            yield found[0]
