"""Positions of a job rise in each session that gets them, from the last request for history on."""

from __future__ import annotations

import pytest

from arcp_proto.features import Feature
from arcp_proto.limits import Limits
from arcp_proto.server.journal.records import HistoryCut, decode_record, encode_record
from tests.unit.server.jobs.test_delegation import ALL, Tree
from tests.unit.server.sessions.test_subscriptions import QUIET, positions, say, started, texts
from tests.unit.world import FEATURES, Peer, World

TOLD = (*FEATURES, Feature.POSITIONS)


def asked(peer: Peer, job: str, after: int) -> None:
    peer.send("job.subscribe", {"job_id": job, "history": True, "from_job_seq": after})


@pytest.mark.parametrize(("earlier", "later"), [(0, 2), (2, 0)])
@pytest.mark.parametrize("home", [True, False])
def test_a_second_subscribe_while_behind_leaves_no_event_out(
    world: World, home: bool, earlier: int, later: int
) -> None:
    peer, job = started(world, 3, features=TOLD)
    if not home:
        peer = world.client(features=TOLD)
    had = len(texts(peer, job))
    asked(peer, job, earlier)
    asked(peer, job, later)
    say(world, job, 4)
    world.advance(0.001)
    assert positions(peer, job)[had:] == [1, 2, 3, 4]


def test_an_unsubscribe_keeps_the_events_due_to_the_submitting_session(world: World) -> None:
    peer, job = started(world, 2, features=TOLD)
    asked(peer, job, 0)
    say(world, job, 3)
    peer.send("job.unsubscribe", {"job_id": job})
    world.finish(job)
    peer.send("job.unsubscribe", {"job_id": job})
    world.advance(0.001)
    assert positions(peer, job) == [1, 2, 1, 2, 3, 4]
    assert texts(peer, job)[-1] == "success"


def test_an_unsubscribe_ends_the_history_of_a_job_that_had_ended(world: World) -> None:
    peer, job = started(world, 2, features=TOLD)
    world.finish(job)
    asked(peer, job, 0)
    peer.send("job.unsubscribe", {"job_id": job})
    world.advance(0.001)
    assert positions(peer, job) == [1, 2, 3]


@pytest.mark.parametrize("asks_again", [False, True])
def test_a_second_history_of_an_ended_job_keeps_the_events_that_wait(world: World, asks_again: bool) -> None:
    """Let an unsubscribe end the second request for history, and not the events due to the submitter."""
    peer, job = started(world, 2, features=TOLD)
    asked(peer, job, 1)
    world.finish(job)
    if asks_again:
        asked(peer, job, 0)
    peer.send("job.unsubscribe", {"job_id": job})
    world.advance(0.001)
    assert positions(peer, job) == [1, 2, *([1] if asks_again else []), 2, 3]


@pytest.mark.parametrize("ended", [False, True])
def test_a_cut_history_costs_the_submitting_session_no_event(ended: bool) -> None:
    """Check that events for a connection that does not read are numbered before the history is cut."""
    limits = Limits(max_history_events=16, max_session_events=200, max_backlog_events=4)
    world = World(QUIET, limits=limits)
    peer, job = started(world, 10, features=TOLD)
    asked(peer, job, 0)
    world.carry_out(peer.connection.blocked(now=world.now))
    say(world, job, *range(11, 41))
    if ended:
        world.finish(job)
    world.carry_out(peer.connection.drained(now=world.now))
    world.advance(0.01)
    last = 41 if ended else 40
    assert positions(peer, job) == [*range(1, 11), *range(1, last + 1)]


def test_a_job_is_kept_while_the_submitting_session_waits_for_its_history() -> None:
    limits = Limits(retention_sec=10, max_session_events=200, max_backlog_events=4)
    world = World(QUIET, limits=limits)
    peer, job = started(world, 10, features=TOLD)
    asked(peer, job, 0)
    world.carry_out(peer.connection.blocked(now=world.now))
    say(world, job, 11)
    world.finish(job)
    world.advance(25)
    assert list(world.state.jobs) == [job]
    world.carry_out(peer.connection.drained(now=world.now))
    world.advance(0.01)
    assert positions(peer, job) == [*range(1, 11), *range(1, 13)]
    world.advance(11)
    assert world.state.jobs == {}


def test_another_finished_job_is_forgotten_while_a_history_is_due_to_the_submitter() -> None:
    limits = Limits(max_principal_finished_jobs=2, max_session_events=16, max_backlog_events=4)
    world = World(QUIET, limits=limits)
    peer, job = started(world, 10, features=TOLD)
    asked(peer, job, 0)
    world.carry_out(peer.connection.blocked(now=world.now))
    say(world, job, 11)
    world.finish(job)
    others = [world.client().submit() for _ in range(3)]
    for other in others:
        world.finish(other)
    assert list(world.state.jobs) == [job, others[-1]]
    world.carry_out(peer.connection.drained(now=world.now))
    world.advance(0.01)
    assert positions(peer, job) == [*range(1, 11), *range(1, 13)]


@pytest.mark.parametrize(("room", "new"), [(16, False), (64, False), (64, True)])
def test_a_job_that_is_forgotten_costs_its_submitter_no_event(room: int, new: bool) -> None:
    """Leave out copies of received events if there is no room for them beside events that were not sent."""
    limits = Limits(max_principal_finished_jobs=1, max_session_events=room, max_backlog_events=4)
    world = World(QUIET, limits=limits)
    peer, job = started(world, 14, features=TOLD)
    other = peer.submit()
    peer.send("session.ack", {"last_processed_seq": 14})
    world.carry_out(peer.connection.blocked(now=world.now))
    asked(peer, job, 0)
    say(world, other, *range(1, 5))
    if new:
        say(world, job, 15)
    world.finish(job)
    asked(peer, other, 0)
    world.finish(other)
    assert list(world.state.jobs) == [other]
    world.carry_out(peer.connection.drained(now=world.now))
    world.advance(0.01)
    copies = range(1, 15) if room > 16 else ()
    assert positions(peer, job)[14:] == [*copies, *([15, 16] if new else [15])]
    assert positions(peer, other) == [1, 2, 3, 4, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("last", "fits"), [(16, True), (17, False)])
def test_a_job_that_is_forgotten_with_more_events_than_fit_says_so(last: int, fits: bool) -> None:
    """Cut off no client because more unsent events of a forgotten job wait than a log holds."""
    limits = Limits(max_principal_finished_jobs=1, max_session_events=16, max_backlog_events=4)
    world = World(QUIET, limits=limits)
    peer, job = started(world, 1, features=TOLD)
    other = peer.submit()
    say(world, other, 1)
    peer.send("session.ack", {"last_processed_seq": 2})
    world.carry_out(peer.connection.blocked(now=world.now))
    asked(peer, job, 0)
    say(world, job, *range(2, last))
    world.finish(job)
    asked(peer, other, 0)
    world.finish(other)
    assert list(world.state.jobs) == [other]
    world.carry_out(peer.connection.drained(now=world.now))
    world.advance(0.01)
    assert not peer.connection.overrun
    end = peer.of("job.result")[0]
    assert (end["job_id"], end["payload"]["job_seq"]) == (job, last)
    assert positions(peer, job) == ([1, *range(1, last + 1)] if fits else [1, last])
    assert end["payload"].get("history_from_job_seq") == (None if fits else last)


@pytest.mark.parametrize(("last", "fits"), [(8, True), (9, False)])
def test_a_job_that_is_forgotten_evicts_no_event_that_waits_for_the_disk(last: int, fits: bool) -> None:
    limits = Limits(max_principal_finished_jobs=1, max_session_events=16, max_backlog_events=4)
    world = World(QUIET, limits=limits, journal=True)
    peer, job = started(world, 1, features=TOLD)
    other = peer.submit()
    peer.send("session.ack", {"last_processed_seq": 1})
    world.carry_out(peer.connection.blocked(now=world.now))
    world.durable = False
    asked(peer, job, 0)
    say(world, other, *range(1, 9))
    say(world, job, *range(2, last))
    world.finish(job)
    asked(peer, other, 0)
    world.finish(other)
    assert list(world.state.jobs) == [other]
    world.durable = True
    world.persist()
    world.carry_out(peer.connection.drained(now=world.now))
    world.advance(0.01)
    assert not peer.connection.overrun
    assert positions(peer, other) == [*range(1, 9), *range(1, 10)]
    assert positions(peer, job) == ([1, *range(1, last + 1)] if fits else [1, last])
    end = peer.of("job.result")[0]["payload"]
    assert end.get("history_from_job_seq") == (None if fits else last)


@pytest.mark.parametrize("snapshot", [False, True])
def test_events_due_to_the_submitting_session_survive_a_restart(snapshot: bool) -> None:
    world = World(QUIET, journal=True)
    peer, job = started(world, 3, features=TOLD)
    asked(peer, job, 0)
    world.finish(job)
    if snapshot:
        world.records[:] = [decode_record(encode_record(one)) for one in world.runtime.snapshot()]
    world.restart()
    ((_, backlog),) = next(iter(world.state.sessions.values())).backlogs.items()
    assert (backlog.position, backlog.until, backlog.owed) == (0, None, True)
    again = world.resumed(peer, 3)
    again.send("job.unsubscribe", {"job_id": job})
    world.advance(0.01)
    assert positions(again, job) == [1, 2, 3, 4]


def test_a_child_is_announced_before_its_events_even_behind_a_history() -> None:
    world = Tree(features=(*ALL, Feature.POSITIONS))
    for number in range(3):
        world.emit(world.root, "metric", {"name": f"m{number}", "value": 1})
    asked(world.peer, world.root, 0)
    child = world.delegate()
    world.finish(child)
    world.advance(0.01)
    world.emit(world.root, "metric", {"name": "m3", "value": 1})
    again = [("1", "m0"), ("1", "m1"), ("1", "m2")]
    rest = [("1", "delegate"), ("2", "job.result"), ("1", "m3")]
    assert world.said() == [*again, *again, *rest]


def test_a_job_ends_after_a_child_that_waits_behind_a_history() -> None:
    world = Tree(features=(*ALL, Feature.POSITIONS))
    child = world.delegate()
    world.emit(child, "metric", {"name": "m0", "value": 1})
    asked(world.peer, child, 0)
    world.finish(child)
    world.finish(world.root)
    world.advance(0.01)
    assert [who for who, said in world.said() if said == "job.result"] == ["2", "1"]
    assert positions(world.peer, child) == [1, 1, 2]


def test_a_history_cut_while_it_was_numbered_is_not_cut_again() -> None:
    """Number the events that wait for the submitter, for the history's limit and that of the principal."""
    limits = Limits(
        max_history_events=16, max_session_events=400, max_principal_events=40, max_backlog_events=4
    )
    world = World(QUIET, limits=limits, journal=True)
    peer, job = started(world, 10, features=TOLD)
    asked(peer, job, 0)
    world.carry_out(peer.connection.blocked(now=world.now))
    say(world, job, *range(11, 41))
    cuts = [record.upto for record in world.records if isinstance(record, HistoryCut)]
    assert cuts == sorted(set(cuts))


@pytest.mark.parametrize("late", [False, True])
def test_a_history_that_is_trimmed_while_it_is_owed_overflows_no_log(late: bool) -> None:
    """Number only the events that are dropped at once; the others wait until the session has room."""
    limits = Limits(max_session_events=80, max_history_events=70, max_backlog_events=4)
    world = World(QUIET, limits=limits, journal=True)
    peer, job = started(world, 69, features=TOLD)
    other = peer.submit()
    peer.send("session.ack", {"last_processed_seq": max(peer.numbers())})
    world.durable = not late
    say(world, other, *range(20))
    asked(peer, job, 0)
    say(world, job, 70, 71, 72)
    world.durable = True
    world.persist()
    world.advance(1)
    assert peer.numbers() == list(range(1, 162))
