"""The bearer tokens of one server: those that are revoked while in use, and those that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arcp_io.agents.host import AgentHost
from arcp_io.drivers.pump import Pump
from arcp_proto import Runtime


class ServerTokens:
    """The bearer tokens of a server: `Server.tokens`."""

    def __init__(self, runtime: Runtime, pump: Pump, agents: AgentHost) -> None:
        self._runtime = runtime
        self._pump = pump
        self._agents = agents
        self._looks: dict[Callable[[], object], None] = {}

    def end_revoked(self) -> None:
        """End the connections of bearer tokens that the verifier does not hold any longer."""
        self._agents.end_revoked()
        for look in list(self._looks):
            look()

    @contextmanager
    def on_revoked(self, look: Callable[[], object]) -> Iterator[None]:
        """Call `look` within the block whenever the verifier may hold fewer tokens than before."""
        self._looks[look] = None
        try:
            yield
        finally:
            del self._looks[look]

    def throttle(self, peer: str) -> None:
        """Verify no token from the origin of a peer for a while, unless a valid resume token is beside it."""
        self._runtime.tokens.throttle(peer, now=self._pump.now())

    def throttles(self, peer: str) -> bool:
        """Return whether too many authentications have failed at the origin of a peer."""
        return self._runtime.tokens.throttles(peer, now=self._pump.now())

    def refused(self, peer: str, reason: str) -> None:
        """Count a bearer token that was refused outside of any connection; see `HostTokens.refused`."""
        self._runtime.tokens.refused(peer, reason, now=self._pump.now())
        self._pump.run()
