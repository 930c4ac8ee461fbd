"""Secret values: never printed, never compared with ==."""

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
        """Return the value itself; callers are responsible for where it goes."""
        return self._value

    def digest(self) -> bytes:
        """Return the SHA-256 of the value, which may be stored."""
        return hashlib.sha256(self._value.encode("utf-8", "surrogatepass")).digest()

    def matches(self, digest: bytes) -> bool:
        """Return whether this is the value of a digest, in constant time."""
        return hmac.compare_digest(self.digest(), digest)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("compare a Secret with matches(digest), in constant time")

    def __hash__(self) -> NoReturn:
        raise TypeError("look a Secret up by its digest()")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")
