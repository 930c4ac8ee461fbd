"""The corpus of `fuzz_grants`, and how it is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import fuzz_grants, harness

from .machines import examples

SEEDS = [pytest.param(data, id=about) for about, data in harness.seeds(fuzz_grants.CORPUS)]


@pytest.mark.parametrize("data", SEEDS)
def test_the_corpus(data: bytes) -> None:
    fuzz_grants.check(data)


def test_patterns_that_a_lease_may_not_have_are_passed_over() -> None:
    assert fuzz_grants.read("fs.read", ["/a", "a", "", "/a/*/..", "**"]) == ["/a", "**"]
    assert fuzz_grants.read("fs.delete", ["/a"]) == []


def test_the_slow_way_is_the_same() -> None:
    for target, expected in [("/a", True), ("/a/b/c", True), ("/ab", False), ("/", False)]:
        assert fuzz_grants.slowly("fs.read", "/a/**", target) == expected
    assert fuzz_grants.slowly("net.fetch", "https://*.a/**", "https x.a 443 /b c")
    assert not fuzz_grants.slowly("net.fetch", "https://*.a/**", "https x.y.a 443 /b c")


@settings(max_examples=examples(50))
@given(
    st.sampled_from(["fs.read", "net.fetch", "tool.call"]),
    st.lists(
        st.builds(
            "".join,
            st.tuples(
                st.sampled_from(["+", "-", ""]),
                st.sampled_from(["/", "https://a/", "https://", ""]),
                st.text("ab/*.:?%2e#[]", max_size=12),
            ),
        ),
        max_size=12,
    ),
)
def test_any_lines(namespace: str, lines: list[str]) -> None:
    fuzz_grants.check("\n".join([namespace, *lines]).encode())
