"""`arcp-io shards`: list the shards of a store."""

from __future__ import annotations

import json

from .options import Json
from .output import print_out
from .printable import one_line
from .store import Url, opened


def shards(url: Url, as_json: Json = False) -> None:
    """List the shards of a store: owner, epoch, and the records behind the snapshot.

    The epoch counts how often a shard was claimed.

    \b
    Examples:
      arcp-io shards postgresql://db/arcp
      arcp-io shards postgresql://db/arcp --json
    """
    with opened(url, as_json=as_json) as store:
        store.open(make_shards=None)
        reading = store.read()
        addresses = {row.node: row.address for row in reading.nodes}
        for row in reading.shards:
            snapshot, since = store.amounts(row)
            size = snapshot.bytes + since.bytes
            owner = None if row.node is None else addresses.get(row.node, row.node)
            if as_json:
                found = {
                    "shard": row.shard,
                    "owner": row.node,
                    "address": owner,
                    "epoch": row.epoch,
                    "records": since.records,
                    "bytes": size,
                }
                print_out(json.dumps(found))
            else:
                behind = f"{since.records:,} records since the snapshot"
                print_out(
                    f"{row.shard:5}  {one_line(owner or 'free')}  epoch {row.epoch}  {behind}  {size:,} bytes"
                )
