"""The judge of the properties finds the bugs that are planted, where they happen in its plays."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import pytest

from arcp_proto.client.followed_job import FollowedJob
from arcp_proto.client.session import ClientSession
from arcp_proto.client.stored_session import ResumedJob
from arcp_proto.errors import InvariantViolated
from tests.planted import plant

from .fake_runtime import OF_OTHERS, FakeRuntime
from .machines import COMMON
from .play import ACTIONS, Action, run
from .test_client_resumes import Wire, check, play

STEPS: Final = 100
BEGIN: Final[Sequence[Action]] = (
    *(("join", 0, 0, 0), ("join", 1, 0, 0)),
    *(("submit", 0, 0, 0), ("submit", 1, 0, 1)),
)


class Story(NamedTuple):
    """A configuration, and what happens."""

    setup: tuple[int, int, int]
    actions: Sequence[Action]


def drawn(seed: int) -> Story:
    """Anything, in any order."""
    dice = random.Random(f"planted {seed}")

    def number() -> int:
        return dice.randrange(256)

    kinds = dice.choices([*ACTIONS, *COMMON, *COMMON, *COMMON], k=STEPS)
    setup = number(), number(), number()
    return Story(setup, [*BEGIN, *((kind, number(), number(), number()) for kind in kinds)])


MOST_SEEDS: Final = 40
"""Plays of one bug, at most; each row begins with one that finds it at present."""
SEEDS: Final = {
    "event_skipped_at_a_resume": 80,
    "last_event_again_after_a_takeover": 0,
    "last_event_again_under_a_new_number": 0,
    "finished_keys_lost_at_a_restart": 6,
    "gap_in_place_of_an_overrun": 0,
    "ack_beyond_the_last_number": 7,
    "resume_window_stays_armed": 1,
    "connections_of_another_counted_down": 1,
    "valid_resume_refused": 1,
    "terminal_twice_at_home": 0,
    "page_leaves_out_jobs": 1,
    "max_runtime_not_armed_after_a_restart": 657,
    "other_observers_never_get_the_end": 563,
    "submit_refused_as_busy": 2,
    "history_begins_one_late": 9,
    "last_event_twice_when_live": 130,
    "superseded_token_stays_valid": 62,
    "dead_peer_never_given_up": 0,
    "ack_frees_one_too_many": 19,
}
ALICE, BOB = ("join", 0, 0, 0), ("join", 2, 0, 0)
STORIES: Final = {
    "cursor_skips_a_job": Story(
        (0, 0, 0),
        [
            *(ALICE, ("submit", 0, 0, 0), ("submit", 0, 0, 0), ("submit", 0, 0, 0)),
            *(("list_jobs", 0, 64, 5), ("finish", 255, 0, 0), ("list_jobs", 0, 192, 5)),
        ],
    ),
    "detached_observer_keeps_seeing": Story(
        (0, 0, 64),
        [
            *(ALICE, BOB, ("submit", 0, 0, 0), ("emit", 0, 0, 0), ("subscribe", 1, 0, 1)),
            *(("drop", 1, 0, 0), ("observers_set", 0, 0, 0), ("emit", 0, 0, 0)),
        ],
    ),
    "cancel_stops_no_restarted_agent": Story(
        (1, 0, 0),
        [
            *(ALICE, ("submit", 0, 3, 0), ("crash", 255, 0, 1), ("resume", 0, 0, 0)),
            *(("cancel", 0, 0, 0), ("wait", 3, 0, 0)),
        ],
    ),
}
"""Plays that find bugs which random plays rarely reach."""


def found(bug: str, stories: Sequence[Story]) -> InvariantViolated | None:
    """Return the error of the first play that finds a bug, or None."""
    with pytest.MonkeyPatch.context() as patch:
        hits = plant(bug, patch)
        for setup, actions in stories:
            try:
                run(setup, actions)
            except InvariantViolated as error:
                assert hits.count > 0
                return error
    return None


@pytest.mark.parametrize(("bug", "seed"), SEEDS.items())
def test_the_judge_finds(bug: str, seed: int) -> None:
    assert found(bug, [drawn(one) for one in range(seed, seed + MOST_SEEDS)]) is not None


@pytest.mark.parametrize("bug", STORIES)
def test_the_judge_finds_in_a_story(bug: str) -> None:
    assert found(bug, [STORIES[bug]]) is not None


def test_the_judge_of_clients_finds_a_job_that_is_given_up() -> None:
    steps = [*([("ask", "submit")] * 3), ("settle", 0), ("emit", 0), ("drop", 0), ("advance", 2_000)]
    with pytest.MonkeyPatch.context() as patch:
        hits = plant("client_gives_up_a_job_after_a_resume", patch)
        wire = Wire(FakeRuntime(features=OF_OTHERS, replies=False))
        play(wire, steps)
        check(wire)
        assert hits.count > 0
        with pytest.raises(AssertionError):
            wire.client.check_nothing_lost()
    wire = Wire(FakeRuntime(features=OF_OTHERS, replies=False))
    play(wire, steps)
    wire.client.check_nothing_lost()


def asks_behind_the_next_event(patch: pytest.MonkeyPatch) -> None:
    """Ask from a position that skips one event, after a session is lost."""
    original = FollowedJob.asks_after.fget
    patch.setattr(FollowedJob, "asks_after", property(lambda job: original(job) + 1))


def takes_no_history_again(patch: pytest.MonkeyPatch) -> None:
    """Drop an event of a history that the user requests again as a copy."""
    patch.setattr(ClientSession, "go_back", lambda session, job, position: None)


def goes_back_without_being_asked(patch: pytest.MonkeyPatch) -> None:
    """Hand out the last event before the loss of a session again."""
    original = FollowedJob.lose

    def lose(job: FollowedJob) -> None:
        original(job)
        job.cursor = max(job.cursor - 1, 0)

    patch.setattr(FollowedJob, "lose", lose)


def stores_the_highest_position(patch: pytest.MonkeyPatch) -> None:
    """Store the highest processed position, although a later request has set it back."""
    original = FollowedJob.processed

    def processed(job: FollowedJob, place: int, *, placed: bool) -> None:
        original(job, max(job.stored, place) if placed else place, placed=placed)

    patch.setattr(FollowedJob, "processed", processed)


def forgets_that_positions_fell(patch: pytest.MonkeyPatch) -> None:
    """Mistake events before a history for events behind it, in the next process."""
    original = ClientSession._resumed

    def resumed(session: ClientSession, job: FollowedJob) -> ResumedJob:
        job.risen_from = 0
        return original(session, job)

    patch.setattr(ClientSession, "_resumed", resumed)


LOST: Final = [("emit", 0), ("settle", 0), ("emit", 0), ("drop", 0), ("emit", 0), ("reach", 0)]
AGAIN: Final = [*[("emit", 0)] * 3, ("settle", 0), ("process", 3), ("settle", 0), ("ask", "subscribe")]
"""The number of a step chooses the job that it is about, and from where on a history is asked for."""
OF_CLIENTS: Final = {
    asks_behind_the_next_event: LOST,
    goes_back_without_being_asked: LOST,
    takes_no_history_again: [*AGAIN, ("settle", 0)],
    stores_the_highest_position: [*AGAIN, ("settle", 0), ("process", 1), ("restart", 0)],
    forgets_that_positions_fell: [
        *[("emit", 0), ("emit", 0), ("emit", 1), ("emit", 0), *[("settle", 0)] * 2, ("process", 3)],
        *[*[("settle", 0)] * 2, ("ask", "go on"), ("settle", 0), ("restart", 0)],
    ],
}


@pytest.mark.parametrize("bug", OF_CLIENTS)
def test_the_judge_of_clients_finds(bug: Callable[[pytest.MonkeyPatch], None]) -> None:
    wire = Wire(FakeRuntime())
    with pytest.MonkeyPatch.context() as patch:
        bug(patch)
        with pytest.raises(AssertionError, match=r"come before|came again|came behind"):
            play(wire, OF_CLIENTS[bug], loses=True)
            check(wire)
    wire = Wire(FakeRuntime())
    play(wire, OF_CLIENTS[bug], loses=True)
    check(wire)


@pytest.mark.parametrize("seed", sorted({*SEEDS.values()}))
def test_without_a_bug_nothing_is_found_in_a_play(seed: int) -> None:
    run(*drawn(seed))


@pytest.mark.parametrize("bug", STORIES)
def test_without_a_bug_nothing_is_found_in_a_story(bug: str) -> None:
    run(*STORIES[bug])
