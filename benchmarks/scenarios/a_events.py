"""(a) Events of one job to the client that submitted it."""

from __future__ import annotations

import time
from functools import partial

from ..case import Case, Metrics, Scenario
from ..process import Server, serving


def events(count: int, suspend: bool, server: Server) -> Metrics:
    """Run one job that publishes `count` events; measure throughput, CPU and the time of the first event."""
    with server.connect() as session:
        submission = session.submission("emit", {"n": count, "suspend": suspend})
        cpu, start = server.cpu(), session.expect()
        session.send_frames([submission])
        session.until("job.result")
        seconds, cpu = time.perf_counter() - start, server.cpu() - cpu
        if session.events != count:
            raise AssertionError(f"{session.events} of {count} events have come")
        return {
            "server_cpu_us": cpu / count * 1e6,
            "events_per_s": count / seconds,
            "first_event_ms": (session.first_event_at - start) * 1e3,
        }


def _case(name: str, count: int, suspend: bool, quick: bool) -> Case:
    return Case(f"{name} n={count}", serving(), partial(events, count, suspend), quick, count <= 20_000)


SCENARIO = Scenario(
    "a",
    "events",
    "events of one job",
    [
        *(
            _case("burst", count, False, count in (1_000, 20_000))
            for count in (1_000, 5_000, 20_000, 100_000)
        ),
        *(_case("suspending", count, True, count == 20_000) for count in (1_000, 20_000, 100_000)),
    ],
)
