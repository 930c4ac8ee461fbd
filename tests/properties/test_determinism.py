"""Equal inputs and seeds give equal bytes, and the actions of one principal change no byte of another."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.engine.connection import connection_state
from tests.unit.world import Peer, World

from .digest import said
from .machines import NUMBER, SETUP, actions, examples
from .play import Action, run

UNPREDICTABLE = re.compile(rb"(sess|job|res|rt)_[0-9A-Za-z_-]+|[0-9a-f]{32}|[0-9a-f]{16}|[01][0-9A-Z]{25}")
NAMES = st.sampled_from(["submit", "submit", "refused", "emit", "write", "finish", "cancel", "ping"])
STEPS = st.lists(st.tuples(NAMES, NUMBER), min_size=1, max_size=30)


@settings(max_examples=examples(60))
@given(setup=SETUP, drawn=actions())
def test_the_same_run_twice(setup: tuple[int, int, int], drawn: list[Action]) -> None:
    assert said(run(setup, drawn)) == said(run(setup, drawn))


def step(peer: Peer, name: str, number: int) -> None:
    """Carry out one action of a client or of its agent."""
    world = peer.world
    assert connection_state(peer.connection).session is not None
    jobs = list(connection_state(peer.connection).session.jobs)
    job = jobs[number % len(jobs)] if jobs else ""
    match name:
        case "submit":
            peer.send("job.submit", {"agent": "echo", "input": number})
        case "refused":
            peer.send("job.submit", {"agent": "zork"})
        case "emit" if job:
            world.emit(job)
        case "write" if job:
            world.write(job, "x" * number)
        case "finish" if job:
            world.finish(job)
        case "cancel" if job:
            peer.cancel(job)
            world.stopped(job)
        case "ping":
            peer.send("session.ping", {"nonce": str(number)})


def played(ours: list[Any], theirs: list[Any], *, seed: bytes = b"s" * 32) -> list[bytes]:
    """Return the frames that alice gets while bob acts as well."""
    world = World(seed=seed)
    alice, bob = world.client(), world.client("tok-bob")
    for number in range(max(len(ours), len(theirs))):
        for peer, steps in ((bob, theirs), (alice, ours)):
            if number < len(steps):
                step(peer, *steps[number])
    return alice.raw


@settings(max_examples=examples(50))
@given(ours=STEPS, theirs=STEPS)
def test_frames_of_one_principal_do_not_depend_on_another(ours: list[Any], theirs: list[Any]) -> None:
    assert played(ours, theirs) == played(ours, [])


@settings(max_examples=examples(60))
@given(ours=STEPS)
def test_another_seed_has_other_ids_and_nothing_else(ours: list[Any]) -> None:
    one, two = played(ours, []), played(ours, [], seed=b"t" * 32)
    assert one != two
    assert [UNPREDICTABLE.sub(b"*", raw) for raw in one] == [UNPREDICTABLE.sub(b"*", raw) for raw in two]
    ids = [set(UNPREDICTABLE.findall(b"".join(raws))) for raws in (one, two)]
    assert all(len(found) > 0 for found in ids)
