"""The plan of a seed, and its run: moves one after another, and a time of rest at the end."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from arcp_proto.ids import MILLISECOND, SECOND

from ..broken import Broken
from .cluster import Cluster

MOVES: Final = 30
"""The number of moves of one run."""
WEIGHTS: Final = {
    "wait": 12,
    "start": 4,
    "die": 3,
    "restart": 3,
    "pause": 4,
    "resume": 5,
    "cut": 3,
    "join": 4,
    "drain": 2,
    "outage": 4,
    "late": 3,
    "slow": 2,
    "fail_over": 2,
    "busy": 3,
    "settle": 1,
    "alone": 1,
}
"""The weight of each kind of move."""


class Move(NamedTuple):
    """One step of a run: an action of this kind; three numbers make its choices."""

    kind: str
    a: int
    b: int
    c: int


class Plan(NamedTuple):
    """A run: its nodes, its shards and its moves."""

    seed: int
    nodes: int
    shards: int
    new_release: bool
    """Whether one node is of a release with a newer version of records."""
    moves: tuple[Move, ...]


class Result(NamedTuple):
    """The result of a run: `name` and `message` are empty if all checks hold."""

    name: str
    message: str
    digest: str
    counts: dict[str, int]


def draw(seed: int, moves: int = MOVES) -> Plan:
    """Draw the plan of a seed."""
    dice = random.Random(seed)
    kinds = dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=moves)
    return Plan(
        seed,
        nodes=dice.choice((2, 3, 3, 4)),
        shards=dice.choice((4, 4, 7)),
        new_release=dice.random() < 0.3,
        moves=tuple(Move(kind, *(dice.randrange(1 << 16) for _ in range(3))) for kind in kinds),
    )


def play(plan: Plan, note: Callable[[str], None] | None = None) -> Result:
    """Run a plan."""
    cluster = Cluster(plan.seed, nodes=plan.nodes, shards=plan.shards, note=note)
    name = message = ""
    try:
        if plan.new_release:
            cluster.nodes[-1].record_version = 2
        for node in cluster.nodes[1:]:
            node.start()
        for move in plan.moves:
            cluster.note("move", move)
            _carry_out(cluster, move)
        cluster.settle()
    except Broken as broken:
        name, message = broken.name, str(broken)
    return Result(name, message, cluster.digest, cluster.counts)


def trace_of(plan: Plan) -> str:
    """Return the events of a run as text, one a line."""
    text = io.StringIO()
    result = play(plan, lambda line: print(line, file=text))
    print(result.name, result.message, file=text)
    return text.getvalue()


def _carry_out(cluster: Cluster, move: Move) -> None:
    node, store = cluster.nodes[move.a % len(cluster.nodes)], cluster.store
    match move.kind:
        case "wait":
            cluster.run(move.b % 100 * SECOND // 10)
        case "start":
            node.start()
        case "die":
            node.die()
        case "restart":
            node.die()
            node.start()
        case "pause":
            node.pause()
        case "resume":
            node.resume()
        case "cut" | "join":
            node.cut_off(move.kind == "cut")
        case "drain":
            node.drain(move.b % 20)
        case "outage":
            store.down = True
            cluster.run(move.b % 300 * SECOND // 10)
            store.down = False
        case "late":
            store.late, store.loses = (0, 5, 30)[move.b % 3], (0, 5, 30)[move.c % 3]
        case "slow":
            store.latency = (0, 20, 400)[move.b % 3] * MILLISECOND
        case "fail_over":
            cluster.fail_over(1 + move.b % 40)
        case "busy":
            cluster.busy[move.b % cluster.shards] = bool(move.c % 2)
        case _:
            cluster.settle(alone=move.a % len(cluster.nodes) if move.kind == "alone" else None)
