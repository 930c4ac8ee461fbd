"""The file of a SqliteJournal: what it holds, how it is opened, checked, migrated and repaired.

journal   one row: the version of the records, the number that the first row of `record` begins with,
          and how many rows `kept` has
kept      the snapshot: rows of records, numbered from 0 for themselves
record    the records behind it: rows under their own numbers
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from .draft import APPLICATION_ID, SCHEMA_VERSION, Draft, connect, draft_of
from .journal import Amount, JournalError, JournalInUse
from .rows import Row, unpack

MIGRATIONS: Final[Mapping[int, Sequence[str]]] = MappingProxyType({})
"""Schema version -> the statements that lead to the next one."""

CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of the write-ahead log that are enough to carry over into the file."""


class Damaged(JournalError):
    """A row is missing, or is not as it was written."""


class Header(NamedTuple):
    """The one row of the table `journal`."""

    record_version: int
    start: int
    kept_rows: int


class Contents(NamedTuple):
    """What was found in a file: how much of a snapshot and behind it, and the number that comes next."""

    kept: Amount
    since: Amount
    next: int
    lost: str
    """What cannot be read, and why; empty: that is all."""


class Opened(NamedTuple):
    """A file that is ready to be written to."""

    db: sqlite3.Connection
    contents: Contents
    dropped: str
    """What of it could not be read; empty: nothing was lost."""
    copy: str
    """The file in which it is kept as it was before it was migrated; empty: it was not."""


def open_database(path: str, synchronous: str, record_version: int) -> Opened:
    """Open the file of a journal that is locked already; make, migrate or repair it if need be.

    Raises JournalError, OSError and sqlite3.Error.
    """
    with suppress(FileNotFoundError):
        os.remove(draft_of(path))
    if not os.path.exists(path) or not os.path.getsize(path):
        Draft(path, record_version, start=0).finish()
    elif not _is_ours(path):
        raise JournalError(f"{path} is no journal, or its beginning is destroyed: move it away to begin anew")
    os.chmod(path, 0o600)
    _fill_up(path)
    unfinished = _logged_pages(f"{path}-wal")
    db, copy = _opened(path, synchronous, record_version)
    try:
        unfinished -= max(0, db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
        dropped = f"{unfinished} pages of an unfinished write at its end" if unfinished > 0 else ""
        contents = scan(db)
        if contents.lost:
            aside = _repair(db, path, contents)
            dropped = f"{contents.lost}; the damaged file is kept as {aside}"
            db, _ = _opened(path, synchronous, record_version)
    except BaseException:
        db.close()
        raise
    return Opened(db, contents, dropped, copy)


def reopen_database(path: str, synchronous: str) -> sqlite3.Connection:
    """Open a file that was just written; raises as `open_database`."""
    db = connect(path)
    _set_up(db, synchronous)
    return db


def stored(db: sqlite3.Connection) -> Iterator[bytes]:
    """Every record of a file in order: the snapshot, and what stands behind it."""
    for table, first in (("kept", 0), ("record", header(db).start)):
        for row in good_rows(db, table, first):
            yield from unpack(row)


def good_rows(db: sqlite3.Connection, table: str, first: int) -> Iterator[Row]:
    """The rows of a table, which begin with record `first`. Raises Damaged at the first that is not good."""
    try:
        for values in db.execute(f"SELECT first, span, crc, data FROM {table} ORDER BY first"):
            row = Row(*values)
            if row.first != first:
                raise Damaged(f"record {first} is missing")
            unpack(row)
            yield row
            first += row.span
    except ValueError as error:
        raise Damaged(str(error)) from None
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise Damaged(str(error)) from None


def header(db: sqlite3.Connection) -> Header:
    """What a file says of itself; raises JournalError and sqlite3.Error."""
    found = db.execute("SELECT record_version, start, kept_rows FROM journal").fetchone()
    if found is None or not all(type(value) is int for value in found):
        raise JournalError("it does not say what it holds")
    return Header(*found)


def scan(db: sqlite3.Connection) -> Contents:
    """Look at every row."""
    said = header(db)
    kept, rows, fault = _scan_table(db, "kept", 0)
    if not fault and rows != said.kept_rows:
        fault = f"{said.kept_rows - rows} of its rows are missing"
    if fault:
        lost = f"its snapshot from record {kept.records} on and everything behind it ({fault})"
        return Contents(kept, Amount(), said.start, lost)
    since, _, fault = _scan_table(db, "record", said.start)
    lost = f"everything from record {said.start + since.records} on ({fault})" if fault else ""
    return Contents(kept, since, said.start + since.records, lost)


def _scan_table(db: sqlite3.Connection, table: str, first: int) -> tuple[Amount, int, str]:
    records = size = rows = 0
    try:
        for row in good_rows(db, table, first):
            records += row.span
            size += row.size
            rows += 1
    except Damaged as damage:
        return Amount(records, size), rows, str(damage)
    return Amount(records, size), rows, ""


def _opened(path: str, synchronous: str, record_version: int) -> tuple[sqlite3.Connection, str]:
    """The file, and that in which an older one is kept as it was, if it was one.

    Raises JournalError for a file of a newer version, or one that says nothing of itself.
    """
    db, copy = connect(path), ""
    try:
        schema = db.execute("PRAGMA user_version").fetchone()[0]
        _check_versions("schema", path, schema, SCHEMA_VERSION)
        records = header(db).record_version
        _check_versions("records", path, records, record_version)
        if (schema, records) != (SCHEMA_VERSION, record_version):
            copy = _migrate(db, path, schema, records, record_version)
        _set_up(db, synchronous)
    except BaseException as error:
        db.close()
        raise _explained(path, error) from None
    return db, copy


def _set_up(db: sqlite3.Connection, synchronous: str) -> None:
    page = db.execute("PRAGMA page_size").fetchone()[0]
    if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != b"wal":
        raise sqlite3.OperationalError("the file system does not allow a write-ahead log")
    db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_BYTES // page}")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("PRAGMA fullfsync=1")  # On macOS fsync alone does not reach the disk.


def _check_versions(what: str, path: str, found: int, known: int) -> None:
    if found > known:
        raise JournalError(
            f"{path} has version {found} of the {what}, and this arcp-io knows versions up to {known}: use a"
            " newer arcp-io, or another journal"
        )


def _migrate(db: sqlite3.Connection, path: str, schema: int, records: int, record_version: int) -> str:
    """Bring a file up to date in one transaction, after a copy of it was kept; returns the name of that."""
    copy = f"{path}.schema-{schema}-records-{records}"
    if os.path.exists(copy):
        copy = _free_name(copy)
    os.close(os.open(copy, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    target = connect(copy)
    try:
        db.backup(target)
    finally:
        target.close()
    db.execute("BEGIN IMMEDIATE")
    try:
        for version in range(schema, SCHEMA_VERSION):
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


def _repair(db: sqlite3.Connection, path: str, contents: Contents) -> str:
    """Put what is good into a new file in place of the damaged one, which is kept; returns its new name."""
    said = header(db)
    draft = Draft(path, said.record_version, said.start)
    try:
        with suppress(Damaged):
            for row in good_rows(db, "kept", 0):
                draft.keep(row)
        with suppress(Damaged):
            for row in good_rows(db, "record", said.start):
                if row.first < contents.next:
                    draft.add(row)
        db.close()
        aside = _free_name(f"{path}.damaged")
        try:
            os.link(path, aside)
        except OSError:
            shutil.copy2(path, aside)
        with suppress(FileNotFoundError):
            os.replace(f"{path}-wal", f"{aside}-wal")
        draft.finish()
    finally:
        draft.discard()
    return aside


def _free_name(stem: str) -> str:
    number = 1
    while os.path.exists(name := f"{stem}-{number}"):
        number += 1
    return name


def _is_ours(path: str) -> bool:
    """Whether the header of a file is a database's, and marked as ours."""
    with open(path, "rb") as file:
        head = file.read(100)
    return head.startswith(b"SQLite format 3\0") and head[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _fill_up(path: str) -> None:
    """Give a file that was cut short its length again: SQLite opens it then, and finds how far it goes."""
    with open(path, "rb") as file:
        head = file.read(100)
        size = file.seek(0, os.SEEK_END)
    page = int.from_bytes(head[16:18], "big")
    expected = page * int.from_bytes(head[28:32], "big")
    if size < expected:
        os.truncate(path, expected)


def _logged_pages(path: str) -> int:
    """Pages that were written to a write-ahead log since it was last begun anew, unfinished ones included.

    After its header of 32 bytes come frames: a header of 24 bytes and a page. Header and frames of one
    beginning share 8 bytes of salt.
    """
    pages = 0
    with suppress(FileNotFoundError), open(path, "rb") as file:
        head = file.read(32)
        page = int.from_bytes(head[8:12], "big")
        while page and (frame := file.read(24)) and head[16:24].startswith(frame[8:16]):
            pages += 1
            file.seek(page, os.SEEK_CUR)
    return pages


def _explained(path: str, error: BaseException) -> BaseException:
    """What sqlite3 says on opening, as an error that says what to do."""
    if isinstance(error, JournalError):
        return JournalError(str(error) if path in str(error) else f"{path} is no journal: {error}")
    if isinstance(error, sqlite3.Error):
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return JournalInUse(f"{path} is in use by another program")
        return JournalError(f"the journal {path} cannot be opened: {error}")
    return error
