"""A verifier of static tokens, whose digests are in a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
import tomllib
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Final

import msgspec

from arcp_io.agents.threads import call_in_thread
from arcp_proto import LocalProtocolError

from .auth import CeilingFields, Verified, answer_of

logger = logging.getLogger("arcp_io")

MAX_BYTES: Final = 4 * 1024 * 1024
"""The longest file."""
MAX_TOKENS: Final = 10_000
"""The most tokens of a file."""
LOOK_EVERY: Final = 1.0
"""Seconds from one look at the file to the next, at least."""

_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Stamp = tuple[int, int, int, int]


class _Token(msgspec.Struct, forbid_unknown_fields=True):
    """One token of the file. `expires` is a date and time with a time zone."""

    sha256: _Digest
    principal: str
    expires: datetime | None = None
    agents: tuple[str, ...] | None = None
    ceilings: tuple[CeilingFields, ...] = ()

    def verified(self) -> Verified:
        """Return what the token stands for; raises TypeError, ValueError and LocalProtocolError."""
        if not self.principal:
            raise ValueError("a principal is not empty")
        ceilings = tuple(one.ceiling() for one in self.ceilings)
        verified = Verified(self.principal, self.expires, self.agents, ceilings)
        answer_of(verified)
        return verified


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a file of tokens."""

    token: list[_Token] = []


class TokenFile:
    """A verifier of static tokens for `App(auth=...)`, from a TOML file with a digest of each token.

    The file has a table `[[token]]` for each: `sha256` (the SHA-256 of the token, in hex), `principal`, and
    if need be `expires` (with a time zone), `agents` and `ceilings` as in Verified. The tokens have to be
    random, with 128 bits at least, since a fast digest of a short password can be guessed.

    A change of the file counts within a second. A changed file that is invalid or gone is reported in the log
    once, and the last valid one stays in force.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file; `clock` counts seconds. Raises OSError, and ValueError for an invalid file."""
        self.path = os.fspath(path)
        self._clock = clock
        self._stamp = _stamp(self.path)
        self._tokens = _read(self.path)
        self._looked_at = clock()

    def __repr__(self) -> str:
        return f"<TokenFile {self.path} of {len(self._tokens)} tokens>"

    async def __call__(self, token: str) -> Verified | None:
        """Return the principal of a token of the file, or None."""
        await self._look()
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        known = self._tokens.get(digest)
        return known[1] if known is not None and hmac.compare_digest(known[0], digest) else None

    async def holds(self, principal: str) -> bool:
        """Return whether the file has a token of a principal."""
        await self._look()
        return any(known.principal == principal for _, known in self._tokens.values())

    async def _look(self) -> None:
        """Read the file if it has changed since it was read last."""
        if self._clock() - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = self._clock()
        await call_in_thread(partial(self._renew), name="arcp-io tokens")

    def _renew(self) -> None:
        try:
            stamp = _stamp(self.path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._tokens = _read(self.path)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                if self._stamp == _GONE:
                    return
                self._stamp = _GONE
            logger.error("the last valid tokens stay in force: %s", error)
        else:
            logger.info("%s was read again: %d tokens", self.path, len(self._tokens))


_GONE: Final[_Stamp] = (0, 0, 0, 0)
"""The stamp of a file that cannot be read."""


def _stamp(path: str) -> _Stamp:
    """Return numbers that change with the file; raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: str) -> dict[bytes, tuple[bytes, Verified]]:
    """Return what each digest of a file stands for; raises OSError, and ValueError for an invalid file."""
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: a file of tokens has at most {MAX_BYTES} bytes")
    try:
        content = msgspec.convert(tomllib.loads(data.decode()), _File)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if len(content.token) > MAX_TOKENS:
        raise ValueError(f"{path}: a file has at most {MAX_TOKENS} tokens, not {len(content.token)}")
    found: dict[bytes, tuple[bytes, Verified]] = {}
    for number, token in enumerate(content.token, 1):
        digest = bytes.fromhex(token.sha256)
        if digest in found:
            raise ValueError(f"{path}: token {number} is in the file twice")
        try:
            found[digest] = digest, token.verified()
        except (TypeError, ValueError, LocalProtocolError) as error:
            raise ValueError(f"{path}: token {number}: {error}") from None
    return found
