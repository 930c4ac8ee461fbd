"""A pump with everything around it pretended: the loop, the clock, the host and the stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from arcp_io.clock import Clock
from arcp_io.loop import Loop
from arcp_io.pump import Pump
from arcp_io.stdio import LineCodec
from arcp_io.stream import StreamTransport
from arcp_proto.connection import Framing
from arcp_proto.ids import MILLISECOND, SECOND, JobId
from arcp_proto.inventory import AgentInfo
from arcp_proto.limits import Limits
from arcp_proto.output import Event, PauseJob, Request, ResumeJob, StartJob
from arcp_proto.runtime import Runtime, RuntimeConfig

START = 1_000 * SECOND
UNIX = 1_780_000_000 * SECOND
HELLO: dict[str, Any] = {"type": "session.hello", "payload": {"auth": {"scheme": "anonymous"}}}
SUBMIT = {"type": "job.submit", "id": "1", "payload": {"agent": "agent"}}


class FakeLoop:
    """Turns when it is told to."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.waiting: list[Callable[[], None]] = []
        self.armed: tuple[int, Callable[[], None]] | None = None
        """When to call back, in nanoseconds, and whom."""
        self.failure: BaseException | None = None

    def arm(self, delay: float | None, callback: Callable[[], None]) -> None:
        self.armed = None if delay is None else (self.now() + round(delay * SECOND), callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def crash(self, error: BaseException) -> None:
        self.failure = self.failure or error

    def turn(self) -> None:
        """Call what was asked for until now."""
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


class FakeStream:
    """Takes writes at once, or, while `full`, when it is told to `take`."""

    def __init__(self) -> None:
        self.transport: StreamTransport
        self.full = False
        self.unfinished = b""
        self.written: list[bytes] = []
        self.paused = False
        self.ending: list[str] = []

    def write(self, data: bytes) -> bool:
        assert not self.unfinished, "one write at a time"
        assert not self.ending, "nothing after the end"
        if self.full:
            self.unfinished = data
        else:
            self.written.append(data)
        return not self.full

    def take(self) -> None:
        """Finish the write that is under way."""
        data, self.unfinished = self.unfinished, b""
        self.written.append(data)
        self.transport.written()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def end(self) -> None:
        self.ending.append("end")

    def close(self) -> None:
        self.ending.append("close")

    def abort(self) -> None:
        self.unfinished = b""
        self.ending.append("abort")

    def messages(self) -> list[list[dict[str, Any]]]:
        """What was written since the last time, write by write."""
        written, self.written = self.written, []
        return [[json.loads(line) for line in data.splitlines()] for data in written]


class Stand:
    """One runtime behind one pump, with one client over lines and an agent that does what a test says."""

    def __init__(self, *, heartbeat: int = 0, **limits: Any) -> None:
        self.at, self.wall = START, UNIX
        self.loop = FakeLoop(lambda: self.at)
        self.stream = FakeStream()
        self.requests: list[Request] = []
        self.events: list[Event] = []
        config = RuntimeConfig(
            name="tests",
            version="1",
            agents=(AgentInfo("agent"),),
            anonymous=True,
            heartbeat_interval_sec=heartbeat,
            limits=Limits(**limits),
        )
        self.runtime = Runtime(config, seed=bytes(32), now=START, unix=UNIX)
        clock = Clock(lambda: self.at, lambda: self.wall)
        self.pump = Pump(self.runtime, self, cast(Loop, self.loop), clock)
        self.connection = self.runtime.connect(Framing.LINES, now=START)
        self.stream.transport = StreamTransport(
            self.pump, self.connection, LineCodec(self.connection.message_limit), self.stream
        )
        self.pump.run()

    def request(self, request: Request) -> None:
        self.requests.append(request)

    def happened(self, event: Event) -> None:
        self.events.append(event)

    def say(self, *messages: dict[str, Any]) -> None:
        """The client has sent something."""
        self.stream.transport.received("".join(json.dumps(message) + "\n" for message in messages).encode())

    def start(self) -> JobId:
        """The client has opened a session and submitted a job; returns it, and forgets what was written."""
        self.say(HELLO, SUBMIT)
        self.loop.turn()
        (start,) = [request for request in self.requests if isinstance(request, StartJob)]
        self.stream.messages()
        return start.job_id

    def emit(self, job: JobId, count: int = 1, *, size: int = 1, told: int = 0) -> None:
        """The agent says something without giving way."""
        for _ in range(count):
            self.runtime.emit(job, "log", {"level": "info", "message": "x" * size}, now=self.at)
            self.pump.soon(told)

    def pass_time(self, milliseconds: float) -> None:
        """The clock moves, and the loop fires what was armed, if it is due."""
        self.at += int(milliseconds * MILLISECOND)
        self.wall += int(milliseconds * MILLISECOND)
        if self.loop.armed is not None and self.loop.armed[0] <= self.at:
            callback = self.loop.armed[1]
            self.loop.armed = None
            callback()

    @property
    def pauses(self) -> list[str]:
        """Whether agents were paused and resumed, in order."""
        return [type(one).__name__ for one in self.requests if isinstance(one, PauseJob | ResumeJob)]
