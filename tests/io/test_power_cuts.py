"""Records reported as durable survive a power cut at any moment, with `sync="full"`."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from arcp_io.journal import JournalDamaged, SqliteJournal, sqlite_file
from arcp_io.journal import sqlite_draft as draft_module
from arcp_io.journal.sqlite_draft import PAGE_BYTES
from tests.io.disk import Did, after_cut, noted
from tests.io.journaled import VERSION, Watched, numbered

CUTS = 150

Sync = Literal["full", "normal"]


def written(path: Path, sync: Sync, log: list[Did], chance: random.Random) -> int:
    """Append to a journal, which is compacted and closed now and then; returns how many records it got."""
    journal = SqliteJournal(path, sync=sync)
    inside: Any = journal

    def durable(count: int) -> None:
        log.append(Did("told", at=count))

    for _ in range(3):
        journal.open(VERSION, durable, lambda error: None)
        for turn in range(12):
            journal.append(journal.next, numbered(*range(journal.next, journal.next + chance.randint(1, 9))))
            if turn == 6:
                journal.compact(numbered(*range(journal.next)))
            while journal.waiting_bytes or inside._compacting is not None:
                os.sched_yield()
        journal.close()
    return journal.next


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a journal whose write-ahead log starts again every few transactions."""
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_BYTES", 6 * PAGE_BYTES)
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def cuts(log: list[Did], chance: random.Random) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield the number of records reported as durable before each cut, and the files after it."""
    begun = next(number for number, did in enumerate(log) if did.what == "sync directory")
    for _ in range(CUTS):
        end = chance.randint(begun + 1, len(log))
        told = max((did.at for did in log[:end] if did.what == "told"), default=0)
        yield told, after_cut(log[:end], chance)


def held_after(directory: Path, files: dict[str, bytes]) -> list[bytes]:
    """Return the records of a journal that is opened after a cut."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        for name, data in files.items():
            (Path(place) / name).write_bytes(data)
        watched = Watched(SqliteJournal(Path(place) / "journal", sync="normal"))
        watched.close()
        return watched.held


@pytest.mark.parametrize("seed", range(3))
def test_records_that_were_reported_durable_survive_a_power_cut(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    with monkeypatch.context() as patched, noted(place, patched) as log:
        count = written(place / "journal", "full", log, chance)
    assert [did.what for did in log].count("rename") == 1 + 3
    torn = 0
    for told, files in cuts(log, chance):
        held = held_after(tmp_path, files)
        assert held == numbered(*range(len(held)))
        assert told <= len(held) <= count
        torn += len(held) > told
    assert held_after(tmp_path, after_cut(log, chance)) == numbered(*range(count))
    assert torn, "more may be there than was told"


def test_with_normal_a_cut_leaves_what_came_first_or_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    with monkeypatch.context() as patched, noted(place, patched) as log:
        written(place / "journal", "normal", log, chance)
    lost = 0
    for told, files in cuts(log, chance):
        try:
            held = held_after(tmp_path, files)
        except JournalDamaged:
            lost += 1
            continue
        assert held == numbered(*range(len(held)))
        lost += len(held) < told
    assert lost, "the disk of this test loses nothing"


# The two settings on which it depends.


@pytest.mark.parametrize(("sync", "level"), [("full", 2), ("normal", 1)])
def test_every_connection_syncs_as_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: Sync, level: int
) -> None:
    """Compare `level` with the answer of PRAGMA synchronous before each row is stored."""
    path = tmp_path / "journal"
    found: list[tuple[str, int, int]] = []

    class Asked(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if statement.startswith("INSERT"):
                ask = super().execute
                settings = [ask(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "fullfsync")]
                _, _, file = ask("PRAGMA database_list").fetchone()
                found.append((Path(file.decode()).name, *settings))
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(
        draft_module.sqlite3, "connect", lambda *given, **more: connect(*given, factory=Asked, **more)
    )
    watched = Watched(SqliteJournal(path, sync=sync))
    for compacted in (True, True, False):
        watched.append(b"x")
        watched.settle()
        if compacted:
            watched.journal.compact([b"snapshot"])
            watched.compacted()
    watched.close()
    watched = Watched(SqliteJournal(path, sync=sync))
    watched.append(b"x")
    watched.close()
    stored = [asked for name, *asked in found if name == "journal"]
    drafts = [asked for name, *asked in found if name == "journal.arcp-io-new"]
    assert stored == [[level, 1]] * 4
    assert len(drafts) == 5
    assert {synchronous for synchronous, _ in drafts} == {2}


def test_the_directory_is_synced_after_each_swap(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, noted(place, patched) as log:
        watched = Watched(SqliteJournal(place / "journal"))
        for _ in range(2):
            watched.append(b"x")
            watched.journal.compact([b"snapshot"])
            watched.compacted()
        watched.close()
    done = [did.what for did in log if did.what in ("rename", "sync directory")]
    assert done == ["rename", "sync directory"] * 3
