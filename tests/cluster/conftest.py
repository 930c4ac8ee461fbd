"""Stores for tests, each in a database of its own; skipped where there is no PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from arcp_io.cluster.postgres_journal import PostgresJournal
from arcp_io.cluster.store import PostgresStore
from tests.cluster import private_postgres as private
from tests.cluster import servers
from tests.cluster.owners import enter

SHARDS = 64

MakeStore = Callable[..., PostgresStore]


def skip_for(reason: str) -> None:
    """Skip the test, if there is a reason."""
    if reason:
        pytest.skip(reason)


@pytest.fixture
def database() -> Iterator[str]:
    """Yield the URL of an empty database."""
    skip_for(servers.missing())
    with servers.private_database() as url:
        yield url


@pytest.fixture
def private_postgres() -> None:
    """Skip the test if no programs of a PostgreSQL server are found, with which it starts a server."""
    skip_for(private.missing())


@pytest.fixture
def make_store(database: str) -> Iterator[MakeStore]:
    """Yield a function that makes stores in one database, and close them at the end.

    A store uses the URL of the database or the one given, and is given a first beat unless `beats` is false.
    """
    made: list[PostgresStore] = []

    def make(
        url: str = database, shards: int = SHARDS, *, beats: bool = True, **options: float
    ) -> PostgresStore:
        store = PostgresStore(url, **options)
        store.open(make_shards=shards)
        made.append(store)
        if beats:
            enter(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> PostgresStore:
    """Return a store."""
    return make_store()


@pytest.fixture
def fresh(store: PostgresStore) -> Callable[[], PostgresJournal]:
    """Return a function that makes the journal of a shard that had no owner before."""
    shards = iter(range(SHARDS))

    def make() -> PostgresJournal:
        shard = next(shards)
        claimed = store.claim(shard, 0, 1)
        assert claimed == (1, 0)
        return PostgresJournal(store, shard, claimed[0])

    return make
