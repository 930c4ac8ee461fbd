"""Admission: the rules by which a listener accepts opening requests (path, Host, Origin, subprotocol)."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

__all__ = ["LOOPBACK_HOSTS", "Admission", "Page", "Pages"]

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
PLAIN_TEXT: Final = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """The answer to a request that does not open a WebSocket."""

    status: int
    body: bytes
    content_type: str = PLAIN_TEXT
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers."""


Pages: TypeAlias = Mapping[str, Callable[[], Page]]
"""The pages of a listener by their paths; each is made when it is asked for."""
WEB: Final = ("http", "https")
"""The schemes of web origins."""
NO_PAGES: Final[Pages] = {}


def choose_subprotocol(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Return the first offered subprotocol that is `arcp` or begins with `arcp.`, or None.

    A client that offers subprotocols and gets none fails the connection: browsers and the `ws` library do,
    with `new WebSocket(url, ["arcp.v1"])`. The choice changes nothing else.
    """
    return next((name for name in offered if name == "arcp" or name.startswith("arcp.")), None)


class Admission:
    """The rules of one listener, shared by its connections.

    `path` is exact, any query is allowed unless `fault` returns why it is not, for a path and query: then the
    answer is 400. `hosts` are names or addresses, each for every port or, written "example.com:8443", for
    one. `origins` are exact; a request without an Origin does not come from a browser, and is accepted.
    `refused` is called with the status and the reason of every request that is not answered by 101. With
    `health` a request for `path`/health, with any Host, is answered by 200, or by 503 with the reason that
    `health` returns, if that is not empty. `pages` are answered with any Host too, and `guarded` ones with a
    listed Host alone. With `own_schemes` a web origin that is the Host itself, by one of these schemes, is
    admitted as well: the pages connect to the listener that served them. While `closed` returns a reason,
    every other request is answered by 503 with it.
    """

    __slots__ = (
        "_closed",
        "_fault",
        "_guarded",
        "_health",
        "_hosts",
        "_own_schemes",
        "_pages",
        "_path",
        "_refused",
        "origins",
    )

    def __init__(
        self,
        *,
        path: str = "/arcp",
        hosts: Sequence[str] = LOOPBACK_HOSTS,
        origins: Sequence[str] = (),
        refused: Callable[[int, str], object] | None = None,
        health: Callable[[], str] | None = None,
        fault: Callable[[str], str] | None = None,
        pages: Pages = NO_PAGES,
        guarded: Pages = NO_PAGES,
        closed: Callable[[], str] | None = None,
        own_schemes: Sequence[str] = (),
    ) -> None:
        self._path = path
        self._fault = fault
        self._hosts = frozenset(map(_host_and_port, hosts))
        self.origins: tuple[Origin | None, ...] = (None, *map(Origin, origins))
        self._refused = refused
        self._health = health
        self._pages = pages
        self._guarded = guarded
        self._closed = closed
        self._own_schemes = tuple(own_schemes)

    def protocol(self, logger: logging.Logger) -> ServerProtocol:
        """Return the library's side of a new connection, which logs to `logger`."""
        return ServerProtocol(
            origins=self.origins, select_subprotocol=choose_subprotocol, max_size=None, logger=logger
        )

    def answer(self, protocol: ServerProtocol, request: Request) -> Response:
        """Return the response to a request: 101, 400, 403, 404, 503, a page, or a refusal of the library.

        The library refuses with 400, 405, 426 and 505.

        The Host is checked first: a page that has rebound a name to our address learns nothing else.
        """
        path = request.path.partition("?")[0]  # A query may hold a secret.
        if self._health is not None and path == f"{self._path}/health":
            trouble = self._health()
            return protocol.reject(503 if trouble else 200, f"{trouble or 'ok'}\n")
        if path in self._pages:
            return _paged(protocol, self._pages[path]())
        closed = "" if self._closed is None else self._closed()
        if closed:
            return protocol.reject(503, f"{closed}\n")
        response = self._answer(protocol, request, path)
        if response.status_code >= 400 and self._refused is not None:
            hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
            asked = f"path {path[:200]!r}, Host {hosts!r:.200}, Origin {origins!r:.200}"
            self._refused(response.status_code, asked)
        return response

    def refuses(self, headers: Headers, path: str) -> str:
        """Return why a request that opens no WebSocket gets 403, by Host and Origin; "" if it does not.

        The web origin that is the Host itself is admitted, by HTTP and HTTPS, besides `origins`.
        """
        hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
        if not self._lists_host(hosts):
            why = "Host is not allowed"
        elif origins and not (len(origins) == 1 and self._admits_origin(origins[0], hosts[0])):
            why = "Origin is not allowed"
        else:
            return ""
        if self._refused is not None:
            self._refused(403, f"path {path[:200]!r}, Host {hosts!r:.200}, Origin {origins!r:.200}")
        return why

    def _admits_origin(self, origin: str, host: str) -> bool:
        return origin in self.origins or origin in {f"{scheme}://{host.lower()}" for scheme in WEB}

    def _answer(self, protocol: ServerProtocol, request: Request, path: str) -> Response:
        if not self._lists_host(request.headers.get_all("Host")):
            return protocol.reject(403, "Failed to open a WebSocket connection: Host is not allowed.\n")
        if (page := self._guarded.get(path)) is not None:
            return _paged(protocol, page())
        if path != self._path:
            return protocol.reject(404, "Failed to open a WebSocket connection: no such path.\n")
        fault = "" if self._fault is None else self._fault(request.path)
        if fault:
            return protocol.reject(400, f"Failed to open a WebSocket connection: {fault}.\n")
        protocol.origins = (*self.origins, *self._own_origins(request))
        return protocol.accept(request)

    def _own_origins(self, request: Request) -> list[Origin]:
        """Return the origins of the listener's own pages; the Host of the request is checked before."""
        host = request.headers["Host"].lower()
        return [Origin(f"{scheme}://{host}") for scheme in self._own_schemes]

    def _lists_host(self, values: Sequence[str]) -> bool:
        if len(values) != 1:
            return False
        host, port = _host_and_port(values[0])
        return (host, "") in self._hosts or (host, port) in self._hosts


def _paged(protocol: ServerProtocol, page: Page) -> Response:
    """Return a page as a response."""
    response = protocol.reject(page.status, "")
    response.body = page.body
    for name, value in (("Content-Type", page.content_type), ("Content-Length", str(len(page.body)))):
        if name in response.headers:
            del response.headers[name]
        response.headers[name] = value
    response.headers["Cache-Control"] = "no-store"
    for name, value in page.headers:
        response.headers[name] = value
    return response


def _host_and_port(authority: str) -> tuple[str, str]:
    """Split "host:port"; the port is "" without one. An IPv6 address is returned in its shortest form."""
    host, port = authority.lower(), ""
    address = _ipv6(host)
    if address is None:
        name, colon, digits = host.rpartition(":")
        if colon and (digits.isdecimal() or not digits):
            host, port = name, digits
            address = _ipv6(host)
    return address or host, port


def _ipv6(host: str) -> str | None:
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        return ipaddress.IPv6Address(host[1:-1] if bracketed else host).compressed
    except ValueError:
        return None
