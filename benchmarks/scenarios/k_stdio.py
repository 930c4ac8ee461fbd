"""(k) Events of one job over standard streams."""

from __future__ import annotations

import time
from functools import partial

from ..case import Case, Implementation, Metrics, Scenario
from ..process import anew, start_stdio


def events(count: int, implementation: Implementation) -> Metrics:
    """Run one job that publishes events through pipes, as scenario (a) does over a WebSocket."""
    server, session = start_stdio(implementation)
    try:
        for suspend in (True, False):
            session.submit("emit", {"n": 300, "suspend": suspend})
            session.until("job.result")
        cpu, start = server.cpu(), session.expect()
        session.submit("emit", {"n": count})
        session.until("job.result")
        seconds, cpu = time.perf_counter() - start, server.cpu() - cpu
    finally:
        server.stop()
    if session.events != count:
        raise AssertionError(f"{session.events} of {count} events have come")
    return {"server_cpu_us": cpu / count * 1e6, "events_per_s": count / seconds}


SCENARIO = Scenario("k", "stdio", "standard streams", [Case("burst n=20000", anew, partial(events, 20_000))])
