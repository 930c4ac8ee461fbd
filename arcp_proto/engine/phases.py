"""The phases of a connection, from its handshake to its end, and every change between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Phase(StrEnum):
    """The phase of a connection. All changes, with the role of the machine and the function that makes them:

    AWAITING_HELLO   -> AUTHENTICATING  runtime: _ask
                     -> OPEN            runtime: ConnectionState.open
                     -> CLOSING         runtime: ConnectionState.end
                     -> CLOSED          runtime: Machine.lose_connection
    AUTHENTICATING   -> OPEN            runtime: ConnectionState.open
                     -> CLOSING         runtime: ConnectionState.end
                     -> CLOSED          runtime: Machine.lose_connection
    AWAITING_WELCOME -> OPEN            client: ConnectionState.open
                     -> CLOSING         client: ConnectionState.end
                     -> CLOSED          client: Machine.lose_connection
    OPEN             -> CLOSING         both: ConnectionState.end
                     -> CLOSED          both: Machine.lose_connection
    CLOSING          -> CLOSED          both: Machine.lose_connection
    """

    AWAITING_HELLO = "awaiting_hello"
    """The runtime waits for `session.hello`."""
    AUTHENTICATING = "authenticating"
    """The host verifies the token; input is held."""
    AWAITING_WELCOME = "awaiting_welcome"
    """The client has said hello."""
    OPEN = "open"
    """The welcome was sent; messages go both ways."""
    CLOSING = "closing"
    """The connection reads no more; the last envelopes may be pulled."""
    CLOSED = "closed"
    """The transport is gone."""


class Role(StrEnum):
    """The role of the side that has the connection."""

    RUNTIME = "runtime"
    CLIENT = "client"
    BOTH = "both"


class PhaseChange(NamedTuple):
    """One change of the phase: in a connection of which role, and by which function."""

    before: Phase
    after: Phase
    role: Role
    function: str
    meaning: str


_OPENED: Final = "ConnectionState.open"
_ENDED: Final = "ConnectionState.end"
_LOST: Final = "Machine.lose_connection"
PHASE_CHANGES: Final = (
    PhaseChange(
        Phase.AWAITING_HELLO,
        Phase.AUTHENTICATING,
        Role.RUNTIME,
        "_ask",
        "The host is asked to verify the token.",
    ),
    PhaseChange(Phase.AWAITING_HELLO, Phase.OPEN, Role.RUNTIME, _OPENED, "An anonymous client is welcomed."),
    PhaseChange(Phase.AWAITING_HELLO, Phase.CLOSING, Role.RUNTIME, _ENDED, "The hello is refused, or late."),
    PhaseChange(Phase.AWAITING_HELLO, Phase.CLOSED, Role.RUNTIME, _LOST, "The transport is gone."),
    PhaseChange(Phase.AUTHENTICATING, Phase.OPEN, Role.RUNTIME, _OPENED, "The client is welcomed."),
    PhaseChange(Phase.AUTHENTICATING, Phase.CLOSING, Role.RUNTIME, _ENDED, "The client is refused."),
    PhaseChange(Phase.AUTHENTICATING, Phase.CLOSED, Role.RUNTIME, _LOST, "The transport is gone."),
    PhaseChange(Phase.AWAITING_WELCOME, Phase.OPEN, Role.CLIENT, _OPENED, "The runtime has said welcome."),
    PhaseChange(Phase.AWAITING_WELCOME, Phase.CLOSING, Role.CLIENT, _ENDED, "The client gives up."),
    PhaseChange(Phase.AWAITING_WELCOME, Phase.CLOSED, Role.CLIENT, _LOST, "The transport is gone."),
    PhaseChange(Phase.OPEN, Phase.CLOSING, Role.BOTH, _ENDED, "One side closes the session, or refuses."),
    PhaseChange(Phase.OPEN, Phase.CLOSED, Role.BOTH, _LOST, "The transport is gone."),
    PhaseChange(Phase.CLOSING, Phase.CLOSED, Role.BOTH, _LOST, "The transport is closed."),
)
"""Every change of the phase of a connection."""
AFTER: Final[Mapping[Phase, frozenset[Phase]]] = {
    before: frozenset(one.after for one in PHASE_CHANGES if one.before is before) for before in Phase
}
DEAF: Final = (Phase.CLOSING, Phase.CLOSED)
