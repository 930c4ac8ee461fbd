"""A verifier of static tokens, whose digests are in a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import time
import tomllib
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Final

import anyio
import msgspec

from arcp_io.agents.threads import call_in_thread
from arcp_proto import LocalProtocolError

from .auth import CeilingFields, Verified, answer_of

logger = logging.getLogger("arcp_io")

MAX_BYTES: Final = 4 * 1024 * 1024
"""The longest file."""
MAX_TOKENS: Final = 10_000
"""The most tokens of a file."""
LOOK_EVERY: Final = 0.5
"""Seconds from one look at the file to the next, at least."""
SETTLED_SEC: Final = 0.5
"""Seconds for which a changed file has to stay the same before it counts: it may be half written."""
OLD_SEC: Final = 5.0
"""Seconds after which a change counts at the first look."""
TOKEN_ID_CHARACTERS: Final = 32
"""Hex digits of the id of a token."""

_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Stamp = tuple[int, int, int, int, int]


class _Token(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
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
        verified = Verified(self.principal, self.expires, self.agents, ceilings, _token_id(self))
        answer_of(verified)
        return verified


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a file of tokens."""

    token: list[_Token] = []


class _Table(msgspec.Struct, frozen=True):
    """The tokens of a file as they were read."""

    by_digest: dict[bytes, tuple[bytes, Verified]]
    ids: frozenset[str]
    """The ids of the tokens."""


class TokenFile:
    """A verifier of static tokens for `App(auth=...)`, from a TOML file with a digest of each token.

    The file has a table `[[token]]` for each: `sha256` (the SHA-256 of the token, in hex), `principal`, and
    if need be `expires` (with a time zone), `agents` and `ceilings` as in Verified. The tokens have to be
    random, with 128 bits at least, since a fast digest of a short password can be guessed.

    While a server runs, a change of the file counts about a second after the last write: the connections of a
    token end whose table was removed or changed. A file that is read while it is written does not count. A
    changed file that is invalid or gone is reported in the log once, and the last valid one stays in force.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file; `clock` counts seconds. Raises OSError, and ValueError for an invalid file."""
        self.path = os.fspath(path)
        self._clock = clock
        stamp, self._table = _read(self.path)
        self._stamp = _GONE if stamp is None else stamp
        """The stamp of the file whose tokens are in force; that of a missing one if that was not whole."""
        self._seen = self._stamp
        self._seen_since = self._looked_at = clock()
        """The stamp at the last look, and the time of the first look with that stamp."""
        self._looking = threading.Lock()

    def __repr__(self) -> str:
        return f"<TokenFile {self.path} of {len(self._table.ids)} tokens>"

    async def __call__(self, token: str) -> Verified | None:
        """Return the principal of a token of the file, or None."""
        await self._look()
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        known = self._table.by_digest.get(digest)
        return known[1] if known is not None and hmac.compare_digest(known[0], digest) else None

    async def holds(self, principal: str) -> bool:
        """Return whether the file has a token of a principal."""
        await self._look()
        return any(known.principal == principal for _, known in self._table.by_digest.values())

    def holds_token(self, token_id: str) -> bool:
        """Return whether the file has a token with this id, as it was read last."""
        return token_id in self._table.ids

    async def watch_tokens(self, changed: Callable[[], object]) -> None:
        """Look at the file again and again, and call `changed` when other tokens are in force."""
        known = self._table
        while True:
            await anyio.sleep(LOOK_EVERY)
            await self._look()
            if self._table is not known:
                known = self._table
                changed()

    async def _look(self) -> None:
        """Read the file if it has changed since it was read last."""
        if self._clock() - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = self._clock()
        await call_in_thread(partial(self._renew), name="arcp-io tokens")

    def _renew(self) -> None:
        """Read a changed file, unless it is not settled or another thread is at it."""
        if self._looking.acquire(blocking=False):
            try:
                if self._is_due():
                    self._take(self._seen)
            finally:
                self._looking.release()

    def _is_due(self) -> bool:
        """Look at the file, and return whether it has changed, and has stayed the same since."""
        now, stamp = self._clock(), _stamp_at(self.path)
        if stamp != self._seen:
            self._seen, self._seen_since = stamp, now
        return stamp != self._stamp and (now - self._seen_since >= SETTLED_SEC or _is_old(stamp))

    def _take(self, seen: _Stamp) -> None:
        """Read the file, whose tokens are in force then; report one that is not valid."""
        try:
            read, table = _read(self.path)
        except (OSError, ValueError) as error:
            was_gone = self._stamp == _GONE
            self._stamp = _GONE if isinstance(error, OSError) else seen
            if not (was_gone and isinstance(error, OSError)):
                logger.error("the last valid tokens stay in force: %s", error)
            return
        if read == seen:
            self._stamp, self._table = seen, table
            logger.info("%s was read again: %d tokens", self.path, len(table.ids))


_GONE: Final[_Stamp] = (0, 0, 0, 0, 0)
"""The stamp of a file that cannot be read."""


def _stamp_of(found: os.stat_result) -> _Stamp:
    """Return numbers that change with a file; the last one is the time of its last change."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _stamp_at(path: str) -> _Stamp:
    """Return the stamp of the file at a path, that of a missing one if there is none."""
    try:
        return _stamp_of(os.stat(path))
    except OSError:
        return _GONE


def _is_old(stamp: _Stamp) -> bool:
    """Return whether a file was changed so long ago that it is not being written."""
    return stamp != _GONE and time.time() - stamp[-1] / 1e9 >= OLD_SEC


def _token_id(token: _Token) -> str:
    """Return a name for a token and all that its table says, which does not show the token."""
    digest = hashlib.sha256(b"arcp-io token id\n" + msgspec.json.encode(token, order="deterministic"))
    return digest.hexdigest()[:TOKEN_ID_CHARACTERS]


def _read(path: str) -> tuple[_Stamp | None, _Table]:
    """Return the tokens of a file and its stamp, which is None if the file has changed meanwhile.

    Raises OSError, and ValueError for an invalid file.
    """
    with open(path, "rb") as file:
        before = _stamp_of(os.fstat(file.fileno()))
        data = file.read(MAX_BYTES + 1)
        stamp = before if _stamp_of(os.fstat(file.fileno())) == before else None
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
    ids = frozenset(verified.token_id for _, verified in found.values())
    return stamp, _Table(found, ids)
