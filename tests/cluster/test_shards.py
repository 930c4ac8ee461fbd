"""The shards of nodes: claimed, restored, served, let go, lost and tried again."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg
import pytest

from arcp_io.agents.threads import call_in_thread
from arcp_io.cluster.errors import StoreAway
from arcp_io.cluster.rows import Reading
from arcp_io.drivers.door import since_boot
from arcp_proto import RECORD_VERSION
from tests.cluster.beaten import LEASE, LIMIT, beaten, until
from tests.cluster.conftest import MakeStore
from tests.cluster.servers import query
from tests.cluster.states import State
from tests.io.apps import make_app
from tests.io.peers import Ended, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio", "trio")]


async def test_a_node_serves_all_shards_and_tokens_name_them(make_store: MakeStore) -> None:
    async with beaten(make_app(), make_store(shards=4)) as node:
        for shard in range(4):
            async with websocket(await node.url(shard)) as peer:
                welcome = await peer.hello()
                assert welcome["payload"]["resume_token"].startswith(f"rt_{shard}.")
                job = await peer.submit("echo", shard)
                assert job["type"] == "job.accepted"
                assert (await peer.until("job.result"))[-1]["payload"]["result"] == shard


async def test_a_shard_that_is_given_away_goes_on_at_another_node(make_store: MakeStore) -> None:
    first, second = make_store(shards=1), make_store(shards=1)
    async with beaten(make_app(), first) as one:
        async with websocket(await one.url(0)) as peer:
            welcome = await peer.hello()
            await peer.submit("echo", "x")
            before = [*await peer.until_event(1)]
            one.ownership.drain()
            with pytest.raises(Ended) as ended:
                await peer.until("never")
            assert ended.value.code == 1012
        await until(lambda: len(one.shards) == 0)
        assert (await one.row(0)).node is None
        async with beaten(make_app(), second) as two, websocket(await two.url(0)) as peer:
            again = await peer.resume(welcome, 0, token=None)
            assert again["type"] == "session.welcome"
            assert (await peer.until_event(len(before)))[: len(before)] == before
            assert (await two.row(0)).epoch == 2


async def test_beats_tell_the_unfinished_jobs_of_each_shard_that_is_served(make_store: MakeStore) -> None:
    store, reader = make_store(shards=3), make_store(shards=3)

    async def counts(*expected: int | None) -> None:
        with anyio.fail_after(LIMIT):
            while True:
                counted = await call_in_thread(reader.read_counted, name="test")
                if [jobs for _, jobs in counted] == [*expected]:
                    break
                await anyio.sleep(0.02)

    await counts(None, None, None)
    async with beaten(make_app(), store) as node:
        await counts(0, 0, 0)
        async with websocket(await node.url(1)) as peer:
            await peer.hello()
            jobs = [(await peer.submit("sleep"))["payload"]["job_id"] for _ in range(2)]
            await peer.submit("echo", "x")
            await peer.until("job.result")
            await counts(0, 2, 0)
            await peer.send("job.cancel", {"job_id": jobs[0]})
            await counts(0, 1, 0)
        await counts(0, 1, 0)
        assert reader.claim(1, 1, RECORD_VERSION) is not None
        await counts(0, None, 0)


async def test_a_shard_that_another_node_claims_is_lost(make_store: MakeStore) -> None:
    store, thief = make_store(shards=1), make_store(shards=1)
    async with beaten(make_app(), store) as node, websocket(await node.url(0)) as peer:
        await peer.hello()
        await peer.submit("sleep")
        await peer.until_event(1)
        assert thief.claim(0, 1, RECORD_VERSION) is not None
        with pytest.raises(Ended) as ended:
            await peer.until("never")
        assert ended.value.code == 1012
        await until(lambda: len(node.shards) == 0)


async def test_a_shard_that_makes_no_records_is_healed_when_the_store_goes_back(
    database: str, make_store: MakeStore
) -> None:
    """Otherwise it would be lost what its clients were told, once its node ends."""
    first, second = make_store(shards=1), make_store(shards=1)
    async with beaten(make_app(), first) as one, websocket(await one.url(0)) as peer:
        welcome = await peer.hello()
        state = await call_in_thread(lambda: State(database), name="test")
        await peer.submit("echo", "x")
        before = [*await peer.until("job.result")]
        told = (await one.row(0)).next
        await call_in_thread(state.come_back, name="test")
        with anyio.fail_after(LIMIT):
            while (row := await one.row(0)).next < told:
                await anyio.sleep(0.02)
        assert (row.epoch, row.node) == (2, first.node)
        await until(lambda: one.ownership.may_act(since_boot(), 0))
    async with beaten(make_app(), second) as two, websocket(await two.url(0)) as peer:
        await peer.resume(welcome, 0, token=None)
        again = await peer.until("job.result")
        assert [message for message in again if "event_seq" in message] == [
            message for message in before if "event_seq" in message
        ]


async def test_a_shard_of_which_the_store_lacks_records_is_not_idle(make_store: MakeStore) -> None:
    """Check that balance and drains leave such a shard until it is healed."""
    store = make_store(shards=1)
    async with beaten(make_app(), store) as one:
        await one.url(0)
        assert one.shards.idle() == ({0}, set())
        one.shards._held[0].lacking = True
        assert one.shards.idle() == (set(), set())


async def test_a_shard_whose_row_went_back_to_an_earlier_claim_is_healed_and_not_idle(
    make_store: MakeStore,
) -> None:
    store = make_store(shards=1)
    async with beaten(make_app(), store, lease=1_000.0) as one:
        one.ownership.claimed(0, 1, now=0)
        assert store.claim(0, 0, RECORD_VERSION) == (1, 0)
        one.shards.begin(0, 1)
        await one.url(0)
        assert one.shards.idle() == ({0}, set())
        one.shards.begin_beat()
        earlier = (await one.row(0))._replace(epoch=0)
        one.shards.look(Reading((), (earlier,)), begun=0)
        assert one.shards.idle() == (set(), set())
        with anyio.fail_after(LIMIT):
            while (row := await one.row(0)).epoch < 2:
                await anyio.sleep(0.02)
        one.ownership.healed(0, 2, now=since_boot())
        one.shards.begin_beat()
        one.shards.look(Reading((), (row,)), begun=since_boot())
        await until(lambda: one.shards.idle() == ({0}, set()))


async def test_a_shard_is_healed_before_its_node_gives_it_away(database: str, make_store: MakeStore) -> None:
    """Check that no told record is lost when the first beat after a failover also releases the shard."""
    first, second = make_store(shards=1), make_store(shards=1)
    async with beaten(make_app(), first) as one, websocket(await one.url(0)) as peer:
        welcome = await peer.hello()
        state = await call_in_thread(lambda: State(database), name="test")
        await peer.submit("echo", "x")
        before = [*await peer.until("job.result")]
        await call_in_thread(state.come_back, name="test")
        one.ownership.drain()
        await until(lambda: len(one.shards) == 0)
    async with beaten(make_app(), second) as two, websocket(await two.url(0)) as peer:
        await peer.resume(welcome, 0, token=None)
        again = await peer.until("job.result")
        assert [message for message in again if "event_seq" in message] == [
            message for message in before if "event_seq" in message
        ]


async def test_a_shard_that_is_given_away_at_once_is_healed_first(
    database: str, make_store: MakeStore
) -> None:
    """Check that no told record is lost when a node stops right after a failover, before a beat notices."""
    first, second = make_store(shards=1), make_store(shards=1)
    async with beaten(make_app(), first, lease=1_000.0) as one:
        one.ownership.claimed(0, 1, now=0)
        assert first.claim(0, 0, RECORD_VERSION) == (1, 0)
        one.shards.begin(0, 1)
        async with websocket(await one.url(0)) as peer:
            welcome = await peer.hello()
            state = await call_in_thread(lambda: State(database), name="test")
            await peer.submit("echo", "x")
            before = [*await peer.until("job.result")]
        server = one.shards.server(0)
        assert server is not None
        await until(lambda: server.counts().connections == 0)
        await call_in_thread(state.come_back, name="test")
        one.shards.give_all(0.0)
        await until(lambda: len(one.shards) == 0)
        assert (await one.row(0)).epoch == 2
    async with beaten(make_app(), second) as two, websocket(await two.url(0)) as peer:
        await peer.resume(welcome, 0, token=None)
        again = await peer.until("job.result")
        assert [message for message in again if "event_seq" in message] == [
            message for message in before if "event_seq" in message
        ]


async def test_a_zombie_stores_nothing_and_says_nothing(make_store: MakeStore) -> None:
    store, thief = make_store(shards=1), make_store(shards=1)
    async with beaten(make_app(), store, lease=1_000.0) as node:
        node.ownership.claimed(0, 1, now=0)
        assert store.claim(0, 0, RECORD_VERSION) == (1, 0)
        node.shards.begin(0, 1)
        async with websocket(await node.url(0)) as peer:
            await peer.hello()
            assert thief.claim(0, 1, RECORD_VERSION) is not None
            stored = query(store.url.libpq, "SELECT count(*) FROM arcp.record")
            await peer.send("job.submit", {"agent": "echo", "input": "x"})
            with pytest.raises(Ended) as ended:
                await peer.until("job.accepted")
            assert ended.value.code == 1012
            assert query(store.url.libpq, "SELECT count(*) FROM arcp.record") == stored


async def test_a_shard_that_cannot_be_restored_leaves_the_others_alone(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = make_store(shards=2), make_store(shards=2)
    assert other.claim(1, 0, 1) == (1, 0)
    query(store.url.libpq, "INSERT INTO arcp.record VALUES (1, 0, 1, 1, 'poison')")
    query(store.url.libpq, "UPDATE arcp.shard SET next = 1, node = NULL WHERE shard = 1")
    async with beaten(make_app(), store) as node:
        async with websocket(await node.url(0)) as peer:
            await peer.hello()
        while (await node.row(1)).epoch < 3:  # It was claimed, released, and claimed again.
            await anyio.sleep(LEASE / 5)
        assert "the checksum of the row of record 0 is wrong" in caplog.text
        assert node.shards.server(0) is not None


async def test_a_shard_of_which_the_store_knows_nothing_is_written_again(make_store: MakeStore) -> None:
    store = make_store(shards=1)
    async with beaten(make_app(), store) as node, websocket(await node.url(0)) as peer:
        await peer.hello()
        await peer.submit("echo", "x")
        await peer.until("job.result")
        with psycopg.connect(store.url.libpq) as db:  # As a standby without the last commits has it.
            db.execute("DELETE FROM arcp.record")
            db.execute("UPDATE arcp.shard SET epoch = 0, node = NULL, next = 0")
        while (await node.row(0)).generation == 0:
            await anyio.sleep(LEASE / 5)
        assert (await node.row(0)).epoch == 2
        await peer.submit("echo", "y")
        assert (await peer.until("job.result"))[-1]["payload"]["result"] == "y"
        await until(lambda: node.ownership.holds(0, 2))


async def test_a_node_without_answers_of_the_store_waits_and_goes_on(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(shards=1)
    beat, away = store.beat, [False]

    def sometimes(**told: Any) -> Reading:
        if away[0]:
            raise StoreAway("for this test")
        return beat(**told)

    monkeypatch.setattr(store, "beat", sometimes)
    async with beaten(make_app(), store) as node, websocket(await node.url(0)) as peer:
        await peer.hello()
        away[0] = True
        await until(lambda: node.beating.held)
        await peer.send("session.ping", {"nonce": "n", "sent_at": ""})
        with anyio.move_on_after(0.1):
            raise AssertionError(await peer.receive())
        away[0] = False
        assert (await peer.receive())["type"] == "session.pong"
        assert not node.beating.held and (await node.row(0)).epoch == 1
