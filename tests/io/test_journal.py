"""What every journal does: numbers without a gap, durability that is reported, compaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcp_io.journal import Journal, JournalError, JournalGap, JournalInUse, MemoryJournal, SqliteJournal
from arcp_io.journal import sqlite as sqlite_module
from arcp_io.journal.protocol import LEAST_RECORDS
from tests.io.journaled import Watched, numbered

CUT: Final = sqlite_module.rows

Make = Callable[[Path], Journal]

KINDS: Final[dict[str, Make]] = {
    "memory": lambda path: MemoryJournal(),
    "full": lambda path: SqliteJournal(path / "journal"),
    "normal": lambda path: SqliteJournal(path / "journal", sync="normal"),
}

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_records_survive_and_their_numbers_go_on(tmp_path: Path, kind: str) -> None:
    journal = KINDS[kind](tmp_path)
    watched = Watched(journal)
    assert (watched.held, journal.next) == ([], 0)
    journal.append(0, numbered(0, 1, 2))
    journal.append(3, numbered(3))
    watched.close()
    watched = Watched(journal)
    assert (watched.held, journal.next) == (numbered(0, 1, 2, 3), 4)
    journal.append(4, numbered(4))
    watched.close()
    watched = Watched(journal)
    assert watched.held == numbered(*range(5))
    watched.close()


@every_kind
@pytest.mark.parametrize("first", [0, 2, 4, 100])
def test_a_gap_or_an_overlap_is_refused(tmp_path: Path, kind: str, first: int) -> None:
    watched = Watched(KINDS[kind](tmp_path))
    watched.append(*numbered(0, 1, 2))
    with pytest.raises(JournalGap, match=f"the next record of the journal is 3, not {first}"):
        watched.journal.append(first, numbered(9))
    watched.append(*numbered(3))
    watched.close()
    watched = Watched(watched.journal)
    assert watched.held == numbered(0, 1, 2, 3)
    watched.close()


@every_kind
def test_what_is_durable_is_reported(tmp_path: Path, kind: str) -> None:
    watched = Watched(KINDS[kind](tmp_path))
    for _ in range(50):
        watched.append(*numbered(1, 2))
    watched.close()
    assert watched.durable[-1] == 100
    assert watched.durable == sorted(set(watched.durable))
    assert watched.journal.waiting_bytes == 0


@every_kind
def test_nothing_is_reported_when_nothing_was_appended(tmp_path: Path, kind: str) -> None:
    watched = Watched(KINDS[kind](tmp_path))
    watched.close()
    assert (watched.durable, watched.failures, watched.journal.failed) == ([], [], None)


@every_kind
def test_a_snapshot_stands_for_all_before_it(tmp_path: Path, kind: str) -> None:
    watched = Watched(KINDS[kind](tmp_path))
    watched.append(*numbered(0, 1, 2))
    watched.journal.compact([b"snapshot", b"of three"])
    watched.append(*numbered(3))
    watched.compacted()
    watched.close()
    for _ in range(2):
        watched = Watched(watched.journal)
        assert watched.journal.next == 4
        assert watched.held == [b"snapshot", b"of three", *numbered(3)]
        watched.close()


@every_kind
def test_it_is_worth_compacting_when_it_has_grown(tmp_path: Path, kind: str) -> None:
    watched = Watched(KINDS[kind](tmp_path))
    watched.append(*[b"x"] * LEAST_RECORDS)
    assert not watched.journal.compaction_due
    watched.append(b"x")
    assert watched.journal.compaction_due
    watched.close()
    watched = Watched(watched.journal)
    assert watched.journal.compaction_due
    watched.journal.compact([b"snapshot"])
    assert not watched.journal.compaction_due
    watched.append(*[b"x"] * LEAST_RECORDS)
    watched.settle()
    assert not watched.journal.compaction_due
    watched.close()


@every_kind
def test_one_writer_at_a_time(tmp_path: Path, kind: str) -> None:
    watched = Watched(KINDS[kind](tmp_path))
    with pytest.raises(JournalInUse):
        Watched(watched.journal)
    watched.close()
    watched.close()
    with pytest.raises(JournalError):
        watched.append(b"x")
    watched = Watched(watched.journal)
    watched.append(b"y")
    watched.close()
    assert watched.durable == [1]


@every_kind
def test_records_of_a_newer_version_are_refused(tmp_path: Path, kind: str) -> None:
    watched = Watched(KINDS[kind](tmp_path), version=3)
    watched.append(b"x")
    watched.close()
    with pytest.raises(JournalError, match=r"version 3\b.* 2\b"):
        Watched(watched.journal, version=2)
    again = Watched(watched.journal, version=3)
    assert again.held == [b"x"]
    again.close()


def test_a_journal_is_read_before_it_is_written(tmp_path: Path) -> None:
    watched = Watched(SqliteJournal(tmp_path / "journal"))
    watched.append(b"x")
    with pytest.raises(JournalError, match="before anything is appended"):
        next(watched.journal.read())
    watched.close()


def test_everything_that_waits_is_one_transaction(tmp_path: Path) -> None:
    watched = Watched(SqliteJournal(tmp_path / "journal"))
    watched.gate.clear()
    watched.append(b"first")
    while not watched.durable:
        pass
    for _ in range(10):
        watched.append(b"1234", b"56")
    assert watched.journal.waiting_bytes == 60
    watched.gate.set()
    watched.settle()
    assert watched.durable == [1, 21]
    watched.close()


def test_records_around_a_compaction_end_up_behind_it(tmp_path: Path) -> None:
    """They wait together with some before it, and so are stored in one row with these."""
    watched = Watched(SqliteJournal(tmp_path / "journal"))
    watched.gate.clear()
    watched.append(*numbered(0))
    while not watched.durable:
        pass
    watched.append(*numbered(1, 2))
    watched.journal.compact(numbered(100, 101))
    watched.append(*numbered(3, 4))
    watched.gate.set()
    watched.compacted()
    watched.append(*numbered(5))
    watched.close()
    watched = Watched(watched.journal)
    assert watched.held == numbered(100, 101, 3, 4, 5)
    assert watched.journal.next == 6
    watched.close()


def test_records_are_stored_while_a_snapshot_is_written(tmp_path: Path) -> None:
    watched = Watched(SqliteJournal(tmp_path / "journal", sync="normal"))
    watched.append(*numbered(0))
    at_work, go_on = threading.Event(), threading.Event()

    def snapshot() -> list[bytes]:
        return [bytes(600_000)] * 4

    def slowly() -> Iterator[bytes]:
        yield from snapshot()
        at_work.set()
        go_on.wait()
        yield from snapshot()

    watched.journal.compact(slowly())
    at_work.wait()
    with pytest.raises(JournalError):
        watched.journal.compact([])
    for number in range(1, 200):
        watched.append(*numbered(number))
    go_on.set()
    watched.compacted()
    watched.close()
    watched = Watched(watched.journal)
    assert watched.held == [*snapshot(), *snapshot(), *numbered(*range(1, 200))]
    watched.close()


def test_a_compaction_that_is_under_way_at_the_end_is_given_up(tmp_path: Path) -> None:
    watched = Watched(SqliteJournal(tmp_path / "journal"))
    watched.append(*numbered(0, 1))
    at_work, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield bytes(1_000_000)
        at_work.set()
        go_on.wait()
        yield bytes(1_000_000)

    watched.journal.compact(slowly())
    at_work.wait()
    watched.append(*numbered(2))
    closing = threading.Thread(target=watched.close)
    closing.start()
    while not watched.inside._closing:
        pass
    go_on.set()
    closing.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "journal.lock"]
    watched = Watched(watched.journal)
    assert watched.held == numbered(0, 1, 2)
    watched.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("compact"), st.integers(0, 4)),
        st.tuples(st.just("settle"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["memory", "normal"])
@given(steps=STEPS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_it_holds_the_same(
    tmp_path_factory: pytest.TempPathFactory, kind: str, steps: list[tuple[str, int]]
) -> None:
    """Against a list, in which nothing is compacted: a snapshot is all that it stands for, once more."""
    watched = Watched(KINDS[kind](tmp_path_factory.mktemp("journal")))
    held: list[bytes] = []
    appended = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_module, "rows", lambda records: CUT(records, 20))
        for step, count in [*steps, ("reopen", 0)]:
            if step == "append":
                new = numbered(*range(appended, appended + count))
                watched.append(*new)
                held += new
                appended += count
            elif step == "compact":
                watched.compacted()
                watched.journal.compact(list(held))
            elif step == "settle" and watched.durable:
                watched.compacted()
            elif step == "reopen":
                watched.close()
                watched = Watched(watched.journal)
                assert watched.held == held
                assert watched.journal.next == appended
    watched.close()


def test_a_journal_knows_how_safe_it_is(tmp_path: Path) -> None:
    sync: Any = "off"
    with pytest.raises(ValueError, match='"full" or "normal"'):
        SqliteJournal(tmp_path / "journal", sync=sync)
