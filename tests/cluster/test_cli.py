"""`arcp-io` with many nodes, in processes of their own."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from arcp_io.cluster.placing import shard_of
from tests.cluster.servers import query
from tests.hanging import PATIENCE
from tests.io.peers import Ended, websocket
from tests.io.processes import Served, arcp_io

pytestmark = pytest.mark.anyio


def listed(what: str, url: str, *words: str) -> list[dict[str, Any]]:
    """Return what a command lists as JSON."""
    done = arcp_io(what, url, "--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def await_owners(url: str, count: int) -> list[dict[str, Any]]:
    """Wait until each shard has an owner, and the owners are this number of nodes."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        shards = listed("shards", url)
        owners = [shard["owner"] for shard in shards]
        if None not in owners and len(set(owners)) == count:
            return shards
    raise AssertionError(f"{count} nodes do not own the shards: {shards}")


def test_a_store_is_made_once_and_listed(database: str) -> None:
    missing = arcp_io("nodes", database)
    assert missing.returncode == 1 and "arcp-io store init" in missing.stderr
    made = arcp_io("store", "init", database, "--shards", "4")
    assert (made.returncode, made.stdout.endswith(" has 4 shards\n")) == (0, True)
    assert arcp_io("store", "init", database, "--shards", "4", "--json").returncode == 0
    other = arcp_io("store", "init", database, "--shards", "8")
    assert other.returncode == 1 and "is there, with 4 shards" in other.stderr
    upgraded = arcp_io("store", "upgrade", database)
    assert (upgraded.returncode, upgraded.stdout.endswith("has version 2 already\n")) == (0, True)
    assert arcp_io("nodes", database, "--watch", "0").stdout == "no node serves the store\n"
    assert [shard["owner"] for shard in listed("shards", database)] == [None] * 4
    assert arcp_io("shards", database).stdout.count("free  epoch 0  unknown unfinished jobs") == 4


@pytest.mark.only_on("asyncio")
async def test_shards_are_listed_with_their_unfinished_jobs(database: str, tmp_path: Path) -> None:
    assert arcp_io("store", "init", database, "--shards", "4").returncode == 0
    node = Served(tmp_path, "--journal", database, "--lease", "1s")
    await_owners(database, 1)
    mine = shard_of("alice", 4)
    async with websocket(node.url) as peer:
        await peer.hello("s3cret")
        for agent in ("wait", "wait", "echo"):
            await peer.submit(agent)
        await peer.until("job.result")
    until = time.monotonic() + PATIENCE
    while (counts := [shard["unfinished_jobs"] for shard in listed("shards", database)])[mine] != 2:
        assert time.monotonic() < until, counts
    assert sum(counts) == 2
    lines = arcp_io("shards", database).stdout.splitlines()
    assert ["  2 unfinished jobs  " in line for line in lines] == [shard == mine for shard in range(4)]
    assert node.stop() == 0
    assert [shard["unfinished_jobs"] for shard in listed("shards", database)] == [None] * 4


def test_urls_without_a_store_are_refused(tmp_path: Path) -> None:
    for words in (("nodes", "agents.db"), ("store", "init", "postgresql://127.0.0.1:1/none")):
        done = arcp_io(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("cannot use the store: ")


def test_options_of_nodes_are_checked(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("from arcp_io import App\napp = App('a', '1', anonymous=True)\n")
    for words, fault in (
        (("--node-listen", "10.0.0.5:7800"), "postgresql://"),
        (("--journal", "postgresql://x/y", "--stdio"), "WebSockets"),
        (("--journal", "postgresql://x/y", "--lease", "0.1"), "a second or more"),
        (("--journal", "postgresql://x/y", "--give-up", "soon"), "is not a duration"),
        (("--give-up", "1m"), "postgresql://"),
        (("--journal", "postgresql://x/y", "--node-cafile", "ca.pem"), "--node-certfile"),
        (("--journal", "postgresql://x/y", "--node-listen", "10.0.0.5:7800"), "in clear text"),
    ):
        done = arcp_io("serve", "example:app", "--port", "0", *words, cwd=tmp_path)
        assert done.returncode == 2 and fault in done.stderr, done.stderr


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.only_on("asyncio")
async def test_a_session_survives_kill_9_and_a_drain_of_its_nodes(
    database: str, tmp_path: Path, loop: str
) -> None:
    assert arcp_io("store", "init", database, "--shards", "4").returncode == 0
    words = ("--journal", database, "--lease", "1s", "--loop", loop)
    nodes = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        nodes.append(Served(tmp_path / str(number), *words))
    shards = await_owners(database, 3)
    alive = listed("nodes", database, "--watch", "1s")
    assert [(node["alive"], 0 <= node["beat_age"] <= 1) for node in alive] == [(True, True)] * 3
    done = nodes[0].submit("echo", "--input", '{"x": 1}')
    assert done.returncode == 0, done.stderr
    pids = pids_of(nodes, database)
    async with websocket(nodes[0].url) as peer:
        welcome = await peer.hello("s3cret")
        await peer.submit("echo", {"x": 2})
        await peer.until("job.result")
    numbered = [*peer.events]
    for ends in (signal.SIGKILL, signal.SIGTERM):
        shards = listed("shards", database)
        owner = pids.pop(shards[shard_of("alice", 4)]["owner"])
        owner.process.send_signal(ends)
        nodes.remove(owner)
        for node in nodes:
            async with websocket(node.url) as again:
                welcome = await again.resume(welcome, 0, token=None)
                assert welcome["type"] == "session.welcome"
                assert (await again.until_event(len(numbered)))[: len(numbered)] == numbered
        if ends == signal.SIGTERM:
            owner.process.read_to_end()
            assert owner.process.returncode == 0
    async with websocket(nodes[0].url) as last:
        await last.hello("s3cret")
        nodes[0].process.send_signal(signal.SIGTERM)
        with pytest.raises(Ended) as ended:
            await last.until("never")
        assert ended.value.code == 1012
    nodes[0].process.read_to_end()
    assert query(database, "SELECT count(*) FROM arcp.shard WHERE node IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.only_on("asyncio")
async def test_a_node_that_was_stopped_finds_its_shards_taken_when_it_wakes(
    database: str, tmp_path: Path, loop: str
) -> None:
    assert arcp_io("store", "init", database, "--shards", "2").returncode == 0
    nodes = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        words = ("--journal", database, "--lease", "1s", "--loop", loop)
        nodes.append(Served(tmp_path / str(number), *words))
    shards = await_owners(database, 2)
    sleeper = pids_of(nodes, database)[shards[shard_of("alice", 2)]["owner"]]
    other = next(node for node in nodes if node is not sleeper)
    async with websocket(sleeper.url) as peer:
        welcome = await peer.hello("s3cret")
        await peer.submit("echo", {"x": 1})
        await peer.until("job.result")
        sleeper.process.send_signal(signal.SIGSTOP)
        await peer.send("job.submit", {"agent": "echo", "input": {"x": 2}})
        async with websocket(other.url) as again:
            welcome = await again.resume(welcome, 0, token=None)
            assert welcome["type"] == "session.welcome"
            assert (await again.until_event(len(peer.events)))[: len(peer.events)] == peer.events
            sleeper.process.send_signal(signal.SIGCONT)
            with pytest.raises(Ended) as ended:
                await peer.until("job.accepted")
            assert ended.value.code == 1012
            await again.submit("echo", {"x": 3})
            await again.until("job.result")
    for node in nodes:
        assert node.stop() == 0


def pids_of(nodes: list[Served], url: str) -> dict[str, Served]:
    """Return the processes by the ids of their nodes, which started one after the other."""
    rows = query(url, "SELECT node::text FROM arcp.node ORDER BY started")
    return {str(row[0]): node for row, node in zip(rows, nodes, strict=True)}
