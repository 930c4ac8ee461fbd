"""The stages of a job and of its agent: the tables, and a runtime that makes every transition of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, Final

import msgspec
import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import JobId
from arcp_proto.job_statuses import JobStatus
from arcp_proto.server.jobs import stage
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.jobs.stage import (
    AFTER_RECORD,
    AGENT_TRANSITIONS,
    TRANSITIONS,
    AgentStage,
    JobStage,
    Transition,
)
from arcp_proto.server.journal.apply import APPLY
from arcp_proto.server.journal.records import JobAcceptedRecord, JobEndedRecord
from tests.properties.structure import check_jobs
from tests.unit.credentialed import JOURNALED, WITH, Provided
from tests.unit.server.jobs.test_job import job_of
from tests.unit.world import FEATURES, Peer, World

AGENTS: Final = (AgentInfo("echo"), AgentInfo("again", restartable=True))
CONFIG: Final = msgspec.structs.replace(JOURNALED, agents=AGENTS)
LEASE: Final = {"agent.delegate": ["*"], "fs.read": ["/a/**"]}


def drawn(transitions: Iterable[Transition[Any]]) -> list[str]:
    """Return a table of transitions as the docstring of its module shows it."""
    lines, before = [], None
    for one in transitions:
        name = "" if one.before is before else one.before.name
        by = f"{one.after.name:24} by {one.record}" if one.record else one.after.name
        lines.append(f"    {name:23} -> {by}".rstrip())
        before = one.before
    return lines


def test_the_docstring_shows_the_tables() -> None:
    shown = [line for line in (stage.__doc__ or "").splitlines() if "->" in line]
    assert shown == drawn(TRANSITIONS) + drawn(AGENT_TRANSITIONS)


def test_each_transition_is_unique_and_explained() -> None:
    for transitions in (TRANSITIONS, AGENT_TRANSITIONS):
        pairs = [(one.before, one.after) for one in transitions]
        assert len(pairs) == len(set(pairs))
        assert [one for one in transitions if not one.meaning.endswith(".")] == []
    assert set(AFTER_RECORD) == {one.record for one in TRANSITIONS} - {""}
    assert set(AFTER_RECORD) <= {record.__struct_config__.tag for record in APPLY}


@pytest.mark.parametrize(("before", "after"), list(product(JobStage, JobStage)))
def test_a_job_goes_only_where_the_table_leads_without_a_record(before: JobStage, after: JobStage) -> None:
    job = job_of()
    job.stage = before
    if any((one.before, one.after, one.record) == (before, after, "") for one in TRANSITIONS):
        job.goes_to(after)
        assert job.stage is after
    else:
        with pytest.raises(InvariantViolated, match="does not lead to"):
            job.goes_to(after)
        assert job.stage is before


@pytest.mark.parametrize(("before", "record"), list(product(JobStage, AFTER_RECORD)))
def test_a_record_changes_only_the_stages_of_the_table(before: JobStage, record: str) -> None:
    job = job_of()
    job.stage = before
    after = [one.after for one in TRANSITIONS if (one.before, one.record) == (before, record)]
    if after:
        job.recorded(record)
        assert [job.stage] == after
    else:
        with pytest.raises(InvariantViolated, match=f"does not allow {record}"):
            job.recorded(record)
        assert job.stage is before


@pytest.mark.parametrize(("before", "after"), list(product(AgentStage, AgentStage)))
def test_an_agent_goes_only_where_the_table_leads(before: AgentStage, after: AgentStage) -> None:
    job = job_of()
    job.agent_stage = before
    if any((one.before, one.after) == (before, after) for one in AGENT_TRANSITIONS):
        job.agent_goes_to(after)
        assert job.agent_stage is after
    else:
        with pytest.raises(InvariantViolated, match="does not lead to"):
            job.agent_goes_to(after)
        assert job.agent_stage is before


def test_only_the_stage_ended_means_that_a_job_has_ended() -> None:
    job = job_of()
    for job.stage in JobStage:
        assert job.ended is (job.stage is JobStage.ENDED)


# A runtime makes every transition.


class Staged(Provided):
    """A runtime with a journal, a client whose jobs get credentials, and one whose jobs get none."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.peer = self.client(features=WITH)
        self.other = self.client(features=FEATURES)

    def plain(self, agent: str = "echo") -> JobId:
        """Submit a job without credentials that runs, and return its id."""
        return self.other.submit(agent, lease_request=LEASE)

    def secret(self, agent: str = "echo") -> JobId:
        """Submit a job with credentials that runs, and return its id."""
        return self.job(self.peer, agent=agent, lease_request=LEASE)

    def delegated(self, parent: JobId) -> JobId:
        """Delegate from a job, and return the child; a child of a job with credentials waits for its own."""
        child = self.runtime.agents.delegate(parent, "echo", None, {"fs.read": ["/a/b"]}, now=self.now)
        self.take()
        return child

    def pair(self, *, secret: bool = False, agent: str = "echo") -> tuple[JobId, JobId]:
        """Return a job and its child, both of which run."""
        parent = self.secret(agent) if secret else self.plain(agent)
        child = self.delegated(parent)
        if secret:
            self.issue()
        return parent, child

    def shut_down(self) -> None:
        self.runtime.shut_down(0, now=self.now)
        self.take()

    def cancel(self, job: JobId) -> None:
        """Cancel a job as the client that has submitted it."""
        session_id = self.state.jobs[job].terms.session_id
        peer: Peer = next(one for one in (self.peer, self.other) if one.session_id == session_id)
        peer.cancel(job)

    def revoked(self, job: JobId) -> None:
        """Report the credentials of a job as revoked."""
        for provision in self.state.provisions.of_job(job):
            self.revoke(provision.alias)


def waits_for_credentials(world: Staged) -> JobId:
    return world.delegated(world.secret())


def starts_with_credentials(world: Staged) -> None:
    waits_for_credentials(world)
    world.issue()


def is_refused_credentials(world: Staged) -> None:
    waits_for_credentials(world)
    world.refuse()


def is_cancelled_before_it_starts(world: Staged) -> None:
    parent = world.secret()
    world.delegated(parent)
    world.cancel(parent)
    world.restart()


def restarts_before_its_credentials(world: Staged) -> None:
    waits_for_credentials(world)
    world.restart()


def restarts_before_it_starts(world: Staged) -> None:
    world.plain()
    accepted = next(
        place for place, record in enumerate(world.records) if isinstance(record, JobAcceptedRecord)
    )
    del world.records[accepted + 1 :]
    world.restart()


def leaves_before_it_starts(world: Staged) -> None:
    world.secret("again")
    world.restart()
    world.shut_down()


def is_kept(world: Staged) -> JobId:
    world.plain()  # This job keeps the runtime from its end.
    world.runtime.hand_over(now=world.now)
    world.take()
    world.other.send("job.submit", {"agent": "echo", "lease_request": LEASE})
    return next(reversed(world.state.jobs))


def is_kept_and_cancelled(world: Staged) -> None:
    world.cancel(is_kept(world))


def starts_again(world: Staged) -> None:
    world.plain("again")
    world.restart()


def returns(world: Staged) -> None:
    world.finish(world.plain())


def returns_with_credentials(world: Staged) -> JobId:
    job = world.secret()
    world.finish(job)
    return job


def returns_and_is_revoked(world: Staged) -> None:
    world.revoked(returns_with_credentials(world))


def returns_and_is_cancelled(world: Staged) -> None:
    job = returns_with_credentials(world)
    world.cancel(job)
    world.revoked(job)


def returns_before_its_child(world: Staged) -> None:
    parent, child = world.pair()
    world.finish(parent)
    world.stopped(child)


def returns_before_its_child_with_credentials(world: Staged) -> None:
    parent, child = world.pair(secret=True)
    world.finish(parent)
    world.stopped(child)
    world.revoked(child)


def waits_for_its_child_and_is_cancelled(world: Staged) -> None:
    parent, child = world.pair()
    world.finish(parent)
    world.cancel(parent)
    world.stopped(child)


def stops(world: Staged) -> None:
    job = world.plain()
    world.cancel(job)
    world.stopped(job)


def stops_with_credentials(world: Staged) -> None:
    job = world.secret()
    world.cancel(job)
    world.stopped(job)
    world.revoked(job)


def stops_before_its_child_with_credentials(world: Staged) -> None:
    parent, child = world.pair(secret=True)
    world.cancel(parent)
    world.stopped(parent)
    world.stopped(child)
    world.revoked(child)


def stops_after_its_grace_before_its_child_ends(world: Staged) -> None:
    parent, _ = world.pair(secret=True)
    world.cancel(parent)
    world.advance(5)
    world.stopped(parent)


def leaves(world: Staged, *, secret: bool = False) -> JobId:
    job = world.secret("again") if secret else world.plain("again")
    world.shut_down()
    return job


def is_left(world: Staged) -> None:
    world.stopped(leaves(world))


def leaves_and_is_cancelled(world: Staged) -> None:
    world.cancel(leaves(world))


def leaves_and_returns(world: Staged) -> None:
    world.finish(leaves(world))


def leaves_and_returns_with_credentials(world: Staged) -> None:
    world.finish(leaves(world, secret=True))


def leaves_and_returns_before_its_child(world: Staged) -> None:
    parent, child = world.pair(agent="again")
    world.shut_down()
    world.write(parent, "a piece")
    world.finish(parent, "and a value, which cannot be sent")
    world.stopped(child)


def is_left_and_cancelled(world: Staged) -> None:
    world.plain()  # This job keeps the runtime from its end.
    job = leaves(world)
    world.stopped(job)
    world.cancel(job)


def is_left_and_returns(world: Staged) -> None:
    job = leaves(world)
    world.advance(5)
    world.finish(job)


def is_left_and_returns_with_credentials(world: Staged) -> None:
    job = leaves(world, secret=True)
    world.advance(5)
    world.finish(job)


def is_left_and_returns_before_its_child(world: Staged) -> None:
    parent, _ = world.pair(secret=True, agent="again")
    world.shut_down()
    world.advance(5)
    world.finish(parent)


def starts_without_a_journal(_: Staged) -> None:
    world = World()
    world.finish(world.client().submit())


def starts_once_records_are_durable(world: Staged) -> JobId:
    world.durable = False
    world.other.send("job.submit", {"agent": "echo"})
    world.durable = True
    return next(reversed(world.state.jobs))


def is_asked_for_late(world: Staged) -> None:
    starts_once_records_are_durable(world)
    world.persist()


def is_over_before_it_is_asked_for(world: Staged) -> None:
    world.finish(starts_once_records_are_durable(world))


J: Final = JobStage
STORIES: Final[dict[Callable[[Staged], object], tuple[tuple[JobStage, JobStage], ...]]] = {
    waits_for_credentials: ((J.ACCEPTED, J.WAITING_FOR_CREDENTIALS),),
    starts_with_credentials: ((J.WAITING_FOR_CREDENTIALS, J.RUNNING),),
    is_refused_credentials: ((J.WAITING_FOR_CREDENTIALS, J.REVOKING),),
    is_cancelled_before_it_starts: (
        (J.WAITING_FOR_CREDENTIALS, J.STOPPING),
        (J.ACCEPTED, J.STOPPING),
    ),
    restarts_before_its_credentials: ((J.ACCEPTED, J.REVOKING),),
    restarts_before_it_starts: ((J.ACCEPTED, J.ENDED),),
    leaves_before_it_starts: (
        (J.RUNNING, J.WAITING_FOR_CREDENTIALS),
        (J.WAITING_FOR_CREDENTIALS, J.LEAVING),
    ),
    is_kept: ((J.ACCEPTED, J.KEPT),),
    is_kept_and_cancelled: ((J.KEPT, J.STOPPING),),
    starts_again: ((J.ACCEPTED, J.RUNNING), (J.RUNNING, J.RUNNING)),
    returns: ((J.RUNNING, J.ENDED),),
    returns_with_credentials: ((J.RUNNING, J.REVOKING),),
    returns_and_is_revoked: ((J.REVOKING, J.ENDED),),
    returns_and_is_cancelled: (
        (J.REVOKING, J.STOPPED),
        (J.STOPPED, J.STOPPED_REVOKING),
        (J.STOPPED_REVOKING, J.ENDED),
    ),
    returns_before_its_child: (
        (J.RUNNING, J.WAITING_FOR_CHILDREN),
        (J.WAITING_FOR_CHILDREN, J.ENDED),
    ),
    returns_before_its_child_with_credentials: ((J.WAITING_FOR_CHILDREN, J.REVOKING),),
    waits_for_its_child_and_is_cancelled: (
        (J.WAITING_FOR_CHILDREN, J.STOPPED),
        (J.STOPPED, J.ENDED),
    ),
    stops: ((J.RUNNING, J.STOPPING), (J.STOPPING, J.ENDED)),
    stops_with_credentials: ((J.STOPPING, J.STOPPED_REVOKING),),
    stops_before_its_child_with_credentials: (
        (J.STOPPING, J.STOPPED),
        (J.STOPPED, J.STOPPED_REVOKING),
    ),
    stops_after_its_grace_before_its_child_ends: ((J.STOPPED_REVOKING, J.STOPPED),),
    is_left: ((J.RUNNING, J.LEAVING), (J.LEAVING, J.LEFT)),
    leaves_and_is_cancelled: ((J.LEAVING, J.STOPPING),),
    leaves_and_returns: ((J.LEAVING, J.ENDED),),
    leaves_and_returns_with_credentials: ((J.LEAVING, J.REVOKING),),
    leaves_and_returns_before_its_child: (
        (J.LEAVING, J.WAITING_FOR_CHILDREN),
        (J.WAITING_FOR_CHILDREN, J.LEFT),
    ),
    is_left_and_cancelled: ((J.LEFT, J.STOPPING),),
    is_left_and_returns: ((J.LEFT, J.ENDED),),
    is_left_and_returns_with_credentials: ((J.LEFT, J.REVOKING),),
    is_left_and_returns_before_its_child: ((J.LEFT, J.WAITING_FOR_CHILDREN),),
}
"""The transitions of jobs in each story."""

A: Final = AgentStage
AGENT_STORIES: Final[dict[Callable[[Staged], object], tuple[tuple[AgentStage, AgentStage], ...]]] = {
    starts_once_records_are_durable: ((A.NONE, A.HELD),),
    is_asked_for_late: ((A.HELD, A.ASKED),),
    is_over_before_it_is_asked_for: ((A.HELD, A.NONE),),
    starts_without_a_journal: ((A.NONE, A.ASKED), (A.ASKED, A.NONE)),
}
"""The transitions of agents in each story."""


def test_each_transition_has_a_story() -> None:
    assert {pair for pairs in STORIES.values() for pair in pairs} == {
        (one.before, one.after) for one in TRANSITIONS
    }
    assert {pair for pairs in AGENT_STORIES.values() for pair in pairs} == {
        (one.before, one.after) for one in AGENT_TRANSITIONS
    }


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Return a list to which the transitions of all jobs and agents are added as they are made."""
    made: list[tuple[Any, Any]] = []
    goes_to, recorded, agent_goes_to = Job.goes_to, Job.recorded, Job.agent_goes_to

    def watched_goes_to(self: Job, after: JobStage) -> None:
        made.append((self.stage, after))
        goes_to(self, after)

    def watched_recorded(self: Job, record: str, status: JobStatus | None = None) -> None:
        before = self.stage
        recorded(self, record, status)
        made.append((before, self.stage))

    def watched_agent_goes_to(self: Job, after: AgentStage) -> None:
        made.append((self.agent_stage, after))
        agent_goes_to(self, after)

    monkeypatch.setattr(Job, "goes_to", watched_goes_to)
    monkeypatch.setattr(Job, "recorded", watched_recorded)
    monkeypatch.setattr(Job, "agent_goes_to", watched_agent_goes_to)
    return made


@pytest.mark.parametrize("story", [*STORIES, *AGENT_STORIES])
def test_a_runtime_makes_the_transitions_of_a_story(
    story: Callable[[Staged], object], seen: list[tuple[Any, Any]]
) -> None:
    world = Staged()
    story(world)
    expected: list[tuple[Any, Any]] = [*STORIES.get(story, ()), *AGENT_STORIES.get(story, ())]
    assert [pair for pair in expected if pair not in seen] == []
    check_jobs(world.state)


@pytest.mark.parametrize("story", STORIES)
def test_a_snapshot_and_the_records_restore_the_same_stages(story: Callable[[Staged], object]) -> None:
    world = Staged()
    story(world)
    by_records, by_snapshot = Staged(), Staged()
    by_records.now = by_snapshot.now = world.now
    by_records.records, by_snapshot.records = list(world.records), world.runtime.snapshot()
    stages = []
    for again in (by_records, by_snapshot):
        again.restarts = 8  # A seed that the story has not used.
        again.restart()
        stages.append({job.id: job.stage for job in state_of(again.runtime).jobs.values()})
    assert stages[0] == stages[1]


# Jobs whose grace is over.


def test_a_child_that_has_decided_its_end_outlives_the_grace_of_a_parent_that_is_left() -> None:
    world = Staged()
    parent = world.secret("again")
    child = world.runtime.agents.delegate(parent, "echo", None, {"agent.delegate": ["echo"]}, now=world.now)
    world.take()
    world.issue()
    grandchild = world.runtime.agents.delegate(child, "echo", None, {}, now=world.now)
    world.take()
    world.issue()
    world.finish(child)
    world.advance(1)
    world.shut_down()
    world.advance(5)  # The grace of the grandchild is over, and its credentials are not revoked.
    stages = {job: world.state.jobs[job].stage for job in (parent, child, grandchild)}
    assert stages == {
        parent: JobStage.LEFT,
        child: JobStage.WAITING_FOR_CHILDREN,
        grandchild: JobStage.STOPPED_REVOKING,
    }
    world.revoked(grandchild)
    world.revoked(child)
    assert world.state.jobs[child].status is JobStatus.SUCCESS


def test_a_stopped_agent_is_not_reported_as_running_after_the_grace_of_its_parent() -> None:
    world = Staged()
    parent, child = world.pair(secret=True)
    world.cancel(parent)
    world.advance(4)
    world.stopped(child)
    world.advance(1)  # The grace of the parent is over, and the credentials of the child are not revoked.
    world.revoked(child)
    world.revoked(parent)
    [first, second] = [one for one in world.records if isinstance(one, JobEndedRecord)]
    assert (first.job_id, second.job_id) == (child, parent)
    assert (b'"stopped":false' in first.payload, b'"stopped":false' in second.payload) == (False, True)
