"""A link, at the runtime: the pipes of an agent's process that an engine has started elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from arcp_io.drivers.transport import ByteStream, Receiver

from .frames import MAX_DATA, MAX_HELLO, SILENT_BEATS, Ended, Hello, Kind, Splitter, framed

if TYPE_CHECKING:
    from .link_listener import LinkListener

MAX_ADMITTING: Final = 2
"""Heartbeats within which the first frame has to be complete."""


class Link:
    """One connection of a worker: the receiver of its socket, and, once admitted, a stream for a Channel.

    The socket is paused whenever the channel pauses, so that an agent waits for its runtime.
    """

    def __init__(self, listener: LinkListener, stream: ByteStream, peer: str) -> None:
        self.peer = peer
        self.host = peer.rpartition(":")[0]
        self.transport: Receiver = _Nothing()
        self.report: Ended | None = None
        """The last message of the worker, once it has come."""
        self.gone = ""
        """Why the link is over; empty before."""
        self.over = listener.loop.event()
        """Set when nothing more comes: the link is gone, or the agent's process has ended."""
        self._listener = listener
        self._stream = stream
        self._splitter = Splitter(MAX_HELLO)
        self._admitted = False
        self._refused = False
        self._silent = 0
        """Heartbeats since the last byte, while the link is read."""
        self._age = 0
        """Heartbeats since the connection came."""
        self._paused = False
        self._closed = False
        """Whether the channel reads and writes no longer."""
        self._busy = False
        """Whether a write to the socket is not finished."""
        self._queue: list[bytes] = []
        """Frames behind the write in progress."""
        self._owed = False
        """Whether the channel waits for the end of its write."""

    def order(self, order: bytes) -> None:
        """Have the worker start the agent."""
        self._put(framed(Kind.ORDER, order))

    def kill(self) -> None:
        """Have the worker kill the agent's process with everything that it has started."""
        self._read_to_the_end()
        self._put(framed(Kind.KILL))

    def cut(self, reason: str) -> None:
        """Close the connection at once; the worker then kills the agent. Harmless on a closed one."""
        if not self.gone:
            self._lose(reason)

    # As the stream of a channel.

    def attach(self, transport: Receiver) -> None:
        """Report to a receiver from now on."""
        self.transport = transport
        if self.gone:
            transport.ended(self.gone)

    def write(self, data: bytes) -> bool:
        written = self._put(framed(Kind.DATA, data))
        self._owed = not written
        return written

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._stream.pause()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._silent = 0
            self._stream.resume()

    def end(self) -> None:
        self.abort()

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close the agent's pipes, so that its process ends by itself; read on for its end."""
        if not self._closed:
            self._read_to_the_end()
            self._put(framed(Kind.CLOSE))

    # Called by the listener.

    def beat(self) -> None:
        """Send a sign of life, and give up a worker that has sent none for long."""
        self._age += 1
        if not self._admitted:
            if self._age > MAX_ADMITTING:
                self._lose("its ticket has not come in time")
            return
        if not self._busy:
            self._put(framed(Kind.BEAT))
        if not self._paused:
            self._silent += 1
            if self._silent > SILENT_BEATS:
                self._lose(f"the link was silent for {SILENT_BEATS * self._listener.heartbeat:g} s")

    # Called by the socket's stream.

    def received(self, data: bytes) -> None:
        self._silent = 0
        try:
            for kind, payload in self._splitter.split(data):
                if self.gone or self._refused:
                    return
                self._take(kind, payload)
        except (ValueError, msgspec.DecodeError) as error:
            self._listener.warn(self.peer, str(error))
            self.cut(f"the link was broken: {error}")

    def written(self) -> None:
        self._busy = False
        if self._queue and not self.gone:
            queue, self._queue = self._queue, []
            self._busy = not self._stream.write(b"".join(queue))
        if not self._busy and self._owed:
            self._owed = False
            self.transport.written()

    def received_eof(self) -> bool:
        self.cut("the worker has closed the link")
        return False

    def ended(self, reason: str) -> None:
        self.cut(f"the link has ended: {reason}")

    # Helpers of the methods above.

    def _take(self, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.HELLO if not self._admitted:
                self._admit(msgspec.json.decode(payload, type=Hello))
            case _ if not self._admitted:
                raise ValueError("a frame came before the ticket")
            case Kind.DATA if not self._closed:
                self.transport.received(payload)
            case Kind.EOF if not self._closed:
                self.transport.received_eof()
            case Kind.ENDED if self.report is None:
                self.report = msgspec.json.decode(payload, type=Ended)
                self.over.set()
            case Kind.DATA | Kind.EOF | Kind.BEAT:
                pass
            case _:
                raise ValueError("a frame is not one of a worker's")

    def _admit(self, hello: Hello) -> None:
        refusal = self._listener.admitted(self, hello)
        if refusal:
            self._listener.warn(self.peer, refusal)
            self._put(framed(Kind.REFUSED, refusal.encode()))
            self._refused = True
            self._stream.close()
        else:
            self._admitted = True
            self._splitter.limit = MAX_DATA

    def _put(self, frame: bytes) -> bool:
        if self.gone:
            return True
        if self._busy:
            self._queue.append(frame)
            return False
        self._busy = not self._stream.write(frame)
        return not self._busy

    def _read_to_the_end(self) -> None:
        self._closed = True
        self.resume()

    def _lose(self, reason: str) -> None:
        self.gone = reason
        self._queue.clear()
        self._listener.lost(self)
        self._stream.abort()
        self.over.set()
        self.transport.ended(reason)


class _Nothing:
    """The receiver of a link that has no channel yet."""

    def received(self, data: bytes) -> None:
        """Refuse bytes: the worker sends none before its order."""
        raise ValueError("the agent's process has begun without an order")

    def written(self) -> None:
        """Do nothing: no channel writes."""

    def received_eof(self) -> bool:
        """Do nothing: the link tells the channel later."""
        return False

    def ended(self, reason: str) -> None:
        """Do nothing: the link tells the channel later."""
