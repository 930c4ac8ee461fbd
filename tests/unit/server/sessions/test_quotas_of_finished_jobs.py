"""Finished jobs and keys count for the bytes of their principal, and the oldest go first (§6.5, §7.2)."""

from __future__ import annotations

import tracemalloc
from typing import Any, Final

import msgspec
import pytest

from arcp_proto.engine.output import StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import JobId, Principal
from arcp_proto.limits import KIB, WIRE_WORDS, Limits
from arcp_proto.server.jobs.idempotency import key_bytes
from arcp_proto.server.journal.records import JobForgotten, KeyForgotten
from arcp_proto.wire.inputs import SMALL
from tests.unit.world import CONFIG, Frame, Peer, World

ALICE: Final = Principal("alice")
QUIET: Final = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0, journal=True)
WIDE: Final = {f"x-vendor.n{n}": [f"{m:02}" for m in range(64)] for n in range(28)}
"""A lease of 9.5 KB as JSON, and of 110 KB as lists of strings."""


def world_of(**limits: Any) -> World:
    limits = {"max_requests_per_sec": 10_000, "max_principal_requests_per_sec": 10_000, **limits}
    return World(QUIET, limits=Limits(**limits))


def finished(world: World, peer: Peer, result: Any = None, **payload: Any) -> str:
    """Finish a job, acknowledge all of its events, the end included, and return its id."""
    job = peer.submit(**payload)
    world.finish(job, result)
    peer.send("session.ack", {"last_processed_seq": max(peer.numbers())})
    return job


def held(world: World, principal: str = "alice") -> int:
    return world.state.holdings.of(Principal(principal))[1]


def forgotten(world: World) -> list[str]:
    return [record.job_id for record in world.records if isinstance(record, JobForgotten)]


def answer(peer: Peer, **payload: Any) -> Frame:
    peer.world.advance(1)
    frame: Frame = peer.send("job.submit", {"agent": "echo", **payload})[0]
    return frame


def limit_of(frame: Frame) -> Any:
    return frame["payload"].get("details", {}).get("limit")


# Finished jobs.


@pytest.fixture
def world() -> World:
    return world_of()


@pytest.mark.parametrize("lease", [{}, {"cost.budget": ["USD:5", "EUR:7"], "fs.read": ["/a/**"]}, WIDE])
def test_the_lease_of_a_finished_job_is_listed_unchanged(
    world: World, peer: Peer, lease: dict[str, list[str]]
) -> None:
    job = finished(world, peer, lease_request=lease, idempotency_key="k")
    other = world.client()
    for again in range(2):
        [page] = other.send("session.list_jobs", {})
        [entry] = page["payload"]["jobs"]
        assert entry["lease"] == lease
        subscribed = other.send("job.subscribe", {"job_id": job})[0]["payload"]
        assert subscribed["lease"] == lease
        budget = {"EUR": 7, "USD": 5} if "cost.budget" in lease else None
        assert subscribed.get("budget") == budget
        accepted = other.send("job.submit", {"agent": "echo", "lease_request": lease, "idempotency_key": "k"})
        assert accepted[0]["payload"]["lease"] == lease
        [info] = world.runtime.jobs.infos(finished=True)
        assert info.lease == lease
        if not again:
            world.restart()
            other = world.client()


def test_a_finished_job_with_a_large_lease_takes_little_more_than_its_json(world: World, peer: Peer) -> None:
    finished(world, peer, lease_request=WIDE)
    jobs = [JobId(peer.submit(lease_request=WIDE)) for _ in range(20)]
    peer.frames.clear()
    peer.raw.clear()
    world.outputs.clear()
    world.requests.clear()
    world.records.clear()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for job in jobs:
        world.runtime.agents.finish(job, None, now=world.now)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    json = len(msgspec.json.encode(WIDE))
    assert after - before < 20 * (json + 4 * KIB)
    assert held(world) >= 21 * json


@pytest.mark.parametrize(("more", "counts"), [(0, False), (1, True)])
def test_only_a_large_finished_job_counts_against_its_principal(
    world: World, peer: Peer, more: int, counts: bool
) -> None:
    end = world.state.jobs[JobId(finished(world, peer, ""))].end
    assert end is not None
    size = len(end.payload)
    finished(world, peer, "x" * (SMALL - size + more))
    assert held(world) == (SMALL + more if counts else 0)


def test_the_oldest_finished_jobs_are_forgotten_above_the_bytes_of_their_principal() -> None:
    world = world_of(max_principal_bytes=125_000)
    peer, bob = world.client(), world.client("tok-bob")
    others = finished(world, bob, "x" * 20_000)
    small = finished(world, peer)
    jobs = [finished(world, peer, "x" * 20_000) for _ in range(7)]
    assert forgotten(world) == jobs[:2]
    assert list(world.state.jobs) == [others, small, *jobs[2:]]
    assert 100_000 < held(world) <= 125_000
    other = world.client()
    refused = other.send("job.subscribe", {"job_id": jobs[0]})[0]["payload"]
    assert refused["code"] == "JOB_NOT_FOUND"
    assert other.send("job.subscribe", {"job_id": jobs[2]})[0]["payload"]["current_status"] == "success"
    world.advance(601)
    assert (world.state.jobs, held(world)) == ({}, 0)


def test_events_and_finished_jobs_are_freed_oldest_first() -> None:
    world = world_of(max_principal_bytes=150_000)
    peer = world.client()
    job = peer.submit()
    for _ in range(10):
        world.emit(job, "log", {"level": "info", "message": "x" * 1_000})
    peer.send("session.ack", {"last_processed_seq": max(peer.numbers())})
    world.advance(5)
    first = finished(world, peer, "x" * 40_000)
    world.advance(5)
    for _ in range(10):
        world.emit(job, "log", {"level": "info", "message": "x" * 1_000})
    peer.send("session.ack", {"last_processed_seq": max(peer.numbers())})
    assert held(world) > 60_000
    second = finished(world, peer, "x" * 45_000)  # This drives out the first ten events.
    assert (forgotten(world), world.state.jobs[job].history.first > 0) == ([], True)
    world.advance(5)
    third = finished(world, peer, "x" * 45_000)
    assert forgotten(world) == [first]  # The last ten events are younger, and stay.
    assert world.state.jobs[job].history.events >= 10
    assert list(world.state.jobs) == [job, second, third]


def test_too_many_events_do_not_free_finished_jobs() -> None:
    world = world_of(max_principal_events=20)
    peer = world.client()
    first = finished(world, peer, "x" * 20_000)
    job = peer.submit()
    for _ in range(100):
        world.emit(job)
    assert (forgotten(world), first in world.state.jobs) == ([], True)


def test_above_the_total_the_largest_principal_loses_its_finished_jobs() -> None:
    world = world_of(max_total_bytes=105_000)
    alice, bob = world.client(), world.client("tok-bob")
    few = finished(world, bob, "x" * 20_000)
    jobs = [finished(world, alice, "x" * 20_000) for _ in range(6)]
    assert forgotten(world) == jobs[:3]
    assert few in world.state.jobs


def test_a_result_above_all_limits_is_sent_and_its_job_forgotten() -> None:
    world = world_of(max_principal_bytes=40_000, max_history_bytes=200_000)
    peer = world.client()
    job = peer.submit()
    world.finish(job, "x" * 50_000)
    assert not world.state.holdings.over
    assert job not in world.state.jobs
    assert len(world.state.retired) == 0
    assert world.state.timers.armed(TimerKind.RETENTION, 0) is None


def test_a_restart_counts_the_kept_finished_jobs(world: World, peer: Peer) -> None:
    for number in range(3):
        finished(world, peer, "x" * 20_000, lease_request=WIDE, idempotency_key=f"k{number}")
    before = held(world)
    world.restart()
    assert held(world) == before
    snapshot = world.runtime.snapshot()
    world.records = snapshot
    world.restart()
    assert held(world) == before
    world.advance(25 * 3600)
    assert held(world) == 0


def test_a_restart_with_less_room_forgets_the_oldest(world: World, peer: Peer) -> None:
    jobs = [finished(world, peer, "x" * 20_000) for _ in range(4)]
    world.config = msgspec.structs.replace(QUIET, limits=Limits(max_principal_bytes=45_000))
    world.restart()
    assert list(world.state.jobs) == jobs[2:]


# Idempotency keys.


def keys_of(world: World, principal: str = "alice") -> list[str]:
    return [key for owner, key, _ in world.state.keys.items() if owner == principal]


def forget_jobs(world: World) -> None:
    """Let the retention of finished jobs pass; keys stay for a day."""
    world.advance(601)
    assert not world.state.jobs


def test_keys_of_ended_jobs_are_pinned_until_they_are_forgotten(world: World, peer: Peer) -> None:
    job = peer.submit(idempotency_key="k")
    assert world.state.holdings.pinned_by(ALICE) == 0  # The key of a running job is part of the job.
    world.finish(job, "x" * 1_000)
    peer.send("session.ack", {"last_processed_seq": 1})
    forget_jobs(world)
    claim = world.state.keys.get(ALICE, "k")
    assert claim is not None
    assert world.state.holdings.pinned_by(ALICE) == key_bytes("k", claim) > 1_000
    world.advance(24 * 3600)
    assert (keys_of(world), world.state.holdings.pinned_by(ALICE)) == ([], 0)


def test_a_full_quota_does_not_forget_keys() -> None:
    """Check that no key goes before its time, after which a repeated submit would run and pay twice."""
    world = world_of(max_principal_bytes=200_000)
    peer = world.client()
    keys = [f"k{number}" for number in range(5)]
    jobs = {key: finished(world, peer, "x" * 20_000, idempotency_key=key) for key in keys}
    [refused] = peer.send("job.submit", {"agent": "echo", "idempotency_key": "k5"})
    assert (refused["payload"]["code"], limit_of(refused)) == ("INTERNAL_ERROR", "principal_bytes")
    forget_jobs(world)
    job = peer.submit()
    for _ in range(40):
        world.emit(job, "log", {"level": "info", "message": "x" * 9_000})
    assert world.state.jobs[job].history.first > 0  # Events go for the principal's bytes.
    assert keys_of(world) == keys
    for key, done in jobs.items():
        world.advance(1)
        accepted, *_ = peer.send("job.submit", {"agent": "echo", "idempotency_key": key})
        assert (accepted["type"], accepted["payload"]["job_id"]) == ("job.accepted", done)
    assert not any(isinstance(record, KeyForgotten) for record in world.records)
    world.advance(24 * 3600)
    assert keys_of(world) == []
    assert peer.submit(idempotency_key="k5") not in jobs.values()


@pytest.mark.parametrize("total", [False, True])
def test_keys_may_take_half_of_the_bytes_of_a_principal(total: bool) -> None:
    limit = "max_total_bytes" if total else "max_principal_bytes"
    world = world_of(**{limit: 200_000})
    peer, bob = world.client(), world.client("tok-bob")

    def left() -> int:
        return 100_000 - world.state.holdings.pinned_by(ALICE)

    for number in range(4):
        finished(world, peer, "x" * 23_000, idempotency_key=f"k{number}")
    forget_jobs(world)
    assert 0 < left() < 10_000
    finished(world, peer, "x" * 10_000, idempotency_key="last")
    assert -10_000 < left() <= 0
    assert limit_of(answer(peer, idempotency_key="more")) == WIRE_WORDS[limit]
    assert answer(peer)["type"] == "job.accepted"
    others = answer(bob, idempotency_key="more")
    assert (limit_of(others) == WIRE_WORDS[limit]) if total else (others["type"] == "job.accepted")


@pytest.mark.parametrize("first", ["session", "job"])
def test_keys_of_an_anonymous_client_are_forgotten_with_it(first: str) -> None:
    world = World(QUIET, anonymous=True)
    peer = world.connect()
    peer.hello(None, scheme="anonymous")
    done = peer.submit(idempotency_key="done")
    world.finish(done)
    job = peer.submit(idempotency_key="k")
    assert len(world.state.keys) == 2
    peer.drop()
    if first == "session":
        world.advance(601)
        assert len(world.state.keys) == 2
        world.finish(job)
    else:
        world.finish(job)
        assert len(world.state.keys) == 2
        world.advance(601)
    assert len(world.state.keys) == 0
    world.advance(601)
    assert len(world.state.holdings) == 0


# Leases of running jobs.


def test_large_leases_of_running_jobs_are_pinned_like_inputs() -> None:
    world = world_of(max_principal_bytes=1_000_000)
    peer = world.client()
    small = {"fs.read": ["/a"]}
    assert answer(peer, lease_request=small)["type"] == "job.accepted"
    assert world.state.holdings.pinned == 0
    answers = [answer(peer, lease_request=WIDE)["type"] for _ in range(4)]
    assert answers == ["job.accepted", "job.accepted", "session.error", "session.error"]
    assert 2 * 100_000 < world.state.holdings.pinned <= 500_000
    for start in world.all(StartJob):
        world.finish(start.job_id)
    assert world.state.holdings.pinned == 0
