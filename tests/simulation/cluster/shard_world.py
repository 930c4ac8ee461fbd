"""One shard with real clients and a real runtime, which moves from node to node.

A `World` of the simulation, with its clients, agents and checks, is the world of one shard. Its host is the
runtime on the present owner; its journal appends to the table of the store. While the owner is paused, or may
not act, messages for the runtime wait, and clients get no answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto import Connection, Framing
from arcp_proto.engine.output import Output, SessionLost
from arcp_proto.ids import MILLISECOND, SECOND
from arcp_proto.server.journal.records import Record, decode_record, encode_record
from arcp_proto.server.runtime import Runtime

from .. import bounds
from ..agents import Agents
from ..broken import ensure
from ..honest import Honest
from ..host import Host, ServerEnd
from ..journal import Journal
from ..network import Link, Socket
from ..plan import Move, Plan
from ..world import MOVES, World
from .table import Contents
from .writer import Writer

if TYPE_CHECKING:
    from .cluster import Cluster
    from .node import Node

LEFT_OUT: Final = ("crash", "hand_over", "slow_disk", "step_clock")
"""Moves of a world that are left out, since its nodes and its store do the same by themselves.

A node that dies or is paused is a `crash`, and one that drains or has too many shards is a `hand_over`: both
need another owner, which such a move does not have. A store that is slow or down is a `slow_disk`. The wall
clock of a shard is that of all its owners: `step_clock` would set the clocks of nodes that do not own it.
"""
COMPACTS: Final = 2
"""The percentage of moves after which a shard is compacted, besides the moves that do."""
GUEST: Final = "dave"
"""The principal of another tenant; a shard has one client of it, or none."""
GUEST_RIGHTS: Final = {"alice": "observe", "bob": "list"}
RELABELS: Final = 10
"""The percentage of resumes in which a raw client shows its token with the label of another shard."""
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
        self.tenant = f"t{shard}"
        self.config = msgspec.structs.replace(
            self.config, label=f"s{shard}", **self._rights_of(self.config.observers)
        )
        self.up = False
        self._first = True
        self._draining = False

    def _rights_of(self, observers: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """Return rights as those within the tenant and those of guests, as nodes divide them."""
        given = {viewer: dict(owners) for viewer, owners in observers.items()}
        guests = {GUEST: {self.tenant: given.pop(GUEST)}} if GUEST in given else {}
        return {"observers": given, "guests": guests}

    def set_observers(self, observers: dict[str, dict[str, str]]) -> None:
        """Change the rights of observers and of guests."""
        world, rights = self.world, self._rights_of(observers)
        world.works.grant(observers)
        self.config = msgspec.structs.replace(self.config, **rights)
        if self.up:
            self.runtime.observers_set(rights["observers"], rights["guests"], now=self.now)
            self.take()

    def accept(self, link: Link, lines: bool, honest: bool, guest: bool) -> None:
        framing = Framing.LINES if lines else Framing.MESSAGES
        connection: Connection = self.runtime.connect(
            framing,
            secure=self.world.options.credentials,
            tenant=self.tenant,
            guest=guest,
            now=self.now,
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

    def hand_over_within(self, drain: int) -> None:
        """Hand over to the next owner once no agent runs; agents get a time, in nanoseconds."""
        if not self._draining:
            self._draining = True
            self.world.count("hand over")
        until = self.world.now + drain
        self.world.truth.drained_at = min(until, self.world.truth.drained_at or until)
        self.runtime.hand_over(drain / SECOND, now=self.now)
        self.take()

    def _handed_over(self, life: int) -> None:
        assert isinstance(self.world, ShardWorld)
        if life == self.life and self.up and self.world.service is not None:
            self.world.service.handed_over()

    def keep_made(self) -> None:
        """Give the records of the runtime to the journal; the rest of its output is carried out later."""
        output = self.runtime.take()
        if output.records:
            self.world.journal.append(output.records)
        assert isinstance(self.world, ShardWorld)
        self.world.when_thawed(self.carry_out, output._replace(records=()))

    def compact(self) -> None:
        """Give the store a snapshot, which has to restore the same state as all records (I3)."""
        assert isinstance(self.world, ShardWorld)
        service = self.world.service
        if not self.up or service is None or service.writer is None or self._settling or self.world.frozen:
            return
        self.take()
        if self.up and not service.over:
            service.give_snapshot(service.writer)

    def snapshot(self, records: Sequence[Record]) -> list[bytes]:
        """Return a snapshot of the runtime, which has to restore the same state as its records do (I3)."""
        snapshot = self.runtime.snapshot()
        seed, now, unix = self.world.seed(), self.now, self.unix
        one = Runtime.restore(self.config, records, seed=seed, now=now, unix=unix)
        other = Runtime.restore(self.config, snapshot, seed=seed, now=now, unix=unix)
        ensure(one.snapshot() == other.snapshot(), "I3", "a snapshot restores another state")
        return [encode_record(record) for record in snapshot]

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
        self._first = self._draining = False
        world.truth.drained_at = None
        self._start()


class ShardJournal(Journal):
    """The records of a shard; `kept` has all that were ever durable, those of the present runtime from `base`
    on.
    """

    def __init__(self, world: ShardWorld) -> None:
        super().__init__(world)
        self.base = 0
        self.snapshots: dict[int, tuple[int, list[bytes]]] = {}
        """The snapshots that were made, each with the number of the first record behind it."""
        self._restored: list[bytes] = []
        """The records from which the present runtime was restored."""
        self._shard_world = world

    def append(self, records: Sequence[Record]) -> None:
        """Append records; the writer of the owner stores them."""
        super().append(records)
        service = self._shard_world.service
        if service is not None and service.writer is not None and not service.over:
            service.writer.append([data for data, _ in self._open[-len(records) :]])

    def sync(self) -> None:
        """Do nothing: the writer stores records by itself."""

    def durable(self, number: int) -> None:
        """Note that all records below a number are stored."""
        self._keep(number - self.base - self.count)

    def everything(self) -> list[Record]:
        """Return what the present runtime was restored from, and all that it has made."""
        made = [*self.kept[self.base :], *(data for data, _ in self._open)]
        return [decode_record(data) for data in (*self._restored, *made)]

    def settle(self, found: Contents) -> int:
        """Take what the next owner has read; return how many records of the last runtime are in it."""
        row = found.row
        reached = row.next - self.base - self.count
        ensure(reached >= 0, "C4", f"{-reached} durable records are lost")
        ensure(
            reached <= len(self._open),
            "C3",
            f"{reached} records are stored, but only {len(self._open)} were made",
        )
        start, snapshot = self.snapshots[row.generation] if row.generation else (0, [])
        ensure(
            (row.start, list(found.snapshot)) == (start, snapshot),
            "C3",
            f"the stored snapshot differs from that which the runtime made: {row}",
        )
        made = [*self.kept, *(data for data, _ in self._open[:reached])]
        ensure(
            list(found.behind) == made[start:],
            "C3",
            "the stored records differ from those that the runtime made",
        )
        self._keep(reached)
        count, self.count, self.base = self.count, 0, row.next
        self._restored = found.datas
        self._open.clear()
        self._ends.clear()
        self._life += 1
        return count

    def records(self) -> list[Record]:
        return [decode_record(data) for data in self._restored]


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

    def take_over(self, service: ShardService, found: Contents) -> None:
        """Serve the shard on another owner, which has read all records."""
        if self.service is not None:
            self.service.over = True
        self.leave_host()
        durable = self.journal.settle(found)
        self.service = service
        self.host.come_up(durable)

    def leave_host(self) -> None:
        """End the runtime on this owner."""
        self.host.go_down()
        self._waiting.clear()

    def dial(self, client: Socket | None, lines: bool, *, honest: bool, guest: bool = False) -> Link | None:
        given_away = self.service is not None and self.service.given_away
        return None if self.frozen or given_away else super().dial(client, lines, honest=honest, guest=guest)

    def relabelled(self, token: str) -> str:
        """Return a token, now and then with the label of another shard, which makes it invalid (C7)."""
        if token.startswith("rt_s") and self.chance(RELABELS):
            return f"rt_s{(self.shard + 1) % self.cluster.shards}.{token.rpartition('.')[2]}"
        return token

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
        if move.kind == "observers":
            self.set_observers(move)
        else:
            MOVES[move.kind](self, move)
        if self.chance(COMPACTS):
            self.host.compact()
        if self.host.up and not self.frozen:
            bounds.check(self.host)
            self.ledger.check_stopped()
            self.deadlines.check()
            self._check_guests()

    def _check_guests(self) -> None:
        """Check that a guest has no session while it has no right (I9)."""
        for session in self.host.state.sessions.values():
            revoked = session.guest and self.works.is_revoked(session.principal)
            ensure(not revoked, "I9", f"{session.id} of {session.principal} goes on without a right")

    def set_observers(self, move: Move) -> None:
        """Change rights; the guest gets its rights by half of these moves, and loses them by the others."""
        right = ("observe", "list")[move.a & 1]
        observers = ({}, {"carol": {"*": right}}, {"bob": {"alice": right}})[move.b % 3]
        guests = {GUEST: GUEST_RIGHTS} if move.c & 1 else {}
        self.host.set_observers({**observers, **guests})

    def check_loss(self, client: Honest, lost: SessionLost) -> None:
        """Check the loss of a session; a guest that has lost its rights loses its session too."""
        if client.actor.guest and lost.code == "PERMISSION_DENIED":
            self.count("guest revoked")
        else:
            super().check_loss(client, lost)

    def heal_all(self) -> None:
        """End all faults, and check that every client gets all that it has to, also a guest."""
        if any(client.actor.guest for client in self.clients):
            self.host.set_observers({GUEST: GUEST_RIGHTS})
        self._heal()

    def _all_goes(self) -> None:
        """Skip the check of the end: windows of sessions and jobs are longer than a run of many nodes."""


class ShardService:
    """The runtime of a shard on one owner, from a claim to its end."""

    def __init__(self, world: ShardWorld, node: Node, epoch: int) -> None:
        self.world = world
        self.node = node
        self.me = node.id
        self.over = False
        self.given_away = False
        self.writer: Writer | None = None
        self._epoch = epoch
        self._drain = 0
        self._done: Callable[[], None] | None = None
        self._restore()

    @property
    def idle(self) -> bool:
        """Whether the shard is served and has no unfinished job."""
        return self._is_served and not self.world.host.state.unfinished

    @property
    def used(self) -> bool:
        """Whether the shard has sessions."""
        return self._is_served and bool(self.world.host.state.sessions)

    @property
    def _is_served(self) -> bool:
        return self.world.service is self and self.world.host.up

    @property
    def serves(self) -> bool:
        """Whether the owner is well, and serves the shard."""
        well = not self.node.cut and self.node.acts_for(self.world.shard)
        return well and self._is_served and not self.over and self._done is None

    @property
    def journal(self) -> ShardJournal:
        """The journal of the shard."""
        journal = self.world.journal
        assert isinstance(journal, ShardJournal)
        return journal

    def _restore(self) -> None:
        if not self.over:
            self.node.ask(lambda table: table.read(self.world.shard), self._read, self._restore)

    def _read(self, found: Contents) -> None:
        row = found.row
        if self.over:
            return
        if (row.epoch, row.node) != (self._epoch, self.me):
            self.on_fenced()
        elif not self.node.acts_for(self.world.shard):
            self.node.later(500 * MILLISECOND, self._restore)  # The service begins once the node may act.
        else:
            self.writer = Writer(self.node, row, self)
            self.world.take_over(self, found)
            if self._done is not None:
                self._hand_over()

    def give_away(self, drain: int, done: Callable[[], None]) -> None:
        """Hand over to the next owner, and store all records; a later call may shorten the time."""
        self._drain = min(drain, self._drain) if self.given_away else drain
        self.given_away = True
        if self._done is None:
            self._done = done
        if self.writer is not None:
            self._hand_over()

    def _hand_over(self) -> None:
        self.world.when_thawed(self._begin_hand_over)

    def _begin_hand_over(self) -> None:
        if self._is_served and not self.over:
            self.world.host.hand_over_within(self._drain)

    def handed_over(self) -> None:
        """Store what the runtime has made: it has ended all connections, and no agent runs."""
        if self.writer is not None and not self.over:
            self.writer.store_rest(self._ended)

    def _ended(self) -> None:
        """Give the shard up, unless another node has taken it over while the last records were stored."""
        self.over = True
        if self.world.service is self:
            self.world.truth.handed_over()
            self.world.leave_host()
        assert self._done is not None
        self._done()

    def kill(self) -> None:
        """End at once."""
        self.over = True
        if self.writer is not None:
            self.writer.end()
        if self.world.service is self:
            self.world.leave_host()

    def thaw(self) -> None:
        """Continue, since the node may act again."""
        if self.world.service is self:
            self.world.thaw()

    def give_snapshot(self, writer: Writer) -> None:
        """Let a snapshot of everything be written; the runtime has handed out all that it has made."""
        journal, host = self.journal, self.world.host
        assert journal.base + journal.appended == writer.lane.next
        snapshot = host.snapshot(journal.everything())
        writer.compact(snapshot)

    # From the writer.

    def on_durable(self, count: int) -> None:
        """Tell the runtime what is durable, and heal the store if it went back."""
        if not self.over and self.world.service is self and self.world.host.up:
            self.journal.durable(count)
            if self.writer is not None and self.writer.needs_snapshot:
                self._heal(self.writer)
            self.world.when_thawed(self._look)

    def _look(self) -> None:
        writer, host = self.writer, self.world.host
        if self.over or writer is None or not host.up:
            return
        host.persisted(self.journal.count)

    def _heal(self, writer: Writer) -> None:
        """Give the snapshot that heals the store, also while nothing else may be carried out.

        The shard may act only once it is healed, if the store has lost its claim.
        """
        world = self.world
        if world.frozen:
            world.host.keep_made()
        else:
            world.host.take()
        if world.host.up and not self.over:
            self.give_snapshot(writer)

    def on_fenced(self) -> None:
        """Give the shard up, since another node owns it."""
        self.node.fenced(self.world.shard, self._epoch if self.writer is None else self.writer.epoch)
        self.kill()

    def on_reclaimed(self) -> None:
        """Note that the shard is claimed for a heal."""
        self.world.cluster.owned(self.world.shard)

    def on_snapshot(self, generation: int, start: int, datas: Sequence[bytes]) -> None:
        """Note a snapshot that is written under a generation."""
        self.journal.snapshots[generation] = (start, list(datas))

    def on_healed(self, snapshot: Sequence[bytes]) -> None:
        """Do nothing: the next owner reads what was written."""
