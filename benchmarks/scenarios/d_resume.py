"""(d) A client that resumes its session, and receives all events again."""

from __future__ import annotations

import time
from functools import partial

from ..case import Case, Metrics, Scenario
from ..process import Server, serving

FORGOTTEN = 0.3
"""Seconds in which a server notices the end of a connection."""


def replay(count: int, server: Server) -> Metrics:
    """Measure the time from the connect to the last event of the replay."""
    with server.connect() as session:
        session.submit("emit", {"n": count})
        session.until("job.result")
    time.sleep(FORGOTTEN)
    cpu, start = server.cpu(), time.perf_counter()
    with server.connect(session.resumption()) as resumed:
        resumed.until("job.result")
        seconds, cpu = time.perf_counter() - start, server.cpu() - cpu
        if resumed.events != count:
            raise AssertionError(f"{resumed.events} of {count} events have come again")
    return {"replay_ms": seconds * 1e3, "server_cpu_us": cpu / count * 1e6}


def _case(count: int) -> Case:
    quick = count in (1_000, 10_000, 40_000)
    repetitions = 2 if count == 100_000 else None
    return Case(
        f"n={count}", serving(), partial(replay, count), quick, count <= 10_000, repetitions=repetitions
    )


SCENARIO = Scenario(
    "d", "resume", "replay of a session", [_case(count) for count in (1_000, 5_000, 10_000, 40_000, 100_000)]
)
