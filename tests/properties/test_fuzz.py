"""A few hundred runs of every fuzz target, from a seed of their own."""

from __future__ import annotations

from types import ModuleType

import pytest

from fuzz import fuzz_grants, fuzz_inputs, fuzz_websocket, fuzz_wire, harness

from .machines import examples

TARGETS = (fuzz_grants, fuzz_inputs, fuzz_websocket, fuzz_wire)
RUNS = 1_200
"""Of each target in the profile `ci`; in `quick` a quarter of them."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_edits_of_the_corpus(target: ModuleType) -> None:
    runs = examples(RUNS)
    words = target.WORDS if target is fuzz_websocket else target.words()
    told = harness.edit(target.check, target.CORPUS, words, seed=1, runs=runs)
    assert told.startswith(f"{runs} runs from seed 1, none failed")
