"""Strategies for the actions of `play`: one by one, as rules of a state machine, or as a list at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .play import ACTIONS, Action, Play, config_of
from .violations import told

NUMBER: Final = st.integers(0, 255)
SETUP: Final = st.tuples(NUMBER, NUMBER, NUMBER)
COMMON: Final = (
    *("join", "submit", "emit", "write", "finish", "cancel", "wait", "ack", "slow_down"),
    *("drop", "resume", "subscribe", "flood", "list_jobs", "crash"),
)
"""Actions that make the others possible: their rules are drawn twice as often."""


def examples(count: int) -> int:
    """Return `count` for the profile `ci`, in proportion fewer or more for `quick` and `long`; at least 1."""
    return max(1, count * settings().max_examples // 100)


def actions(*, without: Sequence[str] = (), most: int = 60) -> st.SearchStrategy[list[Action]]:
    """Return a strategy for lists of actions: two clients join, the first with positions, each submits a job,
    and up to `most` further actions follow.
    """
    begin: list[Action] = [("join", 6, 0, 0), ("join", 1, 0, 0), ("submit", 0, 0, 0), ("submit", 1, 0, 1)]
    names = [name for name in (*ACTIONS, *COMMON, *COMMON) if name not in without]
    action = st.tuples(st.sampled_from(names), NUMBER, NUMBER, NUMBER)
    return (
        st.integers(0, most)  # Lists of an unbounded strategy have five actions on average.
        .flatmap(lambda count: st.lists(action, min_size=count, max_size=count))
        .map(lambda drawn: begin + drawn)
    )


class RuntimeMachine(RuleBasedStateMachine):
    """A state machine that starts with two clients and two jobs, because long chains of rules are rare."""

    play: Play

    @initialize(a=NUMBER, b=NUMBER, c=NUMBER)
    @told
    def begin(self, a: int, b: int, c: int) -> None:
        self.play = Play(config_of(a, b, c))
        self.play.do("join", a, 0, 0)
        self.play.do("join", a + 1, b, c)
        self.play.do("submit", 0, 0, 0)
        self.play.do("submit", 1, 0, c)

    @invariant()
    @told
    def everything_holds(self) -> None:
        self.play.check()

    @told
    def teardown(self) -> None:
        self.play.wind_down()
        self.play.check_replay()


def _rule(name: str) -> Any:
    def act(self: RuntimeMachine, a: int, b: int, c: int) -> None:
        self.play.do(name, a, b, c)

    act.__name__ = name
    return rule(a=NUMBER, b=NUMBER, c=NUMBER)(told(act))


for _name in ACTIONS:
    setattr(RuntimeMachine, _name, _rule(_name))
for _name in COMMON:
    setattr(RuntimeMachine, f"{_name}_again", _rule(_name))
