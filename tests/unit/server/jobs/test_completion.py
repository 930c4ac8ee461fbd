"""The end of a job: it ends once, with the first outcome, when its agent has stopped or its grace is over."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto.engine.output import PauseJob, ResumeJob, StopJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import RETRYABLE, ErrorCode
from arcp_proto.ids import SECOND, Monotonic
from arcp_proto.job_statuses import JobStatus
from arcp_proto.server.jobs.completion import outcome_of
from arcp_proto.wire import codec
from tests.unit.world import Peer, World


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_has_its_status_and_retryable(code: ErrorCode) -> None:
    outcome = outcome_of(code, "m")
    expected = {"CANCELLED": "cancelled", "TIMEOUT": "timed_out"}.get(code.value, "error")
    assert outcome.status.value == expected
    assert outcome.retryable is RETRYABLE[code]
    assert outcome.retryable is (code.value in ("INTERNAL_ERROR", "TIMEOUT", "HEARTBEAT_LOST"))
    for said in (True, False):
        assert outcome_of(code, "m", retryable=said).retryable is RETRYABLE[code]


def test_an_unknown_error_code_keeps_its_retryable() -> None:
    outcome = outcome_of("X_MINE", "m", details={"a": 1})
    assert (outcome.status, outcome.retryable, outcome.details) == (JobStatus.ERROR, False, {"a": 1})
    assert outcome_of("X_MINE", "m", retryable=True).retryable


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("code", ErrorCode)
def test_an_agent_does_not_change_the_retryable_of_a_code_of_the_draft(
    world: World, peer: Peer, code: ErrorCode, said: bool
) -> None:
    job = peer.submit()
    world.runtime.agents.fail(job, code.value, "m", said, now=world.now)
    world.take()
    assert peer.frames[-1]["payload"]["retryable"] is RETRYABLE[code]


@pytest.mark.parametrize("first", ["finish", "fail", "stopped", "cancel", "timeout"])
@pytest.mark.parametrize("second", ["finish", "fail", "stopped", "cancel", "timeout"])
def test_a_job_has_one_terminal_by_its_first_outcome(world: World, first: str, second: str) -> None:
    peer = world.client(features=("ack",))
    job = peer.submit(max_runtime_sec=2)
    for how in (first, second):
        match how:
            case "finish" if job in world.state.running:
                world.finish(job)
            case "fail" if job in world.state.running:
                world.fail(job, "X_MINE")
            case "stopped":
                world.stopped(job)
            case "cancel":
                peer.cancel(job)
            case "timeout":
                world.advance(2)
    world.advance(10)
    [end] = [frame for frame in peer.about(job) if frame["type"] in ("job.result", "job.error")]
    codes = {"fail": "X_MINE", "stopped": "INTERNAL_ERROR", "cancel": "CANCELLED", "timeout": "TIMEOUT"}
    assert end["payload"].get("code") == codes.get(first)
    assert [frame["type"] for frame in peer.about(job)].index(end["type"]) >= 0
    assert world.state.unfinished == {}
    assert len(world.stops()) == (first in ("cancel", "timeout"))
    armed = world.state.timers.keys()
    assert [key.kind for key in armed] == [TimerKind.RETENTION]


def test_a_job_asks_to_stop_its_agent_once_with_a_deadline(world: World, peer: Peer) -> None:
    job = peer.submit(max_runtime_sec=60)
    peer.cancel(job)
    kill_at = Monotonic(world.now + 5 * SECOND)
    assert world.all(StopJob) == [StopJob(job, "cancelled by the client", kill_at)]
    assert world.state.timers.armed(TimerKind.MAX_RUNTIME, job) is None
    assert world.state.timers.armed(TimerKind.GRACE, job) == world.now + 5 * SECOND


def test_the_message_of_a_job_error_is_never_empty(world: World, peer: Peer) -> None:
    world.fail(peer.submit(), "X_MINE", "")
    assert peer.frames[-1]["payload"]["message"] == "X_MINE"


@pytest.mark.parametrize(("size", "kept"), [(10, True), (70_000, False)])
def test_details_that_do_not_fit_a_frame_are_dropped(world: World, peer: Peer, size: int, kept: bool) -> None:
    job = peer.submit()
    details: dict[str, Any] = {"text": "x" * size}
    world.runtime.agents.fail(job, "X", "m", None, details, now=world.now)
    world.take()
    assert peer.frames[-1]["payload"].get("details") == (details if kept else None)
    assert len(peer.raw[-1]) <= 60 * 1024


def test_details_that_fit_a_frame_to_the_byte_are_kept() -> None:
    def sent(size: int) -> tuple[dict[str, Any], int]:
        """Return the payload with a text of this size, and the bytes that it may still grow by."""
        world = World()
        peer = world.client()
        job = peer.submit()
        limit = world.state.payload_limit(world.state.jobs[job])
        world.runtime.agents.fail(job, "X", "m", None, {"text": "x" * size}, now=world.now)
        world.take()
        payload = peer.frames[-1]["payload"]
        return payload, limit - len(codec.encode_value(payload))

    _, left = sent(1)
    whole, none_left = sent(1 + left)
    assert (len(whole["details"]["text"]), none_left) == (1 + left, 0)
    assert "details" not in sent(2 + left)[0]


def test_the_longest_error_fits_a_frame(world: World, peer: Peer) -> None:
    job = peer.submit()
    world.fail(job, "\x01" * 256, "\x01" * 1000)
    assert len(peer.raw[-1]) <= 32 * 1024


def test_a_paused_agent_resumes_when_its_job_has_ended(world: World, peer: Peer) -> None:
    job = peer.submit(max_runtime_sec=1)
    world.carry_out(peer.connection.blocked(now=world.now))
    assert world.all(PauseJob) == [PauseJob(job)]
    world.advance(7)
    assert world.state.jobs[job].ended
    assert world.all(ResumeJob) == [ResumeJob(job)]
