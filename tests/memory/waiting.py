"""Bounds of what waits in a runtime: submits for credentials, connections that close, pieces of histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Output
from arcp_proto.limits import KIB

from .caps import EVENT, LIMITS, SESSION, Filled, grown
from .host import Host

WAITING: Final = 3 * KIB
"""Documented bytes of a submit that waits, with an input that does not count."""


class Stalled(Host):
    """A host that can leave envelopes where they are, and connections open."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(**limits)
        self.pulls = True
        self.closes = True

    def carry_out(self, output: Output) -> None:
        """Do what the runtime asks for, but for that."""
        if not self.pulls:
            output = output._replace(writable=())
        if not self.closes:
            output = output._replace(closing=())
        super().carry_out(output)


def _submits() -> Filled:
    """Fill submits of small inputs for whose credentials a provisioner takes its time."""
    host = Host(credentials=True)
    clients = [host.client(f"p{number}") for number in range(15)]
    json = b'"%b"' % (b"x" * 500)

    def fill() -> Host:
        for client in clients:
            while client.reading:
                assert host.submit(client, json) is None
        return host

    taken = grown(fill)
    waiting = sum(len(session.turns) for session in state_of(host.runtime).sessions.values())
    assert waiting == LIMITS.max_session_waiting_submits * len(clients), (waiting, host.refused)
    return Filled(taken, WAITING * waiting, f"{waiting} submits")


def _connections() -> Filled:
    """Fill sessions that are closed, and whose transports do not end."""
    host = Stalled()
    host.client()
    host.closes = False

    def fill() -> Host:
        while not host.refused:
            client = host.client()
            if connection_state(client).session is not None:
                host.send(client, "session.close", {})
        return host

    taken = grown(fill)
    assert host.refused == "connections"
    return Filled(taken, SESSION * LIMITS.max_principal_connections)


def _pieces() -> Filled:
    """Fill observers of a history whose transports are full after its first piece."""
    host = Stalled()
    start = host.submit(host.client())
    assert start is not None
    for _ in range(4 * LIMITS.max_backlog_events):
        host.emit(start.job_id, "x" * 100)
    host.carry_out(host.runtime.take())
    observers = [host.client() for _ in range(LIMITS.max_principal_sessions - 1)]
    host.pulls = False

    def fill() -> Host:
        for observer in observers:
            host.send(observer, "job.subscribe", {"job_id": start.job_id, "history": True})
            host.carry_out(host.runtime.handle_timer(now=host.now))
            host.carry_out(observer.blocked(now=host.now))
        host.carry_out(host.runtime.handle_timer(now=host.now))
        return host

    taken = grown(fill)
    sessions = [connection_state(observer).session for observer in observers]
    numbered = sum(0 if session is None else len(session.log) for session in sessions)
    assert numbered == LIMITS.max_backlog_events * len(observers)
    documented = len(observers) * (LIMITS.max_backlog_bytes + EVENT * LIMITS.max_backlog_events)
    return Filled(taken, documented, f"{numbered} events")


WAITS: Final[Mapping[str, Callable[[], Filled]]] = {
    "max_session_waiting_submits": _submits,
    "max_principal_connections": _connections,
    "max_backlog_bytes": _pieces,
}
