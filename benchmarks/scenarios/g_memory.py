"""(g) Memory of idle sessions, finished jobs and buffered events, and CPU of heartbeats."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from ..case import Case, Implementation, Metrics, Scenario
from ..load import Session, attend, run_jobs
from ..process import Server, anew, serving

KIB: Final = 1024
SETTLING: Final = 0.5
"""Seconds in which a server frees the memory that it has released."""
WITH_HEARTBEATS = (*(name for name in Implementation if name is not Implementation.FLOOR),)


@contextmanager
def _measured(implementation: Implementation) -> Iterator[tuple[Server, Session]]:
    with serving()(implementation) as server, server.connect() as session:
        run_jobs(session, [session.submission("echo", {"x": 1}) for _ in range(500)], 64)
        yield server, session


def _grown(server: Server, do: Callable[[], object]) -> float:
    """Return the KB by which the memory of the server grows, once it has settled."""
    time.sleep(SETTLING)
    before = server.memory()
    do()
    time.sleep(SETTLING)
    return (server.memory() - before) / KIB


def sessions(count: int, implementation: Implementation) -> Metrics:
    """Measure the KB of an idle session."""
    with ExitStack() as stack, _measured(implementation) as (server, _):

        def connect(sessions: int) -> None:
            for _ in range(sessions):
                stack.enter_context(server.connect())

        connect(20)
        return {"session_kb": _grown(server, partial(connect, count)) / count}


def finished_jobs(count: int, implementation: Implementation) -> Metrics:
    """Measure the KB of a finished job with its result, which the client has not acknowledged."""
    with _measured(implementation) as (server, session):
        submissions = [session.submission("echo", {"x": 1}) for _ in range(count)]
        return {"finished_job_kb": _grown(server, partial(run_jobs, session, submissions, 64)) / count}


def buffered_events(count: int, implementation: Implementation) -> Metrics:
    """Measure the KB of a buffered event, which the client has not acknowledged, and its size on the wire."""
    with _measured(implementation) as (server, session):

        def emit() -> None:
            session.submit("emit", {"n": count, "suspend": True})
            session.until("job.result")

        received = session.bytes_received
        grown = _grown(server, emit)
        wire = (session.bytes_received - received) / KIB
        return {"event_kb": grown / count, "wire_kb": wire / count}


def heartbeats(count: int, interval: int, rounds: int, implementation: Implementation) -> Metrics:
    """Measure the CPU of idle sessions, each with a ping and its pong every `interval` seconds."""
    with ExitStack() as stack, serving(heartbeat=interval)(implementation) as server:
        idle: list[Session] = []
        for number in range(count):
            idle.append(stack.enter_context(server.connect(features=("heartbeat",))))
            if number % 50 == 0:
                attend(idle, 0.0)
        attend(idle, SETTLING)
        cpu, seconds = server.cpu(), interval * rounds
        attend(idle, seconds)
        cpu = server.cpu() - cpu
        return {"cpu_percent": cpu / seconds * 100, "heartbeat_us": cpu / (count * rounds) * 1e6}


SCENARIO = Scenario(
    "g",
    "memory",
    "memory, and idle sessions",
    [
        Case("500 idle sessions", anew, partial(sessions, 500), repetitions=1),
        Case("5000 finished jobs", anew, partial(finished_jobs, 5_000), repetitions=1),
        Case("20000 buffered events", anew, partial(buffered_events, 20_000), repetitions=1),
        Case(
            "500 sessions, heartbeats every 3 s",
            anew,
            partial(heartbeats, 500, 3, 1),
            repetitions=1,
            implementations=WITH_HEARTBEATS,
        ),
        Case(
            "10000 sessions, heartbeats every 30 s",
            anew,
            partial(heartbeats, 10_000, 30, 1),
            quick=False,
            repetitions=1,
            implementations=WITH_HEARTBEATS,
        ),
    ],
)
