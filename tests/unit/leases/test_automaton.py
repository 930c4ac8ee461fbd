"""The automaton of a set of patterns, and the texts that it matches."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.leases import automaton as matching
from arcp_proto.leases.automaton import Automaton
from arcp_proto.leases.lease import Grants
from arcp_proto.leases.patterns import Part


def automaton(*patterns: str) -> Automaton:
    return Automaton([(Part(pattern),) for pattern in patterns])


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        ("ab", ["ab"], ["", "a", "abc", "AB", "b"]),
        # One star stands for any run without a slash, two or more for any run.
        ("*", ["a", "ab", ".", "\n", "é"], ["/", "a/", "a/b"]),
        ("a*", ["a", "ab"], ["ba", "a/", "ab/c"]),
        ("*a*b", ["ab", "xaxb", "aabb"], ["ba", "a/b"]),
        ("a/*", ["a/", "a/b"], ["a", "a/b/c"]),
        ("**", ["a", "a/b", "//", "\n"], []),
        ("a**", ["a", "ab", "a/b/c"], ["b", "ba"]),
        ("a**b", ["ab", "a/b", "axb"], ["a", "abc"]),
        ("a***b", ["ab", "a/b"], ["a"]),
        ("****", ["a/b"], []),
        # Every other character stands for itself.
        ("a?", ["a?"], ["ab", "a"]),
        ("[ab]", ["[ab]"], ["a", "b"]),
        ("{a,b}", ["{a,b}"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("!a", ["!a"], ["b"]),
        ("\\*", ["\\", "\\a"], ["*"]),
        ("a$", ["a$"], ["a"]),
        # A directory covers itself, and no name that only begins like it.
        ("/a/**", ["/a", "/a/", "/a/b", "/a/b/c"], ["/", "/ab", "/a.b", "/b/a"]),
        ("/a*/**", ["/a", "/ab", "/ab/c"], ["/b"]),
        ("/a/***", ["/a", "/a/b"], ["/ab"]),
        ("/a/**/**", ["/a", "/a/b"], ["/ab"]),
        ("/**", ["/", "/a"], ["a"]),
        # Any number of segments may stand between, also none.
        ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b", "/a//b"], ["/ab", "/a/xb", "/axb", "/a", "/a/b/c"]),
        ("/a/**/**/b", ["/a/b", "/a/x/b"], ["/ab", "/a/xb"]),
        ("/**/b", ["/b", "/a/b"], ["b", "/ab"]),
        ("/a/**/b/**", ["/a/b", "/a/x/b/y"], ["/a/xb"]),
        ("/a/**/*", ["/a/", "/a/b", "/a/b/c"], ["/a"]),
        # Two stars stand for any segments only as a whole segment.
        ("**/b", ["/b", "a/b"], ["b"]),
        ("/a/**b", ["/a/b", "/a/xb", "/a/x/b"], ["/ab", "/a"]),
        ("/a/b**", ["/a/b", "/a/bc/d"], ["/a"]),
        ("a**/b", ["a/b", "ax/b", "a/x/b"], ["ab"]),
    ],
)
def test_a_pattern_matches_its_texts(pattern: str, matched: list[str], not_matched: list[str]) -> None:
    matches = automaton(pattern).matches
    assert [text for text in matched + not_matched if matches(text)] == matched


def test_each_pattern_matches_by_itself() -> None:
    matches = automaton("a*b", "c/**", "d").matches
    texts = ["ab", "axb", "c", "c/x", "d", "a", "b", "cb", "dd", "axd", "a/b", ""]
    assert [text for text in texts if matches(text)] == texts[:5]
    assert not automaton().matches("a")


def test_wildcards_stop_at_the_characters_of_their_part() -> None:
    pattern = (Part("*", star=".", run=""), Part("-"), Part("**", star=" ", run=" "))
    matches = Automaton([pattern]).matches
    assert matches("a/b-c.d/e")
    assert not matches("a.b-c")
    assert not matches("a-b c")


def test_a_directory_ends_with_its_part() -> None:
    matches = Automaton([(Part("/a/**", "/ ", " "), Part(" "), Part("q"))]).matches
    texts = ["/a q", "/a/ q", "/a/b/c q", "/ab q", "/a", "/aq", "/a/q", "/a/b"]
    assert [text for text in texts if matches(text)] == texts[:3]


def expression(pattern: str) -> re.Pattern[str]:
    made = ""
    for token in re.findall(r"/\*\*+(?=/|$)|\*+|[^*]", pattern):
        if token[0] == "*":
            made += ".*" if len(token) > 1 else "[^/]*"
        else:
            made += "(?:/.*)?" if len(token) > 1 else re.escape(token)
    return re.compile(made, re.DOTALL)


@given(
    st.lists(st.text("ab/*", min_size=1, max_size=12), min_size=1, max_size=4),
    st.lists(st.text("ab/x", max_size=14), min_size=1, max_size=8),
)
def test_patterns_are_regular_expressions(patterns: list[str], texts: list[str]) -> None:
    made = automaton(*patterns)
    expressions = [expression(pattern) for pattern in patterns]
    for text in texts:
        assert made.matches(text) == any(each.fullmatch(text) for each in expressions)


def counted(call: Callable[[], bool]) -> tuple[int, bool]:
    """Return the number of lines that a call runs in all functions, and its value."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        value = call()
    finally:
        sys.settrace(before)
    return lines, value


HARD = ["**a" * 20, "*a" * 20, "/**/a" * 20 + "/b", "**a*" * 20 + "b", "**/*a" * 20, "*" * 40 + "b"]


@pytest.mark.parametrize("pattern", HARD)
@pytest.mark.parametrize("stretch", ["a", "/a", "ab/", "b", "é"])
def test_matching_takes_linear_time(pattern: str, stretch: str) -> None:
    steps = []
    for length in (1_000, 2_000, 4_000):
        made = Grants.of({"tool.call": [pattern]})
        made.allows("tool.call", "-")  # The patterns are compiled at the first question.
        text = stretch * length
        lines, _ = counted(partial(made.allows, "tool.call", text))
        assert lines < 15 * len(text) + 1_000
        steps.append(lines)
    assert steps[2] - steps[1] <= 2.1 * (steps[1] - steps[0]) + 100


def test_matching_reads_every_character_once() -> None:
    looked = 0

    def characters(text: str) -> Iterator[str]:
        nonlocal looked
        for character in text:
            looked += 1
            yield character

    assert automaton("**a" * 20).matches(characters("a" * 100_000))
    assert looked == 100_000
    assert not automaton("**a" * 20 + "b").matches(characters("a" * 100_000))
    assert looked == 200_000


def test_the_cached_states_are_limited() -> None:
    made = automaton(*(f"**{chr(97 + at)}*{chr(98 + at)}" for at in range(20)))
    text = "".join(chr(33 + at * at % 90) for at in range(20_000))
    other = "".join(chr(0x4E00 + at) for at in range(20_000))
    expected = [made.matches(text), made.matches(other)]
    assert remembered(made) <= matching._MOST_REMEMBERED
    assert [made.matches(text), made.matches(other)] == expected == [False, False]


def test_the_cache_does_not_change_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_MOST_REMEMBERED", 0)
    forgetful = automaton("/a/**/b", "*x*")
    monkeypatch.undo()
    made = automaton("/a/**/b", "*x*")
    for text in ("/a/b", "/a/x/b", "x", "axé", "/x", "/a"):
        assert forgetful.matches(text) == made.matches(text)
    assert remembered(forgetful) == 0 < remembered(made)


def remembered(made: Automaton) -> int:
    return sum(len(row) for row in made._rows.values())
