"""Turns: shards are restored one after the other, first those that a client waits for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from arcp_io.drivers.loop import Event


class Turns:
    """Lets one task at a time go on; each names its shard, and a shard that is wanted comes first."""

    def __init__(self, event: Callable[[], Event]) -> None:
        """Take a function that makes events of the running loop."""
        self._event = event
        self._busy = False
        self._waiting: dict[int, Event] = {}
        self._wanted: dict[int, None] = {}

    def want(self, shard: int) -> None:
        """Let a shard come first, as a client waits for it."""
        self._wanted[shard] = None

    @asynccontextmanager
    async def turn(self, shard: int) -> AsyncIterator[None]:
        """Wait for the turn of a shard; leaving the block gives it to the next one."""
        if self._busy:
            turn = self._waiting[shard] = self._event()
            try:
                await turn.wait()
            except BaseException:
                if self._waiting.pop(shard, None) is None:
                    self._go_on()
                raise
        self._busy = True
        self._wanted.pop(shard, None)
        try:
            yield
        finally:
            self._go_on()

    def _go_on(self) -> None:
        """Give the turn to the next shard."""
        first = next((shard for shard in self._wanted if shard in self._waiting), None)
        if first is None:
            first = next(iter(self._waiting), None)
        if first is None:
            self._busy = False
        else:
            self._waiting.pop(first).set()
