"""Many nodes over one PostgreSQL database: which node owns which shard, and where its records are stored.

Each name is imported when it is first used; all of them but StoreError need the extra `postgres`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import StoreError
    from .node import Node, NodeServer, serve_node
    from .node_tls import NodeTls, load_node_tls
    from .running import run_node
    from .store import PostgresStore

__all__ = [
    "Node",
    "NodeServer",
    "NodeTls",
    "PostgresStore",
    "StoreError",
    "load_node_tls",
    "run_node",
    "serve_node",
]

_MODULE_OF = {
    "Node": "node",
    "NodeServer": "node",
    "NodeTls": "node_tls",
    "PostgresStore": "store",
    "StoreError": "errors",
    "load_node_tls": "node_tls",
    "run_node": "running",
    "serve_node": "node",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    module_name = _MODULE_OF.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{module_name}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
