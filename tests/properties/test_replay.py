"""A recording makes the same machine again, and the order of hashes is nobody's input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings

from .digest import digest
from .machines import SETUP, actions, examples
from .play import Action, run

ROOT = Path(__file__).parents[2]


@settings(max_examples=examples(50))
@given(setup=SETUP, drawn=actions(without=("crash",), most=100))
def test_a_replay_is_the_original(setup: tuple[int, int, int], drawn: list[Action]) -> None:
    run(setup, drawn)  # It replays at its end.


def test_under_any_hash_seed() -> None:
    digests = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.properties.digest", "20"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        digests.append(done.stdout.strip())
    assert digests == [digest(20)] * 3
