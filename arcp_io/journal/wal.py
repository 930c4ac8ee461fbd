"""The write-ahead log of a journal's file: how many pages it has, and how many of them are undamaged.

SQLite stops reading at the first damaged frame, and does not report it. The file
is a header of 32 bytes and frames, in big-endian words of 32 bits:

header    magic, format, bytes of a page, how often the log was begun anew, salt (two words), checksum (two)
frame     number of the page, pages of the database if the frame ends a transaction (else 0), salt (two),
          checksum (two), and the page

A log that is begun anew overwrites the frames of the one before, whose salt is another one. A checksum goes
on from the one before it.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple

from .sqlite_draft import PAGE_BYTES

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
LOG_HEADER_BYTES: Final = _HEADER.size
"""Bytes of the header, which changes whenever the log is restarted."""
_FRAME_BYTES: Final = _FRAME.size + PAGE_BYTES
_ORDER_OF_MAGIC: Final = {0x377F0682: "<", 0x377F0683: ">"}
"""Magic -> byte order of the words that a checksum is computed from."""
_FORMAT: Final = 3_007_000
_WORD: Final = 0xFFFFFFFF

Sums = tuple[int, int]


class Log(NamedTuple):
    """Pages of a write-ahead log; `good` counts those of its complete transactions, from its beginning."""

    pages: int
    good: int
    damaged: bool
    """Whether a complete transaction cannot be read: the journal has lost more than an unfinished write at
    its end.
    """

    @property
    def lost(self) -> int:
        """Number of pages that SQLite does not read."""
        return self.pages - self.good


def log_of(path: str) -> str:
    """Return the path of the write-ahead log of a file."""
    return f"{path}-wal"


def read_log(path: str) -> Log:
    """Read the write-ahead log of a file that no connection has open; raises OSError.

    The length of the log gives the number of frames. Frames of an earlier log behind the end do not count.
    """
    with suppress(FileNotFoundError), open(log_of(path), "rb") as file:
        return _read(file, os.fstat(file.fileno()).st_size)
    return Log(0, 0, damaged=False)


def _read(file: BinaryIO, size: int) -> Log:
    head = file.read(LOG_HEADER_BYTES)
    magic, form, page_bytes, resets, *salt, first, second = _HEADER.unpack(
        head.ljust(LOG_HEADER_BYTES, b"\0")
    )
    order = _ORDER_OF_MAGIC.get(magic, "")
    whole = len(head) == LOG_HEADER_BYTES and bool(order) and (form, page_bytes) == (_FORMAT, PAGE_BYTES)
    sums = _checksum(order, head[:-8], (0, 0)) if whole else (0, 0)
    reading = whole = whole and sums == (first, second)
    pages = good = 0
    ends = []
    """Numbers of the pages that end a transaction which is not read."""
    for number in range(1, -(-max(0, size - LOG_HEADER_BYTES) // _FRAME_BYTES) + 1):
        data = file.read(_FRAME_BYTES)
        page, commit, *found, first, second = _FRAME.unpack(data[: _FRAME.size].ljust(_FRAME.size, b"\0"))
        if reading and page and found == salt and len(data) == _FRAME_BYTES:
            sums = _checksum(order, data[:8], sums)
            sums = _checksum(order, data[_FRAME.size :], sums)
            reading = sums == (first, second)
        else:
            reading = False
        if not reading and whole and _is_older(found, salt, resets):
            continue
        pages = number
        if reading and commit:
            good = number
        elif commit:
            ends.append(number)
    if size > 0 and not whole:
        return Log(max(1, pages), 0, damaged=pages > 0)
    return Log(pages, good, damaged=any(end < pages for end in ends))


def _is_older(found: list[int], salt: list[int], resets: int) -> bool:
    """Return whether a frame has the salt of an earlier log.

    The first word of the salt counts up, the second is random. No log has a salt of zeros.
    """
    return 0 < (salt[0] - found[0]) & _WORD <= resets and found[1] not in (salt[1], 0)


def _checksum(order: str, data: bytes, sums: Sums) -> Sums:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = first + even + second & _WORD
        second = second + odd + first & _WORD
    return first, second
