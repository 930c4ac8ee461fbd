"""The harness itself: a short run of it on real processes, and that it finds what is wrong."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.__main__ import State, main, plan
from tests.cluster.appends import check_appends, watch_appends
from tests.cluster.conftest import MakeStore
from tests.cluster.link import Link
from tests.cluster.machine import PROCESSORS, Load, Machine, Sample, load_of
from tests.cluster.owners import Owner
from tests.cluster.servers import query


@pytest.mark.usefixtures("private_postgres")
def test_a_few_faults_lose_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    faults = ["--kills", "1", "--stops", "1", "--cuts", "1", "--store-restarts", "1", "--drains", "1"]
    small = ["--clients", "4", "--client-kills", "1", "--links", "1", "--outage", "3", "--seed", "3"]
    code = main([*faults, *small, "--lease", "1.5", "--json", "--keep", str(tmp_path)])
    printed = capsys.readouterr()
    assert code == 0, printed.out + printed.err
    found = json.loads(printed.out)
    kinds = ("kill", "stop", "cut", "store_restart", "drain", "link", "client_kill")
    assert found["faults"] == dict.fromkeys(kinds, 1)
    assert found["wrong"] == []
    assert found["events_told"] > found["jobs"] > 0
    assert list(tmp_path.iterdir()) == []


def test_an_append_of_a_process_that_does_not_own_the_shard_is_found(
    database: str, make_store: MakeStore
) -> None:
    make_store()
    watch_appends(database)
    owner, other = (
        Owner(make_store(f"{database}{'&' if '?' in database else '?'}application_name={name}"), shard)
        for shard, name in enumerate(("one", "two"))
    )
    for one in (owner, other):
        one.add(3)
        one.settle()
        one.close()
    assert check_appends(database, {"one": owner.store.node, "two": other.store.node}) == (6, [])
    _, wrong = check_appends(database, {"one": owner.store.node, "two": owner.store.node})
    assert len(wrong) == 1
    assert "by two under epoch 1" in wrong[0]
    query(database, "UPDATE arcp.append_seen SET first = 1 WHERE shard = 0")
    _, wrong = check_appends(database, {"one": owner.store.node, "two": other.store.node})
    assert len(wrong) == 1
    assert "came behind record 0" in wrong[0]


def test_rounds_have_all_faults_and_silent_nodes_are_among_themselves() -> None:
    wanted = Counter({"kill": 9, "stop": 4, "cut": 3, "drain": 2, "store_restart": 2})
    done: Counter[str] = Counter()
    while left := wanted - done:
        kinds = plan(left, random.Random(f"{done}"), 3)
        silent = [kind in ("stop", "cut") for kind in kinds]
        assert 0 < len(kinds) <= 3
        assert all(silent) or not any(silent)
        done.update(kinds)
    assert done == wanted
    assert sorted(plan(wanted, random.Random(1), 99, mixed=True)) == sorted(wanted.elements())


def test_a_run_goes_on_with_the_counts_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state = State(path)
    state.done["kill"] = 3
    state.figures = {"trio": {"kill": [0.5, 2.0, 1.0]}}
    state.store()
    again = State(path)
    assert again.done == Counter(kill=3)
    assert again.summary()["figures"] == {"trio": {"kill": {"count": 3, "p50": 1.0, "p95": 2.0, "max": 2.0}}}


def test_a_figure_has_the_load_of_the_machine_beside_it(tmp_path: Path) -> None:
    samples = [
        Sample(float(at), runnable=PROCESSORS * at, blocked=at, stolen=at, ticks=4 * at, late=at / 10)
        for at in range(10)
    ]
    load = load_of(samples, 2.5, 3.5)
    assert load == Load(3.0, 3.0, 0.25, 0.4)
    assert load_of(samples, 20.0, 21.0) == Load(9.0, 9.0, 0.0, 0.9)
    assert load_of([], 0.0, 1.0) == Load(0.0, 0.0, 0.0, 0.0)
    state = State(tmp_path / "state")
    state.figures = {"trio": {"kill": [0.5, 2.0], "kill: shards moved": [3.0]}}
    state.loads = {"trio": {"kill": [[0.5, 1.0, 0.0, 0.0, 0.0], [2.0, *load]]}}
    state.store()
    found = State(tmp_path / "state").summary()["figures"]["trio"]
    assert found["kill"]["at max"] == str(load)
    assert found["kill"]["runnable p50"] == 3.0
    assert "at max" not in found["kill: shards moved"]


def test_the_load_of_this_machine_is_sampled() -> None:
    async def run() -> Load:
        machine, begun = Machine(), time.monotonic()
        sampling = asyncio.create_task(machine.sample_on())
        await asyncio.sleep(0.2)
        sampling.cancel()
        return machine.between(begun, time.monotonic())

    load = asyncio.run(run())
    assert min(load) >= 0.0
    assert load.stolen <= 1.0


def test_a_link_delivers_what_has_waited_and_refuses_when_told() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        link = Link(server.sockets[0].getsockname()[1])
        await link.listen()
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        link.stall()
        writer.write(b"two")
        waiting = asyncio.create_task(reader.readexactly(3))
        assert await asyncio.wait((waiting,), timeout=0.1) == (set(), {waiting})
        link.heal()
        assert await waiting == b"two"
        link.refuse()
        assert await _is_over(reader)
        again, unused = await asyncio.open_connection("127.0.0.1", link.port)
        assert await _is_over(again)
        for one in (writer, unused):
            one.close()
        await link.close()
        server.close()
        await asyncio.sleep(0.05)  # Until the transports are closed.

    asyncio.run(run())


async def _is_over(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
