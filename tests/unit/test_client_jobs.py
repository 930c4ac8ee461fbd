"""How far the events of a followed job have come."""

from __future__ import annotations

from arcp_proto.client_jobs import ALL, FollowedJob, count_of, home_of, place
from arcp_proto.ids import JobId


def job(*, observed: bool = True, seen: int = 0) -> FollowedJob:
    return FollowedJob(JobId("job_1"), observed=observed, seen=seen)


def come(followed: FollowedJob, *sources: int) -> list[bool]:
    """Events with these home numbers come; returns which are handed out."""
    taken = []
    for source in sources:
        copy = followed.is_copy(source)
        if not copy:
            followed.handed_out(99, source)
        taken.append(not copy)
    return taken


def test_a_place_is_a_home_number_and_a_count() -> None:
    assert [home_of(at) for at in (place(7, 2), place(7), place(0), 0)] == [7, 7, 0, 0]
    assert [count_of(at) for at in (place(7, 2), place(7), place(0))] == [2, ALL, 0]
    assert place(6) < place(7, 1) < place(7, 2) < place(7) < place(8, 1)


def test_what_one_subscription_brings_is_never_a_copy() -> None:
    followed = job()
    followed.replay(3, 0, told=3)
    assert [followed.is_copy(seq) for seq in (3, 4, 4, 5)] == [True, False, False, False]


def test_what_has_no_home_number_is_no_copy() -> None:
    assert not job().is_copy(None)
    assert not job(observed=False, seen=5).is_copy(None)


def test_a_subscription_that_is_answered_again_brings_copies() -> None:
    followed = job(seen=20)
    followed.replay(0, 0, told=0)
    followed.replay_again()
    assert not followed.is_copy(1), "nothing has come"
    assert come(followed, 5) == [True]
    followed.begin_again(0, None)
    assert [followed.is_copy(seq) for seq in (1, 5, 5, 6)] == [True, True, False, False]


def test_a_replay_begins_where_it_was_asked_for() -> None:
    followed = job(seen=8)
    followed.handed_out(9, 9)
    followed.replay(2, 0, told=2)
    assert [followed.is_copy(seq) for seq in (2, 3, 9)] == [True, False, False]


def test_while_it_is_awaited_everything_comes_again() -> None:
    followed = job(observed=False)
    followed.handed_out(4, None)
    followed.lose()
    assert (followed.observed, followed.awaited, followed.floor) == (True, True, place(4))
    assert followed.is_copy(None) and followed.is_copy(5)
    followed.go_on(0)
    assert [followed.is_copy(seq) for seq in (4, 5)] == [True, False]


def test_it_goes_on_where_its_subscription_stopped() -> None:
    followed = job()
    come(followed, 20)
    followed.replay(0, 0, told=0)
    come(followed, 7, 7)
    followed.stop()
    assert (followed.floor, followed.seen, followed.asked_from) == (place(7, 2), place(20, 1), 6)
    followed.stop()
    followed.lose()
    assert (followed.floor, followed.since) == (place(7, 2), place(7, 2))
    followed.go_on(0)
    assert come(followed, 7, 7, 7, 8) == [False, False, True, True]
    followed.lose()
    followed.forget_count()
    assert (followed.floor, followed.asked_from) == (place(8), 8)


def test_a_runtime_that_tells_no_home_numbers_is_asked_by_its_own() -> None:
    followed = job()
    followed.replay(0, 0, told=0)
    followed.handed_out(7, None)
    followed.lose()
    assert (followed.floor, followed.asked_from) == (place(7), 7)


def test_one_of_ours_goes_on_behind_all_that_was_handed_out() -> None:
    followed = job(observed=False)
    followed.handed_out(20, None)
    followed.replay(0, 0, told=0)
    come(followed, 3)
    followed.lose()
    assert (followed.floor, followed.asked_from) == (place(20), 20)


def test_behind_until_what_a_lost_session_brought_is_processed() -> None:
    followed = job(observed=False)
    followed.handed_out(4, None)
    assert not followed.behind(4)
    followed.lose()
    followed.go_on(0)
    assert followed.behind(4)
    followed.processed(place(4), 0)
    followed.processed(place(2), 0)
    assert (followed.behind(4), followed.stored) == (False, place(4))


def test_behind_until_what_comes_again_of_a_number_has_come() -> None:
    followed = job()
    followed.replay(0, 0, told=0)
    assert [followed.is_copy(home) for home in (3, 3)] == [False, False]
    followed.processed(followed.handed_out(2, 3), 1)
    followed.lose()
    followed.go_on(0)
    assert followed.behind(9) and followed.asked_from == 2
    for seq in (5, 6):
        assert followed.is_copy(3) and followed.behind(9)
        followed.left_out(seq)
    assert [followed.behind(cursor) for cursor in (5, 6)] == [True, False]
    assert not followed.is_copy(3)
    followed.processed(followed.handed_out(7, 3), 1)
    assert not followed.behind(5)


def test_behind_before_the_subscription_that_brings_what_is_not_processed() -> None:
    followed = job(observed=False)
    followed.lose()
    followed.go_on(4)
    assert not followed.is_copy(7)
    first = followed.handed_out(5, 7)
    followed.stop()
    followed.go_on(9)
    assert [followed.behind(cursor) for cursor in (3, 4, 9)] == [True, False, False]
    followed.processed(first, 0)
    assert followed.behind(9), "7 comes again"
    assert followed.is_copy(7)
    followed.left_out(10)
    assert [followed.behind(cursor) for cursor in (9, 10)] == [True, False]


def test_what_a_replay_brings_again_is_not_processed_before_it_is() -> None:
    followed = job(seen=2)
    come(followed, 3)
    followed.replay(0, 0, told=0)
    assert followed.stored == 0
    followed.processed(3, 0)
    assert followed.stored == 0
    followed.processed(1, 1)
    assert followed.stored == 1


def test_the_stream_of_our_own_job_does_not_hide_where_its_replay_is() -> None:
    followed = job(observed=False)
    assert not followed.replayed
    followed.replay(0, 0, told=0)
    come(followed, 1)
    followed.handed_out(9, None)
    followed.begin_again(0, None)
    assert followed.replayed
    assert [followed.is_copy(seq) for seq in (1, 2)] == [True, False]


def test_a_live_subscription_begins_within_a_number() -> None:
    followed = job(seen=3)
    followed.begin_within(3)
    assert come(followed, 3, 3) == [True, True]
    followed.stop()
    assert followed.asked_from == 3
    followed.go_on(0)
    assert come(followed, 3, 4, 4) == [False, True, True]
    followed.stop()
    assert followed.asked_from == 3
    followed.go_on(0)
    assert come(followed, 4, 4, 4) == [False, False, True]


def test_a_stored_count_goes_on() -> None:
    followed = FollowedJob(JobId("job_1"), observed=True, seen=3, count=2)
    followed.floor = followed.seen
    assert followed.asked_from == 2
    assert come(followed, 3, 4) == [True, True]
    assert followed.seen == place(4, 1)


def test_a_key_may_bring_all_again() -> None:
    followed = job(observed=False)
    followed.join()
    assert come(followed, 1, 1, 2) == [True, True, True]
    followed.join()
    assert come(followed, 1, 1, 2) == [True, True, True]
    assert followed.seen == place(2, 1)


def test_a_key_goes_on_with_what_is_observed() -> None:
    followed = job()
    assert come(followed, 1, 1) == [True, True]
    followed.join()
    assert come(followed, 1) == [True]
    assert followed.seen == place(1, 3)
    followed.stop()
    followed.join()
    followed.go_on(0)
    assert come(followed, 1, 1, 1, 1) == [False, False, False, True]


def test_what_has_come_by_itself_does_not_come_again() -> None:
    followed = job(observed=False)
    followed.handed_out(4, None)
    followed.come_by_itself()
    assert come(followed, 3, 4, 4, 5) == [False, False, False, True]


def test_behind_while_what_comes_may_be_earlier_than_was_asked_for() -> None:
    followed = job(seen=3)
    followed.replay(3, 7, told=1)
    assert come(followed, 2, 3) == [False, False]
    assert followed.behind(9), "a new process could not tell 3 from what is above it"
    assert come(followed, 4) == [True]
    followed.processed(place(4, 1), 1)
    assert not followed.behind(9)


def test_behind_before_a_subscription_that_has_begun_once_more() -> None:
    followed = job()
    followed.replay(0, 0, told=0)
    assert come(followed, 5) == [True]
    assert not followed.behind(3)
    followed.begin_again(4, None)
    assert come(followed, 5, 6) == [False, True]
    assert [followed.behind(cursor) for cursor in (3, 4)] == [True, False]


def test_what_begins_once_more_behind_a_cut_is_new() -> None:
    followed = job()
    followed.replay(0, 0, told=0)
    assert come(followed, 6, 7) == [True, True]
    assert followed.begin_again(2, 8), "nothing is missing"
    assert come(followed, 7, 7, 8) == [True, True, True]
    assert not followed.begin_again(5, 8), "some of 8 may be gone, and what is left may be new or not"
    assert come(followed, 8, 8) == [False, True]


def test_what_a_cut_has_taken_may_be_missing() -> None:
    followed = job()
    followed.replay(0, 0, told=0)
    assert come(followed, 3) == [True]
    assert not followed.begin_again(1, 5), "4 is gone"
    followed = job(seen=3)
    followed.replay(3, 0, told=3)
    assert followed.begin_again(1, 3), "nothing of 3 was wanted"
