"""(n) Events without I/O: the cost of the runtime alone, from `emit` to framed bytes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from functools import partial

from ..case import ONE_LOOP, Case, Implementation, Metrics, Scenario
from ..core import Core
from ..environment import python_of, variables
from ..process import anew


def ours(count: int, observers: int) -> float:
    """Return the microseconds of CPU of one delivery by arcp_proto."""
    core = Core(observers)
    core.emit(500)
    start = time.process_time()
    core.emit(count)
    return (time.process_time() - start) / (count * (observers + 1)) * 1e6


def floor(count: int) -> float:
    """Return the microseconds of CPU of one event of the floor, with a transport that drops all bytes."""
    return asyncio.run(_floor(count))


async def _floor(count: int) -> float:
    from ..servers.floor import Floor, Job
    from ..servers.floor_connection import Connection

    connection = Connection(Floor())
    connection.connection_made(_Nobody())
    job = Job(connection.session, "emit")
    start = time.process_time()
    for number in range(count):
        await job.log("info", f"processed item {number} of the batch")
    return (time.process_time() - start) / count * 1e6


class _Nobody(asyncio.Transport):
    def write(self, data: object) -> None:
        pass

    def get_extra_info(self, name: str, default: object = None) -> _Nobody:
        return self

    def setsockopt(self, *_: object) -> None:
        pass


def peer(count: int) -> float:
    """Return the microseconds of CPU of one event of the peer, in its own environment."""
    command = [python_of("peer"), "-m", "benchmarks.servers.peer_core", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, env=variables())
    return float(json.loads(done.stdout))


def emit(count: int, observers: int, implementation: Implementation) -> Metrics:
    """Measure the events of one job."""
    if implementation is Implementation.PEER:
        return {"cpu_us": peer(count)}
    if implementation is Implementation.FLOOR:
        return {"cpu_us": floor(count)}
    return {"cpu_us": ours(count, observers)}


SCENARIO = Scenario(
    "n",
    "core",
    "the core without I/O",
    [
        Case("events n=20000", anew, partial(emit, 20_000, 0), implementations=ONE_LOOP),
        Case(
            "events n=2000, 100 observers",
            anew,
            partial(emit, 2_000, 100),
            implementations=[Implementation.ASYNCIO],
        ),
    ],
)
