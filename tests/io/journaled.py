"""Journals under test: what they report, and files that are damaged on purpose.

python -m tests.io.journaled PATH SYNC [LIMIT | compacting]
    appends to a journal until it is killed or, with a limit on the size of files, until it fails; prints
    what is reported. Compacting, it does so again and again, with a snapshot that is all records once more.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arcp_io.journal import Journal, JournalDamaged, Repair, SqliteJournal, repair_journal

VERSION = 1


class Watched:
    """A journal that is open, and what it has reported."""

    def __init__(self, journal: Journal, version: int = VERSION) -> None:
        self.journal = journal
        self.inside: Any = journal
        """The journal again, typed so that a test may read its private attributes."""
        self.durable: list[int] = []
        self.failures: list[Exception] = []
        self.gate = threading.Event()
        """An event that holds the journal's thread before a report, while it is not set."""
        self.gate.set()
        self._changed = threading.Condition()
        journal.open(version, self._on_durable, self._on_failed)
        self.held = list(journal.read())

    def append(self, *records: bytes) -> None:
        self.journal.append(self.journal.next, records)

    def settle(self) -> None:
        """Wait until every record is durable, or the journal has failed."""
        with self._changed:
            while not self.failures and self.durable[-1:] != [self.journal.next]:
                self._changed.wait()

    def compacted(self) -> None:
        """Wait until no compaction is under way."""
        while getattr(self.inside, "_compacting", None):
            time.sleep(0.001)

    @property
    def closing(self) -> bool:
        """Whether `close` has begun, and has not ended."""
        lane = getattr(self.inside, "_lane", None)
        return self.inside._closing if lane is None else lane.closing

    def close(self) -> None:
        self.journal.close()

    def _on_durable(self, count: int) -> None:
        with self._changed:
            self.durable.append(count)
            self._changed.notify()
        self.gate.wait()

    def _on_failed(self, error: Exception) -> None:
        with self._changed:
            self.failures.append(error)
            self._changed.notify()


def numbered(*numbers: int) -> list[bytes]:
    """Return records that contain their numbers."""
    return [b"record %d " % number + b"x" * (number % 50) for number in numbers]


def filled(path: Path, records: Sequence[bytes], *, row: int = 10, snapshot: Sequence[bytes] = ()) -> None:
    """Make a closed journal that holds a snapshot and, behind it, these records, `row` of them in a row."""
    watched = Watched(SqliteJournal(path))
    if snapshot:
        watched.append(b"before")
        watched.journal.compact(snapshot)
        watched.append(b"behind")
        watched.compacted()
    for first in range(0, len(records), row):
        watched.append(*records[first : first + row])
        watched.settle()
    watched.close()


def held_by(path: Path) -> list[bytes]:
    """Return the records that a journal yields when it is opened."""
    watched = Watched(SqliteJournal(path))
    watched.close()
    return watched.held


def repaired(path: Path, version: int = VERSION) -> Repair:
    """Repair a journal; check first that each attempt to open it fails and leaves its files unchanged."""
    before = {file: file.read_bytes() for file in (path, Path(f"{path}-wal")) if file.exists()}
    for _ in range(2):
        with pytest.raises(JournalDamaged, match=f"run 'arcp-io journal repair {path}'") as refused:
            Watched(SqliteJournal(path), version)
    assert {file: file.read_bytes() for file in before} == before
    done = repair_journal(path)
    assert f"is damaged, and has lost {done.lost}. Put a backup" in str(refused.value)
    kept = {Path(done.copy + file.name.removeprefix(path.name)): data for file, data in before.items()}
    assert {file: file.read_bytes() for file in kept} == kept
    assert repair_journal(path) == Repair(done.records, "", "")
    return done


def query(path: Path, statement: str) -> list[Any]:
    """Run a statement on the file of a closed journal, and return its rows."""
    db = sqlite3.connect(path)
    try:
        return db.execute(statement).fetchall()
    finally:
        db.close()


def main() -> None:
    path, sync, *limit = sys.argv[1:]
    compacting = limit == ["compacting"]
    if limit and not compacting:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), int(limit[0])))
    failed = threading.Event()
    journal = SqliteJournal(path, sync="full" if sync == "full" else "normal")

    def on_failed(error: Exception) -> None:
        print(f"failed {error}", flush=True)
        failed.set()

    journal.open(VERSION, lambda count: print(f"durable {count}", flush=True), on_failed)
    print("open", flush=True)
    while not failed.is_set():
        journal.append(journal.next, numbered(*range(journal.next, journal.next + 100)))
        if compacting and journal._compacting is None:
            journal.compact(numbered(*range(journal.next)))
        while journal.waiting_bytes > (0 if compacting else 100_000) and not failed.is_set():
            time.sleep(0.001)
    journal.append(journal.next, numbered(0))
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(10)
    print(f"threads {threading.active_count() - 1}", flush=True)
    journal.close()


if __name__ == "__main__":
    main()
