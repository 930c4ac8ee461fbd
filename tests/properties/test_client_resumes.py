"""The client over a wire that breaks anywhere: every event once and in order, every request one answer."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.client import Client, ClientConfig
from arcp_proto.connection import Connection
from arcp_proto.ids import SECOND, JobId
from arcp_proto.output import (
    CancelAnswered,
    Dial,
    Event,
    JobAccepted,
    JobEmitted,
    JobEnded,
    JobLost,
    JobsListed,
    Output,
    RequestRefused,
    SessionLost,
    Subscribed,
)
from arcp_proto.secret import Secret

from .fake_runtime import FEATURES, FakeRuntime
from .machines import examples

UNIX = 1_780_000_000 * SECOND
ANSWERS = (JobAccepted, RequestRefused, CancelAnswered, Subscribed, JobsListed)


class Wire:
    """A client and a fake runtime; each direction holds messages until they are delivered or lost."""

    def __init__(self, runtime: FakeRuntime, config: ClientConfig | None = None) -> None:
        self.runtime = runtime
        self.now = SECOND
        self.client = Client(config or ClientConfig(), seed=bytes(32), now=self.now, unix=UNIX)
        self.connection: Connection | None = None
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.events: list[Event] = []
        self.asked: dict[str, str] = {}
        """Request id -> what was asked for."""
        self.open: deque[tuple[JobId, int]] = deque()
        """What the user has not processed."""
        self.dial: Dial | None = None
        self.sent: list[bytes] = []
        self.connect()

    def connect(self) -> None:
        """Open a transport."""
        self.dial = None
        self.up.clear()
        self.down.clear()
        self.runtime.opened()
        self.connection = self.client.connect(Secret("secret"), now=self.now)
        self.take()

    def take(self) -> None:
        """Carry out what a command wants."""
        self.carry_out(self.client.take())

    def carry_out(self, output: Output) -> None:
        """Keep what happened; what is to be sent waits."""
        self.events += output.events
        for event in output.events:
            if isinstance(event, JobEmitted | JobEnded) and event.seq:
                self.open.append((event.job_id, event.seq))
        for request in output.requests:
            assert isinstance(request, Dial)
            assert self.dial is None, "one attempt at a time"
            self.dial = request
        for connection, envelope in output.envelopes():
            if connection is self.connection:
                self.up.append(envelope)
                self.sent.append(envelope)
        for closing in output.closing:
            self.end(closing.connection)

    def end(self, connection: Connection) -> None:
        """A transport ends."""
        if connection is self.connection:
            self.connection = None
            self.up.clear()
            self.down.clear()
            self.runtime.detach()
        self.carry_out(connection.lost(now=self.now))

    def drop(self) -> None:
        """The transport breaks, with all that is under way."""
        if self.connection is not None:
            self.end(self.connection)

    def deliver(self, count: int, up: bool) -> None:
        """Some messages arrive."""
        for _ in range(count):
            if up and self.up:
                self.runtime.receive(self.up.popleft(), self.down.append)
            elif not up and self.down and self.connection is not None:
                self.carry_out(self.connection.receive(self.down.popleft(), now=self.now))

    def advance(self, seconds: float) -> None:
        """Time passes; transports are opened when the client wants them."""
        end = self.now + int(seconds * SECOND)
        while True:
            deadline = self.client.deadline()
            times = [due.at for due in (deadline, self.dial) if due is not None]
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            if self.dial is not None and self.dial.at <= self.now:
                self.connect()
            else:
                self.carry_out(self.client.handle_timer(now=self.now))
        self.now = end

    def settle(self) -> None:
        """Everything arrives until nothing is under way."""
        while self.up or self.down:
            self.deliver(1, up=True)
            self.deliver(1, up=False)

    def heal(self) -> None:
        """The wire holds from now on, and the user processes everything."""
        for _ in range(60):
            self.settle()
            self.process(10_000)
            self.advance(5)
        self.settle()

    def process(self, count: int) -> None:
        """The user has done with some."""
        for _ in range(min(count, len(self.open))):
            self.client.processed(*self.open.popleft(), now=self.now)
        self.take()

    def ask(self, what: str, job: str) -> None:
        """The user asks for something."""
        client, now = self.client, self.now
        match what:
            case "submit":
                request = client.submit("a", len(self.asked), now=now)
            case "submit keyed":
                request = client.submit("a", 1, idempotency_key=f"k{len(self.asked)}", now=now)
            case "cancel":
                request = client.cancel(JobId(job), now=now)
            case "subscribe":
                request = client.subscribe(JobId(job), 0, True, now=now)
            case _:
                request = client.list_jobs(now=now)
        self.asked[request] = what
        self.take()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(["submit", "submit", "submit keyed", "cancel", "list"])),
        st.tuples(st.just("emit"), st.integers(0, 3)),
        st.tuples(st.just("emit"), st.integers(0, 3)),
        st.tuples(st.just("chunk"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.integers(0, 3)),
        st.tuples(st.just("up"), st.integers(1, 4)),
        st.tuples(st.just("down"), st.integers(1, 4)),
        st.tuples(st.just("down"), st.integers(1, 4)),
        st.tuples(st.just("process"), st.integers(1, 5)),
        st.tuples(st.just("drop"), st.just(0)),
        st.tuples(st.just("advance"), st.sampled_from([0, 1, 300, 2000])),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    min_size=10,
    max_size=60,
)


def play(wire: Wire, steps: list[tuple[str, Any]], *, loses: bool = False) -> None:
    """Carry the steps out, and then all that is missing for everything to end."""
    runtime = wire.runtime
    wire.settle()
    for number, (what, argument) in enumerate(steps):
        jobs = [job for job in runtime.jobs.values() if not job.over]
        job = jobs[argument % len(jobs)] if jobs and isinstance(argument, int) else None
        match what:
            case "ask":
                wire.ask(argument, f"job_{number % 3}")
            case "emit" if job is not None:
                runtime.emit(job, "log", {"level": "info", "message": f"{job.id} {len(job.history)}"})
            case "chunk" if job is not None:
                runtime.emit(job, "result_chunk", chunk(runtime, job.id))
            case "finish" if job is not None:
                finish(runtime, job.id)
            case "up" | "down":
                wire.deliver(argument, up=what == "up")
            case "process":
                wire.process(argument)
            case "drop":
                wire.drop()
                if loses and number % 3 == 0:
                    runtime.lose()
            case "advance":
                wire.advance(argument / 1000)
            case "settle":
                wire.settle()
    wire.heal()
    for job in list(runtime.jobs.values()):
        if not job.over:
            finish(runtime, job.id)
    wire.heal()


def chunk(runtime: FakeRuntime, job_id: str, more: bool = True) -> dict[str, Any]:
    """The next piece of a job's result: its number as a letter."""
    count = len(chunks(runtime, job_id))
    data = chr(ord("a") + count % 26) if more else "."
    return {"result_id": "r", "chunk_seq": count, "data": data, "encoding": "utf8", "more": more}


def chunks(runtime: FakeRuntime, job_id: str) -> list[str]:
    """The pieces so far."""
    history = runtime.jobs[job_id].history
    return [payload["body"]["data"] for _, _, payload in history if payload.get("kind") == "result_chunk"]


def finish(runtime: FakeRuntime, job_id: str) -> None:
    """A job ends with what it has streamed, or with a value."""
    job = runtime.jobs[job_id]
    if chunks(runtime, job_id):
        runtime.emit(job, "result_chunk", chunk(runtime, job_id, more=False))
        runtime.finish(job, {"result_id": "r", "result_size": len(chunks(runtime, job_id))})
    else:
        runtime.finish(job, {"result": job_id})


def check(wire: Wire) -> None:
    """What the user saw is what happened: each event once and in order, each end, each answer."""
    runtime = wire.runtime
    answers = Counter(
        event.request_id
        for event in wire.events
        if isinstance(event, ANSWERS) and event.request_id is not None
    )
    assert answers == Counter(dict.fromkeys(wire.asked, 1))
    made = Counter(job.request for job in runtime.jobs.values())
    assert max(made.values(), default=0) <= 1, "no submit is carried out twice"
    accepted = {event.job_id for event in wire.events if isinstance(event, JobAccepted)}
    lost = {event.job_id for event in wire.events if isinstance(event, JobLost)}
    for job_id in accepted - lost:
        job = runtime.jobs[job_id]
        seen = [
            event
            for event in wire.events
            if isinstance(event, JobEmitted | JobEnded) and event.job_id == job_id
        ]
        bodies = [event.body for event in seen if isinstance(event, JobEmitted)]
        assert bodies == [payload["body"] for _, kind, payload in job.history if kind == "job.event"]
        end = seen[-1]
        assert isinstance(end, JobEnded)
        assert end.code == "", end.message
        assert end.result == ("".join(chunks(runtime, job_id)) or job_id)
    session = wire.client.session
    assert session is not None
    assert wire.client.cursor == session.numbers.last
    assert wire.client.timers.size <= 2 * len(wire.client.timers) + 64
    assert session.acks.size == 0
    resumption = wire.client.resumption()
    assert resumption is not None
    assert resumption.jobs == ()


def check_nothing_lost(wire: Wire) -> None:
    """The runtime has lost nothing, and the user is told of no loss."""
    assert not any(isinstance(event, SessionLost | JobLost) for event in wire.events)


@settings(max_examples=examples(200), deadline=None)
@given(STEPS, st.sampled_from([0, 1, 3, 100]))
def test_a_runtime_that_repeats_its_answers(steps: list[tuple[str, Any]], repeats: int) -> None:
    wire = Wire(FakeRuntime(repeats=repeats))
    play(wire, steps)
    check(wire)
    check_nothing_lost(wire)
    refused = [event.code for event in wire.events if isinstance(event, RequestRefused)]
    assert set(refused) <= {"JOB_NOT_FOUND"}


@settings(max_examples=examples(200), deadline=None)
@given(STEPS, st.sampled_from([0, 1, 100]))
def test_a_runtime_that_does_not(steps: list[tuple[str, Any]], repeats: int) -> None:
    wire = Wire(FakeRuntime(replies=False, repeats=repeats))
    play(wire, steps)
    check(wire)
    refused = {
        event.request_id
        for event in wire.events
        if isinstance(event, RequestRefused) and event.code == "CONNECTION_LOST"
    }
    check_nothing_lost(wire)
    assert all(wire.asked[request] == "submit" for request in refused)


@settings(max_examples=examples(200), deadline=None)
@given(STEPS, st.sampled_from([0, 1, 100]))
def test_a_runtime_that_refuses_a_resume_that_misses_nothing(
    steps: list[tuple[str, Any]], repeats: int
) -> None:
    wire = Wire(FakeRuntime(refuses_the_end=True, repeats=repeats))
    play(wire, steps)
    check(wire)
    check_nothing_lost(wire)


@settings(max_examples=examples(200), deadline=None)
@given(STEPS, st.booleans())
def test_a_runtime_that_loses_sessions(steps: list[tuple[str, Any]], replies: bool) -> None:
    wire = Wire(FakeRuntime(replies=replies))
    play(wire, steps, loses=True)
    check(wire)
    assert not any(isinstance(event, JobLost) for event in wire.events)


@settings(max_examples=examples(200), deadline=None)
@given(STEPS, st.booleans())
def test_a_runtime_that_sends_nothing_behind_a_repeated_key(
    steps: list[tuple[str, Any]], replies: bool
) -> None:
    wire = Wire(FakeRuntime(replies=replies, silent_keys=True))
    play(wire, steps, loses=True)
    check(wire)
    assert not any(isinstance(event, JobLost) for event in wire.events)


@settings(max_examples=examples(50), deadline=None)
@given(STEPS)
def test_a_runtime_that_loses_sessions_and_offers_no_subscription(steps: list[tuple[str, Any]]) -> None:
    runtime = FakeRuntime(features=[name for name in FEATURES if name not in ("subscribe", "list_jobs")])
    wire = Wire(runtime)
    play(wire, [step for step in steps if step != ("ask", "list")], loses=True)
    check(wire)
    ended = {event.job_id for event in wire.events if isinstance(event, JobEnded)}
    lost = [event.job_id for event in wire.events if isinstance(event, JobLost)]
    assert len(lost) == len(set(lost))
    kinds = [type(event) for event in wire.events if isinstance(event, SessionLost | JobLost)]
    assert kinds[:1] in ([], [SessionLost])
    assert not ended & set(lost)
