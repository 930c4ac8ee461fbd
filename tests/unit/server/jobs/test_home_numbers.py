"""Home numbers, in which `subscribed_from` and `from_event_seq` count without positions (§7.6)."""

from __future__ import annotations

from typing import Any

from arcp_proto.ids import JobId
from tests.unit.world import Peer, World


def home_numbers(world: World, job_id: str) -> list[int]:
    """Return the home numbers of the events of a job, and of its end."""
    job = world.state.jobs[JobId(job_id)]
    numbers = [past.source for past in job.history.between(job.history.first, job.history.end)]
    return numbers if job.end is None else [*numbers, job.end.source]


def subscribed_from(peer: Peer, job_id: str) -> int:
    """Subscribe, and return the `subscribed_from` of the answer."""
    answer: dict[str, Any] = peer.send("job.subscribe", {"job_id": job_id})[0]["payload"]
    number: int = answer["subscribed_from"]
    return number


def test_home_numbers_are_those_of_the_submitting_session(world: World) -> None:
    peer, other = world.client(), world.client()
    one, two = peer.submit(), peer.submit()
    for job in (one, one, two, one):
        world.emit(job)
    assert (subscribed_from(other, one), subscribed_from(other, two)) == (4, 3)
    assert (home_numbers(world, one), home_numbers(world, two)) == ([1, 2, 4], [3])


def test_each_job_continues_its_home_numbers_after_the_submitting_session() -> None:
    world = World(heartbeat_interval_sec=0, resume_window_sec=10)
    peer = world.client()
    one, two = peer.submit(), peer.submit()
    for job in (one, one, two):
        world.emit(job)
    peer.drop()
    world.advance(11)
    for job in (one, two):
        world.emit(job)
        world.finish(job)
    assert home_numbers(world, one) == [1, 2, 4, 5]
    assert home_numbers(world, two) == [3, 4, 5]
    assert subscribed_from(world.client(), two) == 5


def test_job_cancelled_has_a_home_number(world: World, peer: Peer) -> None:
    job = peer.submit()
    world.emit(job)
    peer.cancel(job)
    assert subscribed_from(world.client(), job) == 2
    world.stopped(job)
    assert home_numbers(world, job) == [1, 3]


def test_an_event_not_taken_at_home_has_the_home_number_of_the_event_before(world: World) -> None:
    job = world.client(features=("subscribe",)).submit()
    for number in (1, 2):
        world.emit(job, "progress", {"current": number})
        world.emit(job)
    assert home_numbers(world, job) == [1, 1, 1, 2]
