"""The names of things: what an id is, and how random bits become one."""

from __future__ import annotations

import hashlib
from typing import Final, NewType

SessionId = NewType("SessionId", str)
"""`sess_` and a ULID: names a session for as long as it can be resumed (§6.2)."""
JobId = NewType("JobId", str)
"""`job_` and a ULID: names a job, in every session (§7.1)."""
RequestId = NewType("RequestId", str)
"""The envelope `id` of a request: what its answer carries as `request_id`."""
Principal = NewType("Principal", str)
"""Who a session acts for, as the host's verifier named it."""
Time = NewType("Time", int)
"""Nanoseconds of a monotonic clock, or of the Unix epoch where a name says `unix`."""

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def crockford(bits: bytes, length: int) -> str:
    """The first `length` base-32 digits of `bits`, in the alphabet of ULIDs."""
    number = int.from_bytes(bits, "big")
    width = len(bits) * 8
    return "".join(_CROCKFORD[(number >> (width - 5 * (i + 1))) & 31] for i in range(length))


def ulid(bits: bytes) -> str:
    """A ULID-shaped id of 26 characters from 16 bytes; the first digit stays below 8."""
    return "0" + crockford(bits, 25)


def event_id_prefix(session_id: SessionId) -> str:
    """The first 16 characters of every event id of a session; the number follows (§8.3).

    Derived, so that a replayed envelope is byte-identical to the first. It begins with 0; the ids
    of control envelopes begin with 1.
    """
    digest = hashlib.blake2b(session_id.encode(), digest_size=10, person=b"arcp-event-id").digest()
    return "0" + crockford(digest, 15)


def control_id_prefix(bits: bytes) -> str:
    """The first 16 characters of every control envelope's id on one connection."""
    return "1" + crockford(bits, 15)
