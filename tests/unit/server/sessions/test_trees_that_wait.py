"""Children and terminals in the submitting session wait behind a history that is sent again first."""

from __future__ import annotations

import msgspec
import pytest

from arcp_proto.features import Feature
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.journal.records import decode_record, encode_record
from arcp_proto.server.sessions import retention
from tests.unit.server.jobs.test_delegation import ALL, JOURNALED, Tree
from tests.unit.server.sessions.test_rising_positions import asked
from tests.unit.server.sessions.test_subscriptions import positions

TOLD = (*ALL, Feature.POSITIONS)
AGAIN = {"agent.delegate": ["plain"]}
FEW = Limits(max_backlog_events=4)


def tree(limits: Limits = FEW, *, journal: bool = False, features: tuple[str, ...] = TOLD) -> Tree:
    config: RuntimeConfig = msgspec.structs.replace(
        JOURNALED, limits=limits, journal=journal, heartbeat_interval_sec=0
    )
    return Tree(config, agent="again", features=features)


def say(world: Tree, job: JobId, count: int) -> None:
    for number in range(count):
        world.emit(job, "metric", {"name": f"m{number}", "value": 1})


def waiting(count: int = 5, limits: Limits = FEW) -> Tree:
    """Return a tree, the history of whose root waits for a connection that does not read."""
    world = tree(limits)
    say(world, world.root, count)
    asked(world.peer, world.root, 0)
    world.carry_out(world.peer.connection.blocked(now=world.now))
    return world


def go_on(world: Tree) -> None:
    world.carry_out(world.peer.connection.drained(now=world.now))
    world.advance(0.1)


def ends(world: Tree) -> list[str]:
    return [who for who, said in world.said() if said == "job.result"]


def told(world: Tree, *names: str) -> list[tuple[str, str]]:
    return [one for one in world.said() if one[1] in names]


@pytest.mark.parametrize("late", [False, True])
def test_a_delegation_behind_a_long_history_overflows_no_log(late: bool) -> None:
    world = tree(Limits(max_session_events=80, max_history_events=70, max_backlog_events=4), journal=True)
    say(world, world.root, 60)
    other = JobId(world.peer.submit())
    world.peer.send("session.ack", {"last_processed_seq": max(world.peer.numbers())})
    world.durable = not late
    say(world, other, 20)
    asked(world.peer, world.root, 0)
    child = world.delegate()
    say(world, child, 5)
    world.finish(child)
    world.finish(world.root)
    world.durable = True
    world.persist()
    world.advance(1)
    numbers = world.peer.numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    assert positions(world.peer, world.root) == [*range(1, 61), *range(1, 63)]
    assert positions(world.peer, other) == list(range(1, 21))
    assert positions(world.peer, child) == list(range(1, 7))
    assert ends(world) == ["3", "1"]


def test_a_tree_that_waits_is_announced_and_ends_in_order() -> None:
    world = waiting()
    child = world.delegate(lease=AGAIN)
    grandchild = world.delegate(child)
    say(world, grandchild, 6)
    for job in (grandchild, child, world.root):
        world.finish(job)
    assert ends(world) == [] and told(world, "delegate") == []
    go_on(world)
    assert told(world, "delegate", "job.result") == [
        ("1", "delegate"),
        ("2", "delegate"),
        ("3", "job.result"),
        ("2", "job.result"),
        ("1", "job.result"),
    ]
    assert positions(world.peer, grandchild) == list(range(1, 8))
    assert not any(session.backlogs or session.observed for session in world.state.sessions.values())


def test_an_end_waits_for_a_child_alone_whose_history_was_asked_for() -> None:
    world = tree()
    child = world.delegate()
    say(world, child, 6)
    asked(world.peer, child, 0)
    world.carry_out(world.peer.connection.blocked(now=world.now))
    world.finish(child)
    say(world, world.root, 1)
    world.finish(world.root)
    assert told(world, "m0")[-1][0] == "1", "the other events of the root flow"
    assert ends(world) == []
    go_on(world)
    assert ends(world) == ["2", "1"]
    assert positions(world.peer, world.root) == [1, 2, 3]


def test_an_end_that_is_held_back_has_its_value_as_chunks() -> None:
    world = tree(Limits(max_backlog_events=4, max_envelope_bytes=40_000))
    child = world.delegate()
    say(world, child, 6)
    asked(world.peer, child, 0)
    world.finish(child)
    world.finish(world.root, "x" * 90_000)
    world.advance(0.1)
    chunks = [frame["payload"]["body"]["data"] for frame in world.peer.about(world.root)[1:-1]]
    assert "".join(chunks) == '"' + "x" * 90_000 + '"'
    assert ends(world) == ["2", "1"]


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("ended", [False, True])
def test_children_and_ends_that_wait_survive_a_restart(snapshot: bool, ended: bool) -> None:
    world = tree(journal=True)
    say(world, world.root, 5)
    asked(world.peer, world.root, 0)
    world.carry_out(world.peer.connection.blocked(now=world.now))
    child = world.delegate(agent="again")
    say(world, child, 2)
    if ended:
        world.finish(child)
        world.finish(world.root)
    if snapshot:
        world.records[:] = [decode_record(encode_record(one)) for one in world.runtime.snapshot()]
    world.restart()
    again = world.resumed(world.peer, 5)
    if not ended:  # The restart has ended the child.
        world.finish(world.root)
    world.advance(0.1)
    assert positions(again, world.root)[0] == 1 and positions(again, child)[0] == 1
    for job in (world.root, child):
        assert positions(again, job) == list(range(1, len(positions(again, job)) + 1))
    said = [one for one in world.said(again) if one[1] in ("delegate", "job.result", "INTERNAL_ERROR")]
    assert said == [
        ("1", "delegate"),
        ("2", "job.result" if ended else "INTERNAL_ERROR"),
        ("1", "job.result"),
    ]


def test_a_child_that_waits_does_not_count_as_a_subscription() -> None:
    world = waiting(limits=Limits(max_backlog_events=4, max_session_subscriptions=2))
    child = world.delegate()
    other = JobId(world.client().submit())
    asked(world.peer, other, 0)
    go_on(world)
    assert len(world.peer.of("job.subscribed")) == 2 and world.peer.of("session.error") == []
    world.finish(child)
    assert ends(world) == ["2"]


def test_a_child_that_waits_and_is_asked_for_counts_as_a_subscription() -> None:
    world = waiting(limits=Limits(max_backlog_events=4, max_session_subscriptions=2))
    child = world.delegate()
    say(world, child, 2)
    other = JobId(world.client().submit())
    asked(world.peer, child, 1)
    asked(world.peer, other, 0)
    [refusal] = world.peer.of("session.error")
    assert refusal["payload"]["details"]["limit"] == "subscriptions"
    world.peer.send("job.unsubscribe", {"job_id": child})
    go_on(world)
    assert positions(world.peer, child) == [1, 2]


def test_lag_is_told_in_a_job_that_was_announced() -> None:
    world = tree(Limits(max_backlog_events=4, back_pressure_events=8))
    world.peer.send("session.ack", {"last_processed_seq": 0})
    say(world, world.root, 6)
    asked(world.peer, world.root, 0)
    world.delegate()
    say(world, world.root, 6)
    world.advance(0.1)
    [notice] = [one for one in world.peer.about(world.root) if "phase" in one["payload"].get("body", {})]
    assert notice["payload"]["body"]["phase"] == "back_pressure"


@pytest.mark.parametrize("events", [15, 40])
def test_a_child_is_announced_before_its_history_is_trimmed(events: int) -> None:
    world = waiting(limits=Limits(max_backlog_events=4, max_history_events=16, max_session_events=400))
    child = world.delegate(lease=AGAIN)
    grandchild = world.delegate(child)
    say(world, grandchild, events)
    go_on(world)
    assert told(world, "delegate") == [("1", "delegate"), ("2", "delegate")]
    said = [who for who, _ in world.said()]
    announced = world.said().index(("2", "delegate"))
    assert "3" not in said[:announced]
    assert positions(world.peer, grandchild) == list(range(1, events + 1))
    assert positions(world.peer, world.root)[5:] == list(range(1, 7))


def test_a_tree_that_is_forgotten_while_it_waits_ends_in_order() -> None:
    limits = Limits(max_backlog_events=4, max_principal_finished_jobs=1, max_session_events=400)
    world = waiting(limits=limits)
    child = world.delegate(lease=AGAIN)
    grandchild = world.delegate(child)
    say(world, grandchild, 3)
    for job in (grandchild, child, world.root):
        world.finish(job)
    assert len(world.state.jobs) == 1
    go_on(world)
    ended = [frame["job_id"] for frame in world.peer.frames if frame["type"] == "job.result"]
    assert ended == [grandchild, child, world.root]
    assert positions(world.peer, grandchild) == [1, 2, 3, 4]


def test_a_child_flows_in_a_session_without_positions() -> None:
    world = tree(features=ALL)
    say(world, world.root, 5)
    world.peer.send("job.subscribe", {"job_id": world.root, "history": True})
    child = world.delegate()
    world.finish(child)
    assert told(world, "delegate", "job.result") == [("1", "delegate"), ("2", "job.result")]


@pytest.mark.parametrize("count", [11, 16])
def test_a_child_without_events_is_announced_before_it_is_forgotten(count: int) -> None:
    limits = Limits(max_backlog_events=4, max_principal_finished_jobs=1, max_session_events=16)
    world = waiting(limits=limits)
    child = world.delegate()
    other = JobId(world.peer.submit())
    say(world, other, count)
    world.finish(child)
    asked(world.peer, other, 0)
    world.finish(other)
    assert child not in world.state.jobs
    go_on(world)
    kinds = [frame["payload"].get("kind", frame["type"]) for frame in world.peer.frames]
    named = [frame["job_id"] for frame in world.peer.frames if frame["type"] == "job.result"]
    assert child in named and kinds.index("delegate") < kinds.index("job.result")


def test_a_child_that_is_forgotten_needs_no_more_of_its_parent_than_its_announcement() -> None:
    """Forget a child while more of its parent waits than fits into the log of the session."""
    limits = Limits(max_backlog_events=4, max_principal_finished_jobs=1, max_session_events=32)
    world = waiting(limits=limits)
    child = world.delegate()
    say(world, child, 2)
    say(world, world.root, 60)
    other = JobId(world.peer.submit())
    world.finish(child)
    say(world, other, 1)
    asked(world.peer, other, 0)
    world.finish(other)
    assert child not in world.state.jobs
    session = next(iter(world.state.sessions.values()))
    assert (session.log.first, session.log.last) == (1, 5 + 6 + 3 + 1), "the history up to the child, and it"
    go_on(world)
    assert not world.peer.connection.overrun
    assert positions(world.peer, child) == [1, 2, 3]
    assert positions(world.peer, world.root)[5:] == list(range(1, 67))


def test_a_child_that_ends_alone_is_announced_before() -> None:
    limits = Limits(max_backlog_events=4, max_principal_finished_jobs=1, max_session_events=32)
    world = waiting(limits=limits)
    child = world.delegate()
    say(world, child, 40)
    other = JobId(world.peer.submit())
    world.finish(child)
    say(world, other, 1)
    asked(world.peer, other, 0)
    world.finish(other)
    assert child not in world.state.jobs
    go_on(world)
    assert not world.peer.connection.overrun
    kinds = [frame["payload"].get("kind", frame["type"]) for frame in world.peer.frames]
    assert kinds.index("delegate") < kinds.index("job.result")
    (end,) = [
        frame for frame in world.peer.frames if frame["type"] == "job.result" and frame["job_id"] == child
    ]
    assert end["payload"]["history_from_job_seq"] == end["payload"]["job_seq"] == 41


@pytest.mark.parametrize(("count", "fits"), [(20, True), (40, False)])
def test_a_child_that_waits_for_too_much_ends_alone_when_its_parent_is_forgotten(
    count: int, fits: bool
) -> None:
    """Number no more of the child than the log of the session holds, though the child itself is kept."""
    world = waiting(limits=Limits(max_backlog_events=4, max_session_events=32))
    child = world.delegate()
    say(world, child, count)
    world.finish(child)
    world.finish(world.root)
    retention.forget(world.state, world.state.jobs[world.root])
    assert child in world.state.jobs
    go_on(world)
    assert not world.peer.connection.overrun
    said = [(frame["job_id"], frame["payload"]) for frame in world.peer.of("job.result")]
    assert [job_id for job_id, _ in said] == [child, world.root]
    assert said[0][1].get("history_from_job_seq") == (None if fits else count + 1)
    assert positions(world.peer, child) == ([*range(1, count + 2)] if fits else [count + 1])
