"""The link between a runtime and its journal: stores its records, and restores it after a restart."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from arcp_io.journal import Fenced, JournalError
from arcp_proto import (
    RECORD_VERSION,
    CloseCode,
    InvariantViolated,
    JobKept,
    Record,
    Runtime,
    SessionKept,
    decode_record,
    encode_record,
)

if TYPE_CHECKING:
    from arcp_io.journal import Journal
    from arcp_proto import RuntimeConfig

    from .loop import Loop
    from .pump import Pump

AGENTS_WAIT: Final = 4 * 1024 * 1024
"""Bytes of records waiting for the disk above which agents wait too.

The events that they publish meanwhile, at most 64, take less than as much again.
"""
AGENTS_GO_ON: Final = AGENTS_WAIT // 2
RECORDS_BETWEEN_TURNS: Final = 64
"""Records of a snapshot that are encoded before the loop gets a turn."""


class Keeper:
    """Stores the records of one runtime in a journal, and tells its pump which of them are durable.

    The journal's numbers continue from one run to the next, those of a runtime begin at 0 each time.
    """

    def __init__(self, journal: Journal, loop: Loop) -> None:
        self._journal = journal
        self._loop = loop
        self._runtime: Runtime
        self._pump: Pump
        self._hold_agents: Callable[[bool], None]
        self._base = self._next = 0
        self._durable = 0
        self._failure: Exception | None = None
        self._awake = False
        self._holding = False
        self._restored = False
        self._closed = False

    def restore(self, config: RuntimeConfig, *, seed: bytes, now: int, unix: int) -> Runtime:
        """Open the journal, and return the runtime that it holds, or a new one.

        This blocks, so call it in a thread. Raises JournalError.
        """
        self._journal.open(RECORD_VERSION, self._on_durable, self._on_failed)
        self._base = self._next = self._durable = self._journal.next
        try:
            records = map(decode_record, self._journal.read())
            with _nothing_collected():
                self._runtime = Runtime.restore(config, records, seed=seed, now=now, unix=unix)
        except Fenced:
            raise
        except (Exception, InvariantViolated) as error:
            raise JournalError(
                f"the content of {self._journal} cannot be restored: {type(error).__name__}: {error}. Keep"
                " it, and start with another journal"
            ) from error
        finally:
            self._restored = True
            if self._closed:  # Closed by a caller that did not wait.
                self._journal.close()
        return self._runtime

    def attach(self, pump: Pump, hold_agents: Callable[[bool], None]) -> None:
        """Report to this pump.

        `hold_agents` is called when agents have to wait, and when they may continue.
        """
        self._pump = pump
        self._hold_agents = hold_agents

    # For the pump.

    @property
    def count(self) -> int:
        """The number of records that the runtime has made."""
        return self._runtime.record_count

    @property
    def behind(self) -> int:
        """The number of records that must be durable before everything so far is; 0 if it is."""
        count = self._runtime.record_count
        return count if count > self._runtime.persisted_count else 0

    def keep(self, records: Sequence[Record]) -> None:
        """Store new records; raises JournalError. Once the journal has failed they are dropped."""
        if self._closed or self._failure is not None:
            return
        journal, encoded = self._journal, [encode_record(record) for record in records]
        try:
            journal.append(self._next, encoded)
        except Fenced as fenced:
            self._on_failed(fenced)
            return
        self._next += len(encoded)
        if self._next - self._base != self._runtime.record_count:
            raise InvariantViolated("every record is kept")
        if not self._holding and journal.waiting_bytes > AGENTS_WAIT:
            self._hold(True)
        self._compact()

    def close(self) -> None:
        """Store waiting records, and close the journal; calling it again has no effect. Blocks."""
        self._closed = True
        if self._restored:
            self._journal.close()

    # From the journal's thread.

    def _on_durable(self, count: int) -> None:
        self._durable = count
        self._wake()

    def _on_failed(self, error: Exception) -> None:
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            with suppress(RuntimeError):  # The loop is closed.
                self._loop.call_from_thread(self._look)

    # On the loop.

    def _look(self) -> None:
        self._awake = False
        if self._closed:
            return
        if self._failure is not None:
            self._closed = True
            code, reason = CloseCode.INTERNAL_ERROR, "the journal failed"
            if isinstance(self._failure, Fenced):
                code, reason = CloseCode.SERVICE_RESTART, "another process goes on with the session"
            self._pump.abandon(code, reason, self._failure)
            return
        self._pump.persisted(self._durable - self._base, self._runtime.persisted)
        if self._holding and self._journal.waiting_bytes <= AGENTS_GO_ON:
            self._hold(False)
        if self._journal.compaction_due:
            self._pump.keep_made()
        if self._next - self._base == self._runtime.record_count:
            self._compact()

    def _compact(self) -> None:
        """Give the journal a snapshot if it needs one; it has every record of the runtime."""
        if self._journal.compaction_due:
            with _nothing_collected():
                self._journal.compact(_encoded(self._runtime.snapshot()))

    def _hold(self, held: bool) -> None:
        self._holding = held
        self._hold_agents(held)


def _encoded(snapshot: list[Record]) -> Iterator[bytes]:
    """Return a snapshot as bytes: records with changing objects now, all others while it is consumed.

    It is consumed on the journal's thread, which lets the loop run again and again.
    """
    ready = [
        record if isinstance(record, JobKept | SessionKept) else encode_record(record) for record in snapshot
    ]

    def encode() -> Iterator[bytes]:
        for count, record in enumerate(ready):
            yield record if isinstance(record, bytes) else encode_record(record)
            if count % RECORDS_BETWEEN_TURNS == 0:
                time.sleep(0)

    return encode()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Disable the garbage collector: repeated searches for cycles among many new objects take long."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
