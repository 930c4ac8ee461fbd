"""Journals: where a runtime stores the facts that must survive its process.

Each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .memory import MemoryJournal
    from .protocol import (
        Fenced,
        Journal,
        JournalDamaged,
        JournalError,
        JournalFailed,
        JournalGap,
        JournalInUse,
    )
    from .repair import Repair, repair_journal
    from .sqlite import SqliteJournal

__all__ = [
    "Fenced",
    "Journal",
    "JournalDamaged",
    "JournalError",
    "JournalFailed",
    "JournalGap",
    "JournalInUse",
    "MemoryJournal",
    "Repair",
    "SqliteJournal",
    "repair_journal",
]

_MODULE_OF = {
    "Fenced": "protocol",
    "Journal": "protocol",
    "JournalDamaged": "protocol",
    "JournalError": "protocol",
    "JournalFailed": "protocol",
    "JournalGap": "protocol",
    "JournalInUse": "protocol",
    "MemoryJournal": "memory",
    "Repair": "repair",
    "SqliteJournal": "sqlite",
    "repair_journal": "repair",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    module_name = _MODULE_OF.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{module_name}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
