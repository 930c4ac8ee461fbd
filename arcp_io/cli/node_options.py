"""The options of `arcp-io serve` for a node among others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .arguments import checked, seconds_argument

if TYPE_CHECKING:
    from arcp_io.cluster.node import Node
    from arcp_io.drivers.node_tls import NodeTls

Listen: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Where other nodes reach this one; by default a free port of this machine alone.",
    ),
]
Advertise: TypeAlias = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="What the others dial, if it is not --node-listen.")
]
Lease: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="How long a node is silent before others take over; by default 5s, equal on all."
    ),
]
GiveUp: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="How long the store may be away, or take no records, before the node stops; by default 10m.",
    ),
]
Certfile: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE", help="Certificate chain (PEM) for connections between nodes.")
]
Keyfile: TypeAlias = Annotated[str | None, typer.Option(metavar="FILE", help="Its private key (PEM).")]
Cafile: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE", help="The authority (PEM) that signs the nodes' certificates.")
]
AllowPlain: TypeAlias = Annotated[
    bool, typer.Option("--allow-plain-nodes", help="Allow nodes of other machines without TLS.")
]


@dataclass(frozen=True)
class NodeOptions:
    """The options as they are given."""

    node_listen: Listen = None
    node_advertise: Advertise = None
    lease: Lease = None
    give_up: GiveUp = None
    node_certfile: Certfile = None
    node_keyfile: Keyfile = None
    node_cafile: Cafile = None
    allow_plain_nodes: AllowPlain = False

    def node(self) -> Node:
        """Return the node that they describe; a usage error for options that do not fit together."""
        from arcp_io.cluster.node import Node

        with checked("--lease"):
            lease = seconds_argument(self.lease or "5")
            if lease < 1:
                raise ValueError("must be a second or more")
        listen = self.node_listen or "127.0.0.1:0"
        return Node(
            listen=listen,
            advertise=self.node_advertise,
            tls=self._tls(),
            allow_plain=self.allow_plain_nodes,
            lease=lease,
        )

    def patience(self) -> float:
        """Return the seconds that a node waits for its store; a usage error for what is not a time."""
        with checked("--give-up"):
            return seconds_argument(self.give_up or "10m")

    def check_unused(self) -> None:
        """Raise a usage error if there is an option although there is no store."""
        for name, value in asdict(self).items():
            if value:
                with checked("--" + name.replace("_", "-")):
                    raise ValueError("is for many nodes, with --journal postgresql://...")

    def _tls(self) -> NodeTls | None:
        from arcp_io.drivers.node_tls import load_node_tls

        with checked("--node-certfile"):
            if self.node_certfile is None or self.node_cafile is None:
                if self.node_certfile or self.node_keyfile or self.node_cafile:
                    raise ValueError("TLS between nodes needs --node-certfile and --node-cafile")
                return None
        return load_node_tls(self.node_certfile, self.node_keyfile, self.node_cafile)
