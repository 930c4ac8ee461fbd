"""A consistent copy of a journal, to read it while a runtime may have it open."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from arcp_proto import RECORD_VERSION

from .protocol import JournalDamaged, JournalError
from .sqlite_file import Opened, open_database
from .wal import LOG_HEADER_BYTES, log_of

T = TypeVar("T")

COPIES: Final = 5
"""How often a journal that is in use is copied until one copy is consistent."""


def read_copy(path: str | os.PathLike[str], read: Callable[[Opened], T]) -> T:
    """Return what a function reads from a copy of the journal at a path; a runtime may have it open.

    Raises JournalError for a file that is not a journal or cannot be read, and JournalDamaged for a journal
    that has lost records.
    """
    failure = JournalError(f"there is no journal {os.fspath(path)}")
    if not os.path.exists(path):
        raise failure
    for _ in range(COPIES):
        with tempfile.TemporaryDirectory(prefix="arcp-io-") as directory:
            copy = os.path.join(directory, "journal")
            try:
                _copy(os.path.realpath(path), copy)
                opened = open_database(copy, "normal", RECORD_VERSION)
            except (OSError, sqlite3.Error, JournalError) as error:
                failure = _renamed(error, copy, os.fspath(path))
                continue
            try:
                return read(opened)
            finally:
                opened.db.close()
    raise failure


def _copy(path: str, copy: str) -> None:
    """Copy a journal's file and its write-ahead log; opening the copy detects torn writes.

    Raises OSError, and JournalError when the log was restarted or the file replaced meanwhile.
    """
    before = _state(path)
    shutil.copyfile(path, copy)
    with suppress(FileNotFoundError):
        shutil.copyfile(log_of(path), log_of(copy))
    if _state(path) != before:
        raise JournalError("it is being written to: try again")


def _state(path: str) -> tuple[int, bytes]:
    """Return the inode number of a file, and the header of its write-ahead log."""
    with suppress(FileNotFoundError), open(log_of(path), "rb") as log:
        return os.stat(path).st_ino, log.read(LOG_HEADER_BYTES)
    return os.stat(path).st_ino, b""


def _renamed(error: Exception, copy: str, path: str) -> JournalError:
    """Return an error about a copy as an error about the journal itself."""
    said = str(error).replace(copy, path)
    if isinstance(error, JournalDamaged):
        return JournalDamaged(said)
    return JournalError(said if path in said else f"the journal {path} cannot be read: {said}")
