"""A run that does too little has not passed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from .__main__ import LEAST_A_MINUTE, least_of, main


@pytest.mark.parametrize(
    ("given", "least"),
    [
        ({}, 1_000),
        ({"start": 400}, 600),
        ({"start": 1_000}, 1),
        ({"minutes": 2.0}, 2 * LEAST_A_MINUTE),
        ({"minutes": 2.0, "processes": 2}, 4 * LEAST_A_MINUTE),
        ({"minutes": 2.0, "seeds": 7}, 7),
        ({"minutes": 0.0}, 1),
        ({"minutes": 2.0, "least": 3}, 3),
        ({"least": 2_000}, 2_000),
    ],
)
def test_the_least_number_of_seeds_of_a_run(given: dict[str, float], least: int) -> None:
    options = {"seeds": 1_000, "start": 0, "minutes": None, "processes": 1, "least": None, **given}
    assert least_of(Namespace(**options)) == least


def run(tmp_path: Path, *more: str) -> int:
    """Run three short seeds with the command line."""
    return main(["--seed", "10000001", "--seeds", "3", "--inputs", "5", "--out", str(tmp_path), *more])


def test_a_run_that_does_all_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    assert run(tmp_path, "--least", "3") == 0
    assert "3 passed, 0 failed" in capsys.readouterr().out


def test_a_run_that_does_less_than_the_least_number_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--least", "4") == 1
    assert "only 3 of at least 4 seeds were run" in capsys.readouterr().out


@pytest.mark.parametrize("more", [("--minutes", "0"), ("--from", "3")])
def test_a_run_that_does_nothing_fails(more: tuple[str, str], tmp_path: Path) -> None:
    assert run(tmp_path, *more) == 1
