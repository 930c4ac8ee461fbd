"""Repair of a damaged journal: save a copy of it, and put the good part in its place."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import NamedTuple

from arcp_io.files import free_name, replace_file, sync_directory
from arcp_proto import RECORD_VERSION

from .closed_journal import closed_journal
from .contents import Damaged, Versions, check_versions, good_rows, header
from .damage import Assessed, assess, is_ours, readable_copy
from .protocol import JournalError
from .sqlite_draft import SCHEMA_VERSION, Draft
from .wal import log_of


class Repair(NamedTuple):
    """The result of a repair: how many records the journal holds now, and a description of what it has
    lost.

    `copy` is the file that holds the damaged journal, with its write-ahead log beside it. `lost` and `copy`
    are empty if the journal was not damaged; it is unchanged then.
    """

    records: int
    lost: str
    copy: str


def repair_journal(path: str | os.PathLike[str]) -> Repair:
    """Save a copy of a journal and keep the part of it that is good. Blocks.

    Raises JournalError, and changes nothing, if the file is not a journal, is in use, has a newer version, or
    is damaged beyond repair.
    """
    with closed_journal(path, "cannot be repaired") as real:
        if not is_ours(real):
            raise JournalError(f"{real} is not a journal, or its header is destroyed")
        found = assess(real)
        check_versions(real, found.versions, Versions(SCHEMA_VERSION, RECORD_VERSION))
        copy = _replaced(real, found) if found.contents.lost else ""
    kept, since, _, lost = found.contents
    return Repair(kept.records + since.records, lost, copy)


def _replaced(path: str, found: Assessed) -> str:
    """Replace a damaged journal by a file with its good part; return the name of the saved copy."""
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
    """Save the files of a journal under a second name, and return that of the first file."""
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
    """Put a note in the place of the journal: without its write-ahead log the file would pass as an older
    one.

    The note is there while the log is removed, and stays if the process ends meanwhile.
    """
    note = free_name(f"{path}.arcp-io-repair")
    text = f"The repair of this journal was interrupted: it is kept as {copy}.\n"
    replace_file(path, note, text.encode())
    sync_directory(path)
