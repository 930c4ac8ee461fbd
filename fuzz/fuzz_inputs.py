"""Arbitrary texts as inputs to a runtime: no input raises, and clients receive valid, consecutive envelopes.

A line is an action of `tests.properties.play` with its numbers (`submit 0 1 2`), `setup` with three numbers
that choose a configuration, or `>`, a digit and the bytes that the client of this number sends. Other lines
are skipped. An action has the same effect here as there, but no judge predicts the envelopes that follow,
which takes most of the time there. One input in `PLAYED` is played there as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

from arcp_proto.engine.endpoint import state_of
from fuzz import harness

with harness.instrumented(__name__):
    import msgspec

    from arcp_proto import Connection, Framing
    from arcp_proto.engine.connection import connection_state
    from arcp_proto.engine.output import Authenticate, Output, StartJob
    from arcp_proto.engine.timers import TimerKind
    from arcp_proto.errors import Denied, LocalProtocolError, ensure
    from arcp_proto.ids import SECOND, JobId
    from arcp_proto.server.config import RuntimeConfig
    from arcp_proto.server.journal.records import Record
    from arcp_proto.server.runtime import Runtime
    from arcp_proto.wire import messages
    from tests.properties import structure
    from tests.properties.play import ACTIONS, DISHONEST, GARBAGE, RIGHTS, Action, Play, config_of
    from tests.unit.world import FEATURES, SEED, START, UNIX

CORPUS: Final = Path(__file__).parent / "corpus" / "inputs.ndjson"
MOST_ACTIONS: Final = 300
"""The greatest number of actions of one input that are carried out."""
MOST_DIGITS: Final = 3
MOST_CLIENTS: Final = 6
PLAYED: Final = 2_048
"""The number of inputs of which one is played under the judge, and replayed: 10 to 100 ms each."""
LOOKED_INTO: Final = 32
"""The number of inputs of which one is followed by a check of the whole state, and by a restore."""
ENDS: Final = ("job.result", "job.error")
KINDS: Final = ("log", "status", "progress", "metric", "thought", "artifact_ref", "x-vendor.a.b", "zork")


class Sent(NamedTuple):
    """Bytes that a client sends."""

    number: int
    data: bytes


class Frame(msgspec.Struct):
    """The checked fields of an envelope that a client receives."""

    type: str
    payload: dict[str, Any] = {}
    event_seq: int | None = None
    job_id: str | None = None
    session_id: str | None = None


decode_frame: Final = msgspec.json.Decoder(Frame).decode


class Client:
    """The other end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.slow = False
        self.token = ""
        self.last = 0
        """The highest number received on the connection."""
        self.over: list[str] = []
        """The jobs whose ends the client has received."""
        self.lied = False
        """Whether the client may have acknowledged numbers that it has not received."""
        self.again: list[str] = []
        """The jobs of which envelopes may follow the end: a history, or the answer to a repeated key."""


class Inputs:
    """A runtime, with the clients and the journal that its inputs need."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.now = START
        self.unix = UNIX
        self.config = config
        self.runtime = Runtime(config, seed=SEED, now=START, unix=UNIX)
        self.clients: list[Client] = []
        self.pending: list[int] = []
        self.records: list[Record] = []
        self.durable = True
        self.jobs: list[JobId] = []
        self.holds: list[int] = []
        self.aborted: list[Connection] = []
        """Connections that the runtime has aborted, whose envelopes may be left unsent."""
        self.crashes = 0

    def do(self, name: str, a: int, b: int, c: int) -> None:
        """Carry out one action; the runtime may refuse it with LocalProtocolError or Denied."""
        try:
            getattr(self, name)(a, b, c)
        except (LocalProtocolError, Denied):
            self.carry_out(self.runtime.take())

    def send(self, number: int, data: bytes, *, by_hand: bool = True) -> None:
        """Receive bytes of a client, if it is read; `by_hand` says that the bytes may hold any message."""
        client = self._client(number)
        if client is not None and client.connection.reading:
            client.lied |= by_hand
            if connection_state(client.connection).framing is Framing.LINES:
                data += b"\n"
            self.carry_out(client.connection.receive(data, now=self.now))

    def carry_out(self, output: Output) -> None:
        """Carry out an output, except for jobs and authentications, which are actions of their own."""
        if output.records:
            self.records += output.records
            if self.durable:
                self.runtime.persisted(self.runtime.record_count, now=self.now)
                self.carry_out(self.runtime.take())
        for request in output.requests:
            match request:
                case Authenticate():
                    self.pending.append(request.request)
                case StartJob():
                    self.jobs.append(request.job_id)
        for connection in output.writable:
            client = self._of(connection)
            if client is not None and not client.slow:
                self._pull(client)
        for closing in output.closing:
            if closing.abort:
                self.aborted.append(closing.connection)
            client = self._of(closing.connection)
            if client is not None:
                self._pull(client)

    def end(self) -> None:
        """Read all envelopes, end all connections, and let the longest time pass."""
        for client in self.clients:
            client.slow = False
            self._pull(client)
        for client in self.clients:
            self.carry_out(client.connection.lost(now=self.now))
        self.wait(255, 0, 0)

    def look_into(self) -> None:
        """Check the whole state, and restore a runtime from its records."""
        drains = state_of(self.runtime).timers.armed(TimerKind.DRAIN, 0) is not None
        structure.check(state_of(self.runtime), aborted=self.aborted, drain=drains)
        if self.config.journal:
            again = Runtime.restore(self.config, self.records, seed=SEED, now=self.now, unix=self.unix)
            again.take()

    # Clients.

    def connect(self, a: int, b: int, c: int) -> None:
        if len(self.clients) < MOST_CLIENTS:
            framing = Framing.LINES if a & 1 else Framing.MESSAGES
            self.clients.append(Client(self.runtime.connect(framing, secure=bool(b & 1), now=self.now)))
            self.carry_out(self.runtime.take())

    def hello(self, a: int, b: int, c: int) -> None:
        features = [name for bit, name in enumerate(FEATURES) if not c >> bit & 1]
        auth = {"scheme": "anonymous"} if b % 8 == 7 else {"scheme": "bearer", "token": "t"}
        capabilities = {"encodings": ["json"], "features": features}
        name = ("c", "arcp-client-java")[b & 1]
        client = {"name": name, "version": "1"}
        self._say(a, "session.hello", {"client": client, "auth": auth, "capabilities": capabilities})

    def verify(self, a: int, b: int, c: int) -> None:
        if self.pending:
            number = self.pending.pop(a % len(self.pending))
            who = (None, "alice", "alice", "bob")[b % 4]
            expires = self.unix + 30 * SECOND if c & 32 else None
            self.carry_out(self.runtime.authenticated(number, who, c % 16 == 15, expires, now=self.now))

    def join(self, a: int, b: int, c: int) -> None:
        count = len(self.clients)
        self.connect(a, b, c)
        if len(self.clients) > count:
            self.hello(len(self.clients) - 1, b, c)
            if self.pending:
                self.verify(len(self.pending) - 1, 1 + a % 3, 0)

    def resume(self, a: int, b: int, c: int) -> None:
        other = self._client(a)
        if other is None:
            return
        asked = {"resume_token": other.token or "rt_x", "last_event_seq": other.last + c % 5 - 2}
        self.connect(b, c, a)
        auth = {"scheme": "bearer", "token": "t"}
        payload = {"auth": auth, "resume": asked} if b & 1 else {"auth": auth, **asked}
        self._say(255, "session.hello" if b & 1 else "session.resume", payload)
        if b & 64:
            self.verify(255, 1, 0)

    def submit(self, a: int, b: int, c: int) -> None:
        payload: dict[str, Any] = {"agent": ("echo", "plain", "again", "zork")[b % 4], "input": {"x": [c]}}
        if c & 1:
            payload["max_runtime_sec"] = b % 9
        if c & 2:
            payload["lease_request"] = {"cost.budget": ["USD:1.50"], "fs.read": ["/x/**"]}
        if c & 4:
            payload["idempotency_key"] = f"k{b % 3}"
        if c & 8:
            payload["lease_constraints"] = {"expires_at": "2026-05-28T20:28:00Z"}
        self._say(a, "job.submit", payload)

    def resend(self, a: int, b: int, c: int) -> None:
        self.submit(a, b, c | 4)

    def cancel(self, a: int, b: int, c: int) -> None:
        self._say(a, "job.cancel", {"job_id": self._job(b), "reason": "x" * (c % 3)})

    def subscribe(self, a: int, b: int, c: int) -> None:
        payload = {"job_id": self._job(b), "history": bool(c & 1)}
        self._say(a, "job.subscribe", {**payload, "from_event_seq": c // 8} if c & 2 else payload)

    def unsubscribe(self, a: int, b: int, c: int) -> None:
        self._say(a, "job.unsubscribe", {"job_id": self._job(b)})

    def list_jobs(self, a: int, b: int, c: int) -> None:
        self._say(a, "session.list_jobs", {"limit": b, "filter": {"status": ["running"] * (c % 3)}})

    def ping(self, a: int, b: int, c: int) -> None:
        self._say(a, "session.ping", {"nonce": "n" * (c % 4)})

    def pong(self, a: int, b: int, c: int) -> None:
        self._say(a, "session.pong", {"nonce": "n"})

    def ack(self, a: int, b: int, c: int) -> None:
        client = self._client(a)
        if client is not None:
            client.lied |= b % 4 > 1
            self._say(a, "session.ack", {"last_processed_seq": client.last + b % 4 - 1})

    def close(self, a: int, b: int, c: int) -> None:
        self._say(a, "session.close", {"reason": "done"})

    def garbage(self, a: int, b: int, c: int) -> None:
        self.send(a, GARBAGE[b % len(GARBAGE)])

    def lie(self, a: int, b: int, c: int) -> None:
        self.send(a, DISHONEST[b % len(DISHONEST)])

    def oversize(self, a: int, b: int, c: int) -> None:
        client = self._client(a)
        if client is not None:
            self.carry_out(client.connection.too_large(now=self.now))

    def drop(self, a: int, b: int, c: int) -> None:
        client = self._client(a)
        if client is not None:
            self.clients.remove(client)
            self.carry_out(client.connection.lost(now=self.now))

    close_transport = drop

    def block(self, a: int, b: int, c: int) -> None:
        client = self._client(a)
        if client is not None:
            call = client.connection.blocked if b & 1 else client.connection.drained
            self.carry_out(call(now=self.now))

    def read(self, a: int, b: int, c: int) -> None:
        client = self._client(a)
        if client is not None:
            client.slow = False
            self._pull(client)

    def slow_down(self, a: int, b: int, c: int) -> None:
        client = self._client(a)
        if client is not None:
            client.slow = True

    # Agents.

    def emit(self, a: int, b: int, c: int) -> None:
        bodies: tuple[Any, ...] = (
            {"level": "info", "message": "m" * c},
            {"phase": "p"},
            {"current": b, "total": c},
            {"name": f"cost.{c}", "value": b / 256, "unit": "USD"},
            {"text": "t"},
        )
        kind = KINDS[b % len(KINDS)]
        self.runtime.agents.emit(self._job(a), kind, bodies[b % len(bodies)], now=self.now)
        self.carry_out(self.runtime.take())

    def flood(self, a: int, b: int, c: int) -> None:
        for _ in range(1 + b % 32):
            self.runtime.agents.emit(self._job(a), "log", {"level": "info", "message": "m" * c}, now=self.now)
        self.carry_out(self.runtime.take())

    def emit_badly(self, a: int, b: int, c: int) -> None:
        self.runtime.agents.emit(
            self._job(a), "log", {"level": ["info", 5][b & 1], "message": "\ud800"}, now=self.now
        )

    def write(self, a: int, b: int, c: int) -> None:
        self.runtime.agents.write_result(self._job(a), b"x" * c if b & 1 else "é" * c, now=self.now)
        self.carry_out(self.runtime.take())

    def finish(self, a: int, b: int, c: int) -> None:
        self.runtime.agents.finish(
            self._job(a), {"x": b} if b & 1 else None, "s" if c & 1 else None, now=self.now
        )
        self.carry_out(self.runtime.take())

    def fail(self, a: int, b: int, c: int) -> None:
        self.runtime.agents.fail(self._job(a), ("X", "TIMEOUT", "")[b % 3], "m", bool(c & 1), now=self.now)
        self.carry_out(self.runtime.take())

    def stop(self, a: int, b: int, c: int) -> None:
        self.carry_out(self.runtime.job_stopped(self._job(a), now=self.now))

    def ask(self, a: int, b: int, c: int) -> None:
        target = ("/x/a", "/y", "", "x")[b % 4]
        self.runtime.agents.authorize(self._job(a), ("fs.read", "tool.call")[c & 1], target, now=self.now)
        self.carry_out(self.runtime.take())

    def spend(self, a: int, b: int, c: int) -> None:
        job_id = self._job(a)
        if b % 3 == 0 or not self.holds:
            self.holds.append(self.runtime.agents.reserve(job_id, "USD", f"0.{c}", now=self.now))
        elif b % 3 == 1:
            self.runtime.agents.settle(job_id, self.holds.pop(), f"0.{c}", "cost.x", now=self.now)
        else:
            self.runtime.agents.release(job_id, self.holds.pop(), now=self.now)
        self.carry_out(self.runtime.take())

    def host_cancel(self, a: int, b: int, c: int) -> None:
        self.runtime.jobs.cancel(self._job(a), "host", now=self.now)
        self.carry_out(self.runtime.take())

    # Time, and the host.

    def wait(self, a: int, b: int, c: int) -> None:
        end = self.now + (1, 2, 5, 11, 31, 61, 700, 100_000)[a % 8] * SECOND
        for _ in range(200):
            deadline = self.runtime.deadline()
            if deadline is None or deadline.at > end:
                break
            self.now = max(self.now, deadline.at)
            self.carry_out(self.runtime.handle_timer(now=self.now))
        self.unix += max(0, end - self.now)
        self.now = max(self.now, end)

    def step_back(self, a: int, b: int, c: int) -> None:
        self.now = max(START, self.now - a * SECOND)

    def set_clock(self, a: int, b: int, c: int) -> None:
        self.unix += (a - 128) * SECOND
        self.runtime.wall_clock_set(self.unix, now=self.now)
        self.carry_out(self.runtime.take())

    def tick(self, a: int, b: int, c: int) -> None:
        self.carry_out(self.runtime.handle_timer(now=self.now))

    def observers_set(self, a: int, b: int, c: int) -> None:
        self.runtime.observers_set(RIGHTS[a % len(RIGHTS)], now=self.now)
        self.carry_out(self.runtime.take())

    def shut_down(self, a: int, b: int, c: int) -> None:
        if b & 1 and self.config.journal:
            with suppress(LocalProtocolError):  # The runtime shuts down already.
                self.runtime.hand_over(a % 3, now=self.now)
        else:
            self.runtime.shut_down(a % 3, now=self.now)
        self.carry_out(self.runtime.take())

    def lag(self, a: int, b: int, c: int) -> None:
        self.durable = bool(b & 1)
        if self.config.journal and c & 1:
            self.runtime.persisted(self.runtime.record_count, now=self.now)
            self.carry_out(self.runtime.take())

    def crash(self, a: int, b: int, c: int) -> None:
        if self.config.journal and self.crashes < 3:
            self.crashes += 1
            seed, kept = bytes([self.crashes]) * 32, self.records[: self.runtime.persisted_count or None]
            self.runtime = Runtime.restore(self.config, kept, seed=seed, now=self.now, unix=self.unix)
            self.records = list(kept)
            self.clients, self.pending, self.jobs, self.holds = [], [], [], []
            self.carry_out(self.runtime.take())

    # Steps of these actions.

    def _say(self, number: int, message_type: str, payload: dict[str, Any]) -> None:
        frame = {"arcp": "1.1", "id": f"i{number}", "type": message_type, "payload": payload}
        self.send(number, msgspec.json.encode(frame), by_hand=False)

    def _client(self, number: int) -> Client | None:
        return self.clients[-1 if number == 255 else number % len(self.clients)] if self.clients else None

    def _of(self, connection: Connection) -> Client | None:
        return next((client for client in self.clients if client.connection is connection), None)

    def _job(self, number: int) -> JobId:
        return self.jobs[number % len(self.jobs)] if self.jobs else JobId("job_nobody")

    def _pull(self, client: Client) -> None:
        while envelopes := client.connection.envelopes_to_send():
            for envelope in envelopes:
                self._read(client, decode_frame(envelope))
        if client.connection.overrun:
            self.carry_out(client.connection.overran(now=self.now))

    def _read(self, client: Client, frame: Frame) -> None:
        ensure(frame.type in messages.TO_CLIENT, "an envelope has an unknown type")
        if frame.type == "session.welcome":
            client.token = frame.payload.get("resume_token", "")
        elif frame.type == "job.subscribed" or (frame.type == "job.accepted" and frame.job_id in client.over):
            client.again.append(frame.payload["job_id"])
        if frame.event_seq is None:
            return
        follows = client.last in (0, frame.event_seq - 1) or (client.lied and client.last < frame.event_seq)
        ensure(follows, "numbers are not consecutive on a connection")
        client.last = frame.event_seq
        if frame.type in ("job.event", *ENDS) and frame.job_id is not None:
            late = frame.job_id in client.over and frame.job_id not in client.again
            ensure(not late, "an envelope of a job follows its end")
            if frame.type in ENDS:
                client.over.append(frame.job_id)


TABLE: Final[dict[str, Callable[[Inputs, int, int, int], None]]] = {
    name: getattr(Inputs, name) for name in ACTIONS
}
"""The actions by name; the corpus uses the same names."""


def check(data: bytes) -> None:
    """Run one input; raises InvariantViolated if a check fails."""
    setup, actions = read(data)
    inputs = Inputs(config_of(*setup))
    for action in actions:
        if isinstance(action, Sent):
            inputs.send(*action)
        else:
            inputs.do(*action)
    number = crc32(data)
    if number % LOOKED_INTO == 0:
        inputs.look_into()
    inputs.end()
    if number % PLAYED == 0:
        play(data)


def play(data: bytes) -> None:
    """Run one input under the judge of `tests.properties`, which predicts every envelope."""
    setup, actions = read(data)
    judged = Play(config_of(*setup))
    for action in actions:
        if isinstance(action, Sent):
            judged.send(*action)
        else:
            judged.do(*action)
    judged.wind_down()
    judged.check_replay()


def read(data: bytes) -> tuple[tuple[int, int, int], list[Action | Sent]]:
    """Return the configuration and the actions that a text names."""
    setup = (0, 0, 0)
    actions: list[Action | Sent] = []
    for line in data.split(b"\n"):
        if line[:1] == b">" and line[1:2].isdigit():
            actions.append(Sent(int(line[1:2]), line[2:]))
            continue
        name, *numbers = line.split()[:4] or [b""]
        a, b, c = (_number(word) for word in (*numbers, b"", b"", b"")[:3])
        if name == b"setup":
            setup = (a, b, c)
        elif name.isascii() and name.decode() in ACTIONS:
            actions.append((name.decode(), a, b, c))
    return setup, actions[:MOST_ACTIONS]


def words() -> list[str]:
    """Return texts that inputs are likely to hold."""
    return [*(f"\n{name} 0 1 2\n" for name in ACTIONS), "setup ", *messages.TO_RUNTIME]


def _number(word: bytes) -> int:
    return int(word[:MOST_DIGITS]) % 256 if word[:MOST_DIGITS].isdigit() else 0


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
