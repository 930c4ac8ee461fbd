"""A client of server-sent events over a socket, which can be cut after any number of bytes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from tests.hanging import PATIENCE

PIECE: Final = 4096


class Sent(NamedTuple):
    """One server-sent event."""

    number: str
    kind: str
    data: dict[str, Any]


class EventSource:
    """The events of a job as they came over several connections; `last` is the id of the last one."""

    def __init__(self, port: int, path: str, token: str) -> None:
        self._port = port
        self._path = path
        self._token = token
        self.events: list[Sent] = []
        self.last = ""
        self.status = 0
        """The status of the last response; 0 if the connection was cut before it."""
        self.cuts = 0

    def connect(self, most: int | None = None) -> None:
        """Take events from a connection until the server ends it, or until it has brought `most` bytes.

        A cut closes the socket at once, also while the server sends.
        """
        self.status, rest = 0, b""
        with suppress(ConnectionError), self._open() as connection:
            for body in self._body(connection, most):
                *blocks, rest = (rest + body).split(b"\n\n")
                for block in blocks:
                    self._take(block.decode())

    def follow(self) -> None:
        """Take events until the server says that nothing follows, and come back whenever a stream ends."""
        until = time.monotonic() + PATIENCE
        while self.status != 204:
            assert time.monotonic() < until, (self.status, self.last)
            with suppress(OSError):
                self.connect()
            time.sleep(0.02)

    def _open(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
        again = f"Last-Event-ID: {self.last}\r\n" if self.last else ""
        connection.sendall(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{again}"
            f"Authorization: Bearer {self._token}\r\n\r\n".encode()
        )
        return connection

    def _body(self, connection: socket.socket, most: int | None) -> Iterator[bytes]:
        """Yield the body of the response as it comes, without the lines of its chunks."""
        pieces = self._pieces(connection, most)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = next(pieces, b"")
            if not piece:
                return
            head += piece
        head, _, rest = head.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        if self.status != 200:
            return
        while True:
            while b"\r\n" not in rest:
                piece = next(pieces, b"")
                if not piece:
                    return
                rest += piece
            line, _, rest = rest.partition(b"\r\n")
            size = int(line, 16)
            if size == 0:
                return
            while len(rest) < size + 2:
                piece = next(pieces, b"")
                if not piece:
                    return
                rest += piece
            yield rest[:size]
            rest = rest[size + 2 :]

    def _pieces(self, connection: socket.socket, most: int | None) -> Iterator[bytes]:
        left = most
        while left is None or left > 0:
            piece = connection.recv(PIECE if left is None else min(left, PIECE))
            if not piece:
                return
            left = None if left is None else left - len(piece)
            yield piece
        self.cuts += 1

    def _take(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in fields:
            self.last = fields["id"]
            self.events.append(Sent(fields["id"], fields["event"], json.loads(fields["data"])))
