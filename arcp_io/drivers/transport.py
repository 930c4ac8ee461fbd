"""A connection over a stream of bytes, WebSocket or lines: framing, back-pressure and closing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from arcp_proto import Connection, LocalProtocolError, Phase

if TYPE_CHECKING:
    from .pump import Pump


class Receiver(Protocol):
    """Takes the reports of a stream, each of them once the call that caused it has returned."""

    def received(self, data: bytes) -> None:
        """Take received bytes."""

    def written(self) -> None:
        """Note that the last write has finished."""

    def received_eof(self) -> bool:
        """Note that the peer has ended its direction, and return whether a socket stays open for writing.

        If not, the receiver closes the stream; TLS does not stay open.
        """

    def ended(self, reason: str) -> None:
        """Note that the stream is closed or broken; it may be called again."""


class ByteStream(Protocol):
    """The native half: a socket, TLS over one, or two pipes. No method blocks, or calls back at once."""

    transport: Receiver
    """The receiver of the reports of this stream, which may be replaced."""

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


_DEAF: Final = (Phase.CLOSING, Phase.CLOSED)
_EARLY: Final = (Phase.AWAITING_HELLO, Phase.AUTHENTICATING)
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


class Stage(Enum):
    """The stage of a transport between its handshake and its end.

      OPENING ---------> OPEN ---------> CLOSING ---------> CLOSE_SENT ---------> ENDED
         |  |   framing         `close`     ^    all is sent             finished   ^
         |  |                               |                                       |
         |  '---------- `close` ------------'                                       |
         '------------------ the peer does not agree on the framing ----------------'

    Every stage goes to GONE: at an abort, when the peer ends the framing or the stream, and at the end.
    """

    OPENING = "opening"
    """Messages cannot be framed yet."""
    OPEN = "open"
    """Messages go both ways."""
    CLOSING = "closing"
    """The last envelopes are sent before the end of the framing."""
    CLOSE_SENT = "close sent"
    """The end of the framing is sent; the framing may wait for that of the peer."""
    ENDED = "ended"
    """Our direction of the stream is ended; the peer ends its own."""
    GONE = "gone"
    """The stream is over, and the connection lost."""


class Writing(Enum):
    """The state of the writes of a transport, which says if it can take the next batch.

      IDLE --------------------> BUSY
       | ^    a write begins       |
       | '---- it finishes --------|
       |                           | more to send
       |      a write begins       v
      DRAINED ----------------> BLOCKED
       ^                           |
       '------ it finishes --------'

    DRAINED goes to IDLE when it is reported. A write is finished when the stream has taken all of it, and
    nothing is left to pull.
    """

    IDLE = "idle"
    """No write is in progress."""
    BUSY = "busy"
    """A write is not finished."""
    BLOCKED = "blocked"
    """The connection became writable during a write, which was reported to the core."""
    DRAINED = "drained"
    """The write of a blocked connection is finished, which is not reported yet."""


_OPENING: Final = Stage.OPENING
_OPEN: Final = Stage.OPEN
_CLOSING: Final = Stage.CLOSING
_ENDED: Final = Stage.ENDED
_GONE: Final = Stage.GONE
_IDLE: Final = Writing.IDLE
_BUSY: Final = Writing.BUSY
_BLOCKED: Final = Writing.BLOCKED
_DRAINED: Final = Writing.DRAINED


class StreamTransport:
    """Carries one connection over one stream: a Transport for the pump, and the receiver of the stream's
    reports.
    """

    __slots__ = (
        "_close_code",
        "_codec",
        "_more",
        "_on_gone",
        "_on_ready",
        "_paused",
        "_pump",
        "_replay",
        "_reported",
        "_stage",
        "_stream",
        "_undelivered",
        "_writing",
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
        *,
        movable: bool = False,
    ) -> None:
        """Attach to the pump. `on_ready` is called when messages can be framed or never will be, `on_gone`
        at the end; each once. A `movable` transport keeps messages until the welcome, for `move`.
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
        self._replay: list[bytes] | None = [] if movable else None
        """The messages that the pump has taken, while the transport can be moved."""
        self._reported = 0
        """Bytes of an incomplete message, as reported to the core."""
        self._paused = False
        """Whether reading is paused."""
        self._more = True
        """Whether there may be more to pull; False when the last batch could have been larger."""
        self._stage = _OPENING
        self._writing = _IDLE
        self._close_code = (0, "")
        """The code and reason of the close, from CLOSING on."""
        pump.attach(connection, self)
        if codec.open:
            self._open()
        else:
            self._progress()

    def move(self, pump: Pump, connection: Connection) -> None:
        """Carry a connection of another pump from now on, which gets every message so far.

        The former connection is lost, at its own pump. Raises LocalProtocolError after the welcome, at the
        end, and for a transport that is not movable.
        """
        replay, former = self._to_move(), self._pump
        messages, self._undelivered, self._replay = replay + self._undelivered, [], None
        before, self._pump, self.connection = self.connection, pump, connection
        former.lost(before, "the connection is carried on elsewhere")
        pump.attach(connection, self)
        if self._writing is _BLOCKED:
            self._writing = _BUSY
        self._reported = 0
        if messages:
            self._deliver(messages)
        if self._codec.pending:
            self._look_at_pending(self._codec.pending)
        if not (self.gone or self._undelivered or pump.awaits(connection)):
            self._resume()

    # Called by the pump.

    def release(self) -> tuple[ByteStream, bool]:
        """Give the stream to another receiver, and lose the connection.

        Returns the stream, and whether a write is in progress. Call it at a turn of its own, not within a
        report. Raises LocalProtocolError as `move`.
        """
        self._to_move()
        self._stage, self.gone, self._replay = _GONE, "the connection is carried on elsewhere", None
        self._undelivered.clear()
        if self._on_gone is not None:
            self._on_gone()
        self._pump.lost(self.connection, self.gone)
        return self._stream, self._busy

    def flush(self) -> None:
        if self._stage is _OPENING or self._stage is _GONE:
            return
        if self._writing is _BUSY:
            self._writing = _BLOCKED
            self._pump.blocked(self.connection)
        elif self._writing is not _BLOCKED:
            self._advance()

    def close(self, code: int, reason: str, *, abort: bool) -> None:
        if abort:
            self._leave(reason or "aborted", in_order=False)
        elif self._stage is _OPENING or self._stage is _OPEN:
            self._stage = _CLOSING
            self._close_code = (code, reason)
            self._more = True
            self._undelivered.clear()
            self._resume()
            if not self._busy:
                self._settle()

    def read_on(self) -> None:
        messages, self._undelivered = self._undelivered, []
        if self._stage is _GONE:
            return
        if messages:
            self._deliver(messages)
        if not self._undelivered:
            self._resume()

    # Called by the stream.

    def received(self, data: bytes) -> None:
        """Take received bytes."""
        if self._stage is _GONE:
            return
        if self._pump.door is not None and self._pump.postponed(partial(self._receive_late, data)):
            self._pause()
            return
        codec = self._codec
        codec.limit = self.connection.message_limit
        messages = codec.receive(data)
        if self._stage is _OPENING and codec.open:
            self._open()
        if messages:
            self._deliver(messages)
        if codec.controls:
            self._count_controls()
        pending = codec.pending
        if pending or self._reported:
            self._look_at_pending(pending)
        if codec.too_large and self.connection.phase not in _DEAF:
            self._pump.too_large(self.connection)
        if not self.gone:
            self._progress()

    def written(self) -> None:
        """Note that the last write has finished."""
        if not self.gone and (self._pump.door is None or not self._pump.postponed(self.written)):
            self._advance()

    def received_eof(self) -> bool:
        """Note that the peer's direction has ended."""
        self.ended("the peer ended the stream")
        return False

    def ended(self, reason: str) -> None:
        """Note that the stream is over."""
        pump = self._pump
        if not self.gone and (pump.door is None or not pump.postponed(partial(self.ended, reason))):
            self._codec.receive_eof()
            self._leave(reason, in_order=True)

    # Helpers of the methods above.

    def _receive_late(self, data: bytes) -> None:
        """Take bytes that have waited at the door, and read on if nothing else holds that up."""
        self.received(data)
        if not self._pump.awaits(self.connection):
            self.read_on()

    def _deliver(self, messages: list[bytes]) -> None:
        if self._undelivered:
            self._undelivered += messages
            return
        taken = self._pump.receive(self.connection, messages)
        if self._replay is not None:
            self._keep(messages[:taken])
        if taken < len(messages):
            self._undelivered = messages[taken:]
            self._pause()

    def _to_move(self) -> list[bytes]:
        """Return the messages that the pump has taken, before a move; raises LocalProtocolError."""
        if self._replay is None or self._stage is not _OPEN or self.connection.phase not in _EARLY:
            raise LocalProtocolError("the connection cannot be moved: it is welcomed, ends, or did not begin")
        return self._replay

    def _keep(self, messages: list[bytes]) -> None:
        """Keep messages for a move, as long as one is possible."""
        if self._replay is not None:
            self._replay = [*self._replay, *messages] if self.connection.phase in _EARLY else None

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
        self._stage = _OPEN
        self._ready()
        self._advance()

    def _ready(self) -> None:
        if self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready()

    @property
    def _over(self) -> bool:
        """Whether the peer has ended the framing, by a close frame or an error."""
        return self._stage is _OPEN and not self._codec.open

    @property
    def _busy(self) -> bool:
        """Whether a write is not finished."""
        return self._writing is _BUSY or self._writing is _BLOCKED

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
            self._begin_write()

    def _begin_write(self) -> None:
        """Note that a write is not finished; one that follows a blocked one blocks as well."""
        self._writing = _BLOCKED if self._writing is _BLOCKED or self._writing is _DRAINED else _BUSY

    def _settle(self) -> None:
        """Choose the next step after everything so far is written."""
        if self._writing is _BUSY:
            self._writing = _IDLE
        elif self._writing is _BLOCKED:
            self._writing = _DRAINED
        connection, codec = self.connection, self._codec
        if connection.overrun and codec.open and connection.phase not in _DEAF:
            self._pump.overran(connection)
        elif self._more and codec.open and connection.pending:
            self._begin_write()
            self._pump.loop.call_soon(self.written)
        elif self._stage is _CLOSING:
            self._stage = Stage.CLOSE_SENT
            codec.close(*self._close_code)
            self._write(codec.data_to_send())
        else:
            if self._writing is _DRAINED:
                self._writing = _IDLE
                self._pump.drained(connection)
            if self._writing is _IDLE and not self.gone:
                self._end()

    def _end(self) -> None:
        """End the stream if nothing more will be written."""
        if self._over:
            self._leave("the peer closed the connection", in_order=True)
        elif self._codec.finished and self._stage is not _ENDED:
            self._stage = _ENDED
            self._stream.end()

    def _leave(self, reason: str, *, in_order: bool) -> None:
        if self._stage is _GONE:
            return
        self._stage, self.gone = _GONE, reason or "the stream is over"
        if in_order and not self._busy:
            self._stream.close()
        else:
            self._stream.abort()
        self._undelivered.clear()
        self._ready()
        if self._on_gone is not None:
            self._on_gone()
        self._pump.lost(self.connection, reason)
