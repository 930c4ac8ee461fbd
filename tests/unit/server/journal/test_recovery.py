"""A restart: the state of each session and job afterwards."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, SessionId
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import (
    Evicted,
    HistoryCut,
    JobAcceptedRecord,
    JobEndedRecord,
    Published,
)
from arcp_proto.server.runtime import Runtime
from tests.unit.world import CONFIG, FEATURES, START, UNIX, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True, heartbeat_interval_sec=0)
AGAIN = msgspec.structs.replace(JOURNAL, agents=(AgentInfo("echo", restartable=True),))


def started(world: World, events: int = 0, **submit: Any) -> tuple[Peer, str]:
    """Return a client with a job that has emitted some events, and the job."""
    peer = world.client()
    job = peer.submit(**submit)
    for _ in range(events):
        world.emit(job)
    return peer, job


# Sessions.


@pytest.fixture
def world() -> World:
    return World(JOURNAL)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_session_is_resumed_with_the_same_bytes(world: World, last: int) -> None:
    peer, job = started(world, 2)
    world.finish(job, {"x": 1})
    world.restart()
    again = world.resumed(peer, last)
    assert again.session_id == peer.session_id
    assert again.numbered == peer.numbered[last:]


def test_a_session_keeps_features_acks_and_tokens(world: World) -> None:
    peer, _ = started(world, 3)
    peer.send("session.ack", {"last_processed_seq": 2})
    second = world.resumed(peer)
    world.restart()
    session = world.state.sessions[SessionId(peer.session_id)]
    assert (session.acked, session.log.first, len(session.tokens)) == (2, 3, 2)
    third = world.resumed(second, 3)
    features = third.frames[0]["payload"]["capabilities"]["features"]
    assert features == peer.frames[0]["payload"]["capabilities"]["features"]
    assert world.resumed(peer, 3).codes() == ["RESUME_WINDOW_EXPIRED"]


def test_event_numbers_continue_without_a_gap_after_a_restart() -> None:
    world = World(AGAIN)
    peer, job = started(world, 3)
    world.restart()
    again = world.resumed(peer, 3)
    world.emit(job)
    other = again.submit()
    world.emit(other)
    assert again.numbers() == [4, 5, 6]


def test_a_restart_begins_every_resume_window_anew(world: World) -> None:
    peer, _ = started(world)
    peer.drop()
    world.advance(599)
    world.restart()
    world.advance(599)
    assert list(world.state.sessions) == [peer.session_id]
    world.advance(1)
    assert world.state.sessions == {}


def test_a_resume_window_of_zero_ends_every_session_in_a_restart() -> None:
    config = msgspec.structs.replace(JOURNAL, resume_window_sec=0)
    world = World(config)
    _, job = started(world)
    world.restart()
    assert world.state.sessions == {}
    assert world.state.jobs[job].ended
    assert world.client().cancel(job)[0]["payload"]["final_status"] == "error"


def test_a_restarted_process_makes_new_ids_and_tokens(world: World) -> None:
    peer, job = started(world)
    world.restart()
    again = world.resumed(peer, 0)
    other = world.client()
    assert len({peer.token, again.token, other.token}) == 3
    assert other.session_id != peer.session_id
    assert other.submit() != job
    ids = [frame["id"] for one in (peer, again) for frame in one.frames if "event_seq" not in frame]
    assert len(dict.fromkeys(ids)) == len(ids)


def test_a_superseded_token_is_invalid_after_a_restart(world: World) -> None:
    peer, _ = started(world)
    second = world.resumed(peer)
    third = world.resumed(second)
    world.restart()
    assert world.resumed(peer).codes() == ["RESUME_WINDOW_EXPIRED"]
    assert world.resumed(third).session_id == peer.session_id


def test_an_ended_session_is_not_restored(world: World) -> None:
    peer, job = started(world, 2)
    peer.drop()
    world.advance(601)
    world.emit(job)
    world.restart()
    assert world.resumed(peer).codes() == ["RESUME_WINDOW_EXPIRED"]
    other = world.client(features=(*FEATURES, Feature.POSITIONS))
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(0.001)
    assert [frame["payload"]["job_seq"] for frame in other.about(job)] == [1, 2, 3, 4]


def test_an_anonymous_session_is_resumed_by_its_token_after_a_restart() -> None:
    world = World(JOURNAL, anonymous=True)
    peer = world.connect()
    peer.hello(None, scheme="anonymous")
    job = peer.submit()
    world.restart()
    again = world.connect()
    again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0})
    assert again.session_id == peer.session_id
    assert again.about(job)[0]["type"] == "job.error"
    again.drop()
    world.advance(601)
    assert world.state.anonymous_principals == {}


@pytest.mark.parametrize("how", ["session.resume", "hello"])
def test_a_verified_principal_is_never_taken_for_an_anonymous_one(how: str) -> None:
    config = msgspec.structs.replace(JOURNAL, anonymous=True)
    world = World(config, tokens={"tok-x": "anonymous-x"})
    peer = world.client("tok-x")
    world.restart()
    world.tokens = None
    again = world.connect()
    if how == "hello":
        again.hello(None, scheme="anonymous", resume={"resume_token": peer.token, "last_event_seq": 0})
        assert again.codes() == ["RESUME_WINDOW_EXPIRED"]
    else:
        again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0})
        assert again.frames == []
        assert world.last(Authenticate).principal == "anonymous-x"


def test_the_notice_of_a_lag_is_not_repeated_after_a_restart() -> None:
    world = World(AGAIN, limits=Limits(back_pressure_events=5))
    peer, job = started(world, 1)
    peer.send("session.ack", {"last_processed_seq": 1})
    for _ in range(8):
        world.emit(job)
    assert str(peer.frames).count("back_pressure") == 1
    world.restart()
    again = world.resumed(peer)
    world.emit(job)
    assert "back_pressure" not in str(again.frames)
    again.send("session.ack", {"last_processed_seq": max(again.numbers())})
    for _ in range(6):
        world.emit(job)
    assert str(again.frames).count("back_pressure") == 1


def test_a_lag_is_reported_once_across_a_restart() -> None:
    world = World(AGAIN, limits=Limits(back_pressure_events=5))
    peer, job = started(world, 10)
    assert str(peer.frames).count("back_pressure") == 1
    world.restart()
    again = world.resumed(peer)
    again.send("session.ack", {"last_processed_seq": 1})
    world.emit(job)
    assert str(again.frames).count("back_pressure") == 0
    again.send("session.ack", {"last_processed_seq": max(again.numbers())})
    for _ in range(6):
        world.emit(job)
    assert str(again.frames).count("back_pressure") == 1


# Jobs.


def test_jobs_whose_agents_died_end_with_a_retryable_error(world: World) -> None:
    peer, job = started(world, 1)
    world.restart()
    [end] = world.resumed(peer, 1).about(job)
    assert (end["type"], end["event_seq"]) == ("job.error", 2)
    assert end["payload"] == {
        "final_status": "error",
        "code": "INTERNAL_ERROR",
        "message": "the runtime was restarted",
        "retryable": True,
        "completed_at": "2026-05-28T20:26:40.000Z",
    }
    assert world.state.running == world.state.unfinished == {}
    assert len(world.all(StartJob)) == 1


def test_an_outcome_fixed_before_the_crash_counts() -> None:
    world = World(AGAIN)
    peer, job = started(world)
    peer.cancel(job, "enough")
    world.restart()
    [answer, end] = world.resumed(peer, 0).about(job)
    assert answer["type"] == "job.cancelled"
    assert (end["payload"]["code"], end["payload"]["final_status"]) == ("CANCELLED", "cancelled")
    assert len(world.all(StartJob)) == 1


def test_a_job_of_a_restartable_agent_starts_again() -> None:
    world = World(AGAIN)
    peer, job = started(world, 1, input={"a": [1, None]}, lease_request={"tool.call": ["x"]})
    first = world.last(StartJob)
    world.restart()
    second = world.last(StartJob)
    assert (first.attempt, second.attempt) == (1, 2)
    assert msgspec.structs.replace(second, attempt=1) == first
    [restarted] = world.resumed(peer, 1).about(job)
    assert restarted["payload"]["kind"] == "status"
    assert restarted["payload"]["body"] == {"phase": "restarted", "message": "attempt 2"}
    world.finish(job)
    world.restart()
    assert len(world.all(StartJob)) == 2


def test_every_restart_is_another_attempt() -> None:
    world = World(AGAIN)
    started(world)
    for _ in range(3):
        world.restart()
    assert [request.attempt for request in world.all(StartJob)] == [1, 2, 3, 4]


def test_a_job_that_was_accepted_and_never_started_starts_for_the_first_time() -> None:
    world = World(AGAIN)
    peer, job = started(world)
    accepted = [type(record) for record in world.records].index(JobAcceptedRecord)
    world.records = world.records[: accepted + 1]
    world.restart()
    assert world.last(StartJob).attempt == 1
    assert world.resumed(peer, 0).about(job) == []


def test_a_job_that_has_streamed_cannot_start_again() -> None:
    world = World(AGAIN)
    peer, job = started(world)
    world.write(job, "text")
    world.restart()
    assert [frame["type"] for frame in world.resumed(peer, 1).about(job)] == ["job.error"]
    assert len(world.all(StartJob)) == 1


def test_an_agent_that_is_restartable_no_longer_is_not_started() -> None:
    world = World(AGAIN)
    peer, job = started(world)
    world.config = JOURNAL
    world.restart()
    assert [frame["type"] for frame in world.resumed(peer, 0).about(job)] == ["job.error"]


def test_max_runtime_sec_counts_across_a_restart() -> None:
    world = World(AGAIN)
    peer, job = started(world, max_runtime_sec=100)
    world.advance(40)
    world.restart()
    again = world.resumed(peer, 0)
    world.advance(59)
    assert world.stops() == []
    world.advance(1)
    assert world.stops() == [job]
    world.stopped(job)
    assert again.about(job)[-1]["payload"]["code"] == "TIMEOUT"


def test_a_wall_clock_that_was_ahead_does_not_extend_max_runtime_sec() -> None:
    world = World(AGAIN)
    world.runtime.wall_clock_set(UNIX + 3_600 * SECOND, now=world.now)
    _, job = started(world, max_runtime_sec=100)
    world.runtime = Runtime.restore(AGAIN, world.records, seed=b"t" * 32, now=world.now, unix=UNIX)
    world.take()
    world.persist()
    world.advance(100)
    assert world.stops() == [job]


def test_a_job_whose_max_runtime_sec_ended_meanwhile_is_stopped_at_once() -> None:
    world = World(AGAIN)
    _, job = started(world, max_runtime_sec=10)
    world.now += 20 * SECOND
    world.restart()
    world.advance(0)
    assert world.stops() == [job]


def test_a_finished_job_is_kept_for_the_rest_of_its_time(world: World) -> None:
    _, job = started(world)
    world.finish(job)
    world.advance(500)
    world.restart()
    world.advance(99)
    assert list(world.state.jobs) == [job]
    world.advance(1)
    assert world.state.jobs == {}


def test_a_wall_clock_that_was_ahead_does_not_extend_the_retention_of_jobs(world: World, peer: Peer) -> None:
    first, second = peer.submit(), peer.submit()
    world.runtime.wall_clock_set(UNIX + 3_600 * SECOND, now=world.now)
    world.finish(first)
    world.runtime.wall_clock_set(UNIX, now=world.now)
    world.runtime = Runtime.restore(JOURNAL, world.records, seed=b"t" * 32, now=world.now, unix=UNIX)
    world.take()
    assert world.state.jobs[second].ended
    world.advance(601)
    assert world.state.jobs == {}


def test_finished_jobs_are_forgotten_in_the_order_of_their_ends(world: World, peer: Peer) -> None:
    first, second = peer.submit(), peer.submit()
    world.finish(second)
    world.advance(60)
    world.finish(first)
    world.restart()
    world.advance(541)
    assert list(world.state.jobs) == [first]


def test_the_retention_of_a_long_job_begins_at_its_end(world: World) -> None:
    _, job = started(world)
    world.advance(5_000)
    world.restart()
    world.advance(599)
    assert world.state.jobs[job].ended


# Decisions of a recovery.


def test_decisions_of_recovery_are_handed_out_by_the_first_take(world: World) -> None:
    peer, _ = started(world, 1)
    peer.submit()
    runtime = Runtime.restore(JOURNAL, world.records, seed=b"t" * 32, now=START + 9, unix=UNIX)
    assert (runtime.record_count, runtime.persisted_count) == (2, 0)
    output = runtime.take()
    assert [type(record) for record in output.records] == [JobEndedRecord, JobEndedRecord]
    assert output.timer is not None and output.timer.at == START + 9 + 600 * SECOND
    assert output.events == ()


def test_decisions_of_recovery_are_sent_once_they_are_durable(world: World) -> None:
    peer, job = started(world, 1)
    world.durable = False
    world.restart()
    again = world.resumed(peer, 0)
    assert again.frames == []
    world.persist()
    world.persist()
    assert [frame["type"] for frame in again.frames] == ["session.welcome", "job.event", "job.error"]
    assert again.about(job)[0]["event_seq"] == 1


def test_a_restarted_agent_waits_until_its_start_is_durable() -> None:
    world = World(AGAIN)
    started(world)
    world.durable = False
    world.restart()
    assert len(world.all(StartJob)) == 1
    world.persist()
    assert len(world.all(StartJob)) == 2


def test_a_second_restart_decides_nothing_new(world: World) -> None:
    started(world, 2)
    world.restart()
    count = len(world.records)
    snapshot = world.runtime.snapshot()
    world.restart()
    assert len(world.records) == count
    assert world.runtime.snapshot() == snapshot


def test_changes_that_were_not_durable_are_lost_without_a_trace(world: World) -> None:
    peer, job = started(world, 2)
    world.durable = False
    count = len(world.records)
    world.emit(job)
    world.finish(job)
    assert peer.numbers() == [1, 2]
    world.records = world.records[:count]
    world.durable = True
    world.restart()
    [end] = world.resumed(peer, 2).about(job)
    assert (end["event_seq"], end["payload"]["code"]) == (3, "INTERNAL_ERROR")


def test_a_runtime_restores_from_no_records() -> None:
    runtime = Runtime.restore(JOURNAL, [], seed=b"t" * 32, now=START, unix=UNIX)
    assert state_of(runtime).sessions == state_of(runtime).jobs == {}
    assert runtime.take().records == ()


# Limits.


def test_a_crash_between_an_event_and_its_eviction_restores_within_limits() -> None:
    world = World(JOURNAL, limits=Limits(max_session_events=16))
    started(world, 17)
    assert type(world.records[-1]) is Evicted
    world.records.pop()
    world.restart()
    [session] = world.state.sessions.values()
    assert len(session.log) <= 16
    assert Evicted in [type(record) for record in world.records]


def test_a_crash_between_an_event_and_the_cut_of_its_history_restores_within_limits() -> None:
    world = World(JOURNAL, limits=Limits(max_history_events=16))
    _, job = started(world, 17)
    assert [type(record) for record in world.records[-2:]] == [Published, HistoryCut]
    world.records.pop()
    world.restart()
    assert world.state.jobs[job].history.events <= 16


def test_lowered_limits_hold_after_a_restart(world: World) -> None:
    started(world, 50)
    world.config = msgspec.structs.replace(JOURNAL, limits=Limits(max_principal_events=20))
    world.restart()
    assert world.state.holdings.events <= 20


def test_lowered_limits_hold_for_finished_jobs_after_a_restart(world: World) -> None:
    _, job = started(world, 50)
    world.finish(job)
    world.config = msgspec.structs.replace(JOURNAL, limits=Limits(max_principal_events=20))
    world.restart()
    assert world.state.holdings.events <= 20


def test_fewer_finished_jobs_are_kept_when_the_limit_was_lowered(world: World, peer: Peer) -> None:
    jobs = [peer.submit() for _ in range(4)]
    for job in jobs:
        world.finish(job)
    world.config = msgspec.structs.replace(JOURNAL, limits=Limits(max_principal_finished_jobs=2))
    world.restart()
    assert list(world.state.jobs) == jobs[2:]


def test_a_restart_arms_the_timers_of_its_sessions_and_jobs(world: World) -> None:
    _, job = started(world, idempotency_key="k")
    world.finish(job)
    world.restart()
    armed = world.state.timers.keys()
    assert [key.kind for key in armed] == [TimerKind.RESUME_WINDOW, TimerKind.RETENTION, TimerKind.KEYS]
