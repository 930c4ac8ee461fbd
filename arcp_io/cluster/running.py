"""`run_node`: serve an App as one of many nodes until a signal arrives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio

from arcp_io.drivers.descriptors import raise_limit
from arcp_io.server.run import serve_until_signal, server_context

from .node import Node, serve_node
from .store import PostgresStore
from .writer import GIVE_UP_SECONDS

if TYPE_CHECKING:
    from arcp_io.app import App


def run_node(
    app: App,
    host: str = "127.0.0.1",
    port: int = 7777,
    *,
    url: str,
    node: Node,
    give_up: float = GIVE_UP_SECONDS,
    loop: str = "asyncio",
    drain: float = 30.0,
    path: str = "/arcp",
    certfile: str | None = None,
    keyfile: str | None = None,
    allow_plain: bool = False,
    origins: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
) -> None:
    """Serve an App over WebSocket as a node over the store at `url`; the other arguments are those of `run`.

    The first SIGINT or SIGTERM gives all shards away: running jobs may finish for `drain` seconds, and new
    ones are kept for the next owner. A second one releases the shards at once. A store that is away, or takes
    no records, for `give_up` seconds ends the node. Raises what `serve_node` raises.
    """
    app.config()
    raise_limit()
    context = None if certfile is None else server_context(certfile, keyfile)
    serving = partial(
        serve_node,
        app,
        PostgresStore(url, lease=node.lease, give_up=give_up),
        node=node,
        host=host,
        port=port,
        path=path,
        ssl_context=context,
        allow_plain=allow_plain,
        origins=origins,
        hosts=hosts,
    )
    anyio.run(partial(serve_until_signal, serving, drain), backend=loop)
