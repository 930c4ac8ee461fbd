"""A journal in an SQLite file, written by its own thread."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, Literal

from .contents import stored
from .memory import check_gap
from .protocol import Amount, Durable, Failed, JournalError, JournalFailed, JournalInUse, grown
from .rows import Row, pack, rows, unpack
from .sqlite_draft import Draft
from .sqlite_file import JournalLock, make_database, open_database, reopen_database

logger = logging.getLogger("arcp_io")

CATCHING_UP: Final = 3
"""How many rounds of a compaction copy new records step by step, before the rest is copied in one go."""

_ROW_OF: Final = "SELECT first, span, crc, data FROM record WHERE first <= ? ORDER BY first DESC LIMIT 1"


class SqliteJournal:
    """A Journal in one file, for one process at a time, readable by its owner alone.

    With `sync="full"` durable records survive a loss of power; with "normal" they survive the end of the
    process, even by SIGKILL. All waiting records are stored in one transaction (a group commit). Beside the
    file stand its write-ahead log PATH-wal while it is open, and PATH.lock.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: Literal["full", "normal"] = "full") -> None:
        """Prepare a journal at a path; raises ValueError if `sync` is neither "full" nor "normal"."""
        if sync not in ("full", "normal"):
            raise ValueError(f'sync is "full" or "normal", not {sync!r}')
        self.path = os.path.realpath(path)
        self.sync = sync
        self.failed: Exception | None = None
        self.dropped = ""
        self._lock = JournalLock(self.path)
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection
        self._record_version = 0
        self._on_durable: Durable = _ignore
        self._on_failed: Failed = _ignore
        self._next = 0
        self._stored = 0
        """The number up to which records are durable; used by the journal's thread alone."""
        self._waiting: list[Sequence[bytes]] = []
        self._waiting_bytes = 0
        self._untouched = False
        """Whether nothing has been appended since the journal was opened."""
        self._kept = self._since = Amount()
        self._compacting: Generator[None, None, None] | None = None
        self._closing = False

    def __repr__(self) -> str:
        return f"<SqliteJournal {self.path}>"

    @property
    def next(self) -> int:
        """The number of the next record."""
        return self._next

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that were appended and are not durable yet."""
        return self._waiting_bytes

    @property
    def compaction_due(self) -> bool:
        """Whether the journal has grown enough to be worth a `compact`, with no compaction under way."""
        return self._compacting is None and self.failed is None and grown(self._kept, self._since)

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        """Open the journal, as Journal.open.

        A damaged file stays unchanged: `repair_journal` keeps its good part.
        """
        if self._thread is not None:
            raise JournalInUse(f"{self.path} is open already")
        try:
            self._lock.acquire()
            make_database(self.path, record_version, used=self._lock.used)
            opened = open_database(self.path, self.sync, record_version)
        except OSError as error:
            self._lock.release()
            raise JournalError(f"the journal {self.path} cannot be opened: {error.strerror}") from error
        except sqlite3.Error as error:
            self._lock.release()
            raise JournalError(f"the journal {self.path} cannot be opened: {error}") from error
        except BaseException:
            self._lock.release()
            raise
        if opened.copy:
            logger.warning("the journal %s was migrated; a copy from before is %s", self.path, opened.copy)
        if opened.dropped:
            logger.warning("the journal %s was opened without %s", self.path, opened.dropped)
        self.failed, self.dropped = None, opened.dropped
        self._db = opened.db
        self._next = self._stored = opened.contents.next
        self._kept, self._since = opened.contents.kept, opened.contents.since
        self._record_version = record_version
        self._on_durable, self._on_failed = on_durable, on_failed
        self._untouched, self._closing = True, False
        self._thread = threading.Thread(target=self._work, name="arcp-io journal", daemon=True)
        self._thread.start()

    def read(self) -> Iterator[bytes]:
        """Yield the records, as Journal.read; raises JournalError after the first `append`."""
        if self._thread is None or not self._untouched:
            raise JournalError("a journal is read when it is open, before anything is appended")
        yield from stored(self._db)

    def append(self, first: int, records: Sequence[bytes]) -> None:
        """Store records, as Journal.append.

        Raises JournalGap, and JournalError when the journal is not open.
        """
        size = sum(map(len, records))
        with self._condition:
            if self._thread is None:
                raise JournalError(f"{self.path} is not open")
            if self.failed is not None:
                return
            check_gap(self._next, first)
            self._untouched = False
            self._waiting.append(records)
            self._waiting_bytes += size
            self._next += len(records)
            self._since = Amount(self._since.records + len(records), self._since.bytes + size)
            self._condition.notify()

    def compact(self, snapshot: Iterable[bytes]) -> None:
        """Replace the records by a snapshot, which the journal's thread consumes, as Journal.compact.

        Raises JournalError while another compaction is under way.
        """
        with self._condition:
            if self._thread is None or self._compacting is not None:
                raise JournalError(f"{self.path} is not open, or being compacted")
            if self.failed is not None:
                return
            self._untouched = False
            since, self._since = self._since, Amount()
            self._compacting = self._compact(self._next, snapshot, since)
            self._condition.notify()

    def close(self) -> None:
        """Close the journal, as Journal.close."""
        thread = self._thread
        if thread is None:
            return
        with self._condition:
            self._closing = True
            self._condition.notify()
        thread.join()
        self._thread = None
        self._lock.release()

    # On the thread.

    def _work(self) -> None:
        try:
            while self._turn():
                pass
            if self._compacting is not None:
                self._end_compaction()
        except BaseException as error:
            self._fail(error)
        finally:
            self._db.close()

    def _turn(self) -> bool:
        """Store waiting records and continue a compaction; return whether the journal stays open."""
        with self._condition:
            while not (self._waiting or self._closing or self._compacting):
                self._condition.wait()
            waiting, self._waiting = self._waiting, []
            closing, compacting = self._closing, self._compacting
        if waiting:
            self._store(pack(self._stored, list(chain.from_iterable(waiting))))
        elif closing:
            return False
        if compacting is not None and not closing:
            self._go_on(compacting)  # Every record that the snapshot replaces is stored by now.
        return True

    def _store(self, row: Row) -> None:
        """Store a row in one transaction, and report it after it has left the waiting records."""
        self._db.execute("INSERT INTO record VALUES (?, ?, ?, ?)", row)
        self._stored += row.span
        with self._condition:
            self._waiting_bytes -= row.size
        self._on_durable(self._stored)

    def _fail(self, error: BaseException) -> None:
        failure = JournalFailed(
            f"the journal {self.path} cannot be written: {error}. Everything reported durable"
            " is stored: make sure that its disk works and has room, and start again"
        )
        failure.__cause__ = error
        with self._condition:
            self.failed = failure
            self._waiting.clear()
        self._end_compaction()
        self._on_failed(failure)

    # Compaction, on the thread too.

    def _go_on(self, compacting: Iterator[None]) -> None:
        """Carry out one step of a compaction. An error in the new file leaves the old one unchanged."""
        try:
            next(compacting)
        except StopIteration:
            self._compacting = None
        except (sqlite3.Error, OSError) as error:
            self._compacting = None
            logger.warning("the journal %s was not compacted, and is unchanged: %s", self.path, error)

    def _end_compaction(self) -> None:
        compacting, self._compacting = self._compacting, None
        if compacting is not None:
            compacting.close()

    def _compact(self, start: int, snapshot: Iterable[bytes], before: Amount) -> Generator[None, None, None]:
        """Write a new file step by step, so that records are stored in between, and put it in place."""
        kept: Amount | None = None
        try:
            draft = Draft(self.path, self._record_version, start)
            try:
                records = size = 0
                for row in rows(snapshot):
                    draft.keep(row)
                    records += row.span
                    size += row.size
                    yield
                for _ in range(CATCHING_UP):
                    yield from self._copy(draft)
                for _ in self._copy(draft):
                    pass
                self._swap(draft)
                kept = Amount(records, size)
            finally:
                draft.discard()
        finally:
            self._compacted(kept, before)

    def _copy(self, draft: Draft) -> Iterator[None]:
        """Copy the records that are stored after the snapshot, row by row."""
        stored = self._stored
        while draft.next < stored:
            row = Row(*self._db.execute(_ROW_OF, (draft.next,)).fetchone())
            if row.first < draft.next:
                row = pack(draft.next, unpack(row)[draft.next - row.first :])
            draft.add(row)
            yield

    def _swap(self, draft: Draft) -> None:
        """Replace the file by a complete draft.

        Closing the old file empties its write-ahead log, which must not be found beside the new one.
        """
        self._db.close()
        try:
            if os.path.exists(f"{self.path}-wal"):
                raise OSError("its write-ahead log cannot be emptied")
            draft.complete()
            draft.finish()
        finally:
            try:
                self._db = reopen_database(self.path, self.sync)
            except (sqlite3.Error, OSError) as error:
                raise JournalError(f"it cannot be opened again: {error}") from error

    def _compacted(self, kept: Amount | None, before: Amount) -> None:
        """Note the sizes after a compaction. After a failure the next one waits for the same growth again."""
        with self._condition:
            if kept is not None:
                self._kept = kept
            else:
                since = self._since
                self._since = Amount(before.records + since.records, before.bytes + since.bytes)
                self._kept = self._since


def _ignore(_: object) -> None:
    """Ignore a report before the journal is open."""
