"""Who a bearer token belongs to (§6.1)."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

from arcp_proto.secret import Secret

Verifier: TypeAlias = Callable[[str], str | Awaitable[str | None] | None]
"""From a token to its principal, None for a token that is not valid; plain or async.

A plain one runs in a worker thread. One that raises makes the connection fail as INTERNAL_ERROR.
"""


class TokenTable:
    """A verifier over fixed tokens. It keeps only their digests, and looks at all of them each time."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        """`tokens` maps a token to its principal; raises ValueError for an empty one of either."""
        for token, principal in tokens.items():
            if not token or not principal:
                raise ValueError("tokens maps a token to its principal, and neither of them is empty")
        self._principals = [(Secret(token).digest(), principal) for token, principal in tokens.items()]

    async def __call__(self, token: str) -> str | None:
        digest = Secret(token).digest()
        found = None
        for known, principal in self._principals:
            if hmac.compare_digest(known, digest):
                found = principal
        return found

    def __repr__(self) -> str:
        return f"<TokenTable of {len(self._principals)} tokens>"


async def verify(verifier: Verifier, token: Secret) -> str | None:
    """Ask a verifier; raises what it raises, and TypeError for an answer that is no principal."""
    if is_async(verifier):
        answer = verifier(token.reveal())
    else:
        from .threads import call_in_thread

        answer = await call_in_thread(partial(verifier, token.reveal()), name="arcp-io verifier")
    principal = await answer if inspect.isawaitable(answer) else answer
    if principal is not None and not (isinstance(principal, str) and principal):
        raise TypeError(f"a verifier returns a principal or None, not {type(principal).__name__}")
    return principal


def is_async(function: Callable[..., object]) -> bool:
    """Whether calling `function` gives an awaitable, as far as it can be told without calling it."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
