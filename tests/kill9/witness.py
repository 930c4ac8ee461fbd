"""A proxy in front of the runtime that writes down what it has told one client, byte by byte.

A frame counts as told once the proxy has read it, whether or not its client still did.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

from tests.kill9.frames import FrameReader

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial: TypeAlias = Callable[[], Awaitable[Stream]]
"""Opens a connection to a runtime; raises OSError."""
STEPS: Final = 200
"""Steps of connections that are kept."""
NUMBERED = ("job.event", "job.result", "job.error", "job.cancelled")


class Told(NamedTuple):
    """A numbered frame, as it came."""

    job_id: str
    frame: bytes


class SessionSeen:
    """The frames of one session, on all its connections."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        """Resume tokens, in order."""
        self.told: dict[int, Told] = {}
        """By number."""
        self.acked = 0
        """The highest number that its client has acknowledged, or from which it has resumed."""
        self.resumed_from: list[int] = []
        """The cursor of each resume."""


class Witness:
    """Carries the connections of one client to a port, and keeps what passes."""

    def __init__(self, port: int, path: str, dial: Dial | None = None) -> None:
        """Lead to a port of this machine; `dial` may choose another runtime for each connection."""
        self.sessions: dict[str, SessionSeen] = defaultdict(SessionSeen)
        self.accepted: dict[str, bytes] = {}
        """Jobs by id, with the answer to their submit."""
        self.touched: set[str] = set()
        """Jobs of which an event was told since this was emptied."""
        self.welcomes = 0
        self.frames = 0
        """From the runtime, of all kinds."""
        self.repeated = 0
        """Numbered frames that came again, with the same bytes."""
        self.wrong: list[str] = []
        """Faults that were found."""
        self.first_frame = 0.0
        """The time of the first frame since this was set to 0."""
        self.on_frame: Callable[[str], object] = lambda kind: None
        """Told the type of each frame from the runtime, before it is passed on."""
        self.on_head: Callable[[bytes], object] = lambda head: None
        """Told the head of each answer to the opening of a WebSocket."""
        self.steps: deque[tuple[float, str]] = deque(maxlen=STEPS)
        """The last steps of connections, each with its time."""
        self.ends: dict[str, str] = {}
        """Jobs by id whose end was told, with the type of the frame."""
        self.welcomed_at = 0.0
        """The time of the last welcome."""
        self.ended_at = 0.0
        """The time at which a connection ended that had the last welcome."""
        self.current: _Connection | None = None
        """The connection that had the last welcome, until it ends."""
        self._dial = dial or self._dial_port
        self._port = port
        self._path = path
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], _Connection] = {}

    @property
    def url(self) -> str:
        """Where its client connects."""
        if self._server is None:
            raise RuntimeError("it does not listen yet")
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._path}"

    async def listen(self) -> None:
        """Begin."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)

    async def settle(self) -> None:
        """Wait until the sessions with a runtime that is dead are over: all that it said has come.

        A load balancer may hold connections that come meanwhile until the next runtime answers them.
        """
        while told := [task for task, seen in self._open.items() if seen.session]:
            await asyncio.wait(told)

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _dial_port(self) -> Stream:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = seen = _Connection(self)
        try:
            await self._both_ways(reader, writer, seen)
        finally:
            del self._open[task]
            writer.close()

    def step(self, what: str) -> None:
        """Note a step of a connection."""
        self.steps.append((time.monotonic(), what))

    async def _both_ways(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: _Connection
    ) -> None:
        self.step("connection")
        try:
            from_runtime, to_runtime = await self._dial()
        except OSError:
            self.step("no server")
            return  # No server is there; the client sees its connection end.
        outward = asyncio.create_task(_copy(reader, to_runtime, seen.from_client))
        inward = asyncio.create_task(_copy(from_runtime, writer, seen.from_runtime))
        try:
            await asyncio.wait((outward, inward), return_when=asyncio.FIRST_COMPLETED)
            self.step("the runtime ended it" if inward.done() else "the client ended it")
            if self.current is seen:
                self.current, self.ended_at = None, time.monotonic()
            if outward.done() and not inward.done():
                to_runtime.close()
            await asyncio.wait((inward,), timeout=5)
        finally:
            outward.cancel()
            inward.cancel()
            to_runtime.close()


class _Connection:
    """The frames that pass on one connection."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._inward = FrameReader()
        self._outward = FrameReader()
        self.session = ""
        """The session that this connection has; empty before its welcome."""
        self._cursor: int | None = None

    def from_client(self, data: bytes) -> None:
        for message in self._outward.feed(data):
            frame = json.loads(message)
            payload = frame.get("payload") or {}
            match frame["type"]:
                case "session.hello" if "resume" in payload:
                    self._witness.step("hello")
                    self._cursor = payload["resume"]["last_event_seq"]
                case "session.ack" if self.session:
                    seen = self._witness.sessions[self.session]
                    seen.acked = max(seen.acked, payload["last_processed_seq"])

    def from_runtime(self, data: bytes) -> None:
        opening = not self._inward.head
        messages = self._inward.feed(data)
        if opening and self._inward.head:
            self._witness.on_head(self._inward.head)
        for message in messages:
            self._hear(message)

    def _hear(self, message: bytes) -> None:
        witness = self._witness
        frame: dict[str, Any] = json.loads(message)
        kind = frame["type"]
        witness.frames += 1
        witness.first_frame = witness.first_frame or time.monotonic()
        if kind in ("session.welcome", "session.error"):
            witness.step(kind + frame["payload"].get("code", ""))
        if kind == "session.welcome":
            witness.welcomes += 1
            witness.current, witness.welcomed_at = self, time.monotonic()
            self.session = frame["session_id"]
            seen = witness.sessions[self.session]
            seen.tokens.append(frame["payload"]["resume_token"])
            if self._cursor is not None:
                seen.resumed_from.append(self._cursor)
                seen.acked = max(seen.acked, self._cursor)
        elif kind == "job.accepted":
            witness.accepted.setdefault(frame["job_id"], message)
            witness.touched.add(frame["job_id"])
        elif kind in NUMBERED:
            self._numbered(frame, message)
        witness.on_frame(kind)

    def _numbered(self, frame: dict[str, Any], message: bytes) -> None:
        witness, number = self._witness, frame["event_seq"]
        if frame["type"] != "job.event":
            witness.ends[frame["job_id"]] = frame["type"]
        told = witness.sessions[self.session].told
        before = told.get(number)
        if before is None:
            told[number] = Told(frame["job_id"], message)
            witness.touched.add(frame["job_id"])
        elif without_value(before.frame) == without_value(message):
            witness.repeated += 1
        else:
            witness.wrong.append(f"number {number} was {before.frame!r}, and is {message!r}")


def without_value(frame: bytes | None) -> bytes | None:
    """Return a frame as it is replayed once the new value that it tells of is no longer valid (§9.8.2)."""
    if frame is None or b'"credential_rotated"' not in frame:
        return frame
    fields = json.loads(frame)
    forget_value(fields["payload"])
    return json.dumps(fields).encode()


def forget_value(payload: dict[str, Any]) -> None:
    """Return a payload without that value."""
    body = payload.get("body", {})
    if body.get("phase") == "credential_rotated":
        body.pop("value", None)
        body.pop("details", None)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], None]
) -> None:
    """Pass frames from one side to the other until the end; others are read as well."""
    broken = False
    with suppress(OSError):
        while data := await reader.read(65536):
            look(data)
            if not broken:
                try:
                    writer.write(data)
                    await writer.drain()
                except OSError:
                    broken = True
    writer.close()
