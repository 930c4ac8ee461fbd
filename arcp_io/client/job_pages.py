"""The jobs of a listing, which comes page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from arcp_proto.engine.output import JobsListed
from arcp_proto.wire.messages import JobEntry

__all__ = ["Listing"]


class Listing:
    """An iterator over jobs (§6.6). It asks for a page when the one before is used up; leaving it is free."""

    def __init__(self, next_page: Callable[[str | None], Awaitable[JobsListed]]) -> None:
        """`next_page` is asked for the page behind a `next_cursor`, and for the first one with None."""
        self._next_page = next_page
        self._entries: deque[JobEntry] = deque()
        self._cursor: str | None = None
        self._last = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEntry:
        while not self._entries:
            if self._last:
                raise StopAsyncIteration
            page = await self._next_page(self._cursor)
            self._entries += page.jobs
            self._cursor, self._last = page.next_cursor, page.next_cursor is None
        return self._entries.popleft()
