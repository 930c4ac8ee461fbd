"""The table of targets: the bounds that figures must keep and should reach, and the verdicts on figures."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from .case import Implementation
from .figures import Figures
from .table import number

ASYNCIO, TRIO, PEER, FLOOR = (
    Implementation.ASYNCIO,
    Implementation.TRIO,
    Implementation.PEER,
    Implementation.FLOOR,
)


class To(Enum):
    """The reference of a target, with which its value is compared."""

    PEER = "of the peer"
    FLOOR = "of the floor"
    ASYNCIO = "of asyncio"
    REFERENCE = ""
    """An absolute figure of the machine of the targets. The figure of another machine is divided by the
    factor by which that machine is slower: the ratio of the peer's figures of this case where both are known,
    else the scale of the run."""
    PLAIN = " "
    """An absolute figure that does not depend on the speed of the machine."""
    CASE = "of the other case"


class Target(NamedTuple):
    """A bound of one figure: the lower limit if `least`, else the upper limit."""

    scenario: str
    case: str
    metric: str
    implementation: Implementation
    to: To
    must: float
    aim: float
    least: bool = False
    other_case: str = ""
    peer: float | None = None
    """The peer's figure on the machine of the targets."""


class Verdict(NamedTuple):
    """The verdict on one figure: whether it holds its target, and reaches the aim."""

    target: Target
    value: float
    holds: bool
    reaches_aim: bool

    @property
    def text(self) -> str:
        """Return the measured value beside the target."""
        target = self.target
        sign = "≥" if target.least else "≤"
        against = f" to {target.other_case}" if target.to is To.CASE else f" {target.to.value}".rstrip()
        return (
            f"{target.scenario} {target.case}, {target.metric}, {target.implementation}: {number(self.value)}"
            f"{against} (must {sign} {number(target.must)}, aim {number(target.aim)})"
        )

    def __str__(self) -> str:
        word = "aim" if self.reaches_aim else "held" if self.holds else "MISSED"
        return f"{word:7}{self.text}"


ONE_NODE, GATEWAY, MORE_NODES = "one node beside SQLite FULL", "a gateway", "1, 2 and 4 nodes"
IDLE_NODE, RESTORE = "an idle node", "restore"
BURST = "burst n=20000"
SUSPENDING = "suspending n=20000"
TARGETS: Final[tuple[Target, ...]] = (
    Target("a", BURST, "server_cpu_us", ASYNCIO, To.PEER, 1 / 9, 1 / 13),
    Target("a", BURST, "server_cpu_us", ASYNCIO, To.FLOOR, 2, 1.5),
    Target("a", BURST, "server_cpu_us", TRIO, To.ASYNCIO, 1.3, 1.15),
    Target("a", SUSPENDING, "server_cpu_us", ASYNCIO, To.PEER, 1 / 6, 1 / 12),
    Target("a", SUSPENDING, "server_cpu_us", TRIO, To.PEER, 1 / 4.5, 1 / 9),
    *(
        Target("a", f"burst n={count}", "first_event_ms", name, To.REFERENCE, 2, 0.5, peer=peer)
        for count, peer in ((1_000, None), (20_000, 223), (100_000, None))
        for name in (ASYNCIO, TRIO)
    ),
    Target("b", "one after the other", "p50_us", ASYNCIO, To.PEER, 0.6, 0.5),
    Target("b", "one after the other", "p50_us", TRIO, To.PEER, 0.7, 0.5),
    Target("b", "64 in flight", "server_cpu_us", ASYNCIO, To.PEER, 28 / 75, 20 / 75),
    Target("b", "64 in flight", "server_cpu_us", TRIO, To.PEER, 28 / 75, 20 / 75),
    Target("c", "100 observers", "server_cpu_us", ASYNCIO, To.PEER, 1 / 15, 1 / 30),
    Target("c", "100 observers", "server_cpu_us", TRIO, To.PEER, 1 / 11, 1 / 30),
    Target("c", "100 observers, suspending", "server_cpu_us", ASYNCIO, To.PEER, 1 / 10, 1 / 35),
    Target("c", "100 observers, suspending", "server_cpu_us", TRIO, To.PEER, 1 / 5, 1 / 35),
    *(Target("d", "n=10000", "replay_ms", name, To.REFERENCE, 25, 6, peer=490) for name in (ASYNCIO, TRIO)),
    Target("d", "n=40000", "replay_ms", ASYNCIO, To.CASE, 4.5, 4, other_case="n=10000"),
    Target("e", "10000 jobs", "server_cpu_ms", ASYNCIO, To.REFERENCE, 0.3, 0.1, peer=6.3),
    Target("e", "10000 jobs", "server_cpu_ms", ASYNCIO, To.CASE, 1.5, 1.1, other_case="100 jobs"),
    Target("e", "100000 jobs", "server_cpu_ms", ASYNCIO, To.CASE, 1.5, 1.1, other_case="100 jobs"),
    Target("f", "16000 keys", "last_over_first", ASYNCIO, To.PLAIN, 1.2, 1.1),
    Target("g", "500 idle sessions", "session_kb", ASYNCIO, To.PLAIN, 12, 5),
    Target("g", "500 idle sessions", "session_kb", TRIO, To.PLAIN, 22, 8),
    Target("g", "20000 buffered events", "event_kb", ASYNCIO, To.PLAIN, 0.45, 0.25),
    Target("g", "5000 finished jobs", "finished_job_kb", ASYNCIO, To.PLAIN, 2, 1.4),
    Target("h", "client stalls 2 s", "grown_mb", ASYNCIO, To.PLAIN, 8, 5),
    Target("h", "client stalls 2 s", "grown_mb", TRIO, To.PLAIN, 8, 5),
    Target("h", "10 dead observers", "each_dead_cpu_us", ASYNCIO, To.REFERENCE, 0.1, 0.05),
    Target("h", "10 dead observers", "each_dead_kb", ASYNCIO, To.PLAIN, 0.01, 0.005),
    Target("h", "1 of 100 observers stalls", "stalled_over_all_reading", ASYNCIO, To.PLAIN, 1.1, 1.05),
    Target("i", "text, own client", "mb_per_s", ASYNCIO, To.PEER, 1.3, 1.6, least=True),
    Target("i", "text, load client", "peak_mb", ASYNCIO, To.PLAIN, 20, 5),
    Target("j", "receive n=20000", "client_cpu_us", ASYNCIO, To.PEER, 2.5 / 7.9, 1.5 / 7.9),
    Target("k", "burst n=20000", "events_per_s", ASYNCIO, To.PEER, 6, 11, least=True),
    Target("l", "normal n=5000", "events_per_s", ASYNCIO, To.PEER, 20, 50, least=True),
    Target("o", "import", "ms", ASYNCIO, To.REFERENCE, 60, 15, peer=119),
    Target("o", "start to first welcome", "ms", ASYNCIO, To.PEER, 0.7, 0.6),
    Target("o", "--version", "ms", ASYNCIO, To.REFERENCE, 60, 15, peer=168),
    *(
        target
        for name in (ASYNCIO, TRIO)
        for target in (
            Target("p", MORE_NODES, "nodes_2_over_1", name, To.PLAIN, 1.15, 1.05),
            Target("p", MORE_NODES, "nodes_4_over_1", name, To.PLAIN, 1.15, 1.05),
            Target("p", MORE_NODES, "nodes_2_speed_over_1", name, To.PLAIN, 1.8, 1.9, least=True),
            Target("p", MORE_NODES, "nodes_4_speed_over_1", name, To.PLAIN, 3.4, 3.7, least=True),
            Target("p", ONE_NODE, "postgres_over_sqlite", name, To.PLAIN, 1.2, 1),
            Target("p", GATEWAY, "relayed_gateway_cpu_us", name, To.REFERENCE, 1, 0.5),
            Target("p", GATEWAY, "added_request_ms", name, To.REFERENCE, 0.3, 0.1),
            Target("p", IDLE_NODE, "memory_mb", name, To.PLAIN, 16, 8),
            Target("p", IDLE_NODE, "cpu_percent", name, To.REFERENCE, 1, 0.2),
            Target("p", RESTORE, "ms_of_100k_records", name, To.REFERENCE, 2_000, 630),
        )
    ),
)
"""Targets are ratios wherever a ratio exists. An aim of our own stands where none was asked for, and where
the figures have passed the aim that was asked for, such as 50 for the import and 1/15 for observers of an
agent that suspends: the aim is then the figure that was reached, or slightly beyond."""


Place = tuple[str, str, str, Implementation]


def verdicts(figures: Figures) -> list[Verdict]:
    """Return the verdict on every target whose figure was measured."""
    values = {(row.scenario, row.case, row.metric, row.implementation): row.value for row in figures.rows}
    scales, found = figures.scales(), []
    for target in TARGETS:
        value = _compared(target, values, scales.get(target.scenario, 1.0))
        if value is not None:
            found.append(
                Verdict(target, value, _holds(target, value, target.must), _holds(target, value, target.aim))
            )
    return found


def _compared(target: Target, values: Mapping[Place, float], scale: float) -> float | None:
    place = (target.scenario, target.case, target.metric)
    value = values.get((*place, target.implementation))
    if value is None:
        return None
    match target.to:
        case To.REFERENCE:
            peer = values.get((*place, PEER))
            return value / (peer / target.peer if peer and target.peer else scale)
        case To.PLAIN:
            return value
        case To.CASE:
            other = values.get((target.scenario, target.other_case, target.metric, target.implementation))
        case To.PEER:
            other = values.get((*place, PEER))
        case To.FLOOR:
            other = values.get((*place, FLOOR))
        case To.ASYNCIO:
            other = values.get((*place, ASYNCIO))
    return value / other if other else None


def _holds(target: Target, value: float, bound: float) -> bool:
    return value >= bound if target.least else value <= bound
