"""Rows of a journal's file: many records as one blob, checked by a CRC."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

ROW_BYTES: Final = 1024 * 1024
"""Bytes of records in one row of a snapshot, at least."""


class Row(NamedTuple):
    """Records numbered from `first` on.

    The data are their lengths, 32-bit little-endian, then the records.
    """

    first: int
    span: int
    crc: int
    data: bytes

    @property
    def size(self) -> int:
        """Bytes of the records, without their lengths."""
        return len(self.data) - 4 * self.span


def pack(first: int, records: Sequence[bytes]) -> Row:
    """Return records as a row; raises OverflowError for a record of 4 GiB or more."""
    span = len(records)
    try:
        lengths = struct.pack(f"<{span}I", *map(len, records))
    except struct.error:
        raise OverflowError("a record is too long for a journal") from None
    data = b"".join((lengths, *records))
    return Row(first, span, _crc(first, span, data), data)


def unpack(row: Row) -> list[bytes]:
    """Return the records of a row; raises ValueError for a row that differs from what was written."""
    first, span, crc, data = row
    if not (type(first) is type(span) is type(crc) is int and type(data) is bytes):
        raise ValueError("a row has a value of a wrong type")
    if _crc(first, span, data) != crc:
        raise ValueError(f"the checksum of the row of record {first} is wrong")
    ends = list(accumulate(struct.unpack_from(f"<{span}I", data), initial=4 * span))
    return [data[start:end] for start, end in pairwise(ends)]


def rows(records: Iterable[bytes], least: int = ROW_BYTES) -> Iterator[Row]:
    """Yield records from number 0 on as rows of at least `least` bytes; the last may be shorter."""
    first = size = 0
    held: list[bytes] = []
    for record in records:
        held.append(record)
        size += len(record)
        if size >= least:
            yield pack(first, held)
            first += len(held)
            size = 0
            held = []
    if held:
        yield pack(first, held)


def _crc(first: int, span: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(b"%d %d" % (first, span)))
