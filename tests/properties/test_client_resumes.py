"""The client over a wire that breaks anywhere: every event once and in order, every request one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto import Framing
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import JobAccepted, JobEnded, JobLost, RequestRefused, SessionLost
from arcp_proto.features import Feature
from arcp_proto.ids import JobId

from .fake_runtime import OF_OTHERS, FakeRuntime
from .lossy_client import Fact, Lossy, LossyClient
from .machines import examples


class Wire(Lossy):
    """A client and a fake runtime."""

    def __init__(self, runtime: FakeRuntime) -> None:
        super().__init__()
        self.runtime, self.placed = runtime, runtime.placed
        self.client = LossyClient(self, 0, ClientConfig(), Framing.MESSAGES)
        self.clients.append(self.client)
        self.client.connect()

    def opened(self, client: LossyClient) -> None:
        self.runtime.opened()

    def received(self, client: LossyClient, data: bytes) -> None:
        self.runtime.receive(data, client.down.append)

    def lost(self, client: LossyClient) -> None:
        self.runtime.detach()

    def deadline(self) -> None:
        return None

    def handle_timer(self) -> None:
        pass

    def facts(self, job_id: JobId) -> Sequence[Fact]:
        return [
            Fact(payload["kind"], payload["body"]) if message_type == "job.event" else Fact("end", "")
            for _, message_type, payload in self.runtime.jobs[job_id].history
        ]


ASK = st.sampled_from(["submit", "submit", "submit keyed", "cancel", "list", "subscribe", "go on", "observe"])
NUMBER = st.integers(0, 3)
STEP = st.one_of(
    *[st.tuples(st.just("ask"), ASK)] * 2,
    *[st.tuples(st.just("emit"), NUMBER)] * 4,
    *[st.tuples(st.just("chunk"), NUMBER)] * 2,
    st.tuples(st.just("finish"), NUMBER),
    *[st.tuples(st.just("up"), st.integers(1, 4))] * 2,
    *[st.tuples(st.just("down"), st.integers(1, 8))] * 4,
    *[st.tuples(st.just("process"), st.integers(1, 5))] * 3,
    st.tuples(st.just("drop"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
    *[st.tuples(st.just("advance"), st.sampled_from([0, 1, 300, 2000]))] * 3,
    st.tuples(st.just("settle"), st.just(0)),
    *[st.tuples(st.just("reach"), st.just(0))] * 2,
)
STEPS = st.integers(10, 60).flatmap(lambda count: st.lists(STEP, min_size=count, max_size=count))
"""As many as are drawn: lists by themselves are short."""


def play(wire: Wire, steps: list[tuple[str, Any]], *, loses: bool = False) -> None:
    """Begin with two jobs; carry the steps out, and then all that is missing for everything to end."""
    runtime = wire.runtime
    wire.settle()
    wire.client.ask("submit")
    wire.client.ask("submit keyed")
    wire.settle()
    for number, (what, argument) in enumerate(steps):
        jobs = [job for job in runtime.jobs.values() if not job.over]
        job = jobs[argument % len(jobs)] if jobs and isinstance(argument, int) else None
        match what:
            case "ask":
                ask(wire.client, argument, JobId(f"job_{number % 3}"), number)
            case "emit" if job is not None:
                runtime.emit(job, "log", {"level": "info", "message": f"{job.id} {len(job.history)}"})
            case "chunk" if job is not None:
                runtime.emit(job, "result_chunk", chunk(runtime, job.id))
            case "finish" if job is not None:
                finish(runtime, job.id)
            case "up" | "down":
                wire.client.deliver(argument, up=what == "up")
            case "process":
                wire.client.process(argument, number)
            case "restart":
                wire.client.restart()
            case "drop":
                wire.client.drop()
                if loses and number % 3 == 0:
                    runtime.lose()
            case "advance":
                wire.advance(argument / 1000)
            case "settle" | "reach":
                getattr(wire, what)()
    wire.heal()
    for job in list(runtime.jobs.values()):
        if not job.over:
            finish(runtime, job.id)
    wire.heal()


def ask(client: LossyClient, what: str, job_id: JobId, number: int) -> None:
    """Request all of a job, the rest of it from a position, or its events from now on."""
    match what:
        case "go on" if job_id in client.told:
            client.ask("subscribe", job_id, client.told[job_id].cursor * (number % 4) // 3)
        case "observe":
            client.ask("subscribe", job_id, None)
        case _:
            client.ask(what, job_id)


def chunk(runtime: FakeRuntime, job_id: str, more: bool = True) -> dict[str, Any]:
    """Return the next piece of the result of a job: its number as a letter."""
    count = len(chunks(runtime, job_id))
    data = chr(ord("a") + count % 26) if more else "."
    return {"result_id": "r", "chunk_seq": count, "data": data, "encoding": "utf8", "more": more}


def chunks(runtime: FakeRuntime, job_id: str) -> list[str]:
    """Return the pieces of the result of a job so far."""
    history = runtime.jobs[job_id].history
    return [payload["body"]["data"] for _, _, payload in history if payload.get("kind") == "result_chunk"]


def finish(runtime: FakeRuntime, job_id: str) -> None:
    """End a job with its streamed result, or with a value."""
    job = runtime.jobs[job_id]
    if chunks(runtime, job_id):
        runtime.emit(job, "result_chunk", chunk(runtime, job_id, more=False))
        runtime.finish(job, {"result_id": "r", "result_size": len(chunks(runtime, job_id))})
    else:
        runtime.finish(job, {"result": job_id})


def check(wire: Wire) -> None:
    """Raise unless the user saw what has happened, and nothing was done twice."""
    made = Counter(job.request for job in wire.runtime.jobs.values())
    assert max(made.values(), default=0) <= 1, "no submit is carried out twice"
    wire.client.check()
    # A subscribe without history to a job that is over is answered with its status alone (§7.6): no receipt.
    ended = {event.job_id: event for event in wire.client.of(JobEnded) if event.receipt}
    accepted = {event.job_id for event in wire.client.of(JobAccepted)} - wire.client.lost_jobs
    if not wire.client.restarts:  # Else an earlier process has read the first chunks.
        for job_id in accepted:
            assert ended[job_id].code == "", ended[job_id].message
            assert ended[job_id].result == ("".join(chunks(wire.runtime, job_id)) or job_id)


def test_a_request_of_a_dead_process_does_not_overtake_missing_events() -> None:
    """End a job under a subscription that leaves out an event which is not processed."""
    wire = Wire(FakeRuntime(features=OF_OTHERS))
    steps = [("emit", 0), ("settle", 0), ("settle", 0), ("drop", 0), ("reach", 0), ("restart", 0)]
    play(wire, [*steps, ("finish", 0)], loses=True)
    check(wire)


def test_a_job_that_is_followed_again_comes_to_its_end_in_the_next_process() -> None:
    """Process the end once, and a history that was requested again in part."""
    wire = Wire(FakeRuntime(features=OF_OTHERS))
    steps = [("emit", 0), ("emit", 1), ("finish", 0), ("settle", 0), ("settle", 0), ("settle", 0)]
    play(wire, [*steps, ("ask", "subscribe"), ("settle", 0), ("process", 3), ("restart", 0)])
    check(wire)


REPEATS = st.sampled_from([0, 1, 3, 100])
Steps = list[tuple[str, Any]]


@settings(max_examples=examples(300), deadline=None)
@given(STEPS, REPEATS, st.booleans())
def test_a_runtime_that_tells_positions(steps: Steps, repeats: int, loses: bool) -> None:
    wire = Wire(FakeRuntime(repeats=repeats))
    play(wire, steps, loses=loses)
    check(wire)
    assert not wire.client.lost_jobs
    if not loses:
        wire.client.check_nothing_lost()
        assert {event.code for event in wire.client.of(RequestRefused)} <= {"JOB_NOT_FOUND"}


@settings(max_examples=examples(300), deadline=None)
@given(STEPS, REPEATS, st.booleans(), st.booleans())
def test_a_runtime_that_tells_none(steps: Steps, repeats: int, replies: bool, refuses_the_end: bool) -> None:
    wire = Wire(
        FakeRuntime(features=OF_OTHERS, repeats=repeats, replies=replies, refuses_the_end=refuses_the_end)
    )
    play(wire, steps)
    check(wire)
    wire.client.check_nothing_lost()
    for event in wire.client.of(RequestRefused):
        what, _, _ = wire.client.asked.get(event.request_id, ("submit", None, 0))
        assert event.code == "JOB_NOT_FOUND" or (what == "submit" and not replies)


@settings(max_examples=examples(300), deadline=None)
@given(STEPS, st.booleans(), st.booleans())
def test_a_runtime_that_tells_none_and_loses_sessions(steps: Steps, replies: bool, silent_keys: bool) -> None:
    wire = Wire(FakeRuntime(features=OF_OTHERS, replies=replies, silent_keys=silent_keys))
    play(wire, steps, loses=True)
    check(wire)
    assert not wire.client.lost_jobs


@settings(max_examples=examples(100), deadline=None)
@given(STEPS, st.booleans())
def test_a_runtime_that_loses_sessions_and_offers_no_subscription(steps: Steps, placed: bool) -> None:
    features = [name for name in OF_OTHERS if name not in ("subscribe", "list_jobs")]
    wire = Wire(FakeRuntime(features=[*features, Feature.POSITIONS] if placed else features))
    play(wire, [step for step in steps if step[1] not in ("list", "subscribe")], loses=True)
    check(wire)
    kinds = [type(event) for event in wire.client.of(SessionLost, JobLost)]
    assert kinds[:1] in ([], [SessionLost])
    if not wire.client.restarts:  # Else another process may lose what one has seen, and not processed.
        ended = {event.job_id for event in wire.client.of(JobEnded)}
        lost = [event.job_id for event in wire.client.of(JobLost)]
        assert len(lost) == len(set(lost))
        assert not ended & set(lost)
