"""`arcp-io shards`: list the shards of a store."""

from __future__ import annotations

import json

from .options import JsonLines
from .output import print_out
from .printable import one_line
from .store import Url, opened


def shards(url: Url, as_json: JsonLines = False) -> None:
    """List the shards of a store: owner, epoch, unfinished jobs, and the records behind the snapshot.

    The epoch counts how often a shard was claimed. The unfinished jobs are as of the last beat of the owner,
    which writes them every fifth of its lease: 'arcp-io nodes' shows whether it still does. They are unknown
    while a shard is free or not restored yet.

    \b
    Examples:
      arcp-io shards postgresql://db/arcp
      arcp-io shards postgresql://db/arcp --json
    """
    with opened(url, as_json=as_json) as store:
        store.open(make_shards=None)
        counted = store.read_counted()
        addresses = {row.node: row.address for row in store.read().nodes}
        for row, jobs in counted:
            snapshot, since = store.amounts(row)
            size = snapshot.bytes + since.bytes
            owner = None if row.node is None else addresses.get(row.node, row.node)
            if as_json:
                found = {
                    "shard": row.shard,
                    "owner": row.node,
                    "address": owner,
                    "epoch": row.epoch,
                    "unfinished_jobs": jobs,
                    "records": since.records,
                    "bytes": size,
                }
                print_out(json.dumps(found))
            else:
                behind = f"{since.records:,} records since the snapshot"
                unfinished = f"{'unknown' if jobs is None else jobs} unfinished jobs"
                print_out(
                    f"{row.shard:5}  {one_line(owner or 'free')}  epoch {row.epoch}  {unfinished}  {behind}"
                    f"  {size:,} bytes"
                )
