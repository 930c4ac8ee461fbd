"""Compaction of a journal that no runtime has open: a snapshot replaces its records."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from arcp_proto import (
    RECORD_VERSION,
    InvariantViolated,
    Limits,
    Record,
    Runtime,
    RuntimeConfig,
    decode_record,
    encode_record,
)

from .closed_journal import closed_journal
from .contents import stored
from .protocol import JournalError
from .rows import rows
from .sqlite_draft import Draft
from .sqlite_file import Opened, open_database
from .wal import log_of


class Compacted(NamedTuple):
    """The records and the bytes of the file of a journal, before and after its compaction."""

    records_before: int
    records: int
    bytes_before: int
    bytes: int


def compact_journal(path: str | os.PathLike[str], limits: Limits | None = None) -> Compacted:
    """Replace the records of the journal at a path by a snapshot that stands for them. Blocks.

    `limits` are those of the App. The new file replaces the old one in one step: a crash leaves either.
    Raises JournalError, and changes nothing, if there is no journal, if a runtime has it open, or if it is
    damaged.
    """
    with closed_journal(path, "was not compacted, and is unchanged") as real:
        before = os.path.getsize(real)
        opened = open_database(real, "full", RECORD_VERSION)
        try:
            made, count = _snapshot(real, opened, limits or Limits())
            draft = Draft(real, RECORD_VERSION, opened.contents.next)
        except BaseException:
            opened.db.close()
            raise
        _replace(real, opened, draft, made)
    return Compacted(count, len(made), before, os.path.getsize(real))


def _snapshot(path: str, opened: Opened, limits: Limits) -> tuple[list[Record], int]:
    """Return the snapshot of the records of a file, and how many records these are."""
    config = RuntimeConfig(name="", version="", journal=True, limits=limits)
    try:
        records = [decode_record(data) for data in stored(opened.db)]
        return Runtime.compacted(config, records), len(records)
    except JournalError:
        raise
    except (Exception, InvariantViolated) as error:
        raise JournalError(
            f"the content of {path} cannot be restored: {type(error).__name__}: {error}. It is unchanged"
        ) from error


def _replace(path: str, opened: Opened, draft: Draft, made: Iterable[Record]) -> None:
    """Write a snapshot to a draft, and put it in the place of the file.

    Closing the old file empties its write-ahead log, which must not be found beside the new one.
    """
    try:
        try:
            for row in rows(map(encode_record, made)):
                draft.keep(row)
        finally:
            opened.db.close()
        with suppress(FileNotFoundError):
            if os.path.getsize(log_of(path)):
                raise OSError("its write-ahead log cannot be emptied")
        draft.complete()
        draft.finish()
    finally:
        draft.discard()
