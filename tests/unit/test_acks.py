"""Up to which number everything was processed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.acks import ACK_INTERVAL, Acks
from arcp_proto.client_jobs import FollowedJob, place
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


def test_a_job_has_come_as_far_as_everything_before_is_processed() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=True)
    for seq, home in ((1, 11), (2, 12), (3, 13)):
        acks.handed_out(seq, A, 10, job, home)
    acks.done(2, A)
    assert job.stored == 0
    acks.done(1, A)
    assert (job.stored, acks.cursor(3)) == (12, 2)


def test_a_job_that_waited_for_its_answer_has_come_as_far_as_the_cursor() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    for seq in (1, 2, 3):
        acks.handed_out(seq, A)
    for seq in (1, 2, 3):
        acks.handed_out(seq, A, 10, job, seq)
    acks.done(1, A)
    assert (acks.cursor(3), job.stored) == (1, 1)


def test_bytes_that_are_not_processed() -> None:
    acks = Acks(NOW)
    acks.handed_out(1, A, 10)
    acks.handed_out(2, A, 20)
    acks.handed_out(1, A, 15)
    assert acks.size == 35
    acks.done(1, A)
    acks.done(1, A)
    assert acks.size == 20
    acks.begin_session(NOW)
    assert acks.size == 20
    acks.done(2, A)
    assert acks.size == 0


def test_a_number_that_was_handed_out_twice_is_processed_once() -> None:
    acks = Acks(NOW)
    for _ in range(2):
        acks.handed_out(1, A, 10)
    acks.handed_out(2, A, 10)
    acks.done(1, A)
    assert (acks.cursor(2), acks.size) == (1, 10)


def test_what_was_lost_twice_is_processed_twice() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    for home in (1, 2):
        acks.handed_out(1, A, 10, job, home)
        acks.begin_session(NOW)
    acks.done(1, A)
    assert (job.stored, acks.size) == (1, 10)
    acks.done(1, A)
    assert (job.stored, acks.size) == (2, 0)


def test_what_a_lost_session_brought_is_processed_first() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    for seq in (1, 2):
        acks.handed_out(seq, A, 10, job, seq)
    acks.done(1, A)
    acks.tell(1, NOW)
    acks.begin_session(NOW)
    assert (acks.told, acks.processed, acks.cursor(0)) == (0, 0, 0)
    acks.handed_out(2, A, 10, job, 7)
    acks.done(2, A)
    assert (acks.cursor(2), job.stored) == (1, 2)
    acks.done(2, A)
    assert (acks.cursor(2), job.stored, acks.size) == (2, 7, 0)


def test_memory_is_bounded_by_what_is_not_processed() -> None:
    acks = Acks(NOW)
    for seq in range(1, 1000):
        acks.handed_out(seq, A)
        acks.done(seq, A)
    assert (len(acks._open), len(acks._order), len(acks._stale)) == (0, 0, 0)


@given(st.permutations(range(1, 15)), st.integers(0, 14))
def test_the_cursor_is_the_number_before_the_first_that_is_open(order: list[int], count: int) -> None:
    acks = Acks(NOW)
    for seq in range(1, 15):
        acks.handed_out(seq, A)
    for seq in order[:count]:
        acks.done(seq, A)
    assert acks.cursor(14) == min(order[count:], default=15) - 1


Step = tuple[str, int, int]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run", "run", "one", "done", "done", "all", "again", "session"]),
            st.integers(0, 12),
            st.integers(1, 5),
        ),
        max_size=40,
    )
)
def test_a_run_is_processed_as_its_events_are(steps: list[Step]) -> None:
    runs, ones = Acks(NOW), Acks(NOW)
    jobs = [[FollowedJob(job_id, observed=False) for job_id in (A, B)] for _ in range(2)]
    last = 0
    for what, number, count in steps:
        which = number % 2
        job_id = (A, B)[which]
        if what == "run":
            runs.run_handed_out(
                last + 1, [10 * size for size in range(count)], jobs[0][which], place(last + 1)
            )
            for size in range(count):
                seq = last + 1 + size
                ones.handed_out(seq, job_id, 10 * size, jobs[1][which], place(seq))
            last += count
        elif what in ("one", "again"):
            seq = last + 1 if what == "one" else min(number, last)
            last = max(last, seq)
            for acks, (*followed,) in zip((runs, ones), jobs, strict=True):
                acks.handed_out(seq, job_id, count, followed[which], place(seq))
        elif what == "done":
            for acks in (runs, ones):
                acks.done(number, job_id)
        elif what == "all":
            runs.all_done(number, number + count, job_id)
            for seq in range(number, number + count + 1):
                ones.done(seq, job_id)
        else:
            last = 0
            for acks in (runs, ones):
                acks.begin_session(NOW)
        assert runs.cursor(last) == ones.cursor(last)
        assert (runs.size, runs.processed) == (ones.size, ones.processed)
        assert [job.stored for job in jobs[0]] == [job.stored for job in jobs[1]]
    for acks in (runs, ones):
        for seq in range(last + 1):
            for job_id in (A, B) * 50:
                acks.done(seq, job_id)
    assert (runs.size, runs._open, runs._runs, list(runs._order)) == (ones.size, ones._open, {}, [])


def test_memory_is_bounded_by_what_is_not_processed_of_runs() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    for first in range(1, 3000, 3):
        acks.run_handed_out(first, [1, 1, 1], job, place(first))
        acks.all_done(first, first + 2, A)
    assert (len(acks._runs), len(acks._order), acks.size, job.stored) == (0, 0, 0, place(3000))
