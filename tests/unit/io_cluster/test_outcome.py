"""The outcome of an append that the store did not confirm: every kind of row that may be found."""

from __future__ import annotations

import pytest

from arcp_io.cluster.outcome import Claimed, Outcome, outcome
from arcp_io.cluster.rows import ShardRow

ME, OTHER = "me", "other"
MINE = Claimed(ME, 5)


def row(node: str | None, epoch: int, next_record: int) -> ShardRow:
    return ShardRow(0, epoch, node, next_record, 0, 0, 1)


@pytest.mark.parametrize(
    ("found", "silent", "expected"),
    [
        (row(ME, 5, 13), False, Outcome.STORED),
        (row(ME, 5, 10), False, Outcome.AGAIN),
        (row(ME, 5, 9), False, Outcome.HEAL),
        (row(ME, 5, 0), False, Outcome.HEAL),
        (row(ME, 5, 11), False, Outcome.FENCED),
        (row(ME, 5, 14), False, Outcome.FENCED),
        (row(ME, 4, 10), False, Outcome.HEAL),
        (row(None, 4, 10), False, Outcome.HEAL),
        (row(None, 0, 0), False, Outcome.HEAL),
        (row(OTHER, 4, 13), True, Outcome.HEAL),
        (row(OTHER, 4, 13), False, Outcome.WAIT),
        (row(OTHER, 5, 13), True, Outcome.FENCED),
        (row(None, 5, 10), True, Outcome.FENCED),
        (row(ME, 6, 10), True, Outcome.FENCED),
        (row(OTHER, 6, 10), True, Outcome.FENCED),
        (None, True, Outcome.FENCED),
    ],
)
def test_a_row_tells_the_outcome(found: ShardRow | None, silent: bool, expected: Outcome) -> None:
    assert outcome(MINE, 10, 3, found, silent=silent) is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (row(ME, 6, 0), Outcome.HEAL),
        (row(ME, 4, 0), Outcome.HEAL),
        (row(OTHER, 6, 10), Outcome.FENCED),
        (row(ME, 7, 0), Outcome.FENCED),
    ],
)
def test_a_heal_under_way_knows_its_own_epoch(found: ShardRow, expected: Outcome) -> None:
    assert outcome(MINE._replace(healing=6), 10, 3, found, silent=False) is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [(row(ME, 6, 0), Outcome.HEAL), (row(ME, 7, 0), Outcome.HEAL), (row(OTHER, 6, 0), Outcome.FENCED)],
)
def test_a_heal_knows_the_epochs_of_all_its_attempts(found: ShardRow, expected: Outcome) -> None:
    assert outcome(MINE._replace(healing=7), 10, 3, found, silent=False) is expected
