"""A runtime that sends what a test writes, frame by frame, to a real client."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from arcp_proto import Framing, record
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.dispatch import HANDLERS
from arcp_proto.client.state import ClientState
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Closing, Dial, Event, JobEvent, Output
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId, RequestId
from arcp_proto.secret import Secret

T = TypeVar("T")

UNIX = 1_780_000_000 * SECOND
NUMBERED = [
    "heartbeat",
    "ack",
    "list_jobs",
    "subscribe",
    "progress",
    "result_chunk",
    "agent_versions",
    "lease_expires_at",
    "cost.budget",
    "model.use",
    "provisioned_credentials",
]
"""The features of another implementation's runtime: its events have sequence numbers, and no positions."""
FEATURES = [*NUMBERED, Feature.POSITIONS, Feature.READING]
WELCOME: dict[str, Any] = {
    "runtime": {"name": "script", "version": "1"},
    "session_id": "sess_1",
    "resume_token": "rt_1",
    "resume_window_sec": 600,
    "capabilities": {
        "encodings": ["json"],
        "features": FEATURES,
        "agents": [{"name": "echo", "versions": []}],
    },
    "accepted_at": "2026-01-01T00:00:00Z",
}
JOB = JobId("job_1")


class ScriptedRuntime:
    """A runtime whose frames a test writes, with the client to which it sends them.

    If it has negotiated positions, an event or the end of a job gets the next position unless the payload
    has another one, or None for a notice to one session. The answer to a subscribe gets the last one.
    """

    def __init__(
        self,
        config: ClientConfig | None = None,
        framing: Framing = Framing.MESSAGES,
        resumption: Resumption | None = None,
        lines: list[str] | None = None,
    ) -> None:
        """Create a client, which does not resume unless a `config` says so; `lines` takes its recording."""
        self.now = SECOND
        self.client = Client(
            config or ClientConfig(resume=False),
            seed=bytes(32),
            now=self.now,
            unix=UNIX,
            resumption=resumption,
        )
        if lines is not None:
            record(self.client, lines.append, keep_secrets=True)
        self.connection = self.client.connect(Secret("secret"), framing, now=self.now)
        self.events: list[Event] = []
        self.received: list[dict[str, Any]] = []
        """Every envelope that the client has sent."""
        self.closings: list[Closing] = []
        self.dials: list[Dial] = []
        """The client's requests to its host for a new connection."""
        self.placed = False
        """Whether the welcome has negotiated positions."""
        self.positions: dict[str, int] = {}
        """The last position of each job."""
        self._ids = 0
        self.take()

    @property
    def state(self) -> ClientState:
        """The state of the client."""
        return state_of(self.client)

    def welcome(self, *features: str, **fields: Any) -> list[Event]:
        """Open the session with these features, or with all features, and return the events of the client."""
        negotiated = list(features) or FEATURES
        self.placed = Feature.POSITIONS in negotiated
        capabilities = {**WELCOME["capabilities"], "features": negotiated}
        return self.say("session.welcome", {**WELCOME, "capabilities": capabilities, **fields})

    def say(self, message_type: str, payload: Any = None, /, **envelope: Any) -> list[Event]:
        """Send one envelope, and return the events of the client."""
        assert message_type in {name for phase in HANDLERS.values() for name in phase}
        self._ids += 1
        fields = {
            "arcp": "1.1",
            "id": f"rt{self._ids}",
            "type": message_type,
            **envelope,
            "payload": self._place(message_type, payload or {}, envelope),
        }
        return self.say_raw(json.dumps({name: value for name, value in fields.items() if value is not None}))

    def _place(self, message_type: str, payload: Any, envelope: dict[str, Any]) -> Any:
        """Return a payload with the position of its message."""
        job_id = envelope.get("job_id", payload.get("job_id") if isinstance(payload, dict) else None)
        if not self.placed or not isinstance(payload, dict) or not isinstance(job_id, str):
            return payload
        last = self.positions.get(job_id, 0)
        if "job_seq" in payload:
            position = payload["job_seq"]
            if not isinstance(position, int):
                return {name: value for name, value in payload.items() if name != "job_seq"}
            self.positions[job_id] = max(last, position)
        elif message_type == "job.subscribed":
            return {**payload, "job_seq": last}
        elif message_type in ("job.event", "job.result") or "completed_at" in payload:
            self.positions[job_id] = last + 1
            return {**payload, "job_seq": last + 1}
        return payload

    def say_raw(self, text: str | bytes) -> list[Event]:
        """Send one message as it is, and return the events of the client."""
        data = text.encode() if isinstance(text, str) else text
        return self.carry_out(self.connection.receive(data, now=self.now))

    def advance(self, seconds: float) -> list[Event]:
        """Let time pass, with `handle_timer` at each deadline, and return the events of the client."""
        end = self.now + round(seconds * SECOND)
        happened: list[Event] = []
        while (deadline := self.client.deadline()) is not None and deadline.at <= end:
            self.now = max(self.now, deadline.at)
            happened += self.carry_out(self.client.handle_timer(now=self.now))
        self.now = end
        return happened

    def take(self) -> list[Event]:
        """Carry out the output of a command of the client."""
        return self.carry_out(self.client.take())

    def carry_out(self, output: Output) -> list[Event]:
        """Collect the parts of an output, and return its events."""
        self.events += output.events
        self.received += [json.loads(envelope) for _, envelope in output.envelopes()]
        self.closings += output.closing
        self.dials += [request for request in output.requests if isinstance(request, Dial)]
        return list(output.events)

    def drop(self) -> list[Event]:
        """Report that the transport is lost."""
        return self.carry_out(self.connection.lost(now=self.now))

    def connect(self, framing: Framing = Framing.MESSAGES) -> dict[str, Any]:
        """Open another transport, at the time that the client has asked for, and return its hello."""
        if self.dials:
            self.advance(max(0, self.dials[-1].at - self.now) / SECOND)
        self.connection = self.client.connect(Secret("secret"), framing, now=self.now)
        self.take()
        hello: dict[str, Any] = self.sent("session.hello")[-1]["payload"]
        return hello

    def reconnect(self, *features: str, **fields: Any) -> list[Event]:
        """Replace the transport, welcome the client on the new one, and return the events of the welcome."""
        if self.state.connection is not None:
            self.drop()
        self.connect()
        return self.welcome(*features, **fields)

    def submit(self, agent: str = "echo", input: Any = None, **options: Any) -> RequestId:
        """Let the client submit a job."""
        request_id = self.client.submit(agent, input, now=self.now, **options)
        self.take()
        return request_id

    def cancel(self, job_id: str = JOB, reason: str = "") -> RequestId:
        """Let the client cancel a job."""
        request_id = self.client.cancel(JobId(job_id), reason, now=self.now)
        self.take()
        return request_id

    def accept(self, job_id: str = JOB, **payload: Any) -> JobId:
        """Let the client submit a job, and accept it."""
        request_id = self.submit()
        self.say("job.accepted", accepted(job_id, request_id=request_id, **payload), job_id=job_id)
        return JobId(job_id)

    def sent(self, message_type: str) -> list[dict[str, Any]]:
        """Return the envelopes of a type that the client has sent."""
        return [envelope for envelope in self.received if envelope["type"] == message_type]

    def only(self, kind: type[T], events: list[Event]) -> T:
        """Return the only event of a list, which must be of a kind."""
        (event,) = events
        assert isinstance(event, kind)
        return event


def numbers(events: list[Event]) -> list[int]:
    """Return the sequence numbers of the job events in a list."""
    return [event.seq for event in events if isinstance(event, JobEvent)]


def positions(events: list[Event]) -> list[int | None]:
    """Return the positions of the job events in a list."""
    return [event.job_seq for event in events if isinstance(event, JobEvent)]


def accepted(job_id: str = JOB, **fields: Any) -> dict[str, Any]:
    """Return the payload of a `job.accepted`."""
    return {"job_id": job_id, "agent": "echo", "lease": {}, "accepted_at": "2026-01-01T00:00:00Z", **fields}


def chunk(chunk_seq: int, data: str, more: bool = True, **fields: Any) -> dict[str, Any]:
    """Return the payload of a `job.event` with a chunk of a result."""
    body = {
        "result_id": "res_1",
        "chunk_seq": chunk_seq,
        "data": data,
        "encoding": "utf8",
        "more": more,
        **fields,
    }
    return {"kind": "result_chunk", "ts": "2026-01-01T00:00:00Z", "body": body}


def log(message: str = "hi") -> dict[str, Any]:
    """Return the payload of a `job.event` with a line of log."""
    return {"kind": "log", "ts": "2026-01-01T00:00:00Z", "body": {"level": "info", "message": message}}
