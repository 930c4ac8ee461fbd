"""A connection over a stream of bytes, WebSocket or lines: framing, back-pressure and closing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from arcp_proto import Connection, Phase

if TYPE_CHECKING:
    from .pump import Pump


class ByteStream(Protocol):
    """The native half: a socket, TLS over one, or two pipes. No method blocks, or calls back at once."""

    def write(self, data: bytes) -> bool:
        """Take all bytes; return whether they are written.

        If not, `written` is called later, before the next write.
        """

    def pause(self) -> None:
        """Stop reading; bytes may still come in."""

    def resume(self) -> None:
        """Resume reading."""

    def end(self) -> None:
        """End our direction after the last write. A socket continues to read, other streams are closed."""

    def close(self) -> None:
        """Close in order after the last write."""

    def abort(self) -> None:
        """Close at once; harmless on a closed stream."""


STEP: Final = 64 * 1024
"""Bytes of an incomplete message after which its size is reported again."""


class Codec(Protocol):
    """The framing of one connection, without I/O (see `websocket`)."""

    limit: int
    too_large: bool
    controls: int
    pending: int
    finished: bool
    failure: str | None

    @property
    def open(self) -> bool:
        """Whether messages can be framed."""

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes; return the messages they complete."""

    def receive_eof(self) -> None:
        """Note that the peer's direction has ended."""

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return messages as the bytes to send."""

    def close(self, code: int, reason: str) -> None:
        """Send the end of the framing."""

    def data_to_send(self) -> bytes:
        """Return the bytes that the framing protocol itself has to send."""


class StreamTransport:
    """Carries one connection over one stream: a Transport for the pump, and the receiver of the stream's
    reports.

    It is busy from a write that the stream did not take at once, or a batch that left more to pull, until
    nothing waits; becoming writable while it is busy blocks a connection.
    """

    __slots__ = (
        "_blocked",
        "_busy",
        "_close_sent",
        "_closing",
        "_codec",
        "_ended",
        "_more",
        "_on_gone",
        "_on_ready",
        "_opened",
        "_overran",
        "_paused",
        "_pump",
        "_refused",
        "_reported",
        "_stream",
        "_undelivered",
        "connection",
        "gone",
    )

    def __init__(
        self,
        pump: Pump,
        connection: Connection,
        codec: Codec,
        stream: ByteStream,
        on_ready: Callable[[], None] | None = None,
        on_gone: Callable[[], None] | None = None,
    ) -> None:
        """Attach to the pump. `on_ready` is called when messages can be framed or never will be, `on_gone`
        at the end; each once.
        """
        self.connection = connection
        self.gone = ""
        """Why the stream is over; empty before."""
        self._pump = pump
        self._codec = codec
        self._stream = stream
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._undelivered: list[bytes] = []
        self._reported = 0
        """Bytes of an incomplete message, as reported to the core."""
        self._paused = False
        """Whether reading is paused."""
        self._opened = False
        self._busy = self._blocked = False
        self._more = True
        """Whether there may be more to pull; False when the last batch could have been larger."""
        self._refused = self._overran = False
        self._closing: tuple[int, str] | None = None
        self._close_sent = self._ended = False
        pump.attach(connection, self)
        if codec.open:
            self._open()
        else:
            self._progress()

    # Called by the pump.

    def flush(self) -> None:
        if self.gone or not self._opened:
            return
        if not self._busy:
            self._advance()
        elif not self._blocked:
            self._blocked = True
            self._pump.blocked(self.connection)

    def close(self, code: int, reason: str, *, abort: bool) -> None:
        if abort:
            self._leave(reason or "aborted", in_order=False)
        elif not self.gone and self._closing is None:
            self._closing = (code, reason)
            self._more = True
            self._undelivered.clear()
            self._resume()
            if not self._busy:
                self._settle()

    def read_on(self) -> None:
        messages, self._undelivered = self._undelivered, []
        if self.gone:
            return
        if messages:
            self._deliver(messages)
        if not self._undelivered:
            self._resume()

    # Called by the stream.

    def received(self, data: bytes) -> None:
        """Take received bytes."""
        if self.gone:
            return
        codec = self._codec
        codec.limit = self.connection.message_limit
        messages = codec.receive(data)
        if codec.open and not self._opened:
            self._open()
        if messages:
            self._deliver(messages)
        if codec.controls:
            self._count_controls()
        pending = codec.pending
        if pending or self._reported:
            self._look_at_pending(pending)
        if codec.too_large and not self._refused:
            self._refused = True
            self._pump.too_large(self.connection)
        if not self.gone:
            self._progress()

    def written(self) -> None:
        """Note that the last write has finished."""
        if not self.gone:
            self._advance()

    def ended(self, reason: str) -> None:
        """Note that the peer's direction has ended, or the stream is broken."""
        if not self.gone:
            self._codec.receive_eof()
            self._leave(reason, in_order=True)

    # Helpers of the methods above.

    def _deliver(self, messages: list[bytes]) -> None:
        if self._undelivered:
            self._undelivered += messages
            return
        taken = self._pump.receive(self.connection, messages)
        if taken < len(messages):
            self._undelivered = messages[taken:]
            self._pause()

    def _look_at_pending(self, pending: int) -> None:
        """Report the size of an incomplete message: when it begins or ends, and as it grows."""
        told = self._reported
        if not self.gone and (not pending or not told or abs(pending - told) >= STEP):
            self._reported = pending
            self._pump.pending(self.connection, pending)

    def _count_controls(self) -> None:
        """Report frames that carry no message; stop reading if the connection is not read."""
        count = self._codec.controls
        if self.connection.phase is Phase.OPEN:
            self._codec.controls = 0  # Before the welcome their number accumulates.
        if not self._pump.control_frames(self.connection, count) and not self.gone:
            self._pause()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._stream.pause()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._stream.resume()

    def _open(self) -> None:
        self._opened = True
        self._ready()
        self._advance()

    def _ready(self) -> None:
        if self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready()

    @property
    def _over(self) -> bool:
        """Whether the peer has ended the framing, by a close frame or an error."""
        return self._opened and not self._codec.open and self._closing is None

    def _progress(self) -> None:
        """Send the codec's own bytes after it has taken input."""
        codec = self._codec
        if not self._busy:
            data = codec.data_to_send()
            if data or codec.finished or self._over:
                self._write(data)
        elif self._over:
            self._leave("the peer closed the connection without reading", in_order=False)
        if codec.failure is not None:
            self._ready()

    def _advance(self) -> None:
        """Write the codec's own bytes, and one batch."""
        codec = self._codec
        data = codec.data_to_send()
        if codec.open and (envelopes := self.connection.envelopes_to_send()):
            framed = codec.frame(envelopes)
            data = data + framed if data else framed
            limits = self._pump.machine.limits
            self._more = len(envelopes) >= limits.max_pull_envelopes or len(framed) >= limits.max_pull_bytes
        self._write(data)
        if self._undelivered:
            self._pump.advanced(self.connection)

    def _write(self, data: bytes) -> None:
        if not data or self._stream.write(data):
            self._settle()
        else:
            self._busy = True

    def _settle(self) -> None:
        """Choose the next step after everything so far is written."""
        self._busy = False
        connection, codec = self.connection, self._codec
        if connection.overrun and not self._overran and codec.open:
            self._overran = True
            self._pump.overran(connection)
        elif self._more and codec.open and connection.pending:
            self._busy = True
            self._pump.loop.call_soon(self.written)
        elif self._closing is not None and not self._close_sent:
            self._close_sent = True
            codec.close(*self._closing)
            self._write(codec.data_to_send())
        else:
            if self._blocked:
                self._blocked = False
                self._pump.drained(connection)
            if not self._busy and not self.gone:
                self._end()

    def _end(self) -> None:
        """End the stream if nothing more will be written."""
        if self._over:
            self._leave("the peer closed the connection", in_order=True)
        elif self._codec.finished and not self._ended:
            self._ended = True
            self._stream.end()

    def _leave(self, reason: str, *, in_order: bool) -> None:
        if self.gone:
            return
        self.gone = reason
        if in_order and not self._busy:
            self._stream.close()
        else:
            self._stream.abort()
        self._undelivered.clear()
        self._ready()
        if self._on_gone is not None:
            self._on_gone()
        self._pump.lost(self.connection, reason)
