"""The corpus of `fuzz_inputs`, and how it is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.errors import InvariantViolated
from fuzz import fuzz_inputs, harness

from .machines import examples
from .play import ACTIONS

SEEDS = [pytest.param(data, id=about) for about, data in harness.seeds(fuzz_inputs.CORPUS)]


@pytest.mark.parametrize("data", SEEDS)
def test_the_corpus(data: bytes) -> None:
    fuzz_inputs.check(data)
    fuzz_inputs.play(data)


def test_a_text_is_read_as_actions() -> None:
    text = b"setup 1 2 300\njoin\n submit 1 2 3 4 \n\nzork 1\n>2{} \n>x\nwait -1 1e 7\n\xff"
    setup, actions = fuzz_inputs.read(text)
    assert setup == (1, 2, 44)
    assert actions == [
        ("join", 0, 0, 0),
        ("submit", 1, 2, 3),
        fuzz_inputs.Sent(2, b"{} "),
        ("wait", 0, 0, 7),
    ]
    assert len(fuzz_inputs.read(b"wait\n" * 1_000)[1]) == fuzz_inputs.MOST_ACTIONS


def test_the_corpus_plays_everything() -> None:
    played = {
        action[0]
        for _, data in harness.seeds(fuzz_inputs.CORPUS)
        for action in fuzz_inputs.read(data)[1]
        if not isinstance(action, fuzz_inputs.Sent)
    }
    rare = {"garbage", "lie", "read", "oversize", "tick", "ack", "close", "fail", "emit_badly"}
    assert played | rare == set(ACTIONS)


def test_an_action_of_a_text_does_the_same_as_in_a_property() -> None:
    for name in ACTIONS:
        fuzz_inputs.check(f"setup 1 0 0\njoin 0 0 0\nsubmit 0 0 2\n{name} 0 1 2\n{name} 1 2 3".encode())


def test_numbers_that_are_not_consecutive_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = fuzz_inputs.Inputs._read

    def misread(inputs: fuzz_inputs.Inputs, client: fuzz_inputs.Client, frame: fuzz_inputs.Frame) -> None:
        if frame.event_seq == 2:
            frame.event_seq = 3
        read(inputs, client, frame)

    monkeypatch.setattr(fuzz_inputs.Inputs, "_read", misread)
    with pytest.raises(InvariantViolated, match="not consecutive"):
        fuzz_inputs.check(b"join 0 0 0\nsubmit 0 0 0\nemit 0 0 0\nemit 0 0 0\nfinish 0 0 0")


@settings(max_examples=examples(50))
@given(st.lists(st.sampled_from(fuzz_inputs.words()) | st.sampled_from([" ", "\n", "1", "255", ">0{", "}"])))
def test_any_words(words: list[str]) -> None:
    fuzz_inputs.check("".join(words).encode())
