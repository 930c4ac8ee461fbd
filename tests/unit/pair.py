"""A client and a runtime that exchange envelopes in memory, under a virtual clock."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from arcp_proto import Connection, Framing, Phase
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.state import ClientState
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, Closing, Event, Output, Request, StartJob
from arcp_proto.ids import SECOND, JobId
from arcp_proto.secret import Secret
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.state import RuntimeState

T = TypeVar("T")

UNIX = 1_780_000_000 * SECOND
RUNTIME_CONFIG = RuntimeConfig(name="pair", version="1", agents=(AgentInfo("echo"),), anonymous=True)


class Sent(NamedTuple):
    """One envelope as it crossed the wire; `sender` is client or runtime."""

    sender: str
    envelope: dict[str, Any]


class Pair:
    """A client, a runtime and the transports between them.

    `tokens` maps bearer tokens to principals: a hello is verified at once. With LINES, bytes arrive in pieces
    of `piece` bytes. A test plays the agents: it calls `runtime.agents.emit` and the like, then `settle`.
    """

    def __init__(
        self,
        runtime: RuntimeConfig = RUNTIME_CONFIG,
        client: ClientConfig | None = None,
        *,
        framing: Framing = Framing.MESSAGES,
        piece: int = 1 << 20,
        tokens: Mapping[str, str] | None = None,
        now: int = SECOND,
    ) -> None:
        self.now = now
        self.runtime = Runtime(runtime, seed=b"r" * 32, now=now, unix=UNIX)
        self.client = Client(client or ClientConfig(), seed=b"c" * 32, now=now, unix=UNIX)
        self.tokens = dict(tokens if tokens is not None else {"secret": "alice"})
        self.framing = framing
        self.piece = piece
        self.sent: list[Sent] = []
        """Every envelope that a side has sent."""
        self.requests: list[Request] = []
        """The requests of the runtime to its host, without Authenticate."""
        self.events: list[Event] = []
        """The events of the client."""
        self.runtime_events: list[Event] = []
        self.muted: dict[str, bool] = {"client": False, "runtime": False}
        """Whether the envelopes of a side are lost."""
        self.closings: list[Closing] = []
        self._peer: dict[Connection, Connection] = {}
        self._wire: deque[tuple[Connection, bytes | Closing]] = deque()
        self._machines: dict[Connection, Client | Runtime] = {}

    # What a test does.

    def connect(self, token: str | None = "secret") -> Connection:
        """Open a transport, complete the handshake, and return the client's end."""
        secret = None if token is None else Secret(token)
        ours = self.client.connect(secret, self.framing, secure=True, peer="pair", now=self.now)
        theirs = self.runtime.connect(self.framing, secure=True, peer="pair", now=self.now)
        self._peer[ours], self._peer[theirs] = theirs, ours
        self._machines[ours], self._machines[theirs] = self.client, self.runtime
        self.settle()
        return ours

    def settle(self) -> None:
        """Carry out the outputs of both machines until there are none left; no time passes."""
        self._take()
        while self._wire:
            connection, item = self._wire.popleft()
            if isinstance(item, Closing):
                self.closings.append(item)
                self._lose(connection)
            else:
                self._deliver(connection, item)
            self._take()

    def advance(self, seconds: float) -> None:
        """Let time pass, calling `handle_timer` of each machine at each of its deadlines."""
        self.settle()
        end = self.now + int(seconds * SECOND)
        while due := [
            at for at in map(_deadline, (self.client, self.runtime)) if at is not None and at <= end
        ]:
            self.now = max(self.now, min(due))
            for machine in (self.client, self.runtime):
                at = _deadline(machine)
                if at is not None and at <= self.now:
                    self._carry_out(machine, machine.handle_timer(now=self.now))
            self.settle()
        self.now = end

    def drop(self, *connections: Connection) -> None:
        """Lose these transports, or all transports, at both ends."""
        for connection in connections or list(self._peer):
            self._lose(connection)
        self.settle()

    def submit(self, agent: str = "echo", input: Any = None, **options: Any) -> JobId:
        """Submit a job, which the runtime has to accept, and return its id."""
        self.client.submit(agent, input, now=self.now, **options)
        self.settle()
        return self.last(StartJob).job_id

    def job_stopped(self, job_id: JobId) -> None:
        """Report that the agent of a job has stopped, as `StopJob` asked."""
        self._carry_out(self.runtime, self.runtime.job_stopped(job_id, now=self.now))
        self.settle()

    # What a test examines.

    @property
    def client_state(self) -> ClientState:
        """The state of the client."""
        return state_of(self.client)

    @property
    def runtime_state(self) -> RuntimeState:
        """The state of the runtime."""
        return state_of(self.runtime)

    def last(self, kind: type[T]) -> T:
        """Return the last event of the client, or request of the runtime, of a kind."""
        return self.all(kind)[-1]

    def all(self, kind: type[T]) -> list[T]:
        """Return every request of the runtime and event of the client of a kind, the requests first."""
        return [item for item in (*self.requests, *self.events) if isinstance(item, kind)]

    def sent_by(self, sender: str, message_type: str) -> list[dict[str, Any]]:
        """Return every envelope of a type that one side has sent."""
        return [
            sent.envelope
            for sent in self.sent
            if sent.sender == sender and sent.envelope["type"] == message_type
        ]

    # Below: the transports.

    def _carry_out(self, machine: Client | Runtime, output: Output) -> None:
        (self.events if machine is self.client else self.runtime_events).extend(output.events)
        for request in output.requests:
            self._answer(request)
        for connection in output.writable:
            while envelopes := connection.envelopes_to_send():
                self._wire.extend((connection, envelope) for envelope in envelopes)
        self._wire.extend((closing.connection, closing) for closing in output.closing)

    def _answer(self, request: Request) -> None:
        if isinstance(request, Authenticate):
            principal = self.tokens.get(request.token.reveal())
            self._carry_out(
                self.runtime, self.runtime.authenticated(request.request, principal, now=self.now)
            )
        else:
            self.requests.append(request)

    def _deliver(self, connection: Connection, envelope: bytes) -> None:
        sender = "client" if self._machine_of(connection) is self.client else "runtime"
        self.sent.append(Sent(sender, json.loads(envelope)))
        peer = self._peer.get(connection)
        if peer is None or self.muted[sender]:
            return
        size = self.piece if self.framing is Framing.LINES else len(envelope)
        for start in range(0, len(envelope), size):
            if peer.phase is not Phase.CLOSED:
                output = peer.receive(envelope[start : start + size], now=self.now)
                self._carry_out(self._machine_of(peer), output)

    def _lose(self, connection: Connection) -> None:
        """Report the loss of a transport to both of its ends."""
        peer = self._peer.pop(connection, None)
        if peer is None:
            return
        del self._peer[peer]
        for end in (connection, peer):
            self._carry_out(self._machine_of(end), end.lost(now=self.now))

    def _take(self) -> None:
        for machine in (self.client, self.runtime):
            self._carry_out(machine, machine.take())

    def _machine_of(self, connection: Connection) -> Client | Runtime:
        return self._machines[connection]


def _deadline(machine: Client | Runtime) -> int | None:
    deadline = machine.deadline()
    return None if deadline is None else deadline.at
