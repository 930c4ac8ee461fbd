"""The front of a server: its listening sockets, from before the journal is read to the end of the last job.

While there is no runtime to take a connection, health checks are answered, and WebSockets are refused with
HTTP 503, so that a load balancer and a client learn the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from arcp_io.drivers.loop import Listening
from arcp_io.drivers.sockets import is_private, remove_socket
from arcp_io.drivers.transport import ByteStream, Receiver

from . import dashboard
from .entrance import Entrance
from .http_pages import METRICS, PageServer, health_pages, metrics_server

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop

    from .metrics import Metrics
    from .server import Server

logger = logging.getLogger("arcp_io")

STARTING: Final = "the journal is being read"
DRAINING: Final = "the runtime is shutting down"


class Front:
    """The listening sockets of one server, and the pages that they answer."""

    def __init__(self, entrance: Entrance, *, secure_loopback: bool, metrics: Metrics | None = None) -> None:
        """Listen as `entrance` says, and with `metrics` answer `/metrics`."""
        self._entrance = entrance
        self._secure_loopback = secure_loopback
        self._metrics = metrics
        self._server: Server | None = None
        self._accept: Callable[[ByteStream, str], Receiver] | None = None
        self._listening: list[Listening] = []
        self._pages: list[PageServer] = []
        self._place = "", 0, ""
        self._private = False

    @property
    def trouble(self) -> str:
        """Why the server takes no connection now; empty if it does."""
        if self._server is None:
            return STARTING
        return DRAINING if self._server.shutting_down else ""

    async def open(self, loop: Loop) -> None:
        """Listen; raises OSError, and ValueError for an inherited socket that would show tokens."""
        entrance = self._entrance
        pages = PageServer(loop, health_pages(lambda: self.trouble), lambda: self.trouble or DRAINING)
        self._pages.append(pages)
        listeners = await entrance.open()
        self._place = entrance.address(listeners)
        self._private = all(map(is_private, listeners))
        accepted = partial(self._accepted, pages)
        for listener in listeners:
            self._listening.append(await loop.listen(listener, entrance.ssl_context, accepted))
        if self._metrics is not None and entrance.metrics_address is not None:
            page, address = self._metrics.page, entrance.metrics_address
            self._pages.append(await metrics_server(loop, page, lambda: self.trouble, address))

    def serve(self, server: Server) -> None:
        """Bring connections to a server from now on."""
        entrance, metrics = self._entrance, self._metrics
        beside = metrics is None or entrance.metrics_address is not None
        admission = entrance.admission(
            server.refusals.http_refused,
            pages=health_pages(lambda: self.trouble),
            guarded={} if beside or metrics is None else {METRICS: metrics.page},
        )
        if entrance.dashboard and self._place[1]:
            scheme = "http" if entrance.ssl_context is None else "https"
            authority = self._place[2].split("/")[2]
            logger.info("the dashboard is at %s://%s%s", scheme, authority, dashboard.PATH)
        secure = entrance.ssl_context is not None or (self._secure_loopback and self._private)
        server.host, server.port, server.url = self._place
        server.secure = secure
        server.at_end.append(self.close)
        server.log_room()
        self._accept = partial(server.accepted, admission, secure)
        self._server = server

    def close(self) -> None:
        """Stop listening; calling it again has no effect."""
        listening, self._listening = self._listening, []
        for one in listening:
            one.close()
        for pages in self._pages:
            pages.close()
        if listening and self._entrance.uds is not None:
            remove_socket(self._entrance.uds)

    def _accepted(self, pages: PageServer, stream: ByteStream, peer: str) -> Receiver:
        if self._accept is None or self.trouble:
            return pages.accepted(stream, peer)
        return self._accept(stream, peer)
