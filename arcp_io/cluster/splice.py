"""Splices: the bytes of a client's connection and of the connection to its owner, passed on as they come.

Flow control is that of TCP: while a stream has not taken what was written to it, the stream on the other side
is not read. So a splice holds at most `WINDOW` bytes and one read in each direction, however slow a side is.
A splice does not know where messages begin: it can cut a connection, and cannot say why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import anyio

from arcp_io.drivers.loop import AgentTask, Loop
from arcp_io.drivers.transport import ByteStream

WINDOW: Final = 64 * 1024
"""Unwritten bytes of a side at which the other side is not read."""
MAX_FIRST_BYTES: Final = 320 * 1024
"""Bytes that a client has sent before it is spliced: what a server takes before the welcome, and one read."""
LOOK_SEC: Final = 5.0
"""Seconds between two looks at all splices."""
STALLED_LOOKS: Final = 12
"""Looks without any progress of a write after which a splice is cut; a minute."""
ENDING_LOOKS: Final = 3
"""Looks after which a splice is cut that one side has ended and the other has not."""


class Side:
    """One of the two streams of a splice, and the receiver of its reports."""

    __slots__ = (
        "_eof_written",
        "_held",
        "_idle_looks",
        "_other",
        "_paused",
        "_splice",
        "_stream",
        "_writing",
        "eof_received",
        "unwritten",
    )

    _other: Side

    def __init__(self, splice: Splice) -> None:
        self.eof_received = False
        """Whether this side has ended its direction, or is closed."""
        self._splice = splice
        self._stream: ByteStream | None = None
        self._held: list[bytes] = []
        """The bytes for this side that wait for the write in progress, or for the stream."""
        self.unwritten = 0
        """The number of bytes for this side that are not written."""
        self._writing = True
        """Whether a write is in progress, or there is no stream yet."""
        self._paused = False
        self._eof_written = False
        """Whether our direction towards this side has ended."""
        self._idle_looks = 0
        """Looks since the last progress of a write."""

    def face(self, other: Side) -> None:
        """Exchange bytes with the other side."""
        self._other, other._other = other, self

    def take(self, stream: ByteStream, *, writing: bool, paused: bool) -> None:
        """Carry a stream from now on; `writing` says whether an earlier write is in progress."""
        self._stream = stream
        stream.transport = self
        self._paused = paused
        self._writing = writing
        if self._other._stream is None or self._other.unwritten >= WINDOW:
            self.pause()
        else:
            self.resume()
        if not writing:
            self.written()

    def write(self, data: bytes) -> None:
        """Write bytes, or hold them until the write in progress has finished."""
        if self._eof_written:
            return
        if self._writing or self._stream is None:
            self._held.append(data)
        elif self._stream.write(data):
            return
        else:
            self._writing = True
        self.unwritten += len(data)
        if self.unwritten >= WINDOW:
            self._other.pause()

    def look(self) -> bool:
        """Count a look, and return whether the write in progress takes too long."""
        self._idle_looks = self._idle_looks + 1 if self.unwritten and self._stream is not None else 0
        return self._idle_looks >= STALLED_LOOKS

    def abort(self) -> None:
        """Close the stream at once."""
        self._eof_written = True
        self._held.clear()
        if self._stream is not None:
            self._stream.abort()

    def close(self) -> None:
        """Close the stream in order; everything is written."""
        self._eof_written = True
        if self._stream is not None:
            self._stream.close()

    def give_up(self) -> None:
        """Note that this side takes and sends no more bytes."""
        self.eof_received = self._eof_written = True
        self._held.clear()
        self.unwritten, self._writing = 0, False

    # Called by the stream.

    def received(self, data: bytes) -> None:
        self._other.write(data)

    def written(self) -> None:
        if self._splice.over or self._stream is None:
            return
        held, self._held = self._held, []
        self.unwritten, self._idle_looks = 0, 0
        self._writing = False
        if held:
            data = held[0] if len(held) == 1 else b"".join(held)
            if not self._stream.write(data):
                self._writing, self.unwritten = True, len(data)
        if self.unwritten < WINDOW:
            self._other.resume()
        self.settle()

    def received_eof(self) -> bool:
        self.eof_received = True
        self._other.settle()
        return not self._splice.over

    def ended(self, reason: str) -> None:
        if self._splice.over:
            return
        if not (self.eof_received or self._eof_written):
            self._splice.abort()
        else:
            self.give_up()
            self._other.eof_received = True  # Its bytes have no destination.
            self._other.settle()

    # Helpers of the methods above.

    def settle(self) -> None:
        """End our direction when the other side has ended its own and all of its bytes are written."""
        if not self._other.eof_received or self._writing:
            return
        if not self._eof_written:
            self._eof_written = True
            if self._stream is not None:
                self._stream.end()
        if self.eof_received and self._other._eof_written:
            self._splice.close()

    def pause(self) -> None:
        """Stop reading from this side."""
        if not self._paused and not self.eof_received and self._stream is not None:
            self._paused = True
            self._stream.pause()

    def resume(self) -> None:
        """Resume reading from this side."""
        if self._paused and not self.eof_received and self._stream is not None:
            self._paused = False
            self._stream.resume()


class Splice:
    """Two streams whose bytes are exchanged: that of a client, and that of the owner of its shard.

    The owner may still be dialed when a splice begins: then the client is not read, and what it sent is held.
    """

    __slots__ = ("_ending_looks", "_on_over", "client", "epoch", "over", "owner", "shard", "token_id")

    def __init__(
        self, stream: ByteStream, first: bytes, on_over: Callable[[Splice], object], *, writing: bool
    ) -> None:
        """Take the stream of a client, and the bytes that it has sent since its upgrade.

        `writing` says whether a write is in progress. `on_over` is called once, at the end. Raises ValueError
        for more than MAX_FIRST_BYTES.
        """
        if len(first) > MAX_FIRST_BYTES:
            raise ValueError(f"a client has sent {len(first)} bytes before it is relayed")
        self.shard = -1
        self.epoch = 0
        """The epoch of the owner; 0 before it is known."""
        self.token_id = ""
        """The id of the bearer token that the gateway has verified; empty without one."""
        self.over = False
        self._on_over = on_over
        self._ending_looks = 0
        self.client, self.owner = Side(self), Side(self)
        self.client.face(self.owner)
        if first:
            self.owner.write(first)
        self.client.take(stream, writing=writing, paused=False)

    def join(self, stream: ByteStream, rest: bytes, shard: int, epoch: int, *, writing: bool) -> None:
        """Take the paused stream to the owner, and the bytes that it has sent already."""
        if self.over:
            stream.abort()
            return
        self.shard, self.epoch = shard, epoch
        if rest:
            self.client.write(rest)
        self.owner.take(stream, writing=writing, paused=True)

    def refuse(self, last: bytes) -> None:
        """End a splice without an owner: send the client its last bytes, and close its stream."""
        if not self.over:
            self.owner.give_up()
            self.client.write(last)
            self.client.settle()
            self.client.resume()

    def look(self) -> None:
        """Cut the splice if a side makes no progress, or does not end after the other one has."""
        if self.client.eof_received or self.owner.eof_received:
            self._ending_looks += 1
        if self.client.look() or self.owner.look() or self._ending_looks >= ENDING_LOOKS:
            self.abort()

    def abort(self) -> None:
        """Close both streams at once; harmless at the end."""
        if not self.over:
            self.over = True
            self.client.abort()
            self.owner.abort()
            self._on_over(self)

    def close(self) -> None:
        """Close both streams in order."""
        if not self.over:
            self.over = True
            self.client.close()
            self.owner.close()
            self._on_over(self)


class Splices:
    """All splices of a gateway."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._open: dict[Splice, None] = {}
        self._looking: AgentTask | None = None

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, stream: ByteStream, first: bytes, *, writing: bool = False) -> Splice:
        """Take the stream of a client from its receiver, and return the splice, which has no owner yet.

        `first` are the bytes that the client has sent since its upgrade; raises ValueError for too many.
        """
        splice = Splice(stream, first, self._forget, writing=writing)
        self._open[splice] = None
        if self._looking is None or self._looking.done():
            self._looking = self._loop.start(self._look_again, "arcp splices")
        return splice

    def cut(self, owned: Mapping[int, int]) -> None:
        """Cut every splice to an owner that is not the last one: `owned` has the epoch of each shard."""
        for splice in list(self._open):
            if splice.epoch and owned.get(splice.shard) != splice.epoch:
                splice.abort()

    def revoke(self, holds: Callable[[str], bool]) -> None:
        """Cut every splice whose bearer token is valid no longer, as `holds` tells of its id."""
        for splice in list(self._open):
            if splice.token_id and not holds(splice.token_id):
                splice.abort()

    def close(self) -> None:
        """Cut all splices."""
        for splice in list(self._open):
            splice.abort()

    def look(self) -> None:
        """Cut the splices that make no progress."""
        for splice in list(self._open):
            splice.look()

    async def _look_again(self) -> None:
        while self._open:
            await anyio.sleep(LOOK_SEC)
            self.look()

    def _forget(self, splice: Splice) -> None:
        self._open.pop(splice, None)
