"""(h) Clients that do not read, and observers whose connections have ended: their cost for other clients.

The limits are the defaults of each implementation, since a stalled client meets these.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from ..case import Case, Implementation, Metrics, Scenario
from ..load import until_all
from ..process import anew, serving
from .c_observers import audience

MIB: Final = 1024 * 1024
SECONDS: Final = 2.0
MANY: Final = {
    "max_principal_sessions": 1_000,
    "max_principal_connections": 1_000,
    "max_principal_events": 10**9,
    "max_principal_bytes": 10**12,
    "max_total_events": 10**9,
    "max_total_bytes": 10**12,
}
"""The limits for many sessions of one principal; those of a session and of a job are the defaults."""
WITH_PATIENCE: Final = tuple(name for name in Implementation if name is not Implementation.FLOOR)
"""All implementations but the floor, whose agents wait for every client."""


def stalled(implementation: Implementation) -> Metrics:
    """Measure the memory of a server while a job publishes without a pause, and its client does not read."""
    with serving(roomy=False)(implementation) as server, server.connect() as session:
        before = server.memory()
        session.start("emit_for", {"seconds": SECONDS, "size": 200})
        time.sleep(SECONDS + 0.5)
        grown = server.memory() - before
        session.until("job.result")
        return {"grown_mb": grown / MIB, "emitted_events": float(session.events)}


def one_stalled(events: int, observers: int, implementation: Implementation) -> Metrics:
    """Compare the time of observers while one of them does not read with the time while all read.

    Each observer receives 5 MB, which is more than the kernel buffers for a client that does not read.
    """
    seconds = []
    with serving(roomy=False, limits=MANY)(implementation) as server:
        for readers in (observers, observers - 1):
            with audience(server, observers, "emit", n=events, suspend=True, size=40_000) as seen_by:
                reading = [seen_by.owner, *seen_by.observers[:readers]]
                start = seen_by.begin()
                until_all(reading, "job.result")
                seconds.append((time.perf_counter() - start) / len(reading))
    return {"stalled_over_all_reading": seconds[1] / seconds[0]}


def dead(events: int, observers: int, implementation: Implementation) -> Metrics:
    """Measure the cost of an observer whose connection has ended, for each event.

    All figures are of one warm process, since two processes differ by more than this cost.
    """
    cpus, grown = [], []
    with serving(roomy=False, limits=MANY)(implementation) as server:
        for count in (0, 0, observers):
            with audience(server, count, "emit", n=events, suspend=True) as seen_by:
                for observer in seen_by.observers:
                    observer.close()
                time.sleep(0.3)
                before, cpu = server.memory(), server.cpu()
                seen_by.begin()
                seen_by.owner.until("job.result")
                cpus.append((server.cpu() - cpu) / events * 1e6)
                grown.append((server.memory() - before) / events / 1024)
    return {
        "event_cpu_us": cpus[-1],
        "each_dead_cpu_us": (cpus[-1] - cpus[-2]) / observers,
        "each_dead_kb": (grown[-1] - grown[-2]) / observers,
    }


SCENARIO = Scenario(
    "h",
    "stalls",
    "clients that stall",
    [
        Case("client stalls 2 s", anew, stalled, repetitions=1),
        Case(
            "1 of 100 observers stalls",
            anew,
            partial(one_stalled, 120, 100),
            quick_peer=False,
            implementations=WITH_PATIENCE,
        ),
        Case("10 dead observers", anew, partial(dead, 3_000, 10), repetitions=2),
    ],
)
