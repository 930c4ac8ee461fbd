"""Submits with a key, which run once, and the sessions that may cancel a job."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.output import StartJob
from arcp_proto.features import Feature
from arcp_proto.limits import WIRE_WORDS, Limits
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import JobAcceptedRecord, JobStarted
from tests.unit.world import CONFIG, FEATURES, Frame, Peer, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True)
SHORT = Limits(retention_sec=10)
NO_CHUNKS = tuple(name for name in FEATURES if name != "result_chunk")
PYPI: dict[str, Any] = {"agents": []}
"""The capabilities in the hello of the PyPI peer."""


def keyed(peer: Peer, key: str = "k", **payload: Any) -> list[Frame]:
    """Submit with a key, and return the frames that are received at once."""
    return peer.send("job.submit", {"agent": "echo", "idempotency_key": key, **payload})


def settled(world: World, peer: Peer) -> list[Frame]:
    """Return the frames that are received once histories have been numbered."""
    before = len(peer.frames)
    world.advance(0.001)
    return peer.frames[before:]


def jobs_of(world: World) -> list[str]:
    return [request.job_id for request in world.all(StartJob)]


# A repeated key with the same submit.


def test_a_repeated_key_gets_the_first_payload_and_starts_nothing(world: World, peer: Peer) -> None:
    [first] = keyed(peer, lease_request={"cost.budget": ["USD:5"]}, input={"a": 1})
    world.advance(1)
    [again] = keyed(peer, lease_request={"cost.budget": ["USD:5"]}, input={"a": 1})
    assert again["payload"] == {**first["payload"], "request_id": again["payload"]["request_id"]}
    assert again["payload"]["request_id"] != first["payload"]["request_id"]
    assert len(world.all(StartJob)) == 1


def test_a_repeated_key_in_the_submitting_session_gets_only_the_answer(world: World, peer: Peer) -> None:
    keyed(peer)
    [job] = jobs_of(world)
    world.emit(job)
    assert [frame["type"] for frame in keyed(peer)] == ["job.accepted"]
    assert settled(world, peer) == []
    world.emit(job)
    assert peer.numbers() == [1, 2]


def test_a_repeated_key_in_another_session_observes_the_job(world: World) -> None:
    first, second = world.client(), world.client(features=("result_chunk", Feature.POSITIONS))
    keyed(first)
    [job] = jobs_of(world)
    world.emit(job, "log", {"level": "info", "message": "old"})
    [accepted] = keyed(second)
    assert accepted["type"] == "job.accepted"
    [old] = settled(world, second)
    assert old["payload"]["body"]["message"] == "old"
    assert old["payload"]["job_seq"] == 1
    world.emit(job)
    world.finish(job, "end")
    assert [frame["type"] for frame in second.about(job)] == ["job.event", "job.event", "job.result"]
    assert [frame["payload"]["job_seq"] for frame in second.about(job)] == [1, 2, 3]


def test_a_repeated_key_in_an_observing_session_doubles_no_event(world: World) -> None:
    first, second = world.client(), world.client()
    keyed(first)
    [job] = jobs_of(world)
    second.send("job.subscribe", {"job_id": job})
    world.emit(job)
    keyed(second)
    assert settled(world, second) == []
    world.finish(job)
    assert second.numbers() == [1, 2]


def test_a_repeated_key_counts_against_the_limit_of_subscriptions() -> None:
    world = World(limits=Limits(max_session_subscriptions=1))
    first, second = world.client(), world.client()
    keyed(first)
    other = first.submit()
    second.send("job.subscribe", {"job_id": other})
    [error] = keyed(second)
    assert error["payload"]["code"] == "INVALID_REQUEST"
    assert error["payload"]["details"]["limit"] == "subscriptions"
    assert [frame["type"] for frame in keyed(first)] == ["job.accepted"], "it flows here, and is not observed"
    second.send("job.unsubscribe", {"job_id": other})
    assert [frame["type"] for frame in keyed(second)] == ["job.accepted"]


def test_the_repeated_end_of_a_job_comes_besides_the_jobs_that_are_observed() -> None:
    """Refuse no submit that was accepted before the resume: its client may have its end already."""
    limits = Limits(max_session_subscriptions=1, max_session_replies=1)
    world = World(limits=limits)
    first = world.client()
    other = world.client().submit()
    submit = {"agent": "echo", "idempotency_key": "k"}
    first.send("job.submit", submit, id="s1")
    world.finish(jobs_of(world)[-1])
    first.send("job.subscribe", {"job_id": other, "history": False}, id="s2")
    first.send("job.unsubscribe", {"job_id": other})
    again = world.resumed(first, 0, replies=True)
    again.send("job.subscribe", {"job_id": other})
    assert [frame["type"] for frame in again.send("job.submit", submit, id="s1")] == ["job.accepted"]
    assert [frame["type"] for frame in settled(world, again)] == ["job.result"]
    world.client().submit()
    [error] = again.send("job.subscribe", {"job_id": jobs_of(world)[-1]})
    assert error["payload"]["details"]["limit"] == "subscriptions"


def test_a_repeated_key_of_an_ended_job_gets_history_and_end_with_new_numbers(
    world: World, peer: Peer
) -> None:
    keyed(peer)
    [job] = jobs_of(world)
    world.emit(job)
    world.finish(job, {"x": 1})
    assert [frame["type"] for frame in keyed(peer)] == ["job.accepted"]
    event, end = settled(world, peer)
    assert (event["event_seq"], end["event_seq"]) == (3, 4)
    first = [frame["payload"] for frame in peer.about(job)[:2]]
    assert [event["payload"], end["payload"]] == first


def test_a_repeated_key_in_another_session_gets_the_history_of_an_ended_job(world: World) -> None:
    first, second = world.client(), world.client(features=(*FEATURES, Feature.POSITIONS))
    keyed(first)
    [job] = jobs_of(world)
    world.emit(job)
    world.fail(job, "X", "no")
    keyed(second)
    event, end = settled(world, second)
    assert (event["type"], event["payload"]["job_seq"]) == ("job.event", 1)
    assert (end["type"], end["payload"]["code"], end["payload"]["job_seq"]) == ("job.error", "X", 2)


def test_every_repeated_key_of_an_ended_job_gets_its_end(world: World) -> None:
    first, second = world.client(), world.client()
    keyed(first)
    world.finish(jobs_of(world)[0], 1)
    for number in range(1, 4):
        keyed(second)
        assert [frame["event_seq"] for frame in settled(world, second)] == [number]


def test_a_job_forgotten_before_its_replay_still_sends_its_end() -> None:
    world = World(limits=Limits(max_principal_finished_jobs=1))
    peer, other = world.client(), world.client()
    keyed(peer)
    [job] = jobs_of(world)
    world.emit(job)
    world.finish(job, 1)
    keyed(other)
    world.finish(peer.submit())
    world.advance(0.001)
    assert [frame["type"] for frame in other.about(job) if frame["type"] == "job.result"] == ["job.result"]


@pytest.mark.parametrize("whose", ["first", "second"])
def test_a_repeated_key_of_a_forgotten_job_gets_only_its_end(whose: str) -> None:
    world = World(limits=SHORT)
    first, second = world.client(features=()), world.client(features=("result_chunk",))
    [before] = keyed(first, lease_request={"cost.budget": ["USD:1.50"]})
    [job] = jobs_of(world)
    world.emit(job)
    world.finish(job, {"x": 1}, "sum")
    [end] = first.of("job.result")
    world.advance(11)
    assert world.state.jobs == {}
    peer = first if whose == "first" else second
    accepted, ended = keyed(peer, lease_request={"cost.budget": ["USD:1.50"]})
    request_id = accepted["payload"]["request_id"]
    assert accepted["payload"] == {**before["payload"], "request_id": request_id}
    assert accepted["trace_id"] == ended["trace_id"] == before["trace_id"]
    assert accepted["job_id"] == ended["job_id"] == job
    assert (ended["type"], ended["payload"]) == ("job.result", end["payload"])
    assert len(world.all(StartJob)) == 1


def test_the_end_of_a_forgotten_stream_has_the_form_that_the_session_reads() -> None:
    world = World(limits=SHORT)
    first = world.client(features=())
    keyed(first)
    [job] = jobs_of(world)
    world.write(job, "text")
    world.finish(job)
    world.advance(11)
    with_chunks = world.client()
    _, inline = keyed(first)
    _, streamed = keyed(with_chunks)
    assert inline["payload"]["result"] == "text" and "result_id" not in inline["payload"]
    assert streamed["payload"]["result_size"] == 4 and "result" not in streamed["payload"]


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_repeated_key_gets_the_form_of_the_peers_quirk(forgotten: bool) -> None:
    world = World(limits=SHORT)
    peer = world.connect()
    peer.hello(features=(), **PYPI)
    [first] = keyed(peer, lease_request={"cost.budget": ["USD:1.50"]})
    assert first["payload"]["budget"] == {"USD": "USD:1.5"}
    [job] = jobs_of(world)
    peer.cancel(job)
    world.stopped(job)
    if forgotten:
        world.advance(11)
    [accepted, *ended] = keyed(peer, lease_request={"cost.budget": ["USD:1.50"]})
    assert accepted["payload"]["budget"] == {"USD": "USD:1.5"}
    world.advance(0.1)
    [end] = ended if forgotten else peer.frames[-1:]
    assert (end["type"], end["payload"]["final_status"]) == ("job.result", "cancelled")


def test_the_budget_of_a_forgotten_job_is_written_as_numbers() -> None:
    world = World(limits=SHORT)
    peer = world.connect()
    peer.hello(features=(), **PYPI)
    keyed(peer, lease_request={"cost.budget": ["USD:0.10"]})
    world.finish(jobs_of(world)[0])
    world.advance(11)
    accepted, _ = keyed(world.client(), lease_request={"cost.budget": ["USD:0.10"]})
    assert accepted["payload"]["budget"] == {"USD": 0.1}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"input": {"a": 1, "b": 2}}, {"input": {"b": 2.0, "a": 1}}),
        ({"input": None}, {}),
        ({"lease_request": {}}, {"lease_request": None}),
        ({"lease_constraints": {}}, {}),
        ({"input": 1e2}, {"input": 100}),
    ],
)
def test_a_repeated_key_accepts_the_same_submit_in_another_spelling(
    world: World, peer: Peer, one: dict[str, Any], other: dict[str, Any]
) -> None:
    keyed(peer, **one)
    assert keyed(peer, **other)[0]["type"] == "job.accepted"
    assert len(world.all(StartJob)) == 1


# A repeated key with another submit.


@pytest.mark.parametrize(
    "other",
    [
        {"agent": "echo@2.0.0"},
        {"agent": "plain"},
        {"input": 1},
        {"lease_request": {"tool.call": ["x"]}},
        {"lease_constraints": {"expires_at": "2030-01-01T00:00:00Z"}},
        {"max_runtime_sec": 5},
    ],
)
def test_a_different_submit_with_a_used_key_is_refused(
    world: World, peer: Peer, other: dict[str, Any]
) -> None:
    [first] = keyed(peer)
    before = world.runtime.snapshot()
    [error] = keyed(peer, **other)
    assert error["payload"]["code"] == "DUPLICATE_KEY"
    assert not error["payload"]["retryable"]
    assert error["payload"]["details"]["job_id"] == first["job_id"]
    assert world.runtime.snapshot() == before


def test_a_used_key_is_checked_before_the_agent(peer: Peer) -> None:
    keyed(peer)
    [error] = keyed(peer, agent="zork")
    assert error["payload"]["code"] == "DUPLICATE_KEY"


def test_each_principal_has_its_own_keys(world: World) -> None:
    for token in ("tok-alice", "tok-bob"):
        assert keyed(world.client(token), input=token)[0]["type"] == "job.accepted"
    assert len(world.all(StartJob)) == 2


def test_a_repeated_key_may_have_another_trace(peer: Peer) -> None:
    payload = {"agent": "echo", "idempotency_key": "k"}
    [first] = peer.send("job.submit", payload, trace_id="a" * 32)
    [again] = peer.send("job.submit", payload, trace_id="b" * 32)
    assert again["payload"]["trace_id"] == first["payload"]["trace_id"] == "a" * 32


# The lifetime of a key.


def test_a_key_is_kept_for_a_day_after_the_end_of_its_job() -> None:
    world = World(heartbeat_interval_sec=0)
    peer = world.client()
    keyed(peer)
    world.advance(100_000)
    world.finish(jobs_of(world)[0])
    world.advance(24 * 3600 - 1)
    keyed(peer)
    assert len(world.all(StartJob)) == 1
    world.advance(1)
    keyed(peer)
    assert len(world.all(StartJob)) == 2


def test_a_refused_submit_leaves_its_key_free(peer: Peer) -> None:
    assert keyed(peer, agent="zork")[0]["payload"]["code"] == "AGENT_NOT_AVAILABLE"
    assert keyed(peer)[0]["type"] == "job.accepted"


@pytest.mark.parametrize(
    ("field", "bound"),
    [
        ("max_principal_idempotency_keys", 1),
        ("max_total_idempotency_keys", 1),
        ("max_principal_idempotency_bytes", 2_200),
    ],
)
def test_a_full_table_of_keys_refuses_new_ones_and_forgets_none(field: str, bound: int) -> None:
    world = World(limits=Limits(**{field: bound}))
    peer = world.client()
    keyed(peer)
    [error] = keyed(peer, "another")
    assert (error["payload"]["code"], error["payload"]["retryable"]) == ("INTERNAL_ERROR", True)
    assert error["payload"]["details"]["limit"] == WIRE_WORDS[field]
    assert error["payload"]["details"]["max"] == bound
    assert error["payload"]["details"]["retry_after_ms"] > 0
    world.advance(1)
    assert keyed(peer)[0]["type"] == "job.accepted"
    peer.submit()
    assert len(world.all(StartJob)) == 2


def test_a_key_survives_a_restart() -> None:
    world = World(JOURNAL)
    peer = world.client()
    [first] = keyed(peer)
    world.restart()
    other = world.client()
    [accepted] = keyed(other)
    assert accepted["payload"]["job_id"] == first["job_id"]
    [end] = settled(world, other)
    assert (end["type"], end["payload"]["retryable"]) == ("job.error", True)
    assert keyed(other, input=5)[0]["payload"]["code"] == "DUPLICATE_KEY"
    assert len(world.all(StartJob)) == 1


def test_a_key_whose_job_is_forgotten_survives_a_restart() -> None:
    world = World(JOURNAL, limits=SHORT)
    peer = world.client(features=())
    keyed(peer)
    world.finish(jobs_of(world)[0], "before")
    world.advance(11)
    world.restart()
    again = world.resumed(peer, 1)
    _, end = keyed(again)
    assert (end["payload"]["result"], end["event_seq"]) == ("before", 2)


def test_a_key_expires_across_a_restart() -> None:
    world = World(JOURNAL, heartbeat_interval_sec=0)
    peer = world.client()
    keyed(peer)
    world.finish(jobs_of(world)[0])
    world.advance(20 * 3600)
    world.restart()
    world.advance(4 * 3600 + 1)
    keyed(world.client())
    assert len(world.all(StartJob)) == 2


def test_a_resumed_session_can_repeat_a_key(world: World, peer: Peer) -> None:
    keyed(peer)
    again = world.resumed(peer)
    assert [frame["type"] for frame in keyed(again)] == ["job.accepted"]
    world.emit(jobs_of(world)[0])
    assert again.numbers() == [1]


# Cancelling.


def test_a_session_that_repeated_a_key_may_cancel(world: World) -> None:
    first, second, third = (world.client() for _ in range(3))
    keyed(first)
    keyed(second)
    [job] = jobs_of(world)
    assert third.cancel(job)[0]["payload"]["code"] == "PERMISSION_DENIED"
    assert second.cancel(job)[0]["type"] == "job.cancelled"
    assert world.stops() == [job]


def test_a_resumed_session_may_cancel(world: World) -> None:
    first = world.client()
    job = first.submit()
    first.drop()
    assert world.resumed(first).cancel(job)[0]["type"] == "job.cancelled"


def test_a_cancel_of_an_ended_job_is_answered_with_its_status() -> None:
    world = World(JOURNAL)
    first, other = world.client(), world.client()
    job = first.submit()
    assert other.cancel(job)[0]["payload"]["code"] == "PERMISSION_DENIED"
    world.restart()
    assert world.client().cancel(job)[0]["payload"]["final_status"] == "error"
    assert world.resumed(other).cancel(job)[0]["payload"]["final_status"] == "error"
    assert world.resumed(first, 0).cancel(job)[-1]["payload"]["final_status"] == "error"


def test_without_a_living_submitter_any_session_of_the_principal_may_cancel() -> None:
    world = World(resume_window_sec=60, heartbeat_interval_sec=0)
    first, second, third = (world.client() for _ in range(3))
    keyed(first)
    keyed(second)
    [job] = jobs_of(world)
    first.drop()
    world.advance(61)
    assert third.cancel(job)[0]["payload"]["code"] == "PERMISSION_DENIED"
    second.drop()
    world.advance(61)
    assert third.cancel(job)[0]["type"] == "job.cancelled"


@pytest.mark.parametrize("right", ["list", "observe"])
def test_a_visible_job_of_another_principal_cannot_be_cancelled(right: str) -> None:
    world = World(observers={"bob": {"alice": right}})
    job = world.client().submit()
    bob = world.client("tok-bob")
    [error] = bob.cancel(job)
    assert error["payload"]["code"] == "PERMISSION_DENIED"
    assert world.stops() == []


def test_an_unknown_job_and_an_invisible_one_are_the_same_to_cancel(world: World) -> None:
    job = world.client().submit()
    bob = world.client("tok-bob")
    for job_id in (job, "job_" + "x" * 26):
        bob.send("job.cancel", {"job_id": job_id}, id="c")
    one, other = (
        raw.replace(frame["id"].encode(), b"").replace(frame["payload"]["job_id"].encode(), b"")
        for raw, frame in list(zip(bob.raw, bob.frames, strict=True))[-2:]
    )
    assert one == other and b"JOB_NOT_FOUND" in one


def test_job_cancelled_is_sent_to_the_cancelling_session_only(world: World) -> None:
    first, second, watching = (world.client() for _ in range(3))
    keyed(first)
    keyed(second)
    [job] = jobs_of(world)
    watching.send("job.subscribe", {"job_id": job})
    second.cancel(job)
    assert first.about(job) == watching.about(job) == []
    assert [frame["type"] for frame in second.about(job)] == ["job.cancelled"]
    world.stopped(job)
    for peer in (first, watching):
        assert [frame["payload"]["final_status"] for frame in peer.about(job)] == ["cancelled"]


def test_job_cancelled_is_in_no_history(world: World) -> None:
    first, second = world.client(), world.client(features=(*FEATURES, Feature.POSITIONS))
    job = first.submit()
    world.emit(job)
    first.cancel(job)
    world.stopped(job)
    second.send("job.subscribe", {"job_id": job, "history": True})
    assert [frame["type"] for frame in settled(world, second)] == ["job.event", "job.error"]
    assert [frame["payload"]["job_seq"] for frame in second.about(job)] == [1, 2]


# Starting.


def test_a_job_is_durable_before_it_starts() -> None:
    world = World(JOURNAL)
    world.client().submit()
    assert [type(record) for record in world.records[2:]] == [JobAcceptedRecord, JobStarted]


@pytest.mark.parametrize("restartable", [False, True])
def test_an_input_is_kept_while_its_job_may_start_again(restartable: bool) -> None:
    agents = (AgentInfo("echo", restartable=restartable),)
    world = World(JOURNAL, agents=agents)
    job = world.client().submit(input={"secret": 1})
    assert world.state.jobs[job].input == (b'{"secret": 1}' if restartable else None)
    world.finish(job)
    assert world.state.jobs[job].input is None


def test_a_runtime_that_shuts_down_still_answers_under_a_key(world: World, peer: Peer) -> None:
    keyed(peer)
    world.runtime.shut_down(30, now=world.now)
    world.take()
    assert keyed(peer)[0]["type"] == "job.accepted"
    [error] = keyed(peer, "another")
    assert (error["payload"]["code"], error["payload"]["retryable"]) == ("INTERNAL_ERROR", True)
