"""The scope of a request, by which an ASGI server describes it, and the response to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from websockets.datastructures import Headers

from arcp_io.drivers.sockets import address_text, is_loopback

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

CLEAR: Final = (
    "tokens would cross the network in clear text: use TLS, let the server trust its proxy's headers,"
    " or give asgi(allow_plain=True)"
)
NO_HEADERS: Final[Mapping[str, str]] = {}


def path_of(scope: Scope) -> str:
    """Return the path of a request below the place where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return f"/{path.strip('/')}"  # Litestar ends the path of a mounted application with a slash.


def is_folder(scope: Scope) -> bool:
    """Return whether the client asked for a path that ends with a slash."""
    return bytes(scope.get("raw_path") or b"").partition(b"?")[0].endswith(b"/")


def query_of(scope: Scope) -> str:
    """Return the query of a request, as it was sent."""
    return bytes(scope.get("query_string") or b"").decode("latin-1")


def target_of(scope: Scope) -> str:
    """Return the path and the query of a request, as the rules for admission take them."""
    query = query_of(scope)
    return f"{path_of(scope)}?{query}" if query else path_of(scope)


def headers_of(scope: Scope) -> Headers:
    """Return the headers of a request."""
    headers = Headers()
    for name, value in scope["headers"]:
        headers[name.decode("latin-1").lower()] = value.decode("latin-1")
    return headers


def is_private(scope: Scope) -> bool:
    """Return whether the peer has connected over TLS, as far as the server knows."""
    return scope.get("scheme") in ("wss", "https")


def is_local(scope: Scope) -> bool:
    """Return whether the peer is on this machine; a client without an address uses a socket of Unix."""
    client = scope.get("client")
    return not client or not client[0] or is_loopback(client[0])


def peer_of(scope: Scope) -> str:
    """Return the label of the peer: host:port."""
    return address_text(tuple(scope["client"])) if scope.get("client") else "unknown"


async def respond(
    send: Send,
    status: int,
    body: str | bytes | bytearray,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    kind: str = "http.response",
) -> None:
    """Send a complete HTTP response of plain text, in messages of a kind."""
    data = body.encode() if isinstance(body, str) else bytes(body)
    fields = dict(headers)
    if status != 204:
        fields = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(data)), **headers}
    fields["Cache-Control"] = "no-store"
    await begin_response(send, status, fields, kind=kind)
    await send({"type": f"{kind}.body", "body": data})


async def begin_response(
    send: Send, status: int, headers: Mapping[str, str], *, kind: str = "http.response"
) -> None:
    """Send the status and the headers of an HTTP response."""
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{kind}.start", "status": status, "headers": sent})
