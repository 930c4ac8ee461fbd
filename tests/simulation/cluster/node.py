"""A node: its process, its clock, its beats, and the decisions of its ownership."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from arcp_io.cluster.decisions import Claim, Claimed, Decision, Forget, Heal, Lost, Release
from arcp_io.cluster.ownership import Ownership
from arcp_io.cluster.rows import NodeRow, Reading, ShardRow
from arcp_proto.ids import SECOND

from .table import Table

if TYPE_CHECKING:
    from .cluster import Cluster

T = TypeVar("T")


class Service(Protocol):
    """The service of one shard on its owner, from a claim to its end."""

    idle: bool
    """Whether the shard has no unfinished job."""
    used: bool
    """Whether the shard has sessions."""

    def stop(self, done: Callable[[], None]) -> None:
        """Stop: store all records first, then call `done`."""

    def kill(self) -> None:
        """End at once, since another node owns the shard or the process dies."""

    def heal(self, order: Heal) -> None:
        """Write again the records that the store has lost."""

    def thaw(self) -> None:
        """Continue, since the node may act again."""

    @property
    def heals(self) -> bool:
        """Whether a heal is under way, so that the shard is not given away."""

    @property
    def stored(self) -> tuple[int, int]:
        """The epoch under which records are stored, and the number below which they are durable."""


class Node:
    """The processes at one address, one after another; each has its own id and clock."""

    def __init__(self, cluster: Cluster, name: str, record_version: int = 1) -> None:
        self.cluster = cluster
        self.name = name
        self.address = name
        self.record_version = record_version
        self.life = 0
        self.up = False
        self.paused = False
        self.draining = False
        self.cut = False
        """Whether the connection to the store is cut."""
        self.well_since: int | None = None
        """World time since when only the store may keep the node from its beats."""
        self.services: dict[int, Service] = {}
        self.id = ""
        self.ownership = self._owns()
        self._stopping: dict[int, Service] = {}
        self._queue: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = deque()
        self._zero = self._offset = self._rate = 0
        self._ids = 0

    def _owns(self) -> Ownership:
        cluster = self.cluster
        return Ownership(
            self.id,
            self.address,
            shards=cluster.shards,
            lease=cluster.lease,
            record_version=self.record_version,
        )

    # The clock of the node, up to a hundredth too fast or too slow.

    @property
    def clock(self) -> int:
        """The nanoseconds of the clock."""
        return self._offset + (self.cluster.now - self._zero) * self._rate // 10_000

    def _when(self, clock: int) -> int:
        """Return the world time at which the clock shows a time, or slightly later."""
        return self._zero + (clock - self._offset) * 10_000 // self._rate + 1

    # The process of the node.

    def start(self) -> None:
        """Start the process."""
        if self.up:
            return
        cluster = self.cluster
        self.up, self.paused, self.draining = True, False, False
        self._begin()
        self.well_since = None if self.cut else cluster.now

    def _begin(self) -> None:
        """Begin with another id and another clock."""
        cluster = self.cluster
        self.life += 1
        self._ids += 1
        self.id = f"{self.name}.{self._ids}"
        self._zero, self._offset = cluster.now, cluster.pick(10**6) * SECOND
        self._rate = 9_900 + cluster.pick(201)
        self.ownership = self._owns()
        self._enter()

    def _enter(self) -> None:
        row = NodeRow(self.id, self.address, b"", 0, False, str(self.record_version))
        self.ask(lambda table: table.enter(row), lambda _: self._poll(), self._enter)

    def die(self) -> None:
        """Kill the process."""
        self.up, self.well_since = False, None
        self.life += 1
        self._queue.clear()
        self._kill_all()

    def pause(self) -> None:
        """Pause the process: messages wait."""
        if self.up and not self.paused:
            self.paused, self.well_since = True, None

    def resume(self) -> None:
        """Resume the process, which takes the messages that wait."""
        if self.up and self.paused:
            self.paused = False
            self.well_since = None if self.cut else self.cluster.now
            while self._queue and not self.paused:
                life, what, arguments = self._queue.popleft()
                if life == self.life:
                    what(*arguments)
            self._thaw()

    def cut_off(self, cut: bool) -> None:
        """Cut the connection to the store, or restore it."""
        self.cut = cut
        self.well_since = None if cut or self.paused or not self.up else self.cluster.now

    def unlucky(self, wait: int) -> None:
        """Note that a statement of the node is delayed, or that its answer is lost."""
        if self.well_since is not None:
            self.well_since = max(self.well_since, self.cluster.now + wait)

    def drain(self) -> None:
        """Drain the node: it gives all its shards away."""
        if self.up:
            self.draining = True
            self.ownership.drain()

    def deliver(self, life: int, what: Callable[..., None], *arguments: Any) -> None:
        """Deliver a message now, or when the process is resumed."""
        if life != self.life:
            return
        if self.paused:
            self._queue.append((life, what, arguments))
        else:
            what(*arguments)

    def later(self, wait: int, what: Callable[..., None], *arguments: Any) -> None:
        """Let something happen after a while, unless the process has died."""
        self.cluster.later(wait, self.deliver, self.life, what, *arguments)

    def ask(
        self, statement: Callable[[Table], T], answered: Callable[[T], None], failed: Callable[[], None]
    ) -> None:
        """Send a statement to the store."""
        self.cluster.store.ask(self, statement, answered, failed)

    def acts_for(self, shard: int) -> bool:
        """Return whether the node acts for a shard at this moment (C6)."""
        if not self.up or self.paused or shard not in self.services:
            return False
        return self.ownership.may_act(self.clock, shard)

    @property
    def may_act(self) -> bool:
        """Whether its ownership lets it act now."""
        return self.ownership.may_act(self.clock)

    # Beats.

    def _poll(self) -> None:
        begun, me, draining = self.clock, self.id, self.draining
        stored = {shard: service.stored for shard, service in self.services.items()}
        self.ask(
            lambda table: table.beat(me, draining),
            lambda reading: self._seen(reading, begun, stored),
            lambda: self._missed(begun),
        )

    def _missed(self, begun: int) -> None:
        self.ownership.missed()
        self._poll_at(begun + self.cluster.lease // 5)

    def _poll_at(self, clock: int) -> None:
        self.cluster.at(max(self.cluster.now + 1, self._when(clock)), self.deliver, self.life, self._poll)

    def _seen(self, reading: Reading, begun: int, stored: dict[int, tuple[int, int]]) -> None:
        held = not self.may_act
        owns = self.ownership
        lacking = self._look_for_losses(reading, stored)
        idle = [
            shard
            for shard, service in self.services.items()
            if service.idle and shard not in lacking and not service.heals
        ]
        used = [shard for shard in idle if self.services[shard].used]
        decisions = owns.seen(
            reading.nodes, reading.shards, begun=begun, now=self.clock, idle=idle, used=used
        )
        for decision in decisions:
            self.cluster.decided(self, decision)
            self._carry_out(decision)
        if self.id not in {row.node for row in reading.nodes}:
            self._enter()
            return
        if held:
            self._thaw()
        self._poll_at(owns.next_poll)

    def _look_for_losses(self, reading: Reading, stored: dict[int, tuple[int, int]]) -> set[int]:
        """Heal shards of which the store lacks records that were durable before the beat; return them.

        Tell the ownership about heals of which the answer has not come yet.
        """
        lacking = set()
        for row in reading.shards:
            service = self.services.get(row.shard)
            epoch, number = stored.get(row.shard, (0, 0))
            if service is None or row.node != self.id:
                continue
            if service.heals and row.epoch == service.stored[0] + 1:
                self.ownership.healed(row.shard, row.epoch, now=self.clock)
            elif service.stored[0] == row.epoch == epoch and row.next < number:
                lacking.add(row.shard)
                service.heal(Heal(row.shard, row.epoch, None, 0))
        return lacking

    def _thaw(self) -> None:
        if self.up and not self.paused and self.may_act:
            for service in list(self.services.values()):
                service.thaw()

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Claim():
                me = self.id
                self.ask(
                    lambda table: self._claim(table, me, decision),
                    self._claimed,
                    lambda: None,
                )
            case Claimed(shard=shard, epoch=epoch):
                self._serve(shard, epoch)
            case Release(shard=shard, epoch=epoch):
                self._release(shard, epoch)
            case Lost(shard=shard):
                self.kill(shard)
            case Heal(shard=shard):
                if shard in self.services:
                    self.services[shard].heal(decision)
            case Forget():
                self.ask(lambda table: table.forget(decision), lambda _: None, lambda: None)

    def _claim(self, table: Table, me: str, order: Claim) -> ShardRow | None:
        owner = table.shards[order.shard].node
        row = table.claim(me, order, self.record_version)
        if row is not None:
            self.cluster.owned(order.shard)
            if owner is not None:
                self.cluster.taken_over(self, owner, order)
        return row

    def _claimed(self, row: ShardRow | None) -> None:
        if row is not None and row.epoch > self.ownership.held.get(row.shard, 0):
            self.ownership.claimed(row.shard, row.epoch, now=self.clock)
            self._serve(row.shard, row.epoch)

    def healed(self, shard: int, epoch: int) -> None:
        """Take a heal of a shard, which has a new epoch."""
        self.ownership.healed(shard, epoch, now=self.clock)

    def holds(self, shard: int, epoch: int) -> bool:
        """Return whether the ownership still has a shard under this epoch."""
        return self.ownership.holds(shard, epoch)

    def fenced(self, shard: int, epoch: int) -> None:
        """Give a shard up, since an append was refused."""
        self.ownership.fenced(shard, epoch)
        self.kill(shard)

    # Shards.

    def _serve(self, shard: int, epoch: int) -> None:
        self.kill(shard)
        self.services[shard] = self.cluster.serve(self, shard, epoch)

    def _release(self, shard: int, epoch: int) -> None:
        if shard in self._stopping:
            return
        service = self.services.pop(shard, None)
        if service is None:
            self._give(shard, epoch)
            return
        self._stopping[shard] = service
        service.stop(lambda: self._stopped(shard, epoch))

    def _stopped(self, shard: int, epoch: int) -> None:
        self._stopping.pop(shard, None)
        self._give(shard, epoch)

    def _give(self, shard: int, epoch: int) -> None:
        me = self.id
        self.ask(lambda table: table.release(me, shard, epoch), lambda _: None, lambda: None)

    def kill(self, shard: int) -> None:
        """End the service of a shard at once."""
        for services in (self._stopping, self.services):
            service = services.pop(shard, None)
            if service is not None:
                service.kill()

    def _kill_all(self) -> None:
        for shard in [*self.services, *self._stopping]:
            self.kill(shard)
