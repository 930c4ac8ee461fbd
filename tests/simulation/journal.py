"""A disk that keeps records late; a crash loses the records that are not kept, and may tear the last one.

The records of one input are atomic: a journal stores all records that are appended together, or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arcp_proto.server.journal.records import Record, decode_record, encode_record

from .broken import ensure

if TYPE_CHECKING:
    from .world import World


class Journal:
    """The records of all runtimes of a run.

    `kept` records are durable. The others are synced in groups, while the next group gathers.
    """

    def __init__(self, world: World) -> None:
        self.kept: list[bytes] = []
        self.count = 0
        """Records of the present runtime that are durable."""
        self.slow_until = 0
        self.busy_until = 0
        """When the present sync ends."""
        self._world = world
        self._open: list[tuple[bytes, Record]] = []
        self._ends: deque[int] = deque()
        """The count of records at the end of each append that is not durable."""
        self._syncing = 0
        self._life = 0

    @property
    def appended(self) -> int:
        """Records of the present runtime, durable or not."""
        return self.count + len(self._open)

    def append(self, records: Sequence[Record]) -> None:
        """Append records; the runtime is told when they are durable."""
        for record in records:
            data = encode_record(record)
            ensure(decode_record(data) == record, "I3", f"a record is decoded to another record: {record}")
            self._world.gateway.appended(data)
            self._open.append((data, record))
            self._world.told(data)
        self._ends.append(self.appended)

    def sync(self) -> None:
        """Begin to sync the records that have gathered, unless a sync is under way."""
        if not self._syncing and self._open:
            self._syncing = len(self._open)
            world = self._world
            takes = world.sync_time() + max(0, self.slow_until - world.now)
            self.busy_until = world.now + takes
            world.later(takes, self._synced, self._life)

    def keep_all(self) -> None:
        """Make all records durable."""
        self._keep(len(self._open))

    def replace(self, snapshot: Sequence[Record]) -> None:
        """Compact the journal: keep a snapshot in place of all records."""
        self.keep_all()
        self.kept = [encode_record(record) for record in snapshot]

    def crash(self) -> int:
        """Lose the records that are not durable, except for a first part of them; the last may be torn.

        Return how many records of the present runtime are durable.
        """
        place = self._world.pick(len(self._ends) + 1) if self._ends else 0
        reached = self._ends[place - 1] - self.count if place else 0
        torn = self._open[reached][0] if reached < len(self._open) else None
        self._keep(reached)
        if torn is not None and len(torn) > 1:
            piece = torn[: 1 + self._world.pick(len(torn) - 1)]
            ensure(not _readable(piece), "I3", f"a torn record is decoded: {piece!r}")
        self._open.clear()
        self._ends.clear()
        self._syncing = 0
        self._life += 1
        count, self.count = self.count, 0
        return count

    def records(self) -> list[Record]:
        """Return all durable records."""
        return [decode_record(data) for data in self.kept]

    def _synced(self, life: int) -> None:
        if life != self._life:
            return
        count, self._syncing = self._syncing, 0
        self._keep(min(count, len(self._open)))
        self._world.host.persisted(self.count)
        self.sync()

    def _keep(self, count: int) -> None:
        for data, record in self._open[:count]:
            self.kept.append(data)
            self._world.truth.durable(record)
            self._world.ledger.durable(record)
            self._world.gateway.durable(record)
        del self._open[:count]
        self.count += count
        while self._ends and self._ends[0] <= self.count:
            self._ends.popleft()
        self._syncing = max(0, self._syncing - count)


def _readable(data: bytes) -> bool:
    try:
        decode_record(data)
    except ValueError:
        return False
    return True
