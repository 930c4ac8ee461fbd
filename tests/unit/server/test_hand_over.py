"""The end of a runtime whose journal the next runtime takes over."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.output import IssueCredentials, RuntimeEnded, StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.jobs.stage import JobStage
from tests.properties import structure
from tests.unit.credentialed import JOURNALED, Provided
from tests.unit.world import CONFIG, START, Peer, World

AGENTS = (AgentInfo("echo"), AgentInfo("again", restartable=True))
KEPT = msgspec.structs.replace(CONFIG, journal=True, agents=AGENTS)
LEASE = {"agent.delegate": ["*"], "fs.read": ["/a/**"]}


def hand_over(world: World, drain: float = 30) -> None:
    world.runtime.hand_over(drain, now=world.now)
    world.take()


def busy(world: World, drain: float = 30, agent: str = "echo") -> tuple[Peer, JobId]:
    """Return a client with a job that runs, in a runtime that hands over."""
    peer = world.client()
    job = peer.submit(agent)
    hand_over(world, drain)
    return peer, job


def submitted(peer: Peer, agent: str = "echo", **payload: Any) -> JobId:
    """Return a job that is accepted."""
    frames = peer.send("job.submit", {"agent": agent, **payload})
    assert [frame["type"] for frame in frames] == ["job.accepted"]
    return JobId(frames[0]["payload"]["job_id"])


def started(world: World, job: JobId) -> list[StartJob]:
    """Return the requests to start the agent of a job."""
    return [request for request in world.all(StartJob) if request.job_id == job]


def restarted(world: World, peer: Peer) -> Peer:
    """Let the next process begin, and resume the session of a client there."""
    world.restart()
    return world.resumed(peer)


# The end of a runtime that hands over.


def test_without_a_running_job_a_hand_over_ends_at_once() -> None:
    world = World(KEPT)
    peer, early = world.client(), world.connect()
    hand_over(world)
    for one in (peer, early):
        assert one.closing is not None and (one.closing.code, one.closing.abort) == (1012, False)
    peer.drop()
    assert world.all(RuntimeEnded) == []
    early.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


def test_a_hand_over_ends_when_the_last_running_job_has_ended() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    submitted(peer)
    world.finish(job, "in time")
    assert peer.frames[-1]["payload"]["result"] == "in time"
    assert peer.closing is not None and peer.closing.code == 1012
    assert world.state.timers.armed(TimerKind.DRAIN, 0) is None
    peer.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


def test_at_the_end_of_the_time_to_drain_running_jobs_are_cancelled_and_restartable_ones_left() -> None:
    world = World(KEPT)
    peer = world.client()
    job, again = peer.submit(), peer.submit("again")
    hand_over(world, 10)
    kept = submitted(peer)
    world.advance(9)
    assert world.stops() == []
    world.advance(1)
    assert world.stops() == [job, again]
    late = submitted(peer)  # The agents have their grace.
    world.stopped(job)
    world.stopped(again)
    assert [frame["payload"]["message"] for frame in peer.of("job.error")] == ["the runtime is shutting down"]
    assert peer.closing is not None
    next_one = restarted(world, peer)
    assert [(request.job_id, request.attempt) for request in world.all(StartJob)[2:]] == [
        (again, 2),
        (kept, 1),
        (late, 1),
    ]
    assert next_one.of("job.error") == []


def test_a_hand_over_without_time_cancels_at_once() -> None:
    world = World(KEPT)
    _, job = busy(world, 0)
    assert world.stops() == [job]
    assert world.state.timers.armed(TimerKind.DRAIN, 0) is None


@pytest.mark.parametrize(("second", "at"), [(10, 10), (60, 30), (30, 30)])
def test_a_second_hand_over_shortens_the_time_to_drain(second: float, at: int) -> None:
    world = World(KEPT)
    busy(world, 30)
    hand_over(world, second)
    assert world.state.timers.armed(TimerKind.DRAIN, 0) == START + at * SECOND


def test_a_hand_over_that_is_over_may_be_asked_for_again() -> None:
    world = World(KEPT)
    hand_over(world)
    hand_over(world)
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


# Sessions.


def test_sessions_open_and_resume_during_a_hand_over() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    peer.drop()
    world.emit(job)
    again = world.resumed(peer)
    assert [frame["type"] for frame in again.about(job)] == ["job.event"]
    bob = world.client("tok-bob")
    submitted(bob)
    assert bob.closing is None


def test_a_hello_after_the_end_of_a_hand_over_is_refused() -> None:
    world = World(KEPT)
    world.connect()  # This connection keeps the runtime from its end.
    hand_over(world)
    late = world.connect()
    late.hello()
    assert late.codes() == ["INTERNAL_ERROR"]
    assert late.closing is not None and late.closing.code == 1012


# Jobs that are kept.


def test_a_submit_during_a_hand_over_is_accepted_and_started_by_the_next_runtime() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer, input={"x": [1, 2]})
    assert started(world, kept) == []
    [page] = peer.send("session.list_jobs", {})
    assert [(entry["job_id"], entry["status"]) for entry in page["payload"]["jobs"]] == [
        (kept, "pending"),
        (job, "running"),
    ]
    structure.check(world.state, drain=True)
    world.finish(job)
    structure.check(world.state)
    again = restarted(world, peer)
    [start] = started(world, kept)
    assert (start.attempt, start.input) == (1, {"x": [1, 2]})
    world.finish(kept, "done")
    assert [frame["payload"].get("result") for frame in again.about(kept)] == ["done"]


def test_a_kept_job_has_an_input_even_if_its_submit_has_none() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer)
    world.finish(job)
    restarted(world, peer)
    assert [start.input for start in started(world, kept)] == [None]


def test_a_snapshot_keeps_a_kept_job() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer, input={"x": 1})
    world.finish(job)
    world.records = list(world.runtime.snapshot())
    restarted(world, peer)
    assert [start.input for start in started(world, kept)] == [{"x": 1}]


def test_a_crash_during_a_hand_over_loses_no_kept_job() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer)
    again = restarted(world, peer)
    assert len(started(world, kept)) == 1
    assert [frame["payload"]["code"] for frame in again.about(job)] == ["INTERNAL_ERROR"]
    assert world.state.jobs[kept].stage is JobStage.RUNNING


def test_a_kept_job_that_has_run_in_the_next_runtime_does_not_start_a_second_time() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer)
    world.finish(job)
    next_one = restarted(world, peer)
    again = restarted(world, next_one)
    assert len(started(world, kept)) == 1
    assert [frame["payload"]["message"] for frame in again.about(kept)] == ["the runtime was restarted"]


def test_a_kept_job_is_kept_by_a_runtime_that_hands_over_before_its_start_is_durable() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer)
    world.finish(job)
    records = list(world.records)
    world.restart()
    world.records = records  # The first records of this process were lost.
    restarted(world, peer)
    assert [start.attempt for start in started(world, kept)] == [1, 1]


def test_a_client_cancels_a_kept_job() -> None:
    world = World(KEPT)
    peer, _ = busy(world)
    kept = submitted(peer)
    assert [frame["type"] for frame in peer.cancel(kept)] == ["job.cancelled", "job.error"]
    assert peer.codes() == ["CANCELLED"]
    structure.check(world.state, drain=True)
    restarted(world, peer)
    assert started(world, kept) == []


def test_the_host_cancels_a_kept_job_and_lists_it() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer)
    assert [(info.job_id, info.agent_runs) for info in world.runtime.jobs.infos()] == [
        (job, True),
        (kept, False),
    ]
    assert world.runtime.counts().unfinished_jobs == 2
    assert world.runtime.jobs.cancel(kept, now=world.now)
    world.take()
    assert peer.codes() == ["CANCELLED"]


def test_the_end_of_a_kept_job_does_not_end_a_hand_over() -> None:
    world = World(KEPT)
    peer, _ = busy(world)
    peer.cancel(submitted(peer))
    assert peer.closing is None


def test_the_time_of_a_kept_job_counts_from_its_acceptance() -> None:
    world = World(KEPT)
    peer, _ = busy(world)
    first, second = submitted(peer, max_runtime_sec=5), submitted(peer, max_runtime_sec=20)
    world.advance(6)
    assert [(frame["job_id"], frame["payload"]["code"]) for frame in peer.of("job.error")] == [
        (first, "TIMEOUT")
    ]
    restarted(world, peer)
    world.advance(13)
    assert world.stops() == []
    world.advance(2)
    assert world.stops() == [second]


def test_the_lease_of_a_kept_job_ends_it() -> None:
    world = World(KEPT)
    peer, _ = busy(world)
    expires = {"expires_at": "2026-05-28T20:26:50Z"}  # Ten seconds after the beginning of the world.
    kept = submitted(peer, lease_request=LEASE, lease_constraints=expires)
    world.advance(12)
    assert [(frame["job_id"], frame["payload"]["code"]) for frame in peer.of("job.error")] == [
        (kept, "LEASE_EXPIRED")
    ]


def test_a_repeated_key_joins_a_kept_job() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer, idempotency_key="k")
    assert submitted(peer, idempotency_key="k") == kept
    world.finish(job)
    again = restarted(world, peer)
    assert submitted(again, idempotency_key="k") == kept
    assert len(started(world, kept)) == 1


def test_kept_jobs_count_for_the_limits_of_running_jobs() -> None:
    world = World(KEPT, limits=Limits(max_principal_running_jobs=3))
    peer, _ = busy(world)
    first = submitted(peer)
    submitted(peer)
    [error] = peer.send("job.submit", {"agent": "echo"})
    assert (error["payload"]["code"], error["payload"]["retryable"]) == ("INTERNAL_ERROR", True)
    assert error["payload"]["details"]["max"] == 3
    world.advance(1)  # A refused client is not read for a moment.
    peer.cancel(first)
    submitted(peer)


def test_the_input_of_a_kept_job_counts_until_its_end() -> None:
    world = World(KEPT)
    peer, _ = busy(world)
    before = world.state.holdings.pinned
    kept = submitted(peer, input="x" * 5_000)
    assert world.state.holdings.pinned - before >= 10_000  # The input is kept as JSON and as a value.
    peer.cancel(kept)
    assert world.state.holdings.pinned == before


def test_anonymous_clients_are_kept_as_long_as_their_jobs() -> None:
    world = World(KEPT, anonymous=True)
    peer = world.connect()
    peer.hello(None, scheme="anonymous")
    job = peer.submit()
    hand_over(world)
    kept = submitted(peer)
    structure.check(world.state, drain=True)
    peer.cancel(kept)
    world.finish(job)
    structure.check(world.state)


# Jobs that run.


def test_a_running_job_delegates_during_a_hand_over() -> None:
    world = World(KEPT)
    peer = world.client()
    parent = peer.submit(lease_request=LEASE)
    hand_over(world)
    child = world.runtime.agents.delegate(parent, "echo", {"y": 1}, {"fs.read": ["/a/b"]}, now=world.now)
    world.take()
    assert len(started(world, child)) == 1
    world.finish(child, "part")
    assert peer.closing is None
    world.finish(parent, "whole")
    assert peer.closing is not None
    restarted(world, peer)
    assert len(world.all(StartJob)) == 2


def test_a_running_job_does_not_keep_its_input_for_the_next_runtime() -> None:
    world = World(KEPT)
    _, job = busy(world)
    assert world.state.jobs[job].input is None


# Agents that the next runtime does not have.


@pytest.mark.parametrize(
    ("agents", "code"),
    [
        ((AgentInfo("other"),), "AGENT_NOT_AVAILABLE"),
        ((AgentInfo("echo", ("2",)),), "AGENT_VERSION_NOT_AVAILABLE"),
        ((AgentInfo("echo"),), "AGENT_VERSION_NOT_AVAILABLE"),
    ],
)
def test_a_kept_job_whose_agent_is_gone_ends(agents: tuple[AgentInfo, ...], code: str) -> None:
    world = World(KEPT, agents=(AgentInfo("echo", ("1",)),))
    peer, job = busy(world)
    kept = submitted(peer)
    world.finish(job)
    world.config = msgspec.structs.replace(world.config, agents=agents)
    again = restarted(world, peer)
    assert [frame["payload"]["code"] for frame in again.about(kept)] == [code]
    assert started(world, kept) == []


def test_a_kept_job_without_a_version_ends_if_its_agent_has_versions_now() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer)
    world.finish(job)
    world.config = msgspec.structs.replace(world.config, agents=(AgentInfo("echo", ("1",)),))
    restarted(world, peer)
    assert started(world, kept) == []
    assert world.state.jobs[kept].ended


# Credentials.


def test_a_submit_that_waits_for_credentials_is_kept_once_it_has_them() -> None:
    world = Provided(JOURNALED)
    peer = world.client()
    job = world.job(peer)
    hand_over(world)
    peer.send("job.submit", {"agent": "echo"})
    alias = world.last(IssueCredentials).alias
    world.finish(job)
    for one in world.revocations:
        world.revoke(one)
    assert peer.closing is None and peer.frames[-1]["type"] == "job.result"
    world.issue(alias=alias)
    accepted = peer.of("job.accepted")[-1]["payload"]
    assert [one["value"] for one in accepted["credentials"]] == ["sk-2"]
    assert peer.closing is not None and peer.closing.code == 1012
    world.restart()
    again = world.resumed(peer)
    world.issue()
    [start] = [request for request in world.all(StartJob) if request.job_id == accepted["job_id"]]
    assert [one.value.reveal() for one in start.credentials] == ["sk-3"]
    rotated = [frame["payload"] for frame in again.about(accepted["job_id"])]
    assert [one["body"]["phase"] for one in rotated] == ["credential_rotated"]
    assert alias in world.revocations


def test_a_submit_whose_credentials_do_not_come_in_the_time_to_drain_is_refused() -> None:
    world = Provided(JOURNALED)
    peer = world.client()
    peer.send("job.submit", {"agent": "echo"})
    hand_over(world, 5)
    assert peer.closing is None
    world.advance(5)
    [error] = peer.of("session.error")
    assert (error["payload"]["code"], error["payload"]["retryable"]) == ("INTERNAL_ERROR", True)
    assert peer.closing is not None


def test_a_hand_over_ends_when_the_session_of_the_last_waiting_submit_ends() -> None:
    world = Provided(msgspec.structs.replace(JOURNALED, resume_window_sec=3))
    peer = world.client()
    peer.send("job.submit", {"agent": "echo"})
    hand_over(world)
    peer.drop()
    assert world.all(RuntimeEnded) == []
    world.advance(4)
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


def test_a_resume_that_ends_the_session_of_the_last_waiting_submit_is_refused() -> None:
    limits = Limits(max_session_events=2)
    world = Provided(msgspec.structs.replace(JOURNALED, limits=limits))
    peer = world.client()
    job = world.job(peer)
    peer.send("job.submit", {"agent": "echo"})
    hand_over(world)
    peer.drop()
    for _ in range(4):
        world.emit(job)
    world.finish(job)
    for one in world.revocations:
        world.revoke(one)
    again = world.resumed(peer, 1)
    assert again.codes() == ["RESUME_WINDOW_EXPIRED"]
    assert again.closing is not None and again.closing.code == 1008
    again.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


def test_submits_that_wait_for_a_key_are_answered_before_the_end_of_a_hand_over() -> None:
    world = Provided(JOURNALED)
    first, second, third = (world.client() for _ in range(3))
    for peer in (first, second, third):
        peer.send("job.submit", {"agent": "echo", "idempotency_key": "k"})
    hand_over(world)
    world.issue()
    answers = [peer.of("job.accepted")[0]["payload"]["job_id"] for peer in (first, second, third)]
    assert len(dict.fromkeys(answers)) == 1
    assert [peer.codes() for peer in (first, second, third)] == [[], [], []]
    assert first.closing is not None


# Hand-overs that are refused or cut short.


def test_a_runtime_without_a_journal_hands_nothing_over(world: World) -> None:
    with pytest.raises(LocalProtocolError, match="without a journal"):
        world.runtime.hand_over(now=world.now)
    assert not world.state.handing_over


def test_a_runtime_that_shuts_down_does_not_hand_over() -> None:
    world = World(KEPT)
    world.client().submit()
    world.runtime.shut_down(now=world.now)
    world.take()
    with pytest.raises(LocalProtocolError, match="shuts down"):
        world.runtime.hand_over(now=world.now)


def test_a_shutdown_during_a_hand_over_refuses_submits_and_leaves_the_kept_jobs() -> None:
    world = World(KEPT)
    peer, job = busy(world)
    kept = submitted(peer)
    world.runtime.shut_down(20, now=world.now)
    world.take()
    [error] = peer.send("job.submit", {"agent": "echo"})
    assert error["payload"]["code"] == "INTERNAL_ERROR"
    world.finish(job)
    assert peer.closing is not None
    restarted(world, peer)
    assert len(started(world, kept)) == 1


@pytest.mark.parametrize("drain", [-1, float("nan"), float("inf")])
def test_a_time_to_drain_out_of_range_is_refused(drain: float) -> None:
    world = World(KEPT)
    with pytest.raises(LocalProtocolError, match="seconds"):
        world.runtime.hand_over(drain, now=world.now)
    assert not world.state.handing_over


# Restartable agents, whose versions may be gone as well.


def test_a_restartable_job_whose_version_is_gone_ends() -> None:
    world = World(KEPT, agents=(AgentInfo("echo", ("1",), restartable=True),))
    peer = world.client()
    job = peer.submit()
    world.config = msgspec.structs.replace(
        world.config, agents=(AgentInfo("echo", ("2",), restartable=True),)
    )
    again = restarted(world, peer)
    assert len(started(world, job)) == 1
    assert [frame["payload"]["message"] for frame in again.about(job)] == ["the runtime was restarted"]
