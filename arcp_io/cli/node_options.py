"""The options of `arcp-io serve` for a node among others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypeAlias

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


OTHER_NAMES: Final = {"lease": "--lease", "give_up": "--give-up", "allow_plain": "--allow-plain-nodes"}
"""The options that do not begin with --node."""


class NodeOptions(NamedTuple):
    """The options as they are given."""

    listen: str | None
    advertise: str | None
    lease: str | None
    give_up: str | None
    certfile: str | None
    keyfile: str | None
    cafile: str | None
    allow_plain: bool

    def node(self) -> Node:
        """Return the node that they describe; a usage error for options that do not fit together."""
        from arcp_io.cluster.node import Node

        with checked("--lease"):
            lease = seconds_argument(self.lease or "5")
            if lease < 1:
                raise ValueError("must be a second or more")
        listen = self.listen or "127.0.0.1:0"
        return Node(
            listen=listen,
            advertise=self.advertise,
            tls=self._tls(),
            allow_plain=self.allow_plain,
            lease=lease,
        )

    def patience(self) -> float:
        """Return the seconds that a node waits for its store; a usage error for what is not a time."""
        with checked("--give-up"):
            return seconds_argument(self.give_up or "10m")

    def check_unused(self) -> None:
        """Raise a usage error if there is an option although there is no store."""
        for name, value in self._asdict().items():
            if value:
                option = OTHER_NAMES.get(name, f"--node-{name}")
                with checked(option):
                    raise ValueError("is for many nodes, with --journal postgresql://...")

    def _tls(self) -> NodeTls | None:
        from arcp_io.drivers.node_tls import load_node_tls

        with checked("--node-certfile"):
            if self.certfile is None or self.cafile is None:
                if self.certfile or self.keyfile or self.cafile:
                    raise ValueError("TLS between nodes needs --node-certfile and --node-cafile")
                return None
        return load_node_tls(self.certfile, self.keyfile, self.cafile)
