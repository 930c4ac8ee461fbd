"""The tables of a store: making them, checking them, and leading them to a newer version.

store    one row: the version of the tables, and the number of shards, which never changes
node     a row for each node that lives, or lived less than an hour ago; `unfinished` has the unfinished jobs
         of each shard that it serves, the shard 0 first, and NULL for any other
shard    a row for each shard: its owner, and how far its records go
record   the records of a shard behind its snapshot: rows of many records each, under the number of the first
kept     snapshots: rows of many records each, numbered from 0 for themselves; the last row of a generation
         is empty and says where it ends

All of them are in the schema `arcp` of the database. The statements are in the part of SQL that CockroachDB
and YugabyteDB have as well; the settings of TUNING are left out where a server does not know them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from .connection import Db, pg
from .errors import NoStore, StoreError
from .url import StoreUrl

SCHEMA_VERSION: Final = 2
"""The version of the tables."""
SHARDS: Final = 128
"""The number of shards of a new store, unless another is given."""
MOST_SHARDS: Final = 4096
"""The largest number of shards."""
OLDEST_SERVER: Final = 130_000
"""The oldest release of PostgreSQL, as the server states it: 13.0."""

TABLES: Final = (
    "CREATE SCHEMA arcp",
    "CREATE TABLE arcp.store (one boolean PRIMARY KEY DEFAULT true CHECK (one), version int NOT NULL,"
    " shards int NOT NULL)",
    "CREATE TABLE arcp.node (node uuid PRIMARY KEY, address text NOT NULL, key bytea NOT NULL,"
    " beat bigint NOT NULL, draining boolean NOT NULL, release text NOT NULL,"
    " started timestamptz NOT NULL DEFAULT now(), unfinished int[] NOT NULL DEFAULT '{}')",
    "CREATE TABLE arcp.shard (shard int PRIMARY KEY, epoch bigint NOT NULL DEFAULT 0, node uuid,"
    " next bigint NOT NULL DEFAULT 0, start bigint NOT NULL DEFAULT 0, generation bigint NOT NULL DEFAULT 0,"
    " record_version int NOT NULL DEFAULT 0)",
    "CREATE TABLE arcp.record (shard int, first bigint, span int NOT NULL, crc bigint NOT NULL,"
    " data bytea NOT NULL, PRIMARY KEY (shard, first))",
    "CREATE TABLE arcp.kept (shard int, generation bigint, first bigint, span int NOT NULL,"
    " crc bigint NOT NULL, data bytea NOT NULL, PRIMARY KEY (shard, generation, first))",
)
TUNING: Final = (
    "ALTER TABLE arcp.shard SET (fillfactor = 50)",
    *(f"ALTER TABLE arcp.{table} ALTER COLUMN data SET STORAGE EXTERNAL" for table in ("record", "kept")),
    *(
        f"ALTER TABLE arcp.{table} SET (autovacuum_vacuum_scale_factor = 0.02,"
        " toast.autovacuum_vacuum_scale_factor = 0.02)"
        for table in ("record", "kept")
    ),
)
"""Settings that spare PostgreSQL work: room for updates in place, no compression, vacuum of small parts."""

MIGRATIONS: Final[Mapping[int, Sequence[str]]] = MappingProxyType(
    {1: ("ALTER TABLE arcp.node ADD COLUMN unfinished int[] NOT NULL DEFAULT '{}'",)}
)
"""Version of the tables -> the statements that lead to the next version.

Nodes of the earlier release go on with their statements meanwhile: a new column has a default.
"""

_SETTINGS: Final = (
    ("fsync", ("off",), "fsync = on in postgresql.conf"),
    (
        "synchronous_commit",
        ("off",),
        "synchronous_commit = on for the server, the database and the role",
    ),
)
"""Settings of a server with which records are lost that it reported stored: values, and the remedy."""


def check(db: Db, url: StoreUrl) -> int:
    """Return the number of shards of a store that can be used.

    Raises NoStore for a database without a store, and StoreError if the server is too old or does not wait
    for its disk, or if the store has another version, or is not one.
    """
    if db.info.server_version < OLDEST_SERVER:
        raise StoreError(f"the server of {url.shown} is older than PostgreSQL 13: upgrade it")
    version, shards = _store(db, url)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {url.shown} has version {version} of its tables, and this arcp-io knows versions up"
            f" to {SCHEMA_VERSION}: use a newer arcp-io"
        )
    if version < SCHEMA_VERSION:
        raise StoreError(
            f"the store {url.shown} has version {version} of its tables, and this arcp-io needs version"
            f" {SCHEMA_VERSION}: run 'arcp-io store upgrade {url.shown}'"
        )
    if not url.unsafe:
        _check_settings(db, url)
    return shards


def make(db: Db, url: StoreUrl, shards: int = SHARDS) -> None:
    """Make a store with a number of shards, unless there is one.

    Raises StoreError if the role may not make it, or if there is something else in the schema `arcp`.
    """
    if not 1 <= shards <= MOST_SHARDS:
        raise StoreError(f"a store has between 1 and {MOST_SHARDS} shards, not {shards}")
    try:
        _store(db, url)
    except NoStore:
        pass
    else:
        return
    try:
        with db.transaction():
            for statement in TABLES:
                db.execute(statement)
            for statement in TUNING:
                _tune(db, statement)
            db.execute("INSERT INTO arcp.shard (shard) SELECT generate_series(0, %s)", (shards - 1,))
            db.execute("INSERT INTO arcp.store (version, shards) VALUES (%s, %s)", (SCHEMA_VERSION, shards))
    except (pg.DuplicateSchema, pg.UniqueViolation):
        _store(db, url)  # Another node was faster, and has committed.
    except pg.InsufficientPrivilege as error:
        raise StoreError(
            f"there is no store in {url.shown}, and its role may not make one: run"
            f" 'arcp-io store init {url.shown}' with a role that may create a schema"
        ) from error


def upgrade(db: Db, url: StoreUrl) -> tuple[int, int]:
    """Lead the tables to the version of this release; return the versions before and after.

    Each version is a transaction. Raises NoStore, and StoreError for a store with a newer version.
    """
    before = version = _store(db, url)[0]
    if version > SCHEMA_VERSION:
        raise StoreError(f"the store {url.shown} has version {version} of its tables: use a newer arcp-io")
    while version < SCHEMA_VERSION:
        with db.transaction():
            step = "UPDATE arcp.store SET version = %s WHERE version = %s RETURNING version"
            if db.execute(step, (version + 1, version)).fetchone() is not None:
                for statement in MIGRATIONS[version]:
                    db.execute(statement)
        version = _store(db, url)[0]
    return before, version


def _store(db: Db, url: StoreUrl) -> tuple[int, int]:
    """Return the version and the number of shards of a store of any version."""
    tables = db.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'arcp'"
    ).fetchall()
    schema = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'arcp'"
    if not tables and db.execute(schema).fetchone() is None:
        raise NoStore(f"there is no store in {url.shown}: run 'arcp-io store init {url.shown}'")
    foreign = f"the schema arcp of {url.shown} is not a store of arcp-io: choose another database"
    if ("store",) not in tables:
        raise StoreError(foreign)
    try:
        row = db.execute("SELECT version, shards FROM arcp.store").fetchone()
    except pg.UndefinedColumn:
        raise StoreError(foreign) from None
    except pg.InsufficientPrivilege as error:
        raise StoreError(f"the role of {url.shown} may not read the store: grant it the tables") from error
    if row is None or not all(type(value) is int and value > 0 for value in row):
        raise StoreError(foreign)
    return row[0], row[1]


def _check_settings(db: Db, url: StoreUrl) -> None:
    for name, values, remedy in _SETTINGS:
        row = db.execute("SELECT current_setting(%s, true)", (name,)).fetchone()
        if row is not None and row[0] in values:
            raise StoreError(
                f"the server of {url.shown} has {name} = {row[0]}, so that it loses records which it reported"
                f" stored: set {remedy}, or add unsafe=1 to the URL to accept the loss"
            )


def _tune(db: Db, statement: str) -> None:
    """Change a setting, if the server knows it."""
    try:
        with db.transaction():
            db.execute(statement)
    except (pg.FeatureNotSupported, pg.SyntaxError, pg.InvalidParameterValue, pg.UndefinedObject):
        pass
