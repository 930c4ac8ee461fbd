"""The checks of the simulated clusters find every planted bug in a few seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from arcp_io.cluster import ownership
from arcp_io.cluster.lane import Batch, Lane
from arcp_io.cluster.ownership import Ownership
from arcp_io.journal.rows import Row as JournalRow
from arcp_proto.ids import MILLISECOND, SECOND
from arcp_proto.server.journal.records import Record
from arcp_proto.server.sessions import guests, handshake
from arcp_proto.server.state import RuntimeState
from arcp_proto.wire.first import token_prefix
from arcp_proto.wire.messages import Resume

from ..agents import Agents
from ..broken import Broken
from ..host import ServerEnd
from . import runtimes, writer
from .cluster import Cluster
from .play import draw, play
from .shard_world import ShardEnd, ShardJournal, ShardWorld
from .table import Fence, Table
from .writer import Snapshot

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


def a_snapshot_stands_without_all_of_its_rows(patch: Patch) -> None:
    """Plant a bug: a snapshot replaces records without a look whether a failover has lost rows of it."""
    patch.setattr(Table, "_has_rows", lambda *_: True)


def a_row_has_records_on_both_sides_of_a_snapshot(patch: Patch) -> None:
    """Plant a bug: a row of records does not end where a snapshot begins to stand for them."""
    original = Lane.take

    def take(lane: Lane) -> list[Batch]:
        lane.cut = -1
        return original(lane)

    patch.setattr(Lane, "take", take)


class Row(NamedTuple):
    """A bug, the first seed that is tried, and the invariants that may find it."""

    bug: Callable[[Patch], None]
    seed: int
    found_by: tuple[str, ...]


ROWS: Final = (
    Row(no_fence, 4, ("C1", "C2")),
    Row(fence_without_next, 4, ("C2",)),
    Row(watch_through_an_outage, 31, ("C5",)),
    Row(sent_before_persisted, 5, ("C4", "C8")),
    Row(hold_left_out, 25, ("C6",)),
    Row(claims_without_a_row, 4_264, ("C5",)),
    Row(a_snapshot_stands_without_all_of_its_rows, 59, ("C2",)),
    Row(a_row_has_records_on_both_sides_of_a_snapshot, 3, ("C2",)),
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
            wake_while_claimed(10, silence)


@pytest.mark.parametrize("silence", SILENCES)
def test_an_owner_that_wakes_while_its_shards_are_claimed_does_not_act_beside_another(silence: int) -> None:
    wake_while_claimed(10, silence)
    wake_while_claimed(16, silence)


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


def heal_while_an_append_is_late(seed: int) -> None:
    """Let a failover lose a row of records whose append was sent twice, and heal the shard meanwhile."""
    cluster = Cluster(seed, nodes=1)
    cluster.nodes[0].start()
    cluster.run(8 * SECOND)
    for _ in range(3):
        cluster.store.late, cluster.store.loses = 50, 30
        cluster.run(4 * SECOND)
        cluster.fail_over(min(6, cluster.store.table.commits_without_claims()), again=True)
        cluster.store.late = 20
        cluster.run(6 * SECOND)
    cluster.settle()


def test_the_judge_finds_a_fence_without_the_epoch(monkeypatch: Patch) -> None:
    fence_without_epoch(monkeypatch)
    with pytest.raises(Broken, match="C1"):
        for seed in range(28, 28 + MOST_SEEDS):
            heal_while_an_append_is_late(seed)


@pytest.mark.parametrize("seed", range(28, 32))
def test_an_append_that_comes_late_is_not_carried_out_after_a_heal(seed: int) -> None:
    heal_while_an_append_is_late(seed)


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
    """Plant a bug: the rows of a snapshot that heals leave out the last record."""
    original = writer._rows_of

    def rows_of(snapshot: Snapshot) -> list[JournalRow]:
        datas = snapshot.datas[:-1] if snapshot.heals else snapshot.datas
        return original(snapshot._replace(datas=datas))

    patch.setattr(writer, "_rows_of", rows_of)


def token_of_another_label(patch: Patch) -> None:
    """Accept the resume token of a session also with the label of another shard."""

    def own(state: RuntimeState, resume: Resume) -> Resume:
        secret = resume.resume_token.rpartition(".")[2]
        return msgspec.structs.replace(resume, resume_token=token_prefix(state.config.label) + secret)

    find, go_on = handshake._find, handshake._resume
    patch.setattr(handshake, "_find", lambda state, resume: find(state, own(state, resume)))
    patch.setattr(
        handshake,
        "_resume",
        lambda state, pending, resume, principal: go_on(state, pending, own(state, resume), principal),
    )


def a_guest_keeps_its_session(patch: Patch) -> None:
    """Leave the sessions of a guest as they are when it loses its rights."""
    patch.setattr(guests, "revoke", lambda _: None)


WITH_RUNTIMES: Final = (
    Row(runtime_sends_before_persisted, 0, ("I3",)),
    Row(runtime_begins_with_half_of_its_records, 0, ("I1", "I2", "codes")),
    Row(runtime_acts_while_it_may_not, 0, ("C6",)),
    Row(no_fence, 0, ("C1", "C2")),
    Row(fence_without_next, 0, ("C2",)),
    Row(watch_through_an_outage, 14, ("C5",)),
    Row(hold_left_out, 5, ("C6",)),
    Row(agents_wait_for_ever, 2, ("I10",)),
    Row(heal_without_the_last_record, 0, ("C3",)),
    Row(token_of_another_label, 16, ("I9", "codes")),
    Row(a_guest_keeps_its_session, 0, ("I9",)),
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
