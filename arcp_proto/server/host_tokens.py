"""The bearer tokens of a runtime as its host revokes and throttles them (§6.1).

The host verifies tokens, and the runtime never sees one again: it knows a token by the id that the host gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from arcp_proto.ids import Monotonic

from .sessions import admission_control, handshake

if TYPE_CHECKING:
    from .state import RuntimeState

NOT_VALID: Final = "the token"
"""The reason of a failed authentication in which the verifier does not know the token."""


class HostTokens:
    """The bearer tokens of a runtime, for its host: `Runtime.tokens`."""

    __slots__ = ("_state",)

    def __init__(self, state: RuntimeState) -> None:
        self._state = state

    def in_use(self) -> list[str]:
        """Return the ids of the tokens by which open connections were let in, each once.

        They are those that `Runtime.authenticated` was given. Changes nothing. It looks at every session.
        """
        sessions = self._state.sessions.values()
        ids = (session.token_id for session in sessions if session.connection is not None)
        return list(dict.fromkeys(token_id for token_id in ids if token_id))

    def revoke(self, token_ids: Sequence[str], *, now: int) -> None:
        """Close the connections that tokens with these ids have opened, with UNAUTHENTICATED (§6.1).

        Jobs go on, and a fresh token resumes the session; `Authenticate` asks about a resume without one. It
        looks at every session. Take afterwards.
        """
        state = self._state
        state.enter(now, "revoke_tokens", list(token_ids))
        handshake.revoke(state, [token_id for token_id in token_ids if token_id])
        state.done()

    def refused(self, peer: str, reason: str, *, now: int) -> None:
        """Count a bearer token that the host has refused outside of any connection, as over HTTP (§6.1).

        `reason` is one of those of the audit fact `authentication_failed`, which this writes. As on a
        connection, only "the token", which is not valid, counts against the origin of the peer. Take
        afterwards.
        """
        state = self._state
        state.enter(now, "token_refused", peer, reason)
        admission_control.failed_at(state, peer, reason, guessed=reason == NOT_VALID)
        state.done()

    def throttle(self, peer: str, *, now: int) -> None:
        """Count the origin of a peer as one where too many authentications have failed, as a host knows.

        Until its allowance has grown again, the host is asked about a bearer token from there only beside a
        resume token that is valid (§6.1). Take afterwards.
        """
        state = self._state
        state.enter(now, "throttle", peer)
        admission_control.throttle(state, peer)
        state.done()

    def throttles(self, peer: str, *, now: int) -> bool:
        """Return whether too many authentications have failed at the origin of a peer. Changes nothing."""
        return admission_control.throttles(self._state, peer, Monotonic(now))
