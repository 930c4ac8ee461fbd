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
"""The result of `calibrate` on the machine of the absolute targets."""
LINUX: Final = sys.platform == "linux"


class Cores(NamedTuple):
    """The cores of server and client; None where processes cannot be pinned."""

    server: int | None
    client: int | None


def cores() -> Cores:
    """Return two of the allowed cores; with a single core, both sides share it."""
    if not LINUX:
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1])


CORES: Final = cores()
"""The cores that were allowed before any process was pinned."""
ALLOWED: Final = tuple(sorted(os.sched_getaffinity(0))) if LINUX else ()
"""All cores that were allowed before any process was pinned; empty where processes cannot be pinned."""


class NodeCores(NamedTuple):
    """The cores of nodes and of their store."""

    servers: tuple[int | None, ...]
    """The core of each node."""
    store: int | None
    own: bool
    """Whether each node, the store and the client have a core of their own."""


def cores_for(nodes: int) -> NodeCores:
    """Return cores for a number of nodes: where cores are too few, all nodes share that of servers."""
    own = len(ALLOWED) >= nodes + 2
    store = ALLOWED[-2] if len(ALLOWED) >= 3 else CORES.client
    return NodeCores(ALLOWED[:nodes] if own else (CORES.server,) * nodes, store, own)


def pin(core: int | None, pid: int = 0) -> None:
    """Keep a process, and the processes that it starts, on one core."""
    if core is not None and LINUX:
        os.sched_setaffinity(pid, {core})


def calibrate() -> float:
    """Return the best of some times of a fixed loop on the server's core, in ms of CPU: the current speed."""
    with _on(CORES.server):
        return min(_loop() for _ in range(3))


@contextmanager
def _on(core: int | None) -> Iterator[None]:
    """Keep this process on a core for a block."""
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
    """Return the CPU time of a process; where the system has a clock for each process, in nanoseconds."""
    if LINUX:
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def memory(pid: int) -> int:
    """Return the number of bytes that the end of a process would free."""
    return psutil.Process(pid).memory_full_info().uss


def resident_memory(pid: int) -> int:
    """Return the resident bytes; on Linux, also set the peak that `peak_memory` returns to this amount."""
    if LINUX:
        with open(f"/proc/{pid}/clear_refs", "w") as switch:
            switch.write("5")
    return int(psutil.Process(pid).memory_info().rss)


def peak_memory(pid: int) -> int:
    """Return the highest number of resident bytes of a process, or the current one where none is counted."""
    if LINUX:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    return psutil.Process(pid).memory_info().rss


def allow_many_files() -> int:
    """Raise the limit of open files as far as the system allows; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        hard = 65_536
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe() -> dict[str, object]:
    """Return the properties of the machine that a reader of figures needs."""
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
