"""Credentials that a journal knows, and that are not known to be revoked: for operators (§14)."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from arcp_proto.records import (
    RECORD_VERSION,
    CredentialIssued,
    CredentialOutstanding,
    CredentialRequested,
    CredentialRevoked,
    JobEnded,
    JobKept,
    Record,
    decode_record,
)

from .database import open_database, stored
from .journal import JournalError

COPIES: Final = 5
"""How often a journal that is being written to is copied until the copy is whole."""


class Outstanding(NamedTuple):
    """One alias that is not known to be revoked; `requested_at` is Unix time in nanoseconds.

    `state`: requested (whether something was issued is not known), issued (its job has not ended), to be
    revoked, or outstanding: `reason` says why it could not be.
    """

    alias: str
    principal: str
    job_id: str
    requested_at: int
    state: str
    ids: tuple[str, ...]
    reason: str


def outstanding_in(path: str | os.PathLike[str]) -> list[Outstanding]:
    """What the journal in a file knows, the oldest first; a runtime may have it open meanwhile.

    Raises JournalError for what is no journal, or cannot be read.
    """
    if not os.path.exists(path):
        raise JournalError(f"there is no journal {os.fspath(path)}")
    for attempt in range(COPIES):
        with tempfile.TemporaryDirectory(prefix="arcp-io-") as directory:
            copy = os.path.join(directory, "journal")
            last = attempt == COPIES - 1
            try:
                _copy(os.path.realpath(path), copy)
                opened = open_database(copy, "normal", RECORD_VERSION)
            except (OSError, sqlite3.Error, JournalError) as error:
                if last:
                    reason = str(error).replace(copy, os.fspath(path))
                    raise JournalError(f"the journal {os.fspath(path)} cannot be read: {reason}") from None
                continue
            try:
                if not opened.dropped or last:
                    return listed(map(decode_record, stored(opened.db)))
            finally:
                opened.db.close()
    raise AssertionError("the last copy is used, or raises")


def listed(records: Iterable[Record]) -> list[Outstanding]:
    """What is not known to be revoked after these records."""
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
            case JobEnded():
                ended[record.job_id] = None
            case JobKept(end=end) if end is not None:
                ended[record.terms.job_id] = None
    return list(_stated(found.values(), ended))


def _stated(found: Iterable[Outstanding], ended: dict[str, None]) -> Iterator[Outstanding]:
    for one in found:
        over = one.state == "issued" and one.job_id in ended
        yield one._replace(state="to be revoked") if over else one


def _copy(path: str, copy: str) -> None:
    """The file and its write-ahead log; what is written in between may be torn, which is found then."""
    shutil.copyfile(path, copy)
    with suppress(FileNotFoundError):
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
