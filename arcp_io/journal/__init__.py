"""Journals: where a runtime stores the facts that must survive its process.

Each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_io.exports import importer

if TYPE_CHECKING:
    from .compaction import Compacted, compact_journal
    from .inspection import Inspection, inspect_journal, verify_journal
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
    "Compacted",
    "Fenced",
    "Inspection",
    "Journal",
    "JournalDamaged",
    "JournalError",
    "JournalFailed",
    "JournalGap",
    "JournalInUse",
    "MemoryJournal",
    "Repair",
    "SqliteJournal",
    "compact_journal",
    "inspect_journal",
    "repair_journal",
    "verify_journal",
]

_MODULE_OF = {
    "Compacted": "compaction",
    "Fenced": "protocol",
    "Inspection": "inspection",
    "Journal": "protocol",
    "JournalDamaged": "protocol",
    "JournalError": "protocol",
    "JournalFailed": "protocol",
    "JournalGap": "protocol",
    "JournalInUse": "protocol",
    "MemoryJournal": "memory",
    "Repair": "repair",
    "SqliteJournal": "sqlite",
    "compact_journal": "compaction",
    "inspect_journal": "inspection",
    "repair_journal": "repair",
    "verify_journal": "inspection",
}
"""Public name -> the module that defines it."""


__getattr__ = importer(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return __all__
