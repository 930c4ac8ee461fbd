"""A run with real runtimes: clients and agents of each shard on nodes that pause, die, and start again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import msgspec

from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import MILLISECOND, SECOND

from .. import plan as plans
from ..broken import Broken
from ..plan import NUMBERS, Actor, Move, Plan
from .cluster import Cluster
from .play import Result
from .shard_world import GUEST, GUEST_RIGHTS, ShardWorld

SHARDS: Final = 4
INPUTS: Final = 60
"""The number of moves of the clients and agents of one shard."""
FAULTS: Final = 12
"""The number of faults of nodes and of the store in one run."""
KINDS: Final = (
    *("die", "die", "restart", "pause", "pause", "resume", "resume", "cut", "join", "drain"),
    *("outage", "late", "slow", "start", "start", "fail_over"),
)
GUEST_MOVES: Final = ("subscribe", "subscribe", "watch_other", "watch_other", "page", "observers")
"""The kinds of moves that come more often with a guest."""
BEFORE_HEALED: Final = 8 * SECOND
"""The time in which owners that live heal what a failover has lost: some beats, and a slow store."""


def play(seed: int, note: Callable[[str], None] | None = None) -> Result:
    """Run the seed. An error that a state machine raises is a failure too."""
    dice = random.Random(seed)
    cluster = Cluster(seed, nodes=dice.choice((2, 3)), shards=SHARDS, note=note)
    name = message = ""
    try:
        for shard in range(SHARDS):
            plan = plans.draw(seed * SHARDS + shard, INPUTS, authority=False)
            if dice.random() < 0.5:
                plan = _with_guest(plan, random.Random(f"guest {seed} {shard}"))
            cluster.worlds.append(ShardWorld(cluster, shard, plan))
        _run(cluster, dice)
    except Broken as broken:
        name, message = broken.name, str(broken)
    except (Exception, InvariantViolated) as error:
        name, message = type(error).__name__, repr(error)
        if note is not None:
            raise
    counts = dict(cluster.counts)
    for world in cluster.worlds:
        for key, value in world.counts.items():
            counts[key] = counts.get(key, 0) + value
    digest = cluster.digest + "".join(world.digest for world in cluster.worlds)
    return Result(name, message, digest, counts)


def _with_guest(plan: Plan, dice: random.Random) -> Plan:
    """Return the plan with a guest, moves of it, and moves that change its rights."""
    options = plan.options
    features = options.cast[0].features
    guest = Actor(principal=GUEST, guest=True, stores=dice.random() < 0.5, features=features)
    observers = {**options.observers, **({GUEST: GUEST_RIGHTS} if dice.random() < 0.8 else {})}
    options = msgspec.structs.replace(options, cast=(*options.cast, guest), observers=observers)
    moves = []
    for move in plan.moves:
        moves.append(move)
        if dice.random() < 0.25:
            kind = dice.choice(GUEST_MOVES)
            moves.append(Move(0, kind, *(dice.randrange(NUMBERS) for _ in range(3))))
    return Plan(options, tuple(moves))


def _run(cluster: Cluster, dice: random.Random) -> None:
    if dice.random() < 0.3:
        cluster.nodes[-1].record_version = 2
    for node in cluster.nodes:
        node.start()
    cluster.run(8 * SECOND)
    for world in cluster.worlds:
        world.begin()
    for _ in range(FAULTS):
        cluster.run(dice.randrange(4_000) * MILLISECOND)
        _fault(cluster, dice)
    cluster.run(max(0, max(world.ends_at for world in cluster.worlds) - cluster.now))
    cluster.heal()
    cluster.run(5 * cluster.lease)
    for world in cluster.worlds:
        world.heal_all()
    cluster.settle()


def _fault(cluster: Cluster, dice: random.Random) -> None:
    node, store, kind = dice.choice(cluster.nodes), cluster.store, dice.choice(KINDS)
    cluster.note("fault", f"{kind} {node.name}")
    match kind:
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
            node.cut_off(kind == "cut")
        case "drain":
            node.drain(dice.randrange(20))
        case "outage":
            store.down = True
            cluster.run(dice.randrange(15_000) * MILLISECOND)
            store.down = False
        case "late":
            store.late, store.loses = dice.choice(((0, 0), (5, 5)))
        case "slow":
            store.latency = dice.choice((0, 20, 400)) * MILLISECOND
        case "fail_over":
            _fail_over(cluster, dice, dice.randrange(40), dice.randrange(4))


def _fail_over(cluster: Cluster, dice: random.Random, behind: int, again: int) -> None:
    """Let a standby take over that lacks records of owners that are well, and let these heal what is lost.

    Without its owner such a record is lost for good, as the documentation says, and the judge knows of no
    durable record that is lost. So nothing else goes wrong before all is healed.
    """
    store, trouble = cluster.store, (cluster.store.late, cluster.store.loses)
    services = [world.service for world in cluster.worlds]
    if any(service is None or not service.serves for service in services):
        return
    store.late = store.loses = 0
    cluster.fail_over(min(behind, store.table.commits_without_claims()))
    if again < 2:
        # A heal is several statements: the store fails over, or its node pauses, between two of them.
        cluster.run(dice.randrange(2_000) * MILLISECOND)
        node = dice.choice(cluster.nodes)
        if again and not node.paused:
            node.pause()
            cluster.run(dice.randrange(cluster.lease // 2))
            node.resume()
        elif not again:
            cluster.fail_over(min(1 + dice.randrange(8), store.table.commits_without_claims()), again=True)
    cluster.run(BEFORE_HEALED)
    store.late, store.loses = trouble
