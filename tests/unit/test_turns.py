"""Submits wait for credentials, and for those before them; nothing else does (§7.1, §9.8)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.limits import Limits
from arcp_proto.output import StartJob

from .credentialed import PROVIDED, WITH, Provided
from .world import FEATURES, Frame, Peer


def submit(peer: Peer, **payload: Any) -> list[Frame]:
    """A submit; what came back at once."""
    return peer.send("job.submit", {"agent": "echo", "input": None, **payload})


def answers(peer: Peer) -> list[tuple[str, str]]:
    """What submits were answered with, and which; the hello was the first request."""
    return [
        (frame["type"], f"req{int(frame['payload']['request_id'][3:]) - 1}")
        for frame in peer.frames
        if frame["type"] in ("job.accepted", "session.error")
    ]


def test_answers_keep_submit_order_whoever_is_ready_first() -> None:
    world = Provided()
    peer = world.client()
    for _ in range(3):
        submit(peer)
    first, second, third = world.asked
    world.issue(alias=third)
    world.issue(alias=second)
    assert answers(peer) == []
    world.issue(alias=first)
    assert answers(peer) == [("job.accepted", name) for name in ("req1", "req2", "req3")]


def test_nothing_else_waits() -> None:
    world = Provided()
    peer = world.client()
    job = world.job(peer)
    submit(peer)
    [pong] = peer.send("session.ping", {"nonce": "n", "sent_at": ""})
    assert pong["type"] == "session.pong"
    world.emit(job)
    assert peer.frames[-1]["type"] == "job.event"
    [jobs] = peer.send("session.list_jobs", {})
    assert len(jobs["payload"]["jobs"]) == 1
    assert peer.cancel(job)[0]["type"] == "job.cancelled"


def test_refusals_keep_their_place() -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    assert submit(peer, agent="nobody") == []
    assert peer.send("job.submit", {"agent": 5}) == []
    submit(peer)
    first, last = world.asked
    world.issue(alias=last)
    world.refuse(alias=first)
    assert answers(peer) == [
        ("session.error", "req1"),
        ("session.error", "req2"),
        ("session.error", "req3"),
        ("job.accepted", "req4"),
    ]
    assert peer.codes() == ["INTERNAL_ERROR", "AGENT_NOT_AVAILABLE", "INVALID_REQUEST"]


def test_a_duplicate_waits_too_and_joins() -> None:
    world = Provided()
    peer, other = world.client(), world.client()
    submit(peer, idempotency_key="k")
    submit(peer, idempotency_key="k")
    submit(other, idempotency_key="k")
    assert len(world.asked) == 1
    world.issue("sk-one")
    assert [kind for kind, _ in answers(peer)] == ["job.accepted", "job.accepted"]
    jobs = {frame["payload"]["job_id"] for one in (peer, other) for frame in one.of("job.accepted")}
    assert len(jobs) == 1
    values = [frame["payload"]["credentials"][0]["value"] for frame in other.of("job.accepted")]
    assert values == ["sk-one"]
    assert len(world.all(StartJob)) == 1


def test_when_the_first_is_refused_the_duplicate_is_judged_anew() -> None:
    world = Provided()
    peer, other = world.client(), world.client(features=FEATURES)
    submit(peer, idempotency_key="k")
    submit(peer, idempotency_key="k")
    submit(other, idempotency_key="k")
    submit(other)
    assert answers(other) == []
    world.refuse()
    assert len(world.asked) == 2
    assert answers(peer) == [("session.error", "req1")]
    assert answers(other) == []
    world.refuse()
    assert [kind for kind, _ in answers(peer)] == ["session.error", "session.error"]
    assert [kind for kind, _ in answers(other)] == ["job.accepted", "job.accepted"]


def test_what_is_sent_again_after_a_resume_is_refused_once() -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    world.refuse()  # To nobody: the client asks again on this connection.
    assert again.of("session.error") == []
    again.send("job.submit", {"agent": "echo", "input": None}, id="req2")
    assert len(world.asked) == 2
    world.issue()
    assert [frame["payload"]["request_id"] for frame in again.of("job.accepted")] == ["req2"]


def test_what_was_sent_again_is_refused_where_it_was_sent_last() -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    again.send("job.submit", {"agent": "echo", "input": None}, id="req2")
    world.refuse()
    assert [frame["payload"]["request_id"] for frame in again.of("session.error")] == ["req2"]


def test_another_submit_under_the_key_is_refused_in_its_turn() -> None:
    world = Provided()
    peer = world.client()
    submit(peer, idempotency_key="k")
    submit(peer, idempotency_key="k", agent="plain")
    assert answers(peer) == []
    world.issue()
    assert answers(peer) == [("job.accepted", "req1"), ("session.error", "req2")]
    assert peer.codes() == ["DUPLICATE_KEY"]


def test_answers_go_to_the_connection_of_the_moment() -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    submit(peer, agent="nobody")
    again = world.resumed(peer, 0, features=WITH)
    world.issue()
    assert answers(again) == [("job.accepted", "req1"), ("session.error", "req2")]


def test_a_detached_session_finds_its_answer_when_it_comes_back() -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    submit(peer, agent="nobody")
    submit(peer, idempotency_key="k")
    peer.drop()
    for alias in world.asked:
        world.issue(alias=alias)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    assert answers(again) == [("job.accepted", "req1"), ("job.accepted", "req3")]


def test_a_submit_that_is_sent_again_after_a_resume_is_carried_out_once() -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    again.send("job.submit", {"agent": "echo", "input": None}, id="req2")
    assert len(world.asked) == 1
    world.issue()
    assert answers(again) == [("job.accepted", "req1")]


def test_too_many_are_refused_in_their_place_and_far_too_many_close() -> None:
    limits = Limits(waiting_submits=2, control_envelopes=4)
    world = Provided(msgspec.structs.replace(PROVIDED, limits=limits))
    peer = world.client()
    for _ in range(4):
        submit(peer)
    assert len(world.asked) == 2
    assert answers(peer) == []
    submit(peer)
    assert peer.closing is not None
    assert peer.codes() == ["INTERNAL_ERROR"]


def test_those_that_wait_count_as_running_jobs() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, limits=Limits(running_jobs=1)))
    peer = world.client()
    submit(peer)
    submit(peer)
    assert len(world.asked) == 1
    world.refuse()
    assert [kind for kind, _ in answers(peer)] == ["session.error", "session.error"]
    submit(peer)
    assert len(world.asked) == 2


def test_a_session_that_is_over_frees_its_keys() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, resume_window_sec=1))
    peer, other = world.client(), world.client()
    submit(peer, idempotency_key="k")
    submit(other, idempotency_key="k")
    peer.drop()
    world.advance(1.1)
    assert len(world.asked) == 2
    world.issue()
    assert answers(other) == [("job.accepted", "req1")]


def test_a_shutdown_refuses_what_waits() -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    submit(peer)
    world.issue(alias=world.asked[1])
    world.runtime.shut_down(5.0, now=world.now)
    world.take()
    assert peer.codes() == ["INTERNAL_ERROR", "INTERNAL_ERROR"]
    assert world.all(StartJob) == []
    assert sorted(world.revocations) == sorted(world.asked)


@pytest.mark.parametrize("count", [1, 5])
def test_the_date_of_acceptance_is_that_of_the_answer(count: int) -> None:
    world = Provided()
    peer = world.client()
    submit(peer)
    world.advance(count)
    world.issue()
    submit(peer)
    world.issue()
    first, second = (frame["payload"]["accepted_at"] for frame in peer.of("job.accepted"))
    assert first == second
