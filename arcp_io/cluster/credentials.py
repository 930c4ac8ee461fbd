"""The credentials in a store that are not known to be revoked."""

from __future__ import annotations

from typing import Final

from arcp_io.journal.credential_report import Outstanding, listed
from arcp_io.journal.protocol import JournalDamaged, JournalError
from arcp_proto import RECORD_VERSION, decode_record

from .postgres_journal import stored_records
from .store import PostgresStore

TRIES: Final = 5
"""How often a shard is read whose records are replaced by a snapshot meanwhile."""


def outstanding_in_store(url: str) -> list[Outstanding]:
    """Return the unrevoked credentials of all shards, oldest first; nodes may serve the store.

    Raises StoreError for a store that cannot be used, and JournalError for records that cannot be read.
    """
    store = PostgresStore(url)
    try:
        store.open(make_shards=None)
        found = [one for shard in range(store.shards) for one in _of_shard(store, shard)]
    finally:
        store.close()
    return sorted(found, key=lambda one: one.requested_at)


def _of_shard(store: PostgresStore, shard: int) -> list[Outstanding]:
    name = f"shard {shard} of {store.url.shown}"
    for left in reversed(range(TRIES)):
        row = store.shard_row(shard)
        if row is None:
            raise JournalDamaged(f"{name} has no row. Restore the database from a backup")
        if row.record_version > RECORD_VERSION:
            raise JournalError(f"{name} has records of a newer version: use a newer arcp-io")
        try:
            return listed(map(decode_record, stored_records(store, row, name)))
        except JournalDamaged:
            if not left or store.shard_row(shard) == row:
                raise
    raise AssertionError("the last try returns or raises")
