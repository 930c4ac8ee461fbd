"""The contract that `arcp_io.journal.protocol` states, for journals in memory and in a file.

tests/cluster/test_journal_contract.py runs the same tests for a shard of a store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcp_io.journal import Journal, JournalError, JournalGap, JournalInUse, MemoryJournal, SqliteJournal
from arcp_io.journal import rows as rows_module
from arcp_io.journal import sqlite as sqlite_module
from arcp_io.journal.protocol import LEAST_RECORDS
from tests.io.journaled import Watched, numbered

Fresh = Callable[[], Journal]
"""Makes an empty journal."""


def in_memory(path: Path) -> Fresh:
    return MemoryJournal


def full(path: Path) -> Fresh:
    paths = (path / f"journal-{number}" for number in range(1_000))
    return lambda: SqliteJournal(next(paths))


def normal(path: Path) -> Fresh:
    paths = (path / f"journal-{number}" for number in range(1_000))
    return lambda: SqliteJournal(next(paths), sync="normal")


@pytest.fixture(params=[in_memory, full, normal])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Fresh:
    """Return a function that makes a journal, for each kind of journal."""
    return request.param(tmp_path)


@pytest.fixture(params=[full, normal])
def fresh_threaded(request: pytest.FixtureRequest, tmp_path: Path) -> Fresh:
    """Return a function that makes a journal, for each kind that stores records on a thread of its own."""
    return request.param(tmp_path)


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the rows of snapshots, so that a snapshot has many rows."""
    monkeypatch.setattr(sqlite_module, "rows", lambda records: rows_module.rows(records, 20))


def test_records_survive_and_their_numbers_go_on(fresh: Fresh) -> None:
    journal = fresh()
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


@pytest.mark.parametrize("first", [0, 2, 4, 100])
def test_a_gap_or_an_overlap_is_refused(fresh: Fresh, first: int) -> None:
    watched = Watched(fresh())
    watched.append(*numbered(0, 1, 2))
    with pytest.raises(JournalGap, match=f"the next record of the journal is 3, not {first}"):
        watched.journal.append(first, numbered(9))
    watched.append(*numbered(3))
    watched.close()
    watched = Watched(watched.journal)
    assert watched.held == numbered(0, 1, 2, 3)
    watched.close()


def test_durable_records_are_reported(fresh: Fresh) -> None:
    watched = Watched(fresh())
    for _ in range(50):
        watched.append(*numbered(1, 2))
    watched.close()
    assert watched.durable[-1] == 100
    assert watched.durable == sorted(set(watched.durable))
    assert watched.journal.waiting_bytes == 0


def test_nothing_is_reported_when_nothing_was_appended(fresh: Fresh) -> None:
    watched = Watched(fresh())
    watched.close()
    assert (watched.durable, watched.failures, watched.journal.failed) == ([], [], None)


def test_a_snapshot_stands_for_all_before_it(fresh: Fresh) -> None:
    watched = Watched(fresh())
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


def test_a_compaction_is_due_when_the_journal_has_grown(fresh: Fresh) -> None:
    watched = Watched(fresh())
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


def test_one_writer_at_a_time(fresh: Fresh) -> None:
    watched = Watched(fresh())
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


def test_records_of_a_newer_version_are_refused(fresh: Fresh) -> None:
    watched = Watched(fresh(), version=3)
    watched.append(b"x")
    watched.close()
    with pytest.raises(JournalError, match=r"version 3\b.* 2\b"):
        Watched(watched.journal, version=2)
    again = Watched(watched.journal, version=3)
    assert again.held == [b"x"]
    again.close()


def test_a_snapshot_may_be_empty(fresh: Fresh) -> None:
    watched = Watched(fresh())
    watched.append(*numbered(0, 1, 2))
    watched.journal.compact([])
    watched.append(*numbered(3))
    watched.compacted()
    watched.close()
    watched = Watched(watched.journal)
    assert (watched.held, watched.journal.next) == (numbered(3), 4)
    watched.close()


def test_a_record_has_any_size(fresh: Fresh) -> None:
    """Check records of which one append has more than fits in a row: they become durable together."""
    records = [b"", bytes(5_000_000), b"x", *[b"y" * 1_000_000] * 5, b""]
    watched = Watched(fresh())
    watched.append(*records)
    watched.settle()
    assert (watched.durable, watched.journal.waiting_bytes) == ([len(records)], 0)
    for record in records:
        watched.append(record)
    watched.close()
    watched = Watched(watched.journal)
    assert watched.held == records * 2
    watched.journal.compact([*records, b"snapshot"])
    watched.compacted()
    watched.close()
    watched = Watched(watched.journal)
    assert watched.held == [*records, b"snapshot"]
    watched.close()


def test_a_journal_is_read_before_it_is_written(fresh: Fresh) -> None:
    watched = Watched(fresh())
    watched.append(b"x")
    with pytest.raises(JournalError, match="before anything is appended"):
        next(watched.journal.read())
    watched.close()


def test_everything_that_waits_is_one_transaction(fresh_threaded: Fresh) -> None:
    watched = Watched(fresh_threaded())
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


def test_records_around_a_compaction_end_up_behind_it(fresh_threaded: Fresh) -> None:
    """Check records around a compaction that wait with earlier ones, and are stored in one row with these."""
    watched = Watched(fresh_threaded())
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


def test_records_are_stored_while_a_snapshot_is_written(fresh_threaded: Fresh) -> None:
    watched = Watched(fresh_threaded())
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


def test_a_compaction_that_is_under_way_at_the_end_is_given_up(fresh_threaded: Fresh) -> None:
    watched = Watched(fresh_threaded())
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
    while not watched.closing:
        pass
    go_on.set()
    closing.join()
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


@pytest.mark.usefixtures("short_rows")
@given(steps=STEPS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_journal_holds_the_same_as_a_list(fresh: Fresh, steps: list[tuple[str, int]]) -> None:
    """Compare a journal with a list; each snapshot is a copy of the list."""
    watched = Watched(fresh())
    held: list[bytes] = []
    appended = 0
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
