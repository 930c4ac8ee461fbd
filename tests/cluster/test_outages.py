"""Records of a shard when the connection to the store is lost, at every moment of an append."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psycopg
import pytest

from arcp_io.cluster import store as store_module
from arcp_io.cluster import writer
from arcp_io.cluster.errors import StoreAway
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import JournalFailed
from tests.cluster.conftest import MakeStore
from tests.cluster.owners import Owner, held_by
from tests.cluster.proxy import How, Proxy, proxy_to
from tests.cluster.servers import query


@pytest.fixture
def through(database: str) -> Iterator[tuple[Proxy, str]]:
    """Yield a proxy, and the URL that leads through it."""
    with proxy_to(database) as found:
        yield found


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_cut_around_the_commit_neither_loses_nor_repeats_records(
    how: How, through: tuple[Proxy, str], make_store: MakeStore
) -> None:
    proxy, url = through
    store, other = make_store(url), make_store()
    owners = [Owner(store, shard) for shard in range(3)]
    for attempt in range(12):
        proxy.cut(how, statement=attempt % 2)
        for owner in owners:
            owner.add(3)
        for owner in owners:
            owner.settle()
    assert proxy.cuts >= 6
    for owner in owners:
        assert (owner.failures, owner.told[-1]) == ([], 36)
        assert owner.told == sorted(set(owner.told))
        owner.close()
        assert held_by(other, owner.shard) == owner.records


def test_an_append_that_goes_on_after_its_connection_was_lost_is_stored_once(
    database: str, through: tuple[Proxy, str], make_store: MakeStore
) -> None:
    """Let the lost statement wait for a lock, so that it commits after the next one was sent."""
    proxy, url = through
    owner = Owner(make_store(url), 0)
    owner.add(2)
    owner.settle()
    with psycopg.connect(database) as blocking:
        blocking.execute("SELECT * FROM arcp.shard WHERE shard = 0 FOR UPDATE")
        proxy.cut("straggling")
        owner.add(5)
        owner.wait(lambda: proxy.cuts == 1)
        before = proxy.statements
        owner.add(4)
        owner.wait(lambda: proxy.statements >= before + 2)  # The row was read, and the append sent again.
    owner.settle()
    owner.close()
    assert (owner.failures, owner.told) == ([], [2, 7, 11])
    assert held_by(make_store(), 0) == owner.records
    spans = query(database, "SELECT first, span FROM arcp.record WHERE shard = 0 ORDER BY first")
    assert spans == [(0, 2), (2, 5), (7, 4)]


def test_nothing_fails_while_the_store_is_away(
    through: tuple[Proxy, str], make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, url = through
    store = make_store(url)
    owners = [Owner(store, shard) for shard in range(3)]
    for owner in owners:
        owner.add()
        owner.settle()
    proxy.down()
    for owner in owners:
        owner.add(2)
    with pytest.raises(StoreAway, match="cannot be reached"):
        store.beat()
    owners[0].wait(lambda: "Records wait, and are tried again" in caplog.text)
    assert [owner.told for owner in owners] == [[1]] * 3
    assert all(owner.journal.waiting_bytes for owner in owners)
    proxy.up()
    for owner in owners:
        owner.add()
        owner.settle()
    assert store.beat().nodes[0].beat == 1
    for owner in owners:
        assert (owner.failures, owner.told[-1]) == ([], 4)
        owner.close()
        assert held_by(make_store(), owner.shard) == owner.records
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "the store is back after" in caplog.text


def test_a_store_that_stays_away_is_given_up(
    through: tuple[Proxy, str], make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, url = through
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 0.05)
    owner, idle = (Owner(make_store(url, give_up=0.2), shard) for shard in (0, 1))
    owner.add()
    owner.settle()
    proxy.down()
    owner.add()
    owner.settle()
    (failure,) = owner.failures
    assert isinstance(failure, JournalFailed)
    assert "took no record of shard 0 for 0.2 s: the store postgresql://" in str(failure)
    assert (owner.journal.failed, owner.journal.waiting_bytes) == (failure, 0)
    owner.add()
    owner.close()
    assert idle.failures == []
    assert held_by(make_store(), 0) == owner.records[:1]


def test_a_store_that_does_not_answer_is_dialled_again(
    through: tuple[Proxy, str], make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, url = through
    monkeypatch.setattr(store_module, "ANSWER_SECONDS", 0.5)
    owner = Owner(make_store(url), 0)
    owner.add()
    owner.settle()
    proxy.silence()
    owner.add(2)
    owner.settle()
    owner.close()
    assert held_by(make_store(), 0) == owner.records == [b"0 by 1", b"1 by 1", b"2 by 1"]


def test_a_row_that_is_refused_leaves_other_shards_alone(
    database: str, store: PostgresStore, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    owners = [Owner(store, shard) for shard in range(3)]
    query(database, "INSERT INTO arcp.record VALUES (1, 0, 1, 0, 'in the way')")
    for _ in range(3):
        for owner in owners:
            owner.add()
        owners[0].settle()
        owners[2].settle()
    assert (owners[0].told[-1], owners[1].told, owners[2].told[-1]) == (3, [], 3)
    assert "shard 1: the store postgresql://" in caplog.text
    assert "duplicate key" in caplog.text
    query(database, "DELETE FROM arcp.record WHERE shard = 1")
    owners[1].settle()
    for owner in owners:
        owner.close()
        assert (owner.failures, held_by(make_store(), owner.shard)) == ([], owner.records)


def test_a_row_that_stays_refused_is_given_up(
    database: str, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LONGEST_PAUSE", 0.05)
    store = make_store(give_up=0.2)
    owner, other = Owner(store, 0), Owner(store, 1)
    query(database, "INSERT INTO arcp.record VALUES (0, 0, 1, 0, 'in the way')")
    owner.add()
    owner.settle()
    other.add()
    other.settle()
    assert [type(failure) for failure in owner.failures] == [JournalFailed]
    assert (other.failures, other.told) == ([], [1])


def test_prepared_statements_can_be_left_out(database: str, make_store: MakeStore) -> None:
    store = make_store(f"{database}{'&' if '?' in database else '?'}prepare=off")
    owner = Owner(store, 0)
    for _ in range(8):
        owner.add()
        owner.settle()
    prepared = store.writer._connection.run(
        lambda db: db.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    )
    assert prepared == (0,)
    owner.close()
    assert len(held_by(store, 0)) == 8
