"""The load client: one session over one raw socket or pair of pipes, the same for every server.

The client reads large buffers, counts events by their first bytes, and parses all other messages. Its calls
block, so that no event loop is between the kernel and the clock.
"""

from __future__ import annotations

import base64
import itertools
import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import msgspec

from .servers.options import TOKEN

Message = dict[str, Any]
FEATURES: Final = ("ack", "list_jobs", "subscribe", "progress", "result_chunk", "agent_versions")
BUFFER: Final = 256 * 1024
EVENT: Final = b'"type":"job.event"'
LOOK: Final = 200
"""The number of first bytes of a message among which its type is searched."""
PATIENCE: Final = 120.0
"""Seconds of silence after which the server has failed."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_ids = itertools.count(1)


class Closed(Exception):
    """An error: the server closes the connection, or refuses a request."""


class Session:
    """One session. A message that is not an event waits in `messages` until `look_for` takes it."""

    def __init__(self, write: Callable[[bytes], object], read: Callable[[], bytes]) -> None:
        self.id = ""
        self.token = ""
        """The resume token."""
        self.events = 0
        """The number of events so far."""
        self.first_event_at = 0.0
        """The time of the first event after `expect`."""
        self.bytes_received = 0
        self.messages: deque[Message] = deque()
        self._write, self._read = write, read
        self._rest = b""
        self._type_at = 0
        self.socket: socket.socket | None = None

    @classmethod
    def open(
        cls, port: int, resume: Message | None = None, features: Sequence[str] = (), token: str = TOKEN
    ) -> Self:
        """Connect a WebSocket, and open or resume a session."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET /arcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        connection.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = connection.recv(BUFFER)
            if not more:
                raise Closed(answer)
            answer += more
        if b" 101 " not in answer[:20]:
            raise Closed(answer)
        session = cls(connection.sendall, lambda: connection.recv(BUFFER))
        session.socket = connection
        session.hello(resume, features, token)
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        if self.socket is not None:
            self.socket.close()

    def hello(self, resume: Message | None = None, features: Sequence[str] = (), token: str = TOKEN) -> None:
        """Open or resume a session."""
        payload: Message = {
            "client": {"name": "load", "version": "1"},
            "auth": {"scheme": "bearer", "token": token},
            "capabilities": {"encodings": ["json"], "features": [*FEATURES, *features]},
        }
        if resume is not None:
            payload["resume"] = resume
        self.send("session.hello", payload)
        welcome = self.until("session.welcome")
        self.id = welcome.get("session_id") or welcome["payload"]["session_id"]
        self.token = welcome["payload"]["resume_token"]

    def resumption(self, last_event_seq: int = 0) -> Message:
        """Return the `resume` of the next connection's hello."""
        return {"session_id": self.id, "resume_token": self.token, "last_event_seq": last_event_seq}

    # Requests to the server.

    def envelope(self, kind: str, payload: Message, **fields: Any) -> bytes:
        """Return a message as a frame."""
        if self.id:
            fields["session_id"] = self.id
        number = next(_ids)
        return self.frame(
            _encode(
                {"arcp": "1.1", "id": f"01JBENCH{number:018d}", "type": kind, **fields, "payload": payload}
            )
        )

    def send(self, kind: str, payload: Message, **fields: Any) -> None:
        """Send one message."""
        self._write(self.envelope(kind, payload, **fields))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send many frames at once."""
        self._write(b"".join(frames))

    def submission(self, agent: str, input: Any, **fields: Any) -> bytes:
        """Return a submit as a frame."""
        return self.envelope("job.submit", {"agent": agent, "input": input, **fields})

    def submit(self, agent: str, input: Any, **fields: Any) -> None:
        """Send one submit."""
        self._write(self.submission(agent, input, **fields))

    def start(self, agent: str, input: Any, **fields: Any) -> str:
        """Submit a job; return its id once it is accepted."""
        self.submit(agent, input, **fields)
        return job_id(self.until("job.accepted"))

    def observe(self, job: str) -> None:
        """Subscribe to a job, and wait for the answer."""
        self.send("job.subscribe", {"job_id": job}, job_id=job)
        self.until("job.subscribed")

    def expect(self) -> float:
        """Set the count of events to zero, and return the time."""
        self.events, self.first_event_at = 0, 0.0
        return time.perf_counter()

    # Messages of the server.

    def until(self, kind: str) -> Message:
        """Read up to a message of this type, and drop the others; raises Closed for an error message."""
        while True:
            found = self.look_for(kind)
            if found is not None:
                return found
            self.receive()

    def look_for(self, kind: str) -> Message | None:
        """Return the first waiting message of this type, or None; drop the messages before it."""
        while self.messages:
            message = self.messages.popleft()
            if message["type"] == kind:
                return message
            if message["type"] in ("session.error", "job.error"):
                raise Closed(message)
        return None

    def receive(self) -> None:
        """Wait for bytes of the server, and parse them."""
        data = self._read()
        if not data:
            raise Closed("the connection is closed")
        self.bytes_received += len(data)
        self._parse(self._rest + data if self._rest else data)

    # WebSocket frames (RFC 6455 §5.2). The client masks with zeros.

    def frame(self, message: bytes, first: int = 0x81) -> bytes:
        """Return a message as a masked frame."""
        size = len(message)
        if size < 126:
            head = bytes((first, 0x80 | size))
        elif size < 65536:
            head = struct.pack(">BBH", first, 0x80 | 126, size)
        else:
            head = struct.pack(">BBQ", first, 0x80 | 127, size)
        return head + bytes(4) + message

    def _parse(self, data: bytes) -> None:
        position, size, events, type_at = 0, len(data), 0, self._type_at
        while size - position >= 2:
            length = data[position + 1]
            start = position + 2
            if length == 126:
                if size - position < 4:
                    break
                length = data[start] << 8 | data[start + 1]
                start += 2
            elif length == 127:
                if size - position < 10:
                    break
                length = int.from_bytes(data[start : start + 8], "big")
                start += 8
            end = start + length
            if end > size:
                break
            if data[position] == 0x81 and data.startswith(EVENT, start + type_at):
                events += 1
            else:
                self._count(events)
                events = self._other(data[position], data[start:end])
                type_at = self._type_at
            position = end
        self._count(events)
        self._rest = data[position:]

    def _other(self, first: int, message: bytes) -> int:
        """Handle a frame without the type of an event at the usual place; return its number of events."""
        if first == 0x89:  # Ping.
            self._write(self.frame(message, 0x8A))
        elif first == 0x88:
            raise Closed(message)
        elif first == 0x81:
            return self._message(message)
        elif first != 0x8A:
            raise Closed(f"a frame that begins with {first:#x}")
        return 0

    def _message(self, message: bytes) -> int:
        at = message.find(EVENT, 0, LOOK)
        if at >= 0:
            self._type_at = at
            return 1
        decoded = _decode(message)
        if decoded["type"] == "session.ping":
            self.send("session.pong", {"ping_nonce": decoded["payload"]["nonce"], "received_at": _now()})
        else:
            self.messages.append(decoded)
        return 0

    def _count(self, events: int) -> None:
        if events:
            if not self.first_event_at:
                self.first_event_at = time.perf_counter()
            self.events += events


class Lines(Session):
    """A session over pipes, with one envelope on each line."""

    def frame(self, message: bytes, first: int = 0) -> bytes:
        return message + b"\n"

    def _parse(self, data: bytes) -> None:
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            if line.startswith(EVENT, self._type_at):
                self._count(1)
            else:
                self._count(self._message(line))


def until_all(sessions: Sequence[Session], kind: str) -> None:
    """Read until every session has received a message of this type."""
    with selectors.DefaultSelector() as selector:
        for session in sessions:
            assert session.socket is not None
            selector.register(session.socket, selectors.EVENT_READ, session)
        waiting = len(sessions)
        while waiting:
            ready = selector.select(PATIENCE)
            if not ready:
                raise Closed(f"{waiting} sessions wait for {kind} in vain")
            for key, _ in ready:
                session = key.data
                session.receive()
                if session.look_for(kind) is not None:
                    selector.unregister(session.socket)
                    waiting -= 1


def attend(sessions: Sequence[Session], seconds: float) -> None:
    """Read, and answer pings, for some time."""
    end = time.perf_counter() + seconds
    with selectors.DefaultSelector() as selector:
        for session in sessions:
            assert session.socket is not None
            selector.register(session.socket, selectors.EVENT_READ, session)
        while ready := selector.select(max(0.0, end - time.perf_counter())):
            for key, _ in ready:
                key.data.receive()


def job_id(message: Message) -> str:
    """Return the job id of an answer, which has it in its payload or in the envelope."""
    return str(message["payload"].get("job_id") or message["job_id"])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def run_jobs(session: Session, submissions: Sequence[bytes], in_flight: int) -> None:
    """Submit all jobs, with at most `in_flight` of them unfinished at a time."""
    session.send_frames(submissions[:in_flight])
    sent = min(in_flight, len(submissions))
    ended = 0
    while ended < len(submissions):
        session.receive()
        before = ended
        while session.look_for("job.result") is not None:
            ended += 1
        if ended > before and sent < len(submissions):
            session.send_frames(submissions[sent : sent + ended - before])
            sent += ended - before
