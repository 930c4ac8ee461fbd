"""Accepting connections on asyncio."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final

from arcp_io.drivers.loop import Accepted, AgentTask
from arcp_io.drivers.sockets import ACCEPTED_AT_ONCE, RETRY_DELAY, address_text

from .sockets import SHUTDOWN_TIMEOUT, SocketStream

if TYPE_CHECKING:
    from .loop import AsyncioLoop

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for the TLS handshake."""


class Listener:
    """A Listening that accepts all waiting connections when the socket is readable."""

    def __init__(
        self, loop: AsyncioLoop, listener: socket.socket, context: ssl.SSLContext | None, accepted: Accepted
    ) -> None:
        self._loop = loop
        self._native = asyncio.get_running_loop()
        self._listener = listener
        self._context = context
        self._accepted = accepted
        self._retry: asyncio.TimerHandle | None = None
        self._native.add_reader(listener, self._accept)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._listener.fileno() >= 0:
            self._native.remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # Probably no descriptor is free: waiting connections stay in the queue.
                self._native.remove_reader(self._listener)
                self._retry = self._native.call_later(RETRY_DELAY, self._accept_again)
                return
            accepted.setblocking(False)
            self._start(accepted, address_text(address))

    def _accept_again(self) -> None:
        self._retry = None
        self._native.add_reader(self._listener, self._accept)
        self._accept()

    def _start(self, accepted: socket.socket, peer: str) -> None:
        stream = SocketStream(self._loop, lambda stream: self._accepted(stream, peer))

        task: AgentTask | None = None
        given_up = begun = False

        async def connect() -> None:
            nonlocal begun
            begun, reason = True, "TLS has not begun"
            try:
                if given_up:
                    raise ConnectionAbortedError("it was given up")
                await self._native.connect_accepted_socket(
                    lambda: stream,
                    accepted,
                    ssl=self._context,
                    ssl_handshake_timeout=HANDSHAKE_TIMEOUT if self._context else None,
                    ssl_shutdown_timeout=SHUTDOWN_TIMEOUT if self._context else None,
                )
            except OSError as error:
                reason = f"TLS failed: {error}"
                accepted.close()
            finally:
                stream.failed(reason)

        def give_up() -> None:
            nonlocal given_up
            given_up = True
            if (
                begun and task is not None
            ):  # A task that is cancelled before it begins would not close the stream.
                self._loop.cancel(task)

        task = self._loop.start(connect, f"arcp connection from {peer}")
        if self._context is not None:
            stream.accept(give_up)
