"""A verifier of JSON Web Tokens (RFC 7519) by the public keys of their issuer."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from arcp_proto import Ceiling, LocalProtocolError, TokenScope
from arcp_proto.leases import check_scope

from .auth import CeilingFields, Verified
from .jwks import ALGORITHMS, MAX_KID, KeySet, jwt

logger = logging.getLogger("arcp_io")

LEEWAY: Final = 30.0
"""Seconds by which the clocks of an issuer and of a runtime may differ."""
MOST_LEEWAY: Final = 300.0
DEFAULT_ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")


class _Refused(Exception):
    """A token is not valid, for the reason in the message, which holds nothing of the token."""


class JwtVerifier:
    """A verifier of JSON Web Tokens for `App(auth=...)`, by the keys at an https:// address.

    A token is valid if it is signed by one of the issuer's keys with one of the `algorithms`, names the
    `issuer` and one of the audiences, has not expired (exp), and is valid already (nbf, iat); the
    clocks may differ by `leeway` seconds. Its connection ends at the end of the token and of the leeway, and
    the client goes on with a fresh token.

    The claim `principal` names the principal. `agents_claim` names a claim that lists the agents that the
    token allows, as an array or as text with spaces between the names; `ceilings_claim` one that holds an
    array of ceilings, each an object with the fields of Ceiling. A token without a claim that is named here
    allows no agent.

    `keys_interval` is the least number of seconds between two attempts to read the keys, and `timeout` bounds
    each. While keys that are needed cannot be read, tokens are refused with an error that may be tried again.
    """

    def __init__(
        self,
        jwks_url: str,
        *,
        audience: str | Sequence[str],
        issuer: str,
        algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
        leeway: float = LEEWAY,
        principal: str = "sub",
        agents_claim: str | None = None,
        ceilings_claim: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keys_interval: float = 10.0,
        timeout: float = 5.0,
    ) -> None:
        """Raise ValueError for an invalid address, algorithm, audience, issuer, leeway or claim."""
        audiences = [audience] if isinstance(audience, str) else list(audience)
        if not audiences or not all(audiences) or not issuer:
            raise ValueError("give an audience and an issuer: without them tokens for others are admitted")
        unfit = [name for name in algorithms if name not in ALGORITHMS]
        if unfit or isinstance(algorithms, str) or not algorithms:
            raise ValueError(
                f"algorithms are a sequence of asymmetric ones, {', '.join(ALGORITHMS)}; not {algorithms!r}"
            )
        if not 0 <= leeway <= MOST_LEEWAY:
            raise ValueError(f"leeway is from 0 to {MOST_LEEWAY:g} seconds, not {leeway:g}")
        if not principal:
            raise ValueError("principal is the name of a claim")
        self.keys = KeySet(jwks_url, ssl_context=ssl_context, interval=keys_interval, timeout=timeout)
        self._audiences = audiences
        self._issuer = issuer
        self._algorithms = tuple(algorithms)
        self._leeway = leeway
        self._principal = principal
        self._agents_claim = agents_claim
        self._ceilings_claim = ceilings_claim

    def __repr__(self) -> str:
        return f"<JwtVerifier of {self._issuer}>"

    async def __call__(self, token: str) -> Verified | None:
        """Return the principal of a valid token, or None; raises TemporarilyUnavailable."""
        try:
            kid, algorithm = self._header(token)
            key = await self.keys.find(kid, algorithm)
            if key is None:
                raise _Refused("its key is not among those of the issuer")
            return self._verified(self._claims(token, key, algorithm))
        except _Refused as refused:
            logger.info("a token was refused: %s", refused)
            return None

    def _header(self, token: str) -> tuple[str | None, str]:
        """Return the name of the key and the algorithm of a token; raises _Refused."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _Refused("it is not a JSON Web Token") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            raise _Refused("its algorithm is not allowed")
        if "crit" in header or header.get("b64", True) is not True:
            raise _Refused("its header asks for an extension")
        if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID and kid[0] != "\0"):
            raise _Refused("the name of its key is not text, or is too long")
        return kid, algorithm

    def _claims(self, token: str, key: Any, algorithm: str) -> Mapping[str, Any]:
        """Return the claims of a token whose signature and times are valid; raises _Refused."""
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audiences,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": ["exp", "iss", "aud", self._principal]},
            )
        except jwt.PyJWTError as error:
            raise _Refused(_REASONS.get(type(error), "its claims are not valid")) from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise _Refused("its claims are not valid") from None
        return claims

    def _verified(self, claims: Mapping[str, Any]) -> Verified:
        expires, principal = claims["exp"], claims[self._principal]
        if not isinstance(principal, str) or not principal:
            raise _Refused(f"its claim {self._principal} is not text")
        if not isinstance(expires, int | float) or not math.isfinite(expires):
            raise _Refused("its claim exp is not a time")
        scope = self._scope(claims)
        return Verified(principal, expires + self._leeway, scope.agents, scope.ceilings)

    def _scope(self, claims: Mapping[str, Any]) -> TokenScope:
        """Return the agents and ceilings that the claims allow; raises _Refused for invalid ones."""
        agents: tuple[str, ...] | None = None
        ceilings: tuple[Ceiling, ...] = ()
        try:
            if self._agents_claim is not None:
                listed = claims.get(self._agents_claim, ())
                listed = listed.split() if isinstance(listed, str) else listed
                agents = msgspec.convert(listed, tuple[str, ...])
            if self._ceilings_claim is not None:
                if self._ceilings_claim not in claims:
                    return TokenScope(agents=())
                found = claims[self._ceilings_claim]
                ceilings = tuple(one.ceiling() for one in msgspec.convert(found, list[CeilingFields]))
                if not ceilings:
                    return TokenScope(agents=())
            scope = TokenScope(agents=agents, ceilings=ceilings)
            check_scope(scope)
        except (msgspec.ValidationError, LocalProtocolError) as error:
            raise _Refused(f"its agents or ceilings are not valid: {error}") from None
        return scope


_REASONS: Final[Mapping[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.InvalidSignatureError: "its signature is not valid",
    jwt.MissingRequiredClaimError: "a claim is missing: exp, iss, aud or the principal",
}
"""The fault of a token, without the text of the error, which could show a part of it."""
