"""The public keys of an issuer of tokens: a JSON Web Key Set (RFC 7517) that is read over HTTPS and kept."""

from __future__ import annotations

import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from arcp_io.agents.threads import call_in_thread

from .auth import TemporarilyUnavailable

try:
    import jwt
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tokens of JWT need PyJWT and cryptography: pip install 'arcp-io[jwt]'", name=error.name
    ) from None

__all__ = ["ALGORITHMS", "KeySet", "jwt"]

logger = logging.getLogger("arcp_io")

_ALGORITHMS_OF: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""Key type and curve -> the algorithms for which such a key is used, all of them asymmetric."""
ALGORITHMS: Final = tuple(name for names in _ALGORITHMS_OF.values() for name in names)
"""The algorithms of signatures that can be verified by a public key."""

MAX_BYTES: Final = 256 * 1024
"""The longest key set; a longer one is not used."""
MAX_KEYS: Final = 100
"""The most keys of a key set; one with more is not used."""
MAX_KID: Final = 256
"""Characters of the longest name of a key."""
LEAST_RSA_BITS: Final = 2048

MAX_AGE: Final = 3600.0
"""Seconds for which keys are used while they cannot be read again."""
REFRESH: Final = 300.0
"""Seconds after which the keys are read again when a token comes."""
INTERVAL: Final = 10.0
"""Seconds from one attempt to read the keys to the next, at least."""
TIMEOUT: Final = 5.0
"""Seconds that reading the keys may take; a runtime waits ten for the answer about a token."""


class _Refused(Exception):
    """A key set cannot be used, for the reason in the message."""


class Key:
    """One public key, and the algorithms for which it is used."""

    def __init__(self, public: Any, algorithms: tuple[str, ...]) -> None:
        self.public = public
        self.algorithms = algorithms


class KeySet:
    """The keys behind one https:// address, read when they are needed, by one task at a time.

    They are read again after `REFRESH` seconds, and at once for a key that is not known, but at most every
    `interval` seconds, so that tokens which name unknown keys cause no flood. While they cannot be read the
    known ones are used for `MAX_AGE` seconds. A key set serves one event loop at a time.
    """

    def __init__(
        self,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        interval: float = INTERVAL,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take an address; `clock` counts seconds. Raises ValueError for one that is not https://."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.password:
            raise ValueError(f"keys are read from an address https://HOST/..., not from {url!r}")
        self.url = url
        self._context = ssl.create_default_context() if ssl_context is None else ssl_context
        self._interval = interval
        self._timeout = timeout
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._reads = 0
        """How often the keys were read."""
        self._read_at = 0.0
        self._tried_at: float | None = None
        self._fault = "they were not read yet"
        self._reading: anyio.Event | None = None
        """The end of the attempt in progress."""
        self._in_thread = False
        """Whether a thread waits for the server, perhaps for an attempt that was given up."""

    def __repr__(self) -> str:
        return f"<KeySet of {self.url}: {len(self._keys)} keys>"

    async def find(self, kid: str | None, algorithm: str) -> Any:
        """Return the public key of a name that is used for an algorithm, or None if there is not any.

        Without a name the set must have one key for the algorithm. Raises TemporarilyUnavailable when the
        keys have to be read and cannot be.
        """
        reads, age = self._reads, self._clock() - self._read_at
        if not reads or age > REFRESH:
            await self._renew(needed=not reads or age > MAX_AGE)
        found = self._known(kid, algorithm)
        if found is None and self._reads == reads:
            await self._renew(needed=True)
            found = self._known(kid, algorithm)
        return found

    def _known(self, kid: str | None, algorithm: str) -> Any:
        if kid is not None:
            key = self._keys.get(kid)
            return key.public if key is not None and algorithm in key.algorithms else None
        fitting = [key.public for key in self._keys.values() if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None

    async def _renew(self, *, needed: bool) -> None:
        """Read the keys, or wait for the attempt in progress if they are `needed`.

        Raises TemporarilyUnavailable if they are needed and were not read.
        """
        reads = self._reads
        if self._reading is not None:
            if needed:
                await self._reading.wait()
        elif self._tried_at is None or self._clock() - self._tried_at >= self._interval:
            await self._try()
        if needed and self._reads == reads:
            raise TemporarilyUnavailable(f"the keys at {self.url} cannot be read now: {self._fault}")

    async def _try(self) -> None:
        """Make one attempt to read the keys; log why it failed."""
        ended = self._reading = anyio.Event()
        self._tried_at, self._fault = self._clock(), "the last attempt was a moment ago"
        fault = f"no answer within {self._timeout:g} s"
        try:
            with anyio.move_on_after(self._timeout):
                self._keys = await self._read()
                self._reads, self._read_at, fault = self._reads + 1, self._clock(), ""
        except (OSError, HTTPException, _Refused) as error:
            fault = str(error) or type(error).__name__
        finally:
            self._reading = None
            ended.set()
        if fault:
            self._fault = fault
            logger.warning("the keys at %s could not be read: %s", self.url, fault)

    async def _read(self) -> dict[str, Key]:
        if self._in_thread:
            raise _Refused("an earlier attempt still waits for the server")
        self._in_thread = True
        return await call_in_thread(partial(self._read_in_thread), name="arcp-io keys")

    def _read_in_thread(self) -> dict[str, Key]:
        try:
            return _keys_of(_fetch(self.url, self._context, self._timeout))
        finally:
            self._in_thread = False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which could lead away from the host of the issuer."""

    def redirect_request(self, *request: Any, **more: Any) -> None:
        """Return no request, so that the redirect is an error."""


def _fetch(url: str, context: ssl.SSLContext, timeout: float) -> bytes:
    """Return the body of a successful answer; raises OSError, HTTPException and _Refused."""
    end = time.monotonic() + timeout
    opener = urllib.request.build_opener(_NoRedirects(), urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, headers={"Accept": "application/jwk-set+json, application/json"})
    try:
        with opener.open(request, timeout=timeout) as response:
            return _whole(response, end)
    except urllib.error.HTTPError as error:
        with error:
            moved = "; give the address that its redirect leads to" if 300 <= error.code < 400 else ""
            raise _Refused(f"HTTP {error.code}{moved}") from None


def _whole(response: Any, end: float) -> bytes:
    """Return a body; raises _Refused for one that is too long or not whole by `end`."""
    body = b""
    while piece := response.read1(MAX_BYTES):
        body += piece
        if len(body) > MAX_BYTES:
            raise _Refused(f"a key set has at most {MAX_BYTES} bytes")
        if time.monotonic() > end:
            raise _Refused("it did not come in time")
    return body


def _keys_of(body: bytes) -> dict[str, Key]:
    """Return the usable keys of a key set by their names; raises _Refused without any."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused("the answer is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise _Refused('the answer is not a key set: {"keys": [...]}')
    if len(listed) > MAX_KEYS:
        raise _Refused(f"a key set has at most {MAX_KEYS} keys, not {len(listed)}")
    keys: dict[str, Key] = {}
    for number, fields in enumerate(listed):
        key = _key_of(fields) if isinstance(fields, dict) else None
        if key is not None:
            kid = fields.get("kid", f"\0{number}")  # A name that a token cannot give.
            if isinstance(kid, str) and len(kid) <= MAX_KID:
                keys[kid] = key
    if not keys:
        raise _Refused("the key set has no public key for signatures that can be used")
    return keys


def _key_of(fields: Mapping[str, Any]) -> Key | None:
    """Return a public key for signatures; None for one of another use or kind, and for a private key."""
    algorithms = _ALGORITHMS_OF.get((str(fields.get("kty")), str(fields.get("crv", ""))), ())
    if "alg" in fields:
        algorithms = tuple(name for name in algorithms if name == fields["alg"])
    operations = fields.get("key_ops", ["verify"])
    signs = fields.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    if not algorithms or not signs or "d" in fields:
        return None
    try:
        public = jwt.PyJWK(dict(fields), algorithm=algorithms[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if fields["kty"] == "RSA" and public.key_size < LEAST_RSA_BITS:
        return None
    return Key(public, algorithms)
