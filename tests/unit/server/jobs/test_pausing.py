"""An agent waits for transport and journal: both give one pause and one resume, in time."""

from __future__ import annotations

import pytest

from arcp_proto.engine.output import PauseJob, ResumeJob, StartJob
from arcp_proto.server.jobs.stage import AgentStage
from tests.unit.server.jobs.test_back_pressure import QUARTER, QUIET, emits, held, told
from tests.unit.world import Peer, World

# The time of a pause.


@pytest.fixture
def world() -> World:
    return World(QUIET)


def test_an_agent_that_starts_later_starts_paused(world: World) -> None:
    peer, job = held(world)
    peer.send("job.submit", {"agent": "echo"})
    start = world.runtime.record_count
    emits(world, job, QUARTER)
    assert world.requests[-1] == PauseJob(job)
    world.runtime.persisted(start, now=world.now)
    world.take()
    asked, paused = world.requests[-2:]
    assert isinstance(asked, StartJob) and paused == PauseJob(asked.job_id)


def test_an_agent_that_starts_after_the_pause_gets_no_request(world: World) -> None:
    peer, job = held(world)
    emits(world, job, QUARTER)
    peer.send("job.submit", {"agent": "echo"})
    world.persist()
    second = world.last(StartJob).job_id
    assert (told(world, job), told(world, second)) == ([PauseJob, ResumeJob], [])
    assert world.state.jobs[second].agent_stage is AgentStage.ASKED


def test_a_job_that_is_cancelled_before_its_agent_starts_ends_at_once(world: World) -> None:
    """Cancel a job while its records wait for the journal: the host is not asked to start its agent."""
    peer, job = held(world)
    emits(world, job, QUARTER)
    peer.send("job.submit", {"agent": "echo"}, id="second")
    [second] = [one for one in world.state.jobs if one != job]
    peer.cancel(second)
    assert world.state.jobs[second].ended and list(world.state.running) == [job]
    world.persist()
    assert told(world, second) == [] and second not in {start.job_id for start in world.all(StartJob)}
    assert peer.about(second)[-1]["payload"]["code"] == "CANCELLED"
    assert "stopped" not in (peer.about(second)[-1]["payload"].get("details") or {})


# Two reasons, one wait.


def test_an_agent_resumes_when_neither_transport_nor_journal_is_full(world: World) -> None:
    peer, job = held(world)
    world.carry_out(peer.connection.blocked(now=world.now))
    emits(world, job, QUARTER)
    assert told(world, job) == [PauseJob]
    world.carry_out(peer.connection.drained(now=world.now))
    assert told(world, job) == [PauseJob]
    world.persist()
    assert told(world, job) == [PauseJob, ResumeJob]
    emits(world, job, QUARTER)
    world.carry_out(peer.connection.blocked(now=world.now))
    world.persist()
    assert told(world, job) == [PauseJob, ResumeJob, PauseJob]
    world.carry_out(peer.connection.drained(now=world.now))
    assert told(world, job) == [PauseJob, ResumeJob, PauseJob, ResumeJob]


def test_a_pause_waits_for_no_record(world: World) -> None:
    peer, job = held(world)
    emits(world, job, 1)
    world.carry_out(peer.connection.blocked(now=world.now))
    assert told(world, job) == [PauseJob]


def test_a_detached_session_pauses_no_agent_for_the_journal(world: World) -> None:
    peer, job = held(world)
    emits(world, job, QUARTER)
    peer.drop()
    assert told(world, job) == [PauseJob, ResumeJob]
    emits(world, job, 2 * QUARTER)
    assert told(world, job) == [PauseJob, ResumeJob]


def test_a_resumed_session_pauses_for_events_that_are_not_durable(world: World) -> None:
    peer, job = held(world)
    peer.drop()
    emits(world, job, QUARTER)
    assert told(world, job) == []
    again = world.connect()
    again.hello(resume={"resume_token": peer.token, "last_event_seq": 0})
    world.persist()  # The verdict waits for the records.
    emits(world, job, QUARTER)
    assert told(world, job)[:1] == [PauseJob]
    world.persist()
    assert told(world, job)[-1] is ResumeJob
    assert again.numbers() == list(range(1, 2 * QUARTER + 1))


def test_a_pause_precedes_its_resume_even_if_records_are_durable_at_once(world: World, peer: Peer) -> None:
    first, second = peer.submit(), peer.submit()
    for _ in range(QUARTER):
        world.runtime.agents.emit(first, "log", {"level": "info", "message": "x"}, now=world.now)
    world.take()
    assert told(world, first) == told(world, second) == [PauseJob, ResumeJob]
