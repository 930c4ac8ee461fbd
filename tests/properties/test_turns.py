"""Submits that wait, with few keys and in any order: all are answered (§7.2)."""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcp_proto.errors import ensure
from arcp_proto.limits import Limits
from tests.unit.credentialed import PROVIDED, Provided

from . import structure
from .machines import examples

KEYS = (None, "k", "l")
ACTIONS = (*("submit",) * 6, *("refuse",) * 4, "issue", "wait")
MOST = 50
CONFIG = msgspec.structs.replace(
    PROVIDED,
    heartbeat_interval_sec=0,
    limits=Limits(idempotency_retention_sec=1, retention_sec=1, max_session_waiting_submits=3),
)


@settings(settings.default, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, MOST).flatmap(  # Else lists are short: five of them on average.
        lambda count: st.lists(
            st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7), st.integers(0, 2)),
            min_size=count,
            max_size=count,
        )
    )
)
def test_every_submit_is_answered_in_any_order_of_waiting(actions: list[tuple[str, int, int]]) -> None:
    world = Provided(CONFIG)
    peers = [world.client() for _ in range(2)]
    unanswered: list[str] = []
    noted = submits = 0
    for name, a, b in (*actions, *(("refuse", 0, 0),) * len(actions)):
        if name == "submit":
            submits += 1
            key = {} if KEYS[b] is None else {"idempotency_key": KEYS[b]}
            peers[a % 2].send("job.submit", {"agent": "echo", "input": None, **key})
        elif name == "wait":
            for job_id in list(world.state.running)[: a % 3]:
                world.stopped(job_id)
            world.advance((0.5, 2, 31)[b])
        elif unanswered:
            alias = unanswered.pop(a % len(unanswered))
            (world.issue if name == "issue" else world.refuse)(alias=alias)
        world.advance(0)  # What came in while too many waited is carried out.
        unanswered += world.asked[noted:]
        noted = len(world.asked)
        structure.check_turns(world.state)

    ensure(
        not any(session.turns for session in world.state.sessions.values()),
        "a request waits for its turn for ever",
    )
    answers = [frame for one in peers for kind in ("job.accepted", "session.error") for frame in one.of(kind)]
    ensure(len(answers) == submits, f"{len(answers)} answers to {submits} submits")
