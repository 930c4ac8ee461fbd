"""Which shard a connection belongs to: by its tenant, or by the label of its resume token."""

from __future__ import annotations

import hashlib

from arcp_proto.wire import FirstKind, FirstMessage, Scheme


def shard_of(tenant: str, shards: int) -> int:
    """Return the shard of a tenant, the same on every node."""
    digest = hashlib.blake2b(tenant.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards


def shard_of_label(label: str, shards: int) -> int | None:
    """Return the shard that the label of a token names; None if it names none."""
    if label.isascii() and label.isdigit() and str(int(label)) == label and int(label) < shards:
        return int(label)
    return None


def is_anonymous(first: FirstMessage) -> bool:
    """Return whether a client opens a session without a token, which any shard may hold."""
    return first.kind is FirstKind.HELLO and first.scheme is Scheme.ANONYMOUS and not first.label


def names_its_shard(first: FirstMessage) -> bool:
    """Return whether the resume token alone says to which shard a connection belongs."""
    return first.resumes and bool(first.label) and first.scheme is not Scheme.BEARER


def may_be_known(first: FirstMessage) -> bool:
    """Return whether a bearer token comes with a resume token that its shard may know.

    The shard decides whether it does: the host is not asked about the bearer token before.
    """
    return first.resumes and bool(first.label) and first.scheme is Scheme.BEARER
