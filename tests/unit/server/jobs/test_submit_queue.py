"""Submits wait for credentials and for earlier submits; other messages do not wait (§7.1, §9.8)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto import Framing
from arcp_proto.engine.output import Audit, IssueCredentials, StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import SECOND, UnixTime
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.gate import LOOK_SEC
from arcp_proto.wire.timestamps import format_time
from tests.unit.credentialed import PROVIDED, WITH, Provided
from tests.unit.world import FEATURES, UNIX, Frame, Peer


def submit(peer: Peer, **payload: Any) -> list[Frame]:
    """Submit a job, and return the frames that are received at once."""
    return peer.send("job.submit", {"agent": "echo", "input": None, **payload})


def answers(peer: Peer) -> list[tuple[str, str]]:
    """Return the type of each answer to a submit, with its number; the hello was the first request."""
    return [
        (frame["type"], f"req{int(frame['payload']['request_id'][3:]) - 1}")
        for frame in peer.frames
        if frame["type"] in ("job.accepted", "session.error")
    ]


def assert_nobody_waits(world: Provided) -> None:
    """Check that every submit is answered, and that no key is kept for a waiting one."""
    assert not any(session.turns for session in world.state.sessions.values())
    issuing = world.state.issuing
    assert not (issuing.keys or issuing.wanted or issuing.submits)


@pytest.fixture
def world() -> Provided:
    return Provided()


def test_answers_keep_the_order_of_submits(world: Provided, peer: Peer) -> None:
    for _ in range(3):
        submit(peer)
    first, second, third = world.asked
    world.issue(alias=third)
    world.issue(alias=second)
    assert answers(peer) == []
    world.issue(alias=first)
    assert answers(peer) == [("job.accepted", name) for name in ("req1", "req2", "req3")]


def test_only_submits_wait_in_the_queue(world: Provided, peer: Peer) -> None:
    job = world.job(peer)
    submit(peer)
    [pong] = peer.send("session.ping", {"nonce": "n", "sent_at": ""})
    assert pong["type"] == "session.pong"
    world.emit(job)
    assert peer.frames[-1]["type"] == "job.event"
    [jobs] = peer.send("session.list_jobs", {})
    assert len(jobs["payload"]["jobs"]) == 1
    [refused] = peer.send("job.subscribe", {"job_id": "job_unknown"})
    assert refused["payload"]["code"] == "JOB_NOT_FOUND"
    world.advance(1)  # A refusal stops reading for a second.
    assert peer.cancel(job)[0]["type"] == "job.cancelled"


def test_refusals_of_submits_keep_their_place(world: Provided, peer: Peer) -> None:
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


def test_a_duplicate_waits_for_the_first_submit_and_joins_its_job(world: Provided) -> None:
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


def test_a_duplicate_is_judged_anew_when_the_first_submit_is_refused(world: Provided) -> None:
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


def test_a_later_duplicate_waits_behind_one_that_is_judged_anew(world: Provided, peer: Peer) -> None:
    submit(peer, idempotency_key="k")
    submit(peer)
    submit(peer, idempotency_key="k")
    first, second = world.asked
    world.refuse(alias=first)
    submit(peer, idempotency_key="k")
    assert world.asked == [first, second]  # The fourth waits behind the third, which has the same key.
    world.issue(alias=second)
    world.issue()
    assert len(world.asked) == 3
    assert answers(peer)[1:] == [("job.accepted", name) for name in ("req2", "req3", "req4")]
    assert len({frame["payload"]["job_id"] for frame in peer.of("job.accepted")}) == 2
    assert_nobody_waits(world)


def test_a_duplicate_waits_behind_a_submit_whose_key_was_forgotten() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, limits=Limits(idempotency_retention_sec=1)))
    peer = world.client()
    job = world.job(peer, idempotency_key="k")
    submit(peer)
    submit(peer, idempotency_key="k")
    world.stopped(job)
    world.revoke(world.asked[0])
    world.advance(2)
    submit(peer, idempotency_key="k")
    assert len(world.asked) == 2
    world.issue()
    world.issue()
    assert [kind for kind, _ in answers(peer)] == ["job.accepted"] * 4
    assert_nobody_waits(world)


def test_two_sessions_do_not_deadlock_on_their_keys(world: Provided) -> None:
    first, one, two = world.client(), world.client(), world.client()
    submit(first, idempotency_key="k")
    submit(first, idempotency_key="l")
    submit(one)
    submit(one, idempotency_key="k")
    submit(two)
    submit(two, idempotency_key="l")
    for alias in world.asked[:2]:
        world.refuse(alias=alias)
    submit(one, idempotency_key="l")
    submit(two, idempotency_key="k")
    count = 0
    for _ in range(4):
        for alias in world.asked[2:][count:]:
            count += 1
            world.issue(alias=alias)
    assert [kind for kind, _ in answers(one) + answers(two)] == ["job.accepted"] * 6
    assert len({job.terms.idempotency_key for job in world.state.jobs.values()}) == 3
    assert_nobody_waits(world)


def test_a_submit_refused_before_its_turn_leaves_its_key_free(world: Provided, peer: Peer) -> None:
    submit(peer)
    submit(peer, agent="nobody", idempotency_key="k")
    submit(peer, idempotency_key="k")
    assert len(world.asked) == 2
    for alias in world.asked:
        world.issue(alias=alias)
    kinds = ["job.accepted", "session.error", "job.accepted"]
    assert [kind for kind, _ in answers(peer)] == kinds
    assert_nobody_waits(world)


def test_a_submit_repeated_after_a_resume_is_refused_once(world: Provided, peer: Peer) -> None:
    submit(peer)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    world.refuse()  # No error is sent: the client asks again on this connection.
    assert again.of("session.error") == []
    again.send("job.submit", {"agent": "echo", "input": None}, id="req2")
    assert len(world.asked) == 2
    world.issue()
    assert [frame["payload"]["request_id"] for frame in again.of("job.accepted")] == ["req2"]


def test_a_repeated_submit_is_refused_on_its_last_connection(world: Provided, peer: Peer) -> None:
    submit(peer)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    again.send("job.submit", {"agent": "echo", "input": None}, id="req2")
    world.refuse()
    assert [frame["payload"]["request_id"] for frame in again.of("session.error")] == ["req2"]


def test_a_different_submit_with_a_waiting_key_is_refused_in_its_turn(world: Provided, peer: Peer) -> None:
    submit(peer, idempotency_key="k")
    submit(peer, idempotency_key="k", agent="plain")
    assert answers(peer) == []
    world.issue()
    assert answers(peer) == [("job.accepted", "req1"), ("session.error", "req2")]
    assert peer.codes() == ["DUPLICATE_KEY"]


def test_answers_of_waiting_submits_go_to_the_present_connection(world: Provided, peer: Peer) -> None:
    submit(peer)
    submit(peer, agent="nobody")
    again = world.resumed(peer, 0, features=WITH)
    world.issue()
    assert answers(again) == [("job.accepted", "req1"), ("session.error", "req2")]


def test_a_resumed_session_gets_the_answer_of_a_waiting_submit(world: Provided, peer: Peer) -> None:
    submit(peer)
    submit(peer, agent="nobody")
    submit(peer, idempotency_key="k")
    peer.drop()
    for alias in world.asked:
        world.issue(alias=alias)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    assert answers(again) == [("job.accepted", "req1"), ("job.accepted", "req3")]


def test_a_submit_repeated_after_a_resume_is_carried_out_once(world: Provided, peer: Peer) -> None:
    submit(peer)
    again = world.resumed(peer, 0, features=WITH, replies=True)
    again.send("job.submit", {"agent": "echo", "input": None}, id="req2")
    assert len(world.asked) == 1
    world.issue()
    assert answers(again) == [("job.accepted", "req1")]


@pytest.mark.parametrize("framing", Framing)
def test_a_connection_is_not_read_while_too_many_submits_wait(framing: Framing) -> None:
    """Send submits while the connection is not read: they are held, and carried out when there is room."""
    world = Provided(msgspec.structs.replace(PROVIDED, limits=Limits(max_session_waiting_submits=2)))
    peer = world.client(framing=framing)
    job = world.job(peer)
    submit(peer)
    assert peer.connection.reading
    submit(peer)
    assert not peer.connection.reading
    for _ in range(3):
        submit(peer)
    peer.cancel(job)
    assert (len(world.asked), peer.codes(), world.stops()) == (3, [], [])
    world.issue(alias=world.asked[2])
    assert not peer.connection.reading
    for asked in (1, 3, 4, 5):
        assert len(answers(peer)) <= asked
        world.issue(alias=world.asked[asked])
        world.advance(0)
    assert answers(peer) == [("job.accepted", f"req{number}") for number in range(1, 7)]
    assert (peer.connection.reading, world.stops()) == (True, [job])
    assert_nobody_waits(world)


def test_reading_continues_without_an_input_when_submits_are_answered() -> None:
    """Let the provisioner never answer: submits wait for as long as credentials may take."""
    limits = Limits(max_session_waiting_submits=2, issue_timeout_sec=30)
    world = Provided(msgspec.structs.replace(PROVIDED, limits=limits))
    peer = world.client(features=(*WITH, "heartbeat"))
    for _ in range(5):
        submit(peer)
    world.advance(91)
    assert [kind for kind, _ in answers(peer)] == ["session.error"] * 5
    assert peer.codes() == ["INTERNAL_ERROR"] * 5
    assert peer.closing is None  # Silence does not count while the connection is not read.
    assert len(peer.of("session.ping")) >= 2  # The runtime still sends heartbeats.


def test_a_session_resumed_with_too_many_waiting_submits_continues() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, limits=Limits(max_session_waiting_submits=2)))
    peer = world.client()
    submit(peer)
    submit(peer)
    again = world.resumed(peer, 0, features=WITH)
    assert not again.connection.reading
    submit(again)
    for asked in range(3):
        world.issue(alias=world.asked[asked])
        world.advance(0)
    assert [kind for kind, _ in answers(again)] == ["job.accepted"] * 3
    assert_nobody_waits(world)


def test_a_connection_that_ends_with_too_many_waiting_submits_is_not_read() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, limits=Limits(max_session_waiting_submits=1)))
    peer = world.client()
    submit(peer)
    submit(peer)
    world.issue()
    peer.drop()
    world.advance(1)
    assert (len(world.asked), world.state.connections) == (1, {})


def test_waiting_submits_count_as_running_jobs() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, limits=Limits(max_total_running_jobs=1)))
    peer = world.client()
    submit(peer)
    submit(peer)
    assert len(world.asked) == 1
    world.refuse()
    assert [kind for kind, _ in answers(peer)] == ["session.error", "session.error"]
    submit(peer)
    assert len(world.asked) == 2


@pytest.mark.parametrize("limits", [Limits(max_total_running_jobs=3), Limits(max_principal_running_jobs=3)])
def test_submits_with_credentials_that_wait_behind_others_count_as_running_jobs(limits: Limits) -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, limits=limits))
    peer, other = world.client(), world.client()
    for _ in range(3):
        submit(peer)
    first, second, third = world.asked
    world.issue(alias=second)
    world.issue(alias=third)
    submit(other)
    assert (other.codes(), len(world.asked)) == (["INTERNAL_ERROR"], 3)
    world.issue(alias=first)
    assert len(world.state.running) == 3
    assert world.state.issuing.submits.total() == 0


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("how", ["the session ends", "the runtime shuts down", "the lease ends"])
def test_answered_submits_count_as_running_jobs_no_longer(how: str, ready: bool) -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, resume_window_sec=1))
    peer = world.client()
    submit(peer)
    submit(peer, lease_constraints=until(10))
    assert world.state.issuing.submits.total() == 2
    if ready:
        world.issue(alias=world.asked[1])
    if how == "the session ends":
        peer.drop()
        world.advance(1.1)
    elif how == "the runtime shuts down":
        world.runtime.shut_down(5.0, now=world.now)
        world.take()
    else:
        world.advance(11)
        for alias in world.asked[: 1 if ready else 2]:
            world.issue(alias=alias)
        assert peer.codes() == ["LEASE_EXPIRED"]
    assert not world.state.issuing.submits


def test_the_end_of_a_session_frees_the_keys_of_its_waiting_submits() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, resume_window_sec=1))
    peer, other = world.client(), world.client()
    submit(peer, idempotency_key="k")
    submit(other, idempotency_key="k")
    peer.drop()
    world.advance(1.1)
    assert len(world.asked) == 2
    world.issue()
    assert answers(other) == [("job.accepted", "req1")]


def test_a_shutdown_refuses_waiting_submits(world: Provided, peer: Peer) -> None:
    submit(peer)
    submit(peer)
    world.issue(alias=world.asked[1])
    world.runtime.shut_down(5.0, now=world.now)
    world.take()
    assert peer.codes() == ["INTERNAL_ERROR", "INTERNAL_ERROR"]
    assert world.all(StartJob) == []
    assert sorted(world.revocations) == sorted(world.asked)


@pytest.mark.parametrize("count", [1, 5])
def test_accepted_at_is_the_time_of_the_answer(world: Provided, peer: Peer, count: int) -> None:
    submit(peer)
    world.advance(count)
    world.issue()
    submit(peer)
    world.issue()
    first, second = (frame["payload"]["accepted_at"] for frame in peer.of("job.accepted"))
    assert first == second


# The lease of a submit may end while it waits (§9.5).


def until(seconds: int) -> dict[str, str]:
    """Return the `lease_constraints` of a lease that ends some seconds after the beginning of the world."""
    return {"expires_at": format_time(UnixTime(UNIX + seconds * SECOND))}


def test_a_submit_whose_lease_ends_before_its_credentials_is_refused(world: Provided, peer: Peer) -> None:
    submit(peer, lease_constraints=until(10))
    world.advance(9.999)
    assert answers(peer) == []
    world.advance(0.001)
    assert peer.codes() == ["LEASE_EXPIRED"]
    world.issue("sk-late")
    assert peer.codes() == ["LEASE_EXPIRED"]
    error = peer.frames[-1]["payload"]
    assert (error["retryable"], error["request_id"]) == (False, "req2")
    assert (peer.of("job.accepted"), world.all(StartJob), len(world.state.jobs)) == ([], [], 0)
    assert world.revocations == world.asked
    assert b"sk-late" not in world.values(peer.connection)
    world.revoke(world.asked[0])
    assert len(world.state.provisions) == 0
    assert world.last(Audit) == Audit(
        "lease_expired", "alice", {"job_id": world.last(IssueCredentials).job_id, **until(10)}
    )


def test_a_submit_whose_lease_ends_just_after_its_credentials_is_accepted(
    world: Provided, peer: Peer
) -> None:
    submit(peer, lease_constraints=until(10))
    world.advance(9.999)
    world.issue()
    assert [kind for kind, _ in answers(peer)] == ["job.accepted"]
    assert (world.revocations, len(world.all(StartJob))) == ([], 1)


def test_an_empty_answer_of_the_provisioner_leaves_nothing_to_revoke(world: Provided, peer: Peer) -> None:
    submit(peer, lease_constraints=until(10))
    world.advance(11)
    world.carry_out(world.runtime.credentials_issued(world.asked[0], [], now=world.now))
    assert (peer.codes(), world.revocations) == (["LEASE_EXPIRED"], world.asked)
    world.revoke(world.asked[0])
    assert len(world.state.provisions) == 0


def test_the_refusal_of_an_ended_lease_keeps_its_place_and_revokes_at_once(
    world: Provided, peer: Peer
) -> None:
    submit(peer)
    submit(peer, lease_constraints=until(10))
    submit(peer)
    first, second, third = world.asked
    world.advance(11)
    world.issue(alias=third)
    world.issue(alias=second)
    assert (answers(peer), world.revocations) == ([], [second])
    world.issue(alias=first)
    assert answers(peer) == [("job.accepted", "req1"), ("session.error", "req2"), ("job.accepted", "req3")]
    assert peer.codes() == ["LEASE_EXPIRED"]


def test_a_submit_whose_lease_ends_behind_others_is_refused_in_its_turn(world: Provided, peer: Peer) -> None:
    submit(peer)
    submit(peer, lease_constraints=until(10))
    first, second = world.asked
    world.issue(alias=second)
    world.advance(11)
    assert (answers(peer), world.revocations) == ([], [])
    world.issue(alias=first)
    assert answers(peer) == [("job.accepted", "req1"), ("session.error", "req2")]
    assert (peer.codes(), world.revocations) == (["LEASE_EXPIRED"], [second])


def test_the_key_of_a_submit_whose_lease_has_ended_is_free(world: Provided) -> None:
    peer, other = world.client(), world.client()
    submit(peer, idempotency_key="k", lease_constraints=until(10))
    submit(other, idempotency_key="k", lease_constraints=until(20))
    world.advance(11)
    assert (peer.codes(), answers(other), len(world.asked)) == (["LEASE_EXPIRED"], [], 2)
    world.issue()
    assert answers(other) == [("job.accepted", "req1")]
    assert [request.job_id for request in world.all(StartJob)] == list(world.state.jobs)


def test_an_ended_lease_of_a_waiting_submit_stays_ended_when_the_wall_clock_is_set_back(
    world: Provided, peer: Peer
) -> None:
    submit(peer, lease_constraints=until(10))
    submit(peer, lease_constraints=until(20))
    submit(peer)
    world.advance(11)
    world.runtime.wall_clock_set(UNIX, now=world.now)
    world.take()
    world.advance(1)
    for alias in world.asked:
        world.issue(alias=alias)
    assert [kind for kind, _ in answers(peer)] == ["session.error", "job.accepted", "job.accepted"]
    assert peer.codes() == ["LEASE_EXPIRED"]


def test_the_wall_clock_is_checked_while_a_submit_with_an_expiry_waits(world: Provided) -> None:
    submit(world.client(), lease_constraints=until(3_600))
    world.advance(25)
    at = world.state.timers.armed(TimerKind.WALL_CLOCK, 0)
    assert at is not None and at <= world.now + LOOK_SEC * SECOND


def test_a_wall_clock_set_ahead_refuses_a_waiting_submit(world: Provided, peer: Peer) -> None:
    submit(peer, lease_constraints=until(3_600))
    world.runtime.wall_clock_set(UNIX + 7_200 * SECOND, now=world.now)
    world.take()
    world.advance(0)
    assert (peer.codes(), world.revocations) == (["LEASE_EXPIRED"], world.asked)


def test_a_wall_clock_set_back_lets_a_submit_wait_longer(world: Provided, peer: Peer) -> None:
    submit(peer, lease_constraints=until(10))
    world.advance(9)
    world.runtime.wall_clock_set(UNIX, now=world.now)
    world.take()
    world.advance(9)
    assert answers(peer) == []
    world.advance(1)
    assert peer.codes() == ["LEASE_EXPIRED"]


# A lease for which there are no credentials.


@pytest.mark.parametrize("required", [True, False])
def test_the_provisioner_is_not_asked_for_a_lease_without_credentials(required: bool) -> None:
    config = msgspec.structs.replace(PROVIDED, credential_namespaces=("model.use",), models_required=required)
    world = Provided(config)
    peer = world.client()
    submit(peer, lease_request={"tool.call": ["*"]})
    submit(peer, lease_request={"model.use": []})
    assert len(world.asked) == (0 if required else 1)  # A lease without model.use allows any model.
    if not required:
        world.issue()
    assert answers(peer) == [("job.accepted", "req1"), ("job.accepted", "req2")]
    submit(peer, lease_request={"model.use": ["small"]})
    submit(peer, lease_request={"model.use": []})
    assert answers(peer)[2:] == []  # The last submit waits for the answer to the one before it.
    world.issue()
    assert answers(peer)[2:] == [("job.accepted", "req3"), ("job.accepted", "req4")]
    assert len(world.asked) == (1 if required else 2)


def test_a_child_whose_lease_has_no_credentials_starts_at_once() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, credential_namespaces=("model.use",)))
    peer = world.client()
    lease = {"agent.delegate": ["plain"], "model.use": ["small", "large"], "fs.read": ["/a/**"]}
    job = world.job(peer, lease_request=lease)
    bare = world.runtime.agents.delegate(job, "plain", None, {"fs.read": ["/a/b"]}, now=world.now)
    world.take()
    assert (world.last(StartJob).job_id, len(world.asked)) == (bare, 1)
    world.runtime.agents.delegate(job, "plain", None, {"model.use": ["small"]}, now=world.now)
    world.take()
    assert (world.last(StartJob).job_id, len(world.asked)) == (bare, 2)
