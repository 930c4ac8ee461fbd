"""Subscriptions: an observer gets the history and then live events, and never delays the job."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import PauseJob, StopJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.features import Feature
from arcp_proto.ids import SessionId
from arcp_proto.limits import Limits
from tests.unit.world import CONFIG, FEATURES, Frame, Peer, World

QUIET = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)
SMALL = msgspec.structs.replace(QUIET, limits=Limits(max_session_events=16))
ENDS = ("job.result", "job.error")


def started(world: World, events: int = 0, **hello: Any) -> tuple[Peer, str]:
    """Return a client with a job that has emitted `1`, `2`, …, and the job."""
    peer = world.client(**hello)
    job = peer.submit()
    say(world, job, *range(1, events + 1))
    return peer, job


def say(world: World, job: str, *numbers: int) -> None:
    for number in numbers:
        world.emit(job, "thought", {"text": str(number)})


def subscribed(peer: Peer, job: str, **payload: Any) -> dict[str, Any]:
    """Subscribe, let the frames that follow come, and return the payload of the answer."""
    frame = peer.send("job.subscribe", {"job_id": job, **payload})[0]
    assert frame["type"] == "job.subscribed"
    assert frame["job_id"] == frame["payload"]["job_id"] == job
    answer: dict[str, Any] = frame["payload"]
    peer.world.advance(0.001)
    return answer


def texts(peer: Peer, job: str) -> list[str]:
    """Return the texts of the events of a job, its end and the notices, in order."""
    return [said(frame) for frame in peer.about(job)]


def said(frame: Frame) -> str:
    payload = frame["payload"]
    if frame["type"] in ENDS:
        return str(payload["final_status"])
    body = payload.get("body", {})
    return str(body.get("text") or body.get("phase") or body.get("current") or frame["type"])


def positions(peer: Peer, job: str) -> list[int]:
    return [frame["payload"]["job_seq"] for frame in peer.about(job)]


# The answer.


def test_job_subscribed_describes_the_job(world: World, peer: Peer) -> None:
    lease = {"cost.budget": ["USD:5"]}
    constraints = {"expires_at": "2030-01-01T00:00:00Z"}
    job = peer.submit(lease_request=lease, lease_constraints=constraints)
    say(world, job, 1, 2)
    other = world.client()
    [frame] = other.send("job.subscribe", {"job_id": job}, id="s1")
    trace_id = peer.of("job.accepted")[0]["trace_id"]
    assert frame["trace_id"] == trace_id
    assert "event_seq" not in frame
    assert frame["payload"] == {
        "job_id": job,
        "current_status": "running",
        "agent": "echo@2.0.0",
        "lease": lease,
        "lease_constraints": constraints,
        "budget": {"USD": 5},
        "trace_id": trace_id,
        "subscribed_from": 2,
        "replayed": False,
        "request_id": "s1",
    }


def test_job_subscribed_of_a_job_without_events_starts_at_zero(world: World) -> None:
    _, job = started(world)
    answer = subscribed(world.client(), job, history=True)
    assert (answer["subscribed_from"], answer["replayed"], answer["lease"]) == (0, True, {})
    assert "history_from" not in answer and "budget" not in answer


def test_job_subscribed_precedes_the_events(world: World) -> None:
    _, job = started(world, 2)
    other = world.client()
    subscribed(other, job, history=True)
    say(world, job, 3)
    assert [frame["type"] for frame in other.frames[1:]] == ["job.subscribed", *["job.event"] * 3]


# Live, and history.


def test_a_subscribe_without_history_gets_only_new_events(world: World) -> None:
    _, job = started(world, 2)
    other = world.client()
    subscribed(other, job, from_event_seq=0)
    say(world, job, 3)
    world.finish(job)
    assert texts(other, job) == ["3", "success"]
    assert other.numbers() == [1, 2]


@pytest.mark.parametrize(("after", "first"), [(None, 1), (0, 1), (1, 2), (3, 4), (99, 4)])
def test_a_history_begins_above_the_requested_number(world: World, after: int | None, first: int) -> None:
    _, job = started(world, 3)
    other = world.client()
    asked = {} if after is None else {"from_event_seq": after}
    assert subscribed(other, job, history=True, **asked)["replayed"]
    say(world, job, 4)
    assert texts(other, job) == [str(number) for number in range(first, 5)]
    assert other.numbers() == list(range(1, len(texts(other, job)) + 1))


def test_a_history_differs_from_the_first_events_only_in_its_numbers(world: World) -> None:
    peer, job = started(world, 1)
    world.advance(5)
    other = world.client()
    subscribed(other, job, history=True)
    [here], [there] = peer.about(job), other.about(job)
    assert there["payload"] == here["payload"]
    assert there["session_id"] == other.session_id
    assert there["trace_id"] == here["trace_id"]


def test_live_events_wait_behind_the_history(world: World) -> None:
    _, job = started(world, 2)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    say(world, job, 3)
    assert texts(other, job) == []
    world.advance(0.001)
    say(world, job, 4)
    assert texts(other, job) == ["1", "2", "3", "4"]


def test_the_terminal_of_a_job_that_ends_meanwhile_follows_the_history(world: World) -> None:
    _, job = started(world, 2)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.finish(job)
    world.advance(0.001)
    assert texts(other, job) == ["1", "2", "success"]


def test_the_history_of_a_finished_job_ends_with_its_terminal(world: World) -> None:
    _, job = started(world, 2)
    world.finish(job, {"x": 1})
    other = world.client()
    answer = subscribed(other, job, history=True)
    assert (answer["current_status"], answer["subscribed_from"]) == ("success", 3)
    assert texts(other, job) == ["1", "2", "success"]
    assert other.about(job)[-1]["payload"]["result"] == {"x": 1}
    [session] = [
        one for one in world.state.sessions.values() if one is connection_state(other.connection).session
    ]
    assert session.observed == {} and not session.backlogs


def test_a_subscribe_from_the_last_event_gets_only_the_terminal(world: World) -> None:
    _, job = started(world, 2)
    world.finish(job)
    other = world.client()
    subscribed(other, job, history=True, from_event_seq=2)
    assert texts(other, job) == ["success"]


def test_a_subscribe_from_the_terminal_gets_nothing(world: World) -> None:
    _, job = started(world, 2)
    world.finish(job)
    other = world.client()
    assert subscribed(other, job, history=True, from_event_seq=3)["replayed"]
    assert texts(other, job) == []


def test_a_subscribe_to_a_finished_job_without_history_gets_only_its_status(world: World) -> None:
    _, job = started(world, 2)
    world.fail(job)
    other = world.client()
    assert subscribed(other, job)["current_status"] == "error"
    assert texts(other, job) == []


def test_an_observer_subscribes_again_exactly_where_it_stopped(world: World) -> None:
    _, job = started(world, 3)
    one = world.client()
    subscribed(one, job, history=True)
    stopped = subscribed(one, job)["subscribed_from"]
    one.drop()
    say(world, job, 4, 5)
    two = world.client()
    subscribed(two, job, history=True, from_event_seq=stopped)
    assert texts(two, job) == ["4", "5"]


def test_an_observer_gets_only_the_kinds_that_it_negotiated(world: World) -> None:
    _, job = started(world, 1)
    world.emit(job, "progress", {"current": 7})
    plain = world.client(features=("subscribe",))
    full = world.client()
    for other in (plain, full):
        subscribed(other, job, history=True)
    world.emit(job, "progress", {"current": 8})
    say(world, job, 9)
    assert texts(plain, job) == ["1", "9"]
    assert texts(full, job) == ["1", "7", "8", "9"]


def test_an_observer_without_result_chunk_gets_an_inline_result(world: World) -> None:
    peer, job = started(world, features=())
    with_chunks, without = world.client(), world.client(features=("subscribe",))
    subscribed(with_chunks, job)
    subscribed(without, job)
    world.write(job, "text")
    world.finish(job)
    assert peer.about(job)[-1]["payload"]["result"] == "text"
    assert without.about(job)[-1]["payload"]["result"] == "text"
    assert [frame["type"] for frame in with_chunks.about(job)] == ["job.event"] * 2 + ["job.result"]
    assert with_chunks.about(job)[-1]["payload"]["result_size"] == 4


def test_a_history_is_replayed_piece_by_piece() -> None:
    world = World(QUIET, limits=Limits(max_backlog_events=4))
    _, job = started(world, 10)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    numbered = []
    for _ in range(4):
        world.carry_out(world.runtime.handle_timer(now=world.now))
        numbered.append(len(texts(other, job)))
    assert numbered == [4, 8, 10, 10]


def test_a_piece_of_a_history_is_at_most_half_of_the_limit_of_a_principal() -> None:
    limits = Limits(max_session_events=100, max_principal_events=40)
    world = World(QUIET, limits=limits, observers={"bob": {"alice": "observe"}})
    peer, job = started(world)
    for number in range(1, 31):
        say(world, job, number)
        peer.send("session.ack", {"last_processed_seq": number})
    other = world.client("tok-bob")
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.carry_out(world.runtime.handle_timer(now=world.now))
    assert len(texts(other, job)) == 20


def test_a_history_enters_the_log_only_as_fast_as_its_connection_takes_it() -> None:
    world = World(QUIET, limits=Limits(max_backlog_events=4))
    _, job = started(world, 20)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.carry_out(world.runtime.handle_timer(now=world.now))
    world.carry_out(other.connection.blocked(now=world.now))
    world.advance(60)
    assert len(texts(other, job)) == 4
    world.carry_out(other.connection.drained(now=world.now))
    world.advance(0.001)
    assert texts(other, job) == [str(number) for number in range(1, 21)]


def test_a_history_continues_after_a_resume() -> None:
    world = World(QUIET, limits=Limits(max_backlog_events=4))
    _, job = started(world, 10)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.carry_out(world.runtime.handle_timer(now=world.now))
    other.drop()
    world.advance(60)
    say(world, job, 11)
    again = world.resumed(other)
    world.advance(0.001)
    assert texts(again, job) == [str(number) for number in range(5, 12)]
    assert again.numbers() == list(range(5, 12))


def test_two_histories_are_replayed_one_after_the_other() -> None:
    world = World(QUIET, limits=Limits(max_backlog_events=2))
    peer, one = started(world, 3)
    two = peer.submit()
    say(world, two, 1, 2, 3)
    other = world.client()
    for job in (one, two):
        other.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(0.001)
    assert [frame["job_id"] for frame in other.frames if "event_seq" in frame] == [one] * 3 + [two] * 3


# A second subscribe, a subscribe in the submitting session, and an unsubscribe.


def test_a_second_subscribe_is_answered_and_doubles_no_event(world: World) -> None:
    _, job = started(world, 1)
    other = world.client()
    for _ in range(3):
        assert subscribed(other, job)["replayed"] is False
    say(world, job, 2)
    assert texts(other, job) == ["2"]


def test_a_second_subscribe_with_history_replays_again(world: World) -> None:
    _, job = started(world, 2)
    other = world.client()
    subscribed(other, job, history=True)
    say(world, job, 3)
    subscribed(other, job, history=True, from_event_seq=1)
    say(world, job, 4)
    assert texts(other, job) == ["1", "2", "3", "2", "3", "4"]
    assert other.numbers() == [1, 2, 3, 4, 5, 6]


def test_live_events_wait_behind_a_second_history(world: World) -> None:
    _, job = started(world, 1)
    other = world.client()
    subscribed(other, job, history=True)
    other.send("job.subscribe", {"job_id": job, "history": True})
    say(world, job, 2)
    world.advance(0.001)
    say(world, job, 3)
    assert texts(other, job) == ["1", "1", "2", "3"]


def test_a_second_subscribe_without_history_keeps_the_first_history(world: World) -> None:
    _, job = started(world, 1)
    other = world.client()
    for history in (True, False):
        other.send("job.subscribe", {"job_id": job, "history": history})
    say(world, job, 2)
    world.advance(0.001)
    say(world, job, 3)
    assert texts(other, job) == ["1", "2", "3"]


def test_a_session_that_ends_before_its_history_observes_nothing() -> None:
    world = World(QUIET, resume_window_sec=0)
    _, job = started(world, 1)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    assert world.state.timers.armed(TimerKind.BACKLOG, other.session_id) is not None
    session_id = other.session_id
    other.drop()
    assert world.state.timers.armed(TimerKind.BACKLOG, session_id) is None
    world.advance(1)
    say(world, job, 2)
    assert texts(other, job) == []


def test_a_second_subscribe_while_behind_begins_where_it_asks(world: World) -> None:
    _, job = started(world, 3)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    subscribed(other, job, history=True, from_event_seq=2)
    say(world, job, 4)
    assert texts(other, job) == ["3", "4"]


def test_a_subscribe_in_the_submitting_session_changes_nothing(world: World) -> None:
    peer, job = started(world, 1)
    assert subscribed(peer, job)["subscribed_from"] == 1
    say(world, job, 2)
    world.finish(job)
    assert texts(peer, job) == ["1", "2", "success"]


def test_the_submitting_session_can_replay_its_history(world: World) -> None:
    peer, job = started(world, 2, features=(*FEATURES, Feature.POSITIONS))
    peer.send("job.subscribe", {"job_id": job, "history": True})
    say(world, job, 3)
    world.advance(0.001)
    assert texts(peer, job) == ["1", "2", "1", "2", "3"]
    assert positions(peer, job) == [1, 2, 1, 2, 3]
    say(world, job, 4)
    assert texts(peer, job)[-1] == "4"
    assert peer.numbers() == list(range(1, 7))


def test_the_submitting_session_with_every_event_gets_no_replay(world: World) -> None:
    peer, job = started(world, 2)
    assert subscribed(peer, job, history=True, from_event_seq=2)["replayed"]
    say(world, job, 3)
    assert texts(peer, job) == ["1", "2", "3"]


def test_the_submitting_session_can_replay_a_finished_job(world: World) -> None:
    peer, job = started(world, 1)
    world.finish(job)
    subscribed(peer, job, history=True)
    assert texts(peer, job) == ["1", "success", "1", "success"]


def test_unsubscribe_ends_observing_and_has_no_answer(world: World) -> None:
    _, job = started(world, 1)
    other = world.client()
    subscribed(other, job)
    say(world, job, 2)
    assert other.send("job.unsubscribe", {"job_id": job}) == []
    say(world, job, 3)
    world.finish(job)
    assert texts(other, job) == ["2"]
    assert other.send("job.unsubscribe", {"job_id": job}) == []


def test_unsubscribe_ends_a_history_too(world: World) -> None:
    _, job = started(world, 3)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    other.send("job.unsubscribe", {"job_id": job})
    world.advance(0.001)
    assert texts(other, job) == []
    assert world.state.jobs[job].behind == world.state.jobs[job].observers == {}


def test_unsubscribe_leaves_the_submitting_session_its_job(world: World) -> None:
    peer, job = started(world)
    subscribed(peer, job)
    peer.send("job.unsubscribe", {"job_id": job})
    world.finish(job)
    assert texts(peer, job) == ["success"]


def test_the_number_of_jobs_that_a_session_observes_is_limited() -> None:
    world = World(QUIET, limits=Limits(max_session_subscriptions=2))
    peer = world.client()
    jobs = [peer.submit() for _ in range(3)]
    other = world.client()
    for job in jobs[:2]:
        subscribed(other, job)
    [error] = other.send("job.subscribe", {"job_id": jobs[2]}, id="s")
    assert error["payload"]["code"] == "INVALID_REQUEST"
    assert error["payload"]["details"] == {"limit": "subscriptions", "max": 2, "request_id": "s"}
    subscribed(other, jobs[0], history=True)
    other.send("job.unsubscribe", {"job_id": jobs[0]})
    subscribed(other, jobs[2])


def test_a_job_counts_once_while_its_history_comes() -> None:
    world = World(QUIET, limits=Limits(max_session_subscriptions=2))
    peer, one = started(world, 3)
    two = peer.submit()
    other = world.client()
    other.send("job.subscribe", {"job_id": one, "history": True})
    [answer] = other.send("job.subscribe", {"job_id": two, "history": True})
    assert answer["type"] == "job.subscribed"


# The right to subscribe.


def test_an_unknown_job_and_an_invisible_one_are_the_same(world: World) -> None:
    _, job = started(world)
    bob = world.client("tok-bob")
    for job_id in (job, "job_" + "x" * 26):
        bob.send("job.subscribe", {"job_id": job_id}, id="s")
    one, other = (
        raw.replace(frame["id"].encode(), b"").replace(frame["payload"]["job_id"].encode(), b"")
        for raw, frame in list(zip(bob.raw, bob.frames, strict=True))[-2:]
    )
    assert one == other and b"JOB_NOT_FOUND" in one


@pytest.mark.parametrize("owner", ["alice", "*"])
def test_the_rights_of_the_host_allow_an_observer(owner: str) -> None:
    world = World(QUIET, observers={"bob": {owner: "observe"}})
    _, job = started(world, 1)
    bob = world.client("tok-bob")
    subscribed(bob, job, history=True)
    world.finish(job)
    assert texts(bob, job) == ["1", "success"]


def test_a_principal_that_may_only_list_is_denied_to_subscribe() -> None:
    world = World(QUIET, observers={"bob": {"alice": "list", "*": "observe"}})
    _, job = started(world)
    [error] = world.client("tok-bob").send("job.subscribe", {"job_id": job})
    assert error["payload"]["code"] == "PERMISSION_DENIED"


def test_the_right_to_observe_is_not_mutual() -> None:
    world = World(QUIET, observers={"bob": {"alice": "observe"}})
    job = world.client("tok-bob").submit()
    [error] = world.client().send("job.subscribe", {"job_id": job})
    assert error["payload"]["code"] == "JOB_NOT_FOUND"


def test_a_withdrawn_right_ends_the_observation() -> None:
    world = World(QUIET, observers={"bob": {"alice": "observe"}})
    _, job = started(world)
    bob = world.client("tok-bob")
    subscribed(bob, job)
    world.runtime.observers_set({}, now=world.now)
    world.take()
    say(world, job, 1)
    assert texts(bob, job) == ["unsubscribed"]
    assert bob.send("job.subscribe", {"job_id": job})[0]["payload"]["code"] == "JOB_NOT_FOUND"


def test_a_right_missing_after_a_restart_ends_the_observation() -> None:
    world = World(QUIET, journal=True, observers={"bob": {"alice": "observe"}})
    _, job = started(world)
    bob = world.client("tok-bob")
    subscribed(bob, job)
    world.config = msgspec.structs.replace(world.config, observers={})
    world.restart()
    assert texts(world.resumed(bob, token="tok-bob"), job) == ["unsubscribed"]


def test_a_right_that_stays_keeps_the_observation() -> None:
    world = World(QUIET, observers={"bob": {"alice": "observe"}})
    peer, job = started(world)
    bob = world.client("tok-bob")
    subscribed(bob, job)
    own = world.client()
    subscribed(own, job)
    world.runtime.observers_set({"bob": {"*": "observe"}}, now=world.now)
    world.take()
    say(world, job, 1)
    assert texts(bob, job) == texts(own, job) == texts(peer, job) == ["1"]


# The resources of an observer.


def test_an_observer_never_makes_a_job_wait(world: World) -> None:
    _, job = started(world)
    other = world.client()
    subscribed(other, job)
    world.carry_out(other.connection.blocked(now=world.now))
    assert world.all(PauseJob) == []


def not_reading(world: World, job: str, how: str) -> Peer:
    """Return an observer with its own job, whose transport is full or gone while `job` emits 1 to 39."""
    other = world.client()
    own = other.submit()
    world.emit(own, "thought", {"text": "own"})
    subscribed(other, job)
    other.slow = True
    if how == "blocked":
        world.carry_out(other.connection.blocked(now=world.now))
    else:
        other.drop()
    say(world, job, *range(1, 40))
    return other


@pytest.mark.parametrize("how", ["blocked", "detached"])
def test_an_observer_that_does_not_read_costs_nothing_and_misses_nothing(how: str) -> None:
    world = World(SMALL)
    _, job = started(world)
    other = not_reading(world, job, how)
    assert world.state.sessions[SessionId(other.session_id)].log.last == 1
    again = world.resumed(other, 0)
    world.advance(0.001)
    assert texts(again, job) == [str(number) for number in range(1, 40)]
    assert world.stops() == [] and world.all(StopJob) == []


def test_an_observer_that_reads_again_continues_where_it_stopped() -> None:
    world = World(SMALL)
    _, job = started(world)
    other = not_reading(world, job, "blocked")
    other.slow = False
    world.carry_out(other.connection.drained(now=world.now))
    world.advance(0.001)
    say(world, job, 40)
    assert texts(other, job) == [str(number) for number in range(1, 41)]


@pytest.mark.parametrize("how", ["blocked", "detached"])
def test_a_subscription_ends_when_the_history_that_it_waits_for_is_cut(how: str) -> None:
    world = World(QUIET, limits=Limits(max_history_events=16))
    _, job = started(world)
    other = not_reading(world, job, how)
    again = world.resumed(other, 0)
    world.advance(0.001)
    assert texts(again, job) == ["unsubscribed"]
    notice = again.about(job)[-1]
    assert (notice["type"], notice["payload"]["kind"]) == ("job.event", "status")
    assert subscribed(again, job, history=True)["history_from"] > 1
    assert texts(again, job)[-1] == "39"
    assert said(again.frames[1]) == "own"


def test_an_observer_that_reads_is_not_unsubscribed() -> None:
    world = World(SMALL)
    _, job = started(world)
    other = world.client()
    subscribed(other, job)
    say(world, job, *range(1, 100))
    assert texts(other, job) == [str(number) for number in range(1, 100)]


def test_job_subscribed_tells_where_a_cut_history_begins() -> None:
    world = World(QUIET, limits=Limits(max_history_events=16))
    _, job = started(world, 17)
    other = world.client()
    assert subscribed(other, job, history=True)["history_from"] == 3
    assert texts(other, job)[0] == "3"
    assert "history_from" not in subscribed(other, job, history=True, from_event_seq=2)
    assert "history_from" not in subscribed(other, job)


@pytest.mark.parametrize("ended", [False, True])
def test_job_subscribed_tells_where_events_continue_after_an_empty_history(ended: bool) -> None:
    world = World(QUIET, limits=Limits(max_history_bytes=50))
    _, job = started(world, 2)
    if ended:
        world.finish(job)
    other = world.client()
    assert subscribed(other, job, history=True)["history_from"] == 3
    assert texts(other, job) == (["success"] if ended else [])


def test_a_history_that_is_cut_under_an_observer_ends_its_subscription() -> None:
    world = World(QUIET, limits=Limits(max_history_events=16, max_backlog_events=4))
    _, job = started(world, 10)
    other = world.client()
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.carry_out(world.runtime.handle_timer(now=world.now))
    world.carry_out(other.connection.blocked(now=world.now))
    say(world, job, *range(11, 40))
    assert texts(other, job) == ["1", "2", "3", "4", "unsubscribed"]
    assert "subscribe again" in other.about(job)[-1]["payload"]["body"]["message"]
    assert world.state.jobs[job].behind == {}
    world.carry_out(other.connection.drained(now=world.now))
    world.advance(1)
    assert texts(other, job)[-1] == "unsubscribed"


def test_an_observer_that_cannot_subscribe_again_skips_a_cut_history() -> None:
    world = World(QUIET, limits=Limits(max_history_events=16, max_backlog_events=4))
    peer, other = world.client(), world.client(features=())
    submit = {"agent": "echo", "idempotency_key": "k"}
    [accepted] = peer.send("job.submit", submit)
    job = accepted["job_id"]
    say(world, job, *range(1, 11))
    other.send("job.submit", submit)
    world.carry_out(world.runtime.handle_timer(now=world.now))
    world.carry_out(other.connection.blocked(now=world.now))
    say(world, job, *range(11, 40))
    world.carry_out(other.connection.drained(now=world.now))
    world.advance(0.001)
    world.finish(job)
    assert texts(other, job)[:4] == ["1", "2", "3", "4"]
    assert "unsubscribed" not in texts(other, job)
    assert texts(other, job)[-2:] == ["39", "success"]


def test_an_observer_of_a_forgotten_job_gets_its_terminal() -> None:
    world = World(QUIET, limits=Limits(retention_sec=10, max_backlog_events=4))
    _, job = started(world, 10)
    world.finish(job)
    other = world.client(features=(*FEATURES, Feature.POSITIONS))
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.carry_out(world.runtime.handle_timer(now=world.now))
    world.carry_out(other.connection.blocked(now=world.now))
    world.advance(11)
    assert texts(other, job) == ["1", "2", "3", "4", "success"]
    assert positions(other, job) == [1, 2, 3, 4, 11]
    assert world.state.jobs == {}
    world.carry_out(other.connection.drained(now=world.now))
    world.advance(1)


def test_acks_do_not_touch_a_history(world: World) -> None:
    peer, job = started(world, 3)
    peer.send("session.ack", {"last_processed_seq": 3})
    other = world.client()
    subscribed(other, job, history=True)
    assert texts(other, job) == ["1", "2", "3"]


def test_a_session_that_ends_observes_no_longer() -> None:
    world = World(QUIET, resume_window_sec=10)
    _, job = started(world, 3)
    live, behind = world.client(), world.client()
    subscribed(live, job)
    behind.send("job.subscribe", {"job_id": job, "history": True})
    live.drop()
    behind.drop()
    world.advance(11)
    assert world.state.jobs[job].observers == world.state.jobs[job].behind == {}
    assert world.state.timers.armed(TimerKind.BACKLOG, behind.session_id) is None
    say(world, job, 4)


# The journal.


def test_a_history_waits_for_a_journal_that_is_behind() -> None:
    limits = Limits(max_backlog_events=10, max_session_events=40)
    world = World(QUIET, journal=True, limits=limits)
    _, job = started(world, 100)
    other = world.client()
    world.durable = False
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(1)
    session = world.state.sessions[SessionId(other.session_id)]
    assert session.log.last == 10
    assert session.awaits_journal
    world.persist()
    assert texts(other, job) == [str(number) for number in range(1, 11)]
    world.durable = True
    world.persist()
    world.advance(1)
    assert texts(other, job) == [str(number) for number in range(1, 101)]
    assert world.state.unsaved == {}


def test_a_history_that_waits_for_the_journal_ends_with_its_session() -> None:
    config = msgspec.structs.replace(QUIET, journal=True, resume_window_sec=5)
    world = World(config, limits=Limits(max_backlog_events=2, max_session_events=16))
    _, job = started(world, 20)
    other = world.client()
    world.durable = False
    other.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(1)
    assert other.session_id in world.state.unsaved
    other.drop()
    world.advance(6)
    assert other.session_id not in world.state.unsaved
    world.persist()


def test_an_observer_continues_after_a_restart() -> None:
    world = World(QUIET, journal=True, limits=Limits(max_backlog_events=2))
    _, job = started(world, 5)
    live, behind = world.client(), world.client()
    subscribed(live, job)
    behind.send("job.subscribe", {"job_id": job, "history": True})
    world.carry_out(world.runtime.handle_timer(now=world.now))
    world.restart()
    again = world.resumed(live)
    world.advance(0.001)
    assert texts(again, job) == ["error"]
    again = world.resumed(behind)
    world.advance(0.001)
    assert texts(again, job) == ["3", "4", "5", "error"]
