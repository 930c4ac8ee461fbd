"""The health of a node that a load balancer reads, and the time after which a node gives its store up."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import anyio
import pytest

from arcp_io.cluster.dials import FAILURES, FORGOTTEN_AFTER, Dials
from arcp_io.cluster.node import Node, NodeServer
from arcp_io.cluster.ownership import BEATS
from arcp_io.cluster.shards import HEARTBEAT_SEC
from arcp_io.journal import JournalFailed
from arcp_io.server.server import serve
from tests.cluster.balancers import free_port
from tests.cluster.beaten import LEASE, LIMIT, until
from tests.cluster.conftest import MakeStore
from tests.cluster.proxy import proxy_to
from tests.cluster.served import owner_first, served, spread, two_served
from tests.cluster.servers import query
from tests.io.apps import make_app
from tests.io.peers import Ended, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio", "trio")]


async def health(node: NodeServer, path: str = "/arcp/health", port: int | None = None) -> tuple[int, str]:
    """Return the status and the text with which a node answers a load balancer."""
    async with await anyio.connect_tcp("127.0.0.1", port or node.gateway.port) as stream:
        await stream.send(f"GET {path} HTTP/1.1\r\nHost: 10.0.0.7:80\r\n\r\n".encode())
        answer = b""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                answer += await stream.receive()
    text = answer.decode()
    return int(text.split()[1]), text.partition("\r\n\r\n")[2].strip()


@pytest.mark.parametrize("beside", [False, True])
async def test_a_node_answers_health_checks_and_shows_metrics(beside: bool, make_store: MakeStore) -> None:
    port = free_port() if beside else None
    options: dict[str, Any] = {"metrics_address": ("127.0.0.1", port)} if beside else {"metrics": True}
    options |= {"hosts": ["10.0.0.7", "127.0.0.1"]}
    async with served(make_app(), make_store(shards=3), **options) as node:
        await spread(node)
        for path in ("/livez", "/readyz"):
            assert await health(node, path) == (200, "ok")
        async with websocket(node.url) as peer:
            await peer.hello()
            await peer.run("echo", 1)
            status, text = await health(node, "/metrics", port)
        assert status == 200
        assert 'arcp_jobs_ended_total{agent="echo",status="success"} 1.0' in text
        assert 'arcp_sessions{state="attached"} 1.0' in text
        assert (await health(node, "/metrics"))[0] == (404 if beside else 200)
        if beside:
            assert await health(node, "/readyz", port) == (200, "ok")


async def test_a_node_that_is_held_is_not_healthy(database: str, make_store: MakeStore) -> None:
    with proxy_to(database) as (proxy, url):
        async with served(make_app(), make_store(url, shards=2)) as node:
            assert await health(node) == (200, "ok")
            proxy.down()
            await until(lambda: node.beating.held)
            assert await health(node) == (503, "the store has not answered for most of a lease")
            proxy.up()
            await until(lambda: not node.beating.held)
            assert await health(node) == (200, "ok")


async def test_a_node_whose_store_takes_no_records_is_not_healthy(
    database: str, make_store: MakeStore
) -> None:
    async with served(make_app(), make_store(shards=2)) as node:
        await spread(node)
        query(database, "ALTER TABLE arcp.record ADD CONSTRAINT full_disk CHECK (false) NOT VALID")
        async with websocket(node.url) as peer:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.hello)
                await until(lambda: bool(node.gateway.trouble))
                assert await health(node) == (503, "the store takes no records")
                query(database, "ALTER TABLE arcp.record DROP CONSTRAINT full_disk")
            assert await health(node) == (200, "ok")


async def test_a_node_that_cannot_reach_a_live_owner_is_not_healthy(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcp_io.cluster.gateway.PLACING_SEC", 2 * LEASE)
    app, one, two = make_app(), make_store(shards=2), make_store(shards=2)
    async with two_served(app, one, two) as (first, second):
        owner, gateway = owner_first("alice", first, second)
        owner.relay.close()
        with anyio.fail_after(LIMIT):
            while not gateway.gateway.trouble:
                async with websocket(gateway.url) as peer:
                    with pytest.raises(Ended) as ended:
                        await peer.hello()
                    assert ended.value.code == 1012
        assert await health(gateway) == (503, "1 live nodes that own shards are out of reach")
        assert await health(owner) == (200, "ok")


def test_failed_dials_count_against_live_nodes_alone_and_are_forgotten() -> None:
    now = 1_000
    dials = Dials(lambda: now)
    for _ in range(FAILURES - 1):
        dials.failed("a", 7)
    assert dials.unreachable({"a": 7 + BEATS}) == []
    dials.failed("a", 9)
    assert dials.unreachable({"a": 7 + BEATS - 1}) == []  # It may be dead.
    assert dials.unreachable({"a": 7 + BEATS}) == ["a"]
    dials.read({"a": 12})
    assert dials.unreachable({"a": 7 + BEATS}) == ["a"]
    now += FORGOTTEN_AFTER
    dials.read({"a": 12})
    assert dials.unreachable({"a": 12}) == []
    for _ in range(FAILURES):
        dials.failed("a", 0)
    dials.reached("a")
    assert dials.unreachable({"a": BEATS}) == []
    for _ in range(FAILURES):
        dials.failed("gone", 0)
    dials.read({})
    assert dials.unreachable({"gone": BEATS}) == []


async def test_a_node_whose_store_stays_away_ends_as_with_a_failed_journal(
    database: str, make_store: MakeStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcp_io.cluster.beating.COMPLAINT_SECONDS", 0.2)
    monkeypatch.setattr("arcp_io.cluster.node.LETTING_GO_SEC", 0.1)
    with proxy_to(database) as (proxy, url), caplog.at_level(logging.ERROR, "arcp_io"):
        store = make_store(url, shards=2, give_up=1.0)
        with pytest.raises(JournalFailed, match="did not answer for 1 s"):
            async with serve(make_app(), journal=store, node=Node(lease=LEASE), port=0) as node:
                await spread(node)
                proxy.down()
                await anyio.sleep(LIMIT)
    assert sum("The store has not answered for" in text for text in caplog.messages) >= 2


async def test_the_limits_of_all_shards_are_logged(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "arcp_io"):
        async with served(make_app(), make_store(shards=8)):
            pass
    assert "each of 8 shards may hold 256 MiB" in caplog.text
    assert "all of them on one node 2 GiB" in caplog.text


@pytest.mark.parametrize(("stated", "told"), [(None, HEARTBEAT_SEC), (25, 25)])
async def test_many_nodes_send_heartbeats_more_often(
    make_store: MakeStore, stated: int | None, told: int
) -> None:
    app = make_app()
    app.heartbeat = stated
    async with served(app, make_store(shards=2)) as node, websocket(node.url) as peer:
        welcome = await peer.hello(features=["heartbeat"])
        assert welcome["payload"]["heartbeat_interval_sec"] == told
