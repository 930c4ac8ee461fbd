"""The statements that read and change the shards of a store; every change is fenced by epoch and node."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from arcp_io.journal.protocol import Amount
from arcp_io.journal.rows import Row

from .connection import Db
from .outcome import Claimed
from .rows import Beat, NodeRow, ShardRow

READ_BYTES: Final = 8 * 1024 * 1024
"""Bytes of rows that are read at a time, unless a single row is longer."""
READ_ROWS: Final = 2_000
"""Rows that are read at a time, at most."""

_SHARD: Final = "SELECT shard, epoch, node::text, next, start, generation, record_version FROM arcp.shard"
_COUNTED: Final = (
    "SELECT s.shard, s.epoch, s.node::text, s.next, s.start, s.generation, s.record_version,"
    " n.unfinished[s.shard + 1] FROM arcp.shard s LEFT JOIN arcp.node n ON n.node = s.node ORDER BY s.shard"
)
_APPEND: Final = (
    "WITH given AS (SELECT * FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::bigint[],"
    " %b::bytea[]) AS g(shard, epoch, first, span, crc, data)),"
    " owned AS (UPDATE arcp.shard s SET next = g.first + g.span FROM given g WHERE s.shard = g.shard"
    " AND s.epoch = g.epoch AND s.node = %s::uuid AND s.next = g.first RETURNING s.shard)"
    " INSERT INTO arcp.record SELECT g.shard, g.first, g.span, g.crc, g.data FROM given g"
    " JOIN owned USING (shard) RETURNING shard"
)
_MINE: Final = "shard = %s AND epoch = %s AND node = %s::uuid"
_COMPLETE: Final = (
    "WITH owned AS (UPDATE arcp.shard SET {what} WHERE shard = %s AND epoch = %s AND node = %s::uuid"
    " AND {condition} AND %s = (SELECT count(*) FROM arcp.kept k WHERE k.shard = %s AND k.generation = %s)"
    " RETURNING shard),"
    " gone AS (DELETE FROM arcp.record r USING owned o WHERE r.shard = o.shard AND {gone} RETURNING 1),"
    " old AS (DELETE FROM arcp.kept k USING owned o WHERE k.shard = o.shard AND k.generation <> %s"
    " RETURNING 1) SELECT shard FROM owned"
)
_COMPACTED: Final = _COMPLETE.format(
    what="start = %s, generation = %s", condition="next >= %s", gone="r.first < %s"
)
_HEALED: Final = _COMPLETE.format(
    what="next = %s, start = %s, generation = %s", condition="true", gone="true"
)
_PAGE: Final = (
    "SELECT first, span, crc, data FROM (SELECT first, span, crc, data, sum(octet_length(data)) OVER"
    " (ORDER BY first) - octet_length(data) AS before FROM"
    " (SELECT first, span, crc, data FROM arcp.{table} WHERE shard = %s AND {which} first >= %s"
    " ORDER BY first LIMIT %s) AS rows) AS page WHERE before < %s ORDER BY first"
)


def append(db: Db, node: str, rows: Sequence[tuple[Claimed, int, Row]]) -> set[int]:
    """Append a row to each of several shards in one transaction; return the shards that took theirs.

    A shard takes its row if the claim holds and the row continues its records.
    """
    columns: tuple[list[Any], ...] = ([], [], [], [], [], [])
    for claimed, shard, row in rows:
        for column, value in zip(columns, (shard, claimed.epoch, *row), strict=True):
            column.append(value)
    found = db.execute(_APPEND, (*map(_integers, columns[:5]), columns[5], node), binary=True)
    return {shard for (shard,) in found.fetchall()}


def read_shards(db: Db, shards: Collection[int] | None = None) -> list[ShardRow]:
    """Return the rows of some shards, or of all of them, by their numbers."""
    if shards is None:
        found = db.execute(f"{_SHARD} ORDER BY shard")
    else:
        found = db.execute(f"{_SHARD} WHERE shard = ANY(%s) ORDER BY shard", (list(shards),))
    return [ShardRow(*values) for values in found.fetchall()]


def read_counted(db: Db) -> list[tuple[ShardRow, int | None]]:
    """Return the rows of all shards, each with the unfinished jobs that the last beat of its owner told.

    The count is None for a shard without an owner, and for one that its owner did not serve at that beat.
    """
    return [(ShardRow(*values[:-1]), values[-1]) for values in db.execute(_COUNTED).fetchall()]


def read_nodes(db: Db) -> list[NodeRow]:
    """Return the rows of all nodes, by their ids."""
    found = db.execute(
        "SELECT node::text, address, key, beat, draining, release FROM arcp.node ORDER BY node"
    )
    return [NodeRow(*values) for values in found.fetchall()]


def write_node(db: Db, node: str, beating: Beat, release: str) -> None:
    """Write the row of a node, with a beat that is one higher than before."""
    db.execute(
        "INSERT INTO arcp.node AS mine (address, key, draining, unfinished, node, beat, release)"
        " VALUES (%s, %s, %s, %s::int[], %s::uuid, 0, %s) ON CONFLICT (node) DO UPDATE SET"
        " beat = mine.beat + 1, address = excluded.address, key = excluded.key,"
        " draining = excluded.draining, unfinished = excluded.unfinished",
        (*_values(beating), node, release),
    )


def beat_node(db: Db, node: str, beating: Beat) -> bool:
    """Raise the beat of a node whose row is there; return whether it is."""
    found = db.execute(
        "UPDATE arcp.node SET beat = beat + 1, address = %s, key = %s, draining = %s, unfinished = %s::int[]"
        " WHERE node = %s::uuid RETURNING 1",
        (*_values(beating), node),
    )
    return found.fetchone() is not None


def forget(db: Db, node: str, beat: int | None) -> bool:
    """Delete the row of a node that owns nothing, if its beat is the one seen; return whether it is gone.

    The row is locked first: a claim by the node is carried out before, and seen, or finds no row any longer.
    """
    with db.transaction():
        db.execute("SELECT 1 FROM arcp.node WHERE node = %s::uuid FOR UPDATE", (node,))
        found = db.execute(
            "DELETE FROM arcp.node WHERE node = %s::uuid AND beat = coalesce(%s::bigint, beat)"
            " AND NOT EXISTS (SELECT 1 FROM arcp.shard WHERE shard.node = %s::uuid) RETURNING 1",
            (node, beat, node),
        )
        return found.fetchone() is not None


def confirm(db: Db, shard: int, claimed: Claimed, next_record: int) -> bool:
    """Return whether a shard of ours has exactly the records below a number, by a write that changes nothing.

    Its commit waits for the disk and the synchronous standbys, and so for all commits before it.
    """
    found = db.execute(
        f"UPDATE arcp.shard SET next = next WHERE {_MINE} AND next = %s RETURNING shard",
        (shard, claimed.epoch, claimed.node, next_record),
    )
    return found.fetchone() is not None


def claim(
    db: Db,
    shard: int,
    seen: int,
    node: str,
    record_version: int,
    owner: str | None = None,
    beat: int = 0,
    named: str | None = None,
) -> tuple[int, int] | None:
    """Claim a shard whose epoch is still the one seen; return its new epoch and next record, or None.

    If `named` is given, the row of the shard must still name this node, or none if it is empty: a store that
    went back may give an epoch twice. The rows of both nodes are conditions, as `_lock_nodes` says.
    """
    with db.transaction():
        if not _lock_nodes(db, node, owner, beat):
            return None
        row: tuple[int, int] | None = db.execute(
            "UPDATE arcp.shard SET epoch = epoch + 1, node = %s::uuid, record_version = %s"
            " WHERE shard = %s AND epoch = %s AND record_version <= %s"
            " AND (%s::text IS NULL OR COALESCE(node::text, '') = %s::text) RETURNING epoch, next",
            (node, record_version, shard, seen, record_version, named, named),
        ).fetchone()
    return row


def reclaim(
    db: Db, seen: ShardRow, claimed: Claimed, record_version: int, owner: str | None, beat: int
) -> bool:
    """Claim a shard for a heal, under a given epoch, if its row is the one seen; return whether it was.

    The rows of both nodes are conditions, as for a claim.
    """
    with db.transaction():
        if not _lock_nodes(db, claimed.node, owner, beat):
            return False
        found = db.execute(
            "UPDATE arcp.shard SET epoch = %s, node = %s::uuid, record_version = %s WHERE shard = %s"
            " AND epoch = %s AND node IS NOT DISTINCT FROM %s::uuid AND next = %s RETURNING shard",
            (claimed.epoch, claimed.node, record_version, seen.shard, seen.epoch, seen.node, seen.next),
        ).fetchone()
    return found is not None


def _lock_nodes(db: Db, node: str, owner: str | None, beat: int) -> bool:
    """Lock the rows of a node and of the owner before it; return whether the node may claim the shard.

    It needs a row of its own, which stays until the transaction ends: a node without a row cannot be watched,
    so others would claim its shards at once. If there is an owner, its row must be gone or have this beat; it
    is locked, so that the next beat of the owner reads the shard after the claim.
    """
    mine = db.execute("SELECT 1 FROM arcp.node WHERE node = %s::uuid FOR KEY SHARE", (node,)).fetchone()
    if mine is None or owner is None:
        return mine is not None
    found = db.execute("SELECT beat FROM arcp.node WHERE node = %s::uuid FOR SHARE", (owner,)).fetchone()
    return found is None or bool(found[0] == beat)


def raise_version(db: Db, shard: int, claimed: Claimed, record_version: int) -> bool:
    """Note that a shard of ours has records of a newer version from now on; return whether it is ours."""
    found = db.execute(
        f"UPDATE arcp.shard SET record_version = %s WHERE {_MINE} RETURNING shard",
        (record_version, shard, claimed.epoch, claimed.node),
    )
    return found.fetchone() is not None


def release(db: Db, shard: int, epoch: int, node: str) -> bool:
    """Give a shard of ours away; return whether it was ours."""
    found = db.execute(
        f"UPDATE arcp.shard SET node = NULL WHERE {_MINE} RETURNING shard", (shard, epoch, node)
    )
    return found.fetchone() is not None


def add_kept(db: Db, shard: int, claimed: Claimed, generation: int, row: Row) -> bool:
    """Add a row to a generation that is not valid yet; return whether the shard is ours.

    This takes no lock. A row that is added after another node has claimed the shard is in a generation that
    never comes to be, and goes with the next compaction.
    """
    found = db.execute(
        "INSERT INTO arcp.kept SELECT %s::int, %s::bigint, %s::bigint, %s::int, %s::bigint, %b::bytea"
        f" FROM arcp.shard WHERE {_MINE} RETURNING shard",
        (shard, generation, *row, shard, claimed.epoch, claimed.node),
    )
    return found.fetchone() is not None


def complete_compaction(db: Db, shard: int, claimed: Claimed, generation: int, rows: int, start: int) -> bool:
    """Let a generation of `rows` rows stand for all records below a number; return whether it does.

    It does not if the store lacks some of these records or rows, since it went back meanwhile.
    """
    mine, kept = (shard, claimed.epoch, claimed.node), (rows, shard, generation)
    values = (start, generation, *mine, start, *kept, start, generation)
    return db.execute(_COMPACTED, values).fetchone() is not None


def complete_heal(db: Db, shard: int, claimed: Claimed, generation: int, rows: int, number: int) -> bool:
    """Let a generation of `rows` rows stand for everything, and continue with a number.

    Returns whether it does: not if the store lacks some of the rows, since it went back once more.
    """
    mine, kept = (shard, claimed.epoch, claimed.node), (rows, shard, generation)
    values = (number, number, generation, *mine, *kept, generation)
    return db.execute(_HEALED, values).fetchone() is not None


def amounts(db: Db, row: ShardRow) -> tuple[Amount, Amount]:
    """Return the amounts of the snapshot of a shard and of the records behind it."""
    found = []
    for table, which, value in (
        ("kept", "generation = %s", row.generation),
        ("record", "first >= %s", row.start),
    ):
        values = db.execute(
            "SELECT coalesce(sum(span), 0)::bigint, coalesce(sum(octet_length(data)), 0)::bigint"
            f" FROM arcp.{table} WHERE shard = %s AND {which}",
            (row.shard, value),
        ).fetchone()
        assert values is not None
        found.append(Amount(values[0], values[1] - 4 * values[0]))
    return found[0], found[1]


def read_page(db: Db, shard: int, generation: int | None, first: int) -> list[Row]:
    """Return the next rows of a shard from a number on, or of a generation of its snapshot."""
    if generation is None:
        statement = _PAGE.format(table="record", which="")
        values: tuple[int, ...] = (shard, first, READ_ROWS, READ_BYTES)
    else:
        statement = _PAGE.format(table="kept", which="generation = %s AND")
        values = (shard, generation, first, READ_ROWS, READ_BYTES)
    return [Row(*found) for found in db.execute(statement, values, binary=True).fetchall()]


def _values(beating: Beat) -> tuple[str, bytes, bool, str]:
    counts = [beating.unfinished.get(shard) for shard in range(max(beating.unfinished, default=-1) + 1)]
    return beating.address, beating.key, beating.draining, _integers(counts)


def _integers(values: Sequence[int | None]) -> str:
    """Return an array of PostgreSQL in its text form, which has the same type for numbers of any size."""
    return f"{{{','.join('NULL' if value is None else str(value) for value in values)}}}"
