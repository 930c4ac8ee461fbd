"""Batches of events: which events are numbered together. `test_together` compares their envelopes."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from arcp_proto.engine.connection import connection_state
from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import MILLISECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.recording import record
from arcp_proto.server.jobs.publish import MOST_TOGETHER, SHORT
from arcp_proto.server.journal.records import Published
from tests.unit.world import CONFIG, World


class Speaker(World):
    """A job that emits events before the output is taken."""

    def __init__(self, *, journal: bool = False, **limits: int) -> None:
        super().__init__(msgspec.structs.replace(CONFIG, journal=journal, limits=Limits(**limits)))
        self.peer = self.client()
        self.job = self.peer.submit()

    def say(self, count: int = 1, *, kind: str = "log", size: int = 2) -> None:
        for _ in range(count):
            body = {"level": "info", "message": "x" * size} if kind == "log" else {"current": 1}
            self.runtime.agents.emit(JobId(self.job), kind, body, now=self.now)

    def say_later(self) -> None:
        self.now += MILLISECOND
        self.say()

    @property
    def numbered(self) -> int:
        [session] = self.state.sessions.values()
        return session.log.last


@pytest.fixture
def world() -> Speaker:
    return Speaker()


def test_the_first_event_is_numbered_at_once_and_the_next_ones_at_the_take(world: Speaker) -> None:
    world.say(5)
    assert (world.numbered, len(world.state.said)) == (1, 4)
    world.take()
    assert (world.numbered, world.peer.numbers()) == (5, [1, 2, 3, 4, 5])


def test_collected_events_have_the_time_of_the_last_one(world: Speaker) -> None:
    world.say()
    world.now += MILLISECOND // 2
    world.say()
    assert len(world.state.said) == 1
    world.take()
    assert (world.state.now, connection_state(world.peer.connection).sent_at) == (world.now, world.now)


@pytest.mark.parametrize("limit", ["max_session_events", "max_history_events"])
def test_collected_events_are_kept_within_limits(limit: str) -> None:
    world = Speaker(**{limit: 32})
    world.say(MOST_TOGETHER)
    world.take()
    [session] = world.state.sessions.values()
    history = world.state.jobs[JobId(world.job)].history
    assert world.numbered == history.end == MOST_TOGETHER > 32
    kept = session.log.events if limit == "max_session_events" else history.events
    assert 0 < kept <= 32


def test_no_more_events_are_collected_than_allowed(world: Speaker) -> None:
    world.say(MOST_TOGETHER + 1)
    assert (world.numbered, world.state.said) == (MOST_TOGETHER + 1, [])
    world.say(MOST_TOGETHER)
    assert (world.numbered, len(world.state.said)) == (MOST_TOGETHER + 2, MOST_TOGETHER - 1)


@pytest.mark.parametrize(
    "alone",
    [
        lambda world: world.say(kind="progress"),
        lambda world: world.say(size=SHORT),
        lambda world: world.say_later(),
    ],
    ids=["a kind that some do not get", "a long one", "one of another millisecond"],
)
def test_large_and_special_events_are_not_collected(
    world: Speaker, alone: Callable[[Speaker], object]
) -> None:
    world.say(3)
    alone(world)
    assert (world.numbered, world.state.said) == (4, [])


@pytest.mark.parametrize(
    "input",
    [
        lambda world: world.runtime.agents.finish(world.job, now=world.now),
        lambda world: world.runtime.agents.authorize(world.job, "agent.delegate", "x", now=world.now),
        lambda world: world.peer.connection.receive(b"{}", now=world.now),
        lambda world: world.runtime.handle_timer(now=world.now),
        lambda world: world.peer.connection.lost(now=world.now),
        lambda world: world.runtime.snapshot(),
    ],
    ids=["finish", "authorize", "receive", "handle_timer", "lost", "snapshot"],
)
def test_any_other_input_numbers_the_collected_events_first(
    world: Speaker, input: Callable[[Speaker], object]
) -> None:
    world.say(3)
    try:
        input(world)
    except Exception as refused:
        assert type(refused).__name__ == "Denied"
    assert (world.state.said, world.state.speaker) == ([], None)
    [session] = world.state.sessions.values()
    assert session.log.last >= 3


def test_an_event_of_another_job_numbers_the_collected_events_first(world: Speaker) -> None:
    other = world.peer.submit()
    world.say(3)
    world.runtime.agents.emit(JobId(other), "status", {"phase": "x"}, now=world.now)
    world.take()
    assert [frame["job_id"] for frame in world.peer.frames[-4:]] == [world.job] * 3 + [other]


def test_events_are_collected_with_a_recording() -> None:
    recorded = World()
    lines: list[str] = []
    record(recorded.runtime, lines.append, salt=b"salt" * 4)
    peer = recorded.client()
    job = peer.submit()
    for _ in range(2):
        recorded.runtime.agents.emit(job, "log", {"level": "info", "message": "m"}, now=recorded.now)
    assert [json.loads(line)["input"] for line in lines[-2:]] == ["emit", "emitted"]
    assert [session.log.last for session in recorded.state.sessions.values()] == [1]
    recorded.take()
    assert [session.log.last for session in recorded.state.sessions.values()] == [2]


def test_events_are_collected_with_a_journal() -> None:
    world = Speaker(journal=True)
    world.say(3)
    assert (world.numbered, len(world.state.said)) == (1, 2)
    before = world.runtime.record_count
    world.take()
    assert (world.numbered, world.runtime.record_count) == (3, before + 2)
    published = [record for record in world.records if isinstance(record, Published)]
    assert [record.kind for record in published] == ["log"] * 3


def test_events_are_not_collected_with_an_observer() -> None:
    observed = Speaker()
    observed.client().send("job.subscribe", {"job_id": observed.job})
    observed.say(2)
    assert next(session.log.last for session in observed.state.sessions.values()) == 2


def test_events_are_not_collected_in_an_input_that_has_failed(world: Speaker) -> None:
    world.say(2)
    world.state.enter(world.now, "something")
    with pytest.raises(InvariantViolated):
        world.say()
