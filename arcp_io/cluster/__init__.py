"""Many nodes over one PostgreSQL database: which node owns which shard, and where its records are stored.

Each name is imported when it is first used; all of them but StoreError need the extra `postgres`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_io.exports import importer

if TYPE_CHECKING:
    from arcp_io.drivers.node_tls import NodeTls, load_node_tls

    from .errors import StoreError
    from .node import Node, NodeServer
    from .store import PostgresStore

__all__ = [
    "Node",
    "NodeServer",
    "NodeTls",
    "PostgresStore",
    "StoreError",
    "load_node_tls",
]

_MODULE_OF = {
    "Node": "node",
    "NodeServer": "node",
    "NodeTls": ".drivers.node_tls",
    "PostgresStore": "store",
    "StoreError": "errors",
    "load_node_tls": ".drivers.node_tls",
}
"""Public name -> the module that defines it."""


__getattr__ = importer(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return __all__
