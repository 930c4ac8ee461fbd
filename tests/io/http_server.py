"""An HTTP server on loopback that keeps what it was asked for, redirects, and streams."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import unquote

PIECE: Final = b"piece"
NUMBER: Final = "X-Number"
"""A header by which a request is known."""


@dataclass
class Arrived:
    """The port of a server, and the requests that it received."""

    port: int
    targets: list[str] = field(default_factory=list)
    """The request target of each request, byte for byte."""
    hosts: list[str] = field(default_factory=list)
    """The Host header of each request."""
    numbered: dict[str, str] = field(default_factory=dict)
    """The URL of each request that has a number, as the server knows it."""
    connections: int = 0

    @property
    def base(self) -> str:
        """The server's URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> str:
        """The URL that was asked for last, as the server knows it."""
        return f"http://{self.hosts[-1]}{self.targets[-1]}"

    def add(self, target: str, headers: Mapping[str, str]) -> None:
        """Keep a request."""
        self.targets.append(target)
        self.hosts.append(headers.get("Host", ""))
        if (number := headers.get(NUMBER)) is not None:
            self.numbered[number] = self.last


@contextmanager
def served() -> Iterator[Arrived]:
    """Serve; `/to?URL` redirects to the URL, `/pieces` streams without an end, all else is empty."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            arrived.connections += 1

        def parse_request(self) -> bool:
            # The request line as it came: `parse_request` of the library joins slashes at its beginning.
            words = str(self.raw_requestline, "latin-1").split()
            parsed = super().parse_request()
            if parsed:
                with lock:
                    arrived.add(words[1], self.headers)
            return parsed

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/pieces":
                self._stream()
                return
            self.send_response(302 if path == "/to" else 200)
            if path == "/to":
                self.send_header("Location", unquote(query))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                while not closing.wait(0.01):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
            except OSError:
                self.close_connection = True  # The client has read enough.

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    class Threads(socketserver.ThreadingMixIn, socketserver.TCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

    closing, lock = threading.Event(), threading.Lock()
    with Threads(("127.0.0.1", 0), Handler) as server:
        arrived = Arrived(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield arrived
        finally:
            closing.set()
            server.shutdown()
            thread.join()
