"""Numbered envelopes, which pass in order and once, in whichever order they arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.client.sequencer import Numbering
from arcp_proto.wire.codec import Envelope


def envelope(seq: int, job_id: str | None = "job_1", copy: str = "") -> Envelope:
    return Envelope(type="job.event", id=f"e{seq}{copy}", job_id=job_id, event_seq=seq)


def offer(numbering: Numbering, *envelopes: Envelope) -> list[str]:
    """Offer envelopes; return the ids of those that pass."""
    return [handed.id for one in envelopes for handed in numbering.offer(one.event_seq or 0, one, size=10)]


def test_messages_in_order_pass_at_once() -> None:
    numbering = Numbering(4)
    assert offer(numbering, envelope(1)) == ["e1"]
    assert offer(numbering, envelope(2)) == ["e2"]
    assert numbering.last == 2
    assert numbering.missing() is None


def test_a_message_behind_a_gap_waits() -> None:
    numbering = Numbering(4)
    assert offer(numbering, envelope(3), envelope(5)) == []
    assert (numbering.held_count, numbering.held_bytes) == (2, 20)
    assert numbering.missing() == (1, 2)
    assert offer(numbering, envelope(1)) == ["e1"]
    assert offer(numbering, envelope(2)) == ["e2", "e3"]
    assert (numbering.held_count, numbering.held_bytes) == (1, 10)
    assert numbering.missing() == (4, 4)
    assert offer(numbering, envelope(4)) == ["e4", "e5"]
    assert (numbering.held_count, numbering.held_bytes, numbering.last) == (0, 0, 5)


def test_a_copy_of_a_passed_or_held_message_is_dropped() -> None:
    numbering = Numbering(4)
    assert offer(numbering, envelope(1), envelope(1), envelope(3), envelope(3)) == ["e1"]
    assert numbering.held_count == 1
    assert offer(numbering, envelope(2), envelope(2), envelope(3)) == ["e2", "e3"]


def test_a_repeated_number_with_another_id_or_job_passes() -> None:
    numbering = Numbering(8)
    assert offer(numbering, envelope(1), envelope(2)) == ["e1", "e2"]
    assert offer(numbering, envelope(1, copy="b"), envelope(1, job_id="job_2")) == ["e1b", "e1"]
    assert numbering.last == 2


def test_two_held_messages_with_one_number_keep_their_order() -> None:
    numbering = Numbering(8)
    assert offer(numbering, envelope(2), envelope(2, copy="b")) == []
    assert offer(numbering, envelope(1)) == ["e1", "e2", "e2b"]


def test_a_copy_older_than_the_window_is_not_recognised() -> None:
    numbering = Numbering(2)
    assert offer(numbering, envelope(1), envelope(2)) == ["e1", "e2"]
    assert offer(numbering, envelope(1)) == []
    assert offer(numbering, envelope(3), envelope(1)) == ["e3", "e1"]


def test_a_message_with_number_zero_passes() -> None:
    numbering = Numbering(2)
    assert offer(numbering, envelope(0), envelope(1)) == ["e0", "e1"]


def test_after_a_resume_a_held_message_is_not_a_copy() -> None:
    numbering = Numbering(8)
    assert offer(numbering, envelope(1), envelope(3), envelope(4)) == ["e1"]
    numbering.resume()
    assert (numbering.held_count, numbering.held_bytes, numbering.missing()) == (0, 0, None)
    assert offer(numbering, envelope(1), envelope(2), envelope(3), envelope(4)) == ["e2", "e3", "e4"]


def test_after_a_resume_old_numbers_are_copies_even_beyond_the_window() -> None:
    numbering = Numbering(2)
    offer(numbering, *map(envelope, range(1, 10)))
    numbering.resume()
    assert offer(numbering, *map(envelope, range(1, 12))) == ["e10", "e11"]


def test_after_a_resume_a_job_with_its_own_numbers_still_passes() -> None:
    numbering = Numbering(2)
    offer(numbering, *map(envelope, range(1, 10)))
    numbering.resume()
    assert offer(numbering, envelope(1, job_id="job_2"), envelope(2, job_id="job_2")) == ["e1", "e2"]


def test_after_a_resume_only_repeated_messages_of_such_a_job_are_copies() -> None:
    numbering = Numbering(2)
    own = [envelope(seq, job_id="job_2", copy="of job_2") for seq in range(1, 5)]
    offer(numbering, *map(envelope, range(1, 8)), *own[:2], *map(envelope, range(8, 10)))
    numbering.resume()
    assert offer(numbering, *own) == ["e3of job_2", "e4of job_2"]


def test_a_number_before_the_first_one_is_a_copy() -> None:
    numbering = Numbering(4, last=5)
    assert offer(numbering, envelope(0), envelope(4), envelope(5), envelope(6)) == ["e0", "e6"]


def test_a_gap_can_be_given_up() -> None:
    numbering = Numbering(8)
    assert numbering.skip() == []
    assert offer(numbering, envelope(3), envelope(4), envelope(7)) == []
    assert [one.id for one in numbering.skip()] == ["e3", "e4"]
    assert (numbering.last, numbering.missing()) == (4, (5, 6))


def test_the_number_of_known_jobs_is_limited() -> None:
    numbering = Numbering(1, jobs=3)
    for seq in range(1, 20):
        offer(numbering, envelope(seq, job_id=f"job_{seq}"))
        assert len(numbering._jobs) <= 3


@given(st.permutations(range(1, 20)), st.lists(st.integers(0, 18), max_size=20))
def test_messages_in_any_order_with_copies_pass_in_order_and_once(
    order: list[int], copies: list[int]
) -> None:
    numbering = Numbering(64)
    arrivals = list(order)
    for position in copies:
        arrivals.insert(position * 2, order[position])
    handed = offer(numbering, *map(envelope, arrivals))
    assert handed == [f"e{seq}" for seq in range(1, 20)]
    assert (numbering.held_count, numbering.held_bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), max_size=60))
def test_no_message_is_lost_doubled_or_overtaken(arrivals: list[tuple[int, str]]) -> None:
    numbering = Numbering(1000)
    handed: list[str] = []
    for seq, copy in arrivals:
        before = numbering.last
        out = offer(numbering, envelope(seq, copy=copy))
        fresh = [int(one[1:-1]) for one in out if int(one[1:-1]) > before]
        assert fresh == sorted(fresh)
        handed += out
        missing = numbering.missing()
        assert (missing is None) == (numbering.held_count == 0)
        assert missing is None or missing[0] == numbering.last + 1 <= missing[1]
    assert len(handed) == len(set(handed))
    assert len(handed) + numbering.held_count == len(set(arrivals))
    assert numbering.held_bytes == 10 * numbering.held_count


@given(st.lists(st.integers(1, 40), max_size=200))
def test_memory_of_the_sequencer_is_bounded_by_window_and_held_messages(arrivals: list[int]) -> None:
    numbering = Numbering(8)
    for seq in arrivals:
        offer(numbering, envelope(seq))
        assert len(numbering._seen) == len(set(numbering._order)) <= 8


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30), st.sampled_from("ab")), max_size=40))
def test_follow_equals_repeated_offer(steps: list[tuple[int, int, str]]) -> None:
    followed, offered = Numbering(8, jobs=2), Numbering(8, jobs=2)
    for what, number, copy in steps:
        if what < 2 and not followed.held_count:
            job_id, first = f"job_{number % 3}", followed.last + 1
            run = [envelope(seq, job_id, copy) for seq in range(first, first + number % 12 + 1)]
            followed.follow(job_id, [one.id for one in run])
            assert offer(offered, *run) == [one.id for one in run]
        elif what == 2 and number == 1:
            followed.resume()
            offered.resume()
        else:
            one = envelope(number, f"job_{number % 3}", copy)
            assert offer(followed, one) == offer(offered, one)
        assert (followed.last, followed._jobs) == (offered.last, offered._jobs)
        assert (followed.held_count, followed.missing()) == (offered.held_count, offered.missing())
        assert followed._followed_count < 8 + 12
