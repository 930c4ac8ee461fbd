"""A journal in memory: for tests, and for servers in one process that follow one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .protocol import Amount, Durable, Failed, JournalError, JournalGap, JournalInUse, grown


class MemoryJournal:
    """A Journal whose records are durable as soon as they are appended, and are lost with the process."""

    failed: Exception | None = None
    dropped = ""
    waiting_bytes = 0

    def __init__(self) -> None:
        self._snapshot: list[bytes] = []
        self._records: list[bytes] = []
        self._next = 0
        self._version = 0
        self._kept = self._since = Amount()
        self._on_durable: Durable | None = None
        self._untouched = False
        """Whether nothing has been appended since the journal was opened."""

    def __repr__(self) -> str:
        return f"<MemoryJournal of {self._next} records>"

    @property
    def next(self) -> int:
        """The number of the next record."""
        return self._next

    @property
    def compaction_due(self) -> bool:
        """Whether the journal has grown enough to be worth a `compact`."""
        return grown(self._kept, self._since)

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        """Open the journal, as Journal.open; this journal never fails later."""
        if self._on_durable is not None:
            raise JournalInUse("this journal is open already")
        if record_version < self._version:
            raise JournalError(f"its records are of version {self._version}, newer than {record_version}")
        self._version = record_version
        self._on_durable = on_durable
        self._untouched = True

    def read(self) -> Iterator[bytes]:
        """Yield the snapshot and all records after it, as Journal.read."""
        if not self._untouched:
            raise JournalError("a journal is read when it is open, before anything is appended")
        yield from self._snapshot
        yield from self._records

    def append(self, first: int, records: Sequence[bytes]) -> None:
        """Store records and report them as durable before returning. Raises JournalGap."""
        if self._on_durable is None:
            raise JournalError("this journal is not open")
        check_gap(self._next, first)
        self._untouched = False
        self._records += records
        self._next += len(records)
        self._since = added(self._since, records)
        self._on_durable(self._next)

    def compact(self, snapshot: Iterable[bytes]) -> None:
        """Store a snapshot in place of all records so far."""
        self._snapshot = list(snapshot)
        self._records = []
        self._kept, self._since = added(Amount(), self._snapshot), Amount()

    def close(self) -> None:
        """Close the journal; it can be opened again."""
        self._on_durable = None


def check_gap(expected: int, first: int) -> None:
    """Raise JournalGap unless the first new record has the next number."""
    if first != expected:
        raise JournalGap(f"the next record of the journal is {expected}, not {first}")


def added(amount: Amount, records: Sequence[bytes]) -> Amount:
    """Return an amount increased by records."""
    return Amount(amount.records + len(records), amount.bytes + sum(map(len, records)))
