"""Damaged files of a journal: the journal opens whole, or reports its losses, or raises JournalError.

The first byte of an input chooses one of a few journals of 42 records. Every six bytes behind it are a
damage: its kind, three bytes of its place, a value, and the file. A kind is a flipped bit, another byte, a
sector of zeros, a cut, a moved piece, or bytes at the end.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_io.journal import JournalError, SqliteJournal, repair_journal
    from arcp_proto.errors import ensure
    from arcp_proto.server.journal.records import RECORD_VERSION, encode_record
    from tests.io.journaled import Watched
    from tests.unit.world import CONFIG as WORLD
    from tests.unit.world import World

import msgspec

CORPUS: Final = Path(__file__).parent / "corpus" / "journal.ndjson"
SECTOR: Final = 512
STEP: Final = 6
MOST_DAMAGES: Final = 8
FILES: Final = ("journal", "journal-wal")
MEMORY: Final = "/dev/shm"
"""A directory in memory, where the system has one, so that files cost no write to a disk."""


class Damage(NamedTuple):
    """A change of one of the two files."""

    kind: int
    at: int
    value: int
    log: bool
    """Whether the damage is one of the write-ahead log."""

    @property
    def cuts(self) -> bool:
        """Return whether the end of a file is gone, as after a loss of power, unnoticed by a journal."""
        return self.kind == 3

    def do(self, data: bytearray) -> None:
        """Damage the bytes of a file."""
        if not data:
            return
        at = self.at % len(data)
        match self.kind:
            case 0:
                data[at] ^= 1 << self.value % 8
            case 1:
                data[at] = self.value
            case 2:
                start = at // SECTOR * SECTOR
                data[start : start + SECTOR] = bytes(len(data[start : start + SECTOR]))
            case 3:
                del data[at:]
            case 4:
                other = self.value * SECTOR % len(data)
                piece = data[other : other + SECTOR]
                data[at : at + len(piece)] = piece
            case _:
                data += bytes([self.value]) * (at % 5_000)


class Base(NamedTuple):
    """An undamaged journal: its two files, and its records."""

    files: tuple[bytes, bytes]
    records: list[bytes]


def check(data: bytes) -> None:
    """Open a damaged journal; raises InvariantViolated if it holds wrong records, or loses some unnoticed."""
    if not data:
        return
    base = bases()[data[0] % len(bases())]
    damages = list(read(data[1:]))
    files = [bytearray(content) for content in base.files]
    for damage in damages:
        damage.do(files[damage.log])
    path = place() / FILES[0]
    for name, content in zip(FILES, files, strict=True):
        (place() / name).write_bytes(content)
    try:
        check_files(path, base, may_be_cut=any(damage.cuts for damage in damages))
    finally:
        for left in place().iterdir():
            left.unlink()


def check_files(path: Path, base: Base, *, may_be_cut: bool) -> None:
    """Open the files, or repair them and open them then."""
    opened = open_at(path)
    if opened is None:
        try:
            done = repair_journal(path)
        except JournalError:
            return
        ensure(done.lost, "a journal that is not damaged cannot be opened")
        opened = open_at(path)
        ensure(opened is not None, "a journal that was repaired cannot be opened")
        held, _ = opened or ([], "")
        ensure(len(held) == done.records, "a repair has kept another number of records")
        check_kept(held, base.records)
        return
    held, dropped = opened
    check_kept(held, base.records)
    told = held == base.records or bool(dropped) or may_be_cut
    ensure(told, f"{len(base.records) - len(held)} records are lost without a notice")


def check_kept(held: Sequence[bytes], records: Sequence[bytes]) -> None:
    """Check that the records of a journal are the first ones that were written to it, in their order."""
    ensure(list(held) == list(records[: len(held)]), "a journal holds a record that was never written to it")


def open_at(path: Path) -> tuple[list[bytes], str] | None:
    """Return the records of a journal, and its notice of dropped ones; None when it refuses to open."""
    journal = SqliteJournal(path, sync="normal")
    try:
        journal.open(RECORD_VERSION, lambda count: None, lambda error: None)
    except JournalError:
        return None
    try:
        return list(journal.read()), journal.dropped
    finally:
        journal.close()


def read(data: bytes) -> Iterator[Damage]:
    """Yield the damages that bytes name."""
    for start in range(0, min(len(data), MOST_DAMAGES * STEP), STEP):
        kind, high, middle, low, value, file = data[start : start + STEP].ljust(STEP, b"\0")
        yield Damage(kind % 6, high << 16 | middle << 8 | low, value, bool(file & 1))


@cache
def bases() -> list[Base]:
    """Return three journals: a closed one, one that was left open, and a compacted one."""
    return [_base(_closed), _base(_left_open), _base(_compacted)]


@cache
def place() -> Path:
    """Return a directory for the files, which is removed at the exit."""
    directory = tempfile.mkdtemp(prefix="fuzz-journal-", dir=MEMORY if os.path.isdir(MEMORY) else None)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


@cache
def records() -> list[bytes]:
    """Return encoded records of a runtime."""
    world = World(msgspec.structs.replace(WORLD, journal=True))
    peer = world.client()
    while len(world.records) < 42:
        job = peer.submit(input="x" * 500)
        world.emit(job)
        world.finish(job, "y" * 300)
    return [encode_record(record) for record in world.records[:42]]


def _base(make: Callable[[Path], list[bytes]]) -> Base:
    with tempfile.TemporaryDirectory(prefix="fuzz-journal-") as directory:
        path = Path(directory, FILES[0])
        held = make(path)
        log = Path(directory, FILES[1])
        return Base((path.read_bytes(), log.read_bytes() if log.exists() else b""), held)


def _filled(path: Path) -> Watched:
    watched = Watched(SqliteJournal(path, sync="normal"), RECORD_VERSION)
    for first in range(0, len(records()), 6):
        watched.append(*records()[first : first + 6])
        watched.settle()
    return watched


def _closed(path: Path) -> list[bytes]:
    _filled(path).close()
    return records()


def _left_open(path: Path) -> list[bytes]:
    """Copy a journal while it is open, as SIGKILL would leave it."""
    original = path.with_name("original")
    watched = _filled(original)
    for name in FILES:
        shutil.copy(original.with_name(name.replace("journal", "original")), path.with_name(name))
    watched.close()
    return records()


def _compacted(path: Path) -> list[bytes]:
    watched = _filled(path)
    watched.journal.compact(records()[:20])
    watched.compacted()
    watched.append(*records()[:5])
    watched.settle()
    watched.close()
    return [*records()[:20], *records()[:5]]


def words() -> list[str]:
    """Printable bytes that choose kinds and files."""
    return ["000000", "123451", "a~~~~a", "SQLite format 3"]


if __name__ == "__main__":
    logging.getLogger("arcp_io").setLevel(logging.CRITICAL)
    harness.run(check, CORPUS, words())
