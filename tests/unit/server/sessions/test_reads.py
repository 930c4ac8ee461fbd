"""Reads of the events of a job, and descriptions of jobs: the feature READING, apart from subscriptions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import pytest

from arcp_proto.engine.output import Audit, EventsRead, JobEnded, RequestRefused
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import FEATURES, Feature
from arcp_proto.ids import JobId
from arcp_proto.limits import KIB, MAX_READ_KINDS, Limits
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.sessions.reads import MOST_AT_ONCE
from tests.unit.world import CONFIG, Frame, Peer, World

READ: Final = "x-vendor.arcp-io.job.read"
EVENTS: Final = "x-vendor.arcp-io.job.events"
DESCRIBE: Final = "x-vendor.arcp-io.job.describe"
DESCRIBED: Final = "x-vendor.arcp-io.job.described"
ALL: Final = tuple(FEATURES)


def reader(world: World, **client: Any) -> Peer:
    return world.client(features=ALL, **client)


def speak(world: World, job_id: str, count: int, kind: str = "log") -> None:
    for number in range(count):
        body = {"level": "info", "message": str(number)} if kind == "log" else {"current": number}
        world.emit(job_id, kind, body)


def read(peer: Peer, job_id: str, after: int = 0, **asked: Any) -> Frame | None:
    """Ask for events, and return the payload of the answer if there is one."""
    before = len(peer.of(EVENTS))
    peer.send(READ, {"job_id": job_id, "from_job_seq": after, **asked})
    answers = peer.of(EVENTS)[before:]
    return answers[0]["payload"] if answers else None


def last(peer: Peer) -> Frame:
    payload: Frame = peer.of(EVENTS)[-1]["payload"]
    return payload


def seqs(page: Frame | None) -> list[int]:
    assert page is not None
    return [event["payload"]["job_seq"] for event in page["events"]]


def error_of(peer: Peer) -> str:
    code: str = peer.frames[-1]["payload"]["code"]
    return code


# What a read brings.


def test_a_read_brings_the_events_above_a_position(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    speak(world, job, 3)
    assert seqs(read(peer, job)) == [1, 2, 3]
    page = read(peer, job, 2)
    assert seqs(page) == [3] and page is not None and page["job_seq"] == 3 and "ended" not in page
    assert read(peer, job, 3) is not None, "a read that does not wait is answered without an event"
    assert last(peer)["events"] == [] and last(peer)["job_seq"] == 3


def test_a_read_brings_the_end_of_the_job(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    speak(world, job, 1)
    world.finish(job, {"x": 1})
    page = read(peer, job)
    assert seqs(page) == [1, 2] and page is not None and page["ended"] is True
    assert page["events"][1]["type"] == "job.result"
    assert page["events"][1]["payload"]["result"] == {"x": 1}
    assert read(peer, job, 2) == {
        "request_id": last(peer)["request_id"],
        "job_id": job,
        "job_seq": 2,
        "events": [],
        "ended": True,
    }


def test_a_page_has_as_many_events_as_were_asked_for(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    speak(world, job, 5)
    assert seqs(read(peer, job, limit=2)) == [1, 2]
    assert seqs(read(peer, job, 2, limit=2)) == [3, 4]
    world.finish(job, 1)
    page = read(peer, job, 3, limit=2)
    assert seqs(page) == [4, 5] and page is not None and "ended" not in page
    assert seqs(read(peer, job, 5, limit=2)) == [6]


def test_a_page_fits_a_frame(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    for _ in range(8):
        world.emit(job, "log", {"level": "info", "message": "m" * 20 * KIB})
    page = read(peer, job)
    assert seqs(page) == [1, 2] and page is not None and page["job_seq"] == 2
    assert len(msgspec.json.encode(peer.frames[-1])) <= world.config.limits.max_envelope_bytes
    assert seqs(read(peer, job, 2)) == [3, 4]


def test_a_read_brings_the_kinds_that_it_names_and_the_end(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    for kind in ("log", "progress", "log"):
        speak(world, job, 1, kind)
    page = read(peer, job, kinds=["progress"])
    assert seqs(page) == [2] and page is not None and page["job_seq"] == 3
    assert seqs(read(peer, job, kinds=["log", "progress"])) == [1, 2, 3]
    world.finish(job, 1)
    assert seqs(read(peer, job, 2, kinds=["progress"])) == [4]
    assert seqs(read(peer, job, kinds=[])) == [4]
    assert read(peer, job, kinds=["a"] * (MAX_READ_KINDS + 1)) is None
    assert error_of(peer) == "INVALID_REQUEST"


def test_a_kind_is_not_the_beginning_of_another(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    world.emit(job, "x-vendor.a.bc", {"m": 1})
    world.emit(job, "x-vendor.a.b", {"m": 2})
    assert seqs(read(peer, job, kinds=["x-vendor.a.b"])) == [2]


def test_a_page_tells_what_is_left_of_a_history_that_was_cut() -> None:
    world = World(CONFIG, limits=Limits(max_history_events=4))
    peer = reader(world)
    job = peer.submit()
    speak(world, job, 10)
    page = read(peer, job)
    first = world.state.jobs[JobId(job)].history.first + 1
    assert first > 4 and page is not None and page["history_from_job_seq"] == first
    assert seqs(page) == list(range(first, 11))
    assert "history_from_job_seq" not in (read(peer, job, first - 1) or {})


def test_events_of_other_kinds_that_a_read_has_seen_go_are_not_missing() -> None:
    world = World(CONFIG, limits=Limits(max_history_events=4))
    peer = reader(world)
    job = peer.submit()
    assert read(peer, job, kinds=["progress"], wait_ms=5_000) is None
    for _ in range(10):
        speak(world, job, 1)
        world.advance(0.001)
    speak(world, job, 1, "progress")
    world.advance(0.001)
    assert world.state.jobs[JobId(job)].history.first > 0
    assert seqs(last(peer)) == [11] and "history_from_job_seq" not in last(peer)


def test_reads_that_are_refused_count_as_requests() -> None:
    world = World(CONFIG, limits=Limits(max_requests_per_sec=2))
    peer = reader(world)
    job = peer.submit()
    for asked in ({"job_id": "job_unknown"}, {"job_id": job, "kinds": ["a"] * 17}) * 4:
        peer.send(READ, asked)
    assert "requests_per_sec" in [
        frame["payload"]["details"].get("limit") for frame in peer.of("session.error")
    ]


# Waiting.


def test_a_read_waits_for_the_next_event(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    assert read(peer, job, wait_ms=5_000) is None
    speak(world, job, 1)
    world.advance(0.001)
    assert seqs(last(peer)) == [1] and len(peer.of(EVENTS)) == 1
    assert len(world.state.reads) == 0


def test_a_read_waits_for_the_end_of_the_job(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    assert read(peer, job, wait_ms=5_000) is None
    world.finish(job, 1)
    world.advance(0.001)
    assert seqs(last(peer)) == [1] and last(peer)["ended"] is True


def test_a_read_is_answered_without_an_event_after_its_time(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    read(peer, job, wait_ms=2_000)
    world.advance(1.9)
    assert peer.of(EVENTS) == []
    world.advance(0.2)
    assert last(peer)["events"] == [] and last(peer)["job_seq"] == 0


def test_a_read_waits_no_longer_than_the_limit() -> None:
    world = World(CONFIG, limits=Limits(max_read_wait_sec=1))
    peer = reader(world)
    job = peer.submit()
    read(peer, job, wait_ms=60_000)
    world.advance(1.1)
    assert last(peer)["events"] == []


def test_events_of_other_kinds_do_not_end_the_wait(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    assert read(peer, job, wait_ms=5_000, kinds=["progress"]) is None
    for _ in range(3):
        speak(world, job, 2)
        world.advance(0.001)
    assert peer.of(EVENTS) == []
    speak(world, job, 1, "progress")
    world.advance(0.001)
    assert seqs(last(peer)) == [7]


def test_many_reads_of_one_job_are_answered_a_part_at_a_time(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    for _ in range(MOST_AT_ONCE + 10):
        read(peer, job, wait_ms=5_000)
    speak(world, job, 1)
    world.advance(0.0001)
    assert len(peer.of(EVENTS)) == MOST_AT_ONCE
    world.advance(0.002)
    assert len(peer.of(EVENTS)) == MOST_AT_ONCE + 10


def test_the_reads_of_a_connection_are_limited() -> None:
    world = World(CONFIG, limits=Limits(max_connection_reads=2))
    peer = reader(world)
    job = peer.submit()
    for _ in range(2):
        read(peer, job, wait_ms=5_000)
    read(peer, job)
    payload = peer.frames[-1]["payload"]
    assert (payload["code"], payload["retryable"]) == ("INTERNAL_ERROR", True)
    assert payload["details"]["limit"] == "reads" and payload["details"]["max"] == 2


def test_a_read_waits_while_the_transport_takes_nothing(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    read(peer, job, wait_ms=5_000)
    world.carry_out(peer.connection.blocked(now=world.now))
    speak(world, job, 1)
    world.advance(0.01)
    assert peer.of(EVENTS) == []
    world.carry_out(peer.connection.drained(now=world.now))
    world.advance(0.001)
    assert seqs(last(peer)) == [1]


def test_reads_are_slowed_down_and_not_refused_when_a_connection_reads_much() -> None:
    world = World(CONFIG, limits=Limits(max_requests_per_sec=20))
    peer = reader(world)
    job = peer.submit()
    speak(world, job, 640)
    for _ in range(8):
        read(peer, job)
    got = len(peer.of(EVENTS))
    assert 0 < got < 8
    world.advance(10)
    assert len(peer.of(EVENTS)) == 8 and peer.of("session.error") == []


def test_reads_end_with_their_connection(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    read(peer, job, wait_ms=5_000)
    world.carry_out(peer.connection.lost(now=world.now))
    assert len(world.state.reads) == 0
    keys = world.state.timers.keys()
    assert [key for key in keys if key.kind is TimerKind.READS] == []
    speak(world, job, 1)
    world.advance(10)


def test_a_read_takes_no_number_and_no_ack(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    speak(world, job, 2)
    before = peer.numbers()
    read(peer, job)
    assert peer.numbers() == before
    assert "event_seq" not in peer.of(EVENTS)[-1]


# Rights.


def test_a_job_of_another_principal_is_not_found(world: World) -> None:
    job = reader(world).submit()
    other = reader(world, token="tok-bob")
    for kind in (READ, DESCRIBE):
        other.send(kind, {"job_id": job})
        known = other.frames[-1]["payload"]
        other.send(kind, {"job_id": "job_unknown"})
        unknown = other.frames[-1]["payload"]
        assert known["code"] == unknown["code"] == "JOB_NOT_FOUND"
        assert known["message"] == unknown["message"]


@pytest.mark.parametrize(("right", "code"), [("list", "PERMISSION_DENIED"), ("observe", None)])
def test_an_observer_reads_what_it_may_observe(right: str, code: str | None) -> None:
    config = msgspec.structs.replace(CONFIG, observers={"bob": {"alice": right}})
    world = World(config)
    job = reader(world).submit()
    speak(world, job, 1)
    other = reader(world, token="tok-bob")
    for kind in (READ, DESCRIBE):
        other.send(kind, {"job_id": job})
        assert other.frames[-1]["payload"].get("code") == code


def test_a_read_that_waits_is_refused_when_the_right_is_withdrawn() -> None:
    world = World(msgspec.structs.replace(CONFIG, observers={"bob": {"alice": "observe"}}))
    job = reader(world).submit()
    other = reader(world, token="tok-bob")
    read(other, job, wait_ms=5_000)
    world.runtime.observers_set({}, now=world.now)
    world.take()
    world.advance(0.001)
    assert error_of(other) == "JOB_NOT_FOUND"
    assert other.frames[-1]["payload"]["request_id"] == other.frames[-1]["payload"]["details"]["request_id"]


def test_the_first_look_at_a_job_is_an_audit_fact(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    for _ in range(3):
        peer.send(READ, {"job_id": job})
        peer.send(DESCRIBE, {"job_id": job})
    facts = [fact for fact in world.all(Audit) if fact.what == "subscription"]
    assert [fact.facts["decision"] for fact in facts] == ["granted"]


def test_a_session_without_a_feature_reads_no_event_that_needs_it(world: World) -> None:
    narrow = world.client(features=[name for name in ALL if name != Feature.PROGRESS])
    job = narrow.submit()
    speak(world, job, 2, "progress")
    page = read(narrow, job)
    assert page is not None and page["events"] == [] and page["job_seq"] == 2


# Descriptions.


def delegated(world: World, job_id: str) -> str:
    child = world.runtime.agents.delegate(JobId(job_id), "echo", now=world.now)
    world.take()
    return child


def describe(peer: Peer, job_id: str) -> dict[str, Any]:
    peer.send(DESCRIBE, {"job_id": job_id})
    job: dict[str, Any] = peer.of(DESCRIBED)[-1]["payload"]["job"]
    return job


def test_a_description_shows_a_running_job(world: World) -> None:
    peer = reader(world)
    job = peer.submit(lease_request={"cost.budget": ["USD:5"]}, max_runtime_sec=60)
    speak(world, job, 2, "progress")
    world.emit(job, "metric", {"name": "cost.x", "value": 1.5, "unit": "USD"})
    told = describe(peer, job)
    assert told["status"] == "running" and told["agent_runs"] is True and told["max_runtime_sec"] == 60
    assert told["progress"] == {"current": 1}
    assert told["budget"]["USD"]["initial"] == 5 and told["budget"]["USD"]["remaining"] == 3.5
    assert told["job_seq"] == world.state.jobs[JobId(job)].last_position and "end" not in told


def test_a_description_shows_the_end_and_the_size_of_the_result(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    world.finish(job, {"x": "y" * 100})
    end = describe(peer, job)["end"]
    assert end == {"final_status": "success", "completed_at": end["completed_at"], "result_size": 108}


def test_a_description_tells_an_agent_that_does_not_stop(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    peer.send("job.cancel", {"job_id": job})
    told = describe(peer, job)
    assert (told["status"], told["ends_as"], told["agent_runs"]) == ("running", "cancelled", True)
    world.advance(6)
    told = describe(peer, job)
    assert (told["status"], told["agent_runs"]) == ("cancelled", True) and "ends_as" not in told
    assert told["end"]["details"] == {"stopped": False}
    assert told["stopped"] is False and "agent_stopped_at" not in told


def test_a_description_tells_when_such_an_agent_stops(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    peer.send("job.cancel", {"job_id": job})
    assert "stopped" not in describe(peer, job), "before the end it is not decided"
    world.advance(6)
    world.advance(2)
    world.stopped(job)
    told = describe(peer, job)
    assert (told["status"], "agent_runs" in told, told["stopped"]) == ("cancelled", False, True)
    assert told["end"]["details"] == {"stopped": False}, "the end is what it was"
    took = datetime.fromisoformat(told["agent_stopped_at"]) - datetime.fromisoformat(
        told["end"]["completed_at"]
    )
    assert took == timedelta(seconds=3)


def test_a_description_does_not_tell_a_stop_that_the_host_cannot_verify(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    peer.send("job.cancel", {"job_id": job})
    world.advance(6)
    world.carry_out(world.runtime.job_stopped(JobId(job), False, now=world.now))
    told = describe(peer, job)
    assert ("agent_runs" in told, told["stopped"]) == (False, False) and "agent_stopped_at" not in told
    assert not world.state.running, "it no longer counts against the limits"


def test_a_description_of_an_agent_that_stops_in_its_grace(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    peer.send("job.cancel", {"job_id": job})
    world.stopped(job)
    told = describe(peer, job)
    assert (told["status"], told["stopped"]) == ("cancelled", True) and "agent_stopped_at" not in told


def test_a_restart_does_not_know_whether_an_agent_has_stopped_since() -> None:
    world = World(journal=True)
    peer = reader(world)
    stopped, outlived, later = (peer.submit() for _ in range(3))
    for job in (stopped, outlived, later):
        peer.send("job.cancel", {"job_id": job})
    world.stopped(stopped)
    world.advance(6)
    world.stopped(later)
    assert describe(peer, later)["stopped"] is True
    world.restart()
    peer = reader(world)
    told = [describe(peer, job) for job in (stopped, outlived, later)]
    assert [("agent_runs" in job, job["stopped"]) for job in told] == [
        (False, True),
        (False, False),
        (False, False),
    ]


@pytest.fixture
def keeping() -> World:
    """Return a runtime with a journal, whose agent `again` can be started again."""
    agents = (AgentInfo("echo"), AgentInfo("again", restartable=True))
    return World(msgspec.structs.replace(CONFIG, journal=True, agents=agents))


def with_input(peer: Peer, job_id: str) -> dict[str, Any]:
    peer.send(DESCRIBE, {"job_id": job_id, "input": True})
    told: dict[str, Any] = peer.of(DESCRIBED)[-1]["payload"]["job"]
    return {name: value for name, value in told.items() if name.startswith("input")}


def test_a_description_shows_an_input_that_is_kept_to_those_who_ask(keeping: World) -> None:
    peer = reader(keeping)
    job = peer.submit("again", input={"x": [1, None]})
    assert with_input(peer, job) == {"input": {"x": [1, None]}, "input_size": 16}
    assert with_input(peer, peer.submit("again", input=None)) == {"input": None, "input_size": 4}
    assert "input" not in describe(peer, job) and "input_size" not in describe(peer, job)
    keeping.finish(job)
    assert with_input(peer, job) == {}, "the input is dropped with the end of the job"


def test_a_description_shows_no_input_that_is_not_kept(keeping: World, world: World) -> None:
    for runtime in (keeping, world):
        peer = reader(runtime)
        assert with_input(peer, peer.submit("echo", input=1)) == {}


@pytest.mark.parametrize(("size", "shown"), [(32 * KIB, True), (32 * KIB + 1, False)])
def test_a_description_shows_the_size_alone_of_a_large_input(keeping: World, size: int, shown: bool) -> None:
    peer = reader(keeping)
    told = with_input(peer, peer.submit("again", input="x" * (size - 2)))
    assert (told["input_size"], "input" in told) == (size, shown)


def test_a_description_with_an_input_fits_a_message(keeping: World) -> None:
    limits = Limits(max_envelope_bytes=32 * KIB)
    world = World(msgspec.structs.replace(keeping.config, limits=limits))
    peer = reader(world)
    assert with_input(peer, peer.submit("again", input="x" * (32 * KIB - 2))) == {"input_size": 32 * KIB}
    assert "input" in with_input(peer, peer.submit("again", input="x" * (30 * KIB)))


@pytest.mark.parametrize("right", ["observe", "list", None])
def test_an_input_is_shown_to_observers_alone(keeping: World, right: str | None) -> None:
    observers = {} if right is None else {"bob": {"alice": right}}
    world = World(msgspec.structs.replace(keeping.config, observers=observers))
    job = reader(world).submit("again", input=1)
    peer = reader(world, token="tok-bob")
    if right == "observe":
        assert with_input(peer, job) == {"input": 1, "input_size": 1}
    else:
        peer.send(DESCRIBE, {"job_id": job, "input": True})
        assert peer.of(DESCRIBED) == []


def test_a_description_names_parent_and_children(world: World) -> None:
    peer = reader(world)
    job = peer.submit(lease_request={"agent.delegate": ["*"]})
    children = [delegated(world, job) for _ in range(2)]
    assert describe(peer, job)["children"] == children
    assert describe(peer, children[0])["parent_job_id"] == job
    world.finish(children[0], 1)
    assert describe(peer, job)["children"] == children, "an ended child is kept as long as it is listed"


def test_a_listing_shows_the_same(world: World) -> None:
    peer = reader(world)
    job = peer.submit(lease_request={"cost.budget": ["USD:5"]})
    entry = peer.send("session.list_jobs")[-1]["payload"]["jobs"][0]
    assert entry["attempt"] == 1 and entry["agent_runs"] is True
    assert entry["budget"] == {"USD": {"initial": 5, "remaining": 5}}
    world.fail(job, "TIMEOUT", "late")
    entry = peer.send("session.list_jobs")[-1]["payload"]["jobs"][0]
    assert entry["agent_runs"] is False and entry["code"] == "TIMEOUT" and entry["completed_at"]
    assert entry["stopped"] is True
    plain = world.client(features=[name for name in ALL if name != Feature.READING])
    assert "attempt" not in plain.send("session.list_jobs")[-1]["payload"]["jobs"][0]


def test_a_listing_tells_an_agent_that_has_not_stopped(world: World) -> None:
    peer = reader(world)
    job = peer.submit()

    def entry() -> dict[str, Any]:
        told: dict[str, Any] = peer.send("session.list_jobs")[-1]["payload"]["jobs"][0]
        return told

    peer.send("job.cancel", {"job_id": job})
    assert "stopped" not in entry()
    world.advance(6)
    assert (entry()["status"], entry()["agent_runs"], entry()["stopped"]) == ("cancelled", True, False)
    world.stopped(job)
    assert (entry()["status"], entry()["agent_runs"], entry()["stopped"]) == ("cancelled", False, True)
    plain = world.client(features=[name for name in ALL if name != Feature.READING])
    assert "stopped" not in plain.send("session.list_jobs")[-1]["payload"]["jobs"][0]


# The host.


def host_read(world: World, job_id: str, *asked: Any, **more: Any) -> str:
    request_id = world.runtime.jobs.read(JobId(job_id), *asked, **more, now=world.now)
    world.take()
    return request_id


def shown(world: World) -> list[EventsRead | RequestRefused]:
    return [event for event in world.events if isinstance(event, EventsRead | RequestRefused)]


def test_the_host_reads_the_events_of_any_job(world: World) -> None:
    peer = reader(world)
    job = peer.submit()
    speak(world, job, 2)
    number = host_read(world, job)
    world.advance(0)
    [page] = shown(world)
    assert isinstance(page, EventsRead) and page.request_id == number and page.job_seq == 2
    assert [event.job_seq for event in page.events] == [1, 2]
    host_read(world, job, 2, wait_sec=5.0)
    world.finish(job, 1)
    world.advance(0.001)
    page = shown(world)[-1]
    assert isinstance(page, EventsRead) and page.ended
    end = page.events[-1]
    assert isinstance(end, JobEnded) and (end.result, end.job_seq) == (1, 3)


def test_the_host_reads_events_once_they_are_durable() -> None:
    world = World(msgspec.structs.replace(CONFIG, journal=True))
    job = reader(world).submit()
    world.durable = False
    speak(world, job, 1)
    host_read(world, job)
    world.advance(0.001)
    assert shown(world) == []
    world.persist()
    assert [type(event) for event in shown(world)] == [EventsRead]


@pytest.mark.parametrize("asked", [(-1,), (0, 0), (0, 1, -1.0), (0, 1, 0.0, ["a"] * (MAX_READ_KINDS + 1))])
def test_the_host_is_told_of_a_wrong_read(world: World, asked: tuple[Any, ...]) -> None:
    job = reader(world).submit()
    with pytest.raises(LocalProtocolError):
        host_read(world, job, *asked)
    with pytest.raises(LocalProtocolError, match="there is no job"):
        host_read(world, "job_unknown")
    assert world.runtime.jobs.describe(JobId("job_unknown")) is None


def test_the_host_reads_for_a_principal_what_that_may_observe(world: World) -> None:
    job = reader(world).submit()
    speak(world, job, 1)
    rights: list[str | None] = []
    for principal, data in (
        ("alice", {}),
        ("bob", {}),
        ("bob", {"bob": {"alice": "list"}}),
        ("bob", {"bob": {"*": "observe"}}),
    ):
        world.runtime.observers_set(data, now=world.now)
        host_read(world, job, principal=principal)
        rights.append(world.runtime.jobs.right_of(principal, JobId(job), now=world.now))
        world.take()
    found = [event.code if isinstance(event, RequestRefused) else event.job_seq for event in shown(world)]
    assert found == [1, "JOB_NOT_FOUND", "PERMISSION_DENIED", 1]
    assert rights == ["observe", None, "list", "observe"]
    assert world.runtime.jobs.right_of("alice", JobId("job_unknown"), now=world.now) is None
    world.take()
    facts = [fact for fact in world.all(Audit) if fact.what == "subscription"]
    decisions = ["granted", "not visible", "list only", "granted", "unknown"]
    assert [fact.facts["decision"] for fact in facts] == decisions
    assert {fact.facts["session_id"] for fact in facts} == {""}


def test_a_read_for_a_principal_ends_with_its_right(world: World) -> None:
    job = reader(world).submit()
    world.runtime.observers_set({"bob": {"alice": "observe"}}, now=world.now)
    host_read(world, job, wait_sec=5.0, principal="bob")
    assert shown(world) == []
    world.runtime.observers_set({}, now=world.now)
    world.take()
    world.advance(0.001)
    [refused] = shown(world)
    assert isinstance(refused, RequestRefused) and refused.code == "JOB_NOT_FOUND"
