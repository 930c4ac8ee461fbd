"""Answers that may not have arrived: they are kept within limits, until a later event has arrived."""

from __future__ import annotations

import tracemalloc

import pytest

from arcp_proto.engine.output import StartJob
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.server.sessions.session import ANSWERED, Replies, Reply
from arcp_proto.wire import codec
from tests.unit.world import Peer, World

LIMITS = Limits(max_session_replies=3, max_session_reply_bytes=100)


def reply(after: int, name: str, message_type: str = "job.accepted", size: int = 10) -> Reply:
    return Reply(after, name, message_type, JobId(f"job_{name}"), b"x" * size)


def replies_of(*made: Reply) -> Replies:
    replies = Replies()
    for one in made:
        replies.add(one, LIMITS)
    return replies


def names(replies: Replies) -> list[str]:
    return [one.request_id for one in replies]


def test_replies_are_kept_in_order() -> None:
    replies = replies_of(reply(0, "a"), reply(2, "b", "job.subscribed"))
    assert names(replies) == ["a", "b"]
    assert (len(replies), replies.size) == (2, 20)


def test_the_newest_reply_is_known_even_without_room_for_it() -> None:
    assert Replies().newest is None
    replies = replies_of(reply(0, "a"), large := reply(0, "b", size=101))
    assert (names(replies), replies.newest) == ([], large)


def test_the_oldest_replies_are_dropped_above_their_number() -> None:
    assert names(replies_of(*[reply(0, name) for name in "abcde"])) == ["c", "d", "e"]


def test_the_oldest_replies_are_dropped_above_their_bytes() -> None:
    replies = replies_of(reply(0, "a", size=50), reply(0, "b", size=40), reply(0, "c", size=60))
    assert names(replies) == ["b", "c"]
    assert replies.size == 100


def test_replies_use_no_more_memory_than_their_bytes() -> None:
    """Measure the memory of replies, since an encoder leaves unused room behind its bytes."""
    lease = {f"x-vendor.n{number}": ["a" * 20] * 20 for number in range(17)}
    replies, limits = Replies(), Limits(max_session_replies=100, max_session_reply_bytes=10**7)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(100):
            payload = codec.encode_checked({"lease": lease})
            replies.add(Reply(number, "s", "job.subscribed", JobId("j"), payload), limits)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert replies.size > 800_000
    assert after - before < 1.1 * replies.size


def test_a_submit_whose_reply_was_dropped_stays_known_after_later_events() -> None:
    replies = replies_of(*[reply(0, name) for name in "abcd"], reply(1, "s", "job.subscribed"))
    replies.seen(9)
    assert [name for name in "abcds" if replies.accepted(name)] == ["a", "b"]


def test_a_dropped_reply_to_a_subscribe_is_not_remembered() -> None:
    replies = replies_of(reply(0, "s", "job.subscribed"), *[reply(0, name) for name in "abc"])
    assert names(replies) == ["a", "b", "c"]
    assert replies.accepted("s") is None


def test_a_reply_above_the_limit_of_bytes_is_not_kept() -> None:
    assert names(replies_of(reply(0, "a", size=101))) == []


@pytest.mark.parametrize(("seq", "left"), [(0, "abcd"), (1, "bcd"), (2, "bcd"), (3, "d"), (9, "")])
def test_replies_before_a_seen_event_are_dropped(seq: int, left: str) -> None:
    replies = Replies()
    for one in (reply(0, "a"), reply(2, "b"), reply(2, "c"), reply(5, "d")):
        replies.add(one, Limits())
    replies.seen(seq)
    assert "".join(names(replies)) == left
    assert [name for name in "abcd" if replies.accepted(name)] == list(left)


def test_an_answered_submit_is_known_by_its_request_id() -> None:
    replies = replies_of(reply(0, "a"), reply(0, "b", "job.subscribed"))
    assert replies.accepted("a") == "job_a"
    assert replies.accepted("b") is None
    assert replies.accepted("c") is None


def test_more_answered_submits_are_known_than_replies_are_kept() -> None:
    replies = replies_of(*[reply(0, str(number)) for number in range(ANSWERED + 2)])
    assert len(replies) == 3
    assert [replies.accepted(str(number)) is None for number in range(4)] == [True, True, False, False]


def test_loaded_replies_equal_the_saved_ones() -> None:
    replies = replies_of(*[reply(number, str(number)) for number in range(5)])
    again = Replies()
    again.load(list(replies), replies.answered())
    assert names(again) == names(replies)
    assert again.answered() == replies.answered()
    assert again.size == replies.size


# Over the wire.


def types(peer: Peer) -> list[str]:
    return [frame["type"] for frame in peer.frames]


def deaf(world: World) -> Peer:
    """Return a client that takes no envelopes after its welcome."""
    peer = world.client()
    peer.slow = True
    return peer


def test_a_resume_replays_replies_at_their_places_among_the_events(world: World, peer: Peer) -> None:
    one = peer.submit()
    world.emit(one)
    two = peer.submit()
    world.emit(two)
    again = world.resumed(peer, 0, replies=True)
    assert types(again) == ["session.welcome", "job.accepted", "job.event", "job.accepted", "job.event"]
    assert [frame["payload"] for frame in again.of("job.accepted")] == [
        frame["payload"] for frame in peer.of("job.accepted")
    ]
    assert [frame["job_id"] for frame in again.of("job.accepted")] == [one, two]


@pytest.mark.parametrize(("last", "answers"), [(0, 2), (1, 1), (2, 0)])
def test_replies_below_the_cursor_are_not_replayed(world: World, peer: Peer, last: int, answers: int) -> None:
    for _ in range(2):
        world.emit(peer.submit())
    again = world.resumed(peer, last, replies=True)
    assert len(again.of("job.accepted")) == answers


def test_replies_are_replayed_only_to_a_client_that_asks(world: World, peer: Peer) -> None:
    world.emit(peer.submit())
    again = world.resumed(peer, 0)
    assert types(again) == ["session.welcome", "job.event"]
    assert "replies" not in again.frames[0]["payload"]
    asking = world.resumed(again, 0, replies=True)
    assert asking.frames[0]["payload"]["replies"] is True
    assert types(asking) == ["session.welcome", "job.accepted", "job.event"]


def test_the_first_welcome_does_not_mention_replies() -> None:
    assert "replies" not in World().client().frames[0]["payload"]


def test_session_resume_may_ask_for_replies(world: World, peer: Peer) -> None:
    peer.submit()
    again = world.connect()
    again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0, "replies": True})
    assert types(again) == ["session.welcome", "job.accepted"]


def test_the_reply_to_a_subscribe_is_replayed(world: World) -> None:
    job = world.client().submit()
    peer = world.client()
    peer.send("job.subscribe", {"job_id": job}, id="s7")
    world.emit(job)
    again = world.resumed(peer, 0, replies=True)
    assert types(again) == ["session.welcome", "job.subscribed", "job.event"]
    assert again.frames[1]["payload"] == peer.of("job.subscribed")[0]["payload"]


def test_an_ack_above_a_reply_drops_it(world: World, peer: Peer) -> None:
    world.emit(peer.submit())
    peer.send("session.ack", {"last_processed_seq": 1})
    [session] = world.state.sessions.values()
    assert len(session.replies) == 0
    assert types(world.resumed(peer, 1, replies=True)) == ["session.welcome"]


def test_refusals_are_not_replayed(world: World, peer: Peer) -> None:
    peer.send("job.submit", {"agent": "zork"})
    assert types(world.resumed(peer, 0, replies=True)) == ["session.welcome"]


def test_the_number_of_replayed_replies_is_limited() -> None:
    world = World(limits=Limits(max_session_replies=3))
    peer = world.client()
    jobs = [peer.submit() for _ in range(5)]
    again = world.resumed(peer, 0, replies=True)
    assert [frame["job_id"] for frame in again.of("job.accepted")] == jobs[2:]


def test_a_subscribe_that_is_sent_again_behind_its_unsubscribe_is_carried_out(world: World) -> None:
    job = world.client().submit()
    peer = world.client()
    peer.send("job.subscribe", {"job_id": job}, id="s7")
    again = world.resumed(peer, 0, replies=True)
    again.send("job.unsubscribe", {"job_id": job})
    again.send("job.subscribe", {"job_id": job}, id="s7")
    world.emit(job)
    assert types(again) == ["session.welcome", "job.subscribed", "job.subscribed", "job.event"]


def test_a_subscribe_with_a_replayed_answer_is_not_carried_out_again() -> None:
    """Let the subscribes that a client sends again push each other's answers out of the cache."""
    world = World(limits=Limits(max_session_replies=2))
    owner, peer = world.client(), world.client()
    jobs = [owner.submit() for _ in range(3)]
    for job in jobs:
        world.emit(job)
    for number, job in enumerate(jobs):
        peer.send("job.subscribe", {"job_id": job, "history": True}, id=f"s{number}")
    world.advance(1)
    peer.drop()
    again = world.resumed(peer, 0, replies=True)
    assert [frame["job_id"] for frame in again.of("job.subscribed")] == jobs[1:]
    for number, job in enumerate(jobs):
        again.send("job.subscribe", {"job_id": job, "history": True}, id=f"s{number}")
    world.advance(1)
    assert [frame["job_id"] for frame in again.of("job.subscribed")] == [*jobs[1:], jobs[0]]
    assert [len(again.about(job)) for job in jobs] == [2, 1, 1], "only the first is carried out again"


def test_a_subscribe_with_a_replayed_answer_is_new_on_the_next_connection() -> None:
    world = World(limits=Limits(max_session_replies=1))
    job = world.client().submit()
    peer = world.client()
    peer.send("job.subscribe", {"job_id": job}, id="s1")
    again = world.resumed(peer, 0, replies=True)
    assert again.send("job.subscribe", {"job_id": job}, id="s1") == []
    again.submit()
    last = world.resumed(again, 0, replies=True)
    assert [frame["type"] for frame in last.send("job.subscribe", {"job_id": job}, id="s1")] == [
        "job.subscribed"
    ]


# A submit that is sent again.


def test_a_repeated_submit_that_was_answered_is_not_carried_out_again(world: World) -> None:
    peer = deaf(world)
    peer.send("job.submit", {"agent": "echo"}, id="s1")
    again = world.resumed(peer, 0, replies=True)
    [answer] = again.send("job.submit", {"agent": "echo"}, id="s1")
    assert len(world.all(StartJob)) == 1
    assert answer["payload"] == again.of("job.accepted")[0]["payload"]
    assert answer["payload"]["request_id"] == "s1"


def test_the_end_of_a_job_does_not_come_again_behind_an_answer_that_is_kept(world: World) -> None:
    peer = deaf(world)
    submit = {"agent": "echo", "idempotency_key": "k"}
    peer.send("job.submit", submit, id="s1")
    world.finish(world.last(StartJob).job_id, 1)
    again = world.resumed(peer, 0, replies=True)
    again.send("job.submit", submit, id="s1")
    world.advance(1)
    assert types(again) == ["session.welcome", "job.accepted", "job.result", "job.accepted"]


def test_the_end_of_a_job_joined_by_key_is_sent_for_each_submit() -> None:
    world = World(limits=Limits(max_session_replies=1))
    peer = deaf(world)
    submit = {"agent": "echo", "idempotency_key": "k"}
    for name in ("s1", "s2"):
        peer.send("job.submit", submit, id=name)
    [start] = world.all(StartJob)
    world.finish(start.job_id, 1)
    again = world.resumed(peer, 0, replies=True)
    assert types(again) == ["session.welcome", "job.accepted", "job.result"], "of the second"
    again.send("job.submit", submit, id="s1")
    world.advance(1)
    assert types(again)[3:] == ["job.accepted", "job.result"]


def test_a_repeated_submit_that_was_not_answered_is_carried_out(world: World, peer: Peer) -> None:
    peer.send("job.submit", {"agent": "echo"}, id="s1")
    again = world.resumed(peer, 0, replies=True)
    again.send("job.submit", {"agent": "echo"}, id="s2")
    assert len(world.all(StartJob)) == 2


def test_a_repeated_submit_that_was_refused_is_judged_again() -> None:
    world = World(limits=Limits(max_total_running_jobs=1))
    peer = world.client()
    job = peer.submit()
    assert peer.send("job.submit", {"agent": "echo"}, id="s2")[0]["type"] == "session.error"
    again = world.resumed(peer, 0, replies=True)
    world.finish(job)
    assert again.send("job.submit", {"agent": "echo"}, id="s2")[0]["type"] == "job.accepted"


def test_without_replies_a_repeated_request_id_is_a_new_submit(world: World, peer: Peer) -> None:
    peer.send("job.submit", {"agent": "echo"}, id="s1")
    again = world.resumed(peer, 0)
    again.send("job.submit", {"agent": "echo"}, id="s1")
    assert len(world.all(StartJob)) == 2


def test_a_request_id_whose_reply_has_arrived_is_a_new_submit(world: World, peer: Peer) -> None:
    peer.send("job.submit", {"agent": "echo"}, id="s1")
    world.emit(world.last(StartJob).job_id)
    again = world.resumed(peer, 1, replies=True)
    again.send("job.submit", {"agent": "echo"}, id="s1")
    assert len(world.all(StartJob)) == 2


def test_repeated_submits_are_answered_even_if_their_replies_were_dropped() -> None:
    world = World(limits=Limits(max_session_replies=1))
    peer = world.client()
    for number in range(10):
        peer.send("job.submit", {"agent": "echo"}, id=f"s{number}")
    again = world.resumed(peer, 0, replies=True)
    for number in range(10):
        [answer] = again.send("job.submit", {"agent": "echo"}, id=f"s{number}")
        assert answer["payload"]["job_id"] == peer.of("job.accepted")[number]["job_id"]
    assert len(world.all(StartJob)) == 10


def test_a_repeated_submit_of_a_forgotten_job_is_not_carried_out() -> None:
    world = World(limits=Limits(retention_sec=10, max_session_replies=1))
    peer = world.client(features=())
    for name in ("s1", "s2"):
        peer.send("job.submit", {"agent": "echo"}, id=name)
        world.finish(world.last(StartJob).job_id)
    world.advance(11)
    again = world.resumed(peer, 0, replies=True)
    [error] = again.send("job.submit", {"agent": "echo"}, id="s1")
    assert error["payload"]["code"] == "JOB_NOT_FOUND"
    assert again.send("job.submit", {"agent": "echo"}, id="s2") == [], "the resume has answered it"
    assert len(world.all(StartJob)) == 2


def test_the_reply_about_a_forgotten_job_is_replayed() -> None:
    world = World(limits=Limits(retention_sec=10))
    peer = world.client(features=())
    job = peer.submit()
    world.finish(job)
    world.advance(11)
    again = world.resumed(peer, 0, replies=True)
    assert types(again) == ["session.welcome", "job.accepted", "job.result"]
    assert again.frames[1]["payload"]["trace_id"] == again.frames[2]["trace_id"]


def test_the_answer_to_a_key_of_a_forgotten_job_is_replayed_before_its_end() -> None:
    world = World(limits=Limits(retention_sec=10))
    submit = {"agent": "echo", "idempotency_key": "k"}
    world.client().send("job.submit", submit)
    world.finish(world.last(StartJob).job_id)
    world.advance(11)
    peer = deaf(world)
    peer.send("job.submit", submit, id="s1")
    again = world.resumed(peer, 0, replies=True)
    assert types(again) == ["session.welcome", "job.accepted", "job.result"]
    assert again.frames[1]["payload"]["request_id"] == "s1"
    assert again.send("job.submit", submit, id="s1") == [], "the resume has answered it"


def test_a_repeated_submit_with_a_key_is_answered_again(world: World, peer: Peer) -> None:
    submit = {"agent": "echo", "idempotency_key": "k"}
    peer.send("job.submit", submit, id="s1")
    again = world.resumed(peer, 0, replies=True)
    assert [frame["type"] for frame in again.send("job.submit", submit, id="s1")] == ["job.accepted"]
    assert len(world.all(StartJob)) == 1


def test_replies_outlive_a_restart() -> None:
    world = World(journal=True)
    peer = world.client()
    peer.send("job.submit", {"agent": "echo"}, id="s1")
    world.restart()
    again = world.resumed(peer, 0, replies=True)
    assert types(again) == ["session.welcome", "job.accepted", "job.error"]
    assert again.frames[1]["payload"] == peer.of("job.accepted")[0]["payload"]
    [answer] = again.send("job.submit", {"agent": "echo"}, id="s1")
    assert answer["payload"] == peer.of("job.accepted")[0]["payload"]
    assert len(world.all(StartJob)) == 1
