"""The thread that appends the records of all shards of a node: one transaction for everything that waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from arcp_io.journal.protocol import Fenced, JournalError, JournalFailed

from . import statements
from .connection import Connection
from .errors import StoreAway, StoreError
from .lane import Batch, Lane
from .outcome import Outcome, outcome
from .rows import ShardRow

logger = logging.getLogger("arcp_io")

MOST_COMMIT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of records in one transaction, unless a single append brings more."""
FIRST_PAUSE: Final = 0.05
"""Seconds after the first failure before the next try; each further pause is twice as long."""
LONGEST_PAUSE: Final = 1.0
"""The longest pause between two tries, in seconds."""
COMPLAINT_SECONDS: Final = 10.0
"""Seconds between two errors in the log while the store does not take records."""
GIVE_UP_SECONDS: Final = 600.0
"""Seconds without success after which a journal fails, unless the store is given another limit."""


class Writer:
    """Stores the records of many lanes, and tells each lane what is durable.

    While the store is away everything waits, and is tried again with pauses of up to LONGEST_PAUSE.
    """

    def __init__(
        self, connection: Connection, node: str, give_up: float, dead_beat: Callable[[str], int | None]
    ) -> None:
        self.condition = threading.Condition()
        """The lock of all lanes; notified when records wait, when some are stored, and at the end."""
        self._connection = connection
        self._node = node
        self._give_up = give_up
        self._dead_beat = dead_beat
        self._lanes: dict[int, Lane] = {}
        self._ready: dict[Lane, None] = {}
        """Lanes with records to send, the next first."""
        self._sending: frozenset[Lane] = frozenset()
        """The lanes of the transaction under way."""
        self._thread: threading.Thread | None = None
        self._closing = False
        self._away_since = self._again_at = self._pause = 0.0
        self._complained_at = 0.0

    # For journals and the store.

    def open(self, lane: Lane) -> None:
        """Serve another lane; raises JournalError if its shard has one, or the writer is closed."""
        with self.condition:
            if self._closing:
                raise JournalError("the store is closed")
            if lane.shard in self._lanes:
                raise JournalError(f"the journal of shard {lane.shard} is open already")
            self._lanes[lane.shard] = lane
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="arcp-io store", daemon=True)
                self._thread.start()

    def is_open(self, shard: int) -> bool:
        """Return whether a shard has a lane."""
        return shard in self._lanes

    def append(self, lane: Lane, records: Sequence[bytes], size: int) -> None:
        """Let records wait; called with the lock held."""
        lane.waiting.append(Batch(records, size))
        lane.waiting_bytes += size
        lane.next += len(records)
        if not lane.healing and lane not in self._ready:
            self._ready[lane] = None
            self.condition.notify_all()

    def silent_owner(self, row: ShardRow | None) -> tuple[str, int] | None:
        """Return the owner of a shard by its row and its beat, if it is another node that is dead.

        None is also returned for a shard without an owner, or one of this node.
        """
        if row is None or row.node is None or row.node == self._node:
            return None
        beat = self._dead_beat(row.node)
        return None if beat is None else (row.node, beat)

    @property
    def failing_seconds(self) -> float:
        """The seconds for which records wait that the store does not take; 0 if it takes them."""
        with self.condition:
            since = [self._away_since, *(lane.failing_since for lane in self._lanes.values())]
        return time.monotonic() - min(filter(None, since)) if any(since) else 0.0

    def release(self, lane: Lane) -> None:
        """Forget a lane after all its records are stored, or it has failed. Blocks.

        If the store went back, this is too late for a snapshot, and the lane fails.
        """
        with self.condition:
            lane.closing = True
            self.condition.notify_all()
            while (not lane.idle and not lane.healing and not self._closing) or lane in self._sending:
                self.condition.wait()
            if not lane.idle:
                logger.error(
                    "shard %d lost records from %d on, which the store does not have",
                    lane.shard,
                    lane.stored,
                )
                lane.fail(JournalFailed(f"shard {lane.shard} was closed before its records were stored"))
            self._ready.pop(lane, None)
            if self._lanes.get(lane.shard) is lane:
                del self._lanes[lane.shard]

    def close(self) -> None:
        """End the thread; what waits is dropped. Calling it again has no effect. Blocks."""
        with self.condition:
            self._closing = True
            self.condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._connection.close()

    def fail(self, lane: Lane, error: Exception) -> None:
        """Store nothing more of a lane, and tell its journal."""
        with self.condition:
            if lane.failed is not None:
                return
            lane.fail(error)
            self._ready.pop(lane, None)
            self.condition.notify_all()
        lane.on_failed(error)

    def report(self, lane: Lane) -> None:
        """Tell a journal what is durable; a failure there is that of its lane."""
        try:
            lane.on_durable(lane.stored)
        except Exception as error:
            failure = JournalFailed(f"the report of durable records of shard {lane.shard} failed: {error}")
            failure.__cause__ = error
            self.fail(lane, failure)

    def go_on(self, lane: Lane) -> None:
        """Send the records of a lane that waited for a snapshot; called with the lock held."""
        if lane.has_work:
            self._ready[lane] = None
        self.condition.notify_all()

    def need_heal(self, lane: Lane) -> None:
        """Ask the journal of a lane for a snapshot, by a report that tells nothing new."""
        logger.error(
            "the store went back to an earlier state of shard %d: it lacks records before %d, which were"
            " durable. This node writes all of them again",
            lane.shard,
            lane.stored,
        )
        with self.condition:
            lane.healing = True
            self._ready.pop(lane, None)
            self.condition.notify_all()
        self.report(lane)

    # On the thread.

    def _work(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            for lane in [*self._lanes.values()]:
                failure = JournalFailed(f"the thread of the store failed: {error}")
                failure.__cause__ = error
                self.fail(lane, failure)
            raise

    def _turn(self) -> bool:
        """Store what waits; return whether the thread goes on."""
        with self.condition:
            while not (chosen := self._choose(time.monotonic())) and not self._closing:
                self.condition.wait(self._seconds())
            if self._closing:
                return False
            self._sending = frozenset(lane for lane, _ in chosen)
        for lane, batches in chosen:
            if batches:
                lane.fly(batches)
        try:
            self._store([lane for lane, _ in chosen])
        finally:
            with self.condition:
                self._sending = frozenset()
                self.condition.notify_all()
        return True

    def _choose(self, now: float) -> list[tuple[Lane, list[Batch]]]:
        """Return the lanes of the next transaction, each with what is not packed yet."""
        if now < self._again_at:
            return []
        chosen: list[tuple[Lane, list[Batch]]] = []
        size = 0
        for lane in [*self._ready]:
            if size >= MOST_COMMIT_BYTES or lane.again_at > now:
                continue
            if lane.alone:
                return chosen or [(lane, [])]
            del self._ready[lane]
            self._ready[lane] = None
            batches = lane.take() if lane.flight is None else []
            size += sum(batch.size for batch in batches) if lane.flight is None else lane.flight.size
            chosen.append((lane, batches))
        return chosen

    def _seconds(self) -> float | None:
        """Return how long to wait for the next try; None if nothing waits."""
        if not self._ready:
            return None
        return max(0.0, max(self._again_at, min(lane.again_at for lane in self._ready)) - time.monotonic())

    def _store(self, lanes: list[Lane]) -> None:
        """Append the rows of some lanes, and find out what became of those that the store did not take."""
        try:
            unsure = [lane for lane in lanes if lane.unsure]
            if unsure:
                self._look(unsure)
                lanes = [lane for lane in lanes if lane.flight is not None and not lane.unsure]
            missing = self._append(lanes)
            self._back()
            if missing:
                self._look(missing)
        except StoreAway as error:
            self._away(error, [lane for lane in lanes if lane.flight is not None])

    def _append(self, lanes: list[Lane]) -> list[Lane]:
        """Append the rows of some lanes; return the lanes whose row was not taken."""
        rows = [(lane.mine, lane.shard, lane.flight) for lane in lanes if lane.flight is not None]
        if not rows:
            return []
        try:
            stored = self._connection.run(lambda db: statements.append(db, self._node, rows))
        except StoreAway:
            raise
        except StoreError as error:
            if len(lanes) == 1:
                self._postpone(lanes[0], error, alone=True)
                return []
            return [missing for lane in lanes for missing in self._append([lane])]
        for lane in lanes:
            if lane.shard in stored:
                self._landed(lane)
        return [lane for lane in lanes if lane.shard not in stored and lane.flight is not None]

    def _landed(self, lane: Lane) -> None:
        with self.condition:
            if lane.failed is not None:
                return
            lane.landed()
            if not lane.waiting:
                self._ready.pop(lane, None)
            self.condition.notify_all()
        self.report(lane)

    def _look(self, lanes: list[Lane]) -> None:
        """Read the rows of shards whose append was not confirmed, and act on what they say."""
        shards = [lane.shard for lane in lanes]
        found = {
            row.shard: row for row in self._connection.run(lambda db: statements.read_shards(db, shards))
        }
        self._back()
        for lane in lanes:
            row, flight = found.get(lane.shard), lane.flight
            if flight is None:
                continue
            silent = self.silent_owner(row) is not None
            match outcome(lane.mine, flight.first, flight.span, row, silent=silent):
                case Outcome.STORED:
                    self._confirm(lane)
                case Outcome.AGAIN:
                    lane.unsure = False
                case Outcome.HEAL:
                    self.need_heal(lane)
                case Outcome.WAIT:
                    lane.unsure = True
                    self._postpone(
                        lane,
                        StoreError(
                            f"the store went back: it says that node {row and row.node} owns shard"
                            f" {lane.shard}, which does not seem to be dead"
                        ),
                    )
                case Outcome.FENCED:
                    self.fail(
                        lane,
                        Fenced(
                            f"another node owns shard {lane.shard}, which had epoch {lane.mine.epoch} here:"
                            f" {row and tuple(row)}"
                        ),
                    )

    def _confirm(self, lane: Lane) -> None:
        flight = lane.flight
        assert flight is not None
        end = flight.first + flight.span
        if self._connection.run(lambda db: statements.confirm(db, lane.shard, lane.mine, end)):
            self._landed(lane)
        else:
            lane.unsure = True  # The row has changed since: read it once more.

    # What goes wrong.

    def _postpone(self, lane: Lane, error: Exception, *, alone: bool = False) -> None:
        """Try the row of a lane again later."""
        now = time.monotonic()
        lane.alone = alone
        lane.pause = min(LONGEST_PAUSE, 2 * lane.pause or FIRST_PAUSE)
        lane.again_at = now + lane.pause
        lane.failing_since = lane.failing_since or now
        self._complain(f"shard {lane.shard}: {error}", now)
        if now - lane.failing_since > self._give_up:
            self._end(lane, error)

    def _away(self, error: Exception, lanes: list[Lane]) -> None:
        """Try everything again later: the rows of these lanes may be stored or not."""
        now = time.monotonic()
        for lane in lanes:
            lane.unsure = True
        self._away_since = self._away_since or now
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self._again_at = now + self._pause
        self._complain(f"{error}", now)
        if now - self._away_since > self._give_up:
            for lane in [lane for lane in self._lanes.values() if lane.has_work]:
                self._end(lane, error)

    def _back(self) -> None:
        """Note that the store answers."""
        if self._away_since:
            logger.warning("the store is back after %.1f s", time.monotonic() - self._away_since)
            self._away_since = self._again_at = self._pause = self._complained_at = 0.0

    def _complain(self, text: str, now: float) -> None:
        """Write an error to the log, unless the last one was a moment ago."""
        if now - self._complained_at >= COMPLAINT_SECONDS or not self._complained_at:
            self._complained_at = now
            logger.error("%s. Records wait, and are tried again", text)

    def _end(self, lane: Lane, error: Exception) -> None:
        failure = JournalFailed(
            f"the store took no record of shard {lane.shard} for {self._give_up:g} s: {error}. Everything"
            " reported durable is stored: make the store work, and start again"
        )
        failure.__cause__ = error
        self.fail(lane, failure)
