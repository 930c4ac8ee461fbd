"""A runtime under a virtual clock, with clients and agents that act as a test tells them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from arcp_proto import Connection, Framing, Phase, TokenScope
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, Closing, Event, Output, Request, StartJob, StopJob
from arcp_proto.ids import SECOND, JobId
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import Record
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.state import RuntimeState

T = TypeVar("T")
Frame = dict[str, Any]
"""An envelope as a client receives it, decoded."""

SEED: Final = b"s" * 32
START: Final = 1_000 * SECOND
UNIX: Final = 1_780_000_000 * SECOND
FEATURES: Final = (
    "heartbeat",
    "ack",
    "list_jobs",
    "subscribe",
    "progress",
    "result_chunk",
    "agent_versions",
)
AGENTS: Final = (AgentInfo("echo", ("1.0.0", "2.0.0"), "2.0.0"), AgentInfo("plain"))
CONFIG: Final = RuntimeConfig(name="world", version="1", agents=AGENTS)
TOKENS: Final = {"tok-alice": "alice", "tok-bob": "bob"}
MAX_DEADLINES: Final = 1_000
"""The largest number of deadlines in one call of `advance`; a timer that is armed without end exceeds it."""


class World:
    """A runtime with its transports, its host and its journal.

    A hello is verified at once by `tokens`, unless `tokens` is None. Records are durable at once while
    `durable` is set. Every output is carried out and kept.
    """

    def __init__(
        self,
        config: RuntimeConfig = CONFIG,
        *,
        tokens: Mapping[str, str] | None = TOKENS,
        seed: bytes = SEED,
        runtime: Runtime | None = None,
        **changes: Any,
    ) -> None:
        """Create a runtime; `changes` replace fields of its configuration."""
        config = msgspec.structs.replace(config, **changes)
        self.now = START
        self.config = config
        self.tokens = tokens
        self.durable = True
        self.restarts = 0
        self.runtime = runtime or Runtime(config, seed=seed, now=START, unix=UNIX)
        self.peers: dict[Connection, Peer] = {}
        self.requests: list[Request] = []
        self.events: list[Event] = []
        self.records: list[Record] = []
        self.outputs: list[Output] = []

    @property
    def state(self) -> RuntimeState:
        """The state of the runtime."""
        return state_of(self.runtime)

    # Time.

    def advance(self, seconds: float) -> None:
        """Let time pass, and handle each deadline when it is due."""
        end = self.now + int(seconds * SECOND)
        for _ in range(MAX_DEADLINES):
            deadline = self.runtime.deadline()
            if deadline is None or deadline.at > end:
                break
            self.now = max(self.now, deadline.at)
            self.carry_out(self.runtime.handle_timer(now=self.now))
        else:
            raise AssertionError(f"{MAX_DEADLINES} deadlines in {seconds} s: {self.runtime.deadline()}")
        self.now = end

    # Outputs.

    def carry_out(self, output: Output) -> None:
        """Carry out an output, and the outputs that follow from it."""
        self.outputs.append(output)
        self.records += output.records
        self.requests += output.requests
        self.events += output.events
        if output.records and self.durable:
            self.persist()  # The outputs that follow come after the requests of this output.
        for connection in output.writable:
            if not self.peers[connection].slow:
                self.peers[connection].pull()
        for closing in output.closing:
            self.peers[closing.connection].closing = closing
        for request in output.requests:
            if isinstance(request, Authenticate) and self.tokens is not None:
                principal = request.principal or self.tokens.get(request.token.reveal())
                self.carry_out(self.runtime.authenticated(request.request, principal, now=self.now))

    def take(self) -> None:
        """Take and carry out, after an input that returns nothing."""
        self.carry_out(self.runtime.take())

    def persist(self) -> None:
        """Report every record as durable."""
        self.runtime.persisted(self.runtime.record_count, now=self.now)
        self.take()

    def restart(self) -> None:
        """End the process, and begin another one with the records of the journal."""
        self.restarts += 1
        unix = self.state.unix + self.now - self.state.now
        seed = bytes([self.restarts]) * 32
        self.runtime = Runtime.restore(self.config, self.records, seed=seed, now=self.now, unix=unix)
        self.peers.clear()
        self.records = list(self.records)
        self.take()

    # Clients.

    def connect(
        self,
        framing: Framing = Framing.MESSAGES,
        *,
        secure: bool = False,
        peer: str = "here",
        tenant: str | None = None,
        guest: bool = False,
    ) -> Peer:
        """Open a transport."""
        connection = self.runtime.connect(
            framing, secure=secure, peer=peer, tenant=tenant, guest=guest, now=self.now
        )
        self.peers[connection] = Peer(self, connection)
        self.take()
        return self.peers[connection]

    def client(self, token: str = "tok-alice", framing: Framing = Framing.MESSAGES, **hello: Any) -> Peer:
        """Return a client that has received its welcome."""
        peer = self.connect(framing)
        peer.hello(token, **hello)
        assert peer.connection.phase is Phase.OPEN
        return peer

    def resumed(self, peer: Peer, last: int | None = None, token: str = "tok-alice", **resume: Any) -> Peer:
        """Return a connection that has asked for the session of `peer`, by default after its last event."""
        again = self.connect(connection_state(peer.connection).framing)
        last = max(peer.numbers(), default=0) if last is None else last
        again.hello(token, resume={"resume_token": peer.token, "last_event_seq": last, **resume})
        return again

    def verdict(
        self,
        principal: str | None,
        *,
        failed: bool = False,
        expires: int | None = None,
        scope: TokenScope | None = None,
        token_id: str = "",
    ) -> None:
        """Answer the last request to authenticate, as the host does."""
        request = self.last(Authenticate).request
        answer = self.runtime.authenticated(
            request, principal, failed, expires, scope, token_id, now=self.now
        )
        self.carry_out(answer)

    # Agents.

    def emit(self, job_id: str, kind: str = "log", body: Any = None) -> None:
        """Emit an event of a job: by default a line of log."""
        body = {"level": "info", "message": "hi"} if body is None else body
        self.runtime.agents.emit(JobId(job_id), kind, body, now=self.now)
        self.take()

    def write(self, job_id: str, data: str | bytes) -> None:
        """Write a piece of the result of a job."""
        self.runtime.agents.write_result(JobId(job_id), data, now=self.now)
        self.take()

    def finish(self, job_id: str, result: Any = None, summary: str | None = None) -> None:
        """End a job with a result."""
        self.runtime.agents.finish(JobId(job_id), result, summary, now=self.now)
        self.take()

    def fail(self, job_id: str, code: str = "INTERNAL_ERROR", message: str = "agent failed") -> None:
        """End a job with an error."""
        self.runtime.agents.fail(JobId(job_id), code, message, now=self.now)
        self.take()

    def stopped(self, job_id: str) -> None:
        """Report that the agent of a job has stopped without a result."""
        self.carry_out(self.runtime.job_stopped(JobId(job_id), now=self.now))

    # What a test examines.

    def all(self, kind: type[T]) -> list[T]:
        """Return every request and event of a kind, the requests first."""
        return [item for item in (*self.requests, *self.events) if isinstance(item, kind)]

    def last(self, kind: type[T]) -> T:
        """Return the last request or event of a kind."""
        return self.all(kind)[-1]

    def stops(self) -> list[str]:
        """Return the jobs whose agents were asked to stop, in order."""
        return [request.job_id for request in self.all(StopJob)]


class Peer:
    """A client at the other end of a transport, in bytes and frames."""

    def __init__(self, world: World, connection: Connection) -> None:
        self.world = world
        self.connection = connection
        self.frames: list[Frame] = []
        self.raw: list[bytes] = []
        self.slow = False
        """Whether the client takes envelopes only when `pull` is called."""
        self.closing: Closing | None = None
        self._count = 0

    # What a client does.

    def send(self, message_type: str, payload: Any = None, **fields: Any) -> list[Frame]:
        """Send an envelope, by default with a new id, and return the frames that are received at once."""
        self._count += 1
        frame = {"arcp": "1.1", "id": f"req{self._count}", "type": message_type, **fields}
        if payload is not None:
            frame["payload"] = payload
        return self.send_bytes(json.dumps(frame).encode())

    def send_bytes(self, data: bytes) -> list[Frame]:
        """Send one message, or a line."""
        if connection_state(self.connection).framing is Framing.LINES:
            data += b"\n"
        return self.feed(data)

    def feed(self, data: bytes) -> list[Frame]:
        """Send bytes as they are, and return the frames that are received at once."""
        before = len(self.frames)
        self.world.carry_out(self.connection.receive(data, now=self.world.now))
        return self.frames[before:]

    def hello(
        self,
        token: str | None = "tok-alice",
        *,
        features: tuple[str, ...] = FEATURES,
        scheme: str = "bearer",
        client: Mapping[str, str] | None = None,
        hello_id: str = "hello1",
        resume: Mapping[str, Any] | None = None,
        **capabilities: Any,
    ) -> list[Frame]:
        """Send a hello, and return the frames that are received at once."""
        auth = {"scheme": scheme} if token is None else {"scheme": scheme, "token": token}
        payload: dict[str, Any] = {
            "client": client or {"name": "test", "version": "1"},
            "auth": auth,
            "capabilities": {"encodings": ["json"], "features": list(features), **capabilities},
        }
        if resume is not None:
            payload["resume"] = resume
        return self.send("session.hello", payload, id=hello_id)

    def submit(self, agent: str = "echo", input: Any = None, **payload: Any) -> JobId:
        """Submit a job that has to be accepted, and return its id."""
        self.send("job.submit", {"agent": agent, "input": input, **payload})
        started = self.world.last(StartJob)
        assert self.slow or self.frames[-1]["payload"]["job_id"] == started.job_id
        return started.job_id

    def cancel(self, job_id: str, reason: str = "") -> list[Frame]:
        """Cancel a job."""
        return self.send("job.cancel", {"job_id": job_id, "reason": reason})

    def drop(self) -> None:
        """Report that the transport is lost."""
        self.world.carry_out(self.connection.lost(now=self.world.now))

    def pull(self, limit: int | None = None, size: int | None = None) -> list[Frame]:
        """Take the envelopes that wait: one batch if there is a limit, otherwise all of them."""
        before = len(self.raw)
        while envelopes := self.connection.envelopes_to_send(limit, size):
            self.raw += envelopes
            if limit is not None or size is not None:
                break
        new = [json.loads(envelope) for envelope in self.raw[before:]]
        self.frames += new
        return new

    # What a test examines.

    @property
    def session_id(self) -> str:
        """The session id of the welcome."""
        session_id: str = self.of("session.welcome")[0]["session_id"]
        return session_id

    @property
    def numbered(self) -> list[bytes]:
        """Every envelope with a sequence number, byte for byte."""
        return [raw for raw, frame in zip(self.raw, self.frames, strict=True) if "event_seq" in frame]

    @property
    def token(self) -> str:
        """The resume token of the welcome."""
        token: str = self.of("session.welcome")[0]["payload"]["resume_token"]
        return token

    def of(self, message_type: str) -> list[Frame]:
        """Return every frame of a type."""
        return [frame for frame in self.frames if frame["type"] == message_type]

    def about(self, job_id: str) -> list[Frame]:
        """Return every numbered frame of a job."""
        return [frame for frame in self.frames if frame.get("job_id") == job_id and "event_seq" in frame]

    def numbers(self) -> list[int]:
        """Return the sequence numbers received, in order."""
        return [frame["event_seq"] for frame in self.frames if "event_seq" in frame]

    def codes(self) -> list[str]:
        """Return the codes of the errors received, in order."""
        errors = ("session.error", "job.error")
        return [frame["payload"]["code"] for frame in self.frames if frame["type"] in errors]
