"""A service that makes records of one shard and tells its readers of them once they are durable."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from arcp_io.cluster.decisions import Heal
from arcp_io.cluster.rows import ShardRow
from arcp_proto.ids import MILLISECOND, SECOND

from ..broken import ensure
from .table import Appended, Entry, Table

if TYPE_CHECKING:
    from .cluster import Cluster
    from .node import Node

BETWEEN: Final = 800 * MILLISECOND
"""The longest time between two turns of a scribe."""

HEAL_PAUSE: Final = 500 * MILLISECOND
"""The time before a heal that the store did not take is tried again."""


class Scribe:
    """The service of one shard, from a claim to its end, in place of a runtime."""

    def __init__(self, cluster: Cluster, node: Node, shard: int, epoch: int) -> None:
        self.idle = not cluster.busy[shard]
        self.used = shard % 2 == 0
        self._cluster = cluster
        self._node = node
        self._shard = shard
        self._epoch = epoch
        self._me = node.id
        self._entries: list[Entry] = []
        """The records that the scribe knows to be durable."""
        self._open: list[bytes] = []
        self._writing = 0
        """The number of the open records in the append that is under way."""
        self._appends = 0
        """The number of appends so far: answers of appends before the last one are ignored."""
        self._untold: list[tuple[int, bytes]] = []
        """The durable records that were not told, since the node might not act."""
        self._over = False
        self._healing = False
        self._restored = False
        self._done: Callable[[], None] | None = None
        self._restore()

    def stop(self, done: Callable[[], None]) -> None:
        """Store all records, then call `done`."""
        self._done = done
        self._write()

    def kill(self) -> None:
        """End at once."""
        self._over = True

    def thaw(self) -> None:
        """Ignore that the node may act again: the next turn notices that."""

    @property
    def heals(self) -> bool:
        """False: a scribe that loses its shard while it heals loses no record, since one statement heals."""
        return False

    @property
    def stored(self) -> tuple[int, int]:
        """The epoch of the scribe, and how many of its records are durable."""
        return self._epoch, self._number

    # Its beginning.

    def _restore(self) -> None:
        if not self._over:
            shard = self._shard
            self._node.ask(lambda table: table.read(shard), self._read, self._restore)

    def _read(self, found: tuple[ShardRow, tuple[Entry, ...]]) -> None:
        row, entries = found
        if self._over:
            return
        if (row.epoch, row.node) != (self._epoch, self._me):
            self._fenced()
            return
        self._cluster.check_read(self._shard, entries)
        self._entries, self._restored = list(entries), True
        self._node.later(self._cluster.pick(BETWEEN), self._turn)
        self._write()

    # Turns.

    def _turn(self) -> None:
        """Make some records, if the node may act."""
        cluster = self._cluster
        if self._over or self._done is not None:
            return
        self.idle = not cluster.busy[self._shard]
        if self._node.acts_for(self._shard):
            cluster.count("acted")
            self._tell()
            for _ in range(1 + cluster.pick(3)):
                self._open.append(cluster.content())
                if cluster.tells_at_once:
                    cluster.tell(self._shard, self._number + len(self._open) - 1, self._open[-1])
            self._write()
        self._node.later(cluster.pick(BETWEEN), self._turn)

    @property
    def _number(self) -> int:
        return len(self._entries)

    def _write(self) -> None:
        """Append all records that wait, unless an append is under way."""
        if self._over or self._writing or self._healing or not self._restored:
            return
        if not self._open:
            if self._done is not None:
                self._over = True
                self._done()
            return
        self._appends += 1
        self._send(self._appends)

    def _send(self, append: int) -> None:
        """Send an append, or send it again, unless another has taken its place since a heal."""
        if self._over or append != self._appends:
            return
        me, shard, epoch, first = self._me, self._shard, self._epoch, self._number
        self._writing = self._writing or len(self._open)
        datas = tuple(self._open[: self._writing])
        self._node.ask(
            lambda table: table.append(me, shard, epoch, first, datas),
            lambda appended: self._appended(append, appended, first + len(datas)),
            lambda: self._send(append),
        )

    def _appended(self, append: int, appended: Appended, end: int) -> None:
        """Take the answer of an append, or of one that was sent again since its answer was lost."""
        row = appended.row
        if self._over or self._healing or append != self._appends:
            return
        if (row.epoch, row.node) == (self._epoch, self._me):
            if row.next == end:
                self._keep()
            elif row.next < self._number:
                self.heal(Heal(self._shard, row.epoch, None, 0))
            else:
                ensure(
                    row.next == self._number, "C2", f"the row is {row}, but its owner has records to {end}"
                )
                self._send(append)
        elif row.epoch <= self._epoch and row.node in (None, self._me):
            self.heal(Heal(self._shard, row.epoch, None, 0))
        elif row.epoch <= self._epoch and self._done is None and self._node.holds(self._shard, self._epoch):
            # The store went back: a reading shows whether the node of the row lives.
            self._node.later(SECOND, self._send, append)
        else:
            self._fenced()

    def _keep(self) -> None:
        for data in self._open[: self._writing]:
            self._entries.append(Entry(self._number, self._epoch, self._me, data))
            if not self._cluster.tells_at_once:
                self._untold.append((self._number - 1, data))
        del self._open[: self._writing]
        self._writing = 0
        if self._node.acts_for(self._shard):
            self._tell()
        self._write()

    def _tell(self) -> None:
        """Tell the readers of the durable records, since the node may act."""
        untold, self._untold = self._untold, []
        for number, data in untold:
            self._cluster.tell(self._shard, number, data)

    def _fenced(self) -> None:
        self._over = True
        self._node.fenced(self._shard, self._epoch)

    # Healing.

    def heal(self, order: Heal) -> None:
        """Write all known records again, under a new epoch."""
        if self._over or self._healing or not self._restored:
            return
        self._healing = True
        me, epoch, entries = self._me, self._epoch, tuple(self._entries)

        def statement(table: Table) -> ShardRow | None:
            row = table.heal(me, order, epoch, entries, self._node.record_version)
            if row is not None:
                self._cluster.healed(self._shard, entries)
            return row

        self._node.ask(statement, self._healed, self._try_again)

    def _try_again(self) -> None:
        """Append the records that wait, if there are any: the answer, or a reading, decides what follows."""
        if self._over:
            return
        self._healing = False
        self._writing = 0
        self._write()

    def _healed(self, row: ShardRow | None) -> None:
        if self._over:
            return
        if row is None:
            self._node.later(HEAL_PAUSE, self._try_again)
            return
        self._healing = False
        self._cluster.count("healed")
        self._cluster.note(self._me, f"has healed {self._shard}: {row}")
        self._epoch = row.epoch
        self._writing = 0
        self._node.healed(self._shard, row.epoch)
        self._write()
