"""The settings of the links between a runtime and the agents that engines run for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arcp_io.drivers.sockets import is_loopback

if TYPE_CHECKING:
    from arcp_io.drivers.node_tls import NodeTls

HEARTBEAT: Final = 5.0
"""Seconds between two signs of life on a link."""
_EVERYWHERE: Final = ("", "0.0.0.0", "::")
"""Hosts to listen on that are not addresses to dial."""


@dataclass(frozen=True)
class Links:
    """The address where a runtime awaits the agents that engines run for it, and how they are protected.

    `host` and `port` are listened on, from the first placed job on; port 0 is a free one. Workers dial
    `advertise`, by default the same host. A host that other machines reach needs TLS: `certfile`, `keyfile`
    and `cafile`, which the workers have under the same paths; both sides verify each other. Without it
    `allow_plain` sends inputs, results and credentials in clear text. An end that has heard nothing for three
    times `heartbeat` seconds gives the link up.

    Raises ValueError for settings that contradict each other or are not safe.
    """

    host: str = "127.0.0.1"
    port: int = 0
    advertise: str = ""
    certfile: str = ""
    keyfile: str = ""
    cafile: str = ""
    allow_plain: bool = False
    heartbeat: float = HEARTBEAT

    def __post_init__(self) -> None:
        files = (self.certfile, self.keyfile, self.cafile)
        if any(files) and not all(files):
            raise ValueError("TLS of links needs certfile, keyfile and cafile: both sides verify each other")
        if not any(files) and not self.allow_plain and not is_loopback(self.host):
            raise ValueError(
                f"inputs and results would cross the network to {self.host} in clear text: give Links a"
                " certfile, keyfile and cafile, or allow_plain=True"
            )
        if self.host in _EVERYWHERE and not self.advertise:
            raise ValueError(f"workers cannot dial {self.host!r}: give Links(advertise=<host to dial>)")
        if self.heartbeat <= 0:
            raise ValueError("the heartbeat of links is more than 0 seconds")

    @property
    def dialed(self) -> str:
        """The host that workers dial."""
        return self.advertise or self.host

    def tls(self) -> NodeTls | None:
        """Return the contexts of both ends, None without TLS; raises OSError and ValueError for bad files."""
        if not self.certfile:
            return None
        from arcp_io.drivers.node_tls import load_node_tls

        return load_node_tls(self.certfile, self.keyfile, self.cafile)
