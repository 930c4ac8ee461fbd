"""Nodes decide by the rows of one store the owner of a shard, through all kinds of faults (C1 to C9)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from arcp_proto.ids import MILLISECOND, SECOND
from tests.simulation.cluster.cluster import Cluster

NODES = 3
NODE = st.integers(0, NODES - 1)
SHARDS = 4


class Owners(RuleBasedStateMachine):
    """Some nodes over one store; every step of the world is checked while it runs."""

    @initialize(seed=st.integers(0, 2**32), shards=st.sampled_from((SHARDS, 7)), version=st.integers(1, 2))
    def begin(self, seed: int, shards: int, version: int) -> None:
        self.cluster = Cluster(seed, nodes=NODES, shards=shards)
        self.nodes = self.cluster.nodes
        self.nodes[-1].record_version = version
        for node in self.nodes[:-1]:
            node.start()

    @rule(tenths=st.integers(1, 100))
    def wait(self, tenths: int) -> None:
        self.cluster.run(tenths * SECOND // 10)

    @rule(number=NODE)
    def start(self, number: int) -> None:
        self.nodes[number].start()

    @rule(number=NODE)
    def die(self, number: int) -> None:
        self.nodes[number].die()

    @rule(number=NODE)
    def restart_in_place(self, number: int) -> None:
        self.nodes[number].die()
        self.nodes[number].start()

    @rule(number=NODE)
    def pause(self, number: int) -> None:
        self.nodes[number].pause()

    @rule(number=NODE)
    def resume(self, number: int) -> None:
        self.nodes[number].resume()

    @rule(number=NODE, cut=st.booleans())
    def cut_off(self, number: int, cut: bool) -> None:
        self.nodes[number].cut_off(cut)

    @rule(number=NODE)
    def drain(self, number: int) -> None:
        self.nodes[number].drain(0)

    @rule(tenths=st.integers(1, 300))
    def outage(self, tenths: int) -> None:
        self.cluster.store.down = True
        self.cluster.run(tenths * SECOND // 10)
        self.cluster.store.down = False

    @rule(late=st.sampled_from((0, 5, 30)), loses=st.sampled_from((0, 5, 30)))
    def trouble(self, late: int, loses: int) -> None:
        self.cluster.store.late, self.cluster.store.loses = late, loses

    @rule(milliseconds=st.sampled_from((0, 20, 400)))
    def slow(self, milliseconds: int) -> None:
        self.cluster.store.latency = milliseconds * MILLISECOND

    @rule(behind=st.integers(1, 40))
    def fail_over(self, behind: int) -> None:
        self.cluster.fail_over(behind)

    @rule(shard=st.integers(0, SHARDS - 1), busy=st.booleans())
    def work(self, shard: int, busy: bool) -> None:
        self.cluster.busy[shard] = busy

    @precondition(lambda self: hasattr(self, "cluster"))
    @rule()
    def settle(self) -> None:
        self.cluster.settle()

    @precondition(lambda self: hasattr(self, "cluster"))
    @rule(number=NODE)
    def settle_alone(self, number: int) -> None:
        self.cluster.settle(alone=number)

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.settle()


TestOwners = Owners.TestCase
TestOwners.settings = settings(stateful_step_count=12)
