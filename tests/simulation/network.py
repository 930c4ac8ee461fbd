"""The network between a client and the runtime: it keeps order, but cuts bytes anywhere, delays, stalls
and resets."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from arcp_proto.ids import MILLISECOND

if TYPE_CHECKING:
    from .world import World


class Socket(Protocol):
    """One end of a link, which receives what comes in."""

    def takes(self) -> bool:
        """Return whether this end reads."""

    def receive(self, data: bytes) -> None:
        """Receive a message, or bytes that are cut anywhere."""

    def ended(self, reason: str) -> None:
        """Learn that the other end has closed its direction, or that the link was reset."""

    def written(self) -> None:
        """Learn that the buffer has room again."""


class Pipe:
    """One direction of a link."""

    __slots__ = (
        "_due",
        "_link",
        "_queue",
        "_scheduled",
        "_size",
        "busy",
        "closing",
        "lines",
        "reader",
        "stalled",
        "waiting",
        "writer",
    )

    def __init__(self, link: Link, lines: bool) -> None:
        self.lines = lines
        self.busy = False
        """The last write has not finished."""
        self.stalled = False
        self.closing = False
        """The writer has closed this direction."""
        self.waiting = False
        """Data is there, but the reader does not read."""
        self.reader: Socket | None = None
        self.writer: Socket | None = None
        self._link = link
        self._queue: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._due = 0
        self._scheduled = False

    def write(self, parts: list[bytes]) -> None:
        """Write all parts; `busy` until the buffer has room again."""
        world = self._link.world
        self._due = max(self._due, world.now + world.latency())
        if self.lines:
            parts = [b"".join(parts)]
        for part in parts:
            self._queue.append((self._due, part))
            self._size += len(part)
        if self._size > world.options.buffer and not world.healed:
            self.busy = True
        self._schedule()

    def end(self) -> None:
        """Close this direction: the reader learns of it behind all data that is under way."""
        if not self.closing:
            self.closing = True
            self._due = max(self._due, self._link.world.now + self._link.world.latency())
            self._schedule()

    def stall(self, stalled: bool) -> None:
        """Stop the delivery of data, or resume it."""
        self.stalled = stalled
        if not stalled:
            self._schedule()

    def free(self) -> None:
        """Make room for all data in the buffer."""
        self.busy = False
        if self.writer is not None and not self._link.over:
            self.writer.written()

    def read_on(self) -> None:
        """Deliver the data that waited until its reader reads again."""
        if self.waiting:
            self.waiting = False
            self._schedule()

    def keep_back(self, data: bytes, most: int) -> bytes:
        """Return the first lines of the data; the others are delivered when the reader is done with these."""
        lines = data.splitlines(keepends=True)
        rest = b"".join(lines[most:])
        if rest:
            self._queue.appendleft((self._link.world.now, rest))
            self._size += len(rest)
            self._schedule()
        return b"".join(lines[:most])

    def drop(self) -> None:
        """Lose all data that is under way."""
        self._queue.clear()
        self._size = 0

    def _schedule(self) -> None:
        if self._scheduled or self.stalled or self.waiting or not (self._queue or self.closing):
            return
        self._scheduled = True
        world = self._link.world
        world.at(max(world.now, self._queue[0][0] if self._queue else self._due), self._arrive)

    def _arrive(self) -> None:
        self._scheduled = False
        reader, link = self.reader, self._link
        if link.over or self.stalled or reader is None:
            return
        if self.lines:
            self._arrive_bytes(reader)
        else:
            while self._queue and self._queue[0][0] <= link.world.now and not self.waiting:
                if not reader.takes():
                    self.waiting = True
                    break
                data = self._queue.popleft()[1]
                self._size -= len(data)
                reader.receive(data)
                if link.over:
                    return
        self._settle()

    def _arrive_bytes(self, reader: Socket) -> None:
        world = self._link.world
        due = []
        while self._queue and self._queue[0][0] <= world.now:
            due.append(self._queue.popleft()[1])
        data = b"".join(due)
        rest = b""
        if len(data) > 1 and world.chance(world.options.cuts):
            place = 1 + world.pick(len(data) - 1)
            data, rest = data[:place], data[place:]
        if data and not reader.takes():
            data, rest, self.waiting = b"", data + rest, True
        if rest:
            self._queue.appendleft((world.now if self.waiting else world.now + MILLISECOND, rest))
        if data:
            self._size -= len(data)
            reader.receive(data)

    def _settle(self) -> None:
        """End a write once the buffer has room, and the direction once all data is delivered."""
        link = self._link
        if link.over:
            return
        if self.busy and self._size <= link.world.options.buffer // 2:
            self.busy = False
            if self.writer is not None:
                self.writer.written()
        if self.closing and not self._queue and not self.stalled:
            reader, self.reader = self.reader, None
            if reader is not None:
                reader.ended("end of file")
            return
        self._schedule()


class Link:
    """A transport from a client to the runtime; `up` is the client's direction."""

    __slots__ = ("down", "over", "up", "world")

    def __init__(self, world: World, lines: bool) -> None:
        self.world = world
        self.over = False
        self.up = Pipe(self, lines)
        self.down = Pipe(self, lines)

    def reset(self, reason: str) -> None:
        """Reset the link: data under way is lost, and each end learns of it after a delay."""
        if self.over:
            return
        self.over = True
        for pipe in (self.up, self.down):
            pipe.drop()
            reader, pipe.reader, pipe.writer = pipe.reader, None, None
            if reader is not None:
                self.world.later(self.world.latency(), reader.ended, reason)
