"""(c) Events of one job to its submitter and to many observers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from ..case import Case, Metrics, Scenario
from ..load import Session, until_all
from ..process import Server, serving

_gates = itertools.count(1)


class Audience(NamedTuple):
    """A job that waits at its gate, and all sessions that receive its events."""

    owner: Session
    observers: list[Session]
    keeper: Session
    gate: str

    @property
    def everybody(self) -> list[Session]:
        """All sessions that receive the events, the submitter's first."""
        return [self.owner, *self.observers]

    def begin(self) -> float:
        """Open the gate; return the time."""
        for session in self.everybody:
            session.expect()
        start = time.perf_counter()
        self.keeper.submit("open_gate", {"gate": self.gate})
        return start


@contextmanager
def audience(server: Server, observers: int, agent: str, **input: object) -> Iterator[Audience]:
    """Connect the submitter, the observers, and the session that opens the gate."""
    with ExitStack() as stack:
        owner, keeper, *others = (stack.enter_context(server.connect()) for _ in range(observers + 2))
        gate = f"gate {next(_gates)}"
        job = owner.start(agent, {**input, "gate": gate})
        for observer in others:
            observer.observe(job)
        yield Audience(owner, others, keeper, gate)


def fan_out(observers: int, suspend: bool, server: Server) -> Metrics:
    """Measure the deliveries of all events of one job to its submitter and observers."""
    events = max(50, 20_000 // (observers + 1))
    deliveries = events * (observers + 1)
    with audience(server, observers, "emit", n=events, suspend=suspend) as seen_by:
        cpu, start = server.cpu(), seen_by.begin()
        until_all(seen_by.everybody, "job.result")
        seconds, cpu = time.perf_counter() - start, server.cpu() - cpu
        received = sum(session.events for session in seen_by.everybody)
        if received != deliveries:
            raise AssertionError(f"{received} of {deliveries} events have come")
        return {
            "server_cpu_us": cpu / deliveries * 1e6,
            "deliveries_per_s": deliveries / seconds,
            "slowest_first_event_ms": max(s.first_event_at - start for s in seen_by.everybody) * 1e3,
        }


def _case(observers: int, suspend: bool) -> Case:
    name = f"{observers} observers{', suspending' if suspend else ''}"
    quick = observers == 100 or (observers == 10 and not suspend)
    return Case(name, serving(), partial(fan_out, observers, suspend), quick, observers <= 100)


SCENARIO = Scenario(
    "c",
    "observers",
    "fan-out",
    [_case(observers, suspend) for suspend in (False, True) for observers in (1, 10, 100, 1_000)],
)
