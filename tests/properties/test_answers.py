"""No answer reaches a request that it does not belong to, and every request gets its own (§7.1, §10, §12)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from .interleaving import Interleaving
from .machines import examples

NUMBER = st.integers(0, 7)
WAY = st.sampled_from(["order", "order", "trace", "trace", "payload trace", "request_id"])
FORM = st.sampled_from(["session.error", "job.error", "job.error with a job"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 6), st.sampled_from([0, 0, 0, 1, 2])),
        st.tuples(st.just("submit"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("ask"), st.sampled_from(["cancel", "subscribe", "list"]), NUMBER),
        st.tuples(st.just("accept"), NUMBER, WAY),
        st.tuples(st.just("accept"), NUMBER, WAY),
        st.tuples(st.just("accept elsewhere"), NUMBER),
        st.tuples(st.just("refuse"), NUMBER, WAY, FORM, st.integers(0, 5)),
        st.tuples(st.just("duplicate key"), NUMBER),
        st.tuples(st.just("answer other"), NUMBER, WAY, st.booleans()),
        st.tuples(st.just("child"), NUMBER, st.integers(0, 3)),
        st.tuples(st.just("child"), NUMBER, st.integers(0, 3)),
        st.tuples(st.just("say"), NUMBER),
        st.tuples(st.just("end"), NUMBER, st.integers(0, 5), st.booleans(), st.booleans()),
    ),
    min_size=20,
    max_size=60,
)


def play(script: Interleaving, steps: list[tuple[Any, ...]]) -> None:
    """Carry out the steps, and then answer all open requests."""
    for what, *how in steps:
        match what:
            case "submit":
                script.submit(*how)
            case "ask":
                script.ask(*how)
            case "accept":
                script.accept(*how)
            case "accept elsewhere":
                script.accept_elsewhere(*how)
            case "refuse":
                script.refuse(*how)
            case "duplicate key":
                script.duplicate_key(*how)
            case "answer other":
                script.answer_other(how[0], how[1], refuses=how[2])
            case "child":
                script.child(*how)
            case "say":
                script.say(*how)
            case "end":
                script.end(*how)
    for number in range(len(script.open)):
        script.accept(number, "order")
        script.answer_other(0, "request_id", refuses=False)
    session = script.runtime.state.session
    assert session is not None
    assert script.open == []
    assert len(session.requests) == 0


def test_a_child_that_only_its_trace_id_announces_ends_no_submit() -> None:
    steps = [("submit", 0, 0)] * 3
    more = [("accept", 0, "order"), ("child", 0, 3), ("end", 0, 0, False, False), ("end", 0, 1, False, False)]
    play(Interleaving(echoes=True), [*steps, *more])


@settings(max_examples=examples(500), deadline=None)
@given(STEPS, st.booleans())
def test_every_answer_reaches_the_request_that_it_is_for(steps: list[tuple[Any, ...]], echoes: bool) -> None:
    play(Interleaving(echoes=echoes), steps)
