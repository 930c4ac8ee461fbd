"""Up to which number everything was processed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.acks import ACK_INTERVAL, Acks
from arcp_proto.ids import SECOND, JobId, Time

A, B = JobId("job_a"), JobId("job_b")
NOW = Time(SECOND)


def test_what_was_not_handed_out_is_processed_when_it_comes() -> None:
    assert Acks(NOW).cursor(7) == 7


def test_the_first_that_is_open_stops_the_cursor() -> None:
    acks = Acks(NOW)
    for seq in (2, 3, 5):
        acks.handed_out(seq, A)
    assert acks.cursor(6) == 1
    acks.done(3, A)
    assert acks.cursor(6) == 1
    acks.done(2, A)
    assert acks.cursor(6) == 4
    acks.done(5, A)
    assert acks.cursor(6) == 6
    assert acks.processed == 3


def test_what_nobody_holds_is_harmless() -> None:
    acks = Acks(NOW)
    acks.handed_out(1, A)
    acks.done(1, B)
    acks.done(2, A)
    assert (acks.cursor(1), acks.processed) == (0, 0)
    acks.done(1, A)
    acks.done(1, A)
    assert (acks.cursor(1), acks.processed) == (1, 1)


def test_two_jobs_that_number_by_themselves_never_pass_the_last_number() -> None:
    acks = Acks(NOW)
    acks.handed_out(9, A)
    assert acks.cursor(2) == 2


def test_the_first_ack_needs_no_wait_and_the_next_does() -> None:
    acks = Acks(NOW)
    assert acks.sent_at + ACK_INTERVAL == NOW
    acks.handed_out(1, A)
    acks.done(1, A)
    acks.tell(1, NOW)
    assert (acks.told, acks.sent_at, acks.processed) == (1, NOW, 0)


@given(st.permutations(range(1, 15)), st.integers(0, 14))
def test_the_cursor_is_the_number_before_the_first_that_is_open(order: list[int], count: int) -> None:
    acks = Acks(NOW)
    for seq in range(1, 15):
        acks.handed_out(seq, A)
    for seq in order[:count]:
        acks.done(seq, A)
    assert acks.cursor(14) == min(order[count:], default=15) - 1
