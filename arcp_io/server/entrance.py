"""The entrance of a server, or of a node: where clients connect, and which of them are admitted."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from arcp_io.drivers.sockets import bracketed, is_loopback
from arcp_io.drivers.ws_admission import LOOPBACK_HOSTS, Admission


class Entrance(NamedTuple):
    """The arguments of `serve` about clients, which mean the same for a server alone and for a node."""

    host: str
    port: int
    path: str
    ssl_context: ssl.SSLContext | None
    allow_plain: bool
    origins: Sequence[str]
    hosts: Sequence[str] | None

    def check(self) -> None:
        """Check where clients connect; raises ValueError if tokens would be readable on the network."""
        if self.ssl_context is None and not self.allow_plain and not is_loopback(self.host):
            raise ValueError(
                f"tokens would cross the network to {self.host} in clear text:"
                " give an ssl_context or allow_plain=True"
            )
        if not self.path.startswith("/"):
            raise ValueError(f"the path {self.path!r} does not begin with a slash")

    def admission(
        self,
        refused: Callable[[int, str], object],
        health: Callable[[], str] | None = None,
        fault: Callable[[str], str] | None = None,
    ) -> Admission:
        """Return the rules for HTTP requests; `refused`, `health` and `fault` are those of `Admission`."""
        hosts = (*LOOPBACK_HOSTS, bracketed(self.host)) if self.hosts is None else self.hosts
        return Admission(
            path=self.path,
            hosts=hosts,
            origins=self.origins,
            refused=refused,
            health=health,
            fault=fault,
        )
