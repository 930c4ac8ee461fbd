"""The file of a journal: whose it is, what it survives, and what is said when something is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arcp_io.journal import JournalError, JournalInUse, Repair, SqliteJournal, repair_journal, sqlite_file
from arcp_io.journal import sqlite as sqlite_module
from arcp_io.journal import sqlite_draft as draft_module
from tests.io.journaled import Watched, filled, held_by, numbered, query, repaired
from tests.io.processes import environment

ROWS = [b"%d " % number + b"x" * 4_000 for number in range(100)]


def running(path: Path, *words: str) -> subprocess.Popen[str]:
    """Start a process that appends to a journal."""
    command = [sys.executable, "-m", "tests.io.journaled", str(path), *words]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


# Owner and permissions.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        watched = Watched(SqliteJournal(tmp_path / "journal"))
        watched.append(b"x")
        watched.settle()
        assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
            "journal": "0o600",
            "journal-wal": "0o600",
            "journal.lock": "0o600",
        }
        watched.close()
        (tmp_path / "journal").chmod(0o644)
        watched = Watched(SqliteJournal(tmp_path / "journal"))
        assert mode(tmp_path / "journal") == "0o600"
        watched.close()
    finally:
        os.umask(before)


def test_two_never_share_it(path: Path, tmp_path: Path) -> None:
    watched = Watched(SqliteJournal(path))
    (tmp_path / "link").symlink_to(path)
    for name in ("journal", "link"):
        with pytest.raises(JournalInUse, match=rf"{path} is in use by process {os.getpid()}"):
            Watched(SqliteJournal(tmp_path / name))
    watched.journal.compact([b"snapshot"])
    watched.compacted()
    with pytest.raises(JournalInUse):
        Watched(SqliteJournal(path))
    watched.close()
    Watched(SqliteJournal(path)).close()


def test_another_process_keeps_it_to_itself_until_it_is_gone(path: Path, tmp_path: Path) -> None:
    with running(path, "full") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalInUse, match=f"process {other.pid}: stop it"):
            Watched(SqliteJournal(path))
        other.kill()
    Watched(SqliteJournal(path)).close()


def test_a_program_that_looks_into_it_keeps_us_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, ROWS)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM journal").fetchall()
    with pytest.raises(JournalInUse, match=f"{path} is in use by another program"):
        Watched(SqliteJournal(path))
    other.close()
    assert held_by(path) == ROWS


# Files that are not journals.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Dear diary, today I have written a rather long entry. " * 10, "is not a journal"),
        (b"x", "is not a journal"),
        (b"SQLite format 3\0" + bytes(1000), "is not a journal"),
        (b"SQLite format 3\0" + bytes(52) + b"ARCP" + bytes(1000), "is damaged beyond repair"),
    ],
)
def test_a_file_that_is_not_a_journal_stays_unchanged(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "diary"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=said):
        Watched(SqliteJournal(path))
    assert path.read_bytes() == content
    with pytest.raises(JournalError):  # The lock was let go.
        Watched(SqliteJournal(path))


def test_a_file_that_does_not_say_what_it_holds_is_refused(path: Path, tmp_path: Path) -> None:
    filled(path, ROWS)
    query(path, "DELETE FROM journal")
    db = sqlite3.connect(path)
    db.execute("DELETE FROM journal")
    db.commit()
    db.close()
    with pytest.raises(JournalError, match="its header row is missing or invalid"):
        Watched(SqliteJournal(path))


@pytest.mark.parametrize("name", ["missing/journal", "directory"])
def test_a_path_that_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(JournalError, match=f"the journal {tmp_path / name} cannot be opened: "):
        Watched(SqliteJournal(tmp_path / name))


def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    assert held_by(tmp_path / "journal") == []


# Versions.


def test_a_newer_schema_is_refused(path: Path, tmp_path: Path) -> None:
    filled(path, ROWS)
    query(path, "PRAGMA user_version=7")
    said = rf"^{path} has version 7 of the schema, and this .* up to 1: use a newer arcp-io"
    with pytest.raises(JournalError, match=said):
        Watched(SqliteJournal(path))
    query(path, "PRAGMA user_version=1")
    assert held_by(path) == ROWS


@pytest.fixture
def newer_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", 3)
    steps = {1: ["ALTER TABLE journal ADD COLUMN two INTEGER DEFAULT 2"], 2: ["CREATE TABLE three (x)"]}
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", steps)


@pytest.mark.usefixtures("newer_schema")
def test_an_older_schema_is_migrated_and_a_copy_kept(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal", tmp_path / "journal.schema-1-records-1-1"
    filled(path, ROWS, snapshot=[b"a", b"b"])
    (tmp_path / "journal.schema-1-records-1").write_text("precious")
    assert held_by(path) == [b"a", b"b", b"behind", *ROWS]
    assert query(path, "SELECT two FROM journal") == [(2,)]
    assert query(path, "SELECT * FROM three") == []
    assert query(path, "PRAGMA user_version") == [(3,)]
    assert mode(copy) == "0o600"
    assert query(copy, "PRAGMA user_version") == [(1,)]
    assert query(copy, "SELECT sum(span) FROM record") == [(101,)]
    assert query(copy, "PRAGMA integrity_check") == [("ok",)]
    assert (tmp_path / "journal.schema-1-records-1").read_text() == "precious"


def test_a_migration_that_fails_changes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, ROWS)
    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", {1: ["CREATE TABLE two (x)", "CREATE TABLE two (x)"]})
    with pytest.raises(JournalError, match="already exists"):
        Watched(SqliteJournal(path))
    monkeypatch.undo()
    assert query(path, "SELECT name FROM sqlite_master WHERE name = 'two'") == []
    assert held_by(path) == ROWS


def test_records_of_an_older_version_are_kept_in_a_copy(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path, ROWS)
    assert caplog.text == ""
    watched = Watched(SqliteJournal(path), version=2)
    assert watched.held == ROWS
    watched.close()
    assert query(path, "SELECT record_version FROM journal") == [(2,)]
    copy = f"{path}.schema-1-records-1"
    assert query(Path(copy), "SELECT record_version FROM journal") == [(1,)]
    assert f"the journal {path} was migrated; a copy from before is {copy}" in caplog.text


# Damage.


def place(path: Path, content: bytes) -> int:
    """Return the offset of some bytes in a file."""
    at = path.read_bytes().find(content)
    assert at > 0
    return at


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_a_flipped_byte_costs_what_stands_behind_it(path: Path, tmp_path: Path) -> None:
    filled(path, ROWS)
    overwrite(path, place(path, b"57 xxx"), b"5")
    overwrite(path, place(path, b"57 xxx") + 1_000, b"y")
    said = "everything from record 50 on (the checksum of the row of record 50 is wrong)"
    assert repaired(path) == Repair(50, said, str(tmp_path / "journal.damaged-1"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "journal",
        "journal.damaged-1",
        "journal.lock",
    ]
    assert mode(path) == "0o600"
    watched = Watched(SqliteJournal(path))
    assert watched.journal.dropped == ""
    assert watched.held == ROWS[:50]
    assert watched.journal.next == 50
    watched.append(*ROWS[50:])
    watched.close()
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    again = Watched(SqliteJournal(path))
    assert (again.held, again.journal.dropped) == (ROWS, "")
    again.close()


def test_a_row_that_is_gone_costs_what_stands_behind_it(path: Path, tmp_path: Path) -> None:
    filled(path, ROWS)
    db = sqlite3.connect(path)
    db.execute("DELETE FROM record WHERE first = 30")
    db.commit()
    db.close()
    assert repaired(path).lost == "everything from record 30 on (record 30 is missing)"
    assert held_by(path) == ROWS[:30]


@pytest.mark.parametrize("name", ["journal.damaged-1", "journal.damaged-2"])
def test_a_truncated_file_costs_its_end(path: Path, tmp_path: Path, name: str) -> None:
    for number in range(1, int(name[-1])):
        (tmp_path / f"journal.damaged-{number}").touch()
    filled(path, ROWS)
    os.truncate(path, path.stat().st_size * 2 // 3)
    done = repaired(path)
    held = held_by(path)
    assert 0 < len(held) == done.records < 100
    assert held == ROWS[: len(held)]
    assert f"everything from record {len(held)} on" in done.lost
    assert done.copy == str(tmp_path / name)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("page", range(2, 25))
def test_a_page_of_nonsense_costs_no_more_than_its_end(path: Path, tmp_path: Path, page: int) -> None:
    filled(path, ROWS[:40], row=5)
    assert path.stat().st_size == 24 * draft_module.PAGE_BYTES
    overwrite(path, draft_module.PAGE_BYTES * (page - 1), b"\x5a" * draft_module.PAGE_BYTES)
    if page == 2:  # The table that says what the file holds.
        for act in (lambda: Watched(SqliteJournal(path)), lambda: repair_journal(path)):
            with pytest.raises(
                JournalError, match=f"{path} is damaged beyond repair: .* Put a backup in its"
            ):
                act()
        return
    assert repaired(path).lost
    watched = Watched(SqliteJournal(path))
    assert watched.held == ROWS[: len(watched.held)]
    watched.append(b"more")
    held = watched.held
    watched.close()
    assert held_by(path) == [*held, b"more"]


def test_a_damaged_snapshot_costs_what_stands_behind_it_too(path: Path, tmp_path: Path) -> None:
    snapshot = [b"%d:" % number + bytes(600_000) for number in range(6)]
    filled(path, ROWS, snapshot=snapshot)
    overwrite(path, place(path, b"3:" + bytes(50)) + 10, b"y")
    assert repaired(path).lost.startswith("its snapshot from record 2 on and everything behind it (")
    watched = Watched(SqliteJournal(path))
    assert watched.held == snapshot[:2]
    assert watched.journal.next == 1
    watched.close()
    assert held_by(path) == snapshot[:2]


def test_rows_of_a_snapshot_that_are_gone_are_missed(path: Path, tmp_path: Path) -> None:
    filled(path, ROWS, snapshot=[bytes(600_000)] * 4)
    db = sqlite3.connect(path)
    db.execute("DELETE FROM kept WHERE first = 2")
    db.commit()
    db.close()
    assert "1 of its rows are missing" in repaired(path).lost
    assert held_by(path) == [bytes(600_000)] * 2


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_torn_write_costs_itself(path: Path, tmp_path: Path, damage: str) -> None:
    """Check a power loss that leaves the write-ahead log of SQLite incomplete."""
    watched = Watched(SqliteJournal(path))
    for number in range(20):
        watched.append(*ROWS[number * 5 : number * 5 + 5])
        watched.settle()
    torn = tmp_path / "torn"
    shutil.copy(path, torn)
    shutil.copy(f"{path}-wal", f"{torn}-wal")
    watched.close()
    log = Path(f"{torn}-wal")
    size = log.stat().st_size
    if damage == "cut":
        os.truncate(log, size - 9_000)
    else:
        overwrite(log, size - 9_000, b"y")
    watched = Watched(SqliteJournal(torn))
    assert watched.held == ROWS[:95]
    assert "pages of an unfinished write at its end" in watched.journal.dropped
    watched.append(*ROWS[95:])
    watched.close()
    assert held_by(torn) == ROWS


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_reported_records_survive_a_kill(path: Path, tmp_path: Path, sync: str) -> None:
    durable = 0
    for _ in range(3):
        with running(path, sync) as process:
            assert process.stdout is not None
            for line in process.stdout:
                durable = int(line.split()[1]) if line.startswith("durable") else durable
                if durable % 7 == 3:
                    break
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                if line.startswith("durable ") and line.endswith("\n"):
                    durable = int(line.split()[1])
        copy = tmp_path / "copy"
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
        assert query(copy, "PRAGMA integrity_check") == [("ok",)]
        held = held_by(path)
        assert len(held) >= durable > 0
        assert held == numbered(*range(len(held)))


def test_a_kill_in_the_middle_of_a_compaction_loses_nothing(path: Path, tmp_path: Path) -> None:
    durable = 0
    for attempt in range(8):
        with running(path, "normal", "compacting") as process:
            assert process.stdout is not None
            reports = (line for line in process.stdout if line.startswith("durable "))
            for _ in range(3 + 2 * attempt):
                durable = int(next(reports).split()[1])
            time.sleep(attempt / 1_000)
            process.send_signal(signal.SIGKILL)
            for line in reports:
                durable = int(line.split()[1]) if line.endswith("\n") else durable
        held = held_by(path)
        assert len(held) >= durable > 0
        assert held == numbered(*range(len(held)))
        assert query(path, "PRAGMA integrity_check") == [("ok",)]
        assert sorted(found.name for found in tmp_path.iterdir()) == ["journal", "journal.lock"]


# What the disk refuses.


def test_a_full_disk_is_the_end_and_is_said_once(path: Path, tmp_path: Path) -> None:
    with running(path, "full", "1000000") as process:
        assert process.stdout is not None
        said = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert said[0] == "open"
    assert said[-1] == "threads 0"
    assert said[-2].startswith(f"failed the journal {path} cannot be written: ")
    assert "Everything reported durable is stored: make sure that its disk works and has room" in said[-2]
    assert all(line.startswith("durable ") for line in said[1:-2])
    durable = int(said[-3].split()[1])
    held = held_by(path)
    assert len(held) >= durable > 0
    assert held == numbered(*range(len(held)))


def test_after_a_failure_nothing_is_stored_or_reported(path: Path, tmp_path: Path) -> None:
    watched = Watched(SqliteJournal(path))
    watched.append(b"good")
    watched.settle()
    watched.inside._db.close()
    watched.append(b"lost")
    watched.settle()
    assert watched.failures == [watched.journal.failed]
    watched.append(b"lost too")
    watched.journal.compact([b"snapshot"])
    assert not watched.journal.compaction_due
    watched.close()
    assert (watched.durable, len(watched.failures)) == ([1], 1)
    watched = Watched(watched.journal)
    assert (watched.held, watched.journal.failed) == ([b"good"], None)
    watched.close()


def refuse(*args: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["draft", "swap"])
def test_a_compaction_that_fails_leaves_all_as_it_was(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    watched = Watched(SqliteJournal(path))
    watched.append(*[b"x"] * 20_000)
    assert watched.journal.compaction_due
    if step == "draft":
        monkeypatch.setattr(sqlite_module, "Draft", refuse)
    else:
        monkeypatch.setattr(draft_module.os, "replace", refuse)
    watched.journal.compact([b"snapshot"])
    watched.append(b"y")
    while "not compacted, and is unchanged" not in caplog.text:
        pass
    monkeypatch.undo()
    watched.append(b"z")
    watched.settle()
    assert watched.journal.failed is None
    assert not watched.journal.compaction_due, "not again at once"
    watched.append(*[b"x"] * 80_000)
    assert watched.journal.compaction_due
    watched.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "journal.lock"]
    assert held_by(path) == [*[b"x"] * 20_000, b"y", b"z", *[b"x"] * 80_000]


def test_a_journal_that_cannot_be_opened_again_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(SqliteJournal(tmp_path / "journal"))
    watched.append(b"x")
    watched.settle()
    monkeypatch.setattr(sqlite_module, "reopen_database", refuse)
    watched.journal.compact([b"snapshot"])
    while not watched.failures:
        pass
    assert "it cannot be opened again" in str(watched.failures[0])
    watched.close()
    monkeypatch.undo()
    assert held_by(tmp_path / "journal") == [b"snapshot"]


@pytest.mark.parametrize("seed", range(20))
def test_records_appended_at_any_step_of_a_compaction_are_kept(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, appended, steps = random.Random(seed), list[bytes](), list[str]()
    watched = Watched(SqliteJournal(tmp_path / "journal"))

    def append(step: str) -> None:
        steps.append(step)
        for _ in range(dice.randrange(4) if len(appended) < 100 else 0):
            records = numbered(*range(len(appended), len(appended) + dice.randrange(1, 4)))
            watched.append(*records)
            appended.extend(records)

    def interrupted(step: str) -> Callable[..., None]:
        go_on = getattr(draft_module.Draft, step)

        def do(self: draft_module.Draft, *rows: Any) -> None:
            append(step)
            go_on(self, *rows)
            append(step)

        return do

    for step in ("keep", "add", "complete", "finish"):
        monkeypatch.setattr(draft_module.Draft, step, interrupted(step))
    watched.append(b"before")
    watched.journal.compact(b"snapshot %d" % number + b"x" * 100_000 for number in range(12))
    watched.compacted()
    append("afterwards")
    watched.settle()
    watched.close()
    monkeypatch.undo()
    held = held_by(tmp_path / "journal")
    assert [len(record) for record in held[:12]] == [100_010] * 10 + [100_011] * 2
    assert held[12:] == appended
    assert {"keep", "add", "complete", "finish"} <= {*steps}


def test_the_file_of_an_unfinished_compaction_is_removed(path: Path, tmp_path: Path) -> None:
    filled(path, ROWS)
    (tmp_path / "journal.arcp-io-new").write_bytes(b"half of a file")
    assert held_by(path) == ROWS
    assert not (tmp_path / "journal.arcp-io-new").exists()


def test_files_of_others_beside_a_journal_are_kept(path: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.new").write_text("precious")
    filled(path, ROWS)
    assert held_by(path) == ROWS
    assert (tmp_path / "journal.new").read_text() == "precious"


def test_a_lock_file_of_another_program_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "Cargo.lock").write_text("# precious\n")
    (tmp_path / "Cargo.lock").chmod(0o644)
    with pytest.raises(JournalError, match=r"Cargo\.lock is not the lock of a journal: move it away"):
        held_by(tmp_path / "Cargo")
    assert (tmp_path / "Cargo.lock").read_text() == "# precious\n"
    assert (tmp_path / "Cargo.lock").stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["Cargo.lock"]


def test_no_thread_outlives_its_journal(tmp_path: Path) -> None:
    before = threading.active_count()
    watched = Watched(SqliteJournal(tmp_path / "journal"))
    assert threading.active_count() == before + 1
    watched.close()
    assert threading.active_count() == before


def test_a_compaction_that_is_given_up_leaves_no_file(path: Path, tmp_path: Path) -> None:
    watched = Watched(SqliteJournal(path))
    watched.append(b"x")
    at_work, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield bytes(1_000_000)
        at_work.set()
        go_on.wait()
        yield bytes(1_000_000)

    watched.journal.compact(slowly())
    at_work.wait()
    closing = threading.Thread(target=watched.close)
    closing.start()
    while not watched.inside._closing:
        pass
    go_on.set()
    closing.join()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["journal", "journal.lock"]


def test_a_journal_knows_how_safe_it_is(path: Path) -> None:
    sync: Any = "off"
    with pytest.raises(ValueError, match='"full" or "normal"'):
        SqliteJournal(path, sync=sync)
