"""A runtime without I/O whose clients read, and keep, nothing; and what the process takes."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any, Final

import msgspec

from arcp_proto import Connection
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import Authenticate, Output, StartJob
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.server.config import SUPPORTED_FEATURES, RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.runtime import Runtime

UNIX: Final = 1_780_000_000 * SECOND
PAGE: Final = 4096
ANSWER: Final = msgspec.json.Decoder(dict[str, Any])


def resident() -> int:
    """Return the bytes of memory that this process takes at the moment."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def peak() -> int:
    """Return the most bytes of memory that this process has ever taken."""
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


class Host:
    """Drives a runtime; what clients are sent is pulled and dropped, while they read."""

    def __init__(self, *, credentials: bool = False, **limits: Any) -> None:
        rates = {"max_requests_per_sec": 10**9, "max_principal_requests_per_sec": 10**9}
        config = RuntimeConfig(
            name="memory",
            version="1",
            agents=(AgentInfo("agent"),),
            anonymous=True,
            heartbeat_interval_sec=0,
            credentials=credentials,
            volatile_credentials=credentials,
            limits=Limits(**{**rates, **limits}),
        )
        self.now = SECOND
        self.runtime = Runtime(config, seed=bytes(32), now=self.now, unix=UNIX)
        self.started: list[StartJob] = []
        self.refused = ""
        """The limit that the last refusal names."""
        self.verifies = True
        self._ids = 0

    def connect(self, peer: str = "here") -> Connection:
        """Open a transport."""
        connection = self.runtime.connect(peer=peer, secure=True, now=self.now)
        self.carry_out(self.runtime.take())
        return connection

    def client(self, principal: str | None = "alice", *, ack: bool = True) -> Connection:
        """Return a client in a session of its own; None stands for a client without a name."""
        connection = self.connect()
        features = [name for name in SUPPORTED_FEATURES if ack or name != "ack"]
        auth = {"scheme": "anonymous"} if principal is None else {"scheme": "bearer", "token": principal}
        hello = {
            "client": {"name": "c", "version": "1"},
            "auth": auth,
            "capabilities": {"encodings": ["json"], "features": features},
        }
        self.send(connection, "session.hello", hello)
        return connection

    def send(self, connection: Connection, kind: str, payload: dict[str, Any]) -> None:
        """Receive a message of a client."""
        self.send_raw(connection, kind, json.dumps(payload, separators=(",", ":")).encode())

    def send_raw(self, connection: Connection, kind: str, payload: bytes) -> None:
        """Receive a message whose payload is written already."""
        self._ids += 1
        head = b'{"arcp":"1.1","id":"r%d","type":"%b","payload":' % (self._ids, kind.encode())
        self.carry_out(connection.receive(head + payload + b"}", now=self.now))

    def submit(self, connection: Connection, json: bytes = b"null", **payload: Any) -> StartJob | None:
        """Submit a job with this input; None when it is refused."""
        before = len(self.started)
        fields = msgspec.json.encode({"agent": "agent", **payload})
        self.send_raw(connection, "job.submit", fields[:-1] + b',"input":' + json + b"}")
        if len(self.started) == before:
            return None
        return self.started.pop()

    def finish(self, job_id: JobId, result: Any = None) -> None:
        """Let an agent return."""
        self.runtime.agents.finish(job_id, result, now=self.now)
        self.carry_out(self.runtime.take())

    def emit(self, job_id: JobId, message: str) -> None:
        """Let an agent emit an event."""
        self.runtime.agents.emit(job_id, "log", {"level": "info", "message": message}, now=self.now)

    def acknowledge(self, connection: Connection) -> None:
        """Acknowledge everything that a client got."""
        session = connection_state(connection).session
        if session is not None:
            self.send(connection, "session.ack", {"last_processed_seq": session.log.last})

    def carry_out(self, output: Output) -> None:
        """Do what the runtime asks for."""
        for connection in output.writable:
            while envelopes := connection.envelopes_to_send():
                self._look(envelopes[-1])
        for closing in output.closing:
            self.carry_out(closing.connection.lost(now=self.now))
        for request in output.requests:
            if isinstance(request, Authenticate) and self.verifies:
                principal = request.token.reveal()
                self.carry_out(self.runtime.authenticated(request.request, principal, now=self.now))
            elif isinstance(request, StartJob):
                self.started.append(request)

    def _look(self, envelope: bytes) -> None:
        if b'"session.error"' in envelope[:200]:
            details = ANSWER.decode(envelope)["payload"].get("details") or {}
            self.refused = details.get("limit", "")
