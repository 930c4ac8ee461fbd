"""Up to which number the user has processed what the session brought (§6.5)."""

from __future__ import annotations

from typing import Final

from .ids import MILLISECOND, JobId, Time

ACK_INTERVAL: Final = 250 * MILLISECOND
"""Between two acks, and from a processed event to its ack; the draft says every few hundred milliseconds."""
ACK_EVENTS: Final = 32
"""Processed events that are worth an ack at once, unless the last was less than an interval ago."""


class Acks:
    """What was handed out and is not processed yet: one entry for each event that the user still holds."""

    __slots__ = ("_open", "processed", "sent_at", "told")

    def __init__(self, now: Time) -> None:
        self.told = 0
        """What the last ack said."""
        self.sent_at = Time(now - ACK_INTERVAL)
        self.processed = 0
        """Events processed since."""
        self._open: dict[tuple[int, JobId], None] = {}

    def handed_out(self, seq: int, job_id: JobId) -> None:
        """The user has to process this number of a job; every other counts as processed when it comes."""
        self._open[seq, job_id] = None

    def done(self, seq: int, job_id: JobId) -> None:
        """The user has; what was not handed out, or twice, is harmless."""
        if (seq, job_id) in self._open:
            del self._open[seq, job_id]
            self.processed += 1

    def cursor(self, last: int) -> int:
        """The number up to which all is processed, when everything up to `last` has come."""
        for seq, _ in self._open:
            return min(seq - 1, last)
        return last

    def tell(self, seq: int, now: Time) -> None:
        """An ack of `seq` is on its way."""
        self.told, self.sent_at, self.processed = seq, now, 0
