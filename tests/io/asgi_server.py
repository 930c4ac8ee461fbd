"""An ASGI server in memory: lifespans, requests and WebSockets, for an application of the same loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import anyio

from tests.io.peers import Ended, Message, Peer

EXTENSIONS: dict[str, Any] = {"websocket.http.response": {}}


def scope_of(kind: str, path: str, **more: Any) -> dict[str, Any]:
    """Return the scope of a request from this machine; `more` are other fields of it."""
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "scheme": "ws" if kind == "websocket" else "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost:80")],
        "client": ("127.0.0.1", 1234),
        "extensions": EXTENSIONS,
    }
    return scope | more


class AsgiPeer(Peer):
    """A client of a WebSocket whose server runs the application in a task."""

    def __init__(self) -> None:
        super().__init__()
        self.to_app, self.from_client = anyio.create_memory_object_stream[Message](inf)
        self.from_app, self.to_client = anyio.create_memory_object_stream[Message](inf)
        self.taking = anyio.Event()
        """Set while the server takes what the application sends."""
        self.taking.set()
        self.scope = anyio.CancelScope()
        """The scope of the application."""
        self.ended = anyio.Event()
        """Set when the application has returned."""

    async def serve(self, app: Any, scope: dict[str, Any]) -> None:
        """Run the application until it returns."""
        await self.to_app.send({"type": "websocket.connect"})
        try:
            with self.scope:
                await app(scope, self.from_client.receive, self._send)
        finally:
            self.ended.set()

    async def _send(self, message: Message) -> None:
        await self.taking.wait()
        await self.from_app.send(message)

    async def send_text(self, text: str) -> None:
        await self.to_app.send({"type": "websocket.receive", "text": text, "bytes": None})

    async def said(self) -> Message:
        """Return the next message of the application to its server."""
        return await self.to_client.receive()

    async def receive(self) -> Message:
        said = await self.said()
        if said["type"] == "websocket.close":
            raise Ended(said["code"])
        message: Message = json.loads(said["text"])
        if "event_seq" in message:
            self.events.append(message)
        return message

    async def disconnect(self) -> None:
        """Tell the application that the client is gone."""
        await self.to_app.send({"type": "websocket.disconnect", "code": 1006})


@asynccontextmanager
async def connected(app: Any, path: str = "/arcp", **more: Any) -> AsyncIterator[AsgiPeer]:
    """Run an application for a WebSocket, which is given up at the end of the block."""
    peer = AsgiPeer()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(peer.serve, app, scope_of("websocket", path, **more))
        yield peer
        tasks.cancel_scope.cancel()
    for stream in (peer.to_app, peer.from_client, peer.from_app, peer.to_client):
        await stream.aclose()


async def get(app: Any, path: str, **more: Any) -> tuple[int, str]:
    """Return the status and the body of the answer to an HTTP request."""
    said: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the application needs no body")

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope_of("http", path, **more), receive, send)
    start, body = said
    return start["status"], body["body"].decode()


@asynccontextmanager
async def lived(app: Any) -> AsyncIterator[list[Message]]:
    """Give an application a lifespan, as a server does; yield what it says about it."""
    said: list[Message] = []
    started, stopped = anyio.Event(), anyio.Event()
    messages = iter((("lifespan.startup", None), ("lifespan.shutdown", stopped)))

    async def receive() -> Message:
        kind, wait = next(messages)
        if wait is not None:
            await wait.wait()
        return {"type": kind}

    async def send(message: Message) -> None:
        said.append(message)
        started.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, {"type": "lifespan"}, receive, send)
        await started.wait()
        yield said
        stopped.set()


class StreamPeer:
    """A client of a response that comes in parts, and whose server runs the application in a task."""

    def __init__(self, most: int | None = None) -> None:
        """Take at most `most` messages at first; None: all of them."""
        self._most = most
        self.status = 0
        self.headers: dict[str, str] = {}
        self.sends = 0
        """Messages that the application has begun to send."""
        self.taking = anyio.Event()
        """Set while the server takes what the application sends."""
        self.taking.set()
        self.gone = anyio.Event()
        """Set when the server knows that the client is gone."""
        self.broken = False
        """Whether the server raises when the application sends to a client that is gone."""
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        """Set when the application has returned."""
        self.whole = False
        """Whether the application has ended the response."""
        self._to_client, self._blocks = anyio.create_memory_object_stream[str](inf)
        self._asked = False

    async def serve(self, app: Any, scope: dict[str, Any]) -> None:
        """Run the application until it returns."""
        try:
            await app(scope, self._receive, self._send)
        finally:
            self.begun.set()
            self.ended.set()
            self._to_client.close()

    async def block(self) -> str:
        """Return the next block of the response; raises EndOfStream at its end."""
        return await self._blocks.receive()

    async def event(self) -> dict[str, Any]:
        """Return the data of the next event."""
        while True:
            fields = fields_of(await self.block())
            if "data" in fields:
                data: dict[str, Any] = json.loads(fields["data"])
                assert (fields["id"], fields["event"]) == (str(data["job_seq"]), data["kind"])
                return data

    async def events(self) -> list[dict[str, Any]]:
        """Return the data of all events up to the end of the response."""
        found = []
        try:
            while True:
                found.append(await self.event())
        except anyio.EndOfStream:
            return found

    async def text(self) -> str:
        """Return the rest of the response."""
        await self.ended.wait()
        return "".join([block async for block in self._blocks])

    def close(self) -> None:
        """Close what tests may have left open."""
        self._to_client.close()
        self._blocks.close()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sends += 1
        if self._most is not None and self.sends > self._most:
            self.taking, self._most = anyio.Event(), None
        await self.taking.wait()
        if self.broken:
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self.begun.set()
        else:
            self.whole = not message.get("more_body", False)
            if message["body"]:
                await self._to_client.send(message["body"].decode())


def fields_of(block: str) -> dict[str, str]:
    """Return the fields of a server-sent event; a comment has none."""
    lines = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
    return {name: value for name, _, value in lines}


@asynccontextmanager
async def requested(
    app: Any, path: str, *, most: int | None = None, **more: Any
) -> AsyncIterator[StreamPeer]:
    """Run an application for an HTTP request, which is given up at the end of the block.

    With `most` the client takes no more messages than that, until `taking` is set.
    """
    peer = StreamPeer(most)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.serve, app, scope_of("http", path, **more))
            await peer.begun.wait()
            yield peer
            peer.gone.set()
            tasks.cancel_scope.cancel()
    finally:
        peer.close()
