"""A connection over a socket of whole messages, such as an ASGI server gives: back-pressure and closing.

Such a socket frames messages itself, and its calls wait. One task reads, always, since only reading shows
that the peer is gone; one task writes. They end together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from arcp_proto import CloseCode, Connection, Phase

if TYPE_CHECKING:
    from .loop import Event
    from .pump import Pump

READ_AHEAD: Final = 64 * 1024
"""Bytes of messages that may wait for the machine while more are read; then one message more waits."""
READ_AHEAD_MESSAGES: Final = 64
"""Messages that may wait for the machine while more are read."""
CLOSING_SEC: Final = 1.0
"""Seconds for the close frame after an abort, when the socket may take nothing."""
LOSS_SEC: Final = 5.0
"""Seconds after a failed send until the connection is lost, unless reading shows it before."""

_DEAF: Final = (Phase.CLOSING, Phase.CLOSED)


class MessageSocket(Protocol):
    """A socket that frames messages; one task calls `receive`, another one `send` and `close`."""

    async def receive(self) -> bytes | None:
        """Wait for the next message and return it; None when the peer is gone, which is then the last."""

    async def send(self, message: bytes) -> None:
        """Send a message of UTF-8; wait while the peer takes none.

        Raises any Exception when it cannot be sent; some sockets drop it instead.
        """

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, which is the last call of all."""


class MessageTransport:
    """Carries one connection over one socket of messages: a Transport for the pump.

    `connection` is that of the pump, and `run` carries it.
    """

    def __init__(self, pump: Pump, connection: Connection, socket: MessageSocket) -> None:
        """Attach to the pump; call `run` next."""
        self.connection = connection
        self._pump = pump
        self._socket = socket
        self._scope: anyio.CancelScope | None = None
        """The scope of both tasks, while they run."""
        self._wake: Event = pump.loop.event()
        """Set when there may be envelopes to send, or the connection closes."""
        self._room: Event | None = None
        """Set when more may be read; None unless reading waits."""
        self._waiting: deque[bytes] = deque()
        """Messages that the machine does not take yet."""
        self._waiting_bytes = 0
        self._writing = False
        """Whether envelopes are being sent."""
        self._blocked = False
        """Whether the connection became writable meanwhile, as reported to the core."""
        self._closing: tuple[int, str] | None = None
        """The code and the reason of the close frame, once the connection closes."""
        self._finished = False
        """Whether the close frame was sent, or the peer is gone: then nothing more is sent."""
        self._ended = ""
        """Why the connection is over; empty before."""
        pump.attach(connection, self)

    async def run(self) -> None:
        """Carry the connection until it is over.

        When this is cancelled, by a server that stops, the peer gets the close code 1012, and may resume.
        """
        try:
            with anyio.CancelScope() as self._scope:
                if self._ended:
                    self._scope.cancel()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    await self._read()
                    tasks.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            self._closing = (CloseCode.SERVICE_RESTART, "the server stops")
            raise
        finally:
            self._pump.lost(self.connection, self._ended or "the server stops")
            if not self._finished:
                code, reason = self._closing or (CloseCode.GOING_AWAY, "")
                with anyio.move_on_after(CLOSING_SEC, shield=True), suppress(Exception):
                    await self._socket.close(code, reason)

    # Called by the pump.

    def flush(self) -> None:
        if not self._writing:
            self._wake.set()
        elif not self._blocked:
            self._blocked = True
            self._pump.blocked(self.connection)

    def close(self, code: int, reason: str, *, abort: bool) -> None:
        if self._closing is None:
            self._closing = (code, reason)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._read_more()
            self._wake.set()
        if abort:
            self._leave(reason or "aborted")

    def read_on(self) -> None:
        while self._waiting and not self._ended:
            message = self._waiting.popleft()
            if not self._hand_over(message):
                self._waiting.appendleft(message)
                break
            self._waiting_bytes = sum(map(len, self._waiting))
        self._read_more()

    # The two tasks.

    async def _read(self) -> None:
        while (message := await self._receive()) is not None:
            if self._closing is not None:
                continue
            if self._waiting or not self._hand_over(message):
                self._waiting.append(message)
                self._waiting_bytes += len(message)
                while self._is_full():
                    self._room = self._pump.loop.event()
                    await self._room.wait()
        self._finished = True

    async def _receive(self) -> bytes | None:
        """Return the next message, or None at the end."""
        try:
            message = await self._socket.receive()
        except Exception as error:
            self._ended = self._ended or f"reading has failed: {_told(error)}"
            return None
        if message is None:
            self._ended = self._ended or "the peer is gone"
        return message

    async def _write(self) -> None:
        loop = self._pump.loop
        try:
            while self._closing is None:
                await self._wake.wait()
                self._wake = loop.event()
                self._writing = True
                await self._send_all()
                self._writing = False
                if self._blocked:
                    self._blocked = False
                    self._pump.drained(self.connection)
            await self._send_all()
            self._finished = True
            await self._socket.close(*self._closing)
        except Exception as error:
            self._ended = self._ended or f"sending has failed: {_told(error)}"
            await anyio.sleep(LOSS_SEC)  # Messages that came before the loss are read first.
        self._leave("the connection was closed")

    async def _send_all(self) -> None:
        """Send everything that can be pulled, one batch after the other."""
        connection, pump = self.connection, self._pump
        limits = pump.machine.limits
        while True:
            envelopes = connection.envelopes_to_send()
            for envelope in envelopes:
                await self._socket.send(envelope)
            if self._waiting:
                pump.advanced(connection)
            if connection.overrun and connection.phase not in _DEAF:
                pump.overran(connection)
            elif not envelopes:
                return
            elif len(envelopes) >= limits.max_pull_envelopes or _size(envelopes) >= limits.max_pull_bytes:
                await pump.loop.checkpoint()  # Sockets do not let other tasks run while they take all.

    # Helpers of the methods above.

    def _hand_over(self, message: bytes) -> bool:
        """Pass a message to the machine; return whether it was taken."""
        connection = self.connection
        if len(message) > connection.message_limit and connection.phase not in _DEAF:
            self._pump.too_large(connection)
            return True
        return self._pump.receive(connection, (message,)) == 1

    def _is_full(self) -> bool:
        return self._waiting_bytes > READ_AHEAD or len(self._waiting) > READ_AHEAD_MESSAGES

    def _read_more(self) -> None:
        if self._room is not None and not self._is_full():
            self._room.set()
            self._room = None

    def _leave(self, reason: str) -> None:
        self._ended = self._ended or reason
        if self._scope is not None:
            self._scope.cancel()


def _size(messages: Sequence[bytes]) -> int:
    return sum(map(len, messages))


def _told(error: Exception) -> str:
    """Return an error as text; some have none but their class."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
