"""The client and the runtime over a wire that breaks anywhere: nothing is lost, doubled or out of order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.connection import Framing
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.output import JobAccepted, JobEnded, JobLost, SessionLost
from arcp_proto.recording import replay

from .lossy_pair import LossyPair
from .machines import examples

ASK = st.sampled_from(["submit", "submit", "submit keyed", "cancel", "list"])
COMMON = [
    st.tuples(st.just("ask"), ASK),
    st.tuples(st.just("emit"), st.integers(0, 3)),
    st.tuples(st.just("emit"), st.integers(0, 3)),
    st.tuples(st.just("emit"), st.integers(0, 3)),
    st.tuples(st.just("write"), st.integers(0, 3)),
    st.tuples(st.just("finish"), st.integers(0, 3)),
    st.tuples(st.just("up"), st.integers(1, 4)),
    st.tuples(st.just("down"), st.integers(1, 4)),
    st.tuples(st.just("process"), st.integers(1, 5)),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("advance"), st.sampled_from([0, 1, 300, 2000, 40_000])),
]
DROPS = [st.tuples(st.just("drop"), st.just(0)), st.tuples(st.just("cut bytes"), st.booleans())]
RUNTIME_DIES = [st.tuples(st.just("restart runtime"), st.just(0))]
CLIENT_DIES = [st.tuples(st.just("restart client"), st.just(0))]
FRAMINGS = st.sampled_from(list(Framing))


def steps(*kinds: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """What may happen, in any order."""
    return st.lists(st.one_of(*COMMON, *DROPS, *kinds), min_size=8, max_size=60)


def play(pair: LossyPair, story: list[tuple[str, Any]]) -> None:
    """Carry out the steps, and then all that is missing for everything to end."""
    pair.settle()
    for what, argument in story:
        match what:
            case "ask":
                pair.ask(argument, JobId(pair.started[-1]) if pair.started else None)
            case "emit" | "write" | "finish" | "process":
                getattr(pair, what)(argument)
            case "up" | "down":
                pair.deliver(argument, up=what == "up")
            case "settle" | "drop":
                getattr(pair, what)()
            case "cut bytes":
                pair.cut_bytes(argument)
            case "advance":
                pair.advance(argument / 1000)
            case "restart runtime":
                pair.restart_runtime()
            case "restart client":
                pair.restart_client()
    pair.heal()
    while pair.running:
        pair.finish(0)
    pair.heal()


def check(pair: LossyPair) -> None:
    """Each request has one answer, each event of an accepted job was processed once, in order."""
    assert pair.answered == Counter(dict.fromkeys(pair.asked, 1))
    assert len(pair.started) == len(set(pair.started))
    accepted = {event.job_id for event in pair.events if isinstance(event, JobAccepted)}
    for job_id in accepted - pair.lost():
        seen = [taken.what for taken in pair.taken if taken.job == job_id]
        lines = [what for what in seen if isinstance(what, dict) and "message" in what and "level" in what]
        assert lines == pair.said.get(job_id, [])
        ends = [what for what in seen if isinstance(what, tuple)]
        assert len(ends) == 1, ends
        assert seen[-1] == ends[0]
    session = pair.client.session
    assert session is not None
    assert pair.client.cursor == session.numbers.last
    assert session.acks.size == 0
    resumption = pair.client.resumption()
    assert resumption is not None
    assert resumption.jobs == ()
    again = replay(pair.recording)
    assert [envelope for _, envelope in again.envelopes] == pair.sent
    for machine in (pair.client, pair.runtime):
        assert machine.timers.size <= 2 * len(machine.timers) + 64


def ends(pair: LossyPair) -> list[JobEnded]:
    """How jobs ended."""
    return [event for event in pair.events if isinstance(event, JobEnded)]


@settings(max_examples=examples(150), deadline=None)
@given(steps(), FRAMINGS)
def test_drops(story: list[tuple[str, Any]], framing: Framing) -> None:
    pair = LossyPair(framing=framing)
    play(pair, story)
    check(pair)
    assert not any(isinstance(event, SessionLost | JobLost) for event in pair.events)
    for end in ends(pair):
        assert end.code in ("", "CANCELLED"), end
        assert end.result is None or len(end.result) == (end.result_size or 0)


@settings(max_examples=examples(150), deadline=None)
@given(steps(*RUNTIME_DIES))
def test_a_runtime_that_dies(story: list[tuple[str, Any]]) -> None:
    pair = LossyPair()
    play(pair, story)
    check(pair)
    assert not any(isinstance(event, SessionLost | JobLost) for event in pair.events)


@settings(max_examples=examples(150), deadline=None)
@given(steps(*CLIENT_DIES))
def test_a_client_that_dies(story: list[tuple[str, Any]]) -> None:
    pair = LossyPair()
    play(pair, story)
    check(pair)
    assert not any(isinstance(event, SessionLost | JobLost) for event in pair.events)


@settings(max_examples=examples(150), deadline=None)
@given(steps(*RUNTIME_DIES, *CLIENT_DIES), st.integers(4, 12))
def test_logs_that_are_too_short(story: list[tuple[str, Any]], size: int) -> None:
    pair = LossyPair(Limits(session_events=size, backlog_events=size // 2))
    play(pair, story)
    check(pair)


@pytest.mark.parametrize("framing", list(Framing))
def test_a_thousand_events_over_a_hundred_drops(framing: Framing) -> None:
    pair = LossyPair(framing=framing)
    pair.settle()
    pair.ask("submit")
    pair.settle()
    for number in range(1000):
        pair.emit(0)
        if number % 10 == 3:
            pair.deliver(number % 7, up=False)
            pair.cut_bytes(up=number % 20 == 3)
        if number % 3 == 0:
            pair.advance(0.05)
            pair.deliver(3, up=number % 2 == 0)
            pair.process(2)
    pair.finish(0)
    pair.heal()
    check(pair)
