"""All patterns of at most four symbols, as tools: what they match and what they cover."""

from __future__ import annotations

import pytest

from arcp_proto.leases.lease import Grants

from . import __main__ as command
from . import compare
from .compare import Covering, Wrong, compare_matches, grants
from .languages import language, patterns, strings

SYMBOLS = 4
MATCHED = 6
"""Characters of the longest strings that are matched."""
COVERED = 7
"""Characters of the longest strings by which patterns are compared."""


def test_languages_are_as_listed_by_hand() -> None:
    """Check the reference by hand."""
    texts = list(strings(3))
    assert texts[:6] == ["", "a", "b", "/", "x", "aa"]

    def matched(pattern: str) -> list[str]:
        found = language(pattern, 3)
        return [text for place, text in enumerate(texts) if found >> place & 1]

    assert matched("a") == ["a"]
    assert matched("/b") == ["/b"]
    assert len(matched("**")) == len(texts) == 85
    assert matched("*") == [text for text in texts if "/" not in text]
    assert matched("a*") == [text for text in texts if text[:1] == "a" and "/" not in text]
    assert matched("*a**") == [text for text in texts if "a" in text.split("/")[0]]
    assert matched("a/**") == ["a", "a/", "a/a", "a/b", "a//", "a/x"]
    assert matched("a/**/b") == ["a/b"]
    assert matched("/**/b") == ["/b", "//b"]
    assert matched("/**b") == ["/b", "/ab", "/bb", "//b", "/xb"]
    assert len(patterns(SYMBOLS)) == 632


def test_every_pattern_matches_what_it_should() -> None:
    assert compare_matches(patterns(SYMBOLS), MATCHED) == 632 * 5460


def test_every_pattern_covers_what_it_should() -> None:
    covering = Covering(patterns(SYMBOLS), COVERED)
    covering.compare(covering.patterns)
    assert (covering.found.compared, covering.found.covered, covering.found.longest) == (632**2, 32_085, 5)


def test_two_patterns_together_cover_what_they_should() -> None:
    covering = Covering(patterns(SYMBOLS), COVERED)
    covering.compare_pairs(4_000, seed=4)
    assert covering.found.together > 100
    assert covering.found.longest < COVERED


def test_a_counterexample_as_long_as_the_bound_fails() -> None:
    covering = Covering(["*a/**", "aa**a"], 5)
    covering.compare(["*a/**"])
    with pytest.raises(Wrong, match="the bound is too low"):
        _ = covering.found


def test_a_wrong_answer_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compare, "grants", lambda *patterns: grants(*patterns, "b/x/*"))
    assert command.main(["--symbols", "1", "--length", "4"]) == 1
    assert "wrong: 'a' and 'b/x/': True" in capsys.readouterr().out
    monkeypatch.setattr(Grants, "covers", lambda self, child: True)
    with pytest.raises(Wrong, match=r"\('a',\) and 'b': True"):
        Covering(["a", "b"], 3).compare(["a"])


def test_the_command_says_what_it_compared(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"symbols": 2, "length": 5, "from": 3, "count": 10, "pairs": 7}
    assert command.main([f"--{name}={value}" for name, value in options.items()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "28 patterns of at most 2 symbols, strings of at most 5"
    assert lines[1].startswith("up to parent 13: 13,640 matches, 280 pairs, 55 covered, longest shortest")
    assert "7 parents of two patterns" in lines[2]
