"""One runtime with clients, agents, a journal and a clock that all do what numbers say.

Every action takes three numbers below 256 and chooses by them: a state machine draws them, a fuzzer reads
them from bytes, a corpus writes them down. After each action everything that must hold is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from arcp_proto.connection import Framing, Phase
from arcp_proto.errors import Denied, LocalProtocolError, ensure
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import KIB, Limits
from arcp_proto.output import Authenticate, StartJob
from arcp_proto.recording import record, replay
from arcp_proto.records import JobAccepted, JobForgotten, SessionEnded, SessionOpened
from arcp_proto.runtime import Runtime, RuntimeConfig
from tests.unit.world import AGENTS, FEATURES, UNIX, Peer, World

from . import structure
from .model import FRAME, Client, Work

T = TypeVar("T")

Action = tuple[str, int, int, int]
MOST_CLIENTS: Final = 6
GRACE: Final = 5 * SECOND
HELLOS: Final[Mapping[str, dict[str, Any]]] = {
    "": {},
    "java": {"client": {"name": "arcp-client-java", "version": "1"}},
    "typescript": {"hello_id": "msg_1"},
    "pypi": {"agents": []},
    "go": {"hello_id": "01972f3e-0000-7000-8000-000000000000"},
}
GARBAGE: Final = (b"{", b"[]", b"{}", b"\xff", b'{"type":5}', b"[" * 70, b'{"type":"zork"}', b"null", b"")
DISHONEST: Final = (
    b'{"type":"session.hello","payload":null}',
    b'{"type":"session.error","payload":{"code":"X"}}',
    b'{"type":"session.ack","payload":{"last_processed_seq":-1}}',
    b'{"type":"session.ack","payload":{"last_processed_seq":99999}}',
    b'{"type":"job.submit","payload":{"agent":["echo"]}}',
    b'{"type":"job.cancel","payload":{"job_id":"job_nobody"}}',
    b'{"type":"session.resume","payload":{"resume_token":"rt_x","last_event_seq":0}}',
    b'{"type":"session.list_jobs"}',
    b'{"type":"job.subscribe","payload":{"job_id":"x"}}',
    b'{"arcp":"2.0","type":"session.ping"}',
    b'{"type":"job.event","event_seq":1,"payload":{}}',
    b'{"type":"session.pong","id":"\\u0000"}',
)
TRACED: Final = {
    "x-vendor.opentelemetry.tracecontext": {
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        "tracestate": "v=" + "x" * 500,
    }
}


def config_of(a: int, b: int, c: int) -> RuntimeConfig:
    """One of many configurations: with and without a journal, a window, heartbeats, tight limits."""
    limits = Limits(
        session_events=16 if b & 1 else 10_000,
        session_bytes=200_000 if b & 2 else 16 * 1024 * KIB,
        control_envelopes=8 if b & 4 else 1_000,
        held_messages=2 if b & 8 else 64,
        running_jobs=3 if c & 1 else 1_000,
        result=100_000 if c & 2 else 64 * 1024 * KIB,
        retention=15 if c & 4 else 600,
        chunk=1_000 if c & 8 else 40 * KIB,
        message=80 * KIB,
    )
    return RuntimeConfig(
        name="play",
        version="1",
        agents=AGENTS,
        anonymous=True,
        journal=bool(a & 1),
        resume_window_sec=20 if a & 2 else 0,
        heartbeat_interval_sec=0 if a & 4 else 10,
        limits=limits,
    )


class Play:
    """The world, what is known of it, and the actions."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.config = config
        self.world = World(config, tokens=None)
        self.recording: list[str] | None = []
        record(self.world.runtime, self.recording.append, keep_secrets=True)
        self.clients: list[Client] = []
        self.pending: list[Authenticate] = []
        self.jobs: dict[JobId, Work] = {}
        self.drain_at: int | None = None
        self._forgotten: dict[JobId, None] = {}
        """Jobs of before a crash."""
        self._started: dict[JobId, None] = {}
        self._blind = False
        self._count = self._crashes = 0
        self._noted = 0

    def do(self, name: str, a: int = 0, b: int = 0, c: int = 0) -> None:
        """One action by its name, and every check."""
        runtime, made = self.world.runtime, len(self.world.records)
        before = runtime.snapshot() if self.config.journal else []
        getattr(self, name)(a, b, c)
        self._note()
        if self.world.runtime is runtime and len(self.world.records) > made:
            records = self.world.records[made:]
            passing = (SessionOpened, SessionEnded, JobAccepted, JobForgotten)
            changed = any(isinstance(fact, passing) for fact in records) or runtime.snapshot() != before
            ensure(changed, f"nothing has changed, and records were made: {records}")
        self.check()

    def send(self, number: int, data: bytes) -> None:
        """A client sends something that nobody has thought of: what it was promised is not known any more."""
        client = self._reader(number)
        if client is None:
            return
        self._blind = client.lied = client.erred = client.torn = True
        client.features = FEATURES
        client.peer.send_bytes(data)
        self._note()
        self.check()

    # Clients.

    def connect(self, a: int, b: int, c: int) -> None:
        if len(self._live()) < MOST_CLIENTS:
            peer = self.world.connect(Framing.LINES if a & 1 else Framing.MESSAGES)
            features = tuple(name for bit, name in enumerate(FEATURES) if not c >> bit & 1)
            self.clients.append(Client(peer, list(HELLOS)[b % len(HELLOS)], features))

    def hello(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is None:
            return
        if client.open:
            self._say(client, "session.hello", {"auth": {"token": "secret"}})
            return
        client.torn = False
        options = HELLOS[client.quirk]
        if b % 8 == 7:
            client.peer.hello(None, scheme="anonymous", features=client.features, **options)
        else:
            client.peer.hello("secret", features=client.features, **options)

    def verify(self, a: int, b: int, c: int) -> None:
        asked = _one(self.pending, a)
        if asked is not None:
            self.pending.remove(asked)
            who = (None, "alice", "alice", "bob")[b % 4]
            runtime = self.world.runtime
            self.world.carry_out(runtime.authenticated(asked.request, who, c % 16 == 15, now=self.world.now))

    def join(self, a: int, b: int, c: int) -> None:
        """A client that is welcomed at once."""
        count = len(self.clients)
        self.connect(a, b, c)
        if len(self.clients) > count:
            self.hello(255, 0, 0)
            self._note()
            self.verify(255, 1 + a % 3, 0)

    def submit(self, a: int, b: int, c: int) -> None:
        payload: dict[str, Any] = {"agent": ("echo", "plain", "echo@1.0.0", "echo", "zork")[b % 5]}
        if c & 1:
            payload["max_runtime_sec"] = (1, 5, 60, 0)[b // 5 % 4]
        if c & 2:
            payload["lease_request"] = {"cost.budget": ["USD:1.50"], "fs.read": ["/x/**"]}
        if c & 12 == 12:
            payload["lease_request"] = {"zork": []}
        if c & 16:
            payload["lease_constraints"] = {"expires_at": "2026-05-28T20:28:00Z"}
        client = self._reader(a)
        if client is not None:
            self._say(client, "job.submit", payload, extensions=TRACED if c & 32 else {})

    def cancel(self, a: int, b: int, c: int) -> None:
        client, work = self._reader(a), _one(list(self.jobs.values()), b)
        if client is None or work is None:
            return
        home = work.home.peer.connection.session
        alive = home is not None and home.id in self.world.runtime.sessions
        may = client is work.home or (client.principal == work.home.principal and not alive)
        if client.open and not client.torn and may and work.job_id in self.world.runtime.jobs:
            self._fix(work, self._now(), "CANCELLED")
        self._say(client, "job.cancel", {"job_id": work.job_id, "reason": "r" * (c % 3)})

    def ping(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is not None:
            self._say(client, "session.pong" if b & 1 else "session.ping", {"nonce": "n" * (c % 4)})

    def ack(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is None or "ack" not in client.features or not client.open:
            return
        session, seq = client.peer.connection.session, client.last
        if b % 8 == 7 and session is not None:
            client.lied, seq = True, session.log.last
        elif b % 8 == 6:
            seq //= 2
        self._say(client, "session.ack", {"last_processed_seq": seq})

    def close(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is not None:
            self._say(client, "session.bye" if b & 1 else "session.close", {"reason": "r"})

    def garbage(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is None:
            return
        data = GARBAGE[c % len(GARBAGE)]
        if client.peer.connection.framing is Framing.LINES and b & 1:
            client.peer.feed(data)
            client.torn = client.torn or data != b""
        else:
            client.peer.send_bytes(data)
            client.torn = False

    def lie(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is not None:
            message = DISHONEST[c % len(DISHONEST)]
            client.erred = client.erred or b"session.error" in message
            client.peer.send_bytes(message)
            client.torn = False

    def oversize(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is None:
            return
        connection = client.peer.connection
        if b & 1 and connection.framing is Framing.MESSAGES:
            self.world.carry_out(connection.too_large(now=self.world.now))
        else:
            client.peer.send_bytes(b"x" * (81 * KIB if b & 2 else 65 * KIB))
            client.torn = False

    # Transports.

    def drop(self, a: int, b: int, c: int) -> None:
        """The transport is gone, or was before."""
        client = _one(self.clients if b & 1 else self._live(), a)
        if client is not None:
            client.peer.drop()

    def close_transport(self, a: int, b: int, c: int) -> None:
        """A driver closes what it was told to."""
        client = _one([client for client in self._live() if client.peer.closing is not None], a)
        if client is not None:
            client.peer.pull()
            client.peer.drop()

    def block(self, a: int, b: int, c: int) -> None:
        client = _one(self._live(), a)
        if client is not None:
            connection = client.peer.connection
            report = connection.blocked if b & 1 else connection.drained
            self.world.carry_out(report(now=self.world.now))

    def read(self, a: int, b: int, c: int) -> None:
        """A driver stops reading, or reads again."""
        client = _one(self.clients, a)
        if client is not None:
            connection = client.peer.connection
            client.unread = not b & 1
            report = connection.stopped_reading if client.unread else connection.reads_again
            self.world.carry_out(report(now=self.world.now))

    def slow_down(self, a: int, b: int, c: int) -> None:
        client = _one(self._live(), a)
        if client is None:
            return
        if not client.peer.slow:
            client.peer.slow = client.ever_slow = True
        elif b & 1:
            client.peer.slow = False
            client.peer.pull()
        else:
            client.peer.pull(limit=1 + c % 5, size=c * 100)
        if client.peer.connection.overrun:
            self.world.carry_out(client.peer.connection.overran(now=self.world.now))

    # Agents.

    def emit(self, a: int, b: int, c: int) -> None:
        work = self._emitter(a)
        if work is None:
            return
        self._count += 1
        kind, body = (
            ("thought", {"text": str(self._count)}),
            ("progress", {"current": self._count}),
            ("metric", {"name": str(self._count), "value": c}),
            ("x-vendor.a.b", {"n": self._count, "filler": "x" * c * 200}),
        )[b % 4]
        if work.home.open and (kind != "progress" or "progress" in work.home.features):
            work.markers.append(self._count)
        self.world.emit(work.job_id, kind, body)

    def emit_badly(self, a: int, b: int, c: int) -> None:
        work = _one(list(self.jobs.values()), a)
        kind, body = (("zork", {}), ("log", {}), ("metric", {"name": "cost.x", "value": -1}))[b % 3]
        try:
            job_id = JobId("job_nobody") if work is None else work.job_id
            self.world.runtime.emit(job_id, kind, body, now=self.world.now)
        except LocalProtocolError:
            return
        raise AssertionError(f"{kind} {body} was emitted")

    def write(self, a: int, b: int, c: int) -> None:
        work = self._emitter(a)
        if work is None:
            return
        text = ("é" if b & 2 else "x") * (c * 300)
        work.binary = bool(b & 1) if work.binary is None else work.binary
        try:
            self.world.write(work.job_id, text.encode() if work.binary else text)
        except Denied:
            self._fix(work, self._now(), "INTERNAL_ERROR")
            self.world.take()
        else:
            work.written.append(text.encode())

    def finish(self, a: int, b: int, c: int) -> None:
        work = self._agent(a)
        if work is None:
            return
        value: Any = (None, {"x": c}, "x" * (c * 300), ["😀" * c * 80])[b % 4]
        self._ended(work, *self._ends_of(work, value))
        self.world.finish(work.job_id, value, "s" * (c % 3) or None)

    def fail(self, a: int, b: int, c: int) -> None:
        work = self._agent(a)
        if work is not None:
            self._ended(work, "X_MINE")
            self.world.fail(work.job_id, "X_MINE", "m" * c)

    def stop(self, a: int, b: int, c: int) -> None:
        work = self._agent(a)
        if work is not None:
            self._ended(work, "INTERNAL_ERROR")
            self.world.stopped(work.job_id)

    # Time, the host, the journal.

    def wait(self, a: int, b: int, c: int) -> None:
        seconds = (0.2, 1, 3, 6, 12, 25)[a % 6]
        end = self.world.now + int(seconds * SECOND)
        for work in self.jobs.values():
            if not work.ended:
                self._wait_for(work, end)
        if self.drain_at is not None and self.drain_at <= end:
            self.drain_at = None
        self.world.advance(seconds)

    def step_back(self, a: int, b: int, c: int) -> None:
        self.world.now -= a * SECOND // 10

    def set_clock(self, a: int, b: int, c: int) -> None:
        self.world.runtime.wall_clock_set(UNIX + (a - 128) * 60 * SECOND, now=self.world.now)
        self.world.take()

    def tick(self, a: int, b: int, c: int) -> None:
        """The timer is called although nothing is due."""
        deadline = self.world.runtime.deadline()
        if deadline is None or deadline.at > max(self.world.now, self.world.runtime.now):
            self.world.carry_out(self.world.runtime.handle_timer(now=self.world.now))

    def shut_down(self, a: int, b: int, c: int) -> None:
        if c % 8:
            return  # Not in every run.
        runtime, drain = self.world.runtime, (0, 2, 30)[a % 3]
        at = self._now() + drain * SECOND
        if drain == 0:
            for work in self.jobs.values():
                self._fix(work, at, "INTERNAL_ERROR")
            self.drain_at = None
        elif self.drain_at is None or at < self.drain_at:
            self.drain_at = at
        runtime.shut_down(drain, now=self.world.now)
        self.world.take()

    def lag(self, a: int, b: int, c: int) -> None:
        """The journal stops keeping up, catches up in part, or wholly."""
        runtime = self.world.runtime
        if not self.config.journal:
            return
        self.world.durable = b % 3 == 2
        if b % 3 == 1:
            behind = runtime.record_count - runtime.persisted_count
            runtime.persisted(runtime.persisted_count + a % (behind + 1), now=self.world.now)
            self.world.take()
        elif b % 3 == 2:
            self.world.persist()

    def crash(self, a: int, b: int, c: int) -> None:
        """The process dies with what was not durable, and comes back from the rest."""
        if not self.config.journal or c % 4:
            return
        self.check_replay()
        self.recording = None
        world, old = self.world, self.world.runtime
        behind = old.record_count - old.persisted_count
        durable = world.records[: len(world.records) - behind]
        self._crashes += 1
        seed = bytes([a, self._crashes]) * 16
        runtime = Runtime.restore(self.config, durable, seed=seed, now=world.now, unix=UNIX + world.now)
        self._check_told(runtime)
        if not behind:
            kept = old.snapshot()
            again = Runtime.restore(self.config, kept, seed=seed, now=world.now, unix=UNIX + world.now)
            ensure(again.snapshot() == runtime.snapshot(), "a snapshot is not what all records make")
            if b & 1:
                runtime, durable = again, kept
        self.world = World(self.config, tokens=None, runtime=runtime)
        self.world.now, self.world.records = world.now, list(durable)
        self._forgotten.update(dict.fromkeys(runtime.jobs))
        self.clients, self.pending, self.jobs = [], [], {}
        self.drain_at = None
        self._noted = 0
        self.world.take()

    # What holds at any time.

    def check(self) -> None:
        """Raise unless everything holds."""
        for client in self.clients:
            client.see()
            if not client.peer.slow:
                client.see_end()
        if not self._blind:
            self._check_promises()
        aborted = [connection for connection, peer in self.world.peers.items() if _aborted(peer)]
        structure.check(self.world.runtime, aborted=aborted, drain=self.drain_at is not None)

    def _check_promises(self) -> None:
        for work in self.jobs.values():
            work.check()
            if self._caught_up(work.home):
                work.check_all()
        for client in self.clients:
            if self._caught_up(client):
                ensure(client.lied or not client.asked, f"{client.asked} were never answered")

    def check_replay(self) -> None:
        """The recording makes the same machine again, and the same bytes."""
        if self.recording is None:
            return
        again, world = replay(self.recording), self.world
        ensure(again.machine.timers.keys() == world.runtime.timers.keys(), "a replay has other timers")
        made = [fact for output in again.outputs for fact in output.records]
        ensure(made == world.records, "a replay makes other records")
        asked = [str(request) for output in again.outputs for request in output.requests]
        ensure(asked == [str(request) for request in world.requests], "a replay asks for other things")
        happened = [str(event) for output in again.outputs for event in output.events]
        ensure(happened == [str(event) for event in world.events], "other things happen in a replay")
        for client in self.clients:
            number, sent = client.peer.connection.number, client.peer.raw
            theirs = [envelope for owner, envelope in again.envelopes if owner == number]
            if client.ever_slow:  # Answers and events may stand otherwise, or have been lost to a close.
                sent = [raw for raw in sent if b'"event_seq"' in raw]
                theirs = [raw for raw in theirs if b'"event_seq"' in raw][: len(sent)]
            ensure(theirs == sent or client.lied, "a replay sends other bytes")

    def _check_told(self, runtime: Runtime) -> None:
        """What a client was told has survived."""
        for client in self.clients:
            client.see()
            for job_id in client.accepted:
                job = runtime.jobs.get(JobId(job_id))
                if job is not None and job_id in client.ends:
                    expected = {"CANCELLED": "cancelled", "TIMEOUT": "timed_out", "success": "success"}
                    status = expected.get(client.ends[job_id], "error")
                    ensure(job.status.value == status, "an end that was told did not survive")
                ensure(
                    job is not None or JobId(job_id) not in self.jobs or self._is_forgotten(job_id),
                    "an accepted job did not survive",
                )
        ensure(not runtime.unfinished and not runtime.running, "a job survived its agent")

    def _is_forgotten(self, job_id: str) -> bool:
        return any(isinstance(fact, JobForgotten) and fact.job_id == job_id for fact in self.world.records)

    def _caught_up(self, client: Client) -> bool:
        runtime = self.world.runtime
        durable = runtime.persisted_count == runtime.record_count
        return client.open and durable and not client.peer.slow and not client.peer.connection.overrun

    # Below: choosing, and what is known.

    def _live(self) -> list[Client]:
        return [client for client in self.clients if client.peer.connection.phase is not Phase.CLOSED]

    def _reader(self, number: int) -> Client | None:
        """A client whose transport may deliver something."""
        client = _one(self._live(), number)
        if client is None or client.unread or not client.peer.connection.reading:
            return None
        return client

    def _agent(self, number: int) -> Work | None:
        """A job whose agent runs."""
        running = [work for work in self.jobs.values() if not work.stopped and work.job_id in self._started]
        return _one(running, number)

    def _emitter(self, number: int) -> Work | None:
        """A job whose agent runs and whose end is not out."""
        work = self._agent(number)
        return None if work is None or work.ended else work

    def _say(self, client: Client, message_type: str, payload: dict[str, Any], **fields: Any) -> None:
        self._count += 1
        request_id = f"ask{self._count}"
        silent = message_type == "job.cancel" and client.quirk in ("typescript", "pypi")
        if client.open and not client.torn and message_type in ("job.submit", "job.cancel") and not silent:
            client.asked[request_id] = message_type
        client.torn = False
        client.peer.send(message_type, payload, id=request_id, **fields)

    def _now(self) -> int:
        """What the runtime takes for the time of the next input."""
        return max(self.world.now, self.world.runtime.now)

    def _fix(self, work: Work, at: int, *codes: str) -> None:
        """How a job ends, unless that was decided, and when at the latest."""
        if not work.outcomes:
            work.fix(*codes)
            work.grace_at = at + GRACE

    def _ended(self, work: Work, *codes: str) -> None:
        """The agent is over, and with it its job."""
        work.fix(*codes)
        work.stopped = work.ended = True

    def _wait_for(self, work: Work, end: int) -> None:
        """What the time until `end` does to an unfinished job."""
        due = [(work.deadline, "TIMEOUT"), (self.drain_at, "INTERNAL_ERROR")]
        times = [at for at, _ in due if at is not None and at <= end]
        if times:
            first = min(times)
            self._fix(work, first, *[code for at, code in due if at == first])
        if work.grace_at is not None and work.grace_at <= end:
            work.ended = True

    def _ends_of(self, work: Work, value: Any) -> tuple[str, ...]:
        """How a job may end whose agent returns a value; near the limit of a frame either way."""
        streamed = work.binary is not None
        if streamed and value is not None:
            return ("INTERNAL_ERROR",)
        size = sum(map(len, work.written)) * 4 // 3 if streamed else len(msgspec.json.encode(value))
        if not streamed and size > max(self.config.limits.result, FRAME):
            return ("INTERNAL_ERROR",)
        if work.home.open and "result_chunk" not in work.home.features and size > FRAME // 2 - KIB:
            return ("success", "INTERNAL_ERROR")
        return ("success",)

    def _note(self) -> None:
        """Take notice of what was asked for and accepted."""
        runtime = self.world.runtime
        for request in self.world.requests[self._noted :]:
            if isinstance(request, Authenticate):
                self.pending.append(request)
            elif isinstance(request, StartJob):
                self._started[request.job_id] = None
        self._noted = len(self.world.requests)
        for client in self.clients:
            if client.peer.connection.session is not None:
                client.principal = client.peer.connection.session.principal
        for job in runtime.jobs.values():
            if job.id not in self.jobs and job.id not in self._forgotten:
                seconds = job.terms.max_runtime_sec
                deadline = None if seconds is None else runtime.now + seconds * SECOND
                self.jobs[job.id] = Work(job.id, self._home(job.terms.session_id), deadline)

    def _home(self, session_id: str) -> Client:
        for client in self.clients:
            session = client.peer.connection.session
            if session is not None and session.id == session_id:
                return client
        raise AssertionError("a job without a client")


ACTIONS: Final[Sequence[str]] = (
    *("join", "connect", "hello", "verify", "submit", "cancel", "ping", "ack", "close"),
    *("garbage", "lie", "oversize", "drop", "close_transport", "block", "read", "slow_down"),
    *("emit", "emit_badly", "write", "finish", "fail", "stop"),
    *("wait", "step_back", "set_clock", "tick", "shut_down", "lag", "crash"),
)
"""What may happen; a corpus names them, a fuzzer counts them."""


def _aborted(peer: Peer) -> bool:
    return peer.closing is not None and peer.closing.abort


def _one(items: Sequence[T], number: int) -> T | None:
    """One of several: 255 is the last."""
    if not items:
        return None
    return items[-1] if number == 255 else items[number % len(items)]


def run(setup: Sequence[int], actions: Sequence[Action]) -> Play:
    """Everything from the beginning, and a replay at the end."""
    play = Play(config_of(*setup))
    for name, a, b, c in actions:
        play.do(name, a, b, c)
    play.check_replay()
    return play
