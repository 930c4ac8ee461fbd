"""Pages that a listener answers over HTTP while no runtime takes the connection, or beside it.

A load balancer asks for `/livez` and `/readyz`, and a monitor for `/metrics`. A connection gets one answer.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.drivers.loop import Listening
from arcp_io.drivers.sockets import address_text, open_listeners
from arcp_io.drivers.transport import ByteStream
from arcp_io.drivers.websocket import ServerCodec
from arcp_io.drivers.ws_admission import Admission, Page, Pages

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Event, Loop

logger = logging.getLogger("arcp_io")

LIVE: Final = "/livez"
READY: Final = "/readyz"
METRICS: Final = "/metrics"
MOST: Final = 64
"""Connections that are answered at a time; any further one is closed at once."""
PATIENCE: Final = 10.0
"""Seconds that a connection gets for its request and for taking the answer."""
HEAD_BYTES: Final = 16 * 1024
"""The longest request."""


def health_pages(trouble: Callable[[], str]) -> Pages:
    """Return the pages of a health check; `trouble` returns why no client should come now, or nothing."""
    return {LIVE: lambda: health(""), READY: lambda: health(trouble())}


def health(trouble: str) -> Page:
    """Return the answer to a health check."""
    return Page(503 if trouble else 200, f"{trouble or 'ok'}\n".encode())


async def metrics_server(
    loop: Loop, page: Callable[[], Page], trouble: Callable[[], str], address: tuple[str, int]
) -> PageServer:
    """Show metrics and health at an address of their own, until the server is closed. Raises OSError."""
    listeners = await open_listeners(*address)
    shown = PageServer(loop, {METRICS: page, **health_pages(trouble)}, lambda: "clients connect elsewhere")
    await shown.listen(listeners)
    logger.info("metrics are at http://%s%s", address_text(listeners[0].getsockname()), METRICS)
    return shown


class PageServer:
    """Answers requests for pages on streams, and refuses all others, WebSockets with 503 and a reason."""

    def __init__(self, loop: Loop, pages: Pages, reason: Callable[[], str]) -> None:
        self._loop = loop
        self._admission = Admission(path="", hosts=(), pages=pages, closed=reason)
        self._open: dict[_Visit, None] = {}
        self._listening: list[Listening] = []

    async def listen(self, listeners: Sequence[socket.socket]) -> None:
        """Answer on listening sockets, which it owns from now on."""
        for listener in listeners:
            self._listening.append(await self._loop.listen(listener, None, self.accepted))

    def accepted(self, stream: ByteStream, peer: str) -> _Visit:
        """Return the receiver of a fresh stream."""
        visit = _Visit(
            stream, ServerCodec(self._admission, limit=HEAD_BYTES), self._loop.event(), self._forget
        )
        if len(self._open) >= MOST:
            self._loop.call_soon(visit.abort)
        else:
            self._open[visit] = None
            self._loop.start(visit.expire, f"arcp page for {peer}")
        return visit

    def close(self) -> None:
        """Close everything."""
        for listening in self._listening:
            listening.close()
        for visit in list(self._open):
            visit.abort()

    def _forget(self, visit: _Visit) -> None:
        self._open.pop(visit, None)


class _Visit:
    """One connection that gets one answer: the receiver of its stream."""

    def __init__(
        self, stream: ByteStream, codec: ServerCodec, over: Event, forget: Callable[[_Visit], object]
    ) -> None:
        self._stream = stream
        self._codec = codec
        self._over = over
        self._forget = forget
        self._answered = False

    def received(self, data: bytes) -> None:
        """Take a part of the request, and answer it when it is whole."""
        if self._answered or self._over.is_set():
            return
        self._codec.receive(data)
        answer = self._codec.data_to_send()
        if answer:
            self._answered = True
            if self._stream.write(answer):
                self._stream.end()
        elif self._codec.failure is not None:
            self.abort()

    def written(self) -> None:
        """Note that the answer is written."""
        self._stream.end()

    def received_eof(self) -> bool:
        """Note that the peer is done."""
        self.ended("")
        self._stream.close()
        return False

    def ended(self, reason: str) -> None:
        """Note that the stream is over."""
        self._over.set()
        self._forget(self)

    def abort(self) -> None:
        """Close the connection at once."""
        self.ended("")
        self._stream.abort()

    async def expire(self) -> None:
        """Close the connection when it takes too long."""
        with anyio.move_on_after(PATIENCE):
            await self._over.wait()
            return
        self.abort()
