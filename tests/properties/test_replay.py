"""A recording reproduces the same runtime, and the order of hashes changes no output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import example, given, settings

from .digest import digest
from .machines import SETUP, actions, examples
from .play import Action, run

ROOT = Path(__file__).parents[2]


@settings(max_examples=examples(150))
@given(setup=SETUP, drawn=actions(without=("crash",), most=100))
@example(  # A history is asked for from behind the end, while an earlier one has still to bring the end.
    (171, 254, 132),
    [
        ("join", 6, 0, 0),
        ("join", 1, 0, 0),
        ("drop", 17, 13, 108),
        ("submit", 255, 223, 154),
        ("join", 100, 104, 134),
        ("subscribe", 87, 215, 167),
        ("finish", 103, 144, 193),
        ("subscribe", 229, 35, 255),
    ],
)
@example(  # A history is asked for by a number, and begins behind events that were cut.
    (42, 164, 36),
    [
        ("join", 1, 0, 0),
        ("submit", 171, 75, 16),
        ("flood", 176, 89, 86),
        ("subscribe", 16, 101, 197),
        ("wait", 172, 28, 0),
    ],
)
@example(  # A submit is repeated, of which the resume has sent the answer, and whose job is forgotten by now.
    (62, 80, 188),
    [
        *[("join", 6, 0, 0), ("join", 1, 0, 0), ("submit", 0, 0, 0), ("resume", 126, 49, 92)],
        *[("fail", 146, 22, 204), ("join", 105, 105, 79), ("connect", 126, 199, 221)],
        *[("connect", 73, 255, 125), ("drop", 42, 88, 29), ("join", 35, 218, 45), ("drop", 90, 116, 2)],
        *[("wait", 161, 224, 252), ("join", 148, 163, 255), ("resend", 234, 254, 178)],
    ],
)
def test_a_replay_is_the_original(setup: tuple[int, int, int], drawn: list[Action]) -> None:
    run(setup, drawn)  # It replays at its end.


@settings(max_examples=examples(150))
@given(setup=SETUP, drawn=actions(without=("crash",), most=100))
@example((12, 97, 71), [("connect", 1, 0, 0), ("garbage", 0, 1, 2), ("hello", 0, 0, 0)])
def test_a_replay_without_secrets_does_the_same(setup: tuple[int, int, int], drawn: list[Action]) -> None:
    """Resume with the tokens of the recording, which are those that its replay issues."""
    play = run(setup, drawn, secrets=False)
    lines = "".join(play.recording or [])
    assert not any(token in lines for token in ["secret", *play.old_tokens])


def test_under_any_hash_seed() -> None:
    digests = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.properties.digest", "20"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        digests.append(done.stdout.strip())
    assert digests == [digest(20)] * 3
