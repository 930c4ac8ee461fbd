"""`arcp-io nodes`: list the nodes over a store."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .arguments import checked, seconds_argument
from .options import JsonLines
from .output import print_out
from .printable import one_line
from .store import Url, opened

if TYPE_CHECKING:
    from arcp_io.cluster.rows import Reading
    from arcp_io.cluster.store import PostgresStore

LOOK_SEC: Final = 0.2
"""Seconds between two readings of the store."""

_Watch = Annotated[
    str, typer.Option("--watch", metavar="TIME", help="How long to watch which nodes are alive.")
]


def nodes(url: Url, watch: _Watch = "3s", as_json: JsonLines = False) -> None:
    """List the nodes over a store: address, release, shards, and whether they are alive.

    A node is alive if it writes its row while the command watches, which a node does every fifth of its
    lease. The age of its last beat is as the command has seen it, by no other clock. The row of a node that
    was killed stays for about an hour.

    \b
    Examples:
      arcp-io nodes postgresql://db/arcp
      arcp-io nodes postgresql://db/arcp --watch 10s --json
    """
    with checked("--watch"):
        seconds = seconds_argument(watch)
    with opened(url, as_json=as_json) as store:
        store.open(make_shards=None)
        reading, ages = _watched(store, seconds)
    owned = Counter(row.node for row in reading.shards)
    for row in reading.nodes:
        found = {
            "node": row.node,
            "address": row.address,
            "release": row.release,
            "shards": owned[row.node],
            "draining": row.draining,
            "beat": row.beat,
            "beat_age": ages.get(row.node),
            "alive": row.node in ages,
        }
        if as_json:
            print_out(json.dumps(found))
        else:
            state = "draining" if row.draining else "serving"
            age = ages.get(row.node)
            beat = f"silent for {seconds:g} s" if age is None else f"{state}, beat {age:.1f} s ago"
            print_out(
                f"{row.node}  {one_line(row.address)}  {one_line(row.release)}  {owned[row.node]:4} shards"
                f"  {beat}"
            )
    if not reading.nodes and not as_json:
        print_out("no node serves the store")


def _watched(store: PostgresStore, seconds: float) -> tuple[Reading, dict[str, float]]:
    """Return the last reading, and how long ago each node has beaten that did so meanwhile, in seconds."""
    reading = store.read()
    beats = {row.node: row.beat for row in reading.nodes}
    seen: dict[str, float] = {}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, LOOK_SEC))
        reading = store.read()
        for row in reading.nodes:
            if row.beat > beats.get(row.node, -1):
                beats[row.node], seen[row.node] = row.beat, time.monotonic()
    now = time.monotonic()
    return reading, {node: round(now - at, 1) for node, at in seen.items()}
