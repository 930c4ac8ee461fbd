"""The events of one job, kept for observers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.ids import SECOND, JobId, Monotonic
from arcp_proto.server.sessions.event_log import History

JOB = JobId("job_x")


def history_of(*sources: int, size: int = 10) -> History:
    history = History(JOB)
    for source in sources:
        history.append(b"x" * size, source, None, size, Monotonic(0))
    return history


def test_history_positions_count_from_zero() -> None:
    history = History(JOB)
    assert (history.first, history.end, history.events, history.size) == (0, 0, 0, 0)
    history.append(b"abc", 4, None, 3, Monotonic(7))
    assert (history.first, history.end, history.events, history.size) == (0, 1, 1, 3)
    assert history.oldest_at == 7


@pytest.mark.parametrize(("source", "position"), [(0, 0), (1, 0), (2, 1), (4, 1), (5, 3), (8, 4), (99, 4)])
def test_after_returns_the_position_behind_a_home_number(source: int, position: int) -> None:
    assert history_of(2, 5, 5, 8).after(source) == position


def test_between_returns_the_events_of_two_positions() -> None:
    history = History(JOB)
    for number, feature in enumerate([None, "progress", "result_chunk", None], 1):
        history.append(b"%d" % number, number * 10, feature, 1, Monotonic(0))
    history.release(1)
    assert list(history.between(1, 3)) == [(b"2", 20, "progress"), (b"3", 30, "result_chunk")]
    assert history.source_at(3) == 40
    assert list(history.between(3, 4)) == [(b"4", 40, None)]
    assert list(history.between(4, 4)) == []


def test_release_returns_the_events_and_bytes_dropped() -> None:
    history = history_of(2, 5, 8)
    assert history.release(0) == (0, 0)
    assert history.release(2) == (2, 20)
    assert (history.first, history.end, history.cut, history.size) == (2, 3, 5, 10)
    assert history.release(1) == (0, 0)
    assert history.release(99) == (1, 10)
    assert (history.first, history.end, history.cut, history.oldest_at) == (3, 3, 8, None)
    assert history.after(0) == 3


@pytest.mark.parametrize(
    ("events", "size", "end"), [(1, 99, 1), (2, 99, 2), (9, 99, 4), (9, 1, 1), (9, 11, 2)]
)
def test_reach_covers_at_least_one_event(events: int, size: int, end: int) -> None:
    assert history_of(1, 2, 3, 4).reach(0, events, size) == end


def test_reach_at_the_end_of_a_history_is_the_end() -> None:
    assert history_of(1, 2).reach(2, 9, 9) == 2


def test_excess_leaves_some_to_spare() -> None:
    assert history_of(*range(16)).excess(16, 1_000) == 0
    assert history_of(*range(17)).excess(16, 1_000) == 2
    assert history_of(*range(3)).excess(16, 29) == 1


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 40), st.integers(1, 500))
def test_after_the_excess_has_gone_both_limits_hold(sizes: list[int], events: int, size: int) -> None:
    history = History(JOB)
    for number, length in enumerate(sizes):
        history.append(b"x" * length, number, None, length, Monotonic(0))
    history.release(history.excess(events, size))
    assert history.events <= events and history.size <= size
    assert history.end == len(sizes)


def test_the_oldest_go_together_within_a_share() -> None:
    history = History(JOB)
    for number, second in enumerate([1, 1, 1, 5]):
        history.append(b"xx", number, None, 2, Monotonic(second * SECOND))
    assert [history.oldest(events, 99) for events in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert [history.oldest(99, size) for size in (1, 3, 99)] == [1, 2, 3]
    history.release(3)
    assert history.oldest(99, 99) == 4


@pytest.mark.parametrize(
    ("end", "size", "looks"),
    [(9, 99, [False, False, True]), (2, 99, [False, True, True]), (9, 25, [False, True, True])],
)
def test_a_look_is_due_beyond_what_was_allowed(end: int, size: int, looks: list[bool]) -> None:
    history = history_of(1)
    history.allow(end, size)
    found = [history.append(b"x" * 10, 2, None, 10, Monotonic(at)) for at in (0, SECOND - 1, SECOND)]
    assert (found, history.due(Monotonic(SECOND))) == (looks, True)
    history.allow(9, 99)
    assert not history.due(Monotonic(SECOND))
    history.release(1)
    assert history.due(Monotonic(SECOND))


@pytest.mark.parametrize(
    ("count", "size", "at", "let_in"),
    [(3, 30, SECOND - 1, True), (4, 30, 0, False), (3, 31, 0, False), (3, 30, SECOND, False)],
)
def test_lets_in_allows_events_up_to_the_allowance(count: int, size: int, at: int, let_in: bool) -> None:
    history = history_of(1, 2)
    history.allow(5, 50)
    assert history.lets_in(count, size, Monotonic(at)) is let_in


def test_add_appends_events_behind_the_others() -> None:
    history = history_of(1, 2)
    history.allow(5, 50)
    history.add([b"a", b"b"], 7, 2)
    assert (history.end, history.events, history.size) == (4, 4, 22)
    assert list(history.between(2, 4)) == [(b"a", 7, None), (b"b", 8, None)]
    assert history.lets_in(1, 28, Monotonic(0)) and not history.lets_in(2, 28, Monotonic(0))


def test_a_loaded_history_equals_the_saved_one() -> None:
    history = History(JOB)
    for number, feature in enumerate([None, "progress", "result_chunk"]):
        history.append(b"%d" % number, number, feature, 1, Monotonic(0))
    history.release(1)
    again = History(JOB)
    again.load(history.first, history.cut, history.entries(), Monotonic(0))
    assert list(again.between(1, 3)) == list(history.between(1, 3))
    assert (again.first, again.end, again.cut, again.size) == (1, 3, 0, 2)
