"""How far the events of a followed job have come."""

from __future__ import annotations

from arcp_proto.client_jobs import FollowedJob
from arcp_proto.ids import JobId


def job(*, observed: bool = True, seen: int = 0) -> FollowedJob:
    return FollowedJob(JobId("job_1"), observed=observed, seen=seen)


def test_what_one_subscription_brings_is_never_a_copy() -> None:
    followed = job()
    followed.replay(3)
    assert [followed.is_copy(seq) for seq in (3, 4, 4, 5)] == [True, False, False, False]


def test_what_has_no_home_number_is_no_copy() -> None:
    assert not job().is_copy(None)
    assert not job(observed=False, seen=5).is_copy(None)


def test_a_subscription_that_is_answered_again_brings_copies() -> None:
    followed = job(seen=20)
    followed.replay(0)
    followed.replay_again()
    assert not followed.is_copy(1), "nothing has come"
    followed.handed_out(5, 5)
    followed.replay_again()
    assert [followed.is_copy(seq) for seq in (1, 5, 6)] == [True, True, False]


def test_a_replay_begins_where_it_was_asked_for() -> None:
    followed = job(seen=8)
    followed.handed_out(9, 9)
    followed.replay(2)
    assert [followed.is_copy(seq) for seq in (2, 3, 9)] == [True, False, False]


def test_while_it_is_awaited_everything_comes_again() -> None:
    followed = job(observed=False)
    followed.handed_out(4, None)
    followed.lose()
    assert (followed.observed, followed.awaited, followed.floor) == (True, True, 4)
    assert followed.is_copy(None) and followed.is_copy(5)
    followed.go_on()
    assert [followed.is_copy(seq) for seq in (4, 5)] == [True, False]


def test_it_goes_on_where_its_subscription_stopped() -> None:
    followed = job()
    followed.handed_out(20, 20)
    followed.replay(0)
    followed.handed_out(7, 7)
    followed.stop()
    assert (followed.floor, followed.seen) == (7, 20)
    followed.stop()
    followed.lose()
    assert (followed.floor, followed.since) == (7, 7)


def test_a_runtime_that_tells_no_home_numbers_is_asked_by_its_own() -> None:
    followed = job()
    followed.replay(0)
    followed.handed_out(7, None)
    followed.lose()
    assert followed.floor == 7


def test_one_of_ours_goes_on_behind_all_that_was_handed_out() -> None:
    followed = job(observed=False)
    followed.handed_out(20, None)
    followed.replay(0)
    followed.handed_out(3, 3)
    followed.lose()
    assert followed.floor == 20


def test_behind_until_what_a_lost_session_brought_is_processed() -> None:
    followed = job(observed=False)
    followed.handed_out(4, None)
    assert not followed.behind
    followed.lose()
    followed.go_on()
    assert followed.behind
    followed.processed(4, 0)
    followed.processed(2, 0)
    assert (followed.behind, followed.stored) == (False, 4)


def test_what_a_replay_brings_again_is_not_processed_before_it_is() -> None:
    followed = job(seen=2)
    followed.handed_out(3, 3)
    followed.replay(0)
    assert followed.stored == 0
    followed.processed(3, 0)
    assert followed.stored == 0
    followed.processed(1, 1)
    assert followed.stored == 1


def test_the_stream_of_our_own_job_does_not_hide_where_its_replay_is() -> None:
    followed = job(observed=False)
    assert not followed.replayed
    followed.replay(0)
    followed.handed_out(1, 1)
    followed.handed_out(9, None)
    followed.replay_again()
    assert followed.replayed
    assert [followed.is_copy(seq) for seq in (1, 2)] == [True, False]
