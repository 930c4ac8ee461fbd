"""The things that many servers of one process share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from arcp_io.agents.threads import Threads
from arcp_io.drivers.clock import Clock
from arcp_io.drivers.door import Door

from .audit_log import Auditor

if TYPE_CHECKING:
    from arcp_io.placing.link_listener import LinkListener

    from .metrics import Metrics


class Shared(msgspec.Struct, frozen=True):
    """The things that many servers of one process share."""

    door: Door | None = None
    """The door behind which the servers act; None: they act in any case."""
    threads: Threads | None = None
    """The threads for blocking agents; None: each server has its own."""
    auditor: Auditor | None = None
    """The one that takes the facts for an audit, and is closed by others; None: each server has its own."""
    heartbeat: int | None = None
    """The seconds between heartbeats, unless the App states them; None: the runtime's own default."""
    links: LinkListener | None = None
    """The listener for the workers of placed agents; None: each server has its own."""
    observers: dict[str, dict[str, str]] | None = None
    """The rights to jobs of others in the same tenant; None: those of the App."""
    guests: dict[str, dict[str, dict[str, str]]] | None = None
    """The rights of guests, principal -> tenant -> owner -> right; None: none."""
    metrics: Metrics | None = None
    """The metrics of the process; None: nothing is counted."""
    watched: bool = False
    """Whether another task watches the tokens of the App, and calls `ServerTokens.end_revoked`."""
    clock: Clock | None = None
    """A clock that is driven by hand; None: each server has one that reads those of the machine."""


NOTHING_SHARED: Final = Shared()
"""For a server that is the only one of its process."""
