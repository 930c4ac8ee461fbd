"""The options of `arcp-io serve` about its listening sockets, and about what it shows to an operator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, TypeAlias

import typer

from .arguments import checked

Uds: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Listen on a socket of Unix at this path, in place of host and port."),
]
Fd: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Listen on the socket that is open as this file descriptor. By default on those that systemd"
        " passes on (LISTEN_FDS), if there are any.",
    ),
]
Metrics: TypeAlias = Annotated[
    bool, typer.Option("--metrics", help="Show figures for Prometheus at /metrics, to admitted hosts.")
]
MetricsAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Show figures for Prometheus at /metrics of another address, without TLS."
    ),
]
Dashboard: TypeAlias = Annotated[
    bool,
    typer.Option("--dashboard", help="Show browsers a page about jobs at /dashboard, on admitted hosts."),
]


@dataclass(frozen=True)
class Listening:
    """The options as they are given."""

    uds: Uds = None
    fd: Fd = None
    metrics: Metrics = False
    metrics_address: MetricsAddress = None
    dashboard: Dashboard = False

    @property
    def elsewhere(self) -> bool:
        """Whether the server does not listen on host and port."""
        return self.uds is not None or bool(self.fds)

    @cached_property
    def fds(self) -> tuple[int, ...]:
        """The file descriptors to listen on: the one that is given, or those of the service manager."""
        if self.uds is not None or self.fd is not None:
            return () if self.fd is None else (self.fd,)
        from arcp_io.server.service import inherited_fds

        return inherited_fds()

    def arguments(self, *, stdio: bool) -> dict[str, Any]:
        """Return the arguments for `run`; a usage error for options that do not fit together."""
        with checked("--metrics"):
            if stdio and (self.metrics or self.metrics_address):
                raise ValueError("is for WebSockets, not for --stdio")
        with checked("--dashboard"):
            if stdio and self.dashboard:
                raise ValueError("is for WebSockets, not for --stdio")
        with checked("--fd"):
            if self.fd is not None and (self.uds is not None or stdio):
                raise ValueError("give one of --fd, --uds and --stdio")
            if self.fd is not None and self.fd < 0:
                raise ValueError("a file descriptor is 0 or more")
        with checked("--uds"):
            if self.uds is not None and stdio:
                raise ValueError("give one of --uds and --stdio")
        return {
            "uds": self.uds,
            "fd": () if stdio else self.fds,
            "metrics": self.metrics or self.metrics_address is not None,
            "metrics_address": self._metrics_address(),
            "dashboard": self.dashboard,
        }

    def _metrics_address(self) -> tuple[str, int] | None:
        if self.metrics_address is None:
            return None
        with checked("--metrics-address"):
            host, _, port = self.metrics_address.rpartition(":")
            if not host or not port.isdecimal() or int(port) > 65535:
                raise ValueError("is HOST:PORT")
            return host.removeprefix("[").removesuffix("]"), int(port)
