"""A journal that no runtime has open, for the upkeep of its file: repair and compaction."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from .protocol import JournalError
from .sqlite_file import JournalLock


@contextmanager
def closed_journal(path: str | os.PathLike[str], failure: str) -> Iterator[str]:
    """Hold the lock of a journal, so that no runtime opens it meanwhile; yield its real path.

    Raises JournalError if there is no journal, if it is in use, and in place of errors of the file or of
    SQLite in the block; `failure` says then what has not been done.
    """
    real = os.path.realpath(path)
    if not os.path.isfile(real) or not os.path.getsize(real):
        raise JournalError(f"there is no journal {os.fspath(path)}")
    lock = JournalLock(real)
    try:
        lock.acquire()
        yield real
    except (OSError, sqlite3.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise JournalError(f"the journal {real} {failure}: {reason}") from error
    finally:
        lock.release()
