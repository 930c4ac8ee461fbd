"""A new file for a journal, which replaces the old file in one step when it is complete."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import Final

from arcp_io.files import sync_directory

from .rows import Row

APPLICATION_ID: Final = 0x41524350
"""The application id that marks a database as a journal: "ARCP"."""
SCHEMA_VERSION: Final = 1
"""The version of the tables."""
PAGE_BYTES: Final = 8192

_COLUMNS: Final = (
    "(first INTEGER PRIMARY KEY, span INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL)"
)
_TABLES: Final = (
    f"PRAGMA page_size={PAGE_BYTES}",
    "PRAGMA journal_mode=OFF",
    "PRAGMA synchronous=FULL",
    "CREATE TABLE journal (record_version INTEGER NOT NULL, start INTEGER NOT NULL,"
    " kept_rows INTEGER NOT NULL)",
    f"CREATE TABLE kept {_COLUMNS}",
    f"CREATE TABLE record {_COLUMNS}",
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={SCHEMA_VERSION}",
)


class Draft:
    """A file beside a journal that will replace it; each call returns after its row is on the disk.

    Every method raises sqlite3.Error and OSError.
    """

    def __init__(self, path: str, record_version: int, start: int) -> None:
        self._path = path
        self._new = draft_of(path)
        self._kept_rows = 0
        self._about = (record_version, start)
        self.next = start
        """The first number of the next row after the snapshot."""
        os.close(os.open(self._new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        os.chmod(self._new, 0o600)
        self._db = connect(self._new)
        try:
            for statement in _TABLES:
                self._db.execute(statement)
        except BaseException:
            self.discard()
            raise

    def keep(self, row: Row) -> None:
        """Append a row to the snapshot."""
        self._db.execute("INSERT INTO kept VALUES (?, ?, ?, ?)", row)
        self._kept_rows += 1

    def add(self, row: Row) -> None:
        """Append a row after the snapshot."""
        self._db.execute("INSERT INTO record VALUES (?, ?, ?, ?)", row)
        self.next += row.span

    def complete(self) -> None:
        """Write the header row, the last data that need room on the disk, and close the file."""
        self._db.execute("INSERT INTO journal VALUES (?, ?, ?)", (*self._about, self._kept_rows))
        self._db.close()

    def finish(self) -> None:
        """Put the complete file in the place of the journal's file, whose write-ahead log is gone."""
        os.replace(self._new, self._path)
        sync_directory(self._path)

    def discard(self) -> None:
        """Remove the file, unless it has replaced the journal."""
        self._db.close()
        with suppress(FileNotFoundError):
            os.remove(self._new)


def draft_of(path: str) -> str:
    """Return the path of a journal's draft; the suffix marks it as made by this program."""
    return f"{path}.arcp-io-new"


def connect(path: str) -> sqlite3.Connection:
    """Open a connection that locks the file exclusively and begins no transactions by itself."""
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    db.text_factory = bytes  # A blob with a damaged type can still be read and its checksum checked.
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
    except BaseException:
        db.close()
        raise
    return db
