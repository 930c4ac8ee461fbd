"""A disk: it keeps records late, and a crash takes what it has not kept, and may tear the last.

What one input decides is atomic: a journal stores the records that are appended together, or none of them.
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
    """The records of one runtime after another.

    `kept` is durable. What was appended after it is not: it is synced in groups, while the next one gathers.
    """

    def __init__(self, world: World) -> None:
        self.kept: list[bytes] = []
        self.count = 0
        """Records of the present runtime that are kept."""
        self.slow_until = 0
        self.busy_until = 0
        """The write that is under way takes so long."""
        self._world = world
        self._open: list[tuple[bytes, Record]] = []
        self._ends: deque[int] = deque()
        """The count of records at the end of each append that is not kept."""
        self._syncing = 0
        self._life = 0

    @property
    def appended(self) -> int:
        """Records of the present runtime, kept or not."""
        return self.count + len(self._open)

    def append(self, records: Sequence[Record]) -> None:
        """Take records; the world is told when they are kept."""
        for record in records:
            data = encode_record(record)
            ensure(decode_record(data) == record, "I3", f"a record does not survive being written: {record}")
            self._world.gateway.appended(data)
            self._open.append((data, record))
            self._world.told(data)
        self._ends.append(self.appended)

    def sync(self) -> None:
        """Begin to keep what has gathered, if nothing is under way."""
        if not self._syncing and self._open:
            self._syncing = len(self._open)
            world = self._world
            takes = world.sync_time() + max(0, self.slow_until - world.now)
            self.busy_until = world.now + takes
            world.later(takes, self._synced, self._life)

    def keep_all(self) -> None:
        """Everything is durable now."""
        self._keep(len(self._open))

    def replace(self, snapshot: Sequence[Record]) -> None:
        """Compact: keep this in place of all that was appended."""
        self.keep_all()
        self.kept = [encode_record(record) for record in snapshot]

    def crash(self) -> int:
        """Lose what was not kept, but for a part that the disk has got to; the last may be torn.

        Return how many records of the present runtime are kept.
        """
        place = self._world.pick(len(self._ends) + 1) if self._ends else 0
        reached = self._ends[place - 1] - self.count if place else 0
        torn = self._open[reached][0] if reached < len(self._open) else None
        self._keep(reached)
        if torn is not None and len(torn) > 1:
            piece = torn[: 1 + self._world.pick(len(torn) - 1)]
            ensure(not _readable(piece), "I3", f"a torn record is read: {piece!r}")
        self._open.clear()
        self._ends.clear()
        self._syncing = 0
        self._life += 1
        count, self.count = self.count, 0
        return count

    def records(self) -> list[Record]:
        """All that is kept."""
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
