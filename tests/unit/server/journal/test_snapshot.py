"""A snapshot stands for every record before it: both restore the same state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import SECOND
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import JobKept, KeyKept, Observed, Record, RuntimeKept, SessionKept
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.sessions.backlogs import Backlog
from tests.unit.world import CONFIG, SEED, START, UNIX, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True, heartbeat_interval_sec=0)
AGAIN = msgspec.structs.replace(JOURNAL, agents=(AgentInfo("echo", restartable=True),))


def restored(world: World, records: list[Record]) -> Runtime:
    unix = UNIX + world.now - START
    return Runtime.restore(world.config, records, seed=SEED, now=world.now, unix=unix)


def law(world: World) -> Runtime:
    """Check that the snapshot restores the state and the decisions of all records, and return the runtime."""
    one = restored(world, world.runtime.snapshot())
    other = restored(world, world.records)
    assert one.snapshot() == other.snapshot()
    assert one.take() == other.take()
    assert state_of(one).timers.keys() == state_of(other).timers.keys()
    return one


def kinds(world: World) -> list[type]:
    return [type(record) for record in world.runtime.snapshot()]


@pytest.fixture
def world() -> World:
    return World(JOURNAL)


def test_a_snapshot_of_an_empty_runtime(world: World) -> None:
    assert world.runtime.snapshot() == [RuntimeKept(0)]
    law(world)


def test_a_snapshot_orders_sessions_jobs_backlogs_and_keys(world: World) -> None:
    peer, other = world.client(), world.client()
    job = peer.submit(idempotency_key="k")
    world.emit(job)
    other.send("job.subscribe", {"job_id": job, "history": True})
    assert kinds(world) == [RuntimeKept, SessionKept, SessionKept, JobKept, Observed, KeyKept]
    law(world)


def test_a_snapshot_of_a_job_in_every_status(world: World, peer: Peer) -> None:
    jobs = [peer.submit(max_runtime_sec=100) for _ in range(6)]
    world.finish(jobs[0], {"x": 1}, "done")
    world.fail(jobs[1])
    peer.cancel(jobs[2])
    world.stopped(jobs[2])
    peer.cancel(jobs[3])
    world.write(jobs[4], "streamed")
    runtime = law(world)
    statuses = [job.status.value for job in state_of(runtime).jobs.values()]
    assert statuses == ["success", "error", "cancelled", "cancelled", "error", "error"]


def test_a_snapshot_of_jobs_that_start_again() -> None:
    world = World(AGAIN)
    peer = world.client()
    for number in range(3):
        world.emit(peer.submit(input={"n": number}))
    world.restart()
    assert [job.attempt for job in state_of(law(world)).jobs.values()] == [3, 3, 3]


def test_a_snapshot_of_an_acked_and_evicted_log() -> None:
    world = World(JOURNAL, limits=Limits(max_session_events=16, max_history_events=8))
    peer = world.client()
    job = peer.submit()
    for _ in range(40):
        world.emit(job)
    peer.send("session.ack", {"last_processed_seq": 37})
    world.emit(job)
    runtime = law(world)
    [session] = state_of(runtime).sessions.values()
    assert (session.acked, session.log.first) == (37, 38)
    assert state_of(runtime).jobs[job].history.cut == 33


def test_a_snapshot_of_tokens_and_replies() -> None:
    world = World(JOURNAL, limits=Limits(max_session_replies=2))
    peer = world.client()
    for number in range(4):
        peer.send("job.submit", {"agent": "echo"}, id=f"s{number}")
    world.resumed(peer)
    runtime = law(world)
    [session] = state_of(runtime).sessions.values()
    assert len(session.tokens) == 2 and len(state_of(runtime).tokens) == 2
    assert [reply.request_id for reply in session.replies] == ["s2", "s3"]
    assert session.replies.accepted("s0") is not None


def test_a_snapshot_of_observers_live_and_behind() -> None:
    world = World(JOURNAL, limits=Limits(max_backlog_events=2))
    peer, live, behind = world.client(), world.client(), world.client()
    job, other = peer.submit(), peer.submit()
    for _ in range(5):
        world.emit(job)
        world.emit(other)
    live.send("job.subscribe", {"job_id": other})
    live.send("job.subscribe", {"job_id": job})
    behind.send("job.subscribe", {"job_id": job, "history": True})
    peer.send("job.subscribe", {"job_id": other, "history": True, "from_event_seq": 4})
    world.carry_out(world.runtime.handle_timer(now=world.now))
    backlogs = [record for record in world.runtime.snapshot() if isinstance(record, Observed)]
    assert [record.backlog for record in backlogs] == [Backlog(4, 5), Backlog(2)]
    law(world)


def test_a_snapshot_of_a_job_whose_session_has_ended() -> None:
    world = World(JOURNAL, resume_window_sec=10)
    peer = world.client()
    job = peer.submit()
    world.emit(job)
    peer.drop()
    world.advance(11)
    world.emit(job)
    runtime = law(world)
    assert state_of(runtime).sessions == {}
    assert state_of(runtime).jobs[job].home_seq == 3


def test_a_snapshot_of_keys_of_running_ended_and_forgotten_jobs() -> None:
    world = World(JOURNAL, limits=Limits(retention_sec=10))
    peer = world.client()
    jobs = [peer.submit(idempotency_key=key) for key in "abc"]
    world.finish(jobs[0], 1)
    world.advance(11)
    world.finish(jobs[1], 2)
    runtime = law(world)
    claims = {key: claim.job_id for _, key, claim in state_of(runtime).keys.items()}
    assert claims == dict(zip("abc", jobs, strict=True))
    assert list(state_of(runtime).jobs) == jobs[1:]


def test_a_snapshot_of_a_session_with_a_quirk(world: World) -> None:
    peer = world.connect()
    peer.hello(features=(), agents=[])
    job = peer.submit(lease_request={"cost.budget": ["USD:1.50"]})
    peer.cancel(job)
    world.stopped(job)
    [session] = state_of(law(world)).sessions.values()
    assert session.quirk.name == "pypi"


def test_a_snapshot_of_an_anonymous_session() -> None:
    world = World(JOURNAL, anonymous=True)
    peer = world.connect()
    peer.hello(None, scheme="anonymous")
    peer.submit()
    assert list(state_of(law(world)).anonymous_principals.values()) == [1]


def test_a_job_keeps_its_number_when_others_are_forgotten() -> None:
    world = World(JOURNAL, limits=Limits(retention_sec=10))
    peer = world.client()
    first, second = peer.submit(), peer.submit()
    world.finish(first)
    world.advance(11)
    runtime = law(world)
    assert state_of(runtime).job_count == 2
    assert [job.number for job in state_of(runtime).jobs.values()] == [2]
    assert list(state_of(runtime).jobs) == [second]


@pytest.mark.parametrize("first", ["records", "snapshot"])
def test_a_runtime_continues_equally_from_snapshot_and_records(first: str) -> None:
    """Compare the bytes of frames after a restart, with and without a compaction of the journal."""

    def frames(records: list[Record], world: World, peer: Peer) -> list[bytes]:
        again = World(world.config, runtime=restored(world, records))
        again.now = world.now
        again.take()
        resumed = again.resumed(peer, 0, replies=True)
        resumed.send("job.submit", {"agent": "echo"}, id="fresh")
        return resumed.raw

    def played() -> tuple[World, Peer]:
        world = World(AGAIN)
        peer = world.client()
        for _ in range(3):
            world.emit(peer.submit())
        world.now += 5 * SECOND
        return world, peer

    world, peer = played()
    snapshot: Any = world.runtime.snapshot()
    chosen = world.records if first == "records" else snapshot
    other = snapshot if first == "records" else world.records
    assert frames(chosen, world, peer) == frames(other, world, peer)


def test_a_snapshot_changes_nothing(world: World, peer: Peer) -> None:
    world.emit(peer.submit())
    assert world.runtime.snapshot() == world.runtime.snapshot()
    assert world.runtime.take().records == ()


def test_a_snapshot_and_later_records_restore_the_same_state() -> None:
    world = World(AGAIN)
    peer, other = world.client(), world.client()
    job = peer.submit(idempotency_key="k")
    world.emit(job)
    other.send("job.subscribe", {"job_id": job, "history": True})
    snapshot, count = world.runtime.snapshot(), len(world.records)
    world.advance(0.001)
    world.emit(job)
    peer.send("session.ack", {"last_processed_seq": 1})
    world.finish(job)
    world.resumed(peer)
    one = restored(world, snapshot + world.records[count:])
    assert one.snapshot() == restored(world, world.records).snapshot() == world.runtime.snapshot()


def test_a_snapshot_does_not_change_after_it_was_taken() -> None:
    world = World(JOURNAL, limits=Limits(max_backlog_events=1))
    peer, other = world.client(), world.client()
    job = peer.submit(idempotency_key="k")
    for _ in range(3):
        world.emit(job)
    other.send("job.subscribe", {"job_id": job, "history": True})
    snapshot = world.runtime.snapshot()
    before = repr(snapshot)
    world.carry_out(world.runtime.handle_timer(now=world.now))
    world.finish(job)
    world.advance(0.001)
    peer.send("session.ack", {"last_processed_seq": 4})
    assert repr(snapshot) == before
