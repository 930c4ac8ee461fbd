"""Histories that are asked for count as requests (§14)."""

from __future__ import annotations

import pytest

from arcp_proto.limits import Limits
from arcp_proto.server.sessions.admission_control import EVENTS_A_REQUEST
from tests.unit.server.sessions.test_subscriptions import QUIET, say, started, subscribed, texts
from tests.unit.world import Peer, World


def replayed(world: World, peer: Peer) -> int:
    """Let a client take its envelopes, and return the number of events among them."""
    world.take()
    events = len(peer.of("job.event"))
    del peer.frames[:]
    return events


@pytest.mark.parametrize("unsubscribe", [False, True])
@pytest.mark.parametrize("limit", ["max_requests_per_sec", "max_principal_requests_per_sec"])
def test_repeated_replays_of_a_history_count_as_requests(limit: str, unsubscribe: bool) -> None:
    rates = {"max_requests_per_sec": 10**6, "max_principal_requests_per_sec": 10**6}
    world = World(QUIET, limits=Limits(**{**rates, limit: 100}))
    _, job = started(world, 1_000)
    other = world.client()
    requests = events = 0
    for _ in range(400):
        for kind in ("job.subscribe", "job.unsubscribe") if unsubscribe else ("job.subscribe",):
            other.send(kind, {"job_id": job, "history": True})
            requests += 1
            world.advance(0.02)
        events += replayed(world, other)
    seconds = 0.02 * requests
    assert events >= 256
    assert events / EVENTS_A_REQUEST + requests <= 100 * (2 + seconds)


def test_a_client_that_recovers_32_jobs_is_never_throttled() -> None:
    world = World(QUIET)
    owner = world.client()
    jobs = [owner.submit() for _ in range(32)]
    for job in jobs:
        say(world, job, *range(1_000))
    other = world.client()
    for job in jobs:
        other.send("job.subscribe", {"job_id": job, "history": True})
    began = world.now
    for _ in range(32 * 4 + 8):
        world.advance(0)
    assert world.now == began
    assert [len(texts(other, job)) for job in jobs] == [1_000] * 32
    assert other.submit()
    assert not other.of("session.error") and not other.of("job.error")


def test_a_long_replay_waits_and_requests_beside_it_do_not() -> None:
    limits = Limits(max_requests_per_sec=10, max_history_events=5_000)
    world = World(QUIET, limits=limits)
    _, job = started(world, 3_000)
    other = world.client()
    subscribed(other, job, history=True)
    world.advance(0.1)
    before = len(texts(other, job))
    assert EVENTS_A_REQUEST * 10 <= before <= EVENTS_A_REQUEST * 15
    for _ in range(5):
        assert other.submit()  # The submit is accepted at once.
    for _ in range(600):
        world.advance(0.1)
    assert len(texts(other, job)) == 3_000
    assert not other.of("session.error")
