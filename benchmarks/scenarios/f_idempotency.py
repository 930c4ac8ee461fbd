"""(f) Submits with idempotency keys, all different: the cost of a job beside few and many kept keys."""

from __future__ import annotations

from functools import partial

from ..case import Case, Implementation, Metrics, Scenario
from ..load import run_jobs
from ..process import anew, serving

IN_FLIGHT = 64


def keys(count: int, implementation: Implementation) -> Metrics:
    """Measure the CPU of a job in the first and in the last quarter."""
    with serving()(implementation) as server, server.connect() as session:
        quarters = []
        for quarter in range(4):
            numbers = range(quarter * count // 4, (quarter + 1) * count // 4)
            submissions = [
                session.submission("echo", {"x": 1}, idempotency_key=f"key {number}") for number in numbers
            ]
            cpu = server.cpu()
            run_jobs(session, submissions, IN_FLIGHT)
            quarters.append((server.cpu() - cpu) / len(numbers) * 1e6)
    return {
        "first_quarter_cpu_us": quarters[0],
        "last_quarter_cpu_us": quarters[-1],
        "last_over_first": quarters[-1] / quarters[0],
    }


def _case(count: int) -> Case:
    return Case(
        f"{count} keys",
        anew,
        partial(keys, count),
        quick=count == 16_000,
        quick_peer=False,
        repetitions=2,
    )


SCENARIO = Scenario(
    "f", "idempotency", "submits with keys", [_case(count) for count in (1_000, 4_000, 16_000, 64_000)]
)
