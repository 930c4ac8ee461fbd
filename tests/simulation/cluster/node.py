"""A node: its process, its clock, its beats, and the decisions of its ownership."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from arcp_io.cluster.decisions import Claim, Claimed, Decision, Forget, Heal, Lost, Release
from arcp_io.cluster.ownership import Ownership
from arcp_io.cluster.rows import NodeRow, Reading
from arcp_proto.ids import SECOND

from ..broken import ensure
from .table import Table
from .writer import Writer

if TYPE_CHECKING:
    from .cluster import Cluster

T = TypeVar("T")


class Service(Protocol):
    """The service of one shard on its owner, from a claim to its end."""

    given_away: bool
    """Whether the node gives the shard away."""

    @property
    def idle(self) -> bool:
        """Whether the shard is served and has no unfinished job."""

    @property
    def used(self) -> bool:
        """Whether the shard has sessions."""

    @property
    def writer(self) -> Writer | None:
        """The writer of the records, once the shard is restored."""

    def give_away(self, drain: int, done: Callable[[], None]) -> None:
        """Give running jobs time, store all records, then call `done`; a later call may shorten the time."""

    def kill(self) -> None:
        """End at once, since another node owns the shard or the process dies."""

    def thaw(self) -> None:
        """Continue, since the node may act again."""


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
        self._given_at: dict[int, int] = {}
        """When the node began to give its shards away."""
        self._lacking: set[int] = set()
        """Shards of which the store lacks records that were durable before the last beat."""
        self._has_row = False
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
        self._has_row = False
        self._poll()

    @property
    def _row(self) -> NodeRow:
        return NodeRow(self.id, self.address, b"", 0, self.ownership.draining, str(self.record_version))

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

    def drain(self, seconds: int) -> None:
        """Drain the node: it gives all its shards away, and running jobs get a time."""
        if self.up:
            self.draining = True
            self.ownership.drain()
            self.deliver(self.life, self._give_all, seconds * SECOND)

    def _give_all(self, drain: int) -> None:
        for shard in list(self.services):
            self._give_away(shard, drain)

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
        return self.ownership.may_act(self.clock, None if self.services[shard].given_away else shard)

    @property
    def may_act(self) -> bool:
        """Whether its ownership lets it act now."""
        return self.ownership.may_act(self.clock)

    # Beats.

    def _poll(self) -> None:
        begun, row, has_row = self.clock, self._row, self._has_row
        before = {
            shard: (service.writer.epoch, service.writer.lane.stored)
            for shard, service in self.services.items()
            if service.writer is not None
        }
        self.ask(
            lambda table: table.beat(row, has_row=has_row),
            lambda reading: self._seen(reading, begun, before),
            lambda: self._missed(begun),
        )

    def _missed(self, begun: int) -> None:
        self.ownership.missed()
        self._poll_at(begun + self.cluster.lease // 5)

    def _poll_at(self, clock: int) -> None:
        self.cluster.at(max(self.cluster.now + 1, self._when(clock)), self.deliver, self.life, self._poll)

    def _seen(self, reading: Reading, begun: int, before: dict[int, tuple[int, int]]) -> None:
        owns = self.ownership
        held = [shard for shard in self.services if not self.acts_for(shard)]
        self._has_row = any(row.node == self.id for row in reading.nodes)
        self._look(reading, begun, before)
        idle = [shard for shard, service in self.services.items() if self._is_idle(shard, service)]
        used = [shard for shard in idle if self.services[shard].used]
        decisions = owns.seen(
            reading.nodes, reading.shards, begun=begun, now=self.clock, idle=idle, used=used
        )
        for decision in decisions:
            self.cluster.decided(self, decision)
            self._carry_out(decision)
        for shard in held:
            if self.acts_for(shard):
                self.services[shard].thaw()
        self._poll_at(owns.next_poll)

    def _is_idle(self, shard: int, service: Service) -> bool:
        """Return whether a shard may be given away: it has no unfinished job, and no heal is due."""
        writer = service.writer
        return service.idle and shard not in self._lacking and writer is not None and not writer.heals

    def _look(self, reading: Reading, begun: int, before: dict[int, tuple[int, int]]) -> None:
        """Tell the ownership about heals, and notice shards that are lost, or that lack durable records."""
        self._lacking.clear()
        for row in reading.shards:
            service = self.services.get(row.shard)
            writer = None if service is None else service.writer
            if service is None or writer is None:
                continue
            mine = row.node == self.id and writer.owns(row.epoch)
            epoch, stored = before.get(row.shard, (0, 0))
            if mine and not self.ownership.holds(row.shard, row.epoch):
                self.ownership.healed(row.shard, row.epoch, now=self.clock)
            elif not mine and service.given_away and begun > self._given_at[row.shard]:
                alone = row.node in (None, self.id) or self.ownership.dead_beat(str(row.node)) is not None
                if row.epoch < writer.epoch and alone:
                    writer.heal()
                else:
                    self.kill(row.shard)
            if row.node == self.id and writer.epoch == epoch and row.went_back(epoch, stored):
                self._lacking.add(row.shard)
                writer.heal()

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
                    lambda found: self._claimed(decision.shard, found),
                    lambda: None,
                )
            case Claimed(shard=shard, epoch=epoch):
                self._serve(shard, epoch)
            case Release(shard=shard, epoch=epoch):
                if shard in self.services:
                    self._give_away(shard, 0)
                else:
                    self._free(shard, epoch)
            case Lost(shard=shard):
                self.kill(shard)
            case Heal(shard=shard):
                writer = self.services[shard].writer if shard in self.services else None
                if writer is not None:
                    writer.heal()
            case Forget(node=node, beat=beat):
                self.ask(lambda table: table.forget(node, beat), lambda _: None, lambda: None)

    def _claim(self, table: Table, me: str, order: Claim) -> tuple[int, int] | None:
        row, version = table.shards[order.shard], self.record_version
        found = table.claim(order.shard, order.epoch, me, version, order.owner, order.beat, order.named)
        seen = (row.epoch, row.node or "") == (order.epoch, order.named)
        ensure(
            not seen or row.record_version <= version,
            "C3",
            f"{me} claims a shard whose records it cannot read: {row}",
        )
        if found is not None:
            self.cluster.owned(order.shard)
            if row.node is not None:
                self.cluster.taken_over(self, row.node, order)
        return found

    def _claimed(self, shard: int, found: tuple[int, int] | None) -> None:
        if found is None or found[0] <= self.ownership.held.get(shard, 0) or self.ownership.draining:
            return
        self.ownership.claimed(shard, found[0], now=self.clock)
        self._serve(shard, found[0])

    def fenced(self, shard: int, epoch: int) -> None:
        """Give a shard up, since an append was refused."""
        self.ownership.fenced(shard, epoch)
        self.kill(shard)

    # Shards.

    def _serve(self, shard: int, epoch: int) -> None:
        service = self.services.get(shard)
        writer = None if service is None or service.given_away else service.writer
        if writer is not None and writer.epoch == epoch:
            return
        self.kill(shard)
        self.services[shard] = self.cluster.serve(self, shard, epoch)

    def _give_away(self, shard: int, drain: int) -> None:
        self._given_at.setdefault(shard, self.clock)
        service = self.services[shard]
        service.give_away(drain, lambda: self._given_away(shard, service))

    def _given_away(self, shard: int, service: Service) -> None:
        """Release a shard whose records are all stored."""
        assert service.writer is not None
        if self.services.get(shard) is service:
            self.ownership.leaves(shard, now=self.clock)
            self.kill(shard)
            self._free(shard, service.writer.epoch)

    def _free(self, shard: int, epoch: int) -> None:
        me = self.id
        self.ask(lambda table: table.release(shard, epoch, me), lambda _: None, lambda: None)

    def kill(self, shard: int) -> None:
        """End the service of a shard at once."""
        self._given_at.pop(shard, None)
        service = self.services.pop(shard, None)
        if service is not None:
            service.kill()

    def _kill_all(self) -> None:
        for shard in list(self.services):
            self.kill(shard)
