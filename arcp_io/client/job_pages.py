"""The jobs of a listing, fetched page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from arcp_proto import JobEntry, JobsListed

__all__ = ["Listing"]


class Listing:
    """An iterator over listed jobs (§6.6). It requests a page when the one before is used up."""

    def __init__(self, next_page: Callable[[str | None], Awaitable[JobsListed]]) -> None:
        """Iterate with `next_page`, which fetches the page after a `next_cursor`, or the first one for
        None.
        """
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
