"""How envelopes are told apart, and the splitting of a stream of bytes into lines (stdio, §4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

OVERLONG: Final = None
"""Stands in for a line that was longer than the limit and has been skipped."""


class Framing(StrEnum):
    """The boundary of envelopes: a WebSocket message a call, or lines of bytes cut anywhere (§4)."""

    MESSAGES = "messages"
    LINES = "lines"


class LineSplitter:
    """Splits a stream of bytes into lines, independent of how the stream is cut.

    A line ends in LF or CRLF; blank lines are skipped. Never holds more than `limit` bytes of a line.
    """

    __slots__ = ("_buffer", "_scanned", "_skipping")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._skipping = False

    @property
    def size(self) -> int:
        """Number of bytes held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes to the stream."""
        self._buffer += data

    def next(self, limit: int) -> tuple[bytes | None] | None:
        """Return a 1-tuple of the next line, or of OVERLONG; None when no line is complete."""
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            line = bytes(self._buffer[:end]).rstrip(b"\r") if end <= limit + 1 else b""
            overlong = end > limit + 1 or len(line) > limit
            del self._buffer[: end + 1]
            self._scanned = 0
            if self._skipping:
                self._skipping = False  # The tail of an overlong line, which was reported already.
            elif overlong:
                return (OVERLONG,)
            elif line.strip():
                return (line,)
        return self._overflow(limit)

    def _overflow(self, limit: int) -> tuple[None] | None:
        self._scanned = len(self._buffer)
        if self._skipping:
            self._buffer.clear()
            self._scanned = 0
        elif self._scanned > limit + 1:
            self._buffer.clear()
            self._scanned = 0
            self._skipping = True
            return (OVERLONG,)
        return None
