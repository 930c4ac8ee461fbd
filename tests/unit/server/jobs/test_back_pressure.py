"""Agents and histories wait for a slow journal, so that a client that reads loses no event."""

from __future__ import annotations

import msgspec
import pytest

from arcp_proto.engine.output import PauseJob, ResumeJob, StartJob
from arcp_proto.ids import JobId, SessionId
from arcp_proto.limits import KIB, MIB, Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.back_pressure import SHARE, Most
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import Observed
from arcp_proto.server.sessions.session import Session
from tests.unit.world import AGENTS, CONFIG, Peer, World

LIMITS = Limits(max_session_events=80)
QUARTER = 20
QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0, journal=True, limits=LIMITS)
BURST = 7
"""The events that an agent may publish after its pause."""


def with_limits(**limits: int) -> RuntimeConfig:
    return msgspec.structs.replace(QUIET, limits=msgspec.structs.replace(LIMITS, **limits))


def session_of(world: World, peer: Peer) -> Session:
    return world.state.sessions[SessionId(peer.session_id)]


def emits(world: World, job: JobId, count: int, text: str = "x") -> None:
    for _ in range(count):
        world.emit(job, "log", {"level": "info", "message": text})


def held(world: World, **hello: object) -> tuple[Peer, JobId]:
    """Return a client with a running job, and let the journal answer late from now on."""
    peer = world.client(**hello)
    job = peer.submit()
    world.durable = False
    return peer, job


def told(world: World, job: JobId) -> list[type]:
    """Return the pauses and resumes of the agent of a job, in order."""
    kinds = (PauseJob, ResumeJob)
    return [type(one) for one in world.requests if isinstance(one, kinds) and one.job_id == job]


# A journal that answers late.


@pytest.fixture
def world() -> World:
    return World(QUIET)


@pytest.mark.parametrize("late", [1, 5, 50])
def test_a_reading_client_gets_every_event_even_if_the_journal_is_slow(world: World, late: int) -> None:
    """Let an agent publish without a rest, and a few events more after its pause."""
    peer, job = held(world)
    said = turns = 0
    answers: list[tuple[int, int]] = []
    while said < 1_000 or answers:
        turns += 1
        waits = told(world, job)[-1:] == [PauseJob]
        if said < 1_000 and not waits:
            emits(world, job, BURST)
            said += BURST
            answers.append((turns + late, world.runtime.record_count))
        if answers and answers[0][0] <= turns:
            world.runtime.persisted(answers.pop(0)[1], now=world.now)
            world.take()
    assert not peer.connection.overrun
    assert peer.numbers() == list(range(1, said + 1))


def test_an_agent_pauses_at_a_quarter_of_the_log_and_resumes_at_an_eighth(world: World) -> None:
    _, job = held(world)
    before = world.runtime.record_count
    emits(world, job, QUARTER - 1)
    assert told(world, job) == []
    emits(world, job, 1)
    assert told(world, job) == [PauseJob]
    world.runtime.persisted(before + QUARTER // 2 - 1, now=world.now)
    world.take()
    assert told(world, job) == [PauseJob]
    world.runtime.persisted(before + QUARTER // 2, now=world.now)
    world.take()
    assert told(world, job) == [PauseJob, ResumeJob]


@pytest.mark.parametrize("events", [20, 40, 100, 107, 1_000])
def test_an_agent_pauses_exactly_at_the_bound_in_logs_of_any_length(events: int) -> None:
    """Check logs of several lengths; a longer log is examined less often."""
    world = World(with_limits(max_session_events=SHARE * events))
    _, job = held(world)
    emits(world, job, events - 1)
    assert told(world, job) == []
    emits(world, job, 1)
    assert told(world, job) == [PauseJob]


def test_an_agent_pauses_at_the_event_that_reaches_the_bytes() -> None:
    world = World(with_limits(max_session_events=10_000))
    peer, job = held(world)
    emits(world, job, 1)
    size = session_of(world, peer).log.size
    world = World(with_limits(max_session_events=10_000, max_session_bytes=SHARE * 64 * size))
    _, job = held(world)
    emits(world, job, 63)
    assert told(world, job) == []
    emits(world, job, 1)
    assert told(world, job) == [PauseJob]


@pytest.mark.parametrize(
    ("name", "value", "events", "size"),
    [
        ("max_session_events", 800, 200, 1_000_000),
        ("max_principal_events", 800, 100, 1_000_000),
        ("max_total_events", 800, 100, 1_000_000),
        ("max_session_bytes", 8_000, 100_000, 2_000),
        ("max_principal_bytes", 8_000, 100_000, 1_000),
        ("max_total_bytes", 8_000, 100_000, 1_000),
    ],
)
def test_the_share_that_may_wait_follows_the_smallest_limit(
    name: str, value: int, events: int, size: int
) -> None:
    limits = {
        "max_session_events": 400_000,
        "max_principal_events": 800_000,
        "max_total_events": 800_000,
        "max_session_bytes": 4_000_000,
        "max_principal_bytes": 8_000_000,
        "max_total_bytes": 8_000_000,
    }
    assert Most.of(Limits(**{**limits, name: value})) == (events, size)


def test_an_agent_pauses_for_bytes_as_well() -> None:
    world = World(with_limits(max_session_events=10_000, max_session_bytes=40_000))
    _, job = held(world)
    emits(world, job, 2, "x" * 4_500)
    assert told(world, job) == []
    emits(world, job, 1, "x" * 4_500)
    assert told(world, job) == [PauseJob]
    world.persist()
    assert told(world, job) == [PauseJob, ResumeJob]


def test_a_streamed_result_counts_for_back_pressure() -> None:
    world = World(with_limits(max_session_bytes=256 * KIB, max_session_events=10_000))
    peer, job = held(world)
    world.write(job, "x" * 70_000)
    assert told(world, job) == [PauseJob]
    world.persist()
    assert told(world, job) == [PauseJob, ResumeJob]
    assert not peer.connection.overrun


def test_events_of_one_take_count_separately(world: World) -> None:
    _, job = held(world)
    for _ in range(QUARTER):
        world.runtime.agents.emit(job, "log", {"level": "info", "message": "x"}, now=world.now)
    assert told(world, job) == []
    world.take()
    assert told(world, job) == [PauseJob]


def test_a_fast_journal_pauses_no_agent(world: World, peer: Peer) -> None:
    job = peer.submit()
    emits(world, job, 10 * QUARTER)
    assert told(world, job) == []
    assert len(peer.numbers()) == 10 * QUARTER


def test_without_a_journal_there_is_no_back_pressure_by_it() -> None:
    world = World(QUIET, journal=False)
    peer, job = held(world)
    peer.slow = True
    emits(world, job, 2 * QUARTER)
    assert told(world, job) == [] and world.state.unsaved == {}


def test_only_the_agents_of_the_full_session_pause(world: World) -> None:
    alice, bob = world.client(), world.client("tok-bob")
    first, second, other = alice.submit(), alice.submit(), bob.submit()
    world.durable = False
    emits(world, first, QUARTER)
    assert (told(world, first), told(world, second), told(world, other)) == ([PauseJob], [PauseJob], [])


def test_a_child_pauses_with_its_parent(world: World, peer: Peer) -> None:
    peer.send(
        "job.submit", {"agent": "plain", "lease_request": {"agent.delegate": ["*"], "tool.call": ["*"]}}
    )
    parent = world.last(StartJob).job_id
    world.durable = False
    emits(world, parent, QUARTER)
    child = world.runtime.agents.delegate(parent, "echo", lease_request={"tool.call": ["x"]}, now=world.now)
    world.take()
    assert told(world, child) == []  # The agent of the child has not begun.
    world.runtime.persisted(world.runtime.record_count - 2, now=world.now)
    world.take()
    assert world.last(StartJob).job_id == parent
    emits(world, parent, QUARTER)
    world.persist()
    assert world.last(StartJob).job_id == child
    assert told(world, parent) == [PauseJob, ResumeJob, PauseJob, ResumeJob]


# Observers.


def test_an_observer_waits_for_the_journal_and_pauses_no_job() -> None:
    """Let an agent publish more, before the journal answers, than the log of its observer holds."""
    world = World(with_limits(max_history_events=1_000))
    owner = world.client()
    job = owner.submit()
    observer = world.client()
    own = observer.submit()
    observer.send("job.subscribe", {"job_id": job})
    owner.drop()
    world.durable = False
    emits(world, job, 10 * QUARTER)
    assert told(world, job) == []
    session = session_of(world, observer)
    assert session.log.last == QUARTER and session.awaits_journal
    assert told(world, own) == [PauseJob]
    observed = [record for record in world.records if isinstance(record, Observed)]
    assert [record.backlog is None for record in observed] == [True, False]
    for _ in range(50):
        world.persist()
        world.advance(0.01)
    assert not observer.connection.overrun
    assert len(observer.about(job)) == 10 * QUARTER
    assert told(world, own)[-1] is ResumeJob
    world.durable = True
    world.persist()
    emits(world, job, 1)
    assert len(observer.about(job)) == 10 * QUARTER + 1


def test_an_observer_that_begins_while_the_journal_is_behind_misses_nothing(world: World) -> None:
    owner = world.client()
    job = owner.submit()
    emits(world, job, 2 * QUARTER)
    observer = world.client()
    world.durable = False
    observer.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(0.01)
    assert session_of(world, observer).awaits_journal
    emits(world, job, 5)
    world.durable = True
    world.persist()
    world.advance(0.01)
    assert len(observer.about(job)) == 2 * QUARTER + 5


# What waits behind a welcome.


def test_agents_wait_for_bytes_behind_a_welcome_that_waits_for_the_journal() -> None:
    world = World(with_limits(max_session_events=10_000, max_session_bytes=40_000))
    peer = world.client()
    job = peer.submit()
    emits(world, job, 1, "x" * 4_500)
    peer.drop()
    emits(world, job, 2, "x" * 4_500)
    world.durable = False
    world.resumed(peer, 1)
    assert told(world, job) == []
    emits(world, job, 1, "x" * 4_500)
    assert told(world, job) == [PauseJob]
    world.persist()
    assert told(world, job) == [PauseJob, ResumeJob]


def test_agents_wait_for_events_behind_a_welcome_that_waits_for_the_journal(world: World, peer: Peer) -> None:
    job = peer.submit()
    peer.drop()
    emits(world, job, QUARTER)
    world.durable = False
    again = world.resumed(peer, 0)
    assert told(world, job) == [PauseJob]
    world.persist()
    assert told(world, job) == [PauseJob, ResumeJob]
    assert again.numbers() == list(range(1, QUARTER + 1))


def test_a_history_waits_for_its_last_piece_behind_a_welcome_that_waits_for_the_journal(world: World) -> None:
    """Let a piece become durable that waits behind a welcome; the next one would cost events not sent."""
    job = world.client().submit()
    emits(world, job, 120)
    watcher = world.client()
    watcher.send("job.subscribe", {"job_id": job, "history": True}, id="ask")
    watcher.drop()
    again = world.resumed(watcher, 0, replies=True)
    world.carry_out(world.runtime.handle_timer(now=world.now))
    assert again.numbers() == list(range(1, 2 * QUARTER + 1)), "the first piece is half of a log"
    world.durable = False
    world.carry_out(world.runtime.handle_timer(now=world.now))
    assert session_of(world, watcher).log.last == 4 * QUARTER
    count = world.runtime.record_count
    again.drop()
    again = world.resumed(again, 0, replies=True)
    world.runtime.persisted(count, now=world.now)
    world.take()
    world.advance(0.01)
    assert session_of(world, watcher).log.first == 1, "no event may be evicted before it is sent"
    for _ in range(10):
        world.persist()
        world.advance(0.01)
    assert not again.connection.overrun
    assert len(again.about(job)) == 120


# Recovery.


def test_after_a_restart_everything_is_durable() -> None:
    world = World(QUIET, agents=(*AGENTS, AgentInfo("again", restartable=True)))
    peer = world.client()
    job = peer.submit("again")
    emits(world, job, 2 * QUARTER)
    world.restart()
    session = session_of(world, peer)
    assert not session.awaits_journal and session.log.unsaved[0] <= 1
    again = world.resumed(peer)
    world.durable = False
    emits(world, job, QUARTER + 1)
    assert told(world, job) == [PauseJob]
    world.persist()
    assert told(world, job) == [PauseJob, ResumeJob]
    assert not again.connection.overrun


def test_a_snapshot_does_not_depend_on_back_pressure(world: World) -> None:
    _, job = held(world)
    emits(world, job, QUARTER)
    waiting = world.runtime.snapshot()
    world.persist()
    assert world.runtime.snapshot() == waiting


# Limits.


def test_limits_of_a_principal_and_of_all_bound_the_share() -> None:
    plain = Most.of(Limits())
    assert plain == Most(10_000 // SHARE, 16 * MIB // SHARE)
    assert Most.of(Limits(max_principal_events=1_000)).events == 1_000 // 2 // SHARE
    assert Most.of(Limits(max_total_bytes=MIB)).size == MIB // 2 // SHARE
    assert Most.of(Limits(max_session_events=1, max_session_bytes=1)) == Most(1, 1)


@pytest.mark.parametrize("events", range(1, 12))
def test_agents_with_the_smallest_logs_resume_in_the_end(events: int) -> None:
    world = World(with_limits(max_session_events=events))
    peer, job = held(world)
    for _ in range(20):
        if told(world, job)[-1:] != [PauseJob]:
            emits(world, job, 1)
        else:
            world.persist()
    world.persist()
    assert told(world, job)[-1] is ResumeJob
    assert peer.numbers() == list(range(1, len(peer.numbers()) + 1))
    assert world.state.unsaved == {}


def test_a_session_without_ack_keeps_old_events_that_are_not_durable() -> None:
    """Stop the journal for longer than the resume window, while the client reads."""
    world = World(QUIET, resume_window_sec=60)
    peer, job = held(world, features=())
    for _ in range(8):
        emits(world, job, 1)
        world.advance(20)
    assert (session_of(world, peer).log.first, peer.numbers()) == (1, [])
    world.durable = True
    world.persist()
    assert peer.numbers() == list(range(1, 9))
    emits(world, job, 2)
    world.advance(61)
    emits(world, job, 2)
    assert session_of(world, peer).log.first > 8
    assert peer.numbers() == list(range(1, 13))


def test_a_session_without_ack_keeps_events_for_the_window_from_when_they_are_durable() -> None:
    world = World(QUIET, resume_window_sec=60)
    peer, job = held(world, features=())
    emits(world, job, 3)
    world.advance(100)
    peer.slow = True
    world.durable = True
    world.persist()
    world.advance(1)
    emits(world, job, 1)
    assert session_of(world, peer).log.first == 1, "they could be sent for a second"
    world.advance(62)
    emits(world, job, 1)
    assert session_of(world, peer).log.first == 5


def test_a_session_without_ack_keeps_events_for_the_window_from_when_its_welcome_is_durable() -> None:
    """Let durable events wait behind the welcome of a resume, which waits for the journal."""
    world = World(QUIET, resume_window_sec=60)
    peer = world.client(features=())
    job = peer.submit()
    emits(world, job, 3)
    peer.drop()
    world.advance(50)
    world.durable = False
    again = world.resumed(peer, 1)
    world.advance(20)
    emits(world, job, 1)
    log = session_of(world, peer).log
    assert (log.first, again.numbers()) == (2, []), "its client has the first event"
    again.slow = True
    world.durable = True
    world.persist()
    world.advance(1)
    emits(world, job, 1)
    assert log.first == 2, "they could be sent for a second"
    world.advance(62)
    emits(world, job, 1)
    assert log.first == 6
