"""A connection that is cut on purpose: a relay before a runtime, and what cuts it while the demo runs."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

from arcp_proto.engine.output import SessionLost, Welcomed
from arcp_proto.wire.event_bodies import EventKind

if TYPE_CHECKING:
    from arcp_io.client.job import Event
    from arcp_io.client.session import Session

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close at once, and forget what is under way."""


class Relay:
    """Carries bytes between whoever connects to `url` and one server, until it is told to `cut`."""

    def __init__(self, url: str, server: tuple[str, int]) -> None:
        self.url = url
        self._server = server
        self._carried: dict[anyio.CancelScope, tuple[SocketStream, SocketStream]] = {}

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Self]:
        """In front of a ws:// address, on a port of its own on this machine."""
        parts = urlsplit(url)
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(SocketAttribute.local_port)
            relay = cls(f"ws://127.0.0.1:{port}{parts.path}", (parts.hostname or "", parts.port or 80))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, relay._carry)
                yield relay
                tasks.cancel_scope.cancel()

    def cut(self) -> int:
        """Reset every connection both ways, with the loss of what is under way; returns how many."""
        cut, self._carried = self._carried, {}
        for scope, streams in cut.items():
            for stream in streams:
                raw = stream.extra(SocketAttribute.raw_socket)
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            scope.cancel()
        return len(cut)

    async def _carry(self, client: SocketStream) -> None:
        async with client:
            try:
                server = await anyio.connect_tcp(*self._server)
            except OSError:
                return
            async with server:
                with anyio.CancelScope() as scope:
                    self._carried[scope] = (client, server)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_copy, client, server, scope)
                        await _copy(server, client, scope)
                self._carried.pop(scope, None)


class Drops:
    """Cuts the connection of a job a number of times, spread over its progress, and sees it resumed."""

    def __init__(self, relay: Relay, number: int) -> None:
        self.cut = 0
        """How often it was, so far."""
        self.resumed = 0
        """How often the session went on with nothing lost."""
        self._relay = relay
        self._number = number

    async def after(self, session: Session, event: Event) -> None:
        """An event has come: cut as often as its progress asks for, and each time wait until it goes on."""
        if event.kind != EventKind.PROGRESS:
            return
        while self.cut < self._due(event.body):
            changes = session.watch()
            if not self._relay.cut():
                return
            self.cut += 1
            async for change in changes:
                if isinstance(change, SessionLost):
                    return
                if isinstance(change, Welcomed):
                    self.resumed += change.resumed
                    break
            async for _ in session.list_jobs(page_size=1):
                break  # A connection that was of use is made again at once when it is cut.

    def _due(self, progress: dict[str, Any]) -> int:
        current, total = progress["current"], progress.get("total") or 0
        return self._number if current >= total else int(self._number * current / total)


async def _copy(source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
    """Until one side has ended; then both are."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await sink.send(await source.receive())
    scope.cancel()
