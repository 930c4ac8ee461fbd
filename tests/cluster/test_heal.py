"""A store that went back to an earlier state: its owners write again what was durable before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from arcp_io.cluster import compactor, statements
from arcp_io.cluster.connection import Db
from arcp_io.cluster.errors import StoreAway
from arcp_io.cluster.rows import ShardRow
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import Fenced, JournalFailed
from arcp_io.journal import rows as rows_module
from tests.cluster.conftest import MakeStore
from tests.cluster.owners import Owner, enter, held_by
from tests.cluster.proxy import How, Proxy, proxy_to
from tests.cluster.servers import query
from tests.cluster.states import State


@pytest.fixture
def through(database: str) -> Iterator[tuple[Proxy, str]]:
    """Yield a proxy, and the URL that leads through it."""
    with proxy_to(database) as found:
        yield found


def test_lost_records_are_written_again(
    database: str, store: PostgresStore, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    owners = [Owner(store, shard) for shard in range(3)]
    for owner in owners:
        owner.add(4)
        owner.settle()
    state = State(database)
    for owner in owners[:2]:
        owner.add(3)
        owner.settle()
    state.come_back()
    for owner in owners:
        owner.add(2)
        owner.settle()
    assert [owner.told[-1] for owner in owners] == [9, 9, 6]
    assert [owner.journal.epoch for owner in owners] == [2, 2, 1]
    assert "the store went back to an earlier state of shard 0: it lacks records before 7" in caplog.text
    assert "shard 1 is healed: all records below 9 are stored again" in caplog.text
    for owner in owners:
        owner.add(2)
        owner.settle()
        owner.close()
        assert owner.failures == []
        assert held_by(make_store(), owner.shard) == owner.records
    assert query(database, "SELECT shard, start, next FROM arcp.shard WHERE next > 0 ORDER BY shard") == [
        (0, 9, 11),
        (1, 9, 11),
        (2, 0, 8),
    ]


def test_nothing_new_is_durable_before_the_heal(database: str, store: PostgresStore) -> None:
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    state = State(database)
    owner.add(3)
    owner.settle()
    owner.heals = False
    state.come_back()
    owner.add(2)
    owner.wait(lambda: owner.journal.compaction_due)
    owner.add(2)
    assert owner.told == [3, 6, 6]
    owner.heals = True
    owner.heal()
    owner.settle()
    assert owner.told == [3, 6, 6, 10]
    owner.close()
    assert held_by(store, 0) == owner.records


def test_a_snapshot_that_the_store_lost_is_written_again(database: str, store: PostgresStore) -> None:
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    state = State(database)
    owner.journal.compact(list(owner.records))
    owner.add(2)
    owner.wait(lambda: not owner.journal._compacting)
    owner.settle()
    state.come_back()
    owner.add(1)
    owner.settle()
    owner.close()
    assert (owner.failures, held_by(store, 0)) == ([], owner.records)
    generations = query(database, "SELECT DISTINCT generation FROM arcp.kept WHERE shard = 0")
    assert generations == query(database, "SELECT generation FROM arcp.shard WHERE shard = 0")


@pytest.mark.parametrize("before", ["free", "other", "own"])
def test_a_store_that_lost_the_claim_is_healed(
    before: str, database: str, store: PostgresStore, make_store: MakeStore
) -> None:
    other = make_store()
    earlier = Owner({"own": store}.get(before, other), 0)
    earlier.add(2)
    earlier.close()
    if before == "free":
        other.release(0, earlier.epoch)
    state = State(database)
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    asked: list[str] = []
    store.dead_beat = lambda node: asked.append(node) or (0 if len(asked) > 3 else None)
    state.come_back()
    owner.add(1)
    owner.settle()
    assert (owner.failures, owner.told[-1], owner.journal.epoch) == ([], 6, 3)
    assert set(asked) == ({other.node} if before == "other" else set())
    owner.close()
    assert held_by(make_store(), 0) == owner.records


def test_a_node_whose_row_is_lost_heals_its_shards_once_it_has_one_again(
    database: str, store: PostgresStore, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heal shards once the node has a row; earlier, other nodes would claim them."""
    monkeypatch.setattr(compactor, "HEAL_PAUSE", 0.01)
    tried = []

    def reclaim(db: Db, *arguments: Any) -> bool:
        tried.append(statements_reclaim(db, *arguments))
        return tried[-1]

    statements_reclaim = statements.reclaim
    monkeypatch.setattr(statements, "reclaim", reclaim)
    late, state = make_store(beats=False), State(database)
    enter(late)
    owner = Owner(late, 0)
    owner.add(3)
    owner.settle()
    state.come_back()
    owner.add(2)
    owner.wait(lambda: len(tried) > 2)
    assert store.read().shards[0] == ShardRow(0, 0, None, 0, 0, 0, 0)
    assert late.node not in [row.node for row in late.beat().nodes]
    late.beat()
    owner.settle()
    assert (owner.failures, owner.told[-1], tried[-1]) == ([], 5, True)
    owner.close()
    assert held_by(store, 0) == owner.records


def test_a_shard_whose_owner_wakes_up_is_not_healed(
    database: str, store: PostgresStore, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor, "HEAL_PAUSE", 0.01)
    other = make_store()
    earlier = Owner(other, 0)
    earlier.add(2)
    earlier.settle()
    state = State(database)
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    state.come_back()
    asked: list[str] = []
    beat = other.beat().nodes[[row.node for row in other.read().nodes].index(other.node)].beat
    store.dead_beat = lambda node: asked.append(node) or beat - 1
    owner.add(1)
    owner.wait(lambda: len(asked) > 3)
    assert store.read().shards[0].node == other.node
    earlier.add(1)
    earlier.settle()
    assert earlier.failures == []
    store.dead_beat = lambda node: beat
    owner.settle()
    assert (owner.failures, owner.told[-1]) == ([], 6)
    owner.close()
    earlier.close()
    assert held_by(store, 0) == owner.records


def test_a_shard_that_another_node_claimed_meanwhile_is_not_healed(
    database: str, store: PostgresStore, make_store: MakeStore
) -> None:
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    state = State(database)
    owner.add(3)
    owner.settle()
    owner.heals = False
    state.come_back()
    owner.add(1)
    owner.wait(lambda: owner.journal.compaction_due)
    other = Owner(make_store(), 0)
    other.add(1)
    other.settle()
    owner.heals = True
    owner.heal()
    owner.settle()
    assert [type(failure) for failure in owner.failures] == [Fenced]
    other.add(1)
    other.settle()
    other.close()
    owner.close()
    expected = [b"0 by 1", b"1 by 1", b"2 by 1", b"3 by 2", b"4 by 2"]
    assert (other.failures, held_by(store, 0)) == ([], expected)


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("statement", range(7))
def test_a_heal_that_is_cut_is_begun_again(
    statement: int,
    how: How,
    database: str,
    through: tuple[Proxy, str],
    make_store: MakeStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compactor, "rows", lambda records, least: rows_module.rows(records, 20))
    monkeypatch.setattr(compactor, "HEAL_PAUSE", 0.01)
    proxy, url = through
    owner = Owner(make_store(url), 0)
    owner.add(2)
    owner.settle()
    state = State(database)
    owner.add(3)
    owner.settle()
    owner.heals = False
    state.come_back()
    owner.add(2)
    owner.wait(lambda: owner.journal.compaction_due)
    proxy.cut(how, statement=statement + 4)  # Behind the check of the new connection.
    owner.heals = True
    owner.heal()
    owner.add(2)
    owner.settle()
    assert (owner.failures, owner.told[-1], proxy.armed) == ([], 9, False)
    owner.add(2)
    owner.settle()
    owner.close()
    assert held_by(make_store(), 0) == owner.records


def test_a_heal_goes_on_after_an_attempt_that_did_not_reach_the_store(
    database: str, store: PostgresStore, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continue under the epoch of the attempt before."""
    monkeypatch.setattr(compactor, "HEAL_PAUSE", 0.01)
    reclaim, complete, tried = statements.reclaim, statements.complete_heal, []

    def second_fails(*arguments: Any) -> bool:
        tried.append("claim")
        if tried.count("claim") == 2:
            raise StoreAway("for this test")
        return reclaim(*arguments)

    def first_fails(*arguments: Any) -> bool:
        tried.append("end")
        if tried.count("end") == 1:
            raise StoreAway("for this test")
        return complete(*arguments)

    monkeypatch.setattr(statements, "reclaim", second_fails)
    monkeypatch.setattr(statements, "complete_heal", first_fails)
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    state = State(database)
    owner.add(3)
    owner.settle()
    state.come_back()
    owner.add(1)
    owner.settle()
    owner.close()
    assert (owner.failures, tried) == ([], ["claim", "end", "claim", "claim", "end"])
    assert held_by(make_store(), 0) == owner.records


def test_a_snapshot_that_waits_for_records_is_given_up_for_a_heal(
    database: str, store: PostgresStore, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give it up, as the store takes no record before the heal: both would wait for ever."""
    monkeypatch.setattr(compactor, "HEAL_PAUSE", 0.01)
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    state = State(database)
    owner.add(3)
    owner.settle()
    state.come_back()
    with store.writer.condition:  # Nothing is sent before the snapshot is given.
        owner.add(2)
        owner.journal.compact(list(owner.records))
    owner.settle()
    owner.add(1)
    owner.settle()
    owner.close()
    assert (owner.failures, owner.told[-1]) == ([], 9)
    assert held_by(make_store(), 0) == owner.records


@pytest.mark.parametrize("heals", [False, True])
def test_a_snapshot_of_which_the_store_lost_a_row_does_not_stand(
    heals: bool,
    database: str,
    store: PostgresStore,
    make_store: MakeStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Write it again: the store may fail over between two rows behind a pooler that keeps connections."""
    monkeypatch.setattr(compactor, "rows", lambda records, least: rows_module.rows(records, 20))
    monkeypatch.setattr(compactor, "HEAL_PAUSE", 0.01)
    name, lost = ("complete_heal" if heals else "complete_compaction"), []
    complete = getattr(statements, name)

    def lose_a_row(db: Db, *arguments: Any) -> bool:
        if not lost:
            lost.append(db.execute("DELETE FROM arcp.kept WHERE first = 0 RETURNING 1").fetchone())
        return bool(complete(db, *arguments))

    monkeypatch.setattr(statements, name, lose_a_row)
    owner = Owner(store, 0)
    owner.add(5)
    owner.settle()
    state = State(database)
    if heals:
        owner.add(3)
        owner.settle()
        state.come_back()
        owner.add(1)
    else:
        owner.journal.compact(list(owner.records))
        owner.wait(lambda: not owner.journal._compacting)
        owner.add(1)
    owner.settle()
    owner.close()
    assert (owner.failures, lost) == ([], [(1,)])
    assert held_by(make_store(), 0) == owner.records


def test_an_owner_that_closes_before_the_heal_says_what_is_lost(
    database: str, store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Owner(store, 0)
    state = State(database)
    owner.add(3)
    owner.settle()
    owner.heals = False
    state.come_back()
    owner.add(2)
    owner.wait(lambda: owner.journal.compaction_due)
    owner.close()
    assert "shard 0 lost records" in caplog.text
    assert isinstance(owner.journal.failed, JournalFailed)
