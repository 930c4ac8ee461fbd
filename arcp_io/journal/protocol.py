"""What a journal is to those who write to it: numbered records of bytes that survive the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

LEAST_RECORDS: Final = 10_000
"""Records behind the last snapshot below which a journal is not compacted."""
LEAST_BYTES: Final = 64 * 1024 * 1024
"""Bytes of them, likewise."""
GROWTH: Final = 4
"""How many times the size of its last snapshot a journal may grow before it is compacted."""

Durable = Callable[[int], object]
"""Told that every record with a lower number survives the process; called from any thread."""
Failed = Callable[[Exception], object]
"""Told, once, that nothing more will be stored; called from any thread."""


class JournalError(Exception):
    """A journal that cannot be used; the message says why, and what to do about it."""


class JournalInUse(JournalError):
    """Somebody else has the journal open."""


class JournalDamaged(JournalError):
    """Something of the journal is lost, and it was left as it is; `repair_journal` keeps what is good."""


class JournalFailed(JournalError):
    """The journal could not store something (disk full, I/O error): from then on it stores nothing."""


class JournalGap(JournalError):
    """Records were to be appended under other numbers than those that come next."""


class Amount(NamedTuple):
    """So many records, and bytes of them."""

    records: int = 0
    bytes: int = 0


class Journal(Protocol):
    """Records of bytes, numbered from 0 without a gap, through all openings of the journal.

    `open`, `append`, `compact` and `close` are called from one thread, and only the first and the last of
    them may wait for the disk. What is read is a snapshot, which stands for the records before it, and the
    records behind it.
    """

    failed: Exception | None
    """Why it stores nothing any more; None while all is well."""
    dropped: str
    """What of an unfinished write was found when it was opened, in words; empty: everything is there."""

    @property
    def next(self) -> int:
        """The number of the next record."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that were appended and are not durable yet."""

    @property
    def compaction_due(self) -> bool:
        """Whether it has grown enough to be worth a `compact`, and none is under way."""

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        """Open it for one writer, whose records are of this version; it may have been closed before.

        Raises JournalError: JournalInUse when it is open already, JournalDamaged when something of it is lost
        that was durable, others for one that was written by a newer version or cannot be read.
        """

    def read(self) -> Iterator[bytes]:
        """What it held when it was opened, in order; to be read before the first `append`."""

    def append(self, first: int, records: Sequence[bytes]) -> None:
        """Store records numbered from `first` on. After a failure nothing happens.

        Raises JournalGap, and stores nothing, unless `first` is `next`.
        """

    def compact(self, snapshot: Iterable[bytes]) -> None:
        """Let a snapshot stand for all records so far; those that follow end up behind it.

        It is consumed by and by, maybe on another thread. If that fails, everything stays as it is.
        """

    def close(self) -> None:
        """Store what waits, report it, and let go of it; again is harmless."""


def grown(snapshot: Amount, since: Amount) -> bool:
    """Whether what was appended since a snapshot outweighs it, so that a new one is due."""
    return since.records > max(LEAST_RECORDS, GROWTH * snapshot.records) or since.bytes > max(
        LEAST_BYTES, GROWTH * snapshot.bytes
    )
