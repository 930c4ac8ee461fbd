"""A service that makes records of one shard and tells its readers of them once they are durable.

The snapshot of a scribe has every record that it replaces, so that its readers see the same as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from arcp_proto.ids import MILLISECOND

from ..broken import ensure
from .table import Contents
from .writer import Writer

if TYPE_CHECKING:
    from .cluster import Cluster
    from .node import Node

BETWEEN: Final = 800 * MILLISECOND
"""The longest time between two turns of a scribe."""
COMPACTS: Final = 6
"""The percentage of turns in which a scribe compacts its records."""


class Scribe:
    """The service of one shard, from a claim to its end, in place of a runtime."""

    def __init__(self, cluster: Cluster, node: Node, shard: int, epoch: int) -> None:
        self.used = shard % 2 == 0
        self.given_away = False
        self._cluster = cluster
        self._node = node
        self._shard = shard
        self._epoch = epoch
        self._me = node.id
        self._datas: list[bytes] = []
        """All records, durable or not."""
        self._told = 0
        """The number of the records that readers were told."""
        self._writer: Writer | None = None
        self._over = False
        self._leaves = False
        self._done: Callable[[], None] | None = None
        self._restore()

    @property
    def idle(self) -> bool:
        """Whether the shard is served and has no unfinished job."""
        return self._writer is not None and not self._cluster.busy[self._shard]

    def give_away(self, drain: int, done: Callable[[], None]) -> None:
        """Make no more records when the jobs have ended or time is over, and call `done` after the last."""
        self.given_away = True
        if self._done is None:
            self._done = done
        self._node.later(drain if self._cluster.busy[self._shard] else 0, self._leave)

    def kill(self) -> None:
        """End at once."""
        self._over = True
        if self._writer is not None:
            self._writer.end()

    def thaw(self) -> None:
        """Ignore that the node may act again: the next turn notices that."""

    @property
    def writer(self) -> Writer | None:
        """The writer of the records, once they are restored."""
        return self._writer

    # Its beginning.

    def _restore(self) -> None:
        if not self._over:
            shard = self._shard
            self._node.ask(lambda table: table.read(shard), self._read, self._restore)

    def _read(self, found: Contents) -> None:
        row = found.row
        if self._over:
            return
        if (row.epoch, row.node) != (self._epoch, self._me):
            self.on_fenced()
            return
        if not self._node.acts_for(self._shard):  # The node was paused, so that these may be of long ago.
            self._node.later(self._cluster.pick(BETWEEN), self._restore)
            return
        self._datas = found.datas
        ensure(
            len(found.snapshot) == row.start,
            "C2",
            f"the snapshot has {len(found.snapshot)} records, and its shard is {row}",
        )
        self._cluster.check_read(self._shard, self._datas)
        self._told = len(self._datas)
        self._writer = Writer(self._node, row, self)
        if self._done is not None:
            self._leave()
        else:
            self._node.later(self._cluster.pick(BETWEEN), self._turn)

    # Turns.

    def _turn(self) -> None:
        """Make some records, if the node may act."""
        cluster, writer = self._cluster, self._writer
        if self._over or self._leaves or writer is None:
            return
        if self._node.acts_for(self._shard):
            cluster.count("acted")
            self._tell()
            made = [cluster.content() for _ in range(1 + cluster.pick(3))]
            if cluster.tells_at_once:
                for place, data in enumerate(made):
                    cluster.tell(self._shard, len(self._datas) + place, data)
            self._datas += made
            writer.append(made)
            if cluster.chance(COMPACTS):
                writer.compact(self._datas)
        self._node.later(cluster.pick(BETWEEN), self._turn)

    def _tell(self) -> None:
        """Tell the readers of the durable records, since the node may act."""
        assert self._writer is not None
        while self._told < self._writer.lane.stored:
            if not self._cluster.tells_at_once:
                self._cluster.tell(self._shard, self._told, self._datas[self._told])
            self._told += 1

    def _leave(self) -> None:
        if not self._over and self._writer is not None:
            self._leaves = True
            self._writer.store_rest(self._ended)

    def _ended(self) -> None:
        self._over = True
        assert self._done is not None
        self._done()

    # From the writer.

    def on_durable(self, count: int) -> None:
        """Tell the readers of what is durable, and heal the store if it went back."""
        writer = self._writer
        if self._over or writer is None:
            return
        if self._node.acts_for(self._shard):
            self._tell()
        if writer.needs_snapshot:
            writer.compact(self._datas)

    def on_fenced(self) -> None:
        """End, since another node owns the shard."""
        epoch = self._epoch if self._writer is None else self._writer.epoch
        self._over = True
        self._node.fenced(self._shard, epoch)

    def on_reclaimed(self) -> None:
        """Note that the shard is claimed for a heal."""
        self._cluster.owned(self._shard)

    def on_snapshot(self, generation: int, start: int, datas: Sequence[bytes]) -> None:
        """Do nothing: the snapshot of a scribe has the records that it replaces."""

    def on_healed(self, snapshot: Sequence[bytes]) -> None:
        """Note that the records are written again."""
        self._cluster.healed(self._shard, list(snapshot))
