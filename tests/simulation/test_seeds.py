"""Seeds that have failed, plans that were made from some of them, and fresh seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from .batch import digests_elsewhere, read_plan
from .plan import FEW_FEATURES, SLOW_DISK, draw
from .play import play

HERE: Final = Path(__file__).parent
FRESH: Final = range(10_000_000, 10_000_040)
"""Fresh seeds of every run of the tests; `.ci/run` plays thousands of others."""


def _known() -> Iterator[int]:
    for line in (HERE / "seeds.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            yield int(line.split()[0])


@pytest.mark.parametrize("seed", list(_known()))
def test_a_seed_that_failed_once(seed: int) -> None:
    assert play(draw(seed, authority=False)).message == ""


@pytest.mark.parametrize("path", sorted((HERE / "plans").glob("*.json")), ids=lambda path: path.stem)
def test_a_plan_that_failed_once(path: Path) -> None:
    assert play(read_plan(path)).message == ""


@pytest.mark.parametrize(
    "seed",
    [*FRESH, *range(FEW_FEATURES, FEW_FEATURES + 10), *range(SLOW_DISK, SLOW_DISK + 20)],
)
def test_a_fresh_seed(seed: int) -> None:
    assert play(draw(seed)).message == ""


def test_the_same_seed_does_the_same_everywhere() -> None:
    seeds = list(FRESH[:6])
    assert digests_elsewhere(seeds, 200) == {seed: play(draw(seed)).digest for seed in seeds}


def test_other_seeds_do_something_else() -> None:
    assert len({play(draw(seed)).digest for seed in FRESH[:6]}) == 6
