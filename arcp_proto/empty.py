"""A shared, immutable empty dict, used as a default."""

from __future__ import annotations

from typing import Any, Final

from .errors import InvariantViolated


class _Nothing(dict[Any, Any]):
    """An empty dict; adding an item raises InvariantViolated, since it would appear in every default."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        raise InvariantViolated("the shared empty dict was written to")

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self[key] = default

    def update(self, *others: Any, **named: Any) -> None:
        if any(others) or named:
            self[None] = None


NOTHING: Final[dict[Any, Any]] = _Nothing()
"""The shared empty dict: most jobs never have a child, an observer or a credential, and need no dicts for
them.
"""
