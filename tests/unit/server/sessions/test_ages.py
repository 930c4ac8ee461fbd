"""The ages of numbers in a log, which are kept as coarse marks."""

from __future__ import annotations

import pytest

from arcp_proto.ids import SECOND, Monotonic
from arcp_proto.server.sessions.event_log import MARK, Ages


def ages_of(*seconds: float) -> Ages:
    """Return an index of numbers from 1 on, which were noted at these times."""
    ages = Ages()
    for number, second in enumerate(seconds, 1):
        ages.note(number, at(second))
    return ages


def at(second: float) -> Monotonic:
    return Monotonic(int(second * SECOND))


def test_an_empty_index_has_no_age() -> None:
    ages = Ages()
    assert ages.oldest is None
    assert ages.last_before(at(1_000), 0) == 0


def test_a_mark_is_as_old_as_its_first_number() -> None:
    ages = ages_of(1, 1.5)
    assert ages.oldest == at(1)
    assert ages.end_of_oldest(2) == 2


def test_numbers_within_a_second_share_one_mark() -> None:
    ages = ages_of(1, 1.999, 2, 2.5)
    assert MARK == SECOND
    assert ages.end_of_oldest(4) == 2


@pytest.mark.parametrize(("first", "oldest"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 9), (6, 9)])
def test_dropping_numbers_drops_their_marks(first: int, oldest: int) -> None:
    ages = ages_of(1, 1.5, 2, 2.5, 9)
    ages.drop(first)
    assert ages.oldest == at(oldest)


def test_the_first_number_after_a_clear_begins_a_mark() -> None:
    ages = ages_of(1, 1.1)
    ages.clear()
    ages.note(3, at(1.2))
    assert ages.oldest == at(1.2)


@pytest.mark.parametrize(("second", "last"), [(1.9, 0), (2, 2), (2.9, 2), (3, 4), (9.9, 4), (10, 5)])
def test_last_before_returns_only_marks_that_are_over(second: float, last: int) -> None:
    ages = ages_of(1, 1.5, 2, 2.5, 9)
    assert ages.last_before(at(second), 5) == last
