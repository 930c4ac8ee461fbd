"""Authentication: verifiers of bearer tokens (§6.1)."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

from arcp_proto import SECOND, Secret


@dataclass(frozen=True, slots=True)
class Verified:
    """The principal of a valid token, and when the token expires.

    At `expires` the connection is closed. After it a session is resumed only with a fresh bearer token, even
    with a valid resume token. `expires` is Unix time in seconds, or a datetime with a time zone; None means
    never.
    """

    principal: str
    expires: float | datetime | None = None

    @property
    def expires_ns(self) -> int | None:
        """`expires` in nanoseconds.

        Raises TypeError and ValueError for a value that is not a point in time.
        """
        match self.expires:
            case None:
                return None
            case datetime() as moment if moment.tzinfo is None:
                raise ValueError(
                    "expires has no time zone: use a datetime with a tzinfo, or seconds of Unix time"
                )
            case datetime() as moment:
                return round(moment.timestamp() * SECOND)
            case int() | float() as seconds:
                return int(seconds) * SECOND + round(seconds % 1 * SECOND)
        raise TypeError(
            f"expires is a number of seconds, a datetime or None, not {type(self.expires).__name__}"
        )


Answer: TypeAlias = str | Verified | None
Verifier: TypeAlias = Callable[[str], Answer | Awaitable[Answer]]
"""Maps a token to its principal, or to None if the token is not valid; a plain or an async function.

A plain function runs in a worker thread. If a verifier raises, or the principal is not valid text, the
connection fails as INTERNAL_ERROR and the log says why. If it has a method `holds(principal)`, that says
whether a principal may still resume a session by its resume token alone; without the method every principal
may, until its last bearer has expired.
"""


class TokenTable:
    """A verifier over fixed tokens, of which it stores digests; each call compares all of them."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        """Take a table of tokens and their principals; raises ValueError for an empty token or principal."""
        for token, principal in tokens.items():
            if not token or not principal:
                raise ValueError("tokens maps each token to its principal: neither of them may be empty")
            _check_text(principal)
        self._principals = [(Secret(token).digest(), principal) for token, principal in tokens.items()]

    async def __call__(self, token: str) -> str | None:
        digest = Secret(token).digest()
        found = None
        for known, principal in self._principals:
            if hmac.compare_digest(known, digest):
                found = principal
        return found

    async def holds(self, principal: str) -> bool:
        """Return whether a token of this principal exists."""
        return any(known == principal for _, known in self._principals)

    def __repr__(self) -> str:
        return f"<TokenTable of {len(self._principals)} tokens>"


async def verify(verifier: Verifier, token: Secret) -> Verified | None:
    """Ask a verifier about a token and return its answer.

    Raises the verifier's own errors, TypeError for an answer of a wrong type, and ValueError for a principal
    that is not valid text.
    """
    answer = await _ask(verifier, token.reveal())
    if answer is None:
        return None
    verified = answer if isinstance(answer, Verified) else Verified(answer)
    if not (isinstance(verified.principal, str) and verified.principal):
        raise TypeError(f"a verifier returns a principal or None, not {type(verified.principal).__name__}")
    _check_text(verified.principal)
    return verified


async def still_holds(verifier: Verifier, principal: str) -> bool:
    """Return whether a principal may resume without a bearer token; raises the verifier's own errors."""
    holds = getattr(verifier, "holds", None)
    return True if holds is None else bool(await _ask(holds, principal))


def _check_text(principal: str) -> None:
    """Raise ValueError for a principal that UTF-8 cannot encode: JSON may hold a lone surrogate."""
    try:
        principal.encode()
    except UnicodeEncodeError:
        message = f"the principal {principal!r} is not valid text: it holds a lone surrogate"
        raise ValueError(message) from None


async def _ask(function: Callable[[str], Any], about: str) -> Any:
    """Call a plain or async function of the host and return its result."""
    if is_async(function):
        answer = function(about)
    else:
        from arcp_io.agents.threads import call_in_thread

        answer = await call_in_thread(partial(function, about), name="arcp-io verifier")
    return await answer if inspect.isawaitable(answer) else answer


def is_async(function: Callable[..., object]) -> bool:
    """Return whether calling `function` gives an awaitable, as far as its definition shows."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
