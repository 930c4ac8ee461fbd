"""`arcp-io nodes`: list the nodes over a store."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Annotated

import typer

from .arguments import checked, seconds_argument
from .options import Json
from .output import print_out
from .printable import one_line
from .store import Url, opened

_Watch = Annotated[
    str, typer.Option("--watch", metavar="TIME", help="How long to watch which nodes are alive.")
]


def nodes(url: Url, watch: _Watch = "3s", as_json: Json = False) -> None:
    """List the nodes over a store: address, release, shards, and whether they are alive.

    A node is alive if it writes its row while the command watches, which a node does every fifth of its
    lease. The row of a node that was killed stays for about an hour.

    \b
    Examples:
      arcp-io nodes postgresql://db/arcp
      arcp-io nodes postgresql://db/arcp --watch 10s --json
    """
    with checked("--watch"):
        seconds = seconds_argument(watch)
    with opened(url, as_json=as_json) as store:
        store.open(make_shards=None)
        before = {row.node: row.beat for row in store.read().nodes}
        time.sleep(seconds)
        reading = store.read()
    owned = Counter(row.node for row in reading.shards)
    for row in reading.nodes:
        found = {
            "node": row.node,
            "address": row.address,
            "release": row.release,
            "shards": owned[row.node],
            "draining": row.draining,
            "alive": row.beat > before.get(row.node, -1),
        }
        if as_json:
            print_out(json.dumps(found))
        else:
            state = "draining" if row.draining else "serving"
            print_out(
                f"{row.node}  {one_line(row.address)}  {one_line(row.release)}  {owned[row.node]:4} shards"
                f"  {state if found['alive'] else 'silent'}"
            )
    if not reading.nodes and not as_json:
        print_out("no node serves the store")
