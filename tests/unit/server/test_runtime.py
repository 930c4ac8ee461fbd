"""The inputs of a runtime: their effects, and their refusals, which change nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import PauseJob, ResumeJob, StartJob, StopJob
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import Denied, InvariantViolated, LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.server.config import WELCOME_BYTES
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import (
    Evicted,
    JobAcceptedRecord,
    JobEndedRecord,
    JobStarted,
    Published,
    SessionOpened,
    TokenIssued,
)
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire import event_bodies
from tests.unit.world import CONFIG, START, UNIX, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True)
NOBODY = JobId("job_nobody")


# The configuration of a runtime.


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Runtime(CONFIG, seed=b"short", now=0, unix=0)


def test_the_largest_inventory_fits_a_welcome() -> None:
    agents = tuple(AgentInfo(f"agent-{number:05}" + "x" * 100) for number in range(400))
    entries = state_of(World(agents=agents).runtime).inventory.entries
    room = 60 * 1024 - WELCOME_BYTES - len(msgspec.json.encode(["", "1", entries]))
    config = msgspec.structs.replace(CONFIG, agents=agents, name="n" * room)
    assert 59 * 1024 < len(World(config).client().raw[0]) <= 60 * 1024
    with pytest.raises(LocalProtocolError, match="does not fit a welcome"):
        World(config, name="n" * (room + 1))


def test_queries_change_nothing(world: World, peer: Peer, job: JobId) -> None:
    peer.slow = True
    world.runtime.agents.emit(job, "thought", {"text": "x"}, now=world.now)
    before = world.runtime.snapshot()
    for _ in range(2):
        assert world.runtime.writable() == [peer.connection]
        assert world.runtime.deadline() == world.outputs[-1].timer
        assert world.runtime.snapshot() == before
    assert [frame["type"] for frame in peer.pull()] == ["job.event"]
    assert world.runtime.writable() == []


# Agents: emitting.


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("log", {"level": "info", "message": "hi"}),
    ("thought", {"text": "hm"}),
    ("tool_call", {"tool": "t", "args": {"a": [1, 2.5, None]}, "call_id": "c"}),
    ("tool_result", {"call_id": "c", "result": None}),
    ("tool_result", {"call_id": "c", "error": {"code": "X", "message": "m", "retryable": False}}),
    ("status", {"phase": "p", "message": "m"}),
    ("metric", {"name": "cost.total", "value": 0.25, "unit": "USD", "dimensions": {"a": "b"}}),
    ("artifact_ref", {"uri": "file:///x", "content_type": "text/plain", "byte_size": 3, "sha256": "ab"}),
    ("delegate", {"child_job_id": "job_x", "agent": "echo"}),
    ("progress", {"current": 1, "total": 2, "units": "u", "message": "m"}),
    ("x-vendor.acme.thing", {"anything": ["goes", {"here": True}]}),
]


@pytest.mark.parametrize(("kind", "body"), KINDS)
def test_every_kind_of_event_is_published(world: World, peer: Peer, kind: str, body: dict[str, Any]) -> None:
    job = peer.submit(lease_request={"tool.call": ["t"], "agent.delegate": ["echo"]})
    world.emit(job, kind, body)
    shape = event_bodies.BODIES.get(kind)
    if shape is not None:
        world.emit(job, kind, msgspec.convert(body, shape))
    expected = {"kind": kind, "ts": "2026-05-28T20:26:40.000Z", "body": body}
    frames = peer.about(job)
    assert len(frames) == (1 if shape is None else 2)
    for number, frame in enumerate(frames, 1):
        assert frame["type"] == "job.event"
        assert frame["payload"] == expected
        assert frame["event_seq"] == number
        assert frame["session_id"] == peer.session_id
        assert list(frame) == [
            "arcp",
            "id",
            "type",
            "session_id",
            "job_id",
            "trace_id",
            "event_seq",
            "payload",
        ]


def test_a_struct_and_a_mapping_make_the_same_event() -> None:
    one, two = World(), World()
    for world, body in ((one, event_bodies.Log("warn", "x")), (two, {"level": "WARNING", "message": "x"})):
        world.emit(world.client().submit(), "log", body)
    assert [peer.raw for peer in one.peers.values()] == [peer.raw for peer in two.peers.values()]


BAD_EVENTS: list[tuple[str, Any, str]] = [
    ("zork", {}, "is not an event kind"),
    ("x-vendor.only", {}, "is not an event kind"),
    ('x-vendor.a."b', {}, "is not an event kind"),
    ("log", {"level": "loud", "message": ""}, "log level"),
    ("log", {"message": "no level"}, "is not a body of log"),
    ("metric", {"name": "m", "value": float("nan")}, "finite"),
    ("metric", {"name": "cost.x", "value": -1}, "negative"),
    ("metric", {"name": "cost.budget.remaining", "value": 1}, "only the runtime"),
    ("metric", event_bodies.Metric("cost.budget.remaining", 1), "only the runtime"),
    ("progress", {"current": -1}, "negative"),
    ("artifact_ref", {"uri": "x" * 70_000, "content_type": "t"}, "a frame holds"),
    ("x-vendor.a.b", {"x": "\ud800"}, "surrogate"),
    ("result_chunk", {}, "write_result"),
    ("status", {"phase": {1, 2}}, "is not a JSON value"),
    ("log", event_bodies.Thought("of another kind"), "log"),
    ('a"b', event_bodies.Thought("x"), "is not a body of"),
]


@pytest.mark.parametrize(("kind", "body", "message"), BAD_EVENTS)
def test_a_bad_event_raises_in_the_agent_and_changes_nothing(
    job: JobId, world: World, peer: Peer, kind: str, body: Any, message: str
) -> None:
    before = world.runtime.snapshot()
    with pytest.raises(LocalProtocolError, match=message):
        world.runtime.agents.emit(job, kind, body, now=world.now)
    assert world.runtime.snapshot() == before
    world.take()
    world.emit(job)
    assert peer.numbers() == [1]


def test_the_largest_event_that_fits_a_frame_is_not_cut(world: World, peer: Peer, job: JobId) -> None:
    limit = world.state.body_limit(world.state.jobs[job])
    text = "x" * (limit - len('{"text":""}'))
    world.emit(job, "thought", {"text": text})
    assert len(peer.raw[-1]) <= 60 * 1024
    assert peer.frames[-1]["payload"]["body"] == {"text": text}
    world.emit(job, "thought", {"text": text + "x"})
    cut = peer.frames[-1]["payload"]["body"]["text"]
    assert cut.startswith("x" * (limit - 100))
    assert cut.endswith(" bytes left out]")
    assert len(peer.raw[-1]) <= 60 * 1024


@pytest.mark.parametrize("kind", ["tool_call", "metric"])
def test_events_that_pass_the_gate_or_spend_are_cut_too(world: World, peer: Peer, kind: str) -> None:
    job = peer.submit(lease_request={"tool.call": ["t"]})
    large = {"x": "x" * 100_000}
    body = {
        "tool_call": {"tool": "t", "args": large, "call_id": "c"},
        "metric": {"name": "m", "value": 1, "dimensions": large},
    }[kind]
    world.emit(job, kind, body)
    [event] = peer.of("job.event")
    said = event["payload"]["body"]
    assert said["args" if kind == "tool_call" else "dimensions"]["x"].endswith(" bytes left out]")
    assert len(peer.raw[-1]) <= 60 * 1024


def test_calls_of_agents_raise_for_unknown_and_ended_jobs(world: World, peer: Peer, job: JobId) -> None:
    world.finish(job)
    body = {"level": "info", "message": ""}
    for job_id in (job, NOBODY):
        with pytest.raises(LocalProtocolError, match="unfinished"):
            world.runtime.agents.emit(job_id, "log", body, now=world.now)
        with pytest.raises(LocalProtocolError, match="unfinished"):
            world.runtime.agents.write_result(job_id, "x", now=world.now)
        with pytest.raises(LocalProtocolError, match="running"):
            world.runtime.agents.finish(job_id, now=world.now)
        with pytest.raises(LocalProtocolError, match="running"):
            world.runtime.agents.fail(job_id, "X", "m", now=world.now)
    world.stopped(job)
    world.stopped(NOBODY)
    assert len(peer.about(job)) == 1


def test_events_of_features_that_were_not_negotiated_take_no_number(world: World) -> None:
    peer = world.client(features=("heartbeat", "ack"))
    job = peer.submit()
    sent_at = connection_state(peer.connection).sent_at
    world.now += SECOND
    world.emit(job, "progress", {"current": 1})
    assert connection_state(peer.connection).sent_at == sent_at  # Nothing was sent: a ping may be due.
    assert world.outputs[-1].writable == ()
    world.emit(job)
    assert peer.numbers() == [1]
    assert peer.frames[-1]["payload"]["kind"] == "log"


def test_a_job_continues_after_the_end_of_its_session() -> None:
    world = World(resume_window_sec=0)
    peer = world.client()
    job = peer.submit()
    peer.drop()
    world.emit(job)
    world.finish(job, {"x": 1})
    assert world.state.unfinished == {}
    assert world.client().cancel(job)[0]["payload"]["final_status"] == "success"


def test_each_session_numbers_its_own_events(world: World) -> None:
    alice, bob = world.client(), world.client("tok-bob")
    ours, theirs = alice.submit(), bob.submit()
    for job in (ours, theirs, theirs, ours, theirs):
        world.emit(job)
    assert alice.numbers() == [1, 2]
    assert bob.numbers() == [1, 2, 3]
    assert {frame["job_id"] for frame in alice.frames if "job_id" in frame} == {ours}


def test_time_on_the_wire_never_goes_back(world: World, peer: Peer, job: JobId) -> None:
    world.now += SECOND
    world.emit(job)
    world.runtime.wall_clock_set(UNIX - 3_600 * SECOND, now=world.now)
    world.emit(job)
    world.now -= 5 * SECOND
    world.emit(job)
    world.now += 10 * SECOND
    world.runtime.wall_clock_set(UNIX + 60 * SECOND, now=world.now)
    world.emit(job)
    stamps = [frame["payload"]["ts"][17:19] for frame in peer.about(job)]
    assert stamps == ["41", "41", "41", "40"]
    assert peer.frames[-1]["payload"]["ts"].startswith("2026-05-28T20:27:40")


# Agents: ending.


def test_fail_sends_the_error_of_the_agent(world: World, peer: Peer, job: JobId) -> None:
    world.runtime.agents.fail(job, "X_MINE", "m" * 2000, True, {"a": 1}, now=world.now)
    world.take()
    payload = peer.frames[-1]["payload"]
    assert (payload["final_status"], payload["code"], payload["retryable"]) == ("error", "X_MINE", True)
    assert len(payload["message"]) == 1000
    assert payload["details"] == {"a": 1}


@pytest.mark.parametrize(
    ("code", "message", "retryable", "details"),
    [
        ("", "m", None, None),
        ("x" * 257, "m", None, None),
        ("X", "\ud800", None, None),
        ("X", "m", None, {"a": float("inf")}),
        (7, "m", None, None),
        (None, "m", None, None),
        ("X", None, None, None),
        ("X", 7, None, None),
        ("X", {"a": 1}, None, None),
        ("X", "m", "no", None),
        ("X", "m", None, ["a"]),
        ("X", "m", None, "a"),
    ],
)
def test_fail_raises_for_an_error_that_cannot_be_sent(
    world: World, code: Any, message: Any, retryable: Any, details: Any
) -> None:
    job = world.client().submit()
    with pytest.raises(LocalProtocolError):
        world.runtime.agents.fail(job, code, message, retryable, details, now=world.now)
    assert job in world.state.running
    world.fail(job)


@pytest.mark.parametrize(
    ("result", "summary"),
    [
        (object(), None),
        (float("nan"), None),
        ({1: 2}, None),
        (b"x", None),
        (None, "x" * 1001),
        (None, "\ud800"),
    ],
)
def test_finish_raises_for_a_result_that_cannot_be_sent(
    world: World, result: Any, summary: str | None
) -> None:
    job = world.client().submit()
    with pytest.raises(LocalProtocolError):
        world.runtime.agents.finish(job, result, summary, now=world.now)
    assert job in world.state.running
    world.finish(job)


def test_a_job_whose_agent_is_gone_ends_with_an_internal_error(world: World, peer: Peer, job: JobId) -> None:
    world.stopped(job)
    payload = peer.frames[-1]["payload"]
    assert (payload["code"], payload["message"]) == ("INTERNAL_ERROR", "agent stopped")
    assert payload["retryable"]


def test_a_job_beyond_max_runtime_sec_times_out(world: World) -> None:
    peer = world.client(features=())
    job = peer.submit(max_runtime_sec=2)
    world.advance(1.9)
    assert world.stops() == []
    world.advance(0.2)
    stop = world.last(StopJob)
    assert (stop.job_id, stop.kill_at) == (job, START + 7 * SECOND)
    assert "max_runtime_sec of 2" in stop.reason
    [answer] = peer.cancel(job)
    assert answer["type"] == "job.cancelled"
    world.finish(job, "almost")
    payload = peer.frames[-1]["payload"]
    assert (payload["final_status"], payload["code"], payload["retryable"]) == ("timed_out", "TIMEOUT", True)
    assert world.state.timers.keys() == [TimerKey(TimerKind.RETENTION, 0)]


def test_a_streamed_result_above_its_limit_ends_the_job() -> None:
    world = World(limits=Limits(max_result_bytes=10))
    peer = world.client()
    job = peer.submit()
    world.write(job, "12345")
    with pytest.raises(Denied, match="at most 10 bytes") as denied:
        world.write(job, "678901")
    assert denied.value.code == "INTERNAL_ERROR"
    world.take()
    assert world.stops() == [job]
    world.stopped(job)
    end = peer.frames[-1]["payload"]
    assert (end["code"], end["message"]) == ("INTERNAL_ERROR", "a streamed result is at most 10 bytes")
    assert len(peer.about(job)) == 2


# The transport.


def test_agents_wait_for_the_transport_of_their_session(world: World) -> None:
    alice, bob = world.client(), world.client("tok-bob")
    first, second, other = alice.submit(), alice.submit(), bob.submit()
    world.carry_out(alice.connection.blocked(now=world.now))
    assert world.requests[-2:] == [PauseJob(first), PauseJob(second)]
    world.carry_out(alice.connection.blocked(now=world.now))
    world.finish(second)
    world.carry_out(alice.connection.drained(now=world.now))
    assert world.requests[-1] == ResumeJob(first)
    assert len(world.all(PauseJob)) == 2 and len(world.all(ResumeJob)) == 1
    assert other not in [pause.job_id for pause in world.all(PauseJob)]


def test_a_connection_blocked_before_its_welcome_pauses_later_jobs(world: World) -> None:
    peer = world.connect()
    world.carry_out(peer.connection.blocked(now=world.now))
    peer.hello()
    job = peer.submit()
    assert world.all(PauseJob) == [PauseJob(job)]


@pytest.mark.parametrize("how", ["lost", "close", "heartbeat"])
def test_a_detached_session_pauses_no_agent(world: World, peer: Peer, job: JobId, how: str) -> None:
    world.carry_out(peer.connection.blocked(now=world.now))
    match how:
        case "lost":
            peer.drop()
        case "close":
            peer.send("session.close", {})
        case "heartbeat":
            world.advance(64)
    assert world.all(ResumeJob) == [ResumeJob(job)]
    world.carry_out(peer.connection.drained(now=world.now))
    world.carry_out(peer.connection.blocked(now=world.now))
    assert len(world.all(PauseJob)) == 1


def test_a_log_above_its_limit_evicts_its_oldest_events() -> None:
    world = World(limits=Limits(max_session_events=16))
    peer = world.client()
    job = peer.submit()
    for _ in range(40):
        world.emit(job)
    [session] = world.state.sessions.values()
    assert len(session.log) <= 16
    assert session.log.last == 40
    assert peer.numbers() == list(range(1, 41))
    peer.slow = True
    for _ in range(20):
        world.emit(job)
    assert peer.pull() == []
    assert peer.connection.overrun
    world.carry_out(peer.connection.overran(now=world.now))
    [error] = peer.pull()
    assert error["payload"]["code"] == "INTERNAL_ERROR"
    assert peer.closing is not None and peer.closing.code == 1011
    assert world.state.unfinished  # The job continues.
    world.carry_out(peer.connection.overran(now=world.now))
    assert peer.pull() == []


def test_a_log_at_its_limit_evicts_nothing() -> None:
    world = World(JOURNAL, limits=Limits(max_session_events=16))
    job = world.client().submit()
    for _ in range(17):
        world.emit(job)
    kinds = [type(record) for record in world.records[-18:]]
    assert kinds == [*[Published] * 17, Evicted]


# The journal.


def test_an_input_makes_records_of_its_changes() -> None:
    world = World(JOURNAL)
    peer = world.client()
    assert [type(record) for record in world.records] == [SessionOpened, TokenIssued]
    job = peer.submit()
    assert [type(record) for record in world.records[2:]] == [JobAcceptedRecord, JobStarted]
    world.emit(job)
    world.finish(job)
    assert [type(record) for record in world.records[4:]] == [Published, JobEndedRecord]
    for message in ("session.ping", "session.pong", "zork", "session.list_jobs"):
        peer.send(message, {"nonce": "n"})
    world.emit(peer.submit(), "log")
    count = len(world.records)
    peer.send("job.submit", {"agent": "zork"})
    peer.send("session.ack", {"last_processed_seq": 2})
    peer.send("session.ack", {"last_processed_seq": 2})
    peer.send("session.ack", {"last_processed_seq": 1})
    assert len(world.records) == count + 1
    token = peer.frames[0]["payload"]["resume_token"]
    assert token not in repr(world.records)


def test_without_a_journal_no_records_are_made(world: World, peer: Peer) -> None:
    world.finish(peer.submit())
    peer.drop()
    assert world.records == []
    assert world.runtime.record_count == 0


def test_envelopes_and_requests_wait_for_their_records() -> None:
    world = World(JOURNAL)
    world.durable = False
    peer = world.connect()
    peer.hello()
    assert peer.frames == []
    world.persist()
    assert [frame["type"] for frame in peer.frames] == ["session.welcome"]
    assert peer.send("session.ping", {"nonce": "n"})[0]["type"] == "session.pong"
    assert peer.send("job.submit", {"agent": "echo"}) == []
    assert world.all(StartJob) == []
    assert peer.send("session.ping", {"nonce": "n"})[0]["type"] == "session.pong"
    world.persist()
    assert peer.frames[-1]["type"] == "job.accepted"
    job = world.last(StartJob).job_id
    world.emit(job)
    world.emit(job)
    assert peer.numbers() == []
    behind = peer.send("zork", id="behind")
    assert behind == []
    world.runtime.persisted(world.runtime.record_count - 1, now=world.now)
    world.take()
    assert peer.numbers() == [1]
    world.persist()
    assert peer.numbers() == [1, 2]
    assert peer.frames[-1]["payload"]["request_id"] == "behind"


def test_a_pong_never_overtakes_the_welcome() -> None:
    world = World(JOURNAL, tokens=None)
    world.durable = False
    peer = world.connect()
    peer.hello()
    peer.send("session.ping", {"nonce": "n"})
    world.carry_out(
        world.runtime.authenticated(connection_state(peer.connection).number, "alice", now=world.now)
    )
    assert not peer.connection.pending
    world.persist()
    assert [frame["type"] for frame in peer.frames] == ["session.welcome", "session.pong"]


def test_requests_come_out_in_order_once_their_records_are_durable() -> None:
    world = World(JOURNAL)
    peer = world.client()
    world.durable = False
    peer.send("job.submit", {"agent": "echo"})
    first = world.runtime.record_count
    peer.send("job.submit", {"agent": "echo"})
    world.runtime.persisted(first, now=world.now)
    world.take()
    assert len(world.all(StartJob)) == 1
    job = world.last(StartJob).job_id
    world.carry_out(peer.connection.blocked(now=world.now))
    assert world.all(PauseJob) == [PauseJob(job)]  # The agent runs, so the pause is not held.
    world.persist()
    assert [type(request) for request in world.requests[-3:]] == [PauseJob, StartJob, PauseJob]
    peer.cancel(job)
    assert world.stops() == []
    world.persist()
    assert world.stops() == [job]


def test_requests_that_wait_for_records_keep_their_order() -> None:
    world = World(JOURNAL)
    peer = world.client()
    world.durable = False
    peer.send("job.submit", {"agent": "echo"})
    world.runtime.persisted(world.runtime.record_count, now=world.now)
    world.carry_out(peer.connection.blocked(now=world.now))
    assert [type(request) for request in world.requests[-2:]] == [StartJob, PauseJob]
    peer.send("job.submit", {"agent": "echo"})
    world.runtime.persisted(world.runtime.record_count, now=world.now)
    world.runtime.shut_down(0, now=world.now)
    world.persist()
    kinds = [type(request) for request in world.requests[-4:]]
    assert kinds == [StartJob, PauseJob, StopJob, StopJob]


def test_a_lost_connection_has_no_envelopes_to_pull(world: World, peer: Peer, job: JobId) -> None:
    world.runtime.agents.emit(job, "log", {"level": "info", "message": ""}, now=world.now)
    assert peer.connection.lost(now=world.now).writable == ()


def test_a_lost_connection_does_not_become_writable() -> None:
    world = World(JOURNAL)
    peer = world.client()
    job = peer.submit()
    world.durable = False
    world.emit(job)
    peer.drop()
    world.persist()
    assert peer.connection not in world.outputs[-1].writable
    assert peer.frames[-1]["type"] == "job.accepted"


@pytest.mark.parametrize("count", [-1, 1, 99])
def test_persisted_raises_for_a_count_out_of_range(count: int) -> None:
    world = World(JOURNAL)
    world.client()
    world.durable = False
    world.client()
    assert world.runtime.record_count == 4
    with pytest.raises(LocalProtocolError, match="not between 2 and 4"):
        world.runtime.persisted(count, now=world.now)
    world.persist()


# Bugs of this project.


def test_a_runtime_stopped_by_a_bug_stays_stopped(
    world: World, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:

    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.state, "publish", bug)
    job = peer.submit()
    with pytest.raises(ZeroDivisionError):
        world.emit(job)
    for call in (
        lambda: world.emit(job),
        lambda: peer.send("session.ping"),
        lambda: peer.drop(),
        lambda: world.connect(),
        lambda: world.advance(100),
    ):
        with pytest.raises(InvariantViolated):
            call()


def test_a_bug_in_a_streamed_result_stops_the_runtime(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.client().submit()

    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.state, "publish", bug)
    with pytest.raises(ZeroDivisionError):
        world.write(job, "x")
    with pytest.raises(InvariantViolated, match="under way"):
        world.write(job, "x")


def test_framing_and_labels_of_a_connection(world: World) -> None:
    connection = world.connect(Framing.LINES, secure=True, peer="label").connection
    assert (
        connection_state(connection).number,
        connection_state(connection).secure,
        connection_state(connection).peer,
    ) == (1, True, "label")
    assert repr(connection) == "<Connection 1 awaiting_hello lines>"
    assert connection.phase is Phase.AWAITING_HELLO
    assert world.state.connections == {1: connection_state(connection)}
