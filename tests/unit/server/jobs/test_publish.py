"""Numbers, acks and lag: numbered events on their way to sessions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import PauseJob, StartJob
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.server.journal.records import Published, Released
from tests.unit.world import CONFIG, FEATURES, Frame, Peer, World

QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)
JOURNAL = msgspec.structs.replace(QUIET, journal=True)
LAG = msgspec.structs.replace(QUIET, limits=Limits(back_pressure_events=5))


def acked(peer: Peer, seq: int) -> list[Frame]:
    return peer.send("session.ack", {"last_processed_seq": seq})


def notices(peer: Peer) -> list[Frame]:
    """Return the notices to the session about its lag."""
    events = peer.of("job.event")
    return [frame for frame in events if frame["payload"]["body"].get("phase") == "back_pressure"]


def emits(world: World, job: str, count: int) -> None:
    for _ in range(count):
        world.emit(job)


# Numbers.


@pytest.fixture
def world() -> World:
    return World(LAG)


def test_only_events_terminals_and_job_cancelled_are_numbered() -> None:
    world = World()
    peer = world.client()
    job, other = peer.submit(), peer.submit()
    world.emit(job)
    peer.send("job.submit", {"agent": "zork"})
    peer.send("session.list_jobs")
    peer.send("job.subscribe", {"job_id": job})
    peer.send("session.ping", {"nonce": "n"})
    peer.cancel(other)
    world.fail(job)
    world.stopped(other)
    peer.send("session.close", {})
    numbered = [(frame["type"], frame["event_seq"]) for frame in peer.frames if "event_seq" in frame]
    assert numbered == [("job.event", 1), ("job.cancelled", 2), ("job.error", 3), ("job.error", 4)]
    assert len(peer.frames) == 4 + 8


def test_an_event_has_a_number_in_each_session() -> None:
    world = World()
    peers = [world.client() for _ in range(3)]
    job = peers[0].submit()
    for peer in peers[1:]:
        peer.submit()
        world.emit(world.last(StartJob).job_id)
        peer.send("job.subscribe", {"job_id": job})
    world.emit(job)
    assert [peer.numbers() for peer in peers] == [[1], [1, 2], [1, 2]]
    ids = [frame["id"] for peer in peers for frame in peer.about(job)]
    assert len(dict.fromkeys(ids)) == 3


def test_events_of_a_missing_feature_take_no_number() -> None:
    world = World()
    peer = world.client(features=("ack",))
    job = peer.submit()
    world.emit(job, "progress", {"current": 1})
    world.emit(job)
    assert peer.numbers() == [1]
    [session] = world.state.sessions.values()
    assert len(session.log) == 1


# Acks.


def test_an_ack_frees_the_log() -> None:
    world = World()
    peer = world.client()
    job = peer.submit()
    emits(world, job, 4)
    assert acked(peer, 3) == []
    [session] = world.state.sessions.values()
    assert (session.acked, session.log.first, len(session.log)) == (3, 4, 1)


def test_an_ack_above_the_last_number_is_invalid() -> None:
    world = World()
    peer = world.client()
    emits(world, peer.submit(), 2)
    [error] = acked(peer, 3)
    assert error["payload"]["code"] == "INVALID_REQUEST"
    [session] = world.state.sessions.values()
    assert (session.acked, len(session.log)) == (0, 2)


def test_a_lower_ack_is_ignored() -> None:
    world = World(JOURNAL)
    peer = world.client()
    emits(world, peer.submit(), 3)
    for seq in (2, 1, 2, 0):
        assert acked(peer, seq) == []
    assert [record.seq for record in world.records if isinstance(record, Released)] == [2]


@pytest.mark.parametrize("seq", [2.0, "2"])
def test_an_ack_is_read_in_lenient_forms(seq: Any) -> None:
    world = World()
    peer = world.client()
    emits(world, peer.submit(), 3)
    assert acked(peer, seq) == []
    [session] = world.state.sessions.values()
    assert session.acked == 2


# Lag.


def test_a_lagging_session_is_told_once_per_crossing(world: World, peer: Peer, job: JobId) -> None:
    world.emit(job)
    acked(peer, 1)
    emits(world, job, 5)
    assert notices(peer) == []
    emits(world, job, 10)
    [notice] = notices(peer)
    assert (notice["job_id"], notice["event_seq"]) == (job, 8)
    assert notice["payload"]["kind"] == "status"
    assert "6 events" in notice["payload"]["body"]["message"]
    acked(peer, max(peer.numbers()) - 6)
    emits(world, job, 3)
    assert len(notices(peer)) == 1
    acked(peer, max(peer.numbers()))
    emits(world, job, 6)
    assert len(notices(peer)) == 2


def test_a_lagging_session_is_told_before_its_first_ack(world: World, peer: Peer, job: JobId) -> None:
    emits(world, job, 5)
    assert notices(peer) == []
    emits(world, job, 25)
    [notice] = notices(peer)
    assert (notice["job_id"], notice["event_seq"]) == (job, 7)
    assert "6 events" in notice["payload"]["body"]["message"]


def test_a_session_without_ack_is_not_told_of_its_lag(world: World) -> None:
    peer = world.client(features=("progress",))
    emits(world, peer.submit(), 30)
    assert notices(peer) == []


def test_the_notice_of_a_lag_is_on_the_newest_unfinished_job(world: World, peer: Peer) -> None:
    one, two, three = (peer.submit() for _ in range(3))
    world.finish(three)
    acked(peer, 1)
    emits(world, one, 6)
    assert [notice["job_id"] for notice in notices(peer)] == [two]


def test_a_session_without_unfinished_jobs_is_not_told_of_its_lag(world: World, peer: Peer) -> None:
    world.finish(peer.submit())
    acked(peer, 1)
    job = world.client().submit()
    peer.send("job.subscribe", {"job_id": job})
    emits(world, job, 20)
    assert notices(peer) == []


def test_the_notice_of_a_lag_is_in_no_history_and_no_other_session(world: World) -> None:
    peer, live, late = (world.client(features=(*FEATURES, Feature.POSITIONS)) for _ in range(3))
    job = peer.submit()
    live.send("job.subscribe", {"job_id": job})
    world.emit(job)
    acked(peer, 1)
    emits(world, job, 8)
    late.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(0.001)
    assert len(notices(peer)) == 1
    assert notices(live) == notices(late) == []
    for other in (live, late):
        assert [frame["payload"]["job_seq"] for frame in other.about(job)] == list(range(1, 10))


def test_a_lag_pauses_no_agent(world: World, peer: Peer, job: JobId) -> None:
    world.emit(job)
    acked(peer, 1)
    emits(world, job, 50)
    assert world.all(PauseJob) == []


def test_a_detached_client_pauses_no_agent(world: World, peer: Peer, job: JobId) -> None:
    world.carry_out(peer.connection.blocked(now=world.now))
    peer.drop()
    count = len(world.all(PauseJob))
    emits(world, job, 50)
    assert len(world.all(PauseJob)) == count == 1


def test_events_that_a_session_does_not_take_do_not_delay_its_ping() -> None:
    world = World()
    peer = world.client(features=("heartbeat",))
    job = peer.submit()
    for _ in range(3):
        world.advance(12)
        world.emit(job, "progress", {"current": 1})
        peer.send("session.pong", {"ping_nonce": ""})
    assert len(peer.of("session.ping")) == 1


# Persisting.


def held(world: World) -> Peer:
    """Return a client whose later records are not durable."""
    peer = world.client()
    world.durable = False
    return peer


def test_no_event_is_sent_before_its_record_is_durable() -> None:
    world = World(JOURNAL)
    peer = world.client()
    job = peer.submit()
    world.durable = False
    before = world.runtime.record_count
    emits(world, job, 3)
    assert peer.numbers() == []
    for number in (1, 2, 3):
        world.runtime.persisted(before + number, now=world.now)
        world.take()
        assert peer.numbers() == list(range(1, number + 1))


def test_no_observer_gets_an_event_that_is_not_durable() -> None:
    world = World(JOURNAL)
    job = world.client().submit()
    other = world.client()
    other.send("job.subscribe", {"job_id": job})
    world.durable = False
    world.emit(job)
    assert other.numbers() == []
    world.persist()
    assert other.numbers() == [1]


def test_the_welcome_of_a_resume_waits_until_its_token_is_durable() -> None:
    world = World(JOURNAL)
    peer = world.client()
    job = peer.submit()
    world.emit(job)
    world.durable = False
    world.emit(job)
    again = world.resumed(peer, 0)
    world.persist()  # The verdict waits for the records.
    assert again.frames == []
    world.persist()
    assert [frame["type"] for frame in again.frames] == ["session.welcome", "job.event", "job.event"]


def test_a_token_that_was_never_durable_was_never_sent() -> None:
    world = World(JOURNAL)
    peer = world.client()
    count = len(world.records)
    world.durable = False
    again = world.resumed(peer, 0)
    assert len(world.records) > count
    assert again.frames == []
    world.records = world.records[:count]
    world.durable = True
    world.restart()
    assert world.resumed(peer, 0).frames[0]["type"] == "session.welcome"


def test_job_subscribed_waits_until_its_record_is_durable() -> None:
    world = World(JOURNAL)
    job = world.client().submit()
    other = held(world)
    assert other.send("job.subscribe", {"job_id": job}) == []
    world.persist()
    assert other.frames[-1]["type"] == "job.subscribed"


def test_a_terminal_waits_for_its_record_and_nothing_overtakes_it() -> None:
    world = World(JOURNAL)
    peer = world.client()
    job = peer.submit()
    world.durable = False
    world.finish(job)
    assert peer.send("session.list_jobs") == []
    world.persist()
    assert [frame["type"] for frame in peer.frames[-2:]] == ["job.result", "session.jobs"]


def test_an_event_is_one_record_for_all_sessions() -> None:
    world = World(JOURNAL)
    job = world.client().submit()
    for _ in range(3):
        world.client().send("job.subscribe", {"job_id": job})
    count = len(world.records)
    world.emit(job)
    assert [type(record) for record in world.records[count:]] == [Published]


# Blocked transports.


def test_a_pause_ends_with_the_session() -> None:
    world = World(QUIET, resume_window_sec=10)
    peer = world.client()
    job = peer.submit()
    world.carry_out(peer.connection.blocked(now=world.now))
    assert world.state.jobs[job].paused
    peer.drop()
    assert not world.state.jobs[job].paused
    world.now += 20 * SECOND
    world.carry_out(world.runtime.handle_timer(now=world.now))
    assert world.state.sessions == {}
    world.emit(job)


def test_an_ack_that_frees_nothing_rearms_the_notice_of_a_lag() -> None:
    """Acknowledge events that were evicted before, so that the log does not change."""
    world = World(QUIET, limits=Limits(back_pressure_events=5, max_session_bytes=2_000))
    peer = world.client()
    job = peer.submit()
    world.emit(job)
    acked(peer, 1)
    for _ in range(13):
        world.emit(job, "log", {"level": "info", "message": "x" * 500})
    session = connection_state(peer.connection).session
    assert session is not None and session.log.first > 10
    assert len(notices(peer)) == 1
    acked(peer, session.log.last - 4)
    held = len(session.log)
    emits(world, job, 1)
    assert (len(session.log), len(notices(peer))) == (held + 1, 1)
    emits(world, job, 1)
    assert len(notices(peer)) == 2


def test_a_lagging_session_is_told_once_it_submits_a_job(world: World) -> None:
    """Check that a session without a job gets no notice, which belongs to a job."""
    submitter, observer = world.client(), world.client()
    job = submitter.submit()
    observer.send("job.subscribe", {"job_id": job})
    emits(world, job, 1)
    acked(observer, 1)
    emits(world, job, 6)
    assert notices(observer) == []
    observer.submit()
    emits(world, job, 1)
    assert len(notices(observer)) == 1


def test_a_notice_that_a_history_was_cut_counts_for_the_lag_as_well() -> None:
    limits = Limits(back_pressure_events=5, max_history_events=8, max_backlog_events=2)
    world = World(QUIET, limits=limits)
    owner, peer = world.client(), world.client()
    job, mine = owner.submit(), peer.submit()
    world.emit(mine)
    acked(peer, 1)
    emits(world, job, 6)
    peer.slow = True
    peer.send("job.subscribe", {"job_id": job, "history": True})
    session = connection_state(peer.connection).session
    assert session is not None
    emits(world, mine, 6 - session.log.last)
    assert (session.log.last - session.acked, session.lagging) == (5, False)
    emits(world, job, 8)
    assert job not in session.backlogs
    assert (session.log.last - session.acked, session.lagging) == (7, True)
