"""An MCP server at a URL, whose answers have a bound in bytes before anything of them is decoded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import httpx2
from mcp.client.streamable_http import streamable_http_client

from .stdio_server import MESSAGE_BYTES

CONNECT_SEC: Final = 10.0
"""Seconds for a connection, and for the request to be taken."""
READ_SEC: Final = 300.0
"""Seconds between two pieces of an answer; the time limit of a call is another one."""


@asynccontextmanager
async def http_server(url: str) -> AsyncIterator[tuple[Any, Any]]:
    """Yield the streams of the messages of a server at a URL: a transport of `mcp.Client`.

    Proxies of the environment are not used, and a redirect to another host is not followed.
    """
    timeout = httpx2.Timeout(CONNECT_SEC, read=READ_SEC)
    transport = BoundedTransport(httpx2.AsyncHTTPTransport(), MESSAGE_BYTES)
    async with httpx2.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
        messages: AbstractAsyncContextManager[Any] = streamable_http_client(
            url, http_client=client, max_sse_event_size=MESSAGE_BYTES
        )
        async with messages as (received, sent):
            yield received, sent


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Sends requests through another transport, and bounds the body of each answer that is not a stream."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the answer."""
        response = await self._inner.handle_async_request(request)
        kind = response.headers.get("content-type", "").lower()
        if not kind.startswith("text/event-stream") and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Body(response.stream, self._limit)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _Body(httpx2.AsyncByteStream):
    """The body of an answer; reading it beyond the bound raises an error of the connection."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._stream:
            size += len(piece)
            if size > self._limit:
                raise httpx2.ReadError(f"an answer has more than {self._limit} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
