"""The interface of a journal: numbered records of bytes that survive the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

LEAST_RECORDS: Final = 10_000
"""A journal with fewer records than this after its last snapshot is not compacted."""
LEAST_BYTES: Final = 64 * 1024 * 1024
"""A journal with fewer bytes of records than this after its last snapshot is not compacted."""
GROWTH: Final = 4
"""The factor by which a journal may outgrow its last snapshot before it is compacted."""

Durable = Callable[[int], object]
"""Called from any thread with the number below which every record survives the process.

The number grows, but for one case: it is told once more when a journal needs a `compact`, as its
`compaction_due` says, and nothing new is durable before that.
"""
Failed = Callable[[Exception], object]
"""Called once, from any thread, when the journal stops storing records."""


class JournalError(Exception):
    """A journal that cannot be used; the message gives the reason and the remedy."""


class JournalInUse(JournalError):
    """Another process or another object has the journal open."""


class JournalDamaged(JournalError):
    """The journal has lost records, and is left unchanged; `repair_journal` keeps the good part."""


class JournalFailed(JournalError):
    """The journal could not store a record (disk full, I/O error) and stores nothing from then on."""


class Fenced(JournalError):
    """Another process has taken the journal over, and this one stores nothing in it from then on."""


class JournalGap(JournalError):
    """The appended records do not have the next numbers."""


class Amount(NamedTuple):
    """A number of records, and their total size in bytes."""

    records: int = 0
    bytes: int = 0


class Journal(Protocol):
    """Records of bytes, numbered from 0 without a gap through all openings of the journal.

    `open`, `append`, `compact` and `close` are called from one thread; only `open` and `close` may wait for
    the disk. `read` returns a snapshot, which replaces the records before it, and the records after it.
    """

    dropped: str
    """A description of the unfinished write that was dropped at opening; empty if there was none."""

    @property
    def failed(self) -> Exception | None:
        """The error after which the journal stores nothing; None while it works."""

    @property
    def next(self) -> int:
        """The number of the next record."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that were appended and are not durable yet."""

    @property
    def compaction_due(self) -> bool:
        """Whether the journal has grown enough to be worth a `compact`, with no compaction under way."""

    def open(self, record_version: int, on_durable: Durable, on_failed: Failed) -> None:
        """Open the journal for one writer with this version of records.

        A closed journal can be opened again. Raises JournalInUse when it is open already, JournalDamaged when
        it has lost durable records, and other JournalErrors when a newer version wrote it or it cannot be
        read.
        """

    def read(self) -> Iterator[bytes]:
        """Yield the records that the journal held when it was opened.

        Raises JournalError after the first `append`, and JournalDamaged for what `open` has not checked.
        """

    def append(self, first: int, records: Sequence[bytes]) -> None:
        """Store records numbered from `first` on: all of them, or none. After a failure it does nothing.

        Raises JournalGap, and stores nothing, unless `first` is `next`.
        """

    def compact(self, snapshot: Iterable[bytes]) -> None:
        """Replace all records so far by a snapshot; later records are stored after it.

        The snapshot is consumed step by step, possibly on another thread. A failure leaves the journal
        unchanged.
        """

    def close(self) -> None:
        """Store and report the waiting records, and close the journal; calling it again has no effect."""


def grown(snapshot: Amount, since: Amount) -> bool:
    """Return whether the records since a snapshot outweigh it, so that a new snapshot is due."""
    return since.records > max(LEAST_RECORDS, GROWTH * snapshot.records) or since.bytes > max(
        LEAST_BYTES, GROWTH * snapshot.bytes
    )
