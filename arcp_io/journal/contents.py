"""The content of the file of a SqliteJournal, as far as it can be read.

journal   one row: the version of the records, the number that the first row of `record` begins with,
          and how many rows `kept` has
kept      the snapshot: rows of records, numbered from 0 for themselves
record    the records behind it: rows under their own numbers
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from .protocol import Amount, JournalError
from .rows import Row, unpack


class Versions(NamedTuple):
    """The versions of the tables of a file and of the records in it; both count from 1."""

    schema: int
    records: int


class Damaged(JournalError):
    """A row is missing, or differs from what was written."""


class Header(NamedTuple):
    """The single row of the table `journal`."""

    record_version: int
    start: int
    kept_rows: int


class Contents(NamedTuple):
    """The readable content of a file: the sizes of its snapshot and of the records after it, and the next
    number.
    """

    kept: Amount
    since: Amount
    next: int
    lost: str
    """A description of what cannot be read, and why; empty if everything can be read."""


def stored(db: sqlite3.Connection) -> Iterator[bytes]:
    """Yield every record of a file in order: the snapshot, then the records after it."""
    for table, first in (("kept", 0), ("record", header(db).start)):
        for row in good_rows(db, table, first):
            yield from unpack(row)


def good_rows(db: sqlite3.Connection, table: str, first: int) -> Iterator[Row]:
    """Yield the rows of a table, which begin with record `first`; raise Damaged at the first bad row."""
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
    """Return the header row of a file; raises JournalError and sqlite3.Error."""
    found = db.execute("SELECT record_version, start, kept_rows FROM journal").fetchone()
    if found is None or not all(type(value) is int for value in found):
        raise JournalError("its header row is missing or invalid")
    return Header(*found)


def versions(db: sqlite3.Connection) -> Versions:
    """Return the versions of a file; raises JournalError and sqlite3.Error."""
    return Versions(db.execute("PRAGMA user_version").fetchone()[0], header(db).record_version)


def scan(db: sqlite3.Connection) -> Contents:
    """Read every row and check every page; raises JournalError and sqlite3.Error.

    The check of pages finds a page that counts fewer rows than it holds.
    """
    said = header(db)
    kept, rows, fault = _scan_table(db, "kept", 0)
    if not fault and rows != said.kept_rows:
        fault = f"{said.kept_rows - rows} of its rows are missing"
    if fault:
        lost = f"its snapshot from record {kept.records} on and everything behind it ({fault})"
        return Contents(kept, Amount(), said.start, lost)
    since, _, fault = _scan_table(db, "record", said.start)
    fault = fault or _checked(db)
    lost = f"everything from record {said.start + since.records} on ({fault})" if fault else ""
    return Contents(kept, since, said.start + since.records, lost)


def _checked(db: sqlite3.Connection) -> str:
    try:
        said = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return "" if text == "ok" else " ".join(text.split())


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


def check_versions(path: str, found: Versions, known: Versions) -> None:
    """Raise JournalError if a file has a version that this release does not know."""
    for what, is_of, goes_to in zip(("schema", "records"), found, known, strict=True):
        if not 0 < is_of <= goes_to:
            raise JournalError(
                f"{path} has version {is_of} of the {what}, and this arcp-io knows versions up to {goes_to}:"
                " use a newer arcp-io, or another journal"
            )
