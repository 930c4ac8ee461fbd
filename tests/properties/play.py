"""One runtime with clients, agents, a journal and a clock that all do what numbers say.

Every action takes three numbers below 256 and chooses by them: a state machine draws them, a fuzzer reads
them from bytes, a corpus writes them down. After each action everything that must hold is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec

from arcp_proto import Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.errors import Denied, LocalProtocolError, ensure
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import KIB, Limits
from arcp_proto.recording import replay
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import (
    JobAcceptedRecord,
    JobForgotten,
    Observed,
    Record,
    SessionEnded,
    SessionOpened,
    TokenIssued,
    TokenProven,
    encode_record,
)
from tests.reference.wire import FRAME
from tests.unit.world import AGENTS, FEATURES, UNIX

from . import structure
from .judge import BUDGETED, Judge
from .model import Asked, Attempt, Client
from .restart import check_survives, restart
from .streams import Work

T = TypeVar("T")

Action = tuple[str, int, int, int]
MOST_CLIENTS: Final = 6
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
    b'{"type":"session.list_jobs","payload":{"cursor":"AAAAAAAAAAE="}}',
    b'{"type":"job.subscribe","payload":{"job_id":"x"}}',
    b'{"type":"job.unsubscribe","payload":{"job_id":"x"}}',
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
EXPIRES: Final = ("2026-05-28T20:28:00Z", UNIX + 80 * SECOND)
TOKEN: Final = re.compile(rb"rt_[0-9A-Za-z_-]{43}")
RIGHTS: Final[Sequence[dict[str, dict[str, str]]]] = (
    {},
    {"bob": {"alice": "observe"}},
    {"bob": {"*": "list"}, "alice": {"bob": "observe"}},
    {"alice": {"*": "observe", "bob": "list"}},
)


def config_of(a: int, b: int, c: int) -> RuntimeConfig:
    """Return one of many configurations: with and without a journal, a window, heartbeats, tight limits."""
    limits = Limits(
        max_session_events=16 if b & 1 else 10_000,
        max_session_bytes=200_000 if b & 2 else 16 * 1024 * KIB,
        max_control_envelopes=8 if b & 4 else 1_000,
        max_held_messages=2 if b & 8 else 64,
        max_total_running_jobs=3 if c & 1 else 1_000,
        max_principal_running_jobs=2 if c & 16 else 500,
        max_principal_sessions=3 if c & 16 else 64,
        max_result_bytes=100_000 if c & 2 else 64 * 1024 * KIB,
        retention_sec=15 if c & 4 else 600,
        max_chunk_bytes=1_000 if c & 8 else 40 * KIB,
        max_message_bytes=80 * KIB,
        max_history_events=8 if a & 8 else 10_000,
        max_history_bytes=100_000 if b & 16 else 4 * 1024 * KIB,
        max_principal_events=60 if a & 16 else 100_000,
        max_total_events=90 if a & 16 else 1_000_000,
        max_total_bytes=400_000 if b & 32 else 256 * 1024 * KIB,
        back_pressure_events=5 if a & 32 else 1_000,
        max_session_replies=2 if a & 64 else 64,
        max_session_subscriptions=2 if a & 64 else 1_000,
        max_page_jobs=3 if a & 128 else 1_000,
        max_backlog_events=2 if a & 128 else 256,
        idempotency_retention_sec=30 if b & 64 else 24 * 3600,
        max_principal_idempotency_keys=2 if b & 64 else 100_000,
        max_principal_finished_jobs=3 if b & 128 else 10_000,
        max_total_finished_jobs=4 if b & 128 else 100_000,
    )
    return RuntimeConfig(
        name="play",
        version="1",
        agents=(*AGENTS, AgentInfo("again", restartable=True)),
        anonymous=True,
        journal=bool(a & 1),
        resume_window_sec=20 if a & 2 else 0 if c & 32 else 60,
        heartbeat_interval_sec=0 if a & 4 else 10,
        observers=RIGHTS[c // 64],
        limits=limits,
    )


class Play(Judge):
    """The world, what is known of it, and the actions."""

    def do(self, name: str, a: int = 0, b: int = 0, c: int = 0) -> None:
        """Carry out one action by its name, and all checks."""
        runtime, made = self.world.runtime, len(self.world.records)
        sampled = self.config.journal and c % 8 == 0
        before = list(map(encode_record, runtime.snapshot())) if sampled else []
        getattr(self, name)(a, b, c)
        self.note()
        if sampled and self.world.runtime is runtime and len(self.world.records) > made:
            records = self.world.records[made:]
            passing = (SessionOpened, SessionEnded, JobAcceptedRecord, JobForgotten, Observed)
            changed = any(isinstance(fact, passing) for fact in records)
            changed = changed or list(map(encode_record, runtime.snapshot())) != before
            ensure(changed, f"nothing has changed, and records were made: {records}")
        self.check()

    def send(self, number: int, data: bytes) -> None:
        """Send bytes of any kind from a client: its further frames and answers cannot be predicted."""
        client = self._reader(number)
        if client is None:
            return
        self.blind = client.lied = client.erred = client.torn = True
        client.peer.send_bytes(data)
        self.note()
        self.check()

    # Clients.

    def connect(self, a: int, b: int, c: int) -> None:
        if len(self._live()) < MOST_CLIENTS:
            peer = self.world.connect(Framing.LINES if a & 1 else Framing.MESSAGES)
            offered = enumerate((*FEATURES, BUDGETED))
            features = tuple(name for bit, name in offered if not c >> bit & 1)
            features += (Feature.POSITIONS,) if a & 2 else ()
            self.clients.append(Client(peer, list(HELLOS)[b % len(HELLOS)], features))

    def hello(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is None:
            return
        if client.peer.connection.phase is not Phase.AWAITING_HELLO:
            self._say(client, "session.hello", {"auth": {"token": "secret"}}, ("INVALID_REQUEST",))
            return
        torn, client.torn = client.torn, False
        options = HELLOS[client.quirk]
        client.anonymous = b % 8 == 7 and not torn
        if client.anonymous:
            client.peer.hello(None, scheme="anonymous", features=client.features, **options)
        else:
            client.peer.hello("secret", features=client.features, **options)
        if client.open:
            self.welcomed(client)

    def verify(self, a: int, b: int, c: int) -> None:
        asked = _one(self.pending, a)
        if asked is None:
            return
        self.pending.remove(asked)
        client = self.client_of(connection_state(asked.connection).number)
        who = (None, "alice", "alice", "bob")[b % 4]
        if client is not None and client.attempt is not None and c % 8:
            known = self.find(client.attempt)
            who = who if known is None else known[0].principal
        expires = self.wall + (5, 30)[c >> 6 & 1] * SECOND if c & 32 else None
        self.answer(asked, client, who, failed=c % 16 == 15, expires=expires)

    def join(self, a: int, b: int, c: int) -> None:
        """Connect a client, and welcome it at once."""
        count = len(self.clients)
        self.connect(a, b, c)
        if len(self.clients) > count:
            self.hello(255, 0, 0)
            self.note()
            self.verify(255, 1 + a % 3, 0)

    def resume(self, a: int, b: int, c: int) -> None:
        """Resume a session with a valid or an invalid token, as its client or as another one."""
        line = _one([line for line in self.lines.values() if line.welcomed], a)
        if line is None or len(self._live()) >= MOST_CLIENTS:
            return
        others = [token.text for one in self.lines.values() for token in one.tokens if token.text]
        mine = [token.text for token in line.tokens if token.text]
        old = _one(line.known[:-1], c)
        token = (None, None, None, old, old, _one(self.old_tokens, c), _one(others, c), "rt_x")[b % 8]
        token = token or (mine[-1] if mine else "rt_x")
        cursor = (line.received, line.received, line.received, line.received, 0)[c % 5]
        cursor = (cursor, cursor, cursor, line.received // 2, line.last, line.last + 1)[c // 5 % 6]
        session_id = (line.session_id, None, None, "sess_x")[c // 32 % 4] if c % 3 else None
        form, replies = b // 8 % 4, bool(b & 32) and b // 8 % 4 != 1
        anonymous = line.principal.startswith("anonymous-")
        peer = self.world.connect(Framing.LINES if b & 64 else Framing.MESSAGES)
        client = Client(peer, line.quirk, line.features, anonymous=anonymous)
        bearer = form != 3 and not (anonymous and form < 2)
        asked = None if form == 1 else session_id
        attempt = Attempt(token, asked, cursor, replies, bearer, lines=bool(b & 64))
        client.attempt = attempt
        self.clients.append(client)
        expected = None if bearer else self.judge_resume(attempt, None, alone=True)
        self._ask_to_resume(client, attempt, form)
        self.note()
        if client.peer.connection.phase is not Phase.AUTHENTICATING:
            if expected is not None:
                self.settle(client, expected)
        elif b < 192:
            self.verify(255, 1 + c % 3, c | 1)

    def _ask_to_resume(self, client: Client, attempt: Attempt, form: int) -> None:
        asked: dict[str, Any] = {"resume_token": attempt.token, "last_event_seq": attempt.cursor}
        if attempt.session_id is not None:
            asked["session_id"] = attempt.session_id
        if attempt.replies:
            asked["replies"] = True
        scheme = {"scheme": "bearer", "token": "secret"} if attempt.bearer else {"scheme": "anonymous"}
        if form == 0:
            payload: dict[str, Any] = {"auth": scheme, "resume": asked}
        elif form == 1:
            payload = {"auth": scheme, **asked}
        else:
            payload = asked if form == 3 else {"auth": scheme, **asked}
        client.peer.send("session.resume" if form > 1 else "session.hello", payload, id="resume")

    def submit(self, a: int, b: int, c: int) -> None:
        agent = ("echo", "plain", "echo@1.0.0", "again", "zork", "again")[b % 6]
        payload: dict[str, Any] = {"agent": agent, "input": c % 4}
        if c & 1:
            payload["max_runtime_sec"] = (1, 5, 60, 0)[b // 5 % 4]
        if c & 2:
            payload["lease_request"] = {"cost.budget": ["USD:1.50"], "fs.read": ["/x/**"]}
        if c & 12 == 12:
            payload["lease_request"] = {"zork": []}
        if c & 16:
            payload["lease_constraints"] = {"expires_at": EXPIRES[0]}
        if b >= 128:
            payload = {"agent": ("echo", "again", "plain")[c % 3], "idempotency_key": f"k{c % 3}"}
            if c >= 192:
                payload["input"] = 1
        client = self._reader(a)
        if client is not None:
            extensions = TRACED if c & 32 else {}
            self._submit(client, payload, f"ask{self._next()}", extensions=extensions)

    def resend(self, a: int, b: int, c: int) -> None:
        """Repeat a request that was never answered, after a resume."""
        client = self._reader(a)
        if client is None or not self._acts(client) or not (client.replies and client.honest):
            return
        line = client.line
        if line is None or line.lied:
            return
        again = {key: one[2] for key, one in line.carried.items() if one[1] >= line.seen} | line.outstanding
        request_id = _one([key for key in again if key not in client.asked], b)
        if request_id is not None:
            self._submit(client, again[request_id], request_id, again=True)

    def _submit(
        self,
        client: Client,
        payload: dict[str, Any],
        request_id: str,
        *,
        again: bool = False,
        **fields: Any,
    ) -> None:
        line, jobs = client.line, list(self.world.state.jobs)
        if line is None or not self._acts(client):
            if "idempotency_key" not in payload:  # It may be held.
                client.loose[request_id] = None
                self._send(client, "job.submit", payload, request_id, **fields)
            return
        carried = line.carried[request_id][0] if again and request_id in line.carried else None
        may: tuple[str, ...]
        job_id: JobId | None
        if carried is not None and carried in self.works:
            job_id, may = carried, (self.judge_again(line, self.works[carried], payload, request_id),)
        else:
            may, job_id = self.judge_submit(line, payload)
            if job_id is not None:
                self.join_job(line, job_id, request_id, payload)
        cap = "" if self.draining else self.cap_of(line, "idempotency_key" in payload)
        check = self.accepted(line, job_id)
        if may != ("",):
            client.asked[request_id] = Asked("job.submit", may, check, line.last, payload, cap)
        self._send(client, "job.submit", payload, request_id, **fields)
        new = [job_id for job_id in self.world.state.jobs if job_id not in jobs]
        ensure(len(new) == (may == ("job.accepted",) and job_id is None), f"{new} after {may}")
        if new:
            line.answers.append(request_id)
            line.carried[request_id] = (new[0], line.last, payload)
            if "idempotency_key" in payload:
                key = payload["idempotency_key"]
                self.keys[line.principal, key] = (payload, new[0])
                self.claims[line.principal, key, new[0]] = payload

    def cancel(self, a: int, b: int, c: int) -> None:
        client, work = self._reader(a), _one(list(self.works.values()), b)
        if client is None or work is None or not self._acts(client) or client.line is None:
            return
        line, request_id = client.line, f"ask{self._next()}"
        code = self.judge_cancel(line, work)
        if code is None:
            line.cancels[request_id] = work.job_id
            client.asked[request_id] = Asked("job.cancel", ("job.cancelled",), _over(work.ended))
            if not work.ended:
                self.fix(work, self.now, "CANCELLED")
                work.ended |= work.left and work.stopped  # There is no agent to wait for.
        elif line.quirk not in ("typescript", "pypi"):
            client.asked[request_id] = Asked("job.cancel", (code,), None, line.last)
        payload = {"job_id": work.job_id, "reason": "r" * (c % 3)}
        self._send(client, "job.cancel", payload, request_id)

    def subscribe(self, a: int, b: int, c: int) -> None:
        client, work = self._reader(a), _one(list(self.works.values()), b)
        if client is None or work is None or not self._acts(client) or client.line is None:
            return
        line, places = client.line, work.places(a, c, told=Feature.POSITIONS in client.line.features)
        payload = {"job_id": work.job_id, "history": bool(c & 1), **places}
        code = self.judge_subscribe(line, work)
        after, position = places.get("from_event_seq", 0) if c & 1 else None, places.get("from_job_seq")
        check = None if code else self.subscribed(line, work, after, position)
        may = () if code and self.is_silent(line, work.job_id) else (code or "job.subscribed",)
        request_id = self._say(client, "job.subscribe", payload, may, check)
        if not code:
            line.answers.append(request_id)

    def unsubscribe(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        line = None if client is None else client.line
        if client is None or line is None or not self._acts(client):
            return
        observed = [self.works[JobId(job)] for job in line.streams.observed]
        work = _one(observed if c % 4 else list(self.works.values()), b)
        if work is not None:
            may = () if "subscribe" in line.features else ("INVALID_REQUEST",)
            if not may:
                line.streams.left(work.job_id)
            self._say(client, "job.unsubscribe", {"job_id": work.job_id}, may)

    def list_jobs(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is None or client.line is None or not self._acts(client):
            return
        payload, may, check = self.listing(client.line, b, c)
        may = () if "session.jobs" not in may and self.is_silent(client.line) else may
        self._say(client, "session.list_jobs", payload, may, check)

    def ping(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is not None:
            self._say(client, "session.pong" if b & 1 else "session.ping", {"nonce": "n" * (c % 4)})

    def pong(self, a: int, b: int, c: int) -> None:
        """Answer a ping that a client has received."""
        client = self._reader(a)
        if client is not None and client.nonces and self._acts(client):
            self.proved(client)
            self._say(client, "session.pong", {"ping_nonce": client.nonces[b % len(client.nonces)]})

    def ack(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        line = None if client is None else client.line
        if client is None or line is None or not line.acking or not self._acts(client):
            return
        seq = client.last
        if b % 16 == 15:
            client.lied = line.lied = line.blind = True
            seq = line.last
        elif b % 8 == 6:
            seq = line.last + 1
        elif b % 8 == 5:
            seq //= 2
        may = ("INVALID_REQUEST",) if seq > line.last else ()
        if not may and seq > client.cursor:
            self.proved(client)
        if not may:
            line.acked, line.seen = max(line.acked, seq), max(line.seen, seq)
            if line.last - line.acked <= self.config.limits.back_pressure_events:
                line.told = False
        self._say(client, "session.ack", {"last_processed_seq": seq}, may)

    def close(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is not None:
            self._say(client, "session.bye" if b & 1 else "session.close", {"reason": "r"})

    def garbage(self, a: int, b: int, c: int) -> None:
        client = self._reader(a)
        if client is None:
            return
        data = GARBAGE[c % len(GARBAGE)]
        if connection_state(client.peer.connection).framing is Framing.LINES and b & 1:
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
        if b & 1 and connection_state(connection).framing is Framing.MESSAGES:
            self.world.carry_out(connection.too_large(now=self.world.now))
        else:
            client.peer.send_bytes(b"x" * (81 * KIB if b & 2 else 65 * KIB))
            client.torn = False

    # Transports.

    def drop(self, a: int, b: int, c: int) -> None:
        """Drop the transport of a client, which may be closed already."""
        client = _one(self.clients if b & 1 else self._live(), a)
        if client is not None:
            client.peer.drop()

    def close_transport(self, a: int, b: int, c: int) -> None:
        """Close the transport of a client as the runtime has requested."""
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
        """Stop reading from a client, or read again."""
        client = _one(self.clients, a)
        if client is not None:
            connection = client.peer.connection
            client.unread = not b & 1
            self.world.carry_out(connection.stopped_reading(client.unread, now=self.world.now))

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

    # Agents.

    def emit(self, a: int, b: int, c: int) -> None:
        work = self._emitter(a)
        if work is None:
            return
        count = self._next()
        kind, body = (
            ("thought", {"text": str(count)}),
            ("progress", {"current": count}),
            ("metric", {"name": str(count), "value": c}),
            ("x-vendor.a.b", {"n": count, "filler": "x" * c * 200}),
        )[b % 4]
        work.markers.append(count)
        self.world.emit(work.job_id, kind, body)

    def flood(self, a: int, b: int, c: int) -> None:
        """Many events of one job at once."""
        work = self._emitter(a)
        if work is None:
            return
        for _ in range(1 + b % 24):
            work.markers.append(self._next())
            body = {"n": work.markers[-1], "filler": "x" * c}
            self.world.runtime.agents.emit(work.job_id, "x-vendor.a.b", body, now=self.world.now)
            if not self.world.durable:  # What may be sent depends on when it was taken.
                self.world.take()
        self.world.take()

    def emit_badly(self, a: int, b: int, c: int) -> None:
        work = _one(list(self.works.values()), a)
        kind, body = (("zork", {}), ("log", {}), ("metric", {"name": "cost.x", "value": -1}))[b % 3]
        try:
            job_id = JobId("job_nobody") if work is None else work.job_id
            self.world.runtime.agents.emit(job_id, kind, body, now=self.world.now)
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
            self.fix(work, self.now, "INTERNAL_ERROR")
            self.world.take()
        else:
            work.written.append(text.encode())
            work.streamed = work.streamed or bool(text)

    def ask(self, a: int, b: int, c: int) -> None:
        """Ask for an operation that the lease allows or refuses, or for a tool, which no lease allows."""
        work = self._emitter(a)
        if work is None:
            return
        runtime, now, job_id = self.world.runtime, self.world.now, work.job_id
        allowed = b % 3 == 0 and work.money is not None
        expected = self.gate(work, allowed)
        if expected == "LEASE_EXPIRED":
            self.fix(work, self.now, expected)
        try:
            if b % 3 == 2:
                self.world.emit(job_id, "tool_call", {"tool": "t", "args": c, "call_id": "c"})
            else:
                runtime.agents.authorize(job_id, "fs.read", "/x/y" if b % 3 == 0 else "/y", now=now)
        except Denied as denied:
            ensure(denied.code == expected, f"{denied.code} and not {expected}")
        else:
            ensure(not expected, f"it was allowed, and not {expected}")
        self.world.take()

    def spend(self, a: int, b: int, c: int) -> None:
        """Report a cost, reserve, settle a reservation, or release it, as an agent."""
        work = self._emitter(a)
        if work is None:
            return
        runtime, now, job_id, amount = self.world.runtime, self.world.now, work.job_id, Decimal(c) / 256
        hold = _one(list(work.holds), a)
        if b % 4 == 0:
            work.markers.append(self._next())
            body = {"name": f"cost.{self.count}", "value": amount if b & 4 else float(amount), "unit": "USD"}
            self.world.emit(job_id, "metric", body)
            self._pay(work, amount)
        elif b % 4 == 1 or hold is None:
            self._reserve(work, amount)
        elif b % 4 == 2:
            work.markers.append(self._next())
            runtime.agents.settle(job_id, hold, amount, f"cost.{self.count}", now=now)
            del work.holds[hold]
            self._pay(work, amount)
        else:
            runtime.agents.release(job_id, hold, now=now)
            del work.holds[hold]
        self.world.take()
        left, free = (
            (None, None) if work.money is None else (work.money, work.money - sum(work.holds.values()))
        )
        budget = state_of(runtime).jobs[job_id].budget
        ensure(budget.left("USD") == left and budget.free("USD") == free, "a counter is not exact")

    def _pay(self, work: Work, amount: Decimal) -> None:
        if work.money is not None:
            work.money -= amount

    def _reserve(self, work: Work, amount: Decimal) -> None:
        free = None if work.money is None else work.money - sum(work.holds.values())
        expected = self.gate(work, True)
        if not expected and free is not None and amount > free:
            expected = "BUDGET_EXHAUSTED"
        if expected == "LEASE_EXPIRED":
            self.fix(work, self.now, expected)
        try:
            hold = self.world.runtime.agents.reserve(work.job_id, "USD", amount, now=self.world.now)
        except Denied as denied:
            ensure(denied.code == expected, f"{denied.code} and not {expected}")
        else:
            ensure(not expected and hold not in work.holds, f"it was reserved, and not {expected}")
            if work.money is not None:
                work.holds[hold] = amount

    def finish(self, a: int, b: int, c: int) -> None:
        work = self._agent(a)
        if work is None:
            return
        value: Any = (None, {"x": c}, "x" * (c * 300), ["😀" * c * 80])[b % 4]
        if work.leaving and not work.outcomes and len(self._ends_of(work, value)) > 1:
            return  # Whether it ends is as open as how.
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
        self.pass_time((0.2, 1, 3, 6, 12, 25)[a % 6])

    def step_back(self, a: int, b: int, c: int) -> None:
        self.world.now -= a * SECOND // 10

    def set_clock(self, a: int, b: int, c: int) -> None:
        self.clock_moves()
        self.world.runtime.wall_clock_set(UNIX + (a - 128) * 60 * SECOND, now=self.world.now)
        self.world.take()
        self.clock_moved()
        self.pass_time(0)

    def tick(self, a: int, b: int, c: int) -> None:
        """Call the timer, whether or not a deadline is due."""
        self.world.carry_out(self.world.runtime.handle_timer(now=self.world.now))

    def observers_set(self, a: int, b: int, c: int) -> None:
        """Change the rights of observers, as the host."""
        self.observers = RIGHTS[a % len(RIGHTS)]
        self.world.runtime.observers_set(self.observers, now=self.world.now)
        self.world.take()

    def host_cancel(self, a: int, b: int, c: int) -> None:
        """Cancel a job of any submitter, as the host."""
        work = _one(list(self.works.values()), a)
        if work is None or work.gone:
            return
        decides = not (work.ended or work.outcomes)
        if not work.ended:
            self.fix(work, self.now, "CANCELLED")
            work.ended |= work.left and work.stopped  # There is no agent to wait for.
        job_id, reason = work.job_id, "r" * (b % 3)
        cancelled = self.world.runtime.jobs.cancel(job_id, reason, now=self.world.now)
        ensure(cancelled == decides, f"a cancel by the host decided: {cancelled}")
        self.world.take()

    def shut_down(self, a: int, b: int, c: int) -> None:
        if c % 8:
            return  # Not in every run.
        drain = (0, 2, 30)[a % 3]
        at = self.now + drain * SECOND
        self.draining = True
        if drain == 0:
            for work in self.works.values():
                if self.starts_again(work):
                    self.leave(work, at)
                elif not (work.ended or work.left):
                    self.fix(work, at, "INTERNAL_ERROR")
            self.drain_at = None
        elif self.drain_at is None or at < self.drain_at:
            self.drain_at = at
        self.world.runtime.shut_down(drain, now=self.world.now)
        self.world.take()

    def lag(self, a: int, b: int, c: int) -> None:
        """Let the journal fall behind, catch up in part, or catch up."""
        runtime = self.world.runtime
        if not self.config.journal:
            return
        check_survives(self)
        self.world.durable = b % 3 == 2
        if b % 3 == 1:
            behind = runtime.record_count - runtime.persisted_count
            runtime.persisted(runtime.persisted_count + a % (behind + 1), now=self.world.now)
            self.world.take()
        elif b % 3 == 2:
            self.world.persist()

    def crash(self, a: int, b: int, c: int) -> None:
        """Restart from the durable records and a part of the others."""
        if self.config.journal and c % 4:
            self.check_replay()
            restart(self, a, snapshot=bool(b & 1))

    # Invariants at any time.

    def check(self) -> None:
        """Raise unless everything holds."""
        if not self.blind:
            for client in self.clients:
                client.see()
                client.give_up()
                if not client.peer.slow:
                    client.see_end()
            self.check_promises()
        peers = self.world.peers.items()
        aborted = [connection for connection, peer in peers if peer.closing and peer.closing.abort]
        structure.check(self.world.state, aborted=aborted, drain=self.drain_at is not None)

    def check_replay(self) -> None:
        """Check that a replay of the recording gives the same state and the same bytes."""
        if self.recording is None:
            return
        again, world = replay(self.recording), self.world
        ensure(
            state_of(again.machine).timers.keys() == world.state.timers.keys(), "a replay has other timers"
        )
        made = [fact for output in again.outputs for fact in output.records]
        ensure(self._plain(made) == self._plain(world.records), "a replay makes other records")
        asked = [str(request) for output in again.outputs for request in output.requests]
        ensure(asked == [str(request) for request in world.requests], "a replay asks for other things")
        happened = [str(event) for output in again.outputs for event in output.events]
        ensure(happened == [str(event) for event in world.events], "other things happen in a replay")
        for client in self.clients:
            sent = client.peer.raw
            theirs = [envelope for owner, envelope in again.envelopes if owner == client.number]
            if client.ever_slow:  # Answers and events may stand otherwise, or have been lost to a close.
                sent = [raw for raw in sent if b'"event_seq":' in raw]
                theirs = [raw for raw in theirs if b'"event_seq":' in raw][: len(sent)]
            if not self.secrets:
                sent, theirs = (
                    [TOKEN.sub(b"rt_", raw) for raw in sent],
                    [TOKEN.sub(b"rt_", raw) for raw in theirs],
                )
            ensure(theirs == sent or client.lied, "a replay sends other bytes")

    def _plain(self, records: Sequence[Record]) -> list[bytes]:
        """Return records, without those that follow from secrets if the recording has none."""
        digests = () if self.secrets else (TokenIssued, TokenProven)
        return [encode_record(fact) for fact in records if not isinstance(fact, digests)]

    def wind_down(self) -> None:
        """Let all clients leave, agents end and windows pass, and check that no state is left."""
        if self.config.journal:
            check_survives(self)
        for client in self._live():
            client.peer.drop()
        for work in self.works.values():
            if work.job_id in self.world.state.running:
                self._ended(work, "INTERNAL_ERROR")
                self.world.stopped(work.job_id)
        self.world.durable = True
        self.world.persist()
        self.note()
        self.check()
        limits, runtime = self.config.limits, self.world.runtime
        ahead = max([self.unix, *(work.ended_unix for work in self.works.values())])
        runtime.wall_clock_set(ahead, now=self.world.now)
        self.world.now = self.now
        steps = 5 * 3600  # The error of a clock, which the runtime does not notice while a timer is armed.
        self.pass_time(
            self.config.resume_window_sec
            + limits.retention_sec
            + 2 * limits.idempotency_retention_sec
            + steps
        )
        self.note()
        self.check()
        if not structure.leaves(self.world.state):  # Else they are there for the next process.
            structure.check_empty(self.world.state)

    # Below: choosing, and what is known.

    def _live(self) -> list[Client]:
        return [client for client in self.clients if client.peer.connection.phase is not Phase.CLOSED]

    def _reader(self, number: int) -> Client | None:
        """Return a client whose transport may deliver a message."""
        client = _one(self._live(), number)
        if client is None or client.unread or not client.peer.connection.reading:
            return None
        return client

    def _acts(self, client: Client) -> bool:
        """Return whether the next message of a client is carried out at once."""
        return client.open and not client.torn and client.line is not None and not self.blind

    def _agent(self, number: int) -> Work | None:
        """Return a job whose agent runs."""
        running = [work for work in self.works.values() if not work.stopped and work.job_id in self.started]
        return _one(running, number)

    def _emitter(self, number: int) -> Work | None:
        """Return a job whose agent runs and whose end is not published."""
        work = self._agent(number)
        return None if work is None or work.ended or work.left else work

    def _next(self) -> int:
        self.count += 1
        return self.count

    def _say(
        self,
        client: Client,
        message_type: str,
        payload: dict[str, Any],
        may: tuple[str, ...] = (),
        check: Any = None,
    ) -> str:
        request_id = f"ask{self._next()}"
        if may and self._acts(client):
            last = 0 if client.line is None else client.line.last
            client.asked[request_id] = Asked(message_type, may, check, last)
        else:
            client.loose[request_id] = None
        self._send(client, message_type, payload, request_id)
        return request_id

    def _send(
        self, client: Client, message_type: str, payload: dict[str, Any], request_id: str, **fields: Any
    ) -> None:
        client.torn = False
        client.peer.send(message_type, payload, id=request_id, **fields)

    def _ended(self, work: Work, *codes: str) -> None:
        """End an agent, and with it its job."""
        work.stopped = True
        if work.leaving and not work.outcomes and codes != ("success",):
            work.left = True
            return
        work.fix(*codes)
        work.ended = True

    def _ends_of(self, work: Work, value: Any) -> tuple[str, ...]:
        """Return the possible ends of a job whose agent returns a value: two near the limit of a frame."""
        streamed = work.binary is not None
        if streamed and value is not None:
            return ("INVALID_REQUEST",)
        size = sum(map(len, work.written)) * 4 // 3 if streamed else len(msgspec.json.encode(value))
        if not streamed and size > max(self.config.limits.max_result_bytes, FRAME):
            return ("INTERNAL_ERROR",)
        if not work.home.over and "result_chunk" not in work.home.features and size > FRAME // 2 - KIB:
            return ("success", "INVALID_REQUEST")
        return ("success",)


ACTIONS: Final[Sequence[str]] = (
    *("join", "connect", "hello", "verify", "resume", "submit", "resend", "cancel"),
    *("subscribe", "unsubscribe", "list_jobs", "ping", "pong", "ack", "close"),
    *("garbage", "lie", "oversize", "drop", "close_transport", "block", "read", "slow_down"),
    *("emit", "flood", "emit_badly", "write", "finish", "fail", "stop"),
    *("wait", "step_back", "set_clock", "tick", "observers_set", "shut_down", "lag", "crash"),
    *("ask", "spend", "host_cancel"),
)
"""The actions of a play: a corpus names them, a fuzzer counts them."""


def _over(ended: bool) -> Any:
    """Return the check that `job.cancelled` has a final status if the job had ended, and else none."""

    def check(frame: Mapping[str, Any]) -> None:
        ensure(("final_status" in frame["payload"]) == ended, "a cancel of what was over, or was not")

    return check


def _one(items: Sequence[T], number: int) -> T | None:
    """Return one of several items: 255 chooses the last."""
    if not items:
        return None
    return items[-1] if number == 255 else items[number % len(items)]


def run(setup: Sequence[int], actions: Sequence[Action], *, secrets: bool = True) -> Play:
    """Everything from the beginning to its end, and a replay of its recording."""
    play = Play(config_of(*setup), secrets=secrets)
    for name, a, b, c in actions:
        play.do(name, a, b, c)
    play.wind_down()
    play.check_replay()
    return play
