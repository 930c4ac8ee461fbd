"""What is measured: cases of scenarios, on implementations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, NamedTuple


class Implementation(StrEnum):
    """Whose code runs, and on which event loop."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"
    TRIO = "trio"
    PEER = "peer"
    """agentruntimecontrolprotocol of PyPI, in an environment of its own, on asyncio."""
    FLOOR = "floor"
    """What codec, framing and writing cost alone, on asyncio (see `servers.floor`)."""


ALL = tuple(Implementation)
OURS = (Implementation.ASYNCIO, Implementation.UVLOOP, Implementation.TRIO)
ONE_LOOP = (Implementation.ASYNCIO, Implementation.PEER, Implementation.FLOOR)
"""For what no event loop takes part in: ours stands in the column of asyncio."""

Metrics = dict[str, float]
"""Name to value: `…_us`, `…_ms`, `…_kb`, `…_mb`, `…_percent`, or `…_per_s`, of which more is better."""


class Case(NamedTuple):
    """One row of a scenario for each metric and implementation."""

    name: str
    open: Callable[[Implementation], AbstractContextManager[Any]]
    """Opens what is measured, once; `measure` is called with it at each repetition."""
    measure: Callable[[Any], Metrics]
    quick: bool = True
    """Part of a quick run."""
    quick_peer: bool = True
    """The peer is too: it takes it less than 5 s."""
    implementations: Iterable[Implementation] = ALL
    repetitions: int | None = None
    """Instead of those of the run, for what is exact, or long."""


class Scenario(NamedTuple):
    """Cases that show one thing."""

    letter: str
    name: str
    title: str
    cases: Iterable[Case]


class Row(NamedTuple):
    """One figure of the report; the ratios are this value over the other one."""

    scenario: str
    case: str
    implementation: Implementation
    metric: str
    value: float
    spread: tuple[float, float]
    ratio_to_peer: float | None
    ratio_to_floor: float | None


def more_is_better(metric: str) -> bool:
    """Whether a metric is a rate."""
    return metric.endswith("_per_s")
