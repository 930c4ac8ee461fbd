"""The checks of the simulation find every planted bug in a few seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import pytest

from tests.planted import BUGS, plant

from .plan import draw
from .play import Result, play

MOST_SEEDS: Final = 60
"""The most seeds of one bug; each row begins with a seed that finds it at present."""


class Row(NamedTuple):
    """A bug, the first seed that is tried, and the invariants that may find it."""

    bug: str
    seed: int
    found_by: tuple[str, ...]


ROWS: Final = (
    Row("event_skipped_at_a_resume", 10_041, ("I1",)),
    Row("last_event_again_after_a_takeover", 10_004, ("I1",)),
    Row("last_event_again_under_a_new_number", 10_004, ("I1", "I2", "I8")),
    Row("rest_given_back_twice", 11_222, ("I4",)),
    Row("revoked_value_in_a_replay", 10_097, ("I6",)),
    Row("finished_keys_lost_at_a_restart", 10_003, ("I7",)),
    Row("detached_observer_keeps_seeing", 11_110, ("I9",)),
    Row("gap_in_place_of_an_overrun", 10_002, ("I1",)),
    Row("ack_beyond_the_last_number", 10_064, ("I8",)),
    Row("cursor_skips_a_job", 10_003, ("I7",)),
    Row("resume_window_stays_armed", 10_009, ("I1",)),
    Row("connections_of_another_counted_down", 10_000, ("I8",)),
    Row("valid_resume_refused", 10_004, ("I1",)),
    Row("terminal_twice_at_home", 10_000, ("I2",)),
    Row("page_leaves_out_jobs", 10_000, ("I7",)),
    Row("max_runtime_not_armed_after_a_restart", 10_130, ("I2",)),
    Row("other_observers_never_get_the_end", 10_003, ("I10",)),
    Row("submit_refused_as_busy", 10_000, ("codes",)),
    Row("cancel_stops_no_restarted_agent", 10_032, ("I2",)),
    Row("client_gives_up_a_job_after_a_resume", 10_003, ("I1",)),
    Row("history_begins_one_late", 10_001, ("I1",)),
    Row("last_event_twice_when_live", 10_002, ("I1",)),
    Row("superseded_token_stays_valid", 10_000, ("I9",)),
    Row("dead_peer_never_given_up", 10_034, ("I10",)),
    Row("ack_frees_one_too_many", 10_003, ("I1", "codes")),
    Row("position_of_what_the_submitter_takes", 1_000_000_020, ("I1",)),
    Row("position_given_anew_after_a_restart", 10_040, ("I1",)),
    Row("copy_is_taken_after_a_run", 10_020, ("I1", "I2")),
    Row("new_event_dropped_after_a_lost_session", 10_000, ("I1", "I10")),
    Row("recovery_asks_from_one_too_high", 10_000, ("I1",)),
    Row("history_asked_again_is_dropped", 10_005, ("I1",)),
    Row("set_back_before_it_is_processed", 10_184, ("I1",)),
    Row("failed_first_dial_is_the_last", 10_000, ("I10",)),
    Row("stored_session_is_dialled_once", 10_043, ("I10",)),
)


def first_failure(seeds: Iterable[int]) -> Result | None:
    """Return the first run that fails; None when all pass."""
    return next((result for seed in seeds if (result := play(draw(seed))).name), None)


def test_there_is_a_row_for_every_bug() -> None:
    assert {row.bug for row in ROWS} == BUGS.keys()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.bug)
def test_the_judge_finds(row: Row) -> None:
    seeds = range(row.seed, row.seed + MOST_SEEDS)
    with pytest.MonkeyPatch.context() as patch:
        hits = plant(row.bug, patch)
        found = first_failure(seeds)
    assert hits.count > 0
    assert found is not None
    assert found.name in row.found_by


@pytest.mark.parametrize("seed", sorted({row.seed for row in ROWS}))
def test_without_a_bug_nothing_is_found(seed: int) -> None:
    assert play(draw(seed)).message == ""
