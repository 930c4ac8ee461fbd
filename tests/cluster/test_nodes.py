"""The rows of nodes and shards: beats, claims, releases, and nodes that are gone."""

from __future__ import annotations

import threading

import pytest

from arcp_io.cluster import statements
from arcp_io.cluster.connection import Db
from arcp_io.cluster.errors import StoreError
from arcp_io.cluster.rows import ShardRow
from arcp_io.cluster.store import PostgresStore
from arcp_io.version import VERSION as RELEASE
from tests.cluster.conftest import SHARDS, MakeStore
from tests.cluster.owners import Owner, enter
from tests.cluster.servers import query


def test_a_beat_writes_the_row_of_its_node_and_reads_all(make_store: MakeStore) -> None:
    stores = [make_store(beats=False) for _ in range(3)]
    for number, store in enumerate(stores):
        store.describe(f"10.0.0.{number}:7800", b"key %d" % number)
        store.beat()
    stores[0].beat()
    nodes, shards = stores[0].beat(draining=True)
    assert nodes == stores[1].read().nodes
    assert nodes == tuple(sorted(nodes))
    found = {node.address: node for node in nodes}
    assert {address: node.beat for address, node in found.items()} == {
        "10.0.0.0:7800": 2,
        "10.0.0.1:7800": 0,
        "10.0.0.2:7800": 0,
    }
    mine = found["10.0.0.0:7800"]
    assert (mine.node, mine.key, mine.draining, mine.release) == (stores[0].node, b"key 0", True, RELEASE)
    assert shards == tuple(ShardRow(number, 0, None, 0, 0, 0, 0) for number in range(SHARDS))


def test_a_shard_has_the_count_of_jobs_of_its_owner_and_of_no_other_node(
    database: str, make_store: MakeStore
) -> None:
    one, two = make_store(), make_store()
    for shard, owner in ((0, one), (3, one), (5, one), (7, two)):
        assert owner.claim(shard, 0, 1) == (1, 0)
    assert {jobs for _, jobs in one.read_counted()} == {None}
    one.beat()
    one.beat(unfinished={3: 0, 0: 70_000, 7: 4})
    two.beat(unfinished={SHARDS - 1: 1})
    counted = one.read_counted()
    assert tuple(row for row, _ in counted) == one.read().shards
    assert {row.shard: jobs for row, jobs in counted if jobs is not None} == {0: 70_000, 3: 0}
    two.beat(unfinished={7: 2})
    one.beat(draining=True, unfinished={5: 1})
    assert {row.shard: jobs for row, jobs in two.read_counted() if jobs is not None} == {5: 1, 7: 2}
    query(database, "DELETE FROM arcp.node")
    assert {jobs for _, jobs in one.read_counted()} == {None}


def test_a_node_describes_itself_first(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match="describes itself before its first beat"):
        make_store(beats=False).beat()


def test_a_node_learns_that_its_row_is_gone_before_a_beat_makes_it_again(
    database: str, store: PostgresStore
) -> None:
    store.describe("10.0.0.1:7800", b"key")
    store.beat()
    query(database, "DELETE FROM arcp.node")
    assert store.beat().nodes == ()
    assert [node.node for node in store.beat().nodes] == [store.node]


def test_a_claim_names_the_beat_of_a_silent_owner(store: PostgresStore, make_store: MakeStore) -> None:
    silent = make_store()
    silent.beat()
    assert silent.claim(5, 0, 1) == (1, 0)
    assert store.claim(5, 1, 1, owner=silent.node, beat=0) is None
    assert store.claim(5, 1, 1, owner=silent.node, beat=1) == (2, 0)
    store.release(5, 2)
    silent.leave()
    assert store.claim(5, 2, 1, owner=silent.node, beat=1) == (3, 0)


def test_a_node_without_a_row_claims_nothing(database: str, make_store: MakeStore) -> None:
    """Refuse a claim of a node without a row, whose shards other nodes would see as free."""
    store = make_store(beats=False)
    assert store.claim(5, 0, 1) is None
    enter(store)
    assert store.claim(5, 0, 1) == (1, 0)
    query(database, "DELETE FROM arcp.node")
    assert store.claim(6, 0, 1) is None
    assert [row.node for row in store.read().shards if row.node] == [store.node]


@pytest.mark.parametrize("first", ["claim", "forget"])
def test_a_node_is_not_forgotten_while_it_claims(
    first: str, store: PostgresStore, make_store: MakeStore
) -> None:
    sleeper = make_store()
    found: dict[str, object] = {}

    def claim(db: Db) -> None:
        with db.transaction():
            found["claim"] = statements.claim(db, 5, 0, sleeper.node, 1)
            meanwhile()

    def forget(db: Db) -> None:
        with db.transaction():
            found["forget"] = statements.forget(db, sleeper.node, 0)
            meanwhile()

    works = {"claim": (sleeper, claim), "forget": (store, forget)}
    (second,) = works.keys() - {first}

    def run(which: str) -> None:
        node, work = works[which]
        node._reader.run(work)

    other = threading.Thread(target=run, args=(second,))

    def meanwhile() -> None:
        if second not in found:
            other.start()
            other.join(0.2)
            assert second not in found  # It waits for the first.

    run(first)
    other.join()
    assert found == (
        {"claim": (1, 0), "forget": False} if first == "claim" else {"claim": None, "forget": True}
    )


def test_a_beat_waits_for_a_claim_and_then_reads_the_new_owner(
    store: PostgresStore, make_store: MakeStore
) -> None:
    silent = make_store()
    silent.claim(5, 0, 1)
    read: list[str | None] = []
    awake = threading.Thread(target=lambda: read.append(silent.beat().shards[5].node))

    def claim_while_it_wakes(db: Db) -> None:
        with db.transaction():
            assert statements.claim(db, 5, 1, store.node, 1, silent.node, 0) == (2, 0)
            awake.start()
            awake.join(0.2)
            assert read == []

    store._control.run(claim_while_it_wakes)
    awake.join()
    assert read == [store.node]


def test_a_claim_names_the_epoch_that_was_seen(store: PostgresStore, make_store: MakeStore) -> None:
    other = make_store()
    assert store.claim(5, 1, 2) is None
    assert store.claim(5, 0, 2) == (1, 0)
    assert other.claim(5, 0, 2) is None
    assert other.claim(5, 1, 2) == (2, 0)
    assert store.read().shards[5] == ShardRow(5, 2, other.node, 0, 0, 0, 2)
    assert store.claim(SHARDS, 0, 2) is None


def test_a_claim_names_the_owner_that_was_seen(store: PostgresStore, make_store: MakeStore) -> None:
    other, third = make_store(), make_store()
    assert other.claim(5, 0, 1, named="") == (1, 0)
    assert store.claim(5, 1, 1, named="") is None
    assert store.claim(5, 1, 1, named=third.node) is None
    assert store.read().shards[5].node == other.node
    assert store.claim(5, 1, 1, named=other.node) == (2, 0)


def test_one_of_many_claims_succeeds(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(6)]
    claimed: list[object] = []
    start = threading.Barrier(len(stores))

    def claim(store: PostgresStore) -> None:
        start.wait()
        claimed.append(store.claim(0, 0, 1))

    threads = [threading.Thread(target=claim, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed, key=str) == [(1, 0), *[None] * 5]


def test_records_of_a_newer_version_are_not_claimed(store: PostgresStore, make_store: MakeStore) -> None:
    assert store.claim(0, 0, 3) == (1, 0)
    store.release(0, 1)
    other = make_store()
    assert other.claim(0, 1, 2) is None
    assert other.claim(0, 1, 4) == (2, 0)
    assert store.read().shards[0].record_version == 4


def test_a_shard_is_released_by_its_owner_alone(store: PostgresStore, make_store: MakeStore) -> None:
    other = make_store()
    store.claim(0, 0, 1)
    assert not other.release(0, 1)
    assert not store.release(0, 2)
    assert store.release(0, 1)
    assert store.read().shards[0] == ShardRow(0, 1, None, 0, 0, 0, 1)
    assert not store.release(0, 1)


def test_a_journal_of_a_shard_that_was_released_stores_nothing(store: PostgresStore) -> None:
    owner = Owner(store, 0)
    store.release(0, owner.epoch)
    owner.add()
    owner.settle()
    assert "another node owns shard 0" in str(owner.failures)


def test_a_node_that_owns_nothing_is_forgotten(store: PostgresStore, make_store: MakeStore) -> None:
    other = make_store()
    for one in (store, other):
        one.beat()
    other.claim(0, 0, 1)
    assert not store.forget(other.node, 1)
    other.release(0, 1)
    assert not store.forget(other.node, 0)
    assert store.forget(other.node, 1)
    assert not store.forget(other.node, 1)
    assert [node.node for node in store.read().nodes] == [store.node]
    store.leave()
    assert store.read().nodes == ()


def test_conflicts_of_transactions_are_tried_again(database: str, make_store: MakeStore) -> None:
    """Use the isolation of CockroachDB, with which the server refuses transactions that conflict (40001)."""
    option = "options=-c%20default_transaction_isolation%3Dserializable"
    strict = f"{database}{'&' if '?' in database else '?'}{option}"
    stores = [make_store(strict) for _ in range(2)]
    for number, store in enumerate(stores):
        store.describe(f"10.0.0.{number}:7800", b"key")
    owners = [Owner(stores[shard % 2], shard) for shard in range(8)]
    ended = threading.Event()
    failures: list[BaseException] = []

    def beat() -> None:
        try:
            while not ended.is_set():
                stores[0].beat()
                stores[1].beat()
        except BaseException as error:
            failures.append(error)

    beating = threading.Thread(target=beat)
    beating.start()
    for _ in range(30):
        for owner in owners:
            owner.add()
        for owner in owners:
            owner.settle()
    ended.set()
    beating.join()
    assert failures == []
    assert [(owner.failures, owner.told[-1]) for owner in owners] == [([], 30)] * 8
