"""A model of the threads that write the records and snapshots of one shard, with the real `Lane`.

It sends the statements that `arcp_io.cluster.writer` and `arcp_io.cluster.compactor` send, in the same order;
between any two of them the node may pause or die, and the store may fail over.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from arcp_io.cluster.compactor import GENERATIONS
from arcp_io.cluster.errors import StoreAway
from arcp_io.cluster.lane import Batch, Lane
from arcp_io.cluster.outcome import Claimed, Outcome, outcome
from arcp_io.cluster.rows import ShardRow
from arcp_io.journal import Fenced
from arcp_io.journal.rows import Row, pack, rows
from arcp_proto.ids import MILLISECOND

from .table import Table

if TYPE_CHECKING:
    from .node import Node

PAUSE: Final = 500 * MILLISECOND
"""The time before an append, or a heal, that has failed is tried again."""
ROWS: Final = 3
"""The most rows of a snapshot, without the empty one at its end."""

Statement: TypeAlias = Callable[[Table], Any]
Work: TypeAlias = Generator[Statement, Any, None]
"""Statements one after the other; each yields its answer, or raises StoreAway."""


class Owner(Protocol):
    """The one whose records are written."""

    def on_durable(self, count: int) -> None:
        """Take the number below which all records are durable; a snapshot may be due."""

    def on_fenced(self) -> None:
        """End, since another node owns the shard."""

    def on_reclaimed(self) -> None:
        """Note that the statement was carried out which claims the shard for a heal."""

    def on_snapshot(self, generation: int, start: int, datas: Sequence[bytes]) -> None:
        """Note that a snapshot is written under a generation, for all records below a number."""

    def on_healed(self, snapshot: Sequence[bytes]) -> None:
        """Note that the statement was carried out which lets a snapshot stand for everything."""


class Snapshot(NamedTuple):
    """A snapshot that stands for all records below `start`."""

    start: int
    datas: tuple[bytes, ...]
    heals: bool


class Writer:
    """Stores the records of one shard on one owner, replaces them by snapshots, and heals a store."""

    def __init__(self, node: Node, row: ShardRow, owner: Owner) -> None:
        """Take the row of the shard, as its owner has read it; the node owns it."""
        self._node = node
        self._owner = owner
        self.over = False
        self.lane = lane = Lane(row.shard, node.id, row.epoch, _nothing, _nothing)
        lane.next = lane.stored = row.next
        lane.generation, lane.record_version = row.generation, node.record_version
        self._sends = False
        self._snapshot: Snapshot | None = None
        self._writing = False
        """Whether the snapshot is being written."""
        self._rest: Callable[[], None] | None = None

    # For the owner.

    @property
    def epoch(self) -> int:
        """The epoch under which records are stored."""
        return self.lane.mine.epoch

    @property
    def heals(self) -> bool:
        """Whether a heal is due, or under way."""
        return self.lane.healing

    @property
    def needs_snapshot(self) -> bool:
        """Whether the store has to be healed by a snapshot that was not brought yet."""
        return self.lane.healing and self._snapshot is None and not self.over

    def owns(self, epoch: int) -> bool:
        """Return whether an epoch of the node is that of the lane, or of a heal under way."""
        return epoch == self.epoch or self.lane.mine.heals_under(epoch)

    def append(self, datas: Sequence[bytes]) -> None:
        """Store records."""
        size = sum(map(len, datas))
        self.lane.waiting.append(Batch(datas, size))
        self.lane.waiting_bytes += size
        self.lane.next += len(datas)
        self._send()

    def compact(self, snapshot: Sequence[bytes]) -> None:
        """Replace all records so far by a snapshot, unless there is one under way."""
        if self._snapshot is None and not self.over:
            self.lane.cut = self.lane.next
            self._snapshot = Snapshot(self.lane.next, tuple(snapshot), self.lane.healing)
            self._begin_snapshot()

    def heal(self) -> None:
        """Ask for a snapshot, since the store lacks what was durable."""
        if self.lane.idle and not self.lane.healing and not self.over:
            self._need_heal()

    def store_rest(self, done: Callable[[], None]) -> None:
        """Call `done` once the store has all records, and no snapshot is being written."""
        self._rest = done
        self._store_rest()

    def end(self) -> None:
        """Store nothing more."""
        self.over = True

    # Appends.

    def _send(self) -> None:
        """Append what waits, unless an append is under way."""
        lane = self.lane
        if self.over or self._sends or not lane.has_work:
            return
        self._sends = True
        if lane.unsure:
            self._look()
            return
        if lane.flight is None:
            lane.fly(lane.take())
        flight, mine, me = lane.flight, lane.mine, self._node.id
        assert flight is not None
        rows = [(mine, lane.shard, flight)]
        self._node.ask(lambda table: table.append(me, rows), self._appended, self._away)

    def _appended(self, shards: set[int]) -> None:
        if self.over:
            return
        if self.lane.shard in shards:
            self._landed()
        else:
            self._look()

    def _away(self) -> None:
        """Try again later: the row may be stored or not."""
        if not self.over:
            self.lane.unsure = True
            self._again()

    def _again(self) -> None:
        self._node.later(PAUSE, self._unblock)

    def _unblock(self) -> None:
        self._sends = False
        self._send()

    def _landed(self) -> None:
        self._sends = False
        self.lane.landed()
        self._owner.on_durable(self.lane.stored)
        self._begin_snapshot()
        self._send()
        self._store_rest()

    def _look(self) -> None:
        """Read the row of the shard, since an append was not confirmed."""
        shard = self.lane.shard
        self._node.ask(lambda table: table.read_shards([shard])[0], self._looked, self._away)

    def _looked(self, row: ShardRow) -> None:
        lane, flight = self.lane, self.lane.flight
        if self.over:
            return
        if flight is None:  # A heal has stored its records.
            self._unblock()
            return
        end, mine = flight.first + flight.span, lane.mine
        silent = self._silent_owner(row) is not None
        match outcome(mine, flight.first, flight.span, row, silent=silent):
            case Outcome.STORED:
                self._node.ask(
                    lambda table: table.confirm(lane.shard, mine, end), self._confirmed, self._away
                )
            case Outcome.AGAIN:
                lane.unsure = False
                self._unblock()
            case Outcome.HEAL:
                self._sends = False
                self._need_heal()
            case Outcome.WAIT:
                self._away()
            case Outcome.FENCED:
                self._fenced()

    def _confirmed(self, confirmed: bool) -> None:
        if self.over:
            return
        if confirmed:
            self._landed()
        else:
            self._away()

    def _silent_owner(self, row: ShardRow) -> tuple[str, int] | None:
        if row.node is None or row.node == self._node.id:
            return None
        beat = self._node.ownership.dead_beat(row.node)
        return None if beat is None else (row.node, beat)

    def _need_heal(self) -> None:
        self.lane.healing = True
        self._node.cluster.note(self._node.id, f"has to heal {self.lane.shard}")
        self._begin_snapshot()
        self._owner.on_durable(self.lane.stored)

    def _fenced(self) -> None:
        self.over = True
        self.lane.fail(Fenced())
        self._owner.on_fenced()

    # Snapshots.

    def _begin_snapshot(self) -> None:
        """Write the snapshot once all records before it are stored; give it up if they have to be healed."""
        snapshot = self._snapshot
        if snapshot is None or self._writing or self.over:
            return
        if self.lane.healing and not snapshot.heals:
            self._snapshot = None
        elif snapshot.heals or self.lane.stored >= snapshot.start:
            self._writing = True
            self._step(self._heal(snapshot) if snapshot.heals else self._compact(snapshot), None)

    def _step(self, work: Work, answer: Any) -> None:
        """Send the next statement; an exception as `answer` is raised by the statement before."""
        if self.over:
            return
        try:
            statement = work.throw(answer) if isinstance(answer, Exception) else work.send(answer)
        except (StopIteration, StoreAway):
            self._written()
            return
        self._node.ask(
            statement,
            lambda found: self._step(work, found),
            lambda: self._step(work, StoreAway("no answer")),
        )

    def _written(self) -> None:
        """Go on after a snapshot that stands, or does not; one that heals is tried again after a pause."""
        self._snapshot, self._writing = None, False
        if self.over:
            return
        if self.lane.healing:
            self._node.later(PAUSE, self._report)
        else:
            self._report()
            self._send()
            self._store_rest()

    def _report(self) -> None:
        if not self.over:
            self._owner.on_durable(self.lane.stored)

    def _compact(self, snapshot: Snapshot) -> Work:
        lane, mine = self.lane, self.lane.mine
        generation, count = self._next_generation(mine, snapshot), 0
        for row in _rows_of(snapshot):
            if self._rest is not None or lane.healing:
                return  # It is given up.
            if not (yield from self._add(mine, generation, row)):
                return
            count += 1
        stands = yield lambda table: table.complete_compaction(
            lane.shard, mine, generation, count, snapshot.start
        )
        if stands:
            self._node.cluster.count("compacted")

    def _add(self, mine: Claimed, generation: int, row: Row) -> Generator[Statement, Any, bool]:
        added: bool = yield lambda table: table.add_kept(self.lane.shard, mine, generation, row)
        return added

    def _next_generation(self, mine: Claimed, snapshot: Snapshot) -> int:
        self.lane.generation = max(self.lane.generation + 1, mine.epoch * GENERATIONS)
        self._owner.on_snapshot(self.lane.generation, snapshot.start, snapshot.datas)
        return self.lane.generation

    def _heal(self, snapshot: Snapshot) -> Work:
        """Claim the shard under a new epoch, and write everything."""
        lane, start = self.lane, snapshot.start
        row = yield lambda table: table.read_shards([lane.shard])[0]
        silent = self._silent_owner(row)
        judged = outcome(lane.mine, lane.stored, 0, row, silent=silent is not None)
        if judged is Outcome.FENCED:
            self._fenced()
        if judged in (Outcome.FENCED, Outcome.WAIT):
            return
        if (row.epoch, row.next) == (lane.mine.healing, lane.heal_start):
            mine = Claimed(lane.mine.node, row.epoch)
            if (yield lambda table: table.confirm(lane.shard, mine, row.next)):
                self._healed(mine.epoch, row.next)
            return
        mine = Claimed(lane.mine.node, max(row.epoch, lane.mine.epoch, lane.mine.healing) + 1)
        lane.mine = lane.mine._replace(healing=mine.epoch)
        owner, beat = silent or (None, 0)
        if not (yield self._reclaim(row, mine, owner, beat)):
            return
        lane.generation = max(lane.generation, row.generation)
        generation, count = self._next_generation(mine, snapshot), 0
        for kept in _rows_of(snapshot):
            if not (yield from self._add(mine, generation, kept)):
                return
            count += 1
        lane.heal_start = start

        def complete(table: Table) -> bool:
            healed = table.complete_heal(lane.shard, mine, generation, count, start)
            if healed:
                self._owner.on_healed(snapshot.datas)
            return healed

        if (yield complete):
            self._healed(mine.epoch, start)

    def _reclaim(self, row: ShardRow, mine: Claimed, owner: str | None, beat: int) -> Statement:
        def reclaim(table: Table) -> bool:
            done = table.reclaim(row, mine, self.lane.record_version, owner, beat)
            if done:
                self._node.cluster.note(mine.node, f"claims {row.shard} for a heal: {mine.epoch}")
                self._owner.on_reclaimed()
            return done

        return reclaim

    def _healed(self, epoch: int, number: int) -> None:
        self.lane.healed(epoch, number)
        self._node.cluster.note(self._node.id, f"has healed {self.lane.shard}: epoch {epoch}, {number}")
        self._node.cluster.count("healed")

    # The end.

    def _store_rest(self) -> None:
        """Look whether the store has all records, once they seem to be stored."""
        lane = self.lane
        if self._rest is None or self.over or not lane.idle or lane.healing or self._writing or self._sends:
            return
        self._snapshot, self._sends = None, True
        number, mine = lane.next, lane.mine
        self._node.ask(
            lambda table: table.confirm(lane.shard, mine, number), self._rest_confirmed, self._rest_unknown
        )

    def _rest_confirmed(self, confirmed: bool) -> None:
        if self.over:
            return
        self._sends = False
        if not confirmed:
            self._need_heal()
        elif self.lane.idle and self._rest is not None:
            self.over = True
            self._rest()
        else:
            self._send()

    def _rest_unknown(self) -> None:
        if not self.over:
            self._node.later(PAUSE, self._rest_again)

    def _rest_again(self) -> None:
        self._sends = False
        self._send()
        self._store_rest()


def _rows_of(snapshot: Snapshot) -> list[Row]:
    """Return the rows of a snapshot, with the empty one at its end."""
    size = sum(map(len, snapshot.datas))
    return [*rows(snapshot.datas, size // ROWS + 1), pack(len(snapshot.datas), ())]


def _nothing(_: object) -> None:
    """Take no report: the owner of the model has its own methods."""
