"""The file of a SqliteJournal: creating, opening, checking and migrating it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from arcp_io.files import FileLock, Locked, free_name

from .contents import Contents, Versions, check_versions, scan, versions
from .damage import damaged, is_ours, is_short
from .protocol import JournalError, JournalInUse
from .sqlite_draft import SCHEMA_VERSION, Draft, connect, draft_of
from .wal import Log, log_of, read_log

MIGRATIONS: Final[Mapping[int, Sequence[str]]] = MappingProxyType({})
"""Schema version -> the statements that lead to the next version."""

CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of the write-ahead log after which it is checkpointed into the file."""


class JournalLock:
    """The lock of one runtime on a journal: a file beside it that holds the id of the process."""

    def __init__(self, path: str) -> None:
        self.used = False
        """Whether an earlier owner, maybe a process that has ended, had the lock before `acquire`."""
        self._path = path
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> None:
        """Acquire the lock.

        Raises JournalInUse, which names the owning process, JournalError if the file is not a lock, and
        OSError.
        """
        try:
            self._lock.acquire()
        except Locked as locked:
            owner = locked.content.decode("ascii", "replace").strip() or "?"
            raise JournalInUse(
                f"{self._path} is in use by process {owner}: stop it, or give each runtime a journal of its"
                " own"
            ) from None
        try:
            held = self._lock.content()
            if held and not (held.endswith(b"\n") and held[:-1].isdigit()):
                raise JournalError(
                    f"{self._lock.path} is not the lock of a journal: move it away, or choose another journal"
                )
            self.used = bool(held)
            self._lock.write(b"%d\n" % os.getpid())
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Release the lock, and keep its file, which shows that there was a journal."""
        self._lock.release()


class Opened(NamedTuple):
    """A file that is ready for writing."""

    db: sqlite3.Connection
    contents: Contents
    dropped: str
    """A description of the unfinished write at its end; empty if there was none."""
    copy: str
    """The file that holds the journal as it was before its migration; empty if it was not migrated."""


def make_database(path: str, record_version: int, *, used: bool) -> None:
    """Create the file of a journal, unless it exists; `used` says that it has existed before.

    Raises JournalError if only part of an earlier journal is left, OSError and sqlite3.Error.
    """
    with suppress(FileNotFoundError):
        os.remove(draft_of(path))
    there = os.path.exists(path)
    if there and os.path.getsize(path):
        return
    if read_log(path).pages:
        state = "is empty" if there else "is missing"
        raise JournalError(
            f"{path} {state}, but its write-ahead log {log_of(path)} is not: put a backup of both in their"
            " place, or move the log away to start an empty journal"
        )
    if there and used:
        raise JournalError(
            f"the journal {path} has lost its content: put a backup in its place, or remove the empty file"
        )
    draft = Draft(path, record_version, start=0)
    draft.complete()
    draft.finish()


def open_database(path: str, synchronous: str, record_version: int) -> Opened:
    """Open the file of a journal that is locked already, and migrate it if its version is older.

    Raises JournalDamaged when durable records are lost. The files stay unchanged then, except that a complete
    write-ahead log may have been checkpointed into the file. Raises JournalError, OSError and sqlite3.Error,
    too.
    """
    if not is_ours(path):
        raise JournalError(
            f"{path} is not a journal, or its header is destroyed: move it away to start an empty one"
        )
    os.chmod(path, 0o600)
    log = read_log(path)
    if log.damaged or (not log.good and is_short(path)):
        raise damaged(path)
    db = connect(path)
    try:
        found = versions(db)
        check_versions(path, found, Versions(SCHEMA_VERSION, record_version))
        _set_up(db, synchronous)
        dropped = _begin_log(db, log)
        contents = scan(db)
        copy = ""
        if not contents.lost and found != (SCHEMA_VERSION, record_version):
            copy = _migrate(db, path, found, record_version)
    except BaseException as error:
        db.close()
        raise _explained(path, error) from None
    if contents.lost:
        db.close()
        raise damaged(path)
    return Opened(db, contents, dropped, copy)


def reopen_database(path: str, synchronous: str) -> sqlite3.Connection:
    """Open a file that was just written; raises the same errors as `open_database`."""
    db = connect(path)
    _set_up(db, synchronous)
    return db


def _set_up(db: sqlite3.Connection, synchronous: str) -> None:
    page = db.execute("PRAGMA page_size").fetchone()[0]
    if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != b"wal":
        raise sqlite3.OperationalError("the file system does not allow a write-ahead log")
    db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_BYTES // page}")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("PRAGMA fullfsync=1")  # On macOS fsync alone does not reach the disk.


def _begin_log(db: sqlite3.Connection, log: Log) -> str:
    """Checkpoint the write-ahead log and restart it; return a description of the unfinished part."""
    if not log.pages:
        return ""
    unfinished = log.pages - max(0, db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return f"{unfinished} pages of an unfinished write at its end" if unfinished > 0 else ""


def _migrate(db: sqlite3.Connection, path: str, found: Versions, record_version: int) -> str:
    """Migrate a file in one transaction after copying it; return the name of the copy."""
    copy = f"{path}.schema-{found.schema}-records-{found.records}"
    if os.path.exists(copy):
        copy = free_name(copy)
    os.close(os.open(copy, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    target = connect(copy)
    try:
        db.backup(target)
    finally:
        target.close()
    db.execute("BEGIN IMMEDIATE")
    try:
        for version in range(found.schema, SCHEMA_VERSION):
            for statement in MIGRATIONS[version]:
                db.execute(statement)
        db.execute("UPDATE journal SET record_version = ?", (record_version,))
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        os.remove(copy)
        raise
    return copy


def _explained(path: str, error: BaseException) -> BaseException:
    """Return an error of sqlite3 on opening a file as an error that names the remedy."""
    if isinstance(error, JournalError):
        return JournalError(str(error) if path in str(error) else f"{path} is not a journal: {error}")
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return JournalInUse(f"{path} is in use by another program")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such" in str(error):
            return damaged(path)
        return JournalError(f"the journal {path} cannot be opened: {error}")
    return damaged(path) if isinstance(error, UnicodeDecodeError) else error
