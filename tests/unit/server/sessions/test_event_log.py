"""A session's numbered events: no gap, bounded, and not visible before they are durable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import SECOND, Monotonic, SessionId
from arcp_proto.server.sessions.event_log import Log
from arcp_proto.wire.envelopes import Entry

SESSION = SessionId("sess_x")
NOW = Monotonic(5 * SECOND)


def log_of(*sizes: int) -> Log:
    log = Log(SESSION)
    for size in sizes:
        log.append(Entry(b"head%b", b"x" * size, position=log.last + 7), size, NOW)
    return log


def test_log_numbers_begin_at_one() -> None:
    log = Log(SESSION)
    assert (len(log), log.first, log.last, log.size) == (0, 1, 0, 0)
    log.append(Entry(b"h", b"abc"), 3, NOW)
    assert (len(log), log.first, log.last, log.size) == (1, 1, 1, 3)


def test_between_selects_entries_by_number() -> None:
    log = log_of(1, 2, 3, 4)
    assert [len(entry.payload) for entry in log.between(1, 3)] == [2, 3]
    assert log.between(4, 4) == []
    log.release(2)
    assert [len(entry.payload) for entry in log.between(2, 4)] == [3, 4]


def test_release_leaves_no_gap_in_the_log() -> None:
    log = log_of(1, 2, 3)
    assert log.release(0) == (0, 0)
    assert (log.first, log.size) == (1, 6)
    assert log.release(2) == (2, 3)
    assert (log.first, log.last, log.size, len(log)) == (3, 3, 3, 1)
    log.release(1)
    assert log.first == 3
    log.release(99)
    assert (log.first, log.last, log.size, len(log)) == (4, 3, 0, 0)
    log.append(Entry(b"h", b""), 0, NOW)
    assert log.last == 4


def test_excess_leaves_some_to_spare() -> None:
    assert log_of(*[1] * 16).excess(16, 1_000) == 0
    assert log_of(*[1] * 17).excess(16, 1_000) == 2
    log = log_of(*[1] * 40)
    log.release(10)
    assert log.excess(16, 1_000) == 25


def test_excess_by_size() -> None:
    assert log_of(10, 10, 10).excess(100, 30) == 0
    assert log_of(10, 10, 10).excess(100, 29) == 1
    assert log_of(100).excess(100, 10) == 1
    assert log_of(*[10] * 16).excess(100, 159) == 1  # 150 of 159 bytes are kept, with 9 to spare.


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 40), st.integers(1, 500))
def test_after_the_excess_has_gone_both_limits_hold(sizes: list[int], events: int, size: int) -> None:
    log = log_of(*sizes)
    excess = log.excess(events, size)
    if excess:
        log.release(excess)
    assert len(log) <= events and log.size <= size
    assert log.excess(events, size) == 0
    assert log.last == len(sizes)


def test_events_behind_an_envelope_that_waits_count_as_not_durable() -> None:
    log = log_of(*range(10, 20))
    log.mark(3)
    log.save(3, 5, Monotonic(1))
    assert log.unsaved == (0, 0)
    log.hold(8, 5)
    assert log.unsaved == (2, 18 + 19)
    log.hold(9, 6)
    assert log.unsaved == (2, 18 + 19), "what waits for the first envelope waits for the second one too"
    log.hold(1, 7)
    assert log.unsaved == (9, sum(range(11, 20)))
    log.release(4)
    assert log.unsaved == (6, sum(range(14, 20)))
    log.hold(0, 7)
    assert log.unsaved == (6, sum(range(14, 20)))
    log.save(7, 8, Monotonic(2))
    assert log.unsaved == (0, 0)


# Age.


def aged(*seconds: float) -> Log:
    log = Log(SESSION)
    for second in seconds:
        log.append(Entry(b"head", b"xx"), 2, Monotonic(int(second * SECOND)))
    return log


def test_an_empty_log_has_no_oldest_event() -> None:
    log = aged(1)
    log.release(1)
    assert (log.oldest_at, log.older_than(Monotonic(99 * SECOND))) == (None, 0)


def test_entries_of_one_second_have_one_age() -> None:
    log = aged(1, 1.5, 1.9, 3, 3.5)
    assert log.oldest_at == SECOND
    assert [log.older_than(Monotonic(int(at * SECOND))) for at in (1.9, 2, 3.9, 4)] == [0, 3, 3, 5]


def test_the_oldest_go_together_within_a_share() -> None:
    log = aged(1, 1.5, 1.9, 3)
    assert [log.oldest(events, 99) for events in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert [log.oldest(99, size) for size in (1, 2, 3, 5)] == [1, 1, 2, 3]
    log.release(2)
    assert log.oldest(99, 99) == 3
    log.release(3)
    assert log.oldest(99, 99) == 4


# Events that are allowed without a check of the limits.


def append(log: Log, size: int, at: float) -> bool:
    return log.append(Entry(b"head", b"x" * size), size, Monotonic(int(at * SECOND)))


@pytest.mark.parametrize(
    ("upto", "size", "until", "looks"),
    [
        (9, 99, None, [False, False, True]),  # A mark of time is due.
        (9, 99, 1.2, [False, True, True]),
        (9, 14, None, [False, True, True]),
        (2, 99, None, [False, True, True]),
        (0, 99, None, [True, True, True]),
    ],
)
def test_a_log_is_due_beyond_its_allowance(
    upto: int, size: int, until: float | None, looks: list[bool]
) -> None:
    log = Log(SESSION)
    assert append(log, 5, 1)
    log.allow(upto + 1, size, None if until is None else Monotonic(int(until * SECOND)))
    assert [(append(log, 5, at), log.due(Monotonic(int(at * SECOND)))) for at in (1.1, 1.2, 2)] == [
        (look, look) for look in looks
    ]


def test_extend_equals_repeated_append() -> None:
    entries = [Entry(b"head", b"x" * size) for size in (3, 1, 2)]
    log, other = aged(1), aged(1)
    log.allow(99, 99, None)
    assert log.extend([], NOW) == 0 and not log.due(Monotonic(SECOND))
    assert log.extend(entries, NOW) == 6
    for entry in entries:
        other.append(entry, len(entry.payload), NOW)
    assert (log.last, log.size, log.entries()) == (other.last, other.size, other.entries())
    assert [log.older_than(Monotonic(at * SECOND)) for at in (2, 5, 6)] == [1, 1, 4]
    assert log.due(NOW)


def test_a_release_withdraws_the_allowance_of_a_log() -> None:
    log = log_of(1, 1)
    log.allow(9, 99, None)
    assert not log.due(NOW)
    log.release(1)
    assert log.due(NOW)
    log.allow(9, 99, None)
    log.look_again()
    assert append(log, 1, 5)


def test_an_empty_log_has_no_allowance() -> None:
    log = Log(SESSION)
    log.allow(9, 99, None)
    assert append(log, 1, 0)
    assert log.oldest_at == 0


# Durability.


def test_events_that_are_not_durable_are_not_visible() -> None:
    log = log_of(1, 1)
    assert log.visible(persisted=0, records=0) == 2  # There is no journal.
    log.append(Entry(b"", b""), 0, NOW)
    assert log.visible(persisted=4, records=5) == 2
    log.mark_run(5)
    assert log.visible(persisted=4, records=5) == 2
    assert log.visible(persisted=5, records=9) == 3


def test_runs_become_visible_one_by_one() -> None:
    log = Log(SESSION)
    for records in (1, 2, 3):
        log.append(Entry(b"", b""), 0, NOW)
        log.mark_run(records)
        log.mark_run(records + 10)  # There is no new event for a run.
    assert [log.visible(persisted, 10) for persisted in (0, 1, 1, 2, 9)] == [0, 1, 1, 2, 3]
    assert log.visible(10, 10) == 3


def test_a_released_log_stays_visible() -> None:
    log = log_of(1, 1)
    log.mark_run(1)
    log.release(2)
    assert log.visible(1, 2) == 2


# Snapshots.


def test_a_loaded_log_equals_the_saved_one() -> None:
    log = log_of(1, 2, 3)
    log.release(1)
    copy = Log(SESSION)
    copy.load(log.first, log.entries(), log.positions(), NOW)
    assert (copy.first, copy.last, copy.size) == (log.first, log.last, log.size)
    assert (copy.entries(), copy.positions()) == (log.entries(), log.positions())
    assert copy.positions() == [8, 9]
    with pytest.raises(InvariantViolated):
        copy.load(1, [], [], NOW)


def test_a_log_of_a_version_before_positions_has_none() -> None:
    """Load a log of a version that kept the end of an envelope with the head, and still reads a log."""
    copy = Log(SESSION)
    heads = [b'{"%%b":%b,"payload":%b}}', b'{"%%b":%b,"payload":%b,"source_seq":%d}}']
    copy.load(3, [(heads[0], b"{", 0), (heads[1], b"{", 9)], [], NOW)
    assert (copy.first, copy.last, copy.positions()) == (3, 4, [0, 0])
    assert copy.entries() == [(heads[0], b"{", 0)] * 2
    assert [entry.head for entry in copy.between(2, 4)] == [b'{"%%b":%b,"payload":%b'] * 2
