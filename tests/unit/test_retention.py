"""What is kept after its end, and how long."""

from __future__ import annotations

import msgspec
import pytest

from arcp_proto.ids import SECOND
from arcp_proto.limits import Limits
from arcp_proto.records import Evicted, JobEnded, JobForgotten
from arcp_proto.runtime import Runtime
from arcp_proto.timers import TimerKind

from .world import CONFIG, SEED, START, UNIX, World

ANONYMOUS = msgspec.structs.replace(CONFIG, anonymous=True, journal=True)


def test_a_job_is_forgotten_600_seconds_after_its_end() -> None:
    world = World(ANONYMOUS)
    peer = world.client(features=())
    first, second, third = (peer.submit() for _ in range(3))
    world.finish(first)
    world.advance(10)
    world.finish(second)
    world.finish(third)
    assert world.runtime.timers.armed(TimerKind.RETENTION, 0) == START + 600 * SECOND
    world.advance(589)
    assert peer.cancel(first)[0]["payload"]["final_status"] == "success"
    world.advance(2)
    assert peer.cancel(first)[0]["payload"]["code"] == "JOB_NOT_FOUND"
    assert list(world.runtime.jobs) == [second, third]
    assert world.runtime.timers.armed(TimerKind.RETENTION, 0) == START + 610 * SECOND
    world.advance(10)
    assert world.runtime.jobs == {}
    assert list(world.runtime.retired) == []
    assert [record for record in world.records if isinstance(record, JobForgotten)] == [
        JobForgotten(first),
        JobForgotten(second),
        JobForgotten(third),
    ]
    assert world.runtime.timers.keys() == []


def test_a_crash_between_an_event_and_its_eviction() -> None:
    config = msgspec.structs.replace(ANONYMOUS, resume_window_sec=60, limits=Limits(session_events=16))
    world = World(config)
    job = world.client().submit()
    for _ in range(17):
        world.emit(job)
    assert type(world.records[-1]) is Evicted
    torn = Runtime.restore(config, world.records[:-1], seed=SEED, now=START, unix=UNIX)
    [session] = torn.sessions.values()
    assert len(session.log) <= 16
    assert [type(record) for record in torn.take().records] == [Evicted, JobEnded]


def test_an_agent_that_never_stops_counts_on_after_its_job_is_forgotten() -> None:
    world = World()
    peer = world.client(features=())
    job = peer.submit()
    peer.cancel(job)
    world.advance(700)
    assert world.runtime.jobs == {}
    assert list(world.runtime.running) == [job]
    world.stopped(job)
    assert world.runtime.running == {}


def test_beyond_their_number_the_oldest_finished_jobs_are_forgotten() -> None:
    world = World(msgspec.structs.replace(CONFIG, limits=Limits(finished_jobs=3)))
    peer = world.client()
    jobs = [peer.submit() for _ in range(5)]
    for job in jobs:
        world.finish(job)
    assert list(world.runtime.jobs) == jobs[2:]
    assert len(world.runtime.retired) == 3
    world.advance(600)
    assert world.runtime.jobs == {}


@pytest.mark.parametrize("first", ["session", "job"])
def test_entropy_of_an_anonymous_principal_is_forgotten_with_its_last_use(first: str) -> None:
    world = World(ANONYMOUS)
    peer = world.connect()
    peer.hello(None, scheme="anonymous")
    [principal] = world.runtime.anonymous_principals
    job = peer.submit()
    scope = world.runtime.scope(principal)
    if first == "session":
        peer.drop()
        assert scope in world.runtime.entropy._counts
        world.finish(job)
    else:
        world.finish(job)
        assert scope in world.runtime.entropy._counts
        peer.drop()
    assert world.runtime.anonymous_principals == {}
    assert world.runtime.entropy._counts == {}


def test_entropy_of_others_is_kept() -> None:
    world = World(ANONYMOUS)
    one, two = world.client(), world.client("tok-bob")
    world.finish(one.submit())
    one.drop()
    two.drop()
    assert sorted(world.runtime.entropy._counts) == ["principal alice", "principal bob"]
