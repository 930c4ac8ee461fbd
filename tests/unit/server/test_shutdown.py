"""The end of a runtime."""

from __future__ import annotations

import msgspec
import pytest

from arcp_proto import Phase
from arcp_proto.engine.output import Authenticate, RuntimeEnded, StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.server.jobs.inventory import AgentInfo
from tests.unit.world import CONFIG, START, Peer, World

AGAIN = msgspec.structs.replace(CONFIG, journal=True, agents=(AgentInfo("echo", restartable=True),))


def shut_down(world: World, drain: float = 30) -> None:
    world.runtime.shut_down(drain, now=world.now)
    world.take()


def test_a_shutdown_without_jobs_closes_every_connection_at_once() -> None:
    world = World(resume_window_sec=0)
    open_, early = world.client(), world.connect()
    shut_down(world)
    for peer in (open_, early):
        assert peer.closing is not None
        assert (peer.closing.code, peer.closing.reason) == (1012, "the runtime is shutting down")
    assert world.all(RuntimeEnded) == []
    open_.drop()
    early.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]
    assert world.state.timers.keys() == []


def test_a_shutdown_without_connections_ends_at_once(world: World) -> None:
    shut_down(world)
    shut_down(world)
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


def test_running_jobs_may_end_in_the_time_to_drain(world: World, peer: Peer, job: JobId) -> None:
    shut_down(world)
    assert peer.closing is None and world.stops() == []
    world.emit(job)
    world.advance(29)
    peer.send("session.pong")
    world.finish(job, "in time")
    assert peer.frames[-1]["payload"]["result"] == "in time"
    assert peer.closing is not None and peer.closing.code == 1012
    assert world.state.timers.armed(TimerKind.DRAIN, 0) is None
    peer.drop()
    assert world.last(RuntimeEnded).unstopped == 0


def test_jobs_that_run_after_the_time_to_drain_are_cancelled(world: World) -> None:
    peer = world.client(features=())
    good, bad = peer.submit(), peer.submit()
    shut_down(world, 2.5)
    world.advance(2.4)
    assert world.stops() == []
    world.advance(0.2)
    assert world.stops() == [good, bad]
    world.stopped(good)
    end = peer.frames[-1]["payload"]
    assert (end["final_status"], end["code"], end["retryable"]) == ("error", "INTERNAL_ERROR", True)
    assert end["message"] == "the runtime is shutting down"
    assert peer.closing is None
    world.advance(5)
    assert peer.frames[-1]["payload"]["details"] == {"stopped": False}
    assert peer.closing is not None
    peer.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(1)]
    world.stopped(bad)
    assert world.state.running == {}


def test_queued_envelopes_are_sent_before_the_end_of_a_shutdown(world: World, peer: Peer, job: JobId) -> None:
    peer.slow = True
    shut_down(world)
    world.emit(job)
    world.finish(job)
    assert [frame["type"] for frame in peer.pull()] == ["job.event", "job.result"]


def test_a_shutdown_refuses_new_sessions_and_jobs(world: World, peer: Peer, job: JobId) -> None:
    shut_down(world)
    [error] = peer.send("job.submit", {"agent": "echo"})
    assert (error["payload"]["code"], error["payload"]["retryable"]) == ("INTERNAL_ERROR", True)
    late = world.connect()
    late.hello()
    assert late.codes() == ["INTERNAL_ERROR"]
    assert late.closing is not None and late.closing.code == 1012
    assert len(world.all(Authenticate)) == 1
    assert peer.cancel(job)[0]["type"] == "job.cancelled"


def test_a_shutdown_refuses_anonymous_sessions() -> None:
    world = World(anonymous=True)
    world.client().submit()
    shut_down(world)
    late = world.connect()
    late.hello(None, scheme="anonymous")
    assert late.codes() == ["INTERNAL_ERROR"]


def test_a_shutdown_refuses_a_hello_that_is_being_verified(world: World) -> None:
    world.client().submit()
    world.tokens = None
    peer = world.connect()
    peer.hello()
    shut_down(world)
    assert peer.connection.phase is Phase.AUTHENTICATING
    world.carry_out(world.runtime.authenticated(world.last(Authenticate).request, "alice", now=world.now))
    assert peer.codes() == ["INTERNAL_ERROR"]
    assert peer.closing is not None and peer.closing.code == 1012


@pytest.mark.parametrize(("second", "at"), [(10, 10), (60, 30), (30, 30)])
def test_a_second_shutdown_shortens_the_time_to_drain(world: World, second: float, at: int) -> None:
    world.client().submit()
    shut_down(world, 30)
    shut_down(world, second)
    assert world.state.timers.armed(TimerKind.DRAIN, 0) == START + at * SECOND


def test_a_second_shutdown_with_no_time_cancels_at_once(world: World) -> None:
    job = world.client().submit()
    shut_down(world)
    shut_down(world, 0)
    assert world.stops() == [job]
    assert world.state.timers.armed(TimerKind.DRAIN, 0) is None
    shut_down(world, 0)
    assert world.stops() == [job]


@pytest.mark.parametrize("drain", [-1, float("nan"), float("inf"), -float("inf")])
def test_a_time_to_drain_out_of_range_raises(world: World, drain: float) -> None:
    with pytest.raises(LocalProtocolError):
        world.runtime.shut_down(drain, now=world.now)
    assert not world.state.draining
    world.client()


def test_a_cancelled_job_keeps_its_outcome_in_a_shutdown(world: World, peer: Peer, job: JobId) -> None:
    peer.cancel(job)
    shut_down(world, 0)
    world.stopped(job)
    assert peer.frames[-1]["payload"]["code"] == "CANCELLED"
    assert world.stops() == [job]


def test_a_shutdown_leaves_a_restartable_job_to_the_next_process() -> None:
    world = World(AGAIN)
    peer = world.client()
    job = peer.submit()
    world.emit(job)
    shut_down(world, 0)
    assert world.stops() == [job]
    world.emit(job)
    world.stopped(job)
    assert peer.closing is not None and peer.closing.code == 1012
    peer.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]
    world.restart()
    assert (world.last(StartJob).job_id, world.last(StartJob).attempt) == (job, 2)
    again = world.resumed(peer)
    world.finish(job, "done")
    assert [frame["payload"].get("result") for frame in again.about(job)] == [None, "done"]


def test_a_restartable_job_that_ends_in_its_grace_has_ended() -> None:
    world = World(AGAIN)
    peer = world.client()
    job = peer.submit()
    shut_down(world, 0)
    world.finish(job, "done")
    assert peer.frames[-1]["payload"]["result"] == "done"
    peer.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


def test_a_cancel_ends_a_job_that_is_being_left() -> None:
    world = World(AGAIN)
    peer = world.client()
    job = peer.submit()
    shut_down(world, 0)
    peer.cancel(job)
    world.stopped(job)
    assert peer.frames[-1]["payload"]["code"] == "CANCELLED"


def test_a_cancel_ends_a_left_job_whose_agent_has_stopped_at_once() -> None:
    world = World(AGAIN)
    peer = world.client()
    job, other = peer.submit(), peer.submit()
    shut_down(world, 0)
    world.stopped(job)
    peer.cancel(job)
    assert peer.frames[-1]["type"] == "job.error"
    assert peer.frames[-1]["payload"]["code"] == "CANCELLED"
    world.stopped(other)
    peer.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


def test_a_restartable_job_is_left_even_if_its_agent_does_not_stop() -> None:
    world = World(AGAIN)
    peer = world.client()
    job = peer.submit()
    shut_down(world, 0)
    shut_down(world, 0)
    world.advance(5)
    assert peer.of("job.error") == []
    peer.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(1)]
    world.stopped(job)
    world.restart()
    assert world.last(StartJob).attempt == 2


@pytest.mark.parametrize("how", ["no journal", "streamed", "another agent"])
def test_a_shutdown_ends_jobs_that_cannot_start_again(how: str) -> None:
    world = World(AGAIN, journal=how != "no journal", agents=(*AGAIN.agents, AgentInfo("plain")))
    peer = world.client()
    job = peer.submit("plain" if how == "another agent" else "echo")
    if how == "streamed":
        world.write(job, "piece")
    shut_down(world, 0)
    world.stopped(job)
    assert peer.frames[-1]["payload"]["message"] == "the runtime is shutting down"
