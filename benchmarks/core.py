"""A runtime of arcp_proto without I/O: one job, its submitter and its observers, and framed bytes."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final

from arcp_io.agents import event_bodies
from arcp_io.drivers.websocket import ServerCodec
from arcp_io.drivers.ws_admission import Admission
from arcp_proto import (
    SECOND,
    AgentInfo,
    Authenticate,
    Connection,
    EventKind,
    Output,
    Runtime,
    RuntimeConfig,
    StartJob,
)

from .servers.options import PRINCIPAL, TOKEN
from .servers.ours import ROOMY

UNIX: Final = 1_780_000_000 * SECOND
BATCH: Final = 64
"""The number of events between two pulls, as in the drivers."""
UPGRADE: Final = (
    b"GET /arcp HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Core:
    """A running job with a number of observers; the clock advances by one microsecond at each input."""

    def __init__(self, observers: int = 0) -> None:
        config = RuntimeConfig(name="core", version="1", agents=(AgentInfo("agent"),), limits=ROOMY)
        self._now = SECOND
        self.runtime = Runtime(config, seed=bytes(32), now=self._now, unix=UNIX)
        self._ids = itertools.count(1)
        self._codecs: dict[Connection, ServerCodec] = {}
        self._started: list[StartJob] = []
        self.framed = 0
        """The number of bytes of all frames so far."""
        owner = self.connect()
        self.send(owner, "job.submit", {"agent": "agent", "input": None})
        self.job = self._started[0].job_id
        for _ in range(observers):
            self.send(self.connect(), "job.subscribe", {"job_id": self.job})

    def now(self) -> int:
        """Return a time that is later than all before."""
        self._now += SECOND // 1_000_000
        return self._now

    def connect(self, *features: str) -> Connection:
        """Open a session; `features` are negotiated beside `subscribe`."""
        connection = self.runtime.connect(now=self.now())
        codec = ServerCodec(Admission(path="/arcp", hosts=("127.0.0.1",), origins=()), limit=1 << 20)
        codec.receive(UPGRADE)
        codec.data_to_send()
        self._codecs[connection] = codec
        hello = {
            "client": {"name": "load", "version": "1"},
            "auth": {"scheme": "bearer", "token": TOKEN},
            "capabilities": {"encodings": ["json"], "features": ["subscribe", *features]},
        }
        self.send(connection, "session.hello", hello)
        return connection

    def send(self, connection: Connection, kind: str, payload: dict[str, Any]) -> None:
        """Receive a message of a client, and carry out the output that follows."""
        envelope = {"arcp": "1.1", "id": f"01J{next(self._ids)}", "type": kind, "payload": payload}
        self._carry_out(connection.receive(json.dumps(envelope).encode(), now=self.now()))

    def emit(self, count: int) -> None:
        """Publish log events of the job, and frame their envelopes."""
        emit, job = self.runtime.agents.emit, self.job
        for number in range(count):
            body = event_bodies.log("info", f"processed item {number} of the batch")
            emit(job, EventKind.LOG, body, now=self.now())
            if number % BATCH == BATCH - 1:
                self._carry_out(self.runtime.take())
        self._carry_out(self.runtime.take())

    def _carry_out(self, output: Output) -> None:
        for connection in output.writable:
            codec = self._codecs[connection]
            while envelopes := connection.envelopes_to_send():
                self.framed += len(codec.frame(envelopes))
        for request in output.requests:
            if isinstance(request, Authenticate):
                self._carry_out(self.runtime.authenticated(request.request, PRINCIPAL, now=self.now()))
            elif isinstance(request, StartJob):
                self._started.append(request)
