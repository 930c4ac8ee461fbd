"""Small paths and URLs: what covers what, by the targets there can be."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import product

from arcp_proto.errors import Refusal
from arcp_proto.leases.canonical import canonical
from arcp_proto.leases.lease import Grants
from arcp_proto.leases.patterns import check_pattern

from .languages import patterns, strings


def compare(
    capability: str, made: Iterable[str], targets: Sequence[str], pairs: int, *, matched_forms: bool = False
) -> None:
    """Compare each pattern with each, and random pairs of them; targets may be in their matched form."""
    valid = [pattern for pattern in dict.fromkeys(made) if is_pattern(capability, pattern)]
    grants = {pattern: Grants.of({capability: [pattern]}) for pattern in valid}
    languages = {}
    for pattern, allowed in grants.items():
        automaton = allowed._automaton(capability)
        languages[pattern] = sum(
            1 << place
            for place, text in enumerate(targets)
            if (automaton.matches(text) if matched_forms else allowed.allows(capability, text))
        )
    choose = random.Random(pairs).choice
    parents = [(pattern,) for pattern in valid] + [(choose(valid), choose(valid)) for _ in range(pairs)]
    for parent in parents:
        matched = 0
        for pattern in parent:
            matched |= languages[pattern]
        covers = Grants.of({capability: parent}).covers
        for child in valid:
            expected = languages[child] & ~matched == 0
            assert covers(grants[child]) == expected, (parent, child)


def is_pattern(capability: str, text: str) -> bool:
    try:
        check_pattern(capability, text)
    except Refusal:
        return False
    return True


def targets(capability: str, texts: Iterable[str]) -> list[str]:
    """Their canonical forms, each once."""
    found = dict.fromkeys(canonical(capability, text) for text in texts)
    return [text for text in found if text is not None]


def words(alphabet: Sequence[str], length: int) -> list[str]:
    return ["".join(made) for size in range(length + 1) for made in product(alphabet, repeat=size)]


def test_paths() -> None:
    made = ["**", *("/" + text for text in patterns(3))]
    compare("fs.read", made, targets("fs.read", strings(6)), 100)


def test_hosts() -> None:
    hosts = [*words("a.x", 6), "1.2.3.4", "[::1]", "[::a]"]
    made = [f"https://{host}/" for host in words(["a", ".", "*", "**"], 3)]
    compare("net.fetch", made, targets("net.fetch", (f"https://{host}/" for host in hosts)), 60)


def test_schemes_and_ports() -> None:
    schemes, ports, hosts = ("http", "https"), ("", ":80", ":443", ":8080", ":1"), ("a", "x", "[::1]")
    made = [
        f"{scheme}://{host}{port}/"
        for scheme in schemes
        for host in ("a", "*", "**")
        for port in (*ports[:-1], ":*")
    ]
    texts = [f"{scheme}://{host}{port}/" for scheme in schemes for host in hosts for port in ports]
    compare("net.fetch", [*made, "**"], [*targets("net.fetch", texts), "http://a/b"], 60)


def test_paths_and_queries() -> None:
    """Check paths that begin with //: no target has one, and coverage is decided as if some had."""
    made = ["https://h", *(f"https://h/{text}" for text in words(["a", "/", "*", "**", "?"], 3))]
    split = [text.partition("?") for text in words("a/x?", 5)]
    texts = dict.fromkeys(f"https h 443 /{path} {query}" for path, _, query in split)
    compare("net.fetch", made, list(texts), 30, matched_forms=True)


def test_other_schemes() -> None:
    """Beside http, whose URLs no other scheme covers."""
    made = ["**", "https://a/**", *(f"s3://{text}" for text in words(["a", "/", "*", "**"], 3) if text)]
    texts = [f"{scheme}://{text}" for scheme in ("s3", "S3") for text in words("a/x", 5)]
    compare("net.fetch", made, targets("net.fetch", [*texts, "https://a/x", "http://x/"]), 60)
