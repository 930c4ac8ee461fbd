"""Authentication: verifiers of bearer tokens (§6.1)."""

from __future__ import annotations

import hmac
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec

from arcp_proto import SECOND, Ceiling, Secret, TokenScope
from arcp_proto.leases import check_scope

logger = logging.getLogger("arcp_io")


@dataclass(frozen=True, slots=True)
class Verified:
    """The principal of a valid token, when the token expires, and what it allows.

    At `expires` the connection is closed. After it a session is resumed only with a fresh bearer token, even
    with a valid resume token. `expires` is Unix time in seconds, or a datetime with a time zone; None means
    never. `agents` are the agents that may be submitted, as names, `name@version` or "*"; None means all, and
    an empty sequence none. The first of the `ceilings` that is for the agent of a submit bounds its lease,
    beside those of the App. Both hold for the session until another token is verified for it. `token_id` is
    the verifier's own name for the token and for what it allows, at most 256 characters of ASCII. It is
    stored with the session, so it does not show the token. The verifier's `holds_token` is asked about it.
    """

    principal: str
    expires: float | datetime | None = None
    agents: Sequence[str] | None = None
    ceilings: Sequence[Ceiling] = ()
    token_id: str = ""

    @property
    def scope(self) -> TokenScope | None:
        """`agents` and `ceilings` as one value; None without bounds.

        Raises TypeError for values of a wrong type.
        """
        if self.agents is None and not self.ceilings:
            return None
        if isinstance(self.agents, str):
            raise TypeError(f"agents is a sequence of names: use [{self.agents!r}]")
        agents = None if self.agents is None else tuple(self.agents)
        if not all(isinstance(name, str) for name in agents or ()):
            raise TypeError("agents is a sequence of names, as text")
        if not all(isinstance(ceiling, Ceiling) for ceiling in self.ceilings):
            raise TypeError("ceilings is a sequence of Ceiling")
        return TokenScope(agents=agents, ceilings=tuple(self.ceilings))

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
connection fails as INTERNAL_ERROR, which may be tried again, and the log says why; one that cannot tell for
a while raises TemporarilyUnavailable. It may have these methods:

`holds(principal)`, plain or async, returns whether a principal may still resume a session by its resume token
alone; without the method every principal may, until its last bearer has expired.

`holds_token(token_id)`, plain and quick, returns whether a token is still valid that was verified with this
`Verified.token_id`. It is asked about the last token of a session that is resumed by its resume token alone,
and about those of open connections after each call of `changed`; the connections of other tokens end.

`watch_tokens(changed)`, async, runs beside the server and calls the plain function `changed` when tokens may
have become invalid. It is cancelled with the server.
"""
MAX_TOKEN_ID: Final = 256
"""Characters of the id of a token."""


class TemporarilyUnavailable(Exception):
    """A verifier cannot tell at present whether a token is valid; its client may try again."""


class CeilingFields(msgspec.Struct, forbid_unknown_fields=True):
    """A Ceiling for one token, as a claim or a file writes it.

    An unknown field is refused, since it could be a bound.
    """

    lease: dict[str, list[str]]
    agent: str = "*"
    longest_expiry_sec: int | None = None

    def ceiling(self) -> Ceiling:
        """Return the ceiling, for the principal of the token."""
        return Ceiling(agent=self.agent, lease=self.lease, longest_expiry_sec=self.longest_expiry_sec)


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
    answer_of(verified)
    return verified


def answer_of(verified: Verified | None) -> tuple[str | None, int | None, TokenScope | None, str]:
    """Return the principal, the expiry in nanoseconds, the scope and the id of a token.

    None, or an empty id, stands for each that is not there. Raises TypeError, ValueError and
    LocalProtocolError for values that a runtime does not take.
    """
    if verified is None:
        return None, None, None, ""
    scope, token_id = verified.scope, verified.token_id
    if scope is not None:
        check_scope(scope)
    if not isinstance(token_id, str):
        raise TypeError(f"token_id is text, not {type(token_id).__name__}")
    if len(token_id) > MAX_TOKEN_ID or not token_id.isascii():
        raise ValueError(f"token_id has at most {MAX_TOKEN_ID} characters, all of ASCII")
    return verified.principal, verified.expires_ns, scope, token_id


async def still_holds(verifier: Verifier, principal: str) -> bool:
    """Return whether a principal may resume without a bearer token; raises the verifier's own errors."""
    holds = getattr(verifier, "holds", None)
    return True if holds is None else bool(await _ask(holds, principal))


def holds_token(verifier: Verifier | None, token_id: str) -> bool:
    """Return whether a token that was verified before is still valid; raises the verifier's own errors.

    A token without an id is, and so is every token of a verifier that does not say.
    """
    holds = getattr(verifier, "holds_token", None)
    return not token_id or holds is None or bool(holds(token_id))


async def watch_tokens(verifier: Verifier | None, changed: Callable[[], object]) -> None:
    """Call `changed` whenever tokens of a verifier may have become invalid, if it tells.

    Errors of the verifier end the watch, and are logged.
    """
    watch = getattr(verifier, "watch_tokens", None)
    if watch is None:
        return
    try:
        await watch(changed)
    except Exception:
        logger.exception("the verifier watches its tokens no longer (App.verifier)")


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
