"""Flipped bits, cuts and zeroed sectors of a journal's files: each is whole, or told; none is silent.

A runtime was killed: some of its records are in the file, and more in the write-ahead log beside it.

python -m tests.io.test_damaged_journal EVERY
    damages every so manieth byte, and prints what came of it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from arcp_io.journal import JournalDamaged, JournalError, SqliteJournal, repair_journal, sqlite_file
from arcp_io.journal.sqlite_draft import PAGE_BYTES, Draft
from arcp_io.journal.wal import read_log
from tests.io.journaled import VERSION, Watched, held_by, numbered

SNAPSHOT: Final = [b"snapshot %d" % number for number in range(4)]
RECORDS: Final = [*SNAPSHOT, *numbered(*range(42))]
ROW: Final = 3
"""Records of a transaction."""
SECTOR: Final = 512
LOG_HEAD: Final = 32
FRAME: Final = 24 + PAGE_BYTES


class Damage(NamedTuple):
    """A damage to one of the two files of a journal, at one byte."""

    file: str
    kind: str
    at: int

    def do(self, path: Path) -> bool:
        """Damage a copy; returns whether anything is different now."""
        target = Path(f"{path}{self.file}")
        before = target.read_bytes()
        if self.kind == "cut":
            after = before[: self.at]
        elif self.kind == "zeroed":
            after = before[: self.at] + bytes(SECTOR) + before[self.at + SECTOR :]
            after = after[: len(before)]
        else:
            flipped = before[self.at] ^ 1 << (self.at * 7 + 3) % 8
            after = before[: self.at] + bytes([flipped]) + before[self.at + 1 :]
        target.write_bytes(after)
        return before != after


class Killed:
    """The files of a runtime that was killed."""

    def __init__(self, directory: Path) -> None:
        live = directory / "live"
        self.path = directory / "killed"
        self.ends = [0, LOG_HEAD]
        """Lengths of the write-ahead log at which no transaction is cut."""
        watched = Watched(SqliteJournal(live, sync="normal"))
        watched.append(b"before")
        watched.journal.compact(SNAPSHOT)
        watched.append(*RECORDS[4:10])
        watched.compacted()
        watched.settle()
        watched.close()
        watched = Watched(SqliteJournal(live, sync="normal"))
        for first in range(10, len(RECORDS), ROW):
            watched.append(*RECORDS[first : first + ROW])
            watched.settle()
            self.ends.append(os.path.getsize(f"{live}-wal"))
        for file in ("", "-wal"):
            shutil.copy(f"{live}{file}", f"{self.path}{file}")
        watched.close()

    def size(self, file: str) -> int:
        return os.path.getsize(f"{self.path}{file}")

    def damages(self, every: int) -> Iterator[Damage]:
        """Yield flips at every `every`-th byte, and at more in the headers; zeroed sectors; and cuts."""
        for file in ("", "-wal"):
            size = self.size(file)
            heads = set(range(LOG_HEAD if file else 100))
            if file:
                heads |= {at + byte for at in range(LOG_HEAD, size, FRAME) for byte in range(24)}
            flips = {*sorted(heads)[:: 1 + every // 100], *range(0, size, every)}
            yield from (Damage(file, "flipped", at) for at in sorted(flips))
            yield from (Damage(file, "zeroed", at) for at in range(0, size, SECTOR * (1 + every // 64)))
            yield from (Damage(file, "cut", at) for at in range(0, size, 1 + every * 5))
        yield from (Damage("-wal", "cut", end) for end in self.ends)

    def outcome(self, directory: Path, damage: Damage) -> str:
        """Damage a copy of the files in a directory, and open it; raises AssertionError for a silent loss."""
        path = directory / "journal"
        shutil.copy(self.path, path)
        shutil.copy(f"{self.path}-wal", f"{path}-wal")
        if not damage.do(path):
            return "same"
        before = files_of(path)
        try:
            held, dropped = opened(path)
        except JournalError as error:
            assert str(path) in str(error)
            if isinstance(error, JournalDamaged):
                assert not damage.file or files_of(path) == before, "not before it is asked for"
                return self._repaired(path)
            with pytest.raises(JournalError):
                repair_journal(path)
            assert not damage.file or files_of(path) == before
            return "refused"
        if held == RECORDS:
            return "whole"
        assert held == RECORDS[: len(held)]
        if damage.kind == "cut" and damage.file and damage.at in self.ends:
            return "an earlier state"
        assert dropped, f"{damage}: {len(RECORDS) - len(held)} records are lost, and no message says so"
        most = {"cut": len(RECORDS), "zeroed": 2 * ROW, "flipped": ROW}[damage.kind]
        assert len(held) >= len(RECORDS) - most, "more than what may have been unfinished"
        return "without an unfinished write"

    def _repaired(self, path: Path) -> str:
        before = files_of(path)
        done = repair_journal(path)
        assert done.lost
        assert files_of(Path(done.copy)) == before
        held = held_by(path)
        assert held == RECORDS[: len(held)]
        assert done.records == len(held)
        return "repaired"


def files_of(path: Path) -> list[bytes]:
    """Return the bytes of a journal's file and of its write-ahead log."""
    return [file.read_bytes() for file in (path, Path(f"{path}-wal")) if file.exists()]


def opened(path: Path) -> tuple[list[bytes], str]:
    """Return the records of a journal, and the message about what was dropped when it was opened."""
    watched = Watched(SqliteJournal(path, sync="normal"))
    watched.close()
    return watched.held, watched.journal.dropped


def outcomes(directory: Path, every: int) -> Counter[tuple[str, str, str]]:
    """Count the outcomes of all damages, by file and kind."""
    killed = Killed(directory)
    counted: Counter[tuple[str, str, str]] = Counter()
    for damage in killed.damages(every):
        with tempfile.TemporaryDirectory(dir=directory) as place:
            counted[damage.file, damage.kind, killed.outcome(Path(place), damage)] += 1
    return counted


def test_no_damage_is_silent(tmp_path: Path) -> None:
    counted = outcomes(tmp_path, 1_999)
    kinds = {(file, kind) for file, kind, _ in counted}
    assert kinds == {(file, kind) for file in ("", "-wal") for kind in ("flipped", "zeroed", "cut")}
    assert {outcome for _, _, outcome in counted} >= {"repaired", "refused", "whole", "an earlier state"}
    assert counted.total() > 100


@pytest.mark.parametrize("bit", range(64))
@pytest.mark.parametrize("frame", ["first", "middle"])
def test_a_bit_of_a_salt_is_told(tmp_path: Path, frame: str, bit: int) -> None:
    """SQLite stops reading there, and says nothing."""
    killed = Killed(tmp_path)
    pages = (killed.size("-wal") - LOG_HEAD) // FRAME
    at = LOG_HEAD + (0 if frame == "first" else pages // 2) * FRAME + 8
    log = Path(f"{killed.path}-wal")
    data = bytearray(log.read_bytes())
    data[at + bit // 8] ^= 1 << bit % 8
    log.write_bytes(data)
    said = r"everything from record \d+ on \((\d+) of (\d+) pages of its write-ahead log cannot be read\)"
    with pytest.raises(JournalDamaged, match=said):
        opened(killed.path)
    assert read_log(str(killed.path)).pages == pages


def test_the_rest_of_an_overwritten_log_does_not_count_as_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check a write-ahead log that starts again: it overwrites the old one from its beginning."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_BYTES", 10 * PAGE_BYTES)
    path, copy = tmp_path / "journal", tmp_path / "copy"
    watched = Watched(SqliteJournal(path))
    stale = 0
    for number in range(60):
        watched.append(b"%d" % number + bytes(3_000))
        watched.settle()
        for file in ("", "-wal"):
            shutil.copy(f"{path}{file}", f"{copy}{file}")
        log = read_log(str(copy))
        assert (log.lost, log.damaged) == (0, False)
        stale += (os.path.getsize(f"{copy}-wal") - LOG_HEAD) // FRAME > log.pages
        held, dropped = opened(copy)
        assert (len(held), dropped) == (number + 1, "")
    assert stale > 20
    watched.close()


def test_a_log_without_its_file_does_not_open_as_a_new_journal(tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    killed.path.unlink()
    for state in ("is missing", "is empty"):
        with pytest.raises(JournalError, match=f"{killed.path} {state}, but its write-ahead log .* is not"):
            opened(killed.path)
        killed.path.touch()


def test_a_journal_that_was_emptied_does_not_open_as_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Watched(SqliteJournal(path)).close()
    os.truncate(path, 0)
    with pytest.raises(
        JournalError, match=f"the journal {path} has lost its content: put a backup in its place"
    ):
        opened(path)
    path.unlink()
    assert opened(path) == ([], "")


@pytest.mark.parametrize("pages", [0, 5])
def test_a_file_that_is_larger_by_its_header_is_not_made_larger(tmp_path: Path, pages: int) -> None:
    killed = Killed(tmp_path)
    os.remove(f"{killed.path}-wal")
    there = killed.size("") // PAGE_BYTES
    with killed.path.open("r+b") as file:
        file.seek(28)
        file.write((there + pages).to_bytes(4, "big"))
    if not pages:
        assert opened(killed.path)[0] == RECORDS[:10]
        return
    with pytest.raises(JournalDamaged):
        opened(killed.path)
    assert killed.size("") == there * PAGE_BYTES


def damaged(directory: Path) -> tuple[Path, list[bytes]]:
    """Return a journal and its files; one bit of a salt in the write-ahead log is flipped."""
    killed = Killed(directory)
    Damage("-wal", "flipped", LOG_HEAD + 3 * FRAME + 9).do(killed.path)
    return killed.path, files_of(killed.path)


def refuse(*args: object) -> None:
    raise OSError(1, "Operation not permitted")


def test_a_copy_is_kept_where_files_cannot_have_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = damaged(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    done = repair_journal(path)
    assert files_of(Path(done.copy)) == before
    assert held_by(path) == RECORDS[: done.records]


def test_a_repair_that_is_interrupted_is_told_and_has_kept_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the file from being opened without its log, because alone it would be an older journal."""
    path, before = damaged(tmp_path)
    monkeypatch.setattr(Draft, "finish", refuse)
    with pytest.raises(JournalError, match=f"the journal {path} cannot be repaired: Operation not permitted"):
        repair_journal(path)
    assert (
        path.read_text() == f"The repair of this journal was interrupted: it is kept as {path}.damaged-1.\n"
    )
    assert files_of(Path(f"{path}.damaged-1")) == before
    monkeypatch.undo()
    with pytest.raises(JournalError, match=f"{path} is not a journal, or its header is destroyed"):
        opened(path)


def test_a_repair_for_which_there_is_no_room_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = damaged(tmp_path)
    monkeypatch.setattr(Draft, "complete", refuse)
    with pytest.raises(JournalError, match=f"the journal {path} cannot be repaired: Operation not permitted"):
        repair_journal(path)
    assert files_of(path) == before
    names = {"live", "live.lock", "killed", "killed-wal", "killed.lock"}
    assert {entry.name for entry in tmp_path.iterdir()} == names


@pytest.mark.parametrize(("size", "log"), [(0, (0, 0, False)), (1, (1, 0, False)), (32, (0, 0, False))])
def test_a_log_without_a_frame_has_lost_no_transaction(
    tmp_path: Path, size: int, log: tuple[int, int, bool]
) -> None:
    killed = Killed(tmp_path)
    os.truncate(f"{killed.path}-wal", size)
    assert read_log(str(killed.path)) == log
    assert opened(killed.path)[0] == RECORDS[:10]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for key, count in sorted(outcomes(Path(directory), int(sys.argv[1])).items()):
            print(count, *key)


if __name__ == "__main__":
    assert VERSION == 1
    main()
