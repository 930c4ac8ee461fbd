"""Snapshots in a store: what they replace, what a failure leaves, and rows that are damaged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arcp_io.cluster import compactor, statements
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import JournalDamaged, JournalFailed
from arcp_io.journal import rows as rows_module
from tests.cluster.conftest import MakeStore
from tests.cluster.owners import Owner, held_by
from tests.cluster.proxy import How, proxy_to
from tests.cluster.servers import query


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let snapshots have many rows."""
    monkeypatch.setattr(compactor, "rows", lambda records, least: rows_module.rows(records, 20))


def compacted(owner: Owner) -> None:
    """Replace the records of a shard by a snapshot, and wait until it is valid or has failed."""
    owner.journal.compact(list(owner.records))
    owner.wait(lambda: not owner.journal._compacting)


def test_a_snapshot_replaces_rows_and_the_snapshot_before(database: str, store: PostgresStore) -> None:
    owner = Owner(store, 0)
    for _ in range(3):
        owner.add(4)
        owner.settle()
        compacted(owner)
        owner.add(1)
        owner.settle()
    assert query(database, "SELECT first, span FROM arcp.record") == [(14, 1)]
    assert query(database, "SELECT count(DISTINCT generation), sum(span) FROM arcp.kept") == [(1, 14)]
    assert query(database, "SELECT start, next FROM arcp.shard WHERE shard = 0") == [(14, 15)]
    owner.close()
    assert held_by(store, 0) == owner.records


@pytest.mark.usefixtures("short_rows")
@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("statement", range(5))
def test_a_compaction_that_is_cut_changes_nothing_else(
    statement: int, how: How, database: str, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut at each statement: the fourth one is the end of the snapshot, and the fifth makes it valid."""
    with proxy_to(database) as (proxy, url):
        owner = Owner(make_store(url), 0)
        owner.add(5)
        owner.settle()
        compacted(owner)
        owner.add(5)
        owner.settle()
        stands = query(database, "SELECT start, generation FROM arcp.shard WHERE shard = 0")
        proxy.cut(how, statement=statement)
        compacted(owner)
        assert "shard 0 was not compacted, and is unchanged" in caplog.text
        if (statement, how) != (4, "after"):
            assert query(database, "SELECT start, generation FROM arcp.shard WHERE shard = 0") == stands
        owner.add(2)
        owner.settle()
        owner.close()
        other = Owner(make_store(), 0)
        assert (owner.failures, other.records) == ([], owner.records)
        compacted(other)
        generations = query(database, "SELECT DISTINCT generation FROM arcp.kept")
        assert generations == query(database, "SELECT generation FROM arcp.shard WHERE shard = 0")
        other.close()
        assert held_by(make_store(), 0) == owner.records


def test_a_snapshot_that_cannot_be_made_is_the_end(store: PostgresStore) -> None:
    owner, other = Owner(store, 0), Owner(store, 1)
    owner.add(2)
    owner.settle()

    def broken() -> Iterator[bytes]:
        yield b"good"
        raise RuntimeError("no more")

    owner.journal.compact(broken())
    owner.wait(lambda: bool(owner.failures))
    assert [type(failure) for failure in owner.failures] == [JournalFailed]
    assert "the snapshot of shard 0 could not be made: no more" in str(owner.failures[0])
    owner.close()
    assert held_by(store, 0) == owner.records
    other.add()
    other.settle()
    compacted(other)
    assert other.failures == []


def test_many_snapshots_are_written_one_after_the_other(store: PostgresStore) -> None:
    owners = [Owner(store, shard) for shard in range(6)]
    for owner in owners:
        owner.add(50)
        owner.journal.compact(list(owner.records))
        owner.add(50)
    for owner in owners:
        owner.wait(lambda owner=owner: not owner.journal._compacting)
        owner.settle()
        owner.close()
        assert held_by(store, owner.shard) == owner.records


def test_a_long_shard_is_read_in_pages(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(store, 0)
    for number in range(40):
        owner.append(b"x" * (number % 5 * 100), b"%d" % number)
        owner.settle()
    owner.close()
    monkeypatch.setattr(statements, "READ_BYTES", 1_000)
    pages: list[int] = []
    read_page = statements.read_page

    def counted(*arguments: object) -> list[rows_module.Row]:
        page = read_page(*arguments)
        pages.append(sum(len(row.data) for row in page))
        return page

    monkeypatch.setattr(statements, "read_page", counted)
    assert held_by(store, 0) == owner.records
    assert len(pages) == 8
    assert max(pages) < 1_500
    monkeypatch.setattr(statements, "READ_ROWS", 3)
    pages.clear()
    assert held_by(store, 0) == owner.records
    assert len(pages) == 14


# Damage.


def damaged(database: str, store: PostgresStore, statement: str, *, snapshot: bool = False) -> str:
    """Damage a shard of twelve records in three rows; return the errors of two later owners."""
    owner, other = Owner(store, 0), Owner(store, 1)
    for _ in range(3):
        owner.add(4)
        owner.settle()
        if snapshot:
            compacted(owner)
    owner.close()
    other.add(3)
    other.close()
    query(database, statement)
    said = set()
    for _ in range(2):
        with pytest.raises(JournalDamaged, match="Restore the database from a backup") as refused:
            Owner(store, 0)
        said.add(str(refused.value))
        store.writer._lanes.clear()
    assert held_by(store, 1) == other.records
    return str(sorted(said))


def test_a_changed_byte_is_found(database: str, store: PostgresStore) -> None:
    said = damaged(database, store, "UPDATE arcp.record SET data = set_byte(data, 20, 1) WHERE first = 4")
    assert "shard 0 of <PostgresStore postgresql://" in said
    assert "damaged in its records: the checksum of the row of record 4 is wrong" in said


def test_a_changed_number_is_found(database: str, store: PostgresStore) -> None:
    assert "record 8 is missing" in damaged(
        database, store, "UPDATE arcp.record SET first = 9 WHERE first = 8 AND shard = 0"
    )


@pytest.mark.parametrize("first", [0, 4, 8])
def test_a_row_that_is_gone_is_missed(first: int, database: str, store: PostgresStore) -> None:
    said = damaged(database, store, f"DELETE FROM arcp.record WHERE shard = 0 AND first = {first}")
    assert "it has 8 of the records from 0 to 12" in said


@pytest.mark.usefixtures("short_rows")
@pytest.mark.parametrize("which", ["first = 0", "first = 4", "span = 0"])
def test_a_row_of_a_snapshot_that_is_gone_is_missed(which: str, database: str, store: PostgresStore) -> None:
    said = damaged(database, store, f"DELETE FROM arcp.kept WHERE shard = 0 AND {which}", snapshot=True)
    assert "damaged in its snapshot: record" in said


@pytest.mark.usefixtures("short_rows")
def test_a_changed_byte_of_a_snapshot_is_found(database: str, store: PostgresStore) -> None:
    statement = "UPDATE arcp.kept SET data = set_byte(data, 20, 1) WHERE shard = 0 AND first = 4"
    assert "the checksum of the row of record 4 is wrong" in damaged(
        database, store, statement, snapshot=True
    )
