"""(l) Everything is stored before it is sent.

The peer has one way only: a commit an event, after its event was queued. It is beside both of ours.
"""

from __future__ import annotations

from functools import partial

from ..case import Case, Metrics, Scenario
from ..process import Server, journaling
from .a_events import events
from .b_jobs import throughput


def journaled(count: int, server: Server) -> Metrics:
    """Events of a job, then jobs."""
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
