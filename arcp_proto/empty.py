"""The table of whoever has none yet."""

from __future__ import annotations

from typing import Any, Final

from .errors import InvariantViolated


class _Nothing(dict[Any, Any]):
    """Always empty: what would put something in raises InvariantViolated, since everybody would have it."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        raise InvariantViolated("a table that is shared by all was written to")

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self[key] = default

    def update(self, *others: Any, **named: Any) -> None:
        if any(others) or named:
            self[None] = None


NOTHING: Final[dict[Any, Any]] = _Nothing()
"""Shared by all: most jobs never have a child, an observer or a credential, and need no tables for them."""
