"""The content of a journal, for operators: sizes, records, sessions and jobs; and a check of all of it."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from arcp_proto import (
    Delegated,
    InvariantViolated,
    JobAcceptedRecord,
    JobEndedRecord,
    JobForgotten,
    JobKept,
    JobStarted,
    JobStatus,
    Record,
    Runtime,
    RuntimeConfig,
    SessionEnded,
    SessionKept,
    SessionOpened,
    decode_record,
)

from .contents import stored, versions
from .credential_report import listed
from .live_copy import read_copy
from .protocol import Amount, JournalError, grown
from .sqlite_draft import connect
from .sqlite_file import Opened
from .wal import log_of


class Inspection(NamedTuple):
    """The content of a journal.

    `snapshot` and `since` are the records of the last snapshot and those behind it; `records` counts all of
    them by type. `next` is the number of the next record. `credentials` are those not known to be revoked.
    """

    file_bytes: int
    log_bytes: int
    schema: int
    record_version: int
    snapshot: Amount
    since: Amount
    next: int
    compaction_due: bool
    records: Mapping[str, int]
    sessions: int
    jobs: Mapping[str, int]
    credentials: int


def inspect_journal(path: str | os.PathLike[str]) -> Inspection:
    """Return what the journal at a path holds; a runtime may have it open. Blocks.

    Raises JournalError, and JournalDamaged for a journal that has lost records.
    """

    def read(opened: Opened) -> Inspection:
        records = [decode_record(data) for data in stored(opened.db)]
        sessions, jobs = _living(records)
        found = opened.contents
        return Inspection(
            os.path.getsize(path),
            _size_of(log_of(os.fspath(os.path.realpath(path)))),
            *_versions_of(opened),
            found.kept,
            found.since,
            found.next,
            grown(found.kept, found.since),
            dict(Counter(type(record).__name__.removesuffix("Record") for record in records).most_common()),
            sessions,
            jobs,
            len(listed(records)),
        )

    return read_copy(path, read)


def verify_journal(path: str | os.PathLike[str]) -> int:
    """Read and apply every record of the journal at a path; return how many there are. Blocks.

    Every page and checksum is checked, and the file is left unchanged; a runtime may have it open. Raises
    JournalDamaged for a journal that has lost records, and JournalError for one that cannot be restored.
    """
    return read_copy(path, lambda opened: _verified(os.fspath(path), opened))


def _verified(path: str, opened: Opened) -> int:
    """Return the number of records; raises JournalError unless a runtime can be restored from them."""
    records: list[Record] = []
    try:
        records += map(decode_record, stored(opened.db))
        Runtime.compacted(RuntimeConfig(name="", version="", journal=True), records)
    except JournalError:
        raise
    except (Exception, InvariantViolated) as error:
        raise JournalError(
            f"record {len(records)} or one before it of {path} cannot be restored: {type(error).__name__}:"
            f" {error}. Keep the file, and start with a backup or another journal"
        ) from error
    return len(records)


def _living(records: Iterable[Record]) -> tuple[int, dict[str, int]]:
    """Return how many sessions there are, and how many jobs of each status, after these records."""
    sessions: set[str] = set()
    jobs: dict[str, str] = {}
    for record in records:
        match record:
            case SessionOpened(session_id=session_id):
                sessions.add(session_id)
            case SessionKept(opened=opened):
                sessions.add(opened.session_id)
            case SessionEnded(session_id=session_id):
                sessions.discard(session_id)
            case JobAcceptedRecord(terms=terms) | Delegated(terms=terms):
                jobs[terms.job_id] = JobStatus.PENDING
            case JobKept(terms=terms, status=status):
                jobs[terms.job_id] = status
            case JobStarted(job_id=job_id):
                jobs[job_id] = JobStatus.RUNNING
            case JobEndedRecord(job_id=job_id, status=status):
                jobs[job_id] = status
            case JobForgotten(job_id=job_id):
                jobs.pop(job_id, None)
    counted = Counter(jobs.values())
    return len(sessions), {status.value: counted[status] for status in JobStatus if counted[status]}


def _versions_of(opened: Opened) -> tuple[int, int]:
    """Return the versions of the tables and of the records, before a copy was migrated."""
    if opened.copy:
        with suppress(sqlite3.Error, JournalError):
            db = connect(opened.copy)
            try:
                return versions(db)
            finally:
                db.close()
    return versions(opened.db)


def _size_of(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
