"""Entropy as an argument: one seed, a key for ids, a key for tokens, and a count per scope."""

from __future__ import annotations

import base64
import hashlib
from typing import Self

from arcp_proto.errors import LocalProtocolError
from arcp_proto.secret import Secret

SEED_BYTES = 32


class Entropy:
    """An unguessable, repeatable source of ids and tokens.

    What a scope draws depends on the seed, the scope and how often that scope has drawn before, and
    on nothing that any other scope does. A scope is a principal, or a connection before it has one.
    """

    __slots__ = ("_id_key", "_ids", "_scopes", "_token_key", "_tokens")

    def __init__(self, seed: bytes) -> None:
        """Take 32 bytes of the operating system as `seed`; raises LocalProtocolError for another length."""
        if len(seed) != SEED_BYTES:
            raise LocalProtocolError(f"a seed is {SEED_BYTES} bytes, not {len(seed)}")
        self._take_keys(
            hashlib.blake2b(seed, digest_size=32, person=b"arcp-ids").digest(),
            hashlib.blake2b(seed, digest_size=32, person=b"arcp-tokens").digest(),
        )
        self._scopes: dict[str, _Scope] = {}

    @classmethod
    def of_keys(cls, id_key: bytes, token_key: bytes) -> Self:
        """Return the source that a recording names; `token_key` is a stand-in unless secrets were kept."""
        entropy = cls(bytes(SEED_BYTES))
        entropy._take_keys(id_key, token_key)
        return entropy

    def _take_keys(self, id_key: bytes, token_key: bytes) -> None:
        self._id_key, self._token_key = id_key, token_key
        self._ids = hashlib.blake2b(key=id_key, digest_size=16)
        self._tokens = hashlib.blake2b(key=token_key, digest_size=32)

    def keys(self, *, secrets: bool) -> tuple[bytes, bytes]:
        """Return the keys for `of_keys`; without `secrets` the token key is a stand-in that opens nothing."""
        stand_in = hashlib.blake2b(self._id_key, digest_size=32, person=b"arcp-stand-in").digest()
        return self._id_key, self._token_key if secrets else stand_in

    def bits(self, scope: str, purpose: str) -> bytes:
        """Draw 16 bytes for an id of `purpose`."""
        return self.draws(scope, purpose)[0]

    def draws(self, scope: str, *purposes: str) -> list[bytes]:
        """Draw 16 bytes for each purpose, as if they were drawn one after the other."""
        known = self._scopes.get(scope)
        if known is None:
            known = self._scopes[scope] = _Scope(scope)
        prefix, count, drawn = known.prefix, known.draws, []
        for purpose in purposes:
            count += 1
            draw = self._ids.copy()
            draw.update(b"%b%b/%d" % (prefix, purpose.encode(), count))
            drawn.append(draw.digest())
        known.draws = count
        return drawn

    def fraction(self, scope: str, purpose: str) -> float:
        """Draw a number in [0, 1), for jitter."""
        return int.from_bytes(self.bits(scope, purpose)[:6], "big") / 2**48

    def token(self, scope: str, prefix: str) -> Secret:
        """Draw a token of 256 bits behind `prefix`."""
        return self._token_of(self._next(scope, prefix), prefix)

    def _token_of(self, draw: bytes, prefix: str) -> Secret:
        drawn = self._tokens.copy()
        drawn.update(draw)
        text = base64.urlsafe_b64encode(drawn.digest()).rstrip(b"=").decode()
        return Secret(prefix + text)

    def key(self, purpose: str) -> bytes:
        """Return the key of 32 bytes for `purpose`, always the same for one seed."""
        return hashlib.blake2b(purpose.encode(), key=self._id_key, digest_size=32).digest()

    def forget(self, scope: str) -> None:
        """Drop the count of a scope whose name is never used again."""
        self._scopes.pop(scope, None)

    def _next(self, name: str, purpose: str) -> bytes:
        """Return the unique input of the hash for the next draw of a scope."""
        scope = self._scopes.get(name)
        if scope is None:
            scope = self._scopes[name] = _Scope(name)
        scope.draws += 1
        return b"%b%b/%d" % (scope.prefix, purpose.encode(), scope.draws)


class _Scope:
    """The number of draws of a scope, and the common beginning of their inputs."""

    __slots__ = ("draws", "prefix")

    def __init__(self, name: str) -> None:
        encoded = name.encode("utf-8", "surrogatepass")
        self.draws = 0
        self.prefix = b"%d:%b/" % (len(encoded), encoded)
