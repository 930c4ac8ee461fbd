"""The thread that writes snapshots to the store: to replace records, or to heal a store that went back."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from arcp_io.journal.protocol import Amount, Fenced, JournalFailed
from arcp_io.journal.rows import ROW_BYTES, Row, pack, rows

from . import statements
from .connection import Connection, Db
from .errors import StoreError
from .lane import Lane
from .outcome import Claimed, Outcome, outcome
from .writer import Writer

logger = logging.getLogger("arcp_io")

GENERATIONS: Final = 1 << 20
"""The number of generations under one epoch; each attempt of a compaction has one of its own."""
HEAL_PAUSE: Final = 0.5
"""Seconds before a heal that failed is tried again."""

Compacted = Callable[[Amount | None], object]
"""Called with the size of a snapshot when it stands, or with None if it does not."""


class _Given(Exception):
    """A snapshot whose journal is closed, or whose shard is not ours, is given up."""


class Compaction(NamedTuple):
    """A snapshot that stands for all records of a lane below `start`."""

    lane: Lane
    start: int
    snapshot: Iterable[bytes]
    compacted: Compacted
    heals: bool


class Compactor:
    """Writes one snapshot after another, in rows of ROW_BYTES or more, each in a transaction of its own.

    The last transaction makes the snapshot valid and deletes what it replaces. A failure before that leaves
    the journal unchanged; the rows of such a generation are deleted by the next compaction of the shard.
    """

    def __init__(self, connection: Connection, writer: Writer) -> None:
        self._connection = connection
        self._writer = writer
        self._queue: deque[Compaction] = deque()
        self._current: Compaction | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    def add(self, compaction: Compaction) -> None:
        """Write a snapshot as soon as all records below its start are stored; called with the lock held."""
        self._queue.append(compaction)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="arcp-io compaction", daemon=True)
            self._thread.start()
        self._writer.condition.notify_all()

    def give_up(self, lane: Lane) -> None:
        """Give the compaction of a lane up, and wait until it has stopped. Blocks."""
        with self._writer.condition:
            lane.closing = True
            self._writer.condition.notify_all()
            while self._has(lane):
                self._writer.condition.wait()

    def close(self) -> None:
        """Give all compactions up, and end the thread. Calling it again has no effect. Blocks."""
        with self._writer.condition:
            self._closing = True
            self._writer.condition.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _has(self, lane: Lane) -> bool:
        current = [self._current] if self._current is not None else []
        return any(compaction.lane is lane for compaction in (*current, *self._queue))

    # On the thread.

    def _work(self) -> None:
        condition = self._writer.condition
        while True:
            with condition:
                while (chosen := self._choose()) is None and not self._closing:
                    condition.wait()
                if chosen is None:
                    return
                self._queue.remove(chosen)
                self._current = chosen
            try:
                self._carry_out(chosen)
            finally:
                with condition:
                    self._current = None
                    condition.notify_all()

    def _choose(self) -> Compaction | None:
        """Return the first compaction that can begin, or that is given up."""
        for compaction in self._queue:
            lane = compaction.lane
            if compaction.heals or lane.stored >= compaction.start or self._is_given_up(lane):
                return compaction
            if lane.healing:
                return compaction  # Its records will not be stored before a heal: it is given up.
        return None

    def _is_given_up(self, lane: Lane) -> bool:
        return self._closing or lane.closing or lane.failed is not None

    def _carry_out(self, compaction: Compaction) -> None:
        lane, kept = compaction.lane, None
        try:
            if compaction.heals and not self._is_given_up(lane):
                kept = self._heal(compaction)
            elif not lane.healing and not self._is_given_up(lane):
                kept = self._compact(compaction)
        except _Given:
            pass
        except StoreError as error:
            logger.warning("shard %d was not compacted, and is unchanged: %s", lane.shard, error)
        except BaseException as error:
            failure = JournalFailed(f"the snapshot of shard {lane.shard} could not be made: {error}")
            failure.__cause__ = error
            self._writer.fail(lane, failure)
        compaction.compacted(kept)
        if compaction.heals or lane.healing:
            self._after_heal(lane)

    def _compact(self, compaction: Compaction) -> Amount:
        lane, start = compaction.lane, compaction.start
        mine = lane.mine
        generation = self._next_generation(lane, mine)
        kept, count = self._write(compaction, mine, generation)
        self._certain(
            lane, lambda db: statements.complete_compaction(db, lane.shard, mine, generation, count, start)
        )
        return kept

    def _next_generation(self, lane: Lane, mine: Claimed) -> int:
        """Return a number that no other attempt has, not even one of an earlier owner that goes on."""
        lane.generation = max(lane.generation + 1, mine.epoch * GENERATIONS)
        return lane.generation

    def _write(self, compaction: Compaction, mine: Claimed, generation: int) -> tuple[Amount, int]:
        """Write a snapshot as a generation that is not valid yet; return its size and its number of rows."""
        lane = compaction.lane
        records = size = 0
        count = 1
        for row in rows(compaction.snapshot, ROW_BYTES):
            self._add(lane, mine, generation, row)
            records += row.span
            size += row.size
            count += 1
        self._add(lane, mine, generation, pack(records, ()))
        return Amount(records, size), count

    def _add(self, lane: Lane, mine: Claimed, generation: int, row: Row) -> None:
        if self._is_given_up(lane):
            raise _Given
        self._certain(lane, lambda db: statements.add_kept(db, lane.shard, mine, generation, row))

    def _certain(self, lane: Lane, statement: Callable[[Db], bool]) -> None:
        """Carry out a statement; raises StoreError if the shard is not ours, as the next append will find."""
        if not self._connection.run(statement):
            raise StoreError("its row is not that of this owner any longer, or the store went back")

    # A store that went back.

    def _heal(self, compaction: Compaction) -> Amount | None:
        """Claim the shard under a new epoch and write everything; return None if that has to wait."""
        lane, start = compaction.lane, compaction.start
        found = self._connection.run(lambda db: statements.read_shards(db, [lane.shard]), again=True)
        row = found[0] if found else None
        silent = self._writer.silent_owner(row)
        judged = outcome(lane.mine, lane.stored, 0, row, silent=silent is not None)
        if row is None or judged is Outcome.FENCED:
            self._writer.fail(lane, Fenced(f"another node owns shard {lane.shard}: {row and tuple(row)}"))
            return None
        if judged is Outcome.WAIT:
            return None
        if (row.epoch, row.next) == (lane.mine.healing, lane.heal_start):  # Only the answer was lost.
            mine = Claimed(lane.mine.node, row.epoch)
            self._certain(lane, lambda db: statements.confirm(db, lane.shard, mine, row.next))
            self._healed(lane, mine.epoch, row.next)
            return None
        mine = Claimed(lane.mine.node, max(row.epoch, lane.mine.epoch, lane.mine.healing) + 1)
        lane.mine = lane.mine._replace(healing=mine.epoch)
        owner, beat = silent or (None, 0)
        if not self._connection.run(
            lambda db: statements.reclaim(db, row, mine, lane.record_version, owner, beat)
        ):
            return None  # The owner has woken up, or the next beat of this node makes its row again.
        lane.generation = max(lane.generation, row.generation)
        generation = self._next_generation(lane, mine)
        kept, count = self._write(compaction, mine, generation)
        lane.heal_start = start
        self._certain(
            lane, lambda db: statements.complete_heal(db, lane.shard, mine, generation, count, start)
        )
        self._healed(lane, mine.epoch, start)
        return kept

    def _healed(self, lane: Lane, epoch: int, number: int) -> None:
        with self._writer.condition:
            lane.healed(epoch, number)
            self._writer.go_on(lane)
        logger.warning("shard %d is healed: all records below %d are stored again", lane.shard, number)

    def _after_heal(self, lane: Lane) -> None:
        """Tell the journal what is durable: after a failure, so that it brings a new snapshot."""
        if lane.failed is None and lane.healing:
            with self._writer.condition:
                if not self._is_given_up(lane):
                    self._writer.condition.wait(HEAL_PAUSE)
        if lane.failed is None and not lane.closing:
            self._writer.report(lane)
