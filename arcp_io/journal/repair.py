"""Repairing a damaged journal: a copy of it is kept, and what is good takes its place."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import suppress
from typing import NamedTuple

from arcp_proto.server.journal.records import RECORD_VERSION

from .contents import Damaged, Versions, check_versions, good_rows, header
from .damage import Assessed, assess, is_ours, readable_copy
from .lock import FileLock
from .protocol import JournalError
from .sqlite_draft import SCHEMA_VERSION, Draft, sync_directory
from .sqlite_file import free_name
from .wal import log_of


class Repair(NamedTuple):
    """What was done to a journal: how many records it holds now, and what it has lost, in words.

    `copy` is the file in which it is kept as it was, its write-ahead log beside it. Both are empty if nothing
    was damaged: then nothing was changed.
    """

    records: int
    lost: str
    copy: str


def repair_journal(path: str | os.PathLike[str]) -> Repair:
    """Let a journal go on with what of it is good, after a copy of it was kept as it is. It blocks.

    Raises JournalError for what is no journal, is in use, is of a newer version, or is damaged beyond repair:
    then nothing was changed.
    """
    real = os.path.realpath(path)
    if not os.path.isfile(real) or not os.path.getsize(real):
        raise JournalError(f"there is no journal {real}")
    lock = FileLock(f"{real}.lock")
    try:
        lock.acquire(real)
        if not is_ours(real):
            raise JournalError(f"{real} is no journal, or its beginning is destroyed")
        found = assess(real)
        check_versions(real, found.versions, Versions(SCHEMA_VERSION, RECORD_VERSION))
        copy = _replaced(real, found) if found.contents.lost else ""
    except (OSError, sqlite3.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise JournalError(f"the journal {real} cannot be repaired: {reason}") from error
    finally:
        lock.release()
    kept, since, _, lost = found.contents
    return Repair(kept.records + since.records, lost, copy)


def _replaced(path: str, found: Assessed) -> str:
    """Put what is good into a new file in place of a damaged one, which is kept; returns its new name."""
    with readable_copy(path, with_log=found.with_log) as db:
        said = header(db)
        draft = Draft(path, said.record_version, said.start)
        try:
            with suppress(Damaged):
                for row in good_rows(db, "kept", 0):
                    draft.keep(row)
            with suppress(Damaged):
                for row in good_rows(db, "record", said.start):
                    if row.first < found.contents.next:
                        draft.add(row)
            draft.complete()
            copy = _kept(path)
            _block(path, copy)
            with suppress(FileNotFoundError):
                os.remove(log_of(path))
            draft.finish()
        finally:
            draft.discard()
    return copy


def _kept(path: str) -> str:
    """Keep the files of a journal under another name, too; returns that of the first."""
    copy = free_name(f"{path}.damaged")
    for source, target in ((path, copy), (log_of(path), log_of(copy))):
        with suppress(FileNotFoundError):
            try:
                os.link(source, target)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copy2(source, target)
    return copy


def _block(path: str, copy: str) -> None:
    """Put a file that is no journal in its place: without its write-ahead log it would be an older one.

    It stands there for as long as it takes to remove the log, unless the process ends meanwhile.
    """
    note = free_name(f"{path}.arcp-io-repair")
    with open(note, "x", encoding="utf-8") as file:
        file.write(f"The repair of this journal was interrupted: it is kept as {copy}.\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(note, path)
    sync_directory(path)
