"""The write-ahead log of a journal: its whole transactions, its lost ones, and those of an earlier log."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from arcp_io.journal.sqlite_draft import PAGE_BYTES
from arcp_io.journal.wal import Log, log_of, read_log

HEADER: Final = 32
FRAME: Final = 24 + PAGE_BYTES
TRANSACTIONS: Final = 3


def write(path: Path, *, transactions: int = TRANSACTIONS, again: int = 0) -> bytes:
    """Return the log of a database after some transactions of two pages.

    With `again` the log is begun anew after them, and has that many transactions more.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in (f"page_size={PAGE_BYTES}", "journal_mode=WAL", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text BLOB)")
        for table in ("a", "b"):
            db.execute(f"CREATE TABLE {table} (text BLOB)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for _ in range(transactions):
            _store(db)
        if again:
            db.execute("PRAGMA wal_checkpoint(RESTART)")
            for _ in range(again):
                _store(db)
        return Path(log_of(str(path))).read_bytes()


def _store(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    for table in ("a", "b"):
        db.execute(f"INSERT INTO {table} VALUES (x'00')")
    db.execute("COMMIT")


def read(directory: Path, data: bytes) -> Log:
    """Read a log of these bytes."""
    path = directory / "copy"
    Path(log_of(str(path))).write_bytes(data)
    return read_log(str(path))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    data = write(tmp_path / "journal")
    assert len(data) == HEADER + 2 * TRANSACTIONS * FRAME
    return data


def test_a_whole_log_is_read_to_its_end(tmp_path: Path, data: bytes) -> None:
    log = read(tmp_path, data)
    assert log == Log(2 * TRANSACTIONS, 2 * TRANSACTIONS, damaged=False)
    assert log.lost == 0


def test_no_log_and_an_empty_one_have_no_pages(tmp_path: Path) -> None:
    assert read_log(str(tmp_path / "nothing")) == Log(0, 0, damaged=False)
    assert read(tmp_path, b"") == Log(0, 0, damaged=False)


@pytest.mark.parametrize("size", [1, HEADER - 1])
def test_a_log_that_ends_in_its_header_has_lost_a_page_and_no_transaction(
    tmp_path: Path, data: bytes, size: int
) -> None:
    assert read(tmp_path, data[:size]) == Log(1, 0, damaged=False)


@pytest.mark.parametrize("place", [0, 4, 8, HEADER - 1])
@pytest.mark.parametrize("frames", [0, 1, 4])
def test_behind_a_header_that_cannot_be_read_everything_is_lost(
    tmp_path: Path, data: bytes, place: int, frames: int
) -> None:
    cut = flipped(data, place)[: HEADER + frames * FRAME]
    assert read(tmp_path, cut) == Log(max(1, frames), 0, damaged=frames > 0)


def test_a_header_alone_has_no_pages(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data[:HEADER]) == Log(0, 0, damaged=False)


@pytest.mark.parametrize("missing", [1, FRAME - 25, FRAME - 1, FRAME])
def test_an_incomplete_last_transaction_is_not_damage(tmp_path: Path, data: bytes, missing: int) -> None:
    pages = 2 * TRANSACTIONS - (missing == FRAME)
    assert read(tmp_path, data[:-missing]) == Log(pages, 2 * TRANSACTIONS - 2, damaged=False)


@pytest.mark.parametrize("frame", range(2 * TRANSACTIONS))
@pytest.mark.parametrize("place", [3, 15, 23, 24, FRAME - 1])
def test_a_transaction_that_cannot_be_read_takes_those_behind_it_along(
    tmp_path: Path, data: bytes, frame: int, place: int
) -> None:
    """Check that a fault is damage before the last transaction, and an unfinished write in the last one."""
    found = read(tmp_path, flipped(data, HEADER + frame * FRAME + place))
    pages = 2 * TRANSACTIONS
    assert found == Log(pages, frame // 2 * 2, damaged=frame < pages - 2)


def test_frames_of_an_earlier_log_do_not_count(tmp_path: Path) -> None:
    data = write(tmp_path / "journal", again=1)
    assert len(data) == HEADER + 2 * TRANSACTIONS * FRAME
    assert read(tmp_path, data) == Log(2, 2, damaged=False)
    assert read(tmp_path, flipped(data, HEADER + FRAME + 30)) == Log(2, 0, damaged=False)


def test_behind_a_header_that_cannot_be_read_no_frame_is_known_as_an_earlier_one(tmp_path: Path) -> None:
    data = write(tmp_path / "journal", again=1)
    assert read(tmp_path, flipped(data, 0)) == Log(2 * TRANSACTIONS, 0, damaged=True)


def header(magic: int, order: str, form: int, page_bytes: int) -> bytes:
    """Return a header with its checksum, whose words are read in this order."""
    data = struct.pack(">6I", magic, form, page_bytes, 1, 2, 3)
    words = struct.unpack(f"{order}6I", data)
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) % 2**32
        second = (second + odd + first) % 2**32
    return data + struct.pack(">2I", first, second)


@pytest.mark.parametrize(
    ("magic", "order", "form", "page_bytes", "known"),
    [
        (0x377F0682, "<", 3_007_000, PAGE_BYTES, True),
        (0x377F0683, ">", 3_007_000, PAGE_BYTES, True),
        (0x377F0682, ">", 3_007_000, PAGE_BYTES, False),
        (0x377F0684, "<", 3_007_000, PAGE_BYTES, False),
        (0x377F0684, "=", 3_007_000, PAGE_BYTES, False),
        (0x377F0682, "<", 3_007_001, PAGE_BYTES, False),
        (0x377F0682, "<", 3_007_000, PAGE_BYTES * 2, False),
    ],
)
def test_a_header_is_known_by_its_magic_format_and_page_size(
    tmp_path: Path, magic: int, order: str, form: int, page_bytes: int, known: bool
) -> None:
    """Check the magic, which also says in which byte order the checksums read their words."""
    data = header(magic, order, form, page_bytes)
    assert read(tmp_path, data) == Log(0 if known else 1, 0, damaged=False)
