"""Assess how much of a damaged journal is good, without changing its files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from .contents import Contents, Versions, scan, versions
from .protocol import JournalDamaged, JournalError
from .sqlite_draft import APPLICATION_ID, PAGE_BYTES, connect
from .wal import log_of, read_log

_HEAD_BYTES: Final = 100
_PAGES_AT: Final = 28
"""Offset of the number of pages in the header of a database."""


class Assessed(NamedTuple):
    """The good part of a journal; `with_log` is true if reading the write-ahead log recovers more."""

    versions: Versions
    contents: Contents
    with_log: bool


def is_ours(path: str) -> bool:
    """Return whether the header of a file marks it as the database of a journal."""
    head = _head_of(path)
    return head.startswith(b"SQLite format 3\0") and head[68:72] == APPLICATION_ID.to_bytes(4, "big")


def is_short(path: str) -> bool:
    """Return whether a file has fewer bytes than its header says."""
    head = _head_of(path)
    page = int.from_bytes(head[16:18], "big")
    return os.path.getsize(path) < page * int.from_bytes(head[_PAGES_AT : _PAGES_AT + 4], "big")


def assess(path: str) -> Assessed:
    """Read a temporary copy of a journal and return how much of it is good.

    A damaged write-ahead log may hold pages that the file already has, so that more is good without the log.
    Raises JournalError when nothing can be read.
    """
    with _explained(path):
        log = read_log(path)
        best = _assessed(path, with_log=True)
        if log.damaged:
            with suppress(JournalError, sqlite3.Error, UnicodeDecodeError):
                best = max(best, _assessed(path, with_log=False), key=_goodness)
    if log.damaged and not best.contents.lost:
        fault = f"{log.lost} of {log.pages} pages of its write-ahead log cannot be read"
        return _lost(best, f"everything from record {best.contents.next} on ({fault})")
    if not (best.contents.lost or log.good) and is_short(path):
        return _lost(best, "pages at the end of its file, in which no record is missed")
    return best


def damaged(path: str) -> JournalDamaged:
    """Return the error that says what a journal has lost and how to repair it."""
    return JournalDamaged(
        f"the journal {path} is damaged, and has lost {assess(path).contents.lost}. Put a backup in its"
        f" place, or run 'arcp-io journal repair {path}': it saves a copy, and keeps what is good"
    )


@contextmanager
def readable_copy(path: str, *, with_log: bool, fitted: bool = True) -> Iterator[sqlite3.Connection]:
    """Open a copy of a journal; `fitted` mends the header of a truncated one.

    Raises OSError and sqlite3.Error.
    """
    with tempfile.TemporaryDirectory(prefix=".arcp-io-", dir=os.path.dirname(path)) as directory:
        copy = os.path.join(directory, "journal")
        shutil.copyfile(path, copy)
        if with_log:
            with suppress(FileNotFoundError):
                shutil.copyfile(log_of(path), log_of(copy))
        if fitted and is_short(copy):
            _fit_length(copy)
        db = connect(copy)
        try:
            yield db
        finally:
            db.close()


def _assessed(path: str, *, with_log: bool) -> Assessed:
    """Assess a copy as it is or, if SQLite refuses it, with the number of pages in its header corrected."""
    for fitted in (False, True):
        try:
            with readable_copy(path, with_log=with_log, fitted=fitted) as db:
                found = Assessed(versions(db), scan(db), with_log)
        except sqlite3.DatabaseError:
            if fitted:
                raise
        else:
            break
    return (
        _lost(found, "nothing but the number of its pages") if fitted and not found.contents.lost else found
    )


def _lost(found: Assessed, lost: str) -> Assessed:
    return found._replace(contents=found.contents._replace(lost=lost))


def _goodness(found: Assessed) -> tuple[int, int]:
    return found.contents.kept.records, found.contents.next


def _fit_length(path: str) -> None:
    """Write the real number of pages into the header of a truncated file, so that SQLite opens it."""
    with open(path, "r+b") as file:
        pages = -(-file.seek(0, os.SEEK_END) // PAGE_BYTES)
        file.truncate(pages * PAGE_BYTES)
        file.seek(_PAGES_AT)
        file.write(pages.to_bytes(4, "big"))


def _head_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Raise JournalError for a journal of which nothing can be read."""
    try:
        yield
    except (JournalError, sqlite3.Error, UnicodeDecodeError) as error:
        raise JournalError(
            f"the journal {path} is damaged beyond repair: {error}. Put a backup in its place, or move it"
            " away to start an empty one"
        ) from None
    except OSError as error:
        raise JournalError(f"the journal {path} is damaged, and cannot be read: {error.strerror}") from None
