"""The checks of the simulated clusters find every planted bug in a few seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import pytest

from arcp_io.cluster import ownership
from arcp_io.cluster.decisions import Heal
from arcp_io.cluster.ownership import Ownership
from arcp_proto.ids import MILLISECOND, SECOND
from arcp_proto.server.journal.records import Record

from ..agents import Agents
from ..broken import Broken
from ..host import ServerEnd
from . import runtimes
from .cluster import Cluster
from .play import draw, play
from .shard_world import ShardEnd, ShardJournal, ShardWorld
from .table import Entry, Fence, Table

Patch = pytest.MonkeyPatch
MOST_SEEDS: Final = 60
"""The most seeds of one bug; each row begins with a seed that finds it at present."""


def fence(patch: Patch, **conditions: bool) -> None:
    """Leave out some conditions of every append."""
    original = Table.__init__

    def begin(table: Table, shards: int) -> None:
        original(table, shards)
        table.fence = Fence(**conditions)

    patch.setattr(Table, "__init__", begin)


def no_fence(patch: Patch) -> None:
    """Let every node append at every place."""
    fence(patch, epoch=False, node=False, next=False)


def fence_without_epoch(patch: Patch) -> None:
    """Let a node append that has owned the shard under an earlier epoch."""
    fence(patch, epoch=False)


def fence_without_node(patch: Patch) -> None:
    """Let a node append whose claim of this epoch the store has lost."""
    fence(patch, node=False)


def fence_without_next(patch: Patch) -> None:
    """Carry out an append twice that was sent again."""
    fence(patch, next=False)


def watch_through_an_outage(patch: Patch) -> None:
    """Count failed and late polls of a node as silence of others."""
    patch.setattr(Ownership, "missed", lambda _: None)
    patch.setattr(ownership, "LATE", 10**6)


def sent_before_persisted(patch: Patch) -> None:
    """Tell readers of a record before it is durable."""
    original = Cluster.__init__

    def begin(cluster: Cluster, *arguments: Any, **options: Any) -> None:
        original(cluster, *arguments, **options)
        cluster.tells_at_once = True

    patch.setattr(Cluster, "__init__", begin)


def hold_left_out(patch: Patch) -> None:
    """Let a node act without regard to the answers to its beats."""

    def may_act(owns: Ownership, now: int, shard: int | None = None) -> bool:
        return shard is None or shard in owns._held

    patch.setattr(Ownership, "may_act", may_act)


def claims_without_a_row(patch: Patch) -> None:
    """Let a node claim and heal shards without a row, so that no other node can watch it."""
    patch.setattr(Table, "_may_claim", lambda table, _, *watched: table._stands_still(*watched))


class Row(NamedTuple):
    """A bug, the first seed that is tried, and the invariants that may find it."""

    bug: Callable[[Patch], None]
    seed: int
    found_by: tuple[str, ...]


ROWS: Final = (
    Row(no_fence, 0, ("C1", "C2")),
    Row(fence_without_epoch, 120, ("C1", "C2")),
    Row(fence_without_next, 0, ("C2",)),
    Row(watch_through_an_outage, 15, ("C5",)),
    Row(sent_before_persisted, 0, ("C4", "C8")),
    Row(hold_left_out, 4, ("C6",)),
    Row(claims_without_a_row, 4_264, ("C5",)),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.bug.__name__)
def test_the_judge_finds(row: Row, monkeypatch: Patch) -> None:
    row.bug(monkeypatch)
    results = (play(draw(seed)) for seed in range(row.seed, row.seed + MOST_SEEDS))
    found = next((result.name for result in results if result.name), None)
    assert found in row.found_by


SILENCES: Final = range(4_500, 8_001, 250)
"""Milliseconds of silence of an owner: about a lease, or longer since polls are late."""


def wake_while_claimed(seed: int, silence: int) -> None:
    """Let an owner wake up while claims of its shards are late."""
    cluster = Cluster(seed, nodes=2)
    for node in cluster.nodes:
        node.start()
    cluster.run(20 * SECOND)
    cluster.nodes[0].pause()
    cluster.store.late = 60
    cluster.run(silence * MILLISECOND)
    cluster.nodes[0].resume()
    cluster.store.late = 20
    cluster.run(10 * SECOND)
    cluster.settle()


def test_the_judge_finds_a_claim_that_does_not_look_at_the_beat(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Table, "_stands_still", lambda *_: True)
    with pytest.raises(Broken, match="C6"):
        for silence in SILENCES:
            wake_while_claimed(9, silence)


@pytest.mark.parametrize("silence", SILENCES)
def test_an_owner_that_wakes_while_its_shards_are_claimed_does_not_act_beside_another(silence: int) -> None:
    wake_while_claimed(9, silence)
    wake_while_claimed(19, silence)


def claim_an_epoch_twice(seed: int) -> None:
    """Let a failover lose the first claims of a store, so that others claim the shards under their epochs."""
    cluster = Cluster(seed)
    for node in cluster.nodes:
        node.start()
    while "Claim" not in cluster.counts:
        cluster.run(MILLISECOND)
    cluster.run(40 * MILLISECOND)
    cluster.fail_over(4)
    cluster.run(3 * SECOND)
    cluster.settle()


def test_the_judge_finds_a_fence_without_the_node(monkeypatch: Patch) -> None:
    fence_without_node(monkeypatch)
    with pytest.raises(Broken, match="C1"):
        for seed in range(30, 100):
            claim_an_epoch_twice(seed)


@pytest.mark.parametrize("seed", range(30, 34))
def test_an_epoch_that_two_nodes_have_claimed_is_that_of_one(seed: int) -> None:
    claim_an_epoch_twice(seed)


def runtime_sends_before_persisted(patch: Patch) -> None:
    """Tell a runtime that its records are durable when they are made."""
    original = ShardJournal.append

    def append(journal: ShardJournal, records: Sequence[Record]) -> None:
        original(journal, records)
        journal._world.host.runtime.persisted(journal.appended, now=journal._world.host.now)

    patch.setattr(ShardJournal, "append", append)


def runtime_begins_with_half_of_its_records(patch: Patch) -> None:
    """Restore a shard from the first half of the records that its owner has read."""
    original = ShardJournal.records

    def records(journal: ShardJournal) -> list[Record]:
        found = original(journal)
        return found[: len(found) // 2]

    patch.setattr(ShardJournal, "records", records)


def runtime_acts_while_it_may_not(patch: Patch) -> None:
    """Deliver messages to a runtime whose node may not act."""
    patch.setattr(ShardWorld, "when_thawed", lambda _, what, *arguments: what(*arguments))
    patch.setattr(ShardEnd, "takes", ServerEnd.takes)


def agents_wait_for_ever(patch: Patch) -> None:
    """Never tell an agent that waits for a transport or the journal to go on."""
    original = Agents.pause

    def pause(agents: Agents, job_id: str, paused: bool) -> None:
        if paused:
            original(agents, job_id, paused)

    patch.setattr(Agents, "pause", pause)


def heal_without_the_last_record(patch: Patch) -> None:
    """Plant a bug: a heal leaves out the last record."""
    original = Table.heal

    def heal(table: Table, me: str, order: Heal, above: int, entries: Sequence[Entry], version: int) -> Any:
        return original(table, me, order, above, entries[:-1], version)

    patch.setattr(Table, "heal", heal)


WITH_RUNTIMES: Final = (
    Row(runtime_sends_before_persisted, 0, ("I3",)),
    Row(runtime_begins_with_half_of_its_records, 0, ("I1", "codes")),
    Row(runtime_acts_while_it_may_not, 0, ("C6",)),
    Row(no_fence, 0, ("C1", "C2")),
    Row(fence_without_next, 0, ("C2",)),
    Row(watch_through_an_outage, 44, ("C5",)),
    Row(hold_left_out, 3, ("C6",)),
    Row(agents_wait_for_ever, 0, ("I10",)),
    Row(heal_without_the_last_record, 0, ("C4",)),
)


@pytest.mark.parametrize("row", WITH_RUNTIMES, ids=lambda row: row.bug.__name__)
def test_runs_with_runtimes_find(row: Row, monkeypatch: Patch) -> None:
    row.bug(monkeypatch)
    results = (runtimes.play(seed) for seed in range(row.seed, row.seed + MOST_SEEDS))
    found = next((result.name for result in results if result.name), None)
    assert found in row.found_by


@pytest.mark.parametrize("seed", sorted({row.seed for row in ROWS}))
def test_without_a_bug_nothing_is_found(seed: int) -> None:
    assert play(draw(seed)).message == ""
