"""Clients and the runtime over a wire that breaks anywhere: nothing is lost, doubled or out of order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto import Framing
from arcp_proto.engine.endpoint import state_of
from arcp_proto.limits import Limits

from .lossy_pair import LossyPair
from .machines import examples

ASK = st.sampled_from(
    ["submit", "submit", "submit keyed", "cancel", "list", "subscribe", "subscribe", "observe", "leave"]
)
NUMBER = st.integers(0, 3)
CLIENT = st.integers(0, 1)
COMMON = [
    *[st.tuples(st.just("ask"), CLIENT, ASK, NUMBER)] * 2,
    *[st.tuples(st.just("emit"), NUMBER)] * 5,
    *[st.tuples(st.just("write"), NUMBER)] * 2,
    st.tuples(st.just("finish"), NUMBER),
    *[st.tuples(st.just("up"), CLIENT, st.integers(1, 4))] * 2,
    *[st.tuples(st.just("down"), CLIENT, st.integers(1, 8))] * 4,
    *[st.tuples(st.just("process"), CLIENT, st.integers(1, 5), NUMBER)] * 4,
    st.tuples(st.just("settle")),
    *[st.tuples(st.just("reach"))] * 2,
    *[st.tuples(st.just("advance"), st.sampled_from([0, 1, 300, 2000, 40_000]))] * 3,
]
DROPS = [st.tuples(st.just("drop"), CLIENT), st.tuples(st.just("cut bytes"), CLIENT, st.booleans())]
RUNTIME_DIES = [st.tuples(st.just("restart runtime"))]
CLIENT_DIES = [st.tuples(st.just("restart client"), CLIENT)]
FRAMINGS = st.sampled_from(list(Framing))
Step = tuple[Any, ...]


def steps(*kinds: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    """Return what may happen, as many steps as are drawn: lists by themselves are short."""
    step = st.one_of(*COMMON, *DROPS, *kinds)
    return st.integers(20, 80).flatmap(lambda count: st.lists(step, min_size=count, max_size=count))


def play(pair: LossyPair, story: list[Step]) -> None:
    """Begin with two jobs and an observer; carry out the steps, and all that is missing for an end."""
    pair.settle()
    for _ in range(2):
        ask(pair, 0, "submit", 0)
    pair.settle()
    ask(pair, 1, "subscribe", 0)
    for what, *how in story:
        match what:
            case "ask":
                ask(pair, *how)
            case "emit" | "write" | "finish":
                getattr(pair, what)(*how)
            case "process":
                pair.clients[how[0]].process(*how[1:])
            case "up" | "down":
                pair.clients[how[0]].deliver(how[1], up=what == "up")
            case "settle" | "reach":
                getattr(pair, what)()
            case "drop":
                pair.clients[how[0]].drop()
            case "cut bytes":
                pair.clients[how[0]].cut_bytes(how[1])
            case "advance":
                pair.advance(how[0] / 1000)
            case "restart runtime":
                pair.restart_runtime()
            case "restart client":
                pair.clients[how[0]].restart()
    pair.heal()
    while pair.running:
        pair.finish(0)
    pair.heal()


def ask(pair: LossyPair, number: int, what: str, job: int) -> None:
    """Make a request of a user, for a job of any client.

    The user observes a job that it has not followed from the beginning or from now on, and another job again
    from any position.
    """
    client = pair.clients[number]
    job_id = pair.started[job % len(pair.started)] if pair.started else None
    told = None if job_id is None else client.told.get(job_id)
    if what == "leave" and job_id is not None:
        client.leave(job_id)
    elif what == "observe":
        client.ask("subscribe", job_id, None)
    else:
        client.ask(what, job_id, 0 if told is None else told.cursor * job // 3)


def check(pair: LossyPair) -> None:
    """Raise unless each request has one answer, and each event was processed once, in order."""
    assert len(pair.started) == len(set(pair.started))
    for client in pair.clients:
        client.check()
    assert state_of(pair.runtime).timers.size <= 2 * len(state_of(pair.runtime).timers) + 64


def play_without_a_loss(pair: LossyPair, story: list[Step]) -> None:
    """Carry a story out in which no user is told of a loss."""
    play(pair, story)
    check(pair)
    for client in pair.clients:
        client.check_nothing_lost()


@settings(max_examples=examples(150), deadline=None)
@given(steps(), FRAMINGS)
def test_drops(story: list[Step], framing: Framing) -> None:
    play_without_a_loss(LossyPair(framing=framing), story)


@settings(max_examples=examples(150), deadline=None)
@given(steps(*RUNTIME_DIES))
def test_a_runtime_that_dies(story: list[Step]) -> None:
    play_without_a_loss(LossyPair(), story)


@settings(max_examples=examples(150), deadline=None)
@given(steps(*CLIENT_DIES))
def test_clients_that_die(story: list[Step]) -> None:
    play_without_a_loss(LossyPair(), story)


@settings(max_examples=examples(150), deadline=None)
@given(steps(*RUNTIME_DIES, *CLIENT_DIES), st.integers(4, 12))
def test_logs_that_are_too_short(story: list[Step], size: int) -> None:
    pair = LossyPair(Limits(max_session_events=size, max_backlog_events=size // 2))
    play(pair, story)
    check(pair)


@settings(max_examples=examples(150), deadline=None)
@given(steps(*RUNTIME_DIES, *CLIENT_DIES), st.integers(4, 12), st.integers(2, 6))
def test_histories_that_are_too_short(story: list[Step], size: int, history: int) -> None:
    pair = LossyPair(
        Limits(max_session_events=size, max_backlog_events=size // 2, max_history_events=history)
    )
    play(pair, story)
    check(pair)


def test_a_history_that_is_asked_for_again_on_the_next_connection_comes_once() -> None:
    """Carry out a subscribe, lose its answer, and let the process die when it has the end of the job."""
    pair = LossyPair(framing=Framing.LINES)
    story = [
        ("finish", 2),
        ("up", 1, 4),
        ("advance", 0),
        ("restart runtime",),
        ("reach",),
        ("process", 1, 3, 1),
    ]
    play(pair, [*story, ("restart client", 1)])
    check(pair)


@pytest.mark.parametrize("framing", list(Framing))
def test_a_thousand_events_over_a_hundred_drops(framing: Framing) -> None:
    pair = LossyPair(framing=framing)
    client, other = pair.clients
    pair.settle()
    client.ask("submit")
    pair.settle()
    other.ask("subscribe", pair.started[0])
    for number in range(1000):
        pair.emit(number)
        if number % 10 == 3:
            one = pair.clients[number // 10 % 2]
            one.deliver(number % 7, up=False)
            one.cut_bytes(up=number % 20 == 3)
        if number % 3 == 0:
            pair.advance(0.05)
            client.deliver(3, up=number % 2 == 0)
            other.deliver(3, up=number % 2 == 1)
            client.process(2)
    pair.finish(0)
    pair.heal()
    check(pair)
