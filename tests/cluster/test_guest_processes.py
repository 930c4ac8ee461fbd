"""Guests of nodes in processes of their own, one of which is killed while a guest observes a job."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from arcp_io.client.connect import connect
from arcp_io.client.job import Job
from arcp_io.cluster.placing import shard_of
from tests.cluster.beaten import LIMIT
from tests.cluster.test_cli import await_owners, pids_of
from tests.io.processes import Served, arcp_io

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio", "trio")]

LINES: Final = 60
AGENTS: Final = f"""
import anyio
from arcp_io import App

app = App(
    "example",
    "1",
    tokens={{"s3cret": "alice", "b0b": "bob"}},
    observers={{"bob": {{"alice": "observe"}}}},
)

@app.agent("tell", restartable=True)
async def tell(job, input):
    for number in range({LINES}):
        await job.log("info", f"{{job.attempt}} {{number}}")
        await anyio.sleep(0.05)
    return job.attempt
"""


@contextmanager
def three_nodes(database: str, directory: Path, loop: str) -> Iterator[list[Served]]:
    """Run three nodes that share the shards of a store."""
    assert arcp_io("store", "init", database, "--shards", "4").returncode == 0
    nodes: list[Served] = []
    try:
        for number in range(3):
            (directory / str(number)).mkdir()
            words = ("--journal", database, "--lease", "1s", "--loop", loop)
            nodes.append(Served(directory / str(number), *words, agents=AGENTS))
        yield nodes
    finally:
        for node in nodes:
            node.process.kill()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
async def test_a_guest_sees_each_event_once_although_the_owner_is_killed(
    database: str, tmp_path: Path, loop: str
) -> None:
    """Kill the owner while a guest observes at another node; the agent begins again at the next owner."""
    with three_nodes(database, tmp_path, loop) as nodes, anyio.fail_after(LIMIT):
        shards = await_owners(database, 3)
        owner = pids_of(nodes, database)[shards[shard_of("alice", 4)]["owner"]]
        gateways = [node for node in nodes if node is not owner]
        seen: list[str] = []
        async with (
            connect(gateways[0].url, token="s3cret") as alice,
            connect(f"{gateways[1].url}?tenant=alice", token="b0b") as bob,
        ):
            job = await alice.submit("tell")
            observed = await bob.subscribe(job.id, history=True)
            async for event in observed:
                seen += [event.body["message"]] if event.kind == "log" else []
                if len(seen) == 5 and owner.process.returncode is None:
                    owner.process.send_signal(signal.SIGKILL)
            assert await observed.result() == await job.result() == 2
            assert seen == await lines_of(await bob.subscribe(job.id, history=True))
        first = [line for line in seen if line.startswith("1 ")]
        assert first == [f"1 {number}" for number in range(len(first))]
        assert 5 <= len(first) < LINES
        assert seen[len(first) :] == [f"2 {number}" for number in range(LINES)]


async def lines_of(observed: Job[Any]) -> list[str]:
    """Return the lines of a job, from its history."""
    return [event.body["message"] async for event in observed if event.kind == "log"]
