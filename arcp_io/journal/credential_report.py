"""The credentials of a journal that are not known to be revoked: a report for operators (§14)."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from arcp_proto import (
    RECORD_VERSION,
    CredentialIssued,
    CredentialOutstanding,
    CredentialRequested,
    CredentialRevoked,
    JobEndedRecord,
    JobKept,
    Record,
    decode_record,
)

from .contents import stored
from .protocol import JournalDamaged, JournalError
from .sqlite_file import open_database
from .wal import LOG_HEADER_BYTES, log_of

COPIES: Final = 5
"""How often a journal that is in use is copied until one copy is consistent."""


class Outstanding(NamedTuple):
    """One credential alias that is not known to be revoked; `requested_at` is Unix time in nanoseconds.

    `state` is "requested" (it is not known whether a credential was issued), "issued" (the job has not
    ended), "to be revoked", or "outstanding" (the revocation failed, and `reason` says why).
    """

    alias: str
    principal: str
    job_id: str
    requested_at: int
    state: str
    ids: tuple[str, ...]
    reason: str


def outstanding_in(path: str | os.PathLike[str]) -> list[Outstanding]:
    """Return the unrevoked credentials in the journal at a path, oldest first; a runtime may have it open.

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
                return listed(map(decode_record, stored(opened.db)))
            finally:
                opened.db.close()
    raise failure


def listed(records: Iterable[Record]) -> list[Outstanding]:
    """Return the credentials that are not known to be revoked after these records."""
    found: dict[str, Outstanding] = {}
    ended: dict[str, None] = {}
    for record in records:
        match record:
            case CredentialRequested():
                found[record.alias] = Outstanding(
                    record.alias, record.principal, record.job_id, record.at, "requested", (), ""
                )
            case CredentialIssued():
                known = found[record.alias]
                found[record.alias] = known._replace(state="issued", ids=tuple(record.ids))
            case CredentialOutstanding():
                known = found[record.alias]
                found[record.alias] = known._replace(state="outstanding", reason=record.reason)
            case CredentialRevoked():
                found.pop(record.alias, None)
            case JobEndedRecord():
                ended[record.job_id] = None
            case JobKept(end=end) if end is not None:
                ended[record.terms.job_id] = None
    return list(_stated(found.values(), ended))


def _stated(found: Iterable[Outstanding], ended: dict[str, None]) -> Iterator[Outstanding]:
    for one in found:
        over = one.state == "issued" and one.job_id in ended
        yield one._replace(state="to be revoked") if over else one


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
