"""Which events of a followed job are handed out, and from where a subscription asks for the rest."""

from __future__ import annotations

import pytest

from arcp_proto.client.followed_job import AT_HOME, LIVE, RECENT, FollowedJob
from arcp_proto.ids import JobId


def job(*, observed: bool = True, cursor: int = 0, home: int = 0) -> FollowedJob:
    return FollowedJob(JobId("job_1"), observed=observed, cursor=cursor, home=home)


def take(followed: FollowedJob, *positions: int) -> list[int]:
    """Return the positions of the events that are handed out."""
    return [position for position in positions if followed.takes(position, 99, "e")]


def process(followed: FollowedJob, position: int) -> None:
    """Let the user get an event that `takes` has just let through, and process it."""
    followed.processed(*followed.place_of(position, 99))


# Positions.


@pytest.mark.parametrize("observed", [True, False])
def test_an_event_is_a_copy_unless_its_position_is_above_the_cursor(observed: bool) -> None:
    followed = job(observed=observed, cursor=2)
    assert take(followed, 1, 2, 3, 3, 2, 4) == [3, 4]
    assert (followed.cursor, followed.asked_from, followed.stored) == (4, 4, 2)


def test_positions_of_kinds_that_the_session_does_not_take_are_left_out() -> None:
    followed = job()
    assert take(followed, 2, 7, 5, 8) == [2, 7, 8]


def test_positions_come_with_any_number_and_any_envelope_id() -> None:
    followed = job(observed=False, home=50)
    assert followed.takes(1, 3, "e") and followed.takes(2, 3, "e") and followed.takes(3, 0, "")


def test_a_job_is_heard_of_by_any_event_even_a_copy() -> None:
    followed = job(cursor=4)
    followed.heard = False
    assert not followed.takes(4, 1, "e")
    assert followed.heard


def test_an_event_is_processed_with_all_before_it() -> None:
    followed = job()
    take(followed, 1, 2, 5)
    assert followed.place_of(5, 99) == (5, LIVE)
    process(followed, 5)
    process(followed, 2)
    assert followed.stored == 5


# Lost sessions and ended subscriptions.


@pytest.mark.parametrize("observed", [True, False])
def test_nothing_with_a_position_is_taken_before_the_answer_to_a_subscription(observed: bool) -> None:
    followed = job(observed=observed, cursor=4)
    followed.stop()
    assert (followed.awaited, followed.asked_from, followed.observed) == (True, 4, observed)
    assert take(followed, 4, 5) == []
    followed.go_on(0)
    assert take(followed, 4, 5) == [5]


def test_in_the_next_session_a_job_comes_by_a_subscription_alone() -> None:
    followed = job(observed=False, cursor=4, home=7)
    followed.keyed = True
    followed.heard = False
    followed.lose()
    assert (followed.observed, followed.keyed, followed.heard, followed.awaited) == (True, False, True, True)
    assert (followed.may_be_home, followed.may_be_observed) == (False, True)
    followed.go_on(9)
    assert take(followed, 5, 9, 10) == [5, 9, 10]
    assert followed.replay is None, "events of an observed job come in order"


def test_the_last_number_that_came_while_a_job_was_awaited_is_kept_until_the_session_is_lost() -> None:
    followed = job(cursor=4)
    assert followed.takes(5, 7, "e")
    followed.stop()
    assert not followed.takes(6, 8, "e")
    assert followed.skipped == 8
    followed.go_on(6)
    assert followed.takes(6, 9, "e")
    assert followed.skipped == 8
    followed.lose()
    assert followed.skipped == 0


@pytest.mark.parametrize(
    ("observed", "keyed", "home", "subscribed"),
    [(True, False, False, True), (False, False, True, False), (False, True, True, True)],
)
def test_how_events_of_a_job_may_come(observed: bool, keyed: bool, home: bool, subscribed: bool) -> None:
    followed = job(observed=observed)
    followed.keyed = keyed
    assert (followed.may_be_home, followed.may_be_observed) == (home, subscribed)


def test_live_events_may_come_before_those_that_a_subscription_brings() -> None:
    followed = job(observed=False, cursor=2)
    followed.keyed = True
    followed.stop()
    followed.go_on(5)
    assert take(followed, 6, 3, 4, 7, 3, 5, 5, 8) == [6, 3, 4, 7, 5, 8]


def test_a_subscription_with_nothing_above_the_cursor_opens_no_replay() -> None:
    followed = job(observed=False, cursor=5)
    followed.stop()
    followed.go_on(5)
    assert (followed.replay, followed.awaited, followed.cursor) == (None, False, 5)


# A history that the user asks for again.


def test_a_replay_brings_the_events_above_its_start_once() -> None:
    followed = job(observed=False, cursor=4)
    followed.begin_replay(1)
    assert followed.asked_from == 1
    assert take(followed, 1, 2, 2, 3) == [2, 3]
    assert followed.asked_from == 3
    assert take(followed, 5, 4, 4, 5) == [5, 4], "live events are new beside it"
    assert followed.cursor == 5


def test_a_replay_of_what_is_above_the_cursor_is_none() -> None:
    followed = job(cursor=4)
    followed.begin_replay(4)
    assert followed.replay is None
    assert take(followed, 4, 5) == [5]


def test_a_replay_takes_the_place_of_the_one_before() -> None:
    followed = job(cursor=4)
    followed.begin_replay(0)
    assert take(followed, 1, 2, 3) == [1, 2, 3]
    followed.begin_replay(1)
    assert take(followed, 1, 2, 3, 4, 5) == [2, 3, 4, 5]


def test_a_replay_is_the_answer_for_which_a_job_waits() -> None:
    followed = job(cursor=4)
    followed.stop()
    followed.begin_replay(2)
    assert take(followed, 3, 4, 5) == [3, 4, 5]


def test_a_subscription_that_leaves_out_awaited_events_brings_none() -> None:
    followed = job(cursor=4)
    followed.stop()
    followed.begin_replay(5)
    assert take(followed, 6) == []
    followed.go_on(6)
    assert take(followed, 5, 6) == [5, 6]


def test_a_replay_goes_on_where_its_subscription_ended() -> None:
    followed = job(cursor=4)
    followed.begin_replay(0)
    take(followed, 1, 2)
    followed.stop()
    assert followed.asked_from == 2
    followed.go_on(6)
    assert take(followed, 2, 3, 4, 5, 6) == [3, 4, 5, 6]


def test_a_replay_is_processed_beside_the_live_events() -> None:
    followed = job(observed=False, cursor=4)
    followed.begin_replay(1)
    take(followed, 2)
    place, mark = followed.place_of(2, 99)
    assert place == 2 and mark not in (LIVE, AT_HOME)
    take(followed, 5)
    assert followed.place_of(5, 99) == (5, LIVE)
    followed.processed(5, LIVE)
    assert followed.replay is not None
    assert (followed.stored, followed.replay.stored) == (5, 1)
    followed.processed(place, mark)
    assert followed.replay.stored == 2
    take(followed, 3)
    take(followed, 4)
    process(followed, 4)
    assert followed.replay is None
    assert (followed.asked_from, followed.stored) == (5, 5)


def test_an_earlier_replay_does_not_process_the_next() -> None:
    followed = job(cursor=4)
    followed.begin_replay(0)
    take(followed, 1, 2, 3)
    earlier = followed.place_of(3, 99)
    followed.begin_replay(0)
    followed.processed(*earlier)
    assert followed.replay is not None
    assert followed.replay.stored == 0


def test_a_live_event_of_an_observed_job_ends_a_replay() -> None:
    """History comes before live events; position 4 is of a kind that the session does not take."""
    followed = job(cursor=4)
    followed.begin_replay(2)
    take(followed, 3)
    place = followed.place_of(3, 99)
    assert take(followed, 5) == [5]
    assert take(followed, 4) == []
    followed.processed(*place)
    assert followed.replay is None


def test_a_processed_replay_is_closed_by_a_live_event_of_an_observed_job() -> None:
    followed = job(cursor=4)
    followed.begin_replay(2)
    take(followed, 3)
    process(followed, 3)
    assert followed.replay is not None
    take(followed, 5)
    assert followed.replay is None


def test_events_that_were_handed_out_before_a_subscription_went_on_are_not_processed_by_it() -> None:
    followed = job(observed=False, cursor=2)
    take(followed, 3, 4)
    handed_out = [followed.place_of(position, 99) for position in (3, 4)]
    followed.stop()
    followed.go_on(6)
    assert followed.replay is not None
    assert followed.replay.stored == 2, "a store that says more loses 3 and 4"
    followed.processed(*handed_out[0])
    assert followed.replay.stored == 3
    followed.processed(*handed_out[1])
    assert followed.replay.stored == 4


def test_events_of_a_replay_that_a_subscription_goes_on_with_are_not_processed_by_it() -> None:
    followed = job(observed=False, cursor=5)
    followed.begin_replay(0)
    take(followed, 1, 2)
    handed_out = followed.place_of(2, 99)
    followed.stop()
    followed.go_on(6)
    assert followed.replay is not None
    assert (followed.replay.at, followed.replay.stored) == (2, 0)
    followed.processed(*handed_out)
    assert followed.replay.stored == 2


def test_a_subscription_that_went_on_is_processed_when_its_replay_is() -> None:
    followed = job(observed=False, cursor=2)
    followed.stop()
    followed.go_on(4)
    take(followed, 3, 4)
    process(followed, 4)
    assert (followed.replay, followed.stored) == (None, 4)


def test_a_job_is_plain_while_the_cursor_alone_tells_copies_apart() -> None:
    followed = job(cursor=4)
    assert followed.is_plain
    followed.begin_replay(2)
    assert not followed.is_plain
    take(followed, 3, 4)
    assert followed.is_plain
    followed.stop()
    assert not followed.is_plain
    assert not job(observed=False, home=3).is_plain
    assert job(observed=False, home=0).is_plain


# Runtimes that tell no positions.


def test_copies_without_positions_are_told_by_their_envelope_ids() -> None:
    followed = job()
    followed.heard = False
    assert [followed.takes(None, 1, one) for one in ("a", "b", "a", "c")] == [True, True, False, True]
    assert followed.heard


def test_the_last_envelope_ids_are_kept() -> None:
    followed = job()
    for number in range(RECENT + 1):
        assert followed.takes(None, 1, f"e{number}")
    assert len(followed.recent) == RECENT
    assert [followed.takes(None, 1, one) for one in ("e1", f"e{RECENT}", "e0")] == [False, False, True]
    followed.note_ids(f"f{number}" for number in range(RECENT))
    assert list(followed.recent) == [f"f{number}" for number in range(RECENT)]


def test_events_without_envelope_ids_are_no_copies() -> None:
    followed = job()
    assert followed.takes(None, 1, "") and followed.takes(None, 1, "")
    assert followed.recent == {}


def test_the_last_number_at_home_is_what_is_asked_from() -> None:
    followed = job(observed=False)
    assert followed.takes(None, 4, "a") and followed.takes(None, 0, "b")
    assert (followed.home, followed.place_of(None, 4)) == (4, (4, AT_HOME))
    followed.processed(4, AT_HOME)
    followed.processed(0, AT_HOME)
    assert (followed.stored_home, followed.stored) == (4, 0)


def test_a_number_of_another_session_is_not_asked_from() -> None:
    followed = job(observed=True, home=4)
    assert followed.takes(None, 9, "a")
    assert (followed.home, followed.place_of(None, 9)) == (4, (0, AT_HOME))


def test_numbers_that_an_earlier_process_has_processed_are_copies_in_the_submitting_session() -> None:
    followed = job(observed=False, home=4)
    assert [followed.takes(None, seq, f"e{seq}") for seq in (3, 4, 5, 0)] == [False, False, True, True]
    followed.lose()
    assert followed.takes(None, 3, "e3"), "another session numbers by itself"


def test_numbers_count_again_when_a_history_is_asked_for() -> None:
    followed = job(observed=False, home=4)
    followed.takes(None, 5, "e5")
    followed.begin_replay(0)
    assert [followed.takes(None, seq, f"e{seq}") for seq in (3, 5)] == [True, True]


def test_a_history_that_ends_where_events_come_by_themselves_is_waited_for_no_longer() -> None:
    followed = job(observed=False)
    assert take(followed, 1, 2) == [1, 2]
    followed.begin_replay(0)
    assert take(followed, 1, 3, 4) == [1, 3, 4]
    followed.end_replay()
    followed.stop()
    assert followed.asked_from == 4
    followed.go_on(5)
    assert take(followed, 3, 4, 5, 6) == [5, 6]


def test_a_recovery_hands_out_nothing_between_a_replay_and_the_cursor() -> None:
    """An own job goes on live while its history is replayed; then the runtime ends that."""
    followed = FollowedJob(JobId("job_1"), observed=False, cursor=2)
    followed.begin_replay(0)
    assert followed.takes(3, 3, "live")
    assert followed.takes(1, 4, "again")
    followed.stop()
    assert not followed.takes(4, 5, "live")
    followed.go_on(4)
    assert [followed.takes(position, 5 + position, "e") for position in (2, 3, 4, 5)] == [
        True,
        False,
        True,
        True,
    ]
