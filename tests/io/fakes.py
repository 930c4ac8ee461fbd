"""A pump whose loop, clock, host and stream are fakes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from arcp_io.drivers.clock import Clock
from arcp_io.drivers.door import Door, GuardedPump
from arcp_io.drivers.journal_writer import Keeper
from arcp_io.drivers.loop import Loop
from arcp_io.drivers.pump import Pump
from arcp_io.drivers.stdio import RequestCodec
from arcp_io.drivers.transport import StreamTransport
from arcp_io.journal import Journal
from arcp_io.journal.protocol import Durable, Failed
from arcp_proto import Framing
from arcp_proto.engine.output import Event, PauseJob, Request, ResumeJob, StartJob
from arcp_proto.ids import MILLISECOND, SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.runtime import Runtime

START = 1_000 * SECOND
UNIX = 1_780_000_000 * SECOND
HELLO: dict[str, Any] = {"type": "session.hello", "payload": {"auth": {"scheme": "anonymous"}}}
SUBMIT = {"type": "job.submit", "id": "1", "payload": {"agent": "agent"}}


class FakeLoop:
    """A loop that turns only when a test calls `turn`."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.waiting: list[Callable[[], None]] = []
        self.armed: tuple[int, Callable[[], None]] | None = None
        """The time of the timer, in nanoseconds, and its callback."""
        self.failure: BaseException | None = None

    def arm(self, delay: float | None, callback: Callable[[], None]) -> None:
        self.armed = None if delay is None else (self.now() + round(delay * SECOND), callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    call_from_thread = call_soon

    def crash(self, error: BaseException) -> None:
        self.failure = self.failure or error

    def turn(self) -> None:
        """Call the callbacks that wait at the beginning of this turn."""
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


class FakeStream:
    """Takes writes at once, or, while `full`, when it is told to `take`."""

    def __init__(self) -> None:
        self.transport: StreamTransport
        self.full = False
        self.takes = 0.0
        """Milliseconds that a write takes."""
        self.wrote: Callable[[float], None] = lambda milliseconds: None
        self.unfinished = b""
        self.written: list[bytes] = []
        self.paused = False
        self.ending: list[str] = []

    def write(self, data: bytes) -> bool:
        assert not self.unfinished, "one write at a time"
        assert not self.ending, "nothing after the end"
        self.wrote(self.takes)
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
        """Return the messages written since the last call, one list for each write."""
        written, self.written = self.written, []
        return [[json.loads(line) for line in data.splitlines()] for data in written]


class SlowJournal:
    """A journal whose disk stores, or fails, when a test says so."""

    def __init__(self) -> None:
        self.failed: Exception | None = None
        self.dropped = ""
        self.records: list[bytes] = []
        self.snapshots: list[list[bytes]] = []
        self.before = 0
        """Records that the last snapshot stands for."""
        self.stored = 0
        self.compaction_due = False
        self.is_open = False

    @property
    def next(self) -> int:
        return self.before + len(self.records)

    @property
    def waiting_bytes(self) -> int:
        return sum(map(len, self.records[self.stored - self.before :]))

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        self.on_durable, self.on_failed = on_durable, on_failed
        self.is_open = True

    def read(self) -> Iterator[bytes]:
        for snapshot in self.snapshots[-1:]:
            yield from snapshot
        yield from self.records

    def append(self, first: int, records: Sequence[bytes]) -> None:
        assert first == self.next
        self.records += records

    def compact(self, snapshot: Iterable[bytes]) -> None:
        self.snapshots.append(list(snapshot))
        self.before, self.stored, self.records = self.next, self.next, []
        self.compaction_due = False

    def store(self, records: int | None = None) -> None:
        """Report `records` more records as durable, or every record if it is None."""
        self.stored = self.next if records is None else self.stored + records
        self.on_durable(self.stored)

    def fail(self, error: Exception) -> None:
        self.failed = error
        self.on_failed(error)

    def close(self) -> None:
        self.is_open = False


class Noting:
    """A meter of a pump that keeps what it is told."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def published(self) -> None:
        self.noted.append("published")

    def kept(self, count: int) -> None:
        self.noted.append(f"kept {count}")

    def durable(self, count: int) -> None:
        self.noted.append(f"durable {count}")


class Stand:
    """One runtime behind one pump, with one client over lines and an agent that does what a test says."""

    def __init__(
        self, *, heartbeat: int = 0, journal: Journal | None = None, guarded: bool = False, **limits: Any
    ) -> None:
        self.at, self.wall = START, UNIX
        self.loop = FakeLoop(lambda: self.at)
        self.requests: list[Request] = []
        self.events: list[Event] = []
        config = RuntimeConfig(
            name="tests",
            version="1",
            agents=(AgentInfo("agent"),),
            anonymous=True,
            heartbeat_interval_sec=heartbeat,
            journal=journal is not None,
            limits=Limits(**limits),
        )
        self.held: list[bool] = []
        """True for each pause of the agents for the journal, False for each resume, in order."""
        keeper = None if journal is None else Keeper(journal, cast(Loop, self.loop))
        make = partial(Runtime, config) if keeper is None else partial(keeper.restore, config)
        self.runtime = make(seed=bytes(32), now=START, unix=UNIX)
        clock = Clock(lambda: self.at, lambda: self.wall)
        self.door = Door(lambda: self.at)
        self.kept_waiting: list[bool] = []
        """True for each pause of the agents for the door, False for each resume, in order."""
        if guarded:
            pump = GuardedPump(self.runtime, self, cast(Loop, self.loop), clock, keeper, door=self.door)
            pump.hold_agents = self.kept_waiting.append
            self.pump: Pump = pump
        else:
            self.pump = Pump(self.runtime, self, cast(Loop, self.loop), clock, keeper)
        if keeper is not None:
            keeper.attach(self.pump, self.held.append)
        self.stream = self.connect()
        self.connection = self.stream.transport.connection

    def request(self, request: Request) -> None:
        self.requests.append(request)

    def happened(self, events: Sequence[Event]) -> None:
        self.events += events

    def connect(self) -> FakeStream:
        """Connect one more client."""
        stream = FakeStream()
        stream.wrote = self._move
        connection = self.runtime.connect(Framing.LINES, now=self.at)
        codec = RequestCodec(connection.message_limit)
        stream.transport = StreamTransport(self.pump, connection, codec, stream)
        self.pump.run()
        return stream

    def say(self, *messages: dict[str, Any], on: FakeStream | None = None) -> None:
        """Receive messages from the client, or from the client at the other end of `on`."""
        lines = "".join(json.dumps(message) + "\n" for message in messages)
        (on or self.stream).transport.received(lines.encode())

    def start(self) -> JobId:
        """Open a session, submit a job and return its id; discard the answers."""
        self.say(HELLO, SUBMIT)
        self.loop.turn()
        (start,) = [request for request in self.requests if isinstance(request, StartJob)]
        self.stream.messages()
        return start.job_id

    def emit(self, job: JobId, count: int = 1, *, size: int = 1, told: int = 0) -> None:
        """Publish events of an agent, without a turn of the loop between them."""
        for _ in range(count):
            self.runtime.agents.emit(job, "log", {"level": "info", "message": "x" * size}, now=self.at)
            self.pump.soon(told)

    def pass_time(self, milliseconds: float) -> None:
        """Advance the clock, and fire the timer of the loop if it is due."""
        self._move(milliseconds)
        if self.loop.armed is not None and self.loop.armed[0] <= self.at:
            callback = self.loop.armed[1]
            self.loop.armed = None
            callback()

    def _move(self, milliseconds: float) -> None:
        self.at += int(milliseconds * MILLISECOND)
        self.wall += int(milliseconds * MILLISECOND)

    @property
    def pauses(self) -> list[str]:
        """The types of the requests that pause and resume jobs, in order."""
        return [type(one).__name__ for one in self.requests if isinstance(one, PauseJob | ResumeJob)]
