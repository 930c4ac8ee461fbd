"""The credentials of a journal that are not known to be revoked: a report for operators (§14)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from arcp_proto import (
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
from .live_copy import read_copy


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
    return read_copy(path, lambda opened: listed(map(decode_record, stored(opened.db))))


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
