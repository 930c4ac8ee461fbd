"""(b) Jobs that only return their input: the time from submit to result, and the throughput."""

from __future__ import annotations

import statistics
import time
from functools import partial

from ..case import Case, Metrics, Scenario
from ..load import run_jobs
from ..process import Server, serving


def latency(count: int, server: Server) -> Metrics:
    """Run jobs one after the other."""
    with server.connect() as session:
        took = []
        cpu, begin = server.cpu(), time.perf_counter()
        for _ in range(count):
            submission = session.submission("echo", {"x": 1})
            start = time.perf_counter()
            session.send_frames([submission])
            session.until("job.result")
            took.append(time.perf_counter() - start)
        seconds, cpu = time.perf_counter() - begin, server.cpu() - cpu
        percentiles = statistics.quantiles(took, n=100)
        return {
            "p50_us": percentiles[49] * 1e6,
            "p99_us": percentiles[98] * 1e6,
            "jobs_per_s": count / seconds,
            "server_cpu_us": cpu / count * 1e6,
        }


def throughput(count: int, in_flight: int, server: Server) -> Metrics:
    """Run many jobs at a time, on one connection."""
    with server.connect() as session:
        submissions = [session.submission("echo", {"x": 1}) for _ in range(count)]
        cpu, start = server.cpu(), session.expect()
        run_jobs(session, submissions, in_flight)
        seconds, cpu = time.perf_counter() - start, server.cpu() - cpu
        return {"jobs_per_s": count / seconds, "server_cpu_us": cpu / count * 1e6}


def _in_flight(jobs: int) -> Case:
    return Case(f"{jobs} in flight", serving(), partial(throughput, 2_048, jobs))


SCENARIO = Scenario(
    "b",
    "jobs",
    "from a submit to its result",
    [Case("one after the other", serving(), partial(latency, 1_000)), _in_flight(64), _in_flight(1_024)],
)
