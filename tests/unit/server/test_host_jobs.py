"""Questions and commands of a host about the jobs and sessions of its own runtime."""

from __future__ import annotations

import msgspec
import pytest

from arcp_proto.engine.output import Audit, ChildEnded, StopJob
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import JobId
from arcp_proto.job_statuses import JobStatus
from arcp_proto.limits import MAX_REASON_LENGTH
from arcp_proto.recording import record, replay
from arcp_proto.server.host_jobs import Counts, JobInfo
from arcp_proto.server.journal.records import JobEndedRecord, OutcomeFixed
from tests.unit.world import CONFIG, START, UNIX, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True)
PARENT = {"agent.delegate": ["*"], "fs.read": ["/x/**"]}
CHILD = {"fs.read": ["/x/y"]}


def cancel(world: World, job_id: str, reason: str = "") -> bool:
    cancelled = world.runtime.jobs.cancel(JobId(job_id), reason, now=world.now)
    world.take()
    return cancelled


def delegated(world: World, parent: JobId) -> JobId:
    child = world.runtime.agents.delegate(parent, "echo", None, CHILD, None, None, now=world.now)
    world.take()
    return child


def test_a_host_cancels_a_job_of_any_principal() -> None:
    world = World(JOURNAL)
    peer = world.client()
    job = peer.submit()
    assert cancel(world, job, "it runs away") is True
    assert world.last(StopJob) == StopJob(job, "cancelled by the host: it runs away", START + 5 * 10**9)
    assert [type(fact) for fact in world.records[-1:]] == [OutcomeFixed]
    assert peer.of("job.cancelled") == []
    world.stopped(job)
    end = peer.frames[-1]["payload"]
    assert (end["final_status"], end["code"], end["message"], end["retryable"]) == (
        "cancelled",
        "CANCELLED",
        "cancelled by the host: it runs away",
        False,
    )


def test_a_cancel_by_the_host_is_an_audit_fact(world: World) -> None:
    job = world.client().submit()
    cancel(world, job, "why")
    facts = {"job_id": job, "owner": "alice", "reason": "why"}
    assert world.all(Audit) == [Audit("job_cancelled", "", facts)]


def test_a_cancel_by_the_host_has_the_usual_grace(world: World, peer: Peer) -> None:
    job = peer.submit()
    cancel(world, job)
    world.advance(4.9)
    assert peer.of("job.error") == []
    world.advance(0.1)
    end = peer.of("job.error")[0]["payload"]
    assert (end["message"], end["details"]) == ("cancelled by the host", {"stopped": False})
    assert world.runtime.counts().running_agents == 1


def test_a_cancel_by_the_host_does_not_change_a_fixed_outcome(world: World, peer: Peer) -> None:
    job = peer.submit(max_runtime_sec=1)
    world.advance(1)
    audited = len(world.all(Audit))
    assert cancel(world, job) is False
    world.stopped(job)
    assert peer.codes() == ["TIMEOUT"]
    assert cancel(world, job) is False
    assert len(world.all(Audit)) == audited


def test_a_second_cancel_by_the_host_changes_nothing() -> None:
    world = World(JOURNAL)
    job = world.client().submit()
    cancel(world, job, "one")
    made = len(world.records)
    assert cancel(world, job, "two") is False
    assert len(world.records) == made


def test_a_cancel_by_the_host_ends_children_first() -> None:
    world = World(JOURNAL)
    peer = world.client()
    parent = peer.submit(lease_request=PARENT)
    child = delegated(world, parent)
    assert cancel(world, parent) is True
    assert world.stops() == [child, parent]
    world.stopped(parent)
    world.stopped(child)
    ends = [fact.job_id for fact in world.records if isinstance(fact, JobEndedRecord)]
    assert ends == [child, parent]
    assert world.last(ChildEnded).code == "CANCELLED"
    details = [frame["payload"].get("details") for frame in peer.of("job.error")]
    assert details == [{"parent_job_id": parent}, None]


def test_a_host_can_cancel_a_child_alone(world: World) -> None:
    parent = world.client().submit(lease_request=PARENT)
    child = delegated(world, parent)
    assert cancel(world, child) is True
    assert world.stops() == [child]


@pytest.mark.parametrize(("job_id", "reason"), [("job_nobody", ""), ("", "\ud800")])
def test_a_wrong_cancel_by_the_host_raises_before_anything_changes(
    world: World, job_id: str, reason: str
) -> None:
    lines: list[str] = []
    record(world.runtime, lines.append, salt=bytes(16))
    job = world.client().submit()
    recorded = len(lines)
    with pytest.raises(LocalProtocolError):
        cancel(world, job_id or job, reason)
    assert len(lines) == recorded and world.stops() == []


def test_a_long_reason_of_the_host_is_cut(world: World) -> None:
    cancel(world, world.client().submit(), "r" * 10_000)
    assert len(world.last(StopJob).reason) == len(world.last(Audit).facts["reason"]) == MAX_REASON_LENGTH


def test_a_replay_repeats_a_cancel_by_the_host() -> None:
    world = World(JOURNAL)
    lines: list[str] = []
    record(world.runtime, lines.append, keep_secrets=True)
    peer = world.client()
    job = peer.submit()
    cancel(world, job, "enough")
    world.stopped(job)
    again = replay(lines)
    assert [raw for _, raw in again.envelopes] == peer.raw
    assert [made for output in again.outputs for made in output.records] == world.records


def test_a_cancel_by_the_host_survives_a_restart() -> None:
    world = World(JOURNAL)
    job = world.client().submit()
    cancel(world, job, "enough")
    world.restart()
    ended = [fact for fact in world.records if isinstance(fact, JobEndedRecord)]
    assert [(fact.job_id, fact.status) for fact in ended] == [(job, JobStatus.CANCELLED)]


def test_job_infos_lists_unfinished_and_finished_jobs(world: World) -> None:
    alice, bob = world.client(), world.client("tok-bob")
    first = alice.submit(lease_request=PARENT, lease_constraints={"expires_at": "2030-01-01T00:00:00Z"})
    world.advance(2)
    second = bob.submit("plain")
    child = delegated(world, first)
    infos = world.runtime.jobs.infos()
    assert [info.job_id for info in infos] == [first, second, child]
    assert infos[0] == JobInfo(
        job_id=first,
        principal=world.state.jobs[first].terms.principal,
        agent="echo@2.0.0",
        status=JobStatus.RUNNING,
        ends_as=None,
        agent_runs=True,
        accepted_at=world.state.jobs[first].terms.accepted_at,
        session_id=world.state.jobs[first].terms.session_id,
        parent_job_id=None,
        trace_id=alice.of("job.accepted")[0]["trace_id"],
        lease=PARENT,
        expires_at="2030-01-01T00:00:00Z",
    )
    assert (infos[0].principal, infos[0].session_id) == ("alice", alice.session_id)
    assert [info.accepted_at - UNIX for info in infos] == [0, 2 * 10**9, 2 * 10**9]
    assert (infos[1].agent, infos[1].principal, infos[2].parent_job_id) == ("plain", "bob", first)


def test_job_infos_shows_a_stopping_and_an_ended_job(world: World, peer: Peer) -> None:
    ended, stopping = peer.submit(), peer.submit()
    world.finish(ended)
    cancel(world, stopping)
    assert [info.job_id for info in world.runtime.jobs.infos()] == [stopping]
    infos = world.runtime.jobs.infos(finished=True)
    assert [(info.job_id, info.status, info.ends_as, info.agent_runs) for info in infos] == [
        (ended, "success", "success", False),
        (stopping, "running", "cancelled", True),
    ]
    assert [info.stopped for info in infos] == [True, None]
    world.advance(6)
    assert [info.stopped for info in world.runtime.jobs.infos(finished=True)] == [True, False]
    world.stopped(stopping)
    assert [info.stopped for info in world.runtime.jobs.infos(finished=True)] == [True, True]


def test_counts_of_connections_sessions_and_jobs(world: World) -> None:
    alice, bob = world.client(), world.client("tok-bob")
    world.connect()
    world.finish(alice.submit())
    bob.submit()
    bob.drop()
    assert world.runtime.counts() == Counts(
        connections=2,
        sessions=2,
        attached_sessions=1,
        unfinished_jobs=1,
        finished_jobs=1,
        running_agents=1,
    )
    gauges = world.runtime.jobs.gauges()
    assert (gauges.connections, gauges.attached_sessions) == (2, 1)
