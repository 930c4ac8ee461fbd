"""A TCP proxy before PostgreSQL that loses connections at chosen moments."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal
from urllib.parse import urlsplit

import psycopg

How = Literal["before", "after", "straggling"]
"""Cut before a statement is carried out; after it was, before its answer; or while it goes on."""

BYTES: Final = 65_536
EXECUTE: Final = (b"E", b"Q")
"""Messages of a client that let the server carry out a statement."""


class Proxy:
    """A proxy that passes whole messages of PostgreSQL on, until it is told to cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Lock()
        self._armed: tuple[int, How] | None = None
        self.cuts = 0
        """Cuts that have happened."""
        self.statements = 0
        """Statements that were passed on."""
        self._down = False
        self._flows = threading.Event()
        self._flows.set()
        self._left: int | None = None
        self._sockets: set[socket.socket] = set()
        self._mute: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, how: How, *, statement: int = 0) -> None:
        """Cut the connection at the next statement, or at a later one by this number of statements."""
        with self._lock:
            self._armed = (statement, how)

    @property
    def armed(self) -> bool:
        """Whether a cut is still to come."""
        return self._armed is not None

    def down(self) -> None:
        """Lose all connections, and take none."""
        self._down = True
        self.lose()

    def up(self) -> None:
        """Take connections again."""
        self._down = False

    def hold(self, *, after: int = 0) -> None:
        """Let new connections wait, once this number of further ones was passed on."""
        self._left = after

    def flow(self) -> None:
        """Pass on the connections that wait, and new ones."""
        self._left = None
        self._flows.set()

    def silence(self) -> None:
        """Take what comes on the connections of now, and pass nothing on."""
        with self._lock:
            self._mute |= self._sockets

    def lose(self) -> None:
        """Lose all connections of now."""
        with self._lock:
            found = [*self._sockets]
        for one in found:
            _shut(one)

    def close(self) -> None:
        self._down = True
        self.flow()
        self._listener.close()
        self.lose()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._down:
                    client.close()
                    continue
                self._wait_in_turn()
                server = self._dial()
                with self._lock:
                    self._sockets |= {client, server}
                state = _Connection(self, client, server)
                threading.Thread(target=state.from_client, daemon=True).start()
                threading.Thread(target=state.from_server, daemon=True).start()

    def _wait_in_turn(self) -> None:
        if self._left is None:
            return
        if self._left:
            self._left -= 1
            return
        self._flows.clear()
        if self._left is not None:
            self._flows.wait()

    def _dial(self) -> socket.socket:
        host, port = self._target
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def is_mute(self, one: socket.socket) -> bool:
        with self._lock:
            return one in self._mute

    def at_statement(self) -> How | None:
        """Count a statement; return how to cut at it, or None."""
        with self._lock:
            self.statements += 1
            if self._armed is None:
                return None
            left, how = self._armed
            self._armed = (left - 1, how) if left else None
            if left:
                return None
            self.cuts += 1
            return how

    def forget(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(sockets)
            self._mute -= set(sockets)


class _Connection:
    """A connection that passes through the proxy, one thread a direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._how: How | None = None

    def from_client(self) -> None:
        held, begun = b"", False
        with suppress(OSError):
            while data := self._client.recv(BYTES):
                held += data
                while (message := _message(held, begun)) is not None:
                    held = held[len(message) :]
                    if begun and message[:1] in EXECUTE and self._how is None:
                        self._how = self._proxy.at_statement()
                        if self._how == "before":
                            self._end()
                            return
                    begun = True
                    if not self._proxy.is_mute(self._client):
                        self._server.sendall(message)
                    if self._how == "straggling" and message[:1] in (b"S", b"Q"):
                        _shut(self._client)
                        return  # The server goes on, and `from_server` reads its answer.
        if self._how != "straggling":
            self._end()

    def from_server(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(BYTES):
                if self._how is not None:
                    break
                if not self._proxy.is_mute(self._client):
                    self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        _shut(self._client)
        _shut(self._server)
        self._proxy.forget(self._client, self._server)
        self._client.close()
        self._server.close()


def _message(held: bytes, begun: bool) -> bytes | None:
    """Return the first whole message; the one that begins a connection has no type."""
    at = 1 if begun else 0
    if len(held) < at + 4:
        return None
    end = at + int.from_bytes(held[at : at + 4], "big")
    return held[:end] if len(held) >= end else None


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(url: str) -> Iterator[tuple[Proxy, str]]:
    """Begin a proxy before the server of a URL; yield it, and the URL that leads through it."""
    with psycopg.connect(url) as db:
        host, port, user = db.info.host, db.info.port, db.info.user
    proxy = Proxy(host, port)
    try:
        place = f"{user}@127.0.0.1:{proxy.port}{urlsplit(url).path}"
        yield proxy, f"postgresql://{place}?sslmode=disable&gssencmode=disable"
    finally:
        proxy.close()
