"""Cases of scenarios, and the implementations on which they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, NamedTuple


class Implementation(StrEnum):
    """An implementation, and the event loop that it runs on."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"
    TRIO = "trio"
    PEER = "peer"
    """The package agentruntimecontrolprotocol of PyPI, in an environment of its own, on asyncio."""
    FLOOR = "floor"
    """Codec, framing and writing alone, on asyncio (see `servers.floor`)."""


ALL = tuple(Implementation)
OURS = (Implementation.ASYNCIO, Implementation.UVLOOP, Implementation.TRIO)
ONE_LOOP = (Implementation.ASYNCIO, Implementation.PEER, Implementation.FLOOR)
"""The implementations of a case without an event loop: the column of asyncio shows arcp-io."""

Metrics = dict[str, float]
"""Values by name: `…_us`, `…_ms`, `…_kb`, `…_mb`, `…_percent`, or `…_per_s`, of which more is better."""


class Case(NamedTuple):
    """A case of a scenario, which yields one row for each metric and implementation."""

    name: str
    open: Callable[[Implementation], AbstractContextManager[Any]]
    """Opens the subject of the case, once; each repetition passes it to `measure`."""
    measure: Callable[[Any], Metrics]
    quick: bool = True
    """Whether a quick run includes the case."""
    quick_peer: bool = True
    """Whether a quick run includes the peer, which then takes less than 5 s."""
    implementations: Iterable[Implementation] = ALL
    repetitions: int | None = None
    """The number of repetitions in place of that of the run, for a metric that is exact, or takes long."""


class Scenario(NamedTuple):
    """Cases that measure the same aspect."""

    letter: str
    name: str
    title: str
    cases: Iterable[Case]


class Row(NamedTuple):
    """One figure of the report; its ratios are this value over that of the other implementation."""

    scenario: str
    case: str
    implementation: Implementation
    metric: str
    value: float
    spread: tuple[float, float]
    ratio_to_peer: float | None
    ratio_to_floor: float | None


def more_is_better(metric: str) -> bool:
    """Return whether a metric is a rate."""
    return metric.endswith("_per_s")
