"""Lease requests and leases: parsing, which operations a lease allows, and which leases it covers (§9)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Self

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import UnixTime
from arcp_proto.limits import MAX_LEASE_BYTES, MAX_NAME_LENGTH, MAX_NAMESPACES, MAX_PATTERNS
from arcp_proto.namespaces import COST_BUDGET, RESERVED
from arcp_proto.wire import codec
from arcp_proto.wire.messages import Lease
from arcp_proto.wire.timestamps import parse_utc

from .automaton import Automaton
from .budget import parse_amount
from .canonical import matchable
from .patterns import check_pattern, parse_pattern
from .subsumption import Budget, Spent, covers

_VENDOR: Final = re.compile(r"x-vendor\.[!-~]+\Z")


class Expiry(msgspec.Struct, frozen=True, gc=False):
    """The end of a lease: `unix` in nanoseconds since the epoch, and `text` as it is echoed, with Z
    (§9.5).
    """

    unix: UnixTime
    text: str


def parse_lease(request: Mapping[str, list[str]] | None) -> Lease:
    """Return a copy of a `lease_request`, in the same order; raises Refusal INVALID_REQUEST (§9.2).

    An empty list grants nothing, but `cost.budget` must name an amount.
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
            raise Refusal(ErrorCode.INVALID_REQUEST, f"{COST_BUDGET} names no amount")
    lease = {namespace: list(patterns) for namespace, patterns in request.items()}
    _check_size("lease_bytes", "bytes", len(codec.encode_checked(lease)), MAX_LEASE_BYTES)
    return lease


def parse_expiry(text: str, *, unix: UnixTime) -> Expiry:
    """Return an `expires_at` after `unix`; raises Refusal INVALID_REQUEST for any other text (§9.5)."""
    expires = parse_utc(text)
    if expires is None:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"expires_at {text[:64]!r} is not a UTC time such as 2026-05-13T23:42:00Z",
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
        f"{namespace[:64]!r} is not a capability namespace of the protocol,"
        " and does not begin with x-vendor.",
    )


def _check_size(limit: str, what: str, size: int, most: int) -> None:
    if size > most:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"a lease_request has at most {most} {what}, this one has {size}",
            details={"limit": limit, "max": most},
        )


class Grants:
    """The grants of a lease's patterns. Immutable; a namespace is compiled on first use."""

    __slots__ = ("_automata", "_patterns")

    def __init__(self, patterns: Mapping[str, tuple[str, ...]]) -> None:
        self._patterns = dict(patterns)
        self._automata: dict[str, Automaton] = {}

    @classmethod
    def of(cls, lease: Mapping[str, Sequence[str]]) -> Self:
        """Return the grants of a parsed lease."""
        return cls({namespace: tuple(patterns) for namespace, patterns in lease.items()})

    def allows(self, capability: str, target: str) -> bool:
        """Return whether a pattern matches the target, in its canonical form (§9.3).

        False for a missing namespace, for a target that is not a path or URL, and always for cost.budget.
        """
        if capability not in self._patterns:
            return False
        text = matchable(capability, target)
        return text is not None and self._automaton(capability).matches(text)

    def pattern_for(self, capability: str, target: str) -> str:
        """Return the first pattern that matches the target; empty if none does."""
        text = matchable(capability, target)
        if text is not None:
            for pattern in self._patterns.get(capability, ()):
                if Automaton(parse_pattern(capability, pattern)).matches(text):
                    return pattern
        return ""

    def names(self, capability: str) -> bool:
        """Return whether the lease has the namespace, even with no pattern."""
        return capability in self._patterns

    def covers(self, child: Grants) -> bool:
        """Return whether this lease allows everything that `child` allows, except for cost.budget (§9.4).

        Exact over the union of the patterns, but False where the search would take more than
        `subsumption.MOST_STATES` states, and where a child has more only among URLs whose path begins with
        `//`, which no target has.
        """
        budget = Budget()
        try:
            return all(
                covers(self._automaton(namespace), child._automaton(namespace), budget)
                for namespace, patterns in child._patterns.items()
                if patterns and namespace != COST_BUDGET
            )
        except Spent:
            return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grants) and self._patterns == other._patterns

    def __repr__(self) -> str:
        return f"Grants({self._patterns!r})"

    def _automaton(self, namespace: str) -> Automaton:
        automaton = self._automata.get(namespace)
        if automaton is None:
            patterns = self._patterns.get(namespace, ())
            automaton = Automaton(
                parts for pattern in patterns for parts in parse_pattern(namespace, pattern)
            )
            self._automata[namespace] = automaton
        return automaton
