"""Bugs that the library reports of itself, as failures of which Hypothesis looks for the smallest example."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from arcp_proto.errors import InvariantViolated

P = ParamSpec("P")
T = TypeVar("T")


def told(test: Callable[P, T]) -> Callable[P, T]:
    """Return a function that raises AssertionError where the library raises InvariantViolated.

    InvariantViolated derives from BaseException alone, which Hypothesis takes for the end of the process: it
    shows no example.
    """

    @wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return test(*arguments, **named)
        except InvariantViolated as bug:
            raise AssertionError(f"InvariantViolated: {bug}") from bug

    return run
