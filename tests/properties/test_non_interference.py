"""The actions of one principal change no byte for another (I9), except at shared limits, which refusals name.

The same actions run at the same times, once with a second principal and once without: the first one gets the
same bytes. Ignored are the text of a list cursor, which only the runtime can read, and the ids of a
connection without a principal, which follow its number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto import Connection, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import Authenticate, Output, StartJob, StopJob
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.ids import MILLISECOND, SECOND, JobId, UnixTime
from arcp_proto.limits import WIRE_WORDS, Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire.timestamps import format_time

from .machines import NUMBER, examples

START: Final = 10**6 * SECOND
UNIX: Final = 1_780_000_000 * SECOND
AGENTS: Final = (AgentInfo("one"), AgentInfo("again", restartable=True))
FEATURES: Final = (
    *("heartbeat", "ack", "list_jobs", "subscribe", "progress", "result_chunk", "agent_versions"),
    *("lease_expires_at", "cost.budget", "model.use"),
)
LEASE: Final = {
    "tool.call": ["a", "b*"],
    "agent.delegate": ["*"],
    "fs.read": ["/a/**"],
    "cost.budget": ["USD:2", "EUR:1"],
}
GARBAGE: Final = (b"{", b"null", b'{"type":"zork"}', b"\xff", b'{"type":"job.submit","id":"x"}')


class Step(NamedTuple):
    """An action of one of the two principals after a delay."""

    wait: int
    alice: bool
    what: str
    a: int
    b: int


class Side:
    """One principal: its connection, its agents, and every byte that it was sent."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.stream: list[bytes] = []
        self.connection: Connection | None = None
        self.agents: list[JobId] = []
        self.known: list[str] = []
        self.foreign: Sequence[str] = ()
        """Jobs of the other, whether they are there or not."""
        self.holds: list[tuple[JobId, int]] = []
        self.tokens: list[str] = []
        self.session = ""
        self.last = 0
        self._world = world
        self._count = 0

    # What it is sent.

    def take(self, data: bytes, *, nobody: bool) -> None:
        """Take a frame; with `nobody` the connection has no principal, and its ids follow its number."""
        frame = json.loads(data)
        if nobody:
            data = json.dumps({**frame, "id": "", "session_id": ""}).encode()
        elif frame["payload"].get("next_cursor"):
            data = data.replace(frame["payload"]["next_cursor"].encode(), b"...")
        self.stream.append(data)
        if frame["type"] == "session.welcome":
            if frame["session_id"] != self.session:
                self.session, self.last = frame["session_id"], 0
            self.tokens.append(frame["payload"]["resume_token"])
        if frame["type"] == "job.accepted":
            self.known.append(frame["job_id"])
        self.last = max(self.last, frame.get("event_seq", 0))

    # What it does.

    def do(self, step: Step) -> None:
        getattr(self, step.what)(step.a, step.b)

    def _say(self, kind: str, payload: Any, **more: Any) -> None:
        self._count += 1
        message = {
            "arcp": "1.1",
            "id": f"{self.name}-{self._count}",
            "type": kind,
            "payload": payload,
            **more,
        }
        self._send(json.dumps(message).encode())

    def _send(self, data: bytes) -> None:
        connection, world = self.connection, self._world
        if connection is not None and connection.phase is not Phase.CLOSED:
            world.carry_out(connection.receive(data, now=world.now))

    def _ask(self, kind: str, payload: Any) -> None:
        if self.connection is None:
            self.hello(0, 0)
        self._say(kind, payload)

    def _arrive(self) -> bool:
        world = self._world
        if self.connection is None:
            self.connection = world.runtime.connect(peer=f"{self.name}:1", now=world.now)
            world.owners[self.connection] = self
            world.carry_out(world.runtime.take())
        return self.connection is not None

    def hello(self, a: int, b: int) -> None:
        if self._arrive():
            self._say("session.hello", self._hello(wrong=a % 8 == 7))

    def _hello(self, *, wrong: bool = False) -> dict[str, Any]:
        return {
            "client": {"name": "test", "version": "1"},
            "auth": {"scheme": "bearer", "token": "wrong" if wrong else self.name},
            "capabilities": {"encodings": ["json"], "features": list(FEATURES)},
        }

    def resume(self, a: int, b: int) -> None:
        self.drop(0, 0)
        if self.tokens and self._arrive():
            cursor = max(0, self.last - a % 4)
            token = self.tokens[-1 - b % min(2, len(self.tokens))]
            asked = {"resume_token": token, "last_event_seq": cursor, "replies": True}
            self._say("session.hello", {**self._hello(), "resume": asked})

    def steal(self, a: int, b: int) -> None:
        """Resume with a token of the other."""
        others = self._world.other(self).tokens
        self.drop(0, 0)
        if others and self._arrive():
            asked = {"resume_token": others[a % len(others)], "last_event_seq": b % 3}
            self._say("session.hello", {**self._hello(), "resume": asked})

    def drop(self, a: int, b: int) -> None:
        if self.connection is not None:
            connection, self.connection = self.connection, None
            self._world.carry_out(connection.lost(now=self._world.now))

    def submit(self, a: int, b: int) -> None:
        payload: dict[str, Any] = {"agent": ("one", "again", "unknown")[a % 7 % 3], "input": a % 3}
        if b % 3:
            payload["lease_request"] = LEASE
        if b % 5 == 0:
            payload["idempotency_key"] = f"k{b % 3}"
        if b % 7 == 0:
            at = format_time(UnixTime(self._world.unix + (1 + a % 9) * SECOND))
            payload["lease_constraints"] = {"expires_at": at}
        if b % 11 == 0:
            payload["max_runtime_sec"] = 1 + a % 3
        self._ask("job.submit", payload)

    def _job(self, number: int) -> str:
        """Return a job of the principal or, less often, of the other one."""
        other = self.foreign
        if number % 4 == 3 and other:
            return other[number // 4 % len(other)]
        return self.known[number // 4 % len(self.known)] if self.known else "job_nothing"

    def cancel(self, a: int, b: int) -> None:
        self._ask("job.cancel", {"job_id": self._job(a), "reason": "r"})

    def subscribe(self, a: int, b: int) -> None:
        self._ask("job.subscribe", {"job_id": self._job(a), "history": b % 2 == 1, "from_event_seq": b % 5})

    def unsubscribe(self, a: int, b: int) -> None:
        self._ask("job.unsubscribe", {"job_id": self._job(a)})

    def list_jobs(self, a: int, b: int) -> None:
        self._ask("session.list_jobs", {"limit": 1 + a % 3})

    def ack(self, a: int, b: int) -> None:
        self._ask("session.ack", {"last_processed_seq": max(0, self.last - a % 3)})

    def ping(self, a: int, b: int) -> None:
        self._ask("session.ping", {"nonce": f"n{a}", "sent_at": "2026-01-01T00:00:00Z"})

    def close(self, a: int, b: int) -> None:
        if self.connection is not None:
            self._say("session.close", {"reason": "enough"})

    def garbage(self, a: int, b: int) -> None:
        self._send(GARBAGE[a % len(GARBAGE)])

    # Its agents.

    def _agent(self, number: int, act: Callable[[JobId], object]) -> None:
        if self.agents:
            job_id = self.agents[number % len(self.agents)]
            try:
                act(job_id)
            except Denied as denied:
                told = {"type": "denied", "payload": {"code": denied.code, "details": denied.details}}
                self.stream.append(json.dumps(told).encode())
            except LocalProtocolError:
                pass
            self._world.carry_out(self._world.runtime.take())

    def emit(self, a: int, b: int) -> None:
        runtime, now = self._world.runtime, self._world.now
        body = {"level": "info", "message": f"{b}" * (1 + b % 40)}
        self._agent(a, lambda job_id: runtime.agents.emit(job_id, "log", body, now=now))

    def tool(self, a: int, b: int) -> None:
        runtime, now = self._world.runtime, self._world.now
        body: dict[str, Any] = {"tool": ("a", "bb", "c")[b % 3], "args": {}, "call_id": f"c{b}"}
        self._agent(a, lambda job_id: runtime.agents.emit(job_id, "tool_call", body, now=now))

    def spend(self, a: int, b: int) -> None:
        runtime, now = self._world.runtime, self._world.now
        body = {"name": "cost.x", "value": (0.1, 0.5, 1, 3)[b % 4], "unit": ("USD", "EUR")[b // 4 % 2]}
        self._agent(a, lambda job_id: runtime.agents.emit(job_id, "metric", body, now=now))

    def delegate(self, a: int, b: int) -> None:
        runtime, now = self._world.runtime, self._world.now
        lease = {"tool.call": ["a"], "cost.budget": ["USD:0.5"]} if b % 2 else None
        self._agent(a, lambda job_id: runtime.agents.delegate(job_id, "one", b, lease, now=now))

    def stream_result(self, a: int, b: int) -> None:
        runtime, now = self._world.runtime, self._world.now
        self._agent(a, lambda job_id: runtime.agents.write_result(job_id, "x" * (1 + b % 50), now=now))

    def finish(self, a: int, b: int) -> None:
        runtime, now = self._world.runtime, self._world.now
        self._agent(
            a, lambda job_id: self._over(job_id, lambda: runtime.agents.finish(job_id, None, now=now))
        )

    def fail(self, a: int, b: int) -> None:
        runtime, now = self._world.runtime, self._world.now
        self._agent(
            a, lambda job_id: self._over(job_id, lambda: runtime.agents.fail(job_id, "X-A", "m", now=now))
        )

    def _over(self, job_id: JobId, how: Callable[[], object]) -> None:
        self.agents.remove(job_id)
        how()


class World:
    """A runtime and the clients of two principals."""

    def __init__(self, limits: Limits, *, journal: bool) -> None:
        config = RuntimeConfig(
            name="test",
            version="1",
            agents=AGENTS,
            journal=journal,
            resume_window_sec=20,
            heartbeat_interval_sec=5,
            limits=limits,
        )
        self.now = START
        self.runtime = Runtime(config, seed=bytes(32), now=START, unix=UNIX)
        self.owners: dict[Connection, Side] = {}
        self.alice, self.bob = Side(self, "alice"), Side(self, "bob")
        self._persisted = 0

    @property
    def unix(self) -> int:
        return UNIX + self.now - START

    def other(self, side: Side) -> Side:
        return self.bob if side is self.alice else self.alice

    def play(self, steps: Sequence[Step], *present: Side) -> None:
        for step in steps:
            self.now += step.wait
            self.carry_out(self.runtime.handle_timer(now=self.now))
            side = self.alice if step.alice else self.bob
            if side in present:
                side.do(step)

    def carry_out(self, output: Output) -> None:
        if output.records:
            self._persisted += len(output.records)
            self.runtime.persisted(self._persisted, now=self.now)
            more = self.runtime.take()
        else:
            more = None
        for connection, data in output.envelopes():
            self.owners[connection].take(data, nobody=connection_state(connection).session_id is None)
        for request in output.requests:
            match request:
                case Authenticate():
                    token = request.principal or request.token.reveal()
                    who = token if token in ("alice", "bob") else None
                    self.carry_out(self.runtime.authenticated(request.request, who, now=self.now))
                case StartJob():
                    (self.alice if request.principal == "alice" else self.bob).agents.append(request.job_id)
                case StopJob():
                    for side in (self.alice, self.bob):
                        if request.job_id in side.agents:
                            side.agents.remove(request.job_id)
                            self.carry_out(self.runtime.job_stopped(request.job_id, now=self.now))
                case _:
                    pass
        for closing in output.closing:
            side = self.owners[closing.connection]
            if side.connection is closing.connection:
                side.connection = None
            self.carry_out(closing.connection.lost(now=self.now))
        if more is not None:
            self.carry_out(more)


ACTIONS: Final = (
    *("hello", "resume", "drop", "submit", "submit", "submit", "cancel", "subscribe", "unsubscribe"),
    *("list_jobs", "ack", "ping", "close", "garbage", "emit", "emit", "emit", "tool", "spend", "spend"),
    *("delegate", "delegate", "stream_result", "finish", "fail"),
)
WAITS: Final = (0, 0, 0, 1, MILLISECOND, 20 * MILLISECOND, SECOND, 6 * SECOND, 25 * SECOND)


def steps_of(moves: Sequence[tuple[bool, int, int, int, int]]) -> list[Step]:
    """Return the steps that numbers choose; only bob, the one that may be absent, steals."""
    steps = []
    for alice, wait, what, a, b in moves:
        names = ACTIONS if alice else (*ACTIONS, "steal", "steal")
        steps.append(Step(WAITS[wait % len(WAITS)], alice, names[what % len(names)], a, b))
    return steps


MOVES: Final = st.lists(st.tuples(st.booleans(), NUMBER, NUMBER, NUMBER, NUMBER), max_size=60).map(steps_of)


def streams(steps: Sequence[Step], limits: Limits, *, journal: bool) -> tuple[list[bytes], list[bytes]]:
    """Return the bytes that alice gets with bob and without him."""
    bob, alone, both = (World(limits, journal=journal) for _ in range(3))
    bob.play(steps, bob.bob)
    alone.alice.foreign = both.alice.foreign = bob.bob.known
    alone.play(steps, alone.alice)
    both.bob.foreign = alone.alice.known
    both.play(steps, both.alice, both.bob)
    return both.alice.stream, alone.alice.stream


@settings(max_examples=examples(200))
@given(MOVES, st.booleans())
def test_below_all_limits_nothing_that_one_does_changes_a_byte_for_another(
    steps: list[Step], journal: bool
) -> None:
    with_bob, alone = streams(steps, Limits(), journal=journal)
    assert with_bob == alone


@pytest.mark.parametrize(
    "limit",
    [
        "max_total_running_jobs",
        "max_total_idempotency_keys",
        "max_principal_running_jobs",
        "max_principal_sessions",
    ],
)
@settings(max_examples=examples(40))
@given(MOVES, st.booleans())
def test_over_a_shared_limit_a_refusal_names_the_limit(limit: str, steps: list[Step], journal: bool) -> None:
    """Check that the first frame that differs is a refusal that names the shared limit."""
    with_bob, alone = streams(steps, Limits(**{limit: 2}), journal=journal)
    if with_bob == alone:
        return
    assert limit not in ("max_principal_running_jobs", "max_principal_sessions")
    differs = next(
        (at for at, (one, other) in enumerate(zip(with_bob, alone, strict=False)) if one != other),
        min(len(with_bob), len(alone)),
    )
    told = json.loads(with_bob[differs])
    assert told["type"] in ("session.error", "denied")
    assert told["payload"]["details"]["limit"] == WIRE_WORDS[limit]


def test_both_are_there() -> None:
    """Check that both principals act in the worlds of these tests."""
    steps = [
        Step(0, alice, what, 0, 4)
        for what in ("submit", "emit", "spend", "delegate", "tool", "finish")
        for alice in (True, False)
    ]
    world = World(Limits(), journal=True)
    world.play(steps, world.alice, world.bob)
    for side in (world.alice, world.bob):
        kinds = [json.loads(data)["type"] for data in side.stream]
        assert kinds[:3] == ["session.welcome", "job.accepted", "job.event"]
        assert {"job.error", "job.result"} <= set(kinds)
