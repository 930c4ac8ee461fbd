"""The machine: its cores, its speed, and what the operating system knows about a process."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import psutil

REFERENCE_MS: Final = 5.5
"""What `calibrate` returns on the machine of which the absolute targets are."""
LINUX: Final = sys.platform == "linux"


class Cores(NamedTuple):
    """Where the two sides run; None where processes cannot be pinned."""

    server: int | None
    client: int | None


def cores() -> Cores:
    """Two cores of those that we may use: of one core both sides share it."""
    if not LINUX:
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1])


CORES: Final = cores()
"""Found before anybody is pinned."""
ALLOWED: Final = tuple(sorted(os.sched_getaffinity(0))) if LINUX else ()
"""All cores that we may use, found before anybody is pinned; none where processes cannot be pinned."""


class NodeCores(NamedTuple):
    """Where nodes and their store run."""

    servers: tuple[int | None, ...]
    """The core of each node."""
    store: int | None
    own: bool
    """Whether each node, the store and the client have a core of their own."""


def cores_for(nodes: int) -> NodeCores:
    """Return cores for so many nodes: without enough of them, all nodes share that of servers."""
    own = len(ALLOWED) >= nodes + 2
    store = ALLOWED[-2] if len(ALLOWED) >= 3 else CORES.client
    return NodeCores(ALLOWED[:nodes] if own else (CORES.server,) * nodes, store, own)


def pin(core: int | None, pid: int = 0) -> None:
    """Keep a process, and what it starts, on one core."""
    if core is not None and LINUX:
        os.sched_setaffinity(pid, {core})


def calibrate() -> float:
    """Milliseconds of CPU of a fixed loop on the servers' core, the best of some: how fast it is now."""
    with _on(CORES.server):
        return min(_loop() for _ in range(3))


@contextmanager
def _on(core: int | None) -> Iterator[None]:
    """Stay on a core for a block."""
    if core is None:
        yield
        return
    usual = os.sched_getaffinity(0)
    pin(core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def _loop() -> float:
    start, total = time.process_time(), 0
    for number in range(300_000):
        total += number
    return (time.process_time() - start) * 1e3


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used; from its own clock, to the nanosecond, where there is one."""
    if LINUX:
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def memory(pid: int) -> int:
    """Bytes that would be free if a process ended."""
    return psutil.Process(pid).memory_full_info().uss


def resident_memory(pid: int) -> int:
    """Bytes that are resident; from now on `peak_memory` is the most of them, where the system counts it."""
    if LINUX:
        with open(f"/proc/{pid}/clear_refs", "w") as switch:
            switch.write("5")
    return int(psutil.Process(pid).memory_info().rss)


def peak_memory(pid: int) -> int:
    """The most bytes that a process has had resident; where nobody counts, what it has now."""
    if LINUX:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    return psutil.Process(pid).memory_info().rss


def allow_many_files() -> int:
    """Raise the limit of open files as far as we may; returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        hard = 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe() -> dict[str, object]:
    """What a reader of figures has to know."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "server_core": CORES.server,
        "client_core": CORES.client,
        "python": platform.python_version(),
    }


def _processor() -> str:
    if LINUX:
        with open("/proc/cpuinfo") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor()
