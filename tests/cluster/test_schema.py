"""The tables of a store: which commands make them, which stores are refused, and what the refusal says."""

from __future__ import annotations

import os
import threading

import pytest

from arcp_io.cluster import schema
from arcp_io.cluster.connection import Connection
from arcp_io.cluster.errors import NoStore, StoreAway, StoreError
from arcp_io.cluster.store import PostgresStore
from arcp_io.cluster.url import read_url
from tests.cluster.servers import query
from tests.io.processes import arcp_io


def opened(url: str, **options: int | None) -> PostgresStore:
    """Return a store that is checked and, unless the options forbid it, made."""
    store = PostgresStore(url)
    store.open(**options)
    return store


def upgraded(url: str) -> tuple[int, int]:
    read = read_url(url)
    connection = Connection(read, answer_seconds=10)
    try:
        return connection.run(lambda db: schema.upgrade(db, read))
    finally:
        connection.close()


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def test_a_store_is_made_once(database: str) -> None:
    assert opened(database, make_shards=8).shards == 8
    assert opened(database, make_shards=16).shards == 8
    assert opened(database, make_shards=None).shards == 8
    assert query(database, "SELECT shard FROM arcp.shard ORDER BY shard") == [
        (number,) for number in range(8)
    ]


def test_the_tables_are_set_up_for_large_rows(database: str) -> None:
    opened(database)
    settings = query(
        database,
        "SELECT relname, reloptions::text, attstorage::text FROM pg_class c JOIN pg_attribute a"
        " ON a.attrelid = c.oid WHERE relnamespace = 'arcp'::regnamespace AND attname = 'data'"
        " AND relname IN ('kept', 'record') ORDER BY relname",
    )
    assert [(name, storage) for name, _, storage in settings] == [("kept", "e"), ("record", "e")]
    assert "autovacuum_vacuum_scale_factor=0.02" in str(settings[0][1])
    assert query(database, "SELECT reloptions::text FROM pg_class WHERE oid = 'arcp.shard'::regclass") == [
        ("{fillfactor=50}",)
    ]


def test_nodes_that_start_together_make_one_store(database: str) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def begin() -> None:
        start.wait()
        try:
            opened(database)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert query(database, "SELECT count(*) FROM arcp.shard") == [(schema.SHARDS,)]


def test_a_store_that_is_not_made_is_missed(database: str) -> None:
    with pytest.raises(NoStore, match=r"there is no store in postgresql://.*: run 'arcp-io store init "):
        opened(database, make_shards=None)


@pytest.mark.parametrize("shards", [0, -1, schema.MOST_SHARDS + 1])
def test_the_number_of_shards_has_bounds(database: str, shards: int) -> None:
    with pytest.raises(StoreError, match=f"between 1 and {schema.MOST_SHARDS} shards, not {shards}"):
        opened(database, make_shards=shards)
    assert query(database, "SELECT 1 FROM pg_namespace WHERE nspname = 'arcp'") == []


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE SCHEMA arcp",),
        ("CREATE SCHEMA arcp", "CREATE TABLE arcp.orders (x int)"),
        ("CREATE SCHEMA arcp", "CREATE TABLE arcp.store (x int)"),
        ("CREATE SCHEMA arcp", "CREATE TABLE arcp.store (version int, shards int)"),
    ],
)
def test_another_schema_of_this_name_is_left_as_it_is(database: str, statements: tuple[str, ...]) -> None:
    for statement in statements:
        query(database, statement)
    with pytest.raises(StoreError, match="is not a store of arcp-io: choose another database"):
        opened(database)
    assert len(query(database, "SELECT 1 FROM pg_tables WHERE schemaname = 'arcp'")) == len(statements) - 1


def test_a_newer_store_is_refused(database: str) -> None:
    opened(database)
    query(database, "UPDATE arcp.store SET version = 7")
    with pytest.raises(StoreError, match=r"has version 7 .* up to 2: use a newer arcp-io"):
        opened(database)
    with pytest.raises(StoreError, match="has version 7 of its tables: use a newer arcp-io"):
        upgraded(database)


def test_a_node_goes_on_with_a_newer_store_until_it_connects_again(database: str) -> None:
    store = opened(database)
    store.read()
    query(database, "UPDATE arcp.store SET version = 7")
    assert len(store.read().shards) == store.shards
    query(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()",
    )
    with pytest.raises(StoreError, match=r"has version 7 .*: use a newer arcp-io"):
        store.read()
    store.close()


def test_an_older_store_is_upgraded_by_a_command(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(database)
    query(database, "UPDATE arcp.store SET version = 1")
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(
        schema,
        "MIGRATIONS",
        {1: ["ALTER TABLE arcp.store ADD COLUMN two int DEFAULT 2"], 2: ["CREATE TABLE arcp.three (x int)"]},
    )
    said = r"has version 1 .* needs version 3: run 'arcp-io store upgrade postgresql://"
    with pytest.raises(StoreError, match=said):
        opened(database)
    assert upgraded(database) == (1, 3)
    assert upgraded(database) == (3, 3)
    assert query(database, "SELECT version, two FROM arcp.store") == [(3, 2)]
    assert opened(database).shards == schema.SHARDS


def columns(url: str) -> list[tuple[object, ...]]:
    """Return all columns of a store, with their types and defaults."""
    return query(
        url,
        "SELECT table_name, ordinal_position, column_name, udt_name, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = 'arcp' ORDER BY 1, 2",
    )


VERSION_1 = (
    "DROP TABLE arcp.node",
    "CREATE TABLE arcp.node (node uuid PRIMARY KEY, address text NOT NULL, key bytea NOT NULL,"
    " beat bigint NOT NULL, draining boolean NOT NULL, release text NOT NULL,"
    " started timestamptz NOT NULL DEFAULT now())",
    "UPDATE arcp.store SET version = 1",
)
"""The statements that lead from version 2 of the tables back to version 1, as earlier releases made them."""
A_BEAT_OF_VERSION_1 = (
    "INSERT INTO arcp.node AS mine (node, address, key, beat, draining, release)"
    " VALUES (%s::uuid, %s, %s, 0, %s, %s) ON CONFLICT (node) DO UPDATE SET beat = mine.beat + 1,"
    " address = excluded.address, key = excluded.key, draining = excluded.draining"
)


def test_a_store_of_version_1_is_upgraded_while_a_node_of_its_release_beats(database: str) -> None:
    store = opened(database, make_shards=8)
    made = columns(database)
    for statement in VERSION_1:
        query(database, statement)
    old = ("11111111-1111-4111-8111-111111111111", "10.0.0.1:7800", b"key", False, "0.1.0")
    query(database, A_BEAT_OF_VERSION_1, *old)
    query(database, "UPDATE arcp.shard SET node = %s, epoch = 1 WHERE shard = 3", old[0])
    for words in (("nodes", database), ("shards", database)):
        refused = arcp_io(*words)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "needs version 2: run 'arcp-io store upgrade postgresql://" in refused.stderr
    done = arcp_io("store", "upgrade", database)
    assert (done.returncode, done.stdout.endswith(" had version 1, and has version 2 now\n")) == (0, True)
    assert columns(database) == made
    query(database, A_BEAT_OF_VERSION_1, *old)
    assert [(node.node, node.beat) for node in store.read().nodes] == [(old[0], 1)]
    assert [jobs for _, jobs in store.read_counted()] == [None] * 8
    store.close()


def test_an_upgrade_that_fails_changes_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(database)
    query(database, "UPDATE arcp.store SET version = 1")
    twice = ["CREATE TABLE arcp.two (x int)"] * 2
    monkeypatch.setattr(schema, "MIGRATIONS", {1: twice})
    with pytest.raises(StoreError, match="already exists"):
        upgraded(database)
    assert query(database, "SELECT version, to_regclass('arcp.two')::text FROM arcp.store") == [(1, None)]


def test_a_server_that_does_not_wait_for_its_disk_is_refused(database: str) -> None:
    off = with_option(database, "options=-c%20synchronous_commit%3Doff")
    said = r"has synchronous_commit = off, .*: set synchronous_commit = on .*, or add unsafe=1 to the URL"
    with pytest.raises(StoreError, match=said):
        opened(off)
    assert opened(with_option(off, "unsafe=1")).shards == schema.SHARDS
    assert opened(with_option(database, "options=-c%20synchronous_commit%3Dlocal")).shards == schema.SHARDS


def test_a_server_that_writes_without_fsync_is_refused() -> None:
    class Found:
        def fetchone(self) -> tuple[str]:
            return ("off",)

    class Server:
        def execute(self, statement: str, values: tuple[str, ...]) -> Found:
            assert values == ("fsync",)
            return Found()

    with pytest.raises(StoreError, match=r"has fsync = off, .*: set fsync = on in postgresql\.conf, or add"):
        schema._check_settings(Server(), read_url("postgresql://db/arcp"))


def test_a_role_that_may_not_make_a_store_is_told_the_command(database: str) -> None:
    role = f"arcp_role_{os.getpid()}"
    query(database, f"CREATE ROLE {role}")
    try:
        as_role = with_option(database, f"options=-c%20role%3D{role}")
        with pytest.raises(StoreError, match="its role may not make one: run 'arcp-io store init "):
            opened(as_role)
        opened(database)
        with pytest.raises(StoreError, match=r"permission denied|may not read the store"):
            opened(as_role)
    finally:
        query(database, f"DROP OWNED BY {role}")
        query(database, f"DROP ROLE {role}")


def test_a_store_that_cannot_be_reached_says_why() -> None:
    with pytest.raises(StoreAway, match=r"the store postgresql://127\.0\.0\.1:1/arcp cannot be reached: "):
        opened("postgresql://alice:secret@127.0.0.1:1/arcp")
    with pytest.raises(StoreAway, match="the store postgresql:///no_such_database_of_tests cannot"):
        opened("postgresql:///no_such_database_of_tests?host=/nowhere")


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(StoreError, match=r'the URL of the store postgresql://db/arcp is wrong: .*"colour"'):
        opened("postgresql://db/arcp?colour=red")
