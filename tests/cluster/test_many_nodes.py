"""Nodes that die, drain and start again while clients go on elsewhere."""

from __future__ import annotations

import anyio
import pytest

from arcp_io.agents.threads import call_in_thread
from arcp_io.cluster.node import Node, serve_node
from tests.cluster.conftest import MakeStore
from tests.cluster.served import kill, owner_first, served, spread
from tests.cluster.servers import query
from tests.io.apps import make_app
from tests.io.peers import Ended, websocket

pytestmark = pytest.mark.anyio


async def test_sessions_of_a_killed_node_are_resumed_at_another_one(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=4), make_store(shards=4)
    async with served(app, one) as first, served(app, two) as second:
        await spread(first, second)
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
    async with served(app, one) as first, served(app, two) as second:
        await spread(first, second)
        owner, other = owner_first("alice", first, second)
        async with websocket(owner.url) as peer:
            welcome = await peer.hello()
            await peer.submit("sleep")
            await peer.until_event(1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(owner.shut_down, 60.0)
                while owner.gateway.healthy:
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
            async with serve_node(app, two, port=0, node=Node(advertise="10.0.0.7:7800", lease=0.5)):
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
    store = make_store(shards=2)
    with pytest.raises(ValueError, match=fault):
        async with serve_node(make_app(), store, node=node, port=0):
            pass
    assert query(store.url.libpq, "SELECT count(*) FROM arcp.node") == [(0,)]
