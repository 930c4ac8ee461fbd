"""The judge undoes an unsubscribe exactly when a crash has lost its record or an earlier one."""

from __future__ import annotations

import pytest

from .unsubscribes import Unsubscribes

JOB = "job"
LINE = object()


@pytest.fixture
def unsubscribes() -> Unsubscribes:
    one = Unsubscribes()
    one.heard(JOB, 10, LINE, 5)
    return one


def test_an_unsubscribe_that_waits_does_not_count(unsubscribes: Unsubscribes) -> None:
    unsubscribes.handled(object(), lambda: 11, 3)
    assert unsubscribes.since(JOB) is None


def test_an_unsubscribe_counts_from_its_record_on(unsubscribes: Unsubscribes) -> None:
    unsubscribes.carried_out(JOB, 12, 3)
    unsubscribes.handled(LINE, lambda: 13, 4)
    assert unsubscribes.since(JOB) == 12


def test_without_a_record_an_unsubscribe_counts_once_input_is_carried_out(unsubscribes: Unsubscribes) -> None:
    unsubscribes.handled(LINE, lambda: 13, 4)
    assert unsubscribes.since(JOB) == 13


def test_a_second_unsubscribe_changes_no_time(unsubscribes: Unsubscribes) -> None:
    unsubscribes.carried_out(JOB, 12, 3)
    unsubscribes.heard(JOB, 20, LINE, None)
    unsubscribes.handled(LINE, lambda: 21, 4)
    assert unsubscribes.since(JOB) == 12


def test_a_job_that_is_asked_for_again_comes_again(unsubscribes: Unsubscribes) -> None:
    unsubscribes.asked_again(JOB)
    unsubscribes.carried_out(JOB, 12, 3)
    assert unsubscribes.since(JOB) is None
    assert unsubscribes.between(JOB, 9, 11)


def test_an_unsubscribe_takes_back_no_submit_that_waits_for_its_turn(unsubscribes: Unsubscribes) -> None:
    unsubscribes.joined(JOB)
    unsubscribes.carried_out(JOB, 12, 3)
    assert unsubscribes.since(JOB) == 12
    unsubscribes.joined(JOB)
    assert unsubscribes.since(JOB) is None


def test_a_crash_keeps_a_durable_unsubscribe(unsubscribes: Unsubscribes) -> None:
    unsubscribes.carried_out(JOB, 12, 3)
    assert unsubscribes.crash(4) == {}
    assert unsubscribes.crash(0) == {}
    assert unsubscribes.since(JOB) == 12


def test_a_crash_undoes_an_unsubscribe_that_is_not_durable(unsubscribes: Unsubscribes) -> None:
    unsubscribes.carried_out(JOB, 12, 3)
    unsubscribes.heard(JOB, 20, LINE, None)
    unsubscribes.handled(LINE, lambda: 21, 3)
    assert unsubscribes.crash(3) == {JOB: 5}
    assert unsubscribes.since(JOB) is None
    assert not unsubscribes.between(JOB, 0)


def test_a_crash_undoes_an_unsubscribe_that_waits(unsubscribes: Unsubscribes) -> None:
    assert unsubscribes.crash(100) == {JOB: 5}
    unsubscribes.handled(LINE, lambda: 21, 3)
    assert unsubscribes.since(JOB) is None
