"""One stream of server-sent events (SSE): the response to one HTTP request.

Its writer waits while the client does not read, so a slow client costs the memory of one block and no more.
A stream ends when its writer returns, when the client is gone, when the token of the client expires or is
revoked, and when the ASGI server wants to exit.

An ASGI server tells that a client is gone as an answer to `receive`, at the latest when a write has failed,
which the comments that keep a stream alive bring about.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import anyio.abc

from .http_scope import Receive, Send, begin_response

HEARTBEAT: Final = 15.0
"""Seconds without an event after which a comment is sent."""
RETRY_MS: Final = range(1_000, 3_000)
"""Milliseconds after which a client comes back; each stream draws its own, so that not all come at once."""
LAST_WRITE: Final = 5.0
"""Seconds that a client gets for taking the end of a stream."""
EXIT_SEEN: Final = 0.25
"""Seconds between two looks at whether the server wants to exit."""
LONGEST_NAP: Final = 60.0
"""Seconds between two looks at the clock of the wall, which may be set."""
HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}
"""The headers of every stream: caches keep nothing, and proxies neither compress nor collect."""


def block_of(data: Mapping[str, Any], *, event: str = "", number: str = "") -> bytes:
    """Return one server-sent event with its fields `id`, `event` and `data`, one line of JSON."""
    fields = [f"id: {number}"] if number else []
    fields += [f"event: {event}"] if event else []
    return "\n".join([*fields, f"data: {json.dumps(data)}", "", ""]).encode()


class EventStream:
    """One stream, which `run` carries from its first to its last byte."""

    def __init__(
        self, receive: Receive, send: Send, *, heartbeat: float = HEARTBEAT, expires_ns: int | None = None
    ) -> None:
        """Take the functions of the ASGI server, and when the stream expires, in Unix nanoseconds."""
        self._receive = receive
        self._send = send
        self._heartbeat = heartbeat
        self._expires_ns = expires_ns
        self._lock: anyio.Lock
        """The lock of the task that sends."""
        self._quiet = True
        """Whether nothing was sent since the last heartbeat."""
        self._gone = False
        """Whether the client is known to be gone."""
        self._scope: anyio.CancelScope

    async def run(self, write: Callable[[EventStream], Awaitable[None]], headers: Mapping[str, str]) -> None:
        """Begin the response, with these headers too, have `write` say everything, and end it."""
        self._lock, self._scope = anyio.Lock(), anyio.CancelScope()
        with self._scope:
            await self._put(begin_response(self._send, 200, {**HEADERS, **headers}))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._notice_leaving)
                tasks.start_soon(self._beat)
                tasks.start_soon(self._expire)
                tasks.start_soon(self._notice_exit)
                await self.say(f"retry: {random.choice(RETRY_MS)}\n\n".encode())
                await write(self)
                tasks.cancel_scope.cancel()
        if not self._gone:
            with anyio.move_on_after(LAST_WRITE):
                await self._put(self._send({"type": "http.response.body", "body": b"", "more_body": False}))

    def end(self) -> None:
        """End the stream, which `run` carries."""
        self._scope.cancel()

    async def say(self, block: bytes) -> None:
        """Send a block, once the client has room for it."""
        async with self._lock:
            self._quiet = False
            await self._put(self._send({"type": "http.response.body", "body": block, "more_body": True}))

    async def _put(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except OSError:  # Since ASGI 2.4 a server may say by it that the client is gone.
            self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._scope.cancel()

    async def _notice_leaving(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._leave()
                return

    async def _beat(self) -> None:
        """Send a comment whenever nothing was sent for a while."""
        while True:
            self._quiet = True
            await anyio.sleep(self._heartbeat)
            if self._quiet:
                await self.say(b":\n\n")

    async def _expire(self) -> None:
        """End the stream at the expiry of its token."""
        while self._expires_ns is not None:
            left = (self._expires_ns - time.time_ns()) / 1e9
            if left <= 0:
                self.end()
                return
            await anyio.sleep(min(left, LONGEST_NAP))

    async def _notice_exit(self) -> None:
        """End the stream when the server wants to exit: uvicorn waits for all responses first."""
        wants_exit = exit_flag()
        while wants_exit is not None:
            if wants_exit():
                self.end()
                return
            await anyio.sleep(EXIT_SEEN)


def exit_flag() -> Callable[[], bool] | None:
    """Return a function that tells whether uvicorn wants to exit; None: it does not run this process.

    Its server is the object that handles SIGTERM, and has the public attribute "should_exit". Other servers
    cut their responses after a while, if they are told to.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(getattr(server, "should_exit", None), bool):
        return None
    return lambda: bool(getattr(server, "should_exit", False))
