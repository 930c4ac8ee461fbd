"""The world of several nodes and one store: its time, its random choices, its faults, and the checks C1 to
C9.

* C1, C2, C3: `Table.append` checks every append.

* C4 and C8: `tell` and `check_read`: every later owner reads the records that readers were told.

* C5: `taken_over`: an outage of the store moves no shard.

* C6: `check`: at no time do two nodes act for a shard.

* C9: `settle`: at the end every shard is served, the shares are fair, and no shard moves.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Any, Final

from arcp_io.cluster.decisions import Claim, Decision
from arcp_proto.ids import SECOND

from ..broken import Broken, ensure
from .node import Node, Service
from .scribe import Scribe
from .shard_world import ShardService, ShardWorld
from .store import Store

START: Final = 10**6 * SECOND
MOST_EVENTS: Final = 400_000
NEVER: Final = 2**62


class Cluster:
    """The nodes, the store, the readers of each shard, and the faults of one run."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        shards: int = 4,
        lease: int = 5 * SECOND,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.now = START
        self.shards = shards
        self.lease = lease
        self.tells_at_once = False
        """Readers are told of a record before it is durable: a planted bug."""
        self.counts: dict[str, int] = {}
        self.busy = [False] * shards
        """Whether a shard has an unfinished job."""
        self.told: list[list[bytes]] = [[] for _ in range(shards)]
        """The records that readers of each shard were told."""
        self.unsettled: dict[int, int] = {}
        """Shards whose claims a failover may have lost, and until when two nodes may act for them."""
        self._failed_over = False
        self._dice = random.Random(seed)
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._events = 0
        self._contents = 0
        self._note = note
        self._digest = hashlib.blake2b(digest_size=16)
        self._decided = 0
        self.store = Store(self, shards)
        self.nodes = [Node(self, f"n{number}") for number in range(nodes)]
        self.loot: list[tuple[str, str]] = []
        """Resume tokens that raw clients know, in all shards (C7)."""
        self.known: list[str] = []
        """Jobs that some client knows, in all shards."""
        self.worlds: list[ShardWorld] = []
        """The world of each shard with real runtimes; none if scribes stand for them."""

    # Time and random choices.

    def at(self, when: int, what: Callable[..., None], *arguments: Any) -> None:
        """Call a function at a time."""
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, what, arguments))

    def later(self, wait: int, what: Callable[..., None], *arguments: Any) -> None:
        """Call a function after a while."""
        self.at(self.now + wait, what, *arguments)

    def pick(self, below: int) -> int:
        """Return a random number from 0 to below the given one."""
        return int(self._dice.random() * below)

    def chance(self, percent: int) -> bool:
        """Return true in the given percentage of calls."""
        return percent > 0 and self._dice.random() * 100 < percent

    def count(self, what: str) -> None:
        """Count an event for the statistics of a run."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def content(self) -> bytes:
        """Return the content of a record, which no other record has."""
        self._contents += 1
        return b"fact %d" % self._contents

    def run(self, wait: int) -> None:
        """Run all events of a time."""
        end = self.now + wait
        while self._heap and self._heap[0][0] <= end:
            self.now, _, what, arguments = heapq.heappop(self._heap)
            self._events += 1
            if self._events > MOST_EVENTS:
                raise Broken("rest", f"the cluster does not come to rest: {what} {arguments}")
            what(*arguments)
            self.check()
        self.now = end
        self.check()

    def note(self, who: str, what: Any) -> None:
        """Write an event to the trace and to the digest."""
        line = f"{(self.now - START) / SECOND:12.6f}  {who}: {what}"
        self._digest.update(line.encode())
        if self._note is not None:
            self._note(line)

    @property
    def digest(self) -> str:
        """The digest of all events so far."""
        return self._digest.hexdigest()

    # Reports of nodes.

    def serve(self, node: Node, shard: int, epoch: int) -> Service:
        """Return the service of a shard that a node serves from now on."""
        self.note(node.id, f"serves {shard} under epoch {epoch}")
        self.count("served")
        if self.worlds:
            return ShardService(self.worlds[shard], node, epoch)
        return Scribe(self, node, shard, epoch)

    def decided(self, node: Node, decision: Decision) -> None:
        """Note a decision that a node carries out."""
        self.note(node.id, decision)
        self.count(type(decision).__name__)
        self._decided += 1

    def taken_over(self, node: Node, owner: str, order: Claim) -> None:
        """Check that the node from which a claim has taken a shard was silent, or is gone (C5)."""
        self.count("taken over")
        before = next((one for one in self.nodes if one.id == owner), None)
        if before is None or before is node or not before.up:
            return
        well = before.well_since
        ensure(
            well is None or self.now - well < self.lease,
            "C5",
            f"{node.id} takes shard {order.shard} from {owner}, whose beats arrive: {order}",
        )

    def check(self) -> None:
        """Check that two nodes never act for one shard (C6), unless the store has lost a claim of it."""
        for shard in range(self.shards):
            serving = [node for node in self.nodes if shard in node.services]
            if len(serving) < 2 or self.unsettled.get(shard, 0) > self.now:
                continue
            acting = [node.id for node in serving if node.acts_for(shard)]
            ensure(len(acting) <= 1, "C6", f"{acting} act for shard {shard}")

    def tell(self, shard: int, number: int, data: bytes) -> None:
        """Tell the readers of a shard of a record; a known record has to be the same (C4, C8)."""
        told = self.told[shard]
        ensure(
            number <= len(told),
            "C8",
            f"record {number} of shard {shard} is told although {len(told)} records were told before",
        )
        if number < len(told) and told[number] != data and shard in self.unsettled:
            del told[number:]
            self.count("lost claim of the later owner")
        if number < len(told):
            ensure(
                told[number] == data,
                "C8",
                f"record {number} of shard {shard} was told as {told[number]!r}, and now as {data!r}",
            )
        else:
            told.append(data)

    def check_read(self, shard: int, datas: list[bytes]) -> None:
        """Check that the records that a new owner reads begin with those that readers were told (C4, C8)."""
        self.note("shard", f"{shard} is read: {len(datas)} records; {len(self.told[shard])} were told")
        told = self.told[shard]
        if shard in self.store.table.went_back and datas[: len(told)] != told:
            # "Owner dead as well: sessions are as of the standby".
            self.count("as of the standby")
            self.told[shard] = list(datas)
            self.store.table.went_back.discard(shard)
            return
        ensure(
            datas[: len(told)] == told,
            "C4",
            f"the new owner of shard {shard} lacks records that readers were told",
        )
        self.told[shard] = list(datas)  # Readers resume, and are told the other records.

    # Faults.

    def fail_over(self, behind: int, *, again: bool = False) -> None:
        """Replace the store by a standby that lacks some commits; at most once between two times of rest,
        unless it does so `again`.
        """
        before = dict(self.store.table.shards)
        if (again or not self._failed_over) and self.store.table.fail_over(behind):
            self.note("store", f"fails over to a standby that is {behind} behind")
            self.count("failed over")
            self._failed_over = True
            lost = [
                shard for shard, row in self.store.table.shards.items() if row.epoch < before[shard].epoch
            ]
            self.unsettled.update(dict.fromkeys(lost, NEVER))

    def owned(self, shard: int) -> None:
        """Note a claim or a heal of a shard: earlier owners learn of it within a lease."""
        if shard in self.unsettled:
            self.unsettled[shard] = min(self.unsettled[shard], self.now + self.lease)

    def healed(self, shard: int, datas: list[bytes]) -> None:
        """Take the records that an owner has written again; a later owner may have told more."""
        if datas[: len(self.told[shard])] != self.told[shard]:
            ensure(
                shard in self.unsettled,
                "C8",
                f"shard {shard} is healed without records that readers were told",
            )
            self.count("lost claim of the later owner")
        self.told[shard] = datas

    def heal(self) -> None:
        """End all faults, and start the nodes that are down."""
        self.store.down, self.store.late, self.store.loses = False, 0, 0
        self.busy = [False] * self.shards
        for node in self.nodes:
            node.cut_off(False)
            node.resume()
            if node.draining:
                node.die()
            node.start()

    def settle(self, alone: int | None = None) -> None:
        """End the faults, and check that every shard is served (C9), the shares are fair, and no shard moves.

        If `alone` is given, all other nodes are down from now on.
        """
        self.heal()
        for node in self.nodes:
            if alone is not None and node is not self.nodes[alone]:
                node.die()
        self.note("all", "settle")
        self.run(5 * self.lease + self.shards * 2 * SECOND)
        self._failed_over = False
        self.unsettled.clear()
        self._check_served()
        before = self._decided
        self.run(4 * self.lease)
        ensure(self._decided == before, "rest", "nodes still decide although no state changes")
        self._check_served()

    def _check_served(self) -> None:
        for shard in range(self.shards):
            acting = [node.id for node in self.nodes if node.acts_for(shard)]
            row = self.store.table.shards[shard]
            readable = [n for n in self.nodes if n.up and n.record_version >= row.record_version]
            ensure(len(acting) == 1 or not readable, "C9", f"shard {shard} is served by {acting}: {row}")
        versions = {node.record_version for node in self.nodes}
        counts = [len(node.ownership.held) for node in self.nodes if node.up]
        fair = len(versions) > 1 or max(counts) - min(counts) <= 1
        ensure(fair, "fair", f"the nodes own {counts} shards")
