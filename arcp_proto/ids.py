"""Ids: their types, and how they are made from random bits."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NewType

SessionId = NewType("SessionId", str)
"""`sess_` and a ULID: names a session for as long as it can be resumed (§6.2)."""
JobId = NewType("JobId", str)
"""`job_` and a ULID: names a job, in every session (§7.1)."""
RequestId = NewType("RequestId", str)
"""The envelope `id` of a request, which its answer carries as `request_id`."""
Principal = NewType("Principal", str)
"""The identity that a session acts for, as the host's verifier named it."""
Monotonic = NewType("Monotonic", int)
"""Nanoseconds of a monotonic clock: when timers are due, and how long ago something was."""
UnixTime = NewType("UnixTime", int)
"""Nanoseconds since the Unix epoch: what is written, kept over restarts, or told by a peer."""

if not TYPE_CHECKING:  # Calling a NewType would cost a function call at run time.
    SessionId = JobId = RequestId = Principal = str
    Monotonic = UnixTime = int

SECOND: Final = 1_000_000_000
"""Nanoseconds of a second."""
MILLISECOND: Final = 1_000_000
"""Nanoseconds of a millisecond."""

_MOST_DIGITS: Final = 32
_CROCKFORD: Final = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ".ljust(256, b"?")


def crockford(bits: bytes, length: int) -> str:
    """Return the first `length` base-32 digits of `bits`, at most 32, in the alphabet of ULIDs."""
    number = int.from_bytes(bits, "big") >> len(bits) * 8 - length * 5
    for lower, upper, distance in _APART:
        number = number & lower | (number & upper) << distance
    return number.to_bytes(length, "big").translate(_CROCKFORD).decode()


def _halves(digits: int) -> tuple[int, int, int]:
    """Return masks of the lower and the upper halves of groups of `2 * digits` digits, and the shift
    between them.

    Each group takes as many bytes as it has digits; shifting its upper half gives each half its own bytes.
    """
    lower = sum((1 << digits * 5) - 1 << start * 8 for start in range(0, _MOST_DIGITS, 2 * digits))
    return lower, lower << digits * 5, digits * 3


_APART: Final = tuple(_halves(digits) for digits in (16, 8, 4, 2, 1))
"""Steps by which adjacent digits of five bits become digits of a byte each."""


def ulid(bits: bytes) -> str:
    """Return a ULID-shaped id of 26 characters from 16 bytes; the first digit stays below 8."""
    return "0" + crockford(bits, 25)


def event_id_prefix(session_id: SessionId) -> str:
    """Return the first 16 characters of every event id of a session; the number follows (§8.3).

    It is derived, so that a replayed envelope is byte-identical to the first. It begins with 0; the ids of
    control envelopes begin with 1.
    """
    digest = hashlib.blake2b(session_id.encode(), digest_size=10, person=b"arcp-event-id").digest()
    return "0" + crockford(digest, 15)


def control_id_prefix(bits: bytes) -> str:
    """Return the first 16 characters of every control envelope's id on one connection."""
    return "1" + crockford(bits, 15)


def qualified(name: str, version: str | None) -> str:
    """Return an agent as messages name it: name@version, or the name if it has no version (§7.5)."""
    return name if version is None else f"{name}@{version}"
