"""What a job asks to be allowed: capability namespaces, their patterns, and an expiry (§9.2, §9.5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from . import wire
from .budget import COST_BUDGET, parse_amount
from .errors import ErrorCode, Refusal
from .glob import check_pattern
from .ids import Time
from .limits import MAX_LEASE_BYTES, MAX_NAME_LENGTH, MAX_NAMESPACES, MAX_PATTERNS
from .messages import Lease
from .nothing import NOTHING
from .times import parse_utc

MODEL_USE: Final = "model.use"
"""The namespace of the models that a job may use (§9.7)."""
RESERVED: Final = (
    "fs.read",
    "fs.write",
    "net.fetch",
    "tool.call",
    "agent.delegate",
    COST_BUDGET,
    MODEL_USE,
)
"""The namespaces of §9.2; others are `x-vendor.` and printable ASCII without spaces."""

_VENDOR: Final = re.compile(r"x-vendor\.[!-~]+\Z")


class Expiry(msgspec.Struct, frozen=True, gc=False):
    """When a lease ends: at `unix`, nanoseconds since the epoch; `text` is what is echoed, with Z (§9.5)."""

    unix: Time
    text: str


def parse_lease(request: Mapping[str, list[str]] | None) -> Lease:
    """A copy of a `lease_request`, order kept, none is empty; raises Refusal INVALID_REQUEST (§9.2).

    An empty list grants nothing, but `cost.budget` has to name an amount.
    """
    if not request:
        return NOTHING
    _check_size("lease_namespaces", "namespaces", len(request), MAX_NAMESPACES)
    for namespace, patterns in request.items():
        _check_namespace(namespace)
        _check_size("lease_patterns", f"patterns for {namespace}", len(patterns), MAX_PATTERNS)
        for pattern in patterns:
            check_pattern(namespace, pattern)
            if namespace == COST_BUDGET:
                parse_amount(pattern)
        if namespace == COST_BUDGET and not patterns:
            raise Refusal(ErrorCode.INVALID_REQUEST, "cost.budget names no amount")
    lease = {namespace: list(patterns) for namespace, patterns in request.items()}
    _check_size("lease_bytes", "bytes", len(wire.encode_checked(lease)), MAX_LEASE_BYTES)
    return lease


def parse_expiry(text: str, *, unix: Time) -> Expiry:
    """An `expires_at` that lies after `unix`; raises Refusal INVALID_REQUEST for any other text (§9.5)."""
    expires = parse_utc(text)
    if expires is None:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"expires_at {text[:64]!r} is no UTC time such as 2026-05-13T23:42:00Z",
        )
    expiry = Expiry(*expires)
    if expiry.unix <= unix:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"expires_at {expiry.text} is not in the future")
    return expiry


def _check_namespace(namespace: str) -> None:
    if namespace in RESERVED or (len(namespace) <= MAX_NAME_LENGTH and _VENDOR.match(namespace)):
        return
    raise Refusal(
        ErrorCode.INVALID_REQUEST,
        f"{namespace[:64]!r} is no capability namespace of the protocol, and does not begin with x-vendor.",
    )


def _check_size(limit: str, what: str, size: int, most: int) -> None:
    if size > most:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"a lease_request has at most {most} {what}, this one has {size}",
            details={"limit": limit, "max": most},
        )
