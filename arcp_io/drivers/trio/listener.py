"""Accepting connections on trio."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import trio

from arcp_io.drivers.loop import Accepted
from arcp_io.drivers.sockets import ACCEPTED_AT_ONCE, RETRY_DELAY, address_text

from .streams import SocketStream
from .tls import TlsStream

if TYPE_CHECKING:
    from .loop import TrioLoop


class Listener:
    """A Listening: one task accepts all waiting connections."""

    def __init__(
        self, loop: TrioLoop, listener: socket.socket, context: ssl.SSLContext | None, accepted: Accepted
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._context = context
        self._accepted = accepted
        loop.start(self._run, "arcp listener")

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            trio.lowlevel.notify_closing(self._listener)
            self._listener.close()

    async def _run(self) -> None:
        try:
            while self._listener.fileno() >= 0:
                await trio.lowlevel.wait_readable(self._listener)
                if not self._accept():
                    await trio.sleep(RETRY_DELAY)
        except trio.ClosedResourceError:
            pass
        finally:
            self.close()

    def _accept(self) -> bool:
        """Accept waiting connections.

        Returns False after a failure, for example because no descriptor is free.
        """
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError:
                return False
            self._start(accepted, address_text(address))
        return True

    def _start(self, accepted: socket.socket, peer: str) -> None:
        try:
            if self._context is None:
                SocketStream(self._loop, accepted, lambda stream: self._accepted(stream, peer))
            else:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
                tls = trio.SSLStream(stream, self._context, server_side=True)
                TlsStream(self._loop, tls, lambda stream: self._accepted(stream, peer))
        except BaseException:
            accepted.close()
            raise
