"""Leases over small alphabets: what may be asked for, and what it allows, by definition and by tables.

Nothing here is shared with the runtime: patterns are matched by trying, URLs and paths are known by heart.
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
            "nobody",
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
"""What is asked of the gate, and the form in which it is matched; None: it can be no target."""

AMOUNTS: Final = ("0", "0.01", "1", "1.00", "2.5", "3", "10", "0.000000001", "999999999.999999999")


@cache
def matches(pattern: str, text: str) -> bool:
    """Whether a pattern matches, tried from left to right (§8 of the protocol)."""
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
    """Whether a lease grants an operation on one of TARGETS."""
    form = TARGETS[capability][target]
    return form is not None and any(matches(pattern, form) for pattern in lease.get(capability, ()))


def granted(lease: Lease) -> frozenset[tuple[str, str]]:
    """Everything of TARGETS that a lease grants."""
    return frozenset(
        (capability, target)
        for capability, targets in TARGETS.items()
        if lease.get(capability)
        for target in targets
        if allows(lease, capability, target)
    )


def budget(lease: Lease) -> dict[str, Fraction]:
    """What a lease bounds of the cost, exactly."""
    counters: dict[str, Fraction] = {}
    for pattern in lease.get("cost.budget", ()):
        currency, _, amount = pattern.partition(":")
        counters[currency] = counters.get(currency, Fraction(0)) + Fraction(amount)
    return counters


# Drawn by numbers of a move, so that a plan says all.


def draw_lease(number: int) -> dict[str, list[str]]:
    """A lease with most of what there is, small."""
    dice = random.Random(number)
    lease: dict[str, list[str]] = {}
    for capability, patterns in PATTERNS.items():
        if dice.random() < (0.9 if capability in ("tool.call", "agent.delegate") else 0.5):
            lease[capability] = dice.sample(patterns, dice.choice((1, 1, 2)))
    if dice.random() < 0.75:
        lease["cost.budget"] = draw_budget(dice, ("2.5", "1", "3", "10", "0.50", "1.00"))
    return lease


def draw_budget(dice: random.Random, amounts: Sequence[str]) -> list[str]:
    """One currency or two, now and then twice the same."""
    currencies = [dice.choice(CURRENCIES[: dice.choice((1, 1, 2, 3))]) for _ in range(dice.choice((1, 1, 2)))]
    return [f"{currency}:{dice.choice(amounts)}" for currency in currencies]


def draw_child(parent: Lease, number: int) -> dict[str, list[str]] | None:
    """What is asked for a child: nothing, less than the parent has, the same, or anything."""
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
    """A time as it stands in a lease: UTC, whole milliseconds."""
    seconds, rest = divmod(unix, 10**9)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, milliseconds=rest // 10**6)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_of(text: str) -> int:
    """The time that `time_text` wrote."""
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000
