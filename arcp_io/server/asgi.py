"""An ASGI 3 application that serves an App: WebSockets that carry ARCP, and health routes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Final

from websockets.datastructures import Headers
from websockets.http11 import Request

from arcp_io.drivers.ws_admission import PLAIN_TEXT, Page
from arcp_proto import CloseCode

from .activity_log import Refusals
from .dashboard import KEPT, PATH
from .entrance import Entrance
from .event_streams import EventStreams, streamed_job
from .hosted import Hosted, Stage
from .http_pages import LIVE, METRICS, READY, health
from .http_scope import (
    CLEAR,
    Receive,
    Scope,
    Send,
    headers_of,
    is_folder,
    is_local,
    is_private,
    path_of,
    peer_of,
    respond,
    target_of,
)
from .server import Server, open_metrics

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.journal import Journal

logger = logging.getLogger("arcp_io")

DRAIN: Final = 30.0
"""Seconds that running jobs get at the end of a lifespan."""
_SILENT: Final = logging.Logger("arcp_io.server.asgi", logging.CRITICAL + 1)
_HANDSHAKE: Final = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
"""The headers of an opening handshake, which the ASGI server has checked; HTTP/2 has none of them."""
_REPLACED: Final = frozenset(name.lower() for name in (*_HANDSHAKE, "Sec-WebSocket-Extensions"))


class AsgiApp:
    """The ASGI 3 application of an App, made by `App.asgi`."""

    def __init__(
        self,
        app: App,
        *,
        path: str = "/arcp",
        hosts: Sequence[str] | None = None,
        origins: Sequence[str] = (),
        allow_plain: bool = False,
        drain: float = DRAIN,
        journal: Journal | None = None,
        metrics: bool = False,
        dashboard: bool = False,
        sse: bool = False,
    ) -> None:
        """Take the arguments of `App.asgi`."""
        if journal is not None and not hasattr(journal, "append"):
            raise ValueError(
                f"{journal!r} is not a journal: many nodes are served by `serve` or `arcp-io serve`"
            )
        app.config()
        entrance = Entrance("localhost", 0, path, None, allow_plain, origins, hosts)
        entrance.check()
        path = f"/{path.strip('/')}"
        entrance = entrance._replace(path=path, metrics=metrics, dashboard=dashboard)
        counted = open_metrics(app, entrance)
        guarded = {} if counted is None else {METRICS: counted.page}
        self._app = app
        self._path = path
        self._allow_plain = allow_plain
        self._refusals = Refusals(time.monotonic_ns)
        refused = partial(self._refusals.http_refused, call="asgi")
        self._admission = entrance.admission(refused, guarded=guarded)
        self._hosted = Hosted(app, journal, drain, counted)
        self._streams: EventStreams | None = None
        if sse:
            self._streams = EventStreams(app, self._hosted, self._admission, refused, allow_plain=allow_plain)

    def __repr__(self) -> str:
        return f"<AsgiApp of {self._app.name} at {self._path}>"

    @property
    def server(self) -> Server:
        """The running server, with `jobs`, `cancel` and `counts`.

        Raises RuntimeError before its start and after its end.
        """
        return self._hosted.server

    def lifespan(self, outer: object = None) -> AbstractAsyncContextManager[None]:
        """Return a block during which the runtime serves, and at whose end running jobs get `drain` seconds.

        It is the `lifespan=` of Starlette, FastAPI or Litestar, for an application that is mounted in one of
        these, or stands within theirs; `outer` is not used. Raises as `serve`, at either end.
        """
        return self._hosted.lifespan()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection or request, or the lifespan of the server."""
        match scope["type"]:
            case "lifespan":
                await self._span_life(receive, send)
            case "websocket":
                await self._connect(scope, receive, send)
            case "http":
                await self._request(scope, receive, send)
            case kind:
                raise ValueError(f"an ASGI scope of type {kind!r} is not supported")

    async def _span_life(self, receive: Receive, send: Send) -> None:
        await receive()
        span = self._hosted.lifespan()
        try:
            await span.__aenter__()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await span.__aexit__(None, None, None)
        except Exception as error:
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket, or refuse it before the upgrade."""
        await receive()
        request = Request(target_of(scope), _opening_headers(scope))
        protocol = self._admission.protocol(_SILENT)
        response = self._admission.answer(protocol, request)
        if response.status_code != 101:
            await _deny(scope, send, response.status_code, response.body)
            return
        peer = peer_of(scope)
        if not (self._allow_plain or is_private(scope) or is_local(scope)):
            self._refusals.http_refused(403, f"{CLEAR}; it came from {peer}", call="asgi")
            await _deny(scope, send, 403, CLEAR)
            return
        try:
            server = await self._hosted.use()
        except Exception:
            await _put_off(scope, send, CloseCode.SERVICE_RESTART, self._hosted.trouble)
            return
        if (refusal := server.refusal()) is not None:
            await _put_off(scope, send, *refusal)
            return
        try:
            await send({"type": "websocket.accept", "subprotocol": protocol.subprotocol})
        except OSError:
            return  # The peer has gone meanwhile.
        socket = AsgiSocket(receive, send)
        secure = is_private(scope) or (self._app.secure_loopback and is_local(scope))
        await server.carry_messages(socket, secure=secure, peer=peer)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        path = path_of(scope)
        if self._streams is not None and (job_id := streamed_job(path)) is not None:
            await self._streams.answer(job_id, scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await respond(send, 405, "the method is GET\n", {"Allow": "GET, HEAD"})
        elif path == LIVE:
            failed = self._hosted.stage is Stage.FAILED
            await _send_page(send, health(self._hosted.trouble if failed else ""))
        elif path == READY:
            await self._hosted.begin()
            await _send_page(send, health(self._hosted.trouble))
        else:
            target = f"{PATH}/" if is_folder(scope) and path == PATH else target_of(scope)
            request = Request(target, headers_of(scope))
            response = self._admission.answer(self._admission.protocol(_SILENT), request)
            if response.status_code == 101:
                logger.error(
                    "this ASGI server does not serve WebSockets: uvicorn needs the package websockets"
                )
                await respond(send, 501, "this server does not serve WebSockets\n")
                return
            kind = response.headers.get("Content-Type", PLAIN_TEXT)
            kept = {name: response.headers[name] for name in KEPT if name in response.headers}
            await respond(send, response.status_code, response.body, {"Content-Type": kind, **kept})


class AsgiSocket:
    """The WebSocket of an ASGI server, after it was accepted: a MessageSocket."""

    def __init__(self, receive: Receive, send: Send) -> None:
        """Take the two functions of the ASGI server."""
        self._receive = receive
        self._send = send

    async def receive(self) -> bytes | None:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return None
        text = message.get("text")
        return bytes(message["bytes"]) if text is None else text.encode(errors="surrogatepass")

    async def send(self, message: bytes) -> None:
        await self._send({"type": "websocket.send", "text": message.decode()})

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": int(code), "reason": reason})


def _opening_headers(scope: Scope) -> Headers:
    """Return the headers of a request to open a WebSocket, with those that make it one."""
    headers = Headers()
    for name, value in headers_of(scope).raw_items():
        if name not in _REPLACED:
            headers[name] = value
    headers.update(_HANDSHAKE)
    return headers


async def _send_page(send: Send, page: Page) -> None:
    """Send a page as the response to a request."""
    await respond(send, page.status, page.body, {"Content-Type": page.content_type})


async def _deny(scope: Scope, send: Send, status: int, body: str | bytes | bytearray) -> None:
    """Refuse a WebSocket before its upgrade, with an HTTP status where the server can send one."""
    if _can_respond(scope):
        await respond(send, status, body, kind="websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": int(CloseCode.POLICY_VIOLATION), "reason": ""})


async def _put_off(scope: Scope, send: Send, code: CloseCode, reason: str) -> None:
    """Refuse a WebSocket for a reason that passes: with HTTP 503, or after the upgrade with a close code."""
    if _can_respond(scope):
        await respond(send, 503, f"{reason}\n", kind="websocket.http.response")
    else:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": int(code), "reason": reason})


def _can_respond(scope: Scope) -> bool:
    return "websocket.http.response" in (scope.get("extensions") or {})
