"""Nodes that die, drain and start again while clients go on elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

from arcp_io.agents.threads import call_in_thread
from arcp_io.cluster.credentials import outstanding_in_store
from arcp_io.cluster.node import Node
from arcp_io.cluster.placing import shard_of
from arcp_io.cluster.rows import ShardRow
from arcp_io.cluster.store import PostgresStore
from arcp_io.errors import ConnectionLost, JobNotFound
from arcp_io.journal import MemoryJournal
from arcp_io.provisioning import StaticProvisioner
from arcp_io.server.server import serve
from arcp_proto import LocalProtocolError
from tests.cluster.beaten import LEASE, until
from tests.cluster.conftest import MakeStore
from tests.cluster.proxy import proxy_to
from tests.cluster.served import kill, owner_first, served, spread, two_served
from tests.cluster.servers import query
from tests.io.apps import make_app
from tests.io.peers import FEATURES, Ended, websocket
from tests.io.processes import arcp_io

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio", "trio")]


async def shard_rows(store: PostgresStore) -> tuple[ShardRow, ...]:
    """Return the rows of all shards."""
    return (await call_in_thread(store.read, name="test")).shards


async def test_sessions_of_a_killed_node_are_resumed_at_another_one(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=4), make_store(shards=4)
    async with two_served(app, one, two) as (first, second):
        owner, other = owner_first("alice", first, second)
        async with websocket(other.url) as relayed, websocket(owner.url) as direct:
            welcomes = []
            for peer in (relayed, direct):
                welcomes.append(await peer.hello())
                await peer.submit("echo", "x")
                await peer.until("job.result")
            kill(owner)
            for peer in (relayed, direct):
                with pytest.raises(Ended):
                    await peer.until("never")
        for welcome, peer in zip(welcomes, (relayed, direct), strict=True):
            async with websocket(other.url) as again:
                assert (await again.resume(welcome, 0, token=None))["type"] == "session.welcome"
                assert await again.until_event(len(peer.events)) == peer.events


async def test_a_drained_node_leaves_its_sessions_and_jobs_to_the_others(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=4), make_store(shards=4)
    async with two_served(app, one, two) as (first, second):
        owner, other = owner_first("alice", first, second)
        async with websocket(owner.url) as peer:
            welcome = await peer.hello()
            await peer.submit("sleep")
            await peer.until_event(1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(owner.shut_down, 60.0)
                while not owner.gateway.trouble:
                    await anyio.sleep(0.01)
                job = await peer.submit("echo", "kept")
                assert job["type"] == "job.accepted"
                tasks.start_soon(owner.shut_down, 0.0)  # The second signal.
                with pytest.raises(Ended) as ended:
                    await peer.until("never")
                assert ended.value.code == 1012
        assert await call_in_thread(lambda: len(two.read().nodes), name="test") == 1
        async with websocket(other.url) as again:
            await again.resume(welcome, 0, token=None)
            (end,) = [m for m in await again.until("job.result") if m["type"] == "job.result"]
            assert (end["job_id"], end["payload"]["result"]) == (job["payload"]["job_id"], "kept")


async def test_a_node_that_has_left_does_not_write_its_row_again(make_store: MakeStore) -> None:
    store, reader = make_store(shards=2, beats=False), make_store(shards=2, beats=False)
    async with served(make_app(), store) as node:
        await spread(node)
        await node.shut_down(0.0)
        for _ in range(3):
            node.beating.soon()
            await anyio.sleep(LEASE / 5)
            assert await call_in_thread(lambda: reader.read().nodes, name="test") == ()


async def test_unknown_rights_are_refused_at_any_time(make_store: MakeStore) -> None:
    async with served(make_app(), make_store(shards=2)) as node:
        for owner in ("bob", "*"):
            with pytest.raises(LocalProtocolError, match="write"):
                node.set_observers({"alice": {owner: "write"}})
        node.set_observers({"alice": {"*": "list", "bob": "list"}})


async def test_a_program_looks_at_the_jobs_of_its_node_and_cancels_them(make_store: MakeStore) -> None:
    """Take what a node says of its own jobs, and what it says of those of another node."""
    app, one, two = make_app(), make_store(shards=4), make_store(shards=4)
    async with two_served(app, one, two) as (first, second):
        owner, other = owner_first("alice", first, second)
        async with websocket(other.url) as peer:
            await peer.hello()
            job_id = (await peer.submit("sleep"))["payload"]["job_id"]
            await peer.until_event(1)
            assert ([job.job_id for job in owner.jobs()], other.jobs()) == ([job_id], [])
            told = owner.describe(job_id)
            assert told is not None and (told.status, told.agent.split("@")[0]) == ("running", "sleep")
            assert other.describe(job_id) is None
            for refused in (partial(other.observe, job_id), partial(owner.observe, "job_absent")):
                with pytest.raises(JobNotFound, match="on this node"):
                    refused()
            with pytest.raises(LocalProtocolError, match="on this node"):
                other.cancel(job_id)
            kinds = []
            async for event in owner.observe(job_id):
                kinds.append(event.kind)
                if event.kind == "status":
                    assert owner.cancel(job_id, reason="enough")
            assert kinds == ["status", "log"], "an iteration ends with its job"
            (end,) = [m for m in await peer.until("job.error") if m["type"] == "job.error"]
            assert end["payload"]["code"] == "CANCELLED"
            assert (owner.jobs(), [job.job_id for job in owner.jobs(finished=True)]) == ([], [job_id])
            following = owner.observe(job_id)
        await owner.shut_down(0.0)
        with pytest.raises(ConnectionLost):
            async for _ in following:
                pass


async def test_a_node_that_comes_second_gets_its_share(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=4), make_store(shards=4)
    async with served(app, one) as first:
        await spread(first)
        async with served(app, two) as second:
            await spread(first, second)
        await spread(first)


async def test_nodes_that_cannot_reach_each_other_are_refused(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=2), make_store(shards=2)
    async with served(app, one):
        with pytest.raises(ValueError, match="cannot reach each other"):
            async with serve(app, journal=two, port=0, node=Node(advertise="10.0.0.7:7800", lease=0.5)):
                pass


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        (Node(listen="10.0.0.7"), "HOST:PORT"),
        (Node(listen="10.0.0.7:7800"), "in clear text"),
        (Node(lease=0), "longer than 0 seconds"),
        (Node(advertise="here"), "HOST:PORT"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_begins(
    make_store: MakeStore, node: Node, fault: str
) -> None:
    store = make_store(shards=2, beats=False)
    with pytest.raises(ValueError, match=fault):
        async with serve(make_app(), journal=store, node=node, port=0):
            pass
    assert query(store.url.libpq, "SELECT count(*) FROM arcp.node") == [(0,)]


async def test_a_store_is_served_with_a_node_and_a_node_over_a_store(make_store: MakeStore) -> None:
    app, store = make_app(), make_store(shards=2)
    wrong: tuple[tuple[Any, Any, str], ...] = (
        (MemoryJournal(), Node(), "PostgresStore as journal"),
        (store, None, r"serve\(node=Node\(\)\)"),
    )
    for journal, none, fault in wrong:
        with pytest.raises(ValueError, match=fault):
            async with serve(app, journal=journal, node=none, port=0):
                pass
    serving = serve(app, journal=store, node=Node(lease=LEASE), port=0)
    async with serving as node, websocket(node.url) as peer:
        assert (await peer.hello())["type"] == "session.welcome"


async def test_an_outage_of_the_store_moves_no_shard_and_ends_no_agent(
    database: str, make_store: MakeStore
) -> None:
    app = make_app()
    with proxy_to(database) as (proxy, url):
        one, two = make_store(url, shards=4), make_store(url, shards=4)
        async with two_served(app, one, two) as (first, second):
            before = [(row.epoch, row.node) for row in (await shard_rows(one))]
            owner = owner_first("alice", first, second)[0]
            async with websocket(owner.url) as peer:
                await peer.hello()
                job = (await peer.submit("sleep"))["payload"]["job_id"]
                await peer.until_event(1)
                proxy.down()
                await until(lambda: first.beating.held and second.beating.held)
                await anyio.sleep(3 * LEASE)
                await peer.send("job.cancel", {"job_id": job})
                proxy.up()
                ends = await peer.until("job.error")
                assert ends[-1]["payload"]["final_status"] == "cancelled"
            await until(lambda: not (first.beating.held or second.beating.held))
            assert [(row.epoch, row.node) for row in (await shard_rows(one))] == before


async def test_a_node_that_is_cut_off_from_the_store_loses_its_shards_and_says_nothing(
    database: str, make_store: MakeStore
) -> None:
    app, one = make_app(), make_store(shards=4)
    with proxy_to(database) as (proxy, url):
        two = make_store(url, shards=4)
        async with two_served(app, one, two) as (first, second):
            name = next(n for n in ("alice", "bob") if second.shards.server(shard_of(n, 4)) is not None)
            async with websocket(second.url) as peer:
                welcome = await peer.hello({"alice": "t0ken", "bob": "other"}[name])
                await peer.submit("echo", "x")
                await peer.until("job.result")
                proxy.down()
                await until(lambda: second.beating.held)
                await peer.send("session.ping", {"nonce": "n", "sent_at": ""})
                async with websocket(first.url) as again:
                    assert (await again.resume(welcome, 0, token=None))["type"] == "session.welcome"
                    assert await again.until_event(len(peer.events)) == peer.events
                    proxy.up()
                    with pytest.raises(Ended) as ended:
                        await peer.receive()
                    assert ended.value.code == 1012
                    await again.submit("echo", "y")
                    await again.until("job.result")


async def test_a_node_ends_although_the_store_does_not_answer(
    database: str, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcp_io.cluster.node.LETTING_GO_SEC", 0.1)
    with proxy_to(database) as (proxy, url):
        async with served(make_app(), make_store(url, shards=2)) as node:
            await spread(node)
            async with websocket(node.url) as peer:
                await peer.hello()
                await peer.submit("sleep")
                await peer.until_event(1)
                proxy.down()
                await until(lambda: node.beating.held)
                await node.shut_down(0.0)
                assert len(node.shards) == 0
                with pytest.raises(Ended):
                    await peer.until("never")


async def test_credentials_of_all_shards_are_listed_until_they_are_revoked(
    database: str, make_store: MakeStore
) -> None:
    provisioner = StaticProvisioner(["k3y"], "https://models.example/v1")
    app = make_app()
    app.provisioner, app.secure_loopback = provisioner, True
    features = [*FEATURES, "model.use", "provisioned_credentials"]
    async with served(app, make_store(shards=2)) as node, websocket(node.url) as peer:
        await peer.hello(features=features)
        job = await peer.submit("sleep", lease_request={"model.use": ["fast/*"]})
        await peer.until_event(1)
        (listed,) = await call_in_thread(lambda: outstanding_in_store(database), name="test")
        assert (listed.job_id, listed.principal) == (job["payload"]["job_id"], "alice")
        assert listed.state == "issued"
        await peer.send("job.cancel", {"job_id": listed.job_id})
        await peer.until("job.error")
        await until(lambda: not provisioner.valid)
    assert await call_in_thread(lambda: outstanding_in_store(database), name="test") == []
    assert arcp_io("credentials", "--journal", database).stdout == "no credentials are outstanding\n"
