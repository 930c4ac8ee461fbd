"""The lobby of a node: where connections wait until it is known which shard they belong to.

It is a runtime without journal and jobs from the same App, so that the time limits before the welcome, the
throttling of origins and all refusals are those of any runtime. No session is opened in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arcp_io.drivers.clock import Clock
from arcp_io.drivers.pump import Pump
from arcp_io.server import activity_log
from arcp_io.server.server import runtime_config
from arcp_proto import (
    Audit,
    Authenticate,
    Connection,
    ConnectionEnded,
    Event,
    Noted,
    Request,
    Runtime,
    RuntimeEnded,
)

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.drivers.loop import Loop
    from arcp_io.server.audit_log import Auditor


class LobbyPump(Pump):
    """A pump that lets the gateway look at messages before the runtime gets them."""

    takes: Callable[[Connection, bytes], bool]
    """Returns whether the runtime gets a message; else it waits in the transport, with all that follow."""

    def receive(self, connection: Connection, messages: Sequence[bytes]) -> int:
        return super().receive(connection, messages) if self.takes(connection, messages[0]) else 0


class Lobby:
    """The runtime in which connections wait, as the host of its pump."""

    def __init__(
        self, app: App, loop: Loop, auditor: Auditor, authenticate: Callable[[Authenticate], object]
    ) -> None:
        """Serve an App; `authenticate` is called with each token that a client brings."""
        clock = Clock()
        config, seed = runtime_config(app), os.urandom(32)
        self.runtime = Runtime(config, seed=seed, now=clock.now(), unix=clock.unix())
        self.pump = LobbyPump(self.runtime, self, loop, clock)
        self.refusals = activity_log.Refusals(clock.now)
        self.on_ended: Callable[[Connection], object] = _forget
        """Called with each connection that is lost."""
        self.ended = loop.event()
        self._auditor = auditor
        self._authenticate = authenticate

    def answer(self, request: Authenticate, principal: str | None, expires: int | None, failed: bool) -> None:
        """Tell the runtime whose token it was."""
        now = self.pump.now()
        answer = self.runtime.authenticated(request.request, principal, failed, expires, now=now)
        self.pump.carry_out(answer)

    def throttles(self, peer: str) -> bool:
        """Return whether too many authentications have failed at the origin of a peer."""
        return self.runtime.tokens.throttles(peer, now=self.pump.now())

    def shut_down(self) -> None:
        """Close all connections; `ended` is set when they are gone."""
        self.runtime.shut_down(0.0, now=self.pump.now())
        self.pump.run()

    # As the host of its pump.

    def request(self, request: Request) -> None:
        if isinstance(request, Authenticate):
            self._authenticate(request)

    def happened(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ConnectionEnded):
                self.on_ended(event.connection)
            elif isinstance(event, RuntimeEnded):
                self.ended.set()
            elif isinstance(event, Audit):
                self._auditor.happened(event)
                self.refusals.happened(event)
            elif isinstance(event, Noted):
                activity_log.log(event)


def _forget(connection: Connection) -> None:
    """Do nothing for a connection that no gateway has accepted."""
