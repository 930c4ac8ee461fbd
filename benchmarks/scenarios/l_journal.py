"""(l) Events and jobs with a journal, which stores each message before it is sent.

The peer stores in one way only: one commit for each event, after the event was queued. Its figure is beside
both settings of arcp-io.
"""

from __future__ import annotations

from functools import partial

from ..case import Case, Metrics, Scenario
from ..process import Server, journaling
from .a_events import events
from .b_jobs import throughput


def journaled(count: int, server: Server) -> Metrics:
    """Measure the events of one job, then a number of jobs."""
    found = events(count, False, server)
    jobs = throughput(count // 5, 64, server)
    return {"server_cpu_us": found["server_cpu_us"], "events_per_s": found["events_per_s"], **_of(jobs)}


def _of(jobs: Metrics) -> Metrics:
    return {"jobs_per_s": jobs["jobs_per_s"], "job_cpu_us": jobs["server_cpu_us"]}


SCENARIO = Scenario(
    "l",
    "journal",
    "with a journal of SQLite",
    [
        Case(f"{sync} n=5000", journaling(sync), partial(journaled, 5_000), quick=sync == "normal")
        for sync in ("normal", "full")
    ],
)
