"""(e) A page of the list of jobs, beside many other jobs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ..case import Case, Implementation, Metrics, Scenario
from ..load import run_jobs
from ..process import Server, serving

PAGES = 50
"""The number of requests for the same page, of which the median counts."""
LIMIT = 100


def filled(jobs: int) -> Callable[[Implementation], AbstractContextManager[Server]]:
    """Return a `Case.open` that starts a server, and ends a number of jobs on it."""

    @contextmanager
    def opened(implementation: Implementation) -> Iterator[Server]:
        with serving()(implementation) as server, server.connect() as session:
            for _ in range(0, jobs, 1_000):
                batch = min(jobs, 1_000)
                run_jobs(session, [session.submission("echo", {"x": 1}) for _ in range(batch)], 64)
            yield server

    return opened


def page(server: Server) -> Metrics:
    """Request the first page of a hundred jobs."""
    took = []
    with server.connect() as session:
        cpu = server.cpu()
        for _ in range(PAGES):
            start = time.perf_counter()
            session.send("session.list_jobs", {"limit": LIMIT})
            answer = session.until("session.jobs")
            took.append(time.perf_counter() - start)
        cpu = server.cpu() - cpu
    if len(answer["payload"]["jobs"]) != LIMIT:
        raise AssertionError("a page is not full")
    return {"page_ms": statistics.median(took) * 1e3, "server_cpu_ms": cpu / PAGES * 1e3}


def _case(jobs: int) -> Case:
    return Case(f"{jobs} jobs", filled(jobs), page, jobs in (100, 10_000), jobs <= 10_000)


SCENARIO = Scenario(
    "e", "listing", "a page of 100 jobs", [_case(jobs) for jobs in (100, 1_000, 10_000, 100_000)]
)
