"""The file of a SqliteJournal: how it is made, opened, checked and migrated."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from .contents import Contents, Versions, check_versions, scan, versions
from .damage import damaged, is_ours, is_short
from .protocol import JournalError, JournalInUse
from .sqlite_draft import SCHEMA_VERSION, Draft, connect, draft_of
from .wal import Log, log_of, read_log

MIGRATIONS: Final[Mapping[int, Sequence[str]]] = MappingProxyType({})
"""Schema version -> the statements that lead to the next one."""

CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of the write-ahead log that are enough to carry over into the file."""


class Opened(NamedTuple):
    """A file that is ready to be written to."""

    db: sqlite3.Connection
    contents: Contents
    dropped: str
    """What of an unfinished write was found at its end, in words; empty: nothing."""
    copy: str
    """The file in which it is kept as it was before it was migrated; empty: it was not."""


def make_database(path: str, record_version: int, *, used: bool) -> None:
    """Make the file of a journal, unless there is one; `used`: there has been one before.

    Raises JournalError for what is left of another one, OSError and sqlite3.Error.
    """
    with suppress(FileNotFoundError):
        os.remove(draft_of(path))
    there = os.path.exists(path)
    if there and os.path.getsize(path):
        return
    if read_log(path).pages:
        state = "is empty" if there else "is missing"
        raise JournalError(
            f"{path} {state}, and its write-ahead log {log_of(path)} is not: put a backup of both in their"
            " place, or move the log away to begin anew"
        )
    if there and used:
        raise JournalError(
            f"{path} has been a journal, and is empty: put a backup in its place, or remove it"
        )
    draft = Draft(path, record_version, start=0)
    draft.complete()
    draft.finish()


def open_database(path: str, synchronous: str, record_version: int) -> Opened:
    """Open the file of a journal that is locked already; migrate it if need be.

    Raises JournalDamaged when something is lost that was durable. The files stay as they are then, but for a
    whole write-ahead log, which may have been carried over into the file. Raises JournalError, OSError and
    sqlite3.Error, too.
    """
    if not is_ours(path):
        raise JournalError(f"{path} is no journal, or its beginning is destroyed: move it away to begin anew")
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
    """Open a file that was just written; raises as `open_database`."""
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
    """Carry the write-ahead log over into the file, and begin it anew; returns what of it is unfinished."""
    if not log.pages:
        return ""
    unfinished = log.pages - max(0, db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return f"{unfinished} pages of an unfinished write at its end" if unfinished > 0 else ""


def free_name(stem: str) -> str:
    """Return the first name of this beginning and a number that no file has."""
    number = 1
    while os.path.exists(name := f"{stem}-{number}"):
        number += 1
    return name


def _migrate(db: sqlite3.Connection, path: str, found: Versions, record_version: int) -> str:
    """Bring a file up to date in one transaction, after a copy of it was kept; returns the name of that."""
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
    """What sqlite3 says on opening a file that is closed again, as an error that says what to do."""
    if isinstance(error, JournalError):
        return JournalError(str(error) if path in str(error) else f"{path} is no journal: {error}")
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return JournalInUse(f"{path} is in use by another program")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such" in str(error):
            return damaged(path)
        return JournalError(f"the journal {path} cannot be opened: {error}")
    return damaged(path) if isinstance(error, UnicodeDecodeError) else error
