"""Randomness as an argument: one seed, a key for ids, a key for tokens, a count for each scope."""

from __future__ import annotations

import base64
import hashlib
from typing import Self

from .errors import LocalProtocolError
from .secret import Secret

SEED_BYTES = 32


class Entropy:
    """An unguessable, repeatable source of ids and tokens.

    What a scope draws depends on the seed, the scope and how often that scope has drawn before, and
    on nothing that any other scope does. A scope is a principal, or a connection before it has one.
    """

    __slots__ = ("_counts", "_id_key", "_token_key")

    def __init__(self, seed: bytes) -> None:
        """`seed` is 32 bytes of the operating system's; raises LocalProtocolError for another length."""
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"a seed is {SEED_BYTES} bytes, not {len(seed)}")
        self._id_key = hashlib.blake2b(seed, digest_size=32, person=b"arcp-ids").digest()
        self._token_key = hashlib.blake2b(seed, digest_size=32, person=b"arcp-tokens").digest()
        self._counts: dict[str, int] = {}

    @classmethod
    def of_keys(cls, id_key: bytes, token_key: bytes) -> Self:
        """The source that a recording names; `token_key` is a stand-in unless secrets were kept."""
        entropy = cls(bytes(SEED_BYTES))
        entropy._id_key, entropy._token_key = id_key, token_key
        return entropy

    def keys(self, *, secrets: bool) -> tuple[bytes, bytes]:
        """What `of_keys` takes; without `secrets` the token key is a stand-in that opens nothing."""
        stand_in = hashlib.blake2b(self._id_key, digest_size=32, person=b"arcp-stand-in").digest()
        return self._id_key, self._token_key if secrets else stand_in

    def bits(self, scope: str, purpose: str) -> bytes:
        """16 bytes for an id of `purpose`."""
        return self._draw(self._id_key, scope, purpose, 16)

    def fraction(self, scope: str, purpose: str) -> float:
        """A number in [0, 1), for jitter."""
        return int.from_bytes(self._draw(self._id_key, scope, purpose, 16)[:6], "big") / 2**48

    def token(self, scope: str, prefix: str) -> Secret:
        """A token of 256 bits behind `prefix`."""
        text = base64.urlsafe_b64encode(self._draw(self._token_key, scope, prefix, 32)).rstrip(b"=").decode()
        return Secret(prefix + text)

    def key(self, purpose: str) -> bytes:
        """A key of 32 bytes for `purpose`, always the same of one seed."""
        return hashlib.blake2b(purpose.encode(), key=self._id_key, digest_size=32).digest()

    def forget(self, scope: str) -> None:
        """Drop the count of a scope whose name never comes again."""
        self._counts.pop(scope, None)

    def _draw(self, key: bytes, scope: str, purpose: str, size: int) -> bytes:
        count = self._counts[scope] = self._counts.get(scope, 0) + 1
        encoded = scope.encode("utf-8", "surrogatepass")
        block = b"%d:%b/%b/%d" % (len(encoded), encoded, purpose.encode(), count)
        return hashlib.blake2b(block, key=key, digest_size=size).digest()
