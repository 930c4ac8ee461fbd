"""A real standby takes the place of a store: a synchronous one has everything, another one is healed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from arcp_io.cluster.store import PostgresStore
from tests.cluster.owners import Owner, enter, held_by
from tests.cluster.private_postgres import PrivatePostgres

pytestmark = pytest.mark.usefixtures("private_postgres")

SHARDS = 2


def run(test: Callable[[PrivatePostgres], Awaitable[None]]) -> None:
    """Run a test with a server of its own."""

    async def main() -> None:
        server = PrivatePostgres()
        try:
            await server.make()
            await test(server)
        finally:
            await server.end()

    asyncio.run(main())


def test_owners_go_on_with_a_synchronous_standby() -> None:
    async def fail_over(server: PrivatePostgres) -> None:
        await server.add_standby()
        url = server.url_of_pair()
        store = await asyncio.to_thread(opened, url)
        owners = [Owner(store, shard) for shard in range(SHARDS)]
        for owner in owners:
            owner.add(100)
        await asyncio.to_thread(settle, owners)
        await server.fail_over()
        for owner in owners:
            owner.add(100)
        await asyncio.to_thread(settle, owners)
        assert [owner.told[-1] for owner in owners] == [200, 200]
        assert [owner.journal.epoch for owner in owners] == [1, 1], "nothing was lost, so nothing is healed"
        await asyncio.to_thread(check, store, owners, url)

    run(fail_over)


def test_owners_heal_an_asynchronous_standby_that_lacks_commits() -> None:
    async def fail_over(server: PrivatePostgres) -> None:
        await server.add_standby(synchronous=False)
        standby, url = server.standby, server.url_of_pair()
        assert standby is not None
        store = await asyncio.to_thread(opened, url)
        owners = [Owner(store, shard) for shard in range(SHARDS)]
        for owner in owners:
            owner.add(100)
        await asyncio.to_thread(settle, owners)
        await server.synchronized()
        await standby.stop(immediate=False)
        owners[0].add(100)
        await asyncio.to_thread(settle, owners)
        await server.stop()
        await standby.start()
        await server.fail_over()
        for owner in owners:
            owner.add(100)
        await asyncio.to_thread(settle, owners)
        assert [owner.told[-1] for owner in owners] == [300, 200]
        assert [owner.journal.epoch for owner in owners] == [2, 1], "the one that lost commits is healed"
        await asyncio.to_thread(check, store, owners, url)

    run(fail_over)


def opened(url: str) -> PostgresStore:
    store = PostgresStore(url)
    store.open(make_shards=SHARDS)
    enter(store)
    return store


def settle(owners: list[Owner]) -> None:
    for owner in owners:
        owner.settle()


def check(store: PostgresStore, owners: list[Owner], url: str) -> None:
    """Check what another process reads."""
    for owner in owners:
        assert owner.failures == []
        owner.close()
    other = opened(url)
    for owner in owners:
        assert held_by(other, owner.shard) == owner.records
    other.close()
    store.close()
