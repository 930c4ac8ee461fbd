"""The entrance of a server, or of a node: where clients connect, and which of them are admitted."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from arcp_io.drivers.sockets import (
    bracketed,
    inherited_listener,
    is_loopback,
    is_private,
    open_listeners,
    open_unix_listener,
)
from arcp_io.drivers.ws_admission import LOOPBACK_HOSTS, NO_PAGES, Admission, Pages

from .dashboard import dashboard_pages


class Entrance(NamedTuple):
    """The arguments of `serve` about clients, which mean the same for a server alone and for a node."""

    host: str
    port: int
    path: str
    ssl_context: ssl.SSLContext | None
    allow_plain: bool
    origins: Sequence[str]
    hosts: Sequence[str] | None
    uds: str | None = None
    """The path of a socket of Unix, in place of host and port."""
    fds: Sequence[int] = ()
    """The file descriptors of listening sockets, in place of host and port."""
    metrics: bool = False
    """Whether metrics are counted and shown."""
    metrics_address: tuple[str, int] | None = None
    """Where metrics are shown; None: at `/metrics` beside the WebSocket."""
    dashboard: bool = False
    """Whether the dashboard is served, and may connect from the web origin that is its own."""

    def check(self) -> None:
        """Check where clients connect; raises ValueError if tokens would be readable on the network."""
        if self.uds is not None and self.fds:
            raise ValueError("give uds or fd, not both")
        elsewhere = self.uds is not None or bool(self.fds)
        if not (elsewhere or self.ssl_context or self.allow_plain or is_loopback(self.host)):
            raise ValueError(_clear(self.host))
        if not self.path.startswith("/"):
            raise ValueError(f"the path {self.path!r} does not begin with a slash")

    async def open(self) -> list[socket.socket]:
        """Return the listening sockets.

        Raises OSError, and ValueError if one that was inherited would show tokens to the network.
        """
        if self.uds is not None:
            return [open_unix_listener(self.uds)]
        if not self.fds:
            return await open_listeners(self.host, self.port)
        listeners = [inherited_listener(descriptor) for descriptor in self.fds]
        for listener in listeners:
            if not (is_private(listener) or self.ssl_context or self.allow_plain):
                name = listener.getsockname()[0]
                for one in listeners:
                    one.close()
                raise ValueError(_clear(name))
        return listeners

    def address(self, listeners: Sequence[socket.socket]) -> tuple[str, int, str]:
        """Return the host, the port and the URL of listening sockets; a socket of Unix has no port."""
        first = listeners[0]
        if first.family == socket.AF_UNIX:
            path = first.getsockname()
            return "", 0, f"unix:{path.decode() if isinstance(path, bytes) else path}"
        found, port = first.getsockname()[:2]
        host = found if self.fds else self.host
        return (
            host,
            port,
            f"{'ws' if self.ssl_context is None else 'wss'}://{bracketed(host)}:{port}{self.path}",
        )

    def admission(
        self,
        refused: Callable[[int, str], object],
        health: Callable[[], str] | None = None,
        fault: Callable[[str], str] | None = None,
        pages: Pages = NO_PAGES,
        guarded: Pages = NO_PAGES,
    ) -> Admission:
        """Return the rules for HTTP requests; the arguments are those of `Admission`."""
        hosts = (*LOOPBACK_HOSTS, bracketed(self.host)) if self.hosts is None else self.hosts
        return Admission(
            path=self.path,
            hosts=hosts,
            origins=self.origins,
            refused=refused,
            health=health,
            fault=fault,
            pages=pages,
            guarded={**guarded, **dashboard_pages(self.path)} if self.dashboard else guarded,
            own_schemes=self._own_schemes() if self.dashboard else (),
        )

    def _own_schemes(self) -> tuple[str, ...]:
        """Return the schemes by which a browser reaches the pages; a proxy may speak TLS in our place."""
        return ("http", "https") if self.ssl_context is None else ("https",)


def _clear(host: str) -> str:
    return f"tokens would cross the network to {host} in clear text: give an ssl_context or allow_plain=True"
