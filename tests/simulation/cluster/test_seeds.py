"""Fresh seeds of clusters, and the determinism of a seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from . import runtimes
from .__main__ import main
from .play import draw, play

ROOT: Final = Path(__file__).parents[3]
FRESH: Final = range(10_000_000, 10_000_010)
"""Fresh seeds of every run of the tests; `.ci/run` plays thousands of others."""


@pytest.mark.parametrize("seed", FRESH)
def test_a_fresh_seed(seed: int) -> None:
    assert play(draw(seed)).message == ""


def test_a_claim_of_a_free_shard_does_not_take_it_from_its_owner_in_a_store_that_went_back() -> None:
    assert play(draw(2201)).message == ""


@pytest.mark.parametrize("seed", FRESH)
def test_a_fresh_seed_with_runtimes(seed: int) -> None:
    assert runtimes.play(seed).message == ""


def test_an_agent_that_has_begun_to_wait_for_a_slow_store_goes_on() -> None:
    assert runtimes.play(4263).message == ""


def test_shards_with_runtimes_move_and_their_sessions_are_resumed() -> None:
    counts = [runtimes.play(seed).counts for seed in FRESH[:5]]
    assert sum(each.get("moved", 0) for each in counts) > 5
    assert sum(each.get("taken over", 0) for each in counts) > 5
    assert sum(each.get("resumed", 0) for each in counts) > 20


def test_owners_with_runtimes_heal_a_store_that_went_back() -> None:
    counts = [runtimes.play(seed).counts for seed in range(15)]
    assert sum(each.get("failed over", 0) for each in counts) > 2
    assert sum(each.get("healed", 0) for each in counts) > 4


def test_a_shard_that_has_lost_its_heal_is_healed_although_it_may_not_act() -> None:
    assert runtimes.play(116).message == ""


def test_guests_lose_their_sessions_with_their_rights() -> None:
    counts = [runtimes.play(seed).counts for seed in range(10)]
    assert sum(each.get("guest revoked", 0) for each in counts) > 2


def test_the_same_seed_does_the_same_everywhere() -> None:
    seeds = list(FRESH[:3])
    command = [sys.executable, "-m", "tests.simulation.cluster", "--digest", *map(str, seeds)]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    digests = [f"{play(draw(seed)).digest} {runtimes.play(seed).digest}" for seed in seeds]
    assert done.stdout.splitlines() == [
        f"{seed} {digest}" for seed, digest in zip(seeds, digests, strict=True)
    ]
    assert len(set(digests)) == len(digests)


def test_the_command_tells_of_what_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--seeds", "2", "--moves", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 seeds, 0 failures")
    monkeypatch.setattr("tests.simulation.cluster.__main__.run_chunk", lambda *_: ["seed 0: lost"])
    assert main(["--seeds", "1"]) == 1
    assert "seed 0: lost" in capsys.readouterr().out


def test_seeds_are_shared_by_processes() -> None:
    arguments = ["--seeds", "20", "--moves", "1", "--processes", "2", "--only", "ownership"]
    command = [sys.executable, "-m", "tests.simulation.cluster", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("20 seeds, 0 failures")


def test_too_few_seeds_are_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "9", "--minutes", "0", "--least", "1"]) == 1
    assert "only 0 of at least 1" in capsys.readouterr().out


def test_a_trace_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--trace", "3", "--moves", "4"]) == 0
    told = capsys.readouterr().out
    assert "move: Move(kind=" in told
    assert "fault: " in told


def test_an_owner_that_gives_away_late_ends_nothing_of_the_next_owner() -> None:
    assert runtimes.play(648).message == ""
