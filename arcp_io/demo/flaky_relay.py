"""A connection that is dropped on purpose: a relay before a runtime, and the drops during the demo."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

from arcp_proto import EventKind, SessionLost, Welcomed

if TYPE_CHECKING:
    from arcp_io.client.job import Event
    from arcp_io.client.session import Session

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close at once, and discard data in transit."""


class Relay:
    """Carries bytes between clients that connect to `url` and one server, until it is told to `cut`."""

    def __init__(self, url: str, server: tuple[str, int]) -> None:
        self.url = url
        self._server = server
        self._carried: dict[anyio.CancelScope, tuple[SocketStream, SocketStream]] = {}

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Self]:
        """Open a relay before a ws:// address, on a free port of this machine."""
        parts = urlsplit(url)
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(SocketAttribute.local_port)
            relay = cls(f"ws://127.0.0.1:{port}{parts.path}", (parts.hostname or "", parts.port or 80))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, relay._carry)
                yield relay
                tasks.cancel_scope.cancel()

    def cut(self) -> int:
        """Reset every connection in both directions, losing data in transit; return how many."""
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
    """Drops the connection of a job a number of times, spread over its progress, and watches it being
    resumed.
    """

    def __init__(self, relay: Relay, number: int) -> None:
        self.cut = 0
        """Number of drops so far."""
        self.resumed = 0
        """Number of resumes with nothing lost."""
        self._relay = relay
        self._number = number

    async def after(self, session: Session, event: Event) -> None:
        """Drop the connection as often as the job's progress requires, and wait each time until it is
        resumed.
        """
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
                break  # A connection that was used is made again at once when it is lost.

    def _due(self, progress: dict[str, Any]) -> int:
        current, total = progress["current"], progress.get("total") or 0
        return self._number if current >= total else int(self._number * current / total)


async def _copy(source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
    """Copy until one side has ended; then end the other side too."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await sink.send(await source.receive())
    scope.cancel()
