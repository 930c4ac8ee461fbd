"""How what is numbered enters logs and histories, and who is woken."""

from __future__ import annotations

import msgspec

from arcp_proto.entering import number
from arcp_proto.ids import JobId

from .world import CONFIG, Peer, World

QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)


def world_of(*tokens: str) -> tuple[World, list[Peer], JobId]:
    """A job, its submitter, and an observer for each token."""
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
    runtime = world.runtime
    job = runtime.jobs[job_id]
    before = runtime.holdings.events, runtime.holdings.size
    assert not number(runtime, job, "log", b'{"n":1')
    assert [session.log.last for session in runtime.sessions.values()] == [2, 2, 2]
    assert job.history.end == 2
    assert (runtime.holdings.events, runtime.holdings.size) == (before[0] + 4, before[1] + 4 * 6)
    assert list(runtime.ready) == [peer.connection for peer in peers]


def test_who_does_not_take_a_kind_gets_no_number_and_is_not_woken() -> None:
    world = World(QUIET)
    peer = world.client(features=("ack",))
    job = world.runtime.jobs[peer.submit()]
    number(world.runtime, job, "progress", b'{"n":1')
    assert [session.log.last for session in world.runtime.sessions.values()] == [0]
    assert (job.history.end, list(world.runtime.ready)) == (1, [])


def test_beyond_what_is_allowed_a_look_is_due() -> None:
    world, _, job_id = world_of("tok-alice")
    job = world.runtime.jobs[job_id]
    assert not number(world.runtime, job, "log", b'{"n":1')
    for session in world.runtime.sessions.values():
        session.log.look_again()
        assert number(world.runtime, job, "log", b'{"n":1')
        session.log.allow(99, 9_999, None)
        assert not number(world.runtime, job, "log", b'{"n":1')
    job.history.look_again()
    assert number(world.runtime, job, "log", b'{"n":1')
