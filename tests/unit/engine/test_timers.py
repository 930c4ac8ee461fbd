"""Timers: one deadline for a key, ties in the order of arming, and a heap of bounded size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.engine.timers import TimerKey, TimerKind, Timers
from arcp_proto.ids import Monotonic

KINDS = st.sampled_from([TimerKind.HEARTBEAT, TimerKind.GRACE])
OWNERS = st.sampled_from([0, 1, "job_1"])
TIMES = st.integers(0, 20)
ARM = st.tuples(st.just("arm"), KINDS, OWNERS, TIMES)
DISARM = st.tuples(st.just("disarm"), KINDS, OWNERS, st.just(0))
POP = st.tuples(st.just("pop"), KINDS, OWNERS, TIMES)
Step = tuple[str, TimerKind, int | str, int]
STEPS: st.SearchStrategy[list[Step]] = st.lists(st.one_of(ARM, DISARM, POP), max_size=50)


def arm(timers: Timers, kind: TimerKind, owner: int | str, at: int) -> None:
    timers.arm(kind, owner, Monotonic(at))


@pytest.fixture
def timers() -> Timers:
    return Timers()


def test_nothing_is_due_when_nothing_is_armed(timers: Timers) -> None:
    assert timers.next() is None
    assert list(timers.pop_due(Monotonic(10**18))) == []
    assert (len(timers), timers.size, timers.keys()) == (0, 0, [])


def test_a_deadline_is_due_at_its_time_and_then_gone(timers: Timers) -> None:
    arm(timers, TimerKind.HELLO, 1, 10)
    assert timers.next() == (10, (TimerKind.HELLO, 1))
    assert list(timers.pop_due(Monotonic(9))) == []
    assert list(timers.pop_due(Monotonic(10))) == [TimerKey(TimerKind.HELLO, 1)]
    assert timers.next() is None
    assert timers.armed(TimerKind.HELLO, 1) is None


@pytest.mark.parametrize("later", [5, 15])
def test_arming_again_replaces_the_deadline(timers: Timers, later: int) -> None:
    arm(timers, TimerKind.ACK, 0, 10)
    arm(timers, TimerKind.ACK, 0, later)
    assert timers.armed(TimerKind.ACK, 0) == later
    assert list(timers.pop_due(Monotonic(later - 1))) == []
    assert list(timers.pop_due(Monotonic(later))) == [(TimerKind.ACK, 0)]
    assert list(timers.pop_due(Monotonic(100))) == []


def test_ties_come_in_the_order_of_arming(timers: Timers) -> None:
    names = ["c", "a", "b"]
    for owner in names:
        arm(timers, TimerKind.GRACE, owner, 7)
    assert [owner for _kind, owner in timers.pop_due(Monotonic(7))] == names


def test_arming_again_at_the_same_time_goes_to_the_end_of_a_tie(timers: Timers) -> None:
    for owner in ["a", "b", "a"]:
        arm(timers, TimerKind.GRACE, owner, 7)
    assert [owner for _kind, owner in timers.pop_due(Monotonic(7))] == ["b", "a"]


def test_a_timer_that_is_armed_again_when_it_is_due_does_not_loop(timers: Timers) -> None:
    arm(timers, TimerKind.HEARTBEAT, 1, 5)
    for _ in range(3):
        for kind, owner in timers.pop_due(Monotonic(5)):
            arm(timers, kind, owner, 5)
    assert timers.keys() == [TimerKey(TimerKind.HEARTBEAT, 1)]


def test_a_timer_disarmed_by_an_earlier_one_is_not_due(timers: Timers) -> None:
    for number in [1, 2, 3]:
        arm(timers, TimerKind.CLOSE, number, 5)
    due: list[int | str] = []
    for kind, owner in timers.pop_due(Monotonic(5)):
        due.append(owner)
        timers.disarm(kind, 2)
    assert due == [1, 3]


def test_disarming_drops_a_timer_and_ignores_an_unarmed_one(timers: Timers) -> None:
    arm(timers, TimerKind.HELLO, 1, 5)
    timers.disarm(TimerKind.HELLO, 1)
    timers.disarm(TimerKind.HELLO, 2)
    assert list(timers.pop_due(Monotonic(100))) == []


def test_several_kinds_of_one_owner_are_dropped_at_once(timers: Timers) -> None:
    for kind in [TimerKind.HELLO, TimerKind.GRACE, TimerKind.LINGER]:
        arm(timers, kind, "a", 5)
    arm(timers, TimerKind.GRACE, "b", 5)
    timers.disarm_all([TimerKind.LINGER, TimerKind.PAUSE, TimerKind.GRACE], "a")
    timers.disarm_all([TimerKind.LINGER], "c")
    assert timers.keys() == [(TimerKind.HELLO, "a"), (TimerKind.GRACE, "b")]
    assert len(timers) == 2


def test_the_kind_and_the_owner_make_the_key(timers: Timers) -> None:
    arm(timers, TimerKind.HELLO, 1, 5)
    arm(timers, TimerKind.LINGER, 1, 6)
    arm(timers, TimerKind.HELLO, "1", 7)
    timers.disarm(TimerKind.HELLO, 1)
    assert timers.keys() == [(TimerKind.LINGER, 1), (TimerKind.HELLO, "1")]


@given(STEPS)
def test_timers_equal_a_sorted_list(steps: list[Step]) -> None:
    """Compare with a list of (time, key) in the order of arming, which is sorted at each question."""
    timers = Timers()
    model: dict[TimerKey, int] = {}
    for action, kind, owner, at in steps:
        key = TimerKey(kind, owner)
        if action == "arm":
            arm(timers, kind, owner, at)
            model.pop(key, None)
            model[key] = at
        elif action == "disarm":
            timers.disarm(kind, owner)
            model.pop(key, None)
        else:
            due = [one for one in sorted(model, key=lambda one: model[one]) if model[one] <= at]
            assert list(timers.pop_due(Monotonic(at))) == due
            for one in due:
                del model[one]
        first = min(model, key=lambda one: model[one], default=None)
        assert timers.next() == (None if first is None else (model[first], first))
        assert len(timers) == len(model)
        armed = timers.keys()
        assert {one: timers.armed(*one) for one in armed} == model


@given(STEPS, st.integers(1, 200))
def test_the_heap_of_timers_stays_within_its_bound(steps: list[Step], times: int) -> None:
    """Check that the heap has at most twice as many entries as live deadlines, plus a constant."""
    timers = Timers()
    for turn in range(times):
        for action, kind, owner, at in steps:
            match action:
                case "arm":
                    arm(timers, kind, f"{owner}-{turn % 40}", at + turn)
                case "disarm":
                    timers.disarm(kind, f"{owner}-{turn % 40}")
                case _:
                    list(timers.pop_due(Monotonic(at)))
            assert timers.size <= 2 * len(timers) + 64


def test_the_heap_of_timers_stays_within_its_bound_when_many_are_due(timers: Timers) -> None:
    """Check that popping also removes the old entries of deadlines that were moved forward."""
    arm(timers, TimerKind.ACK, 0, 50)
    for at in (100, 1):
        for owner in range(500):
            arm(timers, TimerKind.GRACE, owner, at)
    list(timers.pop_due(Monotonic(1)))
    assert timers.size <= 2 * len(timers) + 64


@given(st.lists(TIMES, min_size=1))
def test_looking_at_the_next_timer_changes_nothing(times: list[int]) -> None:
    looked_at, left_alone = Timers(), Timers()
    for number, at in enumerate(times):
        for timers in (looked_at, left_alone):
            arm(timers, TimerKind.GRACE, number % 3, at)
        looked_at.next()
    assert list(looked_at.pop_due(Monotonic(100))) == list(left_alone.pop_due(Monotonic(100)))


def test_a_disarmed_timer_leaves_nothing_behind(timers: Timers) -> None:
    for owner in range(10):
        timers.arm(TimerKind.HEARTBEAT, owner, Monotonic(owner))
    for owner in range(10):
        timers.disarm(TimerKind.HEARTBEAT, owner)
    assert timers.next() is None
    assert timers.size == 0
