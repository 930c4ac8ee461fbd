"""A client and the runtime with a wire that breaks anywhere, and processes that die on either side."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, NamedTuple

from arcp_proto.client import Client, ClientConfig
from arcp_proto.connection import Connection, Framing, Phase
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.inventory import AgentInfo
from arcp_proto.limits import Limits
from arcp_proto.output import (
    Authenticate,
    CancelAnswered,
    Dial,
    Event,
    JobAccepted,
    JobEmitted,
    JobEnded,
    JobLost,
    JobsListed,
    Output,
    RequestRefused,
    SessionLost,
    StartJob,
    StopJob,
    Subscribed,
)
from arcp_proto.recording import record
from arcp_proto.records import Record
from arcp_proto.resumption import Resumption
from arcp_proto.runtime import Runtime
from arcp_proto.runtime_config import RuntimeConfig
from arcp_proto.secret import Secret

UNIX = 1_780_000_000 * SECOND
ANSWERS = (JobAccepted, RequestRefused, CancelAnswered, Subscribed, JobsListed)


class Taken(NamedTuple):
    """What the user has processed: where it came, and what it was."""

    session: str
    seq: int
    job: str
    what: Any


class LossyPair:
    """Each direction of the wire holds what is under way until it is delivered, or lost with the transport.

    Agents are the test: `emit`, `write` and `finish` do what they do, and `said` is what they did. The user
    of the client processes events by `process`; each time the client's resumption is stored beside them.
    """

    def __init__(self, limits: Limits | None = None, framing: Framing = Framing.MESSAGES) -> None:
        self.config = RuntimeConfig(
            name="r", version="1", agents=(AgentInfo("echo"),), journal=True, limits=limits or Limits()
        )
        self.framing = framing
        self.now = SECOND
        self.runtime = Runtime(self.config, seed=b"r" * 32, now=self.now, unix=UNIX)
        self.recording: list[str] = []
        """Of the client that runs now."""
        self.sent: list[bytes] = []
        """Every envelope of it."""
        self.client = self._new_client(None)
        self.records: list[Record] = []
        self.restarts = 0
        self.ours: Connection | None = None
        self.theirs: Connection | None = None
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.dial: Dial | None = None
        self.events: list[Event] = []
        self.open: deque[tuple[str, JobEmitted | JobEnded]] = deque()
        """What the user has not processed, with the session that brought it."""
        self.taken: list[Taken] = []
        self.store: bytes | None = None
        self.asked: set[str] = set()
        self.keys = 0
        self.started: list[JobId] = []
        self.running: dict[JobId, None] = {}
        self.said: dict[str, list[Any]] = {}
        """Bodies of the events that an agent has emitted."""
        self.answered: Counter[str] = Counter()
        self.connect()

    # The wire.

    def connect(self) -> None:
        """Open a transport to the runtime, whether the client wants it or not."""
        self.dial = None
        self.ours = self.client.connect(Secret("secret"), self.framing, secure=True, now=self.now)
        self.theirs = self.runtime.connect(self.framing, secure=True, now=self.now)
        self.take()

    def take(self) -> None:
        """Carry out what both sides want."""
        self._of_client(self.client.take())
        self._of_runtime(self.runtime.take())

    def drop(self) -> None:
        """The transport breaks, with all that is under way."""
        ours, theirs = self.ours, self.theirs
        self.ours = self.theirs = None
        self.up.clear()
        self.down.clear()
        if ours is not None:
            self._of_client(ours.lost(now=self.now))
        if theirs is not None:
            self._of_runtime(theirs.lost(now=self.now))

    def cut(self) -> None:
        """The client loses its transport and dials again; the runtime has not noticed."""
        ours, theirs = self.ours, self.theirs
        if ours is None or theirs is None:
            return
        self.ours = self.theirs = None
        self.up.clear()
        self.down.clear()
        self._of_client(ours.lost(now=self.now))
        self.advance(31)
        if theirs.phase is not Phase.CLOSED:
            self._of_runtime(theirs.lost(now=self.now))

    def deliver(self, count: int, *, up: bool) -> None:
        """Some of what is under way arrives."""
        for _ in range(count):
            if up and self.up and self.theirs is not None:
                self._of_runtime(self.theirs.receive(self.up.popleft(), now=self.now))
            elif not up and self.down and self.ours is not None:
                self._of_client(self.ours.receive(self.down.popleft(), now=self.now))

    def cut_bytes(self, up: bool) -> None:
        """A line arrives in part, and then the transport breaks."""
        queue = self.up if up else self.down
        if queue and self.framing is Framing.LINES:
            queue[0] = queue[0][: len(queue[0]) // 2]
            self.deliver(1, up=up)
        self.drop()

    def settle(self) -> None:
        """Everything arrives until nothing is under way."""
        while self.up or self.down:
            self.deliver(1, up=True)
            self.deliver(1, up=False)

    def advance(self, seconds: float) -> None:
        """Time passes; the client gets the transports that it wants."""
        end = self.now + int(seconds * SECOND)
        while True:
            due = (self.client.deadline(), self.runtime.deadline(), self.dial)
            times = [one.at for one in due if one is not None]
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            if self.dial is not None and self.dial.at <= self.now:
                self.drop()
                if self.dial is not None:
                    self.connect()
            else:
                self._of_client(self.client.handle_timer(now=self.now))
                self._of_runtime(self.runtime.handle_timer(now=self.now))
        self.now = end

    def heal(self) -> None:
        """The wire holds, time passes, and the user processes everything."""
        for _ in range(30):
            self.settle()
            self.process(10_000)
            self.advance(3)
        self.settle()
        self.process(10_000)
        self.settle()

    # Processes that die.

    def restart_runtime(self) -> None:
        """It dies, and another goes on with its records."""
        self.drop()
        self.restarts += 1
        self.running.clear()
        seed = bytes([self.restarts % 256]) * 32
        self.runtime = Runtime.restore(
            self.config, self.records, seed=seed, now=self.now, unix=UNIX + self.now
        )
        self._of_runtime(self.runtime.take())
        self.records = list(self.runtime.snapshot())

    def restart_client(self) -> None:
        """It dies, and another goes on with what was stored; what lies behind the cursor is forgotten."""
        if self.store is None:
            return
        resumption = Resumption.of_json(self.store)
        self.ours, ours = None, self.ours
        self.drop() if ours is None else None
        if self.theirs is not None:
            self._of_runtime(self.theirs.lost(now=self.now))
            self.theirs = None
        self.up.clear()
        self.down.clear()
        self.taken = [
            taken
            for taken in self.taken
            if taken.session != resumption.session_id or taken.seq <= resumption.cursor
        ]
        self.open.clear()
        self.asked.clear()
        self.answered.clear()
        self.restarts += 1
        self.client = self._new_client(resumption)
        self.connect()

    def _new_client(self, resumption: Resumption | None) -> Client:
        seed = b"c" * 31 + bytes([getattr(self, "restarts", 0) % 256])
        client = Client(ClientConfig(), seed=seed, now=self.now, unix=UNIX, resumption=resumption)
        self.recording.clear()
        self.sent.clear()
        record(client, self.recording.append, keep_secrets=True)
        return client

    # The user.

    def ask(self, what: str, job_id: JobId | None = None) -> None:
        """The user asks for something; what cannot be asked for now is left out."""
        client, now = self.client, self.now
        self.keys += 1
        try:
            match what, job_id:
                case "submit", _:
                    request = client.submit("echo", len(self.asked), now=now)
                case "submit keyed", _:
                    request = client.submit("echo", 1, idempotency_key=f"k{self.keys}", now=now)
                case "cancel", str():
                    request = client.cancel(job_id, now=now)
                case "subscribe", str():
                    request = client.subscribe(job_id, 0, True, now=now)
                case "list", _:
                    request = client.list_jobs(now=now)
                case _:
                    return
        except LocalProtocolError:
            return
        self.asked.add(request)
        self.take()

    def process(self, count: int) -> None:
        """The user has done with the next events, and stores how far."""
        for _ in range(min(count, len(self.open))):
            session, event = self.open.popleft()
            what = event.body if isinstance(event, JobEmitted) else (event.final_status, event.result)
            self.taken.append(Taken(session, event.seq, event.job_id, what))
            self.client.processed(event.job_id, event.seq, now=self.now)
            self.keep()
        self.take()

    def keep(self) -> None:
        """Store what another process needs."""
        resumption = self.client.resumption()
        if resumption is not None:
            self.store = resumption.to_json()

    # Agents.

    def emit(self, number: int) -> None:
        """One of the running agents says a line."""
        job_id = self._agent(number)
        if job_id is not None:
            body = {"level": "info", "message": f"{job_id} {len(self.said.setdefault(job_id, []))}"}
            self.said[job_id].append(body)
            self.runtime.emit(job_id, "log", body, now=self.now)
            self.take()

    def write(self, number: int) -> None:
        """One of them streams a piece of its result."""
        job_id = self._agent(number)
        if job_id is not None:
            self.runtime.write_result(job_id, "x" * (number + 1), now=self.now)
            self.take()

    def finish(self, number: int) -> None:
        """One of them returns."""
        job_id = self._agent(number)
        if job_id is not None:
            self.running.pop(job_id)
            self.runtime.finish(job_id, now=self.now)
            self.take()

    def _agent(self, number: int) -> JobId | None:
        jobs = list(self.running)
        return jobs[number % len(jobs)] if jobs else None

    # Outputs.

    def _of_client(self, output: Output) -> None:
        for event in output.events:
            self.events.append(event)
            if isinstance(event, JobEmitted | JobEnded):
                session = self.client.session_id
                assert session is not None
                self.open.append((session, event))
            if isinstance(event, ANSWERS) and event.request_id is not None:
                self.answered[event.request_id] += 1
        if output.events:
            self.keep()
        for request in output.requests:
            assert isinstance(request, Dial)
            assert self.dial is None, "one attempt at a time"
            self.dial = request
        for connection, envelope in output.envelopes():
            self.sent.append(envelope)
            if connection is self.ours:
                self.up.append(envelope)
        for closing in output.closing:
            if closing.connection is self.ours:
                self.drop()
            else:
                self._of_client(closing.connection.lost(now=self.now))

    def _of_runtime(self, output: Output) -> None:
        self.records += output.records
        self.runtime.persisted(self.runtime.record_count, now=self.now)
        after = self.runtime.take()
        for request in (*output.requests, *after.requests):
            match request:
                case Authenticate():
                    principal = request.principal or "alice"
                    answer = self.runtime.authenticated(request.request, principal, now=self.now)
                    self._of_runtime(answer)
                case StartJob():
                    self.started.append(request.job_id)
                    self.running[request.job_id] = None
                case StopJob():
                    self.running.pop(request.job_id, None)
                    self._of_runtime(self.runtime.job_stopped(request.job_id, now=self.now))
        for part in (output, after):
            for connection in part.writable:
                while envelopes := connection.envelopes_to_send():
                    if connection is self.theirs:
                        self.down.extend(envelopes)
                if connection.overrun:
                    self._of_runtime(connection.overran(now=self.now))
            for closing in part.closing:
                if closing.connection is not self.theirs:
                    self._of_runtime(closing.connection.lost(now=self.now))
                else:
                    self.deliver(len(self.down), up=False)
                    if closing.connection is self.theirs:
                        self.drop()

    def lost(self) -> set[str]:
        """Jobs that will not be seen again."""
        return {event.job_id for event in self.events if isinstance(event, JobLost)}

    def sessions_lost(self) -> int:
        """How many were."""
        return sum(isinstance(event, SessionLost) for event in self.events)
