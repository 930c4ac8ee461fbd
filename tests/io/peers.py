"""Clients for the tests that know nothing of arcp_io: JSON over the websockets library, or over lines."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import ByteStream, Process, SocketStream
from anyio.streams.tls import TLSStream
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from tests.io.apps import TOKEN

FEATURES = ["heartbeat", "ack", "progress", "result_chunk", "agent_versions"]

Message = dict[str, Any]


class Ended(Exception):
    """The end of the stream by the server; `code` is the code of the WebSocket close, or None."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class Peer(ABC):
    """One connection of a client."""

    def __init__(self) -> None:
        self.count = 0
        self.events: list[Message] = []
        """All messages with a number (`event_seq`) received so far."""

    @abstractmethod
    async def send_text(self, text: str) -> None:
        """Send one text message unchanged."""

    @abstractmethod
    async def receive(self) -> Message:
        """Return the next envelope; raise Ended at the end of the stream."""

    async def send(self, kind: str, payload: Message | None = None, **fields: Any) -> str:
        """Send an envelope; returns its id."""
        self.count += 1
        request = f"r{self.count}"
        envelope = {"arcp": "1.1", "id": request, "type": kind, "payload": payload or {}, **fields}
        await self.send_text(json.dumps(envelope))
        return request

    async def hello(self, token: str = TOKEN, features: list[str] = FEATURES) -> Message:
        """Open a session; returns the welcome, or what came instead."""
        await self.send(
            "session.hello",
            {
                "client": {"name": "tests", "version": "1"},
                "auth": {"scheme": "bearer", "token": token},
                "capabilities": {"encodings": ["json"], "features": features},
            },
        )
        return await self.receive()

    async def resume(
        self, welcome: Message, last_event_seq: int, *, token: str | None = TOKEN, **more: Any
    ) -> Message:
        """Go on with the session of a welcome, by its token alone when `token` is None."""
        proof = {
            "session_id": welcome["session_id"],
            "resume_token": welcome["payload"]["resume_token"],
            "last_event_seq": last_event_seq,
            **more,
        }
        if token is None:
            await self.send("session.resume", proof)
        else:
            auth = {"scheme": "bearer", "token": token}
            capabilities = {"encodings": ["json"], "features": FEATURES}
            await self.send(
                "session.hello",
                {
                    "client": {"name": "tests", "version": "1"},
                    "auth": auth,
                    "capabilities": capabilities,
                    "resume": proof,
                },
            )
        return await self.receive()

    async def until_event(self, number: int) -> list[Message]:
        """Read until `number` messages with an event_seq have come; return all of them."""
        while len(self.events) < number:
            await self.receive()
        return self.events

    async def submit(self, agent: str, input: Any = None, **fields: Any) -> Message:
        """Submit a job; returns the answer. `fields` are more of its payload."""
        request = await self.send("job.submit", {"agent": agent, "input": input, **fields})
        while True:
            message = await self.receive()
            if message["payload"].get("request_id") == request:
                return message

    async def until(self, *kinds: str) -> list[Message]:
        """Return all messages up to the first of these types."""
        messages = []
        while True:
            messages.append(await self.receive())
            if messages[-1]["type"] in kinds:
                return messages

    async def run(self, agent: str, input: Any = None) -> list[Message]:
        """Submit a job and return what follows the answer, up to its end."""
        accepted = await self.submit(agent, input)
        assert accepted["type"] == "job.accepted", accepted
        return await self.until("job.result", "job.error")

    async def end(self) -> int | None:
        """Read to the end of the stream; returns the close code."""
        try:
            while True:
                await self.receive()
        except Ended as ended:
            return ended.code


class WebSocketPeer(Peer):
    """A client over a WebSocket, by the library's own protocol."""

    def __init__(self, stream: ByteStream, protocol: ClientProtocol) -> None:
        super().__init__()
        self.stream = stream
        self.protocol = protocol
        self._events: deque[Any] = deque()

    async def shake_hands(self) -> Response:
        """Perform the opening handshake; return the server's answer."""
        self.protocol.send_request(self.protocol.connect())
        await self._flush()
        response = await self._next()
        assert isinstance(response, Response)
        return response

    async def send_text(self, text: str) -> None:
        self.protocol.send_text(text.encode())
        await self._flush()

    async def receive(self) -> Message:
        frame = await self._next()
        assert isinstance(frame, Frame)
        message: Message = json.loads(bytes(frame.data))
        if "event_seq" in message:
            self.events.append(message)
        return message

    async def drop(self) -> None:
        """Drop the connection without a close, as a broken network does."""
        await self.stream.aclose()

    async def say_goodbye(self, code: int) -> None:
        """Begin the closing handshake of the WebSocket."""
        self.protocol.send_close(code)
        await self._flush()

    async def _next(self) -> Any:
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, Response) or event.opcode is Opcode.TEXT:
                    return event
            try:
                data = await self.stream.receive(65536)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                close = self.protocol.close_rcvd
                await self.stream.aclose()
                raise Ended(None if close is None else int(close.code)) from None
            self.protocol.receive_data(data)
            self._events += self.protocol.events_received()
            await self._flush()

    async def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                await self.stream.send(data)


async def connect_tcp(host: str, port: int) -> SocketStream:
    """Connect to a server that listens on this machine.

    An `anyio.connect_tcp` whose task is cancelled as it connects leaves its socket open, before anyio 4.16.
    """
    return await SocketStream.from_socket(socket.create_connection((host, port), timeout=10))


@asynccontextmanager
async def websocket(url: str, context: ssl.SSLContext | None = None) -> AsyncIterator[WebSocketPeer]:
    """Connect to a server that listens."""
    uri = parse_uri(url)
    stream: ByteStream = await connect_tcp(uri.host, uri.port)
    try:
        if uri.secure:
            stream = await TLSStream.wrap(stream, hostname=uri.host, ssl_context=context)
        peer = WebSocketPeer(stream, ClientProtocol(uri, max_size=None))
        response = await peer.shake_hands()
        assert response.status_code == 101, response
        yield peer
    finally:
        with suppress(ssl.SSLError, anyio.BrokenResourceError):  # TLS does not always end in order.
            await stream.aclose()


class LinePeer(Peer):
    """A client of a child process, over lines."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._buffer = b""

    async def send_text(self, text: str) -> None:
        await self.stdin.send(text.encode() + b"\n")

    async def receive(self) -> Message:
        while b"\n" not in self._buffer:
            try:
                self._buffer += await self.stdout.receive()
            except anyio.EndOfStream:
                raise Ended(None) from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Message = json.loads(line)
        return message


@asynccontextmanager
async def child(backend: str) -> AsyncIterator[LinePeer]:
    """Serve the agents of the tests in a child process, and check that it exits by itself at the end."""
    command = [sys.executable, "-W", "error", "-m", "tests.io.apps", backend]
    async with await anyio.open_process(command, stderr=subprocess.PIPE) as process:
        peer = LinePeer(process)
        yield peer
        await peer.stdin.aclose()
        while process.returncode is None:  # `wait` of asyncio waits for the pipes too, before anyio 4.16.
            await anyio.sleep(0.01)
        assert process.returncode == 0
        async for _ in peer.stdout:  # asyncio closes no pipe that has something unread.
            pass
