"""Runs that have more of the moves and limits with which bugs were found before."""

from __future__ import annotations

from collections import Counter

import pytest

from arcp_proto.limits import Limits

from .plan import FOCUSED, FOCUSES, HAND_OVERS, Plan, draw
from .play import play

RUNS = 36
"""Three seeds of each focus and kind (plain, few features, slow disk), of which one has hand-overs."""


@pytest.mark.parametrize("seed", range(FOCUSED, FOCUSED + 12))
def test_a_fresh_seed_with_a_focus(seed: int) -> None:
    assert play(draw(seed)).message == ""


def test_focused_runs_have_more_of_their_moves_and_smaller_limits() -> None:
    usual = [draw(seed) for seed in range(HAND_OVERS, HAND_OVERS + RUNS)]
    focused = [draw(seed) for seed in range(FOCUSED, FOCUSED + RUNS)]
    assert moves(focused)["subscribe"] > 2 * moves(usual)["subscribe"]
    assert sum(map(small_limits, focused)) > 1.3 * sum(map(small_limits, usual))
    assert 0 < sum(moves([plan])["hand_over"] > 0 for plan in focused) < RUNS / 2
    assert len({draw(FOCUSED + 3 * number).moves for number in range(len(FOCUSES))}) == len(FOCUSES)


def moves(plans: list[Plan]) -> Counter[str]:
    return Counter(move.kind for plan in plans for move in plan.moves)


def small_limits(plan: Plan) -> int:
    usual = Limits()
    return sum(
        getattr(plan.options.limits, name) != getattr(usual, name) for name in Limits.__struct_fields__
    )
