"""Runs in which a runtime hands over to the next one."""

from __future__ import annotations

import pytest

from arcp_proto.server.jobs import completion
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.state import RuntimeState

from .plan import HAND_OVERS, draw
from .play import play
from .truth import Truth


@pytest.mark.parametrize("seed", range(HAND_OVERS, HAND_OVERS + 10))
def test_a_fresh_seed_with_hand_overs(seed: int) -> None:
    assert play(draw(seed)).message == ""


def test_runs_keep_jobs_for_the_next_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, handed_over = [], Truth.handed_over

    def watched(truth: Truth) -> None:
        handed_over(truth)
        kept.extend(work.job_id for work in truth.jobs.values() if work.kept)

    monkeypatch.setattr(Truth, "handed_over", watched)
    for seed in range(HAND_OVERS, HAND_OVERS + 3):
        play(draw(seed))
    assert kept


def test_the_judge_finds_a_kept_job_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    starts_again = completion.starts_again

    def restartable_ones_only(state: RuntimeState, job: Job) -> bool:
        return starts_again(state, job) and state.inventory.restartable(job.terms.agent)

    monkeypatch.setattr(completion, "starts_again", restartable_ones_only)
    assert play(draw(HAND_OVERS + 1)).name == "I2"
