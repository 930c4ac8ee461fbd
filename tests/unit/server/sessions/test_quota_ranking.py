"""The principal that holds most: it is right after any change, and needs no search of all (§14)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import JobId, Monotonic, Principal, SessionId
from arcp_proto.limits import Limits
from arcp_proto.server.sessions.event_log import Log
from arcp_proto.server.sessions.quotas import Holdings, Ranking
from arcp_proto.server.sessions.retired import Retired
from arcp_proto.wire.envelopes import Entry

NAMES: Final = [Principal(name) for name in "abcdef"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "set", "set", "ask"]), st.sampled_from(NAMES), st.integers(0, 5)),
        max_size=300,
    )
)
def test_a_ranking_finds_the_same_principal_as_a_full_search(steps: list[tuple[str, Principal, int]]) -> None:
    held: dict[Principal, int] = {}
    ranking = Ranking()

    def held_by(principal: Principal) -> int:
        return held.get(principal, 0)

    for step, principal, amount in steps:
        if step == "set":
            if amount:
                held[principal] = amount
            else:
                held.pop(principal, None)
            if ranking.kept:
                ranking.changed(principal, held)
        elif held:
            most = max(held.values())
            assert ranking.first(held, held_by) == min(name for name in held if held[name] == most)
        else:
            with pytest.raises(InvariantViolated, match="no principal"):
                ranking.first(held, held_by)
        assert len(ranking._heap) <= 3 * len(NAMES) + 64


def test_repeated_changes_keep_the_heap_of_a_ranking_within_its_bound() -> None:
    """Keep the largest principal, so that old entries of the other one never come to the top of the heap."""
    held = {Principal("most"): 10**9, Principal("other"): 1}
    ranking = Ranking()
    for amount in range(1, 1_000):
        held[Principal("other")] = amount
        if ranking.kept:
            ranking.changed(Principal("other"), held)
        assert ranking.first(held, lambda principal: held.get(principal, 0)) == "most"
        assert len(ranking._heap) <= 3 * len(held) + 64


def test_a_ranking_is_given_up_when_it_is_not_asked() -> None:
    """Check that principals that come and go leave no entries behind."""
    held = {Principal("stays"): 1}
    ranking = Ranking()
    assert ranking.first(held, lambda principal: held.get(principal, 0)) == "stays"
    for number in range(1_000):
        if ranking.kept:
            ranking.changed(Principal(f"p{number}"), held)
    assert (ranking.kept, len(ranking._changed), len(ranking._heap)) == (False, 0, 0)


def test_a_ranking_keeps_no_principal_that_holds_nothing() -> None:
    holdings, retired = Holdings(Limits()), Retired()
    logs = {name: Log(SessionId(f"s{name}")) for name in NAMES}
    for log in logs.values():
        log.append(Entry(b"head", b"x"), 1, Monotonic(0))
    for _ in range(2):
        for name, log in logs.items():
            holdings.add(name, log)
            retired.add(JobId(f"job_{name}"), name, Monotonic(0))
        assert (holdings.largest(), retired.largest()) == ("a", "a")
        for name, log in logs.items():
            holdings.remove(name, log)
            retired.remove(name, JobId(f"job_{name}"))
        for ranking in (holdings._by_events, holdings._by_size, retired._ranking):
            assert (ranking.kept, len(ranking._changed), len(ranking._heap)) == (False, 0, 0)


# The steps of an eviction do not depend on the number of principals.

EACH: Final = 10
ROUNDS: Final = 200


def steps_of(call: Callable[[], object]) -> int:
    """Return the number of calls of Python functions and of C functions."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def full_holdings(principals: int, **limits: int) -> Callable[[], None]:
    """Fill holdings to their limit, and return a call that adds events, which evict those of the largest."""
    holdings = Holdings(Limits(**limits))
    logs = {}
    for number in range(principals):
        log = logs[Principal(f"p{number:05}")] = Log(SessionId(f"s{number}"))
        holdings.add(Principal(f"p{number:05}"), log)
    names = list(logs)

    def publish(number: int) -> None:
        principal = names[number * 7 % principals]
        logs[principal].append(Entry(b"head", b"x" * 10), 10, Monotonic(number))
        holdings.changed(principal, 1, 10)
        while (crowded := holdings.crowded()) is not None:
            log = logs[crowded]
            events, size = log.release(log.oldest(5, 1_000))
            holdings.changed(crowded, -events, -size)

    for number in range(EACH * principals):
        publish(number)
    publish(0)

    def more() -> None:
        for number in range(ROUNDS):
            publish(number)

    return more


@pytest.mark.parametrize("limit", ["max_total_events", "max_total_bytes"])
def test_an_eviction_costs_as_much_with_20_000_principals_as_with_100(limit: str) -> None:
    each = EACH * (10 if limit == "max_total_bytes" else 1)
    few = steps_of(full_holdings(100, **{limit: 100 * each}))
    many = steps_of(full_holdings(20_000, **{limit: 20_000 * each}))
    assert many < 1.5 * few
    assert many < 100 * ROUNDS


def full_retired(principals: int) -> Callable[[], None]:
    retired = Retired()
    for number in range(EACH * principals):
        retired.add(JobId(f"job{number}"), Principal(f"p{number % principals:05}"), Monotonic(number))

    def finish(number: int) -> None:
        principal = Principal(f"p{number * 7 % principals:05}")
        retired.add(JobId(f"more{number}"), principal, Monotonic(EACH * principals + number))
        largest = retired.largest()
        retired.remove(largest, retired.oldest(largest))

    finish(0)

    def more() -> None:
        for number in range(1, ROUNDS):
            finish(number)

    return more


def test_forgetting_a_job_costs_as_much_with_20_000_principals_as_with_100() -> None:
    few, many = steps_of(full_retired(100)), steps_of(full_retired(20_000))
    assert many < 1.5 * few
    assert many < 100 * ROUNDS
