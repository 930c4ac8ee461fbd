"""The scope of a bearer token: the agents and the leases that it allows (§6.1, §14)."""

from __future__ import annotations

from typing import Final

import msgspec

from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import Principal, qualified
from arcp_proto.limits import KIB
from arcp_proto.wire import codec

from .ceilings import EVERYBODY, Beyond, Ceiling, ceiling_for, check_ceilings

MAX_SCOPE_BYTES: Final = 8 * KIB
"""The longest scope, as JSON; each welcome writes it into the journal."""
AGENT: Final = "agent"
"""The word in place of a namespace, when the agent itself is beyond the scope."""


class TokenScope(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a session may submit, as its bearer token tells, beside the ceilings of the runtime.

    `agents` are names, `name@version`, or "*"; None allows every agent, and an empty tuple none. The first of
    the `ceilings` that is for the agent of a submit binds it; without one the scope does not bound the lease.
    """

    agents: tuple[str, ...] | None = None
    ceilings: tuple[Ceiling, ...] = ()

    def allows(self, name: str, version: str | None) -> bool:
        """Return whether an agent may be submitted."""
        if self.agents is None:
            return True
        return any(one in self.agents for one in (EVERYBODY, name, qualified(name, version)))

    def ceiling(self, principal: Principal, name: str, version: str | None) -> Ceiling | None:
        """Return the ceiling for the lease of a submit; raises Refusal if the agent is not allowed."""
        if not self.allows(name, version):
            agent = qualified(name, version)
            raise Beyond(f"the token does not allow the agent {agent}: use a token that does", AGENT)
        return ceiling_for(self.ceilings, principal, name, version)


def check_scope(scope: TokenScope) -> None:
    """Raise LocalProtocolError for a scope that is too long or not Unicode, and for an invalid ceiling."""
    check_ceilings(scope.ceilings)
    size = len(codec.encode_checked(scope))
    if size > MAX_SCOPE_BYTES:
        raise LocalProtocolError(
            f"the scope of a token has at most {MAX_SCOPE_BYTES} bytes as JSON, not {size}: name fewer agents"
        )
