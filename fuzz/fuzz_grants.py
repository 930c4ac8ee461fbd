"""Arbitrary texts as patterns and targets: an accepted pattern matches the targets that it describes.

The first line names a namespace. Each further line is a pattern of the parent (`+`), a pattern of the child
(`-`), or a target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_proto.errors import ErrorCode, Refusal, ensure
    from arcp_proto.leases.canonical import canonical, matchable
    from arcp_proto.leases.lease import Grants, parse_lease
    from arcp_proto.leases.patterns import parse_pattern
    from arcp_proto.namespaces import RESERVED

CORPUS: Final = Path(__file__).parent / "corpus" / "grants.ndjson"
MOST_COMPARED: Final = 64
"""The greatest length of a target and of a pattern for which the slow match runs as well."""
MOST_TARGETS: Final = 50

_TOKEN: Final = re.compile(r"/\*\*+(?=/|\Z)|\*+|.", re.DOTALL)


def check(data: bytes) -> None:
    """Check the patterns and targets of one input; raises InvariantViolated."""
    namespace, *lines = data.decode("utf-8", "surrogateescape").split("\n")
    parent = read(namespace, [line[1:] for line in lines if line[:1] == "+"])
    child = read(namespace, [line[1:] for line in lines if line[:1] == "-"])
    targets = [line for line in lines if line[:1] not in ("+", "-")][:MOST_TARGETS]
    for target in targets:
        check_target(namespace, target)
    for patterns in (parent, child):
        for target in targets:
            check_match(namespace, patterns, target)
    one, other = (Grants.of({namespace: patterns}) for patterns in (parent, child))
    covered = one.covers(other)
    for target in targets:
        ensure(
            not covered or not other.allows(namespace, target) or one.allows(namespace, target),
            "a lease does not cover what it says",
        )
    ensure(one.covers(one), "a lease does not cover itself")


def read(namespace: str, patterns: Sequence[str]) -> list[str]:
    """Return the patterns that a lease may have."""
    valid = []
    for pattern in patterns:
        try:
            parse_lease({namespace: [pattern]})
        except Refusal as refusal:
            ensure(refusal.code is ErrorCode.INVALID_REQUEST, "a lease is refused with another code")
            ensure(len(refusal.message) < 10_000, "a refusal is long")
        else:
            valid.append(pattern)
    return valid[:64]


def check_target(namespace: str, target: str) -> None:
    """Check the canonical and the matchable form of a target."""
    form = canonical(namespace, target)
    ensure((form is None) == (matchable(namespace, target) is None), "a target has one form of two")
    if form is None:
        return
    form.encode()
    ensure(canonical(namespace, form) == form, "the form of a target has another form")
    ensure(matchable(namespace, form) == matchable(namespace, target), "two forms are matched")
    if namespace.startswith("fs."):
        segments = form.split("/")
        ensure(form == "/" or not {"", ".", ".."} & {*segments[1:]}, "a path is not resolved")
        ensure(segments[0] == "" and not re.search(r"[\0\\]", form), "a path has a wrong form")
    elif namespace == "net.fetch" and form.startswith(("http:", "https:")):
        check_url(form)
    elif namespace == "net.fetch":
        check_other_url(form)


def check_other_url(form: str) -> None:
    """Check what is known of a URL of a scheme other than http and https, which is compared as text."""
    scheme, separator, rest = form.partition("://")
    ensure(separator and scheme == scheme.lower(), "a scheme is not in small letters")
    authority, *segments = re.split("[?#]", rest)[0].split("/")
    ensure("@" not in authority, "a URL names a user")
    ensure(not re.search(r"[\\\x00-\x1f\x7f]", form), "a URL holds what it must not")
    dots = {re.sub("%2e", ".", segment, flags=re.IGNORECASE) for segment in segments} & {".", ".."}
    ensure(not dots, "dots are left")


def check_url(form: str) -> None:
    """Check that the standard library splits a URL into the same parts."""
    parts = urlsplit(form)
    ensure(parts.scheme in ("http", "https") and parts.hostname, "a URL has no host")
    ensure(parts.username is None and parts.password is None and not parts.fragment, "a URL has too much")
    ensure(parts.port is None or 0 <= parts.port <= 65_535, "a URL has no port")
    ensure(not re.search(r"[\\\x00-\x20\x7f]|%(?:2[fF]|5[cC]|00)", form), "a URL holds what it must not")
    ensure(not {".", ".."} & {*parts.path.split("/")} and "%2e" not in parts.path.lower(), "dots are left")
    parsed = f"{parts.scheme} {parts.netloc.rpartition('@')[2]}"
    text = matchable("net.fetch", form) or ""
    scheme, host, port, path, query = text.split(" ")
    ensure(parsed in (f"{scheme} {host}:{port}", f"{scheme} {host}"), "a URL is matched by another host")
    ensure((path, query) == (parts.path, parts.query), "a URL is matched by another path")


def check_match(namespace: str, patterns: Sequence[str], target: str) -> None:
    """Compare the result of the automaton with that of a slow match."""
    allowed = Grants.of({namespace: patterns}).allows(namespace, target)
    text = matchable(namespace, target)
    if text is None or namespace == "cost.budget":
        ensure(not allowed, "a text that is not a target is allowed")
    elif len(text) <= MOST_COMPARED and all(len(pattern) <= MOST_COMPARED for pattern in patterns):
        ensure(allowed == any(slowly(namespace, pattern, text) for pattern in patterns), "a match is wrong")


def slowly(namespace: str, pattern: str, text: str) -> bool:
    """Return whether a pattern matches, by the prefixes of the text that each of its parts can match."""
    return any(
        len(text)
        in _ends(
            [(token, part.star, part.run) for part in parts for token in _TOKEN.findall(part.text)], text
        )
        for parts in parse_pattern(namespace, pattern)
    )


def _ends(tokens: Sequence[tuple[str, str, str]], text: str) -> list[int]:
    ends = [0]
    for token, star, run in tokens:
        if token[0] == "*":
            stops = star if len(token) == 1 else run
            ends = _runs(ends, text, stops)
        else:
            after = [end + 1 for end in ends if text[end : end + 1] == token[0]]
            ends = [*ends, *_runs(after, text, run)] if len(token) > 1 else after
    return ends


def _runs(ends: Sequence[int], text: str, stops: str) -> list[int]:
    reached = dict.fromkeys(ends)
    for at, character in enumerate(text):
        if at in reached and character not in stops:
            reached[at + 1] = None
    return list(reached)


def words() -> list[str]:
    """Return texts that inputs are likely to hold."""
    urls = [
        "https://",
        "http://",
        "example.com",
        ":443",
        ":80",
        ":*",
        "[::1]",
        "127.0.0.1",
        "xn--",
        "@",
        "?",
        "#",
    ]
    return [*RESERVED, "x-vendor.a", "**", "/**/", "/**", "*", "/../", "/./", "//", "%2e", "%2f", "\\", *urls]


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
