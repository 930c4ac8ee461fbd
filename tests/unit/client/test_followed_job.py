"""The events of a followed job that reach the user, and the position from which a subscribe asks for more."""

from __future__ import annotations

import pytest

from arcp_proto.client.followed_job import RECENT, FollowedJob
from arcp_proto.ids import JobId


def job(*, observed: bool = True, cursor: int = 0, home: int = 0) -> FollowedJob:
    return FollowedJob(JobId("job_1"), observed=observed, cursor=cursor, home=home)


def take(followed: FollowedJob, *positions: int) -> list[int]:
    """Return the positions of the events that reach the user."""
    return [position for position in positions if followed.takes(position, 99, "e")]


# Positions.


@pytest.mark.parametrize("observed", [True, False])
def test_an_event_is_a_copy_unless_its_position_is_above_the_cursor(observed: bool) -> None:
    followed = job(observed=observed, cursor=2)
    assert take(followed, 1, 2, 3, 3, 2, 4) == [3, 4]
    assert (followed.cursor, followed.stored) == (4, 2)


def test_positions_of_kinds_that_the_session_does_not_take_are_left_out() -> None:
    followed = job()
    assert take(followed, 2, 7, 5, 8) == [2, 7, 8]


def test_positions_come_with_any_number_and_any_envelope_id() -> None:
    followed = job(observed=False, home=50)
    assert followed.takes(1, 3, "e") and followed.takes(2, 3, "e") and followed.takes(3, 0, "")


def test_every_event_shows_that_a_job_is_sent_even_a_copy() -> None:
    followed = job(cursor=4)
    followed.heard = False
    assert not followed.takes(4, 1, "e")
    assert followed.heard


def test_the_position_that_was_processed_last_is_stored() -> None:
    """Process lower positions, as after a history that the user has asked for again."""
    followed = job()
    take(followed, 1, 2, 5)
    for position in (2, 5, 1):
        followed.processed(position, placed=True)
        assert followed.stored == position
    assert followed.stored_home == 0


# Lost sessions and ended subscriptions.


@pytest.mark.parametrize("observed", [True, False])
def test_no_event_with_a_position_is_taken_before_the_answer_to_a_subscribe(observed: bool) -> None:
    followed = job(observed=observed, cursor=4)
    followed.awaited = True
    assert take(followed, 4, 5) == []
    assert followed.cursor == 4
    followed.awaited = False
    assert take(followed, 4, 5) == [5]


def test_the_next_session_brings_a_job_by_a_subscription_alone() -> None:
    followed = job(observed=False, cursor=4, home=7)
    followed.keyed = True
    followed.heard = False
    followed.lose()
    assert (followed.observed, followed.keyed, followed.heard, followed.awaited) == (True, False, True, True)
    assert followed.may_be_observed
    followed.awaited = False
    assert take(followed, 5, 9, 10) == [5, 9, 10]


def test_positions_rise_behind_events_of_an_awaited_job_until_the_session_is_lost() -> None:
    followed = job(cursor=4)
    assert followed.takes(5, 7, "e")
    followed.awaited = True
    assert not followed.takes(6, 8, "e")
    assert followed.risen_from == 8
    followed.awaited = False
    assert followed.takes(6, 9, "e")
    assert followed.risen_from == 8
    followed.lose()
    assert followed.risen_from == 0


@pytest.mark.parametrize(
    ("observed", "keyed", "subscribed"),
    [(True, False, True), (False, False, False), (False, True, True)],
)
def test_may_be_observed_depends_on_subscription_and_key(
    observed: bool, keyed: bool, subscribed: bool
) -> None:
    followed = job(observed=observed)
    followed.keyed = keyed
    assert followed.may_be_observed == subscribed


def test_a_job_that_has_ended_and_is_followed_again_is_new_but_for_its_positions() -> None:
    followed = job(observed=False, cursor=4, home=7)
    followed.own, followed.keyed, followed.awaited, followed.heard, followed.refusals = (
        True,
        True,
        True,
        False,
        3,
    )
    assert followed.takes(None, 8, "e")
    followed.follow_again(observed=True)
    assert (followed.observed, followed.own, followed.keyed, followed.awaited) == (True, False, False, False)
    assert (followed.heard, followed.refusals, followed.recent) == (True, 0, {})
    assert (followed.cursor, followed.stored) == (4, 4)


def test_a_job_is_plain_while_the_cursor_alone_tells_copies_apart() -> None:
    followed = job(cursor=4)
    assert followed.is_plain
    followed.awaited = True
    assert not followed.is_plain
    assert not job(observed=False, home=3).is_plain
    assert job(observed=False, home=0).is_plain


# Runtimes without positions.


def test_copies_without_positions_are_recognised_by_their_envelope_ids() -> None:
    followed = job()
    followed.heard = False
    assert [followed.takes(None, 1, one) for one in ("a", "b", "a", "c")] == [True, True, False, True]
    assert followed.heard


def test_a_limited_number_of_envelope_ids_is_kept() -> None:
    followed = job()
    for number in range(RECENT + 1):
        assert followed.takes(None, 1, f"e{number}")
    assert len(followed.recent) == RECENT
    assert [followed.takes(None, 1, one) for one in ("e1", f"e{RECENT}", "e0")] == [False, False, True]
    followed.note_ids(f"f{number}" for number in range(RECENT))
    assert list(followed.recent) == [f"f{number}" for number in range(RECENT)]


def test_events_without_envelope_ids_are_never_copies() -> None:
    followed = job()
    assert followed.takes(None, 1, "") and followed.takes(None, 1, "")
    assert followed.recent == {}


def test_a_subscribe_asks_from_the_last_home_number() -> None:
    followed = job(observed=False)
    assert followed.takes(None, 4, "a") and followed.takes(None, 0, "b")
    assert followed.home == 4
    followed.processed(4, placed=False)
    followed.processed(0, placed=False)
    assert (followed.stored_home, followed.stored) == (4, 0)


def test_a_subscribe_does_not_ask_from_a_number_of_another_session() -> None:
    followed = job(observed=True, home=4)
    assert followed.takes(None, 9, "a")
    assert followed.home == 4


def test_numbers_that_an_earlier_process_has_processed_are_copies_in_the_submitting_session() -> None:
    followed = job(observed=False, home=4)
    assert [followed.takes(None, seq, f"e{seq}") for seq in (3, 4, 5, 0)] == [False, False, True, True]
    followed.lose()
    assert followed.takes(None, 3, "e3"), "another session has numbers of its own"


def test_numbers_count_again_when_a_history_is_asked_for() -> None:
    followed = job(observed=False, home=4)
    followed.takes(None, 5, "e5")
    followed.repeat()
    assert [followed.takes(None, seq, f"e{seq}") for seq in (3, 5)] == [True, True]
