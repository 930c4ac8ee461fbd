"""Retention: the time for which jobs, sessions and their events are kept after their end."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import SECOND, Monotonic, Principal, SessionId
from arcp_proto.limits import Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.journal.records import Evicted, HistoryCut, JobForgotten
from arcp_proto.server.sessions.event_log import Log
from tests.unit.world import CONFIG, START, World

ANONYMOUS = msgspec.structs.replace(CONFIG, anonymous=True, journal=True)
QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)


def limited(**limits: int) -> RuntimeConfig:
    return msgspec.structs.replace(QUIET, limits=Limits(**limits))


def log_of(world: World) -> Log:
    """Return the log of the only session."""
    [session] = world.state.sessions.values()
    return session.log


def test_a_job_is_forgotten_600_seconds_after_its_end() -> None:
    world = World(ANONYMOUS)
    peer = world.client(features=())
    first, second, third = (peer.submit() for _ in range(3))
    world.finish(first)
    world.advance(10)
    world.finish(second)
    world.finish(third)
    assert world.state.timers.armed(TimerKind.RETENTION, 0) == START + 600 * SECOND
    world.advance(589)
    assert peer.cancel(first)[0]["payload"]["final_status"] == "success"
    world.advance(2)
    assert peer.cancel(first)[0]["payload"]["code"] == "JOB_NOT_FOUND"
    assert list(world.state.jobs) == [second, third]
    assert world.state.timers.armed(TimerKind.RETENTION, 0) == START + 610 * SECOND
    world.advance(10)
    assert world.state.jobs == {}
    assert len(world.state.retired) == 0
    assert [record for record in world.records if isinstance(record, JobForgotten)] == [
        JobForgotten(first),
        JobForgotten(second),
        JobForgotten(third),
    ]
    assert world.state.timers.keys() == []


def test_an_agent_that_never_stops_still_counts_after_its_job_is_forgotten() -> None:
    world = World()
    peer = world.client(features=())
    job = peer.submit()
    peer.cancel(job)
    world.advance(700)
    assert world.state.jobs == {}
    assert list(world.state.running) == [job]
    world.stopped(job)
    assert world.state.running == {}


def test_the_oldest_finished_jobs_are_forgotten_above_their_number() -> None:
    world = World(limited(max_principal_finished_jobs=3))
    peer = world.client()
    jobs = [peer.submit() for _ in range(5)]
    for job in jobs:
        world.finish(job)
    assert list(world.state.jobs) == jobs[2:]
    assert len(world.state.retired) == 3
    world.advance(600)
    assert world.state.jobs == {}


def test_finished_jobs_are_limited_per_principal() -> None:
    world = World(limited(max_principal_finished_jobs=2))
    alice, bob = world.client(), world.client("tok-bob")
    theirs = bob.submit()
    world.finish(theirs)
    jobs = [alice.submit() for _ in range(4)]
    for job in jobs:
        world.finish(job)
    assert list(world.state.jobs) == [theirs, *jobs[2:]]


def test_above_the_total_finished_jobs_of_the_principal_with_most_are_forgotten() -> None:
    world = World(limited(max_total_finished_jobs=40))
    alice, bob = world.client(), world.client("tok-bob")
    theirs = [bob.submit() for _ in range(2)]
    jobs = [alice.submit() for _ in range(50)]
    for job in (*theirs, *jobs):
        world.finish(job)
    assert len(world.state.retired) <= 40
    assert world.state.retired.count(Principal("bob")) == 2
    assert all(job in world.state.jobs for job in theirs)
    assert list(world.state.jobs)[-1] == jobs[-1]


# Logs.


def test_a_session_with_ack_keeps_unacked_events_of_any_age() -> None:
    world = World(QUIET)
    peer = world.client(features=("ack",))
    job = peer.submit()
    world.emit(job)
    world.advance(10_000)
    world.emit(job)
    assert log_of(world).first == 1


def test_a_session_without_ack_evicts_events_older_than_its_window() -> None:
    world = World(QUIET)
    peer = world.client(features=())
    job = peer.submit()
    for _ in range(3):
        world.emit(job)
        world.advance(300)
    assert log_of(world).first == 1
    world.advance(2)
    world.emit(job)
    log = log_of(world)
    assert (log.first, log.last) == (3, 4)
    peer.drop()
    assert world.resumed(peer, 2).numbers() == [3, 4]


def test_a_session_without_ack_evicts_events_at_the_end_of_its_window() -> None:
    world = World(QUIET, resume_window_sec=60)
    job = world.client(features=()).submit()
    for seconds, first in ((0, 1), (60.5, 1), (0.49, 1), (0.01, 2)):
        world.advance(seconds)
        world.emit(job)
        assert log_of(world).first == first


def test_in_a_session_with_ack_age_makes_no_check_due() -> None:
    world = World(QUIET, resume_window_sec=60)
    job = world.client(features=("ack",)).submit()
    world.emit(job)
    world.advance(100)
    world.emit(job)
    assert log_of(world).first == 1
    assert not log_of(world).due(Monotonic(world.now + SECOND - 1))
    assert log_of(world).due(Monotonic(world.now + SECOND))


def test_in_a_session_without_ack_no_check_is_due_before_the_window_ends() -> None:
    world = World(QUIET, resume_window_sec=60)
    job = world.client(features=()).submit()
    world.emit(job)
    world.advance(10)
    world.emit(job)
    assert not log_of(world).due(Monotonic(world.now + SECOND - 1))


def test_a_session_without_ack_evicts_nothing_within_its_window() -> None:
    world = World(QUIET)
    peer = world.client(features=())
    job = peer.submit()
    world.emit(job)
    world.advance(599)
    world.emit(job)
    assert log_of(world).first == 1


def test_a_log_above_its_bytes_evicts_its_oldest_events() -> None:
    world = World(limited(max_session_bytes=1_000))
    job = world.client().submit()
    for _ in range(30):
        world.emit(job)
    log = log_of(world)
    assert log.size <= 1_000
    assert (log.first > 1, log.last) == (True, 30)


@pytest.mark.parametrize("limit", ["max_principal_events", "max_principal_bytes"])
def test_events_of_a_principal_are_freed_by_64ths_of_its_limit(limit: str) -> None:
    """Let all events have one age, so that only the limit stops the eviction."""
    world = World(limited(**{limit: 64 * 4} if limit == "max_principal_events" else {limit: 64 * 400}))
    job = world.client().submit()
    world.emit(job)
    each = log_of(world).size
    most = 64 * 4 if limit == "max_principal_events" else 64 * 400
    held: list[int] = []
    for _ in range(400):
        world.emit(job)
        events, size = world.state.holdings.of(Principal("alice"))
        held.append(events if limit == "max_principal_events" else size)
    assert max(held) <= most
    full = held[held.index(max(held)) :]
    gone = 4 if limit == "max_principal_events" else 400 + each
    assert min(full) >= most - gone


def test_a_history_is_kept_within_its_bytes() -> None:
    world = World(limited(max_history_bytes=1_000))
    job = world.client().submit()
    for _ in range(30):
        world.emit(job)
    history = world.state.jobs[job].history
    assert history.size <= 1_000 and history.end == 30
    assert log_of(world).first == 1


# Limits of a principal, and of all.


def held(world: World, principal: str) -> int:
    return world.state.holdings.of(Principal(principal))[0]


def test_a_principal_above_its_limit_loses_its_own_oldest_events() -> None:
    world = World(limited(max_principal_events=64))
    alice, bob = world.client(), world.client("tok-bob")
    ours, theirs = alice.submit(), bob.submit()
    world.emit(theirs)
    for _ in range(100):
        world.emit(ours)
        world.advance(2)
    assert held(world, "alice") <= 64
    assert held(world, "bob") == 2


@pytest.mark.parametrize(
    ("limits", "least", "most"),
    [({"max_principal_events": 64 * 4}, 4, 4), ({"max_principal_bytes": 64 * 1_000}, 2, 1_000 // 60)],
)
def test_a_principal_above_its_limit_loses_a_64th_of_it_at_a_time(
    limits: dict[str, int], least: int, most: int
) -> None:
    """Count the events, of 60 bytes and more, in the log of the session and in the history of the job."""
    world = World(limited(**limits), journal=True)
    job = world.client().submit()
    for _ in range(1_000):
        world.emit(job)
    logs = [record.seq for record in world.records if isinstance(record, Evicted)]
    histories = [record.upto for record in world.records if isinstance(record, HistoryCut)]
    for ends in (logs, histories):
        steps = [after - before for before, after in pairwise(ends)]
        assert least <= max(steps) <= most


def test_the_oldest_events_are_freed_across_the_sessions_and_jobs_of_a_principal() -> None:
    world = World(limited(max_principal_events=64))
    first, second = world.client(), world.client()
    old, new = first.submit(), second.submit()
    for _ in range(10):
        world.emit(old)
    world.advance(5)
    for _ in range(25):
        world.emit(new)
    assert held(world, "alice") <= 64
    assert world.state.jobs[new].history.first == 0
    assert len(world.state.sessions[SessionId(second.session_id)].log) == 25
    kept = world.state.jobs[old].history.events + len(world.state.sessions[SessionId(first.session_id)].log)
    assert kept < 20


@pytest.mark.parametrize("limits", [Limits(max_total_events=200), Limits(max_total_bytes=20_000)])
def test_a_flood_of_one_principal_costs_others_no_event(limits: Limits) -> None:
    world = World(QUIET, limits=limits)
    alice, bob = world.client(), world.client("tok-bob")
    quiet, flood = alice.submit(), bob.submit()
    for _ in range(20):
        world.emit(quiet)
    world.advance(5)
    for _ in range(500):
        world.emit(flood)
    holdings = world.state.holdings
    assert holdings.events <= limits.max_total_events and holdings.size <= limits.max_total_bytes
    assert held(world, "alice") == 40
    alice.drop()
    assert world.resumed(alice, 0).numbers() == list(range(1, 21))


def test_an_observed_event_counts_for_the_principal_of_the_observer() -> None:
    config = limited(max_principal_events=40)
    world = World(config, observers={"bob": {"*": "observe"}})
    alice, bob = world.client(), world.client("tok-bob")
    job = alice.submit()
    bob.send("job.subscribe", {"job_id": job})
    for _ in range(15):
        world.emit(job)
    assert (held(world, "alice"), held(world, "bob")) == (30, 15)
    alice.send("session.ack", {"last_processed_seq": 15})
    assert (held(world, "alice"), held(world, "bob")) == (15, 15)


def test_accounts_are_empty_after_all_sessions_and_jobs_are_forgotten() -> None:
    world = World(QUIET, resume_window_sec=10)
    peer = world.client()
    job = peer.submit()
    world.emit(job)
    world.finish(job)
    peer.drop()
    world.advance(601)
    holdings = world.state.holdings
    assert (len(holdings), holdings.events, holdings.size) == (0, 0, 0)


# Anonymous principals.


def test_the_timer_of_keys_is_disarmed_when_they_are_forgotten_with_their_principal() -> None:
    world = World(ANONYMOUS)
    peer = world.connect()
    peer.hello(None, scheme="anonymous")
    world.finish(peer.submit(idempotency_key="k"))
    assert world.state.timers.armed(TimerKind.KEYS, 0) is not None
    peer.drop()
    world.advance(ANONYMOUS.resume_window_sec)
    assert world.state.sessions == {} and len(world.state.keys) == 0
    assert world.state.timers.armed(TimerKind.KEYS, 0) is None


@pytest.mark.parametrize("first", ["session", "job"])
def test_entropy_of_an_anonymous_principal_is_forgotten_with_its_last_use(first: str) -> None:
    world = World(ANONYMOUS, resume_window_sec=0)
    peer = world.connect()
    peer.hello(None, scheme="anonymous")
    [principal] = world.state.anonymous_principals
    job = peer.submit()
    scope = world.state.scope(principal)
    if first == "session":
        peer.drop()
        assert scope in world.state.entropy._scopes
        world.finish(job)
    else:
        world.finish(job)
        assert scope in world.state.entropy._scopes
        peer.drop()
    assert world.state.anonymous_principals == {}
    assert world.state.entropy._scopes == {}


def test_entropy_of_others_is_kept() -> None:
    world = World(ANONYMOUS)
    one, two = world.client(), world.client("tok-bob")
    world.finish(one.submit())
    one.drop()
    two.drop()
    assert sorted(world.state.entropy._scopes) == ["principal alice", "principal bob"]
