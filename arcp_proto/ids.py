"""The names of things: what an id is, and how random bits become one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NewType

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

if not TYPE_CHECKING:  # A NewType is a function that is called wherever one is named.
    SessionId = JobId = RequestId = Principal = str
    Time = int

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000

_MOST_DIGITS: Final = 32
_CROCKFORD: Final = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ".ljust(256, b"?")


def crockford(bits: bytes, length: int) -> str:
    """The first `length` base-32 digits of `bits`, at most 32, in the alphabet of ULIDs."""
    number = int.from_bytes(bits, "big") >> len(bits) * 8 - length * 5
    for lower, upper, distance in _APART:
        number = number & lower | (number & upper) << distance
    return number.to_bytes(length, "big").translate(_CROCKFORD).decode()


def _halves(digits: int) -> tuple[int, int, int]:
    """Of groups of twice so many digits, each group in as many bytes as it has digits: the bits of all their
    lower halves, those of the upper ones, and how far these move until each half has its own bytes.
    """
    lower = sum((1 << digits * 5) - 1 << start * 8 for start in range(0, _MOST_DIGITS, 2 * digits))
    return lower, lower << digits * 5, digits * 3


_APART: Final = tuple(_halves(digits) for digits in (16, 8, 4, 2, 1))
"""Step by step, digits of five bits that stand close together become digits of a byte each."""


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


def qualified(name: str, version: str | None) -> str:
    """Return an agent as messages name it: name@version, or the name if it has no version (§7.5)."""
    return name if version is None else f"{name}@{version}"
