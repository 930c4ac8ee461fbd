"""The decisions of one node about the shards of a store, reading by reading."""

from __future__ import annotations

from typing import Final

import pytest

from arcp_io.cluster.decisions import Claim, Claimed, Decision, Forget, Heal, Lost, Release
from arcp_io.cluster.ownership import FORGOTTEN_AFTER, NO_ROW, Ownership
from arcp_io.cluster.rows import NodeRow, ShardRow
from arcp_proto import MILLISECOND, SECOND

LEASE: Final = 5 * SECOND
BEAT: Final = LEASE // 5


class Rows:
    """The rows of a store as a test writes them, and the node `me` that reads them."""

    def __init__(self, shards: int = 4, record_version: int = 1) -> None:
        self.now = 100 * SECOND
        self.nodes: dict[str, NodeRow] = {}
        self.shards = {shard: ShardRow(shard, 0, None, 0, 0, 0, 0) for shard in range(shards)}
        self.owns = Ownership("me", "here:1", shards=shards, lease=LEASE, record_version=record_version)
        self.node("me", "here:1")

    def node(self, node: str, address: str, *, beat: int = 1, draining: bool = False) -> None:
        self.nodes[node] = NodeRow(node, address, b"key", beat, draining, "1")

    def shard(self, shard: int, node: str | None, epoch: int = 1, record_version: int = 1) -> None:
        self.shards[shard] = ShardRow(shard, epoch, node, 0, 0, 0, record_version)

    def mine(self, *shards: int) -> None:
        for shard in shards:
            self.shard(shard, "me")
            self.owns.claimed(shard, 1, now=self.now)

    def beat(self, *nodes: str) -> None:
        for node in nodes:
            self.nodes[node] = self.nodes[node]._replace(beat=self.nodes[node].beat + 1)

    def read(
        self,
        wait: int = BEAT,
        idle: tuple[int, ...] = (),
        used: tuple[int, ...] = (),
        *,
        took: int = 0,
    ) -> list[Decision]:
        begun = self.now + wait
        self.now = begun + took
        return self.owns.seen(
            self.nodes.values(), self.shards.values(), begun=begun, now=self.now, idle=idle, used=used
        )

    def until_claims(self, *alive: str) -> list[Decision]:
        """Read a beat at a time, while some nodes are alive, until the node makes a decision."""
        for _ in range(30):
            self.beat(*alive)
            decisions = self.read()
            if decisions:
                return decisions
        return []


def claims(decisions: list[Decision]) -> list[int]:
    return sorted(decision.shard for decision in decisions if isinstance(decision, Claim))


# Claims.


def test_a_node_waits_for_a_lease_before_it_claims_shards_that_had_no_owner() -> None:
    rows = Rows()
    assert [claims(rows.read()) for _ in range(5)] == [[], [], [], [], []]
    assert claims(rows.read()) == [0, 1, 2, 3]


def test_a_free_shard_that_had_an_owner_is_claimed_at_once() -> None:
    rows = Rows()
    rows.shard(2, None, epoch=7)
    assert rows.read() == [Claim(2, 7, None, 0, "")]


def test_a_shard_of_a_node_without_row_is_claimed_at_once() -> None:
    rows = Rows()
    rows.shard(1, "gone", epoch=3)
    assert rows.read() == [Claim(1, 3, None, 0, "gone")]


def test_a_shard_of_a_silent_node_is_claimed_after_a_lease_with_its_beat_as_condition() -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1", beat=9)
    rows.shard(0, "other", epoch=3)
    first = rows.now + BEAT
    assert rows.until_claims() == [Claim(0, 3, "other", 9, "other")]
    assert rows.now - first == LEASE


def test_a_node_that_beats_keeps_its_shards() -> None:
    rows = Rows(shards=2)
    rows.node("other", "there:1")
    rows.shard(0, "other")
    rows.mine(1)
    assert rows.until_claims("other") == []


def test_a_failed_poll_begins_the_watch_anew() -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1")
    rows.shard(0, "other")
    for _ in range(4):
        assert rows.read() == []
    rows.owns.missed()
    again = rows.now + BEAT
    assert claims(rows.until_claims()) == [0]
    assert rows.now - again == LEASE


def test_a_late_poll_counts_as_one_beat_in_a_watch() -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1")
    rows.shard(0, "other")
    for _ in range(4):
        assert rows.read() == []
    assert rows.read(2 * BEAT + 1) == []
    assert rows.read() == [Claim(0, 1, "other", 1, "other")]


def test_a_store_that_is_always_slow_delays_a_claim_and_does_not_prevent_it() -> None:
    rows = Rows(shards=2)
    for node, shard in (("dead", 0), ("slow", 1)):
        rows.node(node, f"{node}:1")
        rows.shard(shard, node)
    rows.read(3 * BEAT)
    for number in range(4):
        if number % 2:
            rows.beat("slow")
        assert rows.read(3 * BEAT) == []
    assert rows.read(3 * BEAT) == [Claim(0, 1, "dead", 1, "dead")]


def test_a_beat_that_a_slow_poll_reads_is_watched_from_the_end_of_the_poll() -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1")
    rows.shard(0, "other")
    rows.now += BEAT
    assert rows.read(0, took=3 * BEAT) == []
    for _ in range(4):
        assert rows.read() == []
    assert rows.read() == [Claim(0, 1, "other", 1, "other")]


def test_a_poll_that_is_less_than_two_beats_apart_goes_on_with_the_watch() -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1")
    rows.shard(0, "other")
    rows.read()
    assert [claims(rows.read(2 * BEAT)) for _ in range(3)] == [[], [], [0]]


def test_a_node_that_starts_again_in_place_claims_its_shards_at_once() -> None:
    rows = Rows()
    rows.node("before", "here:1")
    rows.shard(0, "before", epoch=4)
    rows.shard(3, "before", epoch=2)
    assert sorted(rows.read()) == [Claim(0, 4, None, 0, "before"), Claim(3, 2, None, 0, "before")]


def test_a_live_node_with_the_same_address_keeps_its_shards() -> None:
    rows = Rows()
    rows.node("rival", "here:1")
    rows.shard(0, "rival", epoch=4)
    rows.read()
    rows.beat("rival")
    assert rows.read() == []
    rows.owns.missed()
    assert rows.read() == []


def test_a_shard_with_records_of_a_newer_version_is_not_claimed() -> None:
    rows = Rows(record_version=2)
    rows.shard(0, None, epoch=1, record_version=3)
    rows.shard(1, None, epoch=1, record_version=2)
    assert claims(rows.read()) == [1]


def test_the_next_poll_is_when_a_watch_is_over() -> None:
    rows = Rows()
    rows.node("other", "there:1")
    rows.shard(1, "other")
    rows.read()
    rows.now += BEAT // 2
    assert rows.read(0) == []
    assert rows.owns.next_poll == rows.now + BEAT
    for _ in range(4):
        rows.read()
    assert rows.owns.next_poll == rows.now + BEAT // 2


def test_a_claim_without_an_answer_is_found_in_the_rows() -> None:
    rows = Rows()
    rows.shard(2, None, epoch=7)
    assert rows.read() == [Claim(2, 7, None, 0, "")]
    rows.shard(2, "me", epoch=8)
    assert rows.read() == [Claimed(2, 8)]
    assert rows.owns.held == {2: 8}
    assert rows.read() == []


def test_a_reading_from_before_a_claim_does_not_speak_of_it() -> None:
    rows = Rows()
    rows.shard(2, None, epoch=7)
    begun = rows.now + BEAT
    rows.owns.claimed(2, 8, now=begun + 1)
    rows.now = begun
    assert rows.read(0) == []
    assert rows.owns.holds(2, 8)


# Hold.


def test_a_node_may_act_for_four_fifths_of_a_lease_from_the_begin_of_its_beat() -> None:
    rows = Rows()
    begun = rows.now
    assert not rows.owns.may_act(begun)
    rows.owns.seen(rows.nodes.values(), rows.shards.values(), begun=begun, now=begun + BEAT)
    assert rows.owns.may_act(begun + 4 * SECOND - 1)
    assert not rows.owns.may_act(begun + 4 * SECOND)


def test_a_node_without_row_acts_for_nothing_until_it_has_one_again() -> None:
    rows = Rows()
    rows.mine(0, 2)
    rows.read()
    del rows.nodes["me"]
    assert rows.read() == []
    assert not rows.owns.may_act(rows.now)
    assert not rows.owns.may_act(rows.now, 0)
    assert rows.owns.next_poll < rows.now
    rows.node("me", "here:1")
    assert rows.read() == []
    assert rows.owns.may_act(rows.now, 0)
    assert rows.owns.held == {0: 1, 2: 1}


def test_a_node_whose_row_was_lost_with_its_claims_heals_them() -> None:
    rows = Rows()
    rows.node("other", "there:1")
    rows.mine(0, 1, 2)
    rows.read()
    del rows.nodes["me"]
    rows.shard(0, None, epoch=0)
    rows.shard(1, "other", epoch=2)
    assert rows.read() == []
    rows.node("me", "here:1")
    assert rows.read() == [Heal(0, 0, None, 0), Lost(1)]
    assert not rows.owns.may_act(rows.now, 0)
    assert rows.owns.may_act(rows.now, 2)


# Shards that are lost, healed, released.


@pytest.mark.parametrize("owner", ["other", None])
def test_a_shard_with_a_later_epoch_is_lost(owner: str | None) -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1")
    rows.mine(0)
    rows.shard(0, owner, epoch=2)
    assert Lost(0) in rows.read()
    assert rows.owns.held == {}


def test_a_fenced_shard_is_not_held() -> None:
    rows = Rows()
    rows.mine(0, 1)
    rows.owns.fenced(0, 1)
    rows.owns.fenced(1, 7)
    assert rows.owns.held == {1: 1}


@pytest.mark.parametrize(("epoch", "owner"), [(0, None), (0, "me"), (1, None), (0, "gone")])
def test_a_shard_whose_claim_the_store_has_lost_is_healed(epoch: int, owner: str | None) -> None:
    rows = Rows()
    rows.mine(0)
    rows.shard(0, owner, epoch=epoch)
    assert rows.read() == [Heal(0, epoch, None, 0)]
    assert not rows.owns.may_act(rows.now, 0)
    rows.shard(0, "me", epoch=2)
    rows.owns.healed(0, 2, now=rows.now)
    assert rows.owns.may_act(rows.now, 0)
    assert rows.read() == []


def test_a_shard_that_the_store_gives_to_a_silent_node_is_healed_after_a_lease() -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1", beat=9)
    rows.mine(0)
    rows.shard(0, "other", epoch=0)
    assert rows.until_claims() == [Heal(0, 0, "other", 9)]


def test_a_shard_that_the_store_gives_to_a_live_node_is_lost() -> None:
    rows = Rows(shards=1)
    rows.node("other", "there:1")
    rows.mine(0)
    rows.shard(0, "other", epoch=0)
    assert rows.read() == []
    assert not rows.owns.may_act(rows.now, 0)
    rows.beat("other")
    assert rows.read() == [Lost(0)]


def test_a_shard_that_a_node_does_not_know_to_be_its_own_is_released() -> None:
    rows = Rows()
    rows.shard(0, "me", epoch=4)
    assert rows.read() == [Release(0, 4)]


def test_a_shard_that_cannot_be_restored_is_released_and_left_alone_for_longer_each_time() -> None:
    rows = Rows(shards=1)
    waits = []
    for epoch in (1, 2, 3):
        rows.shard(0, "me", epoch=epoch)
        rows.owns.claimed(0, epoch, now=rows.now)
        rows.owns.broken(0, now=rows.now)
        broken = rows.now
        assert rows.read() == [Release(0, epoch)]
        rows.shard(0, None, epoch=epoch)
        assert claims(rows.until_claims()) == [0]
        waits.append(rows.now - broken)
    assert waits == [LEASE, 2 * LEASE, 4 * LEASE]


def test_a_shard_that_leaves_is_released_by_readings_as_long_as_the_rows_name_this_node() -> None:
    rows = Rows()
    rows.mine(2)
    rows.read()
    rows.owns.leaves(2, now=rows.now)
    assert not rows.owns.holds(2, 1)
    assert Release(2, 1) in rows.read()
    rows.shard(2, None)
    assert claims(rows.read()) == [2]


def test_a_node_is_dead_after_a_lease_of_silence_until_its_beat_grows() -> None:
    rows = Rows()
    rows.node("other", "there:1", beat=7)
    assert rows.owns.dead_beat("other") is None
    rows.read()
    assert rows.owns.dead_beat("other") is None
    for _ in range(6):
        rows.read()
    assert rows.owns.dead_beat("other") == 7
    rows.beat("other")
    rows.read()
    assert rows.owns.dead_beat("other") is None
    del rows.nodes["other"]
    rows.read()
    assert rows.owns.dead_beat("other") == NO_ROW


def test_a_release_is_asked_for_until_the_rows_show_it() -> None:
    rows = Rows()
    rows.mine(0)
    rows.owns.drain()
    assert rows.read(idle=(0,)) == [Release(0, 1)]
    assert rows.read() == [Release(0, 1)]
    rows.shard(0, None)
    assert rows.read() == []


def test_a_draining_node_claims_nothing_and_releases_what_is_idle() -> None:
    rows = Rows()
    rows.mine(0, 1)
    rows.shard(2, None)
    rows.owns.drain()
    assert rows.read(idle=(1,)) == [Release(1, 1)]
    assert rows.owns.held == {0: 1}


# Fair share and balance.


def test_each_node_claims_other_free_shards_first() -> None:
    rows = Rows()
    rows.node("other", "there:1")
    for shard in range(4):
        rows.shard(shard, None)
    assert claims(rows.read()) == [0, 2]


def test_a_node_leaves_free_shards_to_those_that_own_less() -> None:
    rows = Rows()
    rows.node("other", "there:1")
    rows.mine(0, 1)
    rows.shard(2, None)
    rows.shard(3, None)
    rows.beat("other")
    assert rows.read() == []


def test_a_shard_that_no_other_node_claims_is_claimed_beyond_the_share() -> None:
    rows = Rows()
    rows.node("other", "there:1")
    rows.mine(0, 1)
    rows.shard(2, None)
    rows.shard(3, None)
    assert claims(rows.until_claims("other")) == [2]
    assert claims(rows.until_claims("other")) == [2]
    assert claims([decision for _ in range(5) for decision in rows.until_claims("other")])[-1] == 3


def wanted(rows: Rows, wait: int) -> list[int]:
    """Read while a client waits for shard 3, and return the claims."""
    rows.owns.wanted(3)
    return claims(rows.read(wait))


@pytest.mark.parametrize("left", ["draining", "gone"])
def test_a_shard_for_which_a_client_waits_is_claimed_beyond_the_share(left: str) -> None:
    """Check a claim while a dead node counts for the fair share, until it was watched for a lease."""
    rows = Rows()
    rows.mine(0, 1)
    rows.node("dead", "there:1")
    rows.node("leaves", "there:2")
    rows.shard(2, "leaves")
    rows.shard(3, "leaves")
    rows.read()
    if left == "gone":
        del rows.nodes["leaves"]
        rows.shard(2, None)
    else:
        rows.node("leaves", "there:2", beat=2, draining=True)
    rows.shard(3, None)
    assert wanted(rows, BEAT) == []
    assert wanted(rows, BEAT // 4 - 1) == []
    assert claims(rows.read(BEAT // 4)) == []
    assert wanted(rows, 1) == [3]


def test_a_shard_that_a_live_node_has_given_away_is_left_to_those_that_own_less() -> None:
    rows = Rows()
    rows.mine(0)
    rows.node("poor", "there:1")
    rows.node("rich", "there:2")
    for shard in (1, 2, 3):
        rows.shard(shard, "rich")
    rows.read()
    rows.shard(3, None)
    for _ in range(8):
        rows.beat("poor", "rich")
        assert wanted(rows, BEAT // 2) == []


def test_a_client_that_waits_does_not_hasten_the_first_claims_of_a_store() -> None:
    rows = Rows()
    rows.read()
    assert wanted(rows, LEASE - 1) == []
    assert 3 in wanted(rows, 1)


def test_a_node_with_more_than_its_share_releases_one_idle_shard_a_second() -> None:
    rows = Rows()
    rows.mine(0, 1, 2, 3)
    rows.read()
    rows.node("other", "there:1")
    assert rows.read(idle=(0, 1, 2)) == []
    rows.beat("other")
    assert rows.read(idle=(0, 1, 2)) == [Release(2, 1)]
    rows.shard(2, "other", epoch=2)
    rows.beat("other")
    assert rows.read(SECOND // 2, idle=(0, 1)) == []
    rows.beat("other")
    assert rows.read(SECOND // 2, idle=(0, 1)) == [Release(1, 1)]
    rows.shard(1, "other", epoch=2)
    rows.beat("other")
    assert rows.read(idle=(0, 3)) == []


def test_balance_moves_shards_without_sessions_first() -> None:
    rows = Rows()
    rows.mine(0, 1, 2, 3)
    rows.read(LEASE)
    rows.node("other", "there:1")
    rows.read()
    rows.beat("other")
    assert rows.read(idle=(0, 1, 2, 3), used=(1, 2, 3)) == [Release(0, 1)]
    rows.shard(0, "other", epoch=2)
    rows.beat("other")
    assert rows.read(idle=(1, 2, 3), used=(1, 2, 3)) == [Release(3, 1)]


def test_a_shard_with_sessions_is_not_given_away_within_a_lease_of_its_claim() -> None:
    rows = Rows()
    rows.mine(0, 1, 2)
    rows.node("other", "there:1")
    rows.read()
    rows.shard(3, "me", epoch=2)
    rows.owns.claimed(3, 2, now=rows.now)
    claimed_at = rows.now
    decisions: list[Decision] = []
    while not decisions:
        rows.beat("other")
        decisions = rows.read(idle=(3,), used=(3,))
    assert decisions == [Release(3, 2)]
    assert rows.now - claimed_at == LEASE


def test_shards_for_which_clients_wait_are_claimed_first() -> None:
    rows = Rows()
    rows.read()
    rows.owns.wanted(2)
    assert [claim.shard for claim in rows.read(LEASE) if isinstance(claim, Claim)] == [2, 0, 1, 3]


def test_a_node_reads_more_often_while_another_one_drains() -> None:
    rows = Rows()
    rows.mine(0, 1)
    rows.node("other", "there:1")
    rows.shard(2, "other")
    rows.shard(3, "other")
    rows.read()
    assert rows.owns.next_poll == rows.now + BEAT
    rows.node("other", "there:1", beat=2, draining=True)
    rows.read()
    assert rows.owns.next_poll == rows.now + BEAT // 5
    rows.shard(2, None)
    rows.shard(3, None)
    rows.read()
    assert rows.owns.next_poll == rows.now + BEAT


def test_a_draining_node_reads_no_more_often() -> None:
    rows = Rows()
    rows.mine(0)
    rows.owns.drain()
    rows.node("me", "here:1", draining=True)
    rows.read()
    assert rows.owns.next_poll == rows.now + BEAT


def test_a_node_reads_more_often_while_others_own_more_than_it_should_and_it_owns_less() -> None:
    rows = Rows()
    rows.node("rich", "there:1")
    rows.mine(0)
    for shard in (1, 2, 3):
        rows.shard(shard, "rich")
    rows.read()
    assert rows.owns.next_poll == rows.now + BEAT // 5
    rows.shard(3, "me", epoch=2)
    rows.owns.claimed(3, 2, now=rows.now)
    rows.beat("rich")
    rows.read()
    assert rows.owns.next_poll == rows.now + BEAT


def test_one_of_two_nodes_gives_a_shard_to_one_that_has_none() -> None:
    rows = Rows()
    rows.node("a", "b:1")
    rows.mine(0, 1)
    rows.shard(2, "a")
    rows.shard(3, "a")
    rows.node("c", "z:1")
    decisions = []
    for _ in range(3):
        rows.beat("a", "c")
        decisions.append(rows.read(idle=(0, 1)))
    assert decisions == [[], [], [Release(1, 1)]]


def test_no_shard_is_given_to_a_dead_node_after_a_poll_has_failed() -> None:
    rows = Rows()
    rows.node("dead", "there:1")
    rows.mine(0, 1, 2, 3)
    for _ in range(8):
        assert rows.read(idle=(0, 1, 2, 3)) == []
    rows.owns.missed()
    for _ in range(8):
        assert rows.read(idle=(0, 1, 2, 3)) == []


def test_no_shard_is_given_to_a_node_that_cannot_read_its_records() -> None:
    rows = Rows(record_version=2)
    rows.node("old", "there:1")
    for shard in range(3):
        rows.shard(shard, "me", record_version=2)
        rows.owns.claimed(shard, 1, now=rows.now)
    rows.shard(3, "old", record_version=1)
    for _ in range(8):
        rows.beat("old")
        assert rows.read(idle=(0, 1, 2)) == []


def offered(rows: Rows, readings: int) -> list[int]:
    """Return the shards that are given away while another node beats and claims none of them."""
    given = []
    for _ in range(readings):
        rows.beat("idle")
        for decision in rows.read(idle=(0, 1, 2, 3)):
            given += [decision.shard] if isinstance(decision, Release) else []
            if isinstance(decision, Release):
                rows.shard(decision.shard, None, epoch=decision.epoch)
            elif isinstance(decision, Claim):
                rows.shard(decision.shard, "me", epoch=decision.epoch + 1)
                rows.owns.claimed(decision.shard, decision.epoch + 1, now=rows.now)
    return given


def test_a_shard_that_a_node_did_not_claim_is_not_given_to_it_again() -> None:
    rows = Rows()
    rows.node("idle", "there:1")
    rows.mine(0, 1, 2, 3)
    assert offered(rows, 60) == [3]
    assert sorted(rows.owns.held) == [0, 1, 2, 3]


def test_a_node_that_has_claimed_late_is_given_shards_again() -> None:
    rows = Rows()
    rows.node("idle", "there:1")
    rows.mine(0, 1, 2, 3)
    assert offered(rows, 5) == [3]
    for _ in range(5):
        rows.beat("idle")
        rows.read()
    rows.shard(3, "idle", epoch=2)  # The node was cut off from the store, and could read the records.
    assert offered(rows, 5) == [2]


# Routes and rows of nodes.


def test_a_route_leads_to_the_owner_of_a_shard() -> None:
    rows = Rows()
    rows.node("other", "there:1")
    rows.shard(1, "other", epoch=5)
    rows.shard(2, "gone")
    rows.read()
    route = rows.owns.route(1)
    assert route is not None
    assert (route.node, route.address, route.key, route.epoch) == ("other", "there:1", b"key", 5)
    assert (rows.owns.route(0), rows.owns.route(2)) == (None, None)


def test_rows_and_routes_are_shown_without_the_key_of_the_node() -> None:
    rows = Rows()
    rows.node("other", "there:1")
    rows.shard(1, "other")
    rows.read()
    shown = repr((rows.nodes["other"], rows.owns.route(1)))
    assert "there:1" in shown
    assert "key" not in shown


def test_the_row_of_a_node_that_was_silent_for_an_hour_and_owns_nothing_is_deleted() -> None:
    rows = Rows(shards=1)
    rows.node("dead", "there:1", beat=7)
    rows.mine(0)
    rows.read()
    since = rows.now
    while not (decisions := rows.read()):
        pass
    assert decisions == [Forget("dead", 7)]
    assert rows.now - since == FORGOTTEN_AFTER
    rows.shard(0, "dead", epoch=1)
    assert Forget("dead", 7) not in rows.read(MILLISECOND)


def test_a_reading_that_comes_after_a_later_one_is_left_aside() -> None:
    rows = Rows()
    rows.shard(2, None, epoch=7)
    rows.read()
    assert rows.read(-1) == []
