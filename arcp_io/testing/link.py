"""A connection in memory that can be slow, and be cut."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from arcp_io.drivers.loop import Loop
from arcp_io.drivers.memory import MemoryStream
from arcp_proto import SECOND

from .clock import ManualClock


@dataclass
class Line:
    """The state of all connections of one runtime."""

    clock: ManualClock
    latency: float = 0.0
    """Seconds of the clock for which written bytes are on their way."""
    up: bool = True
    """Whether a new connection can be made."""
    ends: list[SlowStream] = field(default_factory=list)
    """Both ends of each connection that may be open."""

    def pair(self, one: Loop, other: Loop, capacity: int) -> tuple[SlowStream, SlowStream]:
        """Return two connected ends, each on its own loop. Raises ConnectionRefusedError while down."""
        if not self.up:
            raise ConnectionRefusedError("the runtime cannot be reached now")
        ends = SlowStream.pair(one, other, capacity)
        for end in ends:
            end.line = self
        self.ends = [*self.open_ends(), *ends]
        return ends

    def open_ends(self) -> list[SlowStream]:
        """Return both ends of each open connection."""
        return [end for end in self.ends if not end.gone]

    def cut(self) -> int:
        """Cut every connection; return how many there were. Bytes on their way are lost."""
        ends, self.ends = self.open_ends(), []
        for end in ends:
            end.transport.ended("the connection was cut")
        return len(ends) // 2


class SlowStream(MemoryStream):
    """One end of a pair of ByteStreams whose bytes take the latency of their line."""

    line: Line

    def __init__(self, loop: Loop, capacity: int) -> None:
        super().__init__(loop, capacity)
        self._most = capacity
        self._on_way: deque[bytes | None] = deque()
        """Writes that have not arrived, in order; None is the end of the stream."""
        self._size = 0
        self._unfinished = False
        self.gone = False
        """Whether this end was closed."""

    def write(self, data: bytes) -> bool:
        self.line.clock.stir()
        if not self._on_way and not self.line.latency:
            return super().write(data)
        self._size += len(data)
        self._send(data)
        self._unfinished = self._size > self._most
        return not self._unfinished

    def end(self) -> None:
        if self._on_way:
            self._send(None)
        else:
            super().end()

    def close(self) -> None:
        self.gone = True
        super().close()

    abort = close

    def _send(self, data: bytes | None) -> None:
        self._on_way.append(data)
        self.line.clock.call_in(round(self.line.latency * SECOND), self._arrive)

    def _arrive(self) -> None:
        data = self._on_way.popleft()
        if data is None:
            super().end()
            return
        self._size -= len(data)
        finished = super().write(data)
        if self._unfinished and self._size <= self._most:
            self._unfinished = False
            if finished:
                self.transport.written()
