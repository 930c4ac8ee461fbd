"""(j) The clients, all with the same server: arcp-io on asyncio, which sends many events at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from ..case import Case, Implementation, Metrics, Scenario
from ..client_process import run_client
from ..process import Server, serving


class Subject(NamedTuple):
    """A client, and the server that it connects to."""

    client: Implementation
    server: Server


@contextmanager
def facing_ours(client: Implementation) -> Iterator[Subject]:
    """Start a server of arcp-io on asyncio for one client."""
    with serving()(Implementation.ASYNCIO) as server:
        yield Subject(client, server)


def receive(count: int, subject: Subject) -> Metrics:
    """Iterate over the events of a job."""
    found = run_client(subject.client, task="events", port=subject.server.port, input={"n": count})
    if found["events"] != count:
        raise AssertionError(f"{found['events']} of {count} events have come")
    return {"client_cpu_us": found["cpu"] / count * 1e6, "events_per_s": count / found["seconds"]}


def jobs(count: int, subject: Subject) -> Metrics:
    """Submit jobs, and wait for each result before the next submit."""
    found = run_client(subject.client, task="jobs", port=subject.server.port, input=None, count=count)
    return {"client_cpu_us": found["cpu"] / count * 1e6, "p50_us": found["p50"] * 1e6}


SCENARIO = Scenario(
    "j",
    "clients",
    "what clients cost",
    [
        Case("receive n=20000", facing_ours, partial(receive, 20_000)),
        Case("jobs one after the other", facing_ours, partial(jobs, 500)),
    ],
)
