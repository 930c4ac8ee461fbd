"""Token buckets: the number of requests that pass, at any rhythm."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.engine.rate_limits import Bucket, Buckets, Window
from arcp_proto.ids import MILLISECOND, SECOND, Monotonic

GAPS = st.lists(st.one_of(st.just(0), st.integers(0, 3 * SECOND), st.integers(0, 1_000)), max_size=200)


@given(rate=st.integers(1, 5_000), burst=st.integers(1, 20), start=st.integers(0, 10**18), gaps=GAPS)
def test_a_bucket_never_exceeds_rate_and_burst(rate: int, burst: int, start: int, gaps: list[int]) -> None:
    bucket, now = Bucket(rate, burst), start
    times: list[int] = []
    for gap in gaps:
        now += gap
        if bucket.take(Monotonic(now)):
            times.append(now)
    for first in range(0, len(times), 7):
        for last in range(first, len(times)):
            most = burst + rate * (times[last] - times[first]) / SECOND
            assert last - first + 1 <= most


@given(rate=st.integers(1, 5_000), burst=st.integers(1, 20), start=st.integers(0, 10**18), gaps=GAPS)
def test_a_bucket_passes_after_exactly_the_returned_wait(
    rate: int, burst: int, start: int, gaps: list[int]
) -> None:
    bucket, now = Bucket(rate, burst), Monotonic(start)
    for gap in gaps:
        now = Monotonic(now + gap)
        wait = bucket.wait(now)
        assert bucket.ready(now) is (wait == 0)
        if wait:
            assert not bucket.ready(Monotonic(now + wait - 1))
            now = Monotonic(now + wait)
        assert bucket.take(now)


@given(
    st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, 2)), max_size=60),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_two_buckets_pass_only_what_both_pass(steps: list[tuple[int, int]], one: int, other: int) -> None:
    """Compare with a model in which a refusal by one of the two buckets charges neither."""
    a, b, expected_a, expected_b = Bucket(one, 2), Bucket(other, 3), Bucket(one, 2), Bucket(other, 3)
    now = 0
    for gap, action in steps:
        now += gap
        if action:
            both = expected_a.ready(Monotonic(now)) and expected_b.take(Monotonic(now))
            if both:
                expected_a.charge(Monotonic(now))
            assert a.take_with(b, Monotonic(now)) == both
        else:
            assert b.take(Monotonic(now)) == expected_b.take(Monotonic(now))
        assert (a.wait(Monotonic(now)), b.wait(Monotonic(now))) == (
            expected_a.wait(Monotonic(now)),
            expected_b.wait(Monotonic(now)),
        )


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    bucket = Bucket(10, 3)
    assert [bucket.take(Monotonic(SECOND)) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(Monotonic(SECOND)) == SECOND // 10
    assert not bucket.take(Monotonic(SECOND + SECOND // 10 - 1))
    assert bucket.take(Monotonic(SECOND + SECOND // 10))
    assert not bucket.is_full(Monotonic(SECOND + SECOND // 10))
    assert bucket.is_full(Monotonic(2 * SECOND))


def test_two_buckets_pass_nothing_a_nanosecond_early() -> None:
    for one, other in ((1, 100), (100, 1)):
        first, second = Bucket(one, 1), Bucket(other, 1)
        assert first.take_with(second, Monotonic(SECOND))
        assert not first.take_with(second, Monotonic(2 * SECOND - 1))
        assert first.take_with(second, Monotonic(2 * SECOND))


def test_a_charge_above_the_burst_lengthens_the_wait() -> None:
    bucket = Bucket(1, 2)
    for _ in range(5):
        bucket.charge(Monotonic(0))
    assert bucket.wait(Monotonic(0)) == 4 * SECOND
    assert bucket.take(Monotonic(4 * SECOND))


def test_a_rate_beyond_the_clock_lets_everything_through() -> None:
    bucket = Bucket(10**12, 10**12)
    assert all(bucket.take(Monotonic(0)) for _ in range(1_000))


def test_a_window_counts_what_comes_within_a_second_of_its_first() -> None:
    window = Window(Monotonic(0))
    counts = [window.count(Monotonic(at * MILLISECOND)) for at in (0, 10, 999, 1_000, 1_500, 2_500)]
    assert counts == [1, 2, 3, 1, 2, 1]
    window = Window(Monotonic(0))
    assert [window.count(Monotonic(at)) for at in (SECOND - 1, SECOND, 2 * SECOND - 1)] == [1, 1, 2]


def test_each_name_has_a_bucket_and_full_ones_are_forgotten() -> None:
    buckets = Buckets(1, 2, most=10)
    for _ in range(2):
        buckets.charge("a", Monotonic(0))
    assert buckets.wait("a", Monotonic(0)) == SECOND
    assert buckets.wait("b", Monotonic(0)) == 0
    assert len(buckets) == 1
    buckets.charge("b", Monotonic(2 * SECOND))
    assert len(buckets) == 1
    assert buckets.wait("a", Monotonic(2 * SECOND)) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, SECOND)), max_size=300))
def test_the_number_of_names_is_limited(charges: list[tuple[int, int]]) -> None:
    buckets, now = Buckets(1, 5, most=8), 0
    for name, gap in charges:
        now += gap
        buckets.charge(str(name), Monotonic(now))
        assert len(buckets) <= 8


def test_the_bucket_unused_for_longest_is_dropped_first() -> None:
    buckets = Buckets(1, 1, 1_000 * SECOND, most=2)
    for name in ("a", "b", "a", "c"):
        buckets.charge(name, Monotonic(0))
    assert buckets.wait("b", Monotonic(0)) == 0
    assert buckets.wait("a", Monotonic(0)) > buckets.wait("c", Monotonic(0)) > 0
