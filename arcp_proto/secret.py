"""Values that open something: never printed, never compared with ==."""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn


class Secret:
    """A bearer token, a resume token or a credential's value; its repr and str show nothing."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Who calls this answers for where it goes."""
        return self._value

    def digest(self) -> bytes:
        """What may be stored: the SHA-256 of the value."""
        return hashlib.sha256(self._value.encode("utf-8", "surrogatepass")).digest()

    def matches(self, digest: bytes) -> bool:
        """Whether this is the value behind a digest, in constant time."""
        return hmac.compare_digest(self.digest(), digest)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("a Secret is compared with matches(digest), in constant time")

    def __hash__(self) -> NoReturn:
        raise TypeError("a Secret is found by its digest")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
