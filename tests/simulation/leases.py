"""Leases over small alphabets: requests for leases, and what they grant, by definition and by tables.

The runtime shares no code with this module: a pattern is matched by trial, and tables list URLs and paths.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from typing import Final

Lease = Mapping[str, Sequence[str]]

PATTERNS: Final[Mapping[str, tuple[str, ...]]] = {
    "tool.call": ("a", "b", "a*", "*", "**", "a/*", "a/**", "**/b"),
    "agent.delegate": ("**", "*", "good", "good*", "good@1", "late", "deaf", "endless"),
    "fs.read": ("/a/**", "/a/*", "/a/b", "/**", "/b/**", "/*/b"),
    "fs.write": ("/a/**", "/b/c"),
    "net.fetch": ("https://a.test/**", "https://a.test/x", "https://b.test/*", "**"),
    "model.use": ("small", "large", "s*", "*"),
    "x-vendor.simulation": ("p", "p*", "**"),
}
CURRENCIES: Final = ("USD", "EUR", "tokens")

TARGETS: Final[Mapping[str, Mapping[str, str | None]]] = {
    "tool.call": {
        **{name: name for name in ("a", "b", "ab", "a/b", "a/b/c", "a/c", "c", "c/b", "c/d", "A")},
        "": None,
    },
    "agent.delegate": {
        name: name
        for name in (
            "good",
            "good@1",
            "good@2",
            "goods",
            "late",
            "deaf",
            "endless",
            "absent",
            "good/x",
            "x/y",
        )
    },
    "fs.read": {
        **{path: path for path in ("/", "/a", "/a/b", "/a/c", "/a/b/c", "/b", "/b/b", "/b/c", "/c", "/c/b")},
        "/a/../b": "/b",
        "/a//b": "/a/b",
        "/a/./c": "/a/c",
        "/a/b/..": "/a",
        "/../a/b": "/a/b",
        "a/b": None,
        "../a": None,
        "": None,
        "/a\\b": None,
        "/a/\0": None,
        "/a/%2e%2e/b": "/a/%2e%2e/b",
    },
    "fs.write": {path: path for path in ("/a", "/a/b", "/b/c", "/b/c/d", "/c")},
    "net.fetch": {
        **{
            url: url
            for url in (
                *("https://a.test/", "https://a.test/x", "https://a.test/x/y", "https://b.test/x"),
                *("https://b.test/x/y", "https://c.test/x", "http://a.test/x", "https://a.test:444/x"),
                *("https://a.test.evil.test/x", "https://evil.test/a.test/x"),
            )
        },
        "HTTPS://A.TEST/x": "https://a.test/x",
        "https://a.test:443/x": "https://a.test/x",
        "https://a.test/y/../x": "https://a.test/x",
        "https://a.test/%2e%2e/x": None,
        "https://a.test/%78": "https://a.test/x",
        "https://a.test/x#a#b": None,
        "https://a.test/x#part": "https://a.test/x",
        "https://a.test@evil.test/x": None,
        "https://a.test\\@evil.test/x": None,
        "https://a.test/%2fx": None,
        "https://a.test/x%00": None,
        "/x": None,
    },
    "model.use": {name: name for name in ("small", "large", "medium", "s", "org/small")},
    "x-vendor.simulation": {name: name for name in ("p", "pq", "q", "p/q")},
}
"""The targets of operations, and the form in which patterns match each; None: the target is invalid."""

AMOUNTS: Final = ("0", "0.01", "1", "1.00", "2.5", "3", "10", "0.000000001", "999999999.999999999")


@cache
def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches a text, tried from left to right (§9.2)."""
    if pattern.startswith("/**") and pattern[3:4] in ("", "/"):
        rest = pattern[3:]
        if matches(rest, text):
            return True
        return text.startswith("/") and any(matches(rest, text[at:]) for at in range(1, len(text) + 1))
    if pattern.startswith("**"):
        return any(matches(pattern[2:], text[at:]) for at in range(len(text) + 1))
    if pattern.startswith("*"):
        run = text.find("/") if "/" in text else len(text)
        return any(matches(pattern[1:], text[at:]) for at in range(run + 1))
    if not pattern:
        return not text
    return text[:1] == pattern[0] and matches(pattern[1:], text[1:])


def allows(lease: Lease, capability: str, target: str) -> bool:
    """Return whether a lease grants an operation on one of TARGETS."""
    form = TARGETS[capability][target]
    return form is not None and any(matches(pattern, form) for pattern in lease.get(capability, ()))


def granted(lease: Lease) -> frozenset[tuple[str, str]]:
    """Return all operations on TARGETS that a lease grants."""
    return frozenset(
        (capability, target)
        for capability, targets in TARGETS.items()
        if lease.get(capability)
        for target in targets
        if allows(lease, capability, target)
    )


def budget(lease: Lease) -> dict[str, Fraction]:
    """Return the budget of a lease, by currency, as exact numbers."""
    counters: dict[str, Fraction] = {}
    for pattern in lease.get("cost.budget", ()):
        currency, _, amount = pattern.partition(":")
        counters[currency] = counters.get(currency, Fraction(0)) + Fraction(amount)
    return counters


# The numbers of a move decide what is drawn, so that a plan repeats.


def draw_lease(number: int) -> dict[str, list[str]]:
    """Draw a small lease with most capabilities."""
    dice = random.Random(number)
    lease: dict[str, list[str]] = {}
    for capability, patterns in PATTERNS.items():
        if dice.random() < (0.9 if capability in ("tool.call", "agent.delegate") else 0.5):
            lease[capability] = dice.sample(patterns, dice.choice((1, 1, 2)))
    if dice.random() < 0.75:
        lease["cost.budget"] = draw_budget(dice, ("2.5", "1", "3", "10", "0.50", "1.00"))
    return lease


def draw_budget(dice: random.Random, amounts: Sequence[str]) -> list[str]:
    """Draw a budget of one currency or two, which may name one currency twice."""
    currencies = [dice.choice(CURRENCIES[: dice.choice((1, 1, 2, 3))]) for _ in range(dice.choice((1, 1, 2)))]
    return [f"{currency}:{dice.choice(amounts)}" for currency in currencies]


def draw_child(parent: Lease, number: int) -> dict[str, list[str]] | None:
    """Draw the lease that is asked for a child: none, less than the parent's, the same, or any."""
    dice = random.Random(number)
    how = dice.random()
    if how < 0.25:
        return None
    if how < 0.35:
        return {name: list(patterns) for name, patterns in parent.items()}
    if how < 0.5:
        return draw_lease(number)
    lease = {}
    for name, patterns in parent.items():
        if name == "cost.budget":
            continue
        if dice.random() < 0.85:
            lease[name] = [pattern for pattern in patterns if dice.random() < 0.8]
        if dice.random() < 0.1 and name in PATTERNS:
            lease[name] = [dice.choice(PATTERNS[name])]
    if dice.random() < 0.7:
        named = [pattern.partition(":")[0] for pattern in parent.get("cost.budget", ())] or ["USD"]
        currency = dice.choice(named) if dice.random() < 0.8 else dice.choice(CURRENCIES)
        lease["cost.budget"] = [f"{currency}:{dice.choice(('0.25', '0.5', '1', '1', '2', '0', '20'))}"]
    return lease


def time_text(unix: int) -> str:
    """Return a time as a lease holds it: UTC, whole milliseconds."""
    seconds, rest = divmod(unix, 10**9)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, milliseconds=rest // 10**6)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_of(text: str) -> int:
    """Return the time that `time_text` has formatted."""
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000
