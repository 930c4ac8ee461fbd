"""Idempotency keys: the fingerprint of the submit under each key, and its answer (§7.2)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from typing import Any

import msgspec

from arcp_proto.errors import ensure
from arcp_proto.ids import SECOND, JobId, Principal, UnixTime
from arcp_proto.limits import Limits
from arcp_proto.wire.canonical_json import canonical_json
from arcp_proto.wire.codec import OpenObject
from arcp_proto.wire.messages import LeaseConstraints, MessageType


class Claim(msgspec.Struct):
    """One claimed key: the fingerprint of its submit, its job, and the answers.

    `accepted` is the encoded payload of `job.accepted` with an empty `request_id`. `ended` is the terminal:
    its type, its payload, and that for sessions without `result_chunk`; None while the
    job runs. `ended_at` is Unix time in nanoseconds. `position` is that of the terminal in its job; 0 in the
    records of versions before positions.
    """

    fingerprint: bytes
    job_id: JobId
    accepted: bytes
    ended: tuple[MessageType, OpenObject, OpenObject | None] | None = None
    ended_at: UnixTime = UnixTime(0)
    position: int = 0

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        size = len(self.fingerprint) + len(self.accepted)
        if self.ended is not None:
            _, payload, inline = self.ended
            size += len(payload) + len(inline or b"")
        return size


def fingerprint(
    agent: str,
    input: Any,
    lease_request: Mapping[str, list[str]] | None,
    lease_constraints: LeaseConstraints | None,
    max_runtime_sec: int | None,
) -> bytes:
    """Return the SHA-256 of a submit, which is equal exactly for equal submits.

    Values count as `codec.decode_value` reads them: keys in any order, and numbers by value (1 is 1.0 and
    1e0, but not a bool). An empty lease or empty constraints count as absent.
    """
    constraints = None if lease_constraints is None else msgspec.structs.asdict(lease_constraints)
    if constraints is not None and all(value is None for value in constraints.values()):
        constraints = None
    return hashlib.sha256(
        canonical_json([agent, input, lease_request or None, constraints, max_runtime_sec])
    ).digest()


class Keys:
    """The idempotency keys of all principals, in the order in which they were claimed."""

    __slots__ = ("_claims", "_ended", "_held")

    def __init__(self) -> None:
        self._claims: dict[tuple[Principal, str], Claim] = {}
        self._held: dict[Principal, _Held] = {}
        self._ended: list[tuple[UnixTime, Principal, str]] = []
        """A heap by the end of the job; entries of keys that were forgotten or claimed anew are skipped."""

    def __len__(self) -> int:
        return len(self._claims)

    def items(self) -> Iterator[tuple[Principal, str, Claim]]:
        """Yield everything, for a snapshot."""
        for (principal, key), claim in self._claims.items():
            yield principal, key, claim

    def size(self, principal: Principal) -> int:
        """Return the bytes that are kept for the keys of a principal, the keys included."""
        held = self._held.get(principal)
        return 0 if held is None else held.size

    def get(self, principal: Principal, key: str) -> Claim | None:
        """Return the claim of a key; None when the key is free."""
        return self._claims.get((principal, key))

    def room(self, principal: Principal, size: int, limits: Limits) -> str | None:
        """Return the name of the limit that one more claim of `size` bytes would exceed; None for none."""
        held = self._held.get(principal) or _Held()
        if held.keys >= limits.max_principal_idempotency_keys:
            return "max_principal_idempotency_keys"
        if len(self._claims) >= limits.max_total_idempotency_keys:
            return "max_total_idempotency_keys"
        if held.size + size > limits.max_principal_idempotency_bytes:
            return "max_principal_idempotency_bytes"
        return None

    def add(self, principal: Principal, key: str, claim: Claim) -> None:
        """Claim a key that is free."""
        ensure((principal, key) not in self._claims, "an idempotency key is claimed once")
        self._claims[principal, key] = claim
        held = self._held.setdefault(principal, _Held())
        held.keys += 1
        held.size += key_bytes(key, claim)

    def load(self, principal: Principal, key: str, claim: Claim) -> None:
        """Add a claim from a snapshot, whether its job has ended or not."""
        self.add(principal, key, claim)
        if claim.ended is not None:
            self._held[principal].ended.append(key)
            heappush(self._ended, (claim.ended_at, principal, key))

    def ended(
        self,
        principal: Principal,
        key: str,
        ended: tuple[MessageType, OpenObject, OpenObject | None],
        at: UnixTime,
        position: int = 0,
    ) -> int:
        """Keep the terminal of the job of a key, with its Unix time `at`; return the bytes that are kept."""
        claim = self._claims[principal, key]
        before = claim.size
        claim.ended, claim.position, claim.ended_at = ended, position, at
        held = self._held[principal]
        held.size += claim.size - before
        held.ended.append(key)
        heappush(self._ended, (at, principal, key))
        return key_bytes(key, claim)

    def forget(self, principal: Principal, key: str) -> int:
        """Free a key; return the bytes that were kept for it if its job had ended, else 0."""
        claim = self._claims.pop((principal, key))
        held = self._held[principal]
        size = key_bytes(key, claim)
        held.keys -= 1
        held.size -= size
        while held.ended and not self._over(principal, held.ended[0]):
            held.ended.popleft()
        if not held.keys:
            del self._held[principal]
        while self._ended and not self._stands(*self._ended[0]):
            heappop(self._ended)
        return 0 if claim.ended is None else size

    def due(self, unix: UnixTime, limits: Limits) -> list[tuple[Principal, str]]:
        """Return the keys that have expired, the oldest first; it costs only what it finds."""
        ended, before = self._ended, unix - limits.idempotency_retention_sec * SECOND
        found: list[tuple[UnixTime, Principal, str]] = []
        places = [0]
        while places:
            place = places.pop()
            if place < len(ended) and ended[place][0] <= before:
                places += (2 * place + 1, 2 * place + 2)
                if self._stands(*ended[place]):
                    found.append(ended[place])
        return list(dict.fromkeys((principal, key) for _, principal, key in sorted(found)))

    def next_due(self, limits: Limits) -> UnixTime | None:
        """Return when the next key expires, in Unix time; None as long as no job of a key has ended."""
        return (
            UnixTime(self._ended[0][0] + limits.idempotency_retention_sec * SECOND) if self._ended else None
        )

    def oldest(self, principal: Principal) -> str | None:
        """Return about the key of a principal whose job has ended first; None if none has ended."""
        held = self._held.get(principal)
        return held.ended[0] if held is not None and held.ended else None

    def _over(self, principal: Principal, key: str) -> bool:
        claim = self._claims.get((principal, key))
        return claim is not None and claim.ended is not None

    def _stands(self, at: UnixTime, principal: Principal, key: str) -> bool:
        claim = self._claims.get((principal, key))
        return claim is not None and claim.ended is not None and claim.ended_at == at


class _Held(msgspec.Struct):
    """The keys of one principal."""

    keys: int = 0
    size: int = 0
    ended: deque[str] = msgspec.field(default_factory=deque)
    """Keys whose jobs have ended, in that order; the first one is always valid."""


def key_bytes(key: str, claim: Claim) -> int:
    """Return how many bytes are kept for a key."""
    return len(key.encode("utf-8", "surrogatepass")) + claim.size
