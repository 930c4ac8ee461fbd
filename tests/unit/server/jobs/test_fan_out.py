"""Fan-out: numbered events enter logs and histories, and wake the connections that wait for them."""

from __future__ import annotations

import msgspec
import pytest

from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import SECOND, JobId, Monotonic
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.fan_out import number, number_all
from tests.unit.world import CONFIG, Peer, World

QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)


def world_of(*tokens: str) -> tuple[World, list[Peer], JobId]:
    """Return a world, the submitter and an observer for each token, and their job."""
    world = World(QUIET)
    peers = [world.client()]
    job = peers[0].submit()
    for token in tokens:
        peers.append(world.client(token))
        peers[-1].send("job.subscribe", {"job_id": job})
    world.emit(job)
    return world, peers, job


def test_an_event_enters_every_log_and_the_history_and_is_counted() -> None:
    world, peers, job_id = world_of("tok-alice", "tok-alice")
    runtime = world.state
    job = runtime.jobs[job_id]
    before = runtime.holdings.events, runtime.holdings.size
    assert not number(runtime, job, "log", b'{"n":1')
    assert [session.log.last for session in runtime.sessions.values()] == [2, 2, 2]
    assert job.history.end == 2
    assert (runtime.holdings.events, runtime.holdings.size) == (before[0] + 4, before[1] + 4 * 6)
    assert list(runtime.ready) == [connection_state(peer.connection) for peer in peers]


def test_a_session_that_does_not_take_a_kind_gets_no_number_and_is_not_woken() -> None:
    world = World(QUIET)
    peer = world.client(features=("ack",))
    job = world.state.jobs[peer.submit()]
    number(world.state, job, "progress", b'{"n":1')
    assert [session.log.last for session in world.state.sessions.values()] == [0]
    assert (job.history.end, list(world.state.ready)) == (1, [])


def test_number_returns_true_above_the_allowance() -> None:
    world, _, job_id = world_of("tok-alice")
    job = world.state.jobs[job_id]
    assert not number(world.state, job, "log", b'{"n":1')
    for session in world.state.sessions.values():
        session.log.look_again()
        assert number(world.state, job, "log", b'{"n":1')
        session.log.allow(99, 9_999, None)
        assert not number(world.state, job, "log", b'{"n":1')
    job.history.look_again()
    assert number(world.state, job, "log", b'{"n":1')


# Many in one go.


def let_in(world: World, job_id: JobId, count: int, size: int) -> None:
    """Allow some more events and bytes in the log of the only session and in the history of a job."""
    [session] = world.state.sessions.values()
    history = world.state.jobs[job_id].history
    session.log.allow(session.log.last + count + 1, session.log.size + size, None)
    history.allow(history.end + count, history.size + size)


def kept(world: World, job_id: JobId) -> object:
    """Return the content of the log, the history and the counters for a job."""
    runtime, job = world.runtime, world.state.jobs[job_id]
    [session] = state_of(runtime).sessions.values()
    history = list(job.history.between(job.history.first, job.history.end))
    entries = session.log.between(0, session.log.last)
    numbers = (session.log.last, session.log.size, job.history.end, job.history.size, job.home_seq)
    held = (
        state_of(runtime).holdings.events,
        state_of(runtime).holdings.size,
        state_of(runtime).holdings.over,
    )
    return numbers, history, entries, held


PAYLOADS = [b'{"n":%d' % number for number in range(1, 4)]


def test_number_all_equals_repeated_number() -> None:
    one, one_peers, job_id = world_of()
    many, many_peers, _ = world_of()
    for world in (one, many):
        let_in(world, job_id, len(PAYLOADS), sum(map(len, PAYLOADS)))
    for payload in PAYLOADS:
        assert not number(one.state, one.state.jobs[job_id], "log", payload)
    assert number_all(many.state, many.state.jobs[job_id], PAYLOADS)
    assert kept(many, job_id) == kept(one, job_id)
    [session] = many.state.sessions.values()
    assert [entry.payload for entry in session.log.between(1, 4)] == PAYLOADS
    for world, peers in ((one, one_peers), (many, many_peers)):
        assert list(world.state.ready) == [connection_state(peer.connection) for peer in peers]


@pytest.mark.parametrize("held", ["log", "history"])
@pytest.mark.parametrize(("count", "size", "seconds"), [(2, 99, 0), (3, 17, 0), (3, 18, 1)])
def test_number_all_does_nothing_above_an_allowance(held: str, count: int, size: int, seconds: int) -> None:
    world, _, job_id = world_of()
    [session] = world.state.sessions.values()
    job = world.state.jobs[job_id]
    let_in(world, job_id, 99, 999)
    if held == "log":
        session.log.allow(session.log.last + count + 1, session.log.size + size, None)
    else:
        job.history.allow(job.history.end + count, job.history.size + size)
    world.state.now = Monotonic(world.state.now + seconds * SECOND)
    before = kept(world, job_id)
    assert not number_all(world.state, job, PAYLOADS)
    assert kept(world, job_id) == before


@pytest.mark.parametrize("room", [6, 5])
def test_number_all_does_nothing_above_the_limits_of_a_principal(room: int) -> None:
    world = World(QUIET, limits=Limits(max_principal_events=2 + room))
    peer = world.client()
    job_id = peer.submit()
    world.emit(job_id)
    let_in(world, job_id, 99, 999)
    assert number_all(world.state, world.state.jobs[job_id], PAYLOADS) is (room == 6)
    assert not world.state.holdings.over


def test_number_all_does_nothing_for_an_observed_job() -> None:
    world, _, job_id = world_of("tok-alice")
    assert not number_all(world.state, world.state.jobs[job_id], PAYLOADS)
    assert [session.log.last for session in world.state.sessions.values()] == [1, 1]
