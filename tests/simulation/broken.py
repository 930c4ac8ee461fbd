"""The error of a check that fails in a run."""

from __future__ import annotations


class Broken(Exception):
    """An invariant does not hold; `name` is its number in the list of invariants, or a word."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


def ensure(condition: object, name: str, message: str) -> None:
    """Raise Broken unless the condition holds."""
    if not condition:
        raise Broken(name, message)
