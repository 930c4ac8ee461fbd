"""Clients and the runtime with wires that break anywhere, and processes that die on either side."""

from __future__ import annotations

from collections.abc import Sequence

from arcp_proto import Connection, Framing, Phase
from arcp_proto.client.config import CLIENT_FEATURES, ClientConfig
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, Deadline, Output, StartJob, StopJob
from arcp_proto.features import Feature
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import Record
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire import codec

from .lossy_client import UNIX, Fact, Lossy, LossyClient

FEW: Sequence[str] = ("heartbeat", "ack", "list_jobs", "subscribe", "result_chunk", Feature.POSITIONS)
"""The features of a client that gets no events of `progress`."""


class LossyPair(Lossy):
    """Agents are the test: `emit`, `write` and `finish` do what they do, and `facts` is what they did.

    Of two clients of one principal the second one takes no events of `progress`.
    """

    def __init__(self, limits: Limits | None = None, framing: Framing = Framing.MESSAGES) -> None:
        super().__init__()
        self.config = RuntimeConfig(
            name="r", version="1", agents=(AgentInfo("echo"),), journal=True, limits=limits or Limits()
        )
        self.runtime = Runtime(self.config, seed=b"r" * 32, now=self.now, unix=UNIX)
        self.records: list[Record] = []
        self.restarts = self.said = 0
        self.theirs: dict[int, Connection] = {}
        """The runtime's end of the transport of each client."""
        self.started: list[JobId] = []
        self.running: dict[JobId, None] = {}
        self._facts: dict[JobId, list[Fact]] = {}
        for number, features in enumerate((CLIENT_FEATURES, FEW)):
            self.clients.append(LossyClient(self, number, ClientConfig(features=tuple(features)), framing))
        for client in self.clients:
            client.connect()

    # The runtime's end of a wire.

    def opened(self, client: LossyClient) -> None:
        self.theirs[client.number] = self.runtime.connect(client.framing, secure=True, now=self.now)
        self._carry_out(self.runtime.take())

    def received(self, client: LossyClient, data: bytes) -> None:
        if client.number in self.theirs:
            self._carry_out(self.theirs[client.number].receive(data, now=self.now))

    def lost(self, client: LossyClient) -> None:
        theirs = self.theirs.pop(client.number, None)
        if theirs is not None and theirs.phase is not Phase.CLOSED:
            self._carry_out(theirs.lost(now=self.now))

    def facts(self, job_id: JobId) -> Sequence[Fact]:
        return self._facts[job_id]

    def deadline(self) -> Deadline | None:
        return self.runtime.deadline()

    def handle_timer(self) -> None:
        self._carry_out(self.runtime.handle_timer(now=self.now))

    # Processes that die.

    def restart_runtime(self) -> None:
        """Restart the runtime from its records."""
        for client in self.clients:
            client.drop()
        self.restarts += 1
        self.running.clear()
        seed = bytes([self.restarts % 256]) * 32
        self.runtime = Runtime.restore(
            self.config, self.records, seed=seed, now=self.now, unix=UNIX + self.now
        )
        self._carry_out(self.runtime.take())
        self.records = list(self.runtime.snapshot())

    # Agents.

    def emit(self, number: int) -> None:
        """Publish a log or the progress of a running job."""
        job_id = self._agent(number)
        if job_id is not None:
            self.said += 1
            kind, body = (
                ("progress", {"current": self.said})
                if number % 2
                else ("log", {"level": "info", "message": f"{job_id} {self.said}"})
            )
            self.runtime.agents.emit(job_id, kind, body, now=self.now)
            self._carry_out(self.runtime.take())

    def write(self, number: int) -> None:
        """Stream a piece of the result of a running job."""
        job_id = self._agent(number)
        if job_id is not None:
            self.runtime.agents.write_result(job_id, "x" * (number + 1), now=self.now)
            self._carry_out(self.runtime.take())

    def finish(self, number: int) -> None:
        """Finish a running job."""
        job_id = self._agent(number)
        if job_id is not None:
            self.running.pop(job_id)
            self.runtime.agents.finish(job_id, now=self.now)
            self._carry_out(self.runtime.take())

    def _agent(self, number: int) -> JobId | None:
        jobs = list(self.running)
        return jobs[number % len(jobs)] if jobs else None

    # Outputs.

    def _look(self) -> None:
        """Keep what the histories say, before anything of them can be cut."""
        for job in state_of(self.runtime).jobs.values():
            facts, history = self._facts.setdefault(job.id, []), job.history
            for payload, _, feature in history.between(max(len(facts), history.first), history.end):
                event = codec.decode_value(payload + b"}")
                facts.append(Fact(event["kind"], event["body"], feature))
            if job.end is not None and len(facts) < job.last_position:
                end = codec.decode_value(job.end.payload + b"}")
                facts.append(Fact("end", end.get("code", "")))
            assert len(facts) == job.last_position, "an event was cut before the test saw it"

    def _carry_out(self, output: Output) -> None:
        self._look()
        self.records += output.records
        self.runtime.persisted(self.runtime.record_count, now=self.now)
        after = self.runtime.take()
        self._look()
        for request in (*output.requests, *after.requests):
            match request:
                case Authenticate():
                    principal = request.principal or "alice"
                    answer = self.runtime.authenticated(request.request, principal, now=self.now)
                    self._carry_out(answer)
                case StartJob():
                    self.started.append(request.job_id)
                    self.running[request.job_id] = None
                case StopJob():
                    self.running.pop(request.job_id, None)
                    self._carry_out(self.runtime.job_stopped(request.job_id, now=self.now))
        for part in (output, after):
            for connection in part.writable:
                while envelopes := connection.envelopes_to_send():
                    client = self._client_of(connection)
                    if client is not None:
                        client.down.extend(envelopes)
                if connection.overrun:
                    self._carry_out(connection.overran(now=self.now))
            for closing in part.closing:
                client = self._client_of(closing.connection)
                if client is None:
                    self._carry_out(closing.connection.lost(now=self.now))
                else:
                    client.deliver(len(client.down), up=False)
                    if self._client_of(closing.connection) is client:
                        client.drop()

    def _client_of(self, connection: Connection) -> LossyClient | None:
        """Return the client at the other end of a connection."""
        return next((client for client in self.clients if self.theirs.get(client.number) is connection), None)
