"""Who a bearer token belongs to (§6.1)."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

from arcp_proto.ids import SECOND
from arcp_proto.secret import Secret


@dataclass(frozen=True, slots=True)
class Verified:
    """Who a token belongs to, and until when: at `expires` the connection is closed, and from then on the
    session is resumed only with a fresh token, whatever its resume token.

    `expires` is in seconds of Unix time, or a datetime with a time zone; None: never.
    """

    principal: str
    expires: float | datetime | None = None

    @property
    def expires_ns(self) -> int | None:
        """`expires` in nanoseconds; raises TypeError and ValueError for what is no moment."""
        match self.expires:
            case None:
                return None
            case datetime() as moment if moment.tzinfo is None:
                raise ValueError("the end of a token's validity has no time zone")
            case datetime() as moment:
                return round(moment.timestamp() * SECOND)
            case int() | float() as seconds:
                return int(seconds) * SECOND + round(seconds % 1 * SECOND)
        raise TypeError(f"a token expires at a time, not at a {type(self.expires).__name__}")


Answer: TypeAlias = str | Verified | None
Verifier: TypeAlias = Callable[[str], Answer | Awaitable[Answer]]
"""From a token to its principal, None for a token that is not valid; plain or async.

A plain one runs in a worker thread. One that raises, or whose principal is not valid text, makes the
connection fail as INTERNAL_ERROR, with a line in the log. When it has a method `holds(principal)`, that says
whether a principal may still resume a session by its resume token alone; without it every principal may,
until its last bearer has expired.
"""


class TokenTable:
    """A verifier over fixed tokens. It keeps only their digests, and looks at all of them each time."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        """`tokens` maps a token to its principal; raises ValueError for an empty one of either."""
        for token, principal in tokens.items():
            if not token or not principal:
                raise ValueError("tokens maps a token to its principal, and neither of them is empty")
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
        """Whether there is a token for this principal."""
        return any(known == principal for _, known in self._principals)

    def __repr__(self) -> str:
        return f"<TokenTable of {len(self._principals)} tokens>"


async def verify(verifier: Verifier, token: Secret) -> Verified | None:
    """Ask a verifier; raises what it raises, TypeError for an answer that is not a principal, and
    ValueError for a principal that is not valid text.
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
    """Whether a principal may resume without a bearer token; raises what the verifier raises."""
    holds = getattr(verifier, "holds", None)
    return True if holds is None else bool(await _ask(holds, principal))


def _check_text(principal: str) -> None:
    """Check that a principal can be written as UTF-8: one from JSON may hold a lone surrogate."""
    try:
        principal.encode()
    except UnicodeEncodeError:
        message = f"the principal {principal!r} is not valid text: it holds a lone surrogate"
        raise ValueError(message) from None


async def _ask(function: Callable[[str], Any], about: str) -> Any:
    """Call a function of the host's, plain or async."""
    if is_async(function):
        answer = function(about)
    else:
        from arcp_io.agents.threads import call_in_thread

        answer = await call_in_thread(partial(function, about), name="arcp-io verifier")
    return await answer if inspect.isawaitable(answer) else answer


def is_async(function: Callable[..., object]) -> bool:
    """Whether calling `function` gives an awaitable, as far as it can be told without calling it."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
