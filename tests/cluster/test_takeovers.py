"""Owners that go on after their shard was taken over: see tests/cluster/takeovers.py."""

from __future__ import annotations

import pytest

from arcp_io.cluster import statements
from arcp_io.cluster.outcome import Claimed
from arcp_io.cluster.postgres_journal import PostgresJournal
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import Fenced, JournalInUse
from arcp_io.journal.rows import Row
from tests.cluster import servers, takeovers
from tests.cluster.conftest import MakeStore
from tests.cluster.owners import Owner, held_by


def opened(store: PostgresStore, shard: int, epoch: int) -> PostgresJournal:
    """Return the journal of a shard under an epoch."""
    journal = PostgresJournal(store, shard, epoch)
    journal.open(1, lambda count: None, lambda error: None)
    return journal


@pytest.mark.usefixtures("database")
def test_nothing_slips_through_a_hundred_takeovers() -> None:
    found = takeovers.run(100)
    assert found.wrong == []
    assert (found.takeovers, found.records > 0, found.fenced > 50) == (100, True, True)


@pytest.mark.usefixtures("database")
def test_an_append_without_its_fence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the test of takeovers finds an append that the fence would refuse."""
    part = " AND s.epoch = g.epoch AND s.node = %s::uuid"
    assert part in statements._APPEND
    unfenced = statements._APPEND.replace(part, " AND %s::uuid IS NOT NULL")
    monkeypatch.setattr(statements, "_APPEND", unfenced)
    assert takeovers.run(40).wrong != []


def test_the_owner_before_is_fenced(store: PostgresStore, make_store: MakeStore) -> None:
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    other = Owner(make_store(), 0)
    assert other.records == owner.records
    owner.add(2)
    owner.settle()
    (failure,) = owner.failures
    assert isinstance(failure, Fenced)
    assert "another node owns shard 0, which had epoch 1 here: (0, 2, " in str(failure)
    owner.add(2)
    assert not owner.journal.compaction_due
    owner.journal.compact([b"snapshot"])
    owner.close()
    other.add(1)
    other.settle()
    other.close()
    assert held_by(store, 0) == other.records


def test_an_owner_that_only_compacts_changes_nothing_after_a_takeover(
    store: PostgresStore, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Owner(store, 0)
    owner.add(3)
    owner.settle()
    other = Owner(make_store(), 0)
    owner.journal.compact([b"snapshot"])
    owner.wait(lambda: not owner.journal._compacting)
    owner.close()
    assert "shard 0 was not compacted, and is unchanged" in caplog.text
    other.close()
    assert held_by(store, 0) == other.records == [b"0 by 1", b"1 by 1", b"2 by 1"]


def test_a_journal_is_that_of_one_claim(store: PostgresStore, make_store: MakeStore) -> None:
    owner = Owner(store, 0)
    with pytest.raises(JournalInUse, match="is open already"):
        opened(store, 0, owner.epoch)
    assert store.claim(0, owner.epoch, 1) is None
    with pytest.raises(Fenced, match="is not under epoch 1 of this node"):
        opened(make_store(), 0, owner.epoch)
    owner.close()
    assert store.claim(0, owner.epoch, 1) == (2, 0)
    with pytest.raises(Fenced):
        owner.journal.open(1, print, print)


def test_an_append_of_several_shards_takes_those_that_are_ours(
    database: str, store: PostgresStore, make_store: MakeStore
) -> None:
    owners = [Owner(store, shard) for shard in range(4)]
    others = [Owner(make_store(), shard) for shard in (1, 2)]
    for owner in owners:
        owner.add()
    for owner in owners:
        owner.settle()
    assert [type(failure) for owner in owners for failure in owner.failures] == [Fenced, Fenced]
    assert [owner.told for owner in owners] == [[1], [], [], [1]]
    for other in others:
        other.add()
        other.settle()
        assert other.told == [1]


def test_a_row_belongs_to_its_claim(database: str, store: PostgresStore) -> None:
    """Send the statement by itself: a shard takes a row for the right epoch, node and number alone."""
    epoch, _ = store.claim(0, 0, 1) or (0, 0)
    row = Row(0, 1, 5, b"data")
    other = "00000000-0000-0000-0000-000000000000"

    def append(node: str, epoch: int, row: Row) -> set[int]:
        return store._reader.run(lambda db: statements.append(db, node, [(Claimed(node, epoch), 0, row)]))

    assert append(store.node, epoch + 1, row) == set()
    assert append(store.node, epoch - 1, row) == set()
    assert append(other, epoch, row) == set()
    assert append(store.node, epoch, row._replace(first=1)) == set()
    assert append(store.node, epoch, row) == {0}
    assert append(store.node, epoch, row) == set()
    assert servers.query(database, "SELECT * FROM arcp.record") == [(0, 0, 1, 5, b"data")]
    assert servers.query(database, "SELECT next FROM arcp.shard WHERE shard = 0") == [(1,)]
