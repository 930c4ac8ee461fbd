"""Patterns that cover other patterns, and the cost of the decision."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.leases import subsumption
from arcp_proto.leases.automaton import Automaton
from arcp_proto.leases.patterns import Part
from arcp_proto.leases.subsumption import LETTERS_A_STATE, MOST_STATES, PLACES_A_STATE, Budget, Spent, covers


def automaton(*patterns: str) -> Automaton:
    return Automaton([(Part(pattern),) for pattern in patterns])


def cost(parent: list[str], child: list[str]) -> tuple[bool, int]:
    """Return the answer, and the number of states that the search has visited."""
    budget = Budget()
    answer = covers(automaton(*parent), automaton(*child), budget)
    return answer, MOST_STATES - budget.left


def covered(parent: list[str], *child: str) -> bool:
    return cost(parent, list(child))[0]


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        (["a"], "a"),
        (["*"], "a"),
        (["*"], "a*b*c"),
        (["**"], "*"),
        (["**"], "/a/**/b"),
        (["/a/**"], "/a"),
        (["/a/**"], "/a/**"),
        (["/a/**"], "/a/*"),
        (["/a/**"], "/a/b/**"),
        (["/a/**"], "/a/**/b"),
        (["/a/*"], "/a/b*"),
        (["/a/**/b"], "/a/b"),
        (["/a/**/b"], "/a/*/b"),
        (["/a/**/b"], "/a/**/x/b"),
        (["/a/**/b"], "/a/**/**/b"),
        (["a**b"], "ab"),
        (["a**b"], "a*b*b"),
        (["*a*"], "*aa*"),
        # These parents cover the child only together.
        (["/a", "/a/*/**"], "/a/*"),
        (["/a", "/a/*/**"], "/a/**"),
        (["/**/*"], "/**"),
        (["*/**", "/x"], "/**"),
        (["*", "**/*"], "**"),
        (["a*", "b*"], "a*b"),
    ],
)
def test_covered_patterns_are_covered(parent: list[str], child: str) -> None:
    assert covered(parent, child)


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        (["a"], "b"),
        (["a"], "a*"),
        (["ab"], "a"),
        (["*"], "**"),
        (["*"], "a/b"),
        (["*"], "a/**"),
        # A wildcard of the child stands for more than its own text.
        (["/a/*"], "/a/**"),
        (["/a/*"], "/a/*/b"),
        (["/a/b*"], "/a/*"),
        (["/a/**/b"], "/a/**"),
        (["/a/**/b"], "/a/**b"),
        (["a/**/*b"], "a/**/"),
        # A name that begins like another name is not that name.
        (["/a/**"], "/a**"),
        (["/a/**"], "/ab"),
        (["/a/**"], "/*"),
        (["/a/*"], "/a"),
        # Two patterns do not cover the texts between them.
        (["/a/**", "/c/**"], "/*/**"),
        (["*a", "*b"], "*"),
        (["a*", "*b"], "*b*"),
        (["/", "/*/*"], "/**"),
        ([], "a"),
    ],
)
def test_wider_patterns_are_not_covered(parent: list[str], child: str) -> None:
    assert not covered(parent, child)


def test_every_pattern_of_the_child_counts() -> None:
    assert covered(["a*", "b*"], "ab", "ba", "b")
    assert not covered(["a*", "b*"], "ab", "c")
    assert covered([])
    assert covered(["a"])


def test_a_character_that_no_pattern_names_is_one_more() -> None:
    every = [chr(at) for at in range(1, 0x80) if chr(at) not in "*/"]
    assert not covered(["", *(f"{character}*" for character in every)], "*")
    private = [chr(0xE000 + at) for at in range(50)]
    assert not covered([f"{character}*" for character in private], "*")


def test_a_lease_covers_itself_at_once() -> None:
    patterns = [f"*{chr(0x4E00 + at)}**{chr(0x5E00 + at)}/**" for at in range(64)]
    assert cost(patterns, patterns[::-1]) == (True, 0)


def test_the_empty_text_does_not_count_as_a_target() -> None:
    assert covered(["/**/*"], "/**")
    assert covered(["*/*", "**a", "*"], "*")


@pytest.mark.parametrize("before", ["a", "/a", "ftp:/"])
def test_the_contents_of_a_directory_do_not_cover_the_directory(before: str) -> None:
    """Check that a `**` behind the slash of an earlier part does not match without that slash."""
    below = Automaton([(Part(f"{before}/"), Part("**"))])
    with_itself = Automaton([(Part(f"{before}/**"),)])
    assert [one.matches(before) for one in (below, with_itself)] == [False, True]
    assert not covers(below, with_itself, Budget())
    assert covers(with_itself, below, Budget())


def test_patterns_of_a_lease_cost_little() -> None:
    parent = [f"/workspace/project-{number}/**" for number in range(32)] + ["/workspace/**/*.py", "/var/*"]
    for child in (parent, [f"/workspace/project-{number}/src/**/*.c" for number in range(32)], ["/var/a*"]):
        answer, states = cost(parent, child)
        assert answer
        assert states < 2_000


EXPLOSIVE = [f"**{chr(97 + at)}*/{chr(97 + at)}**0" for at in range(24)]
"""Patterns for which the search distinguishes 2 ** 24 sets: the letters that a text has had."""


def test_a_search_beyond_its_budget_raises() -> None:
    parent, child = automaton(*EXPLOSIVE, "/**", "**0"), automaton("/**0/*0", "**0/**0")
    budget = Budget()
    with pytest.raises(Spent):
        covers(parent, child, budget)
    assert MOST_STATES == 20_000
    assert budget.left == -1


def test_one_budget_bounds_the_whole_search() -> None:
    budget = Budget(40)
    with pytest.raises(Spent):
        while budget.left:
            assert covers(automaton("/a/**/b*", "x"), automaton("/a/c/*/bb", "/a/b"), budget)
    assert budget.left == -1


def test_only_letters_that_can_follow_cost_steps() -> None:
    letters = ["*a*", *(f"*{chr(0x4E00 + at)}" for at in range(10 * LETTERS_A_STATE))]
    assert cost(letters, ["*a**"])[1] > cost(letters[:1], ["*a**"])[1] + 10
    elsewhere = ["*a*", "/x" + "".join(chr(0x4E00 + at) for at in range(1_000))]
    assert cost(elsewhere, ["*a*c"])[1] < cost(["*a*"], ["*a*c"])[1] + 10


@pytest.mark.parametrize(("places", "each"), [(PLACES_A_STATE - 1, 1), (PLACES_A_STATE, 2)])
def test_a_state_costs_more_the_more_places_a_parent_has(places: int, each: int) -> None:
    parent = automaton("x" * (places - 1))
    assert len(parent.letters) == places
    budget = Budget()
    assert not covers(parent, automaton("x"), budget)
    assert MOST_STATES - budget.left == each


def letters(beginning: str) -> list[str]:
    """Return 64 patterns of at most 512 bytes, with as many different letters as they can have."""
    every = (chr(0x80 + at) for at in range(1 << 15))
    return [beginning + "".join(next(every) for _ in range(200)) for _ in range(64)]


DEAR = {
    "letters": (letters("*"), ["*a" * 200]),
    "letters of any depth": (letters("**"), ["**" + "*b" * 150] * 4),
    "letters and live places": (
        [*letters("**")[:32], *(["**" + "*a" * 240] * 32)],
        ["**" + "a" * 200 + "**b" + "*" * 20],
    ),
    "sets": ([*EXPLOSIVE, *letters("**")[:40]], ["/**0/*0", "**0/**0"]),
    "places": ([f"**{one}*{'z' * 450}{other}**0" for one in "abcdefgh" for other in "abcdefgh"], ["**0/*0"]),
}


@pytest.mark.parametrize(("parent", "child"), DEAR.values(), ids=DEAR)
def test_every_request_of_a_peer_takes_few_steps(parent: list[str], child: list[str]) -> None:
    """Count lines of Python: a budget of states alone would let one question take 2.9 million lines."""
    one, other = automaton(*parent), automaton(*child)
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != subsumption.__file__:
            return None
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        covers(one, other, Budget())
    except Spent:
        pass
    finally:
        sys.settrace(before)
    assert lines < 25 * MOST_STATES


@given(
    st.lists(st.text("ab/*", min_size=1, max_size=6), max_size=3),
    st.text("ab/*", min_size=1, max_size=6),
    st.lists(st.text("ab/x", min_size=1, max_size=8), max_size=6),
)
def test_a_covered_pattern_matches_no_other_text(parent: list[str], child: str, texts: list[str]) -> None:
    one, other = automaton(*parent), automaton(child)
    if covers(one, other, Budget()):
        assert all(one.matches(text) for text in texts if other.matches(text))
    assert covers(automaton(*parent, child), other, Budget())
    assert covers(automaton("**"), one, Budget())


def test_an_optional_directory_is_wider_than_a_required_one() -> None:
    """Check that a required slash with its rest does not cover an optional one."""
    required, optional = Automaton([(Part("x"), Part("/"), Part("**"))]), Automaton([(Part("x/**"),)])
    assert [automaton.matches("x") for automaton in (required, optional)] == [False, True]
    assert not covers(required, optional, Budget())
    assert covers(optional, required, Budget())
