"""One shard with real clients and a real runtime, which moves from node to node.

A `World` of the simulation, with its clients, agents and checks, is the world of one shard. Its host is the
runtime on the present owner; its journal appends to the table of the store. While the owner is paused, or may
not act, messages for the runtime wait, and clients get no answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_io.cluster.decisions import Heal
from arcp_io.cluster.rows import ShardRow
from arcp_proto import Connection, Framing
from arcp_proto.engine.output import Output
from arcp_proto.ids import MILLISECOND
from arcp_proto.server.journal.records import Record, decode_record, encode_record

from .. import bounds
from ..agents import Agents
from ..broken import ensure
from ..host import Host, ServerEnd
from ..journal import Journal
from ..network import Link, Socket
from ..plan import Move, Plan
from ..world import MOVES, World
from .table import Appended, Entry

if TYPE_CHECKING:
    from .cluster import Cluster
    from .node import Node

LEFT_OUT: Final = ("crash", "compact", "slow_disk", "step_clock")
"""Moves of a world that are left out, since its nodes have faults of their own."""
OF_CLIENTS: Final = (
    *("submit", "cancel", "subscribe", "unsubscribe", "list_jobs", "take_in", "wait", "drop", "half_close"),
    *("stall", "unstall", "kill_client", "close_session", "leave", "refuse_dials", "page", "watch_other"),
)
"""Moves that do not use the runtime, and so happen while it waits."""


class ShardEnd(ServerEnd):
    """The runtime's end of one link, which neither reads nor writes while the node may not act."""

    __slots__ = ()

    def takes(self) -> bool:
        return not self._world.frozen and super().takes()

    def receive(self, data: bytes) -> None:
        self._world.ensure_acts("reads")
        super().receive(data)

    def ended(self, reason: str) -> None:
        self._world.when_thawed(super().ended, reason)

    def written(self) -> None:
        self._world.when_thawed(super().written)

    def flush(self) -> None:
        self._world.ensure_acts("writes")
        super().flush()

    @property
    def _world(self) -> ShardWorld:
        world = self._host.world
        assert isinstance(world, ShardWorld)
        return world


class ShardHost(Host):
    """The runtimes of a shard, on one owner after another."""

    def __init__(self, world: ShardWorld, shard: int) -> None:
        super().__init__(world)
        self.config = msgspec.structs.replace(self.config, label=f"s{shard}")
        self.up = False
        self._first = True

    def accept(self, link: Link, lines: bool, honest: bool) -> None:
        framing = Framing.LINES if lines else Framing.MESSAGES
        connection: Connection = self.runtime.connect(
            framing, secure=self.world.options.credentials, now=self.now
        )
        end = self.ends[connection] = ShardEnd(self, link, connection, honest)
        link.up.reader = link.down.writer = end
        self.take()

    def carry_out(self, output: Output) -> None:
        assert isinstance(self.world, ShardWorld)
        self.world.ensure_acts("decides")
        super().carry_out(output)

    def go_down(self) -> None:
        """End the runtime on this owner; records that are under way may still be stored."""
        if not self.up:
            return
        self.up = False
        self.life += 1
        self._alarm += 1
        self._armed = None
        self._outputs.clear()
        for end in list(self.ends.values()):
            end.link.down.writer = end.link.up.reader = None
            end.link.reset("the runtime is gone")
        self.ends.clear()
        self._principals.clear()
        self.agents = Agents(self)

    def come_up(self, durable: int) -> None:
        """Restore the runtime on another owner; `durable` counts the durable records of the last runtime."""
        world = self.world
        if not self._first:
            world.count("moved")
            world.truth.crash()
            world.ledger.crash()
            world.works.crash()
            world.gateway.crash()
            world.promises.crash(durable)
        self._first = False
        self._start()


class ShardJournal(Journal):
    """The records of a shard; those of the present runtime begin at `base`."""

    def __init__(self, world: ShardWorld) -> None:
        super().__init__(world)
        self.base = 0
        self.heals = False
        """Whether a snapshot is on its way in place of records."""
        self._shard_world = world

    def sync(self) -> None:
        if not self._syncing and self._open and not self.heals:
            self._syncing = len(self._open)
            self._append()

    @property
    def waits(self) -> bool:
        """Whether some record is not stored yet."""
        return bool(self._open)

    def store_rest(self) -> None:
        """Store all records; an append whose answer has not come is sent again."""
        if self._syncing:
            self._append()
        self.sync()

    def is_of(self, life: int) -> bool:
        """Return whether an append was sent in this life: no snapshot and no other owner has come since."""
        return life == self._life

    def _append(self) -> None:
        service = self._shard_world.service
        if service is not None:
            first = self.base + self.count
            datas = tuple(data for data, _ in self._open[: self._syncing])
            service.append(first, datas, self._life)

    def appended_at(self, end: int, life: int, answer: Appended) -> None:
        """Take the answer of an append, which may be one that was sent again."""
        service = self._shard_world.service
        if life != self._life or service is None or end != self.base + self.count + self._syncing:
            return
        row = answer.row
        if (row.epoch, row.node) != (service.epoch, service.me):
            service.fenced()
        elif row.next < self.base + self.count:
            service.heal(Heal(row.shard, row.epoch, None, 0))
        elif row.next == end:
            count, self._syncing = self._syncing, 0
            self._keep(count)
            self._world.host.persisted(self.count)
            self.sync()
            service.when_stored()
        else:
            ensure(
                row.next == self.base + self.count,
                "C2",
                f"the row is {row}, but its owner has records to {end}",
            )
            self._append()

    def begin_heal(self) -> int:
        """Append nothing more until a snapshot of all that is made is stored; return how many records it has.

        The answer of an append that is under way says nothing any longer.
        """
        self.heals, self._syncing = True, 0
        self._life += 1
        return self.appended

    def end_heal(self, snapshot: Sequence[bytes], count: int) -> None:
        """Go on behind a snapshot that holds `count` records of the present runtime."""
        self.heals = False
        self._keep(count - self.count)
        self.kept, self.base = list(snapshot), len(snapshot) - self.count
        self._world.host.persisted(self.count)
        self.sync()

    def give_heal_up(self) -> None:
        """Go on without a snapshot that the store did not take."""
        self.heals = False
        self.sync()

    def settle(self, entries: Sequence[Entry]) -> int:
        """Take what the next owner has read; return how many records of the last runtime are in it."""
        self.heals = False
        reached = len(entries) - self.base - self.count
        ensure(reached >= 0, "C4", f"{-reached} durable records are lost")
        ensure(
            reached <= len(self._open),
            "C3",
            f"{reached} records are stored, but only {len(self._open)} were made",
        )
        ensure(
            [entry.data for entry in entries] == [*self.kept, *(data for data, _ in self._open[:reached])],
            "C3",
            "the stored records differ from those that the runtime made",
        )
        self._keep(reached)
        count, self.count, self.base = self.count, 0, len(entries)
        self._open.clear()
        self._ends.clear()
        self._syncing = 0
        self._life += 1
        return count

    def records(self) -> list[Record]:
        return [decode_record(data) for data in self.kept]


class ShardWorld(World):
    """The world of one shard, with the time of its cluster."""

    def __init__(self, cluster: Cluster, shard: int, plan: Plan) -> None:
        self.cluster = cluster
        self.shard = shard
        self.service: ShardService | None = None
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._thawing = False
        options = msgspec.structs.replace(plan.options, journal="late", late_timer=0)
        super().__init__(Plan(options, plan.moves))
        self.journal = ShardJournal(self)
        self.host: ShardHost = ShardHost(self, shard)
        self.loot, self.known = cluster.loot, cluster.known

    @property
    def now(self) -> int:
        return self.cluster.now

    @now.setter
    def now(self, value: int) -> None:
        """Ignore the time of a world, since the cluster has the clock."""

    def at(self, when: int, what: Callable[..., None], *arguments: Any) -> None:
        self.cluster.at(when, self._happens, what, arguments)

    def _happens(self, what: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if isinstance(getattr(what, "__self__", None), Host | ServerEnd | Agents):
            self.when_thawed(what, *arguments)
        else:
            what(*arguments)

    def _until(self, at: int) -> None:
        self.cluster.run(at - self.cluster.now)

    # Times at which the owner may not act.

    @property
    def frozen(self) -> bool:
        """Whether the owner is paused, or may not act."""
        service = self.service
        return service is not None and self.host.up and not service.node.acts_for(self.shard)

    def ensure_acts(self, what: str) -> None:
        """Check that the runtime acts only while its owner may act (C6)."""
        ensure(not self.frozen, "C6", f"the runtime of shard {self.shard} {what} while it may not act")

    def when_thawed(self, what: Callable[..., None], *arguments: Any) -> None:
        """Deliver a message to the runtime now, or when its owner may act again."""
        if self.frozen or (self._waiting and not self._thawing):
            self._waiting.append((what, arguments))
        else:
            what(*arguments)

    def thaw(self) -> None:
        """Deliver the messages that wait, since the owner may act again."""
        self._thawing = True
        # "Hold: ... nothing is read from its connections and nothing written to them": terms begin anew.
        self.host.changed_at = self.now
        for end in self.host.ends.values():
            end.heard_at = self.now
        while self._waiting and not self.frozen:
            what, arguments = self._waiting.pop(0)
            what(*arguments)
        self._thawing = False
        for end in list(self.host.ends.values()):
            if self.frozen or not self.host.up:
                return
            end.flush()
            if end.takes():
                end.link.up.read_on()

    # Owners.

    def take_over(self, service: ShardService, entries: Sequence[Entry]) -> None:
        """Serve the shard on another owner, which has read all records."""
        if self.service is not None:
            self.service.over = True
        self.leave_host()
        durable = self.journal.settle(entries)
        self.service = service
        self.host.come_up(durable)

    def leave_host(self) -> None:
        """End the runtime on this owner."""
        self.host.go_down()
        self._waiting.clear()

    def dial(self, client: Socket | None, lines: bool, *, honest: bool) -> Link | None:
        return None if self.frozen else super().dial(client, lines, honest=honest)

    # The run.

    def begin(self) -> None:
        """Start the clients, and plan the moves."""
        for client in self.clients:
            begin = getattr(client, "begin", None)
            if begin is not None:
                self.cluster.later(self.pick(50) * MILLISECOND, begin)
        at = self.now
        for move in self._moves:
            at += move.wait
            if move.kind not in LEFT_OUT:
                self.cluster.at(at, self._move, move)
        self.ends_at = at

    def _move(self, move: Move) -> None:
        if self.frozen and move.kind not in OF_CLIENTS:
            return
        self.note("move", move)
        MOVES[move.kind](self, move)
        if self.host.up and not self.frozen:
            bounds.check(self.host)
            self.ledger.check_stopped()
            self.deadlines.check()

    def heal_all(self) -> None:
        """End all faults, and check that every client gets all that it has to."""
        self._heal()

    def _all_goes(self) -> None:
        """Skip the check of the end: windows of sessions and jobs are longer than a run of many nodes."""


class ShardService:
    """The runtime of a shard on one owner, from a claim to its end."""

    def __init__(self, world: ShardWorld, node: Node, epoch: int) -> None:
        self.world = world
        self.node = node
        self.epoch = epoch
        self.me = node.id
        self.over = False
        self._done: Callable[[], None] | None = None
        self._healing = False
        self._restore()

    @property
    def idle(self) -> bool:
        """Whether the shard has no unfinished job."""
        return self.world.service is self and self.world.host.up and not self.world.host.state.unfinished

    @property
    def used(self) -> bool:
        """Whether the shard has sessions."""
        return self.world.service is self and self.world.host.up and bool(self.world.host.state.sessions)

    def _restore(self) -> None:
        if not self.over:
            self.node.ask(lambda table: table.read(self.world.shard), self._read, self._restore)

    def _read(self, found: tuple[ShardRow, tuple[Entry, ...]]) -> None:
        row, entries = found
        if self.over:
            return
        if (row.epoch, row.node) != (self.epoch, self.me):
            self.fenced()
        elif not self.node.acts_for(self.world.shard):
            self.node.later(500 * MILLISECOND, self._restore)  # The service begins once the node may act.
        else:
            self.world.take_over(self, entries)
            if self._done is not None:
                self._leave()

    def append(self, first: int, datas: tuple[bytes, ...], life: int) -> None:
        """Append records, and try again until it is known what has become of them."""
        me, shard, epoch, journal = self.me, self.world.shard, self.epoch, self.journal
        if self.over or not journal.is_of(life):
            return
        self.node.ask(
            lambda table: table.append(me, shard, epoch, first, datas),
            lambda answer: self.world.when_thawed(journal.appended_at, first + len(datas), life, answer),
            lambda: self.append(first, datas, life),
        )

    @property
    def journal(self) -> ShardJournal:
        """The journal of the shard."""
        journal = self.world.journal
        assert isinstance(journal, ShardJournal)
        return journal

    @property
    def stored(self) -> tuple[int, int]:
        """The epoch of the owner, and the number below which its records are durable."""
        serves = self.world.service is self and self.world.host.up
        return self.epoch, self.journal.base + self.journal.count if serves else 0

    @property
    def heals(self) -> bool:
        """Whether a heal is under way."""
        return self._healing

    @property
    def serves(self) -> bool:
        """Whether the owner is well, and serves the shard."""
        well = not self.node.cut and self.node.acts_for(self.world.shard)
        return well and not self.over and self._done is None

    def when_stored(self) -> None:
        """End the service, if it stops and all records are stored."""
        if self._done is not None and not self.journal.waits and not self.over:
            self.over = True
            self._done()

    def stop(self, done: Callable[[], None]) -> None:
        """Close the connections, and store all records."""
        self._done = done
        if self.world.service is self:
            self._leave()

    def _leave(self) -> None:
        if self._healing:
            return  # It leaves once it is healed.
        self.world.leave_host()
        self.journal.store_rest()
        self.when_stored()

    def kill(self) -> None:
        """End at once."""
        self.over = True
        if self.world.service is self:
            self.world.leave_host()

    def fenced(self) -> None:
        """Give the shard up, since an append was refused."""
        self.node.fenced(self.world.shard, self.epoch)
        self.kill()

    def thaw(self) -> None:
        """Continue, since the node may act again."""
        if self.world.service is self:
            self.world.thaw()

    def heal(self, order: Heal) -> None:
        """Write a snapshot of everything again, under a new epoch; a later reading asks again if it waits."""
        world = self.world
        if self.over or self._healing or world.service is not self or not world.host.up or world.frozen:
            return
        world.host.take()
        self._healing, count = True, self.journal.begin_heal()
        snapshot = [encode_record(record) for record in world.host.runtime.snapshot()]
        me, epoch, version = self.me, self.epoch, self.node.record_version
        entries = tuple(Entry(number, epoch + 1, me, data) for number, data in enumerate(snapshot))
        self.node.ask(
            lambda table: table.heal(me, order, epoch, entries, version),
            lambda row: world.when_thawed(self._healed, row, snapshot, count),
            lambda: world.when_thawed(self._healed, None, snapshot, count),
        )

    def _healed(self, row: ShardRow | None, snapshot: list[bytes], count: int) -> None:
        """Take the answer of a heal: without one, a reading or the next append says what is to be done."""
        if self.over:
            return
        self._healing = False
        if row is None:
            self.journal.give_heal_up()
            return
        self.epoch = row.epoch
        self.world.count("healed")
        self.world.cluster.note(self.me, f"has healed {self.world.shard}: {row}")
        self.node.healed(self.world.shard, row.epoch)
        self.journal.end_heal(snapshot, count)
        if self._done is not None:
            self._leave()
